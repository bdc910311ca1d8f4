"""The evaluator against the stored numbers of public evaluators and of the stated standard."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.eval import evaluate_boxes, evaluate_keypoints
from bodyloop.eval.evidence import APReport
from bodyloop.eval.extended import ExtendedReport, evaluate_extended
from bodyloop.eval.reading import read_ground_truth, read_predictions
from bodyloop.geometry import activation_windows, padding_to_contain
from bodyloop.skeletons import COCO
from tests.eval.stored import (
    FIXTURES,
    TOLERANCE,
    arrays,
    check_report,
    close,
    close_numbers,
    load_json,
    loaded,
    paths,
    sets,
)

TOOLS = ("pycocotools", "xtcocotools")


def own_sigmas(name: str) -> Any:
    return load_json("expected.json")[name].get("sigmas") or COCO


def evaluated(name: str, protocol: str) -> APReport:
    if load_json("expected.json")[name]["kind"] == "bbox":
        return evaluate_boxes(*paths(name), protocol=protocol)
    return evaluate_keypoints(*paths(name), own_sigmas(name), protocol)


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


# ------------------------------------------------------------------ visibility levels and Ex-OKS


def extended_tools() -> list[tuple[str, str]]:
    """Sets and the runs of exococotools stored for them, those with other thresholds and paddings too."""
    entries = load_json("expected.json")
    return [(n, t) for n in sets("kpt") for t in entries[n]["tools"] if t.startswith("exococotools")]


def evaluated_by_tool(name: str, tool: str) -> ExtendedReport:
    told = re.fullmatch(r"exococotools_(plain|ex)(?:_thr(.+)_pad(.+))?", tool)
    assert told
    given = {} if told[2] is None else {"confidence_threshold": float(told[2]), "padding": float(told[3])}
    return evaluate_extended(
        *paths(name), own_sigmas(name), "exococotools", plain=told[1] == "plain", **given
    )  # fmt: skip


@pytest.mark.parametrize(("name", "tool"), extended_tools())
def test_exococotools(name: str, tool: str) -> None:
    report = evaluated_by_tool(name, tool)
    if "error" not in load_json("expected.json")[name]["tools"][tool]:
        check_report(report, name, tool)
        return
    # the tool fails on levels other than 1, 1-2 and 1-3 (quirk 20): a result must come all the same
    assert {v.name for v in report.evidence.levels} == {"all", *FLAGS_OF_FAILURES[name, tool]}
    assert report.AP >= 0


FLAGS_OF_FAILURES = {
    ("k16_one_perfect", "exococotools_plain"): "2",
    ("k16_one_perfect", "exococotools_ex"): "2",
    ("k24_flags_2_only", "exococotools_plain"): "2",
    ("k24_flags_2_only", "exococotools_ex"): "2",
    ("k30_oks_exactly_half", "exococotools_plain"): "2",
    ("k30_oks_exactly_half", "exococotools_ex"): "2",
    ("e11_levels_1_3", "exococotools_ex"): "13",
    ("e12_levels_2_3", "exococotools_plain"): "2",
    ("e12_levels_2_3", "exococotools_ex"): "23",
}

WAYS: dict[str, dict[str, Any]] = {
    "coco_levels": {"plain": True},
    "ex_tool": {"protocol": "exococotools"},
    "ex_edge": {"protocol": "exococotools", "distance": "edge"},
    "ex_paper": {},
    "ex_paper_presence": {},
}


@pytest.mark.parametrize(
    ("name", "key"),
    [(n, k) for n, entry in load_json("standard.json").items() for k in entry if k != "coco"],
)
def test_standard_levels(name: str, key: str) -> None:
    gt, dt = loaded(name)
    if key == "ex_paper":  # stored numbers without the field presence, which set e19 has
        for d in dt:
            d.pop("presence", None)
    check_report(evaluate_extended(gt, dt, own_sigmas(name), **WAYS[key]), name, key)


@pytest.mark.parametrize(
    "name", ["k16_one_perfect", "k24_flags_2_only", "k30_oks_exactly_half", "e12_levels_2_3"]
)
def test_plain_exococotools_by_its_rule_where_it_fails(name: str) -> None:
    """Only flags 1 and 2, crowds are people, alarms where nobody is count for nothing: the file changed so
    gives the same numbers under another protocol, and one level has the numbers of all."""
    report = evaluated_by_tool(name, "exococotools_plain")
    assert report.AP_v2 == report.AP and report.AP_v1 is report.AP_v3 is None
    gt, dt = loaded(name)
    peopled = set()
    for a in gt["annotations"]:
        flags = [v if v in (1, 2) else 0 for v in a["keypoints"][2::3]]
        a["keypoints"][2::3] = flags
        a["iscrowd"] = 0
        peopled |= {a["image_id"]} if any(flags) else set()
    other = evaluate_keypoints(gt, [d for d in dt if d["image_id"] in peopled], protocol="xtcocotools")
    for n in ("AP", "AP50", "AP75", "AR", "AR50", "AR75"):
        assert report.numbers[n] == other.numbers[n], n


@pytest.mark.parametrize("name", ["k16_one_perfect", "k30_oks_exactly_half"])
def test_extended_exococotools_by_its_rule_where_it_fails(name: str) -> None:
    """Nobody is out, everybody is labelled: predictions that say "in" of everything are judged by plain OKS."""
    gt, dt = loaded(name)
    for d in dt:
        d["keypoints"][2::3] = [1.0] * 17
    report = evaluate_extended(gt, dt, protocol="exococotools")
    assert report.numbers == evaluate_extended(gt, dt, protocol="exococotools", plain=True).numbers
    assert report.AP_v2 == report.AP > 0


@pytest.mark.slow
@pytest.mark.parametrize("which", ["default", "crop"])
def test_large_set(which: str, tmp_path: Path) -> None:
    expected = load_json("large_expected.json")[which]
    command = [sys.executable, str(FIXTURES / "make_large.py"), "--out", str(tmp_path)]
    subprocess.run(command + ["--crop"] * (which == "crop"), check=True, capture_output=True)
    files = tmp_path / "gt.json", tmp_path / "dt.json"
    for file in files:
        assert hashlib.sha256(file.read_bytes()).hexdigest() == expected["files"][file.name]["sha256"]
    truth = read_ground_truth(files[0], keypoints=17)
    found = read_predictions(files[1], truth, keypoints=17)
    for section, keys in (("tools", expected["tools"]), ("standard", expected["standard"])):
        for key in keys:
            if key in WAYS:
                report: APReport = evaluate_extended(truth, found, **WAYS[key])
            elif key.startswith("exococotools"):
                report = evaluate_extended(truth, found, protocol="exococotools", plain=key.endswith("plain"))
            else:
                report = evaluate_keypoints(truth, found, protocol="standard" if key == "coco" else key)
            tolerance = 0.0 if key == "pycocotools" else TOLERANCE
            close_numbers(report.numbers, "large_expected.json", which, section, key, tolerance=tolerance)


# ------------------------------------------------------------------ single functions


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
