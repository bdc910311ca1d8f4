"""Masks of detections: numpy against the torch twin, and enlarging against two plain bilinear steps."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.detect import instances
from bodyloop.detect.instances import dynamic_masks, masks_in_photo, person_masks, priors
from bodyloop.detect.letterbox import Letterbox

CANVAS = (96, 64)
GRID = (8, 12)


def smooth(rng: np.random.Generator, n: int, grid: tuple[int, int] = GRID) -> npt.NDArray[np.float32]:
    """Logits (N, h, w) of a blob each, and some noise."""
    y, x = np.mgrid[0 : grid[0], 0 : grid[1]]
    centre, reach = rng.uniform(0, [grid[1], grid[0]], (n, 2)), rng.uniform(1, 4, n)
    away = np.hypot(x - centre[:, :1, None], y - centre[:, 1:, None])
    out = reach[:, None, None] - away + rng.normal(0, 0.5, (n, *grid))
    return out.astype(np.float32)


def test_priors_and_dynamic_masks_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    from bodyloop.nn import rtmdet_ins as twin
    from bodyloop.nn.rtmdet import make_priors

    assert instances.LAYERS == twin.LAYERS
    points, strides = priors(CANVAS)
    for mine, theirs in zip((points, strides), make_priors(CANVAS[1], CANVAS[0]), strict=True):
        assert np.array_equal(mine, theirs.numpy())
    rng = np.random.default_rng(0)
    chosen = [0, 17, 100, 125]
    kernels = rng.normal(size=(4, twin.KERNEL)).astype(np.float32)
    prototypes = rng.normal(size=(8, *GRID)).astype(np.float32)
    mine = dynamic_masks(kernels, prototypes, points[chosen], strides[chosen])
    theirs = twin.dynamic_masks(
        *map(torch.from_numpy, (kernels, prototypes, points[chosen], strides[chosen]))
    )
    assert np.abs(mine - theirs.numpy()).max() < 1e-4
    assert dynamic_masks(kernels[:0], prototypes, points[:0], strides[:0]).shape == (0, *GRID)


def two_steps(logits: npt.NDArray[np.float32], place: Letterbox, swapped: bool) -> npt.NDArray[np.bool_]:
    """Enlarged to the canvas, then to the photo, by torch; (N, H, W) at the photo's size."""
    torch = pytest.importorskip("torch")

    def enlarge(x: object, size: tuple[int, int], factors: tuple[float, float] | None = None) -> object:
        extra = {"size": size} if factors is None else {"scale_factor": factors}
        return torch.nn.functional.interpolate(x, mode="bilinear", align_corners=False, **extra)

    (w, h), (cw, ch), (fx, fy) = place.photo, place.canvas, place.factors
    big = enlarge(torch.from_numpy(logits)[None].double(), (ch, cw))
    if swapped:
        whole = enlarge(big, (math.ceil(ch * (1 / fx)), math.ceil(cw * (1 / fy))))[0].numpy()[:, :h, :w]  # type: ignore[index]
        out = np.full((len(logits), h, w), -1.0)
        out[:, : whole.shape[1], : whole.shape[2]] = whole
        return np.asarray(out > 0)
    target = big[..., : place.target[1], : place.target[0]]  # type: ignore[index]
    # the photo's rows and columns only; the padding beside them is a neighbour only of the last ones
    return np.asarray(enlarge(target, (h, w))[0].numpy() > 0)  # type: ignore[index]


@pytest.mark.parametrize("photo", [(150, 100), (37, 91), (96, 64), (400, 31), (1, 1)], ids=str)
@pytest.mark.parametrize("swapped", [False, True])
def test_enlarging_is_two_bilinear_steps(photo: tuple[int, int], swapped: bool) -> None:
    place = Letterbox.fit(photo, CANVAS)
    logits = smooth(np.random.default_rng(3), 6)
    masks = masks_in_photo(logits, place, swapped)
    assert masks.size == photo and len(masks) == 6
    got, expected = masks.bitmaps(), two_steps(logits, place, swapped)
    if not swapped:  # torch clamps at the photo's last row, we look into the padding as the network did
        edge = math.ceil(1 / min(place.factors))
        got, expected = (
            got[:, : -edge or None, : -edge or None],
            expected[:, : -edge or None, : -edge or None],
        )
    differ = np.count_nonzero(got != expected)
    assert differ <= 2e-4 * expected.size  # pixels whose logit is 0 but for rounding


def test_swapped_factors_end_before_the_photo() -> None:
    place = Letterbox.fit((1000, 101), (640, 640))
    everything = np.ones((1, 80, 80), np.float32)
    assert masks_in_photo(everything, place).areas.tolist() == [101_000]
    assert masks_in_photo(everything, place, swapped=True).areas.tolist() == [101 * 995]


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_what_is_left_out_is_empty(w: int, h: int, seed: int) -> None:
    """The whole photo computed at once has no pixel that the pieces lack."""
    place = Letterbox.fit((w, h), CANVAS)
    logits = smooth(np.random.default_rng(seed), 2)
    rows = instances._Axis.of(h, CANVAS[1], GRID[0], place.factors[1])
    columns = instances._Axis.of(w, CANVAS[0], GRID[1], place.factors[0])
    assert np.allclose(rows.weights.sum(axis=1), 1) and np.allclose(columns.weights.sum(axis=1), 1)
    whole = rows.weights @ logits @ columns.weights.T
    differ = masks_in_photo(logits, place).bitmaps() != (whole > 0)
    assert (np.abs(whole[differ]) < 1e-4).all()


def test_nobody_and_nothing() -> None:
    place = Letterbox.fit((50, 40), CANVAS)
    assert len(masks_in_photo(np.zeros((0, *GRID), np.float32), place)) == 0
    odd = np.full((3, *GRID), -1.0, np.float32)
    odd[1], odd[2, 0, 0] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        assert masks_in_photo(odd, place).present.tolist() == [False, False, True]


def test_many_people_on_a_large_photo_need_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks over the whole photo, the worst there is: bitmaps of a few, runs of the others."""
    monkeypatch.setattr(instances, "HELD", 1 << 22)
    place = Letterbox.fit((1600, 900), (640, 640))
    points, strides = priors((640, 640))
    kernels = np.zeros((50, 169), np.float32)
    kernels[:, -1] = 1.0  # every pixel is inside
    prototypes = np.zeros((8, 80, 80), np.float32)
    tracemalloc.start()
    masks = person_masks(kernels, prototypes, points[:50], strides[:50], place)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(masks.areas.tolist()) == {1600.0 * 900.0}
    assert peak < 50e6  # 50 bitmaps would be 72 MB
