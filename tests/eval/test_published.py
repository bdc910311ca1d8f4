"""ProbPose's own evaluation against its stored numbers, and worked by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bodyloop.errors import ConfigError, InputError
from bodyloop.eval.published import (
    evaluate_probpose,
    published_numbers,
    published_scores,
    thin_out,
    without_border_points,
)
from bodyloop.eval.reading import read_ground_truth, read_predictions
from bodyloop.oks import oks_between, oks_nms, soft_oks_nms
from bodyloop.skeletons import COCO
from tests.eval.small import truth
from tests.eval.stored import close_numbers, load_json, paths, seen
from tests.eval.test_extended import IN, OUT, SIGMA, guess, person
from tests.eval.test_keypoints import FIRST_HIT

VARIANTS = load_json("probpose_variants.json")


@pytest.mark.parametrize(("name", "variant"), [(n, v) for n, entry in VARIANTS.items() for v in entry])
def test_variant(name: str, variant: str) -> None:
    told = {"plain": variant.startswith("plain")}
    told |= {"match_boxes": variant.endswith("bbox"), "ignore_border": variant.endswith("noborder")}
    threshold = -1.0 if variant == "ex_thr_minus1" else 0.5
    report = evaluate_probpose(*paths(name), confidence_threshold=threshold, **told)
    before = ("" if told["plain"] else "Ex_") + ("bbox_" if told["match_boxes"] else "")
    after = "_NoBrd" if told["ignore_border"] else ""
    mine = {
        k.removeprefix(before).removesuffix(after): v
        for k, v in published_numbers(report).items()
        if k.startswith(before) and k.endswith(after)
    }
    assert set(mine) == set(VARIANTS[name][variant])
    close_numbers(mine, "probpose_variants.json", name, variant, tolerance=1e-12)


@pytest.mark.parametrize("case", range(6))
def test_oks_nms(case: int) -> None:
    file, told = "oks_nms.json", load_json("oks_nms.json")[case]
    poses = np.array(told["keypoints"]).reshape(-1, 17, 3)
    points, scores, areas = poses[..., :2], np.array(told["score"]), np.array(told["area"])
    oks = oks_between(points[0], points, (areas[0] + areas) / 2, COCO.sigma_array)
    close_numbers(oks.astype(np.float32).tolist(), file, str(case), "oks_0_to_all", tolerance=1e-6)
    given = (points, scores, areas, COCO.sigmas)
    kept = {f"oks_nms_{t}": oks_nms(*given, t) for t in (0.9, 0.5)}
    kept |= {f"soft_oks_nms_{t}": soft_oks_nms(*given, t)[0] for t in (0.9, 0.5)}
    kept["oks_nms_0.5_vis0.2"] = oks_nms(*given, 0.5, confidences=poses[..., 2], vis_thr=0.2)
    for name, mine in kept.items():
        if case in (1, 3, 4):  # tied scores: in the published code their order is that of an unstable sort
            assert sorted(scores[mine]) == sorted(scores[told[name]]), name
            seen(file, str(case), name)
        else:
            close_numbers(mine.tolist(), file, str(case), name, tolerance=0)


# ------------------------------------------------------------------ by hand


def run(people: list[Any], guesses: list[Any], **options: Any) -> Any:
    k = len(people[0]["keypoints"]) // 3
    return evaluate_probpose(truth(people), guesses, SIGMA * k, **options)


def shifted(number: int, dx: float, dy: float = 0, **fields: Any) -> dict[str, Any]:
    """A person at (100, 100) whose box's centre is that far off."""
    return person(number, (100, 100, 2), bbox=[70 + dx, 60 + dy, 60, 80], **fields)


@pytest.mark.parametrize(
    ("dx", "dy", "found"), [(20, 0, 0), (19.99, 0, 1), (-10, 10, 0), (-9.99, 10, 1), (0, 0, 1)]
)
def test_boxes_match_within_less_than_20_px(dx: float, dy: float, found: int) -> None:
    said = guess(0.9, (100, 100, IN), bbox=[70, 60, 60, 80])
    assert found == run([shifted(1, dx, dy)], [said], match_boxes=True).AR
    assert run([shifted(1, dx, dy)], [said]).AR == 1  # by similarity it is exact


def matched_to(people: list[Any], said: Any, **options: Any) -> list[int]:
    """Annotation of a single prediction at each threshold."""
    return run(people, [said], **options).evidence.matched_ids(1, 1)[0][:, 0].tolist()  # type: ignore[no-any-return]


def test_the_nearest_box_goes_before_the_greatest_similarity() -> None:
    d = np.sqrt(-10000 * np.log(0.72))
    near, alike = person(1, (100 + d, 100, 2)), shifted(2, 5)
    said = guess(0.9, (100, 100, IN), bbox=[70, 60, 60, 80])
    assert matched_to([near, alike], said, plain=True) == [2] * 10
    # 0.72 passes five of the ten thresholds
    assert matched_to([near, alike], said, plain=True, match_boxes=True) == [1] * 5 + [2] * 5


def test_of_equally_near_boxes_the_first_wins_and_what_counts_goes_before_what_is_ignored() -> None:
    said = guess(0.9, (100, 100, IN), bbox=[70, 60, 60, 80])
    assert matched_to([shifted(1, 5), shifted(2, -5)], said, match_boxes=True) == [1] * 10
    assert matched_to([shifted(1, 5), shifted(2, -5)], said) == [2] * 10  # of equal similarities the last
    unlabelled = person(1, (0, 0, 0))
    assert matched_to([unlabelled, shifted(2, 5)], said, match_boxes=True) == [2] * 10


