"""`COCOeval`: pycocotools' calls, attributes and printed lines; xtcocotools' kinds; exococotools' extension."""

from __future__ import annotations

import contextlib
import copy
import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bodyloop.errors import ConfigError, InputError
from bodyloop.eval import COCOeval, evaluate_extended, evaluate_masks
from tests.eval.small import guess, person, truth
from tests.eval.stored import load_json, loaded, paths, sets

KINDS = {"kpt": "keypoints", "bbox": "bbox", "segm": "segm", "crowdpose": "keypoints_crowd"}


def run(evaluator: Any) -> str:
    """All three calls; what they wrote."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return out.getvalue()


def reference() -> Any:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed (the test group has it)")
    from pycocotools import cocoeval

    return cocoeval


def coco_objects(gt: dict[str, Any], dt: list[dict[str, Any]]) -> tuple[Any, Any]:
    """Both files as pycocotools' objects."""
    reference()
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = gt
        coco.createIndex()
        return coco, coco.loadRes(copy.deepcopy(dt))


# ------------------------------------------------------------------ beside pycocotools itself


def both(name: str, **changed: Any) -> tuple[Any, COCOeval, str, str]:
    """A set by pycocotools and by ours, with changed parameters; evaluators and the lines that they wrote."""
    kind = KINDS[load_json("expected.json")[name]["kind"]]
    theirs = reference().COCOeval(*coco_objects(*loaded(name)), kind)
    ours = COCOeval(*coco_objects(*loaded(name)), kind, protocol="pycocotools")
    for evaluator in (theirs, ours):
        for key, value in changed.items():
            setattr(evaluator.params, key, copy.deepcopy(value))
    said = run(theirs)
    return theirs, ours, said[said.index(" Average") :], run(ours)


def check_same(name: str, **changed: Any) -> COCOeval:
    theirs, ours, they_said, we_said = both(name, **changed)
    assert ours.stats.tolist() == theirs.stats.tolist()
    assert we_said == they_said
    for key in ("precision", "recall", "scores"):
        assert (ours.eval[key] == theirs.eval[key]).all(), key
    assert list(ours.eval["counts"]) == list(theirs.eval["counts"])
    assert set(ours.ious) == set(theirs.ious)
    for key, expected in theirs.ious.items():
        assert np.array_equal(ours.ious[key], expected) or np.size(expected) == np.size(ours.ious[key]) == 0
    assert len(ours.evalImgs) == len(theirs.evalImgs)
    for mine, expected in zip(ours.evalImgs, theirs.evalImgs, strict=True):
        assert (mine is None) == (expected is None)
        for key in expected or ():
            assert np.array_equal(mine[key], expected[key]), key
    return ours


@pytest.mark.parametrize(
    "name",
    [
        "k03_crowd_with_keypoints", "k12_more_than_20_ties", "k20_prediction_boxes", "k28_two_categories",
        "b02_crowd", "b04_more_than_100", "b05_gaps", "m01_polygons", "m03_uncompressed_crowd", "m05_empty_mask",
    ],
)  # fmt: skip
def test_everything_is_as_pycocotools_has_it(name: str) -> None:
    check_same(name)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("k34_twenty_images", {"imgIds": [7, 3, 3, 11]}),
        ("k28_two_categories", {"catIds": [2]}),
        ("b01_basic", {"useCats": 0, "catIds": [3, 1]}),
        ("b01_basic", {"catIds": [3, 1], "imgIds": [1, 2]}),
        ("b04_more_than_100", {"maxDets": [50, 1, 5]}),
        ("b04_more_than_100", {"maxDets": [10, 100, 200]}),
        ("k11_more_than_20", {"maxDets": [5]}),
        ("b06_areas", {"iouThrs": np.array([0.3, 0.5, 0.85])}),
        ("m02_rle", {"iouThrs": np.array([0.6])}),
        ("b06_areas", {"areaRng": [[0, 1e10], [0, 500], [500, 4000], [4000, 1e10]]}),
        ("k34_twenty_images", {"areaRng": [[0, 1e10], [0, 9000]], "areaRngLbl": ["all", "medium"]}),
        ("k01_basic", {"kpt_oks_sigmas": np.full(17, 0.05)}),
    ],
)
def test_changed_parameters(name: str, changed: dict[str, Any]) -> None:
    check_same(name, **changed)


def test_keypoints_of_all_categories_together() -> None:
    """Where pycocotools finds nothing: it looks for keypoints of the category -1."""
    gt, dt = loaded("k28_two_categories")
    pooled = COCOeval(gt, dt, "keypoints")
    pooled.params.useCats = 0
    order = sorted(gt["annotations"], key=lambda a: a["category_id"])
    one = gt | {"annotations": [a | {"category_id": 1} for a in order], "categories": [{"id": 1}]}
    alone = COCOeval(
        one, [d | {"category_id": 1} for d in sorted(dt, key=lambda d: d["category_id"])], "keypoints"
    )
    run(pooled)
    run(alone)
    assert pooled.stats.tolist() == alone.stats.tolist() and pooled.stats[0] > 0.1
    assert {r["category_id"] for r in pooled.evalImgs if r} == {-1}


