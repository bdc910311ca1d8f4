"""Decoders: hand-worked cases that the stored numbers do not pin, symmetries, hostile maps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop import COCO
from bodyloop.errors import ConfigError, InputError
from bodyloop.maps import (
    decode,
    decode_dark_udp,
    decode_expected_oks,
    flip_average,
    oks_targets,
    oks_variances,
)

VARIANCES = oks_variances(COCO.sigma_array)


def cells(*spots: tuple[int, int, float]) -> npt.NDArray[np.float32]:
    """One 64 x 48 map (1, 1, h, w), zero but for some cells (x, y, value)."""
    m = np.zeros((1, 1, 64, 48), np.float32)
    for x, y, v in spots:
        m[0, 0, y, x] = v
    return m


# --- DARK: the floor of 0.001 and the ridge of 2^-23, worked by hand -------------------------------------
# Two neighbours in a row, 1 at x = 24 and 1/2 at x = 25: smoothed with exp(-d^2 / 8), in units of the result
# at x = 24, the cells (23, 24, 25) of that row are (0.82270, 1, 0.95922), those above and below 0.88250 times
# as high. Scaled so that the highest is the map's own peak v.


def test_above_the_floor_the_step_is_the_plain_one() -> None:
    """v = 1: dx = (ln .95922 - ln .82270) / 2 = .07675; dxx = -.23679; no mixed term; x = 24 + .32415."""
    point = decode_dark_udp(cells((24, 32, 1), (25, 32, 0.5))).points[0, 0]
    np.testing.assert_allclose(point, [24.32415, 32], atol=2e-4)


def test_what_falls_below_the_floor_is_flat() -> None:
    """v = .00104: both neighbours are below .001 (.000998 and .000856) and are raised to it: no slope."""
    point = decode_dark_udp(cells((24, 32, 0.00104), (25, 32, 0.00052))).points[0, 0]
    np.testing.assert_allclose(point, [24, 32], atol=1e-6)


def test_a_floor_on_one_side_turns_the_step() -> None:
    """v = .0011: only the right neighbour, .0010551, stays: relative to the middle it is at -.04164, every
    other cell at ln(.001 / .0011) = -.09531. dx = .026835, dxx = -.13695, dyy = -.19062, dxy = .06848;
    step = (-.23885, -.08581)."""
    point = decode_dark_udp(cells((24, 32, 0.0011), (25, 32, 0.00055))).points[0, 0]
    np.testing.assert_allclose(point, [24.23885, 32.08581], atol=2e-4)


def test_a_map_below_the_floor_gives_its_first_maximum() -> None:
    low = oks_targets([[20.3, 30.7]], [60.0])[None] * 0.0009
    np.testing.assert_array_equal(decode_dark_udp(low).points[0, 0], [20, 31])
    np.testing.assert_array_equal(decode_dark_udp(np.full((1, 1, 64, 48), 1 / 3072)).points, [[[0, 0]]])


@pytest.mark.parametrize("parity", [False, True])
def test_the_ridge_of_the_hessian(parity: bool) -> None:
    """Two equal cells whose logarithm is one float32 step, d = 2^-21, above the floor: dx = d/2, dxx = -d,
    dyy = -2d, dxy = d/2. The ridge is d/4: H = d ((-.75, .5), (.5, -1.75)), step = -(.82353, .23529);
    without it the step would be -(.57143, .14286)."""
    floor = np.log(np.float32(0.001))
    v = float(np.exp(np.float64(np.nextafter(floor, np.float32(0)))))
    assert float(np.nextafter(floor, np.float32(0)) - floor) == 2.0**-21
    point = decode_dark_udp(cells((24, 32, v), (25, 32, v)), parity=parity).points[0, 0]
    np.testing.assert_allclose(point, [24.82353, 32.23529], atol=1e-4)


def test_the_step_is_bounded_unless_parity_is_asked_for() -> None:
    """A ridge on one side of a lone peak pulls the smoothed map's top away from the peak."""
    maps = cells((20, 32, 1.0))
    maps[0, 0, 28:37, 22:27] = 0.5
    free = decode_dark_udp(maps, parity=True).points[0, 0]
    bounded = decode_dark_udp(maps).points[0, 0]
    assert abs(free[0] - 20) > 1
    np.testing.assert_allclose(bounded, np.clip(free, [19, 31], [21, 33]))


