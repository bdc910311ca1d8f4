"""Quality: does a model know how good its own locations are?

A predicted quality (or any score) is compared with the truth it stands for: of a keypoint exp(-e), its term of
OKS; of a person, OKS. Correlations say whether the better ones are told from the worse, absolute and calibration
errors whether the numbers mean what they say, and the risk-coverage curve what is gained by keeping only the
surest: its area is the mean error over all shares kept (less is better; 1 - truth is the error).

Truth is asked for labelled keypoints in the window (flags 1 and 2): what lies outside has no location on the map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.assigned import FilesReport, How, assign, read_both
from bodyloop.eval.keypoints import as_sigmas
from bodyloop.eval.presence import Reliability, ece_samples, reliability
from bodyloop.eval.reading import GroundTruth, Predictions, ResultSource, Source
from bodyloop.oks import keypoint_similarity
from bodyloop.skeletons import COCO, Skeleton

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BINS = 10
CURVE = 100  # points of a curve in json


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """The mean error of the surest i of n, for each i.

    Attributes:
        risk: (n,) mean error of the kept; entries of equal prediction are kept with their mean error, so that
            their order does not matter.
        area: mean of ``risk``.
        best: the area if the prediction ranked as the truth does. Chance gives the mean error, ``risk[-1]``.
    """

    risk: Floats
    area: float
    best: float

    @property
    def coverage(self) -> Floats:
        """(n,) shares kept."""
        return np.arange(1, len(self.risk) + 1) / max(len(self.risk), 1)

    def to_json(self) -> dict[str, object]:
        """Areas, and the curve at hundredths of coverage."""
        at = np.unique(np.ceil(np.linspace(0, 1, CURVE + 1)[1:] * len(self.risk)).astype(np.int64)) - 1
        return {
            "area": self.area,
            "best": self.best,
            "mean_error": float(self.risk[-1]),
            "coverage": self.coverage[at].tolist(),
            "risk": self.risk[at].tolist(),
        }


@dataclass(frozen=True, eq=False)
class QualityReport:
    """Predicted against true similarities.

    Attributes:
        what: "keypoint quality" or "instance score".
        count: how many were compared.
        mean_true, mean_predicted: None without entries.
        pearson, spearman: None where one side does not vary.
        mae: mean absolute error; reliability: by equal bins. None where predictions leave 0..1.
        risk_coverage: None without entries.
        intervals: over images, of spearman, mae, ece_10 and risk_coverage_area.
    """

    what: str
    count: int
    mean_true: float | None
    mean_predicted: float | None
    pearson: float | None
    spearman: float | None
    mae: float | None
    reliability: Reliability | None
    risk_coverage: RiskCoverage | None
    intervals: Mapping[str, boot.Interval] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        r, c = self.reliability, self.risk_coverage
        numbers = ("count", "mean_true", "mean_predicted", "pearson", "spearman", "mae")
        return {
            "what": self.what,
            **{n: getattr(self, n) for n in numbers},
            "ece_10": None if r is None else r.ece,
            "reliability": None if r is None else r.to_json(),
            "risk_coverage": None if c is None else c.to_json(),
            "intervals": {k: i.to_json() for k, i in self.intervals.items()},
        }

    def table(self) -> str:
        """As text."""
        r, c = self.reliability, self.risk_coverage
        rows = [
            ("spearman", "Spearman's rank correlation", self.spearman),
            ("pearson", "Pearson's correlation", self.pearson),
            ("mae", "mean absolute error", self.mae),
            ("ece_10", f"ECE ({BINS} bins)", None if r is None else r.ece),
            ("risk_coverage_area", "risk-coverage area", None if c is None else c.area),
        ]
        lines = [
            f"{self.what}: {self.count} compared, mean {_short(self.mean_predicted)}, true {_short(self.mean_true)}"
        ]
        lines += [f"  {name:<28} {boot.shown(v, self.intervals.get(k))}" for k, name, v in rows]
        if c is not None:
            lines[-1] += f"; best possible {c.best:.4f}, by chance {c.risk[-1]:.4f}"
        return "\n".join(lines)


def judge_quality(
    predicted: npt.ArrayLike,
    true: npt.ArrayLike,
    what: str = "quality",
    *,
    image: npt.ArrayLike | None = None,
    weights: Floats | None = None,
) -> QualityReport:
    """Compare predicted with true similarities, both (n,).

    Args:
        predicted: any finite numbers; mean absolute error and calibration need them in 0..1.
        true: in 0..1.
        image: (n,) index of each one's image, and weights: (R, I) of a bootstrap, for intervals.

    Raises:
        InputError: different lengths, NaN, or a truth outside 0..1.
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if p.ndim != 1 or p.shape != t.shape:
        raise InputError(f"{what}: expected predicted and true values (n,), got {p.shape} and {t.shape}")
    if not (np.isfinite(p).all() and ((t >= 0) & (t <= 1)).all()):
        raise InputError(f"{what}: predictions must be finite and true values in 0..1")
    shares = bool(((p >= 0) & (p <= 1)).all()) and len(p) > 0
    report = QualityReport(
        what=what,
        count=len(p),
        mean_true=float(t.mean()) if len(p) else None,
        mean_predicted=float(p.mean()) if len(p) else None,
        pearson=pearson(p, t),
        spearman=spearman(p, t),
        mae=float(np.abs(p - t).mean()) if shares else None,
        reliability=reliability(p, t, BINS) if shares else None,
        risk_coverage=risk_coverage(p, 1 - t) if len(p) else None,
    )
    if image is None or weights is None or not len(p):
        return report
    return replace(report, intervals=_intervals(report, p, t, np.asarray(image, np.int64), weights))


