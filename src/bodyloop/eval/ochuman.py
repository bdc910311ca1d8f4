"""OCHuman: heavily occluded people, judged by COCO's keypoint protocol and, where there are masks, by mask AP.

The set's COCO-style files have areas of boxes (w h), so OKS is milder there than on COCO, and leave out people
who have a box only: finding those counts as a mistake. Both belong to the published protocol.

Source: Zhang et al., "Pose2Seg" (CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy.typing as npt

from bodyloop.eval.documents import Document, opened
from bodyloop.eval.instance_masks import MaskReport, evaluate_masks
from bodyloop.eval.keypoints import KeypointReport, as_sigmas, judge_keypoints, read_both
from bodyloop.eval.protocols import rules
from bodyloop.eval.reading import Record, ResultSource, Source
from bodyloop.skeletons import COCO, Skeleton


@dataclass(frozen=True, eq=False, kw_only=True)
class OCHumanReport(KeypointReport):
    """COCO's ten keypoint numbers, and the twelve of masks where both files have some.

    Attributes:
        masks: the report of the masks, None if they were not judged.
    """

    masks: MaskReport | None = None

    @property
    def numbers(self) -> dict[str, float | None]:
        """The keypoints' numbers, then the masks' as ``mask_AP``."""
        masks = {} if self.masks is None else self.masks.numbers
        return super().numbers | {f"mask_{name}": v for name, v in masks.items()}


def evaluate_ochuman(
    ground_truth: Source | Document,
    results: ResultSource | Document,
    sigmas: npt.ArrayLike | Skeleton = COCO,
    protocol: str = "standard",
    *,
    masks: ResultSource | Document | None = None,
) -> OCHumanReport:
    """Keypoint AP on OCHuman, and mask AP if there are masks.

    Args:
        ground_truth: OCHuman's COCO-style file or its dict; a person may have a ``segmentation``.
        results: COCO results with keypoints; masks are judged, too, if all have a ``segmentation`` and all
            persons do.
        sigmas: K numbers, or the skeleton that has them.
        protocol: "standard" or the tool whose numbers are to be repeated.
        masks: COCO results with masks, where they stand in a file of their own.

    Raises:
        FileError, InputError: unreadable or malformed files.
        ConfigError: unknown protocol, sigmas that are not positive numbers.
    """
    how = rules(protocol)
    gt, dt = opened(ground_truth, "ground truth"), opened(results, "predictions")
    k = len(as_sigmas(sigmas))
    truth = gt.ground_truth(keypoints=k)
    found = dt.predictions(truth, keypoints=k, mixed_boxes=how.mixed_boxes)
    report = judge_keypoints(*read_both(truth, found, sigmas, how), how, task="ochuman")
    if masks is None and all(map(_has_mask, gt.records("annotations"))) and all(map(_has_mask, dt.content)):
        masks = dt
    shared = ("task", "protocol", "parameters", "counts", "warnings", "evidence", *report.names)
    return OCHumanReport(
        masks=None if masks is None else evaluate_masks(gt, masks, protocol),
        **{name: getattr(report, name) for name in shared},
    )


def _has_mask(record: Record) -> bool:
    return isinstance(record, Mapping) and "segmentation" in record
