"""Runs a row of published numbers: its models on its photos, by its protocol, with an interval beside the value.

The same code judges that judges everything else; what is special to a row (which boxes, which quirks of the published
code, which thinning out before the evaluation) is chosen here. Models may be exchanged by name or file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.data.cropcoco import build
from bodyloop.errors import ConfigError, FileError, InputError
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.boxed import predict_boxed, results_of
from bodyloop.eval.detector import evaluate_detector
from bodyloop.eval.evidence import APReport
from bodyloop.eval.keypoints import evaluate_keypoints
from bodyloop.eval.oracle import TrueBoxes, TruePoses
from bodyloop.eval.photos import PhotoSet, Progress
from bodyloop.eval.pipeline import judge_run
from bodyloop.eval.pipeline import results_of as pipeline_results
from bodyloop.eval.pipeline_run import Pipeline, PipelineRun, open_photos, run_pipeline
from bodyloop.eval.published import evaluate_probpose, thin_out
from bodyloop.eval.reading import read_ground_truth, read_predictions
from bodyloop.eval.reproduce import METRICS, SETS, DataSet, Published
from bodyloop.images import Image
from bodyloop.loop import BodyLoop, Failure, LoopConfig, LoopResult, Pass
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import Detector, PoseEstimator
from bodyloop.skeletons import COCO


@dataclass(frozen=True)
class Reproduced:
    """A published number and ours.

    Attributes:
        row: what was run. ours: AP with its interval, in per cent.
        photos: how many. failed: photos that could not be worked through, and why.
        models: the names or files that played. notes: in what the run differs from what was published.
    """

    row: Published
    ours: boot.Interval
    photos: int
    failed: Mapping[str, str]
    models: Mapping[str, str]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        r = self.row
        return {
            "row": r.id, "system": r.system, "data": SETS[r.data].title, "number": METRICS[r.metric],
            "published": r.published, "told": r.told, "ours": self.ours.to_json(), "photos": self.photos,
            "failed": dict(self.failed), "run_with": r.given, "models": dict(self.models), "notes": list(self.notes),
        }  # fmt: skip

    def table(self) -> str:
        """As text."""
        r, o = self.row, self.ours
        lines = [
            f"{r.id}: {r.system}, {METRICS[r.metric]} on {SETS[r.data].title}",
            f"  published  {r.published:5.1f}   ({r.told}{f'; {r.note}' if r.note else ''})",
            f"  ours       {o.value:5.1f}   {o.low:.1f} to {o.high:.1f} (95 % over {self.photos} photos)",
            f"  run with   {r.given}",
            f"  models     {', '.join(f'{k} {v}' for k, v in self.models.items())}",
        ]
        lines += [f"  note: {n}" for n in self.notes]
        return "\n".join([*lines, *(f"  FAILED, not judged: {n}: {why}" for n, why in self.failed.items())])


@dataclass(frozen=True)
class How:
    """How rows are run.

    Attributes:
        device: of the networks. parity: repeat the quirks of the published code.
        models: names or files in place of the row's, by role ("pose", "detector", "segmenter").
        folder, part: see `run_pipeline`; rows of labelled boxes and detectors are run at one go.
        limit: only the first photos that show somebody.
        seed, resamples: of the intervals.
    """

    device: str = "cpu"
    parity: bool = True
    models: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    part: tuple[int, int] = (1, 1)
    limit: int | None = None
    seed: int = 0
    resamples: int = boot.RESAMPLES
    progress: Progress | None = None

    def interval(self, report: APReport) -> boot.Interval:
        """AP of a report with its interval, in per cent."""
        weights = boot.draw(
            len(report.evidence.truth.image_ids), np.random.default_rng(self.seed), self.resamples
        )
        ap = report.numbers["AP"] or 0.0
        return in_per_cent(boot.interval(ap, boot.ap_samples(report.evidence, weights)))


def in_per_cent(i: boot.Interval) -> boot.Interval:
    """The interval times 100."""
    return replace(i, value=100 * i.value, low=100 * i.low, high=100 * i.high)


def reproduce(row: Published, places: Mapping[str, Path], how: How | None = None) -> Reproduced:
    """Run a row.

    Args:
        places: folders of the data sets by option ("coco", "ochuman", "cropcoco", "cihp").

    Raises:
        ConfigError: the row cannot be run, or its data set was not named.
        FileError, InputError, ModelError, MissingDependency: data or models are missing or malformed.
    """
    how = how or How()
    if row.missing:
        raise ConfigError(f"{row.id} cannot be run: {row.missing}")
    photos, notes = _photos(row, places)
    photos = photos.first(how.limit)
    if how.limit is not None:
        notes = (*notes, f"only the first {len(photos.document['images'])} photos")
    if how.models:
        notes = (*notes, f"other models than published: {', '.join(sorted(how.models))}")
    changed: dict[str, Any] = {r: n for r, n in how.models.items() if getattr(row, r) or row.pipeline}
    row = replace(row, **changed)
    run = {
        "labelled boxes": _labelled_boxes, "detected boxes": _detected_boxes, "pipeline": _pipeline,
        "labelled poses": _labelled_poses, "detector": _detector,
    }[row.kind]  # fmt: skip
    ours, count, failed = run(row, photos, how)
    names = {k: v for k in ("pipeline", "pose", "detector", "segmenter") if (v := getattr(row, k))}
    return Reproduced(row, ours, count, failed, names, notes)


Outcome = tuple[boot.Interval, int, Mapping[str, str]]
"""Ours in per cent, photos judged, photos that failed."""


def _photos(row: Published, places: Mapping[str, Path]) -> tuple[PhotoSet, tuple[str, ...]]:
    """The row's photos, and in what they are not the published ones."""
    wanted = SETS[row.data]
    if wanted.option in places:
        return open_set(wanted, places[wanted.option]), ()
    if row.data == "cropcoco" and "coco" in places:
        photos = open_set(SETS["coco-val"], places["coco"])
        note = "photos cut by our own procedure (seed 0), not the published CropCOCO"
        return photos.cropped(build(photos.document, 0)), (note,)
    raise ConfigError(f"{row.id} needs {wanted.title}: name its folder with --{wanted.option}")


