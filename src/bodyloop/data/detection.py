"""Photos with boxes and masks for training a detector: reading, and augmentation by scale, crop, mosaic, flip, HSV.

The idea: one operation, `paste`, puts a scaled and flipped piece of a photo into a rectangle of the canvas; a
plain sample is one such rectangle, a mosaic four. Boxes and masks follow their photo. Before that a photo may get
people pasted in and painted out (`bodyloop.data.scenes`). What is neither person nor surely background travels
along as *ignore boxes*: crowd regions, persons of whom little is left in the crop, and whole rectangles whose
photo is not completely labelled. Which cells of the network they silence is the task's matter.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bodyloop.data.copypaste import CutOut
from bodyloop.data.cropcoco_folder import photo_folder
from bodyloop.data.scenes import Cut, Scene, mask_out, with_another
from bodyloop.errors import FileError, InputError
from bodyloop.masks import Masks
from bodyloop.people import People

Boxes = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Bits = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.intp]

PAD = 114  # grey of the canvas where no photo is, as in the published models
MIN_SIDE = 3.0  # px of the canvas; a smaller person teaches nothing at stride 8
MIN_VISIBLE = 0.2  # of a box's or mask's area; with less left in the crop it is neither person nor background
MASK_STRIDE = 4  # canvas px; masks are learned at every fourth pixel, from the third on (published)
MASK_START = 2
DONOR_HEIGHT = 64.0  # px; lower people are blurred when they are pasted


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo in a file, its size, its persons and what must be ignored, boxes (N, 4) ``x1 y1 x2 y2`` in px."""

    name: str
    file: Path | bytes  # or what is in it
    width: int
    height: int
    boxes: Boxes
    ignore: Boxes
    complete: bool  # every person and every crowd of the photo has a box
    outlines: tuple[Any, ...] = ()  # per person polygons, RLE or None; empty: nobody has a mask

    def pixels(self) -> Pixels:
        """(H, W, 3) uint8 RGB.

        Raises:
            FileError: it cannot be read.
        """
        import cv2

        try:
            data = self.file if isinstance(self.file, bytes) else self.file.read_bytes()
        except OSError as e:
            raise FileError(f"{self.name}: cannot read the photo: {e}") from e
        a = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if a is None:
            raise FileError(f"{self.name}: not a picture that OpenCV can read")
        return np.asarray(cv2.cvtColor(a, cv2.COLOR_BGR2RGB), np.uint8)

    def cut(self, i: int) -> Cut | None:
        """The mask of person ``i``.

        Raises:
            FileError: it is malformed.
        """
        outline = self.outlines[i] if self.outlines else None
        if outline is None:
            return None
        try:
            mask = Masks.from_any([outline], (self.width, self.height))
        except InputError as e:
            raise FileError(f"{self.name}: person {i}: {e}") from e
        return Cut(*mask.cut(0)) if mask.present[0] else None

    def scene(self) -> Scene:
        """Pixels, boxes and masks, ready to be changed."""
        cuts = tuple(self.cut(i) for i in range(len(self.boxes)))
        return Scene(self.pixels(), self.boxes, cuts, self.ignore, self.complete)

    def cut_out(self, i: int) -> CutOut | None:
        """Person ``i`` without background, to be pasted elsewhere; None without a mask."""
        cut = self.cut(i)
        return None if cut is None else CutOut(self.pixels()[cut.window], cut.bits.astype(np.uint8))


Donor = tuple[Photo, int]


def donors_of(photos: Sequence[Photo]) -> list[Donor]:
    """People with a mask who are tall enough to be cut out."""
    return [
        (p, i)
        for p in photos
        for i, outline in enumerate(p.outlines)
        if outline is not None and p.boxes[i, 3] - p.boxes[i, 1] >= DONOR_HEIGHT
    ]


@dataclass(frozen=True, eq=False)
class Placed:
    """People of a canvas with sides S, in its px.

    Attributes:
        boxes: (N, 4). ignore: (M, 4).
        centres: (N, 2) x, y: of mass of the mask (mean pixel index), or the middle of the box without one.
        masked: (N,) who has a mask. masks: (n, S/4, S/4) of those, the masks' pixels 2, 6, 10, ... both ways.
    """

    boxes: Boxes
    ignore: Boxes
    centres: Boxes
    masked: Bits
    masks: Bits

    @classmethod
    def joined(cls, parts: Sequence[Placed]) -> Placed:
        """All people of one canvas."""
        names = ("boxes", "ignore", "centres", "masked", "masks")
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))


