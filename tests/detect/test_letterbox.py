"""Fitting photos into the input, and boxes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodyloop.detect.letterbox import Letterbox

sides = st.integers(1, 3000)


def test_by_hand() -> None:
    place = Letterbox.fit((500, 333), (640, 640))
    assert place.target == (640, 426)  # 426.24
    assert place.factors == (1.28, 426 / 333)
    assert Letterbox.fit((333, 500), (64, 64), keep_aspect=False).target == (64, 64)


@given(sides, sides)
def test_target_fits_and_boxes_return(w: int, h: int) -> None:
    place = Letterbox.fit((w, h), (416, 416))
    assert max(place.target) == 416
    assert min(place.target) >= 1
    whole = place.to_photo(np.array([[0, 0, *place.target]], np.float32))
    assert np.allclose(whole, [[0, 0, w, h]], rtol=1e-5)


def test_photo_top_left_and_grey_elsewhere() -> None:
    photo = np.zeros((40, 80, 3), np.uint8)
    photo[:, :40] = (200, 100, 50)
    canvas = Letterbox.fit((80, 40), (64, 64)).draw(photo, 114)
    assert canvas.shape == (64, 64, 3)
    assert (canvas[32:] == 114).all()
    assert (canvas[:32, :31] == (200, 100, 50)).all()
    assert (canvas[:32, 33:] == 0).all()


@pytest.mark.parametrize(("bilinear", "flat"), [(False, True), (True, False)])
def test_shrinking_sees_every_pixel_unless_told_otherwise(bilinear: bool, flat: bool) -> None:
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::8] = 255  # mean 32
    canvas = Letterbox.fit((512, 512), (64, 64)).draw(stripes, 0, bilinear)
    assert (np.abs(canvas.astype(int) - 32).max() <= 1) == flat
