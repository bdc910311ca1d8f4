"""What the tests of the command line share: stand-in models, photos, and two ways to call a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bodyloop.cli import app
from bodyloop.models.registry import find_card
from tests.cli.standins import picture, write_detector, write_pose, write_segmenter

Call = Callable[..., Result]


@pytest.fixture(scope="session")
def pose_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pose(tmp_path_factory.mktemp("models") / "pose.onnx")


@pytest.fixture(scope="session")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("models") / "detector.onnx")


@pytest.fixture(scope="session")
def segmenter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_segmenter(tmp_path_factory.mktemp("models") / "segmenter.onnx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three photos."""
    for i in range(3):
        picture(tmp_path / "photos" / f"{i}.jpg", i)
    return tmp_path / "photos"


def call(*arguments: object) -> Result:
    """The command in this process: exit code, stdout, stderr; an exception that is no exit is raised."""
    return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="bodyloop", catch_exceptions=False)


@pytest.fixture
def predict(pose_file: Path, detector_file: Path, tmp_path: Path) -> Call:
    """``bodyloop predict`` with the stand-ins, into ``out``."""

    def go(*arguments: object) -> Result:
        models = ("--model", pose_file, "--detector", detector_file)
        place = () if "--out" in arguments else ("--out", tmp_path / "out")
        return call("predict", *models, *place, *arguments)

    return go


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Six photos with a person each, its keypoints in a row, in COCO's layout."""
    images, rows = [], []
    for i in range(1, 7):
        picture(tmp_path / "data" / "images" / f"{i}.jpg", i, (320, 240))
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 320, "height": 240})
        points = [v for k in range(17) for v in (90 + 8 * k, 40 + 10 * k, 2)]
        rows.append(
            {
                "id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": [80, 30, 160, 190],
                "area": 20000.0, "num_keypoints": 17, "keypoints": points,
            }
        )  # fmt: skip
    names = list(find_card("probpose-s").skeleton.keypoints)  # type: ignore[union-attr]
    document = {
        "images": images,
        "annotations": rows,
        "categories": [{"id": 1, "name": "person", "keypoints": names, "skeleton": []}],
    }
    (tmp_path / "data" / "dev.json").write_text(json.dumps(document), encoding="utf-8")
    return tmp_path / "data"


def run(
    *arguments: object, cwd: Path | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "bodyloop", *(str(a) for a in arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        check=False,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100"},
    )