def test_no_images_means_none() -> None:
    """pycocotools then loads all annotations, and fails."""
    evaluator = COCOeval(*loaded("k34_twenty_images"), "keypoints")
    evaluator.params.imgIds = []
    run(evaluator)
    assert set(evaluator.stats) == {-1} and evaluator.evalImgs == []


def test_the_standard_goes_by_the_limits_given() -> None:
    """pycocotools' first number asks for 100 predictions, whatever the limits are, and is then -1."""
    evaluator = COCOeval(*loaded("b04_more_than_100"), "bbox")
    evaluator.params.maxDets = [1, 5, 50]
    lines = run(evaluator).splitlines()
    assert evaluator.stats[0] == pytest.approx(np.mean(evaluator.eval["precision"][:, :, 0, 0, 2]))
    assert lines[0].endswith(f"maxDets= 50 ] = {evaluator.stats[0]:0.3f}")


# ------------------------------------------------------------------ stored numbers of all tools


@pytest.mark.parametrize("name", sets("kpt", "bbox", "segm", "crowdpose"))
def test_stored_stats(name: str) -> None:
    entry = load_json("expected.json")[name]
    for tool, expected in entry["tools"].items():
        if "error" in expected or tool.startswith("exococotools_ex_"):
            continue
        evaluator = COCOeval(
            *loaded(name),
            KINDS[entry["kind"]],
            sigmas=entry.get("sigmas"),
            use_area=entry["kind"] != "crowdpose",
            extended_oks=tool == "exococotools_ex",
            protocol=tool.split("_")[0],
        )
        run(evaluator)
        wanted = np.array(expected["stats"], float)  # null, without any match, is NaN
        np.testing.assert_allclose(evaluator.stats, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", sets("wholebody"))
def test_stored_stats_of_parts(name: str) -> None:
    for tool, expected in load_json("expected.json")[name]["tools"].items():
        if tool.startswith("xtcocotools"):
            kind = f"keypoints_{tool.split('_')[1]}"
            evaluator = COCOeval(*loaded(name), kind, protocol="xtcocotools")
            run(evaluator)
            assert list(evaluator.stats) == expected["stats"]


def test_crowdpose_lines() -> None:
    evaluator = COCOeval(*loaded("c01_basic"), "keypoints_crowd", use_area=False)
    lines = run(evaluator).splitlines()
    assert lines[0] == " Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets= 20 ] = 0.126"
    assert lines[6] == " Average Precision  (AP) @[ IoU=0.50:0.95 | type=  easy | maxDets= 20 ] = 0.132"
    assert len(lines) == len(evaluator.stats) == 9
    with pytest.raises(InputError, match="field 'area' is missing"):
        COCOeval(*loaded("c01_basic"), "keypoints_crowd").evaluate()


def test_levels() -> None:
    gt, dt = loaded("e01_basic")
    evaluator = COCOeval(gt, dt, "keypoints", extended_oks=True, confidence_thr=0.4, padding=1.5)
    lines = run(evaluator).splitlines()
    expected = evaluate_extended(gt, dt, confidence_threshold=0.4, padding=1.5)
    assert evaluator.stats.tolist() == list(expected.numbers.values())[:-1]
    assert lines[1] == f" AP_v1  = {expected.AP_v1:0.3f}"
    assert evaluator.eval["counts"] == [10, 4, 101, 1, 3, 1]
    assert (evaluator.eval["recall"] == expected.evidence.curves.recall).all()


# ------------------------------------------------------------------ what it takes and refuses


def test_takes_what_looks_like_a_coco_object() -> None:
    gt, dt = loaded("m01_polygons")
    by_index = SimpleNamespace(
        imgs={i["id"]: i for i in gt["images"]},
        anns={a["id"]: a for a in gt["annotations"]},
        cats={c["id"]: c for c in gt["categories"]},
    )
    expected = list(evaluate_masks(*paths("m01_polygons")).numbers.values())
    for coco_gt, coco_dt in ((gt, dt), (by_index, {"annotations": dt}), (SimpleNamespace(dataset=gt), dt)):
        evaluator = COCOeval(coco_gt, coco_dt)
        run(evaluator)
        assert evaluator.stats.tolist() == expected


def test_areas_of_predictions_are_those_they_bring() -> None:
    """As loadRes sets them: an unmatched prediction of area 100 is no false alarm among the large."""
    gt, alarm = truth([person(1)]), guess(0.9, x=400)
    for area, expected in ((100.0, 1), (10000.0, 0.5)):
        evaluator = COCOeval(gt, [alarm | {"area": area}, guess(0.8) | {"area": 10000.0}], "keypoints")
        run(evaluator)
        assert evaluator.stats[4] == pytest.approx(expected)
        assert evaluator.stats[0] == pytest.approx(0.5)


def test_no_match_is_marked_as_the_tool_does() -> None:
    for protocol, none in (("standard", 0), ("pycocotools", 0), ("xtcocotools", -1)):
        evaluator = COCOeval(
            truth([person(4)]), [guess(0.9), guess(0.8, x=400)], "keypoints", protocol=protocol
        )
        evaluator.evaluate()
        record = evaluator.evalImgs[0]
        assert record is not None
        assert record["dtMatches"][0].tolist() == [4, none] and record["gtMatches"][0].tolist() == [1]
        assert record["dtIds"] == [1, 2] and record["maxDet"] == 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            {"iouType": "keypoint"},
            "unknown iouType 'keypoint'; known: bbox, segm, keypoints, keypoints_crowd",
        ),
        ({"protocol": "coco"}, "unknown protocol"),
        ({"iouType": "bbox", "extended_oks": True}, "extended_oks is for iouType 'keypoints'"),
        ({"extended_oks": True, "protocol": "pycocotools", "iouType": "keypoints"}, "standard, exococotools"),
        ({"iouType": "keypoints", "sigmas": [0.1, -1]}, "positive numbers"),
        ({"iouType": "keypoints", "extended_oks": True, "padding": 0}, "padding"),
    ],
)
def test_impossible_arguments(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        COCOeval(truth([]), [], **arguments)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"recThrs": np.linspace(0, 1, 11)}, "recThrs cannot be changed"),
        ({"iouThrs": []}, "iouThrs must be a list of numbers"),
        ({"areaRngLbl": ["all"]}, "a range .* for each of params.areaRngLbl"),
        ({"maxDets": []}, "maxDets must be whole numbers"),
        ({"maxDets": [0, 10]}, "maxDets must be whole numbers"),
        ({"imgIds": ["1.jpg"]}, "imgIds and params.catIds must be whole numbers"),
    ],
)
def test_impossible_parameters(changed: dict[str, Any], says: str) -> None:
    evaluator = COCOeval(truth([person(1)]), [guess(0.9)], "keypoints")
    for key, value in changed.items():
        setattr(evaluator.params, key, value)
    with pytest.raises(ConfigError, match=says):
        evaluator.evaluate()


