"""The flip test: the same crop seen in a mirror, put back and averaged.

Mirroring a map reverses its columns and swaps left and right keypoints. UDP measures grids between pixel
centres, so nothing has to be shifted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.maps.kernels import as_maps


def unflip_maps(mirrored: npt.ArrayLike, flip: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Maps (..., K, h, w) of the mirrored crop as they belong to the crop itself (a copy).

    ``flip`` (K,) is the index of each keypoint's mirror image (`Skeleton.flip`). Its own inverse.
    """
    m = as_maps(mirrored)
    return np.ascontiguousarray(m[..., _indices(flip, m.shape[-3]), :, ::-1])


def flip_average(
    maps: npt.ArrayLike, mirrored: npt.ArrayLike, flip: npt.ArrayLike
) -> npt.NDArray[np.float32]:
    """Mean of maps (..., K, h, w) and of those of the mirrored crop, put back."""
    a, b = as_maps(maps), unflip_maps(mirrored, flip)
    if a.shape != b.shape:
        raise InputError(f"flip_average: maps have shape {a.shape}, the mirrored ones {b.shape}")
    b += a
    b *= np.float32(0.5)
    return b


def flip_average_scores(
    scores: npt.ArrayLike, mirrored: npt.ArrayLike, flip: npt.ArrayLike
) -> npt.NDArray[np.float32]:
    """Mean of one number a keypoint (..., K), such as presence, and the mirrored crop's, put back."""
    a, b = np.asarray(scores, np.float32), np.asarray(mirrored, np.float32)
    if a.ndim < 1 or a.shape != b.shape:
        raise InputError(f"flip_average_scores: shapes {a.shape} and {b.shape} must be equal, (..., K)")
    return np.asarray((a + b[..., _indices(flip, a.shape[-1])]) * np.float32(0.5))


def _indices(flip: npt.ArrayLike, count: int) -> npt.NDArray[np.intp]:
    f = np.asarray(flip)
    if f.shape != (count,) or f.dtype.kind not in "iu":
        raise InputError(f"flip: expected {count} indices, one a keypoint, got shape {f.shape}")
    if not np.array_equal(np.sort(f), np.arange(count)) or not np.array_equal(f[f], np.arange(count)):
        raise InputError(f"flip: must swap keypoints in pairs, got {f.tolist()}")
    return f.astype(np.intp)
