"""``bodyloop eval`` of models, with stand-ins for networks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import call


def test_pose(labelled: Path, pose_file: Path) -> None:
    result = call("eval", "pose", "--model", pose_file, "--data", labelled, "--limit", 4, "--json")
    assert result.exit_code == 0, result.stderr
    whole, cropped = json.loads(result.stdout)["sets"]
    assert whole["persons"] == 4 and "first 4 photos" in whole["data"]
    assert 0 <= whole["intervals"]["AP"]["value"] <= 1 and whole["extended"]["task"] == "ex-keypoints"
    assert cropped["data"].endswith("cropped")
    plain = call("eval", "pose", "--model", pose_file, "--data", labelled, "--no-presence", "--no-flip")
    assert plain.exit_code == 0 and "OKS AP" in plain.stdout and "without flip" in plain.stdout
    assert "6 persons" in plain.stdout and "presence AUROC" not in plain.stdout


def test_pose_saved_and_judged_again(labelled: Path, pose_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "judged"
    result = call("eval", "pose", "--model", pose_file, "--data", labelled, "--save", out, "--json")
    assert result.exit_code == 0 and "saved" in result.stderr
    report = json.loads(result.stdout)
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["sets"] == report["sets"]
    found = json.loads((out / "data-dev.results.json").read_text(encoding="utf-8"))
    assert len(found) == 6 and {"annotation_id", "bbox", "presence", "score"} <= found[0].keys()
    again = call("eval", "keypoints", out / "data-dev.json", out / "data-dev.results.json", "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["numbers"] == report["sets"][0]["oks"]["numbers"]
    blocked = call("eval", "pose", "--model", pose_file, "--data", labelled, "--save", out / "report.json")
    assert blocked.exit_code == 1 and "report.json" in blocked.stderr


def test_calibration(labelled: Path, pose_file: Path) -> None:
    result = call("eval", "calibration", "--model", pose_file, "--data", labelled, "--limit", 3, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["sets"][0]["maps"]["maps"] == 3 * 17 and report["sets"][0]["cropped"] is False
    words = call("eval", "calibration", "--model", pose_file, "--data", labelled, "--no-crops")
    assert words.exit_code == 0 and "holds the true cell" in words.stdout and "cropped" not in words.stdout


def test_detector(labelled: Path, detector_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "judged"
    result = call(
        "eval",
        "detector",
        "--model",
        detector_file,
        "--data",
        labelled,
        "--limit",
        3,
        "--save",
        out,
        "--json",
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["images"] == 3 and "AP" in report and "0x" not in report["model"]
    again = call("eval", "boxes", out / "data-dev.json", out / "data-dev.results.json", "--json")
    assert json.loads(again.stdout)["numbers"] == report["numbers"]
    assert (
        "box AP" in call("eval", "detector", "--model", detector_file, "--data", labelled / "dev.json").stdout
    )


@pytest.mark.parametrize("command", ["pose", "calibration", "detector"])
def test_called_wrongly(command: str, tmp_path: Path) -> None:
    missing = call("eval", command, "--data", tmp_path / "nowhere")
    assert missing.exit_code == 1 and "nowhere" in missing.stderr
    assert call("eval", command).exit_code == 2
    assert "Example" in call("eval", command, "--help").stdout


def test_scorings(labelled: Path, pose_file: Path) -> None:
    odd = call("eval", "pose", "--model", pose_file, "--data", labelled, "--scoring", "mood")
    assert odd.exit_code == 2 and "mood" in odd.stderr
