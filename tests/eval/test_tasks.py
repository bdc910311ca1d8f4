"""Tasks by name, and CrowdPose, COCO-WholeBody and OCHuman: stored numbers, and their rules by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.errors import ConfigError, FileError, InputError
from bodyloop.eval import (
    TASKS,
    evaluate,
    evaluate_boxes,
    evaluate_crowdpose,
    evaluate_keypoints,
    evaluate_masks,
    evaluate_ochuman,
    evaluate_wholebody,
)
from bodyloop.eval.reading import read_ground_truth
from bodyloop.eval.wholebody import FIELDS, SIGMAS
from bodyloop.skeletons import COCO, CROWDPOSE_14
from tests.eval.small import guess, keypoints, person, truth
from tests.eval.stored import check_report, load_json, loaded, paths, sets

TOOLS = ("pycocotools", "xtcocotools", "exococotools")
FIRST_HIT = 1 / (1 + np.spacing(1.0))  # the precision of a first hit


# ------------------------------------------------------------------ CrowdPose


@pytest.mark.parametrize("name", sets("crowdpose"))
def test_crowdpose_as_stored(name: str) -> None:
    expected = load_json("expected.json")[name]["tools"]["xtcocotools"]["stats"]
    report = evaluate_crowdpose(*paths(name), protocol="xtcocotools")
    check_report(report, name, "xtcocotools")
    assert list(report.numbers.values()) == expected
    standard = evaluate_crowdpose(*paths(name))
    assert list(standard.numbers.values())[:6] == expected[:6]
    assert [round(v, 4) for v in list(standard.numbers.values())[6:] if v is not None] == expected[6:]


def crowd_person(number: int, image_id: int = 1, x: float = 100, **fields: Any) -> dict[str, Any]:
    """A person whose first keypoint (a shoulder) is labelled at (x, 100), in a box of 100 x 100 px; no area."""
    base = person(number, image_id, x, keypoints=keypoints({0: (x, 100, 2)}, 14), **fields)
    del base["area"]
    return base


def crowd_guess(score: float, image_id: int = 1, x: float = 100, sure: float = 1) -> dict[str, Any]:
    points = keypoints(dict.fromkeys(range(14), (x, 100.0, sure)), 14)
    return {"image_id": image_id, "category_id": 1, "score": score, "keypoints": points}


def crowd_truth(people: list[dict[str, Any]], *crowded: float | None) -> dict[str, Any]:
    gt = truth(people, len(crowded))
    for record, index in zip(gt["images"], crowded, strict=True):
        if index is not None:
            record["crowdIndex"] = index
    return gt


def test_crowdpose_areas_are_053_of_the_box() -> None:
    gt = crowd_truth([crowd_person(1)], 0.5)
    report = evaluate_crowdpose(gt, [crowd_guess(0.9, x=106)])
    area = 100 * 100 * 0.53
    expected = np.exp(-36 / (2 * 0.079) ** 2 / area / 2)
    assert report.evidence.similarity(1, 1)[0, 0] == pytest.approx(expected, abs=1e-15)
    gt["annotations"][0]["area"] = 1e9  # is not read
    assert evaluate_crowdpose(gt, [crowd_guess(0.9, x=106)]).numbers == report.numbers


def test_crowdpose_counts_who_has_visible_joints() -> None:
    unseen = crowd_person(
        1, num_keypoints=0
    )  # labelled, but nothing visible: not to be found, no false alarm
    gt = crowd_truth([unseen, crowd_person(2, x=400)], 0.5)
    report = evaluate_crowdpose(gt, [crowd_guess(0.9), crowd_guess(0.8, x=400)])
    assert report.counts["ignored"] == 1
    assert report.AP == FIRST_HIT and report.warnings == ()


def test_crowdpose_classes_have_closed_lower_ends() -> None:
    people = [crowd_person(i + 1, i + 1) for i in range(4)]
    gt = crowd_truth(people, 0.1999, 0.2, 0.7999, 0.8)
    report = evaluate_crowdpose(gt, [crowd_guess(0.9, 2), crowd_guess(0.8, 4)])
    assert [report.counts[f"{c} images"] for c in ("easy", "medium", "hard")] == [1, 2, 1]
    # of the two medium ones the first is found: 51 of 101 recall points
    assert report.numbers["AP_easy"] == 0 and report.numbers["AP_hard"] == FIRST_HIT
    assert report.numbers["AP_medium"] == pytest.approx(51 / 101)


def test_crowdpose_classes_are_those_of_an_evaluation_of_their_images() -> None:
    gt, dt = loaded("c02_index_at_limits")
    whole = evaluate_crowdpose(gt, dt)
    for name, low, high in (("easy", -1, 0.2), ("medium", 0.2, 0.8), ("hard", 0.8, 2)):
        images = [i for i in gt["images"] if low <= i["crowdIndex"] < high]
        ids = {i["id"] for i in images}
        part = gt | {
            "images": images,
            "annotations": [a for a in gt["annotations"] if a["image_id"] in ids],
        }
        alone = evaluate_crowdpose(part, [d for d in dt if d["image_id"] in ids])
        assert whole.numbers[f"AP_{name}"] == alone.AP


def test_crowdpose_classes_without_images_or_index() -> None:
    report = evaluate_crowdpose(crowd_truth([crowd_person(1)], None), [crowd_guess(0.9)])
    assert report.AP == FIRST_HIT
    assert (report.AP_easy, report.AP_medium, report.AP_hard) == (-1, -1, -1)
    assert report.warnings == ("1 images without crowdIndex belong to no class",)
    with pytest.raises(InputError, match="image id 1: field 'crowdIndex' must be a finite number"):
        evaluate_crowdpose(crowd_truth([crowd_person(1)], "crowded"), [])  # type: ignore[arg-type]


def test_crowdpose_missing_entries_count_as_minus_one_in_the_tool_only() -> None:
    gt = crowd_truth([crowd_person(1)], 0.1)
    gt["categories"].append({"id": 2, "name": "nobody"})
    results = [crowd_guess(0.9)]
    assert evaluate_crowdpose(gt, results).AP_easy == FIRST_HIT
    assert evaluate_crowdpose(gt, results, protocol="xtcocotools").AP_easy == 0  # the mean of 1 and -1


def test_crowdpose_unsure_predictions() -> None:
    gt, results = crowd_truth([crowd_person(1)], 0.1), [crowd_guess(0.9, sure=0)]
    kept = evaluate_crowdpose(gt, results)
    assert (kept.AP, kept.AP_easy, kept.counts["dropped"]) == (FIRST_HIT, FIRST_HIT, 0)
    dropped = evaluate_crowdpose(gt, results, protocol="xtcocotools")
    assert (dropped.AP, dropped.AP_easy, dropped.counts["dropped"]) == (0, 0, 1)


def test_crowdpose_where_the_tool_fails() -> None:
    """exococotools' rules: a crowd is to be found, and alarms in images without anybody do not count."""
    people = [crowd_person(1, iscrowd=1), crowd_person(2, 2, num_keypoints=0)]
    results = [crowd_guess(0.9, 2, x=400), crowd_guess(0.8)]
    gt = crowd_truth(people, 0.1, 0.1)
    assert set(evaluate_crowdpose(gt, results).numbers.values()) == {-1}
    report = evaluate_crowdpose(gt, results, protocol="exococotools")
    assert (report.AP, report.AR) == (FIRST_HIT, 1)
    assert report.AP_easy == 1  # rounded


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", sets("crowdpose"))
def test_crowdpose_has_a_result_under_every_protocol(name: str, tool: str) -> None:
    numbers = evaluate_crowdpose(*paths(name), protocol=tool).numbers
    assert all(v is not None and (v == -1 or 0 <= v <= 1) for v in numbers.values())


