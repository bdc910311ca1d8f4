"""CrowdPose: keypoint AP over all images, and over those that are easy, medium and hard by how crowded they are.

COCO's protocol with 14 keypoints, areas of 0.53 times the box (the files have none), and persons counted by the
file's ``num_keypoints``. The classes go by ``crowdIndex`` of the image; who is matched with whom does not depend
on other images, so their APs are the same matches, accumulated over fewer images.

Source: Li et al., "CrowdPose" (CVPR 2019), as the public evaluators compute it: they part the classes at 0.2 and
0.8, the paper says 0.1 and 0.8.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bodyloop.eval.accumulate import THRESHOLDS, accumulate
from bodyloop.eval.documents import Document, opened
from bodyloop.eval.evidence import APReport, Evidence
from bodyloop.eval.keypoints import as_sigmas, file_warnings, judge_keypoints, read_both
from bodyloop.eval.matching import Matches
from bodyloop.eval.protocols import rules
from bodyloop.eval.reading import Predictions, ResultSource, Source, integers, numbers
from bodyloop.skeletons import CROWDPOSE_14, Skeleton

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FILL = 0.53  # the share of a person's box that the person fills, as in COCO on average
CLASSES = {"easy": (-np.inf, 0.2), "medium": (0.2, 0.8), "hard": (0.8, np.inf)}  # low <= crowdIndex < high
ROUNDED = ("xtcocotools", "exococotools")  # whose class APs have 4 decimals and average missing entries as -1


@dataclass(frozen=True, eq=False, kw_only=True)
class CrowdPoseReport(APReport):
    """AP and AR over all images, and AP of the images of each class; -1: nothing to find."""

    names: ClassVar[tuple[str, ...]] = (
        "AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP_easy", "AP_medium", "AP_hard",
    )  # fmt: skip
    AP: float
    AP50: float
    AP75: float
    AR: float
    AR50: float
    AR75: float
    AP_easy: float
    AP_medium: float
    AP_hard: float


def evaluate_crowdpose(
    ground_truth: Source | Document,
    results: ResultSource | Predictions,
    sigmas: npt.ArrayLike | Skeleton = CROWDPOSE_14,
    protocol: str = "standard",
) -> CrowdPoseReport:
    """CrowdPose's AP and AR.

    Args:
        ground_truth: CrowdPose file or its dict; ``crowdIndex`` of its images is read, ``area`` is not.
        results: COCO results file or list of {image_id, category_id, score, keypoints (3K numbers)}.
        sigmas: K numbers, or the skeleton that has them.
        protocol: "standard", or "xtcocotools" for its numbers: class APs of 4 decimals, with -1 among the values
            averaged, and predictions dropped whose third numbers are all <= 0.

    Raises:
        FileError, InputError: unreadable or malformed files.
        ConfigError: unknown protocol, sigmas that are not positive numbers.
    """
    how = replace(
        rules(protocol), count_flags=False
    )  # the file counts visible joints: only they make a person
    document = opened(ground_truth, "ground truth")
    truth = document.ground_truth(keypoints=len(as_sigmas(sigmas)), need_area=False)
    truth = replace(truth, area=truth.boxes[:, 2] * truth.boxes[:, 3] * FILL)
    classes = crowd_classes(document)
    truth, found, sig = read_both(truth, results, sigmas, how)
    report = judge_keypoints(truth, found, sig, how)
    sizes = {name: int(np.count_nonzero(images)) for name, images in classes.items()}
    unknown = len(truth.image_ids) - sum(sizes.values())
    note = (f"{unknown} images without crowdIndex belong to no class",) if unknown else ()
    aps = {name: class_ap(report.evidence, images, how.name in ROUNDED) for name, images in classes.items()}
    uncounted = np.full(len(truth.ids), -1.0)  # num_keypoints differs from the flags by intention: no warning
    return CrowdPoseReport(
        task="crowdpose",
        protocol=how.name,
        parameters={**report.parameters, "area": f"{FILL} w h", "classes": {"medium": 0.2, "hard": 0.8}},
        counts={**report.counts, **{f"{name} images": n for name, n in sizes.items()}},
        warnings=file_warnings(replace(truth, num_keypoints=uncounted), found, how) + note,
        evidence=report.evidence,
        **{name: getattr(report, name) for name in ("AP", "AP50", "AP75", "AR", "AR50", "AR75")},
        AP_easy=aps["easy"],
        AP_medium=aps["medium"],
        AP_hard=aps["hard"],
    )


def crowd_classes(document: Document) -> dict[str, Bools]:
    """Which images (I,) of a ground truth, by ascending id, belong to each of `CLASSES`."""
    images, where = document.records("images"), f"{document.origin}: image"
    order = np.argsort(integers(images, "id", where), kind="stable")
    crowded = numbers(images, "crowdIndex", where, (), default=np.nan)[order]
    return {name: (low <= crowded) & (crowded < high) for name, (low, high) in CLASSES.items()}


def class_ap(evidence: Evidence, images: Bools, rounded: bool, thresholds: Floats = THRESHOLDS) -> float:
    """AP over some images (I,): their matches stay, all else leaves the curves.

    Args:
        rounded: to 4 decimals, entries without anything to find counted as -1 (xtcocotools).
        thresholds: of the evidence.
    """
    pairing, level = evidence.pairing, evidence.levels[0]
    there = images[pairing.group_image]
    matches = Matches(level.matches.annotation[:1], level.matches.ignored[:1])
    curves = accumulate(
        replace(pairing, group_category=np.where(there, pairing.group_category, -1)),
        [(matches, level.ignored[:1])],
        evidence.predictions.scores[pairing.predictions],
        len(evidence.truth.category_ids),
        evidence.limits,
        thresholds,
    )
    if rounded and curves.precision.size:
        return round(float(np.mean(curves.precision)), 4)
    return curves.mean("precision")
