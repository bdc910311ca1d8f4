"""Targets of map losses: Gaussians around true points, in map px, and the weights of keypoints (spec 9.2).

Maps are (B, K, h, w), points (B, K, 2) in map px, x before y. All are separable, so a batch costs two small
outer products. `oks_targets` is ProbPose's (peak below 1 between pixels) and PMPose's (peak exactly 1),
`udp_targets` that of plain heatmaps, `distribution_targets` sums to 1 over the map (our own recipes).
"""

from __future__ import annotations

import torch
from torch import Tensor

NORMALISE_ABOVE = 0.001  # PMPose scales targets to a peak of 1 unless they are next to nothing
UDP_SIGMA = 2.0  # map px
UDP_RADIUS = 6  # three sigmas


def _axes(points: Tensor, map_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Signed distances to the grid's columns (B, K, w) and rows (B, K, h)."""
    w, h = map_size
    x = torch.arange(w, device=points.device, dtype=points.dtype)
    y = torch.arange(h, device=points.device, dtype=points.dtype)
    return x - points[..., :1], y - points[..., 1:]


def oks_targets(
    points: Tensor,
    annotated: Tensor,
    variances: Tensor,
    map_size: tuple[int, int] = (48, 64),
    *,
    unit_peak: bool,
) -> tuple[Tensor, Tensor]:
    """exp(-d^2 / (2 s_k)) and the weights (B, K): 1 where annotated and the target is not zero everywhere.

    Args:
        points: (B, K, 2) map px, float64 for the published weights (they test for underflow in double precision).
        annotated: (B, K) bool. variances: (K,) s_k in map px^2.
        unit_peak: scale so that the best pixel has 1 (PMPose); else as it is (ProbPose).
    """
    dx, dy = _axes(points, map_size)
    two_s = 2.0 * variances.to(points)[:, None]
    column, row = torch.exp(-(dx**2) / two_s), torch.exp(-(dy**2) / two_s)
    maps = row[..., :, None] * column[..., None, :]
    peak = maps.amax(dim=(2, 3))
    weights = ((peak > 0) & annotated).to(points.dtype)
    if unit_peak:
        scale = torch.where(peak > NORMALISE_ABOVE, peak, torch.ones_like(peak))
        maps = maps / scale[..., None, None]
    return maps * annotated[..., None, None].to(maps.dtype), weights


def udp_targets(
    points: Tensor, annotated: Tensor, map_size: tuple[int, int] = (48, 64)
) -> tuple[Tensor, Tensor]:
    """UDP Gaussians of sigma 2 in a 13x13 patch around the nearest pixel; weight 0 if the patch misses the map."""
    w, h = map_size
    dx, dy = _axes(points, map_size)
    mu = (points + 0.5).trunc()
    to_mu_x, to_mu_y = _axes(mu, map_size)
    two_s = 2.0 * UDP_SIGMA**2
    column = torch.exp(-(dx**2) / two_s) * (to_mu_x.abs() <= UDP_RADIUS)
    row = torch.exp(-(dy**2) / two_s) * (to_mu_y.abs() <= UDP_RADIUS)
    x, y = mu[..., 0], mu[..., 1]
    r = UDP_RADIUS
    outside = (x - r >= w) | (y - r >= h) | (x + r + 1 < 0) | (y + r + 1 < 0)
    weights = (annotated & ~outside).to(points.dtype)
    maps = row[..., :, None] * column[..., None, :]
    return maps * (weights > 0)[..., None, None], weights


def distribution_targets(points: Tensor, variances: Tensor, map_size: tuple[int, int] = (48, 64)) -> Tensor:
    """Gaussians that sum to 1 over the map, for points in or next to it: (B, K, h, w)."""
    dx, dy = _axes(points, map_size)
    two_s = 2.0 * variances.to(points)[:, None]
    column = torch.softmax(-(dx**2) / two_s, dim=-1)
    row = torch.softmax(-(dy**2) / two_s, dim=-1)
    return row[..., :, None] * column[..., None, :]
