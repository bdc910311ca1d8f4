"""People in files: ``.npz`` for exactness, ``.json`` for reading; and comparing two People."""

from __future__ import annotations

import os
from dataclasses import fields

import numpy as np

from bodyloop.errors import FileError
from bodyloop.masks import Masks
from bodyloop.people import People


def save(people: People, path: str | os.PathLike[str]) -> None:
    raise FileError(f"{path}: not yet")


def load(path: str | os.PathLike[str]) -> People:
    raise FileError(f"{path}: not yet")


def same(a: People, b: People, *, rtol: float, atol: float) -> bool:
    """Whether two People say the same up to the tolerances; NaN equals NaN, absent only absent."""
    if len(a) != len(b) or set(a.extra) != set(b.extra):
        return False
    pairs = [(f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(People) if f.name != "extra"]
    pairs += [(k, a.extra[k], b.extra[k]) for k in a.extra]
    for name, x, y in pairs:
        if (x is None) != (y is None):
            return False
        if x is None:
            continue
        if isinstance(x, Masks):
            alike = x.equals(y)
        elif name == "maps":
            p, q = x.to_arrays(), y.to_arrays()
            alike = set(p) == set(q) and all(_close(p[k], q[k], rtol, atol) for k in p)
        elif isinstance(x, np.ndarray):
            alike = _close(x, y, rtol, atol)
        else:
            alike = x == y
        if not alike:
            return False
    return True


def _close(x: np.ndarray, y: np.ndarray, rtol: float, atol: float) -> bool:
    if x.shape != y.shape:
        return False
    if x.dtype.kind in "fc" or y.dtype.kind in "fc":
        return bool(np.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True))
    return bool(np.array_equal(x, y))
