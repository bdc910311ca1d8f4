"""Annotated photographs for evaluations that run a model: which file, which folder, which persons.

A `PhotoSet` is a loaded COCO file with the folder of its photos; cropped files (`bodyloop.data.cropcoco`)
read the same photos and cut them on the way. Models are run on them by `boxed` and `detector`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.data.cropcoco import CropSet, cut_image
from bodyloop.data.cropcoco_folder import PREFIX, photo_folder, read_labelled
from bodyloop.data.shards import Photos, photos_beside
from bodyloop.errors import FileError, InputError
from bodyloop.eval.reading import load_json, read_ground_truth
from bodyloop.images import Image
from bodyloop.storage import atomic_write

Floats = npt.NDArray[np.float64]
Record = Mapping[str, Any]
Progress = Callable[[int, int], None]

IMAGES_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class PhotoSet:
    """A COCO file and its photos.

    Attributes:
        document: the loaded json.
        folder: where the photos are.
        origin: the file, for messages and reports.
        names: the file's keypoints, empty for a file of boxes.
        path: of the file.
    """

    document: Mapping[str, Any]
    folder: Path
    origin: str
    names: tuple[str, ...]
    path: Path

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
        return cls(document, folder, str(path), names, path)

    def cropped(self, crops: CropSet) -> PhotoSet:
        """The same photos with the labels of cropped ones."""
        return replace(self, document=crops.document, origin=f"{self.origin}, cropped")

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

        What is not in the folder by its name is looked for as training does it: in tar files, by the tail of its path.

        Raises:
            FileError: it cannot be read. InputError: it is not of the annotated size.
        """
        path = self.folder / str(record.get("file_name", ""))
        crop = record.get("crop")
        sizes = [(record["width"], record["height"])]
        if isinstance(crop, Mapping):
            sizes.append((crop["full_width"], crop["full_height"]))
        if path.is_file():
            image = read_labelled(path, sizes, record["id"])
        else:
            image = self._elsewhere.read(str(record.get("file_name", "")), sizes[-1], record["id"])
        if image.size == sizes[0]:
            return image
        return Image(cut_image(image.pixels, record), image.path, record["id"])

    @cached_property
    def _elsewhere(self) -> Photos:
        return Photos.open(self.folder) if self.folder.exists() else photos_beside(self.path)

    def persons(self) -> list[tuple[int, Record]]:
        """Index of the image and annotation of everybody with labelled keypoints (no crowds), by image."""
        at = {image["id"]: i for i, image in enumerate(self.document["images"])}
        found = [
            (at[a["image_id"]], a)
            for a in self.document["annotations"]
            if not a.get("iscrowd") and any(v > 0 for v in a["keypoints"][2::3])
        ]
        return sorted(found, key=lambda pair: pair[0])


def _keypoint_names(document: object, origin: str) -> tuple[str, ...]:
    if not isinstance(document, Mapping) or not isinstance(document.get("categories"), Sequence):
        raise InputError(f"{origin}: not a COCO file (no list 'categories')")
    for c in document["categories"]:
        names = c.get("keypoints") if isinstance(c, Mapping) else None
        if names:
            return tuple(str(n) for n in names)
    return ()


def person_category(photos: PhotoSet) -> int:
    """Id of the category named person, or of the only one.

    Raises:
        InputError: neither is there.
    """
    categories = photos.document["categories"]
    named = [c["id"] for c in categories if c.get("name") == "person"]
    if not named and len(categories) == 1:
        named = [categories[0]["id"]]
    if not named:
        raise InputError(f"{photos.origin}: no category named 'person' among {len(categories)}")
    return int(named[0])


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


def stem_of(labels: Path) -> str:
    """Name without ending for what belongs to a file of labels: its folder's name and its own."""
    return "-".join(part for part in (labels.parent.name, labels.stem) if part)


def write_json(path: Path, value: object) -> None:
    """A json file, whole or not at all.

    Raises:
        FileError: it cannot be written.
    """
    with atomic_write(path) as f:
        f.write((json.dumps(value, separators=(",", ":")) + "\n").encode())
