from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodyloop.errors import ConfigError, InputError
from bodyloop.eval import bootstrap as boot
from bodyloop.eval import presence as m
from bodyloop.eval.presence_files import evaluate_presence_files
from tests.eval.small import guess, keypoints, person, truth
from tests.eval.stored import arrays, close_numbers

VALUES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=30
)


def test_by_hand() -> None:
    # positives 0.9, 0.5; negatives 0.5, 0.1: pairs won 1 + 1 + 1/2 + 1
    r = m.evaluate_presence([0.9, 0.5, 0.5, 0.1, 0.3], [2, 1, 3, 3, 0])
    assert (r.positives, r.negatives) == (2, 2)
    assert r.auroc == 3.5 / 4
    assert (r.confusion.tp, r.confusion.fp, r.confusion.fn, r.confusion.tn) == (2, 1, 0, 1)  # 0.5 is "yes"
    assert r.confusion.balanced_accuracy == 0.75
    assert r.brier == pytest.approx((0.01 + 0.25 + 0.25 + 0.01) / 4)
    # distinct thresholds 0.9 (precision 1, recall 1/2), 0.5 (precision 2/3, recall 1)
    assert r.average_precision == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_visibility_uses_flags_1_and_2_only() -> None:
    r = m.evaluate_presence([0.9, 0.1, 0.7, 0.2], [2, 1, 3, 0], task="visibility")
    assert (r.positives, r.negatives, r.auroc) == (1, 1, 1.0)


@given(VALUES)
def test_auroc_is_the_share_of_pairs_won(pairs: list[tuple[float, bool]]) -> None:
    p, y = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    won = [(a > b) + (a == b) / 2 for a in p[y] for b in p[~y]]
    assert m.auroc(p, y) == (pytest.approx(np.mean(won)) if won else None)


@given(VALUES)
def test_reliability_counts_everything_once(pairs: list[tuple[float, bool]]) -> None:
    p, y = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    r = m.reliability(p, y, 10)
    assert r.count.sum() == len(p)
    assert r.ece <= r.mce <= 1
    weighed = np.nansum(r.count * np.nan_to_num(r.observed))
    assert weighed == pytest.approx(y.sum())


def test_the_value_1_is_in_the_last_bin() -> None:
    r = m.reliability(np.array([1.0]), np.array([True]), 10)
    assert r.count.tolist() == [0] * 9 + [1] and r.ece == 0
    assert "1.00" in r.table()


@pytest.mark.parametrize("flags", [[2, 1], [3, 3]])
def test_one_class_only_has_no_auroc(flags: list[int]) -> None:
    r = m.evaluate_presence([0.2, 0.8], flags)
    assert r.auroc is None and r.confusion.balanced_accuracy is None
    assert r.to_json()["auroc"] is None and "-" in r.table()


def test_nothing_labelled() -> None:
    r = m.evaluate_presence(np.zeros((2, 3)), np.zeros((2, 3)))
    assert r.brier is None and r.auroc is None and r.reliability == {}


def test_values_of_unlabelled_keypoints_do_not_matter() -> None:
    assert m.evaluate_presence([0.5, np.nan], [2, 0]).positives == 1


