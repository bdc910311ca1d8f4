"""Hostile files: one error of the package, naming file, entry and field."""

from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.errors import BodyloopError, FileError, InputError
from bodyloop.eval import evaluate_boxes, evaluate_keypoints
from bodyloop.eval import reading as m
from tests.eval.small import guess, person, truth

Change = Callable[[dict[str, Any]], object]


def document() -> dict[str, Any]:
    return truth([person(1), person(2, x=300)])


TRUTHS: dict[str, tuple[Change, str]] = {
    "no images": (lambda d: d.pop("images"), "field 'images' must be a list, got NoneType"),
    "images no list": (lambda d: d.update(images={}), "field 'images' must be a list, got dict"),
    "annotation no object": (lambda d: d["annotations"].append(3), "annotations number 2"),
    "no id": (lambda d: d["annotations"][1].pop("id"), "annotation number 1: field 'id' is missing"),
    "id text": (lambda d: d["annotations"][1].update(id="two"), "id two: field 'id' must be a finite number"),
    "id not whole": (lambda d: d["annotations"][1].update(id=2.5), "id 2.5: field 'id' must be a whole"),
    "id twice": (lambda d: d["annotations"][1].update(id=1), r"annotation ids must be unique.*\[1\]"),
    "image id twice": (lambda d: d["images"].append(d["images"][0]), "image ids must be unique"),
    "unknown image": (lambda d: d["annotations"][1].update(image_id=9), "id 2: field 'image_id' = 9"),
    "unknown category": (lambda d: d["annotations"][1].update(category_id=9), "'category_id' = 9"),
    "no box": (lambda d: d["annotations"][1].pop("bbox"), "id 2: field 'bbox' is missing; expected 4"),
    "short box": (lambda d: d["annotations"][1].update(bbox=[1, 2, 3]), "4 finite numbers, got 3 numbers"),
    "no area": (lambda d: d["annotations"][1].pop("area"), "id 2: field 'area' is missing"),
    "area NaN": (lambda d: d["annotations"][1].update(area=float("nan")), "id 2: field 'area'.*NaN"),
    "area None": (lambda d: d["annotations"][1].update(area=None), "id 2: field 'area'.*got None"),
    "area list": (lambda d: d["annotations"][1].update(area=[1.0]), "id 2: field 'area'"),
    "crowd text": (lambda d: d["annotations"][1].update(iscrowd="yes"), "id 2: field 'iscrowd'"),
    "crowd NaN": (lambda d: d["annotations"][1].update(iscrowd=float("nan")), "id 2: field 'iscrowd'"),
    "50 numbers": (lambda d: d["annotations"][1]["keypoints"].pop(), "51 finite numbers, got 50 numbers"),
    "uneven": (lambda d: d["annotations"][1]["keypoints"].__setitem__(3, [1]), "nested or uneven list"),
    "text in it": (lambda d: d["annotations"][1]["keypoints"].__setitem__(3, "1"), "id 2: field 'keypoints'"),
    "infinite": (lambda d: d["annotations"][1]["keypoints"].__setitem__(0, 1e999), "NaN or infinity"),
    "flag 4": (lambda d: d["annotations"][1]["keypoints"].__setitem__(2, 4), "id 2: .*flags must be 0"),
    "flag -1": (lambda d: d["annotations"][1]["keypoints"].__setitem__(2, -1), "id 2: .*flags must be 0"),
    "pads": (lambda d: d["annotations"][1].update(pad_to_contain=[1, 2]), "field 'pad_to_contain'"),
}


@pytest.mark.parametrize("case", TRUTHS)
@pytest.mark.parametrize("as_file", [False, True])
def test_ground_truth(case: str, as_file: bool, tmp_path: Path) -> None:
    change, message = TRUTHS[case]
    gt = document()
    change(gt)
    source: Any = gt
    if as_file:
        source = tmp_path / "gt.json"
        source.write_text(json.dumps(gt))  # writes NaN and Infinity, too
    with pytest.raises(InputError, match=message) as caught:
        evaluate_keypoints(source, [])
    if as_file:
        assert "gt.json" in str(caught.value)


