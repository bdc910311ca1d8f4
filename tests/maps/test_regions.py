"""Regions of least area, their outlines, and the probability of zones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bodyloop.errors import InputError
from bodyloop.geometry import Crop
from bodyloop.maps import MapLayer, ProbabilityMaps, probability_in, region, region_cells, zone_cells
from bodyloop.maps.outlines import outlines

BOXES = np.array([[10, 20, 110, 320], [0, 0, 300, 100]], np.float32)


def sparse(seed: int, shape: tuple[int, ...] = (2, 3, 64, 48)) -> npt.NDArray[np.float32]:
    """Maps with a few hundred cells in patches, summing to 1."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((*shape[:2], shape[2] // 4, shape[3] // 4)) ** 12
    m = np.kron(coarse, np.ones((4, 4))) * rng.random(shape)
    m[m < 0.05] = 0
    m[..., 0, 0] += 1e-3
    return (m / m.sum(axis=(2, 3), keepdims=True)).astype(np.float32)


def identity(n: int = 1, size: tuple[int, int] = (48, 64)) -> Crop:
    """Windows whose map px are image px."""
    half = (np.array(size) - 1) / 2
    span = np.array(size) - 1.0
    return Crop(np.tile(half, (n, 1)), np.tile(span, (n, 1)), np.zeros(n), (192, 256), size)


def shoelace(loop: npt.NDArray[np.float64]) -> float:
    x, y = loop.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


# --- which cells -----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, (2, 2, 4, 5), elements=st.sampled_from([0, 0.1, 0.25, 0.5, 1.0, 3.0])),
    st.sampled_from([0.01, 0.3, 0.5, 0.9, 0.95, 1.0]),
)
def test_regions_hold_the_mass_in_as_few_cells_as_can_be(maps: npt.NDArray[np.float32], q: float) -> None:
    cells = region_cells(maps, q)
    for p, c in zip(maps.reshape(4, -1).astype(np.float64), cells.reshape(4, -1), strict=True):
        if p.sum() == 0:
            assert not c.any()
            continue
        assert p[c].sum() >= q * p.sum() - 1e-9
        best_with_one_less = np.sort(p)[::-1][: c.sum() - 1].sum()
        assert best_with_one_less < q * p.sum() + 1e-9
        assert (p[c] > 0).all()
        assert p[c].min() >= p[~c].max(initial=0)


