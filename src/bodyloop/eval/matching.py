"""Who was found: greedy matching of predictions with annotations, over all images at once.

The protocol (pycocotools' `evaluateImg`) walks predictions by falling score and gives each the most similar
annotation that is still free. Here the images of one size class are walked together: round r handles the r-th
prediction of every image, for all thresholds and area ranges in one array operation. Predictions that are
similar to nothing take part in no round.

The similarity comes in as one flat array over pairs (OKS, Ex-OKS, IoU: see the tasks); ignore rules come in
as flags; curves and numbers are left to `accumulate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CLOSEST = 1 - 1e-10  # a similarity of 1 minus rounding still passes a threshold of 1 (pycocotools)
CHUNK = 1_000_000  # similarity cells of one batch of images: bounds the memory


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
    p_key = prediction_category * images + prediction_image
    a_key = annotation_category * images + annotation_image
    order = np.lexsort((-scores, p_key))  # stable: ties stay in file order
    order = order[prediction_category[order] >= 0]
    a_order = np.argsort(a_key, kind="stable")
    keys = np.unique(np.concatenate([p_key[order], a_key]))
    p_group = np.searchsorted(keys, p_key[order])
    a_group = np.searchsorted(keys, a_key[a_order])
    first = np.searchsorted(p_group, np.arange(len(keys) + 1))
    rank = np.arange(len(order)) - first[p_group] if len(order) else np.zeros(0, np.int64)
    kept = rank < limit
    order, p_group, rank = order[kept], p_group[kept], rank[kept]
    p_start = np.searchsorted(p_group, np.arange(len(keys) + 1))
    a_start = np.searchsorted(a_group, np.arange(len(keys) + 1))
    width = np.diff(a_start)[p_group] if len(keys) else np.zeros(0, np.int64)  # annotations per prediction
    row_start = np.concatenate([[0], np.cumsum(width)])
    pair_p = np.repeat(np.arange(len(order)), width)
    pair_a = np.arange(row_start[-1]) - row_start[pair_p] + a_start[p_group[pair_p]]
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
        pair_prediction=pair_p,
        pair_annotation=pair_a,
    )


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
    areas, p, t = len(ignored), len(pairing.predictions), len(thresholds)
    bars = np.minimum(thresholds, CLOSEST)
    found = np.full((areas, t, p), -1, np.int32)
    is_ignored = np.zeros((areas, t, p), bool)
    for rows, first_annotation, cells in _batches(pairing, similarity, float(bars.min(initial=1.0))):
        _rounds(rows, first_annotation, cells, ignored, crowd, bars, found, is_ignored)
    is_ignored |= (found < 0) & outside[:, None, :]
    return Matches(found, is_ignored)


def _batches(pairing: Pairing, similarity: Floats, least: float) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Groups of like size as padded arrays.

    Yields rows (B, D): positions of the predictions that are similar to something, -1 for padding, groups
    with most rows first; the first annotation's position (B,); their similarities (B, D, W), -1 for padding.
    """
    passing = np.zeros(len(pairing.predictions), bool)
    passing[pairing.pair_prediction[similarity >= least]] = True
    rows = np.flatnonzero(passing)
    group = pairing.prediction_group[rows]
    groups, start, depth = np.unique(group, return_index=True, return_counts=True)
    width = np.diff(pairing.annotation_start)[groups]
    place = np.arange(len(rows)) - np.repeat(start, depth)
    size_class = np.ceil(np.log2(np.maximum(width, 1))).astype(np.int64)
    for c in np.unique(size_class):
        members = np.flatnonzero(size_class == c)
        members = members[np.argsort(-depth[members], kind="stable")]
        w = int(width[members].max())
        while len(members):
            d = int(depth[members[0]])
            now, members = np.split(members, [max(1, CHUNK // (d * w))])
            table = np.full((len(now), d), -1, np.int64)
            cells = np.full((len(now), d, w), -1.0)
            b = np.repeat(np.arange(len(now)), depth[now])
            before = np.cumsum(depth[now]) - depth[now]
            r = np.arange(len(b)) + (start[now] - before)[b]
            table[b, place[r]] = rows[r]
            count = width[now][b]  # annotations of each row
            pb = np.repeat(np.arange(len(r)), count)
            k = np.arange(len(pb)) - np.repeat(np.cumsum(count) - count, count)
            begin = pairing.pair_start[groups[now]][b]
            in_group = rows[r] - pairing.prediction_start[groups[now]][b]
            cells[b[pb], place[r][pb], k] = similarity[begin[pb] + in_group[pb] * count[pb] + k]
            yield table, pairing.annotation_start[groups[now]], cells


def _rounds(
    rows: Ints,
    first_annotation: Ints,
    cells: Floats,
    ignored: Bools,
    crowd: Bools,
    bars: Floats,
    found: npt.NDArray[np.int32],
    is_ignored: Bools,
) -> None:
    """Walk the predictions of a batch of groups, one place after the other; writes into found, is_ignored."""
    w = cells.shape[2]
    position = np.minimum(first_annotation[:, None] + np.arange(w), len(crowd) - 1)  # padding is never chosen
    by_similarity = np.argsort(cells, axis=2, kind="stable")  # ascending, of equals the later one last
    key = np.empty(cells.shape, np.int32)  # place in that order: one integer comparison decides
    np.put_along_axis(key, by_similarity, np.broadcast_to(np.arange(w, dtype=np.int32), cells.shape), axis=2)
    counts = np.where(ignored[:, position], 0, w).astype(
        np.int32
    )  # (A, B, W): what counts beats what is ignored
    free = np.ones((w, len(rows), len(ignored), len(bars)), bool)
    for place in range(rows.shape[1]):
        b = int(np.count_nonzero(rows[:, place] >= 0))  # groups are sorted by depth: a prefix
        passes = (cells[:b, place, :, None] >= bars).transpose(1, 0, 2)  # (W, b, T)
        rated = key[:b, place].T[:, :, None] + counts[:, :b].transpose(2, 1, 0)  # (W, b, A)
        best = np.where(free[:, :b] & passes[:, :, None, :], rated[:, :, :, None], -1).max(
            axis=0
        )  # (b, A, T)
        g, a, t = np.nonzero(best >= 0)
        j = by_similarity[g, place, best[g, a, t] % w]
        chosen = position[g, j]
        row = rows[g, place]
        found[a, t, row] = chosen
        is_ignored[a, t, row] = ignored[a, chosen]
        used = ~crowd[chosen]
        free[j[used], g[used], a[used], t[used]] = False
