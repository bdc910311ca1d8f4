"""What is wrong with each keypoint, and what each kind of mistake costs.

Source: Ronchi & Perona, "Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation" (ICCV 2017). A
predicted keypoint is judged by its similarity ks = exp(-d^2 / (2 (2 sigma)^2 area)) to labelled places:

* good: ks >= 0.85 to its own place (above it, people who label disagree as much).
* jitter: 0.5 <= ks < 0.85 (0.5 is the lowest threshold of COCO's AP).
* inversion: below 0.5, but ks >= 0.5 to the same body's other side (its left ankle on the right one).
* swap: below 0.5, but ks >= 0.5 to the same joint, or its other side, of somebody else.
* miss: ks < 0.5 to all of these.

What is similar to both is the more similar one. Predictions and people are matched at OKS 0.1, lower than AP
does, so that bad poses are seen, too. `repairs` puts one kind right everywhere and judges the file again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.eval.analysis import find, most_similar
from bodyloop.eval.evidence import APReport, Evidence
from bodyloop.eval.reading import GroundTruth, Predictions
from bodyloop.eval.similarity import OUT
from bodyloop.oks import keypoint_similarity
from bodyloop.skeletons import SKELETONS, Skeleton

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

GOOD, NEAR = 0.85, 0.5
KINDS = ("good", "jitter", "inversion", "swap", "miss")
PAIRS_AT_ONCE = 50_000  # bounds the memory of the distances

Rows = TypeVar("Rows", GroundTruth, Predictions)

Judge = Callable[[GroundTruth, Predictions], APReport]
"""Judges files as the report at hand was made; for `repairs`."""


@dataclass(frozen=True, eq=False)
class Mistakes:
    """The keypoints of M people who were found, one by one.

    Attributes:
        skeleton: K keypoints.
        prediction, annotation: (M,) indices in the files.
        oks: (M,) similarity of the pair, as the evaluation measures it.
        similarity: (M, K) of each keypoint to its labelled place, NaN where nothing is labelled.
        distance: (M, K) px from the labelled place over the root of the person's area, NaN likewise.
        kind: (M, K) index into `KINDS`, -1 where nothing is labelled.
        alarms: (F,) predictions that match nobody, neither at OKS 0.1 nor at a threshold of the AP.
        missed: (U,) people whom nothing matches, likewise.
    """

    skeleton: Skeleton
    prediction: Ints
    annotation: Ints
    oks: Floats
    similarity: Floats
    distance: Floats
    kind: Ints
    alarms: Ints
    missed: Ints

    @property
    def counts(self) -> Ints:
        """(K, 5) labelled keypoints of each kind."""
        return np.stack([(self.kind == i).sum(axis=0) for i in range(len(KINDS))], axis=1)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each kind among all labelled keypoints of the people found; NaN if there are none."""
        total = self.counts.sum(axis=0)
        share = total / total.sum() if total.sum() else np.full(len(KINDS), np.nan)
        return dict(zip(KINDS, share.tolist(), strict=True))

    def to_json(self) -> dict[str, object]:
        """Shares and counts as plain json."""
        each = {
            k: dict(zip(KINDS, c, strict=True))
            for k, c in zip(self.skeleton.keypoints, self.counts.tolist(), strict=True)
        }
        return {
            "people_found": len(self.annotation), "people_missed": len(self.missed),
            "false_alarms": len(self.alarms), "keypoints": self.shares, "each": each,
        }  # fmt: skip


def skeleton_of(truth: GroundTruth, keypoints: int, sigmas: npt.ArrayLike | None = None) -> Skeleton:
    """The skeleton of a file of K keypoints.

    The known one that has the file's names or, where the file names none, as many keypoints as no other; if
    there is none, the file's names (or numbers) without links. ``sigmas`` (K,) replace the known ones.
    """
    names = truth.keypoint_names if len(truth.keypoint_names) == keypoints else ()
    if names:
        fitting = [s for s in SKELETONS.values() if s.keypoints == names]
    else:
        fitting = [s for s in SKELETONS.values() if len(s) == keypoints]
    if len(fitting) == 1:
        found = fitting[0]
    else:
        found = Skeleton.define("file", names or [f"keypoint_{i + 1}" for i in range(keypoints)])
    return found if sigmas is None else replace(found, sigmas=tuple(np.asarray(sigmas, np.float64).tolist()))


