"""What the tests of the command line share: stand-in models, photos, and two ways to call a command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bodyloop.cli import app
from tests.cli.standins import picture, write_detector, write_pose

Call = Callable[..., Result]


@pytest.fixture(scope="session")
def pose_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pose(tmp_path_factory.mktemp("models") / "pose.onnx")


@pytest.fixture(scope="session")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("models") / "detector.onnx")


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
