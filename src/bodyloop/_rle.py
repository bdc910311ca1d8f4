"""Run lengths of masks: COCO's text form, polygons to runs, runs to bitmaps. Pure functions in numpy.

A mask of height h and width w is a sequence of runs over its pixels in column-major order (x * h + y):
background, foreground, background, ... ; the first may be 0, all others are positive, their sum is h * w.
COCO writes them as differences to the run before last, five bits a character. Polygons follow the COCO mask
API's raster: crossings of a five times finer outline. Vectorised, no compiled code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError

Counts = npt.NDArray[np.int64]
Bits = npt.NDArray[np.bool_]

_FINE = 5  # the outline's grid is five times as fine as the pixels
_MAX_STEPS = 20_000_000  # of the fine outline of one polygon: far beyond any that fits a picture
_MAX_CHARS = 8  # of one number: 40 bits, far beyond any picture


def canonical(counts: npt.ArrayLike, total: int) -> Counts:
    """Runs checked (non-negative, summing to ``total``) and with empty runs joined.

    Raises:
        InputError: what is wrong with them.
    """
    try:
        c = np.asarray(counts)
        if c.ndim != 1 or (c.size and c.dtype.kind not in "iu"):
            raise InputError(f"RLE counts: expected a list of whole numbers, got {c.dtype} {c.shape}")
        c = c.astype(np.int64)
    except (TypeError, ValueError, OverflowError) as e:
        raise InputError(f"RLE counts: expected a list of whole numbers: {e}") from e
    if (c < 0).any() or (c > total).any() or int(c.sum()) != total:
        raise InputError(
            f"RLE counts: runs must be non-negative and sum to height * width = {total}, "
            f"got {len(c)} runs with the sum {int(c.sum())}"
        )
    if (c[1:] > 0).all():
        return c
    return from_toggles(np.cumsum(c)[:-1], total)


def from_toggles(toggles: npt.NDArray[np.int64], total: int) -> Counts:
    """Runs of the pixels before which the number of toggles is odd; toggles are pixel indices, any order."""
    at, times = np.unique(toggles, return_counts=True)
    at = at[(times % 2 == 1) & (at < total)]
    return np.asarray(np.diff(at, prepend=0, append=total), np.int64)


def union(runs: Sequence[Counts], total: int) -> Counts:
    """Runs of the union of masks of the same size."""
    if len(runs) == 1:
        return runs[0]
    starts, ends = [], []
    for c in runs:
        edges = np.cumsum(c)
        starts.append(edges[:-1:2] if len(c) % 2 else edges[0::2][: len(c) // 2])
        ends.append(edges[1::2])
    s, e = np.concatenate(starts), np.concatenate(ends)
    at = np.concatenate([s, e])
    step = np.concatenate([np.ones(len(s), np.int64), -np.ones(len(e), np.int64)])
    order = np.lexsort((-step, at))  # where one ends and another begins, begin first: no gap of no length
    depth = np.cumsum(step[order])
    inside = depth > 0
    change = np.flatnonzero(inside != np.concatenate([[False], inside[:-1]]))
    return from_toggles(at[order][change], total)


def compress(counts: Counts) -> str:
    """COCO's text form of runs."""
    d = counts.copy()
    d[3:] -= counts[1:-2]
    width = np.ones(len(d), np.int64)
    for n in range(1, _MAX_CHARS):
        width[(d < -(1 << (5 * n - 1))) | (d >= (1 << (5 * n - 1)))] = n + 1
    column = np.arange(int(width.max(initial=1)))
    used = column < width[:, None]
    more = column < width[:, None] - 1
    chars = ((d[:, None] >> (5 * column)) & 31) + 32 * more + 48
    return chars[used].astype(np.uint8).tobytes().decode("ascii")


def decompress(text: str | bytes) -> Counts:
    """Runs of COCO's text form.

    Raises:
        InputError: characters that do not belong there, or a number without end.
    """
    return decompress_all([text])[0]


