"""The pages: sections put together and written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bodyloop.drawing import page
from bodyloop.drawing.page import Page
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.assigned import FilesReport
from bodyloop.eval.comparison import Comparison, compare, short_names
from bodyloop.eval.evidence import APReport
from bodyloop.eval.pck_files import PckReport
from bodyloop.eval.presence_files import PresenceReport
from bodyloop.eval.quality import QualityFilesReport
from bodyloop.eval.report import charts, sections
from bodyloop.eval.report.confidence import confidence
from bodyloop.eval.report.gather import gather, noun_of, title_of
from bodyloop.skeletons import Skeleton

CASES = 8


def write_report(
    path: str | os.PathLike[str],
    reports: APReport | Sequence[APReport] | Comparison,
    *,
    images: str | os.PathLike[str] | None = None,
    names: Sequence[str] | None = None,
    skeleton: Skeleton | None = None,
    command: str = "",
    cases: int = CASES,
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
) -> Path:
    """Write the page of a report, or of several that are compared with the first; return its path.

    Args:
        path: of the HTML file.
        reports: of one task, protocol and ground truth; or already compared (then ``names``, ``seed`` and
            ``resamples`` are those of the comparison).
        images: folder of the photos, for pictures of single people; None: no pictures.
        names: short names of the reports.
        skeleton: of the keypoints, if the ground truth does not name them as a known one does.
        command: the command line that made the page.
        cases: how many people are shown at most of each kind.
        seed, resamples: of the bootstrap over images.

    Raises:
        InputError: reports that cannot be compared.
        FileError: the page cannot be written.
        MissingDependency: without jinja2 or matplotlib; the message names the extra to install.
    """
    if not isinstance(reports, Comparison):
        several = [reports] if isinstance(reports, APReport) else list(reports)
        reports = compare(several, names, seed=seed, resamples=resamples)
    return report_page(reports, images=images, skeleton=skeleton, command=command, cases=cases).write(path)


def report_page(
    pair: Comparison,
    *,
    images: str | os.PathLike[str] | None = None,
    skeleton: Skeleton | None = None,
    command: str = "",
    cases: int = CASES,
) -> Page:
    """The page of one report or several; arguments as of `write_report`."""
    behind = [gather(r, skeleton=skeleton, seed=pair.seed) for r in pair.reports]
    first = pair.reports[0]
    there = f"{first.counts['annotations'] - first.counts['ignored']} {noun_of(first)}"
    words = f"{title_of(first)} · {first.protocol} protocol · {first.counts['images']} images, {there}"
    out = Page(_title(pair.names, first.evidence.truth.origin), words)
    out = out.section("At a glance", *sections.glance(pair, behind))
    out = out.section("Precision, recall, similarity", *sections.curves(pair, behind))
    out = out.section("All numbers", *sections.numbers(pair, behind))
    who = "Who is found" if noun_of(first) == "people" else "What is found"
    out = out.section(who, *sections.parts(pair, behind))
    if all(b.mistakes is not None for b in behind):
        out = out.section("What goes wrong", *sections.mistakes(pair, behind))
    told = confidence(sections.labels(pair), [b.presence for b in behind], [b.quality for b in behind])
    if told:
        out = out.section("Confidence", *told)
    if images is not None:
        out = out.section("Cases", *sections.people(pair, behind, Path(images), cases))
    return out.section("How this was measured", *sections.method(pair, behind, command))


def write_confidence(
    path: str | os.PathLike[str],
    presence: Sequence[PresenceReport],
    quality: Sequence[QualityFilesReport | None],
    *,
    names: Sequence[str] | None = None,
    command: str = "",
) -> Path:
    """Write the page about presence, visibility and quality of prediction files; return its path.

    Args:
        presence, quality: of each file; quality None where it was not judged.
        names: short names of the files.

    Raises:
        FileError: the page cannot be written. MissingDependency: see `write_report`.
    """
    called = _names(presence, names)
    out = Page(_title(called, presence[0].truth.origin), "Presence, visibility and quality")
    told = confidence([charts.short(n) for n in called], presence, quality)
    out = out.section("Confidence", *told)
    each = [page.details(n, page.code(r.table()), *([page.code(q.table())] if q else []), open=len(called) == 1)
            for n, r, q in zip(called, presence, quality, strict=True)]  # fmt: skip
    return (
        out.section("All numbers", *each)
        .section("How this was measured", *_files(presence, called, command))
        .write(path)
    )


def write_pck(
    path: str | os.PathLike[str],
    reports: Sequence[PckReport],
    *,
    names: Sequence[str] | None = None,
    command: str = "",
) -> Path:
    """Write the page about PCK of prediction files; return its path. Arguments as of `write_confidence`."""
    called = _names(reports, names)
    first = reports[0].numbers
    words = f"PCK · norm: {first.norm} · {first.persons} people"
    out = Page(_title(called, reports[0].truth.origin), words)
    rows = [[f"PCK@{t:g}", *(str(r.numbers.pck[t]) for r in reports)] for t in first.pck]
    rows += [[f"AUC {n:g} px", *(f"{r.numbers.auc[n]:.4f}" for r in reports)] for n in first.auc]
    rows += [[n, *(boot.shown(getattr(r.numbers, n.lower())) for r in reports)] for n in ("NME", "EPE")]
    rows.append(["without a prediction", *(str(r.numbers.missing) for r in reports)])
    short = [charts.short(n) for n in called]
    out = out.section(
        "All numbers",
        page.beside(page.table(["", *called], rows), charts.pck([r.numbers.each for r in reports], short)),
    )
    return out.section("How this was measured", *_files(reports, called, command)).write(path)


def _names(reports: Sequence[FilesReport], names: Sequence[str] | None) -> list[str]:
    return list(names if names is not None else short_names([r.predictions.origin for r in reports]))


def _title(names: Sequence[str], truth: str) -> str:
    (data,) = short_names([truth])
    return f"{' and '.join(names) if len(names) < 3 else f'{len(names)} prediction files'} on {data}"


def _files(reports: Sequence[FilesReport], names: Sequence[str], command: str) -> list[page.Block]:
    """Warnings, counts, files and command."""
    notes = list(dict.fromkeys(w for r in reports for w in r.warnings))
    files = [(n, r.predictions) for n, r in zip(names, reports, strict=True)]
    return [
        *([page.notes(notes)] if notes else []),
        *([page.code(command)] if command else []),
        sections.file_table(reports[0].truth, files),
        page.table(
            ["", *reports[0].counts], [[n, *r.counts.values()] for n, r in zip(names, reports, strict=True)]
        ),
    ]
