"""CropCOCO-like sets: photos cut so that people leave the picture, with labels that say where they went.

From any COCO-layout keypoint file, one random rectangle an image is chosen (by seed and image id alone), and
boxes, masks and keypoints follow. Coordinates of keypoints stay true even where they now lie outside the
picture; their flags say what can be asked of a model: 2 visible, 1 hidden or outside the picture but inside
the activation window of the (clipped) box, 3 outside that window, 0 unlabelled.

The published CropCOCO was made by its authors; this follows the same idea by a procedure of our own. All here
is in memory; `cropcoco_folder` writes a set with its photos to disk.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.geometry import PADDING, activation_windows, padding_to_contain
from bodyloop.masks import Masks

Record = Mapping[str, Any]  # one json object of a COCO file
Cut: TypeAlias = "tuple[dict[str, Any], list[dict[str, Any]]]"  # an image and its annotations
Floats = npt.NDArray[np.float64]

SHARE = (0.45, 0.9)  # of each side of the image that a crop keeps
TRIES = 50
LEAST_INSIDE = 3  # labelled keypoints that some person keeps inside
LEAST_BOX_SHARE = 0.05  # of the box's area, or the person is dropped
PROCEDURE = 1  # counted up when the same seed gives another set


@dataclass(frozen=True)
class Rectangle:
    """A rectangle of whole pixels inside an image."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, eq=False)
class CropSet:
    """A cropped annotation file and its counts.

    Attributes:
        document: COCO layout; images carry ``crop`` (rectangle and full size), annotations ``bbox_amodal``
            and ``pad_to_contain``.
        statistics: images taken and skipped, annotations kept and dropped, keypoints per flag: all, of them
            outside the picture, by keypoint's name, by image id.
    """

    document: dict[str, Any]
    statistics: dict[str, Any]

    def to_bytes(self) -> bytes:
        """The json file: the same bytes for the same input, seed and version."""
        return to_bytes(self.document)


def to_bytes(document: Record) -> bytes:
    """A document as a json file; the same bytes for the same content."""
    return (json.dumps(document, separators=(",", ":")) + "\n").encode()


def build(annotations: Record, seed: int = 0, *, padding: float = PADDING) -> CropSet:
    """Crop every image of a COCO keypoint file that has a person to crop.

    Args:
        annotations: the loaded json of a COCO-layout keypoint file.
        seed: non-negative; each image's crop depends on it and the image's id only.
        padding: of the activation window that flags 3 speak of.

    Raises:
        InputError: a malformed file; the message names the annotation and the field.
    """
    crops = [
        crop_image_annotations(image, mine, seed, padding=padding) for image, mine in by_image(annotations)
    ]
    return assemble(annotations, crops, seed, padding=padding)


def by_image(annotations: Record) -> list[tuple[Record, list[Record]]]:
    """Each image of a COCO file with its annotations, in file order.

    Raises:
        InputError: lists that are missing, ids that are no whole numbers, annotations of unknown images.
    """
    for key in ("images", "annotations", "categories"):
        if not isinstance(annotations.get(key), Sequence):
            raise InputError(f"CropCOCO: the annotation file has no list {key!r}")
    of_image: dict[int, list[Record]] = {}
    for a in annotations["annotations"]:
        of_image.setdefault(_field(a, "image_id"), []).append(a)
    strange = set(of_image) - {_field(image, "id") for image in annotations["images"]}
    if strange:
        a = of_image[min(strange)][0]
        raise InputError(
            f"CropCOCO: annotation id {a.get('id')} is of an image {min(strange)} that is not there"
        )
    return [(image, of_image.get(_field(image, "id"), [])) for image in annotations["images"]]


def assemble(
    annotations: Record, crops: Sequence[Cut | None], seed: int, *, padding: float = PADDING
) -> CropSet:
    """The set of crops that were made of a file's images.

    Args:
        annotations: the file that was cropped.
        crops: what `crop_image_annotations` gave for each image of `by_image`.
    """
    taken = [c for c in crops if c is not None]
    people = [a for _, mine in taken for a in mine]
    kept = {image["id"] for image, _ in taken}
    statistics = {
        "images": len(taken),
        "skipped": len(crops) - len(taken),
        "annotations": len(people),
        "dropped": sum(a["image_id"] in kept for a in annotations["annotations"]) - len(people),
        "flags": _flag_counts(people),
        "flags_outside_picture": _outside_counts(taken),
        "flags_per_keypoint": _keypoint_counts(annotations["categories"], people),
        "flags_per_image": {str(image["id"]): _flag_counts(mine) for image, mine in taken},
    }
    info = dict(annotations.get("info") or {})
    info["cropcoco"] = {"seed": seed, "padding": padding, "procedure": PROCEDURE, "statistics": statistics}
    rest = {k: v for k, v in annotations.items() if k not in ("info", "images", "annotations")}
    images = [image for image, _ in taken]
    return CropSet({"info": info, **rest, "images": images, "annotations": people}, statistics)


