"""Ex-OKS and levels, worked by hand: one keypoint, a window of whole numbers, one quirk at a time.

The person of these scenes has a box of 60 x 80 px around (100, 100): already 3:4, so that the padded window is
75 x 100 px, from (62.5, 50) to (137.5, 150). With sigma 0.5 and area 5000 a distance of d px costs
exp(-d^2 / 10000).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.errors import ConfigError
from bodyloop.eval import evaluate_keypoints
from bodyloop.eval.extended import ExtendedReport, evaluate_extended
from bodyloop.skeletons import COCO
from tests.eval.small import truth
from tests.eval.test_keypoints import FIRST_HIT, random_scene

SIGMA = [0.5]
IN, OUT = 1.0, 0.0  # what a prediction says
Points = list[tuple[float, float, float]]


def person(number: int, *points: tuple[float, float, float], image: int = 1, **fields: Any) -> dict[str, Any]:
    """An annotation with these keypoints (x, y, flag)."""
    return {
        "id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "bbox": [70, 60, 60, 80], "area": 5000,
        "keypoints": [float(v) for p in points for v in p],
    } | fields  # fmt: skip


def guess(score: float, *points: tuple[float, float, float], image: int = 1, **fields: Any) -> dict[str, Any]:
    """A prediction with these keypoints (x, y, presence)."""
    keypoints = [float(v) for p in points for v in p]
    return {"image_id": image, "category_id": 1, "score": score, "keypoints": keypoints} | fields


def run(people: list[Any], guesses: list[Any], protocol: str = "standard", **options: Any) -> ExtendedReport:
    images = max([a["image_id"] for a in [*people, *guesses]], default=1)
    k = len([*people, *guesses][0]["keypoints"]) // 3
    return evaluate_extended(truth(people, images), guesses, SIGMA * k, protocol, **options)


def similarity(point: Points, said: Points, protocol: str = "standard", **options: Any) -> float:
    report = run([person(1, *point)], [guess(0.9, *said)], protocol, **options)
    return float(report.evidence.similarity(1, 1)[0, 0])


# ------------------------------------------------------------------ the four cases


@pytest.mark.parametrize(
    ("labelled", "said", "edge", "corner"),
    [
        pytest.param((100, 100, 2), (106, 108, IN), 100, 100, id="in, said in: 6-8-10"),
        pytest.param((72.5, 100, 1), (0, 0, OUT), 10**2, 10**2 + 50**2, id="in, said out"),
        pytest.param((72.5, 60, 2), (0, 0, OUT), 10**2, 10**2 + 10**2, id="in, said out, near a corner"),
        pytest.param((62.5, 100, 2), (0, 0, OUT), 0, 50**2, id="on the border, said out"),
        pytest.param((0, 0, 3), (82.5, 100, IN), 20**2, 20**2 + 50**2, id="out, said in"),
        pytest.param((0, 0, 3), (100, 145, IN), 5**2, 37.5**2 + 5**2, id="out, said in, near the lower side"),
        pytest.param(
            (0, 0, 3), (147.5, 100, IN), 10**2, 10**2 + 50**2, id="out, said to be beside the window"
        ),
        pytest.param((0, 0, 3), (147.5, 170, IN), 10**2 + 20**2, 10**2 + 20**2, id="out, beyond a corner"),
        pytest.param((500, 500, 3), (0, 0, OUT), 0, 0, id="out, said out"),
    ],
)
def test_four_cases(labelled: Any, said: Any, edge: float, corner: float) -> None:
    assert similarity([labelled], [said]) == pytest.approx(np.exp(-edge / 10000), abs=1e-12)
    for options in ({"distance": "corner"}, {"protocol": "exococotools", "single_window": False}):
        guess_ = (*said[:2], max(said[2], 0.001))  # exococotools drops predictions without any confidence
        mine = similarity([labelled], [guess_], **options)
        assert mine == pytest.approx(np.exp(-corner / 10000), abs=1e-12)


def test_the_mean_runs_over_the_keypoints_of_the_level() -> None:
    labelled: Points = [(100, 100, 1), (100, 100, 2), (0, 0, 3), (0, 0, 0)]
    said: Points = [(130, 100, IN), (100, 140, IN), (100, 100, OUT), (900, 900, IN)]
    report = run([person(1, *labelled)], [guess(0.9, *said)])
    hidden, visible = np.exp(-900 / 10000), np.exp(-1600 / 10000)
    for level, expected in enumerate([(hidden + visible + 1) / 3, hidden, visible, 1]):
        assert report.evidence.similarity(1, 1, level)[0, 0] == pytest.approx(expected, abs=1e-12)


def test_nobody_labelled_is_measured_by_the_window_or_by_the_tripled_box() -> None:
    said: Points = [(150, 100, IN)]  # 12.5 px right of the window, within the box three times as large
    report = run([person(1, (0, 0, 0))], [guess(0.9, *said)])
    for level in range(4):
        assert report.evidence.similarity(1, 1, level)[0, 0] == pytest.approx(
            np.exp(-(12.5**2) / 10000), abs=1e-12
        )
    assert similarity([(0, 0, 0)], said, plain=True) == 1
    assert similarity([(0, 0, 0)], said, "exococotools", plain=True) == 1


# ------------------------------------------------------------------ who says "in"


@pytest.mark.parametrize(
    ("third", "threshold", "inside"),
    [(0.5, 0.5, True), (0.499, 0.5, False), (-3, 0.0, True), (7, 1.0, True), (7, 1.1, False), (-3, -1, True)],
)
def test_presence_is_clipped_and_equality_is_in(third: float, threshold: float, inside: bool) -> None:
    found = similarity([(100, 100, 2)], [(100, 100, third)], confidence_threshold=threshold)
    assert (found == 1) is inside


def test_the_field_presence_goes_before_the_third_number_but_in_exococotools() -> None:
    said = guess(0.9, (100, 100, IN), presence=[0.1])
    report = run([person(1, (0, 0, 3))], [said])
    assert report.AP_v3 == pytest.approx(FIRST_HIT, abs=1e-15)
    assert report.parameters["presence"] == "field presence"
    tool = run([person(1, (0, 0, 3))], [said], "exococotools")  # 37.5 and 50 px from the corner: 0.68
    assert tool.evidence.similarity(1, 1)[0, 0] == pytest.approx(np.exp(-(37.5**2 + 50**2) / 10000), abs=1e-6)
    assert tool.parameters["presence"] == "third numbers of the keypoints"


# ------------------------------------------------------------------ which flags are used


def flags_of_level(report: ExtendedReport) -> list[bool]:
    """Whether somebody is to be found at levels 1, 2, 3."""
    return [v is not None and v >= 0 for v in (report.AP_v1, report.AP_v2, report.AP_v3)]


@pytest.mark.parametrize(
    ("flag", "pad", "levels"),
    [
        pytest.param(2, 1.25, [False, True, False], id="exactly the padding: not out"),
        pytest.param(2, 1.2500001, [False, False, True], id="above it: out, though the flag says visible"),
        pytest.param(3, 1.25, [True, False, False], id="a 3 that is not out becomes 1"),
        pytest.param(1, 1.0, [True, False, False], id="a 1 stays"),
        pytest.param(0, 9.0, [False, False, False], id="unlabelled stays so"),
    ],
)
def test_pad_to_contain_decides(flag: int, pad: float, levels: list[bool]) -> None:
    someone = person(1, (100, 100, flag), pad_to_contain=[pad])
    for protocol in ("standard", "exococotools"):
        report = run([someone], [guess(0.9, (100, 100, IN))], protocol)
        assert flags_of_level(report) == levels
        assert report.parameters["flags"] == "pad_to_contain"
    plain = run([someone], [guess(0.9, (100, 100, IN))], plain=True)
    assert flags_of_level(plain) == [flag == 1, flag == 2, False]  # not read there


def test_flags_can_be_recomputed_from_true_coordinates() -> None:
    """The window with padding 1 reaches x = 130; for (137.5, ...) its padding is 1 + 2 * 7.5 / 60 = 1.25."""
    people = [person(1, (137.5, 100, 3), (137.6, 100, 2))]
    said = [guess(0.9, (137.5, 100, IN), (137.6, 100, IN))]
    assert flags_of_level(run(people, said)) == [False, True, True]
    report = run(people, said, recompute_flags=True)
    assert flags_of_level(report) == [True, False, True]
    assert "recomputed" in str(report.parameters["flags"]) and not report.warnings[1:]
    people[0]["pad_to_contain"] = [1.0, 1.0]  # the file's own numbers go before
    assert flags_of_level(run(people, said, recompute_flags=True)) == [True, True, False]


def test_recomputing_without_true_coordinates_is_pointed_out() -> None:
    report = run([person(1, (0, 0, 3))], [guess(0.9, (0, 0, OUT))], recompute_flags=True)
    assert any("0, 0" in w for w in report.warnings)


def test_without_windows_a_3_is_unlabelled() -> None:
    """Quirk 28; plain OKS by levels shares it, plain COCO evaluation does not."""
    people, said = [person(1, (100, 100, 3))], [guess(0.9, (100, 100, IN))]
    assert run(people, said, plain=True).AP == -1
    assert run(people, said, "exococotools", plain=True).AP == -1
    files = truth(people), said, SIGMA
    assert evaluate_keypoints(*files, "exococotools").AP == -1
    assert evaluate_keypoints(*files).AR == evaluate_keypoints(*files, "xtcocotools").AR == 1


# ------------------------------------------------------------------ what exococotools does otherwise


@pytest.mark.parametrize("plain", [False, True])
def test_levels_always_or_as_found(plain: bool) -> None:
    """Quirk 20: one flag only, on which the tool fails."""
    files = [person(1, (100, 100, 2))], [guess(0.9, (100, 100, IN))]
    report = run(*files, plain=plain)
    assert (report.AP_v1, report.AP_v2, report.AP_v3) == (-1, report.AP, -1)
    assert report.evidence.curves.precision.shape[1] == 4
    tool = run(*files, "exococotools", plain=plain)
    assert (tool.AP_v1, tool.AP_v2, tool.AP_v3) == (None, tool.AP, None)
    assert tool.evidence.curves.precision.shape[1] == 2
    assert pytest.approx(FIRST_HIT, abs=1e-15) == tool.AP


@pytest.mark.parametrize("plain", [False, True])
def test_a_crowd_with_keypoints_is_to_be_found_by_exococotools_only(plain: bool) -> None:
    """Quirk 22: two guesses in the crowd; it takes any number of them."""
    crowd = person(1, (100, 100, 2), iscrowd=1)
    said = [guess(0.9, (100, 100, IN)), guess(0.8, (100, 100, IN))]
    tool = run([crowd], said, "exococotools", plain=plain)
    assert tool.AR == 2  # found twice, and counted once: recall 2 of 1
    assert run([crowd], said, plain=plain).AR == -1


@pytest.mark.parametrize("plain", [False, True])
def test_alarms_in_images_without_people(plain: bool) -> None:
    """Quirk 23: a false alarm with the better score, in an image where nobody is."""
    files = [person(1, (100, 100, 2))], [guess(0.9, (100, 100, IN), image=2), guess(0.8, (100, 100, IN))]
    assert pytest.approx(0.5, abs=1e-15) == run(*files, plain=plain).AP
    assert pytest.approx(FIRST_HIT, abs=1e-15) == run(*files, "exococotools", plain=plain).AP
    gt = truth(files[0], images=2)
    assert pytest.approx(FIRST_HIT, abs=1e-15) == evaluate_keypoints(gt, files[1], SIGMA, "exococotools").AP


def test_alarms_count_by_area_range_and_level() -> None:
    """Quirk 23 again: in image 1 nobody is large, nobody has a hidden keypoint."""
    people = [
        person(1, (100, 100, 2), area=5000),
        person(2, (100, 100, 1), area=20000, image=2),
    ]
    said = [
        guess(0.9, (400, 400, IN), image=1, bbox=[0, 0, 200, 100]),  # an alarm, of large area
        guess(0.8, (100, 100, IN), image=1, bbox=[0, 0, 100, 50]),
        guess(0.7, (100, 100, IN), image=2, bbox=[0, 0, 200, 100]),
    ]
    standard, tool = run(people, said), run(people, said, "exococotools")
    # all: alarm, hit, hit: precision 1/2 up to recall 1/2, then 2/3; its envelope is 2/3 everywhere
    assert standard.AP == tool.AP == pytest.approx(2 / 3, abs=1e-12)
    assert (
        pytest.approx(1 / 2, abs=1e-12) == standard.AP_L and pytest.approx(FIRST_HIT, abs=1e-15) == tool.AP_L
    )
    assert standard.AP_v1 == pytest.approx(1 / 2, abs=1e-12) and tool.AP_v1 == pytest.approx(
        FIRST_HIT, abs=1e-15
    )
    # level 2 is that of image 1: its alarm counts in both
    assert standard.AP_v2 == tool.AP_v2 == pytest.approx(1 / 2, abs=1e-12)


@pytest.mark.parametrize("plain", [False, True])
def test_predictions_without_any_confidence(plain: bool) -> None:
    """Quirk 24: to say "out" of everything is an answer; exococotools drops it."""
    flag = 2 if plain else 3
    files = [person(1, (100, 100, flag))], [guess(0.9, (100, 100, OUT))]
    report, tool = run(*files, plain=plain), run(*files, "exococotools", plain=plain)
    assert (report.AR, report.counts["dropped"]) == (1, 0)
    assert (tool.AR, tool.counts["dropped"]) == (0, 1)
    assert tool.OKS is tool.OKS_matched is None


def test_two_means_of_the_similarity() -> None:
    """Quirk 25: an exact find matches at 10 thresholds, one of OKS 0.52 at the first only.

    So it is at levels 0 and 2 in each of three area ranges. Where levels 1 and 3 exist, nobody has keypoints
    there, and both guesses lie within the tripled boxes: ignored matches of OKS 1 at all thresholds.
    """
    d = np.sqrt(-10000 * np.log(0.52))
    people = [person(1, (100, 100, 2)), person(2, (100, 100, 2), image=2)]
    said = [guess(0.9, (100, 100, IN)), guess(0.8, (100 + d, 100, IN), image=2)]
    tool, report = run(people, said, "exococotools", plain=True), run(people, said, plain=True)
    assert pytest.approx((10 * 1 + 0.52) / 11, abs=1e-12) == tool.OKS
    assert pytest.approx((2 * (10 * 1 + 0.52) + 2 * 20) / (2 * 11 + 2 * 20), abs=1e-12) == report.OKS
    assert tool.OKS_matched == report.OKS_matched == pytest.approx(0.76, abs=1e-12)


def test_ignored_matches_are_in_one_mean_only() -> None:
    crowd = person(2, (100, 100, 2), iscrowd=1, image=2)
    d = np.sqrt(-10000 * np.log(0.52))
    said = [guess(0.9, (100, 100, IN)), guess(0.8, (100 + d, 100, IN), image=2)]
    report = run([person(1, (100, 100, 2)), crowd], said, plain=True)
    assert report.OKS_matched == 1
    assert report.OKS is not None and report.OKS < 1


def test_window_in_single_precision() -> None:
    """Quirk 26: a window whose width is no float32; who is out is said to be in its middle, half the width from
    the nearest side."""
    height = 100.37
    someone, said = person(1, (0, 0, 3), bbox=[0, 0, 10, height], area=2000), guess(0.9, (5, height / 2, IN))
    exact, single = 0.75 * height * 1.25, float(np.float32(0.75 * height) * np.float32(1.25))
    assert abs(exact - single) > 1e-6
    for options, width in (
        ({"protocol": "exococotools", "distance": "edge"}, single),
        ({"single_window": True}, single),
        ({}, exact),
    ):
        found = run([someone], [said], **options).evidence.similarity(1, 1)[0, 0]  # type: ignore[arg-type]
        assert found == pytest.approx(np.exp(-((width / 2) ** 2) / 4000), abs=1e-12)


def test_nothing_to_find() -> None:
    """Quirk 29."""
    for protocol, missing in (("standard", -1), ("exococotools", None)):
        report = run([person(1, (0, 0, 0))], [guess(0.9, (900, 900, IN))], protocol)
        assert (report.AP, report.AR50, report.AP_v1, report.AP_v3) == (-1, -1, missing, missing)
        assert report.OKS is report.OKS_matched is None
        assert json.loads(json.dumps(report.to_json(), allow_nan=False))["numbers"]["OKS"] is None
        assert "OKS_matched    -" in report.table()


# ------------------------------------------------------------------ false alarms at levels


def test_an_alarm_is_one_at_every_level_a_find_without_such_keypoints_at_none() -> None:
    """First somebody without hidden keypoints, found; then an alarm; then somebody with hidden ones only."""
    people = [person(1, (100, 100, 2)), person(2, (100, 100, 1), image=2)]
    said = [
        guess(0.9, (100, 100, IN)),
        guess(0.8, (900, 900, IN), image=2),
        guess(0.7, (100, 100, IN), image=2),
    ]
    report = run(people, said)
    assert report.AP_v1 == pytest.approx(1 / 2, abs=1e-12)  # the alarm goes before the only find
    assert report.AP_v2 == pytest.approx(FIRST_HIT, abs=1e-15)
    # all: hit, alarm, hit: precision 1 up to recall 1/2 (51 points), then 2/3 (50 points)
    assert pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-12) == report.AP


def test_thresholds_are_met_by_equality() -> None:
    """exp(-x) is never a round number: half the keypoints exact, half infinitely far."""
    people = [person(1, (100, 100, 2), (100, 100, 2))]
    report = run(people, [guess(0.9, (100, 100, IN), (1e7, 100, IN))])
    assert report.evidence.similarity(1, 1)[0, 0] == 0.5
    assert (report.AR50, report.AR75) == (1, 0)


# ------------------------------------------------------------------ reports, arguments


def test_what_the_report_says() -> None:
    report = run(
        [person(1, (100, 100, 2), (0, 0, 3))], [guess(0.9, (100, 100, IN), (0, 0, 0.3))], padding=1.5
    )
    told = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert told["task"] == "ex-keypoints" and told["protocol"] == "standard"
    assert told["parameters"] == {
        "mode": "extended", "sigmas": [0.5, 0.5], "limit": 20, "areas": ["all", "medium", "large"],
        "levels": [0, 1, 2, 3], "distance": "edge", "padding": 1.5, "window": "float64",
        "confidence_threshold": 0.5, "presence": "third numbers of the keypoints", "flags": "file",
    }  # fmt: skip
    assert told["counts"] == {"images": 1, "annotations": 1, "ignored": 0, "predictions": 1, "dropped": 0}
    assert list(told["numbers"]) == list(ExtendedReport.names) and told["warnings"] == []
    tool = run([person(1, (100, 100, 2))], [guess(0.9, (100, 100, IN))], "exococotools")
    assert (tool.parameters["distance"], tool.parameters["window"]) == ("corner", "float32")


def test_what_is_odd_is_pointed_out() -> None:
    report = run([person(1, (100, 100, 2))], [guess(0.9, (100, 100, 2.5))])
    for words in ("no keypoint is out", "outside 0..1", "no prediction says"):
        assert any(words in w for w in report.warnings), words
    plain = run([person(1, (100, 100, 3))], [guess(0.9, (100, 100, 2.5))], plain=True)
    assert plain.warnings == ("flags of 3 are taken as unlabelled keypoints",)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"protocol": "pycocotools"}, "knows no visibility levels; known: standard, exococotools"),
        ({"protocol": "coco"}, "unknown protocol"),
        ({"distance": "middle"}, "unknown distance 'middle'; known: edge, corner"),
        ({"padding": 0.0}, "padding"),
        ({"padding": float("inf")}, "padding"),
        ({"confidence_threshold": float("nan")}, "confidence_threshold"),
    ],
)
def test_arguments_that_make_no_sense(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run([person(1, (100, 100, 2))], [], **options)


# ------------------------------------------------------------------ against the text of the protocol


def by_the_text(someone: dict[str, Any], said: dict[str, Any], distance: str, level: int) -> float:
    """The similarity as the paper and the protocol describe it, keypoint by keypoint."""
    x, y, w, h = someone["bbox"]
    wide = (w or 1) / (h or 1) > 0.75
    width, height = (w, (w or 1) / 0.75) if wide else (0.75 * (h or 1), h)
    cx, cy = x + w / 2, y + h / 2
    x0, x1 = cx - width * 1.25 / 2, cx + width * 1.25 / 2
    y0, y1 = cy - height * 1.25 / 2, cy + height * 1.25 / 2

    def to_window(px: float, py: float) -> float:
        if distance == "corner":
            return min((px - a) ** 2 + (py - b) ** 2 for a in (x0, x1) for b in (y0, y1))
        if x0 <= px <= x1 and y0 <= py <= y1:
            return min(px - x0, x1 - px, py - y0, y1 - py) ** 2
        return max(x0 - px, 0, px - x1) ** 2 + max(y0 - py, 0, py - y1) ** 2

    labelled = np.reshape(someone["keypoints"], (-1, 3))
    terms = []
    for (gx, gy, flag), (px, py, presence), s in zip(
        labelled, np.reshape(said["keypoints"], (-1, 3)), COCO.sigmas, strict=True
    ):
        if not (flag > 0 if level == 0 else flag == level):
            continue
        if flag == 3:
            d2 = to_window(px, py) if presence >= 0.5 else 0.0
        else:
            d2 = (px - gx) ** 2 + (py - gy) ** 2 if presence >= 0.5 else to_window(gx, gy)
        terms.append(np.exp(-d2 / (2 * (2 * s) ** 2 * someone["area"])))
    return float(np.mean(terms)) if terms else float("nan")


def with_threes(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The random scene of the COCO tests with some keypoints out of the window and presences."""
    gt, dt = random_scene(seed)
    rng = np.random.default_rng(seed)
    for a in gt["annotations"]:
        flags = np.array(a["keypoints"][2::3])
        a["keypoints"][2::3] = np.where((flags > 0) & (rng.uniform(size=17) < 0.3), 3, flags).tolist()
    for d in dt:
        d["keypoints"][2::3] = rng.choice([0.1, 0.5, 0.9], 17).tolist()
    return gt, dt


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["edge", "corner"]))
def test_similarities_are_those_of_the_text(seed: int, distance: Any) -> None:
    gt, dt = with_threes(seed)
    evidence = evaluate_extended(gt, dt, distance=distance).evidence
    for i in evidence.truth.image_ids:
        people = [a for a in gt["annotations"] if a["image_id"] == i]
        found = sorted((d for d in dt if d["image_id"] == i), key=lambda d: -d["score"])[:20]
        for level in range(4):
            mine = evidence.similarity(int(i), 1, level)
            for r, d in enumerate(found):
                for c, a in enumerate(people):
                    expected = by_the_text(a, d, distance, level)
                    assert np.isnan(expected) or mine[r, c] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_the_nearest_corner_is_never_nearer_than_the_border(seed: int) -> None:
    gt, dt = with_threes(seed)
    edge, corner = (evaluate_extended(gt, dt, distance=d).evidence for d in ("edge", "corner"))
    for mine, theirs in zip(edge.levels, corner.levels, strict=True):
        assert (mine.similarity >= theirs.similarity - 1e-12).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_with_nothing_out_and_nobody_unlabelled_it_is_plain_oks(seed: int) -> None:
    gt, dt = random_scene(seed)
    for a in gt["annotations"]:
        a["keypoints"][2::3] = [max(v, 1) for v in a["keypoints"][2::3]]
        a["num_keypoints"] = 17
    mine = evaluate_extended(gt, dt).numbers
    for name, value in evaluate_keypoints(gt, dt).numbers.items():
        assert mine[name] == pytest.approx(value, abs=1e-12)
