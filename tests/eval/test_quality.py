from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bodyloop.errors import InputError
from bodyloop.eval import quality as m
from bodyloop.eval.bootstrap import draw, interval
from tests.eval.small import guess, keypoints, person, truth

COARSE = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4)).map(lambda p: (p[0] / 4, p[1] / 4)),
    min_size=1,
    max_size=12,
)


@given(COARSE)
def test_correlations_are_scipys(pairs: list[tuple[float, float]]) -> None:
    a, b = np.array(pairs).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert m.pearson(a, b) is None and m.spearman(a, b) is None
        return
    assert m.pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)
    assert m.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_ranks_of_ties_are_their_mean() -> None:
    assert m.ranks(np.array([0.5, 0.1, 0.5, 0.9])).tolist() == [2.5, 1, 2.5, 4]


def test_risk_coverage_by_hand() -> None:
    # surest first: errors 0, 0.6, 0.3
    c = m.risk_coverage(np.array([0.2, 0.9, 0.5]), np.array([0.3, 0.0, 0.6]))
    assert c.risk.tolist() == pytest.approx([0, 0.3, 0.3])
    assert c.area == pytest.approx(0.2)
    assert c.best == pytest.approx((0 + 0.15 + 0.3) / 3)
    assert c.coverage.tolist() == pytest.approx([1 / 3, 2 / 3, 1])


def test_ties_count_with_their_mean_error() -> None:
    """Two of equal quality: the area is the mean over both orders."""
    predicted, error = np.array([0.9, 0.5, 0.5]), np.array([0.1, 0.0, 0.6])
    c = m.risk_coverage(predicted, error)
    assert c.risk.tolist() == pytest.approx([0.1, (0.1 + 0.3) / 2, 0.7 / 3])
    orders = [np.mean([0.1, (0.1 + a) / 2, 0.7 / 3]) for a in (0.0, 0.6)]
    assert c.area == pytest.approx(np.mean(orders))


@given(COARSE)
def test_no_ranking_beats_the_truths(pairs: list[tuple[float, float]]) -> None:
    predicted, error = np.array(pairs).T
    c = m.risk_coverage(predicted, error)
    assert c.best <= c.area + 1e-12
    assert c.risk[-1] == pytest.approx(error.mean())
    backwards = m.risk_coverage(error, error)
    assert c.area <= backwards.area + 1e-12


def test_judged_by_hand() -> None:
    r = m.judge_quality([0.95, 0.85, 0.15], [1.0, 0.8, 0.3])
    assert r.mae == pytest.approx((0.05 + 0.05 + 0.15) / 3)
    assert r.reliability is not None
    assert r.reliability.ece == pytest.approx((0.05 + 0.05 + 0.15) / 3)  # each in a bin of its own
    assert r.spearman == pytest.approx(1) and r.intervals == {}
    assert "risk-coverage area" in r.table()


def test_scores_beyond_1_are_ranked_but_not_calibrated() -> None:
    r = m.judge_quality([3.0, 2.0, -1.0], [1.0, 0.5, 0.0])
    assert r.spearman == 1 and r.mae is None and r.reliability is None
    assert json.loads(json.dumps(r.to_json(), allow_nan=False))["ece_10"] is None


def test_nothing_to_judge_and_nothing_that_varies() -> None:
    r = m.judge_quality([], [])
    assert r.count == 0 and r.mae is None and r.risk_coverage is None and r.pearson is None
    json.dumps(r.to_json(), allow_nan=False)
    assert "-" in r.table()
    same = m.judge_quality([0.5, 0.5], [0.2, 0.4])
    assert same.spearman is None and same.mae == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("predicted", "true"), [([0.5], [0.5, 0.5]), ([np.nan], [0.5]), ([0.5], [1.5]), ([0.5], [np.nan])]
)
def test_what_cannot_be_judged(predicted: list[float], true: list[float]) -> None:
    with pytest.raises(InputError):
        m.judge_quality(predicted, true)


