"""Temperatures: losses by hand, fits against what made the data, and the steps of exported files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.calibrate import (
    Fitted,
    fit_temperature,
    log_losses,
    sparsemax_losses,
    steps_needed,
    tried_temperatures,
)
from bodyloop.errors import InputError
from bodyloop.maps import sparsemax, sparsemax_newton


def test_sparsemax_loss_worked_by_hand() -> None:
    logits = np.zeros((2, 1, 3), np.float32)
    logits[:] = [2.0, 1.0, -4.0]
    cells = np.array([[0, 0], [2, 0]])
    # at temperature 2: z = 1, 0.5, -2; p = 0.75, 0.25, 0; <z, p> = 0.875, |p|^2 = 0.625
    # loss = 0.875 - 0.3125 + 0.5 - z(true) = 1.0625 - z(true)
    got = sparsemax_losses(logits, cells, [2.0])
    np.testing.assert_allclose(got[:, 0], [1.0625 - 1, 1.0625 + 2])
    # at temperature 0.25: z = 8, 4, -16; p = 1, 0, 0: no loss where it is right, and finite where p is 0
    np.testing.assert_allclose(sparsemax_losses(logits, cells, [0.25])[:, 0], [0, 8 - 0.5 + 0.5 + 16])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000))
def test_sparsemax_loss_is_convex_in_sharpness_with_the_gradient_it_should_have(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (4, 6, 5))
    cells = np.stack([rng.integers(0, 5, 4), rng.integers(0, 6, 4)], axis=1)
    sharpness = np.linspace(0.1, 3, 30)
    losses = sparsemax_losses(logits, cells, 1 / sharpness)
    assert (losses >= 0).all()
    assert (np.diff(losses, 2, axis=1) >= -1e-6).all()
    b, h = 1.3, 1e-3
    slope = (
        sparsemax_losses(logits, cells, [1 / (b + h)]) - sparsemax_losses(logits, cells, [1 / (b - h)])
    ) / (2 * h)
    p = sparsemax(logits * b)
    true = logits[np.arange(4), cells[:, 1], cells[:, 0]]
    np.testing.assert_allclose(slope[:, 0], (logits * p).sum(axis=(1, 2)) - true, atol=5e-3)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_truth_is_found(factor: float) -> None:
    """Truths drawn from the maps at a temperature: the loss is proper, so that temperature is the best one."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (3000, 5, 4)).astype(np.float32)
    maps = sparsemax(logits, 2 * factor).reshape(3000, -1).astype(np.float64)
    at = (maps.cumsum(axis=1) < rng.random((3000, 1)) * maps.sum(axis=1, keepdims=True)).sum(axis=1)
    cells = np.stack([at % 4, at // 4], axis=1)
    fitted = fit_temperature(sparsemax_losses(logits, cells, tried_temperatures(2.0)), 2.0, np.arange(3000))
    assert fitted.best == pytest.approx(2 * factor, rel=0.05)
    assert fitted.low < 2 * factor < fitted.high
    assert fitted.value == (2.0 if factor == 1 else fitted.best)


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_the_temperature_of_a_probability_is_found(factor: float) -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(1, 2, 20_000)
    truth = rng.random(20_000) < 1 / (1 + np.exp(-z / factor))
    p = 1 / (1 + np.exp(-z))
    fitted = fit_temperature(log_losses(p, truth, tried_temperatures(1.0)), 1.0, np.arange(20_000) // 4)
    assert fitted.best == pytest.approx(factor, rel=0.06)
    assert fitted.value == (1.0 if factor == 1 else fitted.best)


def test_log_loss_by_hand_and_at_the_ends() -> None:
    got = log_losses([0.8, 0.8, 0.5], [1, 0, 0.25], [1.0, 2.0])
    np.testing.assert_allclose(got[:, 0], [-np.log(0.8), -np.log(0.2), np.log(2)])
    # at twice the temperature the odds 4 become 2
    np.testing.assert_allclose(got[:, 1], [-np.log(2 / 3), -np.log(1 / 3), np.log(2)])
    certain = log_losses([0.0, 1.0], [1, 0], [1.0])
    assert np.isfinite(certain).all() and (certain > 16).all()


def test_few_photos_change_nothing_and_many_do() -> None:
    rng = np.random.default_rng(3)
    z = rng.normal(0, 2, 4000)
    truth = rng.random(4000) < 1 / (1 + np.exp(-z / 1.3))
    losses = log_losses(1 / (1 + np.exp(-z)), truth, tried_temperatures(1.0))
    few = fit_temperature(losses[:250], 1.0, np.arange(250) // 10)
    too_few = fit_temperature(losses, 1.0, np.arange(4000) // 250)  # 16 photos, however many keypoints
    many = fit_temperature(losses, 1.0, np.arange(4000) // 10)
    assert few.value == 1.0 and "kept" in str(few)
    assert too_few.value == 1.0 and (too_few.low, too_few.high) == (1 / 16, 16) and too_few.best == many.best
    assert many.value == many.best > 1.15 and "kept" not in str(many)
    assert many == fit_temperature(losses, 1.0, np.arange(4000) // 10)  # seeded


def test_what_no_temperature_mends_ends_at_the_range() -> None:
    rng = np.random.default_rng(4)
    z = rng.normal(0, 1, 2000)
    p = 1 / (1 + np.exp(-z))
    chance = fit_temperature(
        log_losses(p, rng.random(2000) < 0.5, tried_temperatures(1.0)), 1.0, np.arange(2000)
    )
    assert chance.best > 4  # says nothing: the flatter, the better
    sure = fit_temperature(log_losses(p, z > 0, tried_temperatures(1.0)), 1.0, np.arange(2000))
    assert sure.best == pytest.approx(1 / 16)
    with pytest.raises(InputError, match="nothing to fit"):
        fit_temperature(np.zeros((0, 33)), 1.0, [])


def test_fitted_as_json() -> None:
    fitted = Fitted(8.0, 6.0, 5.0, 7.0)
    assert fitted.to_json() == {"before": 8.0, "best": 6.0, "low": 5.0, "high": 7.0, "after": 6.0}


def test_steps_are_counted_until_every_map_is_exact() -> None:
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:64, :48]
    at = rng.uniform(10, 40, (6, 2))
    d2 = (x - at[:, 0, None, None]) ** 2 + (y - at[:, 1, None, None]) ** 2
    logits = (4 * np.exp(-d2 / 300) + 0.01 * rng.normal(size=d2.shape)).astype(np.float32)
    needed = steps_needed(logits, 0.5, 1)
    exact = sparsemax(logits, 0.5)
    assert 4 < needed < 20
    assert np.abs(sparsemax_newton(logits, needed, 0.5) - exact).max() <= 1e-6
    assert np.abs(sparsemax_newton(logits, needed - 1, 0.5) - exact).max() > 1e-6
    assert steps_needed(logits, 0.5, needed + 3) == needed + 3
    assert steps_needed(logits[None], 0.5, 1) == needed