# ------------------------------------------------------------------ COCO-WholeBody


@pytest.mark.parametrize("name", sets("wholebody"))
def test_wholebody_as_stored(name: str) -> None:
    report = evaluate_wholebody(*paths(name), protocol="xtcocotools")
    standard = evaluate_wholebody(*paths(name))
    for part, numbers in report.parts.items():
        expected = load_json("expected.json")[name]["tools"][f"xtcocotools_{part}"]["stats"]
        check_report(numbers, name, f"xtcocotools_{part}")
        assert list(numbers.numbers.values()) == expected
        if not numbers.counts["dropped"]:
            assert list(standard.parts[part].numbers.values()) == expected


def whole_person(number: int, flag: float = 2, **fields: Any) -> dict[str, Any]:
    """A person of area 10000 whose first keypoint of every part is labelled at (100, 100)."""
    parts = {field: keypoints({0: (100, 100, flag)}, k) for field, k in FIELDS.values()}
    return person(number, **parts) | fields


def whole_guess(score: float, off: Mapping[str, float] | None = None, **fields: Any) -> dict[str, Any]:
    """A prediction at (100, 100), moved to the right by some px for some parts."""
    parts = {
        field: keypoints(dict.fromkeys(range(k), (100 + (off or {}).get(part, 0.0), 100.0, 1.0)), k)
        for part, (field, k) in FIELDS.items()
    }
    return {"image_id": 1, "category_id": 1, "score": score, "bbox": [50, 50, 100, 100], **parts} | fields


