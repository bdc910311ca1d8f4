"""Mean, covariance, entropy and mass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.geometry import Crop
from bodyloop.maps import MapLayer, layer_moments, moments, oks_targets

BOXES = np.array([[10, 20, 110, 320], [0, 0, 300, 100]], np.float32)


def test_two_cells_by_hand() -> None:
    """3/4 at (10, 20) and 1/4 at (14, 22): mean (11, 20.5), deviations (-1, -.5) and (3, 1.5)."""
    m = np.zeros((1, 1, 64, 48), np.float32)
    m[0, 0, 20, 10], m[0, 0, 22, 14] = 0.75, 0.25
    for scale in (1, 8):  # a map that does not sum to 1 is normalised
        r = moments(m * scale)
        assert r.mass[0, 0] == scale
        np.testing.assert_allclose(r.mean[0, 0], [11, 20.5])
        np.testing.assert_allclose(r.covariance[0, 0], [[3, 1.5], [1.5, 0.75]], atol=1e-12)
        np.testing.assert_allclose(r.entropy[0, 0], -(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))


def test_a_gaussian_has_its_own_moments() -> None:
    r = moments(oks_targets([[[20.3, 31.6]]], [3.0]))
    np.testing.assert_allclose(r.mean[0, 0], [20.3, 31.6], atol=1e-5)
    np.testing.assert_allclose(r.covariance[0, 0], 3 * np.eye(2), atol=1e-4)
    np.testing.assert_allclose(r.entropy[0, 0], 1 + np.log(2 * np.pi * 3), atol=1e-4)


def test_extremes() -> None:
    m = np.zeros((1, 5, 64, 48), np.float32)
    m[0, 1] = 1 / 3072
    m[0, 2, 63, 47] = 1
    m[0, 3] = np.nan
    m[0, 4] = -1
    m[0, 4, 5, 6] = 2  # of a heatmap the positive part counts
    r = moments(m)
    assert np.isnan(r.mean[0, [0, 3]]).all() and np.isnan(r.entropy[0, [0, 3]]).all()
    np.testing.assert_allclose(r.entropy[0, [1, 2, 4]], [np.log(3072), 0, 0], atol=1e-6)
    np.testing.assert_allclose(r.mean[0, [1, 2, 4]], [[23.5, 31.5], [47, 63], [6, 5]], atol=1e-6)
    np.testing.assert_array_equal(r.covariance[0, 2], np.zeros((2, 2)))
    assert moments(np.zeros((0, 17, 64, 48))).mean.shape == (0, 17, 2)


@pytest.mark.parametrize("degrees", [0.0, 30.0])
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_image_moments_are_those_of_the_cells_in_the_image(degrees: float, seed: int) -> None:
    crop = Crop.from_boxes(BOXES, rotation=degrees)
    values = np.random.default_rng(seed).random((2, 3, 64, 48)).astype(np.float32) ** 8
    r = layer_moments(MapLayer(values, crop))
    grid = np.stack(np.meshgrid(np.arange(48.0), np.arange(64.0)), -1)
    at = crop.from_map(np.broadcast_to(grid, (2, 64, 48, 2))).reshape(2, -1, 2)
    for i in range(2):
        for k in range(3):
            weights = values[i, k].ravel().astype(np.float64)
            np.testing.assert_allclose(r.mean[i, k], np.average(at[i], axis=0, weights=weights), rtol=1e-9)
            expected = np.cov(at[i].T, aweights=weights, ddof=0)
            np.testing.assert_allclose(r.covariance[i, k], expected, rtol=1e-7, atol=1e-6)
