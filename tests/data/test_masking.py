"""Masks for sets without: what the segmenter is asked, what becomes of its answers, stops and several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.data import masking
from bodyloop.data.check import check_labels
from bodyloop.data.formats import read_labels
from bodyloop.data.masking import make_masks, segmenter_named
from bodyloop.data.persons import PersonSet
from bodyloop.errors import ConfigError, FileError, InputError
from bodyloop.masks import Masks
from bodyloop.skeletons import COCO
from tests.data.sets import HEIGHT, WIDTH, draw, official, people, write


def fill_boxes(image: Any, boxes: Any, keypoints: Any) -> list[Any]:
    """Each person is its box, rounded."""
    out = []
    for x1, y1, x2, y2 in np.rint(boxes).astype(int):
        mask = np.zeros(image.shape[:2], bool)
        mask[y1:y2, x1:x2] = True
        out.append(mask)
    return out


def many(count: int = 50) -> dict[str, Any]:
    """Photos with a person each, without masks."""
    row = people()["annotations"][2]
    row = {k: v for k, v in row.items() if k != "area"}
    images = [
        {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(1, count + 1)
    ]
    rows = [{**row, "id": i, "image_id": i} for i in range(1, count + 1)]
    return {**people(), "images": images, "annotations": rows}


def test_who_gets_a_mask(tmp_path: Path) -> None:
    document = people()
    tiny = {**document["annotations"][2], "id": 10, "bbox": [20, 20, 7, 30]}
    gone = {**document["annotations"][2], "id": 11, "bbox": [2, 3, 20, 30]}
    document["annotations"] += [tiny, gone]
    asked: list[tuple[Any, ...]] = []

    def segment(image: Any, boxes: Any, keypoints: Any) -> list[Any]:
        asked.append((image, boxes, keypoints))
        return [
            None if b[0] == 2 else m for b, m in zip(boxes, fill_boxes(image, boxes, keypoints), strict=True)
        ]

    path = write(tmp_path, document)
    before = path.read_bytes()
    made = make_masks(path, tmp_path / "out.json", segment, name="mine")
    assert made.out == tmp_path / "out.json" and path.read_bytes() == before
    assert made.counts == {"made": 1, "kept": 1, "small": 1, "empty": 1}
    ((image, boxes, keypoints),) = asked  # only the photo of those without a mask
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
    assert boxes.tolist() == [[30, 5, 60, 40], [2, 3, 22, 33]]  # clipped to the photo
    assert (
        keypoints.shape == (2, 17, 3)
        and keypoints[0, 0].tolist() == document["annotations"][2]["keypoints"][:3]
    )
    labels = read_labels(made.out)
    by_id = {a["id"]: a for a in labels.annotations}
    assert by_id[7] == document["annotations"][0] and by_id[8] == document["annotations"][1]
    mask = Masks.from_any([by_id[9]["segmentation"]], (WIDTH, HEIGHT))
    assert mask.boxes.tolist() == [[30, 5, 60, 40]] and by_id[9]["mask_made"] == 1
    assert by_id[9]["area"] == 500  # the set's own
    assert not by_id[10].get("segmentation") and not by_id[11].get("segmentation")
    assert labels.document["info"]["masks"]["segmenter"] == "mine"
    assert not list(tmp_path.glob("*.parts"))
    persons = PersonSet(made.out, COCO)
    assert persons.has_mask.tolist() == [True, True, False, False] and persons.sample(1).mask is not None


def test_areas_that_were_guessed_become_those_of_masks(tmp_path: Path) -> None:
    path = write(tmp_path, many(1))
    made = make_masks(path, tmp_path / "out.json", fill_boxes)
    (row,) = read_labels(tmp_path / "out.json").annotations
    assert row["area"] == 30 * 35 and "area_estimated" not in row
    assert check_labels(made.out or "").problems == ()


def test_sets_without_sizes(tmp_path: Path) -> None:
    """MPII's own layout, with photos of whatever size they are."""
    joints = [[10.0 + i, 12.0 + i] for i in range(16)]
    entry = {"image": "a.png", "joints": joints, "joints_vis": [1] * 16, "center": [20, 20], "scale": 0.15}
    (tmp_path / "mpii.json").write_text(json.dumps([entry]))
    draw(tmp_path / "photos" / "a.png", (70, 50))
    make_masks(tmp_path / "mpii.json", tmp_path / "out.json", fill_boxes, photos=tmp_path / "photos")
    labels = read_labels(tmp_path / "out.json")
    assert (labels.images[0]["width"], labels.images[0]["height"]) == (70, 50)
    assert labels.skeleton.name == "mpii-16" and not labels.knows_hidden
    # 30 px around (20, 20 + 2.25) - 1
    assert Masks.from_any([labels.annotations[0]["segmentation"]], (70, 50)).boxes.tolist() == [
        [4, 6, 34, 36]
    ]


