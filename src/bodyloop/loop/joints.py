"""What the loop needs to know of keypoints: how sure, how visible, which are of the face, which are compared.

Models differ in what they say of a keypoint; `ranking` alone decides what stands in where a model has no
visibility. Skeletons differ, too: nose, eyes and COCO's keypoints are found by their names.

Source: BBoxMaskPose; thresholds are those of `LoopConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.loop.config import LoopConfig
from bodyloop.people import People
from bodyloop.skeletons import COCO, Skeleton

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

FACE = ("nose", "left_eye", "right_eye")  # of these one is enough as a prompt: they lie too close together
NEVER = np.float32(-1)  # below every threshold: a keypoint that is not there


def confidences(people: People) -> Floats:
    """(N, K) how good each keypoint is: quality, else the maps' values, else 1 for a keypoint that is there."""
    points = _points(people)
    scores = people.keypoint_scores
    sure = np.ones(points.shape[:2], np.float32) if scores is None else scores
    return np.where(np.isfinite(points).all(axis=2) & np.isfinite(sure), sure, NEVER).astype(np.float32)


def ranking(people: People) -> Floats:
    """(N, K) by what keypoints are ranked as prompts: visibility, of a model without it the confidence.

    -1 where there is no keypoint. The same stands in for a single keypoint whose visibility is NaN.
    """
    sure = confidences(people)
    if people.visibility is None:
        return sure
    seen = np.where(np.isfinite(people.visibility), people.visibility, sure)
    return np.where(sure == NEVER, NEVER, seen)


def face(skeleton: Skeleton) -> Ints:
    """Indices of nose and eyes, as far as a skeleton has them."""
    return np.array([skeleton.keypoints.index(k) for k in FACE if k in skeleton.keypoints], np.int64)


def compared(skeleton: Skeleton) -> Ints:
    """Indices of the keypoints that two poses are compared by: COCO's, or all if there is none of these.

    So thresholds mean the same for a skeleton that has more.
    """
    known = frozenset(COCO.keypoints)
    at = [i for i, k in enumerate(skeleton.keypoints) if k in known]
    return np.array(at or range(len(skeleton)), np.int64)


@dataclass(frozen=True, eq=False)
class Joints:
    """Keypoints of N people as prompts see them.

    Attributes:
        points: (N, K, 2) float32 px, 0 where there is none.
        confidence, rank: (N, K) float32, see `confidences` and `ranking`.
        valid: (N, K) confidence and rank above the configuration's thresholds.
        face: (F,) indices of nose and eyes.
    """

    points: Floats
    confidence: Floats
    rank: Floats
    valid: Bools
    face: Ints

    @classmethod
    def of(cls, people: People, config: LoopConfig) -> Joints:
        """The joints of people with keypoints and a skeleton."""
        sure, rank = confidences(people), ranking(people)
        points = np.where((sure == NEVER)[..., None], np.float32(0), _points(people))
        valid = (sure > config.confidence) & (rank > config.visibility)
        return cls(points, sure, rank, valid, face(_skeleton(people)))

    def __len__(self) -> int:
        return len(self.points)


def _points(people: People) -> Floats:
    if people.keypoints is None:
        raise InputError("the loop needs keypoints; these people have none")
    return people.keypoints


def _skeleton(people: People) -> Skeleton:
    if people.skeleton is None:
        raise InputError(
            "the loop needs a skeleton to know nose and eyes by name; give People(skeleton=...) where the "
            "keypoints are made"
        )
    return people.skeleton
