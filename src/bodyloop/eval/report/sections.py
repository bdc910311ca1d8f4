"""A page's sections, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bodyloop.drawing import page
from bodyloop.drawing.page import Block, Cell
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.comparison import Comparison
from bodyloop.eval.evidence import Evidence
from bodyloop.eval.mistakes import KINDS
from bodyloop.eval.reading import GroundTruth, Predictions
from bodyloop.eval.report import cases, charts
from bodyloop.eval.report.gather import Gathered, noun_of, similarity_of, title_of

FIRST = (
    "AP", "AP50", "AP_v1", "AP_v2", "AP_v3", "AP_easy", "AP_medium", "AP_hard", "AP_body", "AP_foot", "AP_face",
    "AP_hands_mean", "AP75", "AR", "AR_100", "AP_M", "AP_L",
)  # fmt: skip
TILES = 6
DENSITY = 1.5  # px of a picture per px of the page: sharp on fine screens
MENDED = {"inversion": "inversions", "swap": "swaps", "miss": "misses", "scores": "the order of scores"}


# at a glance


def glance(pair: Comparison, behind: Sequence[Gathered]) -> list[Block]:
    """What is read first: the numbers, or how they differ, a summary, and what to beware of."""
    blocks = [_tiles(pair)] if len(behind) == 1 else [*_differences(pair)]
    if len(behind) == 1:
        blocks.append(page.paragraph(_summary(behind[0])))
    notes = pair.notes()
    return [*blocks, *([page.notes(notes)] if notes else [])]


def _tiles(pair: Comparison) -> Block:
    numbers, spans = pair.reports[0].numbers, pair.intervals[0]
    there = [n for n in FIRST if _there(numbers, n)][:TILES]
    entries = []
    for name in there:
        span = spans.get(name)
        words = "" if span is None else f"{span.low:.3f} to {span.high:.3f}"
        entries.append((_spoken(name), f"{numbers[name]:.3f}", words))
    return page.tiles(entries or [("AP", "–", "nothing to find")])


def _there(numbers: Mapping[str, float | None], name: str) -> bool:
    value = numbers.get(name)
    return value is not None and value >= 0


def _spoken(name: str) -> str:
    """AP_M as people say it."""
    words = {
        "_S": " small",
        "_M": " medium",
        "_L": " large",
        "_v1": " hidden",
        "_v2": " visible",
        "_v3": " out",
    }
    for end, word in words.items():
        if name.endswith(end):
            return name.removesuffix(end) + word
    return name.replace("_", " ")


def _summary(b: Gathered) -> str:
    e, similarity = b.evidence, similarity_of(b.report)
    noun, there = noun_of(b.report), len(b.found.annotation) + len(b.found.missed)
    if not there:
        return f"The ground truth has no {noun} to find."
    at_half = max(e.curves.mean("recall", threshold=0), 0)
    told = [f"{_percent(at_half)} of {there} {noun} are found at {similarity} 0.50."]
    if len(b.found.similarity):
        told.append(f"Half of the matches have {similarity} above {np.median(b.found.similarity):.2f}.")
    if b.mistakes is not None and len(b.mistakes.annotation):
        shares = b.mistakes.shares
        worst = max(KINDS[1:], key=lambda k: shares[k])
        told.append(
            f"Of the keypoints of the people found {_percent(shares['good'])} are where they are labelled; "
            f"the commonest mistake is {worst} ({_percent(shares[worst])})."
        )
    if b.worth:
        most = max((k for k in b.worth if k != "all keypoints"), key=lambda k: b.worth[k])
        told.append(
            f"Most AP would be gained by mending {MENDED.get(most, most)} ({b.worth[most] - b.ap:+.3f})."
        )
    return " ".join(told)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _differences(pair: Comparison) -> list[Block]:
    first = pair.names[0]
    told = []
    for name, differences in zip(pair.names[1:], pair.differences, strict=True):
        d = differences.get("AP")
        if d is not None:
            sure = "clear" if d.p_value < 0.05 else "not clear on these images"
            told.append(
                f"{name} against {first}: AP {d.value:+.4f} (95 %: {d.low:+.4f} to {d.high:+.4f}, "
                f"p = {d.p_value:.3f}); the difference is {sure}."
            )
    shown = [n for n in FIRST if all(_there(r.numbers, n) for r in pair.reports)][:TILES]
    rows = [
        [name, *(_with_span(r.numbers[n], i.get(n)) for n in shown)]
        for name, r, i in zip(pair.names, pair.reports, pair.intervals, strict=True)
    ]
    return [
        page.table(["", *map(_spoken, shown)], rows),
        *(page.paragraph(t) for t in told),
    ]


def _with_span(value: float | None, span: boot.Interval | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if span is None else f"{value:.3f} ({span.low:.3f}–{span.high:.3f})"


def labels(pair: Comparison) -> list[str]:
    """The reports' names, short enough for a chart."""
    return [charts.short(n) for n in pair.names]


