"""The evaluation that ProbPose's numbers were published with: exococotools' rules, and what its run adds.

Its tables have plain and extended AP, each also with matching by boxes and without keypoints at the border of the
box; flags are always recomputed; the threshold on presence may be tuned on the test set. Before that, people get
a score, duplicates go, and OKS-NMS thins them out. All this is for comparison with those tables; own results
are judged by `evaluate_extended`.

Source: the numbers of ProbPose_code's evaluator, which these functions repeat; ties in the NMS go by index here
(they are undefined there).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError
from bodyloop.eval.assigned import assign
from bodyloop.eval.evidence import Matcher
from bodyloop.eval.extended import CONFIDENCE, ExtendedReport, Extension, by_levels, flags_of
from bodyloop.eval.keypoints import keypoints_of, read_both
from bodyloop.eval.matching import CLOSEST, Matches, Pairing, match
from bodyloop.eval.presence import published_threshold
from bodyloop.eval.protocols import rules
from bodyloop.eval.reading import GroundTruth, Predictions, ResultSource, Source
from bodyloop.eval.similarity import OUT
from bodyloop.geometry import PADDING
from bodyloop.interop import mean_of_counted
from bodyloop.oks import NMS_THRESHOLD, oks_nms
from bodyloop.skeletons import COCO, Skeleton

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Mode = Literal["bbox_keypoint", "bbox", "keypoint", "bbox_rle"]

BORDER = 0.05  # of the box's sides: keypoints nearer to them are border points
REACH = 20.0  # px (|dx| + |dy|) within which the centres of matching boxes lie
NEVER_TUNED = -1.0  # the threshold where there is nothing to tune on: whatever is said counts as "in"


def evaluate_probpose(
    ground_truth: Source | GroundTruth,
    results: ResultSource | Predictions,
    sigmas: npt.ArrayLike | Skeleton = COCO,
    *,
    plain: bool = False,
    match_boxes: bool = False,
    ignore_border: bool = False,
    confidence_threshold: float | None = CONFIDENCE,
    padding: float = PADDING,
) -> ExtendedReport:
    """One run of ProbPose's evaluation; `published_numbers` names its numbers as the tables do.

    Args:
        ground_truth, results, sigmas, padding: as in `evaluate_extended`.
        plain: the run without windows (its tables have both).
        match_boxes: predictions go to the annotation with the nearest box among those that are similar enough.
        ignore_border: keypoints near a side of their box are unlabelled.
        confidence_threshold: None: tuned on these very files, as published; predictions need annotation ids.

    Raises:
        FileError, InputError: unreadable or malformed files, no annotation ids where they are needed.
        ConfigError: numbers that make no sense.
    """
    how = rules("exococotools")
    truth, found, sig = read_both(ground_truth, results, sigmas, how)
    if ignore_border:
        truth = without_border_points(truth)
    extension = Extension(padding, CONFIDENCE, recompute_flags=True, plain=plain)
    if confidence_threshold is None:
        confidence_threshold = (
            CONFIDENCE if plain else tuned_threshold(truth, found, flags_of(truth, extension, how))
        )
    extension = replace(extension, confidence_threshold=confidence_threshold)
    matcher = by_boxes(truth, found) if match_boxes else match
    report = by_levels(truth, found, sig, how, extension, matcher)
    variant = {"match_boxes": match_boxes, "ignore_border": ignore_border}
    return replace(report, task="probpose", parameters={**report.parameters, **variant})


def published_numbers(report: ExtendedReport) -> dict[str, float | None]:
    """Numbers of `evaluate_probpose` by the names of the published tables, such as ``Ex_bbox_AP (M)_NoBrd``."""
    told = report.parameters
    before = ("" if told["mode"] == "plain" else "Ex_") + ("bbox_" if told["match_boxes"] else "")
    after = "_NoBrd" if told["ignore_border"] else ""
    return {
        before + _tool_name(name) + after: value
        for name, value in report.numbers.items()
        if name == "OKS" or (name != "OKS_matched" and value is not None)
    }


def _tool_name(name: str) -> str:
    short, rest = name[:2], name[2:].lstrip("_")
    if not rest or name == "OKS":
        return name
    return f"{short} .{rest.rstrip('0')}" if rest.isdigit() else f"{short} ({rest.replace('v', 'v=')})"


# ------------------------------------------------------------------ variants


def without_border_points(truth: GroundTruth, share: float = BORDER) -> GroundTruth:
    """The same annotations; keypoints nearer to a side of their box than ``share`` of its size are unlabelled."""
    assert truth.keypoints is not None
    x, y = truth.keypoints[..., 0], truth.keypoints[..., 1]
    x0, y0, w, h = truth.boxes.T[..., None]
    x1, y1, wide, high = x0 + w, y0 + h, share * w, share * h
    beside = (y >= y0 - high) & (y <= y1 + high)
    above = (x >= x0 - wide) & (x <= x1 + wide)
    at_border = beside & ((np.abs(x - x0) < wide) | (np.abs(x - x1) < wide))
    at_border |= above & ((np.abs(y - y0) < high) | (np.abs(y - y1) < high))
    points = truth.keypoints.copy()
    points[at_border, 2] = 0
    return replace(truth, keypoints=points)


def by_boxes(truth: GroundTruth, found: Predictions, reach: float = REACH) -> Matcher:
    """A matcher that prefers the nearest box centre to the greatest similarity.

    Of the annotations that are similar enough and whose centre is less than ``reach`` px away (|dx| + |dy|), the
    nearest is taken, of equals the first in the file; all else is as in `match`.
    """
    mine, theirs = _centres(_boxes_of(found)), _centres(truth.boxes)

    def matcher(
        pairing: Pairing, similarity: Floats, ignored: Bools, crowd: Bools, outside: Bools, thresholds: Floats
    ) -> Matches:
        p, g = pairing.pair_prediction, pairing.pair_annotation
        gap = np.abs(mine[pairing.predictions[p]] - theirs[pairing.annotations[g]]).sum(axis=1)
        order = np.lexsort((g, gap))
        preference = np.empty(len(gap))
        preference[order] = np.linspace(
            1, 0.5, len(gap), endpoint=False
        )  # unlike each other, the nearest first
        done = []
        for bar in np.minimum(thresholds, CLOSEST):
            allowed = (similarity >= bar) & (gap < reach)
            values = np.where(allowed, preference, 0)
            done.append(match(pairing, values, ignored, crowd, outside, thresholds[:1]))
        return Matches(
            *(np.concatenate([getattr(m, n) for m in done], axis=1) for n in ("annotation", "ignored"))
        )

    return matcher


def _boxes_of(found: Predictions) -> Floats:
    """(P, 4) x y w h: as given where the first prediction has a box, else around the keypoints."""
    if len(found) and not np.isnan(found.boxes[0, 0]):
        return found.boxes
    assert found.keypoints is not None
    low, high = found.keypoints[..., :2].min(axis=1), found.keypoints[..., :2].max(axis=1)
    return np.concatenate([low, high - low], axis=1)


def _centres(boxes: Floats) -> Floats:
    return np.asarray(boxes[:, :2] + boxes[:, 2:] / 2)


def tuned_threshold(truth: GroundTruth, found: Predictions, flags: Floats) -> float:
    """The threshold on the third numbers that the published run tunes on the very files that it judges.

    Args:
        truth, found: read with keypoints; predictions have the ids of the annotations they were made for.
        flags: (G, K) 3 for out of the window; 0 is left out.

    Returns: the first of 0, 0.05, ..., 1 with which most keypoints are judged rightly; -1, with which all are "in",
        if no labelled keypoint is out, or none is in.

    Raises:
        InputError: no annotation ids, or such that do not fit.
    """
    pairs = assign(truth, found, np.ones(flags.shape[1]), "id")
    assert found.keypoints is not None
    said, flags = found.keypoints[pairs.prediction, :, 2], flags[pairs.annotation]
    inside = flags[flags > 0] < OUT
    if inside.all() or not inside.any():
        return NEVER_TUNED
    return published_threshold(said[flags > 0], inside)[0]


# ------------------------------------------------------------------ before the evaluation


_SCORES: Mapping[str, Callable[[Floats, Floats, Bools], Floats]] = {
    "bbox_keypoint": lambda box, each, counted: box * mean_of_counted(each, counted),
    "bbox": lambda box, each, counted: box,
    "keypoint": lambda box, each, counted: each.mean(axis=1),
    "bbox_rle": lambda box, each, counted: box + each.mean(axis=1) + each.max(axis=1),
}


def published_scores(
    mode: Mode,
    box_scores: npt.ArrayLike,
    keypoint_scores: npt.ArrayLike,
    *,
    presence: npt.ArrayLike | None = None,
    threshold: float = 0.2,
) -> Floats:
    """(N,) score of each person, in one of the published ways.

    Args:
        mode: "bbox_keypoint": box score times the mean score of the keypoints that count; "bbox"; "keypoint": mean
            score of all keypoints; "bbox_rle": box score + mean + greatest keypoint score.
        box_scores: (N,); keypoint_scores: (N, K).
        presence: (N, K); keypoints count by it if it is given, else by their scores.
        threshold: keypoints above it count (0.45 in ProbPose's runs, which go by presence).

    Raises:
        ConfigError: an unknown mode.
    """
    if mode not in _SCORES:
        raise ConfigError(f"unknown mode {mode!r}; known: {', '.join(get_args(Mode))}")
    box, each = np.asarray(box_scores, np.float64), np.asarray(keypoint_scores, np.float64)
    counted = (each if presence is None else np.asarray(presence, np.float64)) > threshold
    return np.asarray(_SCORES[mode](box, each, counted))


def thin_out(
    found: Predictions,
    sigmas: npt.ArrayLike | Skeleton = COCO,
    *,
    threshold: float = NMS_THRESHOLD,
    vis_thr: float | None = None,
) -> Ints:
    """Which predictions a published run would write: without duplicates, thinned out by OKS-NMS in each image.

    Duplicates are predictions of one image with the same annotation id (if they have ids); the first stays.

    Args:
        threshold, vis_thr: of `oks_nms`; areas are those around the keypoints.

    Returns: ascending indices of predictions.
    """
    sig = sigmas.sigma_array if isinstance(sigmas, Skeleton) else np.asarray(sigmas, np.float64)
    points = keypoints_of(found, len(sig))
    left = np.arange(len(found))
    if found.annotation_ids is not None:
        _, left = np.unique(np.stack([found.image, found.annotation_ids]), axis=1, return_index=True)
    sides = points[..., :2].max(axis=1) - points[..., :2].min(axis=1)
    area = sides[:, 0] * sides[:, 1]
    kept = [np.zeros(0, np.int64)]
    for image in np.unique(found.image[left]):
        i = np.sort(left[found.image[left] == image])
        best = oks_nms(
            points[i, :, :2], found.scores[i], area[i], sig, threshold,
            confidences=points[i, :, 2], vis_thr=vis_thr,
        )  # fmt: skip
        kept.append(i[best])
    return np.sort(np.concatenate(kept))
