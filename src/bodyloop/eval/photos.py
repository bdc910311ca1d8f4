"""Annotated photographs for evaluations that run a model: which file, which folder, which persons.

A `PhotoSet` is a loaded COCO file with the folder of its photos; cropped files (`bodyloop.data.cropcoco`)
read the same photos and cut them on the way. `predict_boxed` runs a pose model on the annotated boxes and
returns arrays aligned with the annotations. What is computed from them is left to `pose`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bodyloop.data.cropcoco import CropSet, cut_image
from bodyloop.data.cropcoco_folder import PREFIX, photo_folder, read_labelled
from bodyloop.errors import FileError, InputError
from bodyloop.eval.reading import load_json, read_ground_truth
from bodyloop.images import Image
from bodyloop.people import People
from bodyloop.skeletons import Skeleton

Floats = npt.NDArray[np.float64]
Record = Mapping[str, Any]
Progress = Callable[[int, int], None]

IMAGES_AT_ONCE = 16


class PosePredictor(Protocol):
    """What is asked of a pose model here; `bodyloop.load_pose` gives one."""

    @property
    def skeleton(self) -> Skeleton:
        """The model's keypoints."""
        ...

    def predict(
        self, images: list[Any], boxes: list[Any], masks: list[Any] | None = None, *, flip: bool | None = None
    ) -> list[People]:
        """Poses of the boxes (n, 4) ``x1 y1 x2 y2`` of each image, in order."""
        ...


@dataclass(frozen=True, eq=False)
class PhotoSet:
    """A COCO file and its photos.

    Attributes:
        document: the loaded json.
        folder: where the photos are.
        origin: the file, for messages and reports.
        names: the file's keypoints, empty for a file of boxes.
    """

    document: Mapping[str, Any]
    folder: Path
    origin: str
    names: tuple[str, ...]

    @classmethod
    def open(
        cls, annotations: str | os.PathLike[str], images: str | os.PathLike[str] | None = None
    ) -> PhotoSet:
        """Open a COCO keypoint file; photos are in its `photo_folder` unless said otherwise.

        Raises:
            FileError: the file cannot be read. InputError: it is not a COCO keypoint file.
        """
        path = Path(annotations)
        document, _ = load_json(path)
        names = _keypoint_names(document, str(path))
        read_ground_truth(document, keypoints=len(names) or None, need_area=False, origin=str(path))
        folder = photo_folder(path) if images is None else Path(images)
        return cls(document, folder, str(path), names)

    def cropped(self, crops: CropSet) -> PhotoSet:
        """The same photos with the labels of cropped ones."""
        return replace(self, document=crops.document, origin=f"{self.origin}, cropped")

    @property
    def is_cropped(self) -> bool:
        """Whether somebody's keypoint is outside of its window (flag 3), as in CropCOCO."""
        return any(3 in a["keypoints"][2::3] for a in self.document["annotations"]) if self.names else False

    def first(self, count: int | None) -> PhotoSet:
        """The first ``count`` photos with somebody's label on them (None: all photos), for a quick look."""
        if count is None:
            return self
        shown = {a["image_id"] for a in self.document["annotations"]}
        images = [i for i in self.document["images"] if i["id"] in shown][:count]
        ids = {i["id"] for i in images}
        kept = [a for a in self.document["annotations"] if a["image_id"] in ids]
        document = {**self.document, "images": images, "annotations": kept}
        return replace(self, document=document, origin=f"{self.origin}, first {len(images)} photos")

    def photo(self, record: Record) -> Image:
        """The photo of an image record, cut if the record says so and the file is not.

        Raises:
            FileError: it cannot be read. InputError: it is not of the annotated size.
        """
        path = self.folder / str(record.get("file_name", ""))
        crop = record.get("crop")
        sizes = [(record["width"], record["height"])]
        if isinstance(crop, Mapping):
            sizes.append((crop["full_width"], crop["full_height"]))
        image = read_labelled(path, sizes, record["id"])
        if image.size == sizes[0]:
            return image
        return Image(cut_image(image.pixels, record), image.path, record["id"])

    def persons(self) -> list[tuple[int, Record]]:
        """Index of the image and annotation of everybody with labelled keypoints (no crowds), by image."""
        at = {image["id"]: i for i, image in enumerate(self.document["images"])}
        found = [
            (at[a["image_id"]], a)
            for a in self.document["annotations"]
            if not a.get("iscrowd") and any(v > 0 for v in a["keypoints"][2::3])
        ]
        return sorted(found, key=lambda pair: pair[0])


