"""Masks of detections: the dynamic network in numpy, and the way from its coarse grid to the photo's pixels.

`dynamic_masks` is the definition that the torch twin in `bodyloop.nn.rtmdet_ins` and exported files are tested
against. `masks_in_photo` enlarges logits bilinearly, first to the network's input, then to the photo, as the
published system does; both steps are linear in rows and columns, so together they are one small matrix an axis.
An enlarged logit is a mean of its neighbours: it can be positive only beside a positive cell, and only there it
is computed.

Source: RTMDet (Lyu et al., 2022), its instance segmentation; the dynamic network after CondInst (Tian et al.,
2020).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop import _rle
from bodyloop.detect.letterbox import Letterbox
from bodyloop.masks import Masks

Floats = npt.NDArray[np.floating]
Bits = npt.NDArray[np.bool_]

STRIDES = (8, 16, 32)  # of the levels whose priors the network joins in this order
# of the dynamic network's three 1x1 layers: weights, output-major, then biases; see `nn.rtmdet_ins`
LAYERS = ((8, 10), (8, 8), (1, 8))
CHUNK = 16  # people whose logits are laid out at a time
HELD = 1 << 28  # bytes of bitmaps of one photo; what comes beyond is kept as runs


def level_sizes(size: tuple[int, int]) -> list[int]:
    """Number of priors of each level for an input of ``size`` = (w, h) px."""
    return [(size[0] // s) * (size[1] // s) for s in STRIDES]


def priors(size: tuple[int, int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Positions (P, 2) as x, y in input px and strides (P,) of all priors; levels joined, each row by row."""
    points = []
    for s in STRIDES:
        y, x = np.mgrid[0 : size[1] // s, 0 : size[0] // s]
        points.append(np.stack([x, y], axis=-1).reshape(-1, 2) * s)
    strides = np.repeat(STRIDES, [len(p) for p in points])
    return np.concatenate(points).astype(np.float32), strides.astype(np.float32)


def dynamic_masks(kernels: Floats, prototypes: Floats, points: Floats, strides: Floats) -> Floats:
    """Mask logits (N, h, w) at stride 8: every person's own network over the prototypes of their photo.

    Args:
        kernels: (N, 169). prototypes: (8, h, w).
        points: (N, 2) the priors' x, y in input px. strides: (N,) of their levels.
    """
    n, m, (h, w) = len(kernels), LAYERS[0][0], prototypes.shape[1:]
    ends = np.cumsum([a * b for a, b in LAYERS] + [a for a, _ in LAYERS])[:-1]
    w1, w2, w3, b1, b2, b3 = np.split(kernels, ends, axis=1)
    w1, w2 = w1.reshape(n, *LAYERS[0]), w2.reshape(n, *LAYERS[1])
    reach = (strides * STRIDES[0])[:, None]
    dx = (points[:, :1] - STRIDES[0] * np.arange(w, dtype=points.dtype)) / reach
    dy = (points[:, 1:] - STRIDES[0] * np.arange(h, dtype=points.dtype)) / reach
    x: Floats = (w1[:, :, 2:] @ prototypes.reshape(len(prototypes), -1)).reshape(n, m, h, w)
    x += (w1[:, :, 0, None] * dx[:, None])[:, :, None]
    x += (w1[:, :, 1, None] * dy[:, None] + b1[..., None])[..., None]
    x = w2 @ np.maximum(x, 0, out=x).reshape(n, m, h * w)
    x += b2[..., None]
    out: Floats = (w3[:, None] @ np.maximum(x, 0, out=x)).reshape(n, h, w) + b3[..., None]
    return out


def person_masks(
    kernels: Floats,
    prototypes: Floats,
    points: Floats,
    strides: Floats,
    place: Letterbox,
    swapped: bool = False,
) -> Masks:
    """Masks in the photo of the people with these kernels; see `dynamic_masks` and `masks_in_photo`."""
    paper = _Paper.of(place, prototypes.shape[1:], swapped)
    for i in range(0, len(kernels), CHUNK):
        part = slice(i, i + CHUNK)
        for logits in dynamic_masks(kernels[part], prototypes, points[part], strides[part]):
            paper.draw(logits)
    return paper.masks()


def masks_in_photo(
    logits: Floats, place: Letterbox, swapped: bool = False, within: Floats | None = None
) -> Masks:
    """Masks from logits (N, h, w) on a grid over the network's input; positive is inside.

    Args:
        place: where the photo lies in the input.
        swapped: take the factor of the width for the height and that of the height for the width, as the
            published system does; rows or columns may then be left without mask.
        within: (N, 4) boxes in photo px; pixels whose centre lies outside stay empty.
    """
    paper = _Paper.of(place, logits.shape[1:], swapped)
    for i, one in enumerate(logits):
        paper.draw(one, None if within is None else within[i])
    return paper.masks()


@dataclass(frozen=True, eq=False)
class _Axis:
    """How grid cells become photo pixels along one axis.

    Attributes:
        weights: (pixels, cells) shares of each cell in each pixel.
        first, last: (pixels,) first and last cell with a share.
    """

    weights: npt.NDArray[np.float32]
    first: npt.NDArray[np.intp]
    last: npt.NDArray[np.intp]

    @classmethod
    def of(cls, pixels: int, canvas: int, cells: int, per_pixel: float) -> _Axis:
        """``per_pixel``: canvas px of a photo pixel."""
        low, high, share = _lines(canvas, cells, cells / canvas)
        up = np.zeros((canvas, cells))
        np.add.at(up, (np.arange(canvas), low), 1 - share)
        np.add.at(up, (np.arange(canvas), high), share)
        low, high, share = _lines(pixels, canvas, per_pixel)
        weights = up[low] * (1 - share[:, None]) + up[high] * share[:, None]
        there = weights > 0
        last = cells - 1 - there[:, ::-1].argmax(axis=1)
        return cls(weights.astype(np.float32), there.argmax(axis=1), last)

    def around(self, cells: npt.NDArray[np.intp]) -> tuple[slice, slice]:
        """The pixels that cells (ascending, at least one) have a share in, and all cells that these look at."""
        start = int(np.searchsorted(self.last, cells[0]))
        stop = int(np.searchsorted(self.first, cells[-1], side="right"))
        if start >= stop:  # cells beyond the photo
            return slice(0, 0), slice(0, 0)
        return slice(start, stop), slice(int(self.first[start]), int(self.last[stop - 1]) + 1)


def _lines(
    n: int, m: int, factor: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Bilinear sampling of m values at n centres ``factor`` apart: lower and upper neighbour, share of the upper."""
    at = np.clip((np.arange(n) + 0.5) * factor - 0.5, 0, m - 1)
    low = at.astype(np.intp)
    return low, np.minimum(low + 1, m - 1), at - low


def _cut(pixels: slice, low: float, high: float) -> slice:
    """Those of the pixels whose centre (at i + 0.5) lies in low..high."""
    start = max(pixels.start, math.ceil(low - 0.5))
    return slice(start, max(start, min(pixels.stop, math.floor(high + 0.5))))


class _Paper:
    """A photo on which one person's mask after the other is drawn."""

    def __init__(self, rows: _Axis, columns: _Axis, size: tuple[int, int]) -> None:
        self.rows, self.columns, self.size = rows, columns, size
        self.done: list[Masks] = []
        self.held = 0

    @classmethod
    def of(cls, place: Letterbox, grid: tuple[int, ...], swapped: bool) -> _Paper:
        (w, h), (cw, ch), (fx, fy) = place.photo, place.canvas, place.factors
        if swapped:  # sizes after this very expression; then cut to the photo
            whole_h, whole_w = math.ceil(ch * (1 / fx)), math.ceil(cw * (1 / fy))
            h, w, fy, fx = min(h, whole_h), min(w, whole_w), ch / whole_h, cw / whole_w
        return cls(_Axis.of(h, ch, grid[0], fy), _Axis.of(w, cw, grid[1], fx), place.photo)

    def draw(self, logits: Floats, box: Floats | None = None) -> None:
        """One more person, logits (h, w); no pixel outside the box."""
        inside = logits > 0
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if not len(rows):
            self.done.append(Masks.empty(1, self.size))
            return
        y, down = self.rows.around(rows)
        x, across = self.columns.around(columns)
        if box is not None:
            x, y = _cut(x, box[0], box[2]), _cut(y, box[1], box[3])
        enlarged = self.rows.weights[y, down] @ logits[down, across] @ self.columns.weights[x, across].T
        self._keep(x.start, y.start, enlarged > 0)

    def _keep(self, x: int, y: int, bits: Bits) -> None:
        self.held += bits.size
        if self.held <= HELD or not bits.any():
            self.done.append(Masks.from_cuts([(x, y, bits)], self.size))
            return
        runs = _rle.from_cut(x, y, bits, self.size)
        self.done.append(Masks.from_rle([{"size": self.size[::-1], "counts": runs}], self.size))

    def masks(self) -> Masks:
        """Everybody, in the order in which they were drawn."""
        return Masks.concat([Masks.empty(0, self.size), *self.done])
