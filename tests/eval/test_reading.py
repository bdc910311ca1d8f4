"""Hostile files: one error of the package, naming file, entry, field and what to do, whichever parser reads."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bodyloop import records
from bodyloop.errors import BodyloopError, FileError, InputError
from bodyloop.eval import evaluate_boxes, evaluate_keypoints
from bodyloop.eval import reading as m
from tests.eval.small import guess, person, truth

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(params=["orjson", "json"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both parsers: orjson, and Python's own where orjson is not installed."""
    if request.param == "orjson":
        pytest.importorskip("orjson")
    else:
        monkeypatch.setitem(sys.modules, "orjson", None)
    return str(request.param)


def document() -> dict[str, Any]:
    return truth([person(1), person(2, x=300)])


def second(**new: Any) -> Change:
    """Give the second annotation other fields."""
    return lambda d: d["annotations"][1].update(new)


def number(i: int, value: Any) -> Change:
    """Give the second annotation another number in its keypoints."""
    return lambda d: d["annotations"][1]["keypoints"].__setitem__(i, value)


FLAGS = "flags must be 0 (unlabelled), 1 (hidden), 2 (visible) or 3 (outside the window), got"
K51 = "field 'keypoints' must be 51 finite numbers, got"
BOX = "must be x y width height, sizes not negative (are these x1 y1 x2 y2?), got [10, 10, -5, 3]"
TRUTHS: dict[str, tuple[Change, str]] = {
    "no images": (lambda d: d.pop("images"), "field 'images' must be a list, got NoneType; is it COCO?"),
    "categories null": (
        lambda d: d.update(categories=None),
        "field 'categories' must be a list, got NoneType; is it COCO?",
    ),
    "images no list": (lambda d: d.update(images={}), "field 'images' must be a list, got dict; is it COCO?"),
    "annotation no object": (
        lambda d: d["annotations"].append(3),
        "annotations number 2: expected an object with fields, got int; remove it",
    ),
    "names no list": (
        lambda d: d["categories"][0].update(keypoints=3),
        "category id 1: field 'keypoints' must be a list of names; remove it",
    ),
    "width text": (
        lambda d: d["images"][0].update(width="640"),
        "image id 1: field 'width' must be a finite number, got the text '640'; write numbers without quotes",
    ),
    "no id": (
        lambda d: d["annotations"][1].pop("id"),
        "annotation number 1: field 'id' is missing; expected a finite number",
    ),
    "id text": (
        second(id="two"),
        "annotation id 'two': field 'id' must be a finite number, got the text 'two'; write numbers without quotes",
    ),
    "id true": (
        second(id=True),
        "annotation id True: field 'id' must be a finite number, got True; write a number",
    ),
    "id not whole": (
        second(id=2.5),
        "annotation id 2.5: field 'id' must be a whole number of 64 bits, got 2.5",
    ),
    "id huge": (
        second(id=2**70),
        "annotation number 1: field 'id' must be a whole number of 64 bits, got 1.1805916207174113e+21",
    ),
    "id twice": (
        second(id=1),
        "annotation ids must be unique, but [1] occur more than once; give each annotation an id of its own",
    ),
    "image id twice": (
        lambda d: d["images"].append(d["images"][0]),
        "image ids must be unique, but [1] occur more than once; give each image an id of its own",
    ),
    "category id twice": (
        lambda d: d["categories"].append(d["categories"][0]),
        "category ids must be unique, but [1] occur more than once; give each category an id of its own",
    ),
    "unknown image": (
        second(image_id=9),
        "annotation id 2: field 'image_id' = 9 is no image in the file; do both files belong to the same data?",
    ),
    "image id text": (
        second(image_id="1"),
        "annotation id 2: field 'image_id' must be a finite number, got the text '1'; write numbers without quotes",
    ),
    "unknown category": (
        second(category_id=9),
        "annotation id 2: field 'category_id' = 9 is no category in the file; do both files belong to the same data?",
    ),
    "no box": (
        lambda d: d["annotations"][1].pop("bbox"),
        "annotation id 2: field 'bbox' is missing; expected 4 finite numbers",
    ),
    "short box": (
        second(bbox=[1, 2, 3]),
        "annotation id 2: field 'bbox' must be 4 finite numbers, got 3 numbers; write x y width height",
    ),
    "negative box": (second(bbox=[10, 10, -5, 3]), f"annotation id 2: field 'bbox' {BOX}"),
    "no area": (
        lambda d: d["annotations"][1].pop("area"),
        "annotation id 2: field 'area' is missing; expected a finite number",
    ),
    "area negative": (second(area=-1), "annotation id 2: field 'area' must be px^2, not negative, got -1"),
    "area NaN": (
        second(area=float("nan")),
        "annotation id 2: field 'area' must be a finite number, got NaN or infinity; remove the entry or correct it",
    ),
    "area null": (
        second(area=None),
        "annotation id 2: field 'area' must be a finite number, got None (null); write a number or remove the entry",
    ),
    "area list": (
        second(area=[1.0]),
        "annotation id 2: field 'area' must be a finite number, got [1.0]; write a number",
    ),
    "area true": (
        second(area=True),
        "annotation id 2: field 'area' must be a finite number, got True; write a number",
    ),
    "area huge": (
        second(area=10**400),
        "annotation id 2: field 'area' must be a finite number, got a number too large for 64 bits; correct it",
    ),
    "crowd text": (second(iscrowd="yes"), "annotation id 2: field 'iscrowd' must be 0 or 1, got 'yes'"),
    "crowd NaN": (second(iscrowd=float("nan")), "annotation id 2: field 'iscrowd' must be 0 or 1, got nan"),
    "crowd 2": (second(iscrowd=2), "annotation id 2: field 'iscrowd' must be 0 or 1, got 2"),
    "crowd list": (second(iscrowd=[0]), "annotation id 2: field 'iscrowd' must be 0 or 1, got [0]"),
    "count negative": (
        second(num_keypoints=-2),
        "annotation id 2: field 'num_keypoints' must be a count, not negative, got -2",
    ),
    "50 numbers": (
        lambda d: d["annotations"][1]["keypoints"].pop(),
        f"annotation id 2: {K51} 50 numbers; write x y v for each keypoint",
    ),
    "18 keypoints": (
        lambda d: d["annotations"][1]["keypoints"].extend([0, 0, 0]),
        f"annotation id 2: {K51} 54 numbers, 18 keypoints; is it a file of another skeleton?",
    ),
    "uneven": (
        number(3, [1]),
        f"annotation id 2: {K51} a nested or uneven list, [300, 100, 2, [1], 0.0, 0.0, ...]",
    ),
    "deep": (
        second(keypoints=json.loads("[" * 900 + "]" * 900)),
        f"annotation id 2: {K51} a nested or uneven list, [[[[[[[...]]]]]]]",
    ),
    "text in it": (number(3, "1"), f"annotation id 2: {K51} the text '1'; write numbers without quotes"),
    "true in it": (number(5, True), f"annotation id 2: {K51} True; write a number"),
    "false in it": (number(5, False), f"annotation id 2: {K51} False; write a number"),
    "infinite": (number(0, 1e999), f"annotation id 2: {K51} NaN or infinity; remove the entry or correct it"),
    "keypoints by name": (
        second(keypoints={"nose": [1, 2, 2]}),
        f"annotation id 2: {K51} {{'nose': [1, 2, 2]}}; write a list",
    ),
    "keypoints null": (second(keypoints=None), f"annotation id 2: {K51} None; write a list"),
    "flag 4": (
        number(2, 4),
        f"annotation id 2: field 'keypoints': {FLAGS} [0.0, 4.0]; is it a file of results?",
    ),
    "flag -1": (
        number(2, -1),
        f"annotation id 2: field 'keypoints': {FLAGS} [-1.0, 0.0]; is it a file of results?",
    ),
    "short pads": (
        lambda d: [a.update(pad_to_contain=[1, 2]) for a in d["annotations"]],
        "annotation id 1: field 'pad_to_contain' must be 17 finite numbers, got 2 numbers",
    ),
    "pads in one": (
        second(pad_to_contain=[1] * 17),
        "annotation id 1: field 'pad_to_contain' is missing; expected 17 finite numbers",
    ),
}


