"""Mask AP: stored numbers of pycocotools, and the rules of runs, polygons, crowds and areas by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bodyloop.errors import InputError
from bodyloop.eval import evaluate_masks, mask_runs
from bodyloop.masks import Masks
from tests.eval.stored import check_report, load_json, paths, sets

H, W = 6, 8


@pytest.mark.parametrize("protocol", ["pycocotools", "xtcocotools", "standard"])
@pytest.mark.parametrize("name", sets("segm"))
def test_stored_sets(name: str, protocol: str) -> None:
    tool = "pycocotools" if protocol == "standard" else protocol
    report = evaluate_masks(*paths(name), protocol=protocol)
    check_report(report, name, tool)
    assert list(report.numbers.values()) == load_json("expected.json")[name]["tools"][tool]["stats"]


# ------------------------------------------------------------------ small pictures, 6 high and 8 wide


def rle(x0: int, y0: int, x1: int, y1: int) -> dict[str, Any]:
    """A rectangle of pixels as COCO's text."""
    bitmap = np.zeros((H, W), bool)
    bitmap[y0:y1, x0:x1] = True
    return dict(Masks.from_bitmaps(bitmap[None], (W, H)).rle(0))


def annotation(number: int, segmentation: Any, **fields: Any) -> dict[str, Any]:
    base = {"id": number, "image_id": 1, "category_id": 1, "bbox": [0, 0, W, H], "area": 10.0, "iscrowd": 0}
    return base | {"segmentation": segmentation} | fields


def found(score: float, segmentation: Any, **fields: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 1, "score": score, "segmentation": segmentation} | fields


def truth(*annotations: dict[str, Any], **size: int) -> dict[str, Any]:
    return {
        "images": [{"id": 1, **(size or {"width": W, "height": H})}],
        "annotations": list(annotations),
        "categories": [{"id": 1, "name": "thing"}],
    }


def test_overlap_by_hand() -> None:
    # columns 1 to 3 of rows 1 to 4 (12 px) and columns 2 to 4 of rows 2 to 5 (12 px): they share 2 x 3 px
    report = evaluate_masks(truth(annotation(1, rle(1, 1, 4, 5))), [found(0.9, rle(2, 2, 5, 6))])
    assert report.evidence.similarity(1, 1).tolist() == [[6 / 18]]


def test_runs_through_whole_columns() -> None:
    # columns 1 to 4 as one run of 24 px, and the lower half of columns 2 and 3: 6 px, all shared
    counts = {"size": [H, W], "counts": [6, 24, 18]}
    report = evaluate_masks(truth(annotation(1, counts)), [found(0.9, rle(2, 3, 4, 6))])
    assert report.evidence.similarity(1, 1).tolist() == [[6 / 24]]


def test_masks_that_touch_share_nothing() -> None:
    gt = truth(annotation(1, rle(2, 0, 4, 4)))
    report = evaluate_masks(gt, [found(0.9, rle(4, 0, 6, 4)), found(0.8, rle(2, 4, 4, 6))])
    assert report.evidence.similarity(1, 1).tolist() == [[0.0], [0.0]]


def test_boxes_meet_but_masks_do_not() -> None:
    corner = [[0, 0, 7, 0, 0, 5]]  # the triangle's box is the picture
    report = evaluate_masks(truth(annotation(1, corner)), [found(0.9, rle(6, 4, 8, 6))])
    assert report.evidence.similarity(1, 1).tolist() == [[0.0]]


def test_a_crowd_is_divided_by_the_predictions_own_pixels() -> None:
    gt = truth(annotation(1, rle(0, 0, 4, 6), iscrowd=1), annotation(2, rle(6, 0, 8, 6)))
    results = [found(0.9, rle(6, 0, 8, 6)), found(0.8, rle(1, 0, 3, 2)), found(0.7, rle(3, 0, 5, 3))]
    report = evaluate_masks(gt, results)
    assert report.evidence.similarity(1, 1)[:, 0].tolist() == [0, 1, 0.5]
    ids, ignored = report.evidence.matched_ids(1, 1)
    assert ids[0].tolist() == [2, 1, 1] and ignored[0].tolist() == [
        False,
        True,
        True,
    ]  # as often as it is hit
    assert report.AR_100 == 1 and report.counts["ignored"] == 1


