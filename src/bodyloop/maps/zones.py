"""Zones of the image: how much of each map lies in them.

A zone is whatever a caller can name: a box, polygons, a bitmap, a region or a function. Boxes in upright
windows are exact; everything else is looked up at a grid of points within every cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.geometry import Crop, as_boxes
from bodyloop.maps.layers import MapLayer, ProbabilityMaps
from bodyloop.maps.regions import Region

Array = npt.NDArray[np.floating]
Cells = npt.NDArray[np.bool_]
Inside = Callable[[npt.NDArray[np.float64]], npt.ArrayLike]

SAMPLES = 4  # per axis and cell: an edge through a cell is placed to an eighth of it


def zone_cells(crop: Crop, zone: object, cells: Cells | None = None) -> npt.NDArray[np.float64]:
    """Share of every map cell of N windows that lies in a zone: (N, h, w) in [0, 1].

    Args:
        zone: one of, in image px,
            a box ``x1 y1 x2 y2`` for all or (N, 4) boxes, one a person;
            a polygon (M, 2), or a list of polygons (their union);
            a bitmap (H, W) of bool or uint8 (a pixel covers half a pixel around its centre);
            a `Region`;
            a function of points (P, 2) that gives (P,) bool or shares in [0, 1].
        cells: (N, h, w) bool, cells that matter; the others may come out as 0. By default all.
    Raises:
        InputError: none of these, or wrong shapes.
    """
    size = (len(crop), crop.map_size[1], crop.map_size[0])
    where = np.ones(size, bool) if cells is None else np.asarray(cells, bool).reshape(size)
    if isinstance(zone, Region):
        loops = zone.polygons
        return _sampled(crop, lambda p: in_loops(p, loops), where)
    if callable(zone):
        return _sampled(crop, cast(Inside, zone), where)
    polygons = _as_polygons(zone)
    if polygons is not None:
        return _sampled(crop, lambda p: np.any([in_loops(p, [q]) for q in polygons], axis=0), where)
    array = np.asarray(zone)
    if array.ndim == 2 and array.dtype in (np.bool_, np.uint8):
        return _sampled(crop, lambda p: _in_bitmap(p, array != 0), where)
    if array.shape not in ((4,), (len(crop), 4)):
        raise InputError(
            f"zone: expected a box (4,), boxes ({len(crop)}, 4), a polygon (M, 2), a list of polygons, "
            f"a bitmap of bool or uint8, a Region or a function; got shape {array.shape} of {array.dtype}"
        )
    boxes = np.broadcast_to(as_boxes(array, "zone").astype(np.float64), (len(crop), 4))
    if (crop.rotation == 0).all():
        return _box_shares(crop, boxes)
    turned = [_sampled(crop[i], partial(_in_box, box), where[[i]]) for i, box in enumerate(boxes)]
    return np.concatenate(turned)


def probability_in(maps: MapLayer | ProbabilityMaps, zone: object) -> npt.NDArray[np.float64]:
    """Share of every map that lies in a zone of the image: (N, K) in [0, 1], NaN where a map holds no mass.

    Of the double map the outer layer answers. Multiply by presence for the probability that the keypoint lies
    in the zone. Of heatmaps with negative values the positive part counts.

    Args:
        zone: as in `zone_cells`; for the mass within windows give boxes (N, 4).
    """
    layer = maps.widest if isinstance(maps, ProbabilityMaps) else maps
    p = np.maximum(layer.values, 0).astype(np.float64)
    total = p.sum(axis=(-2, -1))
    share = zone_cells(layer.crop, zone, np.any(p > 0, axis=1))
    held = np.einsum("nkhw,nhw->nk", p, share, optimize=True)
    return np.asarray(np.clip(held / np.where(total > 0, total, np.nan), 0, 1))


def in_loops(points: Array, loops: Sequence[Array]) -> npt.NDArray[np.bool_]:
    """Which points (P, 2) lie inside closed loops (M, 2) by the even-odd rule over all of them."""
    x, y = np.asarray(points, np.float64).T
    inside = np.zeros(len(x), bool)
    for loop in loops:
        a = np.asarray(loop, np.float64)
        for (ax, ay), (bx, by) in zip(a, np.roll(a, -1, axis=0), strict=True):
            if ay == by:
                continue
            crosses = (ay > y) != (by > y)
            inside ^= crosses & (x < ax + (y - ay) * ((bx - ax) / (by - ay)))
    return inside


def _as_polygons(zone: object) -> list[Array] | None:
    """A polygon or a list of polygons as a list, None if the zone is something else."""
    if isinstance(zone, np.ndarray):
        if zone.ndim != 2 or zone.shape[1] != 2 or zone.dtype in (np.bool_, np.uint8):
            return None
        parts = [zone]
    elif isinstance(zone, list | tuple) and len(zone) and all(np.ndim(z) == 2 for z in zone):
        parts = [np.asarray(z) for z in zone]
    elif isinstance(zone, list | tuple) and len(zone) and all(np.shape(z) == (2,) for z in zone):
        parts = [np.asarray(zone)]
    else:
        return None
    for i, p in enumerate(parts):
        if p.shape[1] != 2 or len(p) < 3 or p.dtype.kind not in "iuf" or not np.isfinite(p).all():
            raise InputError(f"zone: polygon {i} must be at least three finite points (M, 2), got {p.shape}")
    return [p.astype(np.float64) for p in parts]


def _sampled(crop: Crop, inside: Inside, cells: Cells) -> npt.NDArray[np.float64]:
    """(N, h, w) mean of ``inside`` over a grid of points within each of the ``cells``, elsewhere 0."""
    person, y, x = np.nonzero(cells)
    step = (np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5
    within = np.stack(np.meshgrid(step, step), axis=-1).reshape(-1, 2)
    grid = np.stack([x, y], axis=1)[:, None] + within
    points = crop[person].from_map(grid).reshape(-1, 2)
    known = np.isfinite(points).all(axis=1)
    share = np.zeros(len(points))
    found = np.asarray(inside(points[known]), np.float64)
    if found.shape != (int(known.sum()),):
        raise InputError(f"zone: the function must give one number a point (P,), got shape {found.shape}")
    share[known] = found
    if not ((share >= 0) & (share <= 1)).all():
        raise InputError("zone: the function must give bool or numbers in [0, 1]")
    out = np.zeros(cells.shape)
    out[person, y, x] = share.reshape(len(person), SAMPLES**2).mean(axis=1)
    return out


def _in_bitmap(points: npt.NDArray[np.float64], bitmap: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    h, w = bitmap.shape
    at = np.floor(np.clip(points, -1e6, 1e6) + 0.5).astype(np.intp)
    ok = (at >= 0).all(axis=1) & (at[:, 0] < w) & (at[:, 1] < h)
    out = np.zeros(len(points), bool)
    out[ok] = bitmap[at[ok, 1], at[ok, 0]]
    return out


def _in_box(box: npt.NDArray[np.float64], points: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return np.asarray(((points >= box[:2]) & (points < box[2:])).all(axis=1))


def _box_shares(crop: Crop, boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Exact shares of cells in upright windows: overlap along x times overlap along y."""
    corners = crop.to_map(boxes.reshape(-1, 2, 2))  # (N, 2 corners, x y)
    shares = []
    for axis, n in enumerate(crop.map_size):
        cell = np.arange(n)
        low, high = corners[:, 0, axis, None], corners[:, 1, axis, None]
        shares.append(np.clip(np.minimum(cell + 0.5, high) - np.maximum(cell - 0.5, low), 0, 1))
    return np.asarray(shares[1][:, :, None] * shares[0][:, None, :])
