"""Synthetic crowds: what is in the files is true to the pixel, and the seed alone decides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.data.blending import blend, cut_piece, in_light_of, soft
from bodyloop.data.crowds import LEAST_SEEN, Figure, donors_of, scenes_of
from bodyloop.data.crowds_folder import build_crowds
from bodyloop.data.formats import read_labels
from bodyloop.errors import ConfigError, FileError, InputError
from bodyloop.eval.photos import PhotoSet
from bodyloop.geometry import boxes_from_xywh, iou
from bodyloop.masks import Masks
from tests.cli.conftest import call
from tests.data.figures import SIZE, write_figures


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A set of crowds and its labels."""
    root = tmp_path_factory.mktemp("crowds")
    write_figures(root / "data")
    done = build_crowds(root / "data", root / "out", seed=3, each=2, workers=1)
    document = json.loads(done.labels.read_text())
    assert (done.images, done.people) == (len(document["images"]), len(document["annotations"]))
    assert done.images >= 6 and done.pasted == done.people - 2 * done.images >= done.images
    return root, document


def people_of(document: dict[str, Any], image: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    rows = [a for a in document["annotations"] if a["image_id"] == image]
    return rows, Masks.from_any([a["segmentation"] for a in rows], SIZE).bitmaps()


def test_labels_are_true(made: tuple[Path, dict[str, Any]]) -> None:
    _, document = made
    covered = 0
    for image in document["images"]:
        rows, masks = people_of(document, image["id"])
        assert masks.sum(axis=0).max() == 1  # every pixel is somebody's, or nobody's
        for row, mask in zip(rows, masks, strict=True):
            points = np.array(row["keypoints"]).reshape(-1, 3)
            assert row["num_keypoints"] == (points[:, 2] > 0).sum()
            assert LEAST_SEEN - 0.01 < row["seen"] <= 1
            if row["seen"] == 1 and "pasted" not in row:
                assert row["area"] == 2900 and isinstance(row["segmentation"], list)  # as it was
                continue
            y, x = np.nonzero(mask)
            assert (
                row["bbox"] == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1] and row["area"] == mask.sum()
            )
            others = masks.any(axis=0) & ~mask
            for px, py, flag in points[points[:, 2] > 0]:
                hidden = others[min(round(py), SIZE[1] - 1), min(round(px), SIZE[0] - 1)]
                assert flag == (1 if hidden else 2)
                covered += int(hidden)
        boxes = boxes_from_xywh([a["bbox"] for a in rows])
        between = iou(boxes, boxes) - np.eye(len(boxes))
        pasted = [i for i, a in enumerate(rows) if "pasted" in a]
        assert (
            between[pasted].max() >= 0.25 and max(image["overlaps"]) <= 0.7 and min(image["overlaps"]) >= 0.3
        )
        assert len(pasted) == len(image["overlaps"])
    assert covered > 20


def test_photos_show_what_the_labels_say(made: tuple[Path, dict[str, Any]]) -> None:
    """The figures of a photo have one colour, so that a pasted one's says where it is from."""
    root, document = made
    photos = PhotoSet.open(root / "out" / "dev.json")
    for image in document["images"]:
        pixels = photos.photo(image).pixels.astype(int)
        rows, masks = people_of(document, image["id"])
        for row, mask in zip(rows, masks, strict=True):
            if "pasted" in row:
                assert row["from_image"] != image["base_id"]
                red, green, _ = pixels[mask].mean(axis=0)
                assert red > 130 and abs(green - red * (60 + 30 * (row["from_image"] - 7)) / 200) < 45


