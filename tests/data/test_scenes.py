"""People painted out of photos and pasted into them: who is gone, what is black, whose mask is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.data.copypaste import CutOut
from bodyloop.data.scenes import Cut, Scene, inserted, mask_out, spoiled, with_another

SIDE = 64


def cut(x: int, y: int, w: int, h: int) -> Cut:
    return Cut(x, y, np.ones((h, w), bool))


def scene(*people: tuple[int, int, int, int, bool], grey: int = 200) -> Scene:
    """People as ``x y w h`` rectangles with or without a mask; one crowd."""
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in people], np.float32).reshape(-1, 4)
    masks = tuple(cut(x, y, w, h) if has else None for x, y, w, h, has in people)
    pixels = np.full((SIDE, SIDE, 3), grey, np.uint8)
    return Scene(pixels, boxes, masks, np.array([[1, 1, 9, 9]], np.float32))


def bits(masks: tuple[Cut | None, ...]) -> list[np.ndarray]:
    """Each mask on the whole picture; nothing for people without one."""
    out = [np.zeros((SIDE, SIDE), bool) for _ in masks]
    for whole, m in zip(out, masks, strict=True):
        if m is not None:
            whole[m.window] = m.bits
    return out


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Up to five people at places of their own; masks with holes."""
    count = draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    people = []
    for i in range(count):
        w, h = (int(v) for v in rng.integers(4, 30, 2))
        x, y = (int(v) for v in rng.integers(0, [SIDE - w, SIDE - h]))
        people.append((x, y, w, h, draw(st.booleans()) or i == 0))
    s = scene(*people)
    for m in s.masks:
        if m is not None:
            m.bits[:] = rng.random(m.bits.shape) < 0.8
            m.bits[0, 0] = True
    return s


@settings(max_examples=80, deadline=None)
@given(scenes(), st.integers(0, 2**32 - 1))
def test_a_proper_subset_is_painted_black_exactly_on_its_masks(s: Scene, seed: int) -> None:
    before = s.pixels.copy()
    out, again = (mask_out(s, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(out.pixels, again.pixels) and np.array_equal(out.boxes, again.boxes)
    assert np.array_equal(s.pixels, before)  # the photo itself stays
    stay = [next(i for i, m in enumerate(s.masks) if m is n and (s.boxes[i] == b).all())
            for b, n in zip(out.boxes, out.masks, strict=True)]  # fmt: skip
    gone = sorted(set(range(len(s.boxes))) - set(stay))
    able = [i for i, m in enumerate(s.masks) if m is not None]
    assert set(gone) <= set(able)
    if len(s.boxes) > 1:
        assert gone and stay
    else:
        assert not gone
    black = np.any([bits(s.masks)[i] for i in gone], axis=0) if gone else np.zeros((SIDE, SIDE), bool)
    assert (out.pixels[black] == 0).all()
    assert np.array_equal(out.pixels[~black], before[~black])
    assert np.array_equal(out.ignore, s.ignore)  # crowds stay
    assert len(out.masks) == len(out.boxes)


def test_every_subset_occurs() -> None:
    s = scene((0, 0, 8, 8, True), (20, 0, 8, 8, True), (40, 0, 8, 8, True))
    left = {tuple(mask_out(s, np.random.default_rng(i)).boxes[:, 0].tolist()) for i in range(200)}
    assert left == {(0,), (20,), (40,), (0, 20), (0, 40), (20, 40)}


def test_everybody_who_can_be_painted() -> None:
    rng = np.random.default_rng(0)
    all_masked = scene((0, 0, 8, 8, True), (20, 0, 8, 8, True))
    assert len(mask_out(all_masked, rng, everybody=1.0).boxes) == 0
    assert len(mask_out(scene((0, 0, 8, 8, True)), rng, everybody=1.0).boxes) == 0
    # with somebody who cannot be painted it is again any number of the others
    mixed = scene((0, 0, 8, 8, True), (20, 0, 8, 8, False))
    assert mask_out(mixed, rng, everybody=1.0).boxes.tolist() == [[20, 0, 28, 8]]


def test_rough_masks_miss_a_rim_or_take_one_along() -> None:
    s = scene((20, 20, 24, 24, True), (0, 50, 8, 8, True), (50, 0, 8, 8, False))
    whole = bits(s.masks)[0]
    areas = []
    for seed in range(60):
        out = mask_out(s, np.random.default_rng(seed), rough=1.0)
        if (out.boxes[:, 0] == 20).any():
            continue
        black = (out.pixels == 0).all(axis=-1)
        black[:, :12] = False  # the other one
        areas.append(black.sum())
        rim = black ^ whole
        assert not rim[26:38, 26:38].any() and not rim[:14].any() and not rim[50:].any()
    assert min(areas) < whole.sum() < max(areas)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30))