@pytest.mark.parametrize("bad", [np.nan, 1.5, -0.1, np.inf])
def test_what_is_no_probability(bad: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        m.evaluate_presence([bad, 0.5], [2, 3])


def test_shapes_and_tasks() -> None:
    with pytest.raises(InputError, match="shape"):
        m.evaluate_presence([0.5], [[2]])
    with pytest.raises(ConfigError, match="presence, visibility"):
        m.labels_of(np.array([1]), "absence")


@pytest.mark.parametrize(
    ("block", "key", "task"),
    [
        ("presence", "presence", "presence"),
        ("score_as_presence", "score", "presence"),
        ("visibility", "visibility", "visibility"),
    ],
)
def test_stored_numbers(block: str, key: str, task: Any) -> None:
    """scikit-learn's numbers, and the sweep of ProbPose's evaluation."""
    z = arrays("presence.npz")
    mine: dict[str, Any] = {}
    for t in (0.5, 0.3):
        report = m.evaluate_presence(z[key], z["flag"], task=task, threshold=t)
        mine |= report.to_json() | {f"at_{t}": report.confusion.to_json()}
    used, positive = m.labels_of(z["flag"], task)
    threshold, accuracy = m.published_threshold(z[key][used], positive[used])
    mine["sweep21"] = {"best_threshold": threshold, "best_accuracy": accuracy}
    close_numbers(mine, "presence.json", block, tolerance=1e-12)


def test_the_published_sweep_takes_the_first_best_and_is_strict() -> None:
    # from 0.1 on the negative is refused; at 0.9 the positive, too
    assert m.published_threshold(np.array([0.1, 0.9]), np.array([False, True])) == (0.1, 1.0)


def test_bins_at_their_edges() -> None:
    """0.1 is in the second of ten bins, 1 in the last; each gap is weighed by its count."""
    p, y = np.array([0.0, 0.1, 0.1, 1.0]), np.array([False, True, False, False])
    r = m.reliability(p, y, 10)
    assert r.count.tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1]
    assert r.ece == pytest.approx((1 * 0 + 2 * 0.4 + 1 * 1) / 4) and r.mce == 1
    assert r.predicted[1] == pytest.approx(0.1) and r.observed[1] == 0.5 and np.isnan(r.observed[5])
    assert r.to_json()["observed"][5] is None  # type: ignore[index]


@pytest.mark.parametrize("p", [0.3, 0.6, 0.7])
def test_bins_are_floors_of_products(p: float) -> None:
    """0.3 * 10 is 3.0000000000000004 or 3, never below; 0.7 * 10 is 7.000000000000001."""
    assert m.reliability(np.array([p]), np.array([True]), 10).count[round(p * 10)] == 1


def test_intervals_are_those_of_copied_images() -> None:
    rng = np.random.default_rng(3)
    p, flags = rng.integers(0, 11, (30, 1)) / 10, rng.integers(0, 4, (30, 1))
    image = rng.integers(0, 4, 30)
    weights = boot.draw(4, rng, 15)
    report = m.evaluate_presence(p, flags, image=image, weights=weights)
    values: dict[str, list[float]] = {k: [] for k in report.intervals}
    for w in weights.astype(int):
        copies = np.repeat(np.arange(30), w[image])
        one = m.evaluate_presence(p[copies], flags[copies])
        for name in values:
            found = one.confusion.balanced_accuracy if name == "balanced_accuracy" else one.to_json()[name]
            values[name].append(np.nan if found is None else found)  # type: ignore[arg-type]
    assert set(values) == {"auroc", "balanced_accuracy", "brier", "ece_10", "ece_15"}
    for name, samples in values.items():
        expected = boot.interval(report.intervals[name].value, np.array(samples))
        assert report.intervals[name].low == pytest.approx(expected.low), name
        assert report.intervals[name].high == pytest.approx(expected.high), name
        assert report.intervals[name].resamples == expected.resamples


# ------------------------------------------------------------------ files


