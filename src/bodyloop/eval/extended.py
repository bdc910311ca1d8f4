"""Extended OKS (Ex-OKS) and Ex-mAP: keypoints that lie out of the picture count, too, level by level.

A model that looks at a window around a person should say which keypoints are not in it. Ex-OKS judges that
together with the locations: whoever says "in" of a keypoint that is out, or "out" of one that is in, pays for the
distance between point and window. Flags are COCO's, and 3 for labelled and out of the window. AP is reported over
all keypoints and for each flag alone (levels 1 hidden, 2 visible, 3 out).

Source: Purkrabek & Matas, "ProbPose" (CVPR 2025); ``protocol="exococotools"`` repeats the numbers of the
evaluator published with it, which measures the distance to the nearest corner of the window instead of to its
border, and differs in what is ignored (`protocols.Rules`). Plain OKS by levels is the same evaluation without
windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypedDict

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError
from bodyloop.eval.evidence import (
    APReport,
    Evidence,
    Matcher,
    counts_of,
    judge,
    matched_similarities,
    pair_up,
    sides,
)
from bodyloop.eval.keypoints import (
    AREAS,
    LIMIT,
    file_warnings,
    has_threes,
    keypoints_of,
    not_to_find,
    read_both,
    taking_part,
    ten_numbers,
    without_threes,
)
from bodyloop.eval.matching import match
from bodyloop.eval.protocols import DISTANCES, EXTENDED, Distance, Rules, rules
from bodyloop.eval.reading import GroundTruth, Predictions, ResultSource, Source
from bodyloop.eval.similarity import OUT, LevelOks, Windows, tripled
from bodyloop.geometry import PADDING, activation_windows, padding_to_contain
from bodyloop.skeletons import COCO, Skeleton

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.5  # least probability that counts as "in the window"
LEVELS = (1, 2, OUT)


@dataclass(frozen=True, eq=False, kw_only=True)
class ExtendedReport(APReport):
    """AP by Ex-OKS (or OKS) over all keypoints and by visibility level; -1: nothing to find.

    Attributes:
        AP_v1, AP_v2, AP_v3: of hidden, visible and out keypoints alone; None: no such level (exococotools makes
            levels of the flags that occur).
        AP50 to AR_L: as in `KeypointReport`, over all keypoints.
        OKS: exococotools' mean over all matches of all thresholds, levels and area ranges, ignored ones
            included; None without matches.
        OKS_matched: mean over the matches at 0.5 over all keypoints and areas, ignored ones left out.
    """

    names: ClassVar[tuple[str, ...]] = (
        "AP", "AP_v1", "AP_v2", "AP_v3", "AP50", "AP75", "AP_M", "AP_L",
        "AR", "AR50", "AR75", "AR_M", "AR_L", "OKS", "OKS_matched",
    )  # fmt: skip
    AP: float
    AP_v1: float | None
    AP_v2: float | None
    AP_v3: float | None
    AP50: float
    AP75: float
    AP_M: float
    AP_L: float
    AR: float
    AR50: float
    AR75: float
    AR_M: float
    AR_L: float
    OKS: float | None
    OKS_matched: float | None


@dataclass(frozen=True)
class Extension:
    """What an evaluation by levels is told beside the protocol; see `evaluate_extended`."""

    padding: float = PADDING
    confidence_threshold: float = CONFIDENCE
    recompute_flags: bool = False
    plain: bool = False

    def __post_init__(self) -> None:
        if not (np.isfinite(self.padding) and self.padding > 0):
            raise ConfigError(f"padding must be a positive number, got {self.padding}")
        if not np.isfinite(self.confidence_threshold):
            raise ConfigError(f"confidence_threshold must be a number, got {self.confidence_threshold}")


def evaluate_extended(
    ground_truth: Source | GroundTruth,
    results: ResultSource | Predictions,
    sigmas: npt.ArrayLike | Skeleton = COCO,
    protocol: str = "standard",
    *,
    distance: Distance | None = None,
    padding: float = PADDING,
    confidence_threshold: float = CONFIDENCE,
    recompute_flags: bool = False,
    plain: bool = False,
    single_window: bool | None = None,
) -> ExtendedReport:
    """AP and AR by extended OKS, with visibility levels.

    Args:
        ground_truth: COCO file with flags of 3 and, optionally, ``pad_to_contain`` (K numbers a person: the least
            padding with which its window would contain each keypoint), which then decides who is out.
        results: COCO results whose third numbers are probabilities of presence, or that have a field ``presence``
            (K numbers), which the standard protocol prefers.
        sigmas: K numbers, or the skeleton that has them.
        protocol: "standard" or "exococotools".
        distance: from a point to its window: to the border ("edge") or to the nearest corner ("corner"); None:
            as the protocol does.
        padding: of the windows.
        confidence_threshold: a keypoint is said to be in the window from this presence on.
        recompute_flags: where the file has no ``pad_to_contain``, work it out from boxes and keypoints, instead of
            trusting the file's 3s. Needs true coordinates of keypoints that are out.
        plain: OKS by levels, without windows: only flags 1 and 2 are labelled.
        single_window: round windows to float32; None: as the protocol does.

    Raises:
        FileError, InputError: unreadable or malformed files.
        ConfigError: unknown protocol or distance, numbers that make no sense.
    """
    how = rules(protocol)
    if protocol not in EXTENDED:
        raise ConfigError(f"{protocol} knows no visibility levels; known: {', '.join(EXTENDED)}")
    if distance is not None and distance not in DISTANCES:
        raise ConfigError(f"unknown distance {distance!r}; known: {', '.join(DISTANCES)}")
    extension = Extension(padding, confidence_threshold, recompute_flags, plain)
    how = replace(
        how,
        distance=how.distance if distance is None else distance,
        single_window=how.single_window if single_window is None else single_window,
    )
    truth, found, sig = read_both(ground_truth, results, sigmas, how)
    return by_levels(truth, found, sig, how, extension)


def by_levels(
    truth: GroundTruth,
    found: Predictions,
    sigmas: Floats,
    how: Rules,
    extension: Extension,
    matcher: Matcher = match,
) -> ExtendedReport:
    """Evaluate files that are already read; ``matcher`` is called as `match` is."""
    keypoints_of(truth, len(sigmas))
    kept = taking_part(keypoints_of(found, len(sigmas)), how.drop_unsure)
    flags = flags_of(truth, extension, how)
    levels = (0, *(v for v in LEVELS if how.all_levels or (flags == v).any()))
    hidden = {v: not_to_find(truth, flags if v == 0 else np.where(flags == v, v, 0), how) for v in levels}
    pairing = pair_up(truth, found, LIMIT, kept)
    similarity = _measure(truth, found, flags, levels, sigmas, how, extension)(*sides(pairing))
    evidence = judge(
        truth,
        found,
        pairing,
        {_name(v): (s, hidden[v]) for v, s in zip(levels, similarity, strict=True)},
        area=truth.area,
        areas=AREAS,
        limits=(LIMIT,),
        rules=how,
        alarms_everywhere=how.alarms_everywhere,
        matcher=matcher,
    )
    return ExtendedReport(
        task="ex-keypoints",
        protocol=how.name,
        parameters=_parameters(truth, found, sigmas, how, extension, levels),
        counts=counts_of(truth, found, hidden[0], int(np.count_nonzero(~kept))),
        warnings=file_warnings(truth, found, how) + _warnings(truth, found, flags, how, extension),
        evidence=evidence,
        **ten_numbers(evidence),
        **_level_numbers(evidence),
    )


def _name(level: int) -> str:
    return "all" if level == 0 else str(level)


def _measure(
    truth: GroundTruth,
    found: Predictions,
    flags: Floats,
    levels: Sequence[int],
    sigmas: Floats,
    how: Rules,
    extension: Extension,
) -> LevelOks:
    """The similarity that an evaluation goes by, at all its levels."""
    assert truth.keypoints is not None and found.keypoints is not None
    files = found.keypoints, truth.keypoints, flags
    if extension.plain:
        return LevelOks(*files, tripled(truth.boxes), truth.area, sigmas, levels)
    corners = activation_windows(truth.boxes, extension.padding, single=how.single_window)
    said_in = presence_of(found, how) >= extension.confidence_threshold
    windows = Windows(corners, said_in, how.distance)
    return LevelOks(*files, corners, truth.area, sigmas, levels, windows)


def flags_of(truth: GroundTruth, extension: Extension, how: Rules) -> Floats:
    """(G, K) flags that an evaluation goes by: 0 unlabelled, 1 hidden, 2 visible, 3 out of the window."""
    assert truth.keypoints is not None
    flags = truth.keypoints[..., 2]
    if extension.plain:
        return without_threes(flags)
    pads = truth.pad_to_contain
    if pads is None and extension.recompute_flags:
        pads = padding_to_contain(truth.boxes, truth.keypoints[..., :2], single=how.single_window)
    if pads is None:
        return flags
    out = (flags > 0) & (pads > extension.padding)
    return np.where(out, OUT, np.where(flags > 2, 1, flags))


def presence_of(found: Predictions, how: Rules) -> Floats:
    """(P, K) how probable it is, in the predictions' own words, that a keypoint lies in its window, in 0..1."""
    if how.presence_field and found.presence is not None:
        return found.presence
    assert found.keypoints is not None
    return np.clip(found.keypoints[..., 2], 0, 1)


