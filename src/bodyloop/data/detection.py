"""Photos with boxes for training a detector: reading, and augmentation by scale, crop, mosaic, flip, HSV.

The idea: one operation, `paste`, puts a scaled and flipped piece of a photo into a rectangle of the canvas; a
plain sample is one such rectangle, a mosaic four. Boxes follow their photo. What is neither person nor
surely background travels along as *ignore boxes*: crowd regions, persons of whom little is left in the crop,
and whole rectangles whose photo is not completely labelled. Which cells of the network they silence is the
task's matter.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.errors import FileError

Boxes = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

PAD = 114  # grey of the canvas where no photo is, as in the published models
MIN_SIDE = 3.0  # px of the canvas; a smaller person teaches nothing at stride 8
MIN_VISIBLE = 0.2  # of a box's area; with less left in the crop it is neither person nor background


@dataclass(frozen=True, eq=False)
class Photo:
    """A JPEG as bytes, its size, its persons and what must be ignored, boxes (N, 4) ``x1 y1 x2 y2`` in px."""

    name: str
    jpeg: bytes
    width: int
    height: int
    boxes: Boxes
    ignore: Boxes
    complete: bool  # every person and every crowd of the photo has a box

    def pixels(self) -> Pixels:
        """(H, W, 3) uint8 RGB."""
        import cv2

        a = cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR)
        if a is None:
            raise FileError(f"{self.name}: not a picture that OpenCV can read")
        return np.asarray(cv2.cvtColor(a, cv2.COLOR_BGR2RGB), np.uint8)


@dataclass(frozen=True, eq=False)
class DetectionSample:
    """A training picture (H, W, 3) uint8 RGB, boxes (N, 4) and ignore boxes (M, 4) in its px."""

    image: Pixels
    boxes: Boxes
    ignore: Boxes


@dataclass(frozen=True)
class Augmentation:
    """How samples are varied. Scales are factors from stored px to canvas px, drawn log-uniformly.

    Attributes:
        size: side of the square canvas, px.
        scale: range for a single photo; mosaic_scale: for each of a mosaic's four.
        mosaic, flip: probabilities.
        hue, saturation, value: largest shifts, each applied with probability 1/2.
    """

    size: int = 320
    scale: tuple[float, float] = (0.45, 1.4)
    mosaic_scale: tuple[float, float] = (0.35, 1.1)
    mosaic: float = 0.5
    flip: float = 0.5
    hue: int = 5
    saturation: int = 30
    value: int = 30


def read_photos(annotations: str | Path) -> list[Photo]:
    """All photos of a COCO annotation file, their JPEG bytes in memory.

    Pictures lie in the folder ``images`` beside the file. Category "person" (or the only one) counts; crowd
    regions and boxes marked ``maybe_crowd`` are ignored; a photo is complete unless it says otherwise.

    Raises:
        FileError: the file or a picture cannot be read, or is not in COCO layout.
    """
    path = Path(annotations)
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        persons = [c["id"] for c in table["categories"] if c["name"] == "person"]
        of_image: dict[int, list[dict[str, Any]]] = {}
        for a in table["annotations"]:
            if a["category_id"] in persons:
                of_image.setdefault(a["image_id"], []).append(a)
        return [_photo(path.parent / "images", i, of_image.get(i["id"], [])) for i in table["images"]]
    except (OSError, UnicodeDecodeError) as e:
        raise FileError(f"{path}: cannot read the data set: {e}") from e
    except (ValueError, KeyError, TypeError) as e:
        raise FileError(f"{path}: not COCO annotations: {type(e).__name__} {e}") from e


def _photo(folder: Path, image: dict[str, Any], annotations: Sequence[dict[str, Any]]) -> Photo:
    name = str(image["file_name"])
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"file_name {name!r} leaves the folder of the data set")
    size = np.array([image["width"], image["height"]] * 2, np.float32)
    person: list[list[float]] = []
    ignore: list[list[float]] = []
    for a in annotations:
        x, y, w, h = (float(v) for v in a["bbox"])
        if w > 0 and h > 0:
            (ignore if a.get("iscrowd") or a.get("maybe_crowd") else person).append([x, y, x + w, y + h])
    return Photo(
        name,
        (folder / name).read_bytes(),
        int(image["width"]),
        int(image["height"]),
        np.clip(_boxes(person), 0, size),
        np.clip(_boxes(ignore), 0, size),
        bool(image.get("complete", {}).get("boxes", True)),
    )


def _boxes(rows: Sequence[Sequence[float]] | Boxes) -> Boxes:
    return np.asarray(rows, np.float32).reshape(-1, 4)


def sample(
    photos: Sequence[Photo], augmentation: Augmentation, rng: np.random.Generator, first: int
) -> DetectionSample:
    """One training picture of photo number ``first``, as a mosaic with three random others or alone."""
    size = augmentation.size
    canvas = np.full((size, size, 3), PAD, np.uint8)
    if rng.random() < augmentation.mosaic:
        cx, cy = (int(v) for v in rng.integers(round(0.25 * size), round(0.75 * size) + 1, 2))
        corners = [(0, 0, cx, cy), (cx, 0, size, cy), (0, cy, cx, size), (cx, cy, size, size)]
        chosen = [photos[first], *(photos[int(i)] for i in rng.integers(len(photos), size=3))]
        places = [corners[int(i)] for i in rng.permutation(4)]
        scales = augmentation.mosaic_scale
    else:
        chosen, places, scales = [photos[first]], [(0, 0, size, size)], augmentation.scale
    boxes, ignore = [], []
    for photo, place in zip(chosen, places, strict=True):
        factor = float(np.exp(rng.uniform(np.log(scales[0]), np.log(scales[1]))))
        b, i = paste(canvas, photo, place, factor, rng.random() < augmentation.flip, rng)
        boxes.append(b)
        ignore.append(i)
    _jitter(canvas, augmentation, rng)
    return DetectionSample(canvas, np.concatenate(boxes), np.concatenate(ignore))


def paste(
    canvas: Pixels,
    photo: Photo,
    place: tuple[int, int, int, int],
    factor: float,
    flip: bool,
    rng: np.random.Generator,
) -> tuple[Boxes, Boxes]:
    """Draw a random piece of a photo, scaled by ``factor``, into the rectangle ``place`` of the canvas.

    Where the scaled photo is smaller than the rectangle it lies inside at random, the rest stays as it is;
    where it is larger a random window of it shows. Returns boxes (N, 4) and ignore boxes (M, 4), canvas px.
    """
    import cv2

    x1, y1, x2, y2 = place
    room = np.array([x2 - x1, y2 - y1])
    source = np.array([photo.width, photo.height])
    window = np.minimum(source, np.maximum(1, np.round(room / factor))).astype(int)  # stored px that show
    target = np.minimum(room, np.maximum(1, np.round(window * factor))).astype(int)  # canvas px they fill
    start = rng.integers(0, source - window + 1)
    at = np.array([x1, y1]) + rng.integers(0, room - target + 1)
    piece = photo.pixels()[start[1] : start[1] + window[1], start[0] : start[0] + window[0]]
    if flip:
        piece = piece[:, ::-1]
    interpolation = cv2.INTER_AREA if factor < 0.7 else cv2.INTER_LINEAR
    scaled = cv2.resize(piece, (int(target[0]), int(target[1])), interpolation=interpolation)
    canvas[at[1] : at[1] + target[1], at[0] : at[0] + target[0]] = scaled

    scale = np.tile(target / window, 2)
    limits = np.concatenate([at, at + target]).astype(np.float32)

    def move(boxes: Boxes) -> Boxes:
        b = boxes - np.tile(start, 2).astype(np.float32)
        if flip:
            b[:, [0, 2]] = window[0] - b[:, [2, 0]]
        return np.asarray(b * scale + np.tile(at, 2), np.float32)

    boxes, unclear = _clip(move(photo.boxes), limits)
    crowds, _ = _clip(move(photo.ignore), limits, keep_all=True)
    whole = _boxes([] if photo.complete else [limits.tolist()])
    return boxes, np.concatenate([unclear, crowds, whole])


def _clip(boxes: Boxes, limits: Boxes, keep_all: bool = False) -> tuple[Boxes, Boxes]:
    """Boxes cut to ``limits``: those that stay persons, and those of whom too little is left."""
    low, high = np.tile(limits[:2], 2), np.tile(limits[2:], 2)
    cut = np.clip(boxes, low, high)
    side = cut[:, 2:] - cut[:, :2]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    visible = (side > 0).all(axis=1)
    good = visible & (keep_all | ((side.min(axis=1) >= MIN_SIDE) & (side.prod(axis=1) >= MIN_VISIBLE * area)))
    return cut[good], cut[visible & ~good]


def _jitter(image: Pixels, augmentation: Augmentation, rng: np.random.Generator) -> None:
    """Shift hue, saturation and value in place, each with probability 1/2."""
    import cv2

    reach = np.array([augmentation.hue, augmentation.saturation, augmentation.value])
    shift = np.round(rng.uniform(-1, 1, 3) * reach).astype(int) * (rng.random(3) < 0.5)
    if not shift.any():
        return
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    levels = np.arange(256)
    tables = [
        (levels + shift[0]) % 180,
        np.clip(levels + shift[1], 0, 255),
        np.clip(levels + shift[2], 0, 255),
    ]
    hsv = cv2.LUT(hsv, np.stack(tables, axis=-1).astype(np.uint8)[None])
    image[:] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
