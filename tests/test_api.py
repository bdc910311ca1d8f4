"""The short way in: what is loaded is kept, shared and refreshed; what cannot be loaded says why."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import bodyloop as bl
from bodyloop import api
from bodyloop.engines.onnx import OnnxEngine
from bodyloop.errors import BodyloopError, FileError, InputError, MissingDependency, ModelError
from bodyloop.models.cards import Card, Decode, Licenses, Preprocess
from bodyloop.roles import as_detector
from bodyloop.skeletons import Skeleton

onnx = pytest.importorskip("onnx", reason="the tests write ONNX files with the onnx package")
from onnx import TensorProto, helper  # noqa: E402

SKELETON = Skeleton.define("channels", ["red", "green", "blue"])
CARD = Card(
    name="channels",
    kind="pose",
    architecture="none",
    licenses=Licenses("Apache-2.0", "none", "none"),
    preprocess=Preprocess(size=(192, 256), map_size=(48, 64), input="uint8-nhwc"),
    head="plain",
    skeleton=SKELETON,
    decode=Decode("dark-udp"),
    outputs=("maps",),
)


def write(path: Path, card: Card | None = CARD, gain: float = 1.0) -> Path:
    """A network whose map k is every fourth pixel of channel k."""

    def constant(name: str, values: list[int]) -> onnx.TensorProto:
        return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)

    nodes = [
        helper.make_node("Cast", ["crops"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Slice", ["planes", "start", "end", "axes", "steps"], ["coarse"]),
        helper.make_node("Mul", ["coarse", "gain"], ["maps"]),
    ]
    graph = helper.make_graph(
        nodes,
        "channels",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, ["batch", 256, 192, 3])],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["batch", 3, 64, 48])],
        [
            constant("start", [0, 0]),
            constant("end", [256, 192]),
            constant("axes", [2, 3]),
            constant("steps", [4, 4]),
            helper.make_tensor("gain", TensorProto.FLOAT, [], [gain]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if card is not None:
        helper.set_model_props(model, card.to_metadata())
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    api.clear_models()
    return write(tmp_path / "channels.onnx")


def picture() -> npt.NDArray[np.uint8]:
    yy, xx = np.mgrid[:100, :100]
    spots = [(30, 40), (60, 50), (50, 70)]
    planes = [250 * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 50) for x, y in spots]
    return np.stack(planes, axis=-1).astype(np.uint8)


BOX = [[10, 10, 90, 90]]
SPOTS = [[30, 40], [60, 50], [50, 70]]


def test_predict_with_a_file(file: Path) -> None:
    people = bl.predict(picture(), BOX, model=file)
    np.testing.assert_allclose(people.keypoints[0], SPOTS, atol=1.5)
    several = bl.predict([picture(), picture()], [BOX, []], model=str(file), flip=False)
    assert [len(p) for p in several] == [1, 0]


def test_people_without_boxes_are_found(file: Path) -> None:
    people = bl.predict(picture(), model=file, detector=as_detector(lambda pixels: np.array(BOX)))
    assert len(people) == 1 and people.keypoints.shape == (1, 3, 2)


def test_streams(file: Path) -> None:
    pose = bl.load_pose(file)
    out = bl.stream((picture() for _ in range(5)), model=pose, detector=as_detector(lambda p: np.array(BOX)))
    seen = list(out)
    assert len(seen) == 5 and all(len(p) == 1 and i.size == (100, 100) for i, p in seen)


def test_a_loaded_model_is_kept(file: Path) -> None:
    assert bl.load_pose(file).engine is bl.load_pose(str(file)).engine
    assert bl.load_pose(file).engine is not bl.load_pose(file, threads=1).engine
    kept = bl.load_pose(file).engine
    api.clear_models()
    assert bl.load_pose(file).engine is not kept


def test_a_changed_file_is_loaded_anew(file: Path) -> None:
    before = bl.predict(picture(), BOX, model=file, flip=False)
    write(file, gain=2.0)
    os.utime(file, ns=(1, 1))
    after = bl.predict(picture(), BOX, model=file, flip=False)
    np.testing.assert_allclose(after.map_scores, 2 * before.map_scores, rtol=1e-5)


def test_only_a_few_are_kept(tmp_path: Path) -> None:
    api.clear_models()
    files = [write(tmp_path / f"{i}.onnx") for i in range(api.KEPT + 1)]
    first = bl.load_pose(files[0]).engine
    for f in files[1:]:
        bl.load_pose(f)
    assert bl.load_pose(files[0]).engine is not first


def test_many_threads_load_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counting(OnnxEngine):
        def __init__(self, *args: object, **kw: object) -> None:
            made.append(1)
            super().__init__(*args, **kw)  # type: ignore[arg-type]

    monkeypatch.setattr("bodyloop.engines.onnx.OnnxEngine", Counting)
    answers: list[bl.People] = []
    threads = [
        threading.Thread(target=lambda: answers.append(bl.predict(picture(), BOX, model=file)))
        for _ in range(6)
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(made) == 1 and len(answers) == 6
    assert all(a.allclose(answers[0]) for a in answers)


def test_a_failed_load_can_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "late.onnx"
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError):
        bl.load_pose(path)
    assert bl.load_pose(write(path)).card == CARD


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"dtype": "bf16"}, InputError),
        ({"compile": True}, InputError),
        ({"device": "toaster"}, InputError),
        ({"device": "cuda"}, MissingDependency),
    ],
    ids=["dtype", "compile", "unknown device", "absent device"],
)
def test_options_that_do_not_fit(file: Path, arguments: dict[str, object], error: type[Exception]) -> None:
    import onnxruntime

    if error is MissingDependency and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has it")
    with pytest.raises(error):
        bl.load_pose(file, **arguments)  # type: ignore[arg-type]


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pmpose"):
        bl.load_pose("pmpose-xxl")
    with pytest.raises(FileError, match="absent"):
        bl.load_pose(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="card"):
        bl.load_pose(write(tmp_path / "bare.onnx", card=None))
    (tmp_path / "truncated.onnx").write_bytes(write(tmp_path / "a.onnx").read_bytes()[:100])
    with pytest.raises(ModelError, match="truncated"):
        bl.load_pose(tmp_path / "truncated.onnx")


def test_a_pose_file_is_no_detector(file: Path) -> None:
    with pytest.raises(BodyloopError):
        bl.load_detector(file)


def test_torch_weights_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = tmp_path / "some.safetensors"
    from safetensors.numpy import save_file

    card = Card.from_toml(CARD.to_toml(self_contained=True))
    save_file({"x": np.zeros(1, np.float32)}, weights, card.to_metadata())
    for name in [m for m in sys.modules if m.startswith("bodyloop.engines.torch")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependency, match=r"pip install 'bodyloop\[torch\]'"):
        bl.load_pose(weights)


def test_import_is_cheap() -> None:
    import subprocess

    code = (
        "import sys, bodyloop, bodyloop.api\n"
        "print([m for m in ('torch', 'onnxruntime', 'cv2', 'PIL', 'huggingface_hub') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]", out.stdout
