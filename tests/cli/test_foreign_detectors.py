"""``--detector`` with a file that is not ours: found by its shapes, named by its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image as Pillow

from tests.cli.conftest import call
from tests.detect.test_yolo import make, photo


@pytest.mark.parametrize("family", ["yolox", "yolov8 masks"])
def test_predict_with_a_yolo_file(pose_file: Path, tmp_path: Path, family: str) -> None:
    detector = make(tmp_path / "Their YOLO.onnx", family)
    Pillow.fromarray(photo().pixels).save(tmp_path / "red.png")
    out = tmp_path / "out"
    done = call(
        "predict", tmp_path / "red.png", "--model", pose_file, "--detector", detector, "--out", out, "--save", "json"
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    document = json.loads((out / "red.json").read_text())
    assert document["model"]["detector"]["name"] == "Their YOLO"
    assert [p["box"] for p in document["people"]] == [[32, 64, 48, 80]]


def test_what_is_no_detector_is_said(pose_file: Path, tmp_path: Path) -> None:
    Pillow.fromarray(photo().pixels).save(tmp_path / "red.png")
    odd = make(tmp_path / "odd.onnx", "yolov8", classes=2)
    for detector, says in ((odd, "tells 2 classes apart"), (tmp_path, "is a folder, not a model")):
        done = call("predict", tmp_path / "red.png", "--model", pose_file, "--detector", detector)
        assert done.exit_code == 1 and says in done.stderr and done.stderr.count("\n") == 1
