"""The evaluator against the stored numbers of pycocotools, xtcocotools and the stated standard."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bodyloop.eval import evaluate_boxes, evaluate_keypoints
from bodyloop.eval.evidence import APReport
from bodyloop.geometry import activation_windows, padding_to_contain
from tests.eval.stored import arrays, check_report, close, load_json, paths, sets

TOOLS = ("pycocotools", "xtcocotools")


def evaluated(name: str, protocol: str) -> APReport:
    entry = load_json("expected.json")[name]
    if entry["kind"] == "bbox":
        return evaluate_boxes(*paths(name), protocol=protocol)
    own = {"sigmas": entry["sigmas"]} if entry.get("sigmas") else {}
    return evaluate_keypoints(*paths(name), protocol=protocol, **own)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", sets("kpt", "bbox"))
def test_tool(name: str, tool: str) -> None:
    expected: dict[str, Any] = load_json("expected.json")[name]["tools"][tool]
    report = evaluated(name, tool)
    if "error" in expected:  # the tool fails where nothing is predicted: a result must come all the same
        assert name == "k15_no_predictions"
        numbers = load_json("standard.json")[name]["coco"]
        assert report.numbers == {k: numbers[k] for k in report.numbers}
        return
    assert list(report.numbers.values()) == expected["stats"]  # to the last bit, xtcocotools', too
    check_report(report, name, tool)


@pytest.mark.parametrize("name", sets("kpt"))
def test_standard_keypoints(name: str) -> None:
    check_report(evaluated(name, "standard"), name, "coco")


@pytest.mark.parametrize("name", sets("bbox"))
def test_standard_boxes_are_those_of_pycocotools(name: str) -> None:
    check_report(evaluated(name, "standard"), name, "pycocotools")


@pytest.mark.parametrize("padding", [1.0, 1.1, 1.25, 1.5])
def test_window(padding: float) -> None:
    stored = arrays("window.npz")
    boxes, expected = stored["boxes_xywh"], stored[f"window_xyxy_{padding}"]
    close(activation_windows(boxes, padding, single=True), expected, 1e-9)
    close(activation_windows(boxes, padding), expected, 1e-4)


def test_padding_to_contain() -> None:
    stored = arrays("window.npz")
    points, labelled = stored["keypoints"][..., :2], stored["keypoints"][..., 2] > 0
    for single, tolerance in ((True, 1e-9), (False, 1e-4)):
        needed = padding_to_contain(stored["boxes_xywh"], points, single=single)
        close(np.where(labelled, needed, -1), stored["pad_to_contain"], tolerance)
