"""A pipeline judged from photographs: AP of boxes, masks and poses after each pass, with intervals.

What later passes bring is the paired difference to the first one. `pipeline_run` runs it and keeps what it found;
here that becomes COCO results, ranked by a score that the caller names, and the evaluations of files judge them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from bodyloop.data.cropcoco_folder import make_folder
from bodyloop.errors import ConfigError, InputError
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.boxed import file_skeleton
from bodyloop.eval.boxes import evaluate_boxes
from bodyloop.eval.evidence import APReport
from bodyloop.eval.instance_masks import evaluate_masks
from bodyloop.eval.keypoints import evaluate_keypoints
from bodyloop.eval.photos import PhotoSet, Progress, Record, find_sets, stem_of, write_json
from bodyloop.eval.pipeline_run import Pipeline, PipelineRun, Row, open_photos, run_pipeline
from bodyloop.eval.protocols import rules
from bodyloop.masks import Masks
from bodyloop.skeletons import COCO

Task = Literal["boxes", "masks", "keypoints"]
Ranking = Literal["box", "mask", "keypoint", "box*mask", "box*keypoint", "mask*keypoint", "box*mask*keypoint"]
BoxesOf = Literal["detector", "masks"]

TASKS: tuple[Task, ...] = ("boxes", "masks", "keypoints")
RANKINGS: tuple[Ranking, ...] = get_args(Ranking)
USUAL: Mapping[Task, Ranking] = {"boxes": "box", "masks": "box", "keypoints": "box*keypoint"}
COMPLETE = {"boxes": "boxes", "masks": "masks", "keypoints": "keypoints"}  # of a photo's "complete"


@dataclass(frozen=True, eq=False)
class Stage:
    """What is known after some passes.

    Attributes:
        passes: how many. people: found on all photos.
        reports, intervals: of AP by task; a task that labels or pipeline lack is not there.
        gains: AP minus that after the first pass, paired; none for the first.
    """

    passes: int
    people: int
    reports: Mapping[Task, APReport]
    intervals: Mapping[Task, boot.Interval]
    gains: Mapping[Task, boot.Difference]

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            "passes": self.passes,
            "people": self.people,
            "reports": {t: r.to_json() for t, r in self.reports.items()},
            "intervals": {t: i.to_json() for t, i in self.intervals.items()},
            "gains": {t: d.to_json() for t, d in self.gains.items()},
        }


@dataclass(frozen=True, eq=False)
class PipelineReport:
    """A pipeline on one annotation file, after each pass.

    Attributes:
        run: what it found. parameters: how it was judged.
        stages: after one pass, two, ...
    """

    run: PipelineRun
    parameters: Mapping[str, object]
    stages: tuple[Stage, ...]

    @property
    def seconds(self) -> dict[str, float]:
        """Time of each role, and of the loop itself, over all photos."""
        total: dict[str, float] = {}
        for seen in self.run.seen:
            for role, spent in seen.seconds.items():
                total[role] = total.get(role, 0.0) + spent
        return total

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            "pipeline": self.run.name,
            "data": self.run.photos.origin,
            "images": len(self.run.seen),
            "failed": dict(self.run.failed),
            "parameters": dict(self.parameters),
            "stages": [s.to_json() for s in self.stages],
            "seconds": self.seconds,
        }

    def table(self) -> str:
        """The main numbers as text; `to_json` has all."""
        n = len(self.run.seen)
        lines = [self.run.name, "", f"{self.run.photos.origin}: {n} photos, ranked by {self._ranked()}"]
        lines += [
            f"  FAILED, not judged: {name}: {' '.join(why.split())}" for name, why in self.run.failed.items()
        ]
        lines.append(f"  {'':16}{'AP':>8}   95 % interval       {'minus 1x':>8}   95 % interval")
        for stage in self.stages:
            lines.append(f"after {stage.passes}x: {stage.people} people")
            lines += [f"  {task:16}{_numbers(stage, task)}" for task in TASKS if task in stage.intervals]
        told = ", ".join(f"{role} {1000 * s / n:.1f}" for role, s in self.seconds.items())
        return "\n".join([*lines, f"milliseconds a photo: {told}"])

    def _ranked(self) -> str:
        ranked = self.parameters["ranking"]
        assert isinstance(ranked, Mapping)
        if len(set(ranked.values())) == 1:
            return f"{next(iter(ranked.values()))} score"
        return ", ".join(f"{score} score ({task})" for task, score in ranked.items())

    def results(self, task: Task, passes: int | None = None) -> list[dict[str, Any]]:
        """COCO results of a task after so many passes (None: all), as they were judged."""
        ranked, boxes = self.parameters["ranking"], self.parameters["boxes"]
        assert isinstance(ranked, Mapping)
        count = self.run.passes if passes is None else passes
        return results_of(self.run, task, ranked[task], count, "masks" if boxes == "masks" else "detector")

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write ``report.json``, the labels, and the results of each task after each pass as COCO files.

        Raises:
            FileError: a file cannot be written.
        """
        out = make_folder(Path(folder))
        stem = stem_of(self.run.photos.path)
        write_json(out / f"{stem}.json", self.run.photos.document)
        for stage in self.stages:
            for task in stage.reports:
                name = f"{stem}.{task}.{stage.passes}x.json"
                write_json(out / name, self.results(task, stage.passes))
        write_json(out / "report.json", self.to_json())
        return out


