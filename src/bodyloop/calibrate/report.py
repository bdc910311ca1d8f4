"""What a calibration did, on photos it was not fitted on: before, after, and the difference with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bodyloop.calibrate.regions import JudgedRegions
from bodyloop.calibrate.risk import Controlled, false_alarms
from bodyloop.calibrate.temperatures import Fitted, log_losses
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.boxed import Boxed
from bodyloop.eval.presence import auroc, ece_samples, labels_of, reliability
from bodyloop.models.cards import Accuracy, Card
from bodyloop.oks import keypoint_similarity

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Figure = tuple[float, Floats]  # a number and its resamples (R,)

COMMAND = "bodyloop calibrate"
ROUNDING = 1e-6  # a file with more Newton steps differs by less where nothing was changed


@dataclass(frozen=True)
class Change:
    """One number before and after; ``better``: "less", "more", or "" where it only describes."""

    name: str
    better: str
    before: boot.Interval
    after: boot.Interval
    change: boot.Difference

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        parts = {n: getattr(self, n).to_json() for n in ("before", "after", "change")}
        return {"name": self.name, "better": self.better, "verdict": self.verdict, **parts}

    @property
    def verdict(self) -> str:
        """ "better" or "worse" where the interval of the change says so, else ""."""
        fell, rose = self.change.high < -ROUNDING, self.change.low > ROUNDING
        if not self.better or not (fell or rose):
            return ""
        return "better" if fell == (self.better == "less") else "worse"

    def line(self) -> str:
        """As a line of a table."""
        cells = [
            f"{i.value:{sign}.4g} ({i.low:{sign}.3g} to {i.high:{sign}.3g})"
            for i, sign in ((self.before, ""), (self.after, ""), (self.change, "+"))
        ]
        return (f"{self.name:<26}" + "".join(f"{c:<36}" for c in cells) + self.verdict).rstrip()


@dataclass(frozen=True)
class Decision:
    """Presence by a threshold, on photos with keypoints outside their windows.

    Attributes:
        threshold: "present" is a value of at least it.
        false_alarms: mean over photos of the share of their keypoints outside that is called present.
        false_positive_rate: the same over all keypoints outside; recall: share of those inside.
    """

    threshold: float
    false_alarms: boot.Interval
    false_positive_rate: float
    recall: float

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        rates = {"false_positive_rate": self.false_positive_rate, "recall": self.recall}
        return {
            "threshold": self.threshold,
            "false_alarms": self.false_alarms.to_json(),
            **boot.plain(rates),
        }


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """A calibration and what it changed.

    Attributes:
        out: the new file; card: as it stands in it.
        fit, report: in words, the photos that were fitted on and those that are reported on.
        parameters: as given; resamples, seed: of the intervals.
        temperatures: by output.
        newton_steps: of an ONNX file's sparsemax, before and after; None for torch weights.
        changes: on the photos of the report.
        presence: the threshold's control; None for a model without presence, or photos without crops.
        decisions: the present threshold and the new one on the photos of the report.
        regions: conformal regions there, by falling alpha; cropped: the same on the same photos cropped, which
            they were not fitted for.
        notes: what should be known.
    """

    out: Path
    card: Card
    fit: str
    report: str
    parameters: Mapping[str, object]
    resamples: int
    seed: int
    temperatures: Mapping[str, Fitted]
    newton_steps: tuple[int, int] | None
    changes: tuple[Change, ...]
    presence: Controlled | None
    decisions: tuple[Decision, ...]
    regions: tuple[JudgedRegions, ...]
    cropped: tuple[JudgedRegions, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            "out": str(self.out),
            "model": self.card.name,
            "fit": self.fit,
            "report": self.report,
            "parameters": dict(self.parameters),
            "temperatures": {n: t.to_json() for n, t in self.temperatures.items()},
            "newton_steps": self.newton_steps,
            "changes": [c.to_json() for c in self.changes],
            "presence": None if self.presence is None else vars(self.presence),
            "decisions": [d.to_json() for d in self.decisions],
            "regions": [
                {**boot.plain(r.numbers()), "interval": self.interval(r).to_json(), "each": r.each}
                for r in self.regions
            ],
            "regions_on_cropped": [boot.plain(r.numbers()) for r in self.cropped],
            "notes": list(self.notes),
        }

    def interval(self, regions: JudgedRegions) -> boot.Interval:
        """The regions' coverage with its interval over photos."""
        return regions.interval(self.resamples, self.seed)

    def table(self) -> str:
        """As text."""
        lines = [f"fitted on   {self.fit}", f"reported on {self.report}", ""]
        lines += [f"temperature of {name:<11} {t}" for name, t in self.temperatures.items()]
        if self.newton_steps is not None:
            lines.append("Newton steps of the file   {} -> {}".format(*self.newton_steps))
        lines += ["", f"{'':26}{'before':<36}{'after':<36}{'change':<36}(95 % over photographs)"]
        lines += [c.line() for c in self.changes]
        if self.presence is not None:
            lines += ["", str(self.presence)]
        for d in self.decisions:
            lines.append(
                f"  at {d.threshold:.3f}: false alarms {d.false_alarms} of a photo's keypoints outside, "
                f"{d.false_positive_rate:.4f} of all of them; finds {d.recall:.4f} of those inside"
            )
        lines += ["", "conformal regions" + (" and the same on cropped photos" if self.cropped else "")]
        for r in (*self.regions, *self.cropped):
            n = r.numbers()
            lines.append(
                f"  wanted {1 - r.alpha:.0%}: hold {r.coverage:.1%} of {len(r.covered)} keypoints "
                f"({n['lowest_keypoint']:.1%} to {n['highest_keypoint']:.1%} by keypoint, photos counted once "
                f"{r.coverage_of_photographs:.1%}); median {r.median_share:.1%}, mean {r.mean_share:.1%} of the "
                f"window; whole window {r.whole:.1%}"
            )
        return "\n".join([*lines, *(f"note: {n}" for n in self.notes), f"written: {self.out}"])


