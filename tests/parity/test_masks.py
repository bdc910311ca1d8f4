"""Masks against the reference: its contours, its raster, its dimming table."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from bodyloop.masks import Masks, dim_lut, reference_detour
from tests.parity.manifest import compare, given

FILE = "mask_raster.npz"


@pytest.fixture(scope="module")
def bitmap() -> npt.NDArray[np.bool_]:
    h, w = given(FILE, "shape")
    return np.unpackbits(given(FILE, "mask_bits"))[: h * w].reshape(h, w).astype(bool)


def test_outline(bitmap: npt.NDArray[np.bool_]) -> None:
    polygons = Masks.from_bitmaps(bitmap[None]).polygons(0)
    compare(FILE, "poly", np.concatenate([p.ravel() for p in polygons]), 0)
    compare(FILE, "poly_len", [p.size for p in polygons], 0)


def test_raster_of_the_outline(bitmap: npt.NDArray[np.bool_]) -> None:
    redrawn = reference_detour(bitmap)
    assert redrawn.sum() == 21_922  # as the specification counts; the mask itself has 21,362 and a hole
    compare(FILE, "raster_bits", np.packbits(redrawn), 0)


@pytest.mark.parametrize(("key", "alpha"), [("bg_025", 0.25), ("bg_020", 0.20)])
def test_dimming(key: str, alpha: float) -> None:
    compare("mask_lut.npz", key, dim_lut(alpha), 0)
