"""From any format of labelled people to those that other tools read, saying what they cannot hold.

COCO's layout holds everything; `coco` in `bodyloop.data.formats` and its neighbours say what the others hold. All that
is in the labels and not in the written file is counted by name: nothing is lost silently.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.data.cropcoco_folder import make_folder
from bodyloop.data.formats import cvat, labelstudio, openpose, read_labels, yolo
from bodyloop.data.labels import ESTIMATED, FILL, Labels, coco_document
from bodyloop.data.shards import Photos, photos_beside
from bodyloop.errors import ConfigError, FileError
from bodyloop.storage import atomic_write

Progress = Callable[[int, int], None]

COCO = "coco"
TARGETS = (COCO, yolo.NAME, cvat.NAME, labelstudio.NAME, openpose.NAME)
_HOLDS = {
    yolo.NAME: yolo.HOLDS,
    cvat.NAME: cvat.HOLDS,
    labelstudio.NAME: labelstudio.HOLDS,
    openpose.NAME: openpose.HOLDS,
}
_FOLDERS = (yolo.NAME, openpose.NAME)
# fields that are counted by their meaning, or that say nothing of their own
_KNOWN = {
    "id",
    "image_id",
    "category_id",
    "bbox",
    "keypoints",
    "num_keypoints",
    "area",
    "iscrowd",
    "segmentation",
    *ESTIMATED,
}
_OF_IMAGES = {"id", "file_name", "width", "height"}
_OF_CATEGORIES = {"id", "name", "keypoints", "skeleton"}


@dataclass(frozen=True, eq=False)
class Converted:
    """What was written.

    Attributes:
        out: file or folder. format: that was read; to: that was written. images, people: how many.
        lost: what the written format cannot hold, and how often. notes: what was left out while reading.
    """

    out: Path
    format: str
    to: str
    images: int
    people: int
    lost: Mapping[str, int]
    notes: Mapping[str, int]

    def to_json(self) -> dict[str, object]:
        """As plain json."""
        return {
            "out": str(self.out), "format": self.format, "to": self.to, "images": self.images, "people": self.people,
            "lost": dict(self.lost), "left_out": dict(self.notes),
        }  # fmt: skip


def convert(
    labels: str | Path | Labels,
    out: str | Path,
    to: str,
    *,
    photos: str | Path | None = None,
    format: str | None = None,
    split: str = "train",
    copy_photos: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write labels in another format.

    Args:
        labels: file or folder in any known format, or what was read of it.
        out: a new file (coco, cvat, label-studio) or folder (yolo-pose, openpose).
        to: one of `TARGETS`.
        photos: their folder or tar; None: beside the labels. Read only where the labels lack a size.
        format, split: as in `bodyloop.data.formats.read_labels`; the split is also the one that is written.
        copy_photos: also copy the photos: for yolo-pose where it looks for them, else into ``images`` beside or in
            ``out``.

    Raises:
        ConfigError: no such format. FileError: ``out`` is there already, or something cannot be read or written.
        InputError: malformed labels; the message names file and annotation.
    """
    out = Path(out)
    if to not in TARGETS:
        raise ConfigError(f"no format {to!r} to write; known: {', '.join(TARGETS)}")
    if out.is_file() or (out.is_dir() and any(out.iterdir())) or (out.is_dir() and to not in _FOLDERS):
        raise FileError(f"{out}: is there already; name a new {'folder' if to in _FOLDERS else 'file'}")
    given = Photos.open(photos) if photos is not None else None
    if not isinstance(labels, Labels):
        labels = read_labels(labels, format=format, photos=given, split=split)
    place = given or (Photos([labels.photos]) if labels.photos else photos_beside(labels.path))
    labels.table()  # what is malformed is named before anything is written
    if to != openpose.NAME:
        labels = with_sizes(labels, place)
    lost = _lost(labels, to)
    make_folder(out if to in _FOLDERS else out.parent)
    lost.update(_write(labels, out, to, split))
    if copy_photos:
        folder = (
            out / "images" / split if to == yolo.NAME else (out if to in _FOLDERS else out.parent) / "images"
        )
        _copy(labels, place, folder, progress)
    people = sum(not a.get("iscrowd") for a in labels.annotations)
    return Converted(out, labels.format, to, len(labels.images), people, dict(+lost), dict(labels.notes))


