"""``--boxes`` and ``--masks``: every form says the same, and what does not fit is said with file and entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.masks import Masks
from bodyloop.people import People, Source
from bodyloop.storage import people_to_json
from tests.cli.conftest import Call
from tests.cli.standins import picture

BOXES = [[10.0, 20.0, 60.0, 150.0], [50.5, 10.0, 110.0, 140.0]]
XYWH = [[10.0, 20.0, 50.0, 130.0], [50.5, 10.0, 59.5, 130.0]]
POLYGONS = [[[10, 20, 60, 20, 60, 150]], [[60, 10, 110, 10, 110, 140, 60, 140]]]
SIZE = (120, 160)


def document(path: str, masks: bool = False) -> dict[str, Any]:
    shapes = Masks.from_any(POLYGONS, SIZE) if masks else None
    people = People(SIZE, Source(path), boxes=np.float32(BOXES), masks=shapes)
    return people_to_json(people)


def annotations(name: str) -> dict[str, Any]:
    rows = [
        {"id": i, "image_id": 7, "category_id": 1, "bbox": b, "segmentation": s, "iscrowd": 0}
        for i, (b, s) in enumerate(zip(XYWH, POLYGONS, strict=True))
    ]
    rows.append({"id": 8, "image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1})
    rows.append({"id": 9, "image_id": 7, "category_id": 2, "bbox": [0, 0, 9, 9], "iscrowd": 0})
    return {
        "images": [{"id": 7, "file_name": name, "width": SIZE[0], "height": SIZE[1]}],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "ball"}],
        "annotations": rows,
    }


def coco_results(**more: Any) -> list[dict[str, Any]]:
    return [
        {"image_id": 7, "category_id": 1, "bbox": b, "score": 0.5 + i / 10, **more}
        for i, b in enumerate(XYWH)
    ]


FORMS: dict[str, Any] = {
    "people file": document("7.jpg"),
    "list of people files": [document("7.jpg"), document("8.jpg")],
    "people file elsewhere": document("../photos/7.jpg"),
    "coco annotations": annotations("7.jpg"),
    "coco results by number": coco_results(),
    "coco results by name": coco_results(file_name="photos/7.jpg"),
    "table": {"7.jpg": BOXES, "8.jpg": []},
    "table with scores": {"photos/7.jpg": {"boxes": BOXES, "scores": [0.5, 0.6]}},
    "list by file name": [{"file_name": "7.jpg", "boxes": BOXES}],
}


def put(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "given.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    return picture(tmp_path / "photos" / "7.jpg")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(predict: Call, photo: Path, tmp_path: Path, form: str) -> None:
    result = predict(photo, "--boxes", put(tmp_path, FORMS[form]), "--detector", "none")
    assert result.exit_code == 0, result.stderr
    people = People.load(tmp_path / "out" / "7.json")
    assert people.boxes is not None and people.keypoints is not None and people.masks is None
    np.testing.assert_allclose(people.boxes, BOXES)
    if "coco" in form:
        assert people.source is not None and people.source.image_id == 7
    if "results" in form or "scores" in form:
        np.testing.assert_allclose(people.scores, [0.5, 0.6])


def test_results_of_a_run_are_a_boxes_file(predict: Call, photo: Path, tmp_path: Path) -> None:
    predict(photo)
    first = People.load(tmp_path / "out" / "7.json")
    for given in (tmp_path / "out", tmp_path / "out" / "7.json", tmp_path / "out" / "results.json"):
        out = tmp_path / f"again-{given.name}"
        assert predict(photo, "--boxes", given, "--out", out).exit_code == 0
        again = People.load(out / "7.json")
        np.testing.assert_allclose(again.keypoints, first.keypoints, atol=1e-2)
        np.testing.assert_allclose(again.scores, first.scores)


def test_scores_of_a_file_are_held_to_the_threshold(predict: Call, photo: Path, tmp_path: Path) -> None:
    predict(photo, "--boxes", put(tmp_path, coco_results()), "--threshold", "0.55")
    people = People.load(tmp_path / "out" / "7.json")
    np.testing.assert_allclose(people.boxes, BOXES[1:])


@pytest.mark.parametrize(
    "content",
    [
        annotations("7.jpg"),
        document("7.jpg", masks=True),
        {"7.jpg": POLYGONS},
        {"7.jpg": {"masks": POLYGONS, "boxes": BOXES}},
        {"7.jpg": [dict(Masks.from_any(POLYGONS, SIZE).rle(i)) for i in range(2)]},
    ],
    ids=["annotations", "people", "table", "table with both", "rle"],
)
def test_masks_in_every_form(predict: Call, photo: Path, tmp_path: Path, content: Any) -> None:
    result = predict(photo, "--masks", put(tmp_path, content), "--save", "json,npz")
    assert result.exit_code == 0, result.stderr
    people = People.load(tmp_path / "out" / "7.npz")
    assert people.masks is not None and people.masks.equals(Masks.from_any(POLYGONS, SIZE))
    own = people.masks.boxes if content == {"7.jpg": POLYGONS} or "counts" in str(content) else BOXES
    if not isinstance(content, dict) or "schema" not in content:
        np.testing.assert_allclose(people.boxes, own)


def test_masks_change_the_pose_and_boxes_stay(predict: Call, photo: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"7.jpg": BOXES}), encoding="utf-8")
    masks = put(tmp_path, {"7.jpg": POLYGONS})
    predict(photo, "--boxes", boxes, "--out", tmp_path / "plain")
    assert predict(photo, "--boxes", boxes, "--masks", masks).exit_code == 0
    plain, masked = (People.load(tmp_path / d / "7.json") for d in ("plain", "out"))
    np.testing.assert_allclose(masked.boxes, BOXES)
    assert masked.masks is not None and not np.allclose(plain.presence, masked.presence)


def test_some_may_have_no_mask_where_boxes_are_given(predict: Call, photo: Path, tmp_path: Path) -> None:
    masks = put(tmp_path, {"7.jpg": [None, POLYGONS[1]]})
    alone = predict(photo, "--masks", masks)
    assert alone.exit_code == 1 and "boxes[0]" in alone.stderr and "given.json" in alone.stderr
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"7.jpg": BOXES}), encoding="utf-8")
    assert predict(photo, "--boxes", boxes, "--masks", masks).exit_code == 0
    people = People.load(tmp_path / "out" / "7.json")
    assert people.masks is not None and people.masks.present.tolist() == [False, True]


def test_photos_of_a_folder_that_the_file_does_not_name_are_left_out(
    predict: Call, photo: Path, tmp_path: Path
) -> None:
    other = picture(tmp_path / "photos" / "8.jpg")
    given = put(tmp_path, {"7.jpg": BOXES})
    result = predict(photo.parent, "--boxes", given)
    assert result.exit_code == 0 and result.stdout.startswith(
        "2 photos: 1 done, 1 left out (not in the file); 2 people"
    )
    assert "1 photo that" in result.stderr and not (tmp_path / "out" / "8.json").exists()
    assert predict(photo, other, "--boxes", given).exit_code == 1  # whoever names a photo means it
    none = predict(photo.parent, "--boxes", put(tmp_path, {"9.jpg": BOXES}))
    assert none.exit_code == 1 and "does not name" in none.stderr and none.stderr.count("\n") == 1


def test_nobody_is_an_answer(predict: Call, photo: Path, tmp_path: Path) -> None:
    assert predict(photo, "--boxes", put(tmp_path, {"7.jpg": []})).exit_code == 0
    assert len(People.load(tmp_path / "out" / "7.json")) == 0


def test_results_without_a_photo_mean_nobody_there(predict: Call, photo: Path, tmp_path: Path) -> None:
    other = picture(tmp_path / "photos" / "8.jpg")
    result = predict(photo, other, "--boxes", put(tmp_path, coco_results()))
    assert result.exit_code == 0 and "2 people" in result.stdout


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not valid JSON"),
        ("3", "expected a people file"),
        ({"schema": "bodyloop/people-9"}, "bodyloop/people-9"),
        ({"8.jpg": BOXES}, "does not name the photo 7.jpg"),
        ([{**coco_results()[0], "image_id": 9}], "does not name the photo 7.jpg"),
        ({"7.jpg": "left"}, "boxes"),
        ({"7.jpg": [[1, 2, 3]]}, "boxes[0]"),
        ({"7.jpg": [BOXES[0], [1, 2, None, 4]]}, "boxes[1]"),
        ({"7.jpg": [BOXES[0], [60, 20, 10, 150]]}, "boxes[1]"),
        ({"7.jpg": [[1, 2, 1e400, 4]]}, "boxes[0]"),
        ({"7.jpg": {"boxen": []}}, "'boxen'"),
        ({"7.jpg": {"boxes": BOXES, "scores": [1]}}, "scores"),
        ([{**coco_results()[0], "bbox": [1, 2, 0, 4]}], "entry 0: bbox"),
        ([{**coco_results()[0], "image_id": None}], "image_id"),
        ({**annotations("7.jpg"), "images": "none"}, "images"),
        ({**annotations("7.jpg"), "images": [{"id": 7}]}, "images[0].file_name"),
        ({**annotations("7.jpg"), "annotations": [3]}, "annotations[0]"),
        ({**document("7.jpg"), "people": [{"box": [1, 2, 3]}]}, "people"),
        ({**document("7.jpg"), "image": {"path": "7.jpg", "width": 5, "height": 5}}, "(5, 5)"),
        ({**document("7.jpg"), "image": {"width": 120, "height": 160}}, "image.path"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_said(
    predict: Call, photo: Path, tmp_path: Path, content: Any, said: str
) -> None:
    result = predict(photo, "--boxes", put(tmp_path, content))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "given.json" in line and said in line
    assert not list((tmp_path / "out").glob("7*"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"7.jpg": POLYGONS[:1]}, "1 for the 2 boxes"),
        ({"7.jpg": [[[1, 2]], POLYGONS[1]]}, "masks[0]"),
        ({"7.jpg": [{"size": [5, 5], "counts": "05"}, None]}, "masks[0]"),
        ({"7.jpg": [{"size": [160, 120], "counts": "&&&"}, None]}, "masks[0]"),
        (document("7.jpg"), "masks"),
    ],
    ids=str,
)
def test_masks_that_do_not_fit(predict: Call, photo: Path, tmp_path: Path, content: Any, said: str) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({"7.jpg": BOXES}), encoding="utf-8")
    result = predict(photo, "--boxes", boxes, "--masks", put(tmp_path, content))
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "given.json" in line and said in line


def test_a_name_that_fits_two_photos_fits_none(predict: Call, photo: Path, tmp_path: Path) -> None:
    other = picture(tmp_path / "others" / "7.jpg")
    result = predict(photo, other, "--boxes", put(tmp_path, {"7.jpg": BOXES}))
    assert result.exit_code == 1 and result.stderr.count("write more of the path") == 2
    clear = put(tmp_path, {"photos/7.jpg": BOXES, "others/7.jpg": BOXES[:1]})
    assert "3 people" in predict(photo, other, "--boxes", clear).stdout


def test_another_boxes_file_is_another_run(predict: Call, photo: Path, tmp_path: Path) -> None:
    predict(photo, "--boxes", put(tmp_path, {"7.jpg": BOXES}))
    same = json.loads(
        predict(photo, "--boxes", put(tmp_path, {"7.jpg": BOXES, "8.jpg": []}), "--json").stdout
    )
    other = json.loads(predict(photo, "--boxes", put(tmp_path, {"7.jpg": BOXES[:1]}), "--json").stdout)
    assert (same["skipped"], other["skipped"]) == (1, 0)


def test_labels_made_on_the_unturned_picture(predict: Call, tmp_path: Path) -> None:
    """A data set that ignored the EXIF orientation has labels for the unturned size: the photo is taken so."""
    import PIL.Image

    photo = tmp_path / "photos" / "7.jpg"
    plain = picture(photo, size=(120, 160))
    exif = PIL.Image.Exif()
    exif[274] = 6
    with PIL.Image.open(plain) as p:
        p.load()
        p.save(photo, exif=exif)
    assert predict(photo, "--boxes", put(tmp_path, annotations("7.jpg"))).exit_code == 0
    assert People.load(tmp_path / "out" / "7.json").image_size == (120, 160)
    turned = annotations("7.jpg")
    turned["images"][0] |= {"width": 160, "height": 120}
    assert predict(photo, "--boxes", put(tmp_path, turned)).exit_code == 0
    assert People.load(tmp_path / "out" / "7.json").image_size == (160, 120)
