"""The package's own warp and the exact one against the stored crops."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from bodyloop.geometry import Crop
from bodyloop.masks import Masks
from bodyloop.pose.crops import warp_crops
from bodyloop.pose.parity import Parity
from tests.parity.manifest import FIXTURES, given
from tests.parity.weights import synthetic_image, synthetic_mask

EXACT = Parity(opencv4_warp=True, mask_detour=True)
OWN = Parity(mask_detour=True)
PICTURE = synthetic_image()
SIZE = (PICTURE.shape[1], PICTURE.shape[0])
# OpenCV 5 no longer rounds sampling positions to 1/32 px; 4.x is what the crops were made with
GREY_LEVELS = 0 if int(cv2.__version__.split(".")[0]) < 5 else 4


def stored(name: str) -> npt.NDArray[np.uint8]:
    crop = cv2.imread(str(FIXTURES / "crops" / name))
    assert crop is not None
    return np.asarray(crop, np.uint8)


def box_crop(i: int) -> Crop:
    return Crop.from_boxes(given("transforms.npz", "boxes")[i])


def rotated() -> Crop:
    center, scale = (given("transforms.npz", f"rot_{n}")[None] for n in ("center", "scale"))
    return Crop(center, scale, given("transforms.npz", "rot_deg")[1:2])


def difference(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> int:
    return int(np.abs(a.astype(np.int64) - b.astype(np.int64)).max())


@pytest.mark.parametrize("parity,allowed", [(EXACT, 0), (OWN, GREY_LEVELS)], ids=["exact", "own"])
@pytest.mark.parametrize("name", ["crop_0.png", "crop_1.png", "crop_4.png", "crop_rot30.png"])
def test_plain(name: str, parity: Parity, allowed: int) -> None:
    crop = rotated() if "rot" in name else box_crop(int(name[5]))
    assert difference(warp_crops(PICTURE, crop, parity=parity)[0], stored(name)) <= allowed


@pytest.mark.parametrize("parity,allowed", [(EXACT, 0), (OWN, GREY_LEVELS)], ids=["exact", "own"])
def test_masked(parity: Parity, allowed: int) -> None:
    masks = Masks.from_bitmaps([synthetic_mask()], SIZE)
    crops = warp_crops(PICTURE, box_crop(0), masks, 0.25, parity)
    assert difference(crops[0], stored("crop_0_masked.png")) <= allowed


def test_the_detour_makes_a_difference() -> None:
    masks = Masks.from_bitmaps([synthetic_mask()], SIZE)
    plain = warp_crops(PICTURE, box_crop(0), masks, 0.25, Parity(opencv4_warp=True))
    assert difference(plain[0], stored("crop_0_masked.png")) > 4
