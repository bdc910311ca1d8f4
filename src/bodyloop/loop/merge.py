"""Who is whom, and whose pixel is whose: pose NMS, exclusive masks, painting out what is known.

Masks are worked on where they overlap, as bitmaps cut to their boxes; no stack of full pictures is made.

Source: BBoxMaskPose (ICCV 2025). Its OKS takes box corners for x, y, width and height; here areas are right
unless `Parity.boxes_as_xywh` says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bodyloop.images import Image
from bodyloop.loop.config import LoopConfig
from bodyloop.loop.joints import Ints, compared, confidences
from bodyloop.masks import Masks
from bodyloop.oks import kernel, variances
from bodyloop.people import People

Similarity = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Lost:
    """Why somebody was removed: to whom, and how alike their poses are (OKS)."""

    to: int
    oks: float


def pose_similarity(people: People, config: LoopConfig) -> tuple[Similarity, Ints]:
    """OKS (N, N) of poses with row i in the role of the truth, and (N,) how many keypoints each has above
    ``config.confidence``.

    Only the truth's keypoints above that confidence count. Without any, the others' keypoints are measured by
    how far they lie outside its box, grown by its own size on every side, as COCO does. The matrix is not
    symmetric: keypoints that count differ, and areas unless ``config.compare_larger``.
    """
    assert people.keypoints is not None and people.boxes is not None and people.skeleton is not None
    at = compared(people.skeleton)
    points = people.keypoints[:, at].astype(np.float64)
    sure = confidences(people)[:, at] > config.confidence
    boxes = people.boxes.astype(np.float64)
    sides = boxes[:, 2:] if config.parity.boxes_as_xywh else boxes[:, 2:] - boxes[:, :2]
    apart = points[None] - points[:, None]
    unseen = np.asarray(~sure.any(axis=1))
    if unseen.any():
        apart[unseen] = _beyond(points, boxes[unseen], config)
    squared = np.nan_to_num((apart**2).sum(axis=3), nan=np.inf)
    own = sides.prod(axis=1)
    areas = np.maximum(own[:, None], own) if config.compare_larger else own[:, None]
    each = kernel(squared, variances(people.skeleton.sigma_array[at]), areas[..., None])
    counted = (sure | unseen[:, None])[:, None]
    return np.where(counted, each, 0).sum(axis=2) / counted.sum(axis=2), sure.sum(axis=1)


def _beyond(points: Similarity, boxes: Similarity, config: LoopConfig) -> Similarity:
    """(M, N, K, 2) how far points (N, K, 2) lie outside the grown boxes (M, 4), 0 inside."""
    sides = boxes[:, 2:] - boxes[:, :2]
    if config.parity.boxes_as_xywh:  # "corners" of what are corners already, then taken for the sides
        sides = boxes[:, :2] + boxes[:, 2:]
    low, high = boxes[:, :2] - sides, boxes[:, :2] + 2 * sides
    p = points[None]
    return np.maximum(low[:, None, None] - p, 0) + np.maximum(p - high[:, None, None], 0)


def pose_nms(
    similarity: Similarity, strength: Ints, threshold: float, *, whole_groups: bool = False
) -> dict[int, Lost]:
    """Whom to remove so that no two poses are more alike than the threshold; always the weaker of two.

    The most alike go first. Somebody removed removes nobody else, so that one of each group stays.

    Args:
        similarity: (N, N) of `pose_similarity`.
        strength: (N,); of equals the one in the role of the truth, which is the larger one, goes.
        whole_groups: somebody removed goes on removing others, until perhaps nobody is left (parity).
    """
    m = similarity.copy()
    np.fill_diagonal(m, -1)
    lost: dict[int, Lost] = {}
    while m.size and m.max() > threshold:
        i, j = divmod(int(m.argmax()), len(m))
        gone, by = (j, i) if strength[i] > strength[j] else (i, j)
        lost.setdefault(gone, Lost(by, float(m[i, j])))
        m[:, gone] = 0
        m[gone, j] = 0
        if not whole_groups:
            m[gone] = 0
    return lost


def exclusive(masks: Masks, claims: Sequence[float] | npt.NDArray[np.floating]) -> Masks:
    """Every pixel to the one with the highest claim of those whose mask has it; of equals to the first."""
    order = np.argsort(-np.asarray(claims, np.float64), kind="stable")
    boxes = masks.boxes
    out = [masks[i] for i in range(len(masks))]
    for place, i in enumerate(order.tolist()):
        x, y, bits = masks.cut(i)
        mine: npt.NDArray[np.bool_] | None = None
        for better in order[:place].tolist():
            low = np.maximum(boxes[i, :2], boxes[better, :2])
            high = np.minimum(boxes[i, 2:], boxes[better, 2:])
            if not (high > low).all():  # apart, or one has no mask
                continue
            (x1, y1), (x2, y2) = low.astype(int).tolist(), high.astype(int).tolist()
            bx, by, theirs = masks.cut(better)
            mine = bits.copy() if mine is None else mine
            mine[y1 - y : y2 - y, x1 - x : x2 - x] &= ~theirs[y1 - by : y2 - by, x1 - bx : x2 - bx]
        if mine is not None:
            out[i] = Masks.from_cuts([(x, y, mine)], masks.size)
    return Masks.concat(out) if out else masks


def claims(parts: Sequence[People], mask_scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """(N,) with what everybody claims its pixels: the mask's score, where there is none the box's, else 1."""
    boxes = [np.full(len(p), np.nan) if p.scores is None else p.scores for p in parts]
    some = np.where(np.isfinite(mask_scores), mask_scores, np.concatenate(boxes))
    return np.where(np.isfinite(some), some, 1.0)


def changed(before: Masks, after: Masks) -> Bools:
    """(N,) whether masks differ."""

    def differs(i: int) -> bool:
        (x, y, a), (u, v, b) = before.cut(i), after.cut(i)
        return a is not b and ((x, y) != (u, v) or not np.array_equal(a, b))

    return np.array([differs(i) for i in range(len(before))], bool)


def masked_out(image: Image, masks: Masks) -> Image:
    """The picture with all pixels of all masks black; the picture itself if there are none."""
    if not masks.present.any():
        return image
    import cv2

    kept = np.logical_not(masks.union()).view(np.uint8)
    # a product, as numpy takes twenty times as long to set the three channels of chosen pixels
    return replace(image, pixels=np.multiply(image.pixels, cv2.merge([kept, kept, kept])))