def coco_twin(document: Record) -> dict[str, Any]:
    """The set for tools that know only COCO's flags: what lies outside its window is unlabelled.

    Such tools take a flag of 3 for an ordinary label and would ask for points that no window holds. Here it is
    0, 0, 0 and not counted in ``num_keypoints``, so that persons with nothing in their window are ignored. (The
    plain runs of the public Ex-OKS evaluator do the same.) Fields that COCO does not have are left out.

    Args:
        document: of a `CropSet`; it stays as it is.
    """
    people = []
    for a in document["annotations"]:
        new = {"iscrowd": 0} | {k: v for k, v in a.items() if k not in ("bbox_amodal", "pad_to_contain")}
        if "keypoints" in a:
            flat = list(a["keypoints"])
            for k in range(2, len(flat), 3):
                if flat[k] == 3:
                    flat[k - 2 : k + 1] = 0, 0, 0
            new["keypoints"] = flat
            new["num_keypoints"] = sum(v > 0 for v in flat[2::3])
        people.append(new)
    images = [{k: v for k, v in image.items() if k != "crop"} for image in document["images"]]
    made = {k: v for k, v in document["info"]["cropcoco"].items() if k != "statistics"}
    info = dict(document["info"]) | {"cropcoco": made | {"outside_window": "unlabelled"}}
    return dict(document) | {"info": info, "images": images, "annotations": people}


def crop_image_annotations(
    image: Record, annotations: Sequence[Record], seed: int, *, padding: float = PADDING
) -> Cut | None:
    """Choose the crop of one image and cut its annotations; None if no crop is accepted.

    Args:
        image: COCO image; annotations: those of this image; seed: non-negative.
    """
    rectangle = choose_rectangle(image, annotations, seed)
    return None if rectangle is None else cut_annotations(image, annotations, rectangle, padding=padding)


def choose_rectangle(image: Record, annotations: Sequence[Record], seed: int) -> Rectangle | None:
    """The crop of an image: the first random rectangle that cuts somebody and leaves somebody, None after 50.

    Somebody (not a crowd) must keep 3 labelled keypoints inside, and a labelled keypoint of somebody kept
    must be outside.
    """
    size = _size(image)
    persons = [a for a in annotations if not a.get("iscrowd") and _labelled(a).any()]
    if not persons:
        return None
    if seed < 0 or _field(image, "id") < 0:
        raise InputError(f"CropCOCO: seed {seed} and image id {image['id']} must not be negative")
    rng = np.random.Generator(np.random.PCG64([seed, int(image["id"])]))
    for _ in range(TRIES):
        shares = rng.uniform(*SHARE), rng.uniform(*SHARE)
        w, h = (max(1, math.floor(s * full + 0.5)) for s, full in zip(shares, size, strict=True))
        x, y = (math.floor(rng.uniform(0, full - part)) for full, part in zip(size, (w, h), strict=True))
        r = Rectangle(x, y, w, h)
        kept = [a for a in persons if _clip(a, r) is not None]
        inside = [_inside(_points(a)[:, :2] - (x, y), r)[_labelled(a)] for a in kept]
        if any(i.sum() >= LEAST_INSIDE for i in inside) and not all(i.all() for i in inside):
            return r
    return None