PREDICTIONS: dict[str, tuple[Change, str]] = {
    "no score": (lambda p: p.pop("score"), "prediction number 1: field 'score' is missing"),
    "score NaN": (lambda p: p.update(score=float("nan")), "number 1: field 'score'.*NaN"),
    "score text": (lambda p: p.update(score="high"), "number 1: field 'score'.*'high'"),
    "unknown image": (lambda p: p.update(image_id=77), "number 1: field 'image_id' = 77 is no image"),
    "image id text": (lambda p: p.update(image_id="1"), "number 1: field 'image_id'"),
    "no keypoints": (lambda p: p.pop("keypoints"), "number 1: field 'keypoints' is missing; expected 51"),
    "too many": (lambda p: p["keypoints"].append(0), "51 finite numbers, got 52"),
    "NaN": (lambda p: p["keypoints"].__setitem__(0, float("nan")), "number 1: field 'keypoints'.*NaN"),
    "null": (lambda p: p["keypoints"].__setitem__(0, None), "number 1: field 'keypoints'"),
    "box": (lambda p: p.update(bbox=[1, 2, 3, 4]), "number 1 has field 'bbox'"),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_predictions(case: str, tmp_path: Path) -> None:
    change, message = PREDICTIONS[case]
    dt = [guess(0.9), guess(0.8)]
    change(dt[1])
    file = tmp_path / "dt.json"
    file.write_text(json.dumps(dt))
    for source in (dt, file):
        with pytest.raises(InputError, match=message):
            evaluate_keypoints(document(), source)


@pytest.mark.parametrize("wrong", [{"a": 1}, "text", 3, None, [3]])
def test_not_a_list_of_predictions(wrong: Any, tmp_path: Path) -> None:
    file = tmp_path / "dt.json"
    file.write_text(json.dumps(wrong))
    with pytest.raises(InputError, match=r"dt\.json"):
        evaluate_keypoints(document(), file)


FILES = {
    "truncated": json.dumps(document())[:-40].encode(),
    "empty": b"",
    "binary": bytes(range(256)),
    "deep": b"[" * 100_000,
    "half a letter": '{"images": "ü'.encode()[:-1],
}


@pytest.mark.parametrize("name", FILES)
def test_no_json(name: str, tmp_path: Path) -> None:
    file = tmp_path / "gt.json"
    file.write_bytes(FILES[name])
    with pytest.raises(FileError, match=r"gt\.json: not valid json"):
        evaluate_boxes(file, [])


def test_files_that_are_not_there_or_no_gzip(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.json: cannot be read"):
        evaluate_boxes(tmp_path / "none.json", [])
    packed = gzip.compress(json.dumps(document()).encode())
    (tmp_path / "a.json.gz").write_bytes(packed[:-20])
    (tmp_path / "b.json.gz").write_bytes(b"no gzip")
    for name in ("a.json.gz", "b.json.gz"):
        with pytest.raises(FileError, match=name):
            evaluate_boxes(tmp_path / name, [])


def test_a_list_is_no_ground_truth(tmp_path: Path) -> None:
    file = tmp_path / "gt.json"
    file.write_text("[]")
    with pytest.raises(InputError, match="expected a COCO dictionary, got list"):
        evaluate_boxes(file, [])


def test_whole_floats_are_ids_and_large_ids_stay_exact() -> None:
    big = 2**53 + 1  # no float64
    gt = truth([person(big), person(1.0)])  # type: ignore[arg-type]
    assert m.read_ground_truth(gt).ids.tolist() == [big, 1]


def test_digest_and_order(tmp_path: Path) -> None:
    gt = truth([person(5, image_id=2)], images=2)
    gt["images"].reverse()
    file = tmp_path / "gt.json"
    file.write_text(json.dumps(gt))
    read = m.read_ground_truth(file, keypoints=17)
    assert read.image_ids.tolist() == [1, 2] and read.file_names == ("1.jpg", "2.jpg")
    assert read.image.tolist() == [1] and read.image_sizes.tolist() == [[640, 480]] * 2
    assert read.digest is not None and len(read.digest) == 64


def test_side_outputs_stand_in_all_predictions_or_in_none() -> None:
    gt = m.read_ground_truth(document(), keypoints=17)
    sides = {"presence": [1 / 16 * k for k in range(17)], "quality": [0] * 17}
    read = m.read_predictions([guess(0.9, **sides), guess(0.8, **sides)], gt, keypoints=17)
    assert read.presence is not None and read.presence.tolist() == [sides["presence"]] * 2
    assert read.quality is not None and read.quality.dtype == np.float64 and not read.quality.any()
    assert read.visibility is None
    assert m.read_predictions([guess(0.9, **sides)], gt).presence is None  # keypoints not asked for
    with pytest.raises(InputError, match="number 1: field 'presence' is missing; expected 17 finite numbers"):
        m.read_predictions([guess(0.9, **sides), guess(0.8), guess(0.7)], gt, keypoints=17)


@pytest.mark.parametrize("field", ["presence", "visibility", "quality"])
@pytest.mark.parametrize("bad", [-0.01, 1.5])
def test_side_outputs_are_shares(field: str, bad: float) -> None:
    values = [0.5] * 16 + [bad]
    with pytest.raises(
        InputError, match=rf"number 0: field '{field}' must be 17 numbers from 0 to 1, got {bad}"
    ):
        evaluate_keypoints(document(), [guess(0.9, **{field: values})])


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3),
    st.lists(st.integers(0, 3), max_size=3), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)  # fmt: skip
FIELDS = ("id", "image_id", "category_id", "iscrowd", "bbox", "area", "num_keypoints", "keypoints")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FIELDS), JUNK)
def test_junk_in_a_field_gives_a_result_or_one_of_our_errors(field: str, junk: Any) -> None:
    gt = copy.deepcopy(document())
    gt["annotations"][0][field] = junk
    try:
        r = evaluate_keypoints(gt, [guess(0.5)])
    except BodyloopError as e:
        assert field in str(e)
    else:
        assert all(np.isfinite(v) for v in r.numbers.values())
