"""The blocks about what predictions say of themselves: presence, visibility, quality, scores."""

from __future__ import annotations

from collections.abc import Sequence

from bodyloop.drawing import page
from bodyloop.drawing.page import Block
from bodyloop.eval.presence import BinaryReport
from bodyloop.eval.presence_files import PresenceReport
from bodyloop.eval.quality import QualityFilesReport, QualityReport
from bodyloop.eval.report import charts


def confidence(
    names: Sequence[str],
    presence: Sequence[PresenceReport | None],
    quality: Sequence[QualityFilesReport | None],
) -> list[Block]:
    """Reliability diagrams, and what is gained by keeping only the surest.

    Args:
        names: of the prediction files.
        presence, quality: of each file, None for what it does not say.
    """
    said = [(n, r) for n, r in zip(names, presence, strict=True) if r is not None]
    judged = [(n, q) for n, q in zip(names, quality, strict=True) if q is not None]
    found = [
        *_binary([(n, r.presence) for n, r in said]),
        *_binary([(n, r.visibility) for n, r in said if r.visibility is not None]),
        *_quality([(n, q.keypoints) for n, q in judged if q.keypoints_from == "field quality"]),
        *_quality([(n, q.persons) for n, q in judged]),
    ]
    drawn, words = [b for b in found if b.kind == "chart"], [b for b in found if b.kind != "chart"]
    return [*([page.grid(*drawn)] if drawn else []), *words]


def _binary(reports: Sequence[tuple[str, BinaryReport]]) -> list[Block]:
    """The reliability diagram of presence or of visibility, if there are both kinds of keypoints."""
    told = [(n, b) for n, b in reports if b.positives and b.negatives]
    if told:
        captions = [
            f"{b.positives} keypoints yes, {b.negatives} no; AUROC {_shown(b, 'auroc')}, balanced accuracy at "
            f"{b.confusion.threshold:g} {_shown(b, 'balanced_accuracy')}, ECE {_shown(b, 'ece_10')}"
            for _, b in told
        ]
        bins = [b.reliability[10] for _, b in told]
        return [charts.reliability(bins, [n for n, _ in told], told[0][1].task.capitalize(), captions)]
    return [
        page.paragraph(
            f"{b.task.capitalize()}: all {b.positives + b.negatives} keypoints are labelled alike, so there is "
            "nothing to tell apart.",
            quiet=True,
        )
        for _, b in reports[:1]
    ]


def _quality(reports: Sequence[tuple[str, QualityReport]]) -> list[Block]:
    out = []
    told = [(n, q, q.reliability) for n, q in reports if q.reliability is not None]
    if told:
        captions = [
            f"{q.count} compared; ECE {_shown(q, 'ece_10')}, rank correlation with the truth {_shown(q, 'spearman')}"
            for _, q, r in told
        ]
        title = told[0][1].what.capitalize()
        out.append(charts.reliability([r for _, _, r in told], [n for n, _, _ in told], title, captions))
    curves = [(n, q.risk_coverage) for n, q in reports if q.risk_coverage is not None]
    if curves:
        title = f"{reports[0][1].what.capitalize()}: the surest first"
        out.append(charts.risk_coverage([c for _, c in curves], [n for n, _ in curves], title))
    return out


def _shown(report: BinaryReport | QualityReport, name: str) -> str:
    """A number with its interval, as far as there is either."""
    span = report.intervals.get(name)
    if span is not None:
        return f"{span.value:.3f} ({span.low:.3f} to {span.high:.3f})"
    values = report.to_json()
    confusion = values.get("confusion")
    value = values.get(name, confusion.get(name) if isinstance(confusion, dict) else None)
    return f"{value:.3f}" if isinstance(value, float) else "–"