def cut_annotations(
    image: Record, annotations: Sequence[Record], rectangle: Rectangle, *, padding: float = PADDING
) -> Cut:
    """An image and its annotations as they are in a rectangle of it.

    Persons of whose box less than 5 % or less than a pixel is left are dropped. Box and mask are cut (the
    whole box stays as ``bbox_amodal``), keypoints keep their true places and get the flags described above.

    Args:
        padding: of the activation window that flags 3 speak of.

    Raises:
        InputError: the rectangle leaves the image, or an annotation is malformed.
    """
    w, h = _size(image)
    r = rectangle
    if r.x < 0 or r.y < 0 or r.width < 1 or r.height < 1 or r.x + r.width > w or r.y + r.height > h:
        raise InputError(f"CropCOCO: image {image.get('id')} of {w} x {h} px does not contain {r}")
    new_image = dict(image) | {"width": r.width, "height": r.height}
    new_image["crop"] = {
        "x": r.x, "y": r.y, "width": r.width, "height": r.height, "full_width": w, "full_height": h,
    }  # fmt: skip
    out = []
    for a in annotations:
        box = _clip(a, r)
        if box is None:
            continue
        old = _box(a)
        new = {k: v for k, v in a.items() if not k.endswith(("_kpts", "_box", "_valid"))}
        new["bbox"] = box
        new["bbox_amodal"] = [old[0] - r.x, old[1] - r.y, old[2], old[3]]
        _cut_mask(new, a, (w, h), r, box[2] * box[3] / (old[2] * old[3]))
        if "keypoints" in a:
            _cut_keypoints(new, a, r, padding)
        out.append(new)
    return new_image, out


def cut_image(pixels: npt.NDArray[np.uint8], image: Record) -> npt.NDArray[np.uint8]:
    """The part of a photo (H, W, 3) that a cropped image's ``crop`` speaks of; a view.

    Raises:
        InputError: the photo is not of the size that was cropped.
    """
    c = image["crop"]
    if pixels.shape[:2] != (c["full_height"], c["full_width"]):
        raise InputError(
            f"image {image.get('id')}: the photo is {pixels.shape[1]} x {pixels.shape[0]} px, "
            f"its labels are for {c['full_width']} x {c['full_height']}"
        )
    return pixels[c["y"] : c["y"] + c["height"], c["x"] : c["x"] + c["width"]]


# ------------------------------------------------------------------ one annotation


def _clip(annotation: Record, r: Rectangle) -> list[float] | None:
    """The box inside the rectangle, in its coordinates; None if too little is left."""
    x, y, w, h = _box(annotation)
    left, top = max(x - r.x, 0), max(y - r.y, 0)
    right, bottom = min(x + w - r.x, r.width), min(y + h - r.y, r.height)
    width, height = right - left, bottom - top
    if width < 1 or height < 1 or width * height < LEAST_BOX_SHARE * (w * h):
        return None
    if left == x - r.x and right == x + w - r.x:
        width = w  # uncut sides keep their number to the last bit
    if top == y - r.y and bottom == y + h - r.y:
        height = h
    return [left, top, width, height]


def _cut_mask(new: dict[str, Any], old: Record, size: tuple[int, int], r: Rectangle, share: float) -> None:
    """Cut the mask and the area. A rectangle that is the whole image changes neither."""
    segmentation = old.get("segmentation")
    if (r.width, r.height) == size:
        return
    if not segmentation:
        if "area" in old:
            new["area"] = _area(old) * share
        return
    try:
        mask = Masks.from_any([segmentation], size)
    except InputError as e:
        raise InputError(f"annotation id {old.get('id')}: field 'segmentation': {e}") from e
    cut = mask.bitmap(0)[r.y : r.y + r.height, r.x : r.x + r.width]
    whole = int(mask.areas[0]) == int(np.count_nonzero(cut))
    new["area"] = int(np.count_nonzero(cut))
    if whole and isinstance(segmentation, list):
        new["segmentation"] = [
            [v - (r.y if i % 2 else r.x) for i, v in enumerate(polygon)] for polygon in segmentation
        ]
    else:
        new["segmentation"] = Masks.from_bitmaps(cut[None]).rle(0)


def _cut_keypoints(new: dict[str, Any], old: Record, r: Rectangle, padding: float) -> None:
    points, labelled = _points(old), _labelled(old)
    flags = points[:, 2].astype(int)
    moved = points[:, :2] - (r.x, r.y)
    box = np.array([new["bbox"]], np.float64)
    x1, y1, x2, y2 = activation_windows(box, padding)[0]
    out = (moved[:, 0] < x1) | (moved[:, 0] > x2) | (moved[:, 1] < y1) | (moved[:, 1] > y2)
    flags[labelled & ~_inside(moved, r)] = 1
    flags[labelled & ~out & (flags == 3)] = 1
    flags[labelled & out] = 3
    given = old["keypoints"]
    flat: list[float] = []
    for k in range(len(points)):
        if labelled[k]:
            flat += [given[3 * k] - r.x, given[3 * k + 1] - r.y, int(flags[k])]
        else:
            flat += [0, 0, 0]
    needed = padding_to_contain(box, moved[None])[0]
    # On the very border the two formulas may differ by a last bit; evaluation asks whether pad > padding.
    needed = np.where(out, np.maximum(needed, np.nextafter(padding, np.inf)), np.minimum(needed, padding))
    new["keypoints"] = flat
    new["num_keypoints"] = int(labelled.sum())
    new["pad_to_contain"] = [float(p) if known else -1 for p, known in zip(needed, labelled, strict=True)]


