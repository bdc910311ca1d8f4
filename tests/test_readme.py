"""The README's Python examples run as they stand."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import bodyloop
from bodyloop.loop import BodyLoop
from bodyloop.loop.config import find_config
from bodyloop.roles import Prompt
from tests.loop.scene import Drawer

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def run(code: str, folder: Path, photo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(ROOT / "src/bodyloop/assets/photos/basketball.jpg", folder / photo)
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {"bl": bodyloop})


def test_people_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(BLOCKS[0], tmp_path, "photo.jpg", monkeypatch)
    assert (tmp_path / "out.jpg").stat().st_size > 10_000
    assert (tmp_path / "people.json").exists()


def around(prompt: Prompt) -> tuple[npt.NDArray[np.bool_], float]:
    """The box of the points, in a picture of 640x480."""
    bitmap = np.zeros((480, 640), bool)
    (x1, y1), (x2, y2) = prompt.points.min(0).clip(0).astype(int), prompt.points.max(0).clip(0).astype(int)
    bitmap[y1 : y2 + 1, x1 : x2 + 1] = True
    return bitmap, 1.0


def test_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small models in the place of those that would be fetched."""
    own = bodyloop.load_pipeline

    def loaded(name: str = "", *, device: str = "") -> BodyLoop:
        if not name:
            return own()
        assert (name, device) == ("bmp-v2", "cuda")
        return BodyLoop(bodyloop.load_detector(), bodyloop.load_pose(), Drawer(around), find_config(name))

    monkeypatch.setattr(bodyloop, "load_pipeline", loaded)
    run(BLOCKS[1], tmp_path, "crowd.jpg", monkeypatch)
    assert "crowd.jpg" in (tmp_path / "loop.html").read_text(encoding="utf-8")


def test_every_example_is_run() -> None:
    assert len(BLOCKS) == 2


def test_nothing_is_left_to_fill_in() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "@@" not in text and "TODO" not in text


def test_links_and_pictures_exist() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