def test_the_seed_alone_decides(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, _ = made
    again = build_crowds(root / "data" / "dev.json", tmp_path / "a", seed=3, each=2, workers=1)
    for file in (root / "out").rglob("*"):
        if file.is_file():
            assert (tmp_path / "a" / file.relative_to(root / "out")).read_bytes() == file.read_bytes(), file
    other = build_crowds(root / "data", tmp_path / "b", seed=4, workers=1)
    assert other.labels.read_bytes() != again.labels.read_bytes()
    resumed = next((tmp_path / "a" / "images").iterdir())
    resumed.unlink()
    build_crowds(root / "data", tmp_path / "a", seed=3, each=2, workers=1)
    assert resumed.is_file()
    with pytest.raises(FileError, match=r"holds another set.*seed 3 there, 4 here"):
        build_crowds(root / "data", tmp_path / "a", seed=4, each=2, workers=1)


@pytest.mark.slow
def test_workers_change_nothing(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    root, _ = made
    build_crowds(root / "data", tmp_path / "a", seed=3, each=2, workers=2)
    for file in (root / "out").rglob("*"):
        if file.is_file():
            assert (tmp_path / "a" / file.relative_to(root / "out")).read_bytes() == file.read_bytes(), file


def test_who_is_taken(tmp_path: Path) -> None:
    path = write_figures(tmp_path, photos=3)
    document = json.loads(path.read_text())
    first, second, third, fourth, fifth, sixth = document["annotations"]
    second["bbox"][0] = SIZE[0] - second["bbox"][2]  # at the right side: cut off
    third["segmentation"] = [*third["segmentation"], *third["segmentation"]]  # in two pieces
    for k in (13, 14):
        fourth["keypoints"][3 * k + 1] = fourth["keypoints"][
            3 * 11 + 1
        ]  # sits: the knees as high as the hips
    fifth["keypoints"][3 * 5 + 2] = 0  # a shoulder that is not labelled
    path.write_text(json.dumps(document))
    labels = read_labels(path)
    assert [d.row["id"] for d in donors_of(labels)] == [first["id"], sixth["id"]]
    assert [i["id"] for i, _ in scenes_of(labels)] == [7, 8, 9]
    document["images"][0]["complete"] = {"boxes": True, "masks": False}
    sixth["iscrowd"] = 1
    path.write_text(json.dumps(document))
    assert [i["id"] for i, _ in scenes_of(read_labels(path))] == [8]


def test_what_cannot_be(tmp_path: Path) -> None:
    path = write_figures(tmp_path, photos=2)
    with pytest.raises(ConfigError, match="overlap"):
        build_crowds(path, tmp_path / "out", overlap=(0.7, 0.3))
    document = json.loads(path.read_text())
    for a in document["annotations"]:
        a["segmentation"] = []
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="0 people that can be cut out and 0 photos"):
        build_crowds(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_covered_by_somebody() -> None:
    mask = np.zeros((6, 8), bool)
    mask[1:5, 1:6] = True
    points = np.array([[2, 2, 2], [5, 4, 2], [5, 1, 1], [0, 0, 0]], float)
    before = Figure({}, mask, 20, points, 5.0)
    cover = np.zeros((6, 8), bool)
    cover[:, 4:] = True
    after = before.behind(cover)
    assert after.mask.sum() == 12 and after.box.tolist() == [1, 1, 4, 5] and after.whole == 20
    assert after.points[:, 2].tolist() == [2, 1, 1, 0] and points[:, 2].tolist() == [2, 2, 1, 0]
    assert before.behind(~mask) is before
    assert np.isnan(before.behind(mask).box).all()


def test_cutting_and_setting_in() -> None:
    """A red square on blue: the cut-out has no blue, and set on green it brings none."""
    photo = np.full((40, 40, 3), (20, 20, 200), np.uint8)
    photo[10:30, 12:28] = (200, 30, 30)
    label = np.zeros((40, 40), bool)
    label[9:31, 11:29] = True  # the labelled outline is a pixel too wide
    piece = cut_piece(photo, label)
    assert piece.corner == (3, 1) and piece.mask.shape == (38, 34)
    assert (piece.pixels == (200, 30, 30)).all()
    edge = np.zeros((40, 40), bool)
    edge[1:39, 3:37] = piece.mask
    assert (edge[11:29, 13:27]).all() and edge.sum() <= 22 * 18
    ground = np.full((38, 34, 3), (20, 200, 20), np.uint8)
    cover = soft(piece.mask)
    assert cover[19, 17] == 1 and cover[0, 0] == 0
    done = blend(ground, piece.pixels, cover)
    assert (done[0] == ground[0]).all() and (done[19, 17] == (200, 30, 30)).all()
    assert done[..., 2].max() <= 30
    grey = in_light_of(piece, np.full((10, 10, 3), 90, np.uint8))
    assert np.ptp(grey[10, 10].astype(int)) < np.ptp(piece.pixels[10, 10].astype(int)) / 2
    with pytest.raises(InputError, match="nobody to cut out"):
        cut_piece(photo, np.zeros((40, 40), bool))


def test_command(tmp_path: Path) -> None:
    write_figures(tmp_path / "data", photos=2)
    done = call(
        "data", "crowds", "--data", tmp_path / "data", "--out", tmp_path / "out", "--workers", 1, "--json"
    )
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["images"] == 2 and told["labels"] == str(tmp_path / "out" / "dev.json")
    words = call("data", "crowds", "--data", tmp_path / "data", "--out", tmp_path / "out", "--workers", 1)
    assert "on 2 photos" in words.stdout
