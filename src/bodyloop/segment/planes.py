"""What a crop segmenter is told of a person, as planes over the crop: one definition for training and for use.

Everything is drawn on cells of 4x4 crop px (a quarter of the network's input, in both axes), values in -1..1. Maps of
any skeleton become seven planes of body parts by the names of their keypoints; what no name says becomes "points".
A plane of something that is not known is 0 everywhere; of a box or mask that is known, 1 inside and -1 outside, so
that "outside" and "not known" differ.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from bodyloop.skeletons import Skeleton

Floats = npt.NDArray[np.float32]
Size = tuple[int, int]

CELL = 4  # crop px a side
PARTS: dict[str, tuple[str, ...]] = {  # by what occurs in a keypoint's name
    "head": (
        "head",
        "nose",
        "eye",
        "ear",
        "mouth",
        "lip",
        "jaw",
        "chin",
        "brow",
        "nostril",
        "inner_corner",
        "face",
    ),
    "shoulders": ("shoulder", "neck", "thorax"),
    "elbows": ("elbow",),
    "wrists": ("wrist", "hand", "thumb", "finger", "index_tip", "middle_tip", "ring_tip", "little_tip"),
    "hips": ("hip", "pelvis"),
    "knees": ("knee",),
    "ankles": ("ankle", "toe", "heel", "foot"),
}
PLANES = (*PARTS, "limbs", "points", "box", "mask", "others", "others_mask")
MAPPED = len(PARTS) + 1  # planes that come from maps: parts and limbs
FULL = 0.04  # share of a map's mass in one cell from which on the keypoint counts as found
FAR = 10_000.0  # crop px; further away nothing is drawn
DOT = 1  # radius of a point, cells
_SHIFT = 4  # bits behind the point where OpenCV draws
_BIT = 1 << _SHIFT


def grid_of(size: Size) -> Size:
    """(w, h) cells of the planes over a crop of ``size`` (w, h) px."""
    return size[0] // CELL, size[1] // CELL


def part_of(name: str) -> str | None:
    """The body part that a keypoint's name speaks of; None if it is none of ours."""
    # "ear" also occurs in "forearm": the longest word that occurs decides
    hits = [(len(word), part) for part, words in PARTS.items() for word in words if word in name]
    return max(hits)[1] if hits else None


