"""A sound set passes; every single thing that can be wrong is found, named, and nothing else is."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from bodyloop.data import cropcoco
from bodyloop.errors import FileError, InputError
from bodyloop.eval.cropcoco_check import LISTED, check_set

IMAGE = {"id": 7, "width": 40, "height": 50, "file_name": "7.jpg"}
CROP = {"x": 50, "y": 10, "width": 40, "height": 50, "full_width": 200, "full_height": 100}
# Box 10..40 x 10..50 is 3:4; its window at padding 1.25 is 6.25..43.75 x 5..55, at padding 1 the box.
POINTS = [20, 20, 2, 42.5, 30, 1, 45, 30, 3, 0, 0, 0, 5, 30, 3]
PADS = [1, 1 + 2 * 2.5 / 30, 1 + 2 * 5 / 30, -1, 1 + 2 * 5 / 30]


def sound() -> dict[str, Any]:
    person = {
        "id": 31, "image_id": 7, "category_id": 1, "iscrowd": 0, "bbox": [10, 10, 30, 40], "area": 900.0,
        "bbox_amodal": [10, 10, 40, 60], "num_keypoints": 4, "keypoints": list(POINTS), "pad_to_contain": list(PADS),
    }  # fmt: skip
    return {
        "images": [IMAGE | {"crop": dict(CROP)}],
        "annotations": [person],
        "categories": [{"id": 1, "name": "person", "keypoints": ["nose", "eye", "ear", "hip", "knee"]}],
    }


def write(document: object, folder: Path, size: tuple[int, int] | None = (40, 50)) -> Path:
    file = folder / "annotations" / "person_keypoints_val.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    if size is not None:
        (folder / "val").mkdir(exist_ok=True)
        PIL.Image.new("RGB", size).save(folder / "val" / "7.jpg")
    return file


def test_a_sound_set(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    report = check_set(write(sound(), tmp_path), progress=lambda done, total: told.append((done, total)))
    assert report.ok and told == [(1, 1)]
    assert {c.name: (c.looked_at, c.wrong, c.skipped) for c in report.checks} == {
        "flag 3": (2, 0, ""), "flags 1, 2": (2, 0, ""), "flag 2": (1, 0, ""), "flag 0": (1, 0, ""),
        "pad_to_contain": (5, 0, ""), "num_keypoints": (1, 0, ""), "bbox": (1, 0, ""), "bbox_amodal": (1, 0, ""),
        "crop": (1, 0, ""), "photos": (1, 0, ""),
    }  # fmt: skip
    assert report.table().endswith("all is right")
    assert report.to_json()["ok"] is True and report.counts["flag 3"] == 2


def set_point(k: int, *values: float) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["annotations"][0]["keypoints"][3 * k : 3 * k + 3] = values

    return change


def set_field(key: str, value: object, where: str = "annotations") -> Callable[[dict[str, Any]], None]:
    return lambda document: document[where][0].__setitem__(key, value)


def set_pad(k: int, value: float) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["annotations"][0]["pad_to_contain"].__setitem__(k, value)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], None], set[tuple[str, str | None, str]]]] = {
    "a 3 inside": (
        set_point(2, 43.5, 30, 3),
        {("flag 3", "ear", "flag 3, but 0.25 px inside"), ("pad_to_contain", "ear", "1.23333 is needed")},
    ),
    "a 3 that should be 1": (
        set_point(1, 42.5, 30, 3),
        {("flag 3", "eye", "flag 3, but 1.25 px inside"), ("pad_to_contain", "eye", "1.16667, flag 3")},
    ),
    "a 1 outside": (
        set_point(4, 5, 30, 1),
        {("flags 1, 2", "knee", "1, but 1.25 px outside the window"), ("pad_to_contain", "knee", "flag 1; 1.33333")},
    ),
    "a 2 outside of all": (
        set_point(2, 45, 30, 2),
        {
            ("flags 1, 2", "ear", "flag 2, but 1.25 px outside the window"),
            ("flag 2", "ear", "flag 2 at 45, 30, outside the picture of 40 x 50 px"),
            ("pad_to_contain", "ear", "flag 2"),
        },
    ),
    "a 2 beyond the picture": (set_point(1, 42.5, 30, 2), {("flag 2", "eye", "flag 2 at 42.5, 30")}),
    "a 2 on the first column beyond": (
        set_point(1, 40, 30, 2),
        {("flag 2", "eye", "flag 2 at 40, 30"), ("pad_to_contain", "eye", "1 is needed")},
    ),
    "an unlabelled place": (set_point(3, 4, 0, 0), {("flag 0", "hip", "unlabelled, but at 4, 0")}),
    "a pad": (set_pad(0, 1.1), {("pad_to_contain", "nose", "pad_to_contain 1.1, flag 2; 1 is needed")}),
    "a pad of nothing": (set_pad(3, 1), {("pad_to_contain", "hip", "-1 is needed")}),
    "a count": (set_field("num_keypoints", 5), {("num_keypoints", None, "num_keypoints 5, but 4 flags")}),
    "an amodal box that is too small": (
        set_field("bbox_amodal", [10, 10, 29, 40]),
        {("bbox_amodal", None, "does not hold bbox [10")},
    ),
    "an amodal box that is none": (set_field("bbox_amodal", "big"), {("bbox_amodal", None, "'big'")}),
    "a crop": (set_field("crop", CROP | {"x": 170}, "images"), {("crop", None, "no rectangle")}),
    "a crop of another size": (set_field("crop", CROP | {"width": 41}, "images"), {("crop", None, "no rectangle")}),
    "a crop of words": (set_field("crop", CROP | {"x": "left"}, "images"), {("crop", None, "no rectangle")}),
    "a photo that is not there": (
        set_field("file_name", "8.jpg", "images"),
        {("photos", None, "8.jpg")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, name: str) -> None:
    change, expected = WRONG[name]
    document = sound()
    change(document)
    file = write(document, tmp_path)
    report = check_set(file)
    found = {(p.check, p.keypoint, p.what) for p in report.problems}
    assert len(found) == len(expected) and not report.ok
    for check, keypoint, words in expected:
        assert any(f[:2] == (check, keypoint) and words in f[2] for f in found), found
    text = report.table()
    for p in report.problems:
        image = p.check in ("crop", "photos")
        who = "image id 7" if image else "annotation id 31"
        assert f"{file}: {who}{f', {p.keypoint}' if p.keypoint else ''}: {p.what}" in text
    assert text.endswith(f"{len(expected)} wrong")
    wrong = {c.name: c.wrong for c in report.checks if c.wrong}
    assert sum(wrong.values()) == len(expected) and wrong.keys() == {e[0] for e in expected}


def test_a_box_beyond_the_picture(tmp_path: Path) -> None:
    document = sound()
    document["images"][0] |= {"width": 30}  # the crop and the photo's size are wrong, too
    report = check_set(write(document, tmp_path))
    assert {p.check for p in report.problems} == {"bbox", "crop", "photos"}
    document["images"][0] = IMAGE | {"width": 39.995}  # COCO rounds boxes to hundredths
    report = check_set(write(document, tmp_path))
    assert {p.check for p in report.problems} == {"photos"}


def test_photos_of_another_size_and_broken_ones(tmp_path: Path) -> None:
    (p,) = check_set(write(sound(), tmp_path, (50, 40))).problems
    assert p.check == "photos" and "(50, 40) px" in p.what and "(40, 50)" in p.what
    (tmp_path / "val" / "7.jpg").write_bytes(b"no picture at all")
    (p,) = check_set(write(sound(), tmp_path, None)).problems
    assert p.check == "photos" and "not a picture" in p.what


def test_the_published_set_lacks_some_fields(tmp_path: Path) -> None:
    """No record of crops, no amodal boxes; 3s whose place is not told; the photos elsewhere."""
    document = sound()
    (a,) = document["annotations"]
    del a["bbox_amodal"], a["pad_to_contain"], a["num_keypoints"], document["images"][0]["crop"]
    a["keypoints"][6:8] = 0, 0
    report = check_set(write(document, tmp_path, None))
    assert report.ok
    outcomes = {c.name: c.outcome for c in report.checks}
    assert outcomes["flag 3"] == "all 1 right (1 at 0, 0 left out: their place is not told)"
    assert outcomes["pad_to_contain"] == outcomes["bbox_amodal"] == "skipped: no annotation has it"
    assert outcomes["crop"] == "skipped: no image has it"
    assert outcomes["num_keypoints"] == "skipped: there is nothing of the kind"
    assert outcomes["photos"].startswith("skipped: no folder ") and "--images" in outcomes["photos"]
    with pytest.raises(FileError, match="no such folder"):
        check_set(tmp_path / "annotations" / "person_keypoints_val.json", tmp_path / "nowhere")


def test_whose_padding(tmp_path: Path) -> None:
    document = sound()
    document["annotations"][0]["keypoints"][4 * 3 + 2] = 1  # 5, 30 lies within a padding of 1.34
    document["annotations"][0]["keypoints"][2 * 3 + 2] = 1
    file = write(document, tmp_path)
    assert not check_set(file).ok and check_set(file, padding=1.34).ok
    document["info"] = {"cropcoco": {"padding": 1.34}}
    file = write(document, tmp_path)
    assert check_set(file).ok and check_set(file).padding == 1.34
    assert not check_set(file, padding=1.25).ok
    document["info"] = {"cropcoco": "yes"}
    assert check_set(write(document, tmp_path)).padding == 1.25


def test_the_first_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    document = sound()
    (a,) = document["annotations"]
    a["num_keypoints"] = 0
    document["annotations"] = [copy.deepcopy(a) | {"id": i} for i in range(LISTED + 5)]
    report = check_set(write(document, tmp_path))
    lines = report.table().splitlines()
    assert sum(": annotation id" in line for line in lines) == LISTED
    assert lines[-2:] == ["and 5 more", "25 wrong"]
    assert len(report.to_json()["problems"]) == 25  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field("keypoints", POINTS[:-1]), r"val\.json: annotation id 31: field 'keypoints'"),
        (set_point(0, 20, 20, 4), r"val\.json: annotation id 31: field 'keypoints': flags must be"),
        (set_field("pad_to_contain", [1, 2]), r"val\.json: annotation id 31: field 'pad_to_contain'"),
        (set_field("image_id", 8), r"val\.json: annotation id 31: field 'image_id'"),
        (set_field("keypoints", [], "categories"), r"val\.json: no category has keypoints"),
    ],
)
def test_malformed_files(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    document = sound()
    change(document)
    with pytest.raises(InputError, match=message):
        check_set(write(document, tmp_path))


def test_twins_and_whole_sets_pass(tmp_path: Path) -> None:
    document = sound()
    document["info"] = {"cropcoco": {"seed": 0, "padding": 1.25}}
    twin = cropcoco.coco_twin(document)
    report = check_set(write(twin, tmp_path))
    assert report.ok and report.counts["flag 3"] == 0 and report.counts["flag 0"] == 3
    empty = document | {"annotations": []}
    assert check_set(write(empty, tmp_path)).ok
