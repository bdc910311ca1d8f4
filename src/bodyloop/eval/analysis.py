"""What lies behind an average precision: who was found and how well, and which people are hard.

Everything here is derived from the `Evidence` of a report, whatever its similarity is (OKS, Ex-OKS, IoU):
`find` pairs predictions and people at one threshold, `by_size`, `by_overlap` and `by_labelled` split the people
into parts that are judged alone, `precision_curve` gives the curves.

A part is judged as an area range is: people outside it are ignored, and so are predictions that match them. A
false alarm counts in the part of the person that it resembles most; one that resembles nobody counts in every
part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from bodyloop.eval.accumulate import THRESHOLDS, accumulate
from bodyloop.eval.evidence import Evidence, Level, matched_similarities
from bodyloop.eval.matching import match
from bodyloop.geometry import iou

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LENIENT = 0.1
"""From this similarity on a prediction is about a person at all (the matching of Ronchi & Perona, ICCV 2017)."""

SIZES = (32, 64, 96, 128, 192, 256, 512)  # px: roots of areas; 32 and 96 are COCO's own borders
OVERLAPS = (0.1, 0.3, 0.5)  # IoU of boxes


@dataclass(frozen=True, eq=False)
class Found:
    """Who was found at one threshold. All are indices in the files.

    Attributes:
        prediction, annotation: (M,) the pairs whose person counts.
        similarity: (M,) of the pairs.
        alarms: (F,) predictions that match nobody.
        missed: (U,) people who count and whom nothing matches.
    """

    prediction: Ints
    annotation: Ints
    similarity: Floats
    alarms: Ints
    missed: Ints


def find(evidence: Evidence, threshold: float = LENIENT, level: int = 0) -> Found:
    """Match again at one threshold, for people of all sizes."""
    pairing, at = evidence.pairing, evidence.levels[level]
    ignored = at.ignored[evidence.areas.index("all")]
    again = match(
        pairing,
        at.similarity,
        ignored[None],
        evidence.truth.crowd[pairing.annotations],
        _unheard(evidence, level)[None],
        np.array([threshold]),
    )
    to, dropped = again.annotation[0, 0].astype(np.int64), again.ignored[0, 0]
    p = np.flatnonzero((to >= 0) & ~dropped)
    missing = ~ignored
    missing[to[p]] = False
    return Found(
        prediction=pairing.predictions[p],
        annotation=pairing.annotations[to[p]],
        similarity=matched_similarities(pairing, replace(at, matches=again), ~again.ignored),
        alarms=pairing.predictions[(to < 0) & ~dropped],
        missed=pairing.annotations[missing],
    )


def _unheard(evidence: Evidence, level: int) -> Bools:
    """(P,) predictions (sorted positions) that the protocol ignores although they match nobody."""
    m, a = evidence.levels[level].matches, evidence.areas.index("all")
    return np.asarray(m.ignored[a, 0] & (m.annotation[a, 0] < 0))


def most_similar(evidence: Evidence, level: int = 0) -> tuple[Ints, Floats]:
    """For each prediction of the file the most similar person who counts, as index in the file, and how much.

    Returns: (P,) -1 for none (also for predictions that took no part), and (P,) 0 for none.
    """
    pairing, at = evidence.pairing, evidence.levels[level]
    ignored = at.ignored[evidence.areas.index("all")]
    counts = np.flatnonzero(~ignored[pairing.pair_annotation])
    p, s = pairing.pair_prediction[counts], at.similarity[counts]
    order = np.lexsort((s, p))
    last = order[np.flatnonzero(np.diff(p[order], append=-1))]
    who, much = np.full(len(evidence.predictions), -1), np.zeros(len(evidence.predictions))
    who[pairing.predictions[p[last]]] = pairing.annotations[pairing.pair_annotation[counts[last]]]
    much[pairing.predictions[p[last]]] = s[last]
    return who, much


# curves


def precision_curve(evidence: Evidence, threshold: int, level: int = 0) -> Floats:
    """Precision (101,) at the recall points: mean over categories, NaN where there is nothing to find."""
    p = evidence.curves.precision[threshold, level, :, :, evidence.areas.index("all"), -1]
    there = (p > -1).all(axis=0)
    return np.asarray(p[:, there].mean(axis=1)) if there.any() else np.full(len(p), np.nan)


# parts


@dataclass(frozen=True, eq=False)
class Split:
    """People in parts, each judged alone.

    Attributes:
        what: by which the people were split.
        names: B parts; those without people are left out.
        people: (B,) how many count in each.
        ap, ar: (B,) average precision and recall.
        evidence: its ``areas`` are the parts (for resampling).
    """

    what: str
    names: tuple[str, ...]
    people: Ints
    ap: Floats
    ar: Floats
    evidence: Evidence


def split(evidence: Evidence, what: str, names: Sequence[str], part: Ints, level: int = 0) -> Split:
    """Judge parts of the people.

    Args:
        what: by which they are split; names: of the parts.
        part: (G,) index of each annotation's part, in file order; -1 for people in no part.
    """
    pairing, at = evidence.pairing, evidence.levels[level]
    ignored = at.ignored[evidence.areas.index("all")]
    mine = np.where(ignored, -1, part[pairing.annotations])
    people = np.bincount(mine[mine >= 0], minlength=len(names))
    kept = np.flatnonzero(people)
    shown = tuple(names[int(b)] for b in kept)
    who, much = most_similar(evidence, level)
    home = np.where(much >= LENIENT, np.append(part, -1)[who], -1)[pairing.predictions]
    others = mine[None] != kept[:, None]
    outside = ((home >= 0) & (home != kept[:, None])) | _unheard(evidence, level)
    crowd = evidence.truth.crowd[pairing.annotations]
    matches = match(pairing, at.similarity, others, crowd, outside, THRESHOLDS)
    scores = evidence.predictions.scores[pairing.predictions]
    categories = len(evidence.truth.category_ids)
    curves = accumulate(pairing, [(matches, others)], scores, categories, evidence.limits)
    return Split(
        what=what,
        names=shown,
        people=people[kept],
        ap=np.array([curves.mean("precision", area=b) for b in range(len(kept))]),
        ar=np.array([curves.mean("recall", area=b) for b in range(len(kept))]),
        evidence=replace(
            evidence,
            levels=(Level(at.name, at.similarity, others, matches),),
            curves=curves,
            areas=shown,
        ),
    )


def by_size(evidence: Evidence, level: int = 0) -> Split:
    """Parts by the root of the annotation's area in px, finer than COCO's medium and large."""
    names = [
        f"under {SIZES[0]}",
        *(f"{a}–{b}" for a, b in pairwise(SIZES)),
        f"{SIZES[-1]}+",
    ]
    root = np.sqrt(np.maximum(evidence.truth.area, 0))
    return split(evidence, "size", names, np.digitize(root, SIZES), level)


def by_overlap(evidence: Evidence, level: int = 0) -> Split:
    """Parts by the greatest box IoU with another person of the image."""
    first = f"to {OVERLAPS[0]}"
    names = [
        "none",
        first,
        *(f"{a}–{b}" for a, b in pairwise(OVERLAPS)),
        f"{OVERLAPS[-1]}+",
    ]
    overlap = nearest_overlap(evidence)
    return split(
        evidence, "overlap", names, np.where(overlap > 0, 1 + np.digitize(overlap, OVERLAPS), 0), level
    )


def by_labelled(evidence: Evidence, level: int = 0) -> Split:
    """Parts by the number of labelled keypoints (flags 1 and 2), in quarters of K."""
    points = evidence.truth.keypoints
    if points is None:
        return split(evidence, "labelled keypoints", (), np.full(len(evidence.truth.ids), -1), level)
    edges = np.unique(np.ceil(points.shape[1] * np.arange(5) / 4).astype(np.int64))
    labelled = ((points[..., 2] > 0) & (points[..., 2] < 3)).sum(axis=1)
    names = [f"{a + 1}–{b}" if b > a + 1 else str(b) for a, b in pairwise(edges)]
    return split(evidence, "labelled keypoints", names, np.digitize(labelled, edges[1:] + 1), level)


def nearest_overlap(evidence: Evidence) -> Floats:
    """(G,) greatest box IoU of each annotation with another one of its image and category; crowds aside."""
    truth = evidence.truth
    out = np.zeros(len(truth.ids))
    xyxy = np.concatenate([truth.boxes[:, :2], truth.boxes[:, :2] + truth.boxes[:, 2:]], axis=1)
    start, order = evidence.pairing.annotation_start, evidence.pairing.annotations
    for g in np.flatnonzero(np.diff(start) > 1):
        here = order[start[g] : start[g + 1]]
        here = here[~truth.crowd[here]]
        if len(here) > 1:
            between = iou(xyxy[here], xyxy[here])
            np.fill_diagonal(between, 0)
            out[here] = between.max(axis=1)
    return out
