"""COCO keypoint evaluation: cases worked by hand, quirks that standard mends, pycocotools as a judge."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.errors import ConfigError, InputError
from bodyloop.eval import evaluate_boxes, evaluate_keypoints
from bodyloop.eval.reading import read_ground_truth, read_predictions
from bodyloop.skeletons import COCO
from tests.eval.small import SIGMA_NOSE, guess, keypoints, person, truth
from tests.eval.stored import loaded

FIRST_HIT = 1 / (1 + np.spacing(1.0))  # the precision of a first hit: one bit below 1


def test_one_person_found_exactly() -> None:
    r = evaluate_keypoints(truth([person(1)]), [guess(0.9)])
    assert pytest.approx(FIRST_HIT, abs=1e-15) == r.AP and r.AP < 1
    assert (r.AR, r.AR50, r.AR_L) == (1, 1, 1)
    assert r.AP_M == -1  # nobody of that size
    assert r.evidence.similarity(1, 1).tolist() == [[1.0]]


def test_oks_by_hand() -> None:
    # d = 2 sigma sqrt(2 area): exp(-1)
    d = 2 * SIGMA_NOSE * np.sqrt(2 * 10000.0)
    r = evaluate_keypoints(truth([person(1)]), [guess(0.9, x=100 + d)])
    assert r.evidence.similarity(1, 1)[0, 0] == pytest.approx(np.exp(-1), abs=1e-12)
    assert r.AP == 0 and r.AR == 0


def test_a_false_alarm_above_halves_the_precision() -> None:
    r = evaluate_keypoints(truth([person(1)]), [guess(0.9, x=400), guess(0.8)])
    assert pytest.approx(0.5, abs=1e-15) == r.AP


def test_false_alarms_in_images_without_people_count() -> None:
    r = evaluate_keypoints(truth([person(1)], images=2), [guess(0.9, image_id=2), guess(0.8)])
    assert pytest.approx(0.5, abs=1e-15) == r.AP


def test_tied_scores_go_by_image_id_not_by_file_order() -> None:
    gt = truth([person(1, image_id=1)], images=2)
    gt["images"].reverse()
    ahead = [guess(0.5, image_id=2), guess(0.5, image_id=1)]  # the false alarm stands first in the file
    assert pytest.approx(FIRST_HIT, abs=1e-15) == evaluate_keypoints(gt, ahead).AP
    gt["annotations"] = [person(1, image_id=2)]
    assert pytest.approx(0.5, abs=1e-15) == evaluate_keypoints(gt, ahead).AP


def test_no_predictions_and_nobody() -> None:
    r = evaluate_keypoints(truth([person(1)]), [])
    assert (r.AP, r.AR, r.AP_M) == (0, 0, -1)
    r = evaluate_keypoints(truth([]), [guess(0.5)])
    assert set(r.numbers.values()) == {-1}
    r = evaluate_keypoints({"images": [], "annotations": [], "categories": []}, [])
    assert set(r.numbers.values()) == {-1}


def test_annotation_id_0_is_found_but_for_pycocotools() -> None:
    gt, dt = truth([person(0)]), [guess(0.9)]
    assert evaluate_keypoints(gt, dt).AR == 1
    assert evaluate_keypoints(gt, dt, protocol="xtcocotools").AR == 1
    assert evaluate_keypoints(gt, dt, protocol="pycocotools").AR == 0


def test_who_is_labelled_is_counted_not_read() -> None:
    gt, dt = truth([person(1, num_keypoints=0)]), [guess(0.9)]
    r = evaluate_keypoints(gt, dt)
    assert r.AR == 1 and "num_keypoints" in r.warnings[0]
    assert evaluate_keypoints(gt, dt, protocol="pycocotools").AR == -1


def test_predictions_without_confidence_are_kept_but_by_xtcocotools() -> None:
    flat = guess(0.9)
    flat["keypoints"][2::3] = [0.0] * 17
    gt = truth([person(1)])
    assert evaluate_keypoints(gt, [flat]).AR == 1
    r = evaluate_keypoints(gt, [flat], protocol="xtcocotools")
    assert r.AR == 0 and r.counts["dropped"] == 1


def test_an_ignore_field_has_no_effect() -> None:
    assert evaluate_keypoints(truth([person(1, ignore=1)]), [guess(0.9)]).AR == 1


def test_a_crowd_takes_any_number_and_costs_nothing() -> None:
    crowd = person(2, x=400, iscrowd=1, num_keypoints=0, keypoints=keypoints({}))
    many = [guess(0.99, x=380), guess(0.98, x=420), guess(0.9)]
    r = evaluate_keypoints(truth([person(1), crowd]), many)
    assert pytest.approx(FIRST_HIT, abs=1e-15) == r.AP
    ids, ignored = r.evidence.matched_ids(1, 1)
    assert (ids == [[2, 2, 1]]).all() and (ignored == [[True, True, False]]).all()


def test_area_of_exactly_9216_is_medium_and_large() -> None:
    r = evaluate_keypoints(truth([person(1, area=9216.0)]), [guess(0.9)])
    assert r.AR_M == r.AR_L == 1


def test_the_area_of_an_unmatched_prediction_comes_from_its_box() -> None:
    """A false alarm of 100 x 100 px by its keypoints (large); its bbox says 50 x 50 (medium)."""
    gt = truth([person(1, area=2500.0)])
    alarm, hit = guess(0.9, x=400), guess(0.8)
    r = evaluate_keypoints(gt, [alarm, hit])
    assert pytest.approx(FIRST_HIT, abs=1e-15) == r.AP_M  # the alarm is too large to count here
    boxed = [alarm | {"bbox": [375, 75, 50, 50]}, hit | {"bbox": [75, 75, 50, 50]}]
    r = evaluate_keypoints(gt, boxed)
    assert pytest.approx(0.5, abs=1e-15) == r.AP_M


def test_boxes_in_some_predictions_only() -> None:
    gt = truth([person(1, area=2500.0)])
    mixed = [guess(0.9, x=400), guess(0.8, bbox=[75, 75, 50, 50])]
    with pytest.raises(InputError, match="number 1 has field 'bbox', unlike the first"):
        evaluate_keypoints(gt, mixed)
    by_keypoints = evaluate_keypoints(gt, mixed, protocol="pycocotools")  # the first one has none
    assert pytest.approx(FIRST_HIT, abs=1e-15) == by_keypoints.AP_M


def test_twenty_predictions_an_image() -> None:
    crowded = [guess(1 - i / 100, x=400) for i in range(20)]
    assert evaluate_keypoints(truth([person(1)]), [*crowded, guess(0.1)]).AR == 0
    assert evaluate_keypoints(truth([person(1)]), [*crowded[1:], guess(0.1)]).AR == 1


def test_what_the_report_says() -> None:
    r = evaluate_keypoints(truth([person(1)]), [guess(0.9), guess(0.8, category_id=7)])
    assert r.counts == {"images": 1, "annotations": 1, "ignored": 0, "predictions": 2, "dropped": 0}
    assert "categories" in r.warnings[0]
    out = json.loads(json.dumps(r.to_json(), allow_nan=False))
    assert out["numbers"]["AP"] == r.AP and out["protocol"] == "standard"
    assert "AP50" in r.table() and " -" in r.table()


def test_flags_of_3_and_areas_of_0_are_pointed_out() -> None:
    three = person(1, keypoints=keypoints({0: (100, 100, 3)}), area=0)
    r = evaluate_keypoints(truth([three]), [guess(0.9)])
    assert r.AR == 1 and any("CropCOCO" in w for w in r.warnings) and any("area 0" in w for w in r.warnings)


def test_of_equal_annotations_the_later_is_matched() -> None:
    r = evaluate_keypoints(truth([person(1), person(2)]), [guess(0.9)])
    assert (r.evidence.matched_ids(1, 1)[0] == 2).all()


def test_area_0_leaves_exact_predictions_only() -> None:
    gt = truth([person(1, area=0)])
    exact, near = (evaluate_keypoints(gt, [guess(0.9, x=x)]).evidence for x in (100, 100.001))
    assert exact.similarity(1, 1)[0, 0] == 1 and near.similarity(1, 1)[0, 0] == 0


def test_predictions_without_confidence_can_be_dropped_or_kept() -> None:
    flat = guess(0.9)
    flat["keypoints"][2::3] = [0.0] * 17
    gt = truth([person(1)])
    r = evaluate_keypoints(gt, [flat], drop_unsure=True)
    assert (r.AR, r.counts["dropped"]) == (0, 1)
    r = evaluate_keypoints(gt, [flat], protocol="xtcocotools", drop_unsure=False)
    assert (r.AR, r.counts["dropped"]) == (1, 0)


def test_what_exococotools_does_otherwise() -> None:
    """A false alarm where nobody is, with the best score; a crowd with keypoints; flags of 3 alone."""
    crowd = person(2, x=400, iscrowd=1)
    three = person(3, x=400, image_id=2, keypoints=keypoints({0: (400, 100, 3)}))
    gt = truth([person(1), crowd, three], images=2)
    dt = [guess(0.9, image_id=2), guess(0.8)]
    standard, tool = evaluate_keypoints(gt, dt), evaluate_keypoints(gt, dt, protocol="exococotools")
    assert standard.AR == 1 / 2 and standard.counts["ignored"] == 1  # the crowd; who is out is to be found
    assert tool.AR == 1 / 2 and tool.counts["ignored"] == 1  # who is out; the crowd is to be found
    # half of two people found: precision 1/2 after the alarm, which counts for nothing in exococotools
    assert pytest.approx(51 / 101 / 2, abs=1e-12) == standard.AP
    assert pytest.approx(51 / 101, abs=1e-12) == tool.AP
    assert any("as ordinary labelled" in w for w in standard.warnings)
    assert any("as unlabelled" in w for w in tool.warnings)


def test_odd_files_are_pointed_out() -> None:
    def warnings(gt: dict[str, Any], dt: list[dict[str, Any]], protocol: str = "standard") -> str:
        return " / ".join(evaluate_keypoints(gt, dt, protocol=protocol).warnings)

    gt = truth([person(0)])
    assert "annotation with id 0" in warnings(gt, [guess(0.9)], "pycocotools")
    assert warnings(gt, [guess(0.9)]) == ""
    assert "is empty" in warnings(gt, [])
    mixed = [guess(0.9), guess(0.8, bbox=[0, 0, 9, 9])]
    assert "only 1 of 2 predictions have a bbox" in warnings(gt, mixed, "xtcocotools")


@pytest.mark.parametrize("sigmas", [[], [0.1, -0.1], "0.1", [[0.1]]])
def test_sigmas_that_are_none(sigmas: Any) -> None:
    with pytest.raises(ConfigError, match="sigmas"):
        evaluate_keypoints(truth([]), [], sigmas)


def test_names_that_are_unknown() -> None:
    with pytest.raises(ConfigError, match="standard, pycocotools, xtcocotools"):
        evaluate_keypoints(truth([]), [], protocol="coco")
    r = evaluate_keypoints(truth([]), [])
    with pytest.raises(InputError, match="no image with id 7"):
        r.evidence.similarity(7, 1)


def test_arrays_already_read_are_taken() -> None:
    gt, dt = loaded("k01_basic")
    read = read_ground_truth(gt, keypoints=17)
    found = read_predictions(dt, read, keypoints=17)
    assert evaluate_keypoints(read, found).numbers == evaluate_keypoints(gt, dt).numbers
    with pytest.raises(ConfigError, match="keypoints=3"):
        evaluate_keypoints(read, found, [0.1] * 3)


def test_inputs_are_not_changed() -> None:
    gt, dt = loaded("k02_crowd")
    before = copy.deepcopy((gt, dt))
    evaluate_keypoints(gt, dt)
    assert (gt, dt) == before


def by_pycocotools(gt: dict[str, Any], dt: list[dict[str, Any]], kind: str) -> list[float]:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth_ = coco.COCO()
        truth_.dataset = copy.deepcopy(gt)
        truth_.createIndex()
        e = cocoeval.COCOeval(truth_, truth_.loadRes(copy.deepcopy(dt)), kind)
        e.evaluate()
        e.accumulate()
        e.summarize()
    return [float(s) for s in e.stats]


def random_scene(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Some images of people and guesses near them, with ties and crowds."""
    rng = np.random.default_rng(seed)
    people: list[dict[str, Any]] = []
    guesses: list[dict[str, Any]] = []
    images = int(rng.integers(1, 6))
    for i in range(1, images + 1):
        for _ in range(int(rng.integers(0, 5))):
            x, y, side = *rng.uniform(0, 400, 2), float(rng.uniform(10, 200))
            flags = rng.integers(0, 3, 17)
            xy = rng.uniform(0, side, (17, 2)) + np.array([x, y])
            points = np.where(flags[:, None] > 0, np.column_stack([xy, flags]), 0)
            people.append(
                {
                    "id": len(people) + 1, "image_id": i, "category_id": 1,
                    "iscrowd": int(rng.uniform() < 0.15), "bbox": [x, y, side, side], "area": side * side / 2,
                    "num_keypoints": int((flags > 0).sum()), "keypoints": points.ravel().tolist(),
                }
            )  # fmt: skip
            for _ in range(int(rng.integers(0, 4))):
                near = np.column_stack([xy + rng.normal(0, side / 20, (17, 2)), np.ones(17)])
                box = [x + rng.normal(0, side / 10), y, side, side * rng.uniform(0.7, 1.3)]
                guesses.append(
                    {
                        "image_id": i, "category_id": 1, "score": float(rng.integers(1, 8)) / 8,
                        "keypoints": near.ravel().tolist(), "bbox": [float(v) for v in box],
                    }
                )  # fmt: skip
    return truth(people, images), guesses


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_pycocotools_agrees(seed: int) -> None:
    gt, dt = random_scene(seed)
    if not dt:
        return
    for protocol in ("pycocotools", "standard"):
        mine = evaluate_keypoints(gt, dt, COCO, protocol)
        np.testing.assert_allclose(
            list(mine.numbers.values()), by_pycocotools(gt, dt, "keypoints"), rtol=0, atol=1e-12
        )
    boxes = evaluate_boxes(gt, dt)
    assert list(boxes.numbers.values()) == by_pycocotools(gt, dt, "bbox")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_order_of_files_does_not_matter_without_ties(seed: int) -> None:
    gt, dt = random_scene(seed)
    rng = np.random.default_rng(seed)
    for d, s in zip(dt, rng.permutation(len(dt)), strict=True):
        d["score"] = float(s)
    mine = evaluate_keypoints(gt, dt).numbers
    shuffled = [dt[i] for i in rng.permutation(len(dt))]
    gt["images"].reverse()
    gt["annotations"].reverse()
    other = evaluate_keypoints(gt, shuffled).numbers
    np.testing.assert_allclose(list(mine.values()), list(other.values()), rtol=0, atol=1e-12)