def decompress_all(texts: Sequence[str | bytes]) -> tuple[Counts, Counts]:
    """Runs of N masks in COCO's text form, one mask after the other, and how many runs each has (N,).

    Raises:
        InputError: as `decompress`, for any of them.
    """
    try:
        raw = [t.encode("ascii") if isinstance(t, str) else bytes(t) for t in texts]
    except UnicodeEncodeError as e:
        raise InputError(f"RLE counts: not COCO's compressed form: {e}") from e
    v = np.frombuffer(b"".join(raw), np.uint8).astype(np.int64) - 48
    text_end = np.cumsum([len(t) for t in raw], dtype=np.int64)
    if not len(v):
        return np.zeros(0, np.int64), np.zeros(len(raw), np.int64)
    if (v < 0).any() or (v > 63).any():
        raise InputError("RLE counts: not COCO's compressed form (characters '0' to 'o')")
    last = (v & 32) == 0
    if not last[text_end[text_end > 0] - 1].all():
        raise InputError("RLE counts: cut off in the middle of a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    width = ends - starts + 1
    if int(width.max()) > _MAX_CHARS:
        raise InputError("RLE counts: a number is longer than any picture")
    place = np.arange(len(v)) - np.repeat(starts, width)
    d = np.add.reduceat((v & 31) << (5 * place), starts)
    negative = (v[ends] & 16) != 0
    d -= np.where(negative, np.int64(1) << (5 * width), 0)
    runs = np.diff(np.searchsorted(ends, text_end), prepend=0)
    index = np.arange(len(d)) - np.repeat(np.cumsum(runs) - runs, runs)
    counts = d.copy()
    for chain in (
        index % 2 == 1,
        (index % 2 == 0) & (index > 0),
    ):  # each number is a step from the run before last
        total = np.cumsum(d[chain])
        heads = np.flatnonzero(index[chain] <= 2)
        before = np.concatenate([[0], total])[heads]
        counts[chain] = total - np.repeat(before, np.diff(heads, append=len(total)))
    return counts, runs


def from_polygon(points: npt.NDArray[np.float64], size: tuple[int, int]) -> Counts:
    """Runs of one closed polygon (P, 2) in px in a picture of size (w, h), as the COCO mask API draws it.

    Raises:
        InputError: an outline thousands of times larger than a picture.
    """
    w, h = size
    grid = np.trunc(_FINE * points + 0.5).astype(np.int64)
    u, v = _outline(grid)
    turn = np.flatnonzero(np.diff(u))
    x = np.minimum(u[turn], u[turn + 1])
    y = np.minimum(v[turn], v[turn + 1])
    # a crossing counts where (x + .5) / 5 - .5 is a whole number; whole arithmetic, so nothing is rounded
    column = x // _FINE
    keep = (x % _FINE == 2) & (column >= 0) & (column < w)
    row = np.clip(-((2 - y[keep]) // _FINE), 0, h)
    return from_toggles(column[keep] * h + row, w * h)


def _outline(grid: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The closed path over grid points (P, 2), one step at a time along each edge's longer axis."""
    start, end = grid, np.roll(grid, -1, axis=0)
    reach = np.abs(end - start)
    steps = reach.max(axis=1)
    total = int(steps.sum()) + len(steps)
    if total > _MAX_STEPS:
        raise InputError(f"polygon: an outline of {total // _FINE} px is no part of a picture")
    along_x = reach[:, 0] >= reach[:, 1]
    major_start = np.where(along_x, start[:, 0], start[:, 1])
    major_end = np.where(along_x, end[:, 0], end[:, 1])
    minor_start = np.where(along_x, start[:, 1], start[:, 0])
    minor_end = np.where(along_x, end[:, 1], end[:, 0])
    # every edge is walked from its smaller end, so that an edge shared by two polygons is the same line
    back = major_start > major_end
    low = np.where(back, minor_end, minor_start)
    rise = np.where(back, minor_start - minor_end, minor_end - minor_start)
    slope = np.divide(rise, steps, out=np.zeros(len(steps)), where=steps > 0)
    edge = np.repeat(np.arange(len(steps)), steps + 1)
    d = np.arange(total) - np.repeat(np.cumsum(steps + 1) - (steps + 1), steps + 1)
    t = np.where(back[edge], steps[edge] - d, d)
    major = t + np.where(back, major_end, major_start)[edge]
    minor = np.trunc(low[edge] + slope[edge] * t + 0.5).astype(np.int64)
    return np.where(along_x[edge], major, minor), np.where(along_x[edge], minor, major)


def to_cut(counts: Counts, h: int) -> tuple[int, int, Bits] | None:
    """The smallest box around the foreground as (x0, y0, (ch, cw) bool), None where there is none."""
    if len(counts) < 2:
        return None
    edges = np.cumsum(counts)
    first, last = int(edges[0]), int(edges[-2] if len(counts) % 2 else edges[-1]) - 1
    x0, x1 = first // h, last // h + 1
    runs = counts.copy()
    runs[0] -= x0 * h
    runs[-1] -= int(edges[-1]) - x1 * h if len(counts) % 2 else 0
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    strip = flat.reshape(x1 - x0, h)
    rows = np.flatnonzero(strip.any(axis=0))
    y0, y1 = int(rows[0]), int(rows[-1]) + 1
    return x0, y0, np.ascontiguousarray(strip[:, y0:y1].T)


def from_cut(x0: int, y0: int, cut: Bits, size: tuple[int, int]) -> Counts:
    """Runs of a bitmap (ch, cw) whose upper left pixel is (x0, y0) of a picture of size (w, h)."""
    w, h = size
    ch, cw = cut.shape
    strip = np.zeros((cw, h), np.int8)
    strip[:, y0 : y0 + ch] = cut.T
    change = np.flatnonzero(np.diff(strip.ravel(), prepend=0))
    if strip.size and strip[-1, -1]:
        change = np.append(change, strip.size)
    return from_toggles(change.astype(np.int64) + x0 * h, w * h)