def _inside(points: Floats, r: Rectangle) -> npt.NDArray[np.bool_]:
    """Which points (K, 2), in the rectangle's coordinates, lie on its pixels."""
    x, y = points[:, 0], points[:, 1]
    return (x >= 0) & (x < r.width) & (y >= 0) & (y < r.height)


def _points(annotation: Record) -> Floats:
    """(K, 3) x y flag; (0, 3) for an annotation without keypoints."""
    try:
        flat = np.array(annotation.get("keypoints") or [], np.float64)
    except (TypeError, ValueError):
        flat = np.full(1, np.nan)
    if flat.ndim != 1 or len(flat) % 3 or not np.isfinite(flat).all():
        raise InputError(
            f"annotation id {annotation.get('id')}: field 'keypoints' must be x, y, flag for each"
        )
    return flat.reshape(-1, 3)


def _labelled(annotation: Record) -> npt.NDArray[np.bool_]:
    return np.asarray(_points(annotation)[:, 2] > 0)


def _box(annotation: Record) -> list[float]:
    box = annotation.get("bbox")
    if (
        not isinstance(box, Sequence)
        or len(box) != 4
        or not all(isinstance(v, int | float) and math.isfinite(v) for v in box)
        or box[2] < 0
        or box[3] < 0
    ):
        raise InputError(f"annotation id {annotation.get('id')}: field 'bbox' must be x, y, width, height")
    return list(box)


def _area(annotation: Record) -> float:
    area = annotation["area"]
    if not isinstance(area, int | float) or not math.isfinite(area):
        raise InputError(
            f"annotation id {annotation.get('id')}: field 'area' must be a number of px, got {area!r}"
        )
    return area


def _size(image: Record) -> tuple[int, int]:
    w, h = _field(image, "width"), _field(image, "height")
    if w < 1 or h < 1:
        raise InputError(f"image {image.get('id')}: width and height must be positive, got {w} x {h}")
    return w, h


def _field(record: Record, key: str) -> int:
    value = record.get(key) if isinstance(record, Mapping) else None
    if not isinstance(value, int | float) or not math.isfinite(value) or value != int(value):
        raise InputError(f"image or annotation {_short(record)}: field {key!r} must be a whole number")
    return int(value)


def _short(record: object) -> str:
    return str(record.get("id")) if isinstance(record, Mapping) else repr(record)[:40]


# ------------------------------------------------------------------ statistics


def _flag_counts(people: Iterable[Record]) -> dict[str, int]:
    return _counted(int(v) for a in people for v in a.get("keypoints", [])[2::3])


def _counted(flags: Iterable[int]) -> dict[str, int]:
    counts = Counter(flags)
    return {str(flag): counts[flag] for flag in range(4)}


def _outside_counts(taken: Iterable[Cut]) -> dict[str, int]:
    """Flags of the labelled keypoints that lie outside their picture: 1 where the window holds them, or 3."""
    found: list[int] = []
    for image, mine in taken:
        whole = Rectangle(0, 0, image["width"], image["height"])
        for a in mine:
            points = _points(a)
            out = ~_inside(points[:, :2], whole) & (points[:, 2] > 0)
            found += points[out, 2].astype(int).tolist()
    return _counted(found)


def _keypoint_counts(categories: Sequence[Record], people: Iterable[Record]) -> dict[str, dict[str, int]]:
    """Flags by the names of the first category that has keypoints."""
    names: Sequence[object] = next((c["keypoints"] for c in categories if c.get("keypoints")), [])
    flags = [a["keypoints"][2::3] for a in people if len(a.get("keypoints", ())) == 3 * len(names)]
    return {str(name): _counted(int(f[k]) for f in flags) for k, name in enumerate(names)}
