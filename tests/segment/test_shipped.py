"""pose2seg-n as it is in the package: people of our own pictures and, with the photos, the numbers of its card."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import bodyloop as bl
from bodyloop.images import Image, read
from bodyloop.models.registry import find_card, is_embedded
from bodyloop.people import People
from bodyloop.pose.inference import PoseOptions
from bodyloop.roles import MaskResult, Prompt, Segmenter

PHOTOS = Path(bl.__file__).parent / "assets" / "photos"
WEIGHTS = Path(__file__).parents[2] / "weights" / "pose2seg-n.safetensors"
BOXES = {  # drawn by eye, as shares of the picture's width and height
    "basketball": [(0.05, 0.17, 0.25, 0.98), (0.70, 0.04, 1.0, 1.0)],
    "astronaut": [(0.05, 0.03, 0.80, 1.0)],
}

pytestmark = pytest.mark.skipif(
    not is_embedded(find_card("pose2seg-n")), reason="pose2seg-n is not in the package"
)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return bl.load_segmenter("pose2seg-n", threads=1)


@pytest.fixture(scope="module")
def posed() -> dict[str, tuple[Image, People]]:
    pose = bl.load_pose("pmpose-n", threads=1, detector=None, options=PoseOptions(flip=False, maps=True))
    out = {}
    for name, boxes in BOXES.items():
        image = read(PHOTOS / f"{name}.jpg")
        people = People(image.size, image.source, boxes=np.array(boxes) * np.tile(image.size, 2))
        out[name] = image, pose.estimate([image], [people])[0]
    return out


def asked(segmenter: Segmenter, image: Image, people: People) -> MaskResult:
    assert people.boxes is not None and people.maps is not None
    prompts = [
        Prompt(
            np.zeros((0, 2)), np.zeros(0), box=people.boxes[i], maps=people.maps[i], skeleton=people.skeleton
        )
        for i in range(len(people))
    ]
    return segmenter.segment(segmenter.encode([image])[0], prompts)


@pytest.mark.parametrize("name", BOXES)
def test_masks_hold_the_joints_and_stay_near_the_box(
    segmenter: Segmenter, posed: dict[str, tuple[Image, People]], name: str
) -> None:
    image, people = posed[name]
    result = asked(segmenter, image, people)
    assert people.boxes is not None and people.keypoints is not None and people.visibility is not None
    held = []
    for i, (x1, y1, x2, y2) in enumerate(people.boxes.tolist()):
        mask = result.masks.bitmap(i)
        inside = np.zeros_like(mask)
        inside[max(int(y1), 0) : int(y2) + 1, max(int(x1), 0) : int(x2) + 1] = True
        assert 0.3 < mask.sum() / inside.sum() < 0.9
        assert (mask & inside).sum() > 0.9 * mask.sum()
        seen = people.visibility[i] > 0.6
        x, y = np.rint(people.keypoints[i, seen]).astype(int).T
        x, y = np.clip(x, 0, image.size[0] - 1), np.clip(y, 0, image.size[1] - 1)
        held += mask[y, x].tolist()
    assert np.mean(held) > 0.8
    assert (result.scores > 0.6).all()


def test_weights_and_file_are_the_same_model(
    segmenter: Segmenter, posed: dict[str, tuple[Image, People]]
) -> None:
    torch_one = bl.load_segmenter(WEIGHTS)
    for image, people in posed.values():
        a, b = asked(segmenter, image, people), asked(torch_one, image, people)
        assert np.diag(a.masks.iou(b.masks)).min() > 0.999
        assert np.allclose(a.scores, b.scores, atol=2e-3)


@pytest.mark.slow
def test_the_card_tells_the_truth(segmenter: Segmenter) -> None:
    from bodyloop.eval.segmenter import evaluate_segmenter

    root = os.environ.get("BODYLOOP_DATA")
    if not root:
        pytest.skip("needs BODYLOOP_DATA: photos of people with masks")
    pose = bl.load_pose("pmpose-n", threads=1, detector=None, options=PoseOptions(flip=False, maps=True))
    report = evaluate_segmenter(segmenter, pose, Path(root) / "coco" / "dev.json", resamples=10)
    told = find_card("pose2seg-n").accuracy[0]
    assert told.metric == "mean mask IoU" and report.iou.value == pytest.approx(told.value, abs=2e-3)
    assert report.iou.value > 0.62 > 0.55 > report.box_iou.value
