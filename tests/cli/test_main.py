"""The command as a whole: what it costs to ask for help, how errors end, exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bodyloop import __version__
from tests.cli.conftest import call, run

COMMANDS = [
    (), ("predict",), ("demo",), ("models",), ("convert",), ("export",), ("train",), ("doctor",), ("eval",),
    ("eval", "pose"), ("eval", "detector"), ("eval", "segmenter"), ("eval", "calibration"), ("eval", "boxes"),
    ("eval", "masks"),
    ("eval", "keypoints"), ("eval", "presence"), ("calibrate",), ("cropcoco", "build"), ("cropcoco", "check"),
    ("cropcoco", "get"), ("data", "check"), ("data", "convert"), ("data", "masks"), ("data", "show"), ("data", "rank"),
]  # fmt: skip
HEAVY = ("numpy", "cv2", "PIL", "torch", "onnxruntime", "huggingface_hub", "safetensors", "yaml", "onnx")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c) or "bodyloop")
def test_help_has_an_example_that_is_a_call_of_it(command: tuple[str, ...]) -> None:
    result = call(*command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    shown = " ".join(["$ bodyloop", *command])
    assert any(line.strip().startswith(shown) for line in result.stdout.splitlines())
    if command and command != ("eval",):
        assert "--json" in result.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["predict", "--help"], ["train", "-h"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom bodyloop.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as e:\n    assert not e.code\n"
        f"heavy = [m for m in {HEAVY!r} if m in sys.modules]\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version() -> None:
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"bodyloop {__version__}\n")


def test_called_as_a_module() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"bodyloop {__version__}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predikt"], "predikt"),
        (["--nonsense"], "--nonsense"),
        (["predict"], "IMAGES"),
        (["predict", "a.jpg", "--nonsense"], "--nonsense"),
        (["predict", "a.jpg", "--threshold", "2"], "--threshold"),
        (["predict", "a.jpg", "--batch-size", "0"], "--batch-size"),
        (["predict", "a.jpg", "--save", "json,avi"], "'avi'"),
        (["predict", "a.jpg", "--save", ","], "--save"),
        (["predict", "a.jpg", "--detector", "none"], "--whole-image"),
        (["predict", "a.jpg", "--whole-image", "--boxes", "b.json"], "--whole-image"),
        (["convert", "a.pth"], "OUT"),
        (["export", "pmpose-n", "out.pth"], ".onnx"),
        (["export", "pmpose-n", "out.onnx", "--int8"], "--calibrate"),
        (["models", "--kind", "nose"], "'nose'"),
        (["eval", "pose"], "--data"),
        (["eval", "pose", "--data", "x", "--scoring", "luck"], "'luck'"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_called_wrongly(arguments: list[str], said: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    line = result.stderr.strip()
    assert "\n" not in line and said in line and "--help" in line
    assert line.startswith("bodyloop")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["models", "pmpose-x"], "pmpose-x"),
        (["convert", "nothing.pth", "out.safetensors"], "nothing.pth"),
        (["export", "nothing.pth", "out.onnx"], "nothing.pth"),
        (["train", "nothing"], "'nothing'"),
        (["train", "nothing.yaml"], "nothing.yaml"),
        (["eval", "boxes", "nothing.json", "none.json"], "nothing.json"),
        (["predict", "a.jpg", "--boxes", "nothing.json"], "nothing.json"),
        (["predict", "a.jpg", "--model", "nothing.onnx"], "nothing.onnx"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_an_error_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("bodyloop: ") and said in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_error_in_a_process_of_its_own(tmp_path: Path) -> None:
    done = run("convert", "nothing.pth", "out.safetensors", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("bodyloop: ") and "Traceback" not in done.stderr


def test_without_anything_it_shows_what_there_is() -> None:
    result = call()
    assert "predict" in result.output and "doctor" in result.output
    assert "Traceback" not in result.output
