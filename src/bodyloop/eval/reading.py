"""COCO files as arrays: ground truth and predictions, checked once, then never looked at as dicts again.

Evaluation spends most of its time in Python's dicts unless every field becomes one array per file; that is
what happens here, piece by piece where the file is long (`records`). Checks are made on whole arrays, and
name the file, the annotation or prediction, the field and what to do when one fails.

Rules of reading (areas, which image ids are allowed, file formats) are those of pycocotools where nothing
else is said; what is done with the numbers is left to the tasks (`keypoints`, `boxes`).
"""

from __future__ import annotations

import hashlib
import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.records import (
    Floats,
    Ints,
    Record,
    check_objects,
    find,
    integers,
    load_json,
    look_up,
    name_of,
    numbers,
    records_of,
    refuse_duplicates,
    stream_json,
    truths,
    uncollected,
)

__all__ = [
    "GroundTruth",
    "Predictions",
    "Record",
    "ResultSource",
    "Source",
    "integers",
    "load_json",
    "numbers",
    "read_ground_truth",
    "read_predictions",
    "records_of",
]

Source = str | os.PathLike[str] | Mapping[str, Any]
ResultSource = str | os.PathLike[str] | Sequence[Mapping[str, Any]]

SIDES = ("presence", "visibility", "quality", "keypoint_presence", "keypoint_visibility", "keypoint_quality")
IDS = ("annotation_id", "id")


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """A COCO ground truth of I images, C categories and G annotations, in file order.

    Attributes:
        origin: the file, or "ground truth" for a dict; for messages.
        digest: sha256 of the file, None for a dict.
        image_ids: (I,) ascending.
        image_sizes: (I, 2) width and height, NaN where the file lacks them.
        file_names: I names, "" where the file lacks them.
        category_ids: (C,) ascending.
        keypoint_names: K names of the first category that has some, else empty.
        ids, image, category: (G,) annotation id, index into image_ids, index into category_ids.
        boxes: (G, 4) x y width height, px.
        area: (G,) px^2, as in the file.
        crowd: (G,) bool.
        keypoints: (G, K, 3) x y flag, or None if they were not asked for.
        num_keypoints: (G,) as in the file, -1 where it is missing.
        pad_to_contain: (G, K), or None if no annotation has it.
    """

    origin: str
    digest: str | None
    image_ids: Ints
    image_sizes: Floats
    file_names: tuple[str, ...]
    category_ids: Ints
    keypoint_names: tuple[str, ...]
    ids: Ints
    image: Ints
    category: Ints
    boxes: Floats
    area: Floats
    crowd: npt.NDArray[np.bool_]
    keypoints: Floats | None
    num_keypoints: Floats
    pad_to_contain: Floats | None


@dataclass(frozen=True, eq=False)
class Predictions:
    """P predictions in file order, their images and categories looked up in a `GroundTruth`.

    Attributes:
        origin, digest: as in `GroundTruth`.
        image, category: (P,) indices into the ground truth's image_ids and category_ids; category -1:
            unknown there.
        scores: (P,).
        boxes: (P, 4) x y width height, NaN where a prediction has none.
        area: (P,) px^2: of the boxes if the first prediction has one, else of the keypoints' extent.
        keypoints: (P, K, 3) x y confidence, or None if they were not asked for.
        presence, visibility, quality: (P, K) in 0..1, None if no prediction has the field (or keypoints were
            not asked for).
        annotation_ids: (P,) of the annotations whose boxes the predictions were made for, None where the file
            does not say.
    """

    origin: str
    digest: str | None
    image: Ints
    category: Ints
    scores: Floats
    boxes: Floats
    area: Floats
    keypoints: Floats | None
    presence: Floats | None = None
    visibility: Floats | None = None
    quality: Floats | None = None
    annotation_ids: Ints | None = None

    def __len__(self) -> int:
        return len(self.scores)


