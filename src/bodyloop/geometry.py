"""Boxes and crop windows: the one place where this arithmetic lives.

x points right, y down; pixel centres are at integers in every grid (image, crop, map). Boxes are
``x1 y1 x2 y2`` as they stand in COCO files, with no half-pixel offset. A `Crop` holds N windows of one
image and maps points, covariances and boxes between three frames:

* image px: pixels of the photo as read,
* crop px: pixels of the network's input, size (w, h); corners of the window lie at (0, 0) and (w-1, h-1),
* map px: cells of the probability map, size (w, h); corners lie at (0, 0) and (w-1, h-1), too.

This is the UDP transform (Huang et al., CVPR 2020): grids are measured between pixel centres, so flips and
resizings commute with it. Source of the constants: ProbPose / ViTPose preprocessing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError

Array = npt.NDArray[np.floating]

PADDING = 1.25  # the published models see a quarter more than the person's box
WINDOW_RATIO = 0.75  # width to height of the published models' windows


def as_boxes(boxes: npt.ArrayLike, what: str = "boxes") -> npt.NDArray[np.float32]:
    """Check and convert boxes to (N, 4) float32 ``x1 y1 x2 y2``; sizes must be positive and finite.

    Raises:
        InputError: wrong shape, NaN or infinite numbers, or a box without area; the message names the box.
    """
    try:
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and said below
            a = np.asarray(boxes, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as e:
        raise InputError(f"{what}: expected numbers of shape (N, 4), got something else: {e}") from e
    if a.size == 0:
        return np.zeros((0, 4), np.float32)
    if a.ndim == 1 and a.shape == (4,):
        a = a[None]
    if a.ndim != 2 or a.shape[1] != 4:
        raise InputError(f"{what}: expected shape (N, 4) as x1 y1 x2 y2, got {a.shape}")
    bad = ~np.isfinite(a).all(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise InputError(f"{what}[{i}] = {a[i].tolist()}: numbers must be finite")
    empty = (a[:, 2] <= a[:, 0]) | (a[:, 3] <= a[:, 1])
    if empty.any():
        i = int(np.flatnonzero(empty)[0])
        raise InputError(
            f"{what}[{i}] = {a[i].tolist()}: x2 must exceed x1 and y2 exceed y1 "
            "(boxes are x1 y1 x2 y2; for COCO's x y width height use boxes_from_xywh)"
        )
    if np.abs(a).max() > 1e6:
        i = int(np.abs(a).max(axis=1).argmax())
        raise InputError(f"{what}[{i}] = {a[i].tolist()}: coordinates beyond a million pixels")
    return a


def boxes_from_xywh(xywh: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """COCO boxes (N, 4) ``x y width height`` to ``x1 y1 x2 y2``."""
    a = np.asarray(xywh, dtype=np.float32).reshape(-1, 4)
    return np.concatenate([a[:, :2], a[:, :2] + a[:, 2:]], axis=1)


def boxes_to_xywh(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Boxes (N, 4) ``x1 y1 x2 y2`` to COCO's ``x y width height``."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def iou(a: Array, b: Array) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes (N, 4) and (M, 4) in ``x1 y1 x2 y2``, as (N, M) float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = np.clip(high - low, 0, None).prod(axis=-1)
    area_a = (a[:, 2:] - a[:, :2]).prod(axis=1)
    area_b = (b[:, 2:] - b[:, :2]).prod(axis=1)
    union = area_a[:, None] + area_b[None] - inter
    out: npt.NDArray[np.float64] = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return out


def suppress(
    boxes: Array, scores: Array, threshold: float, *, limit: int | None = None, inclusive: bool = False
) -> npt.NDArray[np.int64]:
    """Greedy non-maximum suppression: of boxes that overlap, the best one stays.

    Results do not depend on the machine: equal scores are taken in the order in which they came.

    Args:
        boxes: (N, 4) ``x1 y1 x2 y2``. scores: (N,).
        threshold: a box goes if its IoU with a better one that stays is larger than this.
        limit: stop after so many survivors.
        inclusive: count sides as x2 - x1 + 1, as old pixel-index code does (a parity matter).
    Returns: indices of the survivors, best first.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    b = np.asarray(boxes, np.float64)[order]
    extra = 1.0 if inclusive else 0.0
    area = (b[:, 2:] - b[:, :2] + extra).prod(axis=1)
    alive = np.ones(len(b), bool)
    kept: list[int] = []
    for i in range(len(b)):
        if not alive[i]:
            continue
        kept.append(i)
        if limit is not None and len(kept) >= limit:
            break
        rest = np.flatnonzero(alive[i + 1 :]) + i + 1
        low = np.maximum(b[i, :2], b[rest, :2])
        high = np.minimum(b[i, 2:], b[rest, 2:])
        inter = np.clip(high - low + extra, 0, None).prod(axis=1)
        union = area[i] + area[rest] - inter
        alive[rest[inter > threshold * union]] = False
    return np.asarray(order[kept], np.int64)


