"""What stands in for visibility, and keypoints by name."""

from __future__ import annotations

import numpy as np
import pytest

from bodyloop.errors import InputError
from bodyloop.loop import LoopConfig
from bodyloop.loop.joints import NEVER, Joints, compared, confidences, face, ranking
from bodyloop.people import People
from bodyloop.skeletons import BODY_19, COCO, CROWDPOSE_14, MPII_16, Skeleton

PAW = Skeleton.define("paw", ["left_eye", "tail", "nose"])
POINTS = np.arange(12, dtype=np.float32).reshape(2, 3, 2)


def people(**columns: object) -> People:
    return People((40, 30), skeleton=PAW, keypoints=POINTS, **columns)  # type: ignore[arg-type]


def test_visibility_ranks() -> None:
    seen = np.float32([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    assert (ranking(people(visibility=seen, quality=1 - seen)) == seen).all()


def test_without_visibility_quality_ranks_then_map_scores_then_nothing() -> None:
    a, b = np.float32([[0.1, 0.2, 0.3]] * 2), np.float32([[0.7, 0.8, 0.9]] * 2)
    assert (ranking(people(quality=a, map_scores=b)) == a).all()
    assert (ranking(people(map_scores=b)) == b).all()
    assert (ranking(people()) == 1).all()
    assert (confidences(people(quality=a, visibility=b)) == a).all()


def test_one_unknown_visibility_is_ranked_by_its_confidence() -> None:
    seen = np.float32([[np.nan, 0.2, 0.3], [0.4, 0.5, 0.6]])
    sure = np.full((2, 3), 0.9, np.float32)
    assert ranking(people(visibility=seen, map_scores=sure))[0].tolist() == [
        np.float32(0.9),
        seen[0, 1],
        seen[0, 2],
    ]


def test_a_keypoint_that_is_not_there_is_nowhere() -> None:
    points = POINTS.copy()
    points[0, 1, 0] = np.nan
    sure = np.float32([[0.9, 0.9, 0.9], [0.9, np.nan, 0.9]])
    some = People((40, 30), skeleton=PAW, keypoints=points, map_scores=sure, visibility=np.ones((2, 3)))
    there = np.array([[True, False, True], [True, False, True]])
    assert ((confidences(some) == NEVER) == ~there).all()
    joints = Joints.of(some, LoopConfig(confidence=0, visibility=0))
    assert (joints.valid == there).all() and np.isfinite(joints.points).all()


def test_valid_is_above_both_thresholds() -> None:
    sure, seen = np.float32([[0.5, 0.6, 0.6]] * 2), np.float32([[0.6, 0.5, 0.6]] * 2)
    assert (
        Joints.of(people(map_scores=sure, visibility=seen), LoopConfig()).valid.tolist()
        == [[False, False, True]] * 2
    )


def test_face_by_name() -> None:
    assert face(COCO).tolist() == face(BODY_19).tolist() == [0, 1, 2]
    assert face(PAW).tolist() == [2, 0]
    assert face(CROWDPOSE_14).tolist() == []


def test_compared_by_name() -> None:
    assert compared(COCO).tolist() == compared(BODY_19).tolist() == list(range(17))
    names = [MPII_16.keypoints[i] for i in compared(MPII_16)]
    assert "left_hip" in names and len(names) == 12 and not {"pelvis", "thorax"} & set(names)
    other = Skeleton.define("other", ["a", "b"])
    assert compared(other).tolist() == [0, 1]


def test_without_skeleton_or_keypoints() -> None:
    with pytest.raises(InputError, match="needs a skeleton"):
        Joints.of(People((40, 30), keypoints=POINTS), LoopConfig())
    with pytest.raises(InputError, match="needs keypoints"):
        ranking(People((40, 30), skeleton=PAW, boxes=[[0, 0, 5, 5]]))
