"""What is known of a location: probability maps as heat over the photo, contours of regions and ellipses.

A map is shown relative to its own highest density, so that a sharp and a broad one can both be read: the
colour says where this keypoint is, the spread how well that is known. Several keypoints, people or layers of
a double map are joined by the larger value. Numbers come from `bodyloop.maps`; here they only become colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bodyloop.drawing import shapes
from bodyloop.drawing.canvas import Canvas, Points, Shape, Sheet, Stroke
from bodyloop.drawing.palette import INK, RGB, heat_ramp
from bodyloop.maps import MapLayer, ProbabilityMaps
from bodyloop.maps.moments import layer_moments
from bodyloop.maps.outlines import outlines
from bodyloop.maps.regions import region_cells

SEEN = 0.02  # of a map's highest density: below, heat is invisible and the sheet need not grow for it


def extent(maps: ProbabilityMaps, person: int, keypoints: Sequence[int]) -> Points:
    """(M, 2) image px: corners of the cells of one person's maps that can be seen, for sizing the sheet."""
    found = []
    for layer in maps.layers:
        top = _cells(maps, layer, person, keypoints).max(axis=0, initial=0.0)
        ys, xs = np.nonzero(top > SEEN)
        if len(ys):
            w, h = layer.crop.map_size
            x0, x1 = max(xs.min() - 1, 0), min(xs.max() + 1, w - 1)
            y0, y1 = max(ys.min() - 1, 0), min(ys.max() + 1, h - 1)
            corners = np.array([[[x0, y0], [x1, y0], [x1, y1], [x0, y1]]], np.float64)
            found.append(layer.crop[person].from_map(corners)[0])
    return np.concatenate(found) if found else np.zeros((0, 2))


def heat(
    canvas: Canvas, maps: ProbabilityMaps, people: Sequence[int], keypoints: Sequence[int], alpha: float
) -> None:
    """Lay the maps of some people and keypoints over the sheet."""
    width, height = canvas.sheet.size
    total = np.zeros((height, width), np.float32)
    for person in people:
        for layer in maps.layers:
            _add(total, canvas.sheet, layer, person, _cells(maps, layer, person, keypoints))
    rows, columns = np.flatnonzero(total.any(axis=1)), np.flatnonzero(total.any(axis=0))
    if not len(rows):
        return
    y, x = int(rows[0]), int(columns[0])
    part = total[y : rows[-1] + 1, x : columns[-1] + 1]
    colours = heat_ramp()[np.rint(np.sqrt(part) * 255).astype(np.uint8)]
    strength = np.clip(part / 0.06, 0, 1)  # the faint rim fades into the photo
    canvas.overlay(colours, (strength * alpha).astype(np.float32), (x, y))


def _cells(
    maps: ProbabilityMaps, layer: MapLayer, person: int, keypoints: Sequence[int]
) -> npt.NDArray[np.float32]:
    """(k, h, w) densities relative to each keypoint's highest in any layer; zero where not available."""

    def density(m: MapLayer) -> npt.NDArray[np.float64]:
        v = np.nan_to_num(
            m.values[person][list(keypoints)].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0
        )
        area = float(m.crop.map_cell_area[person])
        return np.clip(v, 0, None) / area if np.isfinite(area) and area > 0 else np.zeros_like(v)

    top = np.max([density(m).max(axis=(1, 2), initial=0.0) for m in maps.layers], axis=0)[:, None, None]
    mine = density(layer)
    return np.asarray(np.divide(mine, top, out=np.zeros_like(mine), where=top > 0), np.float32)


def _add(
    total: npt.NDArray[np.float32],
    sheet: Sheet,
    layer: MapLayer,
    person: int,
    cells: npt.NDArray[np.float32],
) -> None:
    import cv2

    crop = layer.crop[person]
    if not cells.any() or not (np.isfinite(crop.center).all() and (crop.scale > 0).all()):
        return
    w, h = crop.map_size
    corners = np.array([[[-1, -1], [w, -1], [w, h], [-1, h], [0, 0], [1, 0], [0, 1]]], np.float64)
    on_sheet = sheet.place(crop.from_map(corners))[0]
    low = np.maximum(np.floor(on_sheet[:4].min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(on_sheet[:4].max(axis=0)) + 1, sheet.size).astype(int)
    if not (high > low).all():
        return
    origin, x, y = on_sheet[4:] - low
    matrix = np.stack([x - origin, y - origin, origin], axis=1)
    part = total[low[1] : high[1], low[0] : high[0]]
    size = (int(high[0] - low[0]), int(high[1] - low[1]))
    for one in cells:
        if one.any():
            warped = cv2.warpAffine(one, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT)
            np.maximum(part, np.clip(np.asarray(warped, np.float32), 0, 1), out=part)


def outline(
    canvas: Canvas, contours: Sequence[Points], colour: RGB, width: float, *, fill: float, dashed: bool
) -> None:
    """Closed contours on the sheet with a thin line around a pale fill (even-odd: holes stay open)."""
    kept = [c for c in contours if len(c) and np.isfinite(c).all()]
    if not kept:
        return
    radius = max(0.55, 0.3 * width)
    rim = max(0.5, 0.14 * width)
    canvas.paint([tuple(c for c in kept if len(c) > 2) or shapes.disc(kept[0][0], radius)], colour, fill)
    lines: list[Shape] = []
    halo: list[Shape] = []
    for c in kept:
        if dashed:
            dash, gap = max(3.0, 1.6 * width), max(2.5, 1.3 * width)
            lines += shapes.dashes(c, radius, dash, gap, closed=True)
            halo += shapes.dashes(c, radius + rim, dash, gap, closed=True)
        else:
            lines.append(Stroke(c, radius, closed=True))
            halo.append(Stroke(c, radius + rim, closed=True))
    canvas.paint(halo, INK, 0.45)
    canvas.paint(lines, colour)


def ellipse(maps: ProbabilityMaps, person: int, keypoint: int, mass: float) -> list[Points]:
    """The contour in image px that holds ``mass`` of a normal with the map's moments; none without them."""
    layer = maps.widest[person]
    found = layer_moments(replace(layer, values=layer.values[:, [keypoint]]))
    mean, covariance = found.mean[0, 0], found.covariance[0, 0]
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        return []
    return [shapes.ellipse(mean, covariance, mass)]


def region(maps: ProbabilityMaps, person: int, keypoint: int, mass: float) -> list[Points]:
    """Outlines in image px of the smallest region that holds ``mass`` of the map; none where it is empty."""
    layer = maps.widest[person]
    values = layer.values[0, keypoint]
    if not (np.isfinite(values).all() and values.max(initial=0.0) > 0):
        return []
    cells = region_cells(values[None], mass)[0]
    return [layer.crop.from_map(loop[None].astype(np.float64))[0] for loop in outlines(cells)]
