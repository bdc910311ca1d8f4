"""The common course of all AP evaluations, and everything it leaves behind.

`collect` pairs, measures, matches and accumulates; a task gives the similarity as a function of pairs, the
annotations that are ignored, and its area ranges and limits. A task that measures several levels at once pairs
and measures itself and hands them to `judge`. `Evidence` keeps similarities and matches
readable per image, and is what the bootstrap resamples. `APReport` is the base of the tasks' reports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.eval.accumulate import AREA_RANGES, THRESHOLDS, Curves, accumulate, outside_ranges
from bodyloop.eval.matching import Matches, Pairing, match, pair
from bodyloop.eval.protocols import Rules
from bodyloop.eval.reading import GroundTruth, Predictions

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

Similarity = Callable[[Ints, Ints], Floats]
"""Similarities (Q,) of pairs, given as indices of predictions (Q,) and annotations (Q,) in their files."""

Matcher = Callable[[Pairing, Floats, Bools, Bools, Bools, Floats], Matches]


@dataclass(frozen=True, eq=False)
class Level:
    """What one level of an evaluation found. Positions are those of the Pairing.

    Attributes:
        name: "all", or a visibility level.
        similarity: (Q,) of the pairs.
        ignored: (A, G) annotations that were not to be found, per area range.
        matches: who was matched with whom.
    """

    name: str
    similarity: Floats
    ignored: Bools
    matches: Matches


@dataclass(frozen=True, eq=False)
class Evidence:
    """Inputs, pairs, matches and curves of one evaluation."""

    truth: GroundTruth
    predictions: Predictions
    pairing: Pairing
    levels: tuple[Level, ...]
    curves: Curves
    areas: tuple[str, ...]
    limits: tuple[int, ...]

    def _group(self, image_id: int, category_id: int) -> int | None:
        at = []
        for known, wanted, what in (
            (self.truth.category_ids, category_id, "category"),
            (self.truth.image_ids, image_id, "image"),
        ):
            i = np.searchsorted(known, wanted)
            if i >= len(known) or known[i] != wanted:
                raise InputError(f"no {what} with id {wanted} in {self.truth.origin}")
            at.append(int(i))
        return self.pairing.group(at[0], at[1])

    def similarity(self, image_id: int, category_id: int, level: int = 0) -> Floats:
        """(D, G) similarities in one image: rows by falling score, columns in file order."""
        g = self._group(image_id, category_id)
        return np.zeros((0, 0)) if g is None else self.pairing.block(self.levels[level].similarity, g)

    def matched_ids(
        self, image_id: int, category_id: int, level: int = 0, area: str = "all"
    ) -> tuple[Ints, Bools]:
        """Matched annotation ids (T, D), -1 for none, and whether each prediction is ignored (T, D).

        Predictions by falling score as in `similarity`.
        """
        g = self._group(image_id, category_id)
        t = len(self.curves.precision)
        if g is None:
            return np.zeros((t, 0), np.int64), np.zeros((t, 0), bool)
        a = self.areas.index(area)
        d = slice(int(self.pairing.prediction_start[g]), int(self.pairing.prediction_start[g + 1]))
        found = self.levels[level].matches.annotation[a][:, d]
        if not len(self.truth.ids):
            return np.full(found.shape, -1), self.levels[level].matches.ignored[a][:, d]
        ids = self.truth.ids[self.pairing.annotations[np.maximum(found, 0)]]
        return np.where(found >= 0, ids, -1), self.levels[level].matches.ignored[a][:, d]


def matched_similarities(pairing: Pairing, level: Level, chosen: Bools | None = None) -> Floats:
    """Similarities of all matches of a level, over area ranges, thresholds and predictions, as one row.

    Args:
        chosen: (A, T, P) matches to look at, None for all.
    """
    group = pairing.prediction_group
    row = np.arange(len(group)) - pairing.prediction_start[group]
    width = np.diff(pairing.annotation_start)[group] if len(group) else row
    # where the pairs of each prediction begin, less the position of its first annotation
    first = pairing.pair_start[group] + row * width - pairing.annotation_start[group]
    out = [np.zeros(0)]
    for at in np.ndindex(level.matches.annotation.shape[:2]):
        found = level.matches.annotation[at]
        hit = np.flatnonzero(found >= 0 if chosen is None else (found >= 0) & chosen[at])
        out.append(level.similarity[first[hit] + found[hit]])
    return np.concatenate(out)


def collect(
    truth: GroundTruth,
    predictions: Predictions,
    levels: Mapping[str, tuple[Similarity, Bools]],
    *,
    area: Floats,
    areas: Sequence[str],
    limits: Sequence[int],
    rules: Rules,
    kept: Bools | None = None,
    alarms_everywhere: bool = True,
) -> Evidence:
    """Run one evaluation.

    Args:
        levels: by name, the similarity and the annotations (G,) that are not to be found at that level.
        area: (G,) of the annotations, for the area ranges.
        areas: names of `AREA_RANGES`.
        limits: predictions per image and category, ascending; matching is done once with the last.
        kept: (P,) predictions that take part, None for all.
        alarms_everywhere: see `Rules`.
    """
    pairing = pair_up(truth, predictions, limits[-1], kept)
    pairs = sides(pairing)
    measured = {name: (similarity(*pairs), hidden) for name, (similarity, hidden) in levels.items()}
    return judge(
        truth, predictions, pairing, measured,
        area=area, areas=areas, limits=limits, rules=rules, alarms_everywhere=alarms_everywhere,
    )  # fmt: skip


def pair_up(truth: GroundTruth, predictions: Predictions, limit: int, kept: Bools | None = None) -> Pairing:
    """All pairs of an evaluation; arguments as in `collect`."""
    category = predictions.category if kept is None else np.where(kept, predictions.category, -1)
    return pair(
        predictions.image, category, predictions.scores,
        truth.image, truth.category, len(truth.image_ids), limit,
    )  # fmt: skip


def sides(pairing: Pairing) -> tuple[Ints, Ints]:
    """(Q,) indices in their files of the predictions and the annotations of all pairs."""
    return pairing.predictions[pairing.pair_prediction], pairing.annotations[pairing.pair_annotation]


def judge(
    truth: GroundTruth,
    predictions: Predictions,
    pairing: Pairing,
    measured: Mapping[str, tuple[Floats, Bools]],
    *,
    area: Floats,
    areas: Sequence[str],
    limits: Sequence[int],
    rules: Rules,
    alarms_everywhere: bool = True,
    matcher: Matcher = match,
    thresholds: Floats = THRESHOLDS,
    ranges: Sequence[tuple[float, float]] | None = None,
) -> Evidence:
    """Match and accumulate what was measured.

    Args:
        measured: by level, the similarities (Q,) of the pairs and the annotations (G,) not to be found.
        matcher: called as `match` is.
        area, areas, limits, alarms_everywhere: as in `collect`.
        thresholds: (T,) of similarity.
        ranges: low and high area of each of ``areas``, px^2; None: those of `AREA_RANGES`.
    """
    ranges = [AREA_RANGES[name] for name in areas] if ranges is None else ranges
    order = pairing.annotations
    outside = outside_ranges(area[order], ranges)
    p_outside = outside_ranges(predictions.area[pairing.predictions], ranges)
    done = []
    for name, (values, hidden) in measured.items():
        ignored = outside | hidden[order]
        matches = matcher(pairing, values, ignored, truth.crowd[order], p_outside, thresholds)
        if rules.lose_id_zero:
            _lose_id_zero(matches, truth.ids[order], p_outside)
        if not alarms_everywhere:
            _silence(matches, ignored, pairing)
        done.append(Level(name, values, ignored, matches))
    curves = accumulate(
        pairing,
        [(level.matches, level.ignored) for level in done],
        predictions.scores[pairing.predictions],
        len(truth.category_ids),
        limits,
        thresholds,
    )
    return Evidence(truth, predictions, pairing, tuple(done), curves, tuple(areas), tuple(limits))


def _lose_id_zero(matches: Matches, ids: Ints, outside: Bools) -> None:
    """pycocotools' bug: a match with annotation id 0 reads as no match (the annotation stays used up)."""
    zero = np.flatnonzero(ids == 0)
    if len(zero):
        lost = matches.annotation == zero[0]
        matches.annotation[lost] = -1
        matches.ignored[lost & outside[:, None, :]] = True


