"""Reports side by side: every number with its interval, and how sure a difference is.

One set of resamples of the images serves all reports, so that differences are paired: the luck of the images
drops out, and two close models can be told apart on few photos. One report alone gets its intervals.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.evidence import APReport, Evidence
from bodyloop.eval.ochuman import OCHumanReport
from bodyloop.eval.wholebody import WholeBodyReport

Floats = npt.NDArray[np.float64]

_NUMBER = re.compile(r"(AP|AR)(50|75)?(?:_(?:(S|M|L)|v(\d)|(\d+)))?")
_AREAS = {"S": "small", "M": "medium", "L": "large"}
_THRESHOLDS = {"50": 0, "75": 5}


@dataclass(frozen=True, eq=False)
class Comparison:
    """N reports on the same images.

    Attributes:
        names: short names of the prediction files.
        reports: the first one is what the others are compared with.
        intervals: of each report's numbers; those that cannot be resampled are left out.
        differences: of each report but the first: its number minus the first one's, paired.
        resamples, seed: of the bootstrap over images.
    """

    names: tuple[str, ...]
    reports: tuple[APReport, ...]
    intervals: tuple[Mapping[str, boot.Interval], ...]
    differences: tuple[Mapping[str, boot.Difference], ...]
    resamples: int
    seed: int

    @property
    def header(self) -> list[str]:
        """Names of the columns of `rows`."""
        if not self.resamples:
            return ["", *(self.names if len(self.reports) > 1 else ["value"])]
        if len(self.reports) == 1:
            return ["", "value", "95 % interval"]
        against = [f"{name} - {self.names[0]}" for name in self.names[1:]]
        return ["", *self.names, *(x for a in against for x in (a, "95 % interval", "p"))]

    def rows(self) -> list[list[str]]:
        """A row a number, as text: values, then the differences to the first report."""
        out = []
        for name in self.reports[0].numbers:
            values = [r.numbers[name] for r in self.reports]
            row = [name, *("-" if v is None or v < 0 else f"{v:.4f}" for v in values)]
            if not self.resamples:
                out.append(row)
                continue
            if len(self.reports) == 1:
                i = self.intervals[0].get(name)
                row.append("" if i is None else f"{i.low:.4f} to {i.high:.4f}")
            for d in (m.get(name) for m in self.differences):
                span = "" if d is None else f"{d.low:+.4f} to {d.high:+.4f}"
                row += ["", "", ""] if d is None else [f"{d.value:+.4f}", span, f"{d.p_value:.3f}"]
            out.append(row)
        return out

    def head(self) -> str:
        """What was counted, in one line."""
        first = self.reports[0]
        spans = f"; 95 % intervals over images, {self.resamples} resamples" if self.resamples else ""
        return f"{first.task} ({first.protocol} protocol), {first.counts['images']} images{spans}"

    def notes(self) -> list[str]:
        """The reports' warnings, each once, with the file's name where several were judged."""
        several = len(self.reports) > 1
        told = [(n, w) for n, r in zip(self.names, self.reports, strict=True) for w in r.warnings]
        shared = [
            w for w in dict.fromkeys(w for _, w in told) if [v for _, v in told].count(w) == len(self.names)
        ]
        return [*shared, *(f"{n}: {w}" if several else w for n, w in told if w not in shared)]

    def table(self) -> str:
        """As text."""
        cells = [self.header, *self.rows()]
        width = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join(
                [row[0].ljust(width[0]), *(c.rjust(w) for c, w in zip(row[1:], width[1:], strict=True))]
            )
            for row in cells
        ]
        notes = [f"  note: {n}" for n in self.notes()]
        return "\n".join([self.head(), *(f"  {line.rstrip()}" for line in lines), *notes])

    def to_json(self) -> dict[str, object]:
        """One report with its intervals, or several and their differences to the first, as plain json."""
        reports = [
            {**r.to_json(), "intervals": {k: v.to_json() for k, v in i.items()}}
            for r, i in zip(self.reports, self.intervals, strict=True)
        ]
        how = {"resamples": self.resamples, "seed": self.seed}
        if len(reports) == 1:
            return {**reports[0], "bootstrap": how}
        differences = {
            name: {k: d.to_json() for k, d in m.items()}
            for name, m in zip(self.names[1:], self.differences, strict=True)
        }
        return {
            "reports": dict(zip(self.names, reports, strict=True)),
            "compared_with": self.names[0],
            "differences": differences,
            "bootstrap": how,
        }


def compare(
    reports: Sequence[APReport],
    names: Sequence[str] | None = None,
    *,
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
) -> Comparison:
    """Numbers of reports with intervals over images, and their differences to the first.

    Args:
        reports: at least one, of one task, protocol and ground truth.
        names: short names of the reports; by default made from the files' names.
        seed, resamples: of the bootstrap; no resamples, no intervals.

    Raises:
        InputError: no reports, or reports of different tasks, protocols or ground truths.
    """
    _check_alike(reports)
    called = (
        tuple(names) if names is not None else short_names([r.evidence.predictions.origin for r in reports])
    )
    if len(called) != len(reports):
        raise InputError(f"{len(called)} names for {len(reports)} reports")
    images = len(reports[0].evidence.truth.image_ids)
    weights = boot.draw(max(images, 1), np.random.default_rng(seed), resamples)
    samples = [samples_of(r, weights[:, :images]) if resamples else {} for r in reports]
    numbers = [{k: v for k, v in r.numbers.items() if v is not None} for r in reports]
    return Comparison(
        names=called,
        reports=tuple(reports),
        intervals=tuple(
            {k: boot.interval(n[k], s) for k, s in mine.items()}
            for n, mine in zip(numbers, samples, strict=True)
        ),
        differences=tuple(
            {
                k: boot.difference(n[k], numbers[0][k], s, samples[0][k])
                for k, s in mine.items()
                if k in samples[0]
            }
            for n, mine in zip(numbers[1:], samples[1:], strict=True)
        ),
        resamples=resamples,
        seed=seed,
    )


def _check_alike(reports: Sequence[APReport]) -> None:
    if not reports:
        raise InputError("compare: give at least one report")
    first = reports[0]
    for r in reports[1:]:
        a, b = first.evidence, r.evidence
        if (r.task, r.protocol) != (first.task, first.protocol):
            raise InputError(
                f"compare: {b.predictions.origin} was judged as {r.task} ({r.protocol}), "
                f"{a.predictions.origin} as {first.task} ({first.protocol})"
            )
        if not (
            np.array_equal(a.truth.image_ids, b.truth.image_ids) and np.array_equal(a.truth.ids, b.truth.ids)
        ):
            raise InputError(f"compare: {b.truth.origin} and {a.truth.origin} are not the same ground truth")


def short_names(paths: Sequence[str]) -> tuple[str, ...]:
    """The shortest ends of paths (without the suffix) that tell them apart; numbered where nothing does."""
    parts = [
        [*PurePath(p).parent.parts, PurePath(p).name.removesuffix(".gz").removesuffix(".json")] for p in paths
    ]
    for n in range(1, max(len(p) for p in parts) + 1):
        ends = ["/".join(p[-n:]) for p in parts]
        if len(set(ends)) == len(ends):
            return tuple(ends)
    return tuple(f"{PurePath(p).name} ({i})" for i, p in enumerate(paths, 1))


# resampled numbers


def samples_of(report: APReport, weights: Floats) -> dict[str, Floats]:
    """Resampled values (R,) of a report's numbers, by name.

    Args:
        weights: (R, I), see `bootstrap.draw`.

    Those are left out whose names do not say how they are made: AP or AR, at 50 or 75 or all thresholds, of an
    area (_S, _M, _L), a level (_v1) or at most so many predictions (_10).
    """
    e = report.evidence
    out, curves = _of_parts(report, weights), _Resampled(e, weights)
    for name, value in report.numbers.items():
        made = _NUMBER.fullmatch(name)
        if made is None or value is None or value < 0:
            continue
        kind, threshold, area, level, limit = made.groups()
        at = _level(e, level)
        place = _AREAS[area] if area else "all"
        if at is None or place not in e.areas or (limit and int(limit) not in e.limits):
            continue
        chosen = None if threshold is None else _THRESHOLDS[threshold]
        if kind == "AP":
            out[name] = curves.ap(chosen, at, place)
        else:
            most = int(limit) if limit else e.limits[-1]
            out[name] = recall_samples(e, weights, threshold=chosen, level=at, area=place, limit=most)
    return out


def _of_parts(report: APReport, weights: Floats) -> dict[str, Floats]:
    """Numbers that come from reports inside the report: of the parts of a whole body, of OCHuman's masks."""
    if isinstance(report, WholeBodyReport):
        parts = {name: samples_of(r, weights) for name, r in report.parts.items()}
        named = {f"{k}_{name}": mine[k] for name, mine in parts.items() for k in ("AP", "AR") if k in mine}
        return {k: s for k, s in named.items() if k in report.numbers}
    if isinstance(report, OCHumanReport) and report.masks is not None:
        return {f"mask_{k}": s for k, s in samples_of(report.masks, weights).items()}
    return {}