class _LevelNumbers(TypedDict):
    AP_v1: float | None
    AP_v2: float | None
    AP_v3: float | None
    OKS: float | None
    OKS_matched: float | None


def _level_numbers(e: Evidence) -> _LevelNumbers:
    places = {level.name: i for i, level in enumerate(e.levels)}

    def average(v: int) -> float | None:
        return e.curves.mean("precision", level=places[_name(v)]) if _name(v) in places else None

    every = [matched_similarities(e.pairing, level) for level in e.levels]
    found = sum(len(s) for s in every)
    ignored = e.levels[0].matches.ignored
    counted = np.zeros(ignored.shape, bool)
    counted[0, 0] = ~ignored[0, 0]
    right = matched_similarities(e.pairing, e.levels[0], counted)
    return _LevelNumbers(
        AP_v1=average(1),
        AP_v2=average(2),
        AP_v3=average(OUT),
        OKS=float(sum(s.sum() for s in every)) / found if found else None,
        OKS_matched=float(right.mean()) if len(right) else None,
    )


def _parameters(
    truth: GroundTruth,
    found: Predictions,
    sigmas: Floats,
    how: Rules,
    extension: Extension,
    levels: Sequence[int],
) -> dict[str, object]:
    out: dict[str, object] = {
        "mode": "plain" if extension.plain else "extended",
        "sigmas": sigmas.tolist(),
        "limit": LIMIT,
        "areas": list(AREAS),
        "levels": list(levels),
    }
    if extension.plain:
        return out
    from_field = how.presence_field and found.presence is not None
    flags = "file" if not extension.recompute_flags else "recomputed from boxes and keypoints"
    return out | {
        "distance": how.distance,
        "padding": extension.padding,
        "window": "float32" if how.single_window else "float64",
        "confidence_threshold": extension.confidence_threshold,
        "presence": "field presence" if from_field else "third numbers of the keypoints",
        "flags": flags if truth.pad_to_contain is None else "pad_to_contain",
    }


