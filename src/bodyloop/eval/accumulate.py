"""From matches to curves and numbers: precision and recall per category, area range and limit.

One accumulator for keypoints, boxes and masks. `Curves` keeps the arrays in pycocotools' layout with one more
axis for visibility levels (of length 1 where a task has none); `Curves.mean` is the only way numbers are made
from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.eval.matching import Matches, Pairing

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)  # index 8 is 0.8999999999999999, as in pycocotools
RECALL_POINTS: Floats = np.linspace(0.0, 1.0, 101)  # not i/100: some differ in the last bit
EPS = float(np.spacing(1.0))
for _a in (THRESHOLDS, RECALL_POINTS):
    _a.flags.writeable = False

AREA_RANGES: dict[str, tuple[float, float]] = {  # px^2, closed at both ends
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}


@dataclass(frozen=True, eq=False)
class Curves:
    """Precision and recall. T thresholds, V levels, R recall points, C categories, A area ranges, M limits.

    Attributes:
        precision: (T, V, R, C, A, M), -1 where there is nothing to find.
        recall: (T, V, C, A, M).
        scores: (T, V, R, C, A, M) score at which each recall point is reached.
    """

    precision: Floats
    recall: Floats
    scores: Floats

    def mean(
        self, what: str, *, threshold: int | None = None, level: int = 0, area: int = 0, limit: int = -1
    ) -> float:
        """Mean of ``precision`` or ``recall`` over entries that exist; -1 if none does."""
        chosen = slice(None) if threshold is None else slice(threshold, threshold + 1)
        if what == "precision":
            values = self.precision[chosen, level, :, :, area, limit]
        else:
            values = self.recall[chosen, level, :, area, limit]
        values = values[values > -1]
        return float(np.mean(values)) if values.size else -1.0


def outside_ranges(area: Floats, ranges: Sequence[tuple[float, float]]) -> Bools:
    """(A, n) whether each area lies outside each closed range."""
    return np.stack([(area < low) | (area > high) for low, high in ranges])


def accumulate(
    pairing: Pairing,
    levels: Sequence[tuple[Matches, Bools]],
    scores: Floats,
    categories: int,
    limits: Sequence[int],
    thresholds: Floats = THRESHOLDS,
) -> Curves:
    """Precision-recall curves.

    Args:
        levels: per level the matches and (A, G) which annotations (sorted positions) are ignored.
        scores: (P,) of the sorted predictions.
        limits: predictions per image and category, ascending.
    """
    t, v, c, m = len(thresholds), len(levels), categories, len(limits)
    a, r = len(levels[0][1]), len(RECALL_POINTS)
    precision = np.full((t, v, r, c, a, m), -1.0)
    recall = np.full((t, v, c, a, m), -1.0)
    score_at = np.full((t, v, r, c, a, m), -1.0)
    of_prediction = pairing.group_category[pairing.prediction_group]
    of_annotation = pairing.group_category[pairing.annotation_group]
    by_score = np.argsort(-scores, kind="stable")  # one sort for all areas, levels and limits
    for ci in range(c):
        mine = by_score[of_prediction[by_score] == ci]
        here = of_annotation == ci
        for mi, limit in enumerate(limits):
            order = mine[pairing.rank[mine] < limit]
            for vi, (matches, ignored) in enumerate(levels):
                to_find = np.count_nonzero(~ignored[:, here], axis=1)
                for ai in np.flatnonzero(to_find):
                    at = (slice(None), vi, slice(None), ci, ai, mi)
                    precision[at], score_at[at], recall[:, vi, ci, ai, mi] = _curve(
                        matches.annotation[ai], matches.ignored[ai], order, scores[order], int(to_find[ai])
                    )
    return Curves(precision, recall, score_at)


def _curve(
    annotation: npt.NDArray[np.int32], ignored: Bools, order: Ints, scores: Floats, to_find: int
) -> tuple[Floats, Floats, Floats]:
    """Precision (T, R), scores (T, R) and recall (T,) of predictions in this order, by falling score.

    Recall rises at right predictions only, and precision is greatest there: nothing else is looked at.
    """
    t, points = len(annotation), len(RECALL_POINTS)
    precision, score_at, recall = np.zeros((t, points)), np.zeros((t, points)), np.zeros(t)
    if not len(order):
        return precision, score_at, recall
    score_at[:, 0] = scores[0]  # the recall of 0 is there from the first prediction on
    needed = np.searchsorted(np.arange(1, to_find + 1) / to_find, RECALL_POINTS)  # right ones before the last
    for i in range(t):
        counted = ~ignored[i].take(order)
        right = np.flatnonzero(counted & (annotation[i] >= 0).take(order))
        n = len(right)
        recall[i] = n / to_find
        if not n:
            continue
        seen = np.cumsum(counted)[right]
        height = np.arange(1.0, n + 1) / (seen + EPS)
        envelope = np.maximum.accumulate(height[::-1])[::-1]
        reached = needed[: np.searchsorted(needed, n)]
        precision[i, : len(reached)] = envelope[reached]
        score_at[i, 1 : len(reached)] = scores[right[reached[1:]]]
    return precision, score_at, recall
