"""From a segmenter's small maps of logits to masks of the picture, and from pictures and masks to its input.

A map covers the whole picture, stretched. Above 0 is the person. Tiny holes and specks can be taken out of the
small map; it is then enlarged bilinearly, but only where something can come out above 0, so that no picture-sized
floats are held. Source: SAM 2, post-processing of its image predictor.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bodyloop.masks import Bits, Masks

Floats = npt.NDArray[np.float32]

FILLED, REMOVED = 10.0, -10.0  # logits of filled holes and of removed specks
GIVEN = 10.0  # logit of a pixel of a mask that comes as a prompt; minus this outside


def tidy(logits: Floats, max_hole: int, max_sprinkle: int) -> Floats:
    """Without background areas of at most ``max_hole`` and islands of at most ``max_sprinkle`` px (0: as it is).

    Both are looked for in the map as it came, connected over edges and corners: a hole in an island that goes is
    filled nevertheless.

    Args:
        logits: (h, w).
    """
    out = logits
    for inside, limit, value in ((logits <= 0, max_hole, FILLED), (logits > 0, max_sprinkle, REMOVED)):
        if limit > 0:
            out = np.where(_small(inside, limit), np.float32(value), out)
    return out


def _small(inside: Bits, limit: int) -> Bits:
    """Pixels of 8-connected areas of at most ``limit`` px."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(inside.astype(np.uint8), connectivity=8)
    small = stats[:, cv2.CC_STAT_AREA] <= limit
    small[0] = False  # all that is not inside
    return np.asarray(small[labels], np.bool_)


def as_masks(logits: Floats, size: tuple[int, int], *, max_hole: int = 0, max_sprinkle: int = 0) -> Masks:
    """Masks of a picture of ``size`` (w, h) from N maps (N, h, w) of logits."""
    return Masks.from_cuts([_cut(tidy(m, max_hole, max_sprinkle), size) for m in logits], size)


def _cut(logits: Floats, size: tuple[int, int]) -> tuple[int, int, Bits] | None:
    """(x0, y0, bitmap) of where the enlarged map is above 0; None: nowhere."""
    inside = logits > 0
    ranges = []
    for axis, length in ((1, size[1]), (0, size[0])):  # rows, then columns
        there = np.flatnonzero(inside.any(axis=axis))
        if not len(there):
            return None
        at = _positions(inside.shape[1 - axis], length)
        near = np.flatnonzero((at > there[0] - 1) & (at < there[-1] + 1))
        if not len(near):  # fewer pixels than the map has, and none of them here
            return None
        ranges.append((int(near[0]), int(near[-1]) + 1))
    rows, columns = ranges
    return columns[0], rows[0], enlarged(logits, size, rows, columns) > 0


def _positions(source: int, target: int) -> npt.NDArray[np.float64]:
    """Where the centres of ``target`` cells lie among those of ``source`` cells."""
    at = (np.arange(target) + 0.5) * (source / target) - 0.5
    return np.asarray(np.maximum(at, 0), np.float64)


def enlarged(
    logits: Floats,
    size: tuple[int, int],
    rows: tuple[int, int] | None = None,
    columns: tuple[int, int] | None = None,
) -> Floats:
    """A map (h, w) sampled bilinearly at the pixels of a picture of ``size`` (w, h), or at some rows and columns."""
    y, x = _positions(logits.shape[0], size[1]), _positions(logits.shape[1], size[0])
    tall = _mixed(logits, y if rows is None else y[slice(*rows)], 0)
    return _mixed(tall, x if columns is None else x[slice(*columns)], 1)


def _mixed(values: Floats, at: npt.NDArray[np.float64], axis: int) -> Floats:
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    share = (at - low).astype(np.float32)
    if axis == 0:
        share = share[:, None]
    out = values.take(low, axis) * (1 - share) + values.take(high, axis) * share
    return np.asarray(out, np.float32)


def from_mask(mask: Masks, size: tuple[int, int]) -> Floats:
    """The map (h, w) that says what a mask (one) says, for a prompt; ``size`` (w, h) of the map."""
    return (stretched(mask.bitmap(0).astype(np.float32)[..., None], size)[..., 0] - 0.5) * (2 * GIVEN)


def stretched(pixels: npt.NDArray[np.generic], size: tuple[int, int]) -> Floats:
    """(H, W, C) resized to ``size`` (w, h) in floats, bilinear; averaged over all that a pixel covers if it shrinks."""
    import cv2
    from PIL import Image

    values = pixels.astype(np.float32)
    if size[0] >= pixels.shape[1] and size[1] >= pixels.shape[0]:
        grown = cv2.resize(values, size, interpolation=cv2.INTER_LINEAR)
        return np.asarray(grown, np.float32).reshape(size[1], size[0], -1)
    channels = [  # OpenCV would skip pixels; Pillow resizes floats one channel at a time
        np.asarray(
            Image.fromarray(np.ascontiguousarray(values[..., c])).resize(size, Image.Resampling.BILINEAR)
        )
        for c in range(values.shape[2])
    ]
    return np.stack(channels, axis=-1)