@dataclass(frozen=True, eq=False)
class DetectionSample:
    """A training picture (H, W, 3) uint8 RGB and who is in it."""

    image: Pixels
    people: Placed

    def labelled(self) -> People:
        """Boxes of the people and their masks, as coarse as they are learned; those to be ignored are not there."""
        size = self.image.shape[1], self.image.shape[0]
        enlarged = iter(np.kron(self.people.masks, np.ones((1, MASK_STRIDE, MASK_STRIDE), bool)))
        masks = [next(enlarged) if has else None for has in self.people.masked]
        return People(size, boxes=self.people.boxes, masks=Masks.from_bitmaps(masks, size))


@dataclass(frozen=True)
class Augmentation:
    """How samples are varied. Scales are factors from stored px to canvas px, drawn log-uniformly.

    Attributes:
        size: side of the square canvas, px.
        longest: if not 0, scales are factors of this longest side instead, drawn uniformly (as published).
        scale: range for a single photo; of a mosaic's four times ``mosaic_scale``.
        mosaic, flip: probabilities.
        hue, saturation, value: largest shifts, each applied with probability 1/2; black stays black.
        copy_paste: probability of somebody pasted into a photo; drawn twice.
        mask_out, mask_out_rough, mask_out_all: probability of people painted out of a photo, and arguments of
            `bodyloop.data.scenes.mask_out`.
    """

    size: int = 320
    longest: int = 0
    scale: tuple[float, float] = (0.45, 1.4)
    mosaic_scale: float = 0.78
    mosaic: float = 0.5
    flip: float = 0.5
    hue: int = 5
    saturation: int = 30
    value: int = 30
    copy_paste: float = 0.0
    mask_out: float = 0.0
    mask_out_rough: float = 0.0
    mask_out_all: float = 0.0


def read_photos(annotations: str | Path, *, complete: bool = True) -> list[Photo]:
    """All photos of a COCO annotation file.

    Pictures lie where `photo_folder` says. Category "person" (or the only one) counts; crowd
    regions and boxes marked ``maybe_crowd`` are ignored; a photo is as ``complete`` as it says, or else as told.

    Raises:
        FileError: the file cannot be read, a picture is missing, or is not in COCO layout.
    """
    path = Path(annotations)
    try:
        table: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        persons = [c["id"] for c in table["categories"] if c["name"] == "person"]
        of_image: dict[int, list[dict[str, Any]]] = {}
        for a in table["annotations"]:
            if a["category_id"] in persons:
                of_image.setdefault(a["image_id"], []).append(a)
        return [_photo(photo_folder(path), i, of_image.get(i["id"], []), complete) for i in table["images"]]
    except (OSError, UnicodeDecodeError) as e:
        raise FileError(f"{path}: cannot read the data set: {e}") from e
    except (ValueError, KeyError, TypeError) as e:
        raise FileError(f"{path}: not COCO annotations: {type(e).__name__} {e}") from e


def _photo(
    folder: Path, image: dict[str, Any], annotations: Sequence[dict[str, Any]], complete: bool
) -> Photo:
    name = str(image["file_name"])
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"file_name {name!r} leaves the folder of the data set")
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder / name}: no such photo")
    size = np.array([image["width"], image["height"]] * 2, np.float32)
    person: list[list[float]] = []
    ignore: list[list[float]] = []
    outlines: list[Any] = []
    for a in annotations:
        x, y, w, h = (float(v) for v in a["bbox"])
        if w <= 0 or h <= 0:
            continue
        box = [x, y, x + w, y + h]
        if a.get("iscrowd") or a.get("maybe_crowd"):
            ignore.append(box)
        else:
            person.append(box)
            outlines.append(_outline(a.get("segmentation")))
    return Photo(
        name,
        folder / name,
        int(image["width"]),
        int(image["height"]),
        np.clip(_boxes(person), 0, size),
        np.clip(_boxes(ignore), 0, size),
        bool(image.get("complete", {}).get("boxes", complete)),
        tuple(outlines),
    )


def _outline(segmentation: Any) -> Any:
    """Polygons as arrays, which take an eighth of the memory; an RLE as it is; None for nothing."""
    if isinstance(segmentation, list):
        return [np.asarray(polygon, np.float64) for polygon in segmentation] or None
    return segmentation or None


