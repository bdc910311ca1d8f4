"""Presence and visibility judged from COCO files: any tool's results, with its own fields or its scores alone.

Presence is the field ``presence`` of a prediction (a number for each keypoint) or, where there is none, the third
number of its keypoints; visibility is the field ``visibility``. Labels are the flags of the persons that the
predictions belong to (`assigned`): 1 and 2 inside the window, 3 outside it. Without a 3 there is nothing to tell
apart, and the numbers that need both kinds are null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.eval import bootstrap as boot
from bodyloop.eval.assigned import FilesReport, How, assign, read_both
from bodyloop.eval.extended import Extension, flags_of
from bodyloop.eval.keypoints import as_sigmas
from bodyloop.eval.presence import BinaryReport, Task, evaluate_presence, labels_of
from bodyloop.eval.protocols import rules
from bodyloop.eval.reading import GroundTruth, Predictions, ResultSource, Source
from bodyloop.geometry import PADDING
from bodyloop.skeletons import COCO, Skeleton

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class PresenceReport(FilesReport):
    """Presence and visibility of a results file.

    Attributes:
        presence: with intervals over images.
        presence_from: where the probabilities stood: "field presence" or "third number".
        visibility: None if the predictions have no such field.
        each: presence by keypoint, without intervals; empty unless asked for.
    """

    presence: BinaryReport
    presence_from: str
    visibility: BinaryReport | None
    each: Mapping[str, BinaryReport]

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            **self.head("presence"),
            "presence_from": self.presence_from,
            "presence": self.presence.to_json(),
            "visibility": None if self.visibility is None else self.visibility.to_json(),
            "each": {name: r.to_json() for name, r in self.each.items()},
        }

    def table(self) -> str:
        """As text."""
        sections = [f"  presence is the {self.presence_from} of a prediction", self.presence.table()]
        if self.visibility is not None:
            sections.append(self.visibility.table())
        if self.each:
            sections.append(table_of_keypoints(self.each))
        return self.lines("presence", *sections)


def evaluate_presence_files(
    ground_truth: Source | GroundTruth,
    results: ResultSource | Predictions,
    sigmas: npt.ArrayLike | Skeleton = COCO,
    *,
    threshold: float = 0.5,
    padding: float = PADDING,
    pairing: How = "auto",
    per_keypoint: bool = False,
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
) -> PresenceReport:
    """Judge presence (and visibility, if it is there) of a results file.

    Args:
        ground_truth: COCO file with flags of 3 for keypoints outside the window or ``pad_to_contain``, as CropCOCO
            has them.
        results: COCO results; ``presence`` and ``visibility`` are optional, ``annotation_id`` pairs.
        sigmas: for pairing by OKS; K numbers, or the skeleton that has them.
        threshold: of the decisions: "yes" is a probability of at least it.
        padding: of the windows; decides who is out where the file has ``pad_to_contain``.
        pairing: how predictions are paired with persons; "auto": by annotation id, else matched at OKS 0.5.
        per_keypoint: judge each keypoint by itself, too.
        seed, resamples: of the intervals over images.

    Raises:
        FileError, InputError: unreadable or malformed files, or a pairing that does not fit them.
    """
    truth, found = read_both(ground_truth, results, len(as_sigmas(sigmas)))
    assigned = assign(truth, found, sigmas, pairing)
    assert truth.keypoints is not None and found.keypoints is not None
    flags = flags_of(truth, Extension(padding), rules("standard"))[assigned.annotation]
    given = found.presence if found.presence is not None else found.keypoints[..., 2]
    notes = list(assigned.warnings)
    odd = int(np.count_nonzero((given < 0) | (given > 1)))
    if odd:
        notes.append(f"{odd} third numbers outside 0..1 were clipped, as Ex-OKS does it; are they scores?")
    if not (flags == 3).any():
        notes.append("no keypoint outside its window (flag 3): presence has nothing to tell apart")
    image = truth.image[assigned.annotation]
    weights = boot.draw(max(len(truth.image_ids), 1), np.random.default_rng(seed), resamples)

    def judged(values: Floats, task: Task) -> BinaryReport:
        of_pairs = np.clip(values[assigned.prediction], 0, 1)
        return evaluate_presence(
            of_pairs, flags, task=task, threshold=threshold, image=image, weights=weights
        )

    each = {}
    if per_keypoint:
        each = by_keypoint(
            np.clip(given[assigned.prediction], 0, 1),
            flags,
            keypoint_names(truth, sigmas),
            threshold=threshold,
        )
    return PresenceReport(
        truth=truth,
        predictions=found,
        assigned=assigned,
        parameters={"threshold": threshold, "padding": padding, "seed": seed, "resamples": resamples},
        warnings=tuple(notes),
        presence=judged(given, "presence"),
        presence_from="third number" if found.presence is None else "field presence",
        visibility=None if found.visibility is None else judged(found.visibility, "visibility"),
        each=each,
    )


def by_keypoint(
    probability: Floats,
    flags: Floats,
    names: tuple[str, ...],
    task: Task = "presence",
    threshold: float = 0.5,
) -> dict[str, BinaryReport]:
    """Each keypoint (N, K) judged by itself; those that nobody has labelled are left out."""
    there = labels_of(flags, task)[0].any(axis=0)
    return {
        names[k]: evaluate_presence(probability[:, k], flags[:, k], task=task, threshold=threshold)
        for k in np.flatnonzero(there)
    }


def keypoint_names(truth: GroundTruth, sigmas: npt.ArrayLike | Skeleton) -> tuple[str, ...]:
    """K names: of the file, else of the skeleton that was given, else numbers."""
    if truth.keypoints is None:
        return ()
    k = truth.keypoints.shape[1]
    known = [truth.keypoint_names, sigmas.keypoints if isinstance(sigmas, Skeleton) else ()]
    return next((n for n in known if len(n) == k), tuple(str(i) for i in range(k)))


def table_of_keypoints(each: Mapping[str, BinaryReport]) -> str:
    """One line a keypoint."""
    rows = [f"  {'keypoint':<16} {'in':>6} {'out':>6}  AUROC  bal.acc.  ECE"]
    for name, r in each.items():
        numbers = (r.auroc, r.confusion.balanced_accuracy, r.reliability[10].ece)
        shown = "  ".join("     -" if v is None else f"{v:.4f}" for v in numbers)
        rows.append(f"  {name:<16} {r.positives:>6} {r.negatives:>6}  {shown}")
    return "\n".join(rows)
