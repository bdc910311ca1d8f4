"""Sparsemax: the nearest probability distribution to a map of logits, with exact zeros.

Martins and Astudillo, "From Softmax to Sparsemax" (ICML 2016): p = max(0, z - tau) with the one tau for
which p sums to 1. tau is the root of f(tau) = sum(max(0, z - tau)) - 1, a convex, piecewise linear, falling
function, so Newton's method from below reaches it in finitely many steps without sorting (Michelot, 1986):

    tau <- tau + (sum(max(0, z - tau)) - 1) / count(z > tau),    z shifted to maximum 0, tau_0 = -1.

`sparsemax` goes on until the support stands still: that is the exact solution. `sparsemax_newton` takes a
fixed number of steps, in float32, and is what the torch and ONNX twins repeat operation by operation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError

Array = npt.NDArray[np.floating]

# On logits of pose networks, trained or random, 8 steps agree with the exact solution to 5e-7; nearly flat
# logits (white noise with a spread of 0.1 to 0.3, wide bumps at temperature 2) leave up to 2e-3 and want 12.
STEPS = 8


def sparsemax(logits: npt.ArrayLike, temperature: npt.ArrayLike = 1.0, *, axes: int = 2) -> Array:
    """Exact sparsemax of ``logits / temperature``.

    Args:
        logits: (..., h, w), or (..., n) with ``axes=1``; float32 (float64 stays float64).
        temperature: positive; one number, or one a distribution that broadcasts to the leading axes
            (so (K,) for maps (N, K, h, w)). Below 1 sharpens. The published models use 0.5.
        axes: number of trailing axes that one distribution runs over, 1 or 2.
    Returns: same shape and type; non-negative, sums to 1 over the trailing axes. A row with NaN or +inf, or
        of -inf alone, is NaN; single entries of -inf get 0.
    Raises:
        InputError: wrong number of axes, an empty distribution, or a temperature that is not positive.
    """
    z, shape = _rows(logits, temperature, axes)
    shifted = _shift(z)
    tau = _threshold(shifted).astype(z.dtype)
    return np.maximum(shifted - tau[:, None], z.dtype.type(0)).reshape(shape)


def sparsemax_newton(
    logits: npt.ArrayLike, steps: int = STEPS, temperature: npt.ArrayLike = 1.0, *, axes: int = 2
) -> Array:
    """Sparsemax by a fixed number of Newton steps: the definition that the torch and ONNX twins follow.

    Arguments and result as in `sparsemax`; while the support has not settled after ``steps`` the result sums
    to slightly more than 1.
    """
    z, shape = _rows(logits, temperature, axes)
    shifted = _shift(z)
    tau = np.full((len(z), 1), -1, z.dtype)
    for _ in range(steps):
        over = np.maximum(shifted - tau, z.dtype.type(0))
        count = (over > 0).sum(axis=1, keepdims=True).astype(z.dtype)
        tau = tau + (over.sum(axis=1, keepdims=True) - z.dtype.type(1)) / np.maximum(count, z.dtype.type(1))
    return np.maximum(shifted - tau, z.dtype.type(0)).reshape(shape)


def sparsemax_grad(
    maps: npt.ArrayLike, upstream: npt.ArrayLike, temperature: npt.ArrayLike = 1.0, *, axes: int = 2
) -> Array:
    """Gradient with respect to the logits, from the result ``maps`` and the gradient ``upstream`` at it.

    On the support of each distribution the upstream gradient minus its mean there, elsewhere 0; all divided
    by the temperature. Shapes as in `sparsemax`.
    """
    p, shape = _rows(maps, 1.0, axes)
    g, given = _rows(
        upstream, temperature, axes
    )  # the chain rule divides the gradient as it divided the logits
    if given != shape:
        raise InputError(f"sparsemax_grad: maps have shape {shape}, the upstream gradient {given}")
    support = p != 0
    count = np.maximum(support.sum(axis=1, keepdims=True), 1)
    mean = np.where(support, g, 0).sum(axis=1, keepdims=True, dtype=np.float64) / count
    return np.where(support, g - mean, 0).astype(g.dtype).reshape(shape)


def _rows(a: npt.ArrayLike, temperature: npt.ArrayLike, axes: int) -> tuple[Array, tuple[int, ...]]:
    """``a / temperature`` as (rows, n), and the shape to go back to."""
    z = np.asarray(a)
    z = z if z.dtype == np.float64 else z.astype(np.float32, copy=False)
    if axes not in (1, 2) or z.ndim < axes:
        raise InputError(f"sparsemax: cannot run over {axes} trailing axes of shape {z.shape}")
    lead, tail = z.shape[:-axes], z.shape[-axes:]
    n = int(np.prod(tail))
    if n == 0:
        raise InputError(f"sparsemax: shape {z.shape} leaves an empty distribution")
    t = np.asarray(temperature, z.dtype)
    if not (t > 0).all():
        raise InputError(f"sparsemax: temperature must be positive, got {t.tolist()}")
    if t.ndim or t != 1:
        try:
            z = z / np.broadcast_to(t, lead).reshape(*lead, *[1] * axes)
        except ValueError as e:
            raise InputError(
                f"sparsemax: temperatures of shape {t.shape} do not broadcast to the leading axes {lead}"
            ) from e
    return z.reshape(-1, n), z.shape


def _shift(z: Array) -> Array:
    """Rows minus their maximum; rows without a finite maximum become NaN."""
    top = z.max(axis=1, keepdims=True)
    return z - np.where(np.isfinite(top), top, np.nan).astype(z.dtype)


def _threshold(shifted: Array) -> npt.NDArray[np.float64]:
    """(rows,) exact tau of rows whose maximum is 0; NaN rows give NaN.

    Only entries above a lower bound of tau are looked at at all, and fewer in every pass.
    """
    rows = len(shifted)
    flat = np.flatnonzero(shifted > _lower_bound(shifted))
    row, value = flat // shifted.shape[1], shifted.ravel()[flat].astype(np.float64)
    tau = np.full(rows, np.nan)
    while True:
        # the support's own tau; dropping entries below it only raises the next one (Michelot)
        count = np.bincount(row, minlength=rows)
        np.divide(np.bincount(row, value, rows) - 1, count, out=tau, where=count > 0)
        keep = value > tau[row]
        if keep.all():
            return tau
        row, value = row[keep], value[keep]


def _lower_bound(shifted: Array, block: int = 16) -> Array:
    """(rows, 1) values that tau is not below: -1, as p <= 1; and the tau of any part of the row."""
    rows, n = shifted.shape
    low = np.full((rows, 1), -1, shifted.dtype)
    if n < 8 * block:
        return low
    part = shifted[:, : n // block * block].reshape(rows, block, n // block).max(axis=1)
    for _ in range(4):  # each Newton step stays at or below the part's tau
        over = np.maximum(part - low, 0)
        count = np.maximum((over > 0).sum(axis=1, keepdims=True), 1)
        low = np.maximum(low + (over.sum(axis=1, keepdims=True) - 1) / count, low).astype(shifted.dtype)
    return np.asarray(low - shifted.dtype.type(1e-5))  # rounding must not cut off a member of the support
