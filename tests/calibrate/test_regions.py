"""Thresholds a keypoint at a time, and the numbers about regions."""

from __future__ import annotations

import numpy as np
import pytest

from bodyloop.calibrate import JudgedRegions, Scores, fit_thresholds


def test_each_keypoint_has_its_own_rank() -> None:
    # nine photos with keypoint 0 at 0.01 .. 0.09, and with keypoint 1 at 0.1 .. 0.9
    score = np.concatenate([np.arange(1, 10) / 100, np.arange(1, 10) / 10])
    known = Scores(score, np.repeat([0, 1], 9), np.tile(np.arange(9), 2))
    values, photographs = fit_thresholds(known, 2, (0.5, 0.1))
    np.testing.assert_allclose(values, [[0.05, 0.5], [0.09, 0.9]])
    assert photographs.tolist() == [9, 9]


def test_keypoints_of_too_few_photos_take_the_threshold_of_all() -> None:
    # keypoint 1 is on four photos: enough for alpha 0.2 (4 of 5), not for 0.1; keypoint 2 on none
    score = np.concatenate([np.arange(1, 21) / 100, [0.5, 0.6, 0.7, 0.8]])
    known = Scores(score, np.repeat([0, 1], [20, 4]), np.concatenate([np.arange(20), np.arange(4)]))
    values, photographs = fit_thresholds(known, 3, (0.2, 0.1, 0.02))
    assert photographs.tolist() == [20, 4, 0]
    assert values[0, 1] == 0.8  # its own: the greatest of four
    # all together: 21 photos of which 16.8 must be held; photos 0 to 3 have two scores of half a photo each
    assert values[0, 2] == pytest.approx(0.19)  # 4 * 0.5 + 15 = 17
    assert values[1, 1] == values[1, 2]
    # 18.9: 18 without those of keypoint 1, and 0.5 for 0.5, 0.6
    assert values[1, 2] == pytest.approx(0.6)
    assert (values[2] == 1).all()  # 20 photos promise nothing at 0.02, not together either


def test_nothing_known_is_the_whole_window() -> None:
    empty = np.zeros(0, np.int64)
    values, photographs = fit_thresholds(Scores(np.zeros(0), empty, empty), 2, (0.1,))
    assert values.tolist() == [[1, 1]] and photographs.tolist() == [0, 0]


def judged() -> JudgedRegions:
    return JudgedRegions(
        0.1,
        ("nose", "tail", "ear"),
        np.array([True, False, True, True]),
        np.array([0.1, 0.2, 1.0, 0.5]),
        np.array([0, 0, 1, 0]),
        np.array([5, 5, 5, 8]),
        np.arange(4),
    )


def test_numbers_of_regions() -> None:
    r = judged()
    assert r.coverage == 0.75
    # nose: half of the people of photo 5, all of photo 8; tail: all of photo 5
    assert r.coverage_of_photographs == pytest.approx(((1 / 2 + 1) / 2 + 1) / 2)
    assert r.each == {"nose": pytest.approx(2 / 3), "tail": 1.0}
    assert (r.whole, r.median_share, r.mean_share) == (0.25, pytest.approx(0.35), pytest.approx(0.45))
    interval = r.interval(200, 0)
    assert interval.value == 0.75 and interval.low == pytest.approx(2 / 3) and interval.high == 1
    n = r.numbers()
    assert (n["lowest_keypoint"], n["highest_keypoint"], n["keypoints"]) == (pytest.approx(2 / 3), 1.0, 4.0)


def test_numbers_of_no_regions() -> None:
    none = np.zeros(0, np.int64)
    r = JudgedRegions(0.1, ("nose",), np.zeros(0, bool), np.zeros(0), none, none, none)
    assert all(np.isnan(v) for k, v in r.numbers().items() if k not in ("alpha", "keypoints"))
    assert r.each == {} and np.isnan(r.interval(10, 0).low)
