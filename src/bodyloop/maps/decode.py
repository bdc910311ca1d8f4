"""From maps to points: the maximum of the expected OKS, or the maximum of the map with a DARK-UDP step.

`decode_expected_oks` (ProbPose) answers the cell whose expected similarity to the truth is greatest;
`decode_dark_udp` (PMPose, MaskPose, ViTPose) answers the map's maximum, refined by one Newton step on the
logarithm of the smoothed map (Zhang et al., CVPR 2020; Huang et al., CVPR 2020). Both take any maps. Points
are map px; `Crop.from_map` takes them to the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError
from bodyloop.maps.kernels import as_maps, dark_matrices, oks_matrices, variance_key

Array = npt.NDArray[np.floating]
Cells = npt.NDArray[np.intp]
Decoder = Literal["expected_oks", "dark_udp"]

DARK_RANGE = (0.001, 50.0)  # the smoothed map is held in this range before the logarithm
DARK_RIDGE = float(np.finfo(np.float32).eps)  # added to the Hessian's diagonal
LARGEST_STEP = 1.0  # map px, per axis: the maximum of a map lies within its cell or the next


@dataclass(frozen=True, eq=False)
class Decoded:
    """Points read out of maps.

    Attributes:
        points: (..., K, 2) float64 x y in map px; NaN where the map gives no point.
        scores: (..., K) float32, the map's own value at the decoded cell (not the convolved one).
    """

    points: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float32]


def decode(
    maps: npt.ArrayLike, how: Decoder, variances: npt.ArrayLike | None = None, *, parity: bool = False
) -> Decoded:
    """Decode maps (..., K, h, w) by the decoder's name, as a model's card gives it.

    Raises:
        ConfigError: no such decoder, or expected OKS without kernel variances.
    """
    if how == "dark_udp":
        return decode_dark_udp(maps, parity=parity)
    if how != "expected_oks":
        raise ConfigError(f"decoder {how!r}: there is {', '.join(get_args(Decoder))}")
    if variances is None:
        raise ConfigError("decoder 'expected_oks' needs kernel variances: oks_variances(skeleton.sigmas)")
    return decode_expected_oks(maps, variances)


def decode_expected_oks(maps: npt.ArrayLike, variances: npt.ArrayLike) -> Decoded:
    """The cell of greatest expected OKS (first in row-major order), refined by a parabola along each axis.

    No refinement on the border. All in the precision of the reference: sums in float64, rounded to float32.
    A map with NaN gives NaN.

    Args:
        maps: (..., K, h, w) float32.
        variances: (K,) map px^2 (`oks_variances`).
    """
    m = as_maps(maps)
    count, (h, w) = m.shape[-3], m.shape[-2:]
    gy, gx = oks_matrices(variance_key(variances, count), (h, w))
    flat = m.reshape(-1, h, w)
    which = np.arange(len(flat)) % count
    cell = _expected_argmax(m, gy, gx, which)
    y, x = cell // w, cell % w
    near = np.arange(-1, 2)
    rows = gy[which[:, None], np.clip(y[:, None] + near, 0, h - 1)]
    cols = gx[which[:, None], np.clip(x[:, None] + near, 0, w - 1)]
    inner = (x > 0) & (x < w - 1) & (y > 0) & (y < h - 1)
    with np.errstate(invalid="ignore"):  # NaN and infinite maps become NaN points below
        c = (rows @ flat @ cols.transpose(0, 2, 1)).astype(np.float32)  # the 3 x 3 cells around, in float64
        step = np.stack([_parabola(c[:, 1, :]), _parabola(c[:, :, 1])], axis=1)
    points = np.stack([x, y], axis=1) + np.where(inner[:, None], step, 0.0)
    points[~np.isfinite(c[:, 1, 1])] = np.nan
    scores = flat[np.arange(len(flat)), y, x]
    return Decoded(points.reshape(*m.shape[:-2], 2), scores.reshape(m.shape[:-2]))


def decode_dark_udp(maps: npt.ArrayLike, *, parity: bool = False) -> Decoded:
    """The map's maximum (first in row-major order), refined by a DARK-UDP step. A peak <= 0 or NaN gives NaN.

    Args:
        maps: (..., K, h, w) float32: probability maps or heatmaps.
        parity: leave the step unbounded, as the reference does; by default at most one map px per axis (where
            the smoothed map is flat the step is ill-conditioned and several px long).
    """
    m = as_maps(maps)
    h, w = m.shape[-2:]
    flat = m.reshape(-1, h, w)
    every = np.arange(len(flat))
    cell = flat.reshape(len(flat), h * w).argmax(axis=1)
    y, x = cell // w, cell % w
    peak = flat[every, y, x]
    gy, gx = dark_matrices((h, w))
    with np.errstate(invalid="ignore"):  # NaN and infinite maps become NaN points below
        smooth = gy @ (flat @ gx.T)
    highest = smooth.reshape(len(flat), h * w).max(axis=1, initial=-np.inf)
    near = np.arange(-1, 2)
    ys = np.clip(y[:, None] + near, 0, h - 1)[:, :, None]  # edge cells repeat beyond the border
    xs = np.clip(x[:, None] + near, 0, w - 1)[:, None, :]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        scale = peak / (highest + np.float32(1e-12))
        patch = smooth[every[:, None, None], ys, xs] * scale[:, None, None]
    good = (peak > 0) & np.isfinite(patch).all(axis=(1, 2))
    step = np.full((len(flat), 2), np.nan)
    step[good] = _newton_step(np.log(np.clip(patch[good], *DARK_RANGE)))
    if not parity:
        step = np.clip(step, -LARGEST_STEP, LARGEST_STEP)
    points = np.stack([x, y], axis=1) - step
    return Decoded(points.reshape(*m.shape[:-2], 2), peak.reshape(m.shape[:-2]))


def _expected_argmax(
    m: npt.NDArray[np.float32], gy: npt.NDArray[np.float64], gx: npt.NDArray[np.float64], which: Cells
) -> Cells:
    """(maps,) flat index of the first maximum of the exactly convolved maps (..., K, h, w).

    Convolved in float32; where rounding could decide, that is where another cell comes close to the maximum,
    the map is done again in float64.
    """
    h, w = m.shape[-2:]
    with np.errstate(invalid="ignore"):
        fast = gy.astype(np.float32) @ (m @ gx.transpose(0, 2, 1).astype(np.float32))
    c = fast.reshape(len(which), h * w)
    cell = c.argmax(axis=1)
    flat = m.reshape(c.shape)
    # float32 sums of at most 19 x 19 terms are off by less than this, relative to the largest term
    doubt = np.float32(1e-5) * np.maximum(flat.max(axis=1), -flat.min(axis=1))
    with np.errstate(invalid="ignore"):
        close = np.count_nonzero(c >= (c[np.arange(len(c)), cell] - doubt)[:, None], axis=1) > 1
    if close.any():
        again = flat[close].reshape(-1, h, w).astype(np.float64)
        exact = gy[which[close]] @ again @ gx[which[close]].transpose(0, 2, 1)
        cell[close] = exact.astype(np.float32).reshape(-1, h * w).argmax(axis=1)
    return np.asarray(cell)


def _parabola(c: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(n,) offset of the maximum of the parabola through three neighbours (n, 3)."""
    slope = (c[:, 2] - c[:, 0]) / 2
    bend = c[:, 2] + c[:, 0] - 2 * c[:, 1]
    return -(slope / np.where(bend == 0, np.float32(1e-6), bend)).astype(np.float64)


def _newton_step(log: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """(n, 2) x y of inverse Hessian times gradient of 3 x 3 patches (n, 3, 3)."""
    i = log.astype(np.float64)
    mid, left, right, up, down = i[:, 1, 1], i[:, 1, 0], i[:, 1, 2], i[:, 0, 1], i[:, 2, 1]
    gradient = np.stack([(right - left) / 2, (down - up) / 2], axis=1)
    hessian = np.empty((len(i), 2, 2))
    hessian[:, 0, 0] = right - 2 * mid + left + DARK_RIDGE
    hessian[:, 1, 1] = down - 2 * mid + up + DARK_RIDGE
    mixed = (i[:, 2, 2] - right - down + 2 * mid - left - up + i[:, 0, 0]) / 2
    hessian[:, 0, 1] = hessian[:, 1, 0] = mixed
    return np.asarray((np.linalg.pinv(hessian) @ gradient[:, :, None])[:, :, 0])
