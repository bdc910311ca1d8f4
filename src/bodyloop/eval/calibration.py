"""Are probability maps honest? Of the regions that hold 50 % of a map, half should hold the true point.

Everything here is about N maps and the cell of the true point in each: how much mass the cells before it hold
when cells are taken greatest first. From that one number a keypoint, coverage at every level follows, for any
resample of keypoints too. `true_cells` says which cell is the true one, and which keypoints count: flags 1 and
2 whose cell lies on the map. A point outside the window is presence's business, not the map's.

Source: the definitions of smallest regions and coverage in common use; `published_calibration` is the variant
of the ProbPose paper (Purkrabek et al., CVPR 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.eval.bootstrap import plain, sums
from bodyloop.geometry import Crop

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LEVELS: tuple[float, ...] = tuple(i / 20 for i in range(1, 20))
LEAST = 1e-12  # -log of less than that says nothing any more
SUM_TOLERANCE = 1e-2  # half precision may be that far off; what is further off is no probability map
CELLS_AT_ONCE = 4_000_000  # bounds the memory: some 32 MB an array
BINS = 20  # of the published variant


@dataclass(frozen=True, eq=False)
class MapCalibration:
    """N maps judged by the cells of their true points.

    Attributes:
        levels: (Q,) shares q of the mass.
        mass_before: (N,) mass of the cells before the true one, greatest first (ties in row-major order).
        mass: (N,) mass of the true cell.
        rank: (N,) how many cells are before it.
        sizes: (N, Q) cells of the smallest region that holds q.
        map_cells: how many cells a map has.
    """

    levels: Floats
    mass_before: Floats
    mass: Floats
    rank: Ints
    sizes: Ints
    map_cells: int

    def __len__(self) -> int:
        return len(self.rank)

    @property
    def covered(self) -> Bools:
        """(N, Q) whether the region that holds q holds the true cell."""
        return np.asarray(self.mass_before[:, None] < self.levels)

    @property
    def coverage(self) -> Floats:
        """(Q,) share of maps whose region holds the true cell; calibrated if it equals the level."""
        return _mean(self.covered.astype(np.float64))

    @property
    def error(self) -> float:
        """Mean over the levels of |coverage - q|; NaN without maps.

        Cells are taken whole, so that honest maps of few cells are covered more often than q: see `even_error`.
        """
        return float(np.abs(self.coverage - self.levels).mean())

    @property
    def even_coverage(self) -> Floats:
        """(Q,) coverage if the cell in which a region ends counts by the share of it that is needed.

        Of maps that mean what they say it is q, however coarse their cells are.
        """
        room, mass = self.levels - self.mass_before[:, None], self.mass[:, None]
        share = np.divide(room, mass, out=(room > 0).astype(np.float64), where=mass > 0)
        return _mean(np.clip(share, 0, 1))

    @property
    def even_error(self) -> float:
        """Mean over the levels of |even_coverage - q|; NaN without maps."""
        return float(np.abs(self.even_coverage - self.levels).mean())

    @property
    def region_cells(self) -> Floats:
        """(Q,) mean size of the regions in cells: how sharp the maps are."""
        return _mean(self.sizes.astype(np.float64))

    @property
    def nll_each(self) -> Floats:
        """(N,) -log of the mass of the true cell (of at least 1e-12)."""
        return np.asarray(-np.log(np.maximum(self.mass, LEAST)))

    @property
    def nll(self) -> float:
        """Mean of `nll_each`; NaN without maps."""
        return float(_mean(self.nll_each))

    @property
    def beyond(self) -> float:
        """Share of maps that give the true cell no mass at all; NaN without maps."""
        return float(_mean((self.mass <= 0).astype(np.float64)))

    def __getitem__(self, index: Bools | Ints | slice) -> MapCalibration:
        """Some of the maps."""
        return replace(
            self,
            mass_before=self.mass_before[index],
            mass=self.mass[index],
            rank=self.rank[index],
            sizes=self.sizes[index],
        )

    @classmethod
    def concat(cls, parts: Sequence[MapCalibration]) -> MapCalibration:
        """Join what was judged batch by batch at the same levels."""
        if not parts:
            raise InputError("map calibration: nothing to join")
        return cls(
            parts[0].levels,
            np.concatenate([p.mass_before for p in parts]),
            np.concatenate([p.mass for p in parts]),
            np.concatenate([p.rank for p in parts]),
            np.concatenate([p.sizes for p in parts]),
            parts[0].map_cells,
        )

    def error_samples(self, image: Ints, weights: Floats) -> Floats:
        """The error of each resample (R,) of images; NaN where it has no map.

        Args:
            image: (N,) index of each map's image.
            weights: (R, I) how often each image is drawn.
        """
        count = sums(np.ones(len(self)), image, weights)[:, None]
        with np.errstate(invalid="ignore"):
            share = sums(self.covered, image, weights) / count
        return np.asarray(np.abs(share - self.levels).mean(axis=1))

    def to_json(self) -> dict[str, object]:
        """Plain json: the curve, the error, the sizes."""
        names = ("coverage", "even_coverage", "region_cells")
        curves = {name: getattr(self, name) for name in names}
        return {
            "maps": len(self),
            "map_cells": self.map_cells,
            "levels": self.levels.tolist(),
            **{k: v.tolist() if len(self) else None for k, v in curves.items()},
            **plain({name: getattr(self, name) for name in ("error", "even_error", "nll", "beyond")}),
        }


@dataclass(frozen=True, eq=False)
class PublishedCalibration:
    """The curve of the ProbPose paper: what share of true cells falls into each twentieth of the mass.

    Attributes:
        ratio: (20,) share of true cells; a calibrated model has 0.05 everywhere. Reversed, as published: index 0
            is the last twentieth, of the smallest cells.
        area: (20,) share of a map's cells in it, reversed likewise.
        labels: (20,) centres of the twentieths, ascending: not reversed.
    """

    ratio: Floats
    area: Floats
    labels: Floats


def map_calibration(
    maps: npt.ArrayLike, cells: npt.ArrayLike, levels: npt.ArrayLike = LEVELS
) -> MapCalibration:
    """Judge maps by the cells of the true points.

    The region that holds q is the smallest set of cells whose mass reaches q, greatest first, ties in row-major
    order; it holds the true cell if the cells before that one hold less than q.

    Args:
        maps: (N, H, W) probabilities: not negative, each of sum 1 up to rounding.
        cells: (N, 2) int x, y of the true cells, on the map.
        levels: (Q,) shares between 0 and 1.

    Raises:
        InputError: shapes that do not fit, values that are no probabilities, cells beyond the map.
    """
    p, at = _checked(maps, cells)
    q = np.asarray(levels, np.float64)
    if q.ndim != 1 or not ((q > 0) & (q < 1)).all():
        raise InputError("map calibration: levels must be numbers between 0 and 1")
    parts = [_judged(p[s], at[s], q) for s in _slices(p)]
    return MapCalibration.concat(parts or [_judged(p, at, q)])


def _judged(p: npt.NDArray[np.floating], at: Ints, q: Floats) -> MapCalibration:
    """One slice of maps (n, M), cells as flat indices (n,)."""
    mine = np.take_along_axis(p, at[:, None], 1)
    first = (p > mine) | ((p == mine) & (np.arange(p.shape[1]) < at[:, None]))
    falling = -np.sort(-p, axis=1)
    held = np.cumsum(falling, axis=1, dtype=np.float64)
    # a cell belongs to the region if the cells before it hold less than q: the first always does
    sizes = [1 + np.count_nonzero(held < level, axis=1) for level in q]
    return MapCalibration(
        q,
        np.where(first, p, 0).sum(axis=1, dtype=np.float64),
        mine[:, 0].astype(np.float64),
        np.count_nonzero(first, axis=1),
        np.minimum(np.stack(sizes, axis=1) if sizes else np.zeros((len(p), 0), np.int64), p.shape[1]),
        p.shape[1],
    )


def published_calibration(maps: npt.ArrayLike, cells: npt.ArrayLike) -> PublishedCalibration:
    """The calibration curve as the authors of ProbPose draw it; arguments as of `map_calibration`.

    Cells are sorted by a stable ascending sort, reversed, and their mass is summed up. A cell's stretch of that
    sum is spread over twenty bins by overlap (cells without mass: the last bin); the shares of the true cells,
    and of all cells, are averaged.
    """
    p, at = _checked(maps, cells)
    if not len(p):
        raise InputError("map calibration: no maps")
    edges = np.linspace(0, 1, BINS + 1)
    ratio, area = np.zeros(BINS), np.zeros(BINS)
    for s in _slices(p):
        order = np.argsort(p[s], axis=1, kind="stable")[:, ::-1]
        upto = np.minimum(np.cumsum(np.take_along_axis(p[s], order, 1), axis=1, dtype=np.float64), 1)
        since = np.concatenate([np.zeros((len(upto), 1)), upto[:, :-1]], axis=1)
        length = upto - since
        true = order == at[s, None]
        for b in range(BINS):
            overlap = np.maximum(np.minimum(upto, edges[b + 1]) - np.maximum(since, edges[b]), 0)
            share = np.divide(overlap, length, out=np.full_like(length, b == BINS - 1), where=length > 0)
            ratio[b] += share[true].sum()
            area[b] += share.sum() / p.shape[1]
    return PublishedCalibration(ratio[::-1] / len(p), area[::-1] / len(p), (edges[:-1] + edges[1:]) / 2)


def true_cells(crop: Crop, points: npt.ArrayLike, flags: npt.ArrayLike) -> tuple[Ints, Bools]:
    """The cells of labelled points, (N, K, 2) int x, y, and which keypoints count (N, K).

    The nearest cell of the window's own transform (the reference truncates). Points count if they are labelled
    inside (flags 1, 2) and their cell is on the map; the cells of others are 0, 0.

    Args:
        crop: the N windows.
        points: (N, K, 2) image px.
        flags: (N, K).
    """
    xy, f = np.asarray(points, np.float64), np.asarray(flags)
    if xy.ndim != 3 or xy.shape[2] != 2 or f.shape != xy.shape[:2] or len(xy) != len(crop):
        raise InputError(
            f"true cells: expected points (N, K, 2) and flags (N, K) for {len(crop)} windows, "
            f"got {xy.shape} and {f.shape}"
        )
    counted = ((f == 1) | (f == 2)) & np.isfinite(xy).all(axis=-1)
    near = np.floor(crop.to_map(np.where(counted[..., None], xy, 0)) + 0.5)
    counted &= ((near >= 0) & (near < np.array(crop.map_size))).all(axis=-1)
    return np.where(counted[..., None], near, 0).astype(np.int64), counted


def _checked(maps: npt.ArrayLike, cells: npt.ArrayLike) -> tuple[npt.NDArray[np.floating], Ints]:
    """Maps as (N, H * W) and cells as flat indices (N,)."""
    p, c = np.asarray(maps), np.asarray(cells)
    if p.dtype.kind != "f" or p.ndim != 3 or c.shape != (len(p), 2):
        raise InputError(
            f"map calibration: expected maps (N, H, W) and cells (N, 2), got {p.dtype} {p.shape}, {c.shape}"
        )
    if len(c) and c.dtype.kind not in "iu":
        raise InputError(f"map calibration: cells must be whole numbers x, y, got {c.dtype} (see true_cells)")
    h, w = p.shape[1:]
    off = ((c < 0) | (c >= (w, h))).any(axis=1)
    if off.any():
        i = int(np.flatnonzero(off)[0])
        raise InputError(f"map calibration: cell {c[i].tolist()} of map {i} is not on the map ({w} x {h})")
    flat = p.reshape(len(p), h * w)
    total = flat.sum(axis=1, dtype=np.float64)
    bad = ~(np.abs(total - 1) <= SUM_TOLERANCE) | (flat < 0).any(axis=1)
    if bad.any():
        i = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"map calibration: map {i} is no probability map (sum {total[i]:.4g}, least value "
            f"{flat[i].min():.4g}); values must be at least 0 and sum to 1"
        )
    return flat, (c[:, 1].astype(np.int64) * w + c[:, 0]).astype(np.int64)


def _slices(p: npt.NDArray[np.floating]) -> list[slice]:
    step = max(1, CELLS_AT_ONCE // max(p.shape[1], 1))
    return [slice(at, at + step) for at in range(0, len(p), step)]


def _mean(values: Floats) -> Floats:
    """Mean over the first axis; NaN without entries."""
    if not len(values):
        return np.full(values.shape[1:], np.nan)
    return np.asarray(values.mean(axis=0))
