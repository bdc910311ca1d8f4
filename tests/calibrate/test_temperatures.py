"""Temperatures: shares and losses by hand, fits against what made the data, and the steps of exported files."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.calibrate import (
    Fitted,
    Tried,
    coverage_shares,
    fit_temperature,
    log_losses,
    of_photos,
    steps_needed,
    tried_temperatures,
)
from bodyloop.errors import InputError
from bodyloop.eval.calibration import LEVELS, map_calibration
from bodyloop.maps import sparsemax, sparsemax_newton

Q = np.array(LEVELS)


def test_shares_of_the_true_cell_by_hand() -> None:
    # at temperature 2: z = 1, 0.5, -2 and p = 0.75, 0.25, 0
    logits = np.tile(np.float32([[[2.0, 1.0, -4.0]]]), (3, 1, 1))
    got = coverage_shares(logits, [[0, 0], [1, 0], [2, 0]], [2.0])[:, 0]
    np.testing.assert_allclose(got[0], np.clip(Q / 0.75, 0, 1), atol=1e-7)
    np.testing.assert_allclose(got[1], np.clip((Q - 0.75) / 0.25, 0, 1), atol=1e-6)
    assert (got[2] == 0).all()  # no region holds a cell without mass


def test_equal_cells_are_taken_together() -> None:
    logits = np.zeros((2, 1, 4), np.float32)  # a quarter each
    got = coverage_shares(logits, [[0, 0], [3, 0]], [1.0])[:, 0]
    np.testing.assert_allclose(got, [Q, Q], atol=1e-6)


def test_maps_are_averaged_with_the_mirrored_ones() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 3, (2, 5, 4, 3)).astype(np.float32)
    cells = np.stack([rng.integers(0, 3, 5), rng.integers(0, 4, 5)], axis=1)
    maps = (sparsemax(a, 1.5) + sparsemax(b, 1.5)) / 2
    judged = map_calibration(maps, cells)
    expected = np.clip(
        np.divide(
            Q - judged.mass_before[:, None], judged.mass[:, None], out=np.zeros((5, 19)), where=judged.mass[:, None] > 0
        ), 0, 1,
    )  # fmt: skip
    np.testing.assert_allclose(coverage_shares(a, cells, [1.5], b)[:, 0], expected, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_of_one_map_more_is_held_the_flatter_it_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (4, 6, 5)).astype(np.float32)
    cells = np.stack([rng.integers(0, 5, 4), rng.integers(0, 6, 4)], axis=1)
    shares = coverage_shares(logits, cells, [0.5, 1, 2, 4, 8, 16])
    assert (np.diff(shares, axis=2) >= -1e-6).all()  # more mass, more of the cell
    # the temperature keeps the order of the cells, so that only the sharpness moves: less mass before any cell
    # of those held half or more when it is flatter
    totals = np.stack([sparsemax(logits, t).max(axis=(1, 2)) for t in (0.5, 1, 2, 4, 8, 16)], axis=1)
    assert (np.diff(totals, axis=1) <= 1e-6).all()


def drawn(
    factor: float, n: int, cells: tuple[int, int] = (5, 4)
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """Logits and true cells that are drawn from their maps at temperature 2 * factor."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (n, *cells)).astype(np.float32)
    maps = sparsemax(logits, 2 * factor).reshape(n, -1).astype(np.float64)
    at = (maps.cumsum(axis=1) < rng.random((n, 1)) * maps.sum(axis=1, keepdims=True)).sum(axis=1)
    return logits, np.stack([at % cells[1], at // cells[1]], axis=1)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_truth_is_found(factor: float) -> None:
    """Even of maps of two or three cells, whose whole-cell regions hold far more than they say."""
    logits, cells = drawn(factor, 4000)
    shares = coverage_shares(logits, cells, tried_temperatures(2.0))
    fitted = fit_temperature(Tried(*of_photos(shares, np.arange(4000) // 10), Q), 2.0)
    assert fitted.best == pytest.approx(2 * factor, rel=0.08)
    assert fitted.value == pytest.approx(2 * factor, rel=0.08)
    assert fitted.low < 2 * factor * 1.08 and fitted.high > 2 * factor / 1.08
    right = map_calibration(sparsemax(logits, 2 * factor), cells)
    assert right.error > 0.03  # what the last whole cell adds, of maps that are right


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.5])
def test_the_temperature_of_a_probability_is_found(factor: float) -> None:
    rng = np.random.default_rng(2)
    z = rng.normal(1, 2, 20_000)
    truth = rng.random(20_000) < 1 / (1 + np.exp(-z / factor))
    losses = log_losses(1 / (1 + np.exp(-z)), truth, tried_temperatures(1.0))
    fitted = fit_temperature(Tried(*of_photos(losses, np.arange(20_000) // 40)), 1.0)
    assert fitted.best == pytest.approx(factor, rel=0.06)
    assert fitted.low < fitted.best < fitted.high
    assert fitted.value == pytest.approx(factor, rel=0.06)


def test_log_loss_by_hand_and_at_the_ends() -> None:
    got = log_losses([0.8, 0.8, 0.5], [1, 0, 0.25], [1.0, 2.0])
    np.testing.assert_allclose(got[:, 0], [-np.log(0.8), -np.log(0.2), np.log(2)])
    # at twice the temperature the odds 4 become 2
    np.testing.assert_allclose(got[:, 1], [-np.log(2 / 3), -np.log(1 / 3), np.log(2)])
    certain = log_losses([0.0, 1.0], [1, 0], [1.0])
    assert np.isfinite(certain).all() and (certain > 16).all()


def test_sums_by_photo() -> None:
    sums, counts = of_photos(np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]), ["b", "a", "b"])
    assert sums.tolist() == [[2, 20], [5, 50]] and counts.tolist() == [1, 2]


def test_losses_of_weighted_photos_by_hand() -> None:
    # two photos with one and three entries, two temperatures
    plain = Tried(np.array([[1.0, 2.0], [3.0, 9.0]]), np.array([1.0, 3.0]))
    np.testing.assert_allclose(plain.loss(np.array([[1.0, 1.0], [2.0, 0.0]])), [[1, 11 / 4], [1, 2]])
    # shares held at the levels 0.4 and 0.6: one entry (1, 1), three entries (0, 3)
    shares = Tried(np.array([[[1.0, 1.0]], [[0.0, 3.0]]]), np.array([1.0, 3.0]), np.array([0.4, 0.6]))
    np.testing.assert_allclose(shares.loss(np.ones((1, 2))), [[(0.15 + 0.4) / 2]])


def test_what_is_validated_is_never_what_was_fitted_on() -> None:
    """Every photo has its own best temperature: chosen by the others it is always the wrong one."""
    n = 10
    losses = np.ones((n, n))
    losses[np.arange(n), np.arange(n)] = -5  # alone a photo would choose its own
    seen = Tried(losses, np.ones(n))
    assert seen.validated(np.random.default_rng(0)) == 1
    assert seen.loss(np.ones((1, n))).min() == pytest.approx((n - 1 - 5) / n)


def test_what_does_not_help_others_is_left() -> None:
    rng = np.random.default_rng(3)
    kept = {}
    for name, factor, n in (("right", 1.0, 400), ("wrong", 1.6, 400), ("few", 1.6, 60)):
        z = rng.normal(0, 2, n)
        truth = rng.random(n) < 1 / (1 + np.exp(-z / factor))
        losses = log_losses(1 / (1 + np.exp(-z)), truth, tried_temperatures(1.0))
        kept[name] = fit_temperature(Tried(*of_photos(losses, np.arange(n) // 8)), 1.0)
    assert kept["right"].gain < 1e-6 and kept["right"].value == 1.0 and "kept" in str(kept["right"])
    assert kept["wrong"].gain > 0 and kept["wrong"].value == kept["wrong"].best > 1.2
    assert "kept" not in str(kept["wrong"])
    assert kept["few"].value == 1.0 and kept["few"].gain == 0  # eight photos cannot be divided
    assert (kept["few"].low, kept["few"].high) == (1 / 16, 16)


def test_a_change_must_be_sure_and_help() -> None:
    assert Fitted(1.0, 1.2, 1.1, 1.3, 1e-3).value == 1.2
    assert Fitted(1.0, 1.2, 1.1, 1.3, 1e-12).value == 1.0  # rounding is no help
    assert Fitted(1.0, 1.2, 1.1, 1.3, -0.1).value == 1.0
    assert Fitted(1.0, 1.2, 0.9, 1.4, 1e-3).value == 1.0


def test_fits_are_seeded() -> None:
    rng = np.random.default_rng(4)
    seen = Tried(rng.random((30, 33)), np.full(30, 5.0))
    assert fit_temperature(seen, 1.0, 3) == fit_temperature(seen, 1.0, 3)
    assert fit_temperature(seen, 1.0, 3) != fit_temperature(seen, 1.0, 4)


def test_what_no_temperature_mends_ends_at_the_range() -> None:
    rng = np.random.default_rng(4)
    z = rng.normal(0, 1, 2000)
    p, photo = 1 / (1 + np.exp(-z)), np.arange(2000) // 10
    chance = fit_temperature(
        Tried(*of_photos(log_losses(p, rng.random(2000) < 0.5, tried_temperatures(1.0)), photo)), 1.0
    )
    assert chance.best > 4  # says nothing: the flatter, the better
    sure = fit_temperature(Tried(*of_photos(log_losses(p, z > 0, tried_temperatures(1.0)), photo)), 1.0)
    assert sure.best == pytest.approx(1 / 16)
    with pytest.raises(InputError, match="nothing to fit"):
        fit_temperature(Tried(np.zeros((0, 33)), np.zeros(0)), 1.0)


def test_fitted_as_json() -> None:
    fitted = Fitted(8.0, 6.0, 5.0, 7.0, 0.01)
    assert fitted.to_json() == {
        "before": 8.0,
        "best": 6.0,
        "low": 5.0,
        "high": 7.0,
        "gain": 0.01,
        "after": 6.0,
    }


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