def with_sizes(labels: Labels, photos: Photos) -> Labels:
    """The labels; images without width and height get those of their photos as stored, where these are there."""

    def sized(image: dict[str, Any]) -> dict[str, Any]:
        name = str(image.get("file_name", ""))
        if {"width", "height"} <= image.keys() or photos.find(name) is None:
            return image
        w, h = photos.size(name)
        return image | {"width": w, "height": h}

    return replace(labels, document={**labels.document, "images": [sized(i) for i in labels.images]})


def _write(labels: Labels, out: Path, to: str, split: str) -> Counter[str]:
    if to == COCO:
        return _write_coco(labels, out)
    if to == yolo.NAME:
        return yolo.write(labels, out, split)
    writers = {cvat.NAME: cvat.write, labelstudio.NAME: labelstudio.write, openpose.NAME: openpose.write}
    return writers[to](labels, out)


def _write_coco(labels: Labels, out: Path) -> Counter[str]:
    with atomic_write(out) as f:
        f.write((json.dumps(coco_document(labels), separators=(",", ":")) + "\n").encode())
    return Counter(
        {"sizes of images (their photos were not found)": sum("width" not in i for i in labels.images)}
    )


def _copy(labels: Labels, photos: Photos, folder: Path, progress: Progress | None) -> None:
    for done, image in enumerate(labels.images, 1):
        target = folder / labels.path_of(image)
        make_folder(target.parent)
        with atomic_write(target) as f:
            f.write(photos[str(image["file_name"])].read())
        if progress is not None:
            progress(done, len(labels.images))


# ------------------------------------------------------------------ what is lost


def _lost(labels: Labels, to: str) -> Counter[str]:
    """What no file of the format can hold, whatever its writer does."""
    lost: Counter[str] = Counter()
    if to == COCO:
        return lost
    holds = _HOLDS[to]
    table = labels.table()
    box_area = (table.boxes[:, 2:] - table.boxes[:, :2]).prod(axis=1)
    own_area = np.array(
        [a.get("area", 0) > 0 and not a.get("area_estimated") for a in labels.annotations], bool
    )
    lost["areas"] = int((own_area & (np.abs(table.area - FILL * box_area) > 1e-6 * box_area)).sum())
    lost["ids of people other than 1, 2, ..."] = int((table.ids != np.arange(1, len(table.ids) + 1)).sum())
    numbers = enumerate(labels.images, 1)
    lost["ids of images other than 1, 2, ..."] = sum(i["id"] != n for n, i in numbers)
    lost["marks of crowds"] = int(table.crowd.sum()) if to in (cvat.NAME, labelstudio.NAME) else 0
    for row in labels.annotations:
        if "segmentation" not in holds and row.get("segmentation"):
            lost["masks"] += 1
        if "bbox" not in holds and not row.get("bbox_estimated"):
            lost["boxes"] += 1
        lost.update(
            f"fields {k!r} of people" for k, v in row.items() if k not in _KNOWN and v not in (None, [], "")
        )
    for image in labels.images:
        lost.update(f"fields {k!r} of images" for k in image if k not in _OF_IMAGES)
    for category in labels.document["categories"]:
        lost.update(f"fields {k!r} of categories" for k in category if k not in _OF_CATEGORIES)
    if labels.skeleton.name == "own":  # links of known skeletons are known by their names
        lost["links between keypoints"] = len(labels.skeleton.links)
    if to == openpose.NAME:
        lost["sizes of images"] = sum("width" in i for i in labels.images)
        lost["names of categories"] = sum(c.get("name") != "person" for c in labels.document["categories"])
    lost.update(
        f"{k!r} of the file" for k in labels.document if k not in ("images", "annotations", "categories")
    )
    return lost
