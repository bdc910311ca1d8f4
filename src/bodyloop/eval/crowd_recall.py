"""What a second look finds: the share of people found at equal false positives a photo, after one pass and after two.

Later passes add people, right and wrong ones. Recall alone would praise any loop that adds, AP mixes in the ranking
at all precisions; so both lists are cut at the score at which they make as many false positives, and what is left of
the gain is the loop's. Intervals are bootstrapped over photos (photos made from one photo stay together), the
scores at which lists are cut are found anew in each resample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.accumulate import THRESHOLDS
from bodyloop.eval.boxes import BoxReport, evaluate_boxes
from bodyloop.eval.instance_masks import evaluate_masks
from bodyloop.eval.pipeline import Ranking, check_ranking, labels_for, results_of
from bodyloop.eval.pipeline_run import PipelineRun
from bodyloop.geometry import boxes_from_xywh, iou

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
By = Literal["boxes", "masks"]

OVERLAPPING = 0.3  # IoU of two people's boxes from which on they are a crowd
RATES = (0.1, 0.2, 0.5, 1.0, 2.0)  # false positives a photo


@dataclass(frozen=True)
class RecallAt:
    """Recall of two lists of people at one rate of false positives.

    Attributes:
        rate: false positives a photo; own: it is the first list's, taken whole.
        first, second: recall; gain: second minus first, paired.
    """

    rate: float
    own: bool
    first: boot.Interval
    second: boot.Interval
    gain: boot.Difference

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        parts = {k: getattr(self, k).to_json() for k in ("first", "second", "gain")}
        return {"rate": self.rate, "own": self.own, **parts}


@dataclass(frozen=True, eq=False)
class RecallReport:
    """The gain of later passes over the first.

    Attributes:
        name: of the pipeline. data, photos, units: the labels, and how many photos and independent photos there are.
        parameters: how it was judged.
        people: to be found, by group ("everybody", "overlapping": those whose box overlaps another's).
        found: by group, recall at the first pass's own rate of false positives, then at the `RATES` below it.
    """

    name: str
    data: str
    photos: int
    units: int
    parameters: Mapping[str, object]
    people: Mapping[str, int]
    found: Mapping[str, tuple[RecallAt, ...]]

    def gain(self, group: str = "everybody") -> boot.Difference:
        """At the first pass's own rate."""
        return self.found[group][0].gain

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            "pipeline": self.name, "data": self.data, "photos": self.photos, "units": self.units,
            "parameters": dict(self.parameters), "people": dict(self.people),
            "found": {group: [r.to_json() for r in rows] for group, rows in self.found.items()},
        }  # fmt: skip

    def table(self) -> str:
        """As text."""
        p = self.parameters
        lines = [
            self.name, "",
            f"{self.data}: {self.photos} photos made from {self.units}",
            f"found: IoU of {p['by']} at least {p['iou']}; ranked by {p['ranking']} score",
        ]  # fmt: skip
        for group, rows in self.found.items():
            lines += [
                f"{group}, {self.people[group]} people",
                f"  {'false positives':17}{'recall':>8}{'recall':>9}",
                f"  {'a photo':17}{'1 pass':>8}{p['passes']!s:>2} passes     gain   95 % interval",
            ]
            for r in rows:
                rate = f"{r.rate:.3f}{' (its own)' if r.own else ''}"
                lines.append(
                    f"  {rate:17}{r.first.value:8.4f}{r.second.value:9.4f}  {r.gain.value:+.4f}"
                    f"   {r.gain.low:+.4f} to {r.gain.high:+.4f}"
                )
        return "\n".join(lines)


def recall_gain(
    run: PipelineRun,
    *,
    ranking: Ranking = "box",
    by: By = "boxes",
    threshold: float = 0.5,
    passes: int | None = None,
    rates: Sequence[float] = RATES,
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
) -> RecallReport:
    """Compare what is known after the first pass with what is known after ``passes`` (None: all).

    Args:
        ranking: the score at which the lists are cut, see `bodyloop.eval.pipeline.RANKINGS`.
        by: what must fit: boxes or masks. threshold: least IoU, one of COCO's (0.5, 0.55, ... 0.95).
        rates: false positives a photo at which to compare, besides the first pass's own; those beyond it are left
            out, for the first pass has no more people to offer.

    Raises:
        ConfigError: a threshold or ranking that there is not. InputError: no such score; labels without masks.
    """
    check_ranking(ranking)
    at = np.flatnonzero(np.isclose(THRESHOLDS, threshold))
    if not len(at):
        raise ConfigError(f"threshold must be one of 0.5, 0.55, ... 0.95, got {threshold}")
    count = run.passes if passes is None else passes
    labels = labels_for(run.photos, by, run.category)
    if labels is None:
        raise ConfigError(f"{run.photos.origin}: nobody, or not everybody, has {by} there")
    judge = evaluate_boxes if by == "boxes" else evaluate_masks
    there = {i["id"] for i in labels["images"]}
    reports = [
        judge(labels, [r for r in results_of(run, by, ranking, n) if r["image_id"] in there])
        for n in (1, count)
    ]
    unit, of_image = _units(labels["images"], reports[0].evidence.truth.image_ids)
    weights = boot.draw(unit, np.random.default_rng(seed), resamples)
    photos = np.bincount(of_image, minlength=unit).astype(np.float64)
    groups = {"everybody": None, "overlapping": _overlapping(reports[0])}
    people, found = {}, {}
    for group, chosen in groups.items():
        first, second = (_Outcome.of(r, int(at[0]), of_image, unit, chosen) for r in reports)
        people[group] = int(first.to_find.sum())
        if people[group]:
            found[group] = tuple(_compared(first, second, photos, weights, rates))
    parameters = {
        "ranking": ranking, "by": by, "iou": threshold, "passes": count, "seed": seed, "resamples": resamples
    }  # fmt: skip
    return RecallReport(run.name, run.photos.origin, len(of_image), unit, parameters, people, found)


