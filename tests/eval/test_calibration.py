from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodyloop.errors import InputError
from bodyloop.eval import calibration as m
from bodyloop.geometry import Crop
from bodyloop.maps import region_cells
from tests.eval.stored import arrays, close, same

Z = arrays("map_calibration.npz")
CELLS = np.floor(Z["points"]).astype(np.int64)  # the stored numbers were made with truncated points


def test_stored_coverage() -> None:
    r = m.map_calibration(Z["maps"], CELLS, Z["q"])
    close(r.mass_before, Z["mass_before"], 1e-6)
    close(r.mass_before + r.mass, Z["mass_with"], 1e-6)
    same(r.rank, Z["rank"])
    close(r.coverage, Z["coverage"], 1e-6)
    close(r.region_cells, Z["mean_region_pixels"], 1e-6)
    close(r.nll_each, Z["nll"], 1e-6)
    assert r.nll == pytest.approx(Z["nll"].mean(), abs=1e-6)


def test_stored_curve_of_the_paper() -> None:
    r = m.published_calibration(Z["maps"], CELLS)
    close(r.ratio, Z["ref_ratio"], 1e-6)
    close(r.area, Z["ref_area"], 1e-6)
    close(r.labels, Z["ref_label"], 1e-6)


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = m.map_calibration(Z["maps"], CELLS)
    paper = m.published_calibration(Z["maps"], CELLS)
    monkeypatch.setattr(m, "CELLS_AT_ONCE", 7 * 24 * 18)
    parts = m.map_calibration(Z["maps"], CELLS)
    assert np.array_equal(whole.mass_before, parts.mass_before) and np.array_equal(whole.sizes, parts.sizes)
    close(m.published_calibration(Z["maps"], CELLS).ratio, paper.ratio, 1e-12)


MAP = np.array([[0.5, 0.25, 0.0], [0.125, 0.125, 0.0]])


def test_by_hand() -> None:
    # the four cells with mass, greatest first, and one without
    cells = [[0, 0], [1, 0], [0, 1], [1, 1], [2, 0]]
    r = m.map_calibration(np.repeat(MAP[None], 5, 0), cells, [0.25, 0.5, 0.75, 0.8])
    assert r.rank.tolist() == [0, 1, 2, 3, 4]
    assert r.mass_before.tolist() == [0, 0.5, 0.75, 0.875, 1]
    # at 0.5 the first cell is enough: it reaches 0.5 by itself, and the second has 0.5 before it, not less
    assert r.sizes[0].tolist() == [1, 1, 2, 3]
    assert r.coverage.tolist() == [0.2, 0.2, 0.4, 0.6]
    assert r.error == pytest.approx((0.05 + 0.3 + 0.35 + 0.2) / 4)
    assert r.nll_each[4] == pytest.approx(-np.log(1e-12)) and r.nll_each[0] == pytest.approx(np.log(2))
    assert r.beyond == 0.2
    # the true cells' shares: of 0.5, 0.25, 0.125, 0.125 and of one without mass, which is never reached
    np.testing.assert_allclose(r.even_coverage, [0.1, 0.2, 0.4, (1 + 1 + 0.4) / 5], rtol=0, atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.5, 0.9]))
