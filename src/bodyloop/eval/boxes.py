"""COCO box evaluation: AP and AR by intersection over union.

Source: the COCO detection protocol as pycocotools 2.0 computes it; bit-equal numbers. Masks differ in the
similarity only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from bodyloop.eval.evidence import APReport, Evidence, Similarity, collect, counts_of
from bodyloop.eval.protocols import Rules, rules
from bodyloop.eval.reading import (
    GroundTruth,
    Predictions,
    ResultSource,
    Source,
    read_ground_truth,
    read_predictions,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LIMITS = (1, 10, 100)
AREAS = ("all", "small", "medium", "large")


@dataclass(frozen=True, eq=False, kw_only=True)
class BoxReport(APReport):
    """COCO's twelve detection numbers; -1: nothing to find. AR_n: at most n predictions an image."""

    names: ClassVar[tuple[str, ...]] = (
        "AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR_1", "AR_10", "AR_100", "AR_S", "AR_M", "AR_L",
    )  # fmt: skip
    AP: float
    AP50: float
    AP75: float
    AP_S: float
    AP_M: float
    AP_L: float
    AR_1: float
    AR_10: float
    AR_100: float
    AR_S: float
    AR_M: float
    AR_L: float


Report = TypeVar("Report", bound=BoxReport)


def evaluate_boxes(
    ground_truth: Source | GroundTruth, results: ResultSource | Predictions, protocol: str = "standard"
) -> BoxReport:
    """COCO box AP and AR over all categories of the ground truth.

    Args:
        ground_truth: COCO file or its dict (or already read).
        results: COCO results file or list of {image_id, category_id, bbox (x y w h), score} (or read).
        protocol: "standard", "pycocotools" or "xtcocotools".

    Raises:
        FileError, InputError: unreadable or malformed files.
        ConfigError: unknown protocol.
    """
    how = rules(protocol)
    truth = ground_truth if isinstance(ground_truth, GroundTruth) else read_ground_truth(ground_truth)
    found = results if isinstance(results, Predictions) else read_predictions(results, truth, need_boxes=True)
    similarity = iou_of_pairs(found.boxes, truth.boxes, truth.crowd)
    return detection_report(BoxReport, truth, found, similarity, how, task="bbox")


def detection_report(
    kind: type[Report],
    truth: GroundTruth,
    found: Predictions,
    similarity: Similarity,
    how: Rules,
    *,
    task: str,
    parameters: Mapping[str, object] | None = None,
) -> Report:
    """The report of boxes or masks, which differ in the similarity only."""
    evidence = collect(
        truth,
        found,
        {"all": (similarity, truth.crowd)},
        area=truth.area,
        areas=AREAS,
        limits=LIMITS,
        rules=how,
    )
    unknown = int(np.count_nonzero(found.category < 0))
    note = f"{unknown} predictions of categories that the ground truth does not have were left out"
    return kind(
        task=task,
        protocol=how.name,
        parameters={"limits": list(LIMITS), "areas": list(AREAS), **(parameters or {})},
        counts=counts_of(truth, found, truth.crowd, 0),
        warnings=(note,) if unknown else (),
        evidence=evidence,
        **twelve_numbers(evidence),
    )


def twelve_numbers(e: Evidence) -> dict[str, float]:
    """The detection numbers from the curves of areas `AREAS` and limits `LIMITS`."""
    c = e.curves
    out = {"AP": c.mean("precision")}
    out |= {"AP50": c.mean("precision", threshold=0), "AP75": c.mean("precision", threshold=5)}
    out |= {f"AP_{n[0].upper()}": c.mean("precision", area=AREAS.index(n)) for n in AREAS[1:]}
    out |= {f"AR_{n}": c.mean("recall", limit=i) for i, n in enumerate(LIMITS)}
    out |= {f"AR_{n[0].upper()}": c.mean("recall", area=AREAS.index(n)) for n in AREAS[1:]}
    return out


def iou_of_pairs(predicted: Floats, truth: Floats, crowd: npt.NDArray[np.bool_]) -> Similarity:
    """Intersection over union as a function of pairs; boxes (P, 4) and (G, 4) x y w h.

    A crowd's denominator is the prediction's own area: any part of a crowd is as good as another.
    """

    def similarity(p: Ints, g: Ints) -> Floats:
        d, t = predicted[p], truth[g]
        w = np.minimum(d[:, 2] + d[:, 0], t[:, 2] + t[:, 0]) - np.maximum(d[:, 0], t[:, 0])
        h = np.minimum(d[:, 3] + d[:, 1], t[:, 3] + t[:, 1]) - np.maximum(d[:, 1], t[:, 1])
        area, other = d[:, 2] * d[:, 3], t[:, 2] * t[:, 3]
        overlap = w * h
        union = np.where(crowd[g], area, area + other - overlap)
        touching = (w > 0) & (h > 0)
        out = np.zeros(len(p))
        np.divide(overlap, union, out=out, where=touching)
        return out

    return similarity