def pearson(a: Floats, b: Floats) -> float | None:
    """Correlation of two columns (n,); None if one does not vary."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    x, y = a - a.mean(), b - b.mean()
    # scaled first: squares of tiny differences would underflow
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()), -1, 1))


def spearman(a: Floats, b: Floats) -> float | None:
    """Correlation of the ranks, ties sharing their mean rank; None if one column does not vary."""
    return pearson(ranks(a), ranks(b))


def ranks(values: Floats) -> Floats:
    """Ranks (n,) from 1, ascending; ties share their mean."""
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    upto = np.cumsum(count)
    return np.asarray((upto - (count - 1) / 2)[group])


def risk_coverage(predicted: Floats, error: Floats) -> RiskCoverage:
    """The curve of n >= 1 entries kept by falling prediction."""
    risk = _risk(predicted, error)
    return RiskCoverage(risk, float(risk.mean()), float(_risk(-error, error).mean()))


def _risk(predicted: Floats, error: Floats) -> Floats:
    _, group, count = np.unique(-predicted, return_inverse=True, return_counts=True)
    mean = np.bincount(group, weights=error) / count
    return np.asarray(np.cumsum(np.repeat(mean, count)) / np.arange(1, len(error) + 1))


# ------------------------------------------------------------------ intervals


def _intervals(
    report: QualityReport, p: Floats, t: Floats, image: Ints, weights: Floats
) -> dict[str, boot.Interval]:
    """By name, of the numbers that have a value."""
    out = {}
    spearmans, areas = _ranked_samples(p, t, image, weights)
    if report.spearman is not None:
        out["spearman"] = boot.interval(report.spearman, spearmans)
    if report.mae is not None and report.reliability is not None:
        out["mae"] = boot.interval(report.mae, boot.mean_samples(np.abs(p - t), image, weights))
        out["ece_10"] = boot.interval(report.reliability.ece, ece_samples(p, t, image, weights, BINS))
    if report.risk_coverage is not None:
        out["risk_coverage_area"] = boot.interval(report.risk_coverage.area, areas)
    return out


def _ranked_samples(p: Floats, t: Floats, image: Ints, weights: Floats) -> tuple[Floats, Floats]:
    """Spearman's correlation and the risk-coverage area of each resample (R,), NaN where there is none."""
    (_, by_p), (_, by_t) = (np.unique(v, return_inverse=True) for v in (p, t))
    totals = boot.sums(np.ones(len(p)), image, weights)
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, int(totals.max(initial=0)) + 1))])
    correlations, areas = np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    for r in np.flatnonzero(totals):
        w = weights[r, image]
        correlations[r] = _correlation(_ranks_of(by_p, w), _ranks_of(by_t, w), w)
        columns = [np.bincount(by_p, weights=v)[::-1].astype(np.float64) for v in (w, w * (1 - t))]
        areas[r] = _area(columns[0], columns[1], harmonic) / totals[r]
    return correlations, areas


def _ranks_of(group: Ints, w: Floats) -> Floats:
    """Ranks of entries that are drawn w times each; group: the place of each one's value among the values."""
    count = np.bincount(group, weights=w)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[group])


def _correlation(a: Floats, b: Floats, w: Floats) -> float:
    """Pearson's of entries that are drawn w times each; NaN where one side does not vary."""
    x, y = a - np.average(a, weights=w), b - np.average(b, weights=w)
    scale = np.sqrt((w * x**2).sum() * (w * y**2).sum())
    return float((w * x * y).sum() / scale) if scale > 0 else float("nan")