def open_set(wanted: DataSet, folder: Path) -> PhotoSet:
    """A published set in its folder.

    Raises:
        FileError: its labels or photos are not there.
    """
    labels = next((folder / p for p in wanted.labels if (folder / p).is_file()), None)
    photos = next((folder / p for p in wanted.photos if (folder / p).is_dir()), None)
    if labels is None or photos is None:
        lacking = wanted.labels if labels is None else [f"{p}/" for p in wanted.photos]
        raise FileError(f"{folder}: {wanted.title} has none of {', '.join(lacking)} there")
    return open_photos(labels, photos)


# ------------------------------------------------------------------ the kinds of rows


def _labelled_boxes(row: Published, photos: PhotoSet, how: How) -> Outcome:
    model = _pose(row, how)
    found = predict_boxed(model, photos, flip=row.flip, masks=row.masks, progress=how.progress)
    by_presence = row.protocol == "exococotools" and found.presence is not None
    results = _thinned(photos, results_of(found, "presence" if by_presence else "keypoints"))
    if row.protocol == "exococotools":
        report: APReport = evaluate_probpose(
            photos.document, results, plain=row.metric != "Ex-OKS", confidence_threshold=None
        )
    else:
        report = evaluate_keypoints(photos.document, results, COCO, row.protocol)
    return how.interval(report), found.images, {}


def _detected_boxes(row: Published, photos: PhotoSet, how: How) -> Outcome:
    from bodyloop.api import load_detector

    detector = load_detector(row.detector, device=how.device, score_threshold=row.threshold, masks=row.masks)
    run = _run(OnePass(detector, _pose(row, how), row.threshold), row, photos, how)
    results = _thinned(run.photos, pipeline_results(run, "keypoints", "box*keypoint", 1))
    return how.interval(evaluate_keypoints(run.photos.document, results, COCO, row.protocol)), *_told(run)


def _pipeline(row: Published, photos: PhotoSet, how: How) -> Outcome:
    from bodyloop.api import load_pipeline

    roles = {k: v for k in ("detector", "pose", "segmenter") if (v := getattr(row, k))}
    loop = load_pipeline(row.pipeline, device=how.device, published=how.parity, **roles)
    return _judged(loop.with_config(**row.changes), row, photos, how)


