"""The charts of an evaluation's page, each a block for `bodyloop.drawing.page`.

A chart takes what was measured, for one report or several (a colour each), and decides nothing but its looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bodyloop.drawing.page import GOOD, INK, MUTED, PLAIN, SERIES, Block, chart, figure, legend, legible
from bodyloop.eval.accumulate import RECALL_POINTS, THRESHOLDS
from bodyloop.eval.analysis import Split, precision_curve
from bodyloop.eval.bootstrap import Interval
from bodyloop.eval.comparison import Comparison
from bodyloop.eval.evidence import Evidence
from bodyloop.eval.mistakes import KINDS, Mistakes
from bodyloop.eval.presence import Reliability
from bodyloop.eval.quality import RiskCoverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = npt.NDArray[np.float64]

KIND_COLOURS = dict(zip(KINDS, (GOOD, SERIES[1], SERIES[4], SERIES[3], PLAIN), strict=True))
LINE = 54  # characters above a chart
ROWS = 30  # keypoints of a chart
BINS = [i / 20 for i in range(21)]


def colour(i: int) -> str:
    """The colour of report number ``i``."""
    return SERIES[i % len(SERIES)]


def _curve(evidence: Evidence, threshold: int, level: int = 0) -> Floats:
    """Precision up to the greatest recall that is reached, NaN beyond."""
    precision = precision_curve(evidence, threshold, level)
    return np.where(precision > 0, precision, np.nan)


def precision_recall(evidence: Sequence[Evidence], names: Sequence[str], similarity: str) -> Block:
    """Precision at each recall: of one report at all thresholds, of several at 0.50 and 0.75."""
    drawn, axes = figure(4.8, 3.6)
    if len(evidence) == 1:
        for t, threshold in enumerate(THRESHOLDS):
            told = t in (0, 5, 9)
            axes.plot(
                RECALL_POINTS, _curve(evidence[0], t), color=SERIES[0], alpha=1 - t / 12, zorder=3 - t / 20,
                linewidth=2.2 if told else 1, label=f"{similarity} {threshold:.2f}" if told else None,
            )  # fmt: skip
        caption = (
            "One line a threshold from 0.50 (top) to 0.95, in steps of 0.05; AP is the mean area below them."
        )
    else:
        for i, (e, name) in enumerate(zip(evidence, names, strict=True)):
            for t, style in ((0, "-"), (5, "--")):
                label = name if not t else None
                axes.plot(RECALL_POINTS, _curve(e, t), style, color=colour(i), label=label)
        caption = f"At {similarity} 0.50 (full) and 0.75 (dashed)."
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03))
    _legend_above(axes)
    alt = f"precision over recall of {', '.join(names)}"
    return chart(drawn, alt, caption, title="Precision and recall")


def by_threshold(evidence: Sequence[Evidence], names: Sequence[str], similarity: str) -> Block:
    """AP and AR at each threshold."""
    drawn, axes = figure(4.8, 3.6)
    for i, e in enumerate(evidence):
        for what, short, style in (("precision", "AP", "-"), ("recall", "AR", "--")):
            values = [max(e.curves.mean(what, threshold=t), 0) for t in range(len(THRESHOLDS))]
            label = short if len(names) == 1 else names[i] if what == "precision" else None
            axes.plot(THRESHOLDS, values, style, color=colour(i), marker="o", markersize=3.5, label=label)
    axes.set(xlabel=f"{similarity} threshold", ylabel="AP, AR", ylim=(0, 1.03), xticks=np.arange(0.5, 1, 0.1))
    _legend_above(axes)
    lines = "AP (full) and AR (dashed)"
    caption = f"{lines} as the bar is raised: where it falls is how exact the places are."
    return chart(drawn, f"{lines} over the threshold, {', '.join(names)}", caption, title="Strictness")


def similarities(
    found: Sequence[Floats], missed: Sequence[int], names: Sequence[str], similarity: str, noun: str
) -> Block:
    """How similar the matched pairs are."""
    drawn, axes = figure(4.8, 3.6)
    for i, values in enumerate(found):
        if len(found) == 1:
            axes.hist(values, BINS, color=SERIES[0], rwidth=0.88)
        else:
            axes.hist(values, BINS, color=colour(i), histtype="step", linewidth=2, label=names[i])
    axes.axvline(0.5, color=MUTED, linewidth=1, linestyle=":")
    axes.set(xlabel=f"{similarity} of the match", ylabel=noun, xlim=(0, 1))
    axes.locator_params(axis="y", integer=True)
    if len(found) > 1:
        _legend_above(axes)
    told = [
        f"{len(v)} {noun} matched, mean {v.mean():.3f}; {n} not found" if len(v) else "nothing matched"
        for v, n in zip(found, missed, strict=True)
    ]
    caption = f"Matched at {similarity} 0.1 or more. {_lines(told, names)}"
    return chart(
        drawn,
        f"histogram of {similarity}",
        caption,
        title=f"{similarity[0].upper()}{similarity[1:]} of matches",
    )


def parts(
    splits: Sequence[Split], spans: Sequence[Sequence[Interval]], names: Sequence[str], words: str
) -> Block:
    """AP (and AR of a single report) of parts of the people; whiskers are intervals."""
    drawn, axes = figure(4.8, 3.2)
    shown = splits[0].names
    at, width = np.arange(len(shown)), 0.72 / len(splits)
    for i, (split, span) in enumerate(zip(splits, spans, strict=True)):
        place = at + (i - (len(splits) - 1) / 2) * width
        axes.bar(
            place,
            np.maximum(split.ap, 0),
            width * 0.92,
            color=colour(i),
            label=names[i] if len(names) > 1 else "AP",
        )
        low, high = (np.array([getattr(s, side) for s in span]) for side in ("low", "high"))
        axes.vlines(place, low, high, color=INK, linewidth=1.1, alpha=0.75)
        if len(splits) == 1:
            axes.plot(place, split.ar, "D", color=SERIES[1], markersize=5, label="AR")
    axes.set(xlabel=words, ylim=(0, 1.03), xlim=(-0.6, max(len(shown), 4) - 0.4))
    axes.set_xticks(at, [f"{n}\n({c})" for n, c in zip(shown, splits[0].people, strict=True)], fontsize=9)
    axes.grid(axis="x", visible=False)
    _legend_above(axes)
    return chart(drawn, f"AP by {splits[0].what}", title=f"By {splits[0].what}")


def kinds(mistakes: Sequence[Mistakes], names: Sequence[str]) -> Block:
    """Shares of the kinds of mistakes: one report keypoint by keypoint, several as a whole."""
    if len(mistakes) == 1:
        m = mistakes[0]
        rows = [(m.skeleton.keypoints[k], m.counts[k]) for k in _shown(m)]
        rows.append(("all", m.counts.sum(axis=0)))
    else:
        rows = [(n, m.counts.sum(axis=0)) for n, m in zip(names, mistakes, strict=True)]
    drawn, axes = figure(4.8, 0.9 + 0.235 * len(rows))
    share = np.array([c / max(c.sum(), 1) for _, c in rows])
    left = np.zeros(len(rows))
    for i, kind in enumerate(KINDS):
        axes.barh(range(len(rows)), share[:, i], 0.8, left=left, color=KIND_COLOURS[kind], label=kind)
        left += share[:, i]
    _named_rows(axes, [plain(n) for n, _ in rows])
    axes.set(xlim=(0, 1), xlabel="share of the labelled keypoints of people found")
    legend(axes, loc="lower center", ncols=5, bbox_to_anchor=(0.4, 1.0), columnspacing=0.9, handletextpad=0.4)
    told = f"The {ROWS} of {len(mistakes[0].skeleton)} that are missed most." if len(rows) > ROWS else ""
    return chart(drawn, "shares of the kinds of mistakes", told, title="What is wrong with the keypoints")


def keypoint_errors(mistakes: Sequence[Mistakes], names: Sequence[str]) -> Block:
    """Median distance and its middle half, keypoint by keypoint."""
    kept = _shown(mistakes[0])
    drawn, axes = figure(4.8, 0.9 + 0.235 * (len(kept) + 1))
    for i, m in enumerate(mistakes):
        columns = [*(m.distance[:, k] for k in kept), m.distance.ravel()]
        q = np.array(
            [
                100 * np.nanquantile(c, (0.25, 0.5, 0.75)) if np.isfinite(c).any() else [np.nan] * 3
                for c in columns
            ]
        )
        y = np.arange(len(columns)) + (i - (len(mistakes) - 1) / 2) * 0.5 / len(mistakes)
        axes.hlines(y, q[:, 0], q[:, 2], color=colour(i), linewidth=2, alpha=0.45)
        axes.plot(
            q[:, 1], y, "o", color=colour(i), markersize=4.5, label=names[i] if len(names) > 1 else None
        )
    _named_rows(axes, [plain(mistakes[0].skeleton.keypoints[k]) for k in kept] + ["all"])
    axes.set(xlabel="distance from the label, % of the person's size")
    axes.set_xlim(left=0)
    if len(mistakes) > 1:
        _legend_above(axes)
    caption = "Median (dot) and middle half (line); a person's size is the root of the labelled area."
    return chart(drawn, "distance of each keypoint from its label", caption, title="How far off")


def repaired(ap: Sequence[float], worth: Sequence[Mapping[str, float]], names: Sequence[str]) -> Block:
    """What AP gains if one kind of mistake is put right."""
    shown = list(worth[0])
    drawn, axes = figure(4.8, 0.9 + 0.3 * len(shown))
    height = 0.8 / len(worth)
    for i, (now, w) in enumerate(zip(ap, worth, strict=True)):
        y = np.arange(len(shown)) + (i - (len(worth) - 1) / 2) * height
        gain = np.array([w[k] - now for k in shown])
        axes.barh(y, gain, height * 0.88, color=colour(i), label=names[i] if len(names) > 1 else None)
        for at, value in zip(y, gain, strict=True):
            axes.text(
                max(value, 0),
                at,
                f"  {value:+.3f}",
                va="center",
                fontsize=9 if len(worth) == 1 else 7.5,
                color=MUTED,
            )
    _named_rows(axes, shown)
    axes.set(xlabel="AP gained")
    axes.margins(x=0.18)
    if len(worth) > 1:
        _legend_above(axes)
    return chart(
        drawn, "AP gained by putting each kind of mistake right", title="What putting it right is worth"
    )


def reliability(
    bins: Sequence[Reliability], names: Sequence[str], title: str, captions: Sequence[str]
) -> Block:
    """Predicted against observed, and how often each prediction is made."""
    drawn, both = figure(4.8, 3.9, nrows=2, sharex=True, height_ratios=(4, 1))
    top, below = np.ravel(np.array(both, object))
    top.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
    for i, b in enumerate(bins):
        n, there = len(b.count), b.count > 0
        middle, share = (np.arange(n) + 0.5) / n, b.count / max(b.count.sum(), 1)
        if len(bins) == 1:
            top.bar(middle[there], b.observed[there], 0.92 / n, color=SERIES[0], alpha=0.3)
            below.bar(middle, share, 0.92 / n, color=PLAIN)
        else:
            below.step(
                np.append(middle - 0.5 / n, 1), np.append(share, share[-1]), where="post", color=colour(i)
            )
        label = names[i] if len(bins) > 1 else None
        top.plot(b.predicted[there], b.observed[there], "o-", color=colour(i), markersize=4.5, label=label)
    top.set(ylabel="observed", ylim=(0, 1.02), xlim=(0, 1))
    below.set(xlabel="predicted", ylabel="share")
    below.set_ylim(bottom=0)
    below.grid(axis="x", visible=False)
    if len(bins) > 1:
        _legend_above(top)
    return chart(drawn, f"reliability diagram of {title}", _lines(captions, names), title=title)


def risk_coverage(curves: Sequence[RiskCoverage], names: Sequence[str], title: str) -> Block:
    """The mean error of the surest, by how many are kept."""
    drawn, axes = figure(4.8, 3.9)
    for i, c in enumerate(curves):
        axes.plot(c.coverage, c.risk, color=colour(i), label=names[i] if len(curves) > 1 else None)
        axes.axhline(
            float(c.risk[-1]), color=colour(i) if len(curves) > 1 else MUTED, linewidth=1, linestyle=":"
        )
    axes.set(xlabel="share kept, surest first", ylabel="mean error (1 - OKS)", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    if len(curves) > 1:
        _legend_above(axes)
    told = [f"area {c.area:.4f}; by chance {c.risk[-1]:.4f} (dotted), at best {c.best:.4f}" for c in curves]
    return chart(drawn, f"risk and coverage of {title}", _lines(told, names), title=title)


def _lines(told: Sequence[str], names: Sequence[str]) -> str:
    """What is said of each report, with its name where there are several."""
    each = [
        t[:1].upper() + t[1:] if len(told) == 1 else f"{n}: {t}" for n, t in zip(names, told, strict=True)
    ]
    return ". ".join(each) + "."


def differences(comparison: Comparison, names: Sequence[str]) -> Block:
    """Differences to the first report with their intervals, number by number."""
    shown = [n for n in comparison.reports[0].numbers if all(n in d for d in comparison.differences)]
    drawn, axes = figure(4.8, 0.9 + 0.32 * len(shown))
    several = len(comparison.differences)
    for i, found in enumerate(comparison.differences):
        y = np.arange(len(shown)) + (i - (several - 1) / 2) * 0.5 / several
        axes.hlines(
            y, [found[n].low for n in shown], [found[n].high for n in shown], color=colour(i + 1), linewidth=2
        )
        axes.plot(
            [found[n].value for n in shown], y, "o", color=colour(i + 1), markersize=5, label=names[i + 1]
        )
    axes.axvline(0, color=MUTED, linewidth=1, linestyle=":")
    _named_rows(axes, shown)
    axes.set(xlabel=f"difference to {names[0]}")
    _legend_above(axes)
    return chart(drawn, "differences with intervals", title="Differences")


def pck(each: Sequence[Mapping[float, Mapping[str, float]]], names: Sequence[str]) -> Block:
    """Share of right keypoints, keypoint by keypoint: of one report at all thresholds, of several at the last."""
    steps = list(each[0]) if len(each) == 1 else [list(each[0])[-1]]
    rows = [name for name, share in each[0][steps[-1]].items() if share >= 0][:ROWS]
    drawn, axes = figure(4.8, 0.9 + 0.235 * len(rows))
    lines = (
        [(f"PCK@{t:g}", each[0][t]) for t in steps]
        if len(each) == 1
        else [(n, e[steps[0]]) for n, e in zip(names, each, strict=True)]
    )
    for i, (label, shares) in enumerate(lines):
        axes.plot(
            [shares.get(r, np.nan) for r in rows],
            range(len(rows)),
            "o",
            color=colour(i),
            markersize=5,
            label=label,
        )
    _named_rows(axes, [plain(r) for r in rows])
    axes.set(
        xlim=(0, 1.02), xlabel=f"share of right keypoints{'' if len(each) == 1 else f', PCK@{steps[0]:g}'}"
    )
    _legend_above(axes)
    return chart(drawn, "PCK by keypoint", title="By keypoint")


def levels(evidence: Evidence, names: Sequence[str], similarity: str) -> Block:
    """Precision over recall of each visibility level, at 0.50."""
    drawn, axes = figure(4.8, 3.6)
    for i, name in enumerate(names):
        axes.plot(RECALL_POINTS, _curve(evidence, 0, i), color=INK if not i else colour(i - 1), label=name)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.03))
    _legend_above(axes)
    caption = f"At {similarity} 0.50, counting only the keypoints of one visibility."
    return chart(drawn, "precision over recall by visibility", caption, title="By visibility")


def _shown(mistakes: Mistakes) -> list[int]:
    """The keypoints that have a row: those that somebody labelled; of very many those with most misses."""
    counts = mistakes.counts
    there = np.flatnonzero(counts.sum(axis=1))
    if len(there) > ROWS:
        missed = counts[there, -1] / counts[there].sum(axis=1)
        there = np.sort(there[np.argsort(-missed, kind="stable")[:ROWS]])
    return [int(k) for k in there]


def plain(keypoint: str) -> str:
    """A keypoint's name as words."""
    return short(keypoint.replace("_", " "))


def short(name: str, most: int = 24) -> str:
    """A name that leaves room for the chart: its beginning and end."""
    told = legible(name)
    return told if len(told) <= most else f"{told[: most // 2]}…{told[-(most // 2 - 1) :]}"


def _legend_above(axes: Axes) -> None:
    longest = max(map(len, axes.get_legend_handles_labels()[1]), default=1)
    fitting = max(1, min(3, LINE // (longest + 6)))  # a legend that is wider than the axes would shrink them
    legend(axes, loc="lower left", ncols=fitting, bbox_to_anchor=(0, 1), borderaxespad=0.2, columnspacing=1.2)


def _named_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=9.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
