"""OKS kernels and the convolution with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop import COCO
from bodyloop.errors import InputError
from bodyloop.maps import oks_convolve, oks_kernel, oks_targets, oks_variances

VARIANCES = oks_variances(COCO.sigma_array)


def direct(m: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """2-D convolution with symmetric borders, cell by cell."""
    r = len(kernel) // 2
    padded = np.pad(m.astype(np.float64), r, mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape)
    return np.einsum("yxij,ij->yx", windows, kernel)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20))
def test_the_convolution_is_the_direct_one(seed: int, h: int, w: int) -> None:
    """Also where the kernel is wider than the map and borders mirror several times."""
    maps = np.random.default_rng(seed).random((2, 3, h, w)).astype(np.float32)
    variances = [0.55, 1.4, 3.0]
    expected = np.stack([[direct(m, oks_kernel(s)) for m, s in zip(p, variances, strict=True)] for p in maps])
    np.testing.assert_allclose(oks_convolve(maps, variances), expected, rtol=1e-6)
    np.testing.assert_allclose(oks_convolve(maps, variances, exact=False), expected, atol=1e-5)


def test_kernels_sum_to_one_and_so_keep_flat_maps() -> None:
    for s in VARIANCES:
        assert oks_kernel(s).sum() == pytest.approx(1)
    flat = np.full((1, 17, 64, 48), 0.25, np.float32)
    np.testing.assert_array_equal(oks_convolve(flat, VARIANCES), flat)


def test_variances_are_clipped_and_grow_with_the_map() -> None:
    assert VARIANCES[0] == 0.55  # nose
    assert VARIANCES[COCO.index("left_hip")] == 3.0
    wrist = COCO.index("left_wrist")
    larger = oks_variances(COCO.sigma_array, (72, 96))
    assert VARIANCES[wrist] == pytest.approx((2 * 0.062) ** 2 * np.sqrt(64 * 48) / 1.25 * 2)
    assert larger[wrist] == pytest.approx(1.5 * VARIANCES[wrist])


def test_targets_by_hand() -> None:
    """s = 2: exp(-d^2 / 4); points beyond the map are drawn as far as they reach."""
    t = oks_targets([[1.0, 2.0], [-2.0, 0.0]], [2.0, 2.0], (4, 3))
    assert t.shape == (2, 3, 4)
    np.testing.assert_allclose(t[0, 2], np.exp([-1 / 4, 0, -1 / 4, -1]))
    np.testing.assert_allclose(t[0, 0, 1], np.exp(-1))
    np.testing.assert_allclose(t[1, 0], np.exp([-1, -9 / 4, -4, -25 / 4]))
    assert oks_targets(np.full((1, 2), 1e4), [0.55])[0].max() == 0
    assert np.isnan(oks_targets(np.full((1, 2), np.nan), [0.55])).all()


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="17 keypoints"):
        oks_convolve(np.zeros((1, 17, 64, 48)), VARIANCES[:5])
    with pytest.raises(InputError, match="positive"):
        oks_convolve(np.zeros((1, 1, 4, 4)), [0.0])
    with pytest.raises(InputError, match="positive"):
        oks_variances([0.1, -0.1])
    with pytest.raises(InputError, match="shape"):
        oks_convolve(np.zeros((4, 4)), [1.0])