def activation_windows(
    xywh: npt.ArrayLike, padding: float = PADDING, *, single: bool = False
) -> npt.NDArray[np.float64]:
    """Activation windows (N, 4) ``x1 y1 x2 y2`` of COCO boxes (N, 4) ``x y width height``, as labels see them.

    The box is widened on one axis to 3:4 around its centre, then padded. A side of 0 counts as 1 where the
    ratio is concerned. `Crop.from_boxes` rounds to float32 as networks do; here all is float64, so that labels
    do not depend on rounding, and boxes may be of no area.

    Args:
        single: round the sides to float32 and pad in float32, as the public evaluator of Ex-OKS does.
    """
    b = np.asarray(xywh, np.float64).reshape(-1, 4)
    w, h = b[:, 2], b[:, 3]
    some_w, some_h = np.where(w == 0, 1.0, w), np.where(h == 0, 1.0, h)
    wide = some_w / some_h > WINDOW_RATIO
    size = np.stack(
        [np.where(wide, w, WINDOW_RATIO * some_h), np.where(wide, some_w / WINDOW_RATIO, h)], axis=1
    )
    if single:
        size = (size.astype(np.float32) * np.float32(padding)).astype(np.float64)
    else:
        size = size * padding
    center = b[:, :2] + b[:, 2:] / 2
    return np.concatenate([center - size / 2, center + size / 2], axis=1)


def padding_to_contain(
    xywh: npt.ArrayLike, points: Array, *, single: bool = False
) -> npt.NDArray[np.float64]:
    """Least padding (N, K) with which each box's window would contain each point (N, K, 2); at least 1.

    Args:
        xywh: (N, 4) COCO boxes.
        points: (N, K, 2) px.
        single: as in `activation_windows`.
    """
    window = activation_windows(xywh, 1.0, single=single)[:, None]
    p = np.asarray(points, np.float64)
    beyond = np.maximum(np.maximum(window[..., :2] - p, p - window[..., 2:]), 0)
    size = window[..., 2:] - window[..., :2]
    needed = np.divide(beyond, size, out=np.where(beyond > 0, np.inf, 0.0), where=size > 0)
    return np.asarray(1 + 2 * needed.max(axis=-1))


