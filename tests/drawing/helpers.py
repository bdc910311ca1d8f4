"""Small photos and people to draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.people import People
from bodyloop.skeletons import Skeleton

PAIR = Skeleton.define(
    "pair", ["left_hand", "right_hand", "nose"], links=["left_hand-nose", "right_hand-nose"]
)


def photo(w: int = 120, h: int = 100, value: int = 128) -> npt.NDArray[np.uint8]:
    """Flat grey: every mark differs from it."""
    return np.full((h, w, 3), value, np.uint8)


def people(points: npt.ArrayLike, size: tuple[int, int] = (120, 100), **columns: Any) -> People:
    """People of (N, K, 2) or (K, 2) keypoints; three keypoints get a skeleton with limbs."""
    p = np.asarray(points, np.float32)
    p = p[None] if p.ndim == 2 else p
    skeleton = columns.pop("skeleton", PAIR if p.shape[1] == 3 else None)
    return People(size, skeleton=skeleton, keypoints=p, **columns)


def painted(
    pixels: npt.NDArray[np.uint8], value: npt.ArrayLike = 128, above: int = 2
) -> npt.NDArray[np.bool_]:
    """(H, W) where a picture differs from a flat ground."""
    return np.asarray((np.abs(pixels.astype(int) - np.asarray(value)) > above).any(axis=-1))
