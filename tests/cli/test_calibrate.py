"""``bodyloop calibrate``: one call from photos to a new file, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bodyloop.models.registry import find_card
from tests.calibrate.small import write_set
from tests.calibrate.standin import write_model, write_photos
from tests.cli.conftest import call


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx")


def test_one_set_is_split_and_the_report_is_on_the_other_half(tmp_path: Path, model: Path) -> None:
    data, out = write_photos(tmp_path / "data", 40), tmp_path / "new.onnx"
    done = call(
        "calibrate", model, "--data", data.parent, "--out", out, "--seed", 3, "--false-positive-rate", 0.4
    )
    assert done.exit_code == 0, done.stderr
    assert "fitted on   dev.json, a part: 20 photographs" in done.stdout
    assert "reported on dev.json, a part: 20 photographs" in done.stdout
    assert f"written: {out}" in done.stdout
    card = find_card(out)
    assert card.calibration is not None
    told = {a.source for a in card.accuracy}
    assert told == {
        "bodyloop calibrate model.onnx --data data --split dev --fraction 0.5 --false-positive-rate 0.4 --seed 3"
    }
    again = call("calibrate", model, "--data", data, "--out", out)
    assert again.exit_code == 1 and "is there already" in again.stderr


def test_two_files_and_json(tmp_path: Path, model: Path) -> None:
    fit, report = write_photos(tmp_path / "a", 63), write_photos(tmp_path / "b", 12, first_id=500)
    out = tmp_path / "new.onnx"
    options = ("--alpha", 0.25, "--no-flip", "--keep", "presence", "--keep", "visibility", "--json")
    done = call("calibrate", model, "--fit", fit, "--report", report, "--out", out, *options)
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert [r["alpha"] for r in document["regions"]] == [0.25, 0.2, 0.1, 0.05]
    assert document["parameters"]["flip"] is False and document["out"] == str(out)
    assert document["temperatures"]["maps"]["after"] > document["temperatures"]["maps"]["before"]
    calibration = find_card(out).calibration
    assert calibration is not None and not calibration.flip
    assert "--no-flip --alpha 0.25 --keep presence --keep visibility" in find_card(out).accuracy[0].source
    assert set(document["temperatures"]) == {"maps"}


def test_it_does_not_report_on_what_it_was_fitted_on(tmp_path: Path, model: Path) -> None:
    fit, out = write_set(tmp_path / "a", 6), tmp_path / "new.onnx"
    same = call("calibrate", model, "--fit", fit, "--report", fit, "--out", out)
    assert same.exit_code == 1 and "the file that was fitted on" in same.stderr
    copy = shutil.copy(fit, tmp_path / "a" / "copy.json")
    overlap = call("calibrate", model, "--fit", fit, "--report", copy, "--out", out)
    assert (
        overlap.exit_code == 1
        and "6 photos are both in" in overlap.stderr
        and "image ids 1, 2, 3" in overlap.stderr
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give --data, or --fit and --report"),
        (("--fit", "a.json"), "give --data, or --fit and --report"),
        (("--data", "d", "--fit", "a.json", "--report", "b.json"), "give --data, or --fit and --report"),
        (("--data", "d", "--limit", 0), "limit"),
    ],
)
def test_called_wrongly(arguments: tuple[object, ...], said: str) -> None:
    done = call("calibrate", "pmpose-n", "--out", "new.onnx", *arguments)
    assert done.exit_code == 2 and said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--alpha", 1.5), "alpha must lie between 0 and 1"),
        (("--fraction", 1.0), "share of photos"),
        (("--limit", 1), "1 photos with people cannot be split"),
        (("--split", "test"), "no annotation file test.json"),
    ],
)
def test_numbers_and_photos_that_cannot_be(
    tmp_path: Path, model: Path, arguments: tuple[object, ...], said: str
) -> None:
    data = write_set(tmp_path / "data", 4)
    done = call("calibrate", model, "--data", data.parent, "--out", tmp_path / "new.onnx", *arguments)
    assert done.exit_code == 1 and said in done.stderr


def test_several_files_are_not_one(tmp_path: Path, model: Path) -> None:
    write_set(tmp_path / "data" / "one", 4)
    write_set(tmp_path / "data" / "two", 4, first_id=9)
    done = call("calibrate", model, "--data", tmp_path / "data", "--out", tmp_path / "new.onnx")
    assert done.exit_code == 1 and "means several files" in done.stderr
    two = tmp_path / "data"
    done = call(
        "calibrate", model, "--fit", two, "--report", two / "one" / "dev.json", "--out", tmp_path / "new.onnx"
    )
    assert done.exit_code == 1 and "means several files" in done.stderr
