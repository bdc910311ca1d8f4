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
from bodyloop.eval.reading import GroundTruth, Predictions, Record, numbers
from bodyloop.eval.wholebody import FIELDS, SIGMAS, by_part, part_scores

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


def records(source: Any, key: str) -> Sequence[Record]:
    """The ``images``, ``annotations`` or ``categories`` of a COCO object, of its dict, or of a list of results.

    Raises:
        InputError: it has none.
    """
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        return source
    data = source if isinstance(source, Mapping) else getattr(source, "dataset", None)
    if isinstance(data, Mapping) and isinstance(data.get(key), Sequence):
        return list(data[key])
    index = getattr(source, {"images": "imgs", "annotations": "anns", "categories": "cats"}[key], None)
    if isinstance(index, Mapping):
        return list(index.values())
    raise InputError(f"expected a COCO object or its dict with {key!r}, got {type(source).__name__}")


def chosen(
    gt: Any, dt: Any, images: Sequence[int], categories: Sequence[int], by_category: bool
) -> tuple[Document, Document]:
    """Ground truth and predictions of some images and categories.

    Images that the ground truth does not know are images without annotations. Without ``by_category`` all
    categories become one, in their order.
    """
    known = {r.get("id"): r for r in records(gt, "images")}
    wanted, place = set(images), {c: i for i, c in enumerate(categories)}

    def elsewhere(r: Record) -> bool:
        """Whether it is of another image or category; what is malformed is not: reading complains of it."""
        if not isinstance(r, Mapping):
            return False
        image, category = r.get("image_id"), r.get("category_id")
        whole = isinstance(image, int | np.integer) and isinstance(category, int | np.integer)
        return whole and (image not in wanted or category not in place)

    def some(of: Sequence[Record]) -> list[Record]:
        found = [_plain(r) for r in of if not elsewhere(r)]
        if by_category or not all(isinstance(r, Mapping) and r.get("category_id") in place for r in found):
            return found
        found.sort(key=lambda r: place[r["category_id"]])
        return [{**r, "category_id": ANY_CATEGORY} for r in found]

    content = {
        "images": [known.get(i, {"id": i}) for i in images],
        "categories": [{"id": c} for c in (categories if by_category else [ANY_CATEGORY])],
        "annotations": some(records(gt, "annotations")),
    }
    return Document(content, "cocoGt", None), Document(some(records(dt, "annotations")), "cocoDt", None)


def _plain(record: Record) -> Record:
    """With lists for arrays: ``loadRes`` gives masks' boxes as such."""
    if not isinstance(record, Mapping):
        return record
    arrays = {k: v.tolist() for k in ("bbox", "keypoints") if isinstance(v := record.get(k), np.ndarray)}
    return {**record, **arrays} if arrays else record


def read(gt: Document, dt: Document, kind: str, sigmas: npt.ArrayLike, how: Rules, use_area: bool) -> Inputs:
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
        k = FIELDS["body"][1] if kind in PARTS else np.size(sigmas)
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
    return _keypoints(gt, dt, kind, truth, found, np.asarray(sigmas, np.float64), how)


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
