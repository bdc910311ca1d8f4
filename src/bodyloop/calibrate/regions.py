"""Thresholds of conformal regions, a keypoint at a time, and how the regions do on other photos.

The numerics are `bodyloop.maps.conformal`; here are the decisions: every keypoint has its own threshold from the
photos that show it, and where these are too few to promise anything but the whole window it takes the threshold of
all keypoints together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.eval import bootstrap as boot
from bodyloop.maps.conformal import WHOLE, conformal_quantile

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of M keypoints that are labelled in their window (`conformal_score`).

    Attributes:
        score: (M,); keypoint: (M,) index; image: (M,) image ids.
    """

    score: Floats
    keypoint: Ints
    image: Ints


def fit_thresholds(known: Scores, keypoints: int, alphas: Sequence[float]) -> tuple[Floats, Ints]:
    """Thresholds (A, K) for each alpha, and the photographs (K,) that show each keypoint."""
    values = np.empty((len(alphas), keypoints))
    photographs = np.zeros(keypoints, np.int64)
    for k in range(keypoints):
        mine = known.keypoint == k
        photographs[k] = len(np.unique(known.image[mine]))
        for a, alpha in enumerate(alphas):
            values[a, k] = conformal_quantile(known.score[mine], alpha, known.image[mine])
    for a, alpha in enumerate(alphas):
        few = photographs < (photographs + 1) * (1 - alpha) - 1e-9
        values[a, few] = conformal_quantile(known.score, alpha, known.image)
    return values, photographs


def over_splits(
    known: Scores,
    cells: npt.NDArray[np.float32],
    names: tuple[str, ...],
    alpha: float,
    *,
    fraction: float = 0.5,
    repeats: int = 20,
    seed: int = 0,
) -> list[JudgedRegions]:
    """Fit on a random part of the photos, judge on the others, again and again: what a single split hides.

    Args:
        cells: (M, cells) scores of all cells of each keypoint's map, ascending.
        names: (K,) of the keypoints; fraction: of the photos to fit on.
    """
    rng, ids, out = np.random.default_rng(seed), np.unique(known.image), []
    for _ in range(repeats):
        first = np.isin(known.image, rng.permutation(ids)[: round(fraction * len(ids))])
        part = Scores(known.score[first], known.keypoint[first], known.image[first])
        threshold = fit_thresholds(part, len(names), (alpha,))[0][0][known.keypoint]
        rest = np.flatnonzero(~first)
        share = np.array([np.searchsorted(cells[i], threshold[i], "right") for i in rest]) / cells.shape[1]
        covered = known.score[rest] <= threshold[rest]
        out.append(JudgedRegions(alpha, names, covered, share, known.keypoint[rest], known.image[rest], rest))
    return out


@dataclass(frozen=True, eq=False)
class JudgedRegions:
    """Regions of M keypoints at one alpha.

    Attributes:
        alpha: what they may miss.
        names: (K,) of the keypoints.
        covered: (M,) whether each region holds the truth; share: (M,) its cells over those of the window.
        keypoint, image: (M,); row: (M,) index of each among all scores.
    """

    alpha: float
    names: tuple[str, ...]
    covered: Bools
    share: Floats
    keypoint: Ints
    image: Ints
    row: Ints

    @property
    def coverage(self) -> float:
        """Share of keypoints whose region holds the truth; NaN without any."""
        return float(self.covered.mean()) if len(self.covered) else float("nan")

    @property
    def coverage_of_photographs(self) -> float:
        """What is promised: of each keypoint the mean over photos of the share of people it holds for; mean over
        keypoints."""
        pairs, at, count = np.unique(
            np.stack([self.keypoint, self.image], axis=1), axis=0, return_inverse=True, return_counts=True
        )
        share = np.bincount(at.ravel(), self.covered, len(count)) / count
        photos = np.bincount(pairs[:, 0], minlength=len(self.names))
        held = np.bincount(pairs[:, 0], share, len(self.names))
        return float((held[photos > 0] / photos[photos > 0]).mean()) if len(count) else float("nan")

    @property
    def each(self) -> dict[str, float]:
        """Coverage by keypoint, of those that occur."""
        count = np.bincount(self.keypoint, minlength=len(self.names))
        held = np.bincount(self.keypoint, self.covered, len(self.names))
        return {n: float(h / c) for n, h, c in zip(self.names, held, count, strict=True) if c}

    @property
    def whole(self) -> float:
        """Share of regions that are the whole window."""
        return float((self.share >= WHOLE).mean()) if len(self.share) else float("nan")

    @property
    def median_share(self) -> float:
        """Median share of the window."""
        return float(np.median(self.share)) if len(self.share) else float("nan")

    @property
    def mean_share(self) -> float:
        """Mean share of the window."""
        return float(self.share.mean()) if len(self.share) else float("nan")

    def interval(self, resamples: int, seed: int) -> boot.Interval:
        """Coverage with its bootstrap interval over photos."""
        ids, at = np.unique(self.image, return_inverse=True)
        if not len(ids):
            return boot.interval(float("nan"), np.zeros(0))
        weights = boot.draw(len(ids), np.random.default_rng(seed), resamples)
        return boot.interval(self.coverage, boot.mean_samples(self.covered, at, weights))

    def numbers(self) -> dict[str, float]:
        """By name, NaN where there is none."""
        each = list(self.each.values()) or [float("nan")]
        return {
            "alpha": self.alpha, "keypoints": float(len(self.covered)), "coverage": self.coverage,
            "coverage_of_photographs": self.coverage_of_photographs, "lowest_keypoint": min(each),
            "highest_keypoint": max(each), "median_share": self.median_share, "mean_share": self.mean_share,
            "whole_windows": self.whole,
        }  # fmt: skip
