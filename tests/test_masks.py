"""Masks: round trips between forms, COCO's API as the oracle, and hostile input."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_api

from bodyloop.errors import InputError
from bodyloop.masks import Masks, dim_lut, reference_detour

Bits = npt.NDArray[np.bool_]

SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))  # w, h
bitmaps = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))
# some blobs instead of noise, so that runs are long
blobs = st.builds(
    lambda h, w, x, y, a, b: np.pad(np.ones((b, a), bool), ((y, h), (x, w))),
    *[st.integers(0, 70)] * 4,
    *[st.integers(1, 70)] * 2,
)


@st.composite
def polygon_cases(draw: st.DrawFn) -> tuple[tuple[int, int], list[npt.NDArray[np.float64]]]:
    w, h = draw(SIZES)
    number = st.floats(-10, 34, allow_nan=False) | st.integers(-3, 27).map(float)
    polygon = hnp.arrays(np.float64, st.tuples(st.integers(3, 9), st.just(2)), elements=number)
    return (w, h), draw(st.lists(polygon, min_size=1, max_size=3))


def coco_rle(bitmap: Bits) -> dict[str, Any]:
    return dict(coco_api.encode(np.asfortranarray(bitmap.astype(np.uint8))))


class TestRle:
    @given(bitmaps | blobs)
    def test_text_is_that_of_the_coco_api(self, bitmap: Bits) -> None:
        ours = Masks.from_bitmaps([bitmap]).rle(0)
        theirs = coco_rle(bitmap)
        assert ours["counts"].encode() == theirs["counts"]
        assert ours["size"] == list(theirs["size"])

    @given(bitmaps | blobs, st.sampled_from(["text", "bytes", "runs"]))
    def test_every_form_comes_back(self, bitmap: Bits, form: str) -> None:
        rle = coco_rle(bitmap)
        if form == "text":
            rle["counts"] = rle["counts"].decode()
        if form == "runs":
            rle["counts"] = Masks.from_bitmaps([bitmap]).counts(0).tolist()
        masks = Masks.from_rle([rle])
        assert (masks.bitmap(0) == bitmap).all()
        assert masks.areas[0] == bitmap.sum()
        assert masks.present[0] == bitmap.any()
        assert masks.equals(Masks.from_bitmaps([bitmap]))

    def test_worked_by_hand(self) -> None:
        # column by column: 1 0 | 1 1 | 0 0 -> no background, 1 on, 1 off, 2 on, 2 off
        bitmap = np.array([[1, 1, 0], [0, 1, 0]], bool)
        masks = Masks.from_bitmaps([bitmap])
        assert masks.counts(0).tolist() == [0, 1, 1, 2, 2]
        # 0, 1, 1, then differences to the run before last: 2 - 1 = 1, 2 - 1 = 1
        assert masks.rle(0) == {"size": [2, 3], "counts": "01111"}

    def test_empty_runs_are_joined(self) -> None:
        masks = Masks.from_rle([{"size": [1, 6], "counts": [1, 2, 0, 1, 2, 0]}])
        assert masks.counts(0).tolist() == [1, 3, 2]

    @pytest.mark.parametrize(
        ("rle", "says"),
        [
            ({"size": [2, 3], "counts": [1, 2]}, "sum to height"),
            ({"size": [2, 3], "counts": [-1, 7]}, "non-negative"),
            ({"size": [2, 3], "counts": [1 << 62, 1 << 62]}, "non-negative|sum"),
            ({"size": [2, 3], "counts": [10**30, 1]}, "whole numbers"),
            ({"size": [2, 3], "counts": [1.5, 4.5]}, "whole numbers"),
            ({"size": [2, 3], "counts": [[1], [2, 3]]}, "whole numbers"),
            ({"size": [2, 3], "counts": ["a"]}, "whole numbers"),
            ({"size": [2, 3], "counts": None}, "whole numbers"),
            ({"size": [2, 3], "counts": ""}, "sum to height"),
            ({"size": [2, 3], "counts": []}, "sum to height"),
            ({"size": [2, 3], "counts": "o"}, "middle of a number"),
            ({"size": [2, 3], "counts": "oooooooooooooooo0"}, "longer than any picture"),
            ({"size": [2, 3], "counts": "0111é"}, "compressed form"),
            ({"size": [2, 3], "counts": b"\x00\xff"}, "compressed form"),
            ({"size": [2, 3], "counts": "01112"}, "sum to height"),
            ({"size": [4, 3], "counts": "01111"}, r"size \[4, 3\]"),
            ({"size": [2], "counts": "01111"}, "'size'"),
            ({"size": "23", "counts": "01111"}, "'size'|size"),
            ({"size": [2, None], "counts": "01111"}, "size"),
            ({"counts": "01111"}, "'size'"),
            ({"size": [2, 3]}, "'counts'"),
        ],
    )
    def test_broken_rle_names_the_person(self, rle: dict[str, Any], says: str) -> None:
        good = {"size": [2, 3], "counts": "01111"}
        with pytest.raises(InputError, match=says) as e:
            Masks.from_rle([good, rle], (3, 2))
        assert "masks[1]" in str(e.value)


class TestPolygons:
    @given(polygon_cases())
    def test_pixels_are_those_of_the_coco_api(self, case: Any) -> None:
        (w, h), polygons = case
        theirs = coco_api.merge(coco_api.frPyObjects([p.ravel().tolist() for p in polygons], h, w))
        ours = Masks.from_polygons([polygons], (w, h))
        assert ours.rle(0)["counts"].encode() == theirs["counts"]

    def test_one_outside_the_picture_is_no_mask(self) -> None:
        masks = Masks.from_polygons([[[50, 50, 60, 50, 60, 60]]], (10, 10))
        assert not masks.present[0]
        assert masks.polygons(0) == []

    def test_what_came_goes_out(self) -> None:
        triangle = np.array([[1.25, 1], [8, 1.5], [4, 7]])
        masks = Masks.from_polygons([[triangle], None, [triangle.ravel().tolist()]], (10, 10))
        assert masks.present.tolist() == [True, False, True]
        for i in (0, 2):
            assert (masks.polygons(i)[0] == triangle).all()

    @given(st.lists(st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(2, 30)] * 2), min_size=1, max_size=4))
    def test_outline_of_a_bitmap_filled_again(self, boxes: list[tuple[int, int, int, int]]) -> None:
        bitmap = np.zeros((64, 64), bool)
        for x, y, w, h in boxes:
            bitmap[y : y + h, x : x + w] = True
        polygons = Masks.from_bitmaps([bitmap]).polygons(0)
        # the outline runs through the middle of border pixels, so everything inside of it is kept
        redrawn = Masks.from_polygons([polygons], (64, 64)).bitmap(0)
        around = [bitmap[y : 62 + y, x : 62 + x] for y in range(3) for x in range(3)]
        inner = np.all(around, axis=0)
        assert redrawn[1:-1, 1:-1][inner].all()
        xy = np.concatenate(polygons).astype(int)
        assert bitmap[xy[:, 1], xy[:, 0]].all()

    @pytest.mark.parametrize(
        ("polygons", "says"),
        [
            ([[1, 2, 3, 4]], "at least 3 points"),
            ([[1, 2, 3, 4, 5]], "at least 3 points"),
            ([[1, 2, 3, 4, 5, np.nan]], "not finite"),
            ([[1, 2, 3, 4, 5, np.inf]], "not finite"),
            ([[1, 2, 3, 4, 5, 1e9]], "million"),
            ([["a", "b"]], "numbers"),
            ([[[1, 2], [3]]], "numbers"),
            ([{"a": 1}], "numbers"),
            ([np.random.default_rng(0).uniform(-1e6, 1e6, (200, 2))], "no part of a picture"),
        ],
    )
    def test_broken_polygons_name_the_person(self, polygons: Any, says: str) -> None:
        with pytest.raises(InputError, match=says) as e:
            Masks.from_any([None, polygons], (10, 10))
        assert "masks[1]" in str(e.value)


class TestInputs:
    def test_a_mixed_list(self) -> None:
        bitmap = np.zeros((6, 8), bool)
        bitmap[1:3, 2:5] = True
        whole = Masks.from_bitmaps([bitmap])
        mixed = Masks.from_any(
            [bitmap, whole.rle(0), [[2, 1, 5, 1, 5, 3, 2, 3]], None, [], whole, bitmap.astype(np.uint8) * 255,
             bitmap * 0.75, np.array([[2.0, 1], [5, 1], [5, 3], [2, 3]])],
            (8, 6),
        )  # fmt: skip
        assert mixed.present.tolist() == [True, True, True, False, False, True, True, True, True]
        for i in np.flatnonzero(mixed.present):
            assert (mixed.bitmap(int(i)) == bitmap).all()

    def test_flat_polygon_is_one_polygon(self) -> None:
        masks = Masks.from_any([[2, 1, 5, 1, 5, 3, 2, 3]], (8, 6))
        assert masks.areas.tolist() == [6.0]

    @pytest.mark.parametrize(
        ("masks", "says"),
        [
            (np.zeros((2, 5, 8), bool), r"masks\[0\]"),
            (np.zeros((6, 8), bool), r"\(N, H, W\)"),
            ([np.zeros((6, 9), bool)], r"\(6, 8\)"),
            ([np.zeros((6, 8)) - 1.0], "0..1"),
            ([np.full((6, 8), np.nan)], "0..1"),
            ([np.full((6, 8), 3.0)], "0..1"),
            ([np.full((6, 8), 1j)], "bool, integers or floats"),
            ([np.zeros((1, 6, 8), bool)], "polygon|masks"),
            (["text"], "str"),
            ("text", "str"),
            ({"size": [6, 8], "counts": "a"}, "one mask"),
            (3, "int"),
            ([3], "int"),
        ],
    )
    def test_refused(self, masks: Any, says: str) -> None:
        with pytest.raises(InputError, match=says):
            Masks.from_any(masks, (8, 6))

    @pytest.mark.parametrize(
        "size", [(0, 3), (-1, 3), (2.5, 3), "ab", (3,), None, (1 << 20, 1 << 20), (3, np.nan)]
    )
    def test_sizes_that_are_none(self, size: Any) -> None:
        with pytest.raises(InputError, match="size"):
            Masks.empty(1, size)

    def test_huge_but_legal_picture_costs_nothing(self) -> None:
        masks = Masks.from_polygons([[[10, 10, 50, 10, 50, 40]]], (1 << 15, 1 << 15))
        assert masks.cut(0)[2].size < 2000
        assert masks.iou()[0, 0] == 1

    def test_bitmaps_are_not_shared(self) -> None:
        bitmap = np.ones((3, 3), bool)
        masks = Masks.from_bitmaps([bitmap])
        bitmap[:] = False
        assert masks.bitmap(0).all()


class TestSequence:
    @given(st.data(), st.lists(hnp.arrays(bool, (3, 4)) | st.none(), max_size=6))
    def test_indexing_is_that_of_arrays(self, data: st.DataObject, parts: list[Bits | None]) -> None:
        masks = Masks.from_bitmaps(parts, (4, 3))
        dense = masks.bitmaps()
        n = len(parts)
        index = data.draw(
            st.slices(n) | st.lists(st.booleans(), min_size=n, max_size=n).map(np.array)
            | (st.lists(st.integers(-n, n - 1), max_size=8) if n else st.just([]))
        )  # fmt: skip
        wanted = index if isinstance(index, slice) else np.asarray(index, bool if n == 0 else None)
        if isinstance(index, list) and not index:
            wanted = np.zeros(0, int)
        assert (masks[index].bitmaps() == dense[wanted]).all()

    @given(st.lists(hnp.arrays(bool, (3, 4)), min_size=1, max_size=5), st.integers(0, 5))
    def test_concat_undoes_slicing(self, parts: list[Bits], at: int) -> None:
        masks = Masks.from_bitmaps(parts)
        assert Masks.concat([masks[:at], masks[at:]]).equals(masks)
        assert Masks.concat(list(masks)).equals(masks)

    def test_out_of_range(self) -> None:
        masks = Masks.empty(2, (4, 3))
        for index in (2, -3, [0, 2]):
            with pytest.raises(IndexError):
                masks[index]
        for wrong in ([True], [True] * 3, [0.5], "a", [[0]]):
            with pytest.raises(InputError, match="index"):
                masks[wrong]  # type: ignore[index]

    def test_sizes_do_not_mix(self) -> None:
        with pytest.raises(InputError, match="different sizes"):
            Masks.concat([Masks.empty(1, (4, 3)), Masks.empty(1, (3, 4))])
        with pytest.raises(InputError, match="different sizes"):
            Masks.empty(1, (4, 3)).iou(Masks.empty(1, (3, 4)))
        with pytest.raises(InputError, match="nothing"):
            Masks.concat([])


class TestNumbers:
    @given(
        st.lists(hnp.arrays(bool, (9, 7)), max_size=4),
        st.lists(hnp.arrays(bool, (9, 7)), max_size=4),
        st.booleans(),
    )
    def test_iou_is_that_of_the_coco_api(self, a: list[Bits], b: list[Bits], crowd: bool) -> None:
        ours = Masks.from_bitmaps(a, (7, 9)).iou(Masks.from_bitmaps(b, (7, 9)), crowd=[crowd] * len(b))
        assert ours.shape == (len(a), len(b))
        if a and b:
            theirs = coco_api.iou([coco_rle(x) for x in a], [coco_rle(x) for x in b], [crowd] * len(b))
            np.testing.assert_allclose(ours, theirs, atol=1e-12)

    @given(bitmaps)
    def test_boxes_and_areas(self, bitmap: Bits) -> None:
        masks = Masks.from_bitmaps([bitmap])
        assert masks.areas[0] == bitmap.sum()
        if bitmap.any():
            x, y, w, h = coco_api.toBbox(coco_rle(bitmap))
            assert masks.boxes[0].tolist() == [x, y, x + w, y + h]
        else:
            assert np.isnan(masks.boxes).all()
            assert masks.cut(0)[2].size == 0

    @given(st.lists(hnp.arrays(bool, (5, 6)), max_size=4))
    def test_union(self, parts: list[Bits]) -> None:
        expected = np.any(parts, axis=0) if parts else np.zeros((5, 6), bool)
        assert (Masks.from_bitmaps(parts, (6, 5)).union() == expected).all()

    @given(st.lists(polygon_cases(), max_size=3))
    def test_arrays_for_files(self, cases: list[Any]) -> None:
        masks = Masks.from_polygons([None, *(p for _, p in cases)], (20, 17))
        again = Masks.from_arrays(masks.to_arrays(), (20, 17))
        assert again.equals(masks)
        for i in range(len(masks)):
            assert all((p == q).all() for p, q in zip(masks.polygons(i), again.polygons(i), strict=True))


class TestCuts:
    def test_placed_and_trimmed(self) -> None:
        bits = np.zeros((4, 5), bool)
        bits[1:3, 2:4] = True
        masks = Masks.from_cuts([(10, 20, bits), None, (0, 0, np.zeros((3, 3), bool))], (30, 40))
        x, y, cut = masks.cut(0)
        assert (x, y, cut.shape) == (12, 21, (2, 2)) and cut.all()
        assert masks.present.tolist() == [True, False, False]
        assert masks.bitmap(0)[21:23, 12:14].all() and masks.areas.tolist() == [4, 0, 0]
        bits[:] = False  # a copy was taken
        assert masks.areas[0] == 4

    @given(hnp.arrays(bool, (3, 6, 7)))
    def test_inverse_of_cut(self, bitmaps: npt.NDArray[np.bool_]) -> None:
        masks = Masks.from_bitmaps(bitmaps)
        again = Masks.from_cuts([masks.cut(i) for i in range(3)], masks.size)
        assert (again.bitmaps() == bitmaps).all()

    @pytest.mark.parametrize("at", [(-1, 0), (0, -1), (26, 0), (0, 37)])
    def test_beyond_the_picture(self, at: tuple[int, int]) -> None:
        with pytest.raises(InputError, match=r"masks\[0\].*beyond"):
            Masks.from_cuts([(*at, np.ones((4, 5), bool))], (30, 40))

    def test_not_bool(self) -> None:
        with pytest.raises(InputError, match="expected a bool bitmap"):
            Masks.from_cuts([(0, 0, np.ones((4, 5), np.uint8))], (30, 40))


class TestReference:
    def test_holes_are_filled_and_specks_are_lost(self) -> None:
        bitmap = np.zeros((40, 40), bool)
        bitmap[5:25, 5:25] = True
        bitmap[10:15, 10:15] = False  # a hole
        bitmap[35, 35] = bitmap[30, 10:12] = True  # contours of one and of two points
        out = reference_detour(bitmap)
        # the polygon runs from 5 to 24: the last row and column are lost
        expected = np.zeros((40, 40), bool)
        expected[5:24, 5:24] = True
        assert (out == expected).all()

    def test_contour_of_three_points_is_dropped_of_four_kept(self) -> None:
        triangle = np.zeros((12, 12), bool)
        triangle[3, 3] = triangle[4, 3:5] = True
        assert not reference_detour(triangle).any()
        square = np.zeros((12, 12), bool)
        square[3:6, 3:6] = True
        assert reference_detour(square).sum() == 4

    def test_several_contours_are_united(self) -> None:
        bitmap = np.zeros((20, 40), bool)
        bitmap[2:10, 2:10] = bitmap[2:10, 22:30] = True
        out = reference_detour(bitmap)
        assert out.sum() == 2 * 49 and out[5, 5] and out[5, 25]

    def test_nothing_stays_nothing(self) -> None:
        assert not reference_detour(np.zeros((5, 6), bool)).any()

    @pytest.mark.parametrize("alpha", [0.0, 0.2, 0.25, 0.5, 1.0])
    def test_dimming_rounds_half_to_even(self, alpha: float) -> None:
        lut = dim_lut(alpha)
        assert lut.dtype == np.uint8
        assert lut.tolist() == [round(v * (1 - alpha)) for v in range(256)]

    def test_dimming_beyond_black(self) -> None:
        with pytest.raises(InputError, match="alpha"):
            dim_lut(1.5)


def test_labels_say_whose_each_pixel_is() -> None:
    bitmaps = np.zeros((3, 3, 4), bool)
    bitmaps[0, 0, :2] = bitmaps[2, :2, 1:] = True
    labels = Masks.from_bitmaps(bitmaps, (4, 3)).labels()
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, [[1, 1, 3, 3], [0, 3, 3, 3], [0, 0, 0, 0]])
    assert not Masks.empty(0, (4, 3)).labels().any()