def test_ties_go_by_index_and_the_last_cell_may_overshoot() -> None:
    m = np.zeros((1, 2, 3), np.float32)
    m[0] = [[0.25, 0.25, 0], [0.25, 0.25, 0]]
    np.testing.assert_array_equal(region_cells(m, 0.5)[0], [[1, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(region_cells(m, 0.51)[0], [[1, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize("q", [0.0, -0.1, 1.1, np.nan])
def test_mass_is_checked(q: float) -> None:
    with pytest.raises(InputError, match="mass"):
        region_cells(np.ones((1, 2, 2)), q)


# --- outlines --------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7)))
def test_outlines_enclose_exactly_the_cells(cells: npt.NDArray[np.bool_]) -> None:
    loops = outlines(cells)
    assert sum(shoelace(loop) for loop in loops) == cells.sum()
    h, w = cells.shape
    shares = zone_cells(identity(1, (w, h)), loops_as_zone(loops))[0] if min(h, w) > 1 and loops else cells
    np.testing.assert_array_equal(shares, cells)
    for loop in loops:
        steps = np.roll(loop, -1, axis=0) - loop
        assert ((steps == 0).sum(axis=1) == 1).all()  # along the cells' edges
        assert ((steps == 0) != np.roll(steps == 0, 1, axis=0)).all()  # corners only


def loops_as_zone(loops: list[npt.NDArray[np.float64]]) -> object:
    """Even-odd over all loops, written out without the package."""

    def inside(points: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        count = np.zeros(len(points), int)
        for loop in loops:
            for (ax, ay), (bx, by) in zip(loop, np.roll(loop, -1, axis=0), strict=True):
                if ax == bx:  # upright edges, seen from the left
                    low, high = min(ay, by), max(ay, by)
                    count += (points[:, 0] < ax) & (points[:, 1] >= low) & (points[:, 1] < high)
        return count % 2 == 1

    return inside


def test_a_ring_has_a_hole_and_diagonal_cells_are_two_parts() -> None:
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    outer, hole = sorted(outlines(ring), key=lambda loop: -shoelace(loop))
    assert (shoelace(outer), shoelace(hole)) == (9, -1)
    np.testing.assert_array_equal(outer.min(axis=0), [-0.5, -0.5])
    np.testing.assert_array_equal(hole.max(axis=0), [1.5, 1.5])
    assert len(outlines(np.eye(2, dtype=bool))) == 2


# --- regions in the image --------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0.0, 30.0])
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.95]))
def test_a_region_is_the_same_thing_in_all_its_forms(degrees: float, seed: int, q: float) -> None:
    layer = MapLayer(sparse(seed), Crop.from_boxes(BOXES, rotation=degrees))
    for i in range(2):
        r = region(layer, i, 1, q)
        p = layer.values[i, 1]
        assert r.mass >= q - 1e-6
        assert r.level == p[region_cells(p[None], q)[0]].min()
        assert sum(map(shoelace, r.polygons)) == pytest.approx(r.area, rel=1e-9)
        cells = region_cells(p[None], q).sum()
        assert r.area == pytest.approx(cells * layer.crop.map_cell_area[i])
        # the mask counts pixel centres: near the area for windows larger than the map
        assert r.mask.sum() == pytest.approx(r.area, rel=0.1, abs=10)
        # and as a zone it holds just what it says
        assert probability_in(layer[i], r)[0, 1] == pytest.approx(r.mass, abs=1e-6)


def test_masks_are_cut_and_placed() -> None:
    m = np.zeros((1, 1, 64, 48), np.float32)
    m[0, 0, 10:12, 0:3] = 1 / 6
    layer = MapLayer(m, identity())
    r = region(layer, 0, 0, 1.0)
    full = r.on((48, 64))
    expected = np.zeros((64, 48), bool)
    expected[10:12, 0:3] = True
    np.testing.assert_array_equal(full, expected)
    assert (r.area, r.level) == (6, np.float32(1 / 6))
    np.testing.assert_array_equal(r.polygons[0].min(axis=0), [-0.5, 9.5])  # beyond the picture
    np.testing.assert_array_equal(r.on((2, 11)), expected[:11, :2])
    assert not r.on((5, 5)).any()


def test_half_of_a_gaussian_has_the_area_of_its_ellipse() -> None:
    """A Gaussian of variance 20 holds 1 - exp(-r^2 / 40) within r: half of it within an area of 40 pi ln 2,
    in an image where a cell is 3 x 2 px."""
    y, x = np.mgrid[0:64, 0:48]
    g = np.exp(-((x - 23.2) ** 2 + (y - 31.1) ** 2) / 40)
    crop = Crop(np.array([[200.0, 100.0]]), np.array([[47 * 3.0, 63 * 2.0]]), np.zeros(1))
    r = region(MapLayer((g / g.sum())[None, None], crop), 0, 0, 0.5)
    assert r.area == pytest.approx(6 * 40 * np.pi * np.log(2), rel=0.02)


def test_regions_that_cannot_be() -> None:
    m = np.zeros((1, 3, 64, 48), np.float32)
    m[0, 0] = np.nan
    m[0, 2] = 1
    layer = MapLayer(m, identity())
    for i, k, words in ((0, 0, "not available"), (0, 1, "no mass"), (0, 3, "no map"), (1, 0, "no map")):
        with pytest.raises(InputError, match=words):
            region(layer, i, k, 0.5)
    with pytest.raises(InputError, match="mass"):
        region(layer, 0, 2, 0)


# --- zones -----------------------------------------------------------------------------------------------


def test_zones_by_hand() -> None:
    """A flat 4 x 4 map over image px (-.5, 3.5)^2, so that every cell holds 1/16."""
    layer = MapLayer(np.full((1, 2, 4, 4), 1 / 16), identity(1, (4, 4)))
    bitmap = np.zeros((10, 2), bool)
    bitmap[1:3] = True
    for zone, expected in (
        ([-0.5, -0.5, 3.5, 3.5], 1.0),
        ([0.5, 0.5, 2.5, 1.5], 2 / 16),
        ([0.0, 0.0, 0.25, 1.0], 0.25 / 16),
        ([[0.5, 0.5, 2.5, 1.5]], 2 / 16),
        ([50, 50, 60, 60], 0.0),
        (np.array([[-0.5, -0.5], [3.5, -0.5], [-0.5, 3.5]]), 0.5),
        ([(-0.5, -0.5), (3.5, -0.5), (3.5, 3.5), (-0.5, 3.5)], 1.0),
        ([np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 3.5], [-0.5, 3.5]])] * 2, 0.25),
        (bitmap, 4 / 16),
        (bitmap.astype(np.uint8) * 255, 4 / 16),
        (lambda p: p[:, 0] < 1.5, 0.5),
        (lambda p: np.full(len(p), 0.25), 0.25),
    ):
        # the diagonal of the triangle runs through sample points; they count as outside
        tolerance = 0.04 if np.shape(zone) == (3, 2) else 1e-9
        np.testing.assert_allclose(probability_in(layer, zone), np.full((1, 2), expected), atol=tolerance)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_box_its_polygon_and_its_bitmap_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layer = MapLayer(sparse(seed), Crop.from_boxes(BOXES))
    x0, y0 = rng.integers(0, 100, 2)
    x1, y1 = np.array([x0, y0]) + rng.integers(20, 200, 2)
    box = probability_in(layer, [x0 - 0.5, y0 - 0.5, x1 - 0.5, y1 - 0.5])
    polygon = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) - 0.5
    bitmap = np.zeros((400, 400), bool)
    bitmap[y0:y1, x0:x1] = True
    np.testing.assert_allclose(probability_in(layer, polygon), box, atol=0.05)
    np.testing.assert_allclose(probability_in(layer, bitmap), probability_in(layer, polygon), atol=1e-9)


