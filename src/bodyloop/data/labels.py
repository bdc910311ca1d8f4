"""Labelled people of any data set in one form: COCO's layout, and a skeleton that names the keypoints.

Readers (`bodyloop.data.formats`) turn what published sets and tools write into `Labels`; training, checks,
conversion and mask making know nothing else. Flags are COCO's: 0 unlabelled, 1 hidden, 2 visible, 3 (CropCOCO)
outside the activation window. What a set has beyond COCO's fields stays in its records; what a reader had to
guess is marked (``bbox_estimated``, ``area_estimated``) or counted in `Labels.notes`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.data.cropcoco_folder import inner_path
from bodyloop.errors import InputError
from bodyloop.masks import Masks
from bodyloop.models.checkpoints import sha256_of
from bodyloop.records import find, integers, look_up, name_of, numbers, records_of, truths
from bodyloop.skeletons import SKELETONS, Skeleton

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FILL = 0.53  # of a person's box is the person, COCO's mean: areas where a set has none
MARGIN = np.array([0.10, 0.08])  # in x and y, of the longer side: boxes around keypoints where a set has none
FARTHEST = 1e6  # px; beyond are mistakes
PERSON = 1  # id of the category that readers write
ESTIMATED = ("bbox_estimated", "area_estimated")
KNOWS = "knows_hidden"  # of "info": false where flag 2 only says "labelled"
_SPELLINGS = {"head": "head_top", "headtop": "head_top", "upperneck": "upper_neck"}


@dataclass(frozen=True, eq=False)
class Table:
    """The N annotations of a file as arrays, in file order.

    Attributes:
        ids, image: (N,) annotation id, index into the document's images.
        boxes: (N, 4) ``x1 y1 x2 y2`` px as in the file, unclipped.
        keypoints: (N, K, 3) x y flag. area: (N,) px^2, 0.53 of the box where the file has none.
        crowd: (N,) bool. labelled: (N,) count of keypoints in the file's own words, else of flags above 0.
    """

    ids: Ints
    image: Ints
    boxes: Floats
    keypoints: Floats
    area: Floats
    crowd: npt.NDArray[np.bool_]
    labelled: Ints


@dataclass(frozen=True, eq=False)
class Labels:
    """What a reader gives.

    Attributes:
        path: the file (or folder) that was named. format: name of the reader.
        document: COCO layout; images may lack width and height, annotations area and segmentation.
        skeleton: of the keypoints, in the order of the document.
        files: all files that were read. photos: where the format itself says that its photos are.
        knows_hidden: False where flag 2 only says "labelled".
        notes: what was left out, and how often.
    """

    path: Path
    format: str
    document: dict[str, Any]
    skeleton: Skeleton
    files: tuple[Path, ...]
    photos: Path | None = None
    knows_hidden: bool = True
    notes: Mapping[str, int] = field(default_factory=dict)

    @property
    def images(self) -> Sequence[dict[str, Any]]:
        """Records of the images."""
        images: Sequence[dict[str, Any]] = self.document["images"]
        return images

    @property
    def annotations(self) -> Sequence[dict[str, Any]]:
        """Records of the annotations."""
        annotations: Sequence[dict[str, Any]] = self.document["annotations"]
        return annotations

    def kind_of(self, row: Mapping[str, Any]) -> str:
        """The name of an annotation's category."""
        return str(self.document["categories"][self.category_of(row)].get("name", "person"))

    def category_of(self, row: Mapping[str, Any]) -> int:
        """The place of an annotation's category among the categories; the first's where there is none such."""
        ids = [c.get("id") for c in self.document["categories"]]
        return ids.index(row.get("category_id")) if row.get("category_id") in ids else 0

    def path_of(self, image: Mapping[str, Any]) -> Path:
        """The photo of an image's record, as a path below whatever folder.

        Raises:
            InputError: no name, or one that leads out of its folder.
        """
        path = inner_path(image.get("file_name"))
        if path is None:
            raise InputError(
                f"{self.path}: image id {image.get('id')}: field 'file_name' must be a path below the photos' folder, "
                f"got {image.get('file_name')!r}"
            )
        return Path(path)

    def size_of(self, image: Mapping[str, Any]) -> tuple[int, int]:
        """(width, height) of an image's record.

        Raises:
            InputError: it has none.
        """
        w, h = image.get("width"), image.get("height")
        if not isinstance(w, int) or not isinstance(h, int) or min(w, h) < 1:
            raise InputError(
                f"{self.path}: image id {image.get('id')} has no size in whole pixels, got {w} x {h}; name "
                "the folder of its photo, so that it is read"
            )
        return w, h

    def table(self) -> Table:
        """The annotations as arrays.

        Raises:
            InputError: a field is missing or malformed; the message names file, annotation and field.
        """
        rows, where = records_of(self.document, "annotations", str(self.path)), f"{self.path}: annotation"
        images = records_of(self.document, "images", str(self.path))
        known = integers(images, "id", f"{self.path}: image")
        order = np.argsort(known, kind="stable")
        image = order[look_up(rows, "image_id", known[order], where, "image in the file")]
        k = len(self.skeleton)
        box, flat = numbers(rows, "bbox", where, (4,)), numbers(rows, "keypoints", where, (3 * k,))
        for key, values in (("bbox", box), ("keypoints", flat)):
            away = np.flatnonzero((np.abs(values) > FARTHEST).any(axis=1))
            if len(away):
                who = f"{where} {name_of(rows[away[0]], int(away[0]))}"
                raise InputError(f"{who}: field {key!r} has numbers beyond a million px; correct them")
        keypoints = flat.reshape(-1, k, 3)
        flags = keypoints[..., 2]
        bad = ~np.isin(flags, (0, 1, 2, 3)).all(axis=1)
        if bad.any():
            i = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"{where} {name_of(rows[i], i)}: flags of keypoints must be 0 (unlabelled), 1 (hidden), 2 (visible) "
                f"or 3 (outside the window), got {sorted(set(flags[i].tolist()))}; is it a file of results?"
            )
        area = numbers(rows, "area", where, (), default=np.nan)
        counted = np.clip(numbers(rows, "num_keypoints", where, (), default=np.nan), -1, FARTHEST)
        return Table(
            ids=integers(rows, "id", where),
            image=image,
            boxes=np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], axis=1),
            keypoints=keypoints,
            area=np.where(np.isfinite(area), area, FILL * box[:, 2] * box[:, 3]),
            crowd=truths(rows, "iscrowd", where),
            labelled=np.where(np.isnan(counted), (flags > 0).sum(axis=1), counted).astype(np.int64),
        )