def test_regions_are_those_that_are_drawn(seed: int, q: float) -> None:
    """Whether a cell is covered, and how large the region is, as `bodyloop.maps.region_cells` has them."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, 5, (4, 5, 6)).astype(np.float64)  # many ties
    maps[:, 0, 0] += 1
    maps /= maps.sum(axis=(1, 2), keepdims=True)
    cells = np.stack([rng.integers(0, 6, 4), rng.integers(0, 5, 4)], axis=1)
    chosen = region_cells(maps, q)
    r = m.map_calibration(maps, cells, [q])
    near = np.abs(r.mass_before - q) > 1e-9  # sums in another order may differ in the last bit
    assert np.array_equal(r.covered[near, 0], chosen[range(4), cells[:, 1], cells[:, 0]][near])
    assert (np.abs(r.sizes[:, 0] - chosen.sum(axis=(1, 2))) <= 1).all()


def test_points_drawn_from_the_maps_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    maps = rng.dirichlet(np.full(12 * 16, 0.5), 3000).reshape(3000, 12, 16)
    flat = (rng.random((3000, 1)) < np.cumsum(maps.reshape(3000, -1), axis=1)).argmax(axis=1)
    honest = m.map_calibration(maps, np.stack([flat % 16, flat // 16], axis=1))
    assert honest.error < 0.02  # cells are taken whole, so coverage is a little above q
    assert honest.even_error < 0.01
    sharp = maps**3 / (maps**3).sum(axis=(1, 2), keepdims=True)
    assert m.map_calibration(sharp, np.stack([flat % 16, flat // 16], axis=1)).error > 0.1


def test_coarse_maps_that_are_honest() -> None:
    """Two cells of 0.75 and 0.25, three of four points in the first: covered too often, but not by shares."""
    maps = np.repeat(np.array([[[0.75, 0.25]]]), 4, 0)
    r = m.map_calibration(maps, [[0, 0], [0, 0], [0, 0], [1, 0]], [0.3, 0.75, 0.9])
    assert r.coverage.tolist() == [0.75, 0.75, 1]
    np.testing.assert_allclose(r.even_coverage, [0.3, 0.75, 0.9], rtol=0, atol=1e-12)
    assert r.even_error < 1e-12 < r.error


def test_resampled_errors() -> None:
    r = m.map_calibration(np.repeat(MAP[None], 3, 0), [[0, 0], [2, 0], [2, 0]], [0.5])
    image = np.array([0, 1, 1])
    weights = np.array([[1.0, 1, 0], [1, 0, 0], [0, 2, 0], [0, 0, 1]])
    samples = r.error_samples(image, weights)
    assert samples[0] == pytest.approx(r.error) == pytest.approx(0.5 - 1 / 3)
    assert samples[1:3].tolist() == [0.5, 0.5] and np.isnan(samples[3])


def test_parts_are_joined() -> None:
    whole = m.map_calibration(Z["maps"], CELLS)
    parts = [m.map_calibration(Z["maps"][s], CELLS[s]) for s in (slice(0, 10), slice(10, 10), slice(10, 60))]
    joined = m.MapCalibration.concat(parts)
    assert np.array_equal(joined.coverage, whole.coverage) and len(joined) == 60
    assert joined[joined.rank == 0].coverage.tolist() == [1.0] * 19
    with pytest.raises(InputError, match="nothing to join"):
        m.MapCalibration.concat([])


def test_no_maps() -> None:
    r = m.map_calibration(np.zeros((0, 4, 3)), np.zeros((0, 2), np.int64))
    assert len(r) == 0 and np.isnan(r.error) and np.isnan(r.nll)
    with pytest.raises(InputError, match="no maps"):
        m.published_calibration(np.zeros((0, 4, 3)), np.zeros((0, 2), np.int64))


def test_true_cells_are_the_nearest_and_on_the_map() -> None:
    # a window of 94 x 126 px with a cell of 2 px: corner (3, 1), so that cell (i, j) is at (3 + 2i, 1 + 2j)
    crop = Crop(np.array([[50.0, 64.0]]), np.array([[94.0, 126.0]]), np.zeros(1), (192, 256), (48, 64))
    points = np.array(
        [[[3, 1], [3.99, 1], [4.01, 1], [97.9, 127.9], [98.1, 127], [1.9, 1], [50, 50], [50, 50]]]
    )
    flags = np.array([[2, 1, 2, 2, 2, 2, 3, 0]])
    cells, counted = m.true_cells(crop, points, flags)
    assert counted[0].tolist() == [True, True, True, True, False, False, False, False]
    assert cells[0, :4].tolist() == [[0, 0], [0, 0], [1, 0], [47, 63]]


@pytest.mark.parametrize(
    ("maps", "cells", "message"),
    [
        (np.full((1, 2, 2), 0.5), [[0, 0]], "no probability map"),
        (np.array([[[1.5, -0.5]]]), [[0, 0]], "no probability map"),
        (np.full((1, 2, 2), np.nan), [[0, 0]], "no probability map"),
        (np.full((1, 2, 2), 0.25), [[2, 0]], "not on the map"),
        (np.full((1, 2, 2), 0.25), [[0.5, 0]], "whole numbers"),
        (np.full((1, 2, 2), 0.25), [[0, 0, 0]], "expected maps"),
    ],
)
def test_what_cannot_be_judged(maps: np.ndarray, cells: list[list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        m.map_calibration(maps, np.array(cells))


def test_levels_and_shapes_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="levels"):
        m.map_calibration(MAP[None], [[0, 0]], [1.0])
    with pytest.raises(InputError, match="true cells"):
        m.true_cells(Crop.from_boxes([[0, 0, 10, 10]]), np.zeros((1, 2, 2)), np.zeros((1, 3)))