def _units(images: Sequence[Mapping[str, object]], ids: Ints) -> tuple[int, Ints]:
    """How many photos were begun with, and for each image (in the order of ids) which: its own if it says no other."""
    base = {
        int(str(i["id"])): f"{'base' if 'base_id' in i else 'own'} {i.get('base_id', i['id'])}"
        for i in images
    }
    names, of_image = np.unique([base[int(i)] for i in ids], return_inverse=True)
    return len(names), of_image.astype(np.int64)


def _overlapping(report: BoxReport) -> Bools:
    """(G,) whether an annotation's box overlaps that of another person on the photo."""
    truth = report.evidence.truth
    out = np.zeros(len(truth.ids), bool)
    for image in np.unique(truth.image):
        mine = np.flatnonzero((truth.image == image) & ~truth.crowd)
        boxes = boxes_from_xywh(truth.boxes[mine])
        between = iou(boxes, boxes)
        np.fill_diagonal(between, 0)
        out[mine] = between.max(axis=1, initial=0) >= OVERLAPPING
    return out


@dataclass(frozen=True, eq=False)
class _Outcome:
    """Predictions by falling score: right, wrong, or neither.

    Attributes:
        right, wrong: (P,) 0 or 1. unit: (P,) index of the photo begun with.
        to_find: (U,) people.
    """

    right: Floats
    wrong: Floats
    unit: Ints
    to_find: Floats

    @classmethod
    def of(
        cls, report: BoxReport, threshold: int, of_image: Ints, units: int, chosen: Bools | None
    ) -> _Outcome:
        """Of a report, at one IoU; with ``chosen`` (G,) only these are to be found, and others found are no mistake."""
        e = report.evidence
        p, level = e.pairing, e.levels[0]
        matched, ignored = level.matches.annotation[0][threshold], level.matches.ignored[0][threshold]
        wanted = ~level.ignored[0]
        if chosen is not None:
            wanted = wanted & chosen[p.annotations]
        order = np.argsort(-e.predictions.scores[p.predictions], kind="stable")
        hit = matched >= 0
        right = np.zeros(len(matched), bool)
        right[hit] = wanted[matched[hit]]
        wrong = ~hit & ~ignored
        unit = of_image[p.group_image[p.prediction_group]]
        to_find = np.bincount(of_image[p.group_image[p.annotation_group]][wanted], minlength=units)
        return cls(
            (right & ~ignored)[order].astype(np.float64), wrong[order].astype(np.float64), unit[order],
            to_find.astype(np.float64),
        )  # fmt: skip

    def false_positives(self, weights: Floats) -> Floats:
        """(R,) of all predictions."""
        return weights @ np.bincount(self.unit, self.wrong, minlength=weights.shape[1])

    def recall(self, weights: Floats, budget: Floats) -> Floats:
        """(R,) of the longest list, from the best score on, with no more false positives than the budget (R,)."""
        out = np.full(len(weights), np.nan)
        total = weights @ self.to_find
        step = max(1, boot.CELLS // max(len(self.unit), 1))
        for start in range(0, len(weights), step):
            rows = slice(start, start + step)
            w = weights[rows][:, self.unit]
            within = np.cumsum(w * self.wrong, axis=1) <= budget[rows, None] + 1e-9
            np.divide(
                (w * self.right * within).sum(axis=1), total[rows], out=out[rows], where=total[rows] > 0
            )
        return out


def _compared(
    first: _Outcome, second: _Outcome, photos: Floats, weights: Floats, rates: Sequence[float]
) -> list[RecallAt]:
    """At the first list's own rate, and at those below it."""
    once = np.ones((1, len(photos)))
    own = float(first.false_positives(once)[0] / photos.sum())
    out = []
    for rate in (None, *(r for r in rates if r < own)):
        values, samples = (
            [
                o.recall(w, first.false_positives(w) if rate is None else rate * (w @ photos))
                for o in (first, second)
            ]
            for w in (once, weights)
        )
        (a, b), (a_samples, b_samples) = (float(v[0]) for v in values), samples
        out.append(
            RecallAt(
                own if rate is None else rate, rate is None, boot.interval(a, a_samples),
                boot.interval(b, b_samples), boot.difference(b, a, b_samples, a_samples),
            )
        )  # fmt: skip
    return out
