"""Everything that a page says of one report, worked out once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from bodyloop.eval import bootstrap as boot
from bodyloop.eval.analysis import Found, Split, by_labelled, by_overlap, by_size, find
from bodyloop.eval.evidence import APReport, Evidence
from bodyloop.eval.extended import Extension, by_levels, flags_of
from bodyloop.eval.keypoints import judge_keypoints
from bodyloop.eval.mistakes import Judge, Mistakes, diagnose, repairs, skeleton_of
from bodyloop.eval.presence_files import PresenceReport, evaluate_presence_files
from bodyloop.eval.protocols import rules
from bodyloop.eval.quality import QualityFilesReport, evaluate_quality
from bodyloop.eval.similarity import OUT
from bodyloop.eval.tasks import TASKS
from bodyloop.skeletons import Skeleton

PART_RESAMPLES = 300  # whiskers need no more

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Gathered:
    """What lies behind one report.

    Attributes:
        report: of an evaluation by AP.
        found: matches at a similarity of 0.1.
        parts: by size, overlap and labelled keypoints, each with the intervals of its APs.
        skeleton, mistakes: of evaluations of keypoints, else None.
        worth: AP if one kind of mistake were put right; empty without keypoints.
        presence, quality: of keypoints; presence None if the predictions do not say it.
    """

    report: APReport
    found: Found
    parts: tuple[tuple[Split, tuple[boot.Interval, ...]], ...]
    skeleton: Skeleton | None
    mistakes: Mistakes | None
    worth: Mapping[str, float]
    presence: PresenceReport | None
    quality: QualityFilesReport | None

    @property
    def evidence(self) -> Evidence:
        """The report's."""
        return self.report.evidence

    @property
    def ap(self) -> float:
        """Mean over all thresholds; -1 if there is nothing to find."""
        return self.evidence.curves.mean("precision")


def similarity_of(report: APReport) -> str:
    """What the report's task compares by, for axes: OKS, Ex-OKS, box IoU, mask IoU."""
    return TASKS[report.task].similarity if report.task in TASKS else "similarity"


def title_of(report: APReport) -> str:
    """The report's task in words."""
    return TASKS[report.task].title if report.task in TASKS else report.task


def noun_of(report: APReport) -> str:
    """What is to be found: people, where there are keypoints."""
    return "objects" if report.evidence.truth.keypoints is None else "people"


def gather(report: APReport, *, skeleton: Skeleton | None = None, seed: int = 0) -> Gathered:
    """Work everything out.

    Args:
        skeleton: of the keypoints; by default that of the file's names (`skeleton_of`), with the report's sigmas.
        seed: of the resamples of the parts.
    """
    e = report.evidence
    weights = boot.draw(max(len(e.truth.image_ids), 1), np.random.default_rng(seed), PART_RESAMPLES)
    weights = weights[:, : len(e.truth.image_ids)]
    splits = [by_size(e), by_overlap(e), by_labelled(e)]
    parts = tuple((s, _spans(s, weights)) for s in splits if s.names)
    used = _skeleton(report, skeleton)
    if used is None:
        return Gathered(report, find(e), parts, None, None, {}, None, None)
    judge, flags = judge_of(report)
    mistakes = diagnose(e, used, labelled=(flags > 0) & (flags < OUT))
    worth = repairs(e, mistakes, judge, flags=flags)
    return Gathered(report, find(e), parts, used, mistakes, worth, *_confidence(report, used, seed))


def _confidence(
    report: APReport, skeleton: Skeleton, seed: int
) -> tuple[PresenceReport | None, QualityFilesReport]:
    """Judged by the same persons and sigmas as the report."""
    e, told = report.evidence, report.parameters
    how: dict[str, Any] = {"seed": seed, "resamples": PART_RESAMPLES}
    quality = evaluate_quality(e.truth, e.predictions, skeleton, **how)
    says = e.predictions.presence is not None or e.predictions.visibility is not None
    if not says and told.get("mode") != "extended":
        return None, quality
    how |= {
        k: told[name]
        for k, name in (("threshold", "confidence_threshold"), ("padding", "padding"))
        if name in told
    }
    return evaluate_presence_files(e.truth, e.predictions, skeleton, **how), quality


def _spans(split: Split, weights: Floats) -> tuple[boot.Interval, ...]:
    return tuple(
        boot.interval(float(ap), boot.ap_samples(split.evidence, weights, area=name))
        for name, ap in zip(split.names, split.ap, strict=True)
    )


def _skeleton(report: APReport, given: Skeleton | None) -> Skeleton | None:
    truth, sigmas = report.evidence.truth, report.parameters.get("sigmas")
    if truth.keypoints is None or report.evidence.predictions.keypoints is None:
        return None
    if given is not None:
        return given
    return skeleton_of(truth, truth.keypoints.shape[1], sigmas if isinstance(sigmas, list) else None)


def judge_of(report: APReport) -> tuple[Judge, Floats]:
    """What judges files as the report's were, and the flags (G, K) that it goes by: 3 only with windows."""
    truth, told = report.evidence.truth, report.parameters
    how = replace(rules(report.protocol), drop_unsure=report.counts["dropped"] > 0)
    sigmas = np.asarray(told["sigmas"], np.float64)
    assert truth.keypoints is not None
    flags = truth.keypoints[..., 2]
    if report.task != "ex-keypoints":
        # CrowdPose goes by the file's number of visible joints under every protocol
        how = replace(how, count_flags=how.count_flags and report.task != "crowdpose")
        flags = np.where(flags == OUT, how.threes_labelled, flags)
        return lambda t, p: judge_keypoints(t, p, sigmas, how), flags
    extension, how = _extension(told), replace(how, **_windows(told))
    return lambda t, p: by_levels(t, p, sigmas, how, extension), flags_of(truth, extension, how)


def _extension(told: Mapping[str, object]) -> Extension:
    """What an evaluation of Ex-OKS was told, from its parameters."""
    if told["mode"] == "plain":
        return Extension(plain=True)
    return Extension(
        padding=cast(float, told["padding"]),
        confidence_threshold=cast(float, told["confidence_threshold"]),
        recompute_flags=str(told["flags"]).startswith("recomputed"),
    )


def _windows(told: Mapping[str, object]) -> dict[str, Any]:
    if told["mode"] == "plain":
        return {}
    return {"distance": told["distance"], "single_window": told["window"] == "float32"}