def test_wholebody_parts_go_by_the_bodys_area_and_their_own_sigmas() -> None:
    off = {"foot": 8.0, "face": 1.0, "lefthand": 3.0}
    report = evaluate_wholebody(truth([whole_person(1)]), [whole_guess(0.9, off)])
    similar = {part: r.evidence.similarity(1, 1)[0, 0] for part, r in report.parts.items()}
    expected = {
        part: np.exp(-(off.get(part, 0.0) ** 2) / (2 * SIGMAS[part][0]) ** 2 / 10000 / 2) for part in FIELDS
    }
    assert similar == pytest.approx(expected | {"wholebody": np.mean(list(expected.values()))}, abs=1e-15)


def test_wholebody_sigmas() -> None:
    assert {part: len(s) for part, s in SIGMAS.items()} == {
        "body": 17, "foot": 6, "face": 68, "lefthand": 21, "righthand": 21, "wholebody": 133
    }  # fmt: skip
    assert SIGMAS["body"].tolist() == COCO.sigma_array.tolist()
    assert SIGMAS["foot"].tolist() == [0.068, 0.066, 0.066, 0.092, 0.094, 0.094]
    assert SIGMAS["face"][[0, 27, 47, 67]].tolist() == [0.042, 0.009, 0.034, 0.008]
    assert SIGMAS["lefthand"].tolist() == SIGMAS["righthand"].tolist()
    assert SIGMAS["lefthand"][[0, 4, 20]].tolist() == [0.029, 0.047, 0.031]
    assert SIGMAS["wholebody"].tolist() == [s for part in FIELDS for s in SIGMAS[part]]


def test_wholebody_scores_of_parts_and_what_stands_in() -> None:
    """Two predictions for one person, the right one with the lower score but for the face."""
    far = dict.fromkeys(FIELDS, 300.0)
    right, wrong = whole_guess(0.5, face_score=0.9), whole_guess(0.7, far, face_score=0.2, foot_score=0.1)
    report = evaluate_wholebody(truth([whole_person(1)]), [right, wrong])
    assert {part: r.AP for part, r in report.parts.items()} == {
        "body": 0.5, "foot": FIRST_HIT, "face": FIRST_HIT, "lefthand": 0.5, "righthand": 0.5, "wholebody": 0.5
    }  # fmt: skip


def test_wholebody_fractions_are_labels() -> None:
    report = evaluate_wholebody(truth([whole_person(1, flag=0.25)]), [whole_guess(0.9)])
    assert {r.AP for r in report.parts.values()} == {FIRST_HIT}