@pytest.mark.parametrize("categories", [1, 0])
def test_what_is_malformed_is_named(categories: int) -> None:
    """Not left out as if it were of another image."""
    for spoilt, says in (({"image_id": None}, "'image_id'"), ({"category_id": "cat"}, "'category_id'")):
        for gt, dt in ((person(7, **spoilt), guess(0.9)), (person(7), guess(0.9, **spoilt))):
            evaluator = COCOeval(truth([gt]), [guess(0.8), dt], "keypoints")
            evaluator.params.useCats = categories
            with pytest.raises(InputError, match=f"(annotation id 7|prediction number 1).*{says}"):
                evaluator.evaluate()


def test_levels_have_fixed_parameters() -> None:
    evaluator = COCOeval(truth([person(1)]), [guess(0.9)], "keypoints", extended_oks=True)
    evaluator.params.iouThrs = np.array([0.5])
    with pytest.raises(ConfigError, match="iouThrs cannot be changed where there are visibility levels"):
        evaluator.evaluate()


def test_steps_out_of_order() -> None:
    evaluator = COCOeval(truth([person(1)]), [guess(0.9)], "keypoints")
    with pytest.raises(InputError, match=r"call evaluate\(\) first"):
        evaluator.accumulate()
    evaluator.evaluate()
    with pytest.raises(InputError, match=r"call accumulate\(\) first"):
        evaluator.summarize()
    with pytest.raises(ConfigError, match=r"takes the parameters of evaluate\(\)"):
        evaluator.accumulate(COCOeval(iouType="keypoints").params)
    with pytest.raises(InputError, match="needs cocoGt and cocoDt"):
        COCOeval(iouType="keypoints").evaluate()
    with pytest.raises(InputError, match="expected a COCO object or its dict with 'images', got int"):
        COCOeval(5, [])
    boxes = COCOeval(truth([person(1)]), [{**guess(0.9), "bbox": [50, 50, 100, 100]}], "bbox")
    boxes.params.maxDets = [100]
    boxes.evaluate()
    boxes.accumulate()
    with pytest.raises(ConfigError, match=r"summarize\(\) speaks of three limits"):
        boxes.summarize()
