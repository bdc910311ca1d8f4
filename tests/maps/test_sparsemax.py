"""Sparsemax: exactness, gradient, its fixed-step form."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bodyloop.errors import InputError
from bodyloop.maps import sparsemax, sparsemax_grad, sparsemax_newton

ROWS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40),
    elements=st.floats(-20, 20, width=32),
)


def by_sorting(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The textbook definition for one row."""
    z = z - z.max()
    s = np.sort(z)[::-1]
    total = np.cumsum(s)
    k = np.flatnonzero(1 + np.arange(1, len(z) + 1) * s > total).max() + 1
    return np.maximum(0, z - (total[k - 1] - 1) / k)


def network_logits(seed: int, spread: float = 1.0) -> npt.NDArray[np.float32]:
    """Maps as a network gives them: a few bumps over low noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:64, 0:48]
    z = rng.normal(size=(2, 3, 64, 48)) * 0.2 - 3
    for _ in range(3):
        cx, cy = rng.random((2, 2, 3, 1, 1)) * np.array([48, 64]).reshape(2, 1, 1, 1, 1)
        width = rng.uniform(2, 40, (2, 3, 1, 1))
        z += rng.uniform(0, 8, (2, 3, 1, 1)) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width))
    return (z * spread).astype(np.float32)


@given(ROWS)
def test_it_is_the_textbook_solution(z: npt.NDArray[np.float32]) -> None:
    expected = np.stack([by_sorting(r.astype(np.float64)) for r in z])
    np.testing.assert_allclose(sparsemax(z, axes=1), expected, atol=2e-6)


@pytest.mark.parametrize("spread", [0.001, 0.1, 1.0, 30.0])
def test_large_maps_are_the_textbook_solution(spread: float) -> None:
    noise = np.random.default_rng(0).normal(size=(2, 3, 64, 48)).astype(np.float32)
    for z in (network_logits(1, spread), noise * np.float32(spread)):
        rows = z.reshape(-1, 64 * 48).astype(np.float64)
        expected = np.stack([by_sorting(r) for r in rows]).reshape(z.shape)
        np.testing.assert_allclose(sparsemax(z), expected, atol=1e-6)


@given(ROWS)
def test_sums_to_one_and_is_not_negative(z: npt.NDArray[np.float32]) -> None:
    p = sparsemax(z, axes=1)
    assert p.dtype == np.float32
    assert (p >= 0).all()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)


@given(ROWS, st.integers(-100, 100))
def test_a_constant_changes_nothing(z: npt.NDArray[np.float32], shift: int) -> None:
    z = np.round(z * 256) / 256  # so that the sum is exact in float32
    np.testing.assert_array_equal(sparsemax(z, axes=1), sparsemax(z + np.float32(shift), axes=1))


@given(ROWS, st.randoms(use_true_random=False))
def test_follows_permutations(z: npt.NDArray[np.float32], random: object) -> None:
    order = list(range(z.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    np.testing.assert_allclose(sparsemax(z[:, order], axes=1), sparsemax(z, axes=1)[:, order], atol=1e-6)


@given(ROWS, st.integers(0, 2**32 - 1))
def test_no_distribution_is_nearer(z: npt.NDArray[np.float32], seed: int) -> None:
    p = sparsemax(z.astype(np.float64), axes=1)
    other = np.random.default_rng(seed).dirichlet(np.full(z.shape[1], 0.3), size=len(z))
    for q in (other, 0.99 * p + 0.01 * other):
        assert (((p - z) ** 2).sum(axis=1) <= ((q - z) ** 2).sum(axis=1) + 1e-9).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(8, 0.5), (10, 1.0), (12, 2.0), (12, 4.0)]))
def test_fixed_newton_steps_agree_on_network_logits(seed: int, case: tuple[int, float]) -> None:
    steps, temperature = case
    z = network_logits(seed)
    newton = sparsemax_newton(z, steps, temperature)
    assert newton.dtype == np.float32
    np.testing.assert_allclose(newton, sparsemax(z, temperature), atol=5e-7)


def test_newton_steps_approach_from_above() -> None:
    """Worked by hand: z = (0, -.5, -.9). From tau = -1 all count: tau = -1 + (1 + .5 + .1 - 1) / 3 = -.8.
    Then two: -.8 + (.8 + .3 - 1) / 2 = -.75, which is exact: p = (.75, .25, 0)."""
    z = np.array([[0, -0.5, -0.9]], np.float32)
    np.testing.assert_allclose(sparsemax_newton(z, 1, axes=1), [[0.8, 0.3, 0]], atol=1e-6)
    np.testing.assert_allclose(sparsemax_newton(z, 2, axes=1), [[0.75, 0.25, 0]], atol=1e-6)
    np.testing.assert_allclose(sparsemax_newton(z, 8, axes=1), [[0.75, 0.25, 0]], atol=1e-6)


def test_temperature_divides_the_logits_and_may_differ_by_keypoint() -> None:
    z = network_logits(5)
    t = np.array([0.5, 1.0, 2.0])
    p = sparsemax(z, t)
    for k in range(3):
        np.testing.assert_allclose(p[:, k], sparsemax(z[:, k] / np.float32(t[k])), atol=1e-7)
    assert (np.diff((p > 0).sum(axis=(0, 2, 3))) > 0).all()  # warmer maps are broader


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 3.0]))
def test_gradient_is_the_slope(seed: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    z, g, d = rng.normal(size=(3, 1, 12))
    step = 1e-7
    ends = [sparsemax(z + s * step * d, temperature, axes=1) for s in (-1, 1)]
    if ((ends[0] > 0) != (ends[1] > 0)).any():
        return  # the support changes here: no slope
    slope = ((ends[1] - ends[0]) * g).sum() / (2 * step)
    grad = sparsemax_grad(sparsemax(z, temperature, axes=1), g, temperature, axes=1)
    np.testing.assert_allclose((grad * d).sum(), slope, atol=1e-6)


def test_special_values() -> None:
    z = np.array([[np.nan, 0], [np.inf, 0], [-np.inf, -np.inf], [-np.inf, 3], [1e30, -1e30]], np.float32)
    p = sparsemax(z, axes=1)
    assert np.isnan(p[:3]).all()
    np.testing.assert_array_equal(p[3:], [[0, 1], [1, 0]])
    assert sparsemax(np.zeros((0, 17, 64, 48), np.float32)).shape == (0, 17, 64, 48)
    np.testing.assert_allclose(sparsemax(np.full((1, 64, 48), 7, np.float32)), 1 / 3072, atol=1e-7)


@pytest.mark.parametrize(
    ("z", "options"),
    [
        (np.zeros(3), {"axes": 2}),
        (np.zeros((2, 0)), {"axes": 1}),
        (np.zeros((2, 3)), {"axes": 3}),
        (np.zeros((2, 3)), {"axes": 1, "temperature": 0.0}),
        (np.zeros((2, 3)), {"axes": 1, "temperature": np.nan}),
        (np.zeros((2, 3, 4, 4)), {"temperature": np.ones(2)}),
    ],
)
def test_bad_input_is_refused(z: npt.NDArray[np.float64], options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="sparsemax"):
        sparsemax(z, **options)  # type: ignore[arg-type]


def test_gradient_refuses_other_shapes() -> None:
    with pytest.raises(InputError, match="shape"):
        sparsemax_grad(np.ones((2, 3)), np.ones((2, 4)), axes=1)
