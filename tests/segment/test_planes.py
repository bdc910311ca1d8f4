"""What a crop segmenter is told: body parts by name, maps, limbs, boxes and masks on cells of 4x4 px."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.segment import planes
from bodyloop.segment.planes import MAPPED, PARTS, PLANES
from bodyloop.skeletons import BODY_19, COCO, SKELETONS, Skeleton

SIZE = (144, 192)


def spot(x: int, y: int, *, skeleton: Skeleton = COCO, name: str = "nose", value: float = 1.0) -> np.ndarray:
    """Maps of one person, all empty but one keypoint's, whose mass lies in one cell of 48 x 64."""
    maps = np.zeros((1, len(skeleton), 64, 48), np.float32)
    maps[0, skeleton.index(name), y, x] = value
    return maps


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=lambda s: s.name)
def test_every_keypoint_of_our_skeletons_belongs_to_a_part(skeleton: Skeleton) -> None:
    assert {planes.part_of(k) for k in skeleton.keypoints} <= set(PARTS)
    for left, right in enumerate(skeleton.flip.tolist()):
        assert planes.part_of(skeleton.keypoints[left]) == planes.part_of(skeleton.keypoints[right])


@pytest.mark.parametrize(
    ("name", "part"),
    [("left_ear", "head"), ("neck_mpii", "shoulders"), ("right_forefinger2", "wrists"), ("left_big_toe", "ankles"),
     ("tail", None)],
)  # fmt: skip
def test_parts_by_name(name: str, part: str | None) -> None:
    assert planes.part_of(name) == part


def test_a_map_lands_where_its_keypoint_is() -> None:
    # map cell (16, 32) of 48 x 64 is crop px (16 * 143 / 47, 32 * 191 / 63) = (48.7, 97.0), in planes' cell (12, 24)
    out = planes.map_planes(planes.certainty(spot(16, 32)), COCO, SIZE)[0]
    assert out.shape == (MAPPED, 48, 36)
    head = out[PLANES.index("head")]
    assert np.unravel_index(head.argmax(), head.shape) == (24, 12) and head.max() > 0.5
    assert not out[1 : MAPPED - 1].any()  # no other part
    limbs = out[PLANES.index("limbs")]
    assert limbs[24, 12] == 1 and limbs.sum() < 10  # the keypoint itself; nothing to join it with


def test_limbs_join_what_is_linked_as_surely_as_the_fainter_end() -> None:
    two = Skeleton.define("two", ["a", "b", "c"], links=["a-b"])
    points = np.array([[[9.5, 21.5], [109.5, 21.5], [60.0, 150.0]]])
    out = planes.limbs(points, np.array([[1.0, 0.5, 0.8]]), two, SIZE)
    # y = 21.5 is (21.5 - 1.5) / 4 = cell 5; between the ends only the limb is drawn
    assert out[5, 15] == pytest.approx(0.5, abs=0.01) and out[5, 2] == 1
    assert out[:20, 15].max() == out[5, 15] and not out[20:30].any()
    nowhere = planes.limbs(np.full((1, 3, 2), np.nan), np.ones((1, 3)), two, SIZE)
    assert not nowhere.any()
    assert not planes.limbs(points, np.full((1, 3), np.nan), two, SIZE).any()


def test_certainty_tells_sharp_from_spread_and_knows_no_scale_of_heat_maps() -> None:
    sharp, flat = spot(5, 5), np.full((1, 1, 64, 48), 1 / (64 * 48), np.float32)
    assert planes.certainty(sharp).max() == 1
    # each of 3072 cells holds 1/3072 of the mass: sqrt(1 / 3072 / 0.04) = 0.0902
    assert planes.certainty(flat) == pytest.approx(0.0902, abs=1e-4)
    y, x = np.mgrid[:64, :48]
    heat = np.exp(-((x - 20) ** 2 + (y - 30) ** 2) / 8)[None, None]
    assert np.allclose(planes.certainty(heat), planes.certainty(heat / heat.sum()), atol=1e-6)
    assert not planes.certainty(np.full((1, 2, 4, 3), np.nan)).any()
    assert not planes.certainty(-heat).any()
    assert planes.certainty(heat * 1e-4).max() < 0.1  # a heat map that is hardly there says nothing


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_mirrored_maps_give_mirrored_planes(seed: int) -> None:
    maps = np.random.default_rng(seed).random((2, 19, 64, 48)).astype(np.float32) ** 20
    here = planes.map_planes(planes.certainty(maps), BODY_19, SIZE)[:, : MAPPED - 1]
    turned = planes.map_planes(planes.certainty(maps[:, BODY_19.flip, :, ::-1]), BODY_19, SIZE)[
        :, : MAPPED - 1
    ]
    assert np.allclose(here, turned[..., ::-1], atol=1e-5)


def test_box_plane() -> None:
    out = planes.box_plane((7.5, 3.5, 15.5, 9.5), SIZE)  # pixels 8..15 and 4..9: cells 2, 3 and 1, half of 2
    assert (out[1, 2:4] == 1).all() and (out[2, 2:4] == 0).all()
    out[1:3, 2:4] = -1
    assert (out == -1).all()
    assert (planes.box_plane((-50, -50, 500, 500), SIZE) == 1).all()


def test_mask_plane_is_the_share_that_is_covered() -> None:
    mask = np.zeros((192, 144), np.uint8)
    mask[4:8, 4:6] = 1
    assert planes.mask_plane(mask)[1, 1] == 0 and planes.share(mask)[1, 1] == 0.5
    assert planes.mask_plane(mask).sum() == -(48 * 36) + 1


def test_dots_and_what_nobody_names() -> None:
    out = planes.dots(np.array([[41.5, 81.5], [1e9, -1e9]]), SIZE)
    assert out[20, 10] == 1 and out.sum() == 5  # the cell and its four neighbours
    assert not planes.dots(np.zeros((0, 2)), SIZE).any()
    one = planes.unnamed_plane(planes.certainty(spot(16, 32)), SIZE)[0]
    assert np.unravel_index(one.argmax(), one.shape) == (24, 12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_lies_outside_the_window_leaves_no_gap_inside(seed: int) -> None:
    """The same people in a window that is wider by 48 px on every side, cut to the middle."""
    rng = np.random.default_rng(seed)
    points, sure = rng.uniform(-40, 200, (2, 17, 2)), rng.random((2, 17))
    here = planes.limbs(points, sure, COCO, SIZE)
    wide = planes.limbs(points + 48, sure, COCO, (SIZE[0] + 96, SIZE[1] + 96))[12:-12, 12:-12]
    ones = np.ones((3, 3), np.uint8)  # OpenCV rounds a line that it cuts a little differently
    inner = np.s_[1:-1, 1:-1]
    assert (here <= cv2.dilate(wide, ones))[inner].all() and (wide <= cv2.dilate(here, ones))[inner].all()
