"""Small models in ONNX files, so that commands run in milliseconds: a pose model, a detector, a segmenter, a pose
model whose network is another one than its card says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.models.cards import Card, Decode, Detection, Licenses, Preprocess, Segmentation
from bodyloop.skeletons import COCO

onnx = pytest.importorskip("onnx", reason="the stand-ins are written with the onnx package")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

LICENSES = Licenses("Apache-2.0", "none", "none")
POSE = Card(
    name="stand-in-pose",
    kind="pose",
    architecture="stand-in",
    licenses=LICENSES,
    preprocess=Preprocess(size=(48, 64), map_size=(12, 16), input="uint8-nhwc", mask_alpha=0.25),
    head="probability",
    skeleton=COCO,
    decode=Decode("expected-oks"),
    outputs=("maps", "presence", "quality"),
)
DETECTOR = Card(
    name="stand-in-detector",
    kind="detector",
    architecture="stand-in",
    licenses=LICENSES,
    preprocess=Preprocess(size=(64, 64), input="uint8-nhwc"),
    detection=Detection(score_threshold=0.3),
)
SEGMENTER = Card(
    name="stand-in-segmenter",
    kind="segmenter",
    architecture="stand-in",
    licenses=LICENSES,
    preprocess=Preprocess(size=(48, 64), map_size=(48, 64), input="uint8-nhwc"),
    skeleton=COCO,
    segmentation=Segmentation("crops"),
    outputs=("masks", "scores"),
)


def write_pose(path: Path, card: Card = POSE, keypoints: int = 17) -> Path:
    """Keypoint k is drawn to row k of the crop; presence is the crop's brightness."""
    k = keypoints
    rng = np.random.default_rng(1)
    pull = (rng.random((1, k, 16, 12)) ** 8 + 1e-3).astype(np.float32)
    share = np.linspace(0.5, 1.0, k, dtype=np.float32)[None]
    nodes = [
        helper.make_node("Cast", ["crops"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["nchw"], ["small"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("ReduceMean", ["small", "channel"], ["grey"], keepdims=1),
        helper.make_node("Add", ["grey", "one"], ["light"]),
        helper.make_node("Mul", ["light", "pull"], ["pulled"]),
        helper.make_node("ReduceSum", ["pulled", "plane"], ["mass"], keepdims=1),
        helper.make_node("Div", ["pulled", "mass"], ["maps"]),
        helper.make_node("ReduceMean", ["grey", "rest"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "white"], ["bright"]),
        helper.make_node("Mul", ["bright", "share"], ["presence"]),
        helper.make_node("Sqrt", ["presence"], ["quality"]),
    ]
    constants = {
        "channel": np.array([1]), "plane": np.array([2, 3]), "rest": np.array([2, 3]),
        "one": np.float32(1), "white": np.float32(255), "pull": pull, "share": share,
    }  # fmt: skip
    sides = [("presence", ["n", k]), ("quality", ["n", k])]
    return _write(
        path, nodes, constants, ("crops", ["n", 64, 48, 3]), [("maps", ["n", k, 16, 12]), *sides], card
    )


def write_detector(path: Path, card: Card = DETECTOR) -> Path:
    """One person, in the middle, whatever the picture shows."""
    priors = 64 + 16 + 4
    boxes = np.tile(np.float32([8, 4, 56, 60]), (1, priors, 1))
    scores = np.full((1, priors, 1), 0.01, np.float32)
    scores[0, 5] = 0.9
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "all"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Unsqueeze", ["zero", "tail"], ["zeros"]),
        helper.make_node("Add", ["zeros", "fixed_boxes"], ["boxes"]),
        helper.make_node("Add", ["zeros", "fixed_scores"], ["scores"]),
    ]
    constants = {
        "all": np.array([1, 2, 3]), "tail": np.array([1, 2]), "nothing": np.float32(0),
        "fixed_boxes": boxes, "fixed_scores": scores,
    }  # fmt: skip
    outputs = [("boxes", ["n", priors, 4]), ("scores", ["n", priors, 1])]
    return _write(path, nodes, constants, ("images", ["n", 64, 64, 3]), outputs, card)


def write_segmenter(path: Path, card: Card = SEGMENTER) -> Path:
    """The mask is what is bright in the crop."""
    nodes = [
        helper.make_node("Cast", ["crops"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "channel"], ["grey"], keepdims=0),
        helper.make_node("Sub", ["grey", "middle"], ["light"]),
        helper.make_node("ReduceMean", ["prompts", "rest"], ["told"], keepdims=0),
        helper.make_node("Mul", ["told", "nothing"], ["zero"]),
        helper.make_node("Unsqueeze", ["zero", "plane"], ["zeros"]),
        helper.make_node("Add", ["light", "zeros"], ["masks"]),
        helper.make_node("Add", ["zero", "sure"], ["scores"]),
    ]
    constants = {
        "channel": np.array([3]), "rest": np.array([1, 2, 3]), "plane": np.array([1, 2]),
        "middle": np.float32(110), "nothing": np.float32(0), "sure": np.float32(0.8),
    }  # fmt: skip
    outputs = [("masks", ["n", 64, 48]), ("scores", ["n"])]
    prompts = helper.make_tensor_value_info("prompts", TensorProto.FLOAT, ["n", 13, 16, 12])
    return _write(path, nodes, constants, ("crops", ["n", 64, 48, 3]), outputs, card, [prompts])


def _write(
    path: Path,
    nodes: list[Any],
    constants: dict[str, Any],
    given: tuple[str, list[Any]],
    made: Any,
    card: Card,
    more: list[Any] | None = None,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "stand-in",
        [helper.make_tensor_value_info(given[0], TensorProto.UINT8, given[1]), *(more or [])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in made],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, replace(card).to_metadata())
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (120, 160)) -> Path:
    """A photo-like file: a bright figure on a dark ground."""
    import PIL.Image

    rng = np.random.default_rng(seed)
    w, h = size
    pixels = rng.integers(0, 60, (h, w, 3)).astype(np.uint8)
    pixels[h // 6 : -h // 8, w // 4 : -w // 4] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)
    return path
