"""Presence and visibility: how well a probability tells two kinds of keypoints apart, and how honest it is.

Everything here is about one column of probabilities and one of yes/no labels. Definitions are those of
scikit-learn where it has them; a ratio without a denominator is None. Calibration error is the one of equal
bins, stated with its bin count. Which predictions belong to which labels is the caller's business (for files:
`presence_files`). Intervals are made from sums per image, so that all resamples cost one matrix product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError, InputError
from bodyloop.eval import bootstrap as boot

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Task = Literal["presence", "visibility"]

LOG_CLIP = 1e-7
BINS = (10, 15)  # the two bin counts that papers use


@dataclass(frozen=True)
class Confusion:
    """Decisions at a threshold ("yes" if the value is at least it); ratios without a denominator: None."""

    threshold: float
    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def accuracy(self) -> float | None:
        """Share of right decisions."""
        return _ratio(self.tp + self.tn, self.tp + self.fp + self.fn + self.tn)

    @property
    def precision(self) -> float | None:
        """Share of right ones among the decisions for yes."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """Share of the true ones that were found (true positive rate)."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float | None:
        """Share of the false ones that were refused (true negative rate)."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of recall and specificity."""
        a, b = self.recall, self.specificity
        return None if a is None or b is None else (a + b) / 2

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def mcc(self) -> float | None:
        """Matthews correlation coefficient."""
        product = float(self.tp + self.fp) * (self.tp + self.fn) * (self.tn + self.fp) * (self.tn + self.fn)
        return (self.tp * self.tn - self.fp * self.fn) / product**0.5 if product else None

    def to_json(self) -> dict[str, float | int | None]:
        """Counts and ratios by name."""
        names = ("accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1", "mcc")
        return {**asdict(self), **{n: getattr(self, n) for n in names}}


@dataclass(frozen=True, eq=False)
class Reliability:
    """Predicted against observed shares in B equal bins of [0, 1].

    Attributes:
        count: (B,) entries of each bin.
        predicted, observed: (B,) mean probability and share of yes (of quality: mean truth); NaN in empty bins.
        ece, mce: mean (weighed by count) and greatest gap between the two.
    """

    count: npt.NDArray[np.int64]
    predicted: Floats
    observed: Floats
    ece: float
    mce: float

    def to_json(self) -> dict[str, object]:
        """Bins as plain json; empty ones are null."""
        columns = {"predicted": self.predicted, "observed": self.observed}
        bins = {k: [v if np.isfinite(v) else None for v in c.tolist()] for k, c in columns.items()}
        return {"count": self.count.tolist(), **bins, "ece": self.ece, "mce": self.mce}

    def table(self) -> str:
        """The bins as text."""
        b = len(self.count)
        rows = ["        bin     n  predicted  observed"]
        rows += [
            f"  {i / b:.2f}-{(i + 1) / b:.2f} {n:>5}  {p:>9.3f} {o:>9.3f}"
            for i, (n, p, o) in enumerate(zip(self.count, self.predicted, self.observed, strict=True))
            if n
        ]
        return "\n".join([*rows, f"  ECE {self.ece:.4f}, greatest gap {self.mce:.4f}"])


