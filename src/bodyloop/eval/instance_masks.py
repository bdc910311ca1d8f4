"""COCO mask evaluation: AP and AR by intersection over union of pixels.

Source: the COCO segmentation protocol as pycocotools 2.0 computes it; bit-equal numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.eval.boxes import BoxReport, detection_report
from bodyloop.eval.documents import Document, opened
from bodyloop.eval.evidence import Similarity
from bodyloop.eval.mask_runs import MaskRuns, common_pixels, read_masks
from bodyloop.eval.protocols import Rules, rules
from bodyloop.eval.reading import GroundTruth, Predictions, ResultSource, Source

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskReport(BoxReport):
    """COCO's twelve detection numbers by mask IoU; -1: nothing to find. AR_n: at most n predictions an image."""


def evaluate_masks(
    ground_truth: Source | Document, results: ResultSource | Document, protocol: str = "standard"
) -> MaskReport:
    """COCO mask AP and AR over all categories of the ground truth.

    Args:
        ground_truth: COCO file or its dict; annotations have ``segmentation``: polygons or run lengths.
        results: COCO results file or list of {image_id, category_id, segmentation {size [h, w], counts},
            score}. If the first one has a ``bbox``, the areas of all (for the size ranges only) are those of
            their boxes, as in pycocotools; otherwise they are counts of pixels.
        protocol: "standard" or the tool whose numbers are to be repeated.

    Raises:
        FileError, InputError: unreadable or malformed files; masks of another size than the annotation's.
        ConfigError: unknown protocol.
    """
    how = rules(protocol)
    truth, annotated, found, predicted = _read(ground_truth, results, how)
    boxed = bool(len(found)) and not np.isnan(found.boxes[0, 0])
    if not boxed:
        found = replace(found, area=predicted.area.astype(np.float64))
    return detection_report(
        MaskReport,
        truth,
        found,
        mask_iou_of_pairs(predicted, annotated, truth.crowd, how),
        how,
        task="segm",
        parameters={"prediction_area": "box" if boxed else "mask"},
    )


def _read(
    ground_truth: Source | Document, results: ResultSource | Document, how: Rules
) -> tuple[GroundTruth, MaskRuns, Predictions, MaskRuns]:
    """Both files and their masks; the parsed files are given up on return."""
    gt, dt = opened(ground_truth, "ground truth"), opened(results, "predictions")
    truth = gt.ground_truth()
    found = dt.predictions(truth, mixed_boxes=how.mixed_boxes)
    pictures = truth.image_sizes
    annotated = read_masks(
        gt.records("annotations"), pictures[truth.image], f"{gt.origin}: annotation", truth.ids
    )
    predicted = read_masks(dt.content, pictures[found.image], f"{dt.origin}: prediction")
    return truth, annotated, found, predicted


def mask_iou_of_pairs(predicted: MaskRuns, truth: MaskRuns, crowd: Bools, how: Rules) -> Similarity:
    """Intersection over union of masks as a function of pairs.

    A crowd's denominator is the prediction's own area. Masks in pictures of different sizes are an
    InputError in the standard protocol; pycocotools counts them as never similar.
    """
    boxes, others = predicted.boxes, truth.boxes

    def similarity(p: Ints, g: Ints) -> Floats:
        differ = (predicted.size[p] != truth.size[g]).any(axis=1)
        if differ.any() and how.name == "standard":
            i = int(np.flatnonzero(differ)[0])
            raise InputError(
                f"prediction number {p[i]} has a mask of size {predicted.size[p[i]].tolist()} [height, width], "
                f"the annotations of its image are of size {truth.size[g[i]].tolist()}; scale the mask"
            )
        meet = (boxes[p, :2] < others[g, 2:]).all(axis=1) & (others[g, :2] < boxes[p, 2:]).all(axis=1)
        q = np.flatnonzero(meet & ~differ)
        common = np.zeros(len(p), np.int64)
        common[q] = common_pixels(predicted, p[q], truth, g[q])
        own = predicted.area[p]
        union = np.where(crowd[g], own, own + truth.area[g] - common)
        out = np.where(differ, -1.0, 0.0)
        np.divide(common, union, out=out, where=common > 0)
        return out

    return similarity
