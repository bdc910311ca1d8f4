"""The authors' BBoxMaskPose: their arguments, their shapes, their BGR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bodyloop.compat import BBoxMaskPose
from bodyloop.errors import ConfigError, FileError, InputError
from bodyloop.images import read
from bodyloop.loop import BodyLoop, LoopConfig
from bodyloop.people import People
from bodyloop.skeletons import BODY_19
from tests.loop.scene import PHOTO, found, person
from tests.parity_loop.players import Discs, Finder, Poser

LEFT, RIGHT = person(30), person(130)
BGR = np.ascontiguousarray(PHOTO.pixels[..., ::-1])


class Both(Poser):
    """Knows two people; may say it in another skeleton, or without presence and visibility."""

    def __init__(self, skeleton: Any = None, plain: bool = False) -> None:
        super().__init__(People.concat([LEFT, RIGHT]))
        self.other, self.plain = skeleton, plain

    def estimate(self, images: Any, people: Any) -> list[People]:
        [p] = super().estimate(images, people)
        p = p.replace(presence=np.full((len(p), 17), 0.7))
        if self.plain:
            p = p.replace(presence=None, visibility=None)
        return [p if self.other is None else p.in_skeleton(self.other)]


def bmp(*passes: list[People], pose: Any = None) -> BBoxMaskPose:
    detector = Finder([found(*p) for p in passes])
    return BBoxMaskPose(loop=BodyLoop(detector, pose or Both(), Discs(), LoopConfig(passes=len(passes))))


def test_shapes_and_meaning() -> None:
    it = bmp([LEFT], [RIGHT])
    result = it.predict(BGR)
    assert set(result) == {"bboxes", "masks", "keypoints", "presence", "visibility"}
    assert result["bboxes"].tolist() == [[10, 5, 50, 100], [110, 5, 150, 100]]
    assert result["masks"].shape == (2, 120, 160) and result["masks"].dtype == bool
    assert result["masks"].any(axis=(1, 2)).all()
    assert result["keypoints"].shape == (2, 17, 3)
    assert result["presence"].shape == result["visibility"].shape == (2, 17)
    np.testing.assert_array_equal(result["keypoints"][0, :, :2], LEFT.keypoints[0])  # type: ignore[index]
    np.testing.assert_array_equal(result["keypoints"][0, :, 2], LEFT.map_scores[0])  # type: ignore[index]
    assert (result["presence"] == np.float32(0.7)).all() and (result["visibility"] == np.float32(0.9)).all()
    assert (it.loop.roles.detector.shown[0].pixels == PHOTO.pixels).all()  # type: ignore[attr-defined]


def test_given_boxes() -> None:
    """In the published code this call always fails."""
    assert LEFT.boxes is not None
    result = bmp([RIGHT]).predict(BGR, bboxes=LEFT.boxes)
    assert result["bboxes"].tolist() == LEFT.boxes.tolist()


def test_other_skeletons_become_coco() -> None:
    result = bmp([LEFT], pose=Both(BODY_19)).predict(BGR)
    assert result["keypoints"].shape == (1, 17, 3) and result["presence"].shape == (1, 17)


def test_without_presence_and_visibility_they_are_the_scores() -> None:
    result = bmp([LEFT], pose=Both(plain=True)).predict(BGR)
    np.testing.assert_array_equal(result["presence"], result["keypoints"][..., 2])
    np.testing.assert_array_equal(result["visibility"], result["presence"])


def test_nobody() -> None:
    result = bmp([], []).predict(BGR, return_intermediates=True)
    shapes = {k: np.shape(v) for k, v in result.items()}
    assert shapes == {
        "bboxes": (0, 4), "masks": (0, 120, 160), "keypoints": (0, 17, 3), "presence": (0, 17),
        "visibility": (0, 17), "intermediates": (0,),
    }  # fmt: skip


def test_intermediates_of_passes_that_found_somebody() -> None:
    steps = bmp([LEFT], [], [LEFT, RIGHT]).predict(BGR, return_intermediates=True)["intermediates"]
    assert [s["iteration"] for s in steps] == [0, 2]
    assert steps[1]["detections"]["bboxes"].shape == (2, 4) and steps[1]["poses"]["keypoints"].shape == (
        2,
        17,
        3,
    )
    assert steps[0]["detections"]["bbox_scores"].tolist() == [np.float32(0.9)]
    assert len(steps[0]["refined"]["bboxes"]) == 1


@pytest.mark.parametrize("kind", ["pose", "mask"])
def test_pictures(kind: Any, tmp_path: Path) -> None:
    it = bmp([LEFT], [RIGHT])
    result = it.predict(BGR)
    before = result["keypoints"].copy()
    path = tmp_path / "out.png"
    shown = it.visualize(BGR, result, kind, save_path=path)
    assert shown.shape == BGR.shape and shown.dtype == np.uint8 and (shown != BGR).any()
    assert (read(path).pixels == shown[..., ::-1]).all()
    assert (result["keypoints"] == before).all()
    far = np.linalg.norm(shown[:, 75:85].astype(int) - BGR[:, 75:85], axis=2)
    assert (far == 0).mean() > 0.9  # between the two there is nothing to draw


def test_wrong_calls(tmp_path: Path) -> None:
    it = bmp([LEFT])
    result = it.predict(BGR)
    with pytest.raises(InputError, match="vis_type"):
        it.visualize(BGR, result, "poses")  # type: ignore[arg-type]
    with pytest.raises(FileError, match="with an ending"):
        it.visualize(BGR, result, save_path=tmp_path / "out")
    with pytest.raises(ConfigError, match="did you mean 'bmp-d3'"):
        BBoxMaskPose("BMP_D4")


def test_a_path(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), BGR)
    assert len(bmp([LEFT]).predict(tmp_path / "a.png")["bboxes"]) == 1