def _level(evidence: Evidence, value: str | None) -> int | None:
    """Index of the level of a visibility flag, 0 for all, None if there is no such level."""
    if value is None:
        return 0
    return next((i for i, level in enumerate(evidence.levels) if i and level.name.endswith(value)), None)


class _Resampled:
    """APs of resamples, each threshold of a level and area computed once."""

    def __init__(self, evidence: Evidence, weights: Floats) -> None:
        self._evidence, self._weights = evidence, weights
        self._known: dict[tuple[int, int, str], Floats] = {}

    def ap(self, threshold: int | None, level: int, area: str) -> Floats:
        """(R,) at one threshold, or the mean over all."""
        if threshold is None:
            count = self._evidence.curves.precision.shape[0]
            return np.asarray(np.mean([self.ap(t, level, area) for t in range(count)], axis=0))
        key = threshold, level, area
        if key not in self._known:
            self._known[key] = boot.ap_samples(
                self._evidence, self._weights, threshold=threshold, level=level, area=area
            )
        return self._known[key]


def recall_samples(
    evidence: Evidence,
    weights: Floats,
    *,
    threshold: int | None = None,
    level: int = 0,
    area: str = "all",
    limit: int | None = None,
) -> Floats:
    """Recall of each resample (R,), NaN where it has nothing to find.

    Args:
        weights: (R, I) over the images.
        threshold: index of one threshold, None for the mean over all.
        limit: predictions per image and category that take part, None for all.
    """
    a, pairing, found = evidence.areas.index(area), evidence.pairing, evidence.levels[level]
    chosen = slice(None) if threshold is None else slice(threshold, threshold + 1)
    right = (found.matches.annotation[a, chosen] >= 0) & ~found.matches.ignored[a, chosen]
    right = right & (pairing.rank < (evidence.limits[-1] if limit is None else limit))
    hits, images = right.mean(axis=0), weights.shape[1]
    shares = np.full((len(weights), len(evidence.truth.category_ids)), np.nan)
    for c in range(shares.shape[1]):
        of_p = pairing.group_category[pairing.prediction_group] == c
        of_a = (pairing.group_category[pairing.annotation_group] == c) & ~found.ignored[a]
        per_image = [
            np.bincount(pairing.group_image[pairing.prediction_group[of_p]], hits[of_p], minlength=images),
            np.bincount(pairing.group_image[pairing.annotation_group[of_a]], minlength=images).astype(
                np.float64
            ),
        ]
        got, wanted = (weights @ column for column in per_image)
        np.divide(got, wanted, out=shares[:, c], where=wanted > 0)
    there = np.isfinite(shares)
    total = np.where(there, shares, 0).sum(axis=1)
    out = np.full(len(weights), np.nan)
    np.divide(total, there.sum(axis=1), out=out, where=there.any(axis=1))
    return out
