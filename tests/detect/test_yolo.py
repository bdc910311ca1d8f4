"""YOLO files made here, one of each layout: shapes tell what the numbers mean, pixels arrive as the family wants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from bodyloop.api import load_detector  # noqa: E402
from bodyloop.detect.instances import level_sizes, priors  # noqa: E402
from bodyloop.detect.yolo import recognise  # noqa: E402
from bodyloop.errors import ConfigError, FileError, InputError, ModelError  # noqa: E402
from bodyloop.images import Image  # noqa: E402
from bodyloop.models.cards import Card, Detection, Licenses, Preprocess  # noqa: E402
from bodyloop.roles import Detector  # noqa: E402

SIDE = 96
CELLS = sum(level_sizes((SIDE, SIDE)))  # 144 + 36 + 9
Table = dict[str, Any]


def save(path: Path, nodes: list[Any], consts: Table, outputs: list[str], **more: Any) -> Path:
    """A graph from ``images`` to ``outputs``, float32 unless said otherwise."""
    shape, kind = more.get("shape", ["batch", 3, SIDE, SIDE]), more.get("kind", TensorProto.FLOAT)
    graph = helper.make_graph(
        nodes, "yolo",
        [helper.make_tensor_value_info("images", kind, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in consts.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if "names" in more:
        helper.set_model_props(model, {"names": str(more["names"])})
    onnx.save(model, str(path))
    return path


def brightness(channel: int, factor: float) -> tuple[list[Any], Table]:
    """``scores`` (B, cells, 1): brightness of a channel in each block of 8 px, 0 in the coarse levels."""
    coarse = CELLS - level_sizes((SIDE, SIDE))[0]
    nodes = [
        helper.make_node("Slice", ["images", "from", "to", "one"], ["channel"]),
        helper.make_node("AveragePool", ["channel"], ["blocks"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Reshape", ["blocks", "column"], ["fine"]),
        helper.make_node("Mul", ["fine", "factor"], ["fine_scores"]),
        helper.make_node("Pad", ["fine_scores", "pads"], ["scores"]),
    ]
    consts: Table = {
        "from": np.array([channel]), "to": np.array([channel + 1]), "one": np.array([1]),
        "column": np.array([0, -1, 1]), "factor": np.float32(factor), "pads": np.array([0, 0, 0, 0, coarse, 0]),
    }  # fmt: skip
    return nodes, consts


def boxes(raw: bool) -> np.ndarray:
    """(1, cells, 4) centre and size: blocks of 8 px about each prior's block, in px or YOLOX's own units."""
    points, strides = priors((SIDE, SIDE))
    if raw:
        return np.tile(np.float32([0.5, 0.5, 0, 0]), (1, CELLS, 1))
    return np.concatenate([points + strides[:, None] / 2, np.repeat(strides[:, None], 2, 1)], 1)[None].astype(
        np.float32
    )


def make(path: Path, family: str, **more: Any) -> Path:
    """A detector of white blocks in the layout of a family, class 0 of ``classes`` being the person."""
    blue = family.startswith("yolox")
    classes, person = more.pop("classes", 80), more.pop("person", 0)
    nodes, consts = brightness(2 if blue else 0, 1 / 255 if blue else 1.0)
    others = np.zeros((1, CELLS, classes), np.float32)
    others[..., person] = 1.0
    consts |= {"zero": np.float32(0), "boxes": boxes(family == "yolox raw"), "which": others}
    nodes += [
        helper.make_node("Mul", ["scores", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "boxes"], ["placed"]),  # as many as there are pictures
        helper.make_node("Add", ["nothing", "which"], ["certain"]),
        helper.make_node("Mul", ["scores", "which"], ["each"]),
    ]
    if family in ("yolox", "yolox raw", "yolov5", "yolov6"):
        first = "ones" if family == "yolov6" else "scores"
        consts["unit"] = np.float32(1)
        nodes.append(helper.make_node("Add", ["nothing", "unit"], ["ones"]))
        last = "each" if family == "yolov6" else "certain"
        nodes.append(helper.make_node("Concat", ["placed", first, last], ["rows"], axis=2))
        if family == "yolov5":  # three boxes a cell
            nodes.append(helper.make_node("Concat", ["rows", "rows", "rows"], ["output"], axis=1))
        else:
            nodes.append(helper.make_node("Identity", ["rows"], ["output"]))
        return save(path, nodes, consts, ["output"], **more)
    rows = ["placed", "each"]
    outputs = ["output"]
    if family == "yolov8 masks":
        prototypes = np.full((1, 2, SIDE // 4, SIDE // 4), -1, np.float32)
        prototypes[0, 0, :8] = 1  # the upper third of the picture
        consts |= {"coefficients": np.tile(np.float32([1, 0]), (1, CELLS, 1)), "prototypes": prototypes}
        nodes.append(helper.make_node("Add", ["nothing", "coefficients"], ["mixed"]))
        nodes.append(helper.make_node("ReduceMean", ["nothing"], ["none"], axes=[1], keepdims=1))
        consts["shape4"] = np.array([0, 1, 1, 1])
        nodes.append(helper.make_node("Reshape", ["none", "shape4"], ["none4"]))
        nodes.append(helper.make_node("Add", ["none4", "prototypes"], ["masks"]))
        rows, outputs = ["placed", "each", "mixed"], ["output", "masks"]
    nodes.append(helper.make_node("Concat", rows, ["rows"], axis=2))
    nodes.append(helper.make_node("Transpose", ["rows"], ["output"], perm=[0, 2, 1]))
    return save(path, nodes, consts, outputs, **more)


def photo(colour: tuple[int, int, int] = (255, 0, 0)) -> Image:
    """192 x 144 px, black, with a square of 16 px at (32, 64): a block of 8 on the canvas."""
    pixels = np.zeros((144, 192, 3), np.uint8)
    pixels[64:80, 32:48] = colour
    return Image(pixels, id=7)


SQUARE = [32.0, 64.0, 48.0, 80.0]
FAMILIES = ["yolox", "yolox raw", "yolov5", "yolov6", "yolov8", "yolov8 masks"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tmp_path: Path, family: str) -> None:
    """Red is looked at, wherever the family has it; brightness comes as 0..255 or 0..1."""
    detector = load_detector(make(tmp_path / "some file.onnx", family))
    assert isinstance(detector, Detector) and str(detector) == "some file"
    (people,) = detector.detect([photo()])
    assert people.boxes is not None and people.scores is not None
    assert people.boxes.tolist() == [SQUARE] and np.allclose(people.scores, 1.0, atol=1e-5)
    assert people.source is not None and people.source.image_id == 7
    dark, red = detector.detect([photo((0, 255, 255)), photo((128, 0, 0))])
    assert len(dark) == 0 and red.scores is not None
    assert np.allclose(red.scores, 128 / 255, atol=1e-3)
    (none,) = load_detector(tmp_path / "some file.onnx", score_threshold=0.6).detect([photo((128, 0, 0))])
    assert len(none) == 0
    if family == "yolov8 masks":
        assert people.masks is not None
        inside = people.masks.bitmaps()[0]
        assert inside[64:64].sum() == 0 and people.masks.areas.tolist() == [
            0
        ]  # the square is in the lower half
    else:
        assert people.masks is None


def test_masks_end_at_their_boxes(tmp_path: Path) -> None:
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[24:32, 8:16] = 255
    detector = load_detector(make(tmp_path / "m.onnx", "yolov8 masks"))
    (people,) = detector.detect([Image(pixels)])
    assert people.masks is not None
    x, y, cut = people.masks.cut(0)
    assert (x, y, cut.shape) == (8, 24, (8, 8)) and cut.all()  # rows 0 to 31 are inside, the box 24 to 31


def sorted_file(path: Path, **more: Any) -> Path:
    """End to end: three boxes with score and class, of which the second is a person's."""
    rows = np.float32(
        [[0, 0, 30, 30, 0.9, 2], [10, 10, 40, 40, 0.8, 0], [11, 10, 40, 40, 0.7, 0], [0, 0, 9, 9, 0.1, 0]]
    )
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing4"]),
        helper.make_node("Reshape", ["nothing4", "flat"], ["nothing"]),
        helper.make_node("Add", ["nothing", "rows"], ["output"]),
    ]
    consts = {"zero": np.float32(0), "flat": np.array([0, 1, 1]), "rows": rows[None]}
    return save(path, nodes, consts, ["output"], **more)