def three_people() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Noses visible, right and left ankles (15, 16) hidden and out; the third person is a crowd."""
    gt = truth([person(i, 1, x=100 + 200 * i) for i in (1, 2, 3)])
    for a in gt["annotations"]:
        x = a["keypoints"][0]
        a["keypoints"] = keypoints({0: (x, 100, 2), 15: (x, 100, 1), 16: (x, 100, 3)})
    gt["annotations"][2]["iscrowd"] = 1
    dt = [
        guess(0.9, x=300, annotation_id=1),
        guess(0.8, x=500, annotation_id=2),
        guess(0.7, x=700, annotation_id=3),
    ]
    for d in dt:
        d["presence"] = [0.9] * 16 + [0.2]
        d["visibility"] = [0.8] * 15 + [0.3] * 2
    dt[1]["presence"][16] = 0.5
    return gt, dt


def test_files_by_hand() -> None:
    gt, dt = three_people()
    r = evaluate_presence_files(gt, dt, per_keypoint=True, resamples=10)
    assert r.assigned.how == "annotation id" and r.presence_from == "field presence"
    c = r.presence.confusion  # of two persons; 0.5 is "yes"
    assert (c.tp, c.fp, c.fn, c.tn) == (4, 1, 0, 1)
    assert r.visibility is not None and r.visibility.auroc == 1 and r.visibility.positives == 2
    assert set(r.each) == {"nose", "left_ankle", "right_ankle"}
    assert r.each["right_ankle"].negatives == 2 and r.each["right_ankle"].auroc is None
    out = json.loads(json.dumps(r.to_json(), allow_nan=False))
    assert out["counts"] == {"images": 1, "persons": 2, "predictions": 3, "paired": 2}
    assert "annotation id" in r.table() and "right_ankle" in r.table()


def test_third_numbers_and_pairing_by_oks() -> None:
    gt, dt = three_people()
    for d in dt:
        third = d.pop("presence")
        del d["annotation_id"], d["visibility"]
        d["keypoints"][2::3] = third
    dt.append(guess(0.99, x=10000))  # nobody's
    r = evaluate_presence_files(gt, dt, resamples=10)
    assert r.assigned.how == "matched at OKS 0.5" and r.presence_from == "third number"
    assert r.counts["paired"] == 2 and r.presence.confusion.fp == 1 and r.visibility is None
    same = evaluate_presence_files(gt, dt, threshold=0.6, resamples=10)
    assert same.presence.confusion.fp == 0 and same.presence.confusion.threshold == 0.6


def test_ids_that_do_not_fit_are_named() -> None:
    gt, dt = three_people()
    for i, d in enumerate(dt):
        d["id"] = i + 7  # numbers of the predictions, not of annotations
        del d["annotation_id"]
    r = evaluate_presence_files(gt, dt, resamples=5)
    assert r.assigned.how == "matched at OKS 0.5"
    assert any("annotation 7" in w for w in r.warnings)
    with pytest.raises(InputError, match="annotation 7, but image 1 has none"):
        evaluate_presence_files(gt, dt, pairing="id")
    with pytest.raises(ConfigError, match="pairing must be"):
        evaluate_presence_files(gt, dt, pairing="name")  # type: ignore[arg-type]


def test_two_predictions_for_one_person() -> None:
    gt, dt = three_people()
    dt.append(dt[0] | {"presence": [0.0] * 17})
    r = evaluate_presence_files(gt, dt, resamples=5)
    assert r.presence.confusion.tp == 4 and any("had one before" in w for w in r.warnings)


def test_scores_beyond_1_and_files_without_threes() -> None:
    gt, dt = three_people()
    for a in gt["annotations"]:
        a["keypoints"][3 * 16 + 2] = 0
    for d in dt:
        del d["presence"]
        d["keypoints"][2::3] = [1.5] * 17
    r = evaluate_presence_files(gt, dt, resamples=5)
    assert r.presence.auroc is None and r.presence.confusion.balanced_accuracy is None
    assert "balanced_accuracy" not in r.presence.intervals
    assert any("clipped" in w for w in r.warnings) and any("flag 3" in w for w in r.warnings)


def test_pad_to_contain_says_who_is_out() -> None:
    gt, dt = three_people()
    for a in gt["annotations"]:
        a["pad_to_contain"] = [1.0] * 15 + [1.4, 1.0]  # the left ankle is out at 1.25, the right one is not
    assert evaluate_presence_files(gt, dt, resamples=5).presence.confusion.fp == 2
    assert evaluate_presence_files(gt, dt, padding=1.5, resamples=5).presence.negatives == 0


def test_nobody() -> None:
    r = evaluate_presence_files(truth([]), [], resamples=5)
    assert r.presence.positives == 0 and r.presence.brier is None
    json.dumps(r.to_json(), allow_nan=False)


def test_pairing_by_oks_needs_areas() -> None:
    gt, dt = three_people()
    for d, a in zip(dt, gt["annotations"], strict=True):
        del d["annotation_id"], a["area"]
    with pytest.raises(InputError, match="without area"):
        evaluate_presence_files(gt, dt)