# the parts


def curves(pair: Comparison, behind: Sequence[Gathered]) -> list[Block]:
    """How precision falls with recall and strictness, and how similar the matches are."""
    evidence, similarity = [b.evidence for b in behind], similarity_of(pair.reports[0])
    return [
        page.grid(
            charts.precision_recall(evidence, labels(pair), similarity),
            charts.by_threshold(evidence, labels(pair), similarity),
            charts.similarities(
                [b.found.similarity for b in behind],
                [len(b.found.missed) for b in behind],
                labels(pair),
                similarity,
                noun_of(pair.reports[0]),
            ),
        )
    ]


def numbers(pair: Comparison, behind: Sequence[Gathered]) -> list[Block]:
    """Every number with its interval."""
    how = (
        f"95 % intervals by the bootstrap over images ({pair.resamples} resamples)" if pair.resamples else ""
    )
    if how and len(behind) > 1:
        how += ", p of the paired bootstrap: the chance of such a difference if there were none"
    table = page.table(["number", *pair.header[1:]], pair.rows(), caption=how and f"{how}.")
    if len(behind) > 1:
        told = all(pair.differences)
        return [page.beside(table, charts.differences(pair, labels(pair)))] if told else [table]
    e = behind[0].evidence
    if len(e.levels) < 2:
        return [page.beside(table, page.facts(pair.reports[0].counts))]
    names = [_spoken(f"AP_v{v.name}").removeprefix("AP ") if i else "all" for i, v in enumerate(e.levels)]
    return [page.beside(table, charts.levels(e, names, similarity_of(pair.reports[0])))]


def parts(pair: Comparison, behind: Sequence[Gathered]) -> list[Block]:
    """By size, overlap and labelled keypoints."""
    words = {
        "size": "root of the labelled area, px",
        "overlap": "greatest box IoU with another",
        "labelled keypoints": "labelled keypoints",
    }
    drawn = [
        charts.parts(
            [s for s, _ in column], [spans for _, spans in column], labels(pair), words[column[0][0].what]
        )
        for column in zip(*(b.parts for b in behind), strict=True)
    ]
    note = (
        f"Each part of the {noun_of(pair.reports[0])} judged alone (how many in brackets; lines are 95 % intervals). "
        "A false alarm counts in the part of what it resembles most; one that resembles nothing, in every part."
    )
    return [page.grid(*drawn), page.paragraph(note, quiet=True)]


def mistakes(pair: Comparison, behind: Sequence[Gathered]) -> list[Block]:
    """Kinds of mistakes, how far off, and what mending them is worth."""
    found = [b.mistakes for b in behind if b.mistakes is not None]
    blocks = [charts.kinds(found, labels(pair)), charts.keypoint_errors(found, labels(pair))]
    if all(b.worth for b in behind):
        blocks.append(charts.repaired([b.ap for b in behind], [b.worth for b in behind], labels(pair)))
    explained = {
        "good": "similarity to the label of 0.85 or more, as close as people who label agree",
        "jitter": "0.5 to 0.85: near, but not on it",
        "inversion": "on the other side of the same body",
        "swap": "on the same joint, or its other side, of another person",
        "miss": "near none of these",
        "presence": "which keypoints are said to be in the window and which out of it",
        "scores": "the order of predictions; put right, they are ranked by how similar they are to somebody",
        "false alarms, missed people": "predictions that match nobody, people whom nothing matches, taken out",
    }
    return [
        page.grid(*blocks),
        page.details("What the kinds mean", page.facts(explained), page.paragraph(
            "After Ronchi & Perona, Benchmarking and Error Diagnosis in Multi-Instance Pose Estimation (ICCV 2017), "
            "over the labelled keypoints of people matched at OKS 0.1. What putting right is worth: the AP of the "
            "same file with one kind mended and everything else as it is.", quiet=True)),
    ]  # fmt: skip


