"""Who was found: greedy matching of predictions with annotations, over all images at once.

The protocol (pycocotools' `evaluateImg`) walks predictions by falling score and gives each the most similar
annotation that is still free. Here all images are walked together: turn r handles the r-th prediction of every
image, for all thresholds and area ranges in one array operation. Only pairs that are similar enough for
some threshold take part, a tenth of all.

The similarity comes in as one flat array over pairs (OKS, Ex-OKS, IoU: see the tasks); ignore rules come in
as flags; curves and numbers are left to `accumulate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint64]

CLOSEST = 1 - 1e-10  # a similarity of 1 minus rounding still passes a threshold of 1 (pycocotools)
BITS = 63  # of an integer: outcomes (area range and threshold) that are worked out at once
ONE, ALL = np.uint64(1), np.uint64(2**64 - 1)


@dataclass(frozen=True, eq=False)
class Pairing:
    """All pairs of prediction and annotation that share image and category.

    A group is one (category, image) that has predictions or annotations; groups are sorted by category, then
    image. Positions below count the sorted predictions and annotations; pairs of a group are a row-major
    block (predictions x annotations).

    Attributes:
        group_category, group_image: (N,) of each group.
        predictions: (P,) index in the file of each sorted prediction: by group, then falling score,
            ties in file order, at most ``limit`` a group.
        rank: (P,) place of a prediction in its group, from 0.
        prediction_group: (P,).
        annotations: (G,) index in the file of each sorted annotation: by group, then file order.
        annotation_group: (G,).
        prediction_start, annotation_start, pair_start: (N + 1,) where each group begins.
        pair_prediction, pair_annotation: (Q,) positions of the pair's two sides.
    """

    group_category: Ints
    group_image: Ints
    predictions: Ints
    rank: Ints
    prediction_group: Ints
    annotations: Ints
    annotation_group: Ints
    prediction_start: Ints
    annotation_start: Ints
    pair_start: Ints
    pair_prediction: Ints
    pair_annotation: Ints

    def group(self, category: int, image: int) -> int | None:
        """The group of a category index and an image index, None if it is empty on both sides."""
        hit = np.flatnonzero((self.group_category == category) & (self.group_image == image))
        return int(hit[0]) if len(hit) else None

    def block(self, values: Floats, group: int) -> Floats:
        """Values (Q,) of the pairs of one group as (predictions, annotations)."""
        shape = (
            int(self.prediction_start[group + 1] - self.prediction_start[group]),
            int(self.annotation_start[group + 1] - self.annotation_start[group]),
        )
        return values[self.pair_start[group] : self.pair_start[group + 1]].reshape(shape)


def pair(
    prediction_image: Ints,
    prediction_category: Ints,
    scores: Floats,
    annotation_image: Ints,
    annotation_category: Ints,
    images: int,
    limit: int,
) -> Pairing:
    """Group predictions and annotations by category and image; list all pairs inside the groups.

    Predictions of category -1 (unknown to the ground truth) are left out. Ties in score keep file order.
    """
    order = np.argsort(-scores, kind="stable")  # of equals the first in the file first
    order = order[prediction_category[order] >= 0]
    p_key = (prediction_category * images + prediction_image)[order]
    by_group = stable_order(p_key)
    order, p_key = order[by_group], p_key[by_group]
    rank = _place(p_key)
    kept = rank < limit
    order, p_key, rank = order[kept], p_key[kept], rank[kept]
    a_key = annotation_category * images + annotation_image
    a_order = stable_order(a_key)
    a_key = a_key[a_order]
    keys = _distinct(np.sort(np.concatenate([p_key, a_key]), kind="stable"))
    p_group, a_group = np.searchsorted(keys, p_key), np.searchsorted(keys, a_key)
    p_start = np.searchsorted(p_key, np.append(keys, np.iinfo(np.int64).max))
    a_start = np.searchsorted(a_key, np.append(keys, np.iinfo(np.int64).max))
    width = np.diff(a_start)[p_group] if len(keys) else np.zeros(0, np.int64)  # annotations per prediction
    row_start = np.concatenate([[0], np.cumsum(width)])
    return Pairing(
        group_category=keys // max(images, 1),
        group_image=keys % max(images, 1),
        predictions=order,
        rank=rank,
        prediction_group=p_group,
        annotations=a_order,
        annotation_group=a_group,
        prediction_start=p_start,
        annotation_start=a_start,
        pair_start=row_start[p_start],
        pair_prediction=np.repeat(np.arange(len(order)), width),
        pair_annotation=np.arange(row_start[-1]) + np.repeat(a_start[p_group] - row_start[:-1], width),
    )


def _distinct(ascending: Ints) -> Ints:
    """The values that occur. (`np.unique` would first import masked arrays, which takes longer than a match.)"""
    return ascending[np.append(True, ascending[1:] != ascending[:-1])] if len(ascending) else ascending


def stable_order(keys: Ints) -> Ints:
    """Stable ascending order of whole numbers from 0 (numpy sorts small integers ten times as fast)."""
    return np.argsort(keys.astype(np.min_scalar_type(keys.max(initial=0))), kind="stable")


def _place(ascending: Ints) -> Ints:
    """How many of the same value stand before each."""
    new = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1]))
    count = np.diff(np.append(new, len(ascending)))
    return np.arange(len(ascending)) - np.repeat(new, count)


@dataclass(frozen=True, eq=False)
class Matches:
    """The outcome for P sorted predictions, A area ranges and T thresholds.

    Attributes:
        annotation: (A, T, P) int32 position of the matched annotation (in the Pairing's order), -1 for none.
        ignored: (A, T, P) bool: neither right nor wrong.
    """

    annotation: npt.NDArray[np.int32]
    ignored: Bools


def match(
    pairing: Pairing,
    similarity: Floats,
    ignored: Bools,
    crowd: Bools,
    outside: Bools,
    thresholds: Floats,
) -> Matches:
    """Match every group greedily, for each area range and threshold.

    Args:
        similarity: (Q,) of the pairs.
        ignored: (A, G) annotations (sorted positions) that are not to be found.
        crowd: (G,) annotations that may be matched any number of times.
        outside: (A, P) predictions whose own area lies outside the range: ignored unless matched.
        thresholds: (T,) least similarity of a match.

    Of the annotations that pass, one that counts goes before one that is ignored, then the most similar one,
    then the later one in the file.
    """
    t = len(thresholds)
    bars = np.minimum(thresholds, CLOSEST)
    c = _candidates(pairing, similarity, float(bars.min(initial=1.0)))
    found = np.full((len(ignored), t, len(pairing.predictions)), -1, np.int32)
    is_ignored = np.repeat(outside[:, None], t, axis=1)
    for low in range(0, t, BITS):
        some = bars[low : low + BITS]
        for first in range(0, len(ignored), BITS // len(some)):
            areas = ignored[first : first + BITS // len(some)]
            chosen = _choose(c, areas, crowd, some)
            for bit, (a, i) in enumerate(np.ndindex(len(areas), len(some))):
                hit = np.flatnonzero(chosen & (ONE << bit))
                row, annotation = c.row[hit], c.annotation[hit]
                found[first + a, low + i, row] = annotation
                is_ignored[first + a, low + i, row] = areas[a, annotation]
    return Matches(found, is_ignored)


@dataclass(frozen=True, eq=False)
class _Candidates:
    """The E pairs that are similar enough for some threshold, in the order in which they are looked at.

    Turn by turn: in the first all groups decide about their best prediction that is similar to something, in the
    second about the next one, and so on. Within a turn the most similar annotation of each prediction comes first
    (of equals the later one in the file), then all second ones. So no two pairs of a step share anything.

    Attributes:
        row, annotation: (E,) sorted positions of the two sides; similarity: (E,).
        steps: per turn, the slices of its steps.
    """

    row: Ints
    annotation: Ints
    similarity: Floats
    steps: list[list[slice]]


def _candidates(pairing: Pairing, similarity: Floats, least: float) -> _Candidates:
    pairs = np.flatnonzero(similarity >= least)
    row, values = pairing.pair_prediction[pairs], similarity[pairs]
    new = np.append(True, row[1:] != row[:-1])[: len(row)]
    count = np.diff(np.append(np.flatnonzero(new), len(row)))
    turn = np.repeat(_place(pairing.prediction_group[row[new]]), count)
    place = np.zeros(len(row), np.int64)
    several = np.flatnonzero(np.repeat(count > 1, count))[::-1]
    several = several[np.lexsort((-values[several], row[several]))]
    place[several] = _place(row[several])
    width = int(place.max(initial=0)) + 1
    step = turn * width + place
    order = stable_order(step)
    ends = np.cumsum(np.bincount(step, minlength=(int(turn.max(initial=-1)) + 1) * width)).tolist()
    slices = [slice(low, high) for low, high in zip([0, *ends], ends, strict=False)]
    return _Candidates(
        row=row[order],
        annotation=pairing.pair_annotation[pairs[order]],
        similarity=values[order],
        steps=[[s for s in slices[i : i + width] if s.stop > s.start] for i in range(0, len(slices), width)],
    )


def _choose(c: _Candidates, ignored: Bools, crowd: Bools, bars: Floats) -> Bits:
    """(E,) for which area ranges (A) and thresholds (T) each pair is a match: bit a * T + t.

    An annotation that is to be found goes before a more similar one that is ignored.
    """
    t = len(bars)
    whole = ONE << np.arange(0, len(ignored) * t, t, dtype=np.uint64)  # a threshold in all area ranges
    passing = np.zeros(len(c.row), np.uint64)
    for i, bar in enumerate(bars):
        passing |= np.where(c.similarity >= bar, whole.sum() << np.uint64(i), 0)
    to_find = np.zeros(len(crowd), np.uint64)
    for bits, row in zip(whole * ((ONE << np.uint64(t)) - ONE), ignored, strict=True):
        to_find |= np.where(row, 0, bits)
    free, stays = np.full(len(crowd), ALL), np.where(crowd, ALL, 0)
    open_ = np.full(int(c.row.max(initial=-1)) + 1, ALL)  # predictions that have no match yet
    chosen = np.zeros(len(c.row), np.uint64)
    of_pair = to_find[c.annotation]
    for steps in c.steps:
        for wanted in (of_pair, ~of_pair):
            for at in steps:
                row, annotation = c.row[at], c.annotation[at]
                taken = passing[at] & wanted[at] & free[annotation] & open_[row]
                chosen[at] |= taken
                open_[row] &= ~taken
                free[annotation] &= ~taken | stays[annotation]
    return chosen
