"""The wheel in a fresh virtual environment: what is in it, and that people are found with nothing else around."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True, timeout=600)
    (file,) = out.glob("bodyloop-*.whl")
    return file


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel and its dependencies only."""
    root = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", str(root)], check=True, timeout=120)
    folder = root / ("Scripts" if os.name == "nt" else "bin")
    install = [str(folder / "python"), "-m", "pip", "install", "--quiet", str(wheel)]
    subprocess.run(install, check=True, timeout=900)
    return folder


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    return subprocess.run(
        [str(c) for c in command],
        cwd=cwd,
        env=offline,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_what_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as z:
        names = z.namelist()
        size = sum(i.file_size for i in z.infolist())
    for model in ("pmpose-n", "rtmdet-n", "rtmdet-ins-n", "pose2seg-n"):
        assert f"bodyloop/assets/{model}.onnx" in names
    assert "bodyloop/assets/LICENSE-WEIGHTS" in names
    assert "bodyloop/py.typed" in names
    assert any(n.startswith("bodyloop/models/catalog/") for n in names)
    assert any(n.startswith("bodyloop/configs/") for n in names)
    assert not [n for n in names if "fixtures" in n or n.startswith("tests")]
    assert size < 25e6


def test_people_are_found_offline_without_torch(fresh: Path, tmp_path: Path) -> None:
    photo = ROOT / "src" / "bodyloop" / "assets" / "photos" / "basketball.jpg"
    done = run(
        fresh / "bodyloop", "predict", photo, "--out", tmp_path / "out", "--save", "json,vis", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    (document,) = [json.loads(p.read_text()) for p in (tmp_path / "out").rglob("basketball*.json")]
    assert len(document["people"]) >= 2
    assert set(document["model"]) == {"detector", "pose", "segmenter"}  # the loop, where nothing is said
    assert all(p["mask"] and p["keypoints"] for p in document["people"])
    check = "import importlib.util as u, bodyloop; print(u.find_spec('torch'), len(bodyloop.predict(r'%s')))"
    done = run(fresh / "python", "-c", check % photo, cwd=tmp_path)
    assert done.stdout.split()[0] == "None", done.stderr
    assert int(done.stdout.split()[1]) >= 2
