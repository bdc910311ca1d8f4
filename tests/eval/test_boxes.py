from __future__ import annotations

import numpy as np
import pytest

from bodyloop.errors import InputError
from bodyloop.eval import evaluate_boxes
from bodyloop.geometry import iou
from tests.eval.small import person, truth


def box(score: float, *xywh: float, image_id: int = 1) -> dict[str, object]:
    return {"image_id": image_id, "category_id": 1, "score": score, "bbox": list(xywh)}


def test_overlap_by_hand() -> None:
    # truth 50..150 squared; shifted by 50 in x: 5000 of 15000
    r = evaluate_boxes(truth([person(1)]), [box(0.9, 100, 50, 100, 100)])
    assert r.evidence.similarity(1, 1).tolist() == [[5000 / 15000]]
    assert r.AP == 0


def test_boxes_that_touch_do_not_overlap() -> None:
    r = evaluate_boxes(truth([person(1)]), [box(0.9, 150, 50, 100, 100), box(0.8, 50, 150, 10, 10)])
    assert r.evidence.similarity(1, 1).tolist() == [[0.0], [0.0]]


def test_a_crowd_is_divided_by_the_predictions_area() -> None:
    r = evaluate_boxes(truth([person(1, iscrowd=1)]), [box(0.9, 60, 60, 10, 10), box(0.8, 145, 60, 10, 10)])
    assert r.evidence.similarity(1, 1).tolist() == [[1.0], [0.5]]


def test_limits() -> None:
    gt = truth([person(1), person(2, x=300)])
    r = evaluate_boxes(gt, [box(0.9, 50, 50, 100, 100), box(0.8, 250, 50, 100, 100)])
    assert (r.AR_1, r.AR_10, r.AR_100) == (0.5, 1, 1)
    assert r.AP_S == r.AP_M == -1 and r.AR_L == 1


def test_agrees_with_the_iou_of_the_vocabulary() -> None:
    rng = np.random.default_rng(0)
    people = [person(i + 1, bbox=[*rng.uniform(0, 50, 2), *rng.uniform(1, 50, 2)]) for i in range(9)]
    found = [box(1 - i / 100, *rng.uniform(0, 50, 2), *rng.uniform(1, 50, 2)) for i in range(20)]
    mine = evaluate_boxes(truth(people), found).evidence.similarity(1, 1)
    a, b = (np.array([d["bbox"] for d in rows]) for rows in (found, people))
    both = [np.concatenate([x[:, :2], x[:, :2] + x[:, 2:]], axis=1) for x in (a, b)]
    np.testing.assert_allclose(mine, iou(*both), rtol=0, atol=1e-12)


def test_a_prediction_without_a_box() -> None:
    with pytest.raises(InputError, match="prediction number 0: field 'bbox' is missing"):
        evaluate_boxes(truth([person(1)]), [{"image_id": 1, "category_id": 1, "score": 1.0}])


def test_an_annotation_with_id_zero_is_found() -> None:
    files = truth([person(0)]), [box(0.9, 50, 50, 100, 100)]
    assert evaluate_boxes(*files).AR_100 == evaluate_boxes(*files, protocol="xtcocotools").AR_100 == 1
    assert evaluate_boxes(*files, protocol="pycocotools").AR_100 == 0  # its mark for "no match" is 0


def test_nothing_predicted() -> None:
    """pycocotools fails here."""
    for protocol in ("standard", "pycocotools"):
        r = evaluate_boxes(truth([person(1)]), [], protocol)
        assert (r.AP, r.AR_1, r.AP_L, r.AP_S) == (0, 0, 0, -1)
    assert set(evaluate_boxes(truth([]), []).numbers.values()) == {-1}


def test_an_area_at_the_limit_belongs_to_both_ranges() -> None:
    r = evaluate_boxes(truth([person(1, area=96.0**2)]), [box(0.9, 50, 50, 100, 100)])
    assert r.AR_M == r.AR_L == 1 and r.AR_S == -1


def test_a_field_ignore_has_no_effect() -> None:
    r = evaluate_boxes(truth([person(1, ignore=1)]), [box(0.9, 50, 50, 100, 100)])
    assert r.AR_100 == 1 and r.counts["ignored"] == 0


def test_an_unmatched_box_counts_in_the_range_of_its_own_area() -> None:
    """A false alarm of 20 x 20 px before the hit: it is wrong among all and the small, not among the large."""
    r = evaluate_boxes(truth([person(1)]), [box(0.9, 300, 50, 20, 20), box(0.8, 50, 50, 100, 100)])
    assert r.numbers["AP"] == pytest.approx(0.5) and r.numbers["AP_L"] == pytest.approx(1)


def test_a_box_in_a_crowd_is_neither_right_nor_wrong() -> None:
    gt = truth([person(1, iscrowd=1), person(2, x=300)])
    inside = [box(0.9 - i / 100, 60 + i, 60, 10, 10) for i in range(3)]
    r = evaluate_boxes(gt, [*inside, box(0.5, 250, 50, 100, 100)])
    ids, ignored = r.evidence.matched_ids(1, 1)
    assert ids[0].tolist() == [1, 1, 1, 2] and ignored[0].tolist() == [True, True, True, False]
    assert r.numbers["AP"] == pytest.approx(1)


def test_predictions_of_unknown_categories_are_left_out_and_told() -> None:
    other = box(0.9, 50, 50, 100, 100) | {"category_id": 9}
    r = evaluate_boxes(truth([person(1)]), [other, box(0.8, 50, 50, 100, 100)])
    assert r.numbers["AP"] == pytest.approx(1)
    assert r.warnings == ("1 predictions of categories that the ground truth does not have were left out",)
