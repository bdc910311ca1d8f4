"""Augmentation by property: what flips, cuts and noise may and may not change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.data import augment
from bodyloop.data.sample import Sample, cut
from bodyloop.skeletons import BODY_19, COCO


def sample(seed: int = 0, mask: bool = False) -> Sample:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (120, 160, 3), np.uint8)
    keypoints = np.concatenate(
        [rng.uniform(-20, 160, (17, 1)), rng.uniform(-20, 140, (17, 1)), rng.integers(0, 3, (17, 1))], axis=1
    )
    where = np.zeros((120, 160), np.uint8)
    where[30:90, 40:100] = 1
    return Sample.create(image, COCO, keypoints, (30, 20, 110, 100), where if mask else None)


seeds = st.integers(0, 2**32 - 1)


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_flip_twice_is_nothing(seed: int) -> None:
    s = sample(seed, mask=True)
    back = augment.flip(augment.flip(s))
    for name in ("image", "keypoints", "annotated", "visible", "box", "center", "mask", "in_image"):
        assert np.allclose(getattr(s, name), getattr(back, name)), name
    assert back.canvas == s.canvas


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_flipping_before_the_crop_is_flipping_after_it(seed: int) -> None:
    s = sample(seed)
    before, after = cut(augment.flip(s)), cut(s)
    mirrored = after.keypoints[COCO.flip].copy()
    mirrored[:, 0] = 191 - mirrored[:, 0]
    assert np.allclose(before.keypoints, mirrored, atol=1e-9)
    difference = np.abs(before.image.astype(int) - after.image[:, ::-1])
    assert np.percentile(difference, 99) <= 4  # the warp rounds its positions


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_a_kept_rectangle_hides_but_never_unlabels(seed: int) -> None:
    s = sample(seed)
    rng = np.random.default_rng(seed)
    x1, y1 = rng.integers(0, 60, 2)
    x2, y2 = x1 + rng.integers(8, 90), y1 + rng.integers(8, 50)
    out = augment.keep_rectangle(s, (int(x1), int(y1), int(x2), int(y2)))
    assert (out.annotated == s.annotated).all()
    assert (out.keypoints == s.keypoints).all()
    assert not (out.visible & ~s.visible).any()
    assert not (out.visible & ~out.in_image).any()
    assert (out.image[y1:y2, x1:x2] == s.image[y1:y2, x1:x2]).all()
    assert out.image.sum() == s.image[y1:y2, x1:x2].sum()
    assert (out.box >= [x1, y1, x1, y1]).all() and (out.box <= [x2, y2, x2, y2]).all()


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_random_cut_pushes_keypoints_out_and_leaves_a_box(seed: int) -> None:
    s = sample(seed)
    out = augment.random_cut(s, np.random.default_rng(seed), 1.0)
    assert (out.box[2:] - out.box[:2] > 0).all()
    assert (out.box[:2] >= s.box[:2] - 1).all() and (out.box[2:] <= s.box[2:] + 1).all()
    assert out.annotated.sum() == s.annotated.sum()


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_steps_are_functions_of_sample_and_generator(seed: int) -> None:
    def run() -> np.ndarray:
        rng = np.random.default_rng(seed)
        s = sample(1, mask=True)
        s = augment.dim_background(replace(s, mask=augment.random_mask_noise(s.mask, rng)))
        s = augment.random_flip(s, rng)
        s = augment.random_half_body(s, rng, 1.0)
        s = augment.random_transform(s, rng)
        s = augment.random_edges(s, rng, 0.5)
        s = augment.random_cut(s, rng, 0.5)
        c = augment.photometric(augment.random_patches(cut(s), rng, 0.5), rng)
        return np.concatenate([c.image.ravel(), c.keypoints.ravel(), c.visible])

    pristine = sample(1, mask=True)
    first, second = run(), run()
    assert (first == second).all()
    assert (sample(1, mask=True).image == pristine.image).all()


def test_truncated_normal_stays_in_its_bounds_and_has_the_right_spread() -> None:
    draws = augment.truncated_normal(np.random.default_rng(0), 20_000)
    assert np.abs(draws).max() <= 1
    # variance of a standard normal cut at +-1 is 1 - 2 phi(1) / (2 Phi(1) - 1) = 0.2911
    assert draws.var() == pytest.approx(0.2911, abs=0.01)


def test_dimming_by_hand() -> None:
    image = np.full((4, 4, 3), 101, np.uint8)
    mask = np.zeros((4, 4), np.uint8)
    mask[:2] = 1
    s = Sample.create(image, COCO, np.zeros((17, 3)), (0, 0, 3, 3), mask)
    out = augment.dim_background(s, 0.25).image
    assert (out[:2] == 101).all()
    assert (out[2:] == 76).all()  # 75.75, rounded
    assert (augment.dim_background(replace(s, mask=np.zeros_like(mask))).image == image).all()
    assert augment.dim_background(replace(s, mask=None)) is not None


def test_patch_in_whose_cell_a_keypoint_lies_hides_it() -> None:
    keypoints = np.zeros((19, 3))
    keypoints[0] = (80, 60, 2)
    s = Sample.create(np.full((120, 160, 3), 9, np.uint8), BODY_19, keypoints, (30, 20, 110, 100))
    c = cut(s)
    grid = np.zeros((8, 6), np.bool_)
    grid[int(c.keypoints[0, 1] // 32), int(c.keypoints[0, 0] // 32)] = True
    out = augment.blackout_patches(c, grid)
    assert c.visible[0] and not out.visible[0]
    assert out.annotated[0] and out.in_window[0]
    changed = (out.image != c.image).any(axis=2)
    assert changed.any() and not out.image[changed].any()
    y, x = np.nonzero(changed)
    assert grid[y // 32, x // 32].all()


def test_nearest_seed_ties_go_to_the_smaller_x_then_y() -> None:
    mask = np.ones((3, 5), np.uint8)
    left, right = 1 * 5 + 0, 1 * 5 + 4
    labels = augment.nearest_seed_labels(mask, np.array([right, left]))
    assert labels[1].tolist() == [2, 2, 2, 1, 1]