def _boxes(rows: Sequence[Sequence[float]] | Boxes) -> Boxes:
    return np.asarray(rows, np.float32).reshape(-1, 4)


def sample(
    photos: Sequence[Photo],
    augmentation: Augmentation,
    rng: np.random.Generator,
    first: int,
    donors: Sequence[Donor] = (),
) -> DetectionSample:
    """One training picture of photo number ``first``, as a mosaic with three random others or alone.

    ``donors`` are the people who may be pasted in.
    """
    size = augmentation.size
    canvas = np.full((size, size, 3), PAD, np.uint8)
    if rng.random() < augmentation.mosaic:
        cx, cy = (int(v) for v in rng.integers(round(0.25 * size), round(0.75 * size) + 1, 2))
        corners = [(0, 0, cx, cy), (cx, 0, size, cy), (0, cy, cx, size), (cx, cy, size, size)]
        chosen = [photos[first], *(photos[int(i)] for i in rng.integers(len(photos), size=3))]
        places = [corners[int(i)] for i in rng.permutation(4)]
        smaller = augmentation.mosaic_scale
    else:
        chosen, places, smaller = [photos[first]], [(0, 0, size, size)], 1.0
    low, high = augmentation.scale
    parts = []
    for photo, place in zip(chosen, places, strict=True):
        if augmentation.longest:
            factor = smaller * rng.uniform(low, high) * augmentation.longest / max(photo.width, photo.height)
        else:
            factor = smaller * float(np.exp(rng.uniform(np.log(low), np.log(high))))
        scene = _changed(photo.scene(), augmentation, rng, donors)
        parts.append(paste(canvas, scene, place, factor, rng.random() < augmentation.flip, rng))
    _jitter(canvas, augmentation, rng)
    return DetectionSample(canvas, Placed.joined(parts))


def _changed(
    scene: Scene, augmentation: Augmentation, rng: np.random.Generator, donors: Sequence[Donor]
) -> Scene:
    for _ in range(2 if donors else 0):
        if rng.random() < augmentation.copy_paste:
            photo, i = donors[int(rng.integers(len(donors)))]
            person = photo.cut_out(i)
            if person is not None:
                scene = with_another(scene, person, rng)
    if rng.random() < augmentation.mask_out:
        scene = mask_out(scene, rng, rough=augmentation.mask_out_rough, everybody=augmentation.mask_out_all)
    return scene


def paste(
    canvas: Pixels,
    scene: Scene,
    place: tuple[int, int, int, int],
    factor: float,
    flip: bool,
    rng: np.random.Generator,
) -> Placed:
    """Draw a random piece of a photo, scaled by ``factor``, into the rectangle ``place`` of the canvas.

    Where the scaled photo is smaller than the rectangle it lies inside at random, the rest stays as it is;
    where it is larger a random window of it shows. A box that the window cuts goes round what is left of its mask,
    if there is one. Returns the people who show.
    """
    import cv2

    x1, y1, x2, y2 = place
    room = np.array([x2 - x1, y2 - y1])
    source = np.array(scene.size)
    window = np.minimum(source, np.maximum(1, np.round(room / factor))).astype(int)  # stored px that show
    target = np.minimum(room, np.maximum(1, np.round(window * factor))).astype(int)  # canvas px they fill
    start = rng.integers(0, source - window + 1)
    at = np.array([x1, y1]) + rng.integers(0, room - target + 1)
    piece = scene.pixels[start[1] : start[1] + window[1], start[0] : start[0] + window[0]]
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

    # the stored pixel that each pixel of the target shows
    columns, rows = (
        start[k] + ((np.arange(target[k]) + 0.5) * window[k] / target[k]).astype(int) for k in (0, 1)
    )
    seen = [
        None if m is None else _Seen.of(m, columns[::-1] if flip else columns, rows, at, scale[:2])
        for m in scene.masks
    ]
    has_mask = np.array([m is not None for m in scene.masks], bool)
    people = _people(move(scene.boxes), seen, has_mask, limits, len(canvas))
    crowds, share = _clipped(move(scene.ignore), limits)
    whole = _boxes([] if scene.complete else [limits.tolist()])
    return replace(people, ignore=np.concatenate([people.ignore, crowds[share > 0], whole]))


