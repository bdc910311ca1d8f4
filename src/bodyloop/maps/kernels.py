"""OKS kernels: how far off a keypoint may be on the map, as a Gaussian per keypoint.

Convolving a probability map with a keypoint's kernel gives, at every cell, the similarity to expect if that
cell were answered (ProbPose, Purkrabek et al., CVPR 2025); the same Gaussians are the training targets. The
kernels are separable, so a whole batch is convolved by two matrix products, borders included.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError

Array = npt.NDArray[np.floating]
Matrices = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

VARIANCE_RANGE = (0.55, 3.0)  # map px^2; limits of the published models
BOX_PADDING = 1.25  # the person's box fills 1 / 1.25 of the map along each axis
DARK_SIZE, DARK_SIGMA = 11, 2.0  # the Gaussian that DARK smooths with, map px


def oks_variances(sigmas: npt.ArrayLike, map_size: tuple[int, int] = (48, 64)) -> npt.NDArray[np.float64]:
    """(K,) kernel variances in map px^2 of keypoints with OKS constants ``sigmas`` (K,).

    s = clip((2 sigma)^2 * 2 * A, 0.55, 3.0), where A is the geometric mean side of the person's box on a map
    of ``map_size`` = (w, h). OKS itself would have the area, not its root; the published models use the root.
    """
    s = np.asarray(sigmas, np.float64)
    if s.ndim != 1 or not (s > 0).all():
        raise InputError(f"oks_variances: sigmas must be positive and of shape (K,), got shape {s.shape}")
    side = np.sqrt(map_size[0] / BOX_PADDING * map_size[1] / BOX_PADDING)
    return np.asarray(np.clip((2 * s) ** 2 * side * 2, *VARIANCE_RANGE))


def kernel_radius(variance: float) -> int:
    """Half width of the kernel's square support, map px: ceil(3 s)."""
    return int(np.ceil(3 * variance))


def oks_kernel(variance: float) -> npt.NDArray[np.float64]:
    """(2r+1, 2r+1) float64 kernel exp(-(dx^2 + dy^2) / (2 s)) with r = ceil(3 s), summing to 1."""
    d2 = np.arange(-kernel_radius(variance), kernel_radius(variance) + 1, dtype=np.float64) ** 2
    k = np.exp(-(d2[:, None] + d2[None]) / (2 * variance))
    return np.asarray(k / k.sum())


def oks_targets(
    points: npt.ArrayLike, variances: npt.ArrayLike, map_size: tuple[int, int] = (48, 64)
) -> npt.NDArray[np.float64]:
    """Similarity of every cell to the true point: exp(-d^2 / (2 s)), not normalised.

    Args:
        points: (..., K, 2) map px; may lie anywhere.
        variances: (K,) map px^2.
    Returns: (..., K, h, w) float64; 0 where the exponent underflows, NaN for NaN points.
    """
    p = np.asarray(points, np.float64)
    s = 2 * np.asarray(variances, np.float64)[:, None]
    x = (np.arange(map_size[0]) - p[..., 0:1]) ** 2 / s
    y = (np.arange(map_size[1]) - p[..., 1:2]) ** 2 / s
    return np.asarray(np.exp(-(y[..., :, None] + x[..., None, :])))


def oks_convolve(
    maps: npt.ArrayLike, variances: npt.ArrayLike, *, exact: bool = True
) -> npt.NDArray[np.float32]:
    """Maps (..., K, h, w) convolved with their keypoints' kernels: the expected OKS of every cell.

    Borders are symmetric (the edge cell is repeated: d c b a | a b c d | d c b a), so near them mass counts
    twice, as in the reference.

    Args:
        exact: sum in float64, as the reference; else in float32 (error below 1e-5 of the largest value, a
            fifth of the time).
    Returns: (..., K, h, w) float32.
    """
    m = as_maps(maps)
    gy, gx = oks_matrices(variance_key(variances, m.shape[-3]), m.shape[-2:])
    if exact:
        return np.asarray((gy @ m.astype(np.float64) @ gx.transpose(0, 2, 1)).astype(np.float32))
    return np.asarray(gy.astype(np.float32) @ (m @ gx.transpose(0, 2, 1).astype(np.float32)))


def as_maps(maps: npt.ArrayLike, what: str = "maps") -> npt.NDArray[np.float32]:
    """Maps (..., K, h, w) as float32.

    Raises:
        InputError: fewer than three axes or an empty map.
    """
    m = np.asarray(maps, dtype=np.float32)
    if m.ndim < 3 or 0 in m.shape[-2:]:
        raise InputError(f"{what}: expected shape (..., K, h, w), got {m.shape}")
    return m


def variance_key(variances: npt.ArrayLike, count: int) -> tuple[float, ...]:
    """Variances as a hashable tuple, checked to be K = ``count`` positive numbers."""
    v = np.asarray(variances, np.float64)
    if v.shape != (count,):
        raise InputError(f"variances: the maps have {count} keypoints, got variances of shape {v.shape}")
    if not ((v > 0) & np.isfinite(v)).all():
        raise InputError("variances: must be positive and finite, in map px^2 (see oks_variances)")
    return tuple(v.tolist())


@lru_cache(maxsize=32)
def oks_matrices(variances: tuple[float, ...], shape: tuple[int, int]) -> Matrices:
    """(K, h, h) and (K, w, w) float64: row i weighs the cells that make up cell i, borders folded in."""
    gauss = [_gaussian(s, kernel_radius(s)) for s in variances]
    gy, gx = (np.stack([_banded(g, n, fold=True) for g in gauss]) for n in shape)
    gy.flags.writeable = gx.flags.writeable = False
    return gy, gx


@lru_cache(maxsize=8)
def dark_matrices(shape: tuple[int, int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(h, h) and (w, w) float32 of DARK's smoothing, zeros beyond the border."""
    g = _gaussian(DARK_SIGMA**2, DARK_SIZE // 2)
    gy, gx = (_banded(g, n, fold=False).astype(np.float32) for n in shape)
    gy.flags.writeable = gx.flags.writeable = False
    return gy, gx


def _gaussian(variance: float, radius: int) -> npt.NDArray[np.float64]:
    g = np.exp(-(np.arange(-radius, radius + 1, dtype=np.float64) ** 2) / (2 * variance))
    return np.asarray(g / g.sum())


def _banded(g: npt.NDArray[np.float64], n: int, *, fold: bool) -> npt.NDArray[np.float64]:
    """(n, n) matrix of a convolution with ``g``; beyond the border cells are mirrored (fold) or zero."""
    r = len(g) // 2
    at = np.arange(n)[:, None] + np.arange(-r, r + 1)
    weight = np.broadcast_to(g, at.shape)
    out = np.zeros((n, n))
    row = np.broadcast_to(np.arange(n)[:, None], at.shape)
    if fold:
        at = at % (2 * n)
        at = np.minimum(at, 2 * n - 1 - at)
        np.add.at(out, (row, at), weight)
    else:
        inside = (at >= 0) & (at < n)
        out[row[inside], at[inside]] = weight[inside]
    return out