@pytest.mark.parametrize("case", TRUTHS)
def test_ground_truth(case: str, parser: str, tmp_path: Path) -> None:
    change, message = TRUTHS[case]
    gt = document()
    change(gt)
    file = tmp_path / "gt.json"
    file.write_text(json.dumps(gt))  # writes NaN and Infinity, too
    for source, origin in ((gt, "ground truth"), (file, str(file))):
        with pytest.raises(InputError) as caught:
            evaluate_keypoints(source, [])
        assert str(caught.value) == f"{origin}: {message}"


PREDICTIONS: dict[str, tuple[Change, str]] = {
    "no score": (lambda p: p.pop("score"), "field 'score' is missing; expected a finite number"),
    "score NaN": (
        lambda p: p.update(score=float("nan")),
        "field 'score' must be a finite number, got NaN or infinity; remove the entry or correct it",
    ),
    "score text": (
        lambda p: p.update(score="high"),
        "field 'score' must be a finite number, got the text 'high'; write numbers without quotes",
    ),
    "score true": (
        lambda p: p.update(score=True),
        "field 'score' must be a finite number, got True; write a number",
    ),
    "unknown image": (
        lambda p: p.update(image_id=77),
        "field 'image_id' = 77 is no image of ground truth; do both files belong to the same data?",
    ),
    "image id text": (
        lambda p: p.update(image_id="1"),
        "field 'image_id' must be a finite number, got the text '1'; write numbers without quotes",
    ),
    "no category": (
        lambda p: p.pop("category_id"),
        "field 'category_id' is missing; expected a finite number",
    ),
    "no keypoints": (
        lambda p: p.pop("keypoints"),
        "field 'keypoints' is missing; expected 51 finite numbers",
    ),
    "too many": (
        lambda p: p["keypoints"].append(0),
        f"{K51} 52 numbers; write x y v for each keypoint",
    ),
    "NaN": (
        lambda p: p["keypoints"].__setitem__(0, float("nan")),
        f"{K51} NaN or infinity; remove the entry or correct it",
    ),
    "null": (
        lambda p: p["keypoints"].__setitem__(0, None),
        f"{K51} None (null); write a number or remove the entry",
    ),
    "true": (lambda p: p["keypoints"].__setitem__(2, True), f"{K51} True; write a number"),
    "short box": (
        lambda p: p.update(bbox=[1, 2]),
        "field 'bbox' must be 4 finite numbers, got 2 numbers; write x y width height",
    ),
    "negative box": (lambda p: p.update(bbox=[10, 10, -5, 3]), f"field 'bbox' {BOX}"),
    "presence": (
        lambda p: p.update(presence=[0.5] * 16 + [1.5]),
        "field 'presence' must be 17 numbers from 0 to 1, got 1.5",
    ),
    "visibility": (
        lambda p: p.update(visibility=[-0.01] * 17),
        "field 'visibility' must be 17 numbers from 0 to 1, got -0.01",
    ),
    "quality": (
        lambda p: p.update(quality=[0.5] * 16),
        "field 'quality' must be 17 finite numbers, got 16 numbers",
    ),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_predictions(case: str, parser: str, tmp_path: Path) -> None:
    change, message = PREDICTIONS[case]
    sides = {name: [0.5] * 17 for name in ("presence", "visibility", "quality")}
    dt = [copy.deepcopy(guess(0.9, **sides, bbox=[1, 2, 3, 4])) for _ in range(3)]
    change(dt[1])
    file = tmp_path / "dt.json"
    file.write_text(json.dumps(dt))
    for source, origin in ((dt, "predictions"), (file, str(file))):
        with pytest.raises(InputError) as caught:
            evaluate_keypoints(document(), source)
        assert str(caught.value) == f"{origin}: prediction number 1: {message}"


@pytest.mark.parametrize("wrong", [{"a": 1}, "text", 3, None])
def test_not_a_list_of_predictions(wrong: Any, parser: str, tmp_path: Path) -> None:
    file = tmp_path / "dt.json"
    file.write_text(json.dumps(wrong))
    with pytest.raises(InputError, match=r"dt\.json: expected a list of predictions, got .*swapped\?"):
        evaluate_keypoints(document(), file)


def test_a_list_of_something_else(parser: str, tmp_path: Path) -> None:
    file = tmp_path / "dt.json"
    file.write_text(json.dumps([guess(0.9), 3]))
    with pytest.raises(
        InputError, match=r"dt\.json: prediction number 1: expected an object with fields, got int"
    ):
        evaluate_keypoints(document(), file)


def test_a_list_is_no_ground_truth(parser: str, tmp_path: Path) -> None:
    file = tmp_path / "gt.json"
    file.write_text("[]")
    with pytest.raises(InputError, match=r"expected a COCO dictionary, got list; .*swapped\?"):
        evaluate_boxes(file, [])


BROKEN = {
    "truncated": (json.dumps(document())[:-40].encode(), r"\(.*char \d+\)\); is the file complete\?"),
    "empty": (b"", r"\(the file is empty\); write it again"),
    "blank": (b" \n", r"\(the file is empty\); write it again"),
    "binary": (bytes(range(256)), r"\(.*\); is the file complete\?"),
    "deep": (b"[" * 100_000, r"\(too many brackets within each other\)"),
    "not UTF-8": ('{"images": "ü'.encode()[:-1], r"\(.*utf-8.*\); is the file complete\?"),
    "something behind it": (b"[] []", r"\(Extra data.*\); is the file complete\?"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_no_json(case: str, parser: str, tmp_path: Path) -> None:
    content, message = BROKEN[case]
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    with pytest.raises(FileError, match=rf"bad\.json: not valid json {message}"):
        evaluate_boxes(file, [])
    with pytest.raises(FileError, match=rf"bad\.json: not valid json {message}"):
        evaluate_boxes(document(), file)


def test_where_a_long_file_is_broken_is_said_of_the_whole_file(
    parser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "BLOCK", 600)
    text = json.dumps([guess(0.5)] * 20)
    file = tmp_path / "dt.json"
    file.write_text(text[:-1])
    with pytest.raises(FileError, match=rf"char {len(text) - 1}\)\); is the file complete"):
        evaluate_keypoints(document(), file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps(document()).encode())
    (tmp_path / "short.json.gz").write_bytes(packed[:-20])
    (tmp_path / "garbled.json.gz").write_bytes(packed[:40] + b"garbled" + packed[47:])
    (tmp_path / "no.json.gz").write_bytes(b"no gzip")
    (tmp_path / "folder.json").mkdir()
    for name in ("none.json", "folder.json", "short.json.gz", "garbled.json.gz", "no.json.gz"):
        with pytest.raises(FileError, match=f"{name}: cannot be read: "):
            evaluate_boxes(tmp_path / name, [])
        with pytest.raises(FileError, match=f"{name}: cannot be read: "):
            evaluate_boxes(document(), tmp_path / name)


# ------------------------------------------------------------------ what is read


def test_whole_floats_are_ids_and_large_ids_stay_exact() -> None:
    big = 2**53 + 1  # no float64
    gt = truth([person(big), person(1.0)])  # type: ignore[arg-type]
    assert m.read_ground_truth(gt).ids.tolist() == [big, 1]


def test_digest_and_order(tmp_path: Path) -> None:
    gt = truth([person(5, image_id=2)], images=2)
    gt["images"].reverse()
    plain, packed = tmp_path / "gt.json", tmp_path / "gt.json.gz"
    plain.write_text(json.dumps(gt))
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    for file in (plain, packed):
        read = m.read_ground_truth(file, keypoints=17)
        assert read.image_ids.tolist() == [1, 2] and read.file_names == ("1.jpg", "2.jpg")
        assert read.image.tolist() == [1] and read.image_sizes.tolist() == [[640, 480]] * 2
        assert read.digest == hashlib.sha256(file.read_bytes()).hexdigest()  # of the file as it is on disk


def test_crowds_may_be_booleans() -> None:
    gt = truth([person(1, iscrowd=True), person(2, iscrowd=False), person(3, iscrowd=1)])
    del gt["annotations"][1]["iscrowd"]
    assert m.read_ground_truth(gt).crowd.tolist() == [True, False, True]


def test_the_same_prediction_twice_is_a_prediction_and_a_false_alarm() -> None:
    assert evaluate_keypoints(document(), [guess(0.9)] * 2).counts["predictions"] == 2


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


# ------------------------------------------------------------------ piece by piece


def written(folder: Path, content: Any, **how: Any) -> Path:
    file = folder / "dt.json"
    file.write_text(json.dumps(content, **how), encoding="utf-8")
    return file


def many(n: int = 40) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for i in range(n):
        points = rng.uniform(-10, 700, (17, 3)) * 10.0 ** rng.integers(-20, 20, (17, 3))
        sides = {"presence": rng.uniform(size=17).tolist(), "keypoint_quality": [1] * 17}
        yield guess(float(rng.uniform()), keypoints=points.ravel().tolist(), annotation_id=i, **sides)


@pytest.mark.parametrize("indent", [None, 1])
def test_pieces_and_parsers_give_the_same_bits(
    indent: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gt, dt = m.read_ground_truth(document(), keypoints=17), list(many())
    whole = m.read_predictions(dt, gt, keypoints=17)
    assert whole.quality is not None and whole.annotation_ids is not None
    file = written(tmp_path, dt, indent=indent)
    for hidden in (False, True):
        if hidden:
            monkeypatch.setitem(sys.modules, "orjson", None)
        for block in (1, 700, 5000, 10**6):
            monkeypatch.setattr(records, "BLOCK", block)
            read = m.read_predictions(file, gt, keypoints=17)
            assert read.digest == hashlib.sha256(file.read_bytes()).hexdigest()
            for f in fields(read)[2:]:
                mine, expected = getattr(read, f.name), getattr(whole, f.name)
                assert (mine is None) == (expected is None), f.name
                assert mine is None or np.array_equal(mine, expected, equal_nan=True), f.name


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file comes prediction by prediction."""
    monkeypatch.setattr(records, "BLOCK", 1)


@pytest.mark.usefixtures("in_pieces")
def test_predictions_are_counted_through_all_pieces(parser: str, tmp_path: Path) -> None:
    dt = list(many())
    dt[33]["keypoints"][7] = None
    with pytest.raises(InputError, match=r"dt\.json: prediction number 33: field 'keypoints' must be"):
        evaluate_keypoints(document(), written(tmp_path, dt))


@pytest.mark.usefixtures("in_pieces")
@pytest.mark.parametrize(("lacking", "named"), [([0, 1, 2], 0), ([30, 35], 30)])
def test_who_lacks_a_side_output_is_named_in_whatever_piece(
    lacking: list[int], named: int, tmp_path: Path
) -> None:
    dt = list(many())
    for i in lacking:
        del dt[i]["presence"]
    with pytest.raises(InputError, match=f"number {named}: field 'presence' is missing, which others have"):
        evaluate_keypoints(document(), written(tmp_path, dt))


@pytest.mark.usefixtures("in_pieces")
def test_boxes_in_some_pieces_only(tmp_path: Path) -> None:
    dt = list(many())
    dt[31]["bbox"] = [1, 2, 3, 4]
    with pytest.raises(
        InputError, match="number 31 has field 'bbox', unlike the first one: give a bbox to all"
    ):
        evaluate_keypoints(document(), written(tmp_path, dt))
    gt = m.read_ground_truth(document(), keypoints=17)
    read = m.read_predictions(written(tmp_path, dt), gt, keypoints=17, mixed_boxes=True)
    assert np.flatnonzero(~np.isnan(read.boxes[:, 0])).tolist() == [31]


@pytest.mark.usefixtures("in_pieces")
def test_annotation_ids_that_some_lack_are_no_column(tmp_path: Path) -> None:
    gt = m.read_ground_truth(document(), keypoints=17)
    for lacking in (0, 31):
        dt = list(many())
        del dt[lacking]["annotation_id"]
        assert m.read_predictions(written(tmp_path, dt), gt, keypoints=17).annotation_ids is None


TEXTS = st.text(st.sampled_from('a},{[]\\": ü'), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.dictionaries(TEXTS, VALUES, max_size=3) | VALUES, max_size=5) | VALUES,
    st.integers(1, 40),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
)
def test_pieces_of_any_document_are_the_document(
    tmp_path: Path, parser: str, content: Any, block: int, indent: int | None, ascii_only: bool
) -> None:
    file = written(tmp_path, content, indent=indent, ensure_ascii=ascii_only)
    before, records.BLOCK = records.BLOCK, block
    try:
        pieces = list(records.stream_json(file, hashlib.sha256()))
    finally:
        records.BLOCK = before
    joined = [x for p in pieces for x in p] if isinstance(content, list) else pieces[0]
    assert json.dumps(joined) == json.dumps(content)
    assert isinstance(content, list) or len(pieces) == 1


DIGITS = st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(DIGITS, min_size=3, max_size=3))
def test_numbers_are_those_of_python_to_the_last_bit(tmp_path: Path, digits: list[str]) -> None:
    file = tmp_path / "numbers.json"
    file.write_text("[{" + f'"a": [{", ".join(digits)}]' + "}]")
    (piece,) = records.stream_json(file, hashlib.sha256())
    expected = np.array([float(d) for d in digits])
    if np.isfinite(expected).all():
        assert np.array_equal(m.numbers(piece, "a", "entry", (3,))[0], expected)
    else:
        with pytest.raises(InputError, match="entry number 0: field 'a' must be 3 finite numbers"):
            m.numbers(piece, "a", "entry", (3,))


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
        assert all(v is not None and np.isfinite(v) for v in r.numbers.values())
