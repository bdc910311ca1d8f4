"""Masks of N people in one picture.

Each is kept as a bitmap cut to the person's box or as the runs it came as (COCO's RLE, or polygons drawn by
COCO's rule), and turned into the other form when that is first asked for, once. A full (H, W) bitmap exists
only while somebody holds one. A person without a mask and a mask without a pixel are the same thing:
`present` is False. Also here: the table that dims a background, and the detour by which the published pose
models take their masks. Choosing, merging and painting out masks is the loop's business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, SupportsIndex, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from bodyloop import _mask, _rle
from bodyloop.errors import InputError

Bits: TypeAlias = npt.NDArray[np.bool_]
Index: TypeAlias = "int | np.integer[Any] | slice | Sequence[int] | Sequence[bool] | npt.NDArray[np.generic]"


class Rle(TypedDict):
    """COCO's run-length form: ``size`` is [height, width], ``counts`` COCO's compressed text."""

    size: list[int]
    counts: str


class Masks:
    """N masks in one picture of ``size`` (width, height); immutable.

    Made by `from_any` (whatever a caller has), or by `from_bitmaps`, `from_cuts`, `from_rle`, `from_polygons`, `empty`.
    """

    __slots__ = ("_items", "size")

    def __init__(self, items: Sequence[_mask.Mask | None], size: tuple[int, int]) -> None:
        self._items = tuple(items)
        self.size = size

    # how masks come in

    @classmethod
    def empty(cls, n: int, size: tuple[int, int]) -> Masks:
        """``n`` people without a mask."""
        return cls([None] * n, _mask.as_size(size))

    @classmethod
    def from_bitmaps(
        cls,
        bitmaps: npt.NDArray[np.generic] | Sequence[npt.ArrayLike | None],
        size: tuple[int, int] | None = None,
    ) -> Masks:
        """Masks from (N, H, W) or a list of (H, W) arrays, None for a person without one.

        bool, integers (not zero is inside) or floats in 0..1 (more than half is inside).

        Args:
            size: (w, h) of the picture; needed where no person has a mask, checked otherwise.

        Raises:
            InputError: shapes that differ or do not fit ``size``, NaN, or floats outside 0..1 (logits).
        """
        if isinstance(bitmaps, np.ndarray) and bitmaps.ndim != 3:
            raise InputError(f"masks: expected an array (N, H, W) or a list of (H, W), got {bitmaps.shape}")
        arrays = [None if b is None else np.asarray(b) for b in bitmaps]
        if size is None:
            first = next((a for a in arrays if a is not None), None)
            if first is None or first.ndim != 2:
                raise InputError("masks: no bitmap (H, W) to take the picture's size from; give size=(w, h)")
            size = first.shape[1], first.shape[0]
        size = _mask.as_size(size)
        return cls([_mask.from_bitmap(a, size, f"masks[{i}]") for i, a in enumerate(arrays)], size)

    @classmethod
    def from_cuts(cls, cuts: Sequence[tuple[int, int, Bits] | None], size: tuple[int, int]) -> Masks:
        """Masks from bitmaps that cover a part of the picture each; the inverse of `cut`.

        Args:
            cuts: (x0, y0, (h, w) bool): where the bitmap's first pixel lies; None for a person without a mask.

        Raises:
            InputError: a bitmap that is not bool (h, w), or reaches beyond the picture.
        """
        size = _mask.as_size(size)
        return cls(
            [None if c is None else _mask.from_cut(*c, size, f"masks[{i}]") for i, c in enumerate(cuts)], size
        )

    @classmethod
    def from_rle(cls, rles: Sequence[Mapping[str, Any] | None], size: tuple[int, int] | None = None) -> Masks:
        """Masks from COCO RLE ``{"size": [h, w], "counts": text, bytes or a list of runs}``.

        Raises:
            InputError: a broken RLE, or one of another size.
        """
        if size is None:
            first = next((r for r in rles if r is not None), None)
            if first is None:
                raise InputError("masks: no RLE to take the picture's size from; give size=(w, h)")
            size = _mask.rle_size(first, "masks")
        size = _mask.as_size(size)
        return cls([_mask.from_rle(r, size, f"masks[{i}]") for i, r in enumerate(rles)], size)

    @classmethod
    def from_polygons(
        cls, polygons: Sequence[Sequence[npt.ArrayLike] | None], size: tuple[int, int]
    ) -> Masks:
        """Masks from COCO polygons: per person a list of ``[x, y, x, y, ...]`` or (P, 2) in px; their union.

        Raises:
            InputError: fewer than 3 points, odd counts, or numbers that are not finite.
        """
        size = _mask.as_size(size)
        return cls([_mask.from_polygons(p, size, f"masks[{i}]") for i, p in enumerate(polygons)], size)

    @classmethod
    def from_any(cls, masks: Any, size: tuple[int, int]) -> Masks:
        """Masks from what a caller has: per person an (H, W) array, a COCO RLE, polygons or None.

        An array (N, H, W) and a `Masks` of the same size are taken, too.

        Raises:
            InputError: anything else, or a mask of another size; it names the person.
        """
        size = _mask.as_size(size)
        if isinstance(masks, Masks):
            if masks.size != size:
                raise InputError(f"masks are of a picture of size {masks.size}, this one is {size} (w, h)")
            return masks
        if isinstance(masks, np.ndarray) and masks.dtype != object:
            return cls.from_bitmaps(masks, size)
        if isinstance(masks, Mapping | str | bytes) or not isinstance(masks, Sequence | np.ndarray):
            raise InputError(f"masks: expected one mask (or None) a person, got {type(masks).__name__}")
        return cls([_from_any(m, size, f"masks[{i}]") for i, m in enumerate(masks)], size)

    @classmethod
    def concat(cls, parts: Sequence[Masks]) -> Masks:
        """Join masks of one picture.

        Raises:
            InputError: nothing to join, or different sizes.
        """
        if not parts:
            raise InputError("Masks.concat: nothing to join")
        sizes = {p.size for p in parts}
        if len(sizes) > 1:
            raise InputError(f"Masks.concat: pictures of different sizes {sorted(sizes)}")
        return cls([m for p in parts for m in p._items], parts[0].size)

    # a sequence

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Index) -> Masks:
        """The masks chosen by an int (a Masks of one), slice, list of indices or boolean mask."""
        return Masks([self._items[i] for i in chosen(index, len(self), "masks")], self.size)

    def __iter__(self) -> Iterator[Masks]:
        return (Masks([m], self.size) for m in self._items)

    def __repr__(self) -> str:
        return f"Masks({len(self)} in {self.size[0]}x{self.size[1]}, {int(self.present.sum())} present)"

    # how masks go out

    @property
    def present(self) -> Bits:
        """(N,) whether the person has a mask with at least one pixel."""
        return np.array([m is not None for m in self._items], bool)

    @property
    def areas(self) -> npt.NDArray[np.float64]:
        """(N,) areas in px."""
        return np.array([0 if m is None else m.area for m in self._items], np.float64)

    @property
    def boxes(self) -> npt.NDArray[np.float32]:
        """(N, 4) ``x1 y1 x2 y2`` around the masks, x2 and y2 one beyond the last pixel; NaN without."""
        out = np.full((len(self), 4), np.nan, np.float32)
        for i, m in enumerate(self._items):
            if m is not None:
                x, y, c = m.cut
                out[i] = x, y, x + c.shape[1], y + c.shape[0]
        return out

    def cut(self, i: int) -> tuple[int, int, Bits]:
        """(x0, y0, (ch, cw) bool, read-only): mask ``i`` cut to its box; an empty array without a mask."""
        m = self._items[i]
        return (0, 0, np.zeros((0, 0), bool)) if m is None else m.cut

    def bitmap(self, i: int) -> Bits:
        """(H, W) bool, a new array; all False without a mask."""
        out = np.zeros((self.size[1], self.size[0]), bool)
        x, y, c = self.cut(i)
        out[y : y + c.shape[0], x : x + c.shape[1]] = c
        return out

    def bitmaps(self) -> Bits:
        """(N, H, W) bool, a new array."""
        out = np.zeros((len(self), self.size[1], self.size[0]), bool)
        for i in range(len(self)):
            x, y, c = self.cut(i)
            out[i, y : y + c.shape[0], x : x + c.shape[1]] = c
        return out

    def union(self) -> Bits:
        """(H, W) bool: the pixels of anybody, a new array."""
        out = np.zeros((self.size[1], self.size[0]), bool)
        for i in range(len(self)):
            x, y, c = self.cut(i)
            out[y : y + c.shape[0], x : x + c.shape[1]] |= c
        return out

    def labels(self) -> npt.NDArray[np.uint16]:
        """(H, W) number of the mask at each pixel, from 1; 0 is nobody's, of several the first counts."""
        out = np.zeros((self.size[1], self.size[0]), np.uint16)
        for i in range(len(self) - 1, -1, -1):
            x, y, c = self.cut(i)
            out[y : y + c.shape[0], x : x + c.shape[1]][c] = i + 1
        return out

    def counts(self, i: int) -> npt.NDArray[np.int64]:
        """Run lengths of mask ``i`` in column-major order, background first."""
        m = self._items[i]
        return np.array([self.size[0] * self.size[1]], np.int64) if m is None else m.counts

    def rle(self, i: int) -> Rle:
        """Mask ``i`` as COCO's compressed RLE, ready for JSON."""
        return {"size": [self.size[1], self.size[0]], "counts": _rle.compress(self.counts(i))}

    def polygons(self, i: int) -> list[npt.NDArray[np.float64]]:
        """Mask ``i`` as polygons (P, 2) in px: those it came as, else its outer contours (holes filled)."""
        m = self._items[i]
        if m is None:
            return []
        if m.polygons is not None:
            return [p.copy() for p in m.polygons]
        x, y, c = m.cut
        return [p.astype(np.float64) + np.array([x, y], np.float64) for p in _contours(c)]

    def iou(
        self, other: Masks | None = None, *, crowd: npt.ArrayLike | None = None
    ) -> npt.NDArray[np.float64]:
        """(N, M) intersection over union with another set of masks (or with each other).

        Args:
            crowd: (M,) bool: for these of ``other`` the overlap is divided by the own area, as COCO does.

        Raises:
            InputError: masks of another picture size.
        """
        b = self if other is None else other
        if b.size != self.size:
            raise InputError(f"iou of masks in pictures of different sizes {self.size} and {b.size}")
        inter = np.zeros((len(self), len(b)))
        p, q = self.boxes, b.boxes
        with np.errstate(invalid="ignore"):
            low = np.maximum(p[:, None, :2], q[None, :, :2])
            high = np.minimum(p[:, None, 2:], q[None, :, 2:])
            meet = (high > low).all(axis=-1)
        for i, j in np.argwhere(meet):
            x1, y1 = low[i, j].astype(int).tolist()
            x2, y2 = high[i, j].astype(int).tolist()
            mine, theirs = (
                c[y1 - y : y2 - y, x1 - x : x2 - x] for x, y, c in (self.cut(int(i)), b.cut(int(j)))
            )
            inter[i, j] = np.count_nonzero(mine & theirs)
        whole = self.areas[:, None] + b.areas[None] - inter
        if crowd is not None:
            flags = np.broadcast_to(np.asarray(crowd, bool), (len(b),))
            whole = np.where(flags[None], self.areas[:, None], whole)
        return np.divide(inter, whole, out=np.zeros_like(inter), where=whole > 0)

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Plain arrays for an ``.npz``: all runs in a row, and the polygons of masks that came so."""
        runs = [np.zeros(0, np.int64) if m is None else m.counts for m in self._items]
        shapes = [(i, p) for i, m in enumerate(self._items) if m is not None for p in m.polygons or ()]
        return {
            "runs": np.concatenate([np.zeros(0, np.int64), *runs]),
            "run_counts": np.array([len(c) for c in runs], np.int64),
            "points": np.concatenate([np.zeros((0, 2)), *(p for _, p in shapes)]),
            "point_counts": np.array([len(p) for _, p in shapes], np.int64),
            "owners": np.array([i for i, _ in shapes], np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], size: tuple[int, int]) -> Masks:
        """The inverse of `to_arrays`.

        Raises:
            InputError: an array is missing, or they do not fit each other or ``size``.
        """
        size = _mask.as_size(size)
        names = ("runs", "run_counts", "points", "point_counts", "owners")
        missing = [n for n in names if n not in arrays]
        if missing:
            raise InputError(f"masks: the file lacks {', '.join(missing)}")
        runs, points = arrays["runs"], arrays["points"]
        lengths, sides, owners = (
            arrays[n].astype(np.int64) for n in ("run_counts", "point_counts", "owners")
        )
        if lengths.sum() != len(runs) or sides.sum() != len(points) or len(sides) != len(owners):
            raise InputError("masks: the arrays of runs and points do not fit each other")
        if (lengths < 0).any() or (sides < 0).any() or ((owners < 0) | (owners >= len(lengths))).any():
            raise InputError("masks: negative lengths, or polygons of a person that is not there")
        shapes: dict[int, list[npt.NDArray[np.float64]]] = {}
        for owner, p in zip(owners.tolist(), np.split(points, np.cumsum(sides)[:-1]), strict=False):
            shapes.setdefault(owner, []).append(np.asarray(p, np.float64))
        items: list[_mask.Mask | None] = []
        for i, c in enumerate(np.split(runs, np.cumsum(lengths)[:-1]) if len(lengths) else []):
            clean = _rle.canonical(c, size[0] * size[1]) if len(c) else c
            own = tuple(shapes[i]) if i in shapes else None
            items.append(_mask.Mask(size, clean, polygons=own) if len(clean) > 1 else None)
        return cls(items, size)

    def equals(self, other: Masks) -> bool:
        """Whether both have the same pixels for every person."""
        return (
            self.size == other.size
            and len(self) == len(other)
            and bool((self.present == other.present).all())
            and all(np.array_equal(self.counts(i), other.counts(i)) for i in range(len(self)))
        )


def chosen(index: Index, n: int, what: str) -> npt.NDArray[np.intp]:
    """The positions that an int, slice, list of indices or boolean mask picks out of ``n``.

    Raises:
        IndexError: out of range.
        InputError: a boolean mask of another length, or something that is no index.
    """
    if isinstance(index, slice):
        return np.arange(n)[index]
    if not isinstance(index, np.ndarray | list | bool) and isinstance(index, SupportsIndex):
        return np.array([range(n)[int(index)]], np.intp)
    a = np.asarray(index)
    if a.dtype == bool and a.shape == (n,):
        return np.flatnonzero(a)
    if a.size == 0 and a.ndim == 1 and a.dtype != bool:
        return np.zeros(0, np.intp)
    if a.dtype.kind not in "iu" or a.ndim != 1:
        raise InputError(
            f"{what}: an index is an int, a slice, whole numbers or a boolean mask of length {n}; "
            f"got {a.dtype} of shape {a.shape}"
        )
    return np.asarray(np.arange(n)[a], np.intp)


def reference_detour(bitmap: npt.NDArray[np.generic]) -> Bits:
    """The mask that the published inference call makes of a bitmap (H, W): its outline drawn anew.

    Outer contours of more than three points, drawn as COCO polygons: holes are filled, specks and a rim are
    lost. All False where nothing is left, which means "no mask". For parity only.
    """
    b = np.asarray(bitmap) != 0
    size = b.shape[1], b.shape[0]
    contours = [c.astype(np.float64) for c in _contours(b) if len(c) > 3]
    return Masks([_mask.drawn(contours, size)], size).bitmap(0)


def dim_lut(alpha: float) -> npt.NDArray[np.uint8]:
    """(256,) uint8: the grey value that each value outside a mask becomes, (1 - alpha) of it.

    Raises:
        InputError: alpha outside 0..1.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha must be between 0 and 1, got {alpha}")
    return np.asarray(np.rint(np.arange(256) * (1 - alpha)), np.uint8)


def _contours(b: Bits) -> list[npt.NDArray[np.int32]]:
    """Outer contours (P, 2) in px."""
    import cv2

    found = cv2.findContours(b.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[-2]
    return [np.asarray(c, np.int32).reshape(-1, 2) for c in found]


def _from_any(mask: Any, size: tuple[int, int], what: str) -> _mask.Mask | None:
    if mask is None:
        return None
    if isinstance(mask, Masks):
        if len(mask) != 1 or mask.size != size:
            raise InputError(f"{what}: expected one mask of size {size}, got {mask!r}")
        return mask._items[0]
    if isinstance(mask, Mapping):
        return _mask.from_rle(mask, size, what)
    if (
        isinstance(mask, np.ndarray)
        and mask.shape != (size[1], size[0])
        and mask.ndim == 2
        and mask.shape[1] == 2
    ):
        return _mask.from_polygons([mask], size, what)
    if isinstance(mask, np.ndarray) and mask.dtype != object and mask.ndim == 2:
        return _mask.from_bitmap(mask, size, what)
    if isinstance(mask, list | tuple | np.ndarray):
        return _mask.from_polygons(mask, size, what)
    raise InputError(f"{what}: expected an (H, W) array, an RLE, polygons or None, got {type(mask).__name__}")