@uncollected()
def read_ground_truth(
    source: Source, *, keypoints: int | None = None, need_area: bool = True, origin: str = "ground truth"
) -> GroundTruth:
    """Read COCO ground truth from a file or an already loaded dict.

    Args:
        source: path to json (or .json.gz), or the dict of one.
        keypoints: K, when annotations must have K keypoints; None reads none.
        need_area: False lets annotations lack ``area`` (it is then NaN).
        origin: what a dict is called in messages.

    Raises:
        FileError: the file cannot be read.
        InputError: missing or malformed fields; the message names file, annotation and field.
    """
    doc, origin, digest = _opened(source, origin)
    images = records_of(doc, "images", origin)
    categories = records_of(doc, "categories", origin)
    annotations = records_of(doc, "annotations", origin)
    where = f"{origin}: annotation"

    image_ids = integers(images, "id", f"{origin}: image")
    category_ids = integers(categories, "id", f"{origin}: category")
    ids = integers(annotations, "id", where)
    for found, what in ((image_ids, "image"), (category_ids, "category"), (ids, "annotation")):
        refuse_duplicates(found, f"{origin}: {what}")
    order = np.argsort(image_ids, kind="stable")
    category_ids = np.sort(category_ids)
    area = numbers(annotations, "area", where, (), default=None if need_area else np.nan)
    _refuse(area < 0, annotations, where, "area", "px^2, not negative")
    labelled = numbers(annotations, "num_keypoints", where, (), default=-1.0)
    _refuse(labelled < -1, annotations, where, "num_keypoints", "a count, not negative")
    return GroundTruth(
        origin=origin,
        digest=digest,
        image_ids=image_ids[order],
        image_sizes=_sizes(images, origin)[order],
        file_names=tuple([str(images[i].get("file_name", "")) for i in order.tolist()]),
        category_ids=category_ids,
        keypoint_names=_keypoint_names(categories, origin),
        ids=ids,
        image=look_up(annotations, "image_id", image_ids[order], where, "image in the file"),
        category=look_up(annotations, "category_id", category_ids, where, "category in the file"),
        boxes=_boxes(annotations, where),
        area=area,
        crowd=truths(annotations, "iscrowd", where),
        keypoints=_flagged_points(annotations, where, keypoints),
        num_keypoints=labelled,
        pad_to_contain=_pads(annotations, where, keypoints),
    )


def _opened(source: Source, origin: str) -> tuple[Record, str, str | None]:
    """A ground truth's json object, what it is called, and the digest of its file."""
    doc: object = source
    digest = None
    if isinstance(source, str | os.PathLike):
        (doc, digest), origin = load_json(source), os.fspath(source)
    if not isinstance(doc, Mapping):
        raise InputError(
            f"{origin}: expected a COCO dictionary, got {type(doc).__name__}; are ground truth and predictions swapped?"
        )
    return doc, origin, digest


def _sizes(images: Sequence[Record], origin: str) -> Floats:
    """(I, 2) width and height, NaN where they are missing."""
    sides = [numbers(images, key, f"{origin}: image", (), default=np.nan) for key in ("width", "height")]
    return np.stack(sides, axis=1)


def _keypoint_names(categories: Sequence[Record], origin: str) -> tuple[str, ...]:
    for c in categories:
        names = c.get("keypoints")
        if names and not isinstance(names, list | tuple):
            raise InputError(
                f"{origin}: category {name_of(c, 0)}: field 'keypoints' must be a list of names; remove it"
            )
        if names:
            return tuple(str(n) for n in names)
    return ()


def _boxes(records: Sequence[Record], where: str, first: int = 0) -> Floats:
    boxes = numbers(records, "bbox", where, (4,), first=first)
    wanted = "x y width height, sizes not negative (are these x1 y1 x2 y2?)"
    _refuse(np.minimum(boxes[:, 2], boxes[:, 3]) < 0, records, where, "bbox", wanted, first)
    return boxes


def _flagged_points(records: Sequence[Record], where: str, k: int | None) -> Floats | None:
    if k is None:
        return None
    points = numbers(records, "keypoints", where, (3 * k,)).reshape(len(records), k, 3)
    flags = points[..., 2]
    bad = ((flags < 0) | (flags > 3)).any(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{where} {name_of(records[i], i)}: field 'keypoints': flags must be 0 (unlabelled), 1 (hidden), "
            f"2 (visible) or 3 (outside the window), got {sorted(set(flags[i].tolist()))}; is it a file of results?"
        )
    return points


