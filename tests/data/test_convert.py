"""Labels in other formats: there and back, and what could not be held said."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bodyloop.data.convert import TARGETS, convert
from bodyloop.data.formats import read_labels
from bodyloop.data.labels import Labels
from bodyloop.data.persons import PersonSet
from bodyloop.errors import ConfigError, FileError, InputError
from bodyloop.masks import Masks
from bodyloop.skeletons import COCO
from tests.data.sets import HEIGHT, SQUARE, WIDTH, official, pack, people, upright, write

OUT = {
    "coco": "out.json",
    "yolo-pose": "yolo",
    "cvat": "out.xml",
    "label-studio": "out.json",
    "openpose": "op",
}


def modest() -> dict[str, Any]:
    """Labels that every format but OpenPose holds: whole photos, no crowd, ids from 1, estimated areas."""
    document = people()
    rows = [document["annotations"][i] for i in (0, 2)]
    for n, row in enumerate(rows):
        row |= {
            "id": n + 1,
            "image_id": n + 1,
            "area": 0.53 * row["bbox"][2] * row["bbox"][3],
            "area_estimated": 1,
        }
        row.pop("segmentation", None)
    images = [{**i, "id": n + 1} for n, i in enumerate(document["images"])]
    return {**document, "images": images, "annotations": rows}


def there(folder: Path, document: dict[str, Any], to: str, **how: Any) -> tuple[dict[str, int], Labels]:
    """What is lost, and what is read of the converted file."""
    path = write(folder / "in", document)
    done = convert(path, folder / OUT[to], to, copy_photos=True, **how)
    return dict(done.lost), read_labels(folder / OUT[to])


@pytest.mark.parametrize("to", [t for t in TARGETS if t != "openpose"])
def test_what_is_modest_comes_back_whole(tmp_path: Path, to: str) -> None:
    document = modest()
    lost, labels = there(tmp_path, document, to)
    assert lost == {}
    table, before = labels.table(), read_labels(tmp_path / "in" / "train.json").table()
    np.testing.assert_allclose(table.boxes, before.boxes, atol=1e-6)
    np.testing.assert_allclose(table.keypoints, before.keypoints, atol=1e-6)
    np.testing.assert_allclose(table.area, before.area, atol=1e-4)
    assert table.image.tolist() == [0, 1] and labels.skeleton is COCO
    assert labels.document["categories"][0]["name"] == "person"
    names = [Path(i["file_name"]).name for i in labels.images]
    assert names == ["3.png", "5.png"]
    assert [(i["width"], i["height"]) for i in labels.images] == [(WIDTH, HEIGHT)] * 2


@pytest.mark.parametrize("to", TARGETS)
def test_what_was_converted_can_be_trained_on(tmp_path: Path, to: str) -> None:
    there(tmp_path, modest(), to)
    persons = PersonSet(tmp_path / OUT[to], COCO)
    assert len(persons) == 2
    source = PersonSet(tmp_path / "in" / "train.json", COCO)
    for i in range(2):
        np.testing.assert_array_equal(persons.photo(i), source.photo(i))
        np.testing.assert_allclose(persons.keypoints[i, :, :2], source.keypoints[i, :, :2], atol=1e-6)


def test_coco_holds_everything(tmp_path: Path) -> None:
    document = people(info={"year": 2020}, licenses=[{"id": 1}])
    document["annotations"][0]["mood"] = "good"
    before = copy.deepcopy(document)
    lost, labels = there(tmp_path, document, "coco")
    assert lost == {} and labels.document == before
    # what COCO's tools ask for is filled in, and marked
    for row in document["annotations"]:
        del row["area"], row["iscrowd"], row["num_keypoints"]
    _, filled = there(tmp_path / "b", document, "coco")
    first = filled.annotations[0]
    assert (first["area"], first["area_estimated"], first["iscrowd"], first["num_keypoints"]) == (
        0.53 * 720,
        1,
        0,
        16,
    )


LOST: dict[str, dict[str, int]] = {
    "yolo-pose": {"masks": 2, "crowd regions, which would be taken for people": 1},
    "cvat": {"marks of crowds": 1},
    "label-studio": {"marks of crowds": 1},
    "openpose": {
        "masks": 2, "boxes": 3, "sizes of images": 2, "flags 1 (hidden), written as found": 1,
        "people without keypoints": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("to", LOST)
def test_what_is_lost_is_counted(tmp_path: Path, to: str) -> None:
    document = people(info={"year": 2020})
    document["annotations"][0]["mood"] = "good"
    document["images"][0]["licence"] = 4
    lost, _ = there(tmp_path, document, to)
    assert lost == LOST[to] | {
        "areas": 3, "ids of people other than 1, 2, ...": 3, "ids of images other than 1, 2, ...": 2,
        "fields 'mood' of people": 1, "fields 'licence' of images": 1, "'info' of the file": 1,
    }  # fmt: skip


@pytest.mark.parametrize("to", ["cvat", "label-studio"])
def test_outlines_and_masks(tmp_path: Path, to: str) -> None:
    document = modest()
    size = (WIDTH, HEIGHT)
    bitmap = np.zeros((HEIGHT, WIDTH), bool)
    bitmap[6:30, 31:50] = True
    bitmap[10:20, 35:40] = False  # a hole
    document["annotations"][0]["segmentation"] = [*SQUARE, [1.5, 1.0, 5.0, 1.0, 5.0, 9.25]]
    document["annotations"][1]["segmentation"] = Masks.from_bitmaps([bitmap]).rle(0)
    lost, labels = there(tmp_path, document, to)
    assert labels.annotations[0]["segmentation"] == [*SQUARE, [1.5, 1.0, 5.0, 1.0, 5.0, 9.25]]
    back = Masks.from_any([labels.annotations[1]["segmentation"]], size).bitmap(0)
    if to == "cvat":
        assert lost == {} and np.array_equal(back, bitmap)
    else:
        assert lost == {"masks written as their outlines, without holes": 1}
        assert back[15, 37] and back.sum() > 0.85 * (24 * 19)


def test_flag_3_and_what_lies_outside(tmp_path: Path) -> None:
    document = modest()
    row = document["annotations"][0]
    row["keypoints"][0:6] = [70.0, 10.0, 3, -3.0, 12.0, 1]  # far out, and just out
    row["bbox"] = [-4.0, 8.0, 30.0, 24.0]
    row["num_keypoints"] = 17
    lost, labels = there(tmp_path / "y", document, "yolo-pose")
    assert lost == {"keypoints outside their photo": 2, "boxes cut at the photo's border": 1}
    assert labels.table().keypoints[0, :2].tolist() == [[0, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(labels.table().boxes[0], [0, 8, 26, 32], atol=1e-6)
    lost, labels = there(tmp_path / "c", document, "cvat")
    assert lost == {"flags 3 (outside the window), written as hidden": 1}
    assert labels.table().keypoints[0, :2].tolist() == [[70, 10, 1], [-3, 12, 1]]
    lost, labels = there(tmp_path / "l", document, "label-studio")
    assert lost == {}
    np.testing.assert_allclose(labels.table().keypoints[0, :2], [[70, 10, 3], [-3, 12, 1]])
    lost, labels = there(tmp_path / "o", document, "openpose")
    assert lost["flags 3 (outside the window), written as found"] == 1


def test_openpose_keeps_its_own_keypoints_only(tmp_path: Path) -> None:
    document = modest()
    document["categories"][0]["keypoints"] = ["nose", "tail", "Right Hip"]
    for row in document["annotations"]:
        row |= {"keypoints": [3, 4, 2, 5, 6, 2, 7, 8, 1], "num_keypoints": 3}
    lost, labels = there(tmp_path, document, "openpose")
    assert lost["keypoints tail"] == 2 and lost["flags 1 (hidden), written as found"] == 2
    k = labels.table().keypoints[0]
    assert k[labels.skeleton.index("nose")].tolist() == [3, 4, 2]
    assert k[labels.skeleton.index("right_hip")].tolist() == [7, 8, 2]
    assert (k[:, 2] > 0).sum() == 2


def test_openpose_holds_whole_bodies(tmp_path: Path) -> None:
    path = official("coco_wholebody.json")
    convert(path, tmp_path / "op", "openpose")
    labels = read_labels(tmp_path / "op")
    before = read_labels(path)
    k, old = labels.table().keypoints[0], before.table().keypoints[0]
    assert len(labels.skeleton) == 25 + 70 + 42
    for name in ("chin", "right_pinky_finger4", "left_heel", "nose", "right_hand_root"):
        was = old[before.skeleton.index(name)]
        assert k[labels.skeleton.index(name)].tolist() == [*was[:2], 2.0 * (was[2] > 0)]


NAMES = ["crowdpose", "aic_native", "ochuman_native", "coco_keypoints", "mpii_json", "halpe_coco_style"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("to", ["coco", "cvat", "label-studio"])
def test_official_samples_there_and_back(tmp_path: Path, name: str, to: str) -> None:
    labels = read_labels(official(f"{name}.json"))
    for image in labels.images:
        image.setdefault("width", 1280)
        image.setdefault("height", 720)
    done = convert(labels, tmp_path / OUT[to], to)
    back = read_labels(done.out)
    table, before = back.table(), labels.table()
    shown = before.keypoints * (before.keypoints[..., 2:] > 0)
    order = [back.skeleton.keypoints.index(n) for n in labels.skeleton.keypoints]
    np.testing.assert_allclose((table.keypoints * (table.keypoints[..., 2:] > 0))[:, order], shown, atol=1e-6)
    np.testing.assert_allclose(table.boxes, before.boxes, atol=1e-6)
    assert back.skeleton is labels.skeleton
    if to == "coco":
        np.testing.assert_allclose(table.area, before.area)
        assert back.knows_hidden == labels.knows_hidden and done.lost == {}


@pytest.mark.parametrize("to", ["cvat", "label-studio", "yolo-pose"])
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_points_come_back(tmp_path: Path, to: str, data: st.DataObject) -> None:
    document = modest()
    number = st.floats(0, 39, allow_nan=False, width=32)
    for row in document["annotations"]:
        flags = data.draw(st.lists(st.integers(0, 2), min_size=17, max_size=17))
        points = [(data.draw(number), data.draw(number), f) for f in flags]
        row["keypoints"] = [float(v) for p in points for v in (p if p[2] else (0, 0, 0))]
        row["num_keypoints"] = sum(f > 0 for f in flags)
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    if to == "label-studio" and not any(r["num_keypoints"] for r in document["annotations"]):
        return  # there is nothing that says which keypoints there are
    lost, labels = there(folder, document, to)
    assert lost == {}
    was = read_labels(folder / "in" / "train.json").table().keypoints
    np.testing.assert_allclose(labels.table().keypoints, was, atol=1e-5)


# ------------------------------------------------------------------ the call


def test_sizes_are_read_from_photos(tmp_path: Path) -> None:
    document = modest()
    path = write(tmp_path / "in", document)
    for image in document["images"]:
        del image["width"], image["height"]
    path.write_text(json.dumps(document))
    tar = pack(tmp_path / "p.tar", sorted((tmp_path / "in" / "images").iterdir()))
    for photo in (tmp_path / "in" / "images").iterdir():
        photo.unlink()
    with pytest.raises(InputError, match="image id 1 has no size"):
        convert(path, tmp_path / "a.xml", "cvat")
    assert not (tmp_path / "a.xml").exists()
    assert convert(path, tmp_path / "a.xml", "cvat", photos=tar).lost == {}
    assert read_labels(tmp_path / "a.xml").images[1]["width"] == WIDTH
    done = convert(path, tmp_path / "b.json", "coco")
    assert done.lost == {"sizes of images (their photos were not found)": 2}


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = write(tmp_path / "in", modest())
    before = path.read_bytes()
    for to in TARGETS:
        with pytest.raises(FileError, match="is there already"):
            convert(path, path, to)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(FileError, match="name a new folder"):
        convert(path, tmp_path / "full", "yolo-pose")
    with pytest.raises(ConfigError, match="known: coco, yolo-pose"):
        convert(path, tmp_path / "a", "voc")
    assert path.read_bytes() == before


def test_names_that_would_be_the_same_file(tmp_path: Path) -> None:
    document = modest()
    for image, name in zip(document["images"], ("a.png", "a.jpg"), strict=True):
        image["file_name"] = name
    path = write(tmp_path / "in", document)
    for to in ("yolo-pose", "openpose"):
        with pytest.raises(InputError, match="two images would"):
            convert(path, tmp_path / OUT[to], to)
        assert not list((tmp_path / OUT[to]).rglob("*.*"))


@pytest.mark.parametrize("to", TARGETS)
def test_malformed_labels_write_nothing(tmp_path: Path, to: str) -> None:
    document = modest()
    document["annotations"][1]["keypoints"][4] = None
    path = write(tmp_path / "in", document)
    with pytest.raises(InputError, match=re.escape(f"{path}: annotation id 2: field 'keypoints'")):
        convert(path, tmp_path / OUT[to], to)
    assert not (tmp_path / OUT[to]).exists()
    document["annotations"][1]["keypoints"] = upright()
    document["annotations"][1]["segmentation"] = {"size": [1, 1], "counts": "x"}
    path = write(tmp_path / "in", document)
    if to in ("cvat", "label-studio"):
        with pytest.raises(InputError, match="annotation id 2: segmentation"):
            convert(path, tmp_path / OUT[to], to)
        assert not (tmp_path / OUT[to]).exists()
