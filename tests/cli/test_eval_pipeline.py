"""``bodyloop eval pipeline`` and ``eval crowds``, with stand-ins for networks and labelled masks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Call, call
from tests.data.figures import write_figures


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_figures(tmp_path / "data", photos=3).parent


@pytest.fixture
def judge(data: Path, pose_file: Path, detector_file: Path) -> Call:
    def go(command: str, *arguments: object):  # type: ignore[no-untyped-def]
        models = ("--detector", detector_file, "--pose", pose_file, "--segmenter", "true-masks")
        return call("eval", command, "bmp-n", "--data", data, *models, *arguments)

    return go


def test_pipeline(judge: Call, tmp_path: Path) -> None:
    run = ("--run", tmp_path / "run")
    result = judge("pipeline", *run, "--set", "passes=3", "--json", "--save", tmp_path / "saved")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["images"] == 3 and set(told["stages"][0]["intervals"]) == {"boxes", "masks", "keypoints"}
    assert told["parameters"]["ranking"]["keypoints"] == "box*keypoint" and "saved" in result.stderr
    saved = tmp_path / "saved"
    again = call("eval", "boxes", saved / "data-dev.json", saved / "data-dev.boxes.1x.json", "--json")
    assert json.loads(again.stdout)["numbers"] == told["stages"][0]["reports"]["boxes"]["numbers"]
    words = judge("pipeline", *run, "--set", "passes=3", "--ranking", "mask", "--boxes", "masks")
    assert words.exit_code == 0 and "ranked by mask score" in words.stdout and "after 1x" in words.stdout
    other = judge("pipeline", *run)
    assert other.exit_code == 1 and "holds another set" in other.stderr


def test_a_photo_that_fails(judge: Call, data: Path) -> None:
    (data / "images" / "dev1.png").write_bytes(b"no photo")
    result = judge("pipeline")
    assert result.exit_code == 1 and "2 photos" in result.stdout
    assert "FAILED" in result.stdout and "dev1.png" in result.stderr


def test_roles_that_know_the_labels(data: Path) -> None:
    """Everything that is labelled, and nothing else."""
    roles = ("--detector", "true-boxes", "--pose", "true-poses", "--segmenter", "true-masks")
    result = call("eval", "pipeline", "bmp-n", "--data", data, *roles, "--json")
    assert result.exit_code == 0, result.stderr
    intervals = json.loads(result.stdout)["stages"][0]["intervals"]
    assert {task: round(i["value"], 6) for task, i in intervals.items()} == {
        "boxes": 1,
        "masks": 1,
        "keypoints": 1,
    }


def test_crowds(judge: Call) -> None:
    result = judge("crowds", "--oracle", "--json", "--set", "selection=closest")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["pipeline"]["people"]["everybody"] == 6 and "MergingOracle" in told["oracle"]["pipeline"]
    oracle = told["oracle"]["found"]["everybody"][0]
    assert (
        oracle["rate"] == 0 and oracle["first"]["value"] == 1
    )  # nobody overlaps here: all are found at once
    words = judge("crowds", "--by", "masks", "--iou", 0.75)
    assert words.exit_code == 0 and "IoU of masks at least 0.75" in words.stdout


def test_called_wrongly(judge: Call) -> None:
    for wrong in (("--set", "passes"), ("--part", "half"), ("--boxes", "ours")):
        assert judge("pipeline", *wrong).exit_code == 2
    assert judge("crowds", "--by", "luck").exit_code == 2
    odd = judge("pipeline", "--ranking", "luck")
    assert odd.exit_code == 1 and "known: box, mask" in odd.stderr
    field = judge("pipeline", "--set", "pases=3")
    assert field.exit_code == 1 and "did you mean 'passes'" in field.stderr
    assert "Example" in call("eval", "crowds", "--help").stdout