def _warnings(
    truth: GroundTruth, found: Predictions, flags: Floats, how: Rules, extension: Extension
) -> tuple[str, ...]:
    """What is odd about files that are to have keypoints out of their windows."""
    assert truth.keypoints is not None and found.keypoints is not None
    if extension.plain:
        return ("flags of 3 are taken as unlabelled keypoints",) if has_threes(truth) else ()
    out = []
    if not (flags == OUT).any():
        out.append(
            "no keypoint is out of its window: flags of 3, pad_to_contain or recomputed flags say who is"
        )
    third = found.keypoints[..., 2]
    if not (how.presence_field and found.presence is not None) and ((third < 0) | (third > 1)).any():
        out.append("third numbers of predicted keypoints outside 0..1 were clipped; are they probabilities?")
    if len(found) and (presence_of(found, how) >= extension.confidence_threshold).all():
        out.append("no prediction says that a keypoint is out of its window")
    if extension.recompute_flags and truth.pad_to_contain is None:
        at_origin = (truth.keypoints[..., 2] > 2) & (truth.keypoints[..., :2] == 0).all(axis=-1)
        if at_origin.any():
            n = int(at_origin.sum())
            out.append(f"{n} keypoints that are out stand at 0, 0: recomputed flags need true coordinates")
    return tuple(out)