def diagnose(evidence: Evidence, skeleton: Skeleton, *, labelled: Bools | None = None) -> Mistakes:
    """Find the kind of every labelled keypoint of the people who were found.

    Args:
        evidence: of an evaluation of keypoints.
        skeleton: names (for left and right) and sigmas of the K keypoints.
        labelled: (G, K) keypoints whose places are known; by default all flags > 0.

    Raises:
        InputError: files that were read without keypoints, or with another number of them.
    """
    truth, predictions = evidence.truth, evidence.predictions
    if truth.keypoints is None or predictions.keypoints is None or truth.keypoints.shape[1] != len(skeleton):
        raise InputError(f"{truth.origin}: kinds of mistakes need files read with {len(skeleton)} keypoints")
    known = truth.keypoints[..., 2] > 0 if labelled is None else labelled
    found, matched = find(evidence), _ever_matched(evidence)
    p, g = found.prediction, found.annotation
    at, place, area = predictions.keypoints[p, :, :2], truth.keypoints[..., :2], truth.area
    ks = np.where(known[g], keypoint_similarity(at, place[g], area[g], skeleton.sigma_array), np.nan)
    away = np.linalg.norm(at - place[g], axis=2) / np.sqrt(np.maximum(area[g], 1))[:, None]
    mirror, mirrored = skeleton.flip, skeleton.flip != np.arange(len(skeleton))
    sigmas = skeleton.sigma_array[mirror]
    other_side = keypoint_similarity(at, place[g][:, mirror], area[g], sigmas)
    other_side = np.where(known[g][:, mirror] & mirrored, other_side, 0)
    others = _of_others(evidence, found.prediction, found.annotation, known, skeleton)
    kind = np.select(
        [np.isnan(ks), ks >= GOOD, ks >= NEAR, (other_side >= NEAR) & (other_side >= others), others >= NEAR],
        [-1, 0, 1, 2, 3],
        4,
    )
    return Mistakes(
        skeleton=skeleton,
        prediction=p,
        annotation=g,
        oks=found.similarity,
        similarity=ks,
        distance=np.where(known[g], away, np.nan),
        kind=kind.astype(np.int64),
        alarms=np.setdiff1d(found.alarms, matched[0]),
        missed=np.setdiff1d(found.missed, matched[1]),
    )


def _ever_matched(evidence: Evidence) -> tuple[Ints, Ints]:
    """Predictions and annotations that some threshold matches: a worse prediction of higher score may have
    taken the person at OKS 0.1."""
    matched = evidence.levels[0].matches.annotation[evidence.areas.index("all")]
    p = np.flatnonzero((matched >= 0).any(axis=0))
    g = np.unique(matched[matched >= 0])
    return evidence.pairing.predictions[p], evidence.pairing.annotations[g]


def _of_others(
    evidence: Evidence, prediction: Ints, annotation: Ints, known: Bools, skeleton: Skeleton
) -> Floats:
    """(M, K) greatest similarity of each keypoint to the same joint, or its other side, of somebody else."""
    truth, predictions, pairing = evidence.truth, evidence.predictions, evidence.pairing
    assert truth.keypoints is not None and predictions.keypoints is not None
    row = np.full(len(predictions), -1)
    row[prediction] = np.arange(len(prediction))
    m = row[pairing.predictions[pairing.pair_prediction]]
    g = pairing.annotations[pairing.pair_annotation]
    own = np.append(annotation, -1)[m]
    wanted = np.flatnonzero((m >= 0) & (own != g) & ~truth.crowd[g] & known[g].any(axis=1))
    out, area = np.zeros((len(prediction), len(skeleton))), truth.area
    for start in range(0, len(wanted), PAIRS_AT_ONCE):
        some = wanted[start : start + PAIRS_AT_ONCE]
        rows, people = m[some], g[some]
        at = predictions.keypoints[prediction[rows], :, :2]
        for joint in (np.arange(len(skeleton)), skeleton.flip):
            place = truth.keypoints[people][:, joint, :2]
            ks = keypoint_similarity(at, place, area[people], skeleton.sigma_array[joint])
            np.maximum.at(out, rows, np.where(known[people][:, joint], ks, 0))
    return out


