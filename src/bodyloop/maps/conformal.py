"""Conformal regions: where a keypoint is with a stated probability, whatever the map is worth.

A region that holds 90 % of a map holds the truth in 90 % of cases only if the map is honest, and beyond the exact
zeros of sparsemax a map says nothing at all. Split conformal prediction (Vovk et al. 2005; Lei et al. 2018) needs
no honest map: it needs a family of nested regions and a number of keypoints whose truth is known. `nested_scores`
is the family: the map, smoothed by its keypoint's OKS kernel and mixed with a wide bump that is positive
everywhere, gives every cell the mass of the cells before it, so that regions grow cell by cell over the whole
window. `conformal_quantile` is the threshold: regions of cells up to it hold the next keypoint of the same kind
with at least the wanted probability, for any number of known keypoints.

What is promised is an average over people and photos like those of the calibration, for points inside the window;
whether the point is inside is what presence says.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.maps.kernels import as_maps, oks_convolve
from bodyloop.maps.layers import MapLayer
from bodyloop.maps.moments import moments
from bodyloop.maps.regions import Region, cell_region, map_of

Floats = npt.NDArray[np.float64]

FAMILY = "smoothed-map-1"  # cards name it: thresholds of one family mean nothing in another
WIDE_SHARE = 0.1  # of the mass; between 0.05 and 0.2 the regions hardly change
LEAST_SPREAD = 4.0  # map px^2, added to the map's own variance: even a map of one cell may be wrong
WHOLE = 1.0  # threshold of the whole window: every score is below it


def nested_scores(maps: npt.ArrayLike, variances: npt.ArrayLike) -> Floats:
    """For every cell the share of mass before it, greatest first: 0 for the first cell, below 1 for the last.

    The mass is that of 0.9 times the map, smoothed by its OKS kernel, and 0.1 times a bivariate Cauchy
    distribution (1 + d^2 / s)^-1.5 around the map's mean, s the map's variance an axis plus 4 px^2. Its tails
    fall slowly enough for doubles to tell all cells apart. Ties: in row-major order.

    Args:
        maps: (..., K, h, w); of heatmaps with negative values the positive part counts.
        variances: (K,) of the OKS kernels, map px^2.
    Returns: (..., K, h, w) float64; NaN for a map that is not available or holds no mass.
    """
    p = np.maximum(as_maps(maps), 0)
    smooth = oks_convolve(p, variances, exact=False).astype(np.float64)
    total = smooth.sum(axis=(-2, -1), keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mass = (1 - WIDE_SHARE) * (smooth / total) + WIDE_SHARE * _bump(p)
    flat = mass.reshape(*mass.shape[:-2], -1)
    order = np.argsort(-flat, axis=-1, kind="stable")
    falling = np.take_along_axis(flat, order, -1)
    before = np.cumsum(falling, axis=-1) - falling
    out = np.empty_like(flat)
    np.put_along_axis(out, order, np.maximum(before, 0), -1)
    return np.asarray(out.reshape(mass.shape))


def _bump(p: npt.NDArray[np.float32]) -> Floats:
    """(..., h, w) the wide part of the mixture, summing to 1."""
    h, w = p.shape[-2:]
    m = moments(p)
    spread = LEAST_SPREAD + np.trace(m.covariance, axis1=-2, axis2=-1) / 2
    x = (np.arange(w) - m.mean[..., 0, None]) ** 2
    y = (np.arange(h) - m.mean[..., 1, None]) ** 2
    bump = (1 + (y[..., :, None] + x[..., None, :]) / spread[..., None, None]) ** -1.5
    return np.asarray(bump / bump.sum(axis=(-2, -1), keepdims=True))


def conformal_score(maps: npt.ArrayLike, cells: npt.ArrayLike, variances: npt.ArrayLike) -> Floats:
    """The score of each map's true cell: how far its region must grow to hold the truth.

    Args:
        maps: (..., K, h, w); cells: (..., K, 2) int x y, on the map; variances: (K,).
    Returns: (..., K) in [0, 1), NaN as of `nested_scores`.

    Raises:
        InputError: cells of another shape, or off the map.
    """
    scores, at = nested_scores(maps, variances), np.asarray(cells)
    h, w = scores.shape[-2:]
    if at.shape != (*scores.shape[:-2], 2) or at.dtype.kind not in "iu":
        raise InputError(
            f"conformal_score: expected int cells {(*scores.shape[:-2], 2)}, got {at.dtype} {at.shape}"
        )
    if ((at < 0) | (at >= (w, h))).any():
        raise InputError(f"conformal_score: a cell is not on the map of {w} x {h} cells")
    index = (at[..., 1] * w + at[..., 0])[..., None]
    return np.asarray(np.take_along_axis(scores.reshape(*scores.shape[:-2], -1), index, -1)[..., 0])


def conformal_quantile(scores: npt.ArrayLike, alpha: float, groups: npt.ArrayLike | None = None) -> float:
    """The threshold whose regions miss the next truth with probability at most ``alpha``.

    Without groups: the ceil((n + 1)(1 - alpha))-th smallest of n scores, exact for exchangeable scores. With groups
    (photos): people of one photo are not independent, so every photo counts as one, shared by its scores, and one
    more photo counts as infinite; that is exact for a random score of the next photo if photos are exchangeable
    (Lee, Barber & Willett 2023, hierarchical conformal prediction). One score a group is the plain case. Ties
    are not broken at random: the coverage can only be greater.

    Args:
        scores: (n,) finite; alpha: between 0 and 1; groups: (n,) of any labels.
    Returns: a score, or 1.0 (the whole window) where there are too few of them.

    Raises:
        InputError: scores that are not finite, other shapes, alpha outside (0, 1).
    """
    s = np.asarray(scores, np.float64)
    g = np.arange(len(s)) if groups is None else np.asarray(groups)
    if s.ndim != 1 or g.shape != s.shape or not np.isfinite(s).all():
        raise InputError("conformal_quantile: expected finite scores (n,), and groups (n,) if there are any")
    if not 0 < alpha < 1:
        raise InputError(f"conformal_quantile: alpha must lie between 0 and 1, got {alpha}")
    found, group, size = np.unique(g, return_inverse=True, return_counts=True)
    order = np.argsort(s, kind="stable")
    held = np.cumsum(1 / size[group[order]])  # in photos
    at = int(np.searchsorted(held, (len(found) + 1) * (1 - alpha) - 1e-9))  # rounding is no score more
    return float(s[order[at]]) if at < len(s) else WHOLE


def conformal_region(
    layer: MapLayer, person: int, keypoint: int, threshold: float, variances: npt.ArrayLike
) -> Region:
    """The region of one map's cells whose score is at most ``threshold``, in image px.

    Args:
        variances: (K,) of the layer's keypoints.

    Raises:
        InputError: a threshold outside [0, 1], no such person or keypoint, or a map that is not available (NaN)
            or holds no mass.
    """
    if not 0 <= threshold <= WHOLE:
        raise InputError(f"conformal_region: a threshold lies in 0..1, got {threshold}")
    values = map_of(layer, person, keypoint)
    own = np.asarray(variances, np.float64)[[keypoint]]
    return cell_region(layer, person, keypoint, nested_scores(values[None], own)[0] <= threshold)
