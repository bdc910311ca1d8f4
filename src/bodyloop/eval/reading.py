"""COCO files as arrays: ground truth and predictions, checked once, then never looked at as dicts again.

Evaluation spends most of its time in Python's dicts unless every field becomes one array per file; that is
what happens here. All checks are done on whole arrays; only when one fails is the file walked entry by entry,
to name the file, the annotation and the field in the error.

Rules of reading (areas, which image ids are allowed, file formats) are those of pycocotools where nothing
else is said; what is done with the numbers is left to the tasks (`keypoints`, `boxes`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from bodyloop.errors import FileError, InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Record = Mapping[str, Any]  # one json object of a file: anything may stand in it
Source = str | os.PathLike[str] | Mapping[str, Any]
ResultSource = str | os.PathLike[str] | Sequence[Mapping[str, Any]]


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


def load_json(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """A json file (gzip if it ends in .gz) and the sha256 of its bytes as they are on disk.

    Raises:
        FileError: missing, unreadable, truncated or not json.
    """
    p = Path(path)
    try:
        raw = p.read_bytes()
        data = gzip.decompress(raw) if p.suffix == ".gz" else raw
    except (OSError, EOFError) as e:
        raise FileError(f"{p}: cannot be read: {e}") from e
    digest = hashlib.sha256(raw).hexdigest()
    try:
        return _parse(data), digest
    except (ValueError, RecursionError) as e:
        raise FileError(f"{p}: not valid json ({e}); is the file complete?") from e


def _parse(data: bytes) -> Any:
    try:
        import orjson  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return json.loads(data)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)  # accepts NaN, which is then refused with the annotation's name


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
    if isinstance(source, Mapping):
        doc, digest = source, None
    else:
        (doc, digest), origin = load_json(source), os.fspath(source)
    if not isinstance(doc, Mapping):
        raise InputError(f"{origin}: expected a COCO dictionary, got {type(doc).__name__}")
    images = records_of(doc, "images", origin)
    categories = records_of(doc, "categories", origin)
    annotations = records_of(doc, "annotations", origin)

    image_ids = integers(images, "id", f"{origin}: image")
    category_ids = integers(categories, "id", f"{origin}: category")
    ids = integers(annotations, "id", f"{origin}: annotation")
    for found, what in ((image_ids, "image"), (category_ids, "category"), (ids, "annotation")):
        _refuse_duplicates(found, f"{origin}: {what}")
    order = np.argsort(image_ids, kind="stable")
    where = f"{origin}: annotation"
    image = _look_up(annotations, "image_id", image_ids[order], where, "image in the file")
    category = _look_up(annotations, "category_id", np.sort(category_ids), where, "category in the file")
    boxes = numbers(annotations, "bbox", where, (4,))
    area = numbers(annotations, "area", where, (), default=None if need_area else np.nan)
    names = next((tuple(str(k) for k in c["keypoints"]) for c in categories if c.get("keypoints")), ())
    points = None if keypoints is None else numbers(annotations, "keypoints", where, (3 * keypoints,))
    if points is not None:
        points = points.reshape(len(annotations), keypoints or 0, 3)
        _check_flags(points[..., 2], annotations, where)
    pads = None
    if keypoints is not None and any("pad_to_contain" in a for a in annotations):
        pads = numbers(annotations, "pad_to_contain", where, (keypoints,))
    sizes = [numbers(images, key, f"{origin}: image", (), default=np.nan) for key in ("width", "height")]
    return GroundTruth(
        origin=origin,
        digest=digest,
        image_ids=image_ids[order],
        image_sizes=np.stack(sizes, axis=1)[order],
        file_names=tuple(str(images[i].get("file_name", "")) for i in order),
        category_ids=np.sort(category_ids),
        keypoint_names=names,
        ids=ids,
        image=image,
        category=category,
        boxes=boxes,
        area=area,
        crowd=numbers(annotations, "iscrowd", where, (), default=0.0) != 0,
        keypoints=points,
        num_keypoints=numbers(annotations, "num_keypoints", where, (), default=-1.0),
        pad_to_contain=pads,
    )


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
    if isinstance(source, str | os.PathLike):
        (doc, digest), origin = load_json(source), os.fspath(source)
    else:
        doc, digest = source, None
    if not isinstance(doc, Sequence) or isinstance(doc, str | bytes):
        raise InputError(f"{origin}: expected a list of predictions, got {type(doc).__name__}")
    _check_mappings(doc, f"{origin}: prediction")
    where = f"{origin}: prediction"
    image = _look_up(doc, "image_id", truth.image_ids, where, f"image of {truth.origin}")
    category_ids = integers(doc, "category_id", where)
    at = np.searchsorted(truth.category_ids, category_ids)
    at = np.minimum(at, max(len(truth.category_ids) - 1, 0))
    known = truth.category_ids[at] == category_ids if len(truth.category_ids) else np.zeros(len(doc), bool)
    points = None if keypoints is None else numbers(doc, "keypoints", where, (3 * keypoints,))
    if points is not None:
        points = points.reshape(len(doc), keypoints or 0, 3)
    boxes = _prediction_boxes(doc, where, need_boxes, mixed_boxes)
    return Predictions(
        origin=origin,
        digest=digest,
        image=image,
        category=np.where(known, at, -1),
        scores=numbers(doc, "score", where, ()),
        boxes=boxes,
        area=_prediction_area(boxes, points, where),
        keypoints=points,
        presence=_shares(doc, "presence", where, keypoints),
        visibility=_shares(doc, "visibility", where, keypoints),
        quality=_shares(doc, "quality", where, keypoints),
        annotation_ids=_annotation_ids(doc),
    )


def _shares(doc: Sequence[Record], key: str, where: str, k: int | None) -> Floats | None:
    """Field ``key`` of all predictions (P, K) in 0..1, None if none of them has it."""
    if k is None:
        return None
    if not any(key in d for d in doc):
        key = f"keypoint_{key}"  # as `People.to_coco` calls it
        if not any(key in d for d in doc):
            return None
    values = numbers(doc, key, where, (k,))
    bad = ((values < 0) | (values > 1)).any(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        worst = values[i][(values[i] < 0) | (values[i] > 1)][0]
        raise InputError(
            f"{where} {_name(doc[i], i)}: field {key!r} must be {k} numbers from 0 to 1, got {worst}"
        )
    return values


def _annotation_ids(doc: Sequence[Record]) -> Ints | None:
    for key in ("annotation_id", "id"):
        found = [d.get(key) for d in doc]
        if found and all(isinstance(i, int) and abs(i) < 2**63 for i in found):
            return np.array(found, np.int64)
    return None


def _prediction_boxes(doc: Sequence[Record], where: str, needed: bool, mixed: bool) -> Floats:
    if needed:
        return numbers(doc, "bbox", where, (4,))
    has = np.fromiter((bool(d.get("bbox")) for d in doc), bool, len(doc))
    boxes = np.full((len(doc), 4), np.nan)
    if not has.any():
        return boxes
    if not has.all() and (not mixed or has[0]):
        i = int(np.flatnonzero(has != has[0])[0])
        raise InputError(
            f"{where} number {i} {'has' if has[i] else 'lacks'} field 'bbox', unlike the first one: "
            "give a bbox to all predictions or to none (areas of predictions come from it)"
        )
    if has[0]:
        return numbers(doc, "bbox", where, (4,))
    boxes[has] = numbers([d for d in doc if d.get("bbox")], "bbox", where, (4,))
    return boxes


def _prediction_area(boxes: Floats, points: Floats | None, where: str) -> Floats:
    if len(boxes) and not np.isnan(boxes[0, 0]):
        return np.asarray(boxes[:, 2] * boxes[:, 3])
    if points is None:
        return np.zeros(len(boxes))
    if points.shape[1] == 0:
        raise InputError(f"{where}: no keypoints")
    extent = points[..., :2].max(axis=1) - points[..., :2].min(axis=1)
    return np.asarray(extent[:, 0] * extent[:, 1])


# ------------------------------------------------------------------ fields as arrays, culprits by name


def records_of(doc: Record, key: str, origin: str) -> Sequence[Record]:
    found = doc.get(key)
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise InputError(f"{origin}: field {key!r} must be a list, got {type(found).__name__}")
    _check_mappings(found, f"{origin}: {key}")
    return found


def _check_mappings(found: Sequence[Any], where: str) -> None:
    for i, r in enumerate(found):
        if not isinstance(r, Mapping):
            raise InputError(f"{where} number {i}: expected an object with fields, got {type(r).__name__}")


def numbers(
    records: Sequence[Record], key: str, where: str, shape: tuple[int, ...], default: float | None = None
) -> Floats:
    """Field ``key`` of all records as (len, *shape) float64, all finite; scalars may have a default."""
    n = len(records)
    if not n:
        return np.zeros((0, *shape))
    try:
        column = [r[key] for r in records] if default is None else [r.get(key, default) for r in records]
        values = np.array(column)
    except (KeyError, ValueError, TypeError, OverflowError):
        _blame(records, key, where, shape, default)
    if values.dtype.kind not in "iufb" or values.shape != (n, *shape):
        _blame(records, key, where, shape, default)
    out = values.astype(np.float64)
    finite = np.isfinite(out)
    if not finite.all() and not (default is not None and np.isnan(default)):
        _blame(records, key, where, shape, default)
    return out


def _blame(
    records: Sequence[Record], key: str, where: str, shape: tuple[int, ...], default: float | None
) -> NoReturn:
    """Find the record that spoils a field and raise an InputError that names it."""
    expected = f"{shape[0]} finite numbers" if shape else "a finite number"
    for i, r in enumerate(records):
        who = f"{where} {_name(r, i)}: field {key!r}"
        if key not in r:
            if default is None:
                raise InputError(f"{who} is missing; expected {expected}")
            continue
        try:
            value = np.array(r[key])
        except (ValueError, TypeError, OverflowError):
            raise InputError(f"{who} must be {expected}, got a nested or uneven list") from None
        if value.dtype.kind not in "iufb":
            raise InputError(f"{who} must be {expected}, got {_short(r[key])}")
        if value.shape != shape:
            got = f"{value.size} numbers" if value.ndim == 1 else _short(r[key])
            raise InputError(f"{who} must be {expected}, got {got}")
        if not np.isfinite(value).all():
            raise InputError(f"{who} must be {expected}, got NaN or infinity; remove the entry or correct it")
    raise InputError(f"{where}s: field {key!r} must be {expected} in every entry")


def _name(record: Record, number: int) -> str:
    i = record.get("id")
    return f"id {i}" if isinstance(i, int | float | str) else f"number {number}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def integers(records: Sequence[Record], key: str, where: str) -> Ints:
    values = numbers(records, key, where, ())
    whole = (values == np.floor(values)) & (np.abs(values) < 2.0**63)
    if not whole.all():
        i = int(np.flatnonzero(~whole)[0])
        raise InputError(
            f"{where} {_name(records[i], i)}: field {key!r} must be a whole number of 64 bits, got {values[i]}"
        )
    # by way of the original numbers: float64 does not hold every 64-bit id
    return np.array([int(r[key]) for r in records], np.int64)


def _refuse_duplicates(ids: Ints, where: str) -> None:
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) != len(ids):
        twice = unique[counts > 1][:3].tolist()
        raise InputError(f"{where} ids must be unique, but {twice} occur more than once")


def _look_up(records: Sequence[Record], key: str, known: Ints, where: str, what: str) -> Ints:
    """Indices of ids in the ascending array ``known``."""
    wanted = integers(records, key, where)
    at = np.searchsorted(known, wanted)
    found = at < len(known)
    found[found] = known[at[found]] == wanted[found]
    if not found.all():
        i = int(np.flatnonzero(~found)[0])
        raise InputError(
            f"{where} {_name(records[i], i)}: field {key!r} = {wanted[i]} is no {what}; "
            "do both files belong to the same data?"
        )
    return at


def _check_flags(flags: Floats, records: Sequence[Record], where: str) -> None:
    bad = ((flags < 0) | (flags > 3)).any(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{where} {_name(records[i], i)}: field 'keypoints': flags must be 0 (unlabelled), 1 (hidden), "
            f"2 (visible) or 3 (outside the window), got {np.unique(flags[i]).tolist()}"
        )