@dataclass(frozen=True, eq=False)
class BinaryReport:
    """A probability judged against yes/no labels.

    Attributes:
        task: "presence" or "visibility".
        positives, negatives: counts of the labels.
        confusion: decisions at the stated threshold.
        auroc, average_precision: None if a class is empty.
        brier, log_loss: None without labels.
        reliability: by bin count.
        intervals: over images, of auroc, balanced_accuracy, brier, ece_10 and ece_15, where they were asked for
            and there is a value.
    """

    task: str
    positives: int
    negatives: int
    confusion: Confusion
    auroc: float | None
    average_precision: float | None
    brier: float | None
    log_loss: float | None
    reliability: Mapping[int, Reliability]
    intervals: Mapping[str, boot.Interval] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Everything as plain json."""
        out: dict[str, object] = {
            "task": self.task,
            "positives": self.positives,
            "negatives": self.negatives,
            "confusion": self.confusion.to_json(),
            "auroc": self.auroc,
            "average_precision": self.average_precision,
            "brier": self.brier,
            "log_loss": self.log_loss,
        }
        for b, r in self.reliability.items():
            out |= {f"ece_{b}": r.ece, f"mce_{b}": r.mce}
        out["reliability"] = {str(b): r.to_json() for b, r in self.reliability.items()}
        out["intervals"] = {k: i.to_json() for k, i in self.intervals.items()}
        return out

    def table(self) -> str:
        """The numbers as text."""
        c = self.confusion
        rows = [
            ("auroc", "AUROC", self.auroc),
            ("average_precision", "average precision", self.average_precision),
            ("balanced_accuracy", f"balanced accuracy at {c.threshold:g}", c.balanced_accuracy),
            ("brier", "Brier score", self.brier),
            ("log_loss", "log loss", self.log_loss),
            *((f"ece_{b}", f"ECE ({b} bins)", r.ece) for b, r in self.reliability.items()),
        ]
        head = f"{self.task}: {self.positives} positive, {self.negatives} negative keypoints"
        return "\n".join(
            [head, *(f"  {name:<26} {boot.shown(v, self.intervals.get(k))}" for k, name, v in rows)]
        )


def evaluate_presence(
    probability: npt.ArrayLike,
    flags: npt.ArrayLike,
    *,
    task: Task = "presence",
    threshold: float = 0.5,
    image: npt.ArrayLike | None = None,
    weights: Floats | None = None,
) -> BinaryReport:
    """Judge probabilities of keypoints by their flags, both of any one shape.

    Presence: labelled keypoints (flag > 0), positive are flags 1 and 2, negative is 3 (outside the window).
    Visibility: flags 1 and 2, positive is 2.

    Args:
        image: index of each keypoint's image, for intervals; of the same shape, or one a row.
        weights: (R, I) of a bootstrap over images (`bootstrap.draw`), for intervals.

    Raises:
        InputError: different shapes, or NaN or values outside 0..1 among the keypoints that count.
        ConfigError: unknown task.
    """
    p, f = np.asarray(probability, np.float64), np.asarray(flags)
    if p.shape != f.shape:
        raise InputError(f"probabilities {p.shape} and flags {f.shape} differ in shape")
    used, positive = labels_of(f, task)
    at = None if image is None else per_keypoint(image, p.shape)[used]
    p, y = p[used], positive[used]
    if not ((p >= 0) & (p <= 1)).all():
        bad = p[~((p >= 0) & (p <= 1))][0]
        raise InputError(f"{task}: expected probabilities between 0 and 1 for labelled keypoints, got {bad}")
    clipped = np.clip(p, LOG_CLIP, 1 - LOG_CLIP)
    report = BinaryReport(
        task=task,
        positives=int(y.sum()),
        negatives=int((~y).sum()),
        confusion=confusion(p, y, threshold),
        auroc=auroc(p, y),
        average_precision=average_precision(p, y),
        brier=float(np.mean((p - y) ** 2)) if len(p) else None,
        log_loss=float(-np.mean(np.where(y, np.log(clipped), np.log(1 - clipped)))) if len(p) else None,
        reliability={b: reliability(p, y, b) for b in BINS} if len(p) else {},
    )
    if at is None or weights is None or not len(p):
        return report
    return replace(report, intervals=_intervals(report, p, y, at, weights))


def _intervals(
    report: BinaryReport, p: Floats, y: Bools, image: Ints, weights: Floats
) -> dict[str, boot.Interval]:
    """By name, of the numbers that have a value."""
    out = {}
    if report.auroc is not None:
        out["auroc"] = boot.interval(report.auroc, boot.auroc_samples(p, y, image, weights))
    balanced = report.confusion.balanced_accuracy
    if balanced is not None:
        right = (p >= report.confusion.threshold) == y
        of_class = np.stack([y, ~y], axis=1)
        rates = boot.sums(of_class & right[:, None], image, weights), boot.sums(of_class, image, weights)
        with np.errstate(invalid="ignore"):  # a resample without one of the classes has no value
            out["balanced_accuracy"] = boot.interval(balanced, np.asarray((rates[0] / rates[1]).mean(axis=1)))
    if report.brier is not None:
        out["brier"] = boot.interval(report.brier, boot.mean_samples((p - y) ** 2, image, weights))
    for b, r in report.reliability.items():
        out[f"ece_{b}"] = boot.interval(r.ece, ece_samples(p, y, image, weights, b))
    return out


def per_keypoint(image: npt.ArrayLike, shape: tuple[int, ...]) -> Ints:
    """Image indices of the shape of the keypoints, from ones a person or of that shape."""
    at = np.asarray(image, np.int64)
    return np.asarray(np.broadcast_to(at.reshape(at.shape + (1,) * (len(shape) - at.ndim)), shape))


def labels_of(flags: npt.NDArray[np.generic], task: str) -> tuple[Bools, Bools]:
    """Which keypoints count for a task, and which of them are positive.

    Raises:
        ConfigError: unknown task.
    """
    f = np.asarray(flags, np.float64)
    if task == "presence":
        return f > 0, (f > 0) & (f < 3)
    if task == "visibility":
        return (f == 1) | (f == 2), f == 2
    raise ConfigError(f"unknown task {task!r}; known: presence, visibility")


def confusion(p: Floats, y: Bools, threshold: float) -> Confusion:
    """Decisions "p >= threshold" against labels, both (n,)."""
    yes = p >= threshold
    return Confusion(
        threshold,
        tp=int((yes & y).sum()),
        fp=int((yes & ~y).sum()),
        fn=int((~yes & y).sum()),
        tn=int((~yes & ~y).sum()),
    )


def auroc(p: Floats, y: Bools) -> float | None:
    """Probability that a positive gets a greater value than a negative, ties at one half."""
    _, group = np.unique(p, return_inverse=True)
    positive = np.bincount(group, weights=y.astype(np.float64))
    negative = np.bincount(group, weights=(~y).astype(np.float64))
    if not positive.sum() or not negative.sum():
        return None
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))


def average_precision(p: Floats, y: Bools) -> float | None:
    """Sum of recall steps times precision over the distinct values; None without positives."""
    _, group = np.unique(-p, return_inverse=True)
    positive = np.bincount(group, weights=y.astype(np.float64))
    if not positive.sum():
        return None
    precision = np.cumsum(positive) / np.cumsum(np.bincount(group))
    return float((positive / positive.sum() * precision).sum())


def published_threshold(p: Floats, y: Bools) -> tuple[float, float]:
    """The threshold that ProbPose's evaluation tunes on the set it judges, and its accuracy there.

    The first of 0, 0.05, ..., 1 with the greatest accuracy, where "yes" is a value strictly above it. For
    comparison with published numbers only: a threshold that is judged on its own tuning set flatters.
    """
    steps = np.arange(21) / 20
    right = [(np.asarray(p > t) == y).mean() for t in steps]
    best = int(np.argmax(right))
    return float(steps[best]), float(right[best])


def reliability(p: Floats, y: Bools | Floats, bins: int = 10) -> Reliability:
    """Predicted against observed shares in equal bins, bin = min(floor(p * bins), bins - 1).

    Args:
        p: (n,) in 0..1.
        y: (n,) labels, or true values in 0..1 (of quality).
    """
    at = _bin(p, bins)
    count = np.bincount(at, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(at, weights=p, minlength=bins) / count
        observed = np.bincount(at, weights=y.astype(np.float64), minlength=bins) / count
    gap = np.abs(np.nan_to_num(predicted - observed))
    total = max(int(count.sum()), 1)
    largest = float(gap.max())
    # a mean is never above the largest of its terms, but its rounding may be
    mean = min(float((count / total * gap).sum()), largest)
    return Reliability(count, predicted, observed, mean, largest)


def ece_samples(p: Floats, y: Bools | Floats, image: Ints, weights: Floats, bins: int = 10) -> Floats:
    """Expected calibration error of each resample (R,), NaN where it is empty.

    Resampling adds noise to every bin, so the interval lies somewhat above the error itself.
    """
    gap = np.zeros((len(p), bins))
    gap[np.arange(len(p)), _bin(p, bins)] = p - y
    total = boot.sums(np.ones(len(p)), image, weights)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(boot.sums(gap, image, weights)).sum(axis=1) / total)


def _bin(p: Floats, bins: int) -> Ints:
    return np.minimum(np.floor(p * bins).astype(np.int64), bins - 1)


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None
