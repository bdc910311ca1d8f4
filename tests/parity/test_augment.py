"""Augmentations with given draws, and the noise of masks, against the reference's numbers (spec 10)."""

from __future__ import annotations

import numpy as np
import pytest

from bodyloop.data import augment
from bodyloop.data.sample import CroppedSample, Sample, cut
from bodyloop.skeletons import MERGED_23
from tests.parity.manifest import compare, given
from tests.parity.warp4x import warp
from tests.parity.weights import synthetic_image, synthetic_mask

A = "augment.npz"
IMAGE = synthetic_image()[..., ::-1].copy()
HEIGHT, WIDTH = IMAGE.shape[:2]


def start() -> Sample:
    keypoints = np.concatenate([given(A, "keypoints")[0], given(A, "v")[0][:, None]], axis=1)
    return Sample.create(IMAGE, MERGED_23, keypoints, given(A, "bbox")[0])


def check(step: str, s: Sample, padded: bool = True) -> None:
    compare(A, f"{step}__keypoints", s.keypoints[None], 1e-3)
    compare(A, f"{step}__keypoints_visible", s.annotated[None], 0)
    compare(A, f"{step}__keypoints_visibility", s.visible[None], 0)
    shape = given(A, f"{step}__bbox_xyxy_wrt_input").shape
    compare(A, f"{step}__bbox_xyxy_wrt_input", s.box.reshape(shape), 1e-3)
    if padded:
        compare(A, f"{step}__bbox_center", s.center[None], 1e-3)
        compare(A, f"{step}__bbox_scale", s.scale[None], 1e-3)


def check_cut(step: str, s: Sample, c: CroppedSample) -> None:
    # the reference keeps the untouched keypoints beside the transformed ones
    compare(A, f"{step}__keypoints", s.keypoints[None], 1e-3)
    compare(A, f"{step}__transformed_keypoints", c.keypoints[None], 1e-3)
    compare(A, f"{step}__keypoints_visible", c.annotated[None], 0)
    compare(A, f"{step}__keypoints_visibility", c.visible[None], 0)
    compare(A, f"{step}__bbox_xyxy_wrt_input", c.box.reshape(1, 4), 1e-3)
    compare(A, f"{step}__bbox_center", c.crop.center, 1e-3)
    compare(A, f"{step}__bbox_scale", c.crop.scale, 1e-3)
    compare(A, f"{step}__bbox_rotation", c.crop.rotation, 0)


def transformed() -> Sample:
    offset = given(A, "bboxtf__offset")[0]
    factor = float(given(A, "bboxtf__scale_factor")[0, 0])
    return augment.transform_box(start(), offset, factor, float(given(A, "bboxtf__rotate_deg")[0]))


def edged() -> Sample:
    x1, y1, x2, y2 = (int(v) for v in given(A, "edges__rect"))
    return augment.keep_rectangle(transformed(), (x1, y1, x2, y2))


def test_start() -> None:
    check("center_scale", start())
    compare(A, "center_scale__bbox", start().box[None], 1e-3)


def test_flip() -> None:
    s = augment.flip(start())
    check("flip", s)
    compare(A, "flip__bbox", s.box[None], 1e-3)
    assert (s.image == IMAGE[:, ::-1]).all()


@pytest.mark.parametrize(("half", "draw"), [("upper", 0.1), ("lower", 0.9)])
def test_half_body(half: str, draw: float) -> None:
    s = start()
    assert MERGED_23.upper == tuple(given(A, "upper_ids"))
    assert MERGED_23.lower == tuple(given(A, "lower_ids"))
    ids = augment.choose_half(s, draw)
    assert ids is not None
    assert ids.tolist() == given(A, f"half_{half}__ids").tolist()
    out = augment.half_body(s, ids)
    check(f"half_{half}", out)
    # the plain box in the file is the one before this step
    compare(A, f"half_{half}__bbox", s.box[None], 1e-3)


def test_half_body_box_by_hand() -> None:
    # two wrists 40 px apart in x and 20 in y: 1.5 times the range around their middle, cut at the old box
    keypoints = np.zeros((23, 3))
    keypoints[9], keypoints[10] = (100, 100, 2), (140, 120, 2)
    s = Sample.create(IMAGE, MERGED_23, keypoints, (95, 0, 300, 300))
    out = augment.half_body(s, np.array([9, 10]))
    assert out.center.tolist() == [120, 110]
    assert out.scale.tolist() == [60, 30]
    assert out.box.tolist() == [95, 95, 150, 125]