def _silence(matches: Matches, ignored: Bools, pairing: Pairing) -> None:
    """exococotools' rule: where nobody is to be found in an image, its predictions count for nothing."""
    groups = len(pairing.group_image)
    for a, row in enumerate(ignored):
        to_find = np.bincount(pairing.annotation_group[~row], minlength=groups)
        matches.ignored[a][:, to_find[pairing.prediction_group] == 0] = True


@dataclass(frozen=True, eq=False, kw_only=True)
class APReport:
    """Base of the AP reports: named numbers as fields of the subclass, and the evidence behind them.

    Attributes:
        task: name of the task.
        protocol: whose numbers these are.
        parameters: what the run was told, for the report file.
        counts: images, annotations, ignored ones, predictions, dropped ones.
        warnings: what is odd about the files.
        evidence: similarities, matches and curves.
    """

    names: ClassVar[tuple[str, ...]] = ()
    task: str
    protocol: str
    parameters: Mapping[str, object]
    counts: Mapping[str, int]
    warnings: tuple[str, ...] = ()
    evidence: Evidence = field(repr=False)

    @property
    def numbers(self) -> dict[str, float | None]:
        """The named numbers in the task's order: -1 where there was nothing to find, None where there is none."""
        found = {name: getattr(self, name) for name in self.names}
        return {name: None if v is None else float(v) for name, v in found.items()}

    def to_json(self) -> dict[str, object]:
        """The report as plain json: protocol, parameters, counts, numbers, version, sha256 of both inputs."""
        return {
            "task": self.task,
            "protocol": self.protocol,
            "parameters": dict(self.parameters),
            "counts": dict(self.counts),
            "numbers": self.numbers,
            "warnings": list(self.warnings),
            "version": version("bodyloop"),
            "sha256": {
                "ground_truth": self.evidence.truth.digest,
                "predictions": self.evidence.predictions.digest,
            },
        }

    def table(self) -> str:
        """The numbers as text, one a line."""
        width = max(len(n) for n in self.names)
        head = f"{self.task} ({self.protocol} protocol), {self.counts['images']} images"
        lines = [
            f"  {n:<{width}} {'   -' if v is None or v < 0 else f'{v:.4f}'}" for n, v in self.numbers.items()
        ]
        return "\n".join([head, *lines, *(f"  note: {w}" for w in self.warnings)])

    def __str__(self) -> str:
        return self.table()


def counts_of(truth: GroundTruth, predictions: Predictions, ignored: Bools, dropped: int) -> dict[str, int]:
    """The counts that every report states."""
    return {
        "images": len(truth.image_ids),
        "annotations": len(truth.ids),
        "ignored": int(np.count_nonzero(ignored)),
        "predictions": len(predictions),
        "dropped": dropped,
    }