def test_peaks_of_zero_or_less_are_not_available() -> None:
    maps = np.stack([cells()[0], cells((3, 3, 0.5))[0] - 1, cells((3, 4, 0.5))[0]], axis=1)
    d = decode_dark_udp(maps)
    np.testing.assert_array_equal(np.isnan(d.points).all(axis=-1), [[True, True, False]])
    np.testing.assert_array_equal(d.scores, np.array([[0, -0.5, 0.5]], np.float32))


# --- expected OKS ----------------------------------------------------------------------------------------


def test_expected_oks_prefers_mass_to_a_peak() -> None:
    """A block of .12 around (30, 40) against a lone cell of .2: within reach of a shoulder's kernel the block
    holds more, and the answer is its middle."""
    maps = cells((10, 10, 0.2))
    maps[0, 0, 39:42, 29:32] = 0.12
    d = decode_expected_oks(maps, [2.2])
    np.testing.assert_allclose(d.points[0, 0], [30, 40], atol=1e-6)
    assert d.scores[0, 0] == np.float32(0.12)
    np.testing.assert_allclose(decode_dark_udp(maps).points[0, 0], [10, 10], atol=1e-3)


def test_the_score_is_the_map_itself_even_where_it_is_zero() -> None:
    """With e = exp(-1/6) the mirroring border gives x = 0 the sum e + e^4 = 1.36, and x = 1, where all the
    mass is, 1 + e^9 = 1.22: x = 0 wins although the map is 0 there. No step on the border."""
    d = decode_expected_oks(cells((1, 20, 1.0)), [3.0])
    np.testing.assert_array_equal(d.points[0, 0], [0, 20])
    assert d.scores[0, 0] == 0


def test_a_parabola_by_hand() -> None:
    """Two cells, 1 and 1/2, and a kernel of variance s: c(24) = 1 + e/2, c(23) = e + e^4/2, c(25) = e + 1/2
    with e = exp(-1 / (2 s)), all over the same norm."""
    s = 2.0
    e = np.exp(-1 / (2 * s))
    c = np.array([e + e**4 / 2, 1 + e / 2, e + 0.5])
    offset = -((c[2] - c[0]) / 2) / (c[2] + c[0] - 2 * c[1])
    d = decode_expected_oks(cells((24, 32, 1), (25, 32, 0.5)), [s])
    np.testing.assert_allclose(d.points[0, 0], [24 + offset, 32], atol=1e-5)


def test_ties_go_to_the_first_cell_in_row_major_order() -> None:
    d = decode_expected_oks(cells((40, 20, 1), (10, 20, 1), (5, 30, 1)), [1.0])
    np.testing.assert_allclose(d.points[0, 0], [10, 20], atol=1e-6)
    for flat in (np.zeros((1, 17, 64, 48)), np.full((1, 17, 64, 48), 1 / 3072)):
        np.testing.assert_array_equal(decode_expected_oks(flat, VARIANCES).points, np.zeros((1, 17, 2)))


# --- symmetries ------------------------------------------------------------------------------------------


def blobs(rng: np.random.Generator, n: int = 2) -> npt.NDArray[np.float32]:
    """Maps (n, 17, 64, 48) with two blobs each, far from the border."""
    points = rng.uniform([16, 20], [32, 44], (2, n, 17, 2))
    variances = rng.uniform(0.5, 8, 17)
    return (oks_targets(points[0], variances) + 0.7 * oks_targets(points[1], variances)).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(-6, 6), st.integers(-9, 9))
