"""From pycocotools' COCO objects to what an evaluation needs: arrays, a similarity, who is not to be found.

For the drop-in class `COCOeval`; files go the shorter way of `tasks`. Predictions have what ``loadRes`` of a COCO
object gives them: an area, which then counts, whatever boxes they have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.eval.boxes import iou_of_pairs
from bodyloop.eval.crowdpose import FILL
from bodyloop.eval.documents import Document
from bodyloop.eval.evidence import Similarity
from bodyloop.eval.instance_masks import mask_iou_of_pairs
from bodyloop.eval.keypoints import plain_oks
from bodyloop.eval.mask_runs import read_masks
from bodyloop.eval.protocols import Rules
from bodyloop.eval.reading import GroundTruth, Predictions, Record, integers, numbers
from bodyloop.eval.wholebody import FIELDS, SIGMAS, by_part, part_scores
from bodyloop.records import check_objects

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

ANY_CATEGORY = -1  # the id that stands for all where categories are not told apart (pycocotools)
PARTS = {f"keypoints_{part}": part for part in SIGMAS}  # kinds of evaluation that are parts of the whole body


@dataclass(frozen=True, eq=False)
class Inputs:
    """Both files as arrays, the similarity of pairs, annotations (G,) not to be found, predictions (P,) judged."""

    truth: GroundTruth
    found: Predictions
    similarity: Similarity
    hidden: Bools
    kept: Bools | None = None


def records(source: Any, key: str, name: str) -> Sequence[Record]:
    """The ``images``, ``annotations`` or ``categories`` of a COCO object, of its dict, or of a list of results.

    Args:
        name: of the source, for messages.

    Raises:
        InputError: it has none, or they are no objects.
    """
    found = source
    if not isinstance(source, Sequence) or isinstance(source, str | bytes):
        data = source if isinstance(source, Mapping) else getattr(source, "dataset", None)
        found = data.get(key) if isinstance(data, Mapping) else None
        if found is None:
            index = getattr(
                source, {"images": "imgs", "annotations": "anns", "categories": "cats"}[key], None
            )
            found = list(index.values()) if isinstance(index, Mapping) else None
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise InputError(
            f"{name}: expected a COCO object or its dict with {key!r}, got {type(source).__name__}"
        )
    check_objects(found, f"{name}: {key}")
    return found


def chosen(
    gt: Any, dt: Any, images: Sequence[int], categories: Sequence[int], by_category: bool
) -> tuple[Document, Document]:
    """Ground truth and predictions of some images and categories.

    Images that the ground truth does not know are images without annotations. Without ``by_category`` all
    categories become one, in their order.
    """
    images_there = records(gt, "images", "cocoGt")
    known = dict(zip(integers(images_there, "id", "cocoGt: image").tolist(), images_there, strict=True))
    place = {c: i for i, c in enumerate(categories)}

    def some(source: Any, where: str) -> list[Record]:
        of = records(source, "annotations", where.split(":")[0])
        image, category = (integers(of, key, where) for key in ("image_id", "category_id"))
        rows = np.flatnonzero(np.isin(image, images) & np.isin(category, categories)).tolist()
        if by_category:
            return [_plain(of[i]) for i in rows]
        rows.sort(key=lambda i: place[int(category[i])])
        return [{**_plain(of[i]), "category_id": ANY_CATEGORY} for i in rows]

    content = {
        "images": [known.get(i, {"id": i}) for i in images],
        "categories": [{"id": c} for c in (categories if by_category else [ANY_CATEGORY])],
        "annotations": some(gt, "cocoGt: annotation"),
    }
    return Document(content, "cocoGt", None), Document(some(dt, "cocoDt: prediction"), "cocoDt", None)


def _plain(record: Record) -> Record:
    """With lists for arrays: ``loadRes`` gives masks' boxes as such."""
    arrays = {k: v.tolist() for k in ("bbox", "keypoints") if isinstance(v := record.get(k), np.ndarray)}
    return {**record, **arrays} if arrays else record


def read(gt: Document, dt: Document, kind: str, sigmas: Floats, how: Rules, use_area: bool) -> Inputs:
    """What the evaluation of a kind (``iouType``) needs.

    Args:
        sigmas: (K,), for keypoints.
        use_area: False takes 0.53 w h of annotations' boxes for their areas (keypoints only).

    Raises:
        InputError: missing or malformed fields.
    """
    given = "area" if dt.content and all("area" in r for r in dt.content) else None
    mixed = how.mixed_boxes or given is not None
    if kind in ("bbox", "segm"):
        truth = gt.ground_truth()
        found = dt.predictions(truth, need_boxes=kind == "bbox", mixed_boxes=mixed)
    else:
        k = FIELDS["body"][1] if kind in PARTS else len(sigmas)
        truth = gt.ground_truth(keypoints=k, need_area=use_area)
        found = dt.predictions(truth, keypoints=k, mixed_boxes=mixed)
    if given:
        found = replace(found, area=numbers(dt.content, given, "cocoDt: prediction", ()))
    if kind == "bbox":
        return Inputs(truth, found, iou_of_pairs(found.boxes, truth.boxes, truth.crowd), truth.crowd)
    if kind == "segm":
        return _masks(gt, dt, truth, found, how, given is not None)
    if not use_area:
        truth = replace(truth, area=truth.boxes[:, 2] * truth.boxes[:, 3] * FILL)
    return _keypoints(gt, dt, kind, truth, found, sigmas, how)


def _masks(
    gt: Document, dt: Document, truth: GroundTruth, found: Predictions, how: Rules, has_area: bool
) -> Inputs:
    sizes = truth.image_sizes
    annotated = read_masks(gt.records("annotations"), sizes[truth.image], "cocoGt: annotation", truth.ids)
    predicted = read_masks(dt.content, sizes[found.image], "cocoDt: prediction")
    if not has_area and not (len(found) and np.isfinite(found.boxes[0, 0])):
        found = replace(found, area=predicted.area.astype(np.float64))
    return Inputs(truth, found, mask_iou_of_pairs(predicted, annotated, truth.crowd, how), truth.crowd)


def _keypoints(
    gt: Document, dt: Document, kind: str, truth: GroundTruth, found: Predictions, sigmas: Floats, how: Rules
) -> Inputs:
    if kind in PARTS:
        part = PARTS[kind]
        truth = replace(truth, keypoints=by_part(gt.records("annotations"), "cocoGt: annotation")[part])
        found = replace(
            found,
            keypoints=by_part(dt.content, "cocoDt: prediction")[part],
            scores=part_scores(dt.content, part, "cocoDt"),
        )
    return Inputs(truth, found, *plain_oks(truth, found, sigmas, how))
