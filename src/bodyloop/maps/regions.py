"""Where a keypoint may be: the smallest region that holds a given share of its map.

A region of least area is made of the greatest cells of the map, so it takes any shape, with several parts and
holes. A cell covers half a cell on every side of its centre; `Crop` takes its corners to the image, so areas
and outlines are exact there, also in turned windows, and may reach beyond the picture. Shares are of the map
alone: they say where the keypoint is if it lies in the window; presence says whether it does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.geometry import Crop
from bodyloop.maps.kernels import as_maps
from bodyloop.maps.layers import MapLayer
from bodyloop.maps.outlines import outlines


@dataclass(frozen=True, eq=False)
class Region:
    """A set of cells of one keypoint's map, in image px: the smallest one that holds a share of the map (`region`),
    or one that holds the truth with a stated probability (`bodyloop.maps.conformal`).

    Attributes:
        mask: (H', W') bool, the pixels whose centres lie in the region, cut to its bounding box.
        offset: (x, y) of ``mask[0, 0]`` in the image; may be negative. `on` gives the full bitmap.
        polygons: closed outlines, each (M, 2) float64 x y. Outer ones run clockwise on the screen (positive
            shoelace sum), holes the other way, so that the sums add up to the area.
        area: px^2, exact (the mask's count differs by rounding and is 0 for regions between pixel centres).
        mass: share of the map that the region holds, at least the one asked for by `region`.
        level: smallest map value within the region.
    """

    mask: npt.NDArray[np.bool_]
    offset: tuple[int, int]
    polygons: tuple[npt.NDArray[np.float64], ...]
    area: float
    mass: float
    level: float

    def on(self, image_size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """The mask on a picture of (w, h), as (H, W) bool; what lies outside is cut off."""
        w, h = image_size
        out = np.zeros((h, w), bool)
        x, y = self.offset
        mh, mw = self.mask.shape
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + mw, w), min(y + mh, h)
        if x0 < x1 and y0 < y1:
            out[y0:y1, x0:x1] = self.mask[y0 - y : y1 - y, x0 - x : x1 - x]
        return out


def region_cells(maps: npt.ArrayLike, mass: float) -> npt.NDArray[np.bool_]:
    """Cells of the smallest regions that hold ``mass`` of each map: (..., K, h, w) bool.

    Greatest cells first, ties in row-major order; a cell belongs to the region if the cells before it hold
    less than ``mass``. Of heatmaps with negative values the positive part counts. A map without mass has no
    cells.

    Raises:
        InputError: ``mass`` is not in (0, 1].
    """
    if not 0 < mass <= 1:
        raise InputError(f"region: mass must be above 0 and at most 1, got {mass}")
    p = np.maximum(as_maps(maps), 0)
    flat = p.reshape(*p.shape[:-2], -1)
    order = np.argsort(-flat, axis=-1, kind="stable")
    held = np.cumsum(np.take_along_axis(flat, order, -1), axis=-1, dtype=np.float64)
    before = np.concatenate([np.zeros_like(held[..., :1]), held[..., :-1]], axis=-1)
    total = held[..., -1:]
    chosen = (before < mass * total) & (total > 0)
    out = np.zeros(flat.shape, bool)
    np.put_along_axis(out, order, chosen, -1)
    return out.reshape(p.shape)


def region(layer: MapLayer, person: int, keypoint: int, mass: float) -> Region:
    """The smallest region holding ``mass`` of one map of a layer, in image px.

    Raises:
        InputError: ``mass`` is not in (0, 1], no such person or keypoint, or the map is not available (NaN) or
            holds no mass.
    """
    values = map_of(layer, person, keypoint)
    return cell_region(layer, person, keypoint, region_cells(values[None], mass)[0])


def map_of(layer: MapLayer, person: int, keypoint: int) -> npt.NDArray[np.floating]:
    """One map (h, w) of a layer that holds mass, without its negative part.

    Raises:
        InputError: no such person or keypoint, or the map is not available (NaN) or holds no mass.
    """
    n, k = layer.values.shape[:2]
    if not (-n <= person < n and -k <= keypoint < k):
        raise InputError(f"region: no map [{person}, {keypoint}] among {n} people x {k} keypoints")
    p = np.maximum(layer.values[person, keypoint], 0)
    total = float(p.sum(dtype=np.float64))
    if not (np.isfinite(total) and total > 0):
        why = "holds no mass" if np.isfinite(total) else "is not available (NaN)"
        raise InputError(f"region: the map of person {person}, keypoint {keypoint} {why}")
    return np.asarray(p)


def cell_region(layer: MapLayer, person: int, keypoint: int, cells: npt.NDArray[np.bool_]) -> Region:
    """The region of chosen cells (h, w), at least one, of one map of a layer, in image px."""
    p = map_of(layer, person, keypoint)
    crop = layer.crop[person]
    polygons = tuple(crop.from_map(loop[None])[0] for loop in outlines(cells))
    mask, offset = _rasterise(cells, polygons, crop)
    return Region(
        mask,
        offset,
        polygons,
        area=float(cells.sum() * crop.map_cell_area[0]),
        mass=float(p[cells].sum(dtype=np.float64) / p.sum(dtype=np.float64)),
        level=float(p[cells].min()),
    )


def _rasterise(
    cells: npt.NDArray[np.bool_], polygons: tuple[npt.NDArray[np.float64], ...], crop: Crop
) -> tuple[npt.NDArray[np.bool_], tuple[int, int]]:
    """Image pixels whose centres fall on a cell of the region, cut to its bounding box."""
    corners = np.concatenate(polygons)
    x0, y0 = np.floor(corners.min(axis=0)).astype(int)
    x1, y1 = np.ceil(corners.max(axis=0)).astype(int)
    x, y = np.meshgrid(np.arange(x0, x1 + 1), np.arange(y0, y1 + 1))
    at = np.floor(crop.to_map(np.stack([x, y], axis=-1)[None].astype(np.float64))[0] + 0.5).astype(np.intp)
    h, w = cells.shape
    inside = (at >= 0).all(axis=-1) & (at[..., 0] < w) & (at[..., 1] < h)
    mask = inside & cells[np.clip(at[..., 1], 0, h - 1), np.clip(at[..., 0], 0, w - 1)]
    return mask, (int(x0), int(y0))
