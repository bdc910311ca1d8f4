"""The evaluator against the stored numbers of pycocotools, xtcocotools and the stated standard."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bodyloop.eval import evaluate_boxes, evaluate_keypoints
from bodyloop.eval.evidence import APReport
from bodyloop.eval.presence import evaluate_presence
from bodyloop.geometry import activation_windows, padding_to_contain
from tests.eval.stored import arrays, close, load_json, paths, sets

TOOLS = ("pycocotools", "xtcocotools")


def evaluated(name: str, protocol: str) -> APReport:
    entry = load_json("expected.json")[name]
    if entry["kind"] == "bbox":
        return evaluate_boxes(*paths(name), protocol=protocol)
    own = {"sigmas": entry["sigmas"]} if entry.get("sigmas") else {}
    return evaluate_keypoints(*paths(name), protocol=protocol, **own)


def check_against_arrays(report: APReport, name: str, prefix: str) -> None:
    """Curves, similarity matrices, matches and ignore flags; at least one of each image's."""
    stored = arrays(f"expected/{name}.npz")
    curves = report.evidence.curves
    for key, mine in (
        ("precision", curves.precision[:, 0]),
        ("recall", curves.recall[:, 0]),
        ("scores", curves.scores[:, 0]),
    ):
        close(mine, stored[f"{prefix}/{key}"], 1e-12)
    checked = 0
    for key, expected in stored.items():
        tool, what, *where = key.split("/")
        if tool != prefix or len(where) != 2:
            continue
        image, category = (int(w) for w in where)
        if what == "iou":
            close(report.evidence.similarity(image, category), expected, 1e-12)
        else:
            mine = report.evidence.matched_ids(image, category)[what == "dtig"]
            assert np.array_equal(mine, expected), key
        checked += 1
    assert checked or not len(report.evidence.predictions)


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
    assert list(report.numbers.values()) == expected["stats"]  # to the last bit
    check_against_arrays(report, name, expected["arrays"])


@pytest.mark.parametrize("name", sets("kpt"))
def test_standard_keypoints(name: str) -> None:
    expected = load_json("standard.json")[name]["coco"]
    report = evaluated(name, "standard")
    assert set(report.numbers) <= set(expected)
    close(list(report.numbers.values()), [expected[k] for k in report.numbers], 1e-12)


@pytest.mark.parametrize("name", sets("bbox"))
def test_standard_boxes_are_those_of_pycocotools(name: str) -> None:
    assert (
        list(evaluated(name, "standard").numbers.values())
        == (load_json("expected.json")[name]["tools"]["pycocotools"]["stats"])
    )


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


@pytest.mark.parametrize(
    ("block", "key", "task"),
    [
        ("presence", "presence", "presence"),
        ("score_as_presence", "score", "presence"),
        ("visibility", "visibility", "visibility"),
    ],
)
def test_presence(block: str, key: str, task: Any) -> None:
    stored, expected = arrays("presence.npz"), load_json("presence.json")[block]
    for threshold in (0.5, 0.3):
        report = evaluate_presence(stored[key], stored["flag"], task=task, threshold=threshold)
        mine = report.to_json()
        decisions = report.confusion.to_json()
        for name, value in expected[f"at_{threshold}"].items():
            assert decisions[name] == pytest.approx(value, abs=1e-12), name
        for name, value in expected.items():
            if not name.startswith(("at_", "sweep")):
                assert mine[name] == pytest.approx(value, abs=1e-12), name