def test_intervals_are_those_of_copied_images() -> None:
    """A resample's numbers are those of the images drawn, each as often as it was drawn."""
    rng = np.random.default_rng(1)
    p, t = rng.integers(0, 6, 30) / 5, rng.integers(0, 6, 30) / 5
    image = rng.integers(0, 5, 30)
    weights = draw(5, rng, 20)
    report = m.judge_quality(p, t, image=image, weights=weights)
    values: dict[str, list[float]] = {k: [] for k in ("spearman", "mae", "ece_10", "risk_coverage_area")}
    for w in weights.astype(int):
        copies = np.repeat(np.arange(30), w[image])
        one = m.judge_quality(p[copies], t[copies])
        assert one.risk_coverage is not None and one.reliability is not None
        for name, value in zip(
            values, (one.spearman, one.mae, one.reliability.ece, one.risk_coverage.area), strict=True
        ):
            values[name].append(np.nan if value is None else value)
    assert values.keys() == report.intervals.keys()
    for name, samples in values.items():
        expected = interval(report.intervals[name].value, np.array(samples))
        assert report.intervals[name].low == pytest.approx(expected.low), name
        assert report.intervals[name].high == pytest.approx(expected.high), name
    mae = report.intervals["mae"]
    assert mae.low <= mae.value <= mae.high and f"{mae.low:.4f} to" in report.table()


def two_people() -> tuple[dict, list[dict]]:
    """Noses 0 and 26 px off; the variance is (2 * 0.026)^2 and the area 10000, so exp(-26^2 / 54.08)."""
    gt = truth([person(1, 1), person(2, 2), person(3, 2, x=400)], images=2)
    gt["annotations"][1]["keypoints"] = keypoints({0: (100, 100, 2), 5: (100, 100, 3)})
    dt = [
        guess(0.9, 1, annotation_id=1),
        guess(0.4, 2, x=126, annotation_id=2),
        guess(0.1, 2, x=400, annotation_id=3),
    ]
    for g, q in zip(dt, (0.9, 0.2, 1.0), strict=True):
        g["quality"] = [q] * 17
    return gt, dt


def test_files_by_hand() -> None:
    gt, dt = two_people()
    r = m.evaluate_quality(gt, dt, resamples=20)
    far = np.exp(-(26**2) / (0.052**2 * 10000 * 2))
    assert r.assigned.how == "annotation id" and r.keypoints_from == "field quality"
    # the 3 of the second person has no location; everybody has a nose
    assert r.keypoints.count == 3 and r.keypoints.mean_true == pytest.approx((2 + far) / 3)
    assert r.keypoints.mae == pytest.approx((0.1 + 0.2 - far + 0) / 3)
    assert r.persons.mae == pytest.approx((0.1 + 0.4 - far + 0.9) / 3)
    out = json.loads(json.dumps(r.to_json(), allow_nan=False))
    assert out["counts"]["paired"] == 3 and out["keypoints"]["count"] == 3
    assert "annotation id" in r.table()


def test_scores_alone() -> None:
    gt, dt = two_people()
    for g in dt:
        del g["quality"], g["annotation_id"]
    r = m.evaluate_quality(gt, dt, resamples=5)
    assert r.assigned.how == "matched at OKS 0.5" and r.keypoints_from == "third number"
    assert r.persons.count == 2  # the one that is 26 px off matches nobody
    assert r.keypoints.mean_predicted == 1


def test_the_order_of_predictions_does_not_matter() -> None:
    gt, dt = two_people()
    tables = {
        m.evaluate_quality(gt, list(order), resamples=5).table() for order in itertools.permutations(dt)
    }
    assert len(tables) == 1


def test_files_without_areas() -> None:
    gt, dt = two_people()
    del gt["annotations"][0]["area"]
    with pytest.raises(InputError, match="without area"):
        m.evaluate_quality(gt, dt)
