"""Object keypoint similarity: the one definition, and the two ways to thin out people by it.

A keypoint that is d px off scores exp(-d^2 / (2 (2 sigma)^2 area)), with sigma the spread of human labels
relative to the person's size; a person scores the mean over keypoints (COCO). Between predictions that mean is
a measure of how much they are the same pose, whatever their boxes: the idea of OKS-NMS. What counts as a
keypoint of an annotated person, windows and levels are left to the evaluation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EPS = float(np.spacing(1.0))  # keeps areas of 0 from dividing (pycocotools)
NMS_THRESHOLD = 0.9  # of the published evaluations
SOFT_LIMIT = 20  # people an image that soft NMS leaves, as many as COCO looks at


def variances(sigmas: npt.ArrayLike) -> Floats:
    """(2 sigma)^2 of each keypoint (K,)."""
    return np.asarray((np.asarray(sigmas, np.float64) * 2) ** 2)


def kernel(squared: Floats, variance: Floats, area: Floats) -> Floats:
    """exp(-squared / (2 variance area)), in the memory of ``squared``.

    Args:
        squared: squared distances, px^2; variance, area: broadcast to their shape.

    The order of the divisions is pycocotools', so that the last bit is the same.
    """
    with np.errstate(over="ignore"):  # areas of 0
        squared /= variance
        squared /= area + EPS
        squared /= -2
    return np.exp(squared, out=squared)


def keypoint_similarity(
    predicted: npt.ArrayLike, truth: npt.ArrayLike, area: npt.ArrayLike, sigmas: npt.ArrayLike
) -> Floats:
    """Similarity of each keypoint.

    Args:
        predicted, truth: (..., K, 2) image px.
        area: (...) px^2 of each person (COCO uses the mask's area).
        sigmas: (K,) of the skeleton.
    Returns: (..., K) float64 in [0, 1]; the OKS of a person is its mean over the labelled keypoints.
    """
    d = np.asarray(predicted, np.float64) - np.asarray(truth, np.float64)
    squared = d[..., 0] ** 2 + d[..., 1] ** 2
    return kernel(squared, variances(sigmas), np.asarray(area, np.float64)[..., None])


def oks_between(
    person: npt.ArrayLike,
    others: npt.ArrayLike,
    area: npt.ArrayLike,
    sigmas: npt.ArrayLike,
    counted: npt.ArrayLike | None = None,
) -> Floats:
    """OKS of one pose (K, 2) with others (N, K, 2), px, as (N,).

    Args:
        area: (N,) px^2 that each comparison goes by; between predictions the mean of the two areas.
        sigmas: (K,).
        counted: (N, K) keypoints of each comparison, None for all; without any the OKS is 0.
    """
    each = keypoint_similarity(person, others, area, sigmas)
    if counted is None:
        return np.asarray(each.sum(axis=1) / each.shape[1])
    used = np.asarray(counted, bool)
    return np.asarray(np.where(used, each, 0).sum(axis=1) / np.maximum(used.sum(axis=1), 1))


def oks_nms(
    keypoints: npt.ArrayLike,
    scores: npt.ArrayLike,
    areas: npt.ArrayLike,
    sigmas: npt.ArrayLike,
    threshold: float = NMS_THRESHOLD,
    *,
    confidences: npt.ArrayLike | None = None,
    vis_thr: float | None = None,
) -> Ints:
    """Keep the best of all who are in the same pose at the same place.

    Args:
        keypoints: (N, K, 2) image px.
        scores: (N,); of equals the first goes first.
        areas: (N,) px^2 of each person.
        sigmas: (K,).
        threshold: people whose OKS with a better one is above it are left out.
        confidences, vis_thr: (N, K), and the bound that a keypoint's confidence must exceed on both sides to be
            compared; None: all keypoints are.

    Returns: indices of the kept people, by falling score.

    Raises:
        InputError: arrays of different lengths.

    Source: ProbPose's evaluation (after MMPose); OKS is compared in float32 there, and here.
    """
    people = _People(keypoints, scores, areas, sigmas, confidences, vis_thr)
    order = people.by_score(np.arange(len(people.scores)), people.scores)
    kept = []
    while len(order):
        kept.append(order[0])
        oks = people.oks(order[0], order[1:])
        order = order[1:][oks <= np.float32(threshold)]
    return np.array(kept, np.int64)


def soft_oks_nms(
    keypoints: npt.ArrayLike,
    scores: npt.ArrayLike,
    areas: npt.ArrayLike,
    sigmas: npt.ArrayLike,
    threshold: float = NMS_THRESHOLD,
    *,
    limit: int = SOFT_LIMIT,
    confidences: npt.ArrayLike | None = None,
    vis_thr: float | None = None,
) -> tuple[Ints, Floats]:
    """Lower the scores of people in the pose of a better one instead of leaving them out.

    After each pick the others' scores are multiplied by exp(-OKS^2 / threshold) and sorted anew.

    Args:
        limit: people to pick at most; the rest as in `oks_nms`.

    Returns: indices in the order of picking, and the scores that they were picked with.

    Raises:
        InputError: arrays of different lengths.
    """
    people = _People(keypoints, scores, areas, sigmas, confidences, vis_thr)
    left, value = np.arange(len(people.scores)), people.scores
    kept: list[int] = []
    with_score: list[float] = []
    while len(left) and len(kept) < limit:
        order = people.by_score(left, value)
        best, left = order[0], order[1:]
        kept.append(int(best))
        with_score.append(float(value[best]))
        value = value.copy()
        value[left] *= np.exp(-(people.oks(best, left).astype(np.float64) ** 2) / threshold)
    return np.array(kept, np.int64), np.array(with_score, np.float64)


class _People:
    """The arguments of both ways as arrays, checked once."""

    def __init__(
        self,
        keypoints: npt.ArrayLike,
        scores: npt.ArrayLike,
        areas: npt.ArrayLike,
        sigmas: npt.ArrayLike,
        confidences: npt.ArrayLike | None,
        vis_thr: float | None,
    ) -> None:
        self.keypoints = np.asarray(keypoints, np.float64)
        self.scores = np.asarray(scores, np.float64)
        self.areas = np.asarray(areas, np.float64)
        self.sigmas = np.asarray(sigmas, np.float64)
        shape = (len(self.scores), len(self.sigmas))
        if self.keypoints.shape != (*shape, 2) or self.areas.shape != shape[:1]:
            raise InputError(
                f"OKS-NMS: expected keypoints {(*shape, 2)} and areas {shape[:1]} for {shape[0]} scores and "
                f"{shape[1]} sigmas, got {self.keypoints.shape} and {self.areas.shape}"
            )
        self.sure = None
        if vis_thr is not None:
            given = np.asarray(np.nan if confidences is None else confidences, np.float64)
            if given.shape != shape:
                raise InputError(f"OKS-NMS: vis_thr= needs confidences of shape {shape}, got {given.shape}")
            self.sure = given > vis_thr

    def by_score(self, people: Ints, values: Floats) -> Ints:
        """People by falling value (N,), of equals the first in the file first."""
        return people[np.lexsort((people, -values[people]))]

    def oks(self, one: int, others: Ints) -> npt.NDArray[np.float32]:
        """OKS of one with others (M,), by the mean of both areas."""
        area = (self.areas[one] + self.areas[others]) / 2
        counted = None if self.sure is None else self.sure[one] & self.sure[others]
        oks = oks_between(self.keypoints[one], self.keypoints[others], area, self.sigmas, counted)
        return oks.astype(np.float32)
