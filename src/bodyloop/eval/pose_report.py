"""What is known of a pose model after it was judged: typed parts, a table for people, json for programs, files.

`PoseSet` is a model on one annotation file, `PoseReport` all of them; how they come about is `pose`'s.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.data.cropcoco_folder import make_folder
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.boxed import Boxed
from bodyloop.eval.evidence import APReport
from bodyloop.eval.extended import ExtendedReport
from bodyloop.eval.pck_files import PckNumbers
from bodyloop.eval.photos import PhotoSet, stem_of, write_json
from bodyloop.eval.presence import BinaryReport
from bodyloop.eval.quality import QualityReport

Row = tuple[str, boot.Interval, str]
"""A line of a table: name, value with interval, what else to know."""


@dataclass(frozen=True, eq=False)
class PoseSet:
    """A model on one annotation file.

    Attributes:
        photos: the file; found: what the model said; results: the same as COCO results.
        cropped: its photos are cropped, so that there are keypoints outside their windows.
        oks: AP by OKS; of cropped photos over keypoints in the window (flags 1, 2). None without COCO's keypoints.
        extended: AP by Ex-OKS, likewise.
        pck: of other keypoints.
        presence: where there are keypoints outside; baseline: the guess from joint and touched sides (None without
            labels to fit it on); advantage: AUROC of the model minus that of the guess, paired.
        visibility: where both kinds are labelled.
        keypoint_quality: scores of keypoints against exp(-e); instance_quality: of persons against OKS. None
            without areas.
        intervals: of AP and Ex_AP, or of PCK at 0.2; the other reports have theirs.
    """

    photos: PhotoSet
    found: Boxed
    results: Sequence[Mapping[str, Any]]
    cropped: bool
    oks: APReport | None = None
    extended: ExtendedReport | None = None
    pck: PckNumbers | None = None
    presence: BinaryReport | None = None
    baseline: BinaryReport | None = None
    advantage: boot.Difference | None = None
    visibility: BinaryReport | None = None
    keypoint_quality: QualityReport | None = None
    instance_quality: QualityReport | None = None
    intervals: Mapping[str, boot.Interval] = field(default_factory=dict)

    @property
    def persons(self) -> int:
        """How many were given to the model."""
        return len(self.found.annotations)

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        names = (
            "oks", "extended", "pck", "presence", "baseline", "advantage", "visibility", "keypoint_quality",
            "instance_quality",
        )  # fmt: skip
        parts = {n: getattr(self, n) for n in names}
        return {
            "data": self.photos.origin,
            "persons": self.persons,
            "images": self.found.images,
            "cropped": self.cropped,
            "intervals": {k: i.to_json() for k, i in self.intervals.items()},
            **{n: None if p is None else p.to_json() for n, p in parts.items()},
        }

    def rows(self) -> list[Row]:
        """The main numbers in the order of the table."""
        out: list[Row] = []
        if self.oks is not None:
            where = " in the window" if self.cropped else ""
            out.append(
                (
                    f"OKS AP{where}",
                    self.intervals["AP"],
                    _some(self.oks, "AP50", "AP75", "AP_M", "AP_L", "AR"),
                )
            )
        if self.extended is not None:
            note = _some(self.extended, "AP_v1", "AP_v2", "AP_v3")
            out.append(("Ex-OKS AP", self.intervals["Ex_AP"], note))
        if self.presence is not None:
            out += _of_binary(self.presence)
        if self.advantage is not None:
            better = boot.Interval(self.advantage.value, self.advantage.low, self.advantage.high)
            out.append(("  minus a guess without pixels", better, f"p = {self.advantage.p_value:.3g}"))
        if self.visibility is not None:
            out += _of_binary(self.visibility)
        for q in (self.keypoint_quality, self.instance_quality):
            if q is not None and q.count:
                out += _of_quality(q)
        return out

    def table(self) -> str:
        """The main numbers as text; `to_json` has all."""
        head = f"{self.photos.origin}: {self.persons} persons in {self.found.images} images, annotated boxes"
        lines = [head, *([] if self.pck is None else [self.pck.table()])]
        if self.rows():
            lines.append(f"  {'':36}{'value':>8}   95 % interval")
        for name, i, note in self.rows():
            number = f"{i.value:8.4f}" if np.isfinite(i.value) else f"{'-':>8}"
            span = f"{i.low:7.4f} to{i.high:7.4f}" if np.isfinite(i.low) else ""
            lines.append(f"  {name:36}{number}  {span:18}  {note}".rstrip())
        notes = self.oks.warnings if self.oks is not None and not self.cropped else ()
        return "\n".join([*lines, *(f"  note: {w}" for w in notes)])


@dataclass(frozen=True)
class Speed:
    """Time in the model's predict (cutting crops, network, decoding; not reading photos)."""

    persons: int
    seconds: float
    flip: bool

    @property
    def per_second(self) -> float:
        """Persons per second."""
        return self.persons / self.seconds if self.seconds > 0 else float("inf")

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            "persons": self.persons, "seconds": self.seconds, "persons_per_second": self.per_second,
            "flip": self.flip,
        }  # fmt: skip

    def table(self) -> str:
        """As text."""
        ms = 1000 * self.seconds / max(self.persons, 1)
        how = "with" if self.flip else "without"
        return f"speed: {self.per_second:.1f} persons/s ({ms:.1f} ms a person, {how} flip)"


