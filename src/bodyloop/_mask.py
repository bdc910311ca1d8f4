"""One mask of one picture: the forms it is kept in, and how each kind of input becomes one.

A mask is runs or a bitmap cut to its box, whichever it came as, and becomes the other when that is first
asked for, once. A mask without a pixel is no mask: the functions here then give None. `Masks` holds many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop import _rle
from bodyloop.errors import InputError

Bits = npt.NDArray[np.bool_]

MAX_AREA = 1 << 30  # pixels of a picture


class Mask:
    """One mask in whichever forms it has been needed so far."""

    __slots__ = ("_counts", "_cut", "_h", "_w", "polygons")

    def __init__(
        self,
        size: tuple[int, int],
        counts: npt.NDArray[np.int64] | None = None,
        cut: tuple[int, int, Bits] | None = None,
        polygons: tuple[npt.NDArray[np.float64], ...] | None = None,
    ) -> None:
        self._w, self._h = size
        self._counts, self._cut, self.polygons = counts, cut, polygons

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        if self._counts is None:
            assert self._cut is not None  # one of the two is always there
            self._counts = _rle.from_cut(*self._cut, (self._w, self._h))
        return self._counts

    @property
    def cut(self) -> tuple[int, int, Bits]:
        if self._cut is None:
            assert self._counts is not None
            cut = _rle.to_cut(self._counts, self._h)
            assert cut is not None  # masks without a pixel are not kept
            cut[2].flags.writeable = False
            self._cut = cut
        return self._cut

    @property
    def area(self) -> int:
        if self._counts is not None:
            return int(self._counts[1::2].sum())
        return int(np.count_nonzero(self.cut[2]))


def as_size(size: tuple[int, int]) -> tuple[int, int]:
    try:
        w, h = size
        whole = (int(w), int(h))
    except (TypeError, ValueError, OverflowError) as e:
        raise InputError(f"size: expected (width, height), got {size!r}") from e
    if whole != (w, h) or min(whole) < 1 or whole[0] * whole[1] > MAX_AREA:
        raise InputError(
            f"size: expected (width, height) in whole pixels, together at most {MAX_AREA}; got {size!r}"
        )
    return whole


def from_bitmap(a: npt.NDArray[np.generic] | None, size: tuple[int, int], what: str) -> Mask | None:
    if a is None:
        return None
    if a.shape != (size[1], size[0]):
        raise InputError(
            f"{what}: expected (height, width) = {(size[1], size[0])} of the picture, got {a.shape}"
        )
    if a.dtype.kind == "f":
        v = a.astype(np.float64, copy=False)
        if not ((v >= 0) & (v <= 1)).all():
            raise InputError(
                f"{what}: float masks must lie in 0..1 (threshold logits first), found others or NaN"
            )
        b = v > 0.5
    elif a.dtype.kind in "biu":
        b = a if a.dtype == bool else a != 0  # type: ignore[assignment]
    else:
        raise InputError(f"{what}: expected bool, integers or floats in 0..1, got {a.dtype}")
    return trimmed(0, 0, b, size)


def from_cut(x: int, y: int, b: npt.NDArray[np.generic], size: tuple[int, int], what: str) -> Mask | None:
    if b.ndim != 2 or b.dtype != bool:
        raise InputError(f"{what}: expected a bool bitmap (h, w), got {b.dtype} {b.shape}")
    if x < 0 or y < 0 or x + b.shape[1] > size[0] or y + b.shape[0] > size[1]:
        raise InputError(
            f"{what}: a bitmap {b.shape} (h, w) at ({x}, {y}) reaches beyond the picture of {size} (w, h)"
        )
    return trimmed(x, y, b, size)


def trimmed(x: int, y: int, b: npt.NDArray[np.generic], size: tuple[int, int]) -> Mask | None:
    """A bool bitmap that lies at (x, y), copied as far as pixels are set."""
    rows, columns = np.flatnonzero(b.any(axis=1)), np.flatnonzero(b.any(axis=0))
    if not len(rows):
        return None
    top, left = int(rows[0]), int(columns[0])
    cut = np.array(b[top : rows[-1] + 1, left : columns[-1] + 1], bool)
    cut.flags.writeable = False
    return Mask(size, cut=(x + left, y + top, cut))


def rle_size(rle: Mapping[str, Any], what: str) -> tuple[int, int]:
    try:
        h, w = rle["size"]
        return as_size((w, h))
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{what}: an RLE needs 'size': [height, width] and 'counts': {e!r}") from e


def from_rle(rle: Mapping[str, Any] | None, size: tuple[int, int], what: str) -> Mask | None:
    if rle is None:
        return None
    if not isinstance(rle, Mapping) or "counts" not in rle:
        raise InputError(
            f"{what}: an RLE needs 'size': [height, width] and 'counts', got {type(rle).__name__}"
        )
    if rle_size(rle, what) != size:
        raise InputError(
            f"{what}: RLE of size {list(rle['size'])} [h, w], the picture is {[size[1], size[0]]}"
        )
    counts = rle["counts"]
    try:
        runs = _rle.decompress(counts) if isinstance(counts, str | bytes) else counts
        clean = _rle.canonical(runs, size[0] * size[1])
    except InputError as e:
        raise InputError(f"{what}: {e}") from e
    return Mask(size, counts=clean) if len(clean) > 1 else None


def from_polygons(polygons: Any, size: tuple[int, int], what: str) -> Mask | None:
    try:
        return drawn(outlines(polygons), size)
    except InputError as e:
        raise InputError(f"{what}: {e}") from e


def outlines(polygons: Any) -> list[npt.NDArray[np.float64]]:
    """Polygons (P, 2) of one mask, checked; one polygon may stand without the list around it."""
    if polygons is None or len(polygons) == 0:
        return []
    if isinstance(polygons[0], int | float | np.number):
        polygons = [polygons]
    shapes = []
    for k, polygon in enumerate(polygons):
        try:
            p = np.asarray(polygon, np.float64)
        except (TypeError, ValueError) as e:
            raise InputError(f"polygon {k} is not a list of numbers: {e}") from e
        if p.size == 0:
            continue
        if p.ndim == 1 and len(p) % 2 == 0:
            p = p.reshape(-1, 2)
        if p.ndim != 2 or p.shape[1] != 2 or len(p) < 3:
            raise InputError(f"polygon {k} needs at least 3 points x, y; got shape {p.shape}")
        if not np.isfinite(p).all() or np.abs(p).max() > 1e6:
            raise InputError(f"polygon {k} has coordinates that are not finite or beyond a million px")
        shapes.append(p)
    return shapes


def drawn(shapes: Sequence[npt.NDArray[np.float64]], size: tuple[int, int]) -> Mask | None:
    if not shapes:
        return None
    counts = _rle.union([_rle.from_polygon(p, size) for p in shapes], size[0] * size[1])
    return Mask(size, counts=counts, polygons=tuple(shapes)) if len(counts) > 1 else None
