"""The double map (ProbPose-DH): an outer map that looks around the crop and an inner one that looks closely.

The outer map decides, the inner one refines: a keypoint is read from the inner map if its outer point lies in
the crop and within the person's box, else from the outer map. Both maps have the same number of cells, so the
inner one is the finer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.geometry import Crop, as_boxes
from bodyloop.maps.decode import Decoder, decode
from bodyloop.maps.layers import ProbabilityMaps

Array = npt.NDArray[np.floating]

OUTER_PADDING = 1.25  # size of the outer window relative to the crop


@dataclass(frozen=True, eq=False)
class Merged:
    """Points of the double map.

    Attributes:
        points: (N, K, 2) float64, image px.
        scores: (N, K) float32, value of the map that the point was read from.
        from_inner: (N, K) bool, the inner map was taken.
    """

    points: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float32]
    from_inner: npt.NDArray[np.bool_]


def merge_double(
    maps: ProbabilityMaps,
    boxes: npt.ArrayLike,
    image_size: tuple[int, int],
    how: Decoder = "expected_oks",
) -> Merged:
    """Decode both layers and take each keypoint from the one that is in charge of it.

    Args:
        maps: with layers "inner" and "outer".
        boxes: (N, 4) the people's boxes without padding, image px; may stick out of the picture.
        image_size: (w, h) of the picture.
    """
    inner, outer = maps.layer("inner"), maps.layer("outer")
    near = decode(inner.values, how, maps.variances)
    far = decode(outer.values, how, maps.variances)
    far_points = outer.crop.from_map(far.points)
    take = in_box(inner.crop.to_crop(far_points), inner.crop, boxes, image_size)
    points, scores = merge_points(inner.crop.from_map(near.points), near.scores, far_points, far.scores, take)
    return Merged(points, scores, take)


def merge_points(
    inner: Array,
    inner_scores: npt.NDArray[np.float32],
    outer: Array,
    outer_scores: npt.NDArray[np.float32],
    take_inner: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    """Points (N, K, 2) and scores (N, K): of the inner map where ``take_inner`` (N, K), else of the outer."""
    return np.where(take_inner[..., None], inner, outer).astype(np.float64), np.where(
        take_inner, inner_scores, outer_scores
    )


def in_box(
    points: Array, crop: Crop, boxes: npt.ArrayLike, image_size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Which points lie in the crop and on the person's box as the crop shows it.

    The reference draws the box, clipped to the picture, as a mask of whole pixels, warps it like the picture
    (bilinear) and looks at the pixel that holds the point. That pixel is 1 where the bilinear weights of the
    box's pixels reach one half, which is computed here without drawing.

    Args:
        points: (N, K, 2) crop px; NaN is outside.
        boxes: (N, 4) image px, without padding.
        image_size: (w, h).
    Returns: (N, K) bool.
    """
    p = np.asarray(points, np.float64)
    b = as_boxes(boxes)
    if p.ndim != 3 or len(p) != len(crop) or len(b) != len(crop):
        raise InputError(f"in_box: {len(crop)} windows, points of shape {p.shape}, {len(b)} boxes")
    w, h = crop.size
    in_crop = (p >= 0).all(axis=-1) & (p[..., 0] < w) & (p[..., 1] < h)
    pixel = crop.from_crop(np.trunc(np.where(in_crop[..., None], p, 0)))
    limit = np.array([image_size[0], image_size[1]], np.float64)
    low = np.trunc(np.clip(b[:, :2], 0, limit))[:, None]  # first and one past the last pixel of the box
    high = np.trunc(np.clip(b[:, 2:], 0, limit))[:, None]
    share = np.clip(np.minimum(pixel - low + 1, high - pixel), 0, 1) * (high > low)
    return np.asarray(in_crop & (share.prod(axis=-1) >= 0.5))