def test_a_spoiled_mask_stays_in_the_picture_and_near_the_true_one(seed: int, w: int, h: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = (int(v) for v in rng.integers(0, [SIDE - w + 1, SIDE - h + 1]))
    found = spoiled(cut(x, y, w, h), (SIDE, SIDE), rng)
    assert found.x >= 0 and found.y >= 0
    assert found.x + found.bits.shape[1] <= SIDE and found.y + found.bits.shape[0] <= SIDE
    if min(w, h) >= 12:
        true, drawn = bits((cut(x, y, w, h),))[0], bits((found,))[0]
        assert (true & drawn).sum() > 0.5 * (true | drawn).sum()


# ---- pasting --------------------------------------------------------------------------------------------------

RED = CutOut(np.full((10, 20, 3), (255, 0, 0), np.uint8), np.ones((10, 20), np.uint8))


def test_in_front_the_covered_one_loses_mask_and_box() -> None:
    s = scene((10, 10, 20, 20, True))
    out = inserted(s, RED, scale=1.0, at=(15, 22), front=True)
    assert out.boxes.tolist() == [[10, 10, 30, 30], [15, 22, 35, 32]]
    old, new = bits(out.masks)
    assert new.sum() == 200 and not (old & new).any()
    assert old.sum() == 400 - 15 * 8
    assert (out.pixels[new] == (255, 0, 0)).all() and (out.pixels[~new] == 200).all()
    half = inserted(s, RED, scale=1.0, at=(10, 20), front=True)
    assert half.boxes.tolist() == [[10, 10, 30, 20], [10, 20, 30, 30]]  # the box goes round what is left


def test_behind_the_pasted_one_is_cut() -> None:
    s = scene((10, 10, 20, 20, True))
    out = inserted(s, RED, scale=1.0, at=(15, 22), front=False)
    old, new = bits(out.masks)
    assert old.sum() == 400 and new.sum() == 200 - 15 * 8
    assert out.boxes.tolist() == [[10, 10, 30, 30], [15, 22, 35, 32]]
    assert (out.pixels[old] == 200).all()


@pytest.mark.parametrize(
    ("people", "scale", "at", "front"),
    [
        ((10, 10, 20, 9, True), 1.0, (10, 10), True),  # nothing of the other one would be left
        ((10, 10, 20, 9, False), 1.0, (10, 10), True),  # nor of one without a mask
        ((10, 10, 22, 12, True), 1.0, (11, 11), False),  # nothing of the pasted one
        ((10, 10, 20, 9, True), 1.0, (-19, -9), True),  # hardly anything of it in the picture
        ((10, 10, 20, 9, True), 1.0, (70, 0), True),
    ],
    ids=["covered", "covered without mask", "hidden", "at the edge", "outside"],
)
def test_pastes_that_are_left_out(
    people: tuple[int, int, int, int, bool], scale: float, at: tuple[int, int], front: bool
) -> None:
    s = scene(people)
    assert inserted(s, RED, scale=scale, at=at, front=front) is s


@settings(max_examples=60, deadline=None)
@given(scenes(), st.integers(0, 2**32 - 1))
def test_who_is_pasted_stands_in_the_labels(s: Scene, seed: int) -> None:
    out, again = (with_another(s, RED, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(out.pixels, again.pixels)
    if out is s:
        return
    assert len(out.boxes) == len(out.masks) == len(s.boxes) + 1
    *old, new = bits(out.masks)
    assert (out.pixels[new] == (255, 0, 0)).all() and (out.pixels[~new] == s.pixels[~new]).all()
    assert not any((m & new).any() for m in old)
    y, x = np.nonzero(new)
    assert out.boxes[-1].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
