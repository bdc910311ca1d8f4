"""Every rule of the check: silent on sound labels, and naming the annotation where something is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodyloop.data.check import LISTED, RULES, CheckReport, check_labels
from bodyloop.data.formats import read_labels
from bodyloop.data.suspects import swapped_sides
from bodyloop.errors import FileError
from bodyloop.skeletons import COCO
from tests.data.sets import HEIGHT, WIDTH, draw, official, people, upright, write


def found(report: CheckReport) -> dict[str, list[tuple[str, str]]]:
    out: dict[str, list[tuple[str, str]]] = {}
    for p in report.problems:
        out.setdefault(p.rule, []).append((p.where, p.what))
    return out


def test_sound_labels(tmp_path: Path) -> None:
    report = check_labels(write(tmp_path, people()))
    assert report.problems == () and report.ok
    assert report.counts == {
        "images": 2, "of them without people": 0, "people": 2, "with keypoints": 2, "with a mask": 2,
        "crowd regions": 1,
    }  # fmt: skip
    assert report.keypoints["left_eye"] == (2, 0, 1, 0)  # the crowd's, and the first person's
    assert report.keypoints["right_ankle"] == (1, 1, 1, 0)
    assert report.text().endswith("all is right")
    assert report.to_json()["ok"] is True and json.dumps(report.to_json())


def in_row(number: int, **fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda d: d["annotations"][number].update(**fields)


def point(number: int, name: str, *values: float) -> Callable[[dict[str, Any]], object]:
    at = 3 * COCO.index(name)
    return lambda d: d["annotations"][number]["keypoints"].__setitem__(slice(at, at + 3), values)


def again(d: dict[str, Any]) -> None:
    d["annotations"].append({**d["annotations"][2], "id": 10, "bbox": [30.5, 5.0, 29.5, 35.0]})


def eyes_exchanged(d: dict[str, Any]) -> None:
    k = d["annotations"][2]["keypoints"]
    k[3:6], k[6:9] = k[6:9], k[3:6]


def hips_exchanged(d: dict[str, Any]) -> None:
    k = d["annotations"][2]["keypoints"]
    k[33:36], k[36:39] = k[36:39], k[33:36]


NAN = float("nan")
ROWS: dict[str, tuple[str, Callable[[dict[str, Any]], object], str, str]] = {
    # rule, what is done, where it is said to be, words of what it is
    "image-twice": ("image", lambda d: d["images"].append(dict(d["images"][0])), "image id 3", "2 images"),
    "image-id": ("image", lambda d: d["images"].append({"id": "x", "file_name": "4.png"}), "image id 'x'", "no"),
    "image-name": ("image", lambda d: d["images"][1].pop("file_name"), "image id 5", "no file_name"),
    "image-out": ("image", lambda d: d["images"][1].update(file_name="../5.png"), "image id 5", "below its"),
    "photo-missing": ("photo-missing", lambda d: d["images"][1].update(file_name="6.png"), "image id 5", "6.png"),
    "photo-size": ("photo-size", lambda d: d["images"][1].update(width=61), "image id 5", "60 x 40, labelled 61"),
    "photo-turned": (
        "photo-size", lambda d: d["images"][0].update(width=40, height=60), "image id 3", "the photo turned",
    ),
    "id-twice": ("annotation", in_row(1, id=7), "annotation id 7", "2 annotations"),
    "id-none": ("annotation", lambda d: d["annotations"][1].pop("id"), "annotation number 1", "None"),
    "area-text": ("annotation", in_row(0, area="big"), "annotation id 7", "area is 'big'"),
    "unknown-image": ("unknown", in_row(2, image_id=4), "annotation id 9", "image_id 4"),
    "unknown-category": ("unknown", in_row(2, category_id=4), "annotation id 9", "category_id 4"),
    "keypoints-few": ("keypoints", in_row(2, keypoints=[1, 2, 2]), "annotation id 9", "3 numbers"),
    "keypoints-nan": ("keypoints", point(2, "nose", NAN, 1, 2), "annotation id 9", "not finite"),
    "keypoints-text": ("keypoints", point(2, "nose", "1", 1, 2), "annotation id 9", "not finite"),  # type: ignore[arg-type]
    "flags": ("flags", point(2, "nose", 45, 13, 0.7), "annotation id 9", "0.7"),
    "box-nan": ("box", in_row(2, bbox=[1, 2, NAN, 4]), "annotation id 9", "nan"),
    "box-flat": ("box", in_row(2, bbox=[1, 2, 0, 4]), "annotation id 9", "0 and 4"),
    "box-outside": ("box-outside", in_row(2, bbox=[70, 5, 9, 9]), "annotation id 9", "a photo of 60 x 40"),
    "box-beyond": ("box-beyond", in_row(2, bbox=[30, 5, 36, 35]), "annotation id 9", "by 6.0 px"),
    "mask": ("mask", in_row(0, segmentation=[[1, 2, 3]]), "annotation id 7", "3 points"),
    "mask-size": ("mask", in_row(0, segmentation={"size": [9, 9], "counts": [81]}), "annotation id 7", "size"),
    "mask-empty": (
        "mask-empty", in_row(0, segmentation={"size": [HEIGHT, WIDTH], "counts": [2400]}), "annotation id 7", "no",
    ),
    "mask-off": (
        "mask-off", in_row(0, segmentation=[[10, 8, 40, 8, 40, 12, 10, 12], [10, 8, 12, 8, 12, 32, 10, 32]]),
        "annotation id 7", "of 15 lie outside",
    ),
    "mask-box": ("mask-box", in_row(0, segmentation=[[41, 8, 59, 8, 59, 32]]), "annotation id 7", "IoU is 0.00"),
    "area": ("area", in_row(0, area=800), "annotation id 7", "800 px^2, the box has 720"),
    "count": ("count", in_row(0, num_keypoints=3), "annotation id 7", "it is 3, 16 are"),
    "outside": ("outside", point(2, "left_ear", 64, 12, 2), "annotation id 9", "left_ear (64, 12)"),
    "far": ("far", point(2, "left_wrist", 10, 20, 2), "annotation id 9", "left_wrist (10, 20)"),
    "far-hidden": ("far", point(2, "left_wrist", 10, 20, 1), "annotation id 9", "left_wrist (10, 20)"),
    "origin": ("origin", point(2, "left_wrist", 0, 0, 1), "annotation id 9", "left_wrist (0, 0)"),
    "unlabelled": ("unlabelled", point(2, "left_wrist", 40, 20, 0), "annotation id 9", "left_wrist (40, 20)"),
    "heap": ("heap", in_row(2, keypoints=[40, 20, 2] * 3 + upright(45, 12)[9:]), "annotation id 9", "3 of 17"),
    "crowd": ("crowd", in_row(2, iscrowd=1), "annotation id 9", "17 labelled"),
    "twice": ("twice", again, "annotation id 10", "as annotation id 9"),
    "sides-face": ("sides", eyes_exchanged, "annotation id 9", "eyes"),
    "sides-body": ("sides", hips_exchanged, "annotation id 9", "shoulders and hips"),
}  # fmt: skip


@pytest.mark.parametrize(("rule", "change", "where", "words"), ROWS.values(), ids=ROWS)
def test_each_fault_is_named(
    tmp_path: Path, rule: str, change: Callable[[dict[str, Any]], object], where: str, words: str
) -> None:
    path = write(tmp_path, people())
    document = people()
    change(document)
    path.write_text(json.dumps(document))
    report = check_labels(path)
    told = found(report).get(rule, [])
    assert told, report.text()
    assert told[0][0] == where and words in told[0][1]
    assert report.ok is not RULES[rule][0]
    assert RULES[rule][2] in report.text()


def test_one_fault_does_not_hide_the_next(tmp_path: Path) -> None:
    document = people()
    document["annotations"][0]["bbox"] = "wide"
    document["annotations"][1]["image_id"] = None
    document["annotations"][2]["keypoints"] = [1, 2, 9] * 17
    told = found(check_labels(write(tmp_path, document)))
    assert {k: [w for w, _ in v] for k, v in told.items() if RULES[k][0]} == {
        "box": ["annotation id 7"], "unknown": ["annotation id 8"], "flags": ["annotation id 9"],
    }  # fmt: skip


def test_the_set_as_a_whole(tmp_path: Path) -> None:
    document = people()
    row = document["annotations"][2]
    mirrored = [v for i in COCO.flip for v in row["keypoints"][3 * i : 3 * i + 3]]
    rows = [{**row, "id": i, "image_id": 3, "keypoints": list(mirrored)} for i in range(20, 32)]
    document["annotations"] = [document["annotations"][0], *rows]
    told = found(check_labels(write(tmp_path, document)))
    assert [w for _, w in told["sides-all"]] == [
        "in 12 of 12 faces"
    ] and "sides" not in told  # the first has one eye
    document["annotations"] = rows[:1]
    document["categories"][0]["keypoints"] = [f"point{i}" for i in range(17)]
    rows[0]["keypoints"][0:3] = [0, 0, 0]
    rows[0]["num_keypoints"] = 16
    told = found(check_labels(write(tmp_path, document)))
    assert told["never"] == [(str(tmp_path / "train.json"), "point0")] and "no-mirror" in told


def test_cropped_sets_may_have_points_outside(tmp_path: Path) -> None:
    document = people()
    document["annotations"][2]["keypoints"][45:51] = [50, 44, 1, 40, 90, 3]  # ankles below the photo
    assert check_labels(write(tmp_path, document)).problems == ()


def test_photos_that_are_not_there(tmp_path: Path) -> None:
    path = write(tmp_path, people(), photos=False)
    report = check_labels(path)
    assert list(found(report)) == ["photos"] and report.ok
    (tmp_path / "none").mkdir()
    told = found(check_labels(path, photos=tmp_path / "none"))
    assert [w for w, _ in told["photo-missing"]] == ["image id 3", "image id 5"]
    draw(tmp_path / "images" / "3.png")
    (tmp_path / "images" / "5.png").write_bytes(b"torn")
    assert [w for w, _ in found(check_labels(path))["photo-broken"]] == ["image id 5"]
    with pytest.raises(FileError, match="no such folder or tar"):
        check_labels(path, photos=tmp_path / "nowhere")


def test_labels_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"image_id": 1, "score": 0.5}]')
    report = check_labels(tmp_path / "a.json")
    assert [p.rule for p in report.problems] == ["unreadable"] and not report.ok
    assert "list of results" in report.text()
    with pytest.raises(FileError):
        check_labels(tmp_path / "b.json")


def test_only_the_first_are_listed(tmp_path: Path) -> None:
    document = people()
    document["annotations"] = [
        {**document["annotations"][2], "id": i, "image_id": 3 + 2 * (i % 2), "bbox": [i, i, 0, 0]}
        for i in range(9)
    ]
    report = check_labels(write(tmp_path, document))
    assert f"and {9 - LISTED} more" in report.text()
    problems = report.to_json()["problems"]
    assert (
        isinstance(problems, list) and len(problems) >= 9 and {p["severity"] for p in problems} >= {"error"}
    )


@pytest.mark.parametrize(
    "name",
    ["coco_keypoints", "coco_wholebody", "crowdpose", "ochuman_coco_style", "ochuman_native", "aic_native", "mpii_json",
     "halpe_coco_style"],
)  # fmt: skip
def test_official_samples_have_no_errors(name: str) -> None:
    assert check_labels(official(f"{name}.json")).ok


@pytest.mark.slow
def test_real_labels() -> None:
    """Our part of COCO: no error, and about one person in five hundred worth a look."""
    report = check_labels(official("").parent / "coco" / "train.json")
    assert report.ok and report.counts["with keypoints"] == 5965
    assert 1 <= len(report.problems) <= 30
    named = {w for w, _ in found(report)["sides"]}
    assert "annotation id 9000546219003" in named  # a woman whose left eye is called the right one


# ------------------------------------------------------------------ left and right


def turned(points: np.ndarray, degrees: float, mirrored: bool = False) -> np.ndarray:
    a = np.radians(degrees)
    out = points.copy()
    out[:, :2] = points[:, :2] @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    if mirrored:
        out[:, 0] *= -1
    return out


@given(st.floats(0, 360), st.booleans())
def test_a_face_is_right_however_it_is_turned(degrees: float, mirrored: bool) -> None:
    k = np.array(upright()).reshape(1, 17, 3)
    k[0] = turned(k[0], degrees, mirrored)
    bodies, faces = swapped_sides(k, COCO.keypoints)
    assert not bodies[0] and faces[0] == (-1 if mirrored else 1)
    _, faces = swapped_sides(k[:, COCO.flip], COCO.keypoints)
    assert faces[0] == (1 if mirrored else -1)
    one = k.copy()
    one[0, [11, 12]] = one[0, [12, 11]]  # the hips alone
    assert swapped_sides(one, COCO.keypoints)[0][0]


def test_who_cannot_be_judged() -> None:
    k = np.array(upright()).reshape(1, 17, 3)
    for hidden in (0, 1, 2):
        other = k.copy()
        other[0, hidden, 2] = 1
        assert swapped_sides(other, COCO.keypoints)[1][0] == 0
    from_behind = k.copy()
    from_behind[0, [5, 6, 11, 12], 0] = 25  # seen from the side
    assert not swapped_sides(from_behind, COCO.keypoints)[0][0]
    assert swapped_sides(k[:, :3], ["a", "b", "c"])[1].tolist() == [0]


def test_mpii_boxes_may_stick_out(tmp_path: Path) -> None:
    labels = read_labels(official("mpii_json.json"))
    for image in labels.images:
        image |= {"width": 1280, "height": 720}
    assert (labels.table().boxes[0] < 0).any() and "box-beyond" not in found(check_labels(labels))