@cache
def _columns(names: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Indices of the keypoints of each part."""
    parts = [part_of(n) for n in names]
    return tuple(tuple(i for i, p in enumerate(parts) if p == part) for part in PARTS)


@cache
def _resampling(cells: int, pixels: int, given: int) -> Floats:
    """(cells, given): from map cells (corners on the crop's corners) to the middles of the planes' cells, linear."""
    at = (np.arange(cells) * CELL + (CELL - 1) / 2) * (given - 1) / (pixels - 1)
    weights = np.clip(1 - np.abs(at[:, None] - np.arange(given)), 0, None)
    out: Floats = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return out


def certainty(maps: npt.NDArray[np.floating]) -> Floats:
    """Maps (N, K, h', w') to 0..1: the root of each cell's share of the mass, 1 from `FULL` on.

    Probability maps and heat maps of any height come out alike; what is spread out, or hardly there, is faint.
    NaN (no map) is 0.
    """
    m = np.nan_to_num(np.asarray(maps, np.float32), copy=True, nan=0.0, posinf=0.0, neginf=0.0)
    np.maximum(m, 0, out=m)
    mass = np.maximum(m.sum(axis=(2, 3), keepdims=True), 1.0)
    out: Floats = np.sqrt(np.minimum(m / (mass * FULL), 1.0))
    return out


def peaks(sure: Floats, size: Size) -> tuple[npt.NDArray[np.float64], Floats]:
    """Where `certainty` (N, K, h', w') is highest: (N, K, 2) crop px, and how high (N, K)."""
    n, k, h, w = sure.shape
    flat = sure.reshape(n, k, h * w)
    y, x = np.divmod(flat.argmax(axis=2), w)
    points = np.stack([x * (size[0] - 1) / (w - 1), y * (size[1] - 1) / (h - 1)], axis=-1)
    return points, flat.max(axis=2)


def map_planes(sure: Floats, skeleton: Skeleton, size: Size) -> Floats:
    """(N, MAPPED, h, w): the parts' planes and that of the limbs, from `certainty` (N, K, h', w')."""
    w, h = grid_of(size)
    out = np.zeros((len(sure), MAPPED, h, w), np.float32)
    down, across = _resampling(h, size[1], sure.shape[2]), _resampling(w, size[0], sure.shape[3])
    for plane, columns in enumerate(_columns(skeleton.keypoints)):
        if columns:
            out[:, plane] = down @ sure[:, list(columns)].max(axis=1) @ across.T
    points, heights = peaks(sure, size)
    for i in range(len(sure)):
        out[i, -1] = limbs(points[i : i + 1], heights[i : i + 1], skeleton, size)
    return out


def unnamed_plane(sure: Floats, size: Size) -> Floats:
    """(N, h, w): all maps in one plane, for maps whose keypoints nobody names."""
    w, h = grid_of(size)
    down, across = _resampling(h, size[1], sure.shape[2]), _resampling(w, size[0], sure.shape[3])
    out: Floats = down @ sure.max(axis=1) @ across.T
    return out


def limbs(
    points: npt.NDArray[np.floating], sure: npt.NDArray[np.floating], skeleton: Skeleton, size: Size
) -> Floats:
    """(h, w): the limbs and keypoints of P people, as bright as they are sure; nothing for NaN.

    Args:
        points: (P, K, 2) crop px. sure: (P, K) 0..1; a limb is as sure as its fainter end.
    """
    import cv2

    w, h = grid_of(size)
    canvas = np.zeros((h, w), np.uint8)
    known = np.isfinite(points).all(axis=-1) & np.isfinite(sure)
    bright = np.where(known, np.clip(np.nan_to_num(sure), 0, 1) * 255, 0).astype(np.int64)
    links = np.array(
        [*skeleton.links, *((k, k) for k in range(len(skeleton)))]
    )  # a keypoint joined with itself
    ends = _fixed(np.where(known[..., None], points, 0.0))[:, links].reshape(-1, 2, 2)
    value = bright[:, links].min(axis=-1).ravel()
    reach = 2 * _BIT  # half the thickness, and OpenCV's rounding
    near = (ends.max(axis=1) > -reach).all(axis=1)
    near &= (ends.min(axis=1) < np.array([w, h]) * _BIT + reach).all(axis=1)
    order = np.argsort(value, kind="stable")  # the surest on top
    order = order[((value > 0) & near)[order]]
    for (a, b), v in zip(ends[order].tolist(), value[order].tolist(), strict=True):
        cv2.line(canvas, a, b, v, thickness=2, shift=_SHIFT)
    out: Floats = canvas.astype(np.float32) / np.float32(255)
    return out


def dots(points: npt.NDArray[np.floating], size: Size) -> Floats:
    """(h, w): a disc at each of P points (P, 2) crop px."""
    import cv2

    w, h = grid_of(size)
    canvas = np.zeros((h, w), np.uint8)
    for at in _fixed(np.asarray(points, np.float64).reshape(-1, 2)).tolist():
        cv2.circle(canvas, at, DOT * _BIT, 1, thickness=-1, shift=_SHIFT)
    return canvas.astype(np.float32)


def box_plane(box: npt.ArrayLike, size: Size) -> Floats:
    """(h, w): 1 in cells that a box ``x1 y1 x2 y2`` (crop px) covers, -1 in others, in between at its sides."""
    w, h = grid_of(size)
    x1, y1, x2, y2 = np.asarray(box, np.float64).tolist()

    def covered(low: float, high: float, n: int) -> Floats:
        start = np.arange(n) * float(CELL) - 0.5  # of pixels, whose centres lie at whole numbers
        inside = np.minimum(start + CELL, high) - np.maximum(start, low)
        out: Floats = np.clip(inside / CELL, 0, 1).astype(np.float32)
        return out

    out: Floats = 2 * covered(y1, y2, h)[:, None] * covered(x1, x2, w)[None] - 1
    return out


def mask_plane(mask: npt.NDArray[np.generic]) -> Floats:
    """(h, w) -1..1: how much of each cell a mask (4h, 4w) 0/1 over the crop covers."""
    return 2 * share(mask) - 1


def share(mask: npt.NDArray[np.generic]) -> Floats:
    """(h, w) 0..1: how much of each cell a mask (4h, 4w) 0/1 over the crop covers."""
    h, w = mask.shape
    cells = np.asarray(mask, np.float32).reshape(h // CELL, CELL, w // CELL, CELL)
    out: Floats = cells.mean(axis=(1, 3), dtype=np.float32)
    return out


def _fixed(points: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Crop px (..., 2) to cells in OpenCV's fixed point."""
    cells = (np.clip(points, -FAR, FAR) - (CELL - 1) / 2) / CELL
    return np.asarray(np.rint(cells * _BIT), np.int64)