def _area(count: Floats, wrong: Floats, harmonic: Floats) -> float:
    """Sum of the risk over all numbers kept; counts and summed errors of the groups of equal predictions.

    Within a group the error grows evenly: the sum of (W + (i - K) m) / i over i = K + 1 .. K + c is
    c m + (W - K m) (H(K + c) - H(K)), with harmonic numbers H.
    """
    there = count > 0
    c, e = count[there], wrong[there]
    upto = np.cumsum(c)
    since, before = upto - c, np.cumsum(e) - e
    steps = harmonic[upto.astype(np.int64)] - harmonic[since.astype(np.int64)]
    return float((e + (before - since * e / c) * steps).sum())


# ------------------------------------------------------------------ files


@dataclass(frozen=True, eq=False, kw_only=True)
class QualityFilesReport(FilesReport):
    """Quality of a results file.

    Attributes:
        keypoints: predicted quality of keypoints against exp(-e); keypoints_from: "field quality" or "third
            number", where it stood.
        persons: the predictions' scores against OKS.
    """

    keypoints: QualityReport
    keypoints_from: str
    persons: QualityReport

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            **self.head("quality"),
            "keypoints_from": self.keypoints_from,
            "keypoints": self.keypoints.to_json(),
            "persons": self.persons.to_json(),
        }

    def table(self) -> str:
        """As text."""
        head = f"  quality of a keypoint is the {self.keypoints_from} of a prediction"
        return self.lines("quality", head, self.keypoints.table(), self.persons.table())


def evaluate_quality(
    ground_truth: Source | GroundTruth,
    results: ResultSource | Predictions,
    sigmas: npt.ArrayLike | Skeleton = COCO,
    *,
    pairing: How = "auto",
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
) -> QualityFilesReport:
    """Judge what a results file says of its own quality: by its field ``quality`` or its third numbers, and by scores.

    Args:
        ground_truth: COCO file with areas.
        results: COCO results; ``quality`` (K numbers) and ``annotation_id`` are optional.
        sigmas: K numbers, or the skeleton that has them.
        pairing: as of `evaluate_presence_files`. Matched at OKS 0.5, the worst pairs are missing.
        seed, resamples: of the intervals over images.

    Raises:
        FileError, InputError: unreadable or malformed files, or a pairing that does not fit them.
    """
    sig = as_sigmas(sigmas)
    truth, found = read_both(ground_truth, results, len(sig))
    assigned = assign(truth, found, sigmas, pairing)
    assert truth.keypoints is not None and found.keypoints is not None
    at, whom = assigned.prediction, assigned.annotation
    if np.isnan(truth.area[whom]).any():
        raise InputError(f"{truth.origin}: annotations without area; similarities are measured by it")
    given = found.quality if found.quality is not None else found.keypoints[..., 2]
    keypoints, persons = quality_of_pairs(
        found.keypoints[at, :, :2], given[at], found.scores[at],
        truth.keypoints[whom], truth.area[whom], sig,
        image=truth.image[whom],
        weights=boot.draw(max(len(truth.image_ids), 1), np.random.default_rng(seed), resamples),
    )  # fmt: skip
    return QualityFilesReport(
        truth=truth,
        predictions=found,
        assigned=assigned,
        parameters={"sigmas": sig.tolist(), "seed": seed, "resamples": resamples},
        warnings=assigned.warnings,
        keypoints=keypoints,
        keypoints_from="third number" if found.quality is None else "field quality",
        persons=persons,
    )


def quality_of_pairs(
    points: Floats,
    quality: Floats | None,
    scores: Floats,
    labels: Floats,
    area: Floats,
    sigmas: Floats,
    *,
    image: Ints,
    weights: Floats,
) -> tuple[QualityReport, QualityReport]:
    """Quality of keypoints and scores of persons against the truth, for M predictions with their persons.

    Args:
        points: (M, K, 2) image px, NaN where there is none; quality: (M, K), NaN likewise; scores: (M,).
        labels: (M, K, 3) x, y, flag; area: (M,) px^2; sigmas: (K,).
        image: (M,), weights: (R, I) as of `judge_quality`.
    """
    inside = ((labels[..., 2] == 1) | (labels[..., 2] == 2)) & np.isfinite(points).all(axis=-1)
    true = np.where(inside, keypoint_similarity(points, labels[..., :2], area, sigmas), 0)
    given = np.full(inside.shape, np.nan) if quality is None else quality
    known = inside & np.isfinite(given)
    who = np.broadcast_to(image[:, None], inside.shape)
    keypoints = judge_quality(
        given[known], true[known], "keypoint quality", image=who[known], weights=weights
    )
    some = inside.any(axis=1)
    oks = true[some].sum(axis=1) / inside[some].sum(axis=1)
    return keypoints, judge_quality(scores[some], oks, "instance score", image=image[some], weights=weights)


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
