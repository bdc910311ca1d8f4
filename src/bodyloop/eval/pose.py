"""A pose model judged from photographs: OKS AP, PCK, presence against a baseline, speed.

One call runs the model on annotated boxes and reports numbers with intervals. Files with COCO's keypoints
give AP (whole photos) and presence (photos cropped by the CropCOCO procedure, beside `BorderBaseline`);
files with other keypoints give PCK on the keypoints that both sides have by name.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bodyloop.data.cropcoco import build
from bodyloop.errors import InputError
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.border import BorderBaseline
from bodyloop.eval.keypoints import KeypointReport, evaluate_keypoints
from bodyloop.eval.pck import box_norm, distances
from bodyloop.eval.photos import (
    Boxed,
    PhotoSet,
    PosePredictor,
    Progress,
    find_sets,
    predict_boxed,
)
from bodyloop.eval.presence import BinaryReport, evaluate_presence, labels_of
from bodyloop.eval.reading import load_json
from bodyloop.interop import mean_of_counted
from bodyloop.skeletons import COCO

Floats = npt.NDArray[np.float64]
Scoring = Literal["keypoints", "presence"]

SCORE_THRESHOLDS = {"keypoints": 0.2, "presence": 0.45}  # of the published evaluations
PCK_THRESHOLD = 0.2


@dataclass(frozen=True, eq=False)
class OksSection:
    """OKS AP on annotated boxes: the report and AP with its interval; ``persons`` were given to the model."""

    origin: str
    persons: int
    scoring: str
    ap: boot.Interval
    report: KeypointReport

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            "data": self.origin, "persons": self.persons, "scoring": self.scoring, "AP": self.ap.to_json(),
            **self.report.to_json(),
        }  # fmt: skip

    def table(self) -> str:
        """As text."""
        head = f"OKS AP {self.ap}  [{self.origin}, {self.persons} persons, annotated boxes]"
        return f"{head}\n{self.report.table()}"


@dataclass(frozen=True, eq=False)
class PckSection:
    """PCK with norm max(w, h) of the annotated box.

    Attributes:
        each: share per keypoint name; keypoints that the model lacks are in ``missing``.
    """

    origin: str
    persons: int
    threshold: float
    pck: boot.Interval
    each: Mapping[str, float]
    missing: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            "data": self.origin, "persons": self.persons, "threshold": self.threshold,
            "norm": "max(w, h) of the annotated box", "PCK": self.pck.to_json(),
            "each": dict(self.each), "missing": list(self.missing),
        }  # fmt: skip

    def table(self) -> str:
        """As text."""
        head = f"PCK@{self.threshold:g} {self.pck}  [{self.origin}, {self.persons} persons, norm max(w, h)]"
        rows = [f"  {name:<16} {'-' if v < 0 else f'{v:.4f}'}" for name, v in self.each.items()]
        left_out = [f"  not predicted: {', '.join(self.missing)}"] if self.missing else []
        return "\n".join([head, *rows, *left_out])


@dataclass(frozen=True, eq=False)
class PresenceSection:
    """Presence on cropped photos, beside a guess from the joint and the sides that the box touches.

    Attributes:
        report: of the model; baseline: of the guess (None without photos to fit it on).
        auroc: with interval; advantage: model minus baseline, paired.
    """

    origin: str
    persons: int
    seed: int
    report: BinaryReport
    auroc: boot.Interval
    baseline: BinaryReport | None
    advantage: boot.Difference | None

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            "data": self.origin,
            "persons": self.persons,
            "crop_seed": self.seed,
            "auroc": self.auroc.to_json(),
            "model": self.report.to_json(),
            "baseline": None if self.baseline is None else self.baseline.to_json(),
            "advantage": None if self.advantage is None else self.advantage.to_json(),
        }

    def table(self) -> str:
        """As text."""
        lines = [f"presence AUROC {self.auroc}  [{self.origin}, {self.persons} persons]", self.report.table()]
        if self.baseline is not None:
            lines.append(f"  baseline (joint, sides touched): AUROC {_number(self.baseline.auroc)}")
        if self.advantage is not None:
            lines.append(f"  model - baseline: {self.advantage}")
        return "\n".join(lines)


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
    """Everything about one model, section by section."""

    model: str
    parameters: Mapping[str, object]
    oks: tuple[OksSection, ...]
    pck: tuple[PckSection, ...]
    presence: tuple[PresenceSection, ...]
    speed: Speed

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            "model": self.model,
            "parameters": dict(self.parameters),
            "oks": [s.to_json() for s in self.oks],
            "pck": [s.to_json() for s in self.pck],
            "presence": [s.to_json() for s in self.presence],
            "speed": self.speed.to_json(),
        }

    def table(self) -> str:
        """As text."""
        sections: list[OksSection | PckSection | PresenceSection] = [*self.oks, *self.pck, *self.presence]
        return "\n\n".join([self.model, *(s.table() for s in sections), self.speed.table()])


def evaluate_pose_model(
    model: PosePredictor,
    data: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    baseline: str | os.PathLike[str] | None = None,
    split: str = "dev",
    flip: bool = True,
    masks: bool = False,
    scoring: Scoring = "keypoints",
    protocol: str = "standard",
    presence: bool = True,
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
    limit: int | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> PoseReport:
    """Judge a pose model on annotated photos.

    Args:
        data: a COCO keypoint file, a folder with ``<split>.json``, or a folder of such folders.
        images: folder of the photos; None: ``images`` beside each file.
        baseline: COCO file whose labels the presence baseline is fitted on; None: ``train.json`` beside.
        flip, masks: see `predict_boxed`.
        scoring: an instance's score is the mean of its keypoint scores over keypoints whose score is > 0.2
            ("keypoints"), or whose presence is > 0.45 ("presence").
        protocol: see `evaluate_keypoints`.
        presence: crop the photos (unless the set is a cropped one) and judge presence, if the model has it.
        seed: of the crops and of the bootstrap.
        limit: only the first photos of each file that show somebody, for a quick look.
        progress, clock: see `predict_boxed`.

    Raises:
        FileError, InputError: files or photos that are missing or malformed.
    """
    oks, pck, present = [], [], []
    seconds, persons = 0.0, 0
    sets = [(path, PhotoSet.open(path, images).first(limit)) for path in find_sets(data, split)]
    posed = [(path, photos) for path, photos in sets if photos.names]
    if not posed:
        raise InputError(f"{os.fspath(data)}: no file with keypoints (checked {len(sets)})")
    for path, photos in posed:
        found = predict_boxed(model, photos, flip=flip, masks=masks, progress=progress, clock=clock)
        seconds, persons = seconds + found.seconds, persons + len(found.image)
        if photos.names != COCO.keypoints:
            pck.append(pck_section(photos, found, seed=seed, resamples=resamples))
            continue
        oks.append(
            oks_section(photos, found, scoring=scoring, protocol=protocol, seed=seed, resamples=resamples)
        )
        if presence and found.presence is not None:
            beside = path.with_name("train.json") if baseline is None else Path(baseline)
            fitted = fit_baseline(beside, seed) if baseline is not None or beside.is_file() else None
            cropped, seen = photos, found
            if not photos.is_cropped:
                cropped = photos.cropped(build(photos.document, seed))
                seen = predict_boxed(model, cropped, flip=flip, masks=masks, progress=progress, clock=clock)
                seconds, persons = seconds + seen.seconds, persons + len(seen.image)
            present.append(presence_section(cropped, seen, fitted, seed=seed, resamples=resamples))
    return PoseReport(
        model=str(model),
        parameters={"flip": flip, "masks": masks, "scoring": scoring, "seed": seed, "resamples": resamples},
        oks=tuple(oks),
        pck=tuple(pck),
        presence=tuple(present),
        speed=Speed(persons, seconds, flip),
    )


def oks_section(
    photos: PhotoSet,
    found: Boxed,
    *,
    scoring: Scoring = "keypoints",
    protocol: str = "standard",
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
) -> OksSection:
    """AP by OKS of predictions on annotated boxes.

    Raises:
        InputError: the model lacks keypoints that the file has.
    """
    lacking = np.isnan(found.keypoints).all(axis=(0, 2))
    if lacking.any():
        names = [photos.names[i] for i in np.flatnonzero(lacking)]
        raise InputError(f"{photos.origin}: OKS needs all keypoints, the model lacks {', '.join(names)}")
    report = evaluate_keypoints(photos.document, results_of(found, scoring), COCO, protocol)
    rng = np.random.default_rng(seed)
    weights = boot.draw(len(photos.document["images"]), rng, resamples)
    ap = boot.interval(report.AP, boot.ap_samples(report.evidence, weights))
    return OksSection(photos.origin, len(found.image), scoring, ap, report)


def results_of(found: Boxed, scoring: Scoring = "keypoints") -> list[dict[str, Any]]:
    """COCO results of predictions on annotated boxes; the third number of a keypoint is its presence.

    (Its score where the model has no presence.)
    """
    scores = instance_scores(found, scoring)
    third = found.scores if found.presence is None else found.presence
    points = np.concatenate([found.keypoints, np.nan_to_num(third)[..., None]], axis=2)
    return [
        {
            "image_id": a["image_id"],
            "category_id": a["category_id"],
            "score": float(s),
            "keypoints": p.ravel().tolist(),
        }
        for a, s, p in zip(found.annotations, scores, points, strict=True)
    ]


def instance_scores(found: Boxed, scoring: Scoring = "keypoints") -> Floats:
    """(N,) mean keypoint score over the keypoints above the threshold of the scoring, 0 if there is none.

    Raises:
        InputError: scoring by presence of a model that has none.
    """
    if scoring == "presence" and found.presence is None:
        raise InputError("scoring by presence: this model does not estimate presence; use 'keypoints'")
    by = found.presence if scoring == "presence" and found.presence is not None else found.scores
    return mean_of_counted(found.scores, by > SCORE_THRESHOLDS[scoring])


def pck_section(
    photos: PhotoSet,
    found: Boxed,
    *,
    threshold: float = PCK_THRESHOLD,
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
) -> PckSection:
    """PCK over the keypoints that model and file share by name; norm max(w, h) of the annotated box."""
    labels = found.labels
    known = ~np.isnan(found.keypoints).all(axis=(0, 2))
    if not known.any():
        raise InputError(f"{photos.origin}: model and file have no keypoint name in common")
    xywh = np.array([a["bbox"] for a in found.annotations], np.float64)
    norm = box_norm(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1))
    labelled = (labels[..., 2] > 0) & known
    d = distances(np.nan_to_num(found.keypoints), labels[..., :2], labelled, norm)
    images = len(photos.document["images"])
    right, counted = np.zeros((images, d.shape[1])), np.zeros((images, d.shape[1]))
    np.add.at(right, found.image, d < np.float32(threshold))
    np.add.at(counted, found.image, np.isfinite(d))
    total = counted.sum(axis=0)
    each = np.divide(right.sum(axis=0), total, out=np.full(len(total), -1.0), where=total > 0)
    weights = boot.draw(images, np.random.default_rng(seed), resamples)
    value = float(each[each >= 0].mean()) if (each >= 0).any() else 0.0
    names = photos.names
    return PckSection(
        origin=photos.origin,
        persons=len(found.image),
        threshold=threshold,
        pck=boot.interval(value, boot.ratio_samples(right, counted, weights)),
        each={names[i]: float(each[i]) for i in np.flatnonzero(known)},
        missing=tuple(names[i] for i in np.flatnonzero(~known)),
    )


def fit_baseline(annotations: str | os.PathLike[str], seed: int = 0) -> BorderBaseline:
    """The presence baseline from a COCO file, cropped like the photos it is compared on (labels only)."""
    document, _ = load_json(annotations)
    if not isinstance(document, Mapping) or not isinstance(document.get("annotations"), Sequence):
        raise InputError(f"{os.fspath(annotations)}: not a COCO file (no list 'annotations')")
    bare = [{k: v for k, v in a.items() if k != "segmentation"} for a in document["annotations"]]
    return BorderBaseline.fit(build({**document, "annotations": bare}, seed).document)


def presence_section(
    photos: PhotoSet,
    found: Boxed,
    baseline: BorderBaseline | None,
    *,
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
) -> PresenceSection:
    """Presence on photos with flags 1, 2 (inside) and 3 (outside), paired with the baseline over images.

    Raises:
        InputError: the model does not estimate presence.
    """
    if found.presence is None:
        raise InputError("this model does not estimate presence")
    flags = found.labels[..., 2]
    guess = None if baseline is None else baseline.predict(photos.document, found.annotations)
    used, positive = labels_of(flags, "presence")
    used &= np.isfinite(found.presence)
    flags = np.where(used, flags, 0)
    report = evaluate_presence(found.presence, flags)
    other = None if guess is None else evaluate_presence(guess, flags)
    image = np.broadcast_to(found.image[:, None], flags.shape)[used]
    weights = boot.draw(len(photos.document["images"]), np.random.default_rng(seed), resamples)
    samples = boot.auroc_samples(found.presence[used], positive[used], image, weights)
    value = float("nan") if report.auroc is None else report.auroc
    advantage = None
    if guess is not None and other is not None and other.auroc is not None:
        theirs = boot.auroc_samples(guess[used], positive[used], image, weights)
        advantage = boot.difference(value, other.auroc, samples, theirs)
    return PresenceSection(
        origin=photos.origin,
        persons=len(found.image),
        seed=seed,
        report=report,
        auroc=boot.interval(value, samples),
        baseline=other,
        advantage=advantage,
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