@dataclass(frozen=True, eq=False)
class Crop:
    """N windows of one image, the network's input grid and its map grid.

    Attributes:
        center: (N, 2) float64, window centres in image px.
        scale: (N, 2) float64, width and height of the windows in image px (padding included).
        rotation: (N,) float64, degrees; the window turns clockwise on the screen (0 at inference).
        size: (w, h) of the crop in px.
        map_size: (w, h) of the map in px.
    """

    center: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]
    rotation: npt.NDArray[np.float64]
    size: tuple[int, int] = (192, 256)
    map_size: tuple[int, int] = (48, 64)

    @classmethod
    def from_boxes(
        cls,
        boxes: npt.ArrayLike,
        *,
        size: tuple[int, int] = (192, 256),
        map_size: tuple[int, int] = (48, 64),
        padding: float = PADDING,
        rotation: npt.ArrayLike = 0.0,
    ) -> Crop:
        """Windows around boxes (N, 4): padded, then widened on one axis to the aspect ratio of ``size``.

        Source: spec of the published preprocessing (top-down affine with padding 1.25, aspect w/h).
        """
        b = as_boxes(boxes)
        # float32 as in the reference: centre and scale are stored so before anything is derived from them
        center = (b[:, :2] + b[:, 2:]) * np.float32(0.5)
        wh = (b[:, 2:] - b[:, :2]) * np.float32(padding)
        aspect = size[0] / size[1]
        wide = wh[:, 0] > aspect * wh[:, 1]
        scale = np.where(
            wide[:, None],
            np.stack([wh[:, 0], wh[:, 0] / np.float32(aspect)], axis=1),
            np.stack([wh[:, 1] * np.float32(aspect), wh[:, 1]], axis=1),
        )
        angle = np.broadcast_to(np.asarray(rotation, np.float64), (len(b),)).copy()
        return cls(center.astype(np.float64), scale.astype(np.float64), angle, size, map_size)

    def __len__(self) -> int:
        return len(self.center)

    def __getitem__(self, index: slice | Sequence[int] | npt.NDArray[np.generic] | int) -> Crop:
        """The windows chosen by ``index``; an int gives a Crop of one window."""
        i = slice(index, index + 1 or None) if isinstance(index, int) else index
        return replace(self, center=self.center[i], scale=self.scale[i], rotation=self.rotation[i])

    @classmethod
    def concat(cls, crops: Sequence[Crop]) -> Crop:
        """Join windows of the same crop and map sizes."""
        first = crops[0]
        if any(c.size != first.size or c.map_size != first.map_size for c in crops):
            raise InputError("cannot join crops of different crop or map sizes")
        return replace(
            first,
            center=np.concatenate([c.center for c in crops]),
            scale=np.concatenate([c.scale for c in crops]),
            rotation=np.concatenate([c.rotation for c in crops]),
        )

    def enlarged(self, factor: float) -> Crop:
        """The same windows, ``factor`` times as large around the same centres (outer map of the double map)."""
        return replace(self, scale=self.scale * factor)

    @property
    def windows(self) -> npt.NDArray[np.float32]:
        """(N, 4) activation windows ``x1 y1 x2 y2`` in image px (of the unrotated window)."""
        half = self.scale / 2
        return np.concatenate([self.center - half, self.center + half], axis=1).astype(np.float32)

    def _to_grid(self, size: tuple[int, int]) -> npt.NDArray[np.float64]:
        """(N, 2, 3) matrices from image px to a grid of ``size`` = (w, h) cells spanning the window."""
        theta = np.deg2rad(self.rotation)
        cos, sin = np.cos(theta), np.sin(theta)
        ax, ay = (size[0] - 1) / self.scale[:, 0], (size[1] - 1) / self.scale[:, 1]
        cx, cy = self.center.T
        sw, sh = self.scale.T
        m = np.empty((len(self), 2, 3))
        m[:, 0] = np.stack([cos * ax, -sin * ax, ax * (-cx * cos + cy * sin + sw / 2)], axis=1)
        m[:, 1] = np.stack([sin * ay, cos * ay, ay * (-cx * sin - cy * cos + sh / 2)], axis=1)
        return m

    @property
    def matrix(self) -> npt.NDArray[np.float32]:
        """(N, 2, 3) float32 affine matrices from image px to crop px (UDP)."""
        return self._to_grid(self.size).astype(np.float32)

    def to_crop(self, points: Array) -> npt.NDArray[np.float64]:
        """Points (N, ..., 2) in image px to crop px."""
        return _apply(self._to_grid(self.size), points)

    def to_map(self, points: Array) -> npt.NDArray[np.float64]:
        """Points (N, ..., 2) in image px to map px."""
        return _apply(self._to_grid(self.map_size), points)

    def from_crop(self, points: Array) -> npt.NDArray[np.float64]:
        """Points (N, ..., 2) in crop px to image px (exact inverse of `to_crop`)."""
        return _apply(_invert(self._to_grid(self.size)), points)

    def from_map(self, points: Array) -> npt.NDArray[np.float64]:
        """Points (N, ..., 2) in map px to image px (exact inverse of `to_map`)."""
        return _apply(_invert(self._to_grid(self.map_size)), points)

    def crop_to_map(self, points: Array) -> npt.NDArray[np.float64]:
        """Points (..., 2) in crop px to map px; independent of the window."""
        return np.asarray(points, np.float64) * (np.array(self.map_size) - 1.0) / (np.array(self.size) - 1.0)

    def map_to_crop(self, points: Array) -> npt.NDArray[np.float64]:
        """Points (..., 2) in map px to crop px; independent of the window."""
        return np.asarray(points, np.float64) * (np.array(self.size) - 1.0) / (np.array(self.map_size) - 1.0)

    def covariance_from_map(self, covariance: Array) -> npt.NDArray[np.float64]:
        """Covariances (N, ..., 2, 2) in map px^2 to image px^2."""
        c = np.asarray(covariance, np.float64)
        lin = _invert(self._to_grid(self.map_size))[:, :, :2]
        lin = lin.reshape(len(self), *([1] * (c.ndim - 3)), 2, 2)
        return np.asarray(lin @ c @ np.swapaxes(lin, -1, -2))

    @property
    def map_cell_area(self) -> npt.NDArray[np.float64]:
        """(N,) area of one map cell in image px^2."""
        cells = (self.map_size[0] - 1) * (self.map_size[1] - 1)
        return np.asarray(self.scale.prod(axis=1) / cells, np.float64)


def _invert(m: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = np.linalg.inv(m[:, :, :2])
    return np.concatenate([linear, -(linear @ m[:, :, 2:])], axis=2)


def _apply(m: npt.NDArray[np.float64], points: Array) -> npt.NDArray[np.float64]:
    p = np.asarray(points, np.float64)
    flat = p.reshape(len(m), -1, 2) if len(m) else p.reshape(0, 1, 2)
    out = flat @ np.swapaxes(m[:, :, :2], 1, 2) + m[:, None, :, 2]
    return out.reshape(p.shape)
