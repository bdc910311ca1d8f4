"""A set of synthetic crowds on disk.

    OUT/crowds.json       what the set was made from, and how
    OUT/<split>.json      labels in COCO's layout
    OUT/images/           photos

Every photo is the work of one function of the photo it begins with, the seed and nothing else, so that processes
may share the photos in any way; what was written of a run that was killed is kept by the same call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.data.blending import Piece, cut_piece
from bodyloop.data.cropcoco import to_bytes
from bodyloop.data.cropcoco_folder import claim, in_processes, make_folder
from bodyloop.data.crowds import OVERLAP, Crowd, Donor, Figure, donors_of, figures_of, make_crowd, scenes_of
from bodyloop.data.formats import read_labels
from bodyloop.data.labels import digest_of
from bodyloop.data.shards import Photos, photos_beside
from bodyloop.errors import ConfigError, FileError, InputError
from bodyloop.masks import Masks
from bodyloop.skeletons import Skeleton
from bodyloop.storage import atomic_write

Record = Mapping[str, Any]
Made = tuple[dict[str, Any], list[dict[str, Any]]]
"""An image's record and its annotations, without ids."""

MANIFEST = "crowds.json"
FORMAT = "bodyloop/crowds-1"
PROCEDURE = 1  # counted up when the same seed gives another set
QUALITY = 92  # of the JPEG files
PIECES = 64  # cut-outs that a process remembers


@dataclass(frozen=True, eq=False)
class CrowdSet:
    """Where a set was written, and what is in it.

    Attributes:
        labels: the file. images, people, pasted: counts; overlaps: IoU of each pasted person with its neighbour.
    """

    labels: Path
    images: int
    people: int
    pasted: int
    overlaps: tuple[float, ...]


