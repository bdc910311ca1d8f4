"""A pipeline run over annotated photos: what is known after each pass, kept photo by photo.

With a folder every photo's outcome is a file of its own, written whole or not at all: a run that was stopped goes
on, processes may share the photos by parts, and what was found can be judged again in another way. A photo that
fails is named and left out; the next run tries it again. Numbers are made from this by `pipeline` and `crowd_recall`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bodyloop.data.cropcoco_folder import claim, make_folder
from bodyloop.data.formats import read_labels
from bodyloop.data.labels import Labels, columns_from
from bodyloop.data.labels import document as label_document
from bodyloop.errors import ConfigError, FileError, InputError, MissingDependency, ModelError
from bodyloop.eval.boxed import file_skeleton
from bodyloop.eval.photos import PhotoSet, Progress, Record, person_category, write_json
from bodyloop.geometry import boxes_to_xywh
from bodyloop.images import Image
from bodyloop.interop import SCORE_THRESHOLD, mean_of_counted
from bodyloop.loop import Failure, LoopConfig, LoopResult
from bodyloop.people import People
from bodyloop.records import load_json
from bodyloop.skeletons import COCO
from bodyloop.storage import to_plain

MANIFEST = "run.json"
FORMAT = "bodyloop/pipeline-run-1"
Row = Mapping[str, Any]
"""A person found: ``bbox`` (x y w h), ``segmentation``, ``keypoints``, and its scores ``box, mask, keypoint``."""


class Pipeline(Protocol):
    """What is asked of a pipeline here; `bodyloop.loop.BodyLoop` is one."""

    @property
    def config(self) -> LoopConfig:
        """How it was set up."""
        ...

    def predict(
        self, images: list[Image], *, return_intermediates: bool, on_error: Any
    ) -> Sequence[People | LoopResult | Failure]:
        """A LoopResult, or a Failure, for each picture."""
        ...


@dataclass(frozen=True, eq=False)
class Seen:
    """What a pipeline found on one photo.

    Attributes:
        image_id: of the photo.
        passes: everybody known after each pass.
        seconds: of "detect", "pose", "segment" and "loop", over all passes.
        ended: why there was no further pass.
    """

    image_id: int
    passes: tuple[tuple[Row, ...], ...]
    seconds: Mapping[str, float]
    ended: str

    def after(self, passes: int) -> tuple[Row, ...]:
        """Everybody known after so many passes, or after the last if there were fewer."""
        return self.passes[min(passes, len(self.passes)) - 1]


@dataclass(frozen=True, eq=False)
class PipelineRun:
    """A pipeline on the photos of a file.

    Attributes:
        name: of the pipeline. photos: the file, with nothing but the photos that were worked through.
        category: of the persons. seen: one a photo, in the file's order.
        failed: name of each photo that could not be worked through, and why.
    """

    name: str
    photos: PhotoSet
    category: int
    seen: tuple[Seen, ...]
    failed: Mapping[str, str]

    @property
    def passes(self) -> int:
        """The most passes that a photo took."""
        return max((len(s.passes) for s in self.seen), default=0)


def open_photos(annotations: Path, images: str | Path | None = None) -> PhotoSet:
    """A file of people in COCO's layout, or in OCHuman's own, with its photos.

    Raises:
        FileError, InputError: unreadable or malformed.
    """
    document, _ = load_json(annotations)
    if not isinstance(document, Mapping) or "annotations" in document:
        return PhotoSet.open(annotations, images)
    folder = annotations.parent / "images" if images is None else Path(images)
    return PhotoSet(_in_coco(read_labels(annotations)), folder, str(annotations), COCO.keypoints, annotations)


def _in_coco(labels: Labels) -> dict[str, Any]:
    """OCHuman's people as its authors hand them to COCO's tools: 17 keypoints, nobody without any."""
    columns, people = columns_from(labels.skeleton, COCO), []
    for row in labels.annotations:
        points = np.array(row["keypoints"], np.float64).reshape(-1, 3)[columns] * (columns >= 0)[:, None]
        if row["num_keypoints"]:
            count = int((points[:, 2] > 0).sum())
            people.append({**row, "keypoints": points.ravel().tolist(), "num_keypoints": count})
    return label_document(labels.images, people, COCO)


def run_pipeline(
    pipeline: Pipeline,
    photos: PhotoSet,
    *,
    folder: Path | None = None,
    part: tuple[int, int] = (1, 1),
    describe: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> PipelineRun:
    """Run a pipeline on all photos of a file.

    Args:
        folder: a new one, or that of an equal run, whose photos are taken over. None: nothing is kept.
        part: (i, n): only every n-th photo from the i-th (1 to n) on; other processes do the others. Photos of
            other parts that are there are taken over, too.
        describe: what the pipeline is, to know an equal run by; by default its configuration and what it calls itself.
        progress: called with photos done and photos in all.

    Raises:
        InputError: no photo could be worked through. ConfigError: a part that is none.
        FileError: the folder holds another run. ModelError, MissingDependency: wrong for every photo.
    """
    first, every = part
    if not 1 <= first <= every:
        raise ConfigError(f"part must be i of n with i from 1 to n, got {first} of {every}")
    records = list(photos.document["images"])
    kept = _Kept.open(folder, pipeline, photos, describe)
    category = person_category(photos)
    seen: dict[int, Seen] = {}
    failed: dict[str, str] = {}
    for n, record in enumerate(records):
        one = kept.read(record)
        if one is None and n % every == first - 1:
            outcome = _work(pipeline, photos, record, category)
            if isinstance(outcome, str):
                failed[str(record.get("file_name"))] = outcome
            else:
                one = outcome
                kept.write(one, record)
        if one is not None:
            seen[int(record["id"])] = one
        if progress is not None:
            progress(n + 1, len(records))
    if not seen:
        why = next(iter(failed.values()), "it has none")
        raise InputError(f"{photos.origin}: none of its {len(records)} photos could be worked through: {why}")
    done = [r for r in records if int(r["id"]) in seen]
    return PipelineRun(
        str(pipeline), _only(photos, done), category, tuple(seen[int(r["id"])] for r in done), failed
    )


def _only(photos: PhotoSet, records: Sequence[Record]) -> PhotoSet:
    ids = {r["id"] for r in records}
    people = [a for a in photos.document["annotations"] if a["image_id"] in ids]
    return replace(photos, document={**photos.document, "images": list(records), "annotations": people})


def _work(pipeline: Pipeline, photos: PhotoSet, record: Record, category: int) -> Seen | str:
    """What was found on a photo, or why it could not be worked through."""
    try:
        image = photos.photo(record)
    except (FileError, InputError) as e:
        return str(e)
    (result,) = pipeline.predict([image], return_intermediates=True, on_error="keep")
    if isinstance(result, Failure):
        if isinstance(result.error, ModelError | MissingDependency):
            raise result.error
        return str(result)
    assert isinstance(result, LoopResult)
    spent: dict[str, float] = {}
    for each in result.passes:
        for role, seconds in each.seconds.items():
            spent[role] = spent.get(role, 0.0) + seconds
    key = int(record["id"])
    rows = tuple(tuple(_rows(p.people, key, category, photos.names)) for p in result.passes)
    return Seen(key, rows, spent, result.ended)


def _rows(people: People, image_id: int, category: int, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """COCO results without their ``score``: which score that is to be is a question of judging."""
    if not len(people):
        return
    assert people.boxes is not None
    columns: dict[str, Any] = {"bbox": boxes_to_xywh(people.boxes)}
    columns["box"] = np.ones(len(people), np.float32) if people.scores is None else people.scores
    if people.mask_scores is not None:
        columns["mask"] = np.where(np.isfinite(people.mask_scores), people.mask_scores, columns["box"])
    if people.keypoints is not None and people.skeleton is not None:
        scores = people.keypoint_scores
        if scores is not None:
            columns["keypoint"] = mean_of_counted(scores, scores > SCORE_THRESHOLD).astype(np.float32)
        if names:
            columns["keypoints"] = _points(people.in_skeleton(file_skeleton(names, people.skeleton)))
    plain = {name: to_plain(np.asarray(c, np.float32)) for name, c in columns.items()}
    for i in range(len(people)):
        row = {"image_id": image_id, "category_id": category, **{k: c[i] for k, c in plain.items()}}
        if people.masks is not None:
            row["segmentation"] = people.masks.rle(i)
        yield row


def _points(people: People) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(N, 3K) x, y, score; 0, 0, 0 for a keypoint that is not there: COCO has no other word for it."""
    assert people.keypoints is not None
    scores = people.keypoint_scores
    third = np.ones(people.keypoints.shape[:2], np.float32) if scores is None else scores
    table = np.concatenate([people.keypoints, third[..., None]], axis=2)
    table[~np.isfinite(table).all(axis=2)] = 0
    return table.reshape(len(table), -1)


