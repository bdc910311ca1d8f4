"""Map layers: shapes, rows, joining, storing."""

from __future__ import annotations

import numpy as np
import pytest

from bodyloop.errors import InputError
from bodyloop.geometry import Crop
from bodyloop.maps import MapLayer, ProbabilityMaps

BOXES = np.array([[0, 0, 10, 20], [5, 5, 30, 50], [1, 2, 3, 4]], np.float32)
CROP = Crop.from_boxes(BOXES)


def values(n: int = 3, k: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, k, 64, 48)).astype(np.float32)


def double() -> ProbabilityMaps:
    inner = MapLayer(values(), CROP, "inner")
    outer = MapLayer(values(seed=1), CROP.enlarged(1.25), "outer")
    return ProbabilityMaps((inner, outer), np.ones(4))


def test_values_are_float32_and_read_only() -> None:
    mine = values().astype(np.float64)
    maps = ProbabilityMaps.single(mine, CROP, np.ones(4))
    held = maps.layers[0].values
    assert held.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        held[0] = 0
    v = values()
    MapLayer(v, CROP)
    v[0] = 0  # the caller's own array stays writable


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (1, [1]),
        (-1, [2]),
        (np.int64(0), [0]),
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        (np.array([True, False, True]), [0, 2]),
        ([False, True, False], [1]),
        ([], []),
    ],
)
def test_rows_keep_maps_and_windows_together(index: object, rows: list[int]) -> None:
    maps = double()
    part = maps[index]  # type: ignore[index]
    assert len(part) == len(rows)
    assert part.keypoint_count == 4
    for whole, layer in zip(maps.layers, part.layers, strict=True):
        np.testing.assert_array_equal(layer.values, whole.values[rows])
        np.testing.assert_array_equal(layer.crop.windows, whole.crop.windows[rows])
        assert layer.role == whole.role


def test_a_row_that_is_not_there() -> None:
    for i in (3, -4):
        with pytest.raises(IndexError):
            double()[i]


def test_concat_undoes_splitting() -> None:
    maps = double()
    joined = ProbabilityMaps.concat([maps[:1], maps[1:]])
    for a, b in zip(joined.layers, maps.layers, strict=True):
        np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_array_equal(a.crop.center, b.crop.center)


def test_concat_refuses_what_does_not_fit() -> None:
    single = ProbabilityMaps.single(values(), CROP, np.ones(4))
    for other, words in (
        (double(), "layers"),
        (ProbabilityMaps.single(values(), CROP, np.full(4, 2.0)), "kernels"),
        (ProbabilityMaps.single(values(k=5), CROP, np.ones(5)), "keypoints"),
    ):
        with pytest.raises(InputError, match=words):
            ProbabilityMaps.concat([single, other])
    with pytest.raises(InputError, match="nothing"):
        ProbabilityMaps.concat([])


def test_layers_by_role() -> None:
    maps = double()
    assert maps.layer("outer") is maps.widest
    assert maps.layer("inner").crop.scale[0, 0] < maps.widest.crop.scale[0, 0]
    with pytest.raises(InputError, match="inner, outer"):
        maps.layer("single")


def test_arrays_there_and_back() -> None:
    maps = double()
    again = ProbabilityMaps.from_arrays(maps.to_arrays())
    np.testing.assert_array_equal(again.variances, maps.variances)
    for role in ("inner", "outer"):
        a, b = again.layer(role), maps.layer(role)  # type: ignore[arg-type]
        np.testing.assert_array_equal(a.values, b.values)
        np.testing.assert_array_equal(a.crop.windows, b.crop.windows)
        assert (a.crop.size, a.crop.map_size) == (b.crop.size, b.crop.map_size)
    arrays = maps.to_arrays()
    del arrays["outer_center"]
    with pytest.raises(InputError, match="outer_center"):
        ProbabilityMaps.from_arrays(arrays)
    with pytest.raises(InputError, match="no layer"):
        ProbabilityMaps.from_arrays({"variances": np.ones(4)})


def test_blank_maps_join() -> None:
    maps = double()
    joined = ProbabilityMaps.concat([maps, maps.blank(2)])
    assert len(joined) == 5
    assert np.isnan(joined.widest.values[3:]).all()
    assert np.isnan(joined.widest.crop.windows[3:]).all()


@pytest.mark.parametrize(
    ("shape", "crop", "role", "words"),
    [
        ((3, 64, 48), CROP, "single", "shape"),
        ((2, 4, 64, 48), CROP, "single", "windows"),
        ((3, 4, 48, 64), CROP, "single", "map_size"),
        ((3, 4, 64, 48), CROP, "middle", "role"),
    ],
)
def test_bad_layers_are_refused(shape: tuple[int, ...], crop: Crop, role: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        MapLayer(np.zeros(shape), crop, role)  # type: ignore[arg-type]


def test_bad_maps_are_refused() -> None:
    inner = MapLayer(values(), CROP, "inner")
    outer = MapLayer(values(k=5), CROP, "outer")
    for layers, variances, words in (
        ((inner,), np.ones(4), "layers"),
        ((inner, outer), np.ones(4), "differ"),
        ((MapLayer(values(), CROP),), np.ones(3), "variances"),
        ((MapLayer(values(), CROP),), np.zeros(4), "positive"),
    ):
        with pytest.raises(InputError, match=words):
            ProbabilityMaps(layers, variances)
