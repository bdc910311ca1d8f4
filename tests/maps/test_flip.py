"""The flip test's bookkeeping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop import COCO
from bodyloop.errors import InputError
from bodyloop.maps import flip_average, flip_average_scores, unflip_maps

FLIP = np.array([0, 2, 1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_flip_twice_is_identity(seed: int) -> None:
    maps = np.random.default_rng(seed).random((2, 17, 8, 6)).astype(np.float32)
    once = unflip_maps(maps, COCO.flip)
    assert not np.array_equal(once, maps)
    np.testing.assert_array_equal(unflip_maps(once, COCO.flip), maps)


def test_average_by_hand() -> None:
    maps = np.zeros((1, 3, 1, 4), np.float32)
    mirrored = np.zeros_like(maps)
    maps[0, 1, 0, 0] = 1  # left, first column
    mirrored[0, 2, 0, 3] = 3  # in the mirror: right, last column
    expected = np.zeros_like(maps)
    expected[0, 1, 0, 0] = 2
    np.testing.assert_array_equal(flip_average(maps, mirrored, FLIP), expected)
    np.testing.assert_array_equal(flip_average_scores([[1, 2, 3]], [[5, 6, 8]], FLIP), [[3, 5, 4.5]])


def test_inputs_stay_as_they_are() -> None:
    a, b = np.random.default_rng(0).random((2, 1, 3, 4, 4)).astype(np.float32)
    before = a.copy(), b.copy()
    flip_average(a, b, FLIP)
    np.testing.assert_array_equal((a, b), before)


@pytest.mark.parametrize("flip", [[0, 1], [0, 1, 3], [1, 2, 0], [0.0, 2.0, 1.0]])
def test_bad_flips_are_refused(flip: list[float]) -> None:
    with pytest.raises(InputError, match="flip"):
        unflip_maps(np.zeros((1, 3, 4, 4)), flip)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        flip_average(np.zeros((1, 3, 4, 4)), np.zeros((2, 3, 4, 4)), FLIP)
    with pytest.raises(InputError, match="shapes"):
        flip_average_scores(np.zeros((1, 3)), np.zeros((2, 3)), FLIP)