# ------------------------------------------------------------------ what is kept


@dataclass(frozen=True)
class _Kept:
    """The folder of a run, or none."""

    folder: Path | None

    @classmethod
    def open(
        cls, folder: Path | None, pipeline: Pipeline, photos: PhotoSet, describe: Mapping[str, Any] | None
    ) -> _Kept:
        if folder is None:
            return cls(None)
        what = describe or {"pipeline": str(pipeline), "config": asdict(pipeline.config)}
        # photos may be added to a file later on; what is found on one depends on itself alone
        content = {"pipeline": dict(what), "data": photos.path.name, "keypoints": list(photos.names)}
        claim(folder, content, manifest=MANIFEST, format=FORMAT, alone=False)
        make_folder(folder / "photos")
        return cls(folder)

    def _path(self, image_id: int) -> Path | None:
        return None if self.folder is None else self.folder / "photos" / f"{image_id}.json"

    def read(self, record: Record) -> Seen | None:
        """What is there of a photo; None if there is nothing, or nothing that can be read."""
        path = self._path(int(record["id"]))
        if path is None or not path.is_file():
            return None
        try:
            told = json.loads(path.read_bytes())
            if told["size"] != [record["width"], record["height"]]:
                return None
            passes = tuple(tuple(rows) for rows in told["passes"])
            return Seen(int(record["id"]), passes, told["seconds"], told["ended"]) if passes else None
        except (OSError, ValueError, KeyError, TypeError):  # broken: it is made anew
            return None

    def write(self, seen: Seen, record: Record) -> None:
        path = self._path(seen.image_id)
        if path is not None:
            told = {"size": [record["width"], record["height"]], "passes": seen.passes}
            write_json(path, {**told, "seconds": dict(seen.seconds), "ended": seen.ended})