def _numbers(stage: Stage, task: Task) -> str:
    i, gain = stage.intervals[task], stage.gains.get(task)
    text = f"{i.value:8.4f}   {i.low:.4f} to {i.high:.4f}"
    return text if gain is None else f"{text}   {gain.value:+8.4f}   {gain.low:+.4f} to {gain.high:+.4f}"


def evaluate_pipeline(
    pipeline: Pipeline,
    data: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    split: str = "dev",
    ranking: Ranking | None = None,
    boxes: BoxesOf = "detector",
    protocol: str = "standard",
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
    limit: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    part: tuple[int, int] = (1, 1),
    describe: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> PipelineReport:
    """Judge a pipeline on annotated photos: nothing but the photos goes in.

    Boxes, masks and poses are judged as far as the file labels them; photos that say that they do not label
    everybody's (``complete``) are left out of the task.

    Args:
        data: COCO-style file (or OCHuman's own), or a folder with ``<split>.json``. images: folder of the photos;
            None: beside.
        ranking: whose score orders the people: that of the box, of the mask (the segmenter's own; that of the box
            for people who were not segmented), the mean of the keypoints' above 0.2, or a product. None: the box's
            for boxes and masks, box times keypoints for poses.
        boxes: those that the detector gave, or those around the masks.
        protocol: see `evaluate_boxes`.
        limit: only the first photos that show somebody, for a quick look.
        folder, part, describe, progress: see `run_pipeline`.

    Raises:
        FileError, InputError: files that are missing or malformed, or no photo could be worked through.
        ConfigError: unknown protocol or ranking.
    """
    rules(protocol)  # what is unknown is refused before the pipeline runs
    check_ranking(ranking)
    (path, *more) = find_sets(data, split)
    if more:
        raise InputError(f"{os.fspath(data)}: {1 + len(more)} files {split}.json; name one")
    photos = open_photos(path, None if images is None else Path(images)).first(limit)
    run = run_pipeline(
        pipeline, photos, folder=None if folder is None else Path(folder), part=part, describe=describe,
        progress=progress,
    )  # fmt: skip
    return judge_run(run, ranking=ranking, boxes=boxes, protocol=protocol, seed=seed, resamples=resamples)


def check_ranking(ranking: str | None) -> None:
    """Refuse a score that there is not.

    Raises:
        ConfigError: it names those that are there.
    """
    if ranking is not None and ranking not in RANKINGS:
        raise ConfigError(f"no ranking {ranking!r}; known: {', '.join(RANKINGS)}")


def judge_run(
    run: PipelineRun,
    *,
    ranking: Ranking | None = None,
    boxes: BoxesOf = "detector",
    protocol: str = "standard",
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
) -> PipelineReport:
    """Judge what a pipeline found; arguments as of `evaluate_pipeline`."""
    check_ranking(ranking)
    ranked = {task: ranking or USUAL[task] for task in TASKS}
    judged = {t: document for t in TASKS if (document := labels_for(run.photos, t, run.category)) is not None}
    stages: list[Stage] = []
    first: dict[Task, tuple[float, npt.NDArray[np.float64]]] = {}
    for passes in range(1, run.passes + 1):
        reports: dict[Task, APReport] = {}
        intervals: dict[Task, boot.Interval] = {}
        gains: dict[Task, boot.Difference] = {}
        for task, document in judged.items():
            report = _report(
                run, task, document, results_of(run, task, ranked[task], passes, boxes), protocol
            )
            ap = report.numbers["AP"] or 0.0
            weights = boot.draw(len(document["images"]), np.random.default_rng(seed), resamples)
            samples = boot.ap_samples(report.evidence, weights)
            reports[task], intervals[task] = report, boot.interval(ap, samples)
            before = first.setdefault(task, (ap, samples))
            if passes > 1:
                gains[task] = boot.difference(ap, before[0], samples, before[1])
        people = sum(len(s.after(passes)) for s in run.seen)
        stages.append(Stage(passes, people, reports, intervals, gains))
    parameters = {
        "ranking": ranked, "boxes": boxes, "protocol": protocol, "seed": seed, "resamples": resamples
    }  # fmt: skip
    return PipelineReport(run, parameters, tuple(stages))


def labels_for(photos: PhotoSet, task: Task, category: int) -> dict[str, Any] | None:
    """The labels that a task is judged by: persons of photos that label everybody; None if nobody has what it asks."""
    images = [i for i in photos.document["images"] if _complete(i, task)]
    ids = {i["id"] for i in images}
    people = [
        a for a in photos.document["annotations"] if a["image_id"] in ids and a["category_id"] == category
    ]
    if task == "masks" and not all(a.get("segmentation") for a in people):
        return None
    if task == "keypoints" and not any(v > 0 for a in people for v in (a.get("keypoints") or ())[2::3]):
        return None
    categories = [c for c in photos.document["categories"] if c["id"] == category]
    return {"images": images, "annotations": people, "categories": categories} if people else None


def _complete(image: Record, task: Task) -> bool:
    told = image.get("complete")
    return not isinstance(told, Mapping) or bool(told.get(COMPLETE[task], True))


def _report(
    run: PipelineRun, task: Task, document: Record, results: Sequence[Row], protocol: str
) -> APReport:
    there = {i["id"] for i in document["images"]}
    mine = [r for r in results if r["image_id"] in there]
    if task == "boxes":
        return evaluate_boxes(document, mine, protocol)
    if task == "masks":
        return evaluate_masks(document, mine, protocol)
    names = run.photos.names
    skeleton = COCO if names == COCO.keypoints else file_skeleton(names, COCO)
    return evaluate_keypoints(document, mine, skeleton, protocol)


def results_of(
    run: PipelineRun, task: Task, ranking: Ranking, passes: int, boxes: BoxesOf = "detector"
) -> list[dict[str, Any]]:
    """COCO results of a task after so many passes, with the score that ranks them.

    People without what the task asks for (a mask with no pixel) are left out.

    Raises:
        InputError: the pipeline gives no such score.
    """
    field = {"boxes": "bbox", "masks": "segmentation", "keypoints": "keypoints"}[task]
    out = []
    for row in (r for seen in run.seen for r in seen.after(passes)):
        if field not in row:
            continue
        told = {"image_id": row["image_id"], "category_id": row["category_id"], field: row[field]}
        if "segmentation" in row and (task == "masks" or (task == "boxes" and boxes == "masks")):
            mask = Masks.from_rle([row["segmentation"]])
            if not mask.present[0]:
                continue
            if task == "boxes":
                x1, y1, x2, y2 = mask.boxes[0].tolist()
                told["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        out.append({**told, "score": _score(row, ranking)})
    return out


def _score(row: Row, ranking: Ranking) -> float:
    score = 1.0
    for part in ranking.split("*"):
        if part not in row:
            raise InputError(f"ranking by {ranking!r}: this pipeline gives no {part} score")
        score *= float(row[part])
    return score
