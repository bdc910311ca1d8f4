"""Windows, matrices and crops against the reference."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bodyloop.geometry import Crop
from tests.parity.manifest import FIXTURES, compare, given
from tests.parity.warp4x import warp
from tests.parity.weights import synthetic_image

FILE = "transforms.npz"


@pytest.fixture(scope="module")
def crop() -> Crop:
    return Crop.from_boxes(given(FILE, "boxes"))


@pytest.fixture(scope="module")
def turned() -> Crop:
    degrees = given(FILE, "rot_deg")
    n = len(degrees)
    return Crop(
        np.tile(given(FILE, "rot_center"), (n, 1)), np.tile(given(FILE, "rot_scale"), (n, 1)), degrees
    )


def test_windows_and_matrices(crop: Crop) -> None:
    compare(FILE, "center", crop.center, 0, rtol=1e-4)
    compare(FILE, "scale", crop.scale, 0, rtol=1e-4)
    compare(FILE, "warp", crop.matrix, 1e-6, rtol=1e-4)


def test_turned_windows(turned: Crop) -> None:
    compare(FILE, "rot_warp", turned.matrix, 1e-6, rtol=1e-4)
    points = np.broadcast_to(given(FILE, "rot_points"), (len(turned), 4, 2))
    compare(FILE, "rot_points_out", turned.to_crop(points), 1e-3)


@pytest.mark.parametrize("index", [0, 1, 4])
def test_crops_are_exact_with_the_reference_warp(crop: Crop, index: int) -> None:
    stored = cv2.imread(str(FIXTURES / "crops" / f"crop_{index}.png"))
    made = warp(synthetic_image(), crop.matrix[index], crop.size)
    np.testing.assert_array_equal(made, stored)


def test_a_turned_crop_is_exact_with_the_reference_warp(turned: Crop) -> None:
    stored = cv2.imread(str(FIXTURES / "crops" / "crop_rot30.png"))
    np.testing.assert_array_equal(warp(synthetic_image(), turned.matrix[1], turned.size), stored)
