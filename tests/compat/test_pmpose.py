"""The authors' PMPose: their arguments, their shapes, their BGR."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from bodyloop.compat import PMPose
from bodyloop.errors import BodyloopError, InputError
from bodyloop.pose.estimator import PoseModel
from bodyloop.pose.parity import REFERENCE, Parity
from tests.pose.stub import CARD, CHANNEL, SKELETON, Colours, card, picture

K = len(SKELETON)
PIXELS, BOXES, SPOTS = picture()
BGR = np.ascontiguousarray(PIXELS[..., ::-1])


def pmpose(**changes: object) -> PMPose:
    return PMPose(model=PoseModel(Colours(), card(**changes)))


def test_shapes_and_meaning() -> None:
    keypoints, presence, visibility, maps = pmpose().predict(BGR, BOXES)
    assert keypoints.shape == (3, K, 3) and presence.shape == visibility.shape == (3, K, 1) and maps is None
    np.testing.assert_allclose(keypoints[..., :2], SPOTS[:, CHANNEL], atol=0.8)
    people = PoseModel(Colours(), CARD).predict(PIXELS, BOXES, parity=REFERENCE)
    np.testing.assert_allclose(keypoints[..., 2], people.quality, atol=1e-6)
    np.testing.assert_allclose(presence[..., 0], people.presence, atol=1e-6)
    np.testing.assert_allclose(visibility[..., 0], people.visibility, atol=1e-6)


def test_maps_are_really_returned() -> None:
    maps = pmpose().predict(BGR, BOXES, return_probmaps=True)[3]
    assert maps is not None and maps.shape == (3, K, 64, 48)
    np.testing.assert_allclose(maps.sum(axis=(2, 3)), 1, atol=1e-4)


def test_features_are_really_returned() -> None:
    features = pmpose().get_features(BGR, BOXES)
    assert features.shape == (3, 3, 4, 3) and features.std() > 0


def test_plain_maps_repeat_their_score() -> None:
    keypoints, presence, visibility, _ = pmpose(outputs=("maps",), head="plain").predict(BGR, BOXES)
    np.testing.assert_array_equal(presence[..., 0], keypoints[..., 2])
    np.testing.assert_array_equal(visibility, presence)


@pytest.mark.parametrize("kind", ["bool", "bytes", "float", "one", "none"])
def test_masks_as_callers_have_them(kind: str) -> None:
    bits = np.zeros((3, *PIXELS.shape[:2]), bool)
    bits[:, 20:100, 20:280] = True
    given = {
        "bool": bits, "bytes": bits.astype(np.uint8) * 255, "float": bits * 0.01,
        "one": bits[0], "none": None,
    }[kind]  # fmt: skip
    boxes = BOXES[:1] if kind == "one" else BOXES
    expected = PoseModel(Colours(), CARD).predict(
        PIXELS, boxes, None if kind == "none" else bits[: len(boxes)], parity=REFERENCE
    )
    keypoints, presence, _, _ = pmpose().predict(BGR, boxes, given)
    np.testing.assert_allclose(presence[..., 0], expected.presence, atol=1e-6)
    np.testing.assert_allclose(keypoints[..., :2], expected.keypoints, atol=1e-4)


def test_an_empty_mask_is_no_mask() -> None:
    empty = np.zeros((3, *PIXELS.shape[:2]), bool)
    np.testing.assert_array_equal(pmpose().predict(BGR, BOXES, empty)[1], pmpose().predict(BGR, BOXES)[1])


def test_nobody() -> None:
    keypoints, presence, visibility, maps = pmpose().predict(BGR, np.zeros((0, 4)), return_probmaps=True)
    assert keypoints.shape == (0, K, 3) and presence.shape == visibility.shape == (0, K, 1)
    assert maps is not None and maps.shape == (0, K, 64, 48)


def test_a_path_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), BGR)
    np.testing.assert_array_equal(pmpose().predict(str(path), BOXES)[0], pmpose().predict(BGR, BOXES)[0])


def test_parity_can_be_left() -> None:
    own = PMPose(model=PoseModel(Colours(), CARD), parity=Parity())
    assert own.model.options.parity == Parity() and pmpose().model.options.parity == REFERENCE


def test_what_cannot_be_loaded() -> None:
    with pytest.raises(InputError, match="checkpoint"):
        PMPose(from_pretrained=False)
    with pytest.raises(BodyloopError, match="posepm"):
        PMPose(variant="PosePM-x")
    with pytest.raises(InputError, match="masks"):
        pmpose().predict(BGR, BOXES, np.zeros(3))
    blind = replace(CARD, preprocess=replace(CARD.preprocess, mask_alpha=None))
    assert PMPose(model=PoseModel(Colours(), blind)).predict(BGR, BOXES)[0].shape == (3, K, 3)
