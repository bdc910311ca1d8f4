"""Each of the other commands does what its help says."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from bodyloop.cli import doctor
from bodyloop.models.registry import find_card, list_models
from tests.cli.conftest import Call, call, run
from tests.cli.standins import picture

STATES = {"embedded", "cached", "download", "unpublished", "missing"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What a command sets up for logging does not outlive it."""
    yield
    for name in ("bodyloop", "bodyloop.train", "bodyloop.train.loop"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.getLogger("bodyloop.train.loop").filters.clear()


# models


def test_models_lists_every_card() -> None:
    result = call("models")
    assert result.exit_code == 0
    for card in list_models():
        (line,) = (x for x in result.stdout.splitlines() if x.split()[:1] == [card.name])
        assert card.kind in line and STATES & set(line.split())
    entries = json.loads(call("models", "--json", "--kind", "pose").stdout)
    assert {e["name"] for e in entries} == {c.name for c in list_models("pose")}
    assert {e["state"] for e in entries} <= STATES
    assert all({"code", "weights", "data"} <= e["licenses"].keys() for e in entries)


def test_models_in_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from bodyloop.cli import models

    monkeypatch.setattr(models, "width", lambda: 70)
    lines = call("models").stdout.splitlines()
    assert max(len(line) for line in lines) < 70
    for card in list_models():
        at = next(i for i, line in enumerate(lines) if line.split()[:1] == [card.name])
        below = " ".join(lines[at : at + 5])
        assert "code " in below and "weights " in below and "data " in below


def test_models_shows_a_whole_card() -> None:
    card = find_card("probpose-s")
    said = " ".join(call("models", "ProbPose_s").stdout.split())
    wanted = [card.summary, card.licenses.code, card.licenses.weights, card.licenses.data, card.notes]
    wanted += [*card.known_failures, *(f"{a.metric} {a.value:.3f}" for a in card.accuracy)]
    for text in wanted:
        assert " ".join(text.split()) in said
    entry = json.loads(call("models", "probpose-s", "--json").stdout)
    assert entry["state"] == "download" and entry["size"] == card.weights.size_bytes  # type: ignore[union-attr]


def test_models_says_what_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vrg-prague" / "ProbPose-s").mkdir(parents=True)
    (tmp_path / "vrg-prague" / "ProbPose-s" / "ProbPose-s.pth").write_bytes(b"12345")
    monkeypatch.setenv("BODYLOOP_MODELS", str(tmp_path))
    entry = json.loads(call("models", "probpose-s", "--json").stdout)
    assert (entry["state"], entry["size"]) == ("cached", 5)
    assert json.loads(call("models", "probpose-s-dh", "--json").stdout)["state"] == "unpublished"


def test_models_reads_the_card_in_a_file(pose_file: Path) -> None:
    assert json.loads(call("models", pose_file, "--json").stdout)["name"] == "stand-in-pose"


def test_an_unknown_model_has_a_neighbour() -> None:
    result = call("models", "pmpose-bb")
    assert result.exit_code == 1 and "did you mean 'pmpose-b'" in result.stderr


# convert


def test_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from bodyloop.models import keymaps
    from bodyloop.models.checkpoints import read_checkpoint
    from tests.models.synthetic import TINY, save_pth, tiny
    from tests.models.test_checkpoints import tiny_card

    monkeypatch.setitem(keymaps._VITS, *TINY)
    source = save_pth(tmp_path / "in.pth", tiny())
    (tmp_path / "tiny.toml").write_text(tiny_card().to_toml(), encoding="utf-8")
    target = tmp_path / "out.safetensors"
    result = call("convert", source, target, "--card", tmp_path / "tiny.toml", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["tensors"] == len(read_checkpoint(target).state)
    again = call("convert", source, target, "--card", tmp_path / "tiny.toml")
    assert again.exit_code == 1 and "is there already" in again.stderr
    assert call("convert", source, target, "--card", tmp_path / "tiny.toml", "--overwrite").exit_code == 0


# export


def test_export_says_what_it_cannot_do(pose_file: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.onnx"
    there.write_bytes(b"mine")
    cases = [
        ([pose_file, tmp_path / "new.onnx"], "ONNX file already"),
        ([pose_file, there], "is there already"),
        ([pose_file, tmp_path / "no" / "new.onnx"], "no folder"),
        ([tmp_path, tmp_path / "new.onnx"], "--card"),
        ([tmp_path, tmp_path / "new.onnx", "--card", "pmpose-n"], "no such checkpoint"),
    ]
    for arguments, said in cases:
        result = call("export", *arguments)
        assert result.exit_code == 1 and said in result.stderr and result.stderr.count("\n") == 1
    assert there.read_bytes() == b"mine" and not (tmp_path / "new.onnx").exists()


@pytest.mark.slow
def test_export_of_a_training_run_and_int8(
    tmp_path: Path, detector_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from bodyloop import api
    from bodyloop.nn.small import SmallPose

    torch.manual_seed(0)
    state = {"average": SmallPose(19).state_dict(), "step": 3}
    torch.save(state, tmp_path / "best.pt")
    plain = tmp_path / "plain.onnx"
    result = call("export", tmp_path, plain, "--card", "pmpose-n")
    assert result.exit_code == 0 and plain.stat().st_size > 1_000_000, result.stderr
    finder = api.load_detector(detector_file)
    monkeypatch.setattr(api, "load_detector", lambda: finder)
    for i in range(3):
        picture(tmp_path / "photos" / f"{i}.jpg", i)
    small = tmp_path / "small.onnx"
    done = call("export", plain, small, "--int8", "--calibrate", tmp_path / "photos", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["report"]["crops"] == 3
    assert small.stat().st_size < plain.stat().st_size
    assert json.loads(call("models", small, "--json").stdout)["name"] == "pmpose-n"


# train


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe for a task that takes no time."""
    pytest.importorskip("torch")
    from bodyloop.cli import train
    from tests.train.test_loop import Line

    monkeypatch.setattr(train, "task_of", lambda config: Line())
    path = tmp_path / "line.yaml"
    path.write_text(
        "batch: 4\nsteps: 100\nprecision: fp32\nwarmup: 5\ncheckpoint_every: 25\nevaluate_every: 50\n"
    )
    return path


def test_train_shows_progress_and_goes_on(recipe: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    first = call("train", recipe, "--run", run_folder, "--stop-after", 50)
    assert first.exit_code == 0, first.stderr
    assert "step 50 of 100: " in first.stderr and "score" in first.stdout
    second = call("train", recipe, "--run", run_folder, "--json")
    assert "going on" in second.stderr and "step 100 of 100" in second.stderr
    assert json.loads(second.stdout)["run"] == str(run_folder)
    third = call("train", recipe, "--run", run_folder)
    assert third.exit_code == 0 and third.stdout.strip() == f"{run_folder}: step 100 of 100"


def test_train_changes_numbers_of_the_recipe(recipe: Path, tmp_path: Path) -> None:
    result = call("train", recipe, "steps=3", "lr=0.5", "--run", tmp_path / "run")
    assert result.exit_code == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["lr"] == 0.5
    wrong = call("train", recipe, "step=3", "--run", tmp_path / "run")
    assert wrong.exit_code == 1 and "did you mean 'steps'" in wrong.stderr


def test_train_stopped_by_ctrl_c(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.train.test_loop import Line

    class Tired(Line):
        def losses(self, *given: Any) -> Any:
            if self.steps > 60:
                raise KeyboardInterrupt
            return super().losses(*given)

    from bodyloop.cli import train

    monkeypatch.setattr(train, "task_of", lambda config: Tired())
    result = call("train", recipe, "--run", tmp_path / "run")
    assert result.exit_code == 130 and "go on" in result.stderr and "Traceback" not in result.stderr
    monkeypatch.setattr(train, "task_of", lambda config: Line())
    assert "step 50" in call("train", recipe, "--run", tmp_path / "run").stderr  # the last checkpoint


def test_recipes_of_the_package_are_found() -> None:
    pytest.importorskip("torch")
    from bodyloop.cli.train import recipe, task_of
    from bodyloop.errors import ConfigError
    from bodyloop.train.config import TrainConfig, load_config

    assert load_config(recipe("pmpose-n")).task == "pose"
    assert load_config(recipe("rtmdet-n")).task == "detector"
    with pytest.raises(ConfigError, match="nothing trains"):
        task_of(TrainConfig())


def test_train_says_where_the_data_should_be(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    result = call("train", "pmpose-n", f"data={tmp_path}", "start=none", "--run", tmp_path / "run")
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    assert "dev.json" in result.stderr and "validation=" in result.stderr
    result = call(
        "train", "pmpose-n", f"data={tmp_path}", "start=none", "validation=''", "--run", tmp_path / "run"
    )
    assert result.exit_code == 1 and "train.json" in result.stderr and "Traceback" not in result.stderr


# eval


def test_eval_of_what_predict_wrote(labelled: Path, predict: Call, tmp_path: Path) -> None:
    """The labels as boxes in, results out: their boxes are perfect."""
    done = predict(labelled / "images", "--boxes", labelled / "dev.json", "--save", "json")
    assert done.exit_code == 0, done.stderr
    found = tmp_path / "out" / "results.json"
    boxes = call("eval", "boxes", labelled / "dev.json", found, "--json")
    assert boxes.exit_code == 0, boxes.stderr
    assert json.loads(boxes.stdout)["numbers"]["AP"] == pytest.approx(1.0)
    keypoints = call("eval", "keypoints", labelled / "dev.json", found)
    assert keypoints.exit_code == 0 and "AP" in keypoints.stdout


def test_eval_of_files_that_do_not_fit(labelled: Path, pose_file: Path, tmp_path: Path) -> None:
    result = call("eval", "pose", "--model", pose_file, "--data", tmp_path / "nowhere")
    assert result.exit_code == 1 and "nowhere" in result.stderr
    wrong = call("eval", "boxes", labelled / "dev.json", labelled / "dev.json")
    assert wrong.exit_code == 1 and "dev.json" in wrong.stderr
    odd = call("eval", "boxes", labelled / "dev.json", labelled / "dev.json", "--protocol", "mine")
    assert odd.exit_code == 1 and "mine" in odd.stderr


# doctor


def put_distribution(folder: Path, name: str, version: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("names", "groups", "keep"),
    [
        (["numpy", "opencv-python-headless", "onnxruntime"], [], None),
        (
            ["opencv-python", "opencv_python_headless"],
            [["opencv-python-headless", "opencv-python"]],
            "opencv-python-headless",
        ),
        (["onnxruntime", "onnxruntime-gpu"], [["onnxruntime", "onnxruntime-gpu"]], "onnxruntime-gpu"),
        (["Pillow", "Pillow-SIMD"], [["pillow", "pillow-simd"]], "pillow"),
        (["opencv-contrib-python"], [], None),
    ],
    ids=str,
)
def test_doctor_finds_what_overwrites_each_other(
    tmp_path: Path, names: list[str], groups: list[list[str]], keep: str | None
) -> None:
    for name in names:
        put_distribution(tmp_path, name, "1.0")
    found = doctor.overlapping(doctor.installed([str(tmp_path)]))
    assert found == groups
    for group in found:
        said = doctor.mend(group)
        assert f"pip uninstall -y {' '.join(group)} && pip install {keep}" in said


def test_doctor_ends_with_1_for_something_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EMBEDDED", ())
    real = doctor.installed()
    monkeypatch.setattr(
        doctor, "installed", lambda: {k: v for k, v in real.items() if "onnxruntime" not in k}
    )
    fine = call("doctor", "--json")
    assert fine.exit_code == 0, fine.output
    facts = json.loads(fine.stdout)
    assert facts["problems"] == [] and facts["packages"]["numpy"] == np.__version__
    assert "CPUExecutionProvider" in facts["devices"]["onnxruntime"] and "hub cache" in facts["caches"]
    monkeypatch.setattr(doctor, "installed", lambda: {**real, "onnxruntime": "1", "onnxruntime-gpu": "1"})
    broken = call("doctor")
    assert broken.exit_code == 1 and "pip uninstall -y onnxruntime onnxruntime-gpu" in broken.stdout


def test_doctor_names_a_package_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EMBEDDED", ())
    monkeypatch.setitem(sys.modules, "safetensors", None)
    broken = json.loads(call("doctor", "--json").stdout)
    assert any("safetensors cannot be imported" in p and "pip install" in p for p in broken["problems"])


def test_doctor_looks_at_the_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "EMBEDDED", ())
    monkeypatch.setenv("BODYLOOP_MODELS", str(tmp_path / "gone"))
    result = call("doctor")
    assert result.exit_code == 1 and "BODYLOOP_MODELS" in result.stdout and "gone" in result.stdout


# demo


def test_demo_with_stand_ins(tmp_path: Path, pose_file: Path, detector_file: Path) -> None:
    result = call(
        "demo", "--out", tmp_path / "d", "--model", pose_file, "--detector", detector_file, "--json"
    )
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    assert set(said["files"]) >= {"sheet", "portrait", "moving"}
    assert "Person 0" in Path(said["files"].pop("replay")).read_text(encoding="utf-8")
    for file in said["files"].values():
        with PIL.Image.open(file) as picture_file:
            picture_file.load()
            assert min(picture_file.size) >= 300
            if file.endswith(".gif"):
                assert getattr(picture_file, "n_frames", 1) > 8
    assert all(len(v) == len(said["crops"]) for v in said["presence"].values())
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in said["crops"]]
    assert areas == sorted(areas, reverse=True)  # tighter and tighter


def embedded() -> bool:
    from bodyloop.models.registry import is_embedded

    return all(any(c.name == n and is_embedded(c) for c in list_models()) for n in doctor.EMBEDDED)


needs_models = pytest.mark.skipif(not embedded(), reason="the embedded models are not in this tree")


@needs_models
def test_demo_offline_and_without_torch(tmp_path: Path) -> None:
    """People are found, and joints leave the portrait: their presence falls, the nose's does not."""
    import subprocess

    code = (
        "import sys, socket\n"
        "for m in ('torch', 'onnx', 'onnxscript'): sys.modules[m] = None\n"
        "def closed(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = closed\n"
        "from bodyloop.cli import main\n"
        f"main(['demo', '--out', {str(tmp_path / 'd')!r}, '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    presence = {k: np.array(v) for k, v in said["presence"].items()}
    assert presence["nose"].min() > 0.5
    for joint in ("left_elbow", "left_wrist", "left_hip", "left_knee", "left_ankle"):
        assert presence[joint][-1] < presence[joint][0] and presence[joint][-1] < 0.5, joint
    assert np.mean([presence[j][0] - presence[j][-1] for j in ("left_elbow", "left_wrist", "left_hip")]) > 0.3
    here = [sum(v[i] >= 0.5 for v in presence.values()) for i in range(len(said["crops"]))]
    assert here == sorted(here, reverse=True) and here[-1] < here[0]
    counts = [int(text.rsplit(": ", 1)[1].split()[0]) for text in said["people"]]
    assert min(counts) >= 1


@needs_models
def test_predict_with_the_embedded_models(tmp_path: Path) -> None:
    photo = Path(doctor.__file__).parents[1] / "assets" / "photos" / "basketball.jpg"
    done = run("predict", photo, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["people"] >= 1


@needs_models
def test_doctor_runs_the_embedded_models() -> None:
    said = json.loads(call("doctor", "--json").stdout)
    assert all(v.startswith("runs") for v in said["models"].values())