def test_parts_of_a_whole_add_up_and_turned_windows_too() -> None:
    for degrees in (0.0, 25.0):
        layer = MapLayer(sparse(4), Crop.from_boxes(BOXES, rotation=degrees))
        left = probability_in(layer, [-1000, -1000, 90.3, 1000])
        right = probability_in(layer, [90.3, -1000, 1000, 1000])
        np.testing.assert_allclose(left + right, 1, atol=1e-9)
        assert ((left > 0.01) & (left < 0.99)).any()


def test_boxes_one_a_person_and_maps_not_available() -> None:
    values = sparse(5)
    values[0, 1] = 0
    values[1, 2] = np.nan
    maps = ProbabilityMaps.single(values, Crop.from_boxes(BOXES), np.ones(3))
    windows = maps.widest.crop.windows
    both = probability_in(maps, np.stack([windows[0] + [-9, -9, 9, 9], [5000, 5000, 5001, 5001]]))
    np.testing.assert_allclose(both, [[1, np.nan, 1], [0, 0, np.nan]], atol=1e-6)


def test_people_that_are_not_available_and_no_people_at_all() -> None:
    maps = ProbabilityMaps.single(sparse(6), Crop.from_boxes(BOXES), np.ones(3))
    with_blank = ProbabilityMaps.concat([maps.blank(1), maps])
    triangle = np.array([[0, 0], [300, 0], [0, 300]])
    for zone in (triangle, [0, 0, 50, 50], np.ones((99, 99), bool), region(maps.widest, 0, 0, 0.9)):
        share = probability_in(with_blank, zone)
        assert np.isnan(share[0]).all()
        np.testing.assert_array_equal(share[1:], probability_in(maps, zone))
        assert probability_in(maps.blank(2), zone).shape == (2, 3)
        assert probability_in(maps[[]], zone).shape == (0, 3)


def test_of_the_double_map_the_outer_layer_answers() -> None:
    crop = Crop.from_boxes(BOXES)
    inner, outer = MapLayer(sparse(1), crop, "inner"), MapLayer(sparse(2), crop.enlarged(1.25), "outer")
    maps = ProbabilityMaps((inner, outer), np.ones(3))
    zone = [0, 0, 70, 200]
    np.testing.assert_array_equal(probability_in(maps, zone), probability_in(outer, zone))


@pytest.mark.parametrize(
    "zone",
    [
        [1, 2, 3],
        "left half",
        np.zeros((3, 4)),
        [np.zeros((2, 2))],
        [np.full((3, 2), np.nan)],
        np.zeros((4, 4, 3), np.uint8),
        [10, 10, 5, 5],
        lambda p: np.zeros(3),
        lambda p: np.full(len(p), 2.0),
        lambda p: np.full(len(p), np.nan),
    ],
)
def test_zones_that_are_none(zone: object) -> None:
    layer = MapLayer(sparse(0), Crop.from_boxes(BOXES))
    with pytest.raises(InputError, match="zone"):
        probability_in(layer, zone)
