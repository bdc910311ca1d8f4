"""The reference's "input px", which exist only in stored numbers.

It takes decoded map px to the crop by ``x / (w - 1) * width``, although its crops are made with ``width - 1``
(as bodyloop does both ways). Positions in the image come out exact, but such numbers are not crop px.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

INPUT = np.array([192.0, 256.0])
MAP = np.array([48.0, 64.0])


def to_input_px(map_px: npt.ArrayLike, area: float = 1.0) -> npt.NDArray[np.float64]:
    """Decoded map px (..., 2) as the reference writes them.

    ``area`` is the size of the window relative to the crop (1.25 for the outer map).
    """
    size = INPUT * area
    return np.asarray(map_px, np.float64) / (MAP - 1) * size + INPUT / 2 - size / 2


def to_map_px(input_px: npt.ArrayLike, area: float = 1.0) -> npt.NDArray[np.float64]:
    """The exact inverse of `to_input_px`."""
    size = INPUT * area
    return (np.asarray(input_px, np.float64) - INPUT / 2 + size / 2) / size * (MAP - 1)