@dataclass(frozen=True, eq=False)
class Boxed:
    """What a model says about N annotated persons; keypoints in the order of the file, NaN where it has none.

    Attributes:
        annotations: N of the file.
        image: (N,) index of each one's image in the file.
        keypoints: (N, K, 2) image px; scores, presence, visibility: (N, K) or None.
        seconds: time spent in the model's predict.
    """

    annotations: tuple[Record, ...]
    image: npt.NDArray[np.int64]
    keypoints: Floats
    scores: Floats
    presence: Floats | None
    visibility: Floats | None
    seconds: float

    @property
    def labels(self) -> Floats:
        """(N, K, 3) x, y, flag of the file."""
        k = self.keypoints.shape[1]
        return np.array([a["keypoints"] for a in self.annotations], np.float64).reshape(-1, k, 3)


def predict_boxed(
    model: PosePredictor,
    photos: PhotoSet,
    *,
    flip: bool = True,
    masks: bool = False,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Boxed:
    """Run a pose model on the annotated boxes of everybody with labelled keypoints.

    Args:
        flip: average with the mirrored crop.
        masks: give the model the annotated masks, too.
        progress: called with persons done and persons in all.

    Raises:
        FileError, InputError: photos that are missing or of another size; nobody to run on.
    """
    persons = photos.persons() if photos.names else []
    if not persons:
        raise InputError(f"{photos.origin}: nobody has labelled keypoints")
    skeleton = Skeleton.define("file", photos.names)
    found: list[People] = []
    seconds, done = 0.0, 0
    for images, groups in _batches(photos, persons):
        boxes = [np.array([a["bbox"] for a in g], np.float64) for g in groups]
        xyxy = [np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1) for b in boxes]
        given = [[a.get("segmentation") or None for a in g] for g in groups] if masks else None
        start = clock()
        people = model.predict(images, xyxy, given, flip=flip)
        seconds += clock() - start
        found += [p.in_skeleton(skeleton) for p in people]
        done += sum(len(g) for g in groups)
        if progress is not None:
            progress(done, len(persons))
    return Boxed(
        annotations=tuple(a for _, a in persons),
        image=np.array([i for i, _ in persons], np.int64),
        keypoints=_stack([p.keypoints for p in found]),
        scores=_stack([p.keypoint_scores for p in found]),
        presence=_optional([p.presence for p in found]),
        visibility=_optional([p.visibility for p in found]),
        seconds=seconds,
    )


def _batches(
    photos: PhotoSet, persons: Sequence[tuple[int, Record]]
) -> Iterator[tuple[list[Image], list[list[Record]]]]:
    """Some photos at a time with the persons in each; persons come sorted by image."""
    by_image: dict[int, list[Record]] = {}
    for i, a in persons:
        by_image.setdefault(i, []).append(a)
    order = list(by_image)
    for at in range(0, len(order), IMAGES_AT_ONCE):
        part = order[at : at + IMAGES_AT_ONCE]
        yield [photos.photo(photos.document["images"][i]) for i in part], [by_image[i] for i in part]


def _stack(columns: Sequence[npt.NDArray[np.float32] | None]) -> Floats:
    return np.concatenate([c for c in columns if c is not None]).astype(np.float64)


def _optional(columns: Sequence[npt.NDArray[np.float32] | None]) -> Floats | None:
    return None if any(c is None for c in columns) else _stack(columns)


def _keypoint_names(document: object, origin: str) -> tuple[str, ...]:
    if not isinstance(document, Mapping) or not isinstance(document.get("categories"), Sequence):
        raise InputError(f"{origin}: not a COCO file (no list 'categories')")
    for c in document["categories"]:
        names = c.get("keypoints") if isinstance(c, Mapping) else None
        if names:
            return tuple(str(n) for n in names)
    return ()


def find_sets(data: str | os.PathLike[str], split: str) -> list[Path]:
    """The annotation files meant by a path: a json file, a folder with ``<split>.json``, or a folder of such.

    A folder in the layout of COCO and CropCOCO has ``annotations/person_keypoints_<split>.json``; if it has but
    one such file, that is meant whatever the split.

    Raises:
        FileError: there is none.
    """
    path = Path(data)
    if path.is_file():
        return [path]
    found = [p for p in (path / f"{split}.json", *sorted(path.glob(f"*/{split}.json"))) if p.is_file()]
    layout = sorted((path / "annotations").glob(f"{PREFIX}*.json"))
    found = found or [p for p in layout if p.stem == f"{PREFIX}{split}"] or layout
    if not found:
        raise FileError(f"{path}: no annotation file {split}.json here or one folder below")
    if found == layout and len(found) > 1:
        splits = ", ".join(p.stem.removeprefix(PREFIX) for p in found)
        raise FileError(f"{path}: has no {split!r}, but {splits}; name one as the split")
    return found