def test_run_lengths_as_text_by_hand() -> None:
    # 3 2 1 40 2: as they are up to the third, then 40 - 2 = 38 = 1 * 32 + 6 ("V1": 6 with more to come, 1), 2 - 1
    image, text = {"width": 6, "height": 8}, "321V11"
    as_list = annotation(1, {"size": [8, 6], "counts": [3, 2, 1, 40, 2]})
    report = evaluate_masks(truth(as_list, **image), [found(0.9, {"size": [8, 6], "counts": text})])
    assert report.evidence.similarity(1, 1).tolist() == [[1.0]]
    # 0 5 9 3 31: 3 - 5 = -2 is 30 with the sign's bit set ("N"), 31 - 9 = 22 needs a second number for its sign
    as_list = annotation(1, {"size": [8, 6], "counts": [0, 5, 9, 3, 31]})
    report = evaluate_masks(truth(as_list, **image), [found(0.9, {"size": [8, 6], "counts": b"059Nf0"})])
    assert report.evidence.similarity(1, 1).tolist() == [[1.0]]


def test_text_of_run_lengths_by_hand() -> None:
    # 7 4 2 4 2 4 25: three as they are, 4 - 4, 2 - 2, 4 - 4, and 25 - 2 = 23, whose fifth bit would be a sign: "g0"
    assert rle(1, 1, 4, 5) == {"size": [H, W], "counts": "742000g0"}


def test_polygons_are_united() -> None:
    square, beside = [0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 6, 2, 6, 6, 2, 6]  # 16 px each, 4 px shared
    report = evaluate_masks(truth(annotation(1, [square, beside])), [found(0.9, rle(0, 0, 8, 6))])
    assert report.evidence.similarity(1, 1).tolist() == [[28 / 48]]


def test_nothing_drawn_is_an_empty_mask() -> None:
    gt = truth(annotation(1, []), annotation(2, rle(0, 0, 2, 2)))
    empty = {"size": [H, W], "counts": [H * W]}
    report = evaluate_masks(gt, [found(0.9, empty), found(0.8, rle(0, 0, 2, 2))])
    assert report.evidence.similarity(1, 1).tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("boxed", [True, False])
def test_the_first_predictions_box_decides_whose_areas_count(boxed: bool) -> None:
    """A false alarm of 4 px whose box is large: with boxes it is none of the small ones' business."""
    gt = truth(annotation(1, rle(0, 0, 2, 2)))
    boxes = [{"bbox": [0, 0, 100, 100]}, {"bbox": [0, 0, 2, 2]}] if boxed else [{}, {}]
    results = [found(0.9, rle(5, 4, 7, 6), **boxes[0]), found(0.8, rle(0, 0, 2, 2), **boxes[1])]
    report = evaluate_masks(gt, results)
    assert report.numbers["AP"] == pytest.approx(0.5)
    assert report.numbers["AP_S"] == pytest.approx(1 if boxed else 0.5)
    assert report.parameters["prediction_area"] == ("box" if boxed else "mask")


def test_mixed_boxes_are_refused_by_the_standard_only() -> None:
    gt, results = truth(annotation(1, rle(0, 0, 2, 2))), [found(0.9, rle(0, 0, 2, 2))]
    results.append(found(0.8, rle(0, 0, 2, 2), bbox=[0, 0, 2, 2]))
    with pytest.raises(InputError, match="give a bbox to all predictions or to none"):
        evaluate_masks(gt, results)
    assert evaluate_masks(gt, results, "pycocotools").AR_100 == 1


def test_an_annotation_with_id_zero_is_found() -> None:
    gt, results = truth(annotation(0, rle(0, 0, 2, 2))), [found(0.9, rle(0, 0, 2, 2))]
    assert evaluate_masks(gt, results).AR_100 == 1
    assert evaluate_masks(gt, results, "pycocotools").AR_100 == 0


