"""COCO keypoint evaluation: AP and AR by object keypoint similarity (OKS).

Source: the COCO keypoint protocol as pycocotools 2.0 computes it; bit-equal numbers under
``protocol="pycocotools"``. Other tasks over keypoints (extended OKS, CrowdPose, whole body) differ from this
one in the similarity and in the ignore rule only.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError
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
from bodyloop.eval.similarity import oks_of_pairs
from bodyloop.skeletons import COCO, Skeleton

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LIMIT = 20  # predictions per image that take part (COCO)
AREAS = ("all", "medium", "large")


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
    *,
    drop_unsure: bool | None = None,
) -> KeypointReport:
    """COCO keypoint AP and AR.

    Args:
        ground_truth: COCO file or its dict (or already read).
        results: COCO results file or list of {image_id, category_id, score, keypoints (3K numbers)}
            (or already read). The third number of a keypoint is not used.
        sigmas: K numbers, or the skeleton that has them.
        protocol: "standard", or the tool whose numbers are to be repeated: "pycocotools", "xtcocotools",
            "exococotools" (its plain run).
        drop_unsure: leave out predictions whose third numbers are all <= 0; None: as the protocol does.

    Raises:
        FileError, InputError: unreadable or malformed files.
        ConfigError: unknown protocol, sigmas that are not positive numbers.
    """
    how = rules(protocol)
    if drop_unsure is not None:
        how = replace(how, drop_unsure=drop_unsure)
    return judge_keypoints(*read_both(ground_truth, results, sigmas, how), how)


def judge_keypoints(
    truth: GroundTruth, found: Predictions, sigmas: Floats, how: Rules, task: str = "coco-keypoints"
) -> KeypointReport:
    """As `evaluate_keypoints`, of files that are already read; other tasks bend the rules a little."""
    similarity, hidden, kept = plain_oks(truth, found, sigmas, how)
    evidence = collect(
        truth,
        found,
        {"all": (similarity, hidden)},
        area=truth.area,
        areas=AREAS,
        limits=(LIMIT,),
        rules=how,
        kept=kept,
        alarms_everywhere=how.alarms_everywhere,
    )
    threes = "ordinary labelled keypoints" if how.threes_labelled else "unlabelled keypoints"
    notes = (f"flags of 3 are taken as {threes}; is this a CropCOCO file?",)
    return KeypointReport(
        task=task,
        protocol=how.name,
        parameters={"sigmas": sigmas.tolist(), "limit": LIMIT, "areas": list(AREAS)},
        counts=counts_of(truth, found, hidden, int(np.count_nonzero(~kept))),
        warnings=file_warnings(truth, found, how) + (notes if has_threes(truth) else ()),
        evidence=evidence,
        **ten_numbers(evidence),
    )


# ------------------------------------------------------------------ what all tasks over keypoints share


def read_both(
    ground_truth: Source | GroundTruth,
    results: ResultSource | Predictions,
    sigmas: npt.ArrayLike | Skeleton,
    how: Rules,
) -> tuple[GroundTruth, Predictions, Floats]:
    """Both files, read unless they already are, and the sigmas (K,)."""
    sig = as_sigmas(sigmas)
    if isinstance(sigmas, Skeleton) and how.name != "standard":
        sig = tools_sigmas(sigmas)
    k = len(sig)
    truth, found = ground_truth, results
    if not isinstance(truth, GroundTruth):
        truth = read_ground_truth(truth, keypoints=k)
    if not isinstance(found, Predictions):
        found = read_predictions(found, truth, keypoints=k, mixed_boxes=how.mixed_boxes)
    return truth, found, sig


def plain_oks(
    truth: GroundTruth, found: Predictions, sigmas: Floats, how: Rules
) -> tuple[Similarity, Bools, Bools]:
    """OKS of pairs, the annotations (G,) that are not to be found, and the predictions (P,) that are judged."""
    points, predicted = keypoints_of(truth, len(sigmas)), keypoints_of(found, len(sigmas))
    if not how.threes_labelled:
        points = np.concatenate([points[..., :2], without_threes(points[..., 2])[..., None]], axis=-1)
    return (
        oks_of_pairs(predicted, points, truth.boxes, truth.area, sigmas),
        not_to_find(truth, points[..., 2], how),
        taking_part(predicted, how.drop_unsure),
    )


def tools_sigmas(skeleton: Skeleton) -> Floats:
    """(K,) as the public evaluators write their constants: .26 / 10 is not .026 to the last bit."""
    return np.asarray(np.round(skeleton.sigma_array * 10, 9) / 10)


def without_threes(flags: Floats) -> Floats:
    """Flags (G, K) where only 1 and 2 are labelled; all others are 0."""
    return np.where((flags == 1) | (flags == 2), flags, 0)


def not_to_find(truth: GroundTruth, flags: Floats, how: Rules) -> Bools:
    """(G,) annotations that are not to be found: crowds, and those without a labelled keypoint.

    Args:
        flags: (G, K) > 0 for labelled.
    """
    labelled: Bools = np.asarray((flags > 0).any(axis=1))
    if not how.count_flags:
        given = truth.num_keypoints >= 0
        labelled = np.where(given, truth.num_keypoints != 0, labelled)
    return np.asarray(~labelled | (truth.crowd & how.ignore_crowd))


def taking_part(predicted: Floats, drop_unsure: bool) -> Bools:
    """(P,) which predictions (P, K, 3) are judged: all, or those with some third number above 0."""
    if drop_unsure:
        return np.asarray((predicted[..., 2] > 0).any(axis=1))
    return np.ones(len(predicted), bool)


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


def has_threes(truth: GroundTruth) -> bool:
    """Whether some keypoint is flagged as out of its window."""
    return truth.keypoints is not None and bool((truth.keypoints[..., 2] > 2).any())


def file_warnings(truth: GroundTruth, found: Predictions, how: Rules) -> tuple[str, ...]:
    """What is odd about two files of keypoints, whatever the task."""
    out = []
    labelled = (np.zeros((len(truth.ids), 0)) if truth.keypoints is None else truth.keypoints[..., 2]) > 0
    given = truth.num_keypoints >= 0
    differ = int(np.count_nonzero(given & (truth.num_keypoints != labelled.sum(axis=1))))
    if differ:
        out.append(f"{differ} annotations whose num_keypoints is not the number of flags > 0")
    flat = int(np.count_nonzero((truth.area <= 0) & labelled.any(axis=1) & ~truth.crowd))
    if flat:
        out.append(f"{flat} labelled annotations of area 0: only exact predictions are similar to them")
    if how.lose_id_zero and (truth.ids == 0).any():
        out.append(f"{how.name} never counts an annotation with id 0 as found; give it another id")
    boxed = ~np.isnan(found.boxes[:, 0])
    if boxed.any() and not boxed.all():
        out.append(
            f"only {int(boxed.sum())} of {len(found)} predictions have a bbox: areas go by the first one"
        )
    unknown = int(np.count_nonzero(found.category < 0))
    if unknown:
        out.append(f"{unknown} predictions of categories that the ground truth does not have were left out")
    if not len(found):
        out.append(f"{found.origin} is empty")
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
