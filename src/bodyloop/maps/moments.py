"""Mean, covariance, entropy and mass of maps, in map px and in image px.

Each cell counts as a point at its centre. A map that does not sum to 1 is normalised; of a heatmap with
negative values the positive part is taken.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bodyloop.geometry import Crop
from bodyloop.maps.kernels import as_maps
from bodyloop.maps.layers import MapLayer


@dataclass(frozen=True, eq=False)
class Moments:
    """What a map says in a few numbers; NaN where it holds no mass.

    Attributes:
        mass: (..., K) float64, sum of the map's values.
        mean: (..., K, 2) x y.
        covariance: (..., K, 2, 2) of x, y; 0 for a map of one cell.
        entropy: (..., K) nats over the cells: 0 for one cell, log(h w) for a flat map.
    """

    mass: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    covariance: npt.NDArray[np.float64]
    entropy: npt.NDArray[np.float64]

    def to_image(self, crop: Crop) -> Moments:
        """From map px to image px, for moments of N windows: mean and covariance change, the rest stays."""
        mean, covariance = crop.from_map(self.mean), crop.covariance_from_map(self.covariance)
        return replace(self, mean=mean, covariance=covariance)


def moments(maps: npt.ArrayLike) -> Moments:
    """Moments of maps (..., K, h, w) in map px."""
    p = np.maximum(as_maps(maps), 0).astype(np.float64)
    h, w = p.shape[-2:]
    center = np.array([(w - 1) / 2, (h - 1) / 2])  # powers about the middle lose the fewest digits
    powers_x = (np.arange(w) - center[0])[:, None] ** np.arange(3)
    powers_y = (np.arange(h) - center[1])[:, None] ** np.arange(3)
    sums = powers_y.T @ (p @ powers_x)  # [..., i, j] = sum of y^i x^j p
    mass = sums[..., 0, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        e = sums / np.where(mass > 0, mass, np.nan)[..., None, None]
        mean = np.stack([e[..., 0, 1], e[..., 1, 0]], axis=-1)
        second = np.stack([e[..., 0, 2], e[..., 1, 1], e[..., 1, 1], e[..., 2, 0]], axis=-1)
        covariance = second.reshape(*mass.shape, 2, 2) - mean[..., :, None] * mean[..., None, :]
        entropy = np.log(mass) - _sum_p_log_p(p) / np.where(mass > 0, mass, np.nan)
    variances = np.maximum(np.diagonal(covariance, axis1=-2, axis2=-1), 0)  # rounding may leave -1e-13
    covariance[..., [0, 1], [0, 1]] = variances
    return Moments(mass, mean + center, covariance, np.maximum(entropy, 0))


def _sum_p_log_p(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(..., K) sum of p log p over each map; only cells that hold something are looked at."""
    flat = np.flatnonzero(p)
    value, cells = p.ravel()[flat], p.shape[-2] * p.shape[-1]
    sums = np.bincount(flat // cells, value * np.log(value), p.size // cells)
    return np.asarray(sums.reshape(p.shape[:-2]))


def layer_moments(layer: MapLayer) -> Moments:
    """Moments of a layer's maps, mean (N, K, 2) and covariance (N, K, 2, 2) in image px."""
    return moments(layer.values).to_image(layer.crop)
