"""Intervals: what a number would have been on other images of the same kind.

The bootstrap draws images with replacement. A resample is a vector of weights (how often each image was
drawn),
so a statistic is recomputed from per-image records, for all resamples at once: nothing is matched again.
Two models are compared on the same resamples (paired), which removes the luck of the images they share.

AP of a resample is that of the weighted images. (It differs from evaluating copies of the images only where
predictions of one image have equal scores.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.eval.accumulate import EPS, RECALL_POINTS
from bodyloop.eval.evidence import Evidence

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

RESAMPLES = 1000
CELLS = 500_000  # numbers held at once while resampling: 4 MB an array, so that they stay in the cache


@dataclass(frozen=True)
class Interval:
    """A number with its percentile bootstrap interval over images."""

    value: float
    low: float
    high: float
    level: float = 0.95
    resamples: int = RESAMPLES

    def to_json(self) -> dict[str, float | None]:
        """Fields by name; what has no value is null."""
        return plain(asdict(self))

    def __str__(self) -> str:
        return f"{self.value:.4f} ({self.level:.0%}: {self.low:.4f} to {self.high:.4f})"


@dataclass(frozen=True)
class Difference:
    """A paired difference a - b with its interval and the two-sided p-value of "no difference".

    The p-value is twice the smaller share of resamples on one side of 0 (counting the sample itself), so it
    cannot be smaller than 2 / (resamples + 1).
    """

    value: float
    low: float
    high: float
    p_value: float
    level: float = 0.95
    resamples: int = RESAMPLES

    def to_json(self) -> dict[str, float | None]:
        """Fields by name; what has no value is null."""
        return plain(asdict(self))

    def __str__(self) -> str:
        span = f"{self.level:.0%}: {self.low:+.4f} to {self.high:+.4f}"
        return f"{self.value:+.4f} ({span}, p = {self.p_value:.3g})"


def plain(numbers: Mapping[str, float | None]) -> dict[str, float | None]:
    """Numbers for json: None for NaN."""
    return {k: v if v is not None and np.isfinite(v) else None for k, v in numbers.items()}


def draw(images: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """Weights (resamples, images): how often each image is drawn in each resample."""
    if images < 1:
        raise InputError("a bootstrap needs at least one image")
    return rng.multinomial(images, np.full(images, 1 / images), size=resamples).astype(np.float64)


def interval(value: float, samples: Floats, level: float = 0.95) -> Interval:
    """Percentile interval of resampled values (R,); resamples without a value (NaN) are left out."""
    s = samples[np.isfinite(samples)]
    if not len(s):
        return Interval(value, float("nan"), float("nan"), level, 0)
    low, high = np.quantile(s, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, len(s))


def difference(a: float, b: float, a_samples: Floats, b_samples: Floats, level: float = 0.95) -> Difference:
    """Paired difference of two statistics, resampled with the same weights (R,) each."""
    d = a_samples - b_samples
    d = d[np.isfinite(d)]
    if not len(d):
        return Difference(a - b, float("nan"), float("nan"), float("nan"), level, 0)
    low, high = np.quantile(d, [(1 - level) / 2, (1 + level) / 2])
    tail = min(np.count_nonzero(d <= 0), np.count_nonzero(d >= 0))
    p = min(1.0, 2 * (tail + 1) / (len(d) + 1))
    return Difference(a - b, float(low), float(high), float(p), level, len(d))


def shown(value: float | None, interval: Interval | None = None) -> str:
    """A number with its interval, as far as there is either, for tables."""
    if value is None or not np.isfinite(value):
        return "-"
    known = interval is not None and np.isfinite(interval.low)
    return str(interval) if known else f"{value:.4f}"


def ap_samples(
    evidence: Evidence, weights: Floats, *, threshold: int | None = None, level: int = 0, area: str = "all"
) -> Floats:
    """AP of each resample (R,), NaN where a resample has nothing to find.

    Args:
        evidence: of an AP report.
        weights: (R, I) over ``evidence.truth.image_ids``.
        threshold: index of one threshold, None for the mean over all.
    """
    a = evidence.areas.index(area)
    found, pairing = evidence.levels[level], evidence.pairing
    image_of_p = pairing.group_image[pairing.prediction_group]
    image_of_a = pairing.group_image[pairing.annotation_group]
    category_of_p = pairing.group_category[pairing.prediction_group]
    category_of_a = pairing.group_category[pairing.annotation_group]
    scores = evidence.predictions.scores[pairing.predictions]
    by_score = np.argsort(-scores, kind="stable")
    thresholds = slice(None) if threshold is None else slice(threshold, threshold + 1)
    total, terms = np.zeros(len(weights)), np.zeros(len(weights))
    for c in range(len(evidence.truth.category_ids)):
        order = by_score[category_of_p[by_score] == c]
        counted = (category_of_a == c) & ~found.ignored[a]
        per_image = np.bincount(image_of_a[counted], minlength=weights.shape[1]).astype(np.float64)
        to_find = weights @ per_image
        matched = found.matches.annotation[a][thresholds][:, order] >= 0
        ignored = found.matches.ignored[a][thresholds][:, order]
        there = to_find > 0
        total[there] += _weighted_ap(matched, ignored, image_of_p[order], weights, to_find)[there]
        terms += there
    out = np.full(len(weights), np.nan)
    np.divide(total, terms, out=out, where=terms > 0)
    return out


def _weighted_ap(matched: Bools, ignored: Bools, image: Ints, weights: Floats, to_find: Floats) -> Floats:
    """AP (R,) of predictions by falling score, mean over thresholds (T, n). Only right ones change the envelope."""
    out = np.zeros(len(weights))
    step = max(1, CELLS // max(len(image), 1))
    for rows in (slice(i, i + step) for i in range(0, len(weights), step)):
        w = weights[rows]
        everybody = np.cumsum(w[:, image], axis=1)
        for found, void in zip(matched & ~ignored, ignored, strict=True):
            right, left_out = np.flatnonzero(found), np.flatnonzero(void)
            tp = np.cumsum(w[:, image[right]], axis=1)
            nobody = np.cumsum(np.pad(w[:, image[left_out]], ((0, 0), (1, 0))), axis=1)
            seen = everybody[:, right] - nobody[:, np.searchsorted(left_out, right)]
            height = tp / (seen + EPS)
            envelope = np.maximum.accumulate(height[:, ::-1], axis=1)[:, ::-1]
            out[rows] += [_ap(*row) for row in zip(tp, envelope, to_find[rows], strict=True)]
    return out / len(matched)


def _ap(tp: Floats, envelope: Floats, to_find: float) -> float:
    """Mean of the envelope at the recall points; 0 where there is nothing to find."""
    if not to_find:
        return 0.0
    at = np.searchsorted(tp / to_find, RECALL_POINTS, side="left")
    return float(envelope[at[at < len(tp)]].sum()) / len(RECALL_POINTS)


def auroc_samples(p: Floats, y: Bools, image: Ints, weights: Floats) -> Floats:
    """AUROC of each resample (R,), NaN where a class is empty.

    Args:
        p, y: (n,) values and labels; image: (n,) index of each one's image; weights: (R, I).
    """
    order = np.argsort(p, kind="stable")
    first = np.flatnonzero(np.append(True, np.diff(p[order]) > 0)) if len(p) else np.zeros(0, np.int64)
    out = np.full(len(weights), np.nan)
    step = max(1, CELLS // max(len(p), 1))
    for start in range(0, len(weights) if len(p) else 0, step):
        w = weights[start : start + step, image[order]]
        positive = np.add.reduceat(np.where(y[order], w, 0), first, axis=1)
        negative = np.add.reduceat(np.where(y[order], 0, w), first, axis=1)
        below = np.cumsum(negative, axis=1) - negative / 2
        pairs = positive.sum(axis=1) * negative.sum(axis=1)
        wins = (positive * below).sum(axis=1)
        rows = slice(start, start + len(w))
        np.divide(wins, pairs, out=out[rows], where=pairs > 0)
    return out


def ratio_samples(numerator: Floats, denominator: Floats, weights: Floats) -> Floats:
    """Mean over K columns of weighted sums' ratios (R,), as PCK is made; empty columns drop out.

    Args:
        numerator, denominator: (I, K) sums per image.
        weights: (R, I).
    """
    top, bottom = weights @ numerator, weights @ denominator
    there = bottom > 0
    share = np.divide(top, bottom, out=np.zeros_like(top), where=there)
    columns = there.sum(axis=1)
    out = np.full(len(weights), np.nan)
    np.divide(share.sum(axis=1), columns, out=out, where=columns > 0)
    return out


def per_image(values: npt.NDArray[np.generic], image: Ints, images: int) -> Floats:
    """Sums (I, ...) of values (n, ...); image: (n,) index of each one's image."""
    out = np.zeros((images, *values.shape[1:]))
    np.add.at(out, image, values)
    return out


def sums(values: npt.NDArray[np.generic], image: Ints, weights: Floats) -> Floats:
    """Weighted sums (R, ...) of values (n, ...) in each resample."""
    return weights @ per_image(values, image, weights.shape[1])


def mean_samples(values: npt.NDArray[np.generic], image: Ints, weights: Floats) -> Floats:
    """Mean of values (n,) in each resample (R,), NaN where it is empty."""
    with np.errstate(invalid="ignore"):
        return sums(values, image, weights) / sums(np.ones(len(values)), image, weights)