@dataclass(frozen=True, eq=False)
class PoseReport:
    """Everything about one model, file by file: whole photos, and cropped ones after them."""

    model: str
    parameters: Mapping[str, object]
    sets: tuple[PoseSet, ...]
    speed: Speed

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            "model": self.model,
            "parameters": dict(self.parameters),
            "sets": [s.to_json() for s in self.sets],
            "speed": self.speed.to_json(),
        }

    def table(self) -> str:
        """As text."""
        return "\n\n".join([self.model, *(s.table() for s in self.sets), self.speed.table()])

    def save(self, folder: str | os.PathLike[str]) -> list[tuple[Path, Path]]:
        """Write ``report.json`` and, per set, the labels and the predictions as COCO files.

        The evaluations of files judge these like any tool's results. Files are named by folder and file of the
        labels.

        Returns: the two files of each set.

        Raises:
            FileError: a file cannot be written.
        """
        out = make_folder(Path(folder))
        pairs: list[tuple[Path, Path]] = []
        for i, s in enumerate(self.sets):
            stem = stem_of(s.photos.path) + (".cropped" if s.cropped else "")
            taken = {p.name for p, _ in pairs}
            stem += f".{i}" if f"{stem}.json" in taken else ""
            pairs.append((out / f"{stem}.json", out / f"{stem}.results.json"))
            write_json(pairs[-1][0], s.photos.document)
            write_json(pairs[-1][1], s.results)
        write_json(out / "report.json", self.to_json())
        return pairs


# ------------------------------------------------------------------ words


def _some(report: APReport, *names: str) -> str:
    numbers = report.numbers
    values = {n: numbers[n] for n in names}
    return "  ".join(f"{n} {'-' if v is None or v < 0 else f'{v:.3f}'}" for n, v in values.items())


def _row(
    name: str, value: float | None, intervals: Mapping[str, boot.Interval], key: str, note: str = ""
) -> list[Row]:
    if value is None:
        return []
    return [(name, intervals.get(key) or boot.Interval(value, np.nan, np.nan), note)]


def _of_binary(r: BinaryReport) -> list[Row]:
    at = f"  balanced accuracy at {r.confusion.threshold:g}"
    return [
        *_row(
            f"{r.task} AUROC",
            r.auroc,
            r.intervals,
            "auroc",
            f"{r.positives} positive, {r.negatives} negative",
        ),
        *_row(at, r.confusion.balanced_accuracy, r.intervals, "balanced_accuracy"),
        *_row("  calibration error", r.reliability[10].ece, r.intervals, "ece_10"),
    ]


def _of_quality(q: QualityReport) -> list[Row]:
    c, r = q.risk_coverage, q.reliability
    note = "" if c is None else f"best possible {c.best:.3f}, by chance {c.risk[-1]:.3f}"
    return [
        *_row(f"{q.what}, rank correlation", q.spearman, q.intervals, "spearman", f"{q.count} compared"),
        *_row("  calibration error", None if r is None else r.ece, q.intervals, "ece_10"),
        *_row("  risk-coverage area", None if c is None else c.area, q.intervals, "risk_coverage_area", note),
    ]