def _pads(records: Sequence[Record], where: str, k: int | None) -> Floats | None:
    if k is None or not any("pad_to_contain" in r for r in records):
        return None
    return numbers(records, "pad_to_contain", where, (k,))


def _refuse(
    bad: npt.NDArray[np.bool_], records: Sequence[Record], where: str, key: str, wanted: str, first: int = 0
) -> None:
    """An InputError that names the first bad record, if there is one."""
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        who = f"{where} {name_of(records[i], first + i)}"
        raise InputError(f"{who}: field {key!r} must be {wanted}, got {reprlib.repr(records[i].get(key))}")


def read_predictions(
    source: ResultSource,
    truth: GroundTruth,
    *,
    keypoints: int | None = None,
    need_boxes: bool = False,
    mixed_boxes: bool = False,
    origin: str = "predictions",
) -> Predictions:
    """Read a COCO results list (file or list of dicts) that belongs to a ground truth.

    Args:
        source: path or list of {image_id, category_id, score, keypoints and/or bbox[, presence, visibility,
            quality, annotation_id]}; the last four (three of K numbers each, also under the names that
            `People.to_coco` writes; ``id`` if there is no ``annotation_id``) must be in all predictions or in
            none.
        truth: gives the allowed image ids.
        keypoints: K, when every prediction must have K keypoints.
        need_boxes: every prediction must have a bbox.
        mixed_boxes: allow that only some predictions have a bbox (pycocotools then goes by the first one).
        origin: what a list is called in messages.

    Raises:
        FileError: the file cannot be read.
        InputError: missing or malformed fields, unknown images, boxes in only some predictions.
    """
    pieces: Iterable[Any] = [source]
    digest = None
    if isinstance(source, str | os.PathLike):
        origin, digest = os.fspath(source), hashlib.sha256()
        pieces = stream_json(source, digest)
    where = f"{origin}: prediction"
    table = _Table(where)
    for piece in pieces:
        if not isinstance(piece, Sequence) or isinstance(piece, str | bytes):
            raise InputError(
                f"{origin}: expected a list of predictions, got {type(piece).__name__}; "
                "are ground truth and predictions swapped?"
            )
        check_objects(piece, where, table.length)
        table.add(_columns(piece, truth, where, table.length, keypoints, need_boxes))
    boxes = _checked_boxes(table["bbox"], where, mixed_boxes)
    return Predictions(
        origin=origin,
        digest=None if digest is None else digest.hexdigest(),
        image=table["image"],
        category=table["category"],
        scores=table["score"],
        boxes=boxes,
        area=boxes[:, 2] * boxes[:, 3] if len(boxes) and not np.isnan(boxes[0, 0]) else table["extent"],
        keypoints=table.get("keypoints"),
        presence=table.get("presence", "keypoint_presence"),
        visibility=table.get("visibility", "keypoint_visibility"),
        quality=table.get("quality", "keypoint_quality"),
        annotation_ids=table.get("annotation_id", "id"),
    )


class _Table:
    """Columns of a file that come piece by piece. A column that some pieces lack is refused, or is no column."""

    def __init__(self, where: str) -> None:
        self.length, self._where = 0, where
        self._columns: dict[str, npt.NDArray[Any]] = {}  # longer than the table: they grow by doubling
        self._incomplete: set[str] = set()

    def add(self, piece: dict[str, npt.NDArray[Any]]) -> None:
        """Append columns of equal length."""
        start, self.length = self.length, self.length + len(piece["image"])
        for key in self._columns.keys() ^ piece.keys() if start else ():
            if key in IDS:
                self._incomplete.add(key)
                continue
            lacking = start if key in self._columns else 0
            raise InputError(
                f"{self._where} number {lacking}: field {key!r} is missing, which others have; write it to all "
                "predictions or to none"
            )
        for key, values in piece.items():
            if key in self._incomplete:
                continue
            column = self._columns.get(key, values[:0])
            if key not in self._columns or self.length > len(column):
                longer = np.empty((max(self.length, 2 * start), *values.shape[1:]), values.dtype)
                longer[:start] = column[:start]
                self._columns[key] = column = longer
            column[start : self.length] = values

    def __getitem__(self, key: str) -> npt.NDArray[Any]:
        return self._columns[key][: self.length]

    def get(self, *keys: str) -> npt.NDArray[Any] | None:
        """The first of these columns that there is."""
        there = [key for key in keys if key in self._columns and key not in self._incomplete]
        return self[there[0]] if there else None