def test_without_boxes_those_around_the_keypoints_match() -> None:
    people = [person(1, (80, 100, 2), (120, 100, 2))]
    assert run(people, [guess(0.9, (80, 100, IN), (120, 100, IN))], match_boxes=True).AR == 1
    off = guess(0.9, (80, 100, IN), (160, 100, IN))  # centre at 120: 20 px off, and OKS (1 + 0.85) / 2
    assert run(people, [off], match_boxes=True).AR == 0 and run(people, [off]).AR50 == 1


@pytest.mark.parametrize(
    ("point", "labelled"),
    [
        pytest.param((73, 100), True, id="5 % of the width off the left side"),
        pytest.param((72.99, 100), False, id="less"),
        pytest.param((67.01, 100), False, id="less, outside"),
        pytest.param((67, 100), True, id="5 % off, outside"),
        pytest.param((127.01, 100), False, id="right side"),
        pytest.param((100, 64), True, id="5 % of the height off the upper side"),
        pytest.param((100, 63.99), False, id="upper side"),
        pytest.param((100, 143.99), False, id="lower side"),
        pytest.param((70, 144.5), True, id="in line with a side, but beyond the grown box"),
        pytest.param((100, 100), True, id="middle"),
    ],
)
def test_border_points(point: tuple[float, float], labelled: bool) -> None:
    gt = read_ground_truth(truth([person(1, (*point, 2))]), keypoints=1)
    after = without_border_points(gt).keypoints
    assert after is not None and after[0, 0].tolist() == [*point, 2 if labelled else 0]
    assert gt.keypoints is not None and gt.keypoints[0, 0, 2] == 2  # the original stays


def test_the_threshold_is_tuned_on_the_set_itself() -> None:
    """Said 0.7 of who is in, 0.42 of who is out: from 0.45 on (and below 0.7) all is right; the first is taken."""
    people = [person(1, (100, 100, 2), (300, 300, 3)), person(2, (100, 100, 1), (0, 0, 0))]
    said = [
        guess(0.9, (100, 100, 0.7), (300, 300, 0.42), annotation_id=1),
        guess(0.8, (100, 100, 0.7), (300, 300, 0.0), annotation_id=2),
    ]
    report = run(people, said, confidence_threshold=None)
    assert report.parameters["confidence_threshold"] == pytest.approx(0.45)
    for a in people:  # nobody out: nothing to tune
        a["keypoints"] = [100, 100, 2, 0, 0, 0]
    assert run(people, said, confidence_threshold=None).parameters["confidence_threshold"] == -1
    for d in said:
        del d["annotation_id"]
    with pytest.raises(InputError, match="annotation_id"):
        run(people, said, confidence_threshold=None)


def test_flags_are_recomputed() -> None:
    people = [person(1, (100, 100, 2), (500, 100, 2))]
    report = run(people, [guess(0.9, (100, 100, IN), (0, 0, OUT))])
    assert report.AP_v3 == pytest.approx(FIRST_HIT, abs=1e-15)
    assert run(people, [guess(0.9, (100, 100, IN), (0, 0, OUT))], plain=True).AP_v3 is None


def test_names_of_the_tables() -> None:
    report = run(
        [person(1, (100, 100, 2))], [guess(0.9, (100, 100, IN))], match_boxes=True, ignore_border=True
    )
    names = list(published_numbers(report))
    assert names[:4] == [f"Ex_bbox_{n}_NoBrd" for n in ("AP", "AP (v=2)", "AP .5", "AP .75")]
    assert names[-1] == "Ex_bbox_OKS_NoBrd"


def test_scores_by_hand() -> None:
    box, each, presence = [0.5, 0.8], [[0.9, 0.1, 0.5], [0.2, 0.1, 0.0]], [[0.1, 0.9, 0.45], [0.1, 0.2, 0.3]]
    means = np.mean(each, axis=1)
    for mode, options, expected in (
        ("bbox", {}, box),
        ("keypoint", {}, means),
        ("bbox_rle", {}, np.array(box) + means + [0.9, 0.2]),
        ("bbox_keypoint", {}, [0.5 * 0.7, 0]),  # 0.2 itself does not count
        ("bbox_keypoint", {"presence": presence, "threshold": 0.45}, [0.5 * 0.1, 0]),
    ):
        assert published_scores(mode, box, each, **options) == pytest.approx(expected, abs=1e-15)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown mode"):
        published_scores("best", box, each)  # type: ignore[arg-type]


def test_thinning_out_goes_by_image_and_first_removes_duplicates() -> None:
    """Poses of 100 x 100 px; a shift of 1 px is nearly the same pose."""

    def pose(x: float) -> list[tuple[float, float, float]]:
        return [(x, 0, IN), (x + 100, 100, IN)]

    gt = truth([person(1, (0, 0, 2), (0, 0, 0)), person(2, (0, 0, 2), (0, 0, 0), image=2)], images=2)
    said = [
        guess(0.5, *pose(0), annotation_id=1),
        guess(0.9, *pose(900), annotation_id=1),  # a duplicate, though better and elsewhere
        guess(0.7, *pose(1), annotation_id=3),
        guess(0.6, *pose(0), annotation_id=1, image=2),
    ]
    read = read_ground_truth(gt, keypoints=2)
    assert thin_out(read_predictions(said, read, keypoints=2), SIGMA * 2).tolist() == [2, 3]
    for d in said:
        del d["annotation_id"]
    found = read_predictions(said, read, keypoints=2)
    assert thin_out(found, SIGMA * 2).tolist() == [1, 2, 3]
    assert thin_out(found, SIGMA * 2, vis_thr=1.0).tolist() == [0, 1, 2, 3]  # no keypoint is confident
