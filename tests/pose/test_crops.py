"""Crops: what the network gets to see of a picture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.geometry import Crop
from bodyloop.masks import Masks
from bodyloop.pose.crops import normalise, warp_crops, warp_opencv4
from bodyloop.pose.parity import Parity

EXACT = Parity(opencv4_warp=True)


def photo(seed: int = 0, size: tuple[int, int] = (120, 90)) -> npt.NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(0, 256, (size[1] // 6, size[0] // 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def crop_of(*boxes: list[float]) -> Crop:
    return Crop.from_boxes(np.array(boxes, np.float32))


def difference(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


boxes = st.tuples(st.floats(-80, 150), st.floats(-80, 120), st.floats(4, 200), st.floats(4, 200)).map(
    lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
)


@settings(max_examples=40, deadline=None)
@given(box=boxes, turn=st.floats(-180, 180))
def test_both_warps_agree_within_their_rounding(box: list[float], turn: float) -> None:
    crop = Crop.from_boxes([box], rotation=turn)
    picture = photo()
    # OpenCV 4 rounds positions to 1/32 px: on slopes of this picture that is some grey levels
    assert difference(warp_crops(picture, crop), warp_crops(picture, crop, parity=EXACT)) <= 6


@settings(max_examples=30, deadline=None)
@given(box=boxes, seed=st.integers(0, 5))
def test_dimming_a_part_equals_dimming_the_picture(box: list[float], seed: int) -> None:
    picture = photo(seed)
    bits = np.random.default_rng(seed).random(picture.shape[:2]) > 0.5
    bits = cv2.dilate(bits.astype(np.uint8), np.ones((5, 5))) > 0
    bits[:40] = False
    dimmed = np.where(bits[..., None], picture, np.rint(picture * 0.75).astype(np.uint8))
    masks = Masks.from_bitmaps([bits])
    crop = crop_of(box)
    for parity, allowed in ((EXACT, 0), (Parity(), 2)):
        got = warp_crops(picture, crop, masks, 0.25, parity)
        assert difference(got, warp_crops(dimmed, crop, parity=parity)) <= allowed


def test_a_part_of_a_picture_is_warped_like_the_whole() -> None:
    picture = photo()
    matrix = crop_of([40, 30, 80, 70]).matrix[0].astype(np.float64)
    whole = warp_opencv4(picture, matrix, (192, 256))
    part = warp_opencv4(picture[10:, 15:], matrix, (192, 256), (15, 10))
    assert difference(whole, part) == 0


def test_no_mask_whole_mask_and_no_alpha_change_nothing() -> None:
    picture, crop = photo(), crop_of([10, 10, 60, 80], [30, 5, 100, 85])
    plain = warp_crops(picture, crop)
    h, w = picture.shape[:2]
    for masks, alpha in (
        (Masks.empty(2, (w, h)), 0.25),
        (Masks.from_bitmaps([np.ones((h, w)), None]), 0.25),
        (Masks.from_bitmaps([np.zeros((h, w)), np.eye(h, w)]), None),
        (Masks.from_bitmaps([np.eye(h, w), np.eye(h, w)]), 0.0),
    ):
        assert (
            difference(
                warp_crops(picture, crop, masks, alpha, EXACT), warp_crops(picture, crop, parity=EXACT)
            )
            == 0
        )
        assert difference(warp_crops(picture, crop, masks, alpha), plain) <= 2


def test_everybody_has_their_own_mask() -> None:
    picture, crop = photo(), crop_of([10, 10, 60, 80], [10, 10, 60, 80], [10, 10, 60, 80])
    left = np.zeros(picture.shape[:2], bool)
    left[:, :35] = True
    masks = Masks.from_bitmaps([left, None, ~left])
    a, b, c = warp_crops(picture, crop, masks, 1.0, EXACT)
    assert difference(np.maximum(a, c)[:, :90], b[:, :90]) == 0 and difference(a, b) > 50
    assert not a[:, 110:].any() and not c[:, :80].any()


def test_outside_the_picture_is_black() -> None:
    picture = np.full((50, 60, 3), 200, np.uint8)
    away = warp_crops(picture, crop_of([500, 500, 600, 700], [-900, -900, -800, -700]))
    assert not away.any()
    masks = Masks.from_bitmaps([np.eye(50, 60), np.eye(50, 60)])
    assert not warp_crops(picture, crop_of([500, 500, 600, 700], [-900, -900, -800, -700]), masks, 0.5).any()
    half = warp_crops(picture, crop_of([30, 0, 90, 50]))[0]
    assert (half[100, :60] == 200).all() and not half[100, -60:].any()


def test_corners_of_the_window_are_corners_of_the_crop() -> None:
    picture = np.zeros((256, 192, 3), np.uint8)
    picture[0, 0], picture[255, 191] = 250, 120
    crop = Crop(np.array([[95.5, 127.5]]), np.array([[191.0, 255.0]]), np.zeros(1))
    np.testing.assert_array_equal(warp_crops(picture, crop)[0], picture)


def test_the_picture_may_be_read_only_and_cut_out_of_another() -> None:
    picture = photo(size=(240, 180))[20:110, 30:150]
    picture.flags.writeable = False
    crop = crop_of([10, 10, 60, 80])
    masks = Masks.from_bitmaps([np.eye(90, 120)])
    assert difference(warp_crops(picture, crop), warp_crops(picture.copy(), crop)) == 0
    assert warp_crops(picture, crop, masks, 0.25).shape == (1, 256, 192, 3)


def test_a_mask_that_the_detour_wipes_out_is_no_mask() -> None:
    bits = np.zeros((90, 120), bool)
    bits[40, 50] = True
    picture, crop = photo(), crop_of([10, 10, 60, 80])
    detour = Parity(opencv4_warp=True, mask_detour=True)
    got = warp_crops(picture, crop, Masks.from_bitmaps([bits]), 0.25, detour)
    assert difference(got, warp_crops(picture, crop, parity=EXACT)) == 0


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_normalised_planes(order: str) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (2, 4, 3, 3), dtype=np.uint8)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    expected = ((crops - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    if order == "bgr":
        expected = expected[:, ::-1]
    got = normalise(crops, mean, std, order)
    assert got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_allclose(got, expected, atol=1e-6)
