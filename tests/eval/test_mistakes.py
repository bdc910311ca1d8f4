"""Kinds of mistakes, keypoint by keypoint, and what putting them right is worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bodyloop.errors import InputError
from bodyloop.eval import evaluate_boxes, evaluate_keypoints
from bodyloop.eval import mistakes as m
from bodyloop.eval.extended import evaluate_extended
from bodyloop.eval.reading import GroundTruth, Predictions
from bodyloop.skeletons import COCO, CROWDPOSE_14, Skeleton
from tests.eval.small import K, guess, keypoints, person, truth
from tests.eval.test_keypoints import random_scene

WRIST, OTHER_WRIST = COCO.index("left_wrist"), COCO.index("right_wrist")
NOSE = COCO.index("nose")
Places = dict[int, tuple[float, float]]


def pose(x: float, y: float) -> Places:
    """A person's 17 places, 40 px apart from each other, at (x, y)."""
    return {k: (x + 40 * (k % 4), y + 40 * (k // 4)) for k in range(K)}


def labelled(number: int, places: Places, **fields: Any) -> dict[str, Any]:
    return person(number, keypoints=keypoints({k: (*p, 2) for k, p in places.items()}), **fields)


def predicted(score: float, places: Places) -> dict[str, Any]:
    return guess(score, keypoints=keypoints({k: (*p, 1) for k, p in places.items()}))


def shifted(k: int, places: Places, similarity: float, area: float = 10000.0) -> tuple[float, float]:
    """Keypoint k so far to the side of its place that its similarity is this."""
    x, y = places[k]
    return float(x + 2 * COCO.sigmas[k] * np.sqrt(-2 * area * np.log(similarity))), y


def diagnosed(people: list[dict[str, Any]], guesses: list[dict[str, Any]]) -> m.Mistakes:
    e = evaluate_keypoints(truth(people), guesses).evidence
    return m.diagnose(e, COCO)


def kind_of(mistakes: m.Mistakes, k: int, row: int = 0) -> str:
    return m.KINDS[mistakes.kind[row, k]]


HERE, THERE = pose(0, 0), pose(1000, 0)


@pytest.mark.parametrize(
    ("similarity", "kind"),
    [(0.86, "good"), (0.84, "jitter"), (0.51, "jitter"), (0.49, "miss"), (0.01, "miss")],
)
def test_a_keypoint_off_its_place(similarity: float, kind: str) -> None:
    places = {**HERE, NOSE: shifted(NOSE, HERE, similarity)}
    found = diagnosed([labelled(1, HERE)], [predicted(0.9, places)])
    assert kind_of(found, NOSE) == kind
    assert found.similarity[0, NOSE] == pytest.approx(similarity, abs=1e-12)
    assert found.distance[0, NOSE] == pytest.approx((places[NOSE][0] - HERE[NOSE][0]) / 100)
    assert (found.kind[0, 1:] == 0).all() and (found.distance[0, 1:] == 0).all()
    assert found.oks == pytest.approx([(16 + similarity) / 17], abs=1e-12)


def test_wrists_exchanged() -> None:
    places = {**HERE, WRIST: HERE[OTHER_WRIST], OTHER_WRIST: HERE[WRIST]}
    found = diagnosed([labelled(1, HERE)], [predicted(0.9, places)])
    assert kind_of(found, WRIST) == kind_of(found, OTHER_WRIST) == "inversion"


def test_on_another_joint_of_the_same_body_is_a_miss() -> None:
    found = diagnosed([labelled(1, HERE)], [predicted(0.9, {**HERE, WRIST: HERE[NOSE]})])
    assert kind_of(found, WRIST) == "miss"


def test_on_the_other_side_that_nobody_labelled_is_a_miss() -> None:
    bare = {k: p for k, p in HERE.items() if k != OTHER_WRIST}
    found = diagnosed([labelled(1, bare)], [predicted(0.9, {**HERE, WRIST: HERE[OTHER_WRIST]})])
    assert kind_of(found, WRIST) == "miss"
    assert found.kind[0, OTHER_WRIST] == -1 and np.isnan(found.similarity[0, OTHER_WRIST])


@pytest.mark.parametrize("joint", [WRIST, OTHER_WRIST])
def test_on_somebody_elses_wrist(joint: int) -> None:
    people = [labelled(1, HERE), labelled(2, THERE)]
    found = diagnosed(people, [predicted(0.9, {**HERE, WRIST: THERE[joint]})])
    assert kind_of(found, WRIST) == "swap"
    assert found.missed.tolist() == [1]


def test_on_somebody_elses_nose_or_on_a_crowd_is_a_miss() -> None:
    people = [labelled(1, HERE), labelled(2, THERE, iscrowd=1)]
    for place in (THERE[NOSE], THERE[WRIST]):
        assert kind_of(diagnosed(people, [predicted(0.9, {**HERE, WRIST: place})]), WRIST) == "miss"


@pytest.mark.parametrize(("nearer", "kind"), [(0.9, "inversion"), (0.6, "swap")])
def test_between_the_other_side_and_somebody_else_the_nearer_one_decides(nearer: float, kind: str) -> None:
    wrist = HERE[WRIST][0] + 400, 0.0
    mine = {**HERE, OTHER_WRIST: wrist}
    at = shifted(OTHER_WRIST, mine, nearer)
    theirs = {**THERE, WRIST: (2 * at[0] - shifted(OTHER_WRIST, mine, 0.75)[0], 0.0)}
    theirs[WRIST] = at[0] + shifted(WRIST, HERE, 0.75)[0] - HERE[WRIST][0], 0.0
    found = diagnosed([labelled(1, mine), labelled(2, theirs)], [predicted(0.9, {**mine, WRIST: at})])
    assert kind_of(found, WRIST) == kind


def test_shares_and_counts_add_up() -> None:
    places = {**HERE, NOSE: shifted(NOSE, HERE, 0.6), WRIST: HERE[OTHER_WRIST]}
    found = diagnosed([labelled(1, HERE)], [predicted(0.9, places), predicted(0.1, pose(0, 5000))])
    assert found.shares == pytest.approx(
        {"good": 15 / 17, "jitter": 1 / 17, "inversion": 1 / 17, "swap": 0, "miss": 0}
    )
    assert found.counts.sum() == 17 and found.counts[NOSE].tolist() == [0, 1, 0, 0, 0]
    plain: Any = found.to_json()
    assert plain["false_alarms"] == 1 and plain["people_missed"] == 0
    assert plain["each"]["nose"]["jitter"] == 1


def test_nobody_at_all() -> None:
    found = diagnosed([], [])
    assert found.kind.shape == (0, 17) and np.isnan(list(found.shares.values())).all()


# repairs


def judge(t: GroundTruth, p: Predictions) -> Any:
    return evaluate_keypoints(t, p)


def test_each_repair_mends_its_own_kind_only() -> None:
    # three people, each with one kind of mistake that costs a third of the AP above OKS 0.5
    there, beyond = pose(1000, 0), pose(0, 1000)
    sides = list(range(5, K))  # everything below the head
    flipped = {**HERE, **{k: HERE[int(COCO.flip[k])] for k in sides}}
    lost = {**there, **{k: (5000.0 + 40 * k, 9000.0) for k in sides}}
    people = [labelled(1, HERE), labelled(2, there), labelled(3, beyond)]
    guesses = [predicted(0.9, flipped), predicted(0.8, lost), predicted(0.7, beyond)]
    e = evaluate_keypoints(truth(people), guesses).evidence
    found = m.diagnose(e, COCO)
    assert found.counts.sum(axis=0).tolist() == [51 - 24, 0, 12, 0, 12]
    worth = m.repairs(e, found, judge)
    as_is = e.curves.mean("precision")
    assert worth["jitter"] == worth["swap"] == worth["false alarms"] == worth["missed people"] == as_is
    assert worth["inversion"] > as_is and worth["miss"] > as_is
    assert worth["all keypoints"] == pytest.approx(1)
    assert as_is < worth["scores"] == pytest.approx(34 / 101)  # the right one first: recall to a third
    assert tuple(worth) == tuple(r for r in m.REPAIRS if r != "presence")


def test_alarms_and_missed_people_taken_away() -> None:
    people = [labelled(1, HERE), labelled(2, THERE)]
    guesses = [predicted(0.9, pose(0, 5000)), predicted(0.8, HERE)]
    e = evaluate_keypoints(truth(people), guesses).evidence
    worth = m.repairs(e, m.diagnose(e, COCO), judge)
    assert e.curves.mean("precision") == pytest.approx(51 / 101 / 2)
    assert worth["false alarms"] == pytest.approx(51 / 101)
    assert worth["missed people"] == pytest.approx(1 / 2)
    assert worth["scores"] == pytest.approx(51 / 101)


@pytest.mark.parametrize("seed", range(8))
def test_taking_away_what_is_never_right_never_lowers_ap(seed: int) -> None:
    gt, dt = random_scene(seed)
    e = evaluate_keypoints(gt, dt).evidence
    found = m.diagnose(e, COCO)
    worth = m.repairs(e, found, judge)
    as_is = e.curves.mean("precision")
    assert worth["false alarms"] >= as_is - 1e-12 and worth["missed people"] >= as_is - 1e-12
    assert ((found.kind == -1) == np.isnan(found.similarity)).all()


def test_rows_taken_out() -> None:
    gt, dt = random_scene(1)
    e = evaluate_keypoints(gt, dt).evidence
    fewer = m.without(e.predictions, np.array([0, 2]))
    assert len(fewer) == len(e.predictions) - 2 and len(fewer.keypoints) == len(fewer.boxes) == len(fewer)  # type: ignore[arg-type]
    bare = m.without(e.truth, np.arange(len(e.truth.ids)))
    assert len(bare.ids) == 0 and len(bare.image_ids) == len(e.truth.image_ids)
    np.testing.assert_array_equal(bare.category_ids, e.truth.category_ids)


# skeletons of files


def read(names: list[str], k: int) -> GroundTruth:
    gt = truth([person(1, keypoints=[0.0] * (3 * k))])
    gt["categories"][0]["keypoints"] = names
    from bodyloop.eval.reading import read_ground_truth

    return read_ground_truth(gt, keypoints=k)


def test_the_skeleton_of_a_file() -> None:
    assert m.skeleton_of(read(list(COCO.keypoints), 17), 17) == COCO
    assert m.skeleton_of(read([], 17), 17) == COCO  # no other has 17
    assert m.skeleton_of(read(list(CROWDPOSE_14.keypoints), 14), 14) == CROWDPOSE_14
    assert m.skeleton_of(read([], 14), 14).keypoints[0] == "keypoint_1"  # three have 14
    cat = m.skeleton_of(read(["nose", "left_paw", "right_paw"], 3), 3, [0.1, 0.2, 0.2])
    assert cat.flip.tolist() == [0, 2, 1] and cat.sigmas == (0.1, 0.2, 0.2)


def test_files_without_keypoints_are_refused() -> None:
    e = evaluate_boxes(truth([person(1)]), [guess(0.5, bbox=[0, 0, 5, 5])]).evidence
    with pytest.raises(InputError, match="read with 17 keypoints"):
        m.diagnose(e, COCO)
    e = evaluate_keypoints(truth([person(1)]), [guess(0.5)]).evidence
    with pytest.raises(InputError, match="read with 2 keypoints"):
        m.diagnose(e, Skeleton.define("two", ["a", "b"]))


def test_presence_put_right() -> None:
    # two keypoints of one person; the one that is out is said to be in, at the window's far corner
    labels = keypoints({0: (100, 100, 2), 1: (0, 0, 3)})
    gt = truth([person(1, keypoints=labels, num_keypoints=2)])
    dt = [guess(0.9, keypoints=keypoints({0: (100, 100, 0.9), 1: (100, 100, 0.9)}), presence=[0.9] * K)]
    report = evaluate_extended(gt, dt)
    found = m.diagnose(report.evidence, COCO, labelled=report.evidence.truth.keypoints[..., 2] == 2)  # type: ignore[index]
    assert (found.kind >= 0).sum() == 1  # what is out has no place
    flags = report.evidence.truth.keypoints[..., 2]  # type: ignore[index]
    worth = m.repairs(report.evidence, found, lambda t, p: evaluate_extended(t, p), flags=flags)
    assert pytest.approx(0.1) == report.AP and worth["presence"] == pytest.approx(1)  # OKS of just 0.5 before
    assert tuple(worth) == m.REPAIRS
    assert "presence" not in m.repairs(report.evidence, found, judge)
