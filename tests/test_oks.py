"""OKS between poses and the two ways to thin people out by it, worked by hand.

One keypoint with sigma 0.5 and areas of 5000: a distance of d px gives exp(-d^2 / 10000).
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.errors import InputError
from bodyloop.oks import keypoint_similarity, oks_between, oks_nms, soft_oks_nms

SIGMA = [0.5]


def at(*xs: float) -> np.ndarray:
    """People (N, 1, 2) on a line."""
    return np.array([[[x, 0.0]] for x in xs])


def areas(n: int) -> np.ndarray:
    return np.full(n, 5000.0)


def test_similarity_of_a_keypoint() -> None:
    s = keypoint_similarity([[0, 0], [0, 0]], [[3, 4], [0, 0]], 100.0, [0.5, 0.1])
    assert s == pytest.approx([np.exp(-25 / 200), 1], abs=1e-15)
    # area 0: exact or nothing
    assert keypoint_similarity([[0, 0], [0, 0]], [[1, 0], [0, 0]], 0.0, [0.5, 0.5]).tolist() == [0, 1]


def test_inputs_stay_as_they_are() -> None:
    a, b = at(0.0), at(30.0)
    keypoint_similarity(a, b, areas(1), SIGMA)
    assert (a == 0).all() and (b[..., 0] == 30).all()


def test_mean_over_the_keypoints_that_count() -> None:
    person, others = np.zeros((2, 2)), np.array([[[0, 0], [100, 0]], [[100, 0], [0, 0.0]]])
    e = np.exp(-1)
    assert oks_between(person, others, areas(2), SIGMA * 2) == pytest.approx([(1 + e) / 2] * 2, abs=1e-15)
    counted = [[True, False], [False, False]]
    assert oks_between(person, others, areas(2), SIGMA * 2, counted).tolist() == [1, 0]


def test_the_best_of_each_place_stays() -> None:
    # 20 px apart: 0.961; 60 px: 0.698; 40 px: 0.852
    people = at(0, 20, 60, 900)
    assert oks_nms(people, [0.5, 0.9, 0.7, 0.1], areas(4), SIGMA, 0.9).tolist() == [1, 2, 3]
    assert oks_nms(people, [0.5, 0.9, 0.7, 0.1], areas(4), SIGMA, 0.8).tolist() == [1, 3]
    assert oks_nms(people, [0.5, 0.9, 0.7, 0.1], areas(4), SIGMA, 0.97).tolist() == [1, 2, 0, 3]


def test_who_is_left_out_leaves_nobody_out() -> None:
    people = at(0, 30, 60)  # neighbours 0.914, ends 0.698
    assert oks_nms(people, [0.9, 0.8, 0.7], areas(3), SIGMA, 0.9).tolist() == [0, 2]


def test_the_threshold_itself_passes() -> None:
    half = np.array(
        [[[0, 0], [0, 0]], [[0, 0], [1e9, 0.0]]]
    )  # one of two keypoints infinitely far: exactly 0.5
    assert oks_nms(half, [0.9, 0.8], areas(2), SIGMA * 2, 0.5).tolist() == [0, 1]
    assert oks_nms(half, [0.9, 0.8], areas(2), SIGMA * 2, 0.499).tolist() == [0]


def test_areas_are_averaged() -> None:
    # (2500 + 7500) / 2 = 5000; d = 20: 0.961
    assert oks_nms(at(0, 20), [0.9, 0.8], [2500, 7500], SIGMA, 0.961).tolist() == [0, 1]
    assert oks_nms(at(0, 20), [0.9, 0.8], [2500, 7500], SIGMA, 0.960).tolist() == [0]


def test_ties_go_by_index() -> None:
    assert oks_nms(at(0, 900, 1), [0.5, 0.5, 0.5], areas(3), SIGMA).tolist() == [0, 1]
    kept, _ = soft_oks_nms(at(0, 900, 1800), [0.5, 0.5, 0.5], areas(3), SIGMA)
    assert kept.tolist() == [0, 1, 2]


def test_only_confident_keypoints_are_compared() -> None:
    """Two poses alike in the first keypoint and far apart in the second."""
    poses = np.array([[[0, 0], [0, 0]], [[0, 0], [900, 0.0]]])
    first, second, none = [[0.9, 0.1], [0.9, 0.9]], [[0.1, 0.9], [0.9, 0.9]], [[0.9, 0.1], [0.1, 0.9]]
    for confidences, kept in ((first, [0]), (second, [0, 1]), (none, [0, 1])):
        assert oks_nms(
            poses, [0.9, 0.8], areas(2), SIGMA * 2, confidences=confidences, vis_thr=0.2
        ).tolist() == kept  # fmt: skip
    assert oks_nms(poses, [0.9, 0.8], areas(2), SIGMA * 2, confidences=first).tolist() == [0, 1]
    # the bound itself is not confident
    edge = [[0.2, 0.9], [0.9, 0.9]]
    assert oks_nms(poses, [0.9, 0.8], areas(2), SIGMA * 2, confidences=edge, vis_thr=0.2).tolist() == [0, 1]


def test_soft_nms_lowers_and_sorts_anew() -> None:
    """OKS of the first two is 1, of the third 0: 0.8 exp(-1 / 0.9) = 0.263."""
    kept, scores = soft_oks_nms(at(0, 0, 1e6), [0.9, 0.8, 0.5], areas(3), SIGMA)
    assert kept.tolist() == [0, 2, 1]
    assert scores == pytest.approx([0.9, 0.5, 0.8 * np.exp(-1 / 0.9)], abs=1e-12)
    kept, _ = soft_oks_nms(at(0, 0, 1e6), [0.9, 0.8, 0.5], areas(3), SIGMA, limit=2)
    assert kept.tolist() == [0, 2]
    kept, _ = soft_oks_nms(at(*range(0, 30000, 1000)), np.linspace(1, 0, 30), areas(30), SIGMA)
    assert kept.tolist() == list(range(20))


def test_nobody() -> None:
    nobody = np.zeros((0, 1, 2))
    assert oks_nms(nobody, [], [], SIGMA).tolist() == []
    kept, scores = soft_oks_nms(nobody, [], [], SIGMA)
    assert len(kept) == len(scores) == 0


@pytest.mark.parametrize(
    ("keypoints", "scores", "options"),
    [
        (at(0, 1), [0.5], {}),
        (at(0), [0.5], {"vis_thr": 0.2}),
        (at(0), [0.5], {"vis_thr": 0.2, "confidences": [[0.5, 0.5]]}),
        (np.zeros((1, 2, 2)), [0.5], {}),
    ],
    ids=["scores", "no confidences", "confidences", "sigmas"],
)
def test_arrays_that_do_not_fit(keypoints: np.ndarray, scores: list[float], options: dict) -> None:
    with pytest.raises(InputError, match="OKS-NMS"):
        oks_nms(keypoints, scores, areas(len(scores)), SIGMA, **options)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 12), st.integers(0, 1000), st.sampled_from([0.3, 0.6, 0.9]))
def test_nobody_kept_is_like_a_better_one_and_everybody_else_is(n: int, seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    people, scores = rng.uniform(0, 300, (n, 3, 2)), rng.choice([0.1, 0.5, 0.9], n)
    area, sigmas = rng.uniform(1000, 90000, n), [0.2, 0.5, 0.8]
    kept = oks_nms(people, scores, area, sigmas, threshold)

    def like_a_better_one(i: int) -> bool:
        better = [k for k in kept if (-scores[k], k) < (-scores[i], i)]
        oks = (
            oks_between(people[i], people[better], (area[i] + area[better]) / 2, sigmas)
            if better
            else np.zeros(0)
        )
        return bool((oks.astype(np.float32) > np.float32(threshold)).any())

    assert [like_a_better_one(i) for i in range(n)] == [i not in kept for i in range(n)]
    assert (np.diff(scores[kept]) <= 0).all()
