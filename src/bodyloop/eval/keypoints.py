"""COCO keypoint evaluation: AP and AR by object keypoint similarity (OKS).

Source: the COCO keypoint protocol as pycocotools 2.0 computes it; bit-equal numbers under
``protocol="pycocotools"``. Other tasks over keypoints (extended OKS, CrowdPose, whole body) differ from this
one in the similarity and in the ignore rule only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError
from bodyloop.eval.evidence import APReport, Evidence, collect, counts_of
from bodyloop.eval.protocols import Rules, rules
from bodyloop.eval.reading import (
    GroundTruth,
    Predictions,
    ResultSource,
    Source,
    read_ground_truth,
    read_predictions,
)
from bodyloop.eval.similarity import oks_of_pairs
from bodyloop.skeletons import COCO, Skeleton

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LIMIT = 20  # predictions per image that take part (COCO)


@dataclass(frozen=True, eq=False, kw_only=True)
class KeypointReport(APReport):
    """COCO's ten keypoint numbers; -1: nothing to find. M, L: areas of 32^2 to 96^2 px^2 and above."""

    names: ClassVar[tuple[str, ...]] = (
        "AP", "AP50", "AP75", "AP_M", "AP_L", "AR", "AR50", "AR75", "AR_M", "AR_L",
    )  # fmt: skip
    AP: float
    AP50: float
    AP75: float
    AP_M: float
    AP_L: float
    AR: float
    AR50: float
    AR75: float
    AR_M: float
    AR_L: float


def evaluate_keypoints(
    ground_truth: Source | GroundTruth,
    results: ResultSource | Predictions,
    sigmas: npt.ArrayLike | Skeleton = COCO,
    protocol: str = "standard",
) -> KeypointReport:
    """COCO keypoint AP and AR.

    Args:
        ground_truth: COCO file or its dict (or already read).
        results: COCO results file or list of {image_id, category_id, score, keypoints (3K numbers)}
            (or already read). The third number of a keypoint is not used.
        sigmas: K numbers, or the skeleton that has them.
        protocol: "standard", or the tool whose numbers are to be repeated: "pycocotools", "xtcocotools".

    Raises:
        FileError, InputError: unreadable or malformed files.
        ConfigError: unknown protocol, sigmas that are not positive numbers.
    """
    how = rules(protocol)
    sig = as_sigmas(sigmas)
    if isinstance(sigmas, Skeleton) and how.name != "standard":
        sig = (
            np.round(sig * 10, 9) / 10
        )  # as the tools write their constants: .26 / 10 is not .026 to the last bit
    truth = (
        ground_truth
        if isinstance(ground_truth, GroundTruth)
        else read_ground_truth(ground_truth, keypoints=len(sig))
    )
    found = (
        results
        if isinstance(results, Predictions)
        else read_predictions(results, truth, keypoints=len(sig), mixed_boxes=how.mixed_boxes)
    )
    points, predicted = keypoints_of(truth, len(sig)), keypoints_of(found, len(sig))
    labelled = points[..., 2] > 0
    hidden = truth.crowd | ~_counts_as_labelled(truth, labelled, how)
    kept: Bools = np.ones(len(found), bool)
    if how.drop_unsure:
        kept = np.asarray((predicted[..., 2] > 0).any(axis=1))
    similarity = oks_of_pairs(predicted, points, truth.boxes, truth.area, sig)
    evidence = collect(
        truth,
        found,
        {"all": (similarity, hidden)},
        area=truth.area,
        areas=("all", "medium", "large"),
        limits=(LIMIT,),
        rules=how,
        kept=kept,
    )
    return KeypointReport(
        task="coco-keypoints",
        protocol=how.name,
        parameters={"sigmas": sig.tolist(), "limit": LIMIT, "areas": list(evidence.areas)},
        counts=counts_of(truth, found, hidden, int(np.count_nonzero(~kept))),
        warnings=_warnings(truth, labelled, found),
        evidence=evidence,
        **ten_numbers(evidence),
    )


def keypoints_of(source: GroundTruth | Predictions, k: int) -> Floats:
    """Its keypoints (n, k, 3).

    Raises:
        ConfigError: it was read without keypoints, or with another number of them.
    """
    if source.keypoints is None or source.keypoints.shape[1] != k:
        raise ConfigError(f"{source.origin} was not read with keypoints={k}, the number of sigmas")
    return source.keypoints


def as_sigmas(sigmas: npt.ArrayLike | Skeleton) -> Floats:
    """(K,) float64 of a skeleton or of numbers.

    Raises:
        ConfigError: not a list of positive numbers.
    """
    values = sigmas.sigma_array if isinstance(sigmas, Skeleton) else np.asarray(sigmas)
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iuf" or not (values > 0).all():
        raise ConfigError(f"sigmas must be a list of K positive numbers, got {sigmas!r}")
    return values.astype(np.float64)


def _counts_as_labelled(truth: GroundTruth, labelled: Bools, how: Rules) -> Bools:
    by_flags: Bools = np.asarray(labelled.any(axis=1))
    if how.count_flags:
        return by_flags
    given = truth.num_keypoints >= 0
    return np.asarray((given & (truth.num_keypoints != 0)) | (~given & by_flags))


def _warnings(truth: GroundTruth, labelled: Bools, found: Predictions) -> tuple[str, ...]:
    out = []
    given = truth.num_keypoints >= 0
    differ = int(np.count_nonzero(given & (truth.num_keypoints != labelled.sum(axis=1))))
    if differ:
        out.append(f"{differ} annotations whose num_keypoints is not the number of flags > 0")
    flat = int(np.count_nonzero((truth.area <= 0) & labelled.any(axis=1) & ~truth.crowd))
    if flat:
        out.append(f"{flat} labelled annotations of area 0: only exact predictions are similar to them")
    if truth.keypoints is not None and (truth.keypoints[..., 2] > 2).any():
        out.append("flags of 3 are taken as ordinary labelled keypoints; is this a CropCOCO file?")
    unknown = int(np.count_nonzero(found.category < 0))
    if unknown:
        out.append(f"{unknown} predictions of categories that the ground truth does not have were left out")
    return tuple(out)


def ten_numbers(e: Evidence) -> dict[str, float]:
    """COCO's keypoint numbers from the curves of areas all, medium and large."""
    c, half, three_quarters = e.curves, 0, 5
    out = {}
    for what, short in (("precision", "AP"), ("recall", "AR")):
        out[short] = c.mean(what)
        out[f"{short}50"] = c.mean(what, threshold=half)
        out[f"{short}75"] = c.mean(what, threshold=three_quarters)
        out[f"{short}_M"] = c.mean(what, area=e.areas.index("medium"))
        out[f"{short}_L"] = c.mean(what, area=e.areas.index("large"))
    return out
