"""Many masks of many pictures as runs of pixels in one array, and the pixels that pairs of them share.

Masks of COCO files (polygons, run lengths as text or list) never become bitmaps here. The overlap of many pairs is
counted at once, by looking up how many pixels of one mask lie before both ends of each run of the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop import _mask, _rle
from bodyloop.errors import InputError
from bodyloop.eval.reading import Record

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Runs = tuple[Ints, Ints, Ints]
"""Runs of pixels (R,): the mask that each belongs to, its first pixel, and the one after its last."""

MASKS_AT_ONCE = 2_000  # decoded in one go: some tens of MB
RUNS_AT_ONCE = 1_000_000  # compared in one go: about 50 MB


@dataclass(frozen=True, eq=False)
class MaskRuns:
    """N masks as runs of pixels, mask after mask. Pixels are counted column by column in the mask's picture.

    Attributes:
        start, end: (R,) int32 first pixel of each run and the one after its last.
        first: (N + 1,) where each mask's runs begin.
        size: (N, 2) height and width of each mask's picture.
        area: (N,) pixels.
        boxes: (N, 4) x0 y0 x1 y1 around each (all rows where a run goes on into the next column); 0 if empty.
    """

    start: npt.NDArray[np.int32]
    end: npt.NDArray[np.int32]
    first: Ints
    size: Ints
    area: Ints
    boxes: Ints


def read_masks(records: Sequence[Record], pictures: Floats, where: str, ids: Ints | None = None) -> MaskRuns:
    """The ``segmentation`` of records: polygons, or run lengths as COCO's text or as a list.

    Args:
        pictures: (N, 2) width and height of each one's picture, NaN where unknown: polygons need them.
        where: what a record is called in messages; ids: (N,) of the records, None to number them.

    Raises:
        InputError: missing or malformed; it names the record.
    """
    size = np.zeros((len(records), 2), np.int64)
    parts = []
    for first in range(0, len(records), MASKS_AT_ONCE):
        rows = slice(first, first + MASKS_AT_ONCE)
        names = [
            f"{where} number {i}" if ids is None else f"{where} id {ids[i]}"
            for i in range(*rows.indices(len(records)))
        ]
        owner, start, end = _runs_of(records[rows], pictures[rows], names, size[rows])
        order = np.argsort(owner, kind="stable")
        owner, start, end = owner[order], start[order], end[order]
        runs = np.bincount(owner, minlength=len(names))
        area = np.bincount(owner, end - start, len(names)).astype(np.int64)
        boxes = _boxes(owner, start, end, size[rows, 0])
        parts.append((start.astype(np.int32), end.astype(np.int32), runs, area, boxes))
    small, nothing = np.zeros(0, np.int32), np.zeros(0, np.int64)
    none = small, small, nothing, nothing, np.zeros((0, 4), np.int64)
    starts, ends, counts, areas, around = zip(none, *parts, strict=True)
    return MaskRuns(
        start=np.concatenate(starts),
        end=np.concatenate(ends),
        first=np.append(0, np.cumsum(np.concatenate(counts))),
        size=size,
        area=np.concatenate(areas),
        boxes=np.concatenate(around),
    )


def _boxes(owner: Ints, start: Ints, end: Ints, heights: Ints) -> Ints:
    """(n, 4) x0 y0 x1 y1 around n masks of pictures (n,) px high; their runs in order."""
    out = np.zeros((len(heights), 4), np.int64)
    masks, first = np.unique(owner, return_index=True)
    if len(masks):
        h = heights[owner]
        (column, row), (last_column, last_row) = np.divmod(start, h), np.divmod(end - 1, h)
        goes_on = last_column > column
        out[masks, 0] = np.minimum.reduceat(column, first)
        out[masks, 1] = np.minimum.reduceat(np.where(goes_on, 0, row), first)
        out[masks, 2] = np.maximum.reduceat(last_column, first) + 1
        out[masks, 3] = np.maximum.reduceat(np.where(goes_on, h - 1, last_row), first) + 1
    return out


def _runs_of(records: Sequence[Record], pictures: Floats, names: Sequence[str], size: Ints) -> Runs:
    """The runs of some masks, those of each in order; writes their height and width into ``size`` (n, 2)."""
    texts: dict[int, str | bytes] = {}
    lists: dict[int, Ints] = {}
    shapes: dict[int, list[Floats]] = {}
    for i, record in enumerate(records):
        given = record.get("segmentation")
        if not isinstance(given, Mapping):
            size[i] = _picture(given, pictures[i], names[i])
            try:
                shapes[i] = _mask.outlines(given)
            except InputError as e:
                raise InputError(f"{names[i]}: {e}") from e
            continue
        width, height = _mask.rle_size(given, names[i])
        size[i] = height, width
        if isinstance(given.get("counts"), str | bytes):
            texts[i] = given["counts"]
        else:
            mask = _mask.from_rle(given, (width, height), names[i])
            lists[i] = np.zeros(0, np.int64) if mask is None else mask.counts
    try:
        parts = [_of_texts(texts, size), _of_counts(lists), _of_polygons(shapes, size)]
    except InputError:
        for i in (*texts, *shapes):  # alone, each says what is wrong with it
            read = _mask.from_rle if i in texts else _mask.from_polygons
            read(records[i]["segmentation"], (int(size[i, 1]), int(size[i, 0])), names[i])
        raise
    owner, start, end = (np.concatenate(p) for p in zip(*parts, strict=True))
    return owner, start, end


def _picture(polygons: object, size: Floats, name: str) -> tuple[int, int]:
    """Height and width of the picture that polygons are drawn in."""
    if not isinstance(polygons, Sequence) or isinstance(polygons, str | bytes):
        got = "is missing" if polygons is None else f"is of type {type(polygons).__name__}"
        raise InputError(f"{name}: field 'segmentation' {got}; expected polygons or run lengths")
    if np.isnan(size).any():
        raise InputError(f"{name}: polygons need the width and height of their image; the file lacks them")
    width, height = _mask.as_size((size[0], size[1]))
    return height, width


def _of_texts(texts: Mapping[int, str | bytes], size: Ints) -> Runs:
    masks = np.array([*texts], np.int64)
    counts, lengths = _rle.decompress_all([*texts.values()])
    total = np.bincount(np.repeat(np.arange(len(masks)), lengths), counts, len(masks))
    if (counts < 0).any() or (total != size[masks].prod(axis=1)).any():
        raise InputError("RLE counts: runs must be non-negative and sum to height * width")
    return _foreground(masks, counts, lengths)


def _of_counts(lists: Mapping[int, Ints]) -> Runs:
    counts = np.concatenate([np.zeros(0, np.int64), *lists.values()])
    return _foreground(
        np.array([*lists], np.int64), counts, np.array([len(c) for c in lists.values()], np.int64)
    )


def _foreground(masks: Ints, counts: Ints, lengths: Ints) -> Runs:
    """Of counts (background, foreground, ...; ``lengths`` of them a mask) those of the foreground."""
    first = np.cumsum(lengths) - lengths
    edges = np.append(0, np.cumsum(counts))
    end = edges[1:] - np.repeat(edges[first], lengths)
    index = np.arange(len(counts)) - np.repeat(first, lengths)
    kept = (index % 2 == 1) & (counts > 0)
    return np.repeat(masks, lengths)[kept], (end - counts)[kept], end[kept]


def _of_polygons(shapes: Mapping[int, Sequence[Floats]], size: Ints) -> Runs:
    """Runs of the union of each mask's polygons."""
    points = [p for polygons in shapes.values() for p in polygons]
    masks = np.repeat(np.array([*shapes], np.int64), [len(polygons) for polygons in shapes.values()])
    polygon, at = _rle.polygon_toggles(
        np.concatenate([np.zeros((0, 2)), *points]),
        np.array([len(p) for p in points], np.int64),
        size[masks, ::-1],
    )
    stride = int(size.prod(axis=1).max(initial=0)) + 1
    polygon, at = np.divmod(np.sort(polygon * stride + at), stride)
    # a closed outline crosses every column an even number of times: from one crossing to the next is inside
    line = masks[polygon] * stride + at
    start, end = _rle.joined(line[::2], line[1::2])
    there = end > start
    owner = start[there] // stride
    return owner, start[there] - owner * stride, end[there] - owner * stride