def test_wholebody_unlabelled_parts_are_not_to_be_found() -> None:
    nothing = keypoints({}, 21)
    gt = truth([whole_person(1, lefthand_kpts=nothing, lefthand_valid=True, num_keypoints=0)])
    report = evaluate_wholebody(gt, [whole_guess(0.9, {"righthand": 300.0})])
    assert {part: r.AP for part, r in report.parts.items()} == {
        "body": FIRST_HIT, "foot": FIRST_HIT, "face": FIRST_HIT, "lefthand": -1, "righthand": 0,
        "wholebody": pytest.approx(0.6, abs=0.01),  # four of five: OKS 0.75 passes 6 of 10 thresholds
    }  # fmt: skip
    assert report.hands["AP"] == 0  # of the right one alone


def test_wholebody_hands_mean() -> None:
    report = evaluate_wholebody(truth([whole_person(1)]), [whole_guess(0.9, {"lefthand": 300.0})])
    assert report.hands["AP"] == (0 + FIRST_HIT) / 2 and report.hands["AP_M"] == -1
    assert report.numbers["AP_hands_mean"] == report.hands["AP"]
    assert report.to_json()["hands_mean"] == report.hands
    assert "hands_mean is the mean of left and right hand, not a protocol of its own" in report.table()
    assert report.AP == report.parts["wholebody"].AP == report.numbers["AP"]


def test_wholebody_unsure_parts() -> None:
    unsure = keypoints(dict.fromkeys(range(21), (100.0, 100.0, 0.0)), 21)
    files = truth([whole_person(1)]), [whole_guess(0.9, lefthand_kpts=unsure)]
    kept, dropped = evaluate_wholebody(*files), evaluate_wholebody(*files, protocol="xtcocotools")
    assert kept.parts["lefthand"].AP == FIRST_HIT and dropped.parts["lefthand"].AP == 0
    assert dropped.parts["righthand"].AP == dropped.AP == FIRST_HIT  # of that part only


def test_wholebody_where_the_tool_fails() -> None:
    """exococotools' rules: only flags 1 and 2 are labels, a crowd is to be found."""
    gt = truth([whole_person(1, iscrowd=1), whole_person(2, face_kpts=keypoints({0: (100, 100, 0.5)}, 68))])
    report = evaluate_wholebody(gt, [whole_guess(0.9)], protocol="exococotools")
    assert report.parts["body"].counts["ignored"] == 0
    assert report.parts["face"].counts["ignored"] == 1 and report.parts["face"].AP == FIRST_HIT
    assert evaluate_wholebody(gt, [whole_guess(0.9)]).parts["face"].counts["ignored"] == 1  # the crowd


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", sets("wholebody"))
def test_wholebody_has_a_result_under_every_protocol(name: str, tool: str) -> None:
    numbers = evaluate_wholebody(*paths(name), protocol=tool).numbers
    assert all(v is not None and (v == -1 or 0 <= v <= 1) for v in numbers.values())


def test_wholebody_names_what_is_missing() -> None:
    gt = truth([whole_person(4)])
    bad = whole_guess(0.9)
    del bad["foot_kpts"]
    with pytest.raises(InputError, match="prediction number 0: field 'foot_kpts' is missing"):
        evaluate_wholebody(gt, [bad])
    gt["annotations"][0]["face_kpts"] = [0.0] * 3
    with pytest.raises(InputError, match="annotation id 4: field 'face_kpts' must be 204 finite numbers"):
        evaluate_wholebody(gt, [])


# ------------------------------------------------------------------ OCHuman


def square(x: float) -> list[list[float]]:
    return [[x - 50, 50, x + 50, 50, x + 50, 150, x - 50, 150]]