def build_crowds(
    labels: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    photos: str | os.PathLike[str] | None = None,
    split: str = "dev",
    seed: int = 0,
    each: int = 1,
    overlap: tuple[float, float] = OVERLAP,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CrowdSet:
    """Make synthetic crowds of a COCO-style set whose people have masks, and write them.

    Args:
        labels: the file, or a folder with ``<split>.json``. photos: where its photos are; None: beside.
        out: a new folder, or one that an equal call began.
        each: how many crowds are made of each photo, with other people.
        overlap: see `make_crowd`.
        workers: processes; None: as many as there are cores and work for. Nothing that is written depends on it.
        progress: called with photos done and photos in all.

    Raises:
        FileError: unreadable labels or photos; ``out`` holds something else or cannot be written.
        InputError: nobody can be cut out, or no photo can take anybody. ConfigError: numbers out of range.
    """
    low, high = overlap
    if not 0 < low < high < 1 or each < 1 or seed < 0:
        raise ConfigError(
            f"crowds: overlap must be two numbers in 0..1, the smaller first, each at least 1 and seed not negative; "
            f"got {overlap}, {each}, {seed}"
        )
    given = read_labels(Path(labels), split=split)
    place = Photos.open(Path(photos)) if photos is not None else photos_beside(given.path)
    donors, scenes = donors_of(given), scenes_of(given)
    if not donors or not scenes:
        raise InputError(
            f"{given.path}: {len(donors)} people that can be cut out and {len(scenes)} photos to paste into; both need "
            "masks, shoulders and hips of everybody on the photo"
        )
    root = Path(out)
    source = {"sha256": digest_of(given.files), "split": split}
    made = {"procedure": PROCEDURE, "seed": seed, "each": each, "overlap": [low, high], "quality": QUALITY}
    claim(root, {**made, "source": source}, manifest=MANIFEST, format=FORMAT)
    make_folder(root / "images")
    job = _Job(place, root / "images", donors, given.skeleton, seed, (low, high))
    todo = [(image, people, copy) for image, people in scenes for copy in range(each)]
    done: list[Made] = []
    for n, one in enumerate(in_processes(job, todo, workers), start=1):
        done += [] if one is None else [one]
        if progress is not None:
            progress(n, len(todo))
    document = _document(done, given.document, {**made, "source": source})
    path = root / f"{split}.json"
    with atomic_write(path) as file:
        file.write(to_bytes(document))
    people = document["annotations"]
    overlaps = tuple(o for i in document["images"] for o in i["overlaps"])
    return CrowdSet(path, len(done), len(people), sum(p.get("pasted", 0) for p in people), overlaps)


def _document(done: Sequence[Made], source: Record, how: Mapping[str, object]) -> dict[str, Any]:
    """The labels' file: ids are counted in the photos' order."""
    images: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []
    for number, (image, mine) in enumerate(done, start=1):
        images.append({"id": number, **image})
        for row in mine:
            people.append({"id": len(people) + 1, "image_id": number, **row})
    info = {"description": "synthetic crowds", "crowds": dict(how)}
    kept = {k: source[k] for k in ("licenses",) if k in source}
    return {"info": info, **kept, "images": images, "annotations": people, "categories": source["categories"]}


# ------------------------------------------------------------------ one photo


@dataclass(frozen=True)
class _Job:
    """What all photos have in common; made into a crowd by calling it."""

    photos: Photos
    folder: Path
    donors: tuple[Donor, ...]
    skeleton: Skeleton
    seed: int
    overlap: tuple[float, float]
    pieces: dict[int, Piece] = field(default_factory=dict, repr=False)

    def __call__(self, todo: tuple[Record, Sequence[Record], int]) -> Made | None:
        image, people, copy = todo
        name = f"{int(image['id']):012d}_{copy}"
        photo = self.folder / f"{name}.jpg"
        rng = np.random.Generator(np.random.PCG64([self.seed, int(image["id"]), copy]))
        crowd = make_crowd(
            self._pixels(image), figures_of(image, people), self.donors, self._piece, self.skeleton, rng,
            overlap=self.overlap,
        )  # fmt: skip
        if crowd is None:
            return None
        if not photo.exists():
            self._write(crowd, photo)
        return _records(image, crowd, photo.name)

    def _pixels(self, image: Record) -> Any:
        size = int(image["width"]), int(image["height"])
        return self.photos.read(str(image["file_name"]), size, int(image["id"])).pixels

    def _piece(self, donor: Donor) -> Piece:
        key = int(donor.row["id"])
        if key not in self.pieces:
            if len(self.pieces) >= PIECES:
                self.pieces.pop(next(iter(self.pieces)))
            size = int(donor.image["width"]), int(donor.image["height"])
            mask = Masks.from_any([donor.row["segmentation"]], size).bitmap(0)
            self.pieces[key] = cut_piece(self._pixels(donor.image), mask)
        return self.pieces[key]

    def _write(self, crowd: Crowd, path: Path) -> None:
        import cv2

        bgr = np.ascontiguousarray(crowd.pixels[:, :, ::-1])
        done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        if not done:
            raise FileError(f"{path}: the photo cannot be encoded as JPEG")
        with atomic_write(path) as file:
            file.write(data.tobytes())


def _records(image: Record, crowd: Crowd, name: str) -> Made:
    """The photo's and its people's records; whoever is untouched keeps its labels to the last bit."""
    h, w = crowd.pixels.shape[:2]
    record = {
        "file_name": name, "width": w, "height": h, "base_id": int(image["id"]),
        "overlaps": [round(o, 4) for o in crowd.overlaps],
        "complete": {"boxes": True, "keypoints": True, "masks": True},
    }  # fmt: skip
    record |= {k: image[k] for k in ("license",) if k in image}
    return record, [_row(f) for f in crowd.figures]


def _row(figure: Figure) -> dict[str, Any]:
    kept = {"category_id": figure.row["category_id"], "iscrowd": 0}
    seen = int(figure.mask.sum())
    if figure.pasted is None and seen == figure.whole:
        same = ("bbox", "keypoints", "num_keypoints", "segmentation", "area")
        return {**kept, **{k: figure.row[k] for k in same if k in figure.row}, "seen": 1.0}
    x1, y1, x2, y2 = figure.box.tolist()
    points = figure.points
    flat = [v for x, y, f in points.tolist() for v in (round(x, 2), round(y, 2), int(f))]
    row = {
        **kept, "bbox": [x1, y1, x2 - x1, y2 - y1], "area": seen,
        "segmentation": Masks.from_bitmaps([figure.mask]).rle(0),
        "keypoints": flat, "num_keypoints": int((points[:, 2] > 0).sum()),
        "seen": round(seen / max(figure.whole, 1), 4),
    }  # fmt: skip
    if figure.pasted is not None:
        row |= {"pasted": 1, "from_image": int(figure.pasted["id"]), "from_annotation": int(figure.row["id"])}
    return row
