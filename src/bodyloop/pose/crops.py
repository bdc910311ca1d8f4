"""Crops: from a picture, windows and masks to the network's input.

One warp for everything. The picture is never copied: without a mask it is warped as it is; with one, only the
rectangle that the window touches is dimmed outside the mask, and that is warped. The arithmetic of windows
stands in `Crop`, masks in `Masks`; what a model wants (size, dimming, colours) comes in as arguments.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bodyloop.geometry import Crop
from bodyloop.masks import Masks, dim_lut, reference_detour
from bodyloop.pose.parity import NONE, Parity

Pixels = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]
Rectangle = tuple[int, int, int, int]


def warp_crops(
    pixels: Pixels,
    crop: Crop,
    masks: Masks | None = None,
    alpha: float | None = None,
    parity: Parity = NONE,
) -> Pixels:
    """Cut N windows out of a picture; what lies outside the picture is black.

    Args:
        pixels: (H, W, 3) uint8.
        crop: the N windows.
        masks: N masks; people without one are cut as they are.
        alpha: how much everything outside a mask is dimmed, 0 to 1; None ignores masks.
        parity: switches that repeat the reference.

    Returns: (N, h, w, 3) uint8 in the channel order of ``pixels``.
    """
    out = np.empty((len(crop), crop.size[1], crop.size[0], 3), np.uint8)
    lut = None if masks is None or alpha is None else dim_lut(alpha)
    present = None if masks is None else masks.present
    rectangles = source_rectangles(crop, (pixels.shape[1], pixels.shape[0]))
    for i, matrix in enumerate(crop.matrix.astype(np.float64)):
        source, at = pixels, (0, 0)
        if lut is not None and masks is not None and present is not None and present[i]:
            source, at = _dimmed(pixels, rectangles[i], _bits(masks, i, parity), lut)
        if source.size == 0:
            out[i] = 0
        elif parity.opencv4_warp:
            out[i] = warp_opencv4(source, matrix, crop.size, at)
        else:
            _warp(source, matrix, at, out[i])
    return out


def normalise(
    crops: Pixels, mean: tuple[float, float, float], std: tuple[float, float, float], order: str = "rgb"
) -> npt.NDArray[np.float32]:
    """Crops (N, h, w, 3) uint8 RGB to (N, 3, h, w) float32, ``(x - mean) / std``, in ``order``.

    Mean and std are in RGB order on 0..255 values. For networks that do not normalise by themselves.
    """
    scale = 1.0 / np.asarray(std, np.float64)
    table = ((np.arange(256)[:, None] - np.asarray(mean, np.float64)) * scale).astype(np.float32)
    channels = (0, 1, 2) if order == "rgb" else (2, 1, 0)
    out = np.empty((len(crops), 3, *crops.shape[1:3]), np.float32)
    for to, c in enumerate(channels):
        np.take(table[:, c], crops[..., c], out=out[:, to])
    return out


def source_rectangles(crop: Crop, size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """(N, 4) x1 y1 x2 y2 (half open): the pixels that each window's interpolation touches."""
    w, h = crop.size
    corners = np.array([[0, 0], [w - 1, 0], [0, h - 1], [w - 1, h - 1]], np.float64)
    points = crop.from_crop(np.broadcast_to(corners, (len(crop), 4, 2)))
    low = np.floor(points.min(axis=1)) - 1
    high = np.ceil(points.max(axis=1)) + 2
    limit = np.array(size, np.float64)
    return np.concatenate([np.clip(low, 0, limit), np.clip(high, 0, limit)], axis=1).astype(np.int64)


def _bits(masks: Masks, i: int, parity: Parity) -> tuple[int, int, npt.NDArray[np.bool_]]:
    if not parity.mask_detour:
        return masks.cut(i)
    drawn = reference_detour(masks.bitmap(i))
    # a mask that the detour wipes out counts as no mask
    return (0, 0, drawn if drawn.any() else np.ones_like(drawn))