# ------------------------------------------------------------------ numbers


def compare(before: Mapping[str, Figure], after: Mapping[str, Figure]) -> list[Change]:
    """Numbers that both have, side by side."""
    out = []
    for name in before:
        if name in after:
            (b, bs), (a, as_) = before[name], after[name]
            change = boot.difference(a, b, as_, bs)
            out.append(Change(name, BETTER[name], boot.interval(b, bs), boot.interval(a, as_), change))
    return out


BETTER = {
    "map calibration error": "less", "50 % region holds": "", "90 % region holds": "",
    "cells of the 90 % region": "", "truth where the map is 0": "less", "OKS of the points": "more",
    "presence log loss": "less", "presence Brier": "less", "presence ECE": "less", "presence AUROC": "more",
    "visibility log loss": "less", "visibility Brier": "less", "visibility ECE": "less", "visibility AUROC": "more",
    "quality log loss": "less", "quality ECE": "less", "quality absolute error": "less",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Draws:
    """The photos of n entries, and resamples of these photos.

    Attributes:
        at: (n,) index of each entry's photo; weights: (R, photos).
    """

    at: Ints
    weights: Floats

    @classmethod
    def of(cls, image: npt.NDArray[np.generic], resamples: int, seed: int) -> Draws:
        """Of image ids (n,), n > 0: the same draws whenever the photos are the same."""
        ids, at = np.unique(image, return_inverse=True)
        return cls(at, boot.draw(len(ids), np.random.default_rng(seed), resamples))

    def mean(self, values: npt.NDArray[np.generic]) -> Figure:
        """Mean of values (n,)."""
        v = np.asarray(values, np.float64)
        return float(v.mean()), boot.mean_samples(v, self.at, self.weights)


@dataclass(frozen=True, eq=False)
class Columns:
    """A side output against the truth: probabilities (n,), labels or shares (n,), and image ids (n,)."""

    p: Floats
    y: Floats
    image: Ints

    @classmethod
    def joined(cls, parts: Sequence[Columns]) -> Columns:
        """One after another."""
        return cls(*(np.concatenate([getattr(c, f) for c in parts]) for f in ("p", "y", "image")))


def image_ids(found: Boxed) -> Ints:
    """(N,) of each person."""
    return np.array([a["image_id"] for a in found.annotations], np.int64)


def map_figures(found: Boxed, resamples: int, seed: int) -> dict[str, Figure]:
    """Calibration and sharpness of the maps, and how good the points are."""
    assert found.maps is not None
    m, ids, out = found.maps.calibration, image_ids(found), {}
    if len(m):
        draws = Draws.of(ids[found.maps.person], resamples, seed)
        out["map calibration error"] = m.error, m.error_samples(draws.at, draws.weights)
        half, most = (int(np.argmin(np.abs(m.levels - q))) for q in (0.5, 0.9))
        out["50 % region holds"] = draws.mean(m.covered[:, half])
        out["90 % region holds"] = draws.mean(m.covered[:, most])
        out["cells of the 90 % region"] = draws.mean(m.sizes[:, most])
        out["truth where the map is 0"] = draws.mean(m.mass <= 0)
    similarity, inside = similarities(found)
    if inside.any():
        who = np.broadcast_to(ids[:, None], inside.shape)[inside]
        out["OKS of the points"] = Draws.of(who, resamples, seed).mean(similarity[inside])
    return out


def similarities(found: Boxed) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(N, K) true similarity of each keypoint, and which have one: labelled in the window, of a person with an area."""
    labels = found.labels
    area = np.array([a.get("area", np.nan) for a in found.annotations], np.float64)
    inside = ((labels[..., 2] == 1) | (labels[..., 2] == 2)) & np.isfinite(found.keypoints).all(axis=-1)
    inside &= np.isfinite(area)[:, None]
    with np.errstate(invalid="ignore"):
        value = keypoint_similarity(found.keypoints, labels[..., :2], area, found.skeleton.sigma_array)
    return value, inside


def columns_of(found: Boxed, flags: Floats, task: str) -> Columns:
    """The entries of a side output that the labels speak of; none for a model without it.

    Args:
        flags: (N, K); task: "presence", "visibility" or "quality".
    """
    values: Floats | None = getattr(found, task)
    if values is None:
        return Columns(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
    if task == "quality":
        truth, used = similarities(found)
    else:
        used, positive = labels_of(flags, task)
        truth = positive.astype(np.float64)
    used = used & np.isfinite(values)
    image = np.broadcast_to(image_ids(found)[:, None], used.shape)[used]
    return Columns(np.clip(values[used], 0, 1), truth[used], image)


def side_figures(columns: Columns, task: str, resamples: int, seed: int) -> dict[str, Figure]:
    """How honest a side output is."""
    p, y = columns.p, columns.y
    if not len(p):
        return {}
    draws = Draws.of(columns.image, resamples, seed)
    out = {
        f"{task} log loss": draws.mean(log_losses(p, y, [1.0])[:, 0]),
        f"{task} ECE": (reliability(p, y).ece, ece_samples(p, y, draws.at, draws.weights)),
    }
    if task == "quality":
        return out | {"quality absolute error": draws.mean(np.abs(p - y))}
    out[f"{task} Brier"] = draws.mean((p - y) ** 2)
    ranked = auroc(p, y > 0)
    if ranked is not None:
        out[f"{task} AUROC"] = ranked, boot.auroc_samples(p, y > 0, draws.at, draws.weights)
    return out


def decision(presence: Columns, threshold: float, resamples: int, seed: int) -> Decision | None:
    """Presence by a threshold; None without keypoints outside or inside."""
    p, out = presence.p, presence.y == 0
    if not out.any() or out.all():
        return None
    alarms = false_alarms(p[out], presence.image[out], threshold)
    figure = Draws.of(np.arange(len(alarms)), resamples, seed).mean(alarms)
    return Decision(
        threshold,
        boot.interval(*figure),
        float((p[out] >= threshold).mean()),
        float((p[~out] >= threshold).mean()),
    )


# ------------------------------------------------------------------ the card


def accuracy_rows(report: CalibrationReport, command: str) -> tuple[Accuracy, ...]:
    """The card's rows: those it had, as of the model before, and what was found now."""
    had = [a for a in report.card.accuracy if not a.source.startswith(COMMAND)]
    mark = "before calibration"
    rows = [a if mark in a.protocol else replace(a, protocol=f"{a.protocol} ({mark})".strip()) for a in had]
    shown = ("map calibration error", "OKS of the points", "presence ECE", "visibility ECE", "quality ECE")
    rows += [
        _row(report, c.name, c.after, f"{c.before.value:.4f} before calibration", command)
        for c in report.changes
        if c.name in shown and np.isfinite(c.after.value)
    ]
    for r in report.regions:
        if len(r.covered):
            numbers = f"median {r.median_share:.1%} of the window, {r.whole:.1%} of the regions are all of it"
            name = f"coverage of the {1 - r.alpha:.0%} regions"
            rows.append(_row(report, name, report.interval(r), numbers, command))
    if len(report.decisions) == 2:
        before, after = report.decisions
        told = (
            f"finds {after.recall:.4f} of those inside; at {before.threshold:.3f} before calibration: "
            f"{before.false_alarms.value:.4f}, finds {before.recall:.4f}"
        )
        name = f"keypoints outside called present at {after.threshold:.3f}, mean over photographs"
        rows.append(_row(report, name, after.false_alarms, told, command))
    return tuple(rows)


def _row(
    report: CalibrationReport, metric: str, value: boot.Interval, protocol: str, command: str
) -> Accuracy:
    known = np.isfinite([value.low, value.high]).all()
    return Accuracy(
        dataset=report.report,
        metric=metric,
        value=round(value.value, 4),
        interval=(round(value.low, 4), round(value.high, 4)) if known else None,
        protocol=protocol,
        boxes="ground truth",
        source=command,
    )
