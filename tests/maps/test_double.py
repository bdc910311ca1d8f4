"""The double map: outer decides, inner refines."""

from __future__ import annotations

import numpy as np
import pytest

from bodyloop.errors import InputError
from bodyloop.geometry import Crop
from bodyloop.maps import MapLayer, ProbabilityMaps, in_box, merge_double, oks_targets

BOX = np.array([[100, 100, 196, 228]], np.float32)  # window 120 x 160 around (148, 164)
CROP = Crop.from_boxes(BOX)
PICTURE = (640, 480)


def maps_at(inner: list[list[float]], outer: list[list[float]]) -> ProbabilityMaps:
    """Double maps with a bump at the given image points (K, 2)."""
    far = CROP.enlarged(1.25)
    variances = np.full(len(inner), 1.0)
    layers = []
    for points, crop, role in ((inner, CROP, "inner"), (outer, far, "outer")):
        values = oks_targets(crop.to_map(np.array([points])), variances)
        layers.append(MapLayer(values / values.sum(axis=(2, 3), keepdims=True), crop, role))  # type: ignore[arg-type]
    return ProbabilityMaps(tuple(layers), variances)


def test_each_keypoint_is_read_where_it_belongs() -> None:
    inner = [[150.0, 160.0], [140.0, 150.0], [150.0, 170.0]]
    # in the box; in the crop but not in the box; outside
    outer = [[151.0, 161.0], [95.0, 150.0], [215.0, 150.0]]
    merged = merge_double(maps_at(inner, outer), BOX, PICTURE)
    np.testing.assert_array_equal(merged.from_inner, [[True, False, False]])
    np.testing.assert_allclose(merged.points[0], [inner[0], outer[1], outer[2]], atol=0.1)
    assert merged.points.dtype == np.float64 and merged.scores.dtype == np.float32


def test_people_do_not_mix() -> None:
    """The reference's slip: taking whole people by the keypoints' flags."""
    a = maps_at([[150.0, 160.0], [140.0, 150.0]], [[151.0, 161.0], [215.0, 150.0]])
    b = maps_at([[140.0, 150.0], [150.0, 160.0]], [[215.0, 150.0], [151.0, 161.0]])
    both = ProbabilityMaps.concat([a, b])
    merged = merge_double(both, np.repeat(BOX, 2, axis=0), PICTURE)
    np.testing.assert_array_equal(merged.from_inner, [[True, False], [False, True]])
    for i, one in enumerate((a, b)):
        alone = merge_double(one, BOX, PICTURE)
        np.testing.assert_allclose(merged.points[i], alone.points[0], atol=1e-9)


def warped_box_mask(crop: Crop, box: np.ndarray, picture: tuple[int, int]) -> np.ndarray:
    """The rule as the reference carries it out: draw the box, warp it."""
    import cv2

    w, h = picture
    mask = np.zeros((h, w), np.uint8)
    x1, y1 = np.clip(box[:2], 0, [w, h]).astype(int)
    x2, y2 = np.clip(box[2:], 0, [w, h]).astype(int)
    mask[y1:y2, x1:x2] = 1
    return np.asarray(cv2.warpAffine(mask, crop.matrix[0], crop.size, flags=cv2.INTER_LINEAR)) > 0


@pytest.mark.parametrize("degrees", [0.0, 25.0])
@pytest.mark.parametrize(
    "box",
    [[100.4, 100.7, 196.2, 228.9], [-30, -20, 60, 90], [600, 430, 700, 500], [10, 10, 13, 300]],
    ids=["inside", "top left", "bottom right", "thin"],
)
def test_the_box_rule_is_the_warped_mask(box: list[float], degrees: float) -> None:
    boxes = np.array([box], np.float32)
    crop = Crop.from_boxes(boxes, rotation=degrees)
    grid = np.stack(np.meshgrid(np.arange(192.0), np.arange(256.0)), -1).reshape(1, -1, 2)
    ours = in_box(grid + 0.3, crop, boxes, PICTURE).reshape(256, 192)  # the pixel that holds the point counts
    theirs = warped_box_mask(crop, boxes[0], PICTURE)
    assert theirs.any()
    # the warp rounds sampling positions to 1/32 px: along the rim a pixel may differ
    assert (ours != theirs).mean() < 0.002


def test_points_outside_the_crop_or_not_available() -> None:
    points = np.array([[[np.nan, 5], [-0.01, 100], [192, 100], [100, 256], [100, 128], [np.inf, 3]]])
    inside = in_box(points, CROP, BOX, PICTURE)
    np.testing.assert_array_equal(inside, [[False, False, False, False, True, False]])


def test_a_box_beside_the_picture_takes_nothing() -> None:
    boxes = np.array([[-50, -50, -5, -5]], np.float32)
    crop = Crop.from_boxes(boxes)
    assert not in_box(np.full((1, 1, 2), 100.0), crop, boxes, PICTURE).any()


def test_shapes_are_checked() -> None:
    with pytest.raises(InputError, match="windows"):
        in_box(np.zeros((2, 1, 2)), CROP, BOX, PICTURE)
    single = ProbabilityMaps.single(np.ones((1, 1, 64, 48)), CROP, np.ones(1))
    with pytest.raises(InputError, match="inner"):
        merge_double(single, BOX, PICTURE)
