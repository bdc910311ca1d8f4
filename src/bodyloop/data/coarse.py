"""Masks as a small detector gives them: coarse, too large or too small, shifted, with parts missing or too many.

A detector's masks come from prototypes at an eighth of its input and are enlarged; `coarsened` repeats just that,
`random_coarse` also what goes wrong. For teaching segmenters to use such a mask, and not to trust it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
Rng = np.random.Generator

PROTOTYPE = 8.0  # px of the detector's input to a cell of its masks
INPUT = 416.0  # longest side of the picture in the detector's input


def cell_of(size: tuple[int, int]) -> float:
    """How many px of a picture of ``size`` (w, h) a cell of a detector's masks covers."""
    return PROTOTYPE * max(size) / INPUT


def coarsened(
    mask: U8, cell: float, threshold: float = 0.5, noise: npt.NDArray[np.floating] | None = None
) -> U8:
    """(h, w) 0/1: a mask averaged over cells of ``cell`` px, enlarged again and cut at a threshold.

    Args:
        noise: (rows, columns) of any size, stretched over the mask and added before the threshold.
    """
    import cv2

    h, w = mask.shape
    cells = max(2, round(w / cell)), max(2, round(h / cell))
    small = cv2.resize(mask.astype(np.float32), cells, interpolation=cv2.INTER_AREA)
    if noise is not None:
        small = small + cv2.resize(noise.astype(np.float32), cells, interpolation=cv2.INTER_LINEAR)
    large = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    return (np.asarray(large) > threshold).astype(np.uint8)


def random_coarse(mask: U8, other: U8 | None, cell: float, rng: Rng) -> U8:
    """A spoiled mask (h, w) 0/1; empty if nothing is left of it.

    Args:
        other: what the people beside it cover: sometimes a part of that is taken along.
    """
    import cv2

    h, w = mask.shape
    out = mask
    merge, lose = rng.random(2) < (0.15, 0.2)
    side, share = int(rng.integers(4)), rng.uniform(0.1, 0.5)
    if merge and other is not None:
        out = out | (other & _near(mask, rng.uniform(0.05, 0.6)))
    if lose:
        out = _without_side(out, side, share)
    shift = rng.normal(0, 0.015, 2) * (w, h)
    moved = np.array([[1, 0, shift[0]], [0, 1, shift[1]]])
    out = np.asarray(cv2.warpAffine(out, moved, (w, h), flags=cv2.INTER_NEAREST), np.uint8)
    noise = rng.normal(0, rng.uniform(0, 0.35), (rng.integers(3, 9), rng.integers(3, 9)))
    return coarsened(out, cell * rng.uniform(0.5, 1.3), rng.uniform(0.25, 0.75), noise)


def _near(mask: U8, share: float) -> U8:
    """The mask's box, wider by a share of its sides."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    out = np.zeros_like(mask)
    if len(rows):
        dy, dx = (int(share * (v[-1] - v[0] + 1)) for v in (rows, columns))
        y, x = max(rows[0] - dy, 0), max(columns[0] - dx, 0)
        out[y : rows[-1] + 1 + dy, x : columns[-1] + 1 + dx] = 1
    return out


def _without_side(mask: U8, side: int, share: float) -> U8:
    """A share of the mask's box at its left, upper, right or lower side (0 to 3) is lost."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    out = mask.copy()
    if not len(rows):
        return out
    along = columns if side % 2 == 0 else rows
    gone = int(share * (along[-1] - along[0] + 1))
    span = slice(along[0], along[0] + gone) if side < 2 else slice(along[-1] + 1 - gone, along[-1] + 1)
    out[(slice(None), span) if side % 2 == 0 else (span, slice(None))] = 0
    return out