def test_ochuman_is_coco_with_masks_where_there_are_some() -> None:
    gt = truth([person(1, segmentation=square(100)), person(2, x=300, segmentation=square(300))])
    dt = [guess(0.9, segmentation=square(100)), guess(0.8, x=600, segmentation=square(300))]
    report = evaluate_ochuman(gt, dt)
    assert report.masks is not None
    assert report.AR == 0.5 and report.masks.numbers == evaluate_masks(gt, dt).numbers
    assert report.masks.AR_100 == 1 and report.numbers["mask_AR_100"] == 1
    apart = evaluate_ochuman(gt, [{k: v for k, v in d.items() if k != "segmentation"} for d in dt], masks=dt)
    assert apart.numbers == report.numbers
    assert evaluate_ochuman(gt, [guess(0.9)]).masks is None


@pytest.mark.parametrize("tool", [*TOOLS, "standard"])
def test_ochuman_has_the_numbers_of_coco(tool: str) -> None:
    files = paths("o01_two_people_close")
    assert (
        evaluate_ochuman(*files, protocol=tool).numbers == evaluate_keypoints(*files, protocol=tool).numbers
    )


# ------------------------------------------------------------------ by name


@pytest.mark.parametrize(
    ("task", "name", "alone"),
    [
        ("coco-keypoints", "k01_basic", evaluate_keypoints),
        ("crowdpose", "c01_basic", evaluate_crowdpose),
        ("coco-wholebody", "w02_one_score", evaluate_wholebody),
        ("ochuman", "o01_two_people_close", evaluate_ochuman),
        ("bbox", "b01_basic", evaluate_boxes),
        ("segm", "m02_rle", evaluate_masks),
    ],
)
def test_tasks(task: str, name: str, alone: Callable[..., Any]) -> None:
    for protocol in ("standard", "xtcocotools"):
        report = evaluate(task, *paths(name), protocol=protocol)
        assert report.numbers == alone(*paths(name), protocol=protocol).numbers
        assert report.task == task and report.protocol == protocol
        assert all(report.to_json()["sha256"].values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("task", TASKS)
def test_what_is_no_file_of_coco(task: str) -> None:
    for nothing in (5, [], "no/such/file.json"):
        with pytest.raises((InputError, FileError), match=r"COCO dictionary|no/such/file.json"):
            evaluate(task, nothing, [])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected a list of predictions, got int"):
        evaluate(task, truth([]), 5)  # type: ignore[arg-type]


def test_tasks_say_what_they_take() -> None:
    assert list(TASKS) == [
        "coco-keypoints", "ex-keypoints", "crowdpose", "coco-wholebody", "ochuman", "bbox", "segm"
    ]  # fmt: skip
    for task in TASKS.values():
        assert ("sigmas" in task.options) == (task.skeleton is not None)


def test_options_reach_the_task() -> None:
    files = paths("e01_basic")
    corner = evaluate("ex-keypoints", *files, distance="corner", padding=1.5, recompute_flags=None)
    assert corner.parameters["distance"] == "corner" and corner.parameters["padding"] == 1.5
    gt, dt = truth([person(1)]), [guess(0.9)]
    for i in range(2, len(dt[0]["keypoints"]), 3):
        dt[0]["keypoints"][i] = 0
    assert evaluate("coco-keypoints", gt, dt).counts["dropped"] == 0
    assert evaluate("coco-keypoints", gt, dt, drop_unsure=True).counts["dropped"] == 1


@pytest.mark.parametrize(
    ("task", "options", "says"),
    [
        ("crowdpos", {}, "no task 'crowdpos'; did you mean 'crowdpose'"),
        ("coco-keypoints", {"protocol": "pycoco"}, "unknown protocol 'pycoco'"),
        ("ex-keypoints", {"paddin": 1}, "no option 'paddin'; did you mean 'padding'"),
        ("bbox", {"sigmas": [0.1]}, "no option 'sigmas'; it has none beside the protocol"),
    ],
)
def test_unknown_tasks_and_options(task: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        evaluate(task, *paths("k01_basic"), **options)


def test_files_already_read() -> None:
    gt = read_ground_truth(paths("k01_basic")[0], keypoints=17)
    dt = paths("k01_basic")[1]
    assert evaluate("coco-keypoints", gt, dt).numbers == evaluate_keypoints(gt, dt).numbers
    with pytest.raises(ConfigError, match="'ochuman' reads more fields than those already read"):
        evaluate("ochuman", gt, dt)


# ------------------------------------------------------------------ sigmas


def own(k: int, category: dict[str, Any] | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One person with k keypoints, the first labelled, and a prediction that is 5 px off."""
    gt = truth([person(1, keypoints=keypoints({0: (100, 100, 2)}, k))])
    gt["categories"][0] |= category or {}
    return gt, [guess(0.9, keypoints=keypoints({0: (105, 100, 1)}, k))]


def oks(*files: Any, **options: Any) -> float:
    return float(evaluate("coco-keypoints", *files, **options).evidence.similarity(1, 1)[0, 0])


def expected_oks(sigma: float) -> float:
    return float(np.exp(-25 / (2 * sigma) ** 2 / 10000 / 2))


def test_sigmas_in_every_form(tmp_path: Path) -> None:
    skeleton = tmp_path / "cat.toml"
    skeleton.write_text('name = "cat"\nkeypoints = ["nose", "tail"]\nsigmas = [0.05, 0.2]\n', "utf-8")
    for given in ([0.05, 0.2], np.array([0.05, 0.2]), "0.05, 0.2", str(skeleton), skeleton):
        assert oks(*own(2), sigmas=given) == pytest.approx(expected_oks(0.05), abs=1e-15)
    for given in ("crowdpose-14", "CrowdPose_14", CROWDPOSE_14):
        assert oks(*own(14), sigmas=given) == pytest.approx(expected_oks(0.079), abs=1e-15)
    with_own = own(3, {"sigmas": [0.04, 0.1, 0.1]})
    assert oks(*with_own) == pytest.approx(expected_oks(0.04), abs=1e-15)
    assert oks(*with_own, sigmas=[0.1, 0.1, 0.1]) == pytest.approx(expected_oks(0.1), abs=1e-15)


def test_sigmas_of_a_models_card() -> None:
    """Our model has COCO's keypoints and two more: those that the annotations have go by their names."""
    names = {"keypoints": list(COCO.keypoints)}
    assert oks(*own(17, names), sigmas="pmpose-n") == pytest.approx(expected_oks(0.026), abs=1e-15)
    reverse = {"keypoints": list(COCO.keypoints)[::-1]}
    assert oks(*own(17, reverse), sigmas="pmpose-n") == pytest.approx(expected_oks(0.089), abs=1e-15)


@pytest.mark.parametrize(
    ("files", "given", "error", "says"),
    [
        (own(14), None, ConfigError, r"have 14 keypoints, .* coco-17 .*; give sigmas: .*crowdpose-14"),
        (own(2), [0.1, 0.1, 0.1], ConfigError, "3 sigmas, but persons of ground truth have 2 keypoints"),
        (own(2), [0.1, -0.1], ConfigError, "positive numbers"),
        (own(2), "coco-18", ConfigError, "no skeleton .*coco-17.*, no model and no file"),
        (own(17), "pmpose-n", ConfigError, "19 sigmas, but persons .* have 17 keypoints"),
        (own(2, {"sigmas": "cat"}), None, InputError, "category id 1: field 'sigmas'"),
    ],
)
def test_sigmas_that_do_not_fit(files: Any, given: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        evaluate("coco-keypoints", *files, sigmas=given)


def test_categories_with_different_sigmas() -> None:
    gt, dt = own(2, {"sigmas": [0.1, 0.1]})
    gt["categories"].append({"id": 2, "name": "dog", "sigmas": [0.2, 0.1]})
    with pytest.raises(InputError, match="category id 2: its sigmas differ"):
        evaluate("coco-keypoints", gt, dt)