def _columns(
    records: Sequence[Record], truth: GroundTruth, where: str, first: int, k: int | None, need_boxes: bool
) -> dict[str, npt.NDArray[Any]]:
    """Fields of one piece of a results file, whose first prediction has the number ``first``."""
    known = f"image of {truth.origin}"
    at, found = find(integers(records, "category_id", where, first=first), truth.category_ids)
    out: dict[str, npt.NDArray[Any]] = {
        "image": look_up(records, "image_id", truth.image_ids, where, known, first=first),
        "category": np.where(found, at, -1),
        "score": numbers(records, "score", where, (), first=first),
        "extent": np.zeros(len(records)),
    }
    fields = set().union(*records)  # a look into this set is cheaper than one into every prediction
    if need_boxes:
        out["bbox"] = _boxes(records, where, first)
    else:
        out["bbox"] = _some_boxes(records if "bbox" in fields else [], len(records), where, first)
    if k is not None:
        points = numbers(records, "keypoints", where, (3 * k,), first=first).reshape(len(records), k, 3)
        out |= {"keypoints": points, "extent": _extent(points, where)}
        out |= {key: _shares(records, key, k, where, first) for key in SIDES if key in fields}
    for key in IDS:
        ids = [r.get(key) for r in records] if key in fields else [None]
        if all(type(i) is int and abs(i) < 2**63 for i in ids):
            out[key] = np.array(ids, np.int64)
    return out


def _some_boxes(records: Sequence[Record], n: int, where: str, first: int) -> Floats:
    """Boxes (n, 4), NaN for predictions without one."""
    has = [bool(r.get("bbox")) for r in records]
    if records and all(has):
        return _boxes(records, where, first)
    out = np.full((n, 4), np.nan)
    for i in np.flatnonzero(has).tolist():
        out[i] = _boxes(records[i : i + 1], where, first + i)
    return out


def _shares(records: Sequence[Record], key: str, k: int, where: str, first: int) -> Floats:
    """Numbers (P, K) from 0 to 1."""
    values = numbers(records, key, where, (k,), first=first)
    bad = (values < 0) | (values > 1)
    if bad.any():
        i = int(np.flatnonzero(bad.any(axis=1))[0])
        raise InputError(
            f"{where} {name_of(records[i], first + i)}: field {key!r} must be {k} numbers from 0 to 1, "
            f"got {values[i][bad[i]][0]}"
        )
    return values


def _extent(points: Floats, where: str) -> Floats:
    """(P,) areas of the upright boxes around all keypoints (P, K, 3)."""
    if points.shape[1] == 0:
        raise InputError(f"{where}: no keypoints")
    by_keypoint = np.ascontiguousarray(points[..., :2].transpose(1, 2, 0))
    x, y = by_keypoint.max(axis=0) - by_keypoint.min(axis=0)
    return np.asarray(x * y)


def _checked_boxes(boxes: Floats, where: str, mixed: bool) -> Floats:
    """Refuse boxes in only some predictions, unless the first has none and ``mixed`` allows it."""
    has = ~np.isnan(boxes[:, 0])
    if has.any() and not has.all() and (not mixed or has[0]):
        i = int(np.flatnonzero(has != has[0])[0])
        raise InputError(
            f"{where} number {i} {'has' if has[i] else 'lacks'} field 'bbox', unlike the first one: "
            "give a bbox to all predictions or to none (areas of predictions come from it)"
        )
    return boxes
