"""Segmenters judged by people with masks: with one that knows the truth, and numbers worked by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bodyloop.errors import InputError
from bodyloop.eval.segmenter import PROMPT, evaluate_segmenter, words
from bodyloop.geometry import Crop
from bodyloop.images import Image
from bodyloop.maps import ProbabilityMaps
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import MaskResult, Prompt
from bodyloop.skeletons import COCO
from tests.data.sets import draw

W, H = 120, 90


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Three photos; each a person of half its box, one of a quarter, and one too small to count."""
    rows, images = [], []
    for i in range(3):
        draw(tmp_path / "images" / f"{i}.png", (W, H), seed=i)
        images.append({"id": i, "file_name": f"{i}.png", "width": W, "height": H})
        for box, mask in (
            ([4, 4, 40, 80], square(4, 4, 40)),
            ([60, 4, 40, 40], square(60, 4, 20)),
            ([60, 60, 20, 20], square(60, 60, 20)),
        ):
            rows.append(
                {"id": len(rows) + 1, "image_id": i, "category_id": 1, "bbox": box, "segmentation": mask}
            )
    path = tmp_path / "dev.json"
    path.write_text(
        json.dumps({"images": images, "annotations": rows, "categories": [{"id": 1, "name": "person"}]})
    )
    return path


class Posing:
    """Everybody's keypoints lie on the middle of their boxes."""

    def estimate(self, images: Sequence[Image], people: Sequence[People]) -> list[People]:
        out = []
        for p in people:
            assert p.boxes is not None
            n, k = len(p), len(COCO)
            crop = Crop.from_boxes(p.boxes)
            maps = ProbabilityMaps.single(np.full((n, k, 64, 48), 1 / 3072, np.float32), crop, np.ones(k))
            middle = np.repeat((p.boxes[:, None, :2] + p.boxes[:, None, 2:]) / 2, k, axis=1)
            seen = np.tile(np.linspace(0, 1, k, dtype=np.float32), (n, 1))
            out.append(p.replace(skeleton=COCO, keypoints=middle, visibility=seen, maps=maps))
        return out


class Answering:
    """Fills the prompt's box, or gives its first mask back; it keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Prompt] = []

    def __str__(self) -> str:
        return "answering"

    def encode(self, images: Sequence[Image]) -> list[Image]:
        return list(images)

    def segment(self, encoded: Image, prompts: Sequence[Prompt]) -> MaskResult:
        self.asked += prompts
        masks = []
        for p in prompts:
            if p.mask is not None:
                masks.append(p.mask)
                continue
            assert p.box is not None
            x1, y1, x2, y2 = np.rint(p.box).astype(int)
            masks.append(Masks.from_cuts([(x1, y1, np.ones((y2 - y1, x2 - x1), bool))], (W, H)))
        return MaskResult(Masks.concat(masks), np.full(len(prompts), 0.5, np.float32))


def test_numbers_worked_by_hand(labels: Path) -> None:
    judged = Answering()
    r = evaluate_segmenter(judged, Posing(), labels, resamples=50)
    assert len(r.ious) == 6 and set(r.annotation_ids.tolist()) == {1, 2, 4, 5, 7, 8}
    assert np.allclose(np.sort(r.ious), [0.25] * 3 + [0.5] * 3)
    assert r.iou.value == pytest.approx(0.375) and r.iou.low == pytest.approx(r.iou.high) == pytest.approx(
        0.375
    )
    assert r.box_iou == r.iou and r.mask_iou is None
    assert r.score_error == pytest.approx(0.125)  # 0.5 said; 0.5 and 0.25 are true
    out = json.loads(json.dumps(r.to_json(), allow_nan=False))
    assert out["people"] == 6 and out["known"] == list(PROMPT) and "answering" in r.table()


def test_prompts_hold_what_was_asked_for(labels: Path) -> None:
    judged = Answering()
    evaluate_segmenter(judged, Posing(), labels, resamples=5, limit=1)
    assert len(judged.asked) == 2
    p = judged.asked[0]
    assert p.box is not None and p.box.tolist() == [4, 4, 44, 84]
    assert p.points.tolist() == [[24, 44]] * 3 and p.labels.tolist() == [1, 1, 1]
    assert p.maps is not None and len(p.maps) == 1 and p.skeleton == COCO and p.mask is None
    assert p.neighbours is not None and len(p.neighbours) == 2  # also the one who is not judged
    evaluate_segmenter(judged, Posing(), labels, known=["box"], resamples=5, limit=1)
    p = judged.asked[-1]
    assert p.box is not None and len(p.points) == 0 and p.maps is None and p.neighbours is None


def test_first_masks_are_coarse(labels: Path) -> None:
    r = evaluate_segmenter(Answering(), Posing(), labels, known=words("box, mask"), resamples=20)
    assert r.mask_iou is not None and r.mask_iou == r.iou
    assert 0.5 < r.iou.value < 1
    again = evaluate_segmenter(Answering(), Posing(), labels, known=["mask", "box"], resamples=20)
    assert again.ious.tolist() == r.ious.tolist()


def test_unknown_words(labels: Path) -> None:
    for text in ("", "box,smell"):
        with pytest.raises(InputError, match="prompts hold some of"):
            words(text)