def test_sorted_boxes_are_taken_as_they_are(tmp_path: Path) -> None:
    path = sorted_file(
        tmp_path / "e.onnx", shape=[1, 3, SIDE, SIDE], names={0: "person", 1: "bicycle", 2: "car"}
    )
    wide = Image(np.zeros((2 * SIDE // 3, 2 * SIDE, 3), np.uint8))
    first, second = load_detector(path).detect([wide, Image(np.zeros((SIDE, SIDE, 3), np.uint8))])
    assert first.boxes is not None and second.boxes is not None
    assert first.boxes.tolist() == [[20, 20, 80, 64], [22, 20, 80, 64]]  # cut at the photo, none suppressed
    assert second.boxes.tolist() == [[10, 10, 40, 40], [11, 10, 40, 40]]


@pytest.mark.parametrize(
    ("names", "person"),
    [({0: "cat", 1: "Person"}, 1), (["dog", "person"], 1), ({0: "person", 1: "x"}, 0)],
    ids=["dict", "list", "first"],
)
def test_the_file_says_which_class_is_the_person(tmp_path: Path, names: object, person: int) -> None:
    path = make(tmp_path / "n.onnx", "yolov8", classes=2, person=person, names=names)
    (people,) = load_detector(path).detect([photo()])
    assert len(people) == 1


def test_one_class_is_the_person(tmp_path: Path) -> None:
    (people,) = load_detector(make(tmp_path / "o.onnx", "yolox", classes=1)).detect([photo()])
    assert len(people) == 1


@pytest.mark.parametrize(
    "names",
    ["", "{0: 'cat', 1: 'dog'}", "__import__('os').system('x')", "{", "[" * 9999, "{'a': 1}"],
    ids=repr,
)
def test_nobody_knows_which_class_is_the_person(tmp_path: Path, names: str) -> None:
    path = make(tmp_path / "x.onnx", "yolov8", classes=2, names=names)
    with pytest.raises(ModelError, match=r"x: tells 2 classes apart .*put a card beside"):
        load_detector(path)


def test_a_card_beside_the_file_decides(tmp_path: Path) -> None:
    path = make(tmp_path / "mine.onnx", "yolov8", classes=3, person=2)
    card = Card(
        "mine", "detector", "yolov8", Licenses("a", "b", "c"),
        Preprocess((SIDE, SIDE), mean=(0, 0, 0), std=(510, 510, 510)),
        detection=Detection(num_classes=3, person_class=2, score_threshold=0.4),
    )  # fmt: skip
    (tmp_path / "mine.toml").write_text(card.to_toml())
    (people,) = load_detector(path).detect([photo()])
    assert people.scores is not None and np.allclose(people.scores, 0.5)
    (tmp_path / "mine.toml").write_text(replace(card, preprocess=Preprocess((64, 64))).to_toml())
    with pytest.raises(ModelError, match=r"mine: takes pictures of 96 x 96 px; its card says \[64, 64\]"):
        load_detector(path)
    (tmp_path / "mine.toml").write_text(
        replace(card, detection=Detection(num_classes=9, person_class=8)).to_toml()
    )
    with pytest.raises(ModelError, match="person_class is not in the file"):
        load_detector(path)
    (tmp_path / "mine.toml").write_text("name = 3")
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        load_detector(path)


def constant(path: Path, shapes: dict[str, tuple[int, ...]], **more: Any) -> Path:
    nodes, consts = [], {}
    for n, s in shapes.items():
        consts[f"{n}.value"] = np.zeros(s, np.float32)
        nodes.append(helper.make_node("Identity", [f"{n}.value"], [n]))
    return save(path, nodes, consts, list(shapes), **more)


@pytest.mark.parametrize(
    "shapes",
    [
        {"a": (1, 1000)},
        {"a": (1, 84, 85, 2)},
        {"a": (1, CELLS - 1, 85)},
        {"a": (1, CELLS, 5)},
        {"a": (1, 3, CELLS)},
        {"dets": (1, 10, 5), "labels": (1, 10)},
        {"a": (1, 64, 85), "b": (1, 16, 85), "c": (1, 4, 85)},
        {"boxes": (1, CELLS, 4), "scores": (1, CELLS, 80)},
        {"a": (1, CELLS, 85), "masks": (1, 32, 16, 16)},
    ],
    ids=str,
)
def test_other_layouts_are_refused(tmp_path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    path = constant(tmp_path / "odd.onnx", shapes)
    with pytest.raises(ModelError, match=r"odd: its outputs \(.*\) are of no layout that is known"):
        load_detector(path)


def test_layouts_by_shape() -> None:
    full = (640, 640)
    assert recognise({"o": (1, 8400, 85)}, full).family == "yolox"
    assert recognise({"o": (1, 25200, 85)}, full).classes == 80
    v8 = recognise({"o": (1, 116, 8400), "p": (1, 32, 160, 160)}, full)
    assert (v8.family, v8.classes, v8.prototypes, v8.coefficients) == ("yolov8", 80, "p", 32)
    v5 = recognise({"o": (1, 25200, 117), "p": (1, 32, 160, 160)}, full)
    assert (v5.family, v5.classes, v5.coefficients) == ("yolov5", 80, 32)
    assert recognise({"o": (1, 300, 6)}, full).family == "yolo-end-to-end"
    assert recognise({"o": (1, 300, 38), "p": (1, 32, 160, 160)}, full).coefficients == 32
    assert recognise({"o": (1, 2100, 6)}, (320, 320)).family == "yolox"  # one class, 320 px


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"shape": [1, 3, 100, 100]}, "multiples of 32"),
        ({"shape": [1, 4, SIDE, SIDE]}, "one picture"),
        ({"shape": [1, SIDE]}, "one picture"),
        ({"kind": TensorProto.INT64}, "one picture"),
        ({"kind": TensorProto.STRING}, "onnxruntime|tensor"),
    ],
    ids=str,
)
def test_other_inputs_are_refused(tmp_path: Path, more: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        load_detector(constant(tmp_path / "odd.onnx", {"a": (1, CELLS, 85)}, **more))


def test_damaged_files_and_options(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x01nonsense")
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        load_detector(tmp_path / "bad.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="empty"):
        load_detector(tmp_path / "empty.onnx")
    with pytest.raises(FileError, match=r"gone\.onnx"):
        load_detector(tmp_path / "gone.onnx")
    path = make(tmp_path / "y.onnx", "yolox")
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="score_threshold"):
            load_detector(path, score_threshold=bad)
    with pytest.raises(InputError, match="dtype"):
        load_detector(path, dtype="bf16")


@pytest.mark.parametrize("size", [(1, 1), (4000, 20), (20, 4000)], ids=str)
def test_odd_photos(tmp_path: Path, size: tuple[int, int]) -> None:
    white = Image(np.full((size[1], size[0], 3), 255, np.uint8))
    (people,) = load_detector(make(tmp_path / "y.onnx", "yolov8 masks")).detect([white])
    assert people.boxes is not None and people.masks is not None and len(people) > 0
    assert (people.boxes >= 0).all() and (people.boxes <= np.tile(size, 2)).all()
    assert people.masks.size == size