def digest_of(files: Sequence[Path]) -> str:
    """sha256 over the content of files, in whatever order they are named; of one file its own."""
    if len(files) == 1:
        return sha256_of(files[0])
    lines = [f"{sha256_of(f)}  {f.name}\n" for f in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


# ------------------------------------------------------------------ what readers share


def plain(name: str) -> str:
    """A keypoint's name as we write it: lower case, underscores."""
    return "_".join(name.lower().replace("-", " ").replace("_", " ").split())


def skeleton_of(names: Sequence[str], origin: str, links: Sequence[Sequence[int]] = ()) -> Skeleton:
    """The known skeleton that has these names in this order, however they are written, else one of the names.

    Args:
        links: pairs of keypoints counted from 1, as COCO's categories have them.

    Raises:
        InputError: a name occurs twice, or a link leads nowhere.
    """
    written = [plain(n) for n in names]
    for spelling in (written, [_SPELLINGS.get(n, n) for n in written]):
        for known in SKELETONS.values():
            if known.keypoints == tuple(spelling):
                return known
    twice = [n for n in names if list(names).count(n) > 1]
    if twice:
        raise InputError(f"{origin}: keypoint {twice[0]!r} is listed twice; give each a name of its own")
    if any(len(p) != 2 or not all(1 <= i <= len(names) for i in p) for p in links):
        raise InputError(f"{origin}: links between keypoints must be pairs of numbers from 1 to {len(names)}")
    pairs = tuple((int(a) - 1, int(b) - 1) for a, b in links)
    made = Skeleton.define("own", names)
    return Skeleton("own", made.keypoints, pairs, made.sigmas)


def columns_from(source: Skeleton, target: Skeleton) -> npt.NDArray[np.intp]:
    """(K,) for each keypoint of ``target`` its index in ``source``, -1 where the source does not have it.

    By the tables of the published joint training between known skeletons, otherwise by name.
    """
    from bodyloop.skeletons import merge_table

    if SKELETONS.get(source.name) is source:
        to = merge_table(source, target)
    else:
        at = {plain(n): i for i, n in enumerate(target.keypoints)}
        to = np.array([at.get(plain(n), -1) for n in source.keypoints], np.intp)
    out = np.full(len(target), -1, np.intp)
    out[to[to >= 0]] = np.flatnonzero(to >= 0)
    return out


def array(value: object, shape: tuple[int, ...], where: str) -> Floats:
    """Finite numbers of a shape (-1: any length), or an InputError that begins with ``where``."""
    try:
        a = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        a = np.full(0, np.nan)
    fits = a.ndim == len(shape) and all(n in (-1, m) for n, m in zip(shape, a.shape, strict=True))
    if not fits or not (np.abs(a) < FARTHEST**2).all():  # NaN is not
        told = " x ".join("n" if n < 0 else str(n) for n in shape) or "one"
        raise InputError(f"{where} must be {told} finite numbers, got {str(value)[:60]}")
    return a


def photo_size(width: object, height: object, where: str) -> tuple[int, int]:
    """(width, height) of a photo, or an InputError that begins with ``where``."""
    w, h = array([width, height], (2,), f"{where}: width and height").tolist()
    try:
        return Masks.empty(0, (w, h)).size
    except InputError as e:
        raise InputError(f"{where}: {e}") from e


def box_around(keypoints: Floats) -> Floats:
    """(4,) ``x y width height`` around the labelled of keypoints (K, 3) with a margin; zeros if none is."""
    points = keypoints[keypoints[:, 2] > 0, :2]
    if not len(points):
        return np.zeros(4)
    low, high = points.min(axis=0), points.max(axis=0)
    margin = MARGIN * (high - low).max()
    return np.concatenate([low - margin, high - low + 2 * margin])


def person(
    id: int,
    image_id: int,
    keypoints: Floats,
    *,
    box: npt.ArrayLike | None = None,
    area: float | None = None,
    segmentation: object = None,
    **more: object,
) -> dict[str, Any]:
    """An annotation in COCO's layout.

    Args:
        keypoints: (K, 3) x y flag. box: (4,) ``x y width height``; None: around the keypoints, and marked.
        area: px^2; None: 0.53 of the box, and marked.
    """
    xywh = box_around(keypoints) if box is None else np.asarray(box, np.float64)
    seen = np.where(keypoints[:, 2:] > 0, keypoints, 0.0)
    row: dict[str, Any] = {
        "id": id,
        "image_id": image_id,
        "category_id": PERSON,
        "bbox": xywh.tolist(),
        "keypoints": seen.ravel().tolist(),
        "num_keypoints": int((keypoints[:, 2] > 0).sum()),
        "iscrowd": 0,
        "area": float(FILL * xywh[2] * xywh[3]) if area is None else float(area),
    }
    if box is None:
        row["bbox_estimated"] = 1
    if area is None:
        row["area_estimated"] = 1
    if segmentation:
        row["segmentation"] = segmentation
    return row | {k: v for k, v in more.items() if v is not None}


def document(
    images: Sequence[dict[str, Any]],
    annotations: Sequence[dict[str, Any]],
    skeleton: Skeleton,
    name: str = "person",
) -> dict[str, Any]:
    """A document in COCO's layout with one category."""
    category = {"id": PERSON, "name": name, **category_fields(skeleton)}
    return {"images": list(images), "annotations": list(annotations), "categories": [category]}


def category_fields(skeleton: Skeleton) -> dict[str, Any]:
    """Keypoints and links as COCO's categories have them."""
    return {
        "keypoints": list(skeleton.keypoints),
        "skeleton": [[a + 1, b + 1] for a, b in skeleton.links],
    }


def coco_document(labels: Labels) -> dict[str, Any]:
    """The document with the fields that COCO's tools ask for, those that had to be guessed marked."""
    table, rows = labels.table(), []
    for row, area, count in zip(
        labels.annotations, table.area.tolist(), table.labelled.tolist(), strict=True
    ):
        guess = {} if "area" in row else {"area": area, "area_estimated": 1}
        rows.append({"num_keypoints": count, "iscrowd": 0, **guess, **row})
    told = labels.document.get("info")
    info = {**(told if isinstance(told, Mapping) else {}), **({} if labels.knows_hidden else {KNOWS: False})}
    return {**labels.document, **({"info": info} if info else {}), "annotations": rows}


def rows_of(labels: Labels) -> list[list[int]]:
    """Numbers of the annotations of each image, in file order."""
    known = np.array([i["id"] for i in labels.images], np.int64)
    order = np.argsort(known, kind="stable")
    at, _ = find(np.array([a["image_id"] for a in labels.annotations], np.int64), known[order])
    rows: list[list[int]] = [[] for _ in labels.images]
    for n, i in enumerate(order[at].tolist()):
        rows[i].append(n)
    return rows