def common_pixels(a: MaskRuns, i: Ints, b: MaskRuns, j: Ints) -> Ints:
    """(Q,) pixels that masks i (Q,) of a and j (Q,) of b share; none is empty, and their pictures agree."""
    out = np.zeros(len(i), np.int64)
    a_runs, b_runs = np.diff(a.first)[i], np.diff(b.first)[j]
    for walked, w, looked, k, mine in ((a, i, b, j, a_runs <= b_runs), (b, j, a, i, a_runs > b_runs)):
        q = np.flatnonzero(mine)
        work = np.cumsum((a_runs + b_runs)[q])
        bounds = np.searchsorted(work, np.arange(0, work[-1] if len(q) else 0, RUNS_AT_ONCE))
        for part in np.split(q, bounds[1:]):
            if len(part):
                out[part] = _common(walked, w[part], looked, k[part])
    return out


def _common(walked: MaskRuns, i: Ints, looked: MaskRuns, j: Ints) -> Ints:
    """As `common_pixels`, run by run of the first masks."""
    masks, place = np.unique(j, return_inverse=True)
    stride = int(looked.size[masks].prod(axis=1).max()) + 1  # sets the masks apart on one line of pixels
    count = np.diff(looked.first)[masks]
    runs = _ranges(looked.first[masks], count)
    offset = np.repeat(np.arange(len(masks)) * stride, count)
    start, end = looked.start[runs] + offset, np.append(0, looked.end[runs] + offset)
    pixels = np.append(0, np.cumsum(end[1:] - start))

    def before(position: Ints) -> Ints:
        """Pixels of the looked-up masks that lie before a position of the line."""
        at = np.searchsorted(start, position)
        return np.asarray(pixels[at] - np.maximum(end[at] - position, 0))

    count = np.diff(walked.first)[i]
    runs = _ranges(walked.first[i], count)
    offset = np.repeat(place * stride, count)
    shared = before(walked.end[runs] + offset) - before(walked.start[runs] + offset)
    return np.asarray(np.add.reduceat(shared, np.cumsum(count) - count))


def _ranges(first: Ints, count: Ints) -> Ints:
    """first[0], first[0] + 1, ... (count[0] of them), first[1], ..."""
    return np.asarray(np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count))
