"""``bodyloop data``: what is wrong with labels, in which format they are wanted, and masks."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bodyloop.data.formats import read_labels
from bodyloop.images import Image
from bodyloop.masks import Masks
from bodyloop.roles import MaskResult, Prompt
from tests.cli.conftest import call, run
from tests.data.sets import pack, people, write


def test_check(tmp_path: Path) -> None:
    path = write(tmp_path, people())
    done = call("data", "check", path)
    assert done.exit_code == 0 and done.stdout.rstrip().endswith("all is right")
    assert "nose" in done.stdout and "2 images" in done.stdout
    document = people()
    document["annotations"][2]["bbox"] = [1, 2, 0, 0]
    bad = write(tmp_path / "bad", document)
    wrong = call("data", "check", path, bad, "--json")
    assert wrong.exit_code == 1
    good, other = json.loads(wrong.stdout)
    assert good["ok"] and [p["where"] for p in other["problems"] if p["rule"] == "box"] == ["annotation id 9"]
    assert all(p["fix"] for p in other["problems"])
    assert "draw it around the person" in call("data", "check", bad).stdout
    tar = pack(tmp_path / "p.tar", sorted((tmp_path / "images").iterdir()))
    alone = write(tmp_path / "alone", people(), photos=False)
    assert json.loads(call("data", "check", alone, "--json").stdout)["problems"][0]["rule"] == "photos"
    assert json.loads(call("data", "check", alone, "--images", tar, "--json").stdout)["problems"] == []
    none = call("data", "check", tmp_path / "none.json")
    assert none.exit_code == 1 and "none.json" in none.stderr


def test_convert(tmp_path: Path) -> None:
    path = write(tmp_path, people())
    done = call("data", "convert", path, tmp_path / "yolo", "--to", "yolo-pose")
    assert done.exit_code == 0
    assert "yolo-pose cannot hold: masks (2)" in done.stderr and "masks" not in done.stdout
    assert f"Its photos belong in {tmp_path / 'yolo' / 'images' / 'train'}" in done.stdout
    done = call(
        "data",
        "convert",
        path,
        tmp_path / "y2",
        "--to",
        "yolo-pose",
        "--copy-photos",
        "--split",
        "val",
        "--json",
    )
    report = json.loads(done.stdout)
    assert report["lost"]["masks"] == 2 and report["people"] == 2 and report["format"] == "coco"
    assert len(read_labels(tmp_path / "y2", split="val").annotations) == 2
    back = call("data", "convert", tmp_path / "y2", tmp_path / "b.json", "--to", "coco", "--split", "val")
    assert back.exit_code == 0 and back.stderr == ""
    again = call("data", "convert", path, tmp_path / "b.json", "--to", "coco")
    assert again.exit_code == 1 and "is there already" in again.stderr
    assert call("data", "convert", path, tmp_path / "c", "--to", "voc").exit_code == 1
    assert call("data", "convert", path, tmp_path / "c").exit_code == 2  # without --to


SEGMENTER = """
import numpy as np

def boxes(image, boxes, keypoints):
    out = np.zeros((len(boxes), *image.shape[:2]), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(out, boxes.astype(int)):
        mask[y1:y2, x1:x2] = 1
    return out
"""


def test_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "of_the_command.py").write_text(SEGMENTER)
    path = write(tmp_path, people())
    where = (path, tmp_path / "images", tmp_path / "out.json", "--segmenter", "of_the_command:boxes")
    assert call("data", "masks", *where, "--part", "first").exit_code == 2
    first = call("data", "masks", *where, "--part", "2/2")
    assert first.exit_code == 0 and "0 of 1 groups" in first.stdout and not (tmp_path / "out.json").exists()
    done = call("data", "masks", *where, "--part", "1/2")
    assert done.exit_code == 0 and "1 masks made, 1 were there; without: 0 too small, 0 empty" in done.stdout
    report = json.loads(call("data", "masks", *where, "--json").stdout)
    assert report["counts"] == {"made": 1, "kept": 1, "small": 0, "empty": 0}
    assert call("data", "check", tmp_path / "out.json").exit_code == 0
    wrong = call("data", "masks", *where[:3], "--segmenter", "of_the_command")
    assert wrong.exit_code == 1 and "or name a function as package.module:function" in wrong.stderr


def test_masks_by_a_segmenter_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Prompt] = []

    class Boxes:
        """Fills the box of who has a visible keypoint."""

        def encode(self, images: Sequence[Image]) -> Sequence[tuple[int, int]]:
            return [i.size for i in images]

        def segment(self, encoded: tuple[int, int], prompts: Sequence[Prompt]) -> MaskResult:
            asked.extend(prompts)
            w, h = encoded
            bitmaps = np.zeros((len(prompts), h, w), bool)
            for bitmap, p in zip(bitmaps, prompts, strict=True):
                x1, y1, x2, y2 = np.asarray(p.box, int)
                bitmap[y1:y2, x1:x2] = len(p.points) > 0
            return MaskResult(Masks.from_bitmaps(bitmaps), np.ones(len(prompts), np.float32))

    monkeypatch.setattr("bodyloop.api.load_segmenter", lambda name, device: Boxes())
    path = write(tmp_path, people())
    out = tmp_path / "out.json"
    done = call("data", "masks", path, tmp_path / "images", out, "--segmenter", "sam2.1-tiny")
    assert done.exit_code == 0 and "1 masks made, 1 were there" in done.stdout
    (prompt,) = asked
    table = read_labels(path).table()
    n = int(np.flatnonzero((table.boxes == prompt.box).all(axis=1))[0])
    seen = table.keypoints[n, table.keypoints[n, :, 2] == 2, :2]
    np.testing.assert_allclose(prompt.points, seen)
    assert len(seen) and prompt.labels.tolist() == [1] * len(seen)


def test_the_segmenter_of_the_current_folder(tmp_path: Path) -> None:
    """In a process of its own, where the folder is not in the path by itself."""
    (tmp_path / "mine.py").write_text(SEGMENTER)
    write(tmp_path, people())
    done = run("data", "masks", "train.json", "images", "out.json", "--segmenter", "mine:boxes", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "out.json").read_text())["annotations"]) == 3


def test_help() -> None:
    text = call("data", "--help").stdout
    assert all(name in text for name in ("check", "convert", "masks", "$ bodyloop data check"))
