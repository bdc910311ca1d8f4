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
    s, e = joined(np.concatenate(starts), np.concatenate(ends))
    return from_toggles(np.concatenate([s, e]), total)


def joined(start: Counts, end: Counts) -> tuple[Counts, Counts]:
    """The union of intervals [start, end) on a line, as intervals in ascending order that do not touch."""
    at = np.concatenate([start, end])
    step = np.repeat([1, -1], len(start))
    order = np.lexsort((-step, at))  # where one ends and another begins, begin first: no gap of no length
    at, step = at[order], step[order]
    depth = np.cumsum(step)
    return at[(depth == 1) & (step == 1)], at[depth == 0]


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
    toggles = polygon_toggles(points, np.array([len(points)]), np.array([size]))[1]
    return from_toggles(toggles, size[0] * size[1])


def polygon_toggles(
    points: npt.NDArray[np.float64], corners: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where the outlines of P closed polygons cross the columns of their pictures.

    An outline is a walk over a grid five times as fine as the pixels, one step at a time along each edge's
    longer axis. It crosses column c where x steps from 5 c + 2 to 5 c + 3 or back; only those steps are
    looked at.

    Args:
        points: (V, 2) px, polygon after polygon; corners: (P,) how many each has; sizes: (P, 2) w, h.

    Returns:
        The polygon (T,) of each crossing, and the pixel (T,), counted column by column, before which it
        turns outside into inside or back.

    Raises:
        InputError: an outline thousands of times larger than a picture.
    """
    here = np.trunc(_FINE * points + 0.5).astype(np.int64)
    polygon = np.repeat(np.arange(len(corners)), corners)
    ends = np.cumsum(corners)
    following = np.arange(1, len(here) + 1)
    following[ends - 1] = ends - corners
    there = here[following]
    reach = np.abs(there - here)
    longest = np.bincount(polygon, reach.max(axis=1) + 1).max(initial=0)
    if longest > _MAX_STEPS:
        raise InputError(f"polygon: an outline of {int(longest) // _FINE} px is no part of a picture")
    steep = reach[:, 1] > reach[:, 0]
    # every edge is walked from its smaller end, so that an edge shared by two polygons is the same line
    swap = np.where(steep, here[:, 1] > there[:, 1], here[:, 0] > there[:, 0])[:, None]
    low, high = np.where(swap, there, here), np.where(swap, here, there)
    left, right = np.minimum(here[:, 0], there[:, 0]), np.maximum(here[:, 0], there[:, 0])
    first = np.maximum(-((2 - left) // _FINE), 0)
    last = np.minimum((right - 3) // _FINE, sizes[polygon, 0] - 1)
    count = np.maximum(last - first + 1, 0)
    edge = np.repeat(np.arange(len(here)), count)
    column = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count - first, count)
    y = np.empty(len(edge), np.int64)
    for height, mine in ((_height_on_flat, ~steep[edge]), (_height_on_steep, steep[edge])):
        y[mine] = height(low[edge[mine]], high[edge[mine]], _FINE * column[mine] + 2)
    h = sizes[polygon[edge], 1]
    return polygon[edge], column * h + np.clip(-((2 - y) // _FINE), 0, h)


def _height_on_flat(low: Counts, high: Counts, x: Counts) -> Counts:
    """The smaller y of the steps from x to x + 1 on edges (E, 2) with a step for every x."""
    slope = (high[:, 1] - low[:, 1]) / (high[:, 0] - low[:, 0])
    t = x - low[:, 0]
    before, after = (np.trunc(low[:, 1] + slope * i + 0.5).astype(np.int64) for i in (t, t + 1))
    return np.asarray(np.minimum(before, after))


def _height_on_steep(low: Counts, high: Counts, x: Counts) -> Counts:
    """The smaller y of the steps from x to x + 1 or back on edges (E, 2) with a step for every y."""
    slope = (high[:, 0] - low[:, 0]) / (high[:, 1] - low[:, 1])
    t = (
        np.floor((x + 0.5 - low[:, 0]) / slope).astype(np.int64) - 1
    )  # the step itself, or up to two before it
    for _ in range(3):
        at = np.trunc(low[:, 0] + slope * t + 0.5)
        t += np.where(slope > 0, at <= x, at > x)
    return np.asarray(low[:, 1] + t - 1)


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