def test_nothing_found_and_nothing_to_find() -> None:
    nothing = evaluate_masks(truth(annotation(1, rle(0, 0, 2, 2))), [])
    assert (nothing.AP, nothing.AR_S, nothing.AP_L) == (0, 0, -1)
    assert set(evaluate_masks(truth(), [found(0.9, rle(0, 0, 2, 2))]).numbers.values()) == {-1}


def test_masks_of_another_picture() -> None:
    gt = truth(annotation(1, rle(0, 0, 2, 2)))
    other = [found(0.9, {"size": [3, 3], "counts": [0, 9]})]
    with pytest.raises(InputError, match=r"prediction number 0 has a mask of size \[3, 3\]"):
        evaluate_masks(gt, other)
    report = evaluate_masks(gt, other, "pycocotools")  # which never takes them for similar
    assert report.evidence.similarity(1, 1).tolist() == [[-1]] and report.AP == 0


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        (None, "field 'segmentation' is missing"),
        ("abc", "of type str"),
        ([[1, 2, 3, 4]], "polygon 0 needs at least 3 points"),
        ([[1, 2, 3, "x", 5, 6]], "polygon 0 is not a list of numbers"),
        ([[0, 0, 1, 0, float("nan"), 1]], "not finite"),
        ({"size": [H, W], "counts": "~~"}, "not COCO's compressed form"),
        ({"size": [H, W], "counts": [1, 2]}, "sum to height"),
        ({"size": [H, W], "counts": "12"}, "sum to height"),
        ({"counts": [48]}, "'size'"),
        ({"size": [H, float("inf")], "counts": [48]}, "size: expected"),
        ({"size": [H, W]}, "'counts'"),
    ],
)
def test_broken_masks_are_named(segmentation: Any, says: str) -> None:
    good = rle(0, 0, 2, 2)
    broken = annotation(7, segmentation)
    if segmentation is None:
        del broken["segmentation"]
    with pytest.raises(InputError, match=says) as raised:
        evaluate_masks(truth(annotation(5, good), broken), [])
    assert "ground truth: annotation id 7" in str(raised.value)
    with pytest.raises(InputError, match=says) as raised:
        evaluate_masks(truth(annotation(5, good)), [found(0.9, good), found(0.9, segmentation)])
    assert "predictions: prediction number 1" in str(raised.value)


def test_polygons_need_the_size_of_their_picture() -> None:
    gt = truth(annotation(1, [[0, 0, 4, 0, 4, 4]]), width=8)
    with pytest.raises(InputError, match="annotation id 1: polygons need the width and height"):
        evaluate_masks(gt, [])


bitmaps = hnp.arrays(bool, st.tuples(st.integers(1, 5), st.just(H), st.just(W)))


def as_files(
    a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_], crowd: int
) -> tuple[dict[str, Any], list[Any]]:
    masks, others = Masks.from_bitmaps(a), Masks.from_bitmaps(b)
    gt = truth(*(annotation(i, others.rle(i), iscrowd=int(i == crowd)) for i in range(len(b))))
    return gt, [found(1 - i / 10, masks.rle(i)) for i in range(len(a))]


@settings(max_examples=50, deadline=None)
@given(bitmaps, bitmaps, st.integers(-1, 4))
def test_as_counted_on_bitmaps(a: npt.NDArray[np.bool_], b: npt.NDArray[np.bool_], crowd: int) -> None:
    expected = Masks.from_bitmaps(a).iou(Masks.from_bitmaps(b), crowd=np.arange(len(b)) == crowd)
    assert (evaluate_masks(*as_files(a, b, crowd)).evidence.similarity(1, 1) == expected).all()


def test_long_files_are_read_and_compared_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    files = as_files(rng.random((40, H, W)) < 0.4, rng.random((30, H, W)) < 0.6, 3)
    whole = evaluate_masks(*files)
    monkeypatch.setattr(mask_runs, "MASKS_AT_ONCE", 7)
    monkeypatch.setattr(mask_runs, "RUNS_AT_ONCE", 100)
    pieces = evaluate_masks(*files)
    assert (pieces.evidence.similarity(1, 1) == whole.evidence.similarity(1, 1)).all()
    assert pieces.numbers == whole.numbers