def _dimmed(
    pixels: Pixels,
    rectangle: npt.NDArray[np.int64],
    mask: tuple[int, int, npt.NDArray[np.bool_]],
    lut: npt.NDArray[np.uint8],
) -> tuple[Pixels, tuple[int, int]]:
    """The rectangle of the picture, dimmed outside the mask, and its upper left corner (x, y)."""
    import cv2

    x1, y1, x2, y2 = (int(v) for v in rectangle)
    part = pixels[y1:y2, x1:x2]
    if part.size == 0:
        return part, (x1, y1)
    out = np.ascontiguousarray(cv2.LUT(part, lut), np.uint8)
    mx, my, bits = mask
    left, top = max(x1, mx), max(y1, my)
    right, bottom = min(x2, mx + bits.shape[1]), min(y2, my + bits.shape[0])
    if right > left and bottom > top:
        inside = bits[top - my : bottom - my, left - mx : right - mx].view(np.uint8)
        here = out[top - y1 : bottom - y1, left - x1 : right - x1]
        there = part[top - y1 : bottom - y1, left - x1 : right - x1]
        here[:] = cv2.copyTo(there, np.ascontiguousarray(inside), np.ascontiguousarray(here))
    return out, (x1, y1)


def _warp(source: Pixels, matrix: Matrix, at: tuple[int, int], out: Pixels) -> None:
    """`cv2.warpAffine` of a part of the picture whose upper left corner is ``at`` into ``out``."""
    import cv2

    moved = matrix.copy()
    moved[:, 2] += matrix[:, 0] * at[0] + matrix[:, 1] * at[1]
    size = (out.shape[1], out.shape[0])
    cv2.warpAffine(source, moved, size, out, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT, (0, 0, 0))


def warp_opencv4(
    source: Pixels, matrix: Matrix, size: tuple[int, int], at: tuple[int, int] = (0, 0)
) -> Pixels:
    """Bilinear warp with the integer arithmetic of OpenCV 4: sampling positions rounded to 1/32 px, border 0.

    Args:
        source: (H, W, 3) uint8, a part of the picture.
        matrix: (2, 3) picture px to output px, holding float32 numbers.
        size: (w, h) of the output.
        at: (x, y) of the part's upper left corner in the picture.

    Returns: (h, w, 3) uint8. Slower than OpenCV; for parity.
    """
    m = matrix
    determinant = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    d = 1.0 / determinant if determinant != 0 else 0.0
    a = np.array([[m[1, 1] * d, -m[0, 1] * d], [-m[1, 0] * d, m[0, 0] * d]])
    b = -(a[:, 0] * m[0, 2]) - a[:, 1] * m[1, 2]
    x, y = np.arange(size[0], dtype=np.float64), np.arange(size[1], dtype=np.float64)
    fixed = [
        (np.rint((a[k, 1] * y + b[k]) * 1024).astype(np.int64) + 16)[:, None]
        + np.rint(a[k, 0] * x * 1024).astype(np.int64)[None]
        - at[k] * 1024
        for k in (0, 1)
    ]
    (cx, fx), (cy, fy) = ((v >> 10, (v >> 5) & 31) for v in fixed)
    total = np.full((size[1], size[0], source.shape[2]), 1 << 14, np.int64)
    for dy, wy in ((0, 32 - fy), (1, fy)):
        for dx, wx in ((0, 32 - fx), (1, fx)):
            total += _at(source, cy + dy, cx + dx) * (wx * wy * 32)[..., None]
    return np.asarray(total >> 15, np.uint8)


def _at(source: Pixels, y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Pixels at integer positions, 0 outside."""
    h, w = source.shape[:2]
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    values = source[np.clip(y, 0, h - 1), np.clip(x, 0, w - 1)]
    return np.where(inside[..., None], values, 0).astype(np.int64)
