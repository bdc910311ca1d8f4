"""``bodyloop eval keypoints | boxes | masks | presence``: results files judged from labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bodyloop.eval import evaluate_boxes, evaluate_keypoints
from bodyloop.eval.pck_files import evaluate_pck
from bodyloop.eval.presence_files import evaluate_presence_files
from bodyloop.eval.tasks import evaluate
from tests.cli.conftest import call, run
from tests.eval.stored import paths
from tests.eval.test_report import people

Names = dict[str, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Names:
    """Labels and two results files of keypoints."""
    folder = tmp_path_factory.mktemp("files")
    gt, guesses = people(6, 0, 6.0)
    written = {"gt": gt, "one": guesses, "two": people(6, 0, 12.0)[1]}
    for name, content in written.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return {name: folder / f"{name}.json" for name in written}


def told(*arguments: object) -> Any:
    """What a command says as json."""
    result = call("eval", *arguments, "--json", "--resamples", 20)
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_the_numbers_of_the_library_with_intervals(files: Names) -> None:
    report = evaluate_keypoints(files["gt"], files["one"])
    plain = told("keypoints", files["gt"], files["one"], "--seed", 3)
    expected: Any = json.loads(json.dumps(report.to_json()))
    assert {k: plain[k] for k in expected} == expected
    assert plain["protocol"] == "standard" and plain["parameters"] and plain["counts"] and plain["version"]
    assert plain["sha256"]["predictions"] == report.evidence.predictions.digest
    span = plain["intervals"]["AP"]
    assert span["low"] <= plain["numbers"]["AP"] <= span["high"]
    assert plain["bootstrap"] == {"resamples": 20, "seed": 3}


def test_a_table_of_one_file(files: Names) -> None:
    result = call("eval", "keypoints", files["gt"], files["one"], "--resamples", 20)
    assert result.exit_code == 0
    report = evaluate_keypoints(files["gt"], files["one"])
    for name in ("AP", "AP50", "AR"):
        (line,) = (x for x in result.stdout.splitlines() if x.split()[:1] == [name])
        assert f"{report.numbers[name]:.4f}" in line and " to " in line
    assert "standard protocol" in result.stdout and "note: flags of 3" in result.stdout
    assert "\x1b" not in result.stdout  # plain where it is no terminal
    bare = call("eval", "keypoints", files["gt"], files["one"], "--resamples", 0)
    assert bare.exit_code == 0 and " to " not in bare.stdout


def test_several_files_are_compared_with_the_first(files: Names) -> None:
    plain = told("keypoints", files["gt"], files["one"], files["two"])
    assert list(plain["reports"]) == ["one", "two"] and plain["compared_with"] == "one"
    a, b = (plain["reports"][n]["numbers"]["AP"] for n in ("one", "two"))
    assert plain["differences"]["two"]["AP"]["value"] == pytest.approx(b - a)
    assert 0 < plain["differences"]["two"]["AP"]["p_value"] <= 1
    shown = call("eval", "keypoints", files["gt"], files["one"], files["two"], "--resamples", 20).stdout
    assert "two - one" in shown and f"{b - a:+.4f}" in shown


@pytest.mark.parametrize(
    ("task", "name", "options", "given"),
    [
        ("ex-keypoints", "e01_basic", ("--distance", "corner", "--padding", "1.1", "--threshold", "0.3"),
         {"distance": "corner", "padding": 1.1, "confidence_threshold": 0.3}),
        ("ex-keypoints", "e01_basic", ("--recompute-flags", "--protocol", "exococotools"),
         {"recompute_flags": True, "protocol": "exococotools"}),
        ("ex-keypoints", "e01_basic", ("--plain",), {"plain": True}),
        ("crowdpose", "c01_basic", ("--skeleton", "crowdpose-14"), {}),
        ("coco-wholebody", "w01_part_scores", (), {}),
        ("ochuman", "o01_two_people_close", ("--card", "pmpose-n"), {}),
        ("coco-keypoints", "k01_basic", ("--sigmas", ",".join(["0.1"] * 17)), {"sigmas": [0.1] * 17}),
        ("coco-keypoints", "k25_annotation_id_0", ("--protocol", "pycocotools"), {"protocol": "pycocotools"}),
    ],
)  # fmt: skip
def test_tasks_and_their_options(
    task: str, name: str, options: tuple[str, ...], given: dict[str, Any]
) -> None:
    gt, dt = paths(name)
    plain = told("keypoints", "--task", task, gt, dt, *options)
    assert plain["numbers"] == json.loads(json.dumps(evaluate(task, gt, dt, **given).numbers))
    assert plain["task"] == task


def test_boxes_and_masks() -> None:
    gt, dt = paths("b02_crowd")
    assert told("boxes", gt, dt)["numbers"] == evaluate_boxes(gt, dt).numbers
    gt, dt = paths("m02_rle")
    assert told("masks", gt, dt)["numbers"] == evaluate("segm", gt, dt).numbers


def test_pck(files: Names) -> None:
    gt, one, two = files["gt"], files["one"], files["two"]
    plain = told(
        "keypoints", "--task", "pck", gt, one, "--norm", "left_shoulder, right_hip", "--threshold", "0.3"
    )
    report = evaluate_pck(gt, one, ("left_shoulder", "right_hip"), (0.3,), resamples=20)
    assert plain == json.loads(json.dumps(report.to_json()))
    assert list(told("keypoints", "--task", "pck", gt, one, two)) == ["one", "two"]
    shown = call("eval", "keypoints", "--task", "pck", gt, one, two, "--resamples", 5).stdout
    assert shown.startswith("one\npck: ") and "\n\ntwo\npck: " in shown


def test_presence_visibility_and_quality(files: Names) -> None:
    report = evaluate_presence_files(
        files["gt"], files["one"], threshold=0.3, per_keypoint=True, resamples=20
    )
    plain = told("presence", files["gt"], files["one"], "--threshold", "0.3", "--per-keypoint")
    assert plain["presence"] == json.loads(json.dumps(report.to_json()))
    assert plain["presence"]["visibility"] and plain["quality"]["keypoints_from"] == "field quality"
    shown = call("eval", "presence", files["gt"], files["one"], files["two"], "--resamples", 5)
    assert shown.exit_code == 0 and shown.stdout.count("AUROC") == 4 and "keypoint quality" in shown.stdout


def test_labels_without_areas_have_no_quality(files: Names, tmp_path: Path) -> None:
    gt = json.loads(files["gt"].read_text())
    for a in gt["annotations"]:
        del a["area"]
    bare = tmp_path / "gt.json"
    bare.write_text(json.dumps(gt))
    assert told("presence", bare, files["one"], "--pairing", "id")["quality"] is None


# reports


@pytest.mark.parametrize(
    "command",
    [("keypoints",), ("keypoints", "--task", "pck"), ("presence",)],
    ids=" ".join,
)
def test_a_report_beside_the_numbers(command: tuple[str, ...], files: Names, tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="pages need the extra [eval]")
    pytest.importorskip("matplotlib", reason="charts need the extra [eval]")
    page = tmp_path / "report.html"
    arguments = ("eval", *command, files["gt"], files["one"], "--resamples", 5, "--report", page, "--json")
    result = call(*arguments)
    assert result.exit_code == 0 and json.loads(result.stdout)
    assert result.stderr == f"report: {page}\n"
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_the_page_names_the_command(files: Names, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="charts need the extra [eval]")
    page = tmp_path / "a page.html"
    arguments = ("eval", "keypoints", "--task", "pck", files["gt"], files["one"], "--report", page)
    done = run(*arguments, "--resamples", "5")
    assert done.returncode == 0, done.stderr
    told = page.read_text("utf-8")
    assert (
        f"bodyloop eval keypoints --task pck {files['gt']} {files['one']} --report &#39;{page}&#39;" in told
    )


# errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("keypoints",), "TRUTH"),
        (("keypoints", "gt"), "RESULTS"),
        (("keypoints", "gt", "one", "--task", "coco-keypoint"), "did you mean 'coco-keypoints'"),
        (("keypoints", "gt", "one", "--task", "bbox"), "coco-keypoints, ex-keypoints"),
        (("keypoints", "gt", "one", "--distance", "edge"), "--task coco-keypoints has no --distance"),
        (("keypoints", "gt", "one", "--threshold", "0.3"), "--task coco-keypoints has no --threshold"),
        (("keypoints", "gt", "one", "--norm", "head"), "has no --norm"),
        (("keypoints", "gt", "one", "--task", "pck", "--plain"), "--task pck has no --plain"),
        (
            ("keypoints", "gt", "one", "--task", "coco-wholebody", "--skeleton", "x"),
            "has no --sigmas, --skeleton",
        ),
        (("keypoints", "gt", "one", "--sigmas", "1", "--card", "pmpose-n"), "one of --sigmas and --card"),
        (("keypoints", "gt", "one", "--report", "nowhere/page.html"), "nowhere"),
        (("boxes", "gt", "one", "--resamples", "-1"), "--resamples"),
        (("presence", "gt", "one", "--pairing", "luck"), "'luck'"),
        (("presence", "gt", "one", "--threshold", "2"), "--threshold"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else None,
)
def test_called_wrongly(arguments: tuple[str, ...], said: str, files: Names) -> None:
    result = call("eval", *(files.get(a, a) for a in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d[1].pop("keypoints"), "prediction number 1: field 'keypoints' is missing"),
        (lambda d: d[0].update(keypoints=[1.0] * 50), "51"),
        (lambda d: d[2].update(image_id=77), "77"),
        (lambda d: d[2].update(score=float("nan")), "'score'"),
    ],
)
def test_malformed_results_are_named(
    change: Callable[[Any], None], said: str, files: Names, tmp_path: Path
) -> None:
    broken = json.loads(files["one"].read_text())
    change(broken)
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken))
    result = call("eval", "keypoints", files["gt"], files["one"], path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("bodyloop: ") and str(path) in result.stderr and said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("keypoints", "gt", "one", "--protocol", "mine"), "mine"),
        (("keypoints", "gt", "one", "--skeleton", "crowdpose-14"), "14 sigmas"),
        (("keypoints", "gt", "one", "--card", "pmpose-x"), "pmpose-x"),
        (("keypoints", "gt", "one", "--task", "pck", "--norm", "head"), "bbox_head"),
        (("keypoints", "gt", "one", "--task", "ex-keypoints", "--distance", "far"), "far"),
        (("masks", "gt", "one"), "segmentation"),
        (("boxes", "gt", "one"), "bbox"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, tuple) else None,
)
def test_what_does_not_fit_the_files_is_read_aloud(
    arguments: tuple[str, ...], said: str, files: Names
) -> None:
    result = call("eval", *(files.get(a, a) for a in arguments))
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr and result.stderr.count("\n") == 1


def test_without_the_extra_the_numbers_are_there_and_the_rest_is_named(
    files: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = tmp_path / "report.html"
    result = call("eval", "keypoints", files["gt"], files["one"], "--resamples", 5, "--report", page)
    assert result.exit_code == 1 and "AP" in result.stdout and "bodyloop[eval]" in result.stderr
    assert not page.exists()


@pytest.mark.parametrize("command", ["keypoints", "boxes", "masks", "presence"])
def test_help_shows_how_it_is_called(command: str) -> None:
    shown = call("eval", command, "--help")
    assert shown.exit_code == 0 and "--report" in shown.stdout and "--json" in shown.stdout
    assert any(x.strip().startswith(f"$ bodyloop eval {command} ") for x in shown.stdout.splitlines())
