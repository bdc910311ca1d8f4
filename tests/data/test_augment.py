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


# ---- random draws of the published recipes -----------------------------------------------------------------------


def labelled(count: int) -> Sample:
    keypoints = np.random.default_rng(3).uniform(40, 90, (17, 3))
    keypoints[:, 2] = 0
    keypoints[:count, 2] = 2
    return Sample.create(np.zeros((120, 160, 3), np.uint8), COCO, keypoints, (30, 20, 110, 100))


def share(step: object, start: Sample, n: int = 2000) -> float:
    """How often a step changes the sample."""
    rng = np.random.default_rng(0)
    return sum(step(start, rng) is not start for _ in range(n)) / n  # type: ignore[operator]


def test_how_often_steps_happen() -> None:
    assert share(augment.random_flip, labelled(17), 400) == pytest.approx(0.5, abs=0.08)
    assert share(augment.random_half_body, labelled(17)) == pytest.approx(0.3, abs=0.04)
    assert share(augment.random_half_body, labelled(8)) == 0  # fewer than nine labels: never


def test_half_body_chooses_the_half_that_has_enough() -> None:
    s = labelled(17)
    assert augment.choose_half(s, 0.69).tolist() == list(COCO.upper)  # type: ignore[union-attr]
    assert augment.choose_half(s, 0.71).tolist() == list(COCO.lower)  # type: ignore[union-attr]
    upper_only, one = labelled(11), labelled(1)
    assert augment.choose_half(upper_only, 0.99).tolist() == list(range(11))  # type: ignore[union-attr]
    assert augment.choose_half(one, 0.5) is None


def test_transform_stays_in_its_bounds() -> None:
    start = labelled(17)
    size = start.box[2:] - start.box[:2]
    rng = np.random.default_rng(1)
    moved = turned = 0
    for _ in range(500):
        s = augment.random_transform(start, rng)
        factor = (s.box[2:] - s.box[:2]) / size
        offset = ((s.box[:2] + s.box[2:]) / 2 - (start.box[:2] + start.box[2:]) / 2) / size
        assert np.allclose(factor[0], factor[1]) and 0.5 <= factor[0] <= 1.5
        assert np.abs(offset).max() <= 0.16 + 1e-9
        assert abs(s.rotation) <= 80
        moved += bool(np.abs(offset).max() > 1e-12)
        turned += s.rotation != 0
    assert moved / 500 == pytest.approx(0.3, abs=0.08)
    assert turned / 500 == pytest.approx(0.6, abs=0.08)


def test_edges_keep_a_rectangle_of_the_surroundings() -> None:
    start = labelled(17)
    rng = np.random.default_rng(2)
    cuts = 0
    for _ in range(500):
        s = augment.random_edges(start, rng)
        x1, y1, x2, y2 = s.canvas
        if (x2 - x1, y2 - y1) == (160, 120):
            continue
        cuts += 1
        # the context is 1.5 times the box of 80 x 80, cut at the picture: 120 wide, 120 high
        assert 0.7 * 120 - 1 <= x2 - x1 <= 0.9 * 120 and 0.7 * 120 - 1 <= y2 - y1 <= 0.9 * 120
    assert cuts / 500 == pytest.approx(0.2, abs=0.06)


def test_patches_happen_seldom_and_cover_a_fifth() -> None:
    white = cut(replace(labelled(17), image=np.full((120, 160, 3), 255, np.uint8)))
    rng = np.random.default_rng(4)
    outs = [augment.random_patches(white, rng) for _ in range(1000)]
    changed = [o for o in outs if o is not white]
    assert len(changed) / 1000 == pytest.approx(0.1, abs=0.03)
    lit = (white.image > 0).all(axis=2)
    dark = np.mean([1 - (o.image[lit] > 0).all(axis=1).mean() for o in changed])
    assert dark == pytest.approx(0.2, abs=0.04)


def test_mask_noise_does_each_of_its_four_things() -> None:
    mask = np.zeros((120, 160), np.uint8)
    mask[30:90, 40:100] = 1
    rng = np.random.default_rng(5)
    areas = np.array([int(augment.random_mask_noise(mask, rng).sum()) for _ in range(200)])
    smooth = int(augment.smooth_mask(mask).sum())
    grown, shrunk = int(augment.dilate_mask(mask).sum()), int(augment.erode_mask(mask).sum())
    assert {grown, shrunk} <= set(areas.tolist())
    assert (areas > grown).any() or ((areas > smooth) & (areas != grown)).any()  # blobs of background
    assert ((areas < smooth) & (areas != shrunk)).any()  # parts missing
    assert np.isin(areas, [grown]).mean() == pytest.approx(0.25, abs=0.1)