class _Seen(NamedTuple):
    """What a piece of the canvas shows of a mask: bits (h, w) at canvas ``rows`` (h,) and ``columns`` (w,), not empty;
    ``share`` of the whole mask."""

    bits: Bits
    rows: Ints
    columns: Ints
    share: float

    @classmethod
    def of(cls, mask: Cut, columns: Ints, rows: Ints, at: Ints, scale: Boxes) -> _Seen | None:
        """Of a mask in stored px; ``columns``, ``rows``: the stored px that the piece's px show; ``at`` its corner."""
        x, y = columns - mask.x, rows - mask.y
        h, w = mask.bits.shape
        i, j = np.flatnonzero((y >= 0) & (y < h)), np.flatnonzero((x >= 0) & (x < w))
        bits = mask.bits[np.ix_(y[i], x[j])]
        if not bits.any():
            return None
        return cls(
            bits, i + at[1], j + at[0], np.count_nonzero(bits) / np.count_nonzero(mask.bits) / scale.prod()
        )

    @property
    def centre(self) -> Boxes:
        """(2,) mean pixel index x, y."""
        weight = self.bits.sum(axis=0) @ self.columns, self.bits.sum(axis=1) @ self.rows
        return np.array(weight, np.float32) / np.float32(np.count_nonzero(self.bits))

    @property
    def box(self) -> Boxes:
        """(4,) around it."""
        x, y = self.columns[self.bits.any(axis=0)], self.rows[self.bits.any(axis=1)]
        return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float32)

    def thinned(self, size: int) -> Bits:
        """(size/4, size/4): its pixels 2, 6, 10, ... of the canvas both ways."""
        out = np.zeros((size // MASK_STRIDE,) * 2, bool)
        i, j = (np.flatnonzero(n % MASK_STRIDE == MASK_START) for n in (self.rows, self.columns))
        out[np.ix_(self.rows[i] // MASK_STRIDE, self.columns[j] // MASK_STRIDE)] = self.bits[np.ix_(i, j)]
        return out


def _people(boxes: Boxes, seen: Sequence[_Seen | None], has_mask: Bits, limits: Boxes, size: int) -> Placed:
    """Who shows inside ``limits``, boxes cut to it, and (as ignore boxes) who shows too little to count."""
    cut, share = _clipped(boxes, limits)
    whole = (cut == boxes).all(axis=1)
    for i, m in enumerate(seen):
        if m is not None:
            share[i] = m.share
            if not whole[i]:
                cut[i] = m.box
        elif has_mask[i]:
            share[i] = 0.0
    side = cut[:, 2:] - cut[:, :2]
    visible = (side > 0).all(axis=1)
    good = visible & (side.min(axis=1) >= MIN_SIDE) & (share >= MIN_VISIBLE)
    shown = [m for m, g in zip(seen, good, strict=True) if g]
    centres = np.asarray((cut[good, :2] + cut[good, 2:]) / 2, np.float32)
    for i, m in enumerate(shown):
        if m is not None:
            centres[i] = m.centre
    masks = [m.thinned(size) for m in shown if m is not None]
    empty = np.zeros((0, size // MASK_STRIDE, size // MASK_STRIDE), bool)
    return Placed(
        cut[good],
        cut[visible & ~good],
        centres,
        np.array([m is not None for m in shown], bool),
        np.stack(masks) if masks else empty,
    )


def _clipped(boxes: Boxes, limits: Boxes) -> tuple[Boxes, Boxes]:
    """Boxes cut to ``limits`` and the share (N,) of their areas that is left."""
    cut = np.clip(boxes, np.tile(limits[:2], 2), np.tile(limits[2:], 2))
    left, area = ((b[:, 2:] - b[:, :2]).prod(axis=1) for b in (cut, boxes))
    return cut, np.divide(left, area, out=np.zeros_like(area), where=area > 0)


def _jitter(image: Pixels, augmentation: Augmentation, rng: np.random.Generator) -> None:
    """Shift hue, saturation and value in place, each with probability 1/2."""
    import cv2

    reach = np.array([augmentation.hue, augmentation.saturation, augmentation.value])
    shift = np.round(rng.uniform(-1, 1, 3) * reach).astype(int) * (rng.random(3) < 0.5)
    if not shift.any():
        return
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    levels = np.arange(256)
    value = np.clip(levels + shift[2], 0, 255)
    value[0] = 0  # painted out is black whatever the light
    tables = [(levels + shift[0]) % 180, np.clip(levels + shift[1], 0, 255), value]
    hsv = cv2.LUT(hsv, np.stack(tables, axis=-1).astype(np.uint8)[None])
    image[:] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