def test_official_samples(tmp_path: Path) -> None:
    labels = read_labels(official("aic_native.json"))
    draw(tmp_path / labels.images[0]["file_name"], (900, 600))
    made = make_masks(official("aic_native.json"), tmp_path / "out.json", fill_boxes, photos=tmp_path)
    assert made.counts["made"] == 3
    assert read_labels(tmp_path / "out.json").table().area.tolist() == [213 * 544, 329 * 468, 252 * 592]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda i, b, k: [], "0 masks for 1 people"),
        (lambda i, b, k: [np.zeros((3, 3))], "expected"),
        (lambda i, b, k: [np.full(i.shape[:2], 7.5)], "threshold logits"),
        (lambda i, b, k: None, "masks"),
    ],
    ids=["too-few", "other-size", "logits", "nothing"],
)
def test_answers_that_do_not_fit(tmp_path: Path, answer: Any, words: str) -> None:
    path = write(tmp_path, many(1))
    with pytest.raises(InputError, match=f"image id 1: .*{words}"):
        make_masks(path, tmp_path / "out.json", answer)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = write(tmp_path, many(1))
    with pytest.raises(FileError, match="never written over"):
        make_masks(path, path, fill_boxes)
    other = tmp_path / "other.json"
    other.write_text("{}")
    with pytest.raises(FileError, match="not made by this"):
        make_masks(path, other, fill_boxes)
    out = tmp_path / "out.json"
    first = make_masks(path, out, fill_boxes, name="a")
    written = out.read_bytes()
    assert make_masks(path, out, lambda *a: pytest.fail("asked again"), name="a").counts == first.counts
    with pytest.raises(FileError, match="segmenter 'a', now 'b'"):
        make_masks(path, out, fill_boxes, name="b")
    path.write_text(path.read_text() + " ")
    with pytest.raises(FileError, match="labels "):
        make_masks(path, out, fill_boxes, name="a")
    assert out.read_bytes() == written


def test_a_stop_costs_a_group_at_most(tmp_path: Path) -> None:
    path, out = write(tmp_path, many()), tmp_path / "out.json"
    make_masks(path, tmp_path / "whole.json", fill_boxes)
    seen = 0

    def dies(*a: Any) -> list[Any]:
        nonlocal seen
        seen += 1
        if seen == 20:
            raise KeyboardInterrupt
        return fill_boxes(*a)

    with pytest.raises(KeyboardInterrupt):
        make_masks(path, out, dies)
    assert not out.exists()
    with pytest.raises(FileError, match="made of something else"):
        make_masks(path, out, fill_boxes, least_side=3)
    told: list[tuple[int, int]] = []
    seen = 0

    def counts(*a: Any) -> list[Any]:
        nonlocal seen
        seen += 1
        return fill_boxes(*a)

    make_masks(path, out, counts, progress=lambda done, total: told.append((done, total)))
    assert seen == 50 - masking.GROUP and told[-1] == (50, 50)
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_what_another_process_finished_stays(tmp_path: Path) -> None:
    path, out = write(tmp_path, many()), tmp_path / "out.json"
    whole: list[bytes] = []

    def overtaken(*a: Any) -> Any:
        if not whole:
            make_masks(path, out, fill_boxes)
            whole.append(out.read_bytes())
        return fill_boxes(*a)

    assert make_masks(path, out, overtaken).counts["made"] == 50
    assert whole == [out.read_bytes()]


def test_parts(tmp_path: Path) -> None:
    path, out = write(tmp_path, many()), tmp_path / "out.json"
    first = make_masks(path, out, fill_boxes, part=(1, 2))
    assert first.out is None and (first.done, first.groups) == (2, 4) and not out.exists()
    second = make_masks(path, out, fill_boxes, part=(2, 2))
    assert second.out == out and second.counts["made"] == 50
    make_masks(path, tmp_path / "whole.json", fill_boxes)
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()
    for part in ((0, 2), (3, 2)):
        with pytest.raises(ConfigError, match="i of n"):
            make_masks(path, tmp_path / "x.json", fill_boxes, part=part)


WORKER = """
import sys, time
sys.path.insert(0, {here!r})
from tests.data.test_masking import fill_boxes
from bodyloop.data.masking import make_masks

def slowly(*a):
    time.sleep({pause})
    return fill_boxes(*a)

make_masks({path!r}, {out!r}, slowly, name="mine")
"""


def start(path: Path, out: Path, pause: float) -> subprocess.Popen[bytes]:
    here = str(Path(__file__).resolve().parents[2])
    code = WORKER.format(here=here, path=str(path), out=str(out), pause=pause)
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})


@pytest.mark.slow
def test_killed_processes_and_such_at_the_same_time(tmp_path: Path) -> None:
    path, out = write(tmp_path, many()), tmp_path / "out.json"
    victim = start(path, out, 0.05)
    parts = tmp_path / "out.json.parts"
    limit = time.monotonic() + 60
    while not (parts / "0.json").is_file() and time.monotonic() < limit:
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait(60) == -signal.SIGKILL and (parts / "0.json").is_file() and not out.exists()
    both = [start(path, out, 0.0) for _ in range(2)]  # the same work twice, at once
    assert [p.wait(120) for p in both] == [0, 0]
    make_masks(path, tmp_path / "whole.json", fill_boxes, name="mine")
    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()


def test_who_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine_for_masks.py").write_text(
        "def segment(image, boxes, keypoints): return []\nnumber = 3\n"
    )
    assert list(segmenter_named("mine_for_masks:segment")(np.zeros((2, 2, 3), np.uint8), None, None)) == []  # type: ignore[arg-type]
    for name in ("mine_for_masks", ":f", "nowhere:f", "mine_for_masks:other", "mine_for_masks:number"):
        with pytest.raises(ConfigError, match="segmenter"):
            segmenter_named(name)