# what each kind costs


REPAIRS = (*KINDS[1:], "all keypoints", "presence", "scores", "false alarms", "missed people")


def repairs(
    evidence: Evidence, mistakes: Mistakes, judge: Judge, *, flags: Floats | None = None
) -> dict[str, float]:
    """AP as it would be if one kind of mistake were put right, all else being as it is.

    Args:
        flags: (G, K) with windows: 3 for keypoints that are out, 1 or 2 for those that are in, 0 for unlabelled.

    Returns: by name of `REPAIRS`. "jitter" ... "miss": the keypoints of that kind lie where they are labelled
    ("all keypoints": those of all four). "presence", with flags: predictions say of every labelled keypoint
    rightly whether it is in. "scores": predictions are ranked by how similar they are to the
    person they resemble most. "false alarms": without the predictions that match nobody. "missed people":
    without the people whom nothing matches.
    """
    truth, predictions = evidence.truth, evidence.predictions
    assert truth.keypoints is not None and predictions.keypoints is not None

    def moved(which: Bools) -> Predictions:
        points = np.array(predictions.keypoints)
        m, k = np.nonzero(which)
        assert truth.keypoints is not None
        points[mistakes.prediction[m], k, :2] = truth.keypoints[mistakes.annotation[m], k, :2]
        return replace(predictions, keypoints=points)

    def ap(t: GroundTruth, p: Predictions) -> float:
        return judge(t, p).evidence.curves.mean("precision")

    out = {name: ap(truth, moved(mistakes.kind == i)) for i, name in enumerate(KINDS) if i}
    out["all keypoints"] = ap(truth, moved(mistakes.kind > 0))
    if flags is not None and (flags == OUT).any():
        out["presence"] = ap(truth, _with_presence(predictions, mistakes, flags))
    out["scores"] = ap(truth, replace(predictions, scores=most_similar(evidence)[1]))
    out["false alarms"] = ap(truth, without(predictions, mistakes.alarms))
    out["missed people"] = ap(without(truth, mistakes.missed), predictions)
    return out


def _with_presence(predictions: Predictions, mistakes: Mistakes, flags: Floats) -> Predictions:
    """Predictions that are sure, and right, about what is in and out."""
    assert predictions.keypoints is not None
    mine = flags[mistakes.annotation]
    points = np.array(predictions.keypoints)
    columns = [points[..., 2]] + ([] if predictions.presence is None else [np.array(predictions.presence)])
    for column in columns:
        rows = column[mistakes.prediction]
        column[mistakes.prediction] = np.where(mine > 0, mine != OUT, rows)
    return replace(predictions, keypoints=points, presence=columns[1] if columns[1:] else None)


def without(source: Rows, rows: Ints) -> Rows:
    """Ground truth or predictions without some annotations or predictions (indices in the file)."""
    n = len(source.ids) if isinstance(source, GroundTruth) else len(source.scores)
    per_image = ("image_ids", "image_sizes", "category_ids")
    kept = np.delete(np.arange(n), rows)
    columns: dict[str, Any] = {
        name: value[kept]
        for name, value in vars(source).items()
        if isinstance(value, np.ndarray) and len(value) == n and name not in per_image
    }
    return replace(source, **columns)