@pytest.mark.parametrize("how", ["expected_oks", "dark_udp"])
def test_points_move_with_the_map(how: str, seed: int, dx: int, dy: int) -> None:
    maps = blobs(np.random.default_rng(seed))
    maps[maps < 1e-4] = 0  # nothing to wrap around
    moved = np.roll(maps, (dy, dx), axis=(2, 3))
    a = decode(maps, how, VARIANCES)  # type: ignore[arg-type]
    b = decode(moved, how, VARIANCES)  # type: ignore[arg-type]
    np.testing.assert_allclose(b.points, a.points + np.array([dx, dy]), atol=1e-3)
    np.testing.assert_array_equal(b.scores, a.scores)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("how", ["expected_oks", "dark_udp"])
def test_points_mirror_with_the_map(how: str, seed: int) -> None:
    maps = blobs(np.random.default_rng(seed))
    mirrored = maps[:, COCO.flip, :, ::-1]
    v = VARIANCES  # pairs share one
    a = decode(maps, how, v).points  # type: ignore[arg-type]
    b = decode(mirrored, how, v).points[:, COCO.flip]  # type: ignore[arg-type]
    # the mixed derivative of DARK is not symmetric: it looks at one diagonal only
    atol = 1e-4 if how == "expected_oks" else 0.25
    np.testing.assert_allclose(np.stack([47 - b[..., 0], b[..., 1]], -1), a, atol=atol)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("how", ["expected_oks", "dark_udp"])
def test_results_do_not_depend_on_the_batch(how: str, seed: int) -> None:
    maps = blobs(np.random.default_rng(seed), 4)
    whole = decode(maps, how, VARIANCES)  # type: ignore[arg-type]
    for i in (0, 3):
        one = decode(maps[i], how, VARIANCES)  # type: ignore[arg-type]
        np.testing.assert_allclose(one.points, whole.points[i], atol=1e-5)
        np.testing.assert_array_equal(one.scores, whole.scores[i])


def test_a_blob_is_found_between_cells() -> None:
    rng = np.random.default_rng(3)
    points = rng.uniform([10, 10], [37, 53], (3, 17, 2))
    maps = oks_targets(points, np.full(17, 3.0)).astype(np.float32)
    np.testing.assert_allclose(decode_expected_oks(maps, VARIANCES).points, points, atol=0.02)
    np.testing.assert_allclose(decode_dark_udp(maps).points, points, atol=0.02)


# --- hostile input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("how", ["expected_oks", "dark_udp"])
def test_broken_maps_are_not_available_and_leave_the_others_alone(how: str, bad: float) -> None:
    maps = blobs(np.random.default_rng(0))
    clean = decode(maps, how, VARIANCES)  # type: ignore[arg-type]
    maps[1, 4, 10, 10] = bad
    d = decode(maps, how, VARIANCES)  # type: ignore[arg-type]
    assert np.isnan(d.points[1, 4]).all()
    others = np.ones((2, 17), bool)
    others[1, 4] = False
    np.testing.assert_array_equal(d.points[others], clean.points[others])


@pytest.mark.parametrize("how", ["expected_oks", "dark_udp"])
@pytest.mark.parametrize("shape", [(0, 17, 64, 48), (2, 1, 1, 1), (1, 2, 1, 5), (2, 3, 2, 2)])
def test_odd_shapes_decode(how: str, shape: tuple[int, ...]) -> None:
    maps = np.random.default_rng(0).random(shape).astype(np.float32)
    d = decode(maps, how, np.full(shape[1], 1.0))  # type: ignore[arg-type]
    assert d.points.shape == (*shape[:2], 2)
    assert np.isfinite(d.points).all()


def test_names_and_shapes_are_checked() -> None:
    with pytest.raises(ConfigError, match="expected_oks, dark_udp"):
        decode(np.zeros((1, 1, 4, 4)), "argmax")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="variances"):
        decode(np.zeros((1, 1, 4, 4)), "expected_oks")
    with pytest.raises(InputError, match="shape"):
        decode_dark_udp(np.zeros((64, 48)))


def test_a_flip_average_of_a_map_and_its_mirror_decodes_to_the_map() -> None:
    maps = blobs(np.random.default_rng(7))
    mirrored = maps[:, COCO.flip, :, ::-1]
    average = flip_average(maps, mirrored, COCO.flip)
    np.testing.assert_array_equal(average, maps)