def _labelled_poses(row: Published, photos: PhotoSet, how: How) -> Outcome:
    """The pipeline's segmenter and choice of points, nothing else of it."""
    from bodyloop.api import PIPELINES, load_segmenter
    from bodyloop.loop import find_config

    segmenter = load_segmenter(row.segmenter or PIPELINES[row.pipeline][2], device=how.device)
    config = find_config(row.pipeline).changed(
        name=f"{row.pipeline}, labelled poses",
        passes=1,
        detector_threshold=0.0,
        detector_nms=1.0,
        pose_nms=1.0,
    )
    return _judged(BodyLoop(TrueBoxes(photos), TruePoses(photos), segmenter, config), row, photos, how)


def _detector(row: Published, photos: PhotoSet, how: How) -> Outcome:
    from bodyloop.api import load_detector

    detector = load_detector(row.detector, device=how.device, score_threshold=row.threshold)
    report = evaluate_detector(
        detector, photos.path, photos.folder, protocol=row.protocol, seed=how.seed, resamples=how.resamples,
        limit=how.limit, progress=how.progress,
    )  # fmt: skip
    ap = report.ap if row.metric == "boxes" else report.mask_ap
    if ap is None:
        raise InputError(f"{row.id}: {row.detector} draws no masks, or not everybody is labelled with one")
    return in_per_cent(ap), report.images, {}


def _judged(pipeline: Pipeline, row: Published, photos: PhotoSet, how: How) -> Outcome:
    """What is known after the last pass."""
    run = _run(pipeline, row, photos, how)
    report = judge_run(
        run, ranking="mask" if row.kind == "labelled poses" else None,
        boxes="masks" if row.metric == "boxes of masks" else "detector",
        protocol=row.protocol, seed=how.seed, resamples=how.resamples,
    )  # fmt: skip
    task = {"boxes of masks": "boxes"}.get(row.metric, row.metric)
    intervals = {str(k): i for k, i in report.stages[-1].intervals.items()}
    if task not in intervals:
        raise InputError(f"{photos.origin}: has no labels to judge {task} by")
    return in_per_cent(intervals[task]), *_told(run)


def _run(pipeline: Pipeline, row: Published, photos: PhotoSet, how: How) -> PipelineRun:
    describe = {"row": row.id, "models": dict(how.models), "parity": how.parity, "pipeline": str(pipeline)}
    return run_pipeline(
        pipeline, photos, folder=how.folder, part=how.part, describe=describe, progress=how.progress
    )


def _told(run: PipelineRun) -> tuple[int, Mapping[str, str]]:
    return len(run.seen), run.failed


def _pose(row: Published, how: How) -> Any:
    from bodyloop.api import load_pose
    from bodyloop.pose.inference import PoseOptions
    from bodyloop.pose.parity import NONE, REFERENCE

    options = PoseOptions(flip=row.flip, parity=REFERENCE if how.parity else NONE)
    return load_pose(row.pose, device=how.device, detector=None, options=options)


def _thinned(photos: PhotoSet, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a published run would write: without duplicates and people in the same pose as a better one."""
    truth = read_ground_truth(photos.document, keypoints=len(COCO), need_area=False)
    found = read_predictions(results, truth, keypoints=len(COCO))
    return [results[i] for i in thin_out(found).tolist()]


class OnePass:
    """A detector and a pose model, no segmenter: what pose networks are judged with.

    Args:
        threshold: people below it are left out.
    """

    def __init__(self, detector: Detector, pose: PoseEstimator, threshold: float) -> None:
        self.detector, self.pose = detector, pose
        self.config = LoopConfig("one pass", passes=1, detector_threshold=threshold)

    def __repr__(self) -> str:
        return f"OnePass({self.detector}, {self.pose})"

    def predict(
        self, images: list[Image], *, return_intermediates: bool, on_error: Any
    ) -> Sequence[People | LoopResult | Failure]:
        """A LoopResult of one pass for each image; no failure is kept back."""
        return [self._one(image) for image in images]

    def _one(self, image: Image) -> LoopResult:
        (found,) = self.detector.detect([image])
        if found.scores is not None:
            found = found[np.flatnonzero(found.scores > self.config.detector_threshold)]
        people = self.pose.estimate([image], [found])[0] if len(found) else found
        none, every = np.zeros(0, np.int64), np.arange(len(found))
        only = Pass(
            1, Masks.empty(0, image.size), found, people, every, none, (None,) * len(found), people, people
        )
        return LoopResult(people, (only,), "passes")
