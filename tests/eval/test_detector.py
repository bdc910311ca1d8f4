from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.errors import FileError, InputError
from bodyloop.eval import evaluate_boxes, evaluate_detector, evaluate_masks
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.skeletons import COCO
from tests.eval.photo_sets import write_set


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_set(tmp_path / "coco", COCO.keypoints)
    return tmp_path


class Finding:
    """A detector that finds the annotated boxes, and a false alarm in the first photo."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def detect(self, images: Any) -> list[People]:
        out = []
        for image in images:
            mine = [a["bbox"] for a in self.document["annotations"] if a["image_id"] == image.id]
            rows = [[x, y, x + w, y + h] for x, y, w, h in mine]
            if image.id == 100:
                rows.append([50, 0, 120, 20])
            scores = np.linspace(0.9, 0.5, len(rows), dtype=np.float32)
            out.append(People(image.size, image.source, boxes=np.array(rows, np.float32), scores=scores))
        return out


def test_detector(data: Path) -> None:
    path = data / "coco" / "dev.json"
    document = json.loads(path.read_text())
    r = evaluate_detector(Finding(document), path, resamples=50)
    assert pytest.approx(1, abs=0.02) == r.report.AP and r.images == 6
    assert r.ap.low <= r.report.AP <= r.ap.high + 1e-12
    assert r.report.counts["predictions"] == 19
    assert json.loads(json.dumps(r.to_json(), allow_nan=False))["numbers"]["AP"] == r.report.AP
    assert "box AP" in r.table()


def test_photos_with_incomplete_boxes_are_left_out(data: Path) -> None:
    path = data / "coco" / "dev.json"
    document = json.loads(path.read_text())
    document["images"][0]["complete"] = {"boxes": False}
    document["images"][1]["complete"] = {"boxes": True}
    path.write_text(json.dumps(document))
    r = evaluate_detector(Finding(document), path, resamples=10)
    assert r.images == 5 and r.report.counts["annotations"] == 15
    document["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="no category named 'person'"):
        evaluate_detector(Finding(document), path)


def test_saved_boxes_are_judged_alike(data: Path, tmp_path: Path) -> None:
    path = data / "coco" / "dev.json"
    r = evaluate_detector(Finding(json.loads(path.read_text())), path, resamples=5, limit=4)
    labels, results = r.save(tmp_path / "out")
    assert labels.name == "coco-dev.json"
    assert evaluate_boxes(labels, results).numbers == r.report.numbers
    with pytest.raises(FileError, match="folder"):
        r.save(labels)


class Drawing(Finding):
    """Beside the boxes the masks: those annotated, and a full one for the false alarm."""

    def detect(self, images: Any) -> list[People]:
        out = []
        for image, people in zip(images, super().detect(images), strict=True):
            mine = [a["segmentation"] for a in self.document["annotations"] if a["image_id"] == image.id]
            whole = [[[50, 0, 120, 0, 120, 20, 50, 20]]] * (len(people) - len(mine))
            masks = Masks.from_any([*mine, *whole], image.size)
            out.append(replace(people, masks=masks))
        return out


def test_masks_are_judged_beside_the_boxes(data: Path, tmp_path: Path) -> None:
    path = data / "coco" / "dev.json"
    document = json.loads(path.read_text())
    for a in document["annotations"]:
        x, y, w, h = a["bbox"]
        a["segmentation"] = [[x, y, x + w, y, x + w / 2, y + h]]  # a triangle
    path.write_text(json.dumps(document))
    r = evaluate_detector(Drawing(document), path, resamples=20)
    assert r.masks is not None and r.mask_ap is not None
    assert pytest.approx(1, abs=0.02) == r.masks.AP and r.mask_ap.low <= r.masks.AP
    assert "mask AP" in r.table()
    assert json.loads(json.dumps(r.to_json(), allow_nan=False))["masks"]["numbers"]["AP"] == r.masks.AP
    labels, results = r.save(tmp_path / "out")
    assert evaluate_masks(labels, results).AP == r.masks.AP
    assert evaluate_boxes(labels, results).numbers == r.report.numbers
    boxes = evaluate_detector(Finding(document), path, resamples=5)
    assert boxes.masks is None and boxes.report.numbers == r.report.numbers
    document["annotations"][0]["segmentation"] = []  # not everybody has one: nobody can be judged
    path.write_text(json.dumps(document))
    assert evaluate_detector(Drawing(document), path, resamples=5).masks is None
