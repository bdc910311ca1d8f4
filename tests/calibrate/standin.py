"""A pose model in an ONNX file whose honest temperatures are known, and photos that are labelled by them.

Its map logits are fixed, presence and visibility follow the grey of the photo. Labels are drawn from what the model
says at other temperatures than it has: calibration must find those.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bodyloop.geometry import Crop
from bodyloop.maps import sparsemax
from bodyloop.models.cards import Card, Decode, Licenses, Preprocess
from bodyloop.skeletons import COCO

onnx = pytest.importorskip("onnx", reason="the stand-in is written with the onnx package")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

K, W, H = 17, 12, 16
TRUE = {"maps": 24.0, "presence": 2.0, "visibility": 0.5}  # temperatures that made the labels
HAS = {"maps": 6.0, "presence": 1.0, "visibility": 1.0}
STEPS = 5  # fewer than its maps need
CARD = Card(
    name="stand-in-pose",
    kind="pose",
    architecture="stand-in",
    licenses=Licenses("Apache-2.0", "none", "none"),
    preprocess=Preprocess(size=(48, 64), map_size=(W, H), input="uint8-nhwc"),
    head="probability",
    skeleton=COCO,
    decode=Decode("expected-oks", temperature=6.0, presence_threshold=0.3),
    outputs=("maps", "presence", "visibility"),
)
SHIFT = np.linspace(-1, 1, K)  # of the logits of presence and visibility


def map_logits() -> npt.NDArray[np.float32]:
    """(K, H, W): two bumps each, one to either side, with a little noise."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:H, :W]
    out = np.empty((K, H, W))
    for k in range(K):
        (ax, bx), (ay, by) = rng.uniform(1, W - 2, 2), rng.uniform(1, H - 2, 2)
        a, b = (x - ax) ** 2 + (y - ay) ** 2, (x - bx) ** 2 + (y - by) ** 2
        out[k] = 8 * np.exp(-a / 30) + 5 * np.exp(-b / 40) + 0.2 * rng.normal(size=(H, W))
    return out.astype(np.float32)


def side_logits(grey: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N, K) from greys (N,) in 0..255."""
    return 6 * (grey / 255 - 0.5)[:, None] + SHIFT


def write_model(path: Path, card: Card = CARD, steps: int = STEPS) -> Path:
    """The file, with logits, maps, presence and visibility as outputs and temperatures as initialisers."""
    n = helper.make_node
    nodes = [
        n("Cast", ["crops"], ["float"], to=TensorProto.FLOAT),
        n("ReduceMax", ["float", "pixels"], ["grey"], keepdims=0),
        n("Unsqueeze", ["grey", "last"], ["column"]),
        n("Mul", ["column", "gain"], ["lit"]),
        n("Add", ["lit", "shift"], ["side"]),
        *[n("Div", ["side", f"temperature.{t}"], [f"{t}_z"]) for t in ("presence", "visibility")],
        *[n("Sigmoid", [f"{t}_z"], [t]) for t in ("presence", "visibility")],
        n("Mul", ["grey", "nothing"], ["zero"]),
        n("Unsqueeze", ["zero", "tail"], ["zeros"]),
        n("Add", ["fixed", "zeros"], ["logits"]),
        n("Reshape", ["logits", "flat"], ["rows"]),
        n("Div", ["rows", "temperature.maps"], ["scaled"]),
        n("ReduceMax", ["scaled", "cells"], ["top"]),
        n("Sub", ["scaled", "top"], ["z"]),
        n("Sub", ["top", "top"], ["nought"]),
        n("Sub", ["nought", "one"], ["t0"]),
    ]
    for i in range(steps):
        nodes += [
            n("Sub", ["z", f"t{i}"], [f"over{i}"]), n("Relu", [f"over{i}"], [f"relu{i}"]),
            n("ReduceSum", [f"relu{i}", "cells"], [f"sum{i}"]), n("Sub", [f"sum{i}", "one"], [f"excess{i}"]),
            n("Greater", [f"over{i}", "naught"], [f"in{i}"]),
            n("Cast", [f"in{i}"], [f"count{i}"], to=TensorProto.FLOAT),
            n("ReduceSum", [f"count{i}", "cells"], [f"support{i}"]),
            n("Clip", [f"support{i}", "one"], [f"least{i}"]), n("Div", [f"excess{i}", f"least{i}"], [f"step{i}"]),
            n("Add", [f"t{i}", f"step{i}"], [f"t{i + 1}"]),
        ]  # fmt: skip
    nodes += [
        n("Sub", ["z", f"t{steps}"], ["above"]),
        n("Relu", ["above"], ["p"]),
        n("Reshape", ["p", "square"], ["maps"]),
    ]
    shift = SHIFT - 3.0
    values: dict[str, Any] = {
        "pixels": np.array([1, 2, 3]), "last": np.array([1]), "gain": np.float32(6 / 255),
        "shift": shift.astype(np.float32), "nothing": np.float32(0), "tail": np.array([1, 2, 3]),
        "fixed": map_logits()[None], "flat": np.array([0, K, W * H]), "cells": np.array([2]),
        "one": np.float32(1), "naught": np.float32(0), "square": np.array([0, K, H, W]),
        **{f"temperature.{t}": np.float32(v) for t, v in HAS.items()},
    }  # fmt: skip
    shapes = {"logits": ["n", K, H, W], "maps": ["n", K, H, W], "presence": ["n", K], "visibility": ["n", K]}
    graph = helper.make_graph(
        nodes,
        "stand-in",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["n", 64, 48, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in shapes.items()],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {**card.to_metadata(), "kept": "as it is"})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def write_photos(folder: Path, photos: int, *, first_id: int = 1, name: str = "dev") -> Path:
    """Grey photos with one or two people, labelled by the model at its true temperatures."""
    import cv2

    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(first_id)
    maps = sparsemax(map_logits(), TRUE["maps"]).reshape(K, -1).astype(np.float64)
    held = maps.cumsum(axis=1) / maps.sum(axis=1, keepdims=True)
    images, people = [], []
    for i in range(first_id, first_id + photos):
        grey = int(rng.integers(20, 236))
        cv2.imwrite(str(folder / "images" / f"{name}{i}.png"), np.full((90, 120, 3), grey, np.uint8))
        images.append({"id": i, "width": 120, "height": 90, "file_name": f"{name}{i}.png"})
        side = side_logits(np.array([float(grey)]))[0]
        for p in range(int(rng.integers(1, 3))):
            box = [10 + 55 * p, 10, 40, 60]
            crop = Crop.from_boxes(
                [[box[0], box[1], box[0] + 40, box[1] + 60]], size=(48, 64), map_size=(W, H)
            )
            cell = (held < rng.random((K, 1))).sum(axis=1)
            points = crop.from_map(np.stack([cell % W, cell // W], axis=-1)[None].astype(np.float64))[0]
            inside = rng.random(K) < 1 / (1 + np.exp(-side / TRUE["presence"]))
            seen = rng.random(K) < 1 / (1 + np.exp(-side / TRUE["visibility"]))
            points[~inside] = [500, 500]
            flags = np.where(inside, np.where(seen, 2, 1), 3)
            people.append(
                {
                    "id": 10 * i + p, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": box, "area": 2400.0,
                    "num_keypoints": K, "keypoints": np.column_stack([points, flags]).ravel().tolist(),
                }
            )  # fmt: skip
    category = {"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"images": images, "annotations": people, "categories": [category]}))
    return path
