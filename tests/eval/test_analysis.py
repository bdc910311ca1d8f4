"""What lies behind an AP: matches at one threshold, parts of the people, curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bodyloop.eval import analysis as m
from bodyloop.eval import bootstrap, evaluate_boxes, evaluate_keypoints
from tests.eval.small import SIGMA_NOSE, guess, keypoints, person, truth
from tests.eval.test_keypoints import random_scene


def off(oks: float, area: float = 10000.0) -> float:
    """How far a nose must lie from its label for this OKS."""
    return float(SIGMA_NOSE * 2 * np.sqrt(-2 * area * np.log(oks)))


def scene(people: list[dict[str, Any]], guesses: list[dict[str, Any]], images: int = 1) -> Any:
    return evaluate_keypoints(truth(people, images), guesses).evidence


def test_pairs_alarms_and_missed_people_at_one_threshold() -> None:
    people = [person(1), person(2, x=300), person(3, x=600, iscrowd=1)]
    guesses = [guess(0.9, x=100 + off(0.3)), guess(0.8, y=900), guess(0.7, x=600)]
    lenient = m.find(scene(people, guesses))
    assert lenient.prediction.tolist() == [0] and lenient.annotation.tolist() == [0]
    assert lenient.similarity[0] == pytest.approx(0.3, abs=1e-12)
    assert lenient.alarms.tolist() == [1]  # the one on the crowd is no false alarm
    assert lenient.missed.tolist() == [1]  # nor is the crowd missed
    strict = m.find(scene(people, guesses), 0.5)
    assert (
        len(strict.prediction) == 0 and sorted(strict.alarms) == [0, 1] and strict.missed.tolist() == [0, 1]
    )


def test_the_most_similar_person_of_each_prediction() -> None:
    people = [person(1), person(2, x=100 + 2 * off(0.5))]
    who, much = m.most_similar(scene(people, [guess(0.5, x=100 + 1.4 * off(0.5)), guess(0.9, image_id=2)], 2))
    assert who.tolist() == [1, -1]
    assert much == pytest.approx([0.5**0.36, 0.0])  # 0.6 of the distance: exponent 0.36


@pytest.mark.parametrize("seed", range(6))
def test_all_people_as_one_part_have_the_ap_of_all(seed: int) -> None:
    gt, dt = random_scene(seed)
    for report in (evaluate_keypoints(gt, dt), evaluate_boxes(gt, dt)):
        e = report.evidence
        one = m.split(e, "everybody", ["all"], np.zeros(len(e.truth.ids), np.int64))
        if report.AP < 0:
            assert one.names == () and len(one.ap) == 0
            continue
        assert one.ap[0] == report.AP and one.ar[0] == e.curves.mean("recall")
        weights = bootstrap.draw(len(e.truth.image_ids), np.random.default_rng(0), 20)
        theirs = bootstrap.ap_samples(one.evidence, weights, area="all")
        np.testing.assert_array_equal(theirs, bootstrap.ap_samples(e, weights))


@pytest.mark.parametrize("seed", range(6))
def test_the_matches_at_a_half_are_those_of_the_evaluation(seed: int) -> None:
    gt, dt = random_scene(seed)
    e = evaluate_keypoints(gt, dt).evidence
    found, first = m.find(e, 0.5), e.levels[0].matches
    assert len(found.prediction) == ((first.annotation[0, 0] >= 0) & ~first.ignored[0, 0]).sum()
    counted = (~e.levels[0].ignored[0]).sum()
    assert len(found.missed) + len(found.annotation) == counted


def test_a_false_alarm_counts_in_the_part_of_the_person_it_resembles() -> None:
    # two people of sizes 100 and 200 px, both found; a worse copy of the small one goes first
    people = [person(1), person(2, x=400, area=40000.0)]
    guesses = [guess(0.9, x=100 + off(0.2)), guess(0.8), guess(0.7, x=400)]
    sizes = m.by_size(scene(people, guesses))
    assert sizes.names == ("96–128", "192–256") and sizes.people.tolist() == [1, 1]
    assert sizes.ap == pytest.approx([0.5, 1.0]) and sizes.ar.tolist() == [1, 1]
    guesses[0] = guess(0.9, y=900)  # it resembles nobody: wrong in every part
    assert m.by_size(scene(people, guesses)).ap == pytest.approx([0.5, 0.5])


def test_people_of_other_parts_neither_help_nor_harm() -> None:
    people = [person(1), person(2, x=400, area=40000.0)]
    assert m.by_size(scene(people, [guess(0.7, x=400)])).ap == pytest.approx([0.0, 1.0])


def test_overlap_with_the_nearest_person_by_hand() -> None:
    # boxes of 100 x 100: shifted by 50 they share a third; the crowd and the other image do not count
    people = [
        person(1), person(2, x=150), person(3, x=1000), person(4, x=1010, iscrowd=1), person(5, image_id=2),
    ]  # fmt: skip
    e = scene(people, [guess(0.5)], images=2)
    assert m.nearest_overlap(e) == pytest.approx([1 / 3, 1 / 3, 0, 0, 0])
    split = m.by_overlap(e)
    assert split.names == ("none", "0.3–0.5") and split.people.tolist() == [2, 2]
    assert split.ar == pytest.approx([0, 0.5])


def test_parts_by_labelled_keypoints_are_quarters() -> None:
    def labelled(number: int, n: int) -> dict[str, Any]:
        return person(number, keypoints=keypoints(dict.fromkeys(range(n), (100, 100, 2))), x=100 * number)

    split = m.by_labelled(scene([labelled(i, n) for i, n in enumerate((1, 5, 6, 9, 10, 13, 14, 17), 1)], []))
    assert split.names == ("1–5", "6–9", "10–13", "14–17") and split.people.tolist() == [2, 2, 2, 2]
    assert split.ap.tolist() == [0, 0, 0, 0]


def test_curve_of_one_right_and_one_wrong_prediction() -> None:
    e = scene([person(1), person(2, x=400)], [guess(0.9), guess(0.8, y=900), guess(0.7, x=400)])
    curve = m.precision_curve(e, 0)
    assert curve[:51] == pytest.approx(np.ones(51)) and curve[51:] == pytest.approx(np.full(50, 2 / 3))
    assert np.isnan(m.precision_curve(scene([], [guess(0.5)]), 0)).all()