# single people


def people(pair: Comparison, behind: Sequence[Gathered], folder: Path, count: int) -> list[Block]:
    """Pictures of single people."""
    evidence = [b.evidence for b in behind]
    if len(behind) == 1:
        wrong = cases.confident_and_wrong(evidence[0], count)
        groups = {
            "Confident and wrong": wrong,
            "Missed, the largest first": cases.missed(evidence[0], count // 2, wrong),
        }
        order = "left: labelled, right: predicted"
    else:
        better, worse = cases.differences(evidence, count // 2 or 1)
        groups = {f"{pair.names[1]} is better": better, f"{pair.names[0]} is better": worse}
        evidence = evidence[:2]
        order = f"labelled, {pair.names[0]}, {pair.names[1]}"
    similarity = similarity_of(pair.reports[0])
    looks = "Hollow: labelled as hidden. " if behind[0].skeleton is not None else ""
    sides = "Orange is the person's left side, blue the right. " if behind[0].skeleton is not None else ""
    out = [page.paragraph(f"{order[0].upper()}{order[1:]}. {sides}{looks}".strip(), quiet=True)]
    for title, found in groups.items():
        shown = [_case(c, evidence, pair.names, similarity, behind[0], folder) for c in found]
        blocks = page.gallery(*shown) if shown else page.paragraph("Nobody.", quiet=True)
        out += [page.heading(title), blocks]
    return out


def _case(
    case: cases.Case,
    evidence: Sequence[Evidence],
    names: Sequence[str],
    similarity: str,
    first: Gathered,
    folder: Path,
) -> Block:
    words = cases.caption(case, evidence, names, similarity, first.mistakes)
    drawn = cases.shown(case, evidence, first.skeleton, folder)
    if isinstance(drawn, str):
        return page.paragraph(f"{words}. No picture: {drawn}", quiet=True)
    return page.picture(drawn, words, words, density=DENSITY)


# how it was measured


def method(pair: Comparison, behind: Sequence[Gathered], command: str) -> list[Block]:
    """Everything that is needed to repeat it."""
    first = pair.reports[0]
    truth = first.evidence.truth
    facts: dict[str, object] = {
        "Task": f"{title_of(first)} ({first.task})",
        "Compared by": similarity_of(first),
        "Protocol": first.protocol,
        "Intervals": f"95 %, {pair.resamples} resamples of the images, seed {pair.seed}"
        if pair.resamples
        else "none",
    }
    files = [(n, r.evidence.predictions) for n, r in zip(pair.names, pair.reports, strict=True)]
    counts: list[list[Cell]] = [
        [name, *r.counts.values()] for name, r in zip(pair.names, pair.reports, strict=True)
    ]
    return [
        page.facts(facts),
        *([page.code(command)] if command else []),
        file_table(truth, files),
        *([page.table(["", *first.counts], counts)] if len(behind) > 1 else []),
        page.details("Parameters", page.facts(_plain(first.parameters))),
    ]


def file_table(truth: GroundTruth, predictions: Sequence[tuple[str, Predictions]]) -> Block:
    """Paths and digests of the files that were judged."""
    rows = [["ground truth", truth.origin, truth.digest]]
    rows += [
        [f"predictions: {n}" if len(predictions) > 1 else "predictions", p.origin, p.digest]
        for n, p in predictions
    ]
    return page.table(
        ["file", "path", "sha256"], [[a, b, c or "not from a file"] for a, b, c in rows], words=3
    )


def _plain(parameters: Mapping[str, object]) -> dict[str, object]:
    return {
        k: ", ".join(f"{x:g}" if isinstance(x, float) else str(x) for x in v)
        if isinstance(v, list | tuple)
        else v
        for k, v in parameters.items()
    }