def test_box_transform_and_its_crop() -> None:
    s = transformed()
    check("bboxtf", s)
    compare(A, "bboxtf__bbox", start().box[None], 1e-3)
    compare(A, "bboxtf__bbox_rotation", [s.rotation], 0)
    c = cut(s)
    check_cut("bboxtf_affine", s, c)
    compare(A, "bboxtf_affine__bbox", start().box[None], 1e-3)
    compare(A, "bboxtf_affine__input_center", c.crop.center[0], 1e-3)
    compare(A, "bboxtf_affine__input_scale", c.crop.scale[0], 1e-3)


def test_edge_blackout_and_its_crop() -> None:
    s = edged()
    check("edges", s)
    compare(A, "edges__bbox", start().box[None], 1e-3)
    compare(A, "edges__bbox_rotation", [s.rotation], 0)
    compare(A, "edges__keypoints_in_image", s.in_image, 0)
    outside = s.image.astype(np.float64)
    x1, y1, x2, y2 = s.canvas
    outside[y1:y2, x1:x2] = 0
    compare(A, "edges__img_sum", [s.image.sum(dtype=np.float64), outside.sum()], 0)
    c = cut(s)
    check_cut("edges_affine", s, c)
    compare(A, "edges_affine__bbox", start().box[None], 1e-3)
    compare(A, "edges_affine__keypoints_in_image", s.in_image, 0)
    compare(A, "edges_affine__input_center", c.crop.center[0], 1e-3)
    compare(A, "edges_affine__input_scale", c.crop.scale[0], 1e-3)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    bx1, by1, bx2, by2 = (int(v) for v in s.box)
    mask[by1:by2, bx1:bx2] = 1
    warped = warp(mask, c.crop.matrix[0], (192, 256))
    compare(A, "edges_affine__bbox_mask_bits", np.packbits(warped), 0)


def test_edge_blackout_that_does_not_happen_still_clips_to_the_picture() -> None:
    s = augment.keep_rectangle(transformed(), (0, 0, WIDTH, HEIGHT), black=False)
    check("edges_noop", s)
    compare(A, "edges_noop__bbox", start().box[None], 1e-3)
    compare(A, "edges_noop__bbox_rotation", [s.rotation], 0)
    compare(A, "edges_noop__keypoints_in_image", s.in_image, 0)


def test_patch_blackout() -> None:
    s = edged()
    c = augment.blackout_patches(cut(s), given(A, "patches__grid"))
    check_cut("patches", s, c)
    compare(A, "patches__bbox", start().box[None], 1e-3)
    compare(A, "patches__keypoints_in_image", s.in_image, 0)
    compare(A, "patches__zero_frac", [(c.image == 0).all(axis=2).mean()], 2e-3)


# ---- masks -------------------------------------------------------------------------------------------------

M = "mask_noise.npz"


def bits(key: str) -> np.ndarray:
    h, w = given(M, "shape")
    return np.unpackbits(given(M, key))[: h * w].reshape(h, w)


@pytest.mark.parametrize("kind", ["holes", "filled"])
def test_mask_noise(kind: str) -> None:
    mask = synthetic_mask(kind="filled" if kind == "filled" else "ellipses")
    compare(M, f"{kind}_area", mask.sum(), 0)
    smooth = augment.smooth_mask(mask)
    compare(M, f"{kind}_smooth", np.packbits(smooth), 0)
    compare(M, f"{kind}_smooth_area", smooth.sum(), 0)
    compare(M, f"{kind}_dilated", np.packbits(augment.dilate_mask(smooth)), 0)
    compare(M, f"{kind}_eroded", np.packbits(augment.erode_mask(smooth)), 0)


@pytest.mark.parametrize("kind", ["holes", "filled"])
@pytest.mark.parametrize("what", ["erode", "dilate"])
def test_patch_removal(kind: str, what: str) -> None:
    smooth = bits_of(kind)
    mask = smooth if what == "erode" else (1 - smooth).astype(np.uint8)
    seeds = given(M, f"{kind}_{what}_seeds")
    removed = given(M, f"{kind}_{what}_removed_labels")
    amount, patches = (0.5, 10) if what == "erode" else (0.1, 50)
    u = float(given(M, f"{kind}_{what}_u"))
    assert len(removed) == int(patches * u)
    assert u <= amount
    out = augment.remove_patches(mask, seeds, removed)
    if what == "dilate":
        out = (1 - out).astype(np.uint8)
    compare(M, f"{kind}_{what}_out", np.packbits(out), 0)


def bits_of(kind: str) -> np.ndarray:
    return augment.smooth_mask(synthetic_mask(kind="filled" if kind == "filled" else "ellipses"))
