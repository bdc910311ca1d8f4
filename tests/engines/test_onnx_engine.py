"""OnnxEngine: only what is asked for is computed; whatever is wrong is one of the package's own errors."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from bodyloop.engines import Engine
from bodyloop.engines._graph import cut, graph_names
from bodyloop.engines.onnx import OnnxEngine
from bodyloop.errors import FileError, InputError, MissingDependency, ModelError

onnx = pytest.importorskip("onnx", reason="the tests write ONNX files with the onnx package")
from onnx import TensorProto, helper  # noqa: E402


def small_model(metadata: dict[str, str] | None = None, inner: bool = False) -> bytes:
    """x (B, 3) -> twice = 2x, root = sqrt(x + offset), with a weight that only ``root`` needs."""
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["twice"]),
        helper.make_node("Add", ["x", "offset"], ["moved"]),
        helper.make_node("Sqrt", ["moved"], ["root"]),
    ]
    if inner:  # a branch that reads `moved` from the outer graph
        then = helper.make_graph(
            [helper.make_node("Neg", ["moved"], ["negative"])],
            "then",
            [],
            [helper.make_tensor_value_info("negative", TensorProto.FLOAT, None)],
        )
        other = helper.make_graph(
            [helper.make_node("Identity", ["moved"], ["same"])],
            "else",
            [],
            [helper.make_tensor_value_info("same", TensorProto.FLOAT, None)],
        )
        nodes.append(helper.make_node("If", ["yes"], ["chosen"], then_branch=then, else_branch=other))
    outputs = ["twice", "root", *(["chosen"] if inner else [])]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3]) for n in outputs],
        [
            helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
            helper.make_tensor("offset", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    return bytes(model.SerializeToString())


X = np.array([[0, 2, 6], [3, 7, 1]], np.float32)
OFFSET = np.array([1, 2, 3], np.float32)


def test_outputs_by_name_with_any_batch() -> None:
    engine = OnnxEngine(small_model())
    assert isinstance(engine, Engine)
    assert engine.outputs == ("twice", "root") and engine.inputs == ("x",) and engine.device == "cpu"
    for rows in (1, 2):
        got = engine.run({"x": X[:rows]}, ["root", "twice"])
        assert list(got) == ["root", "twice"]
        np.testing.assert_allclose(got["twice"], X[:rows] * 2)
        np.testing.assert_allclose(got["root"], np.sqrt(X[:rows] + OFFSET), rtol=1e-6)


def test_nothing_asked_nothing_returned() -> None:
    assert OnnxEngine(small_model()).run({"x": X}, []) == {}


@pytest.mark.parametrize(("wanted", "ops"), [(["twice"], {"Mul"}), (["root"], {"Add", "Sqrt"})])
def test_a_cut_graph_holds_only_what_its_outputs_need(wanted: list[str], ops: set[str]) -> None:
    model = onnx.load_from_string(cut(small_model(), wanted))
    onnx.checker.check_model(model)
    assert {n.op_type for n in model.graph.node} == ops
    assert [o.name for o in model.graph.output] == wanted
    assert ("offset" in {i.name for i in model.graph.initializer}) == ("root" in wanted)


def test_branches_keep_what_they_read_from_outside() -> None:
    model = small_model(inner=True)
    kept = onnx.load_from_string(cut(model, ["chosen"]))
    assert {n.op_type for n in kept.graph.node} == {"Add", "If"}
    got = OnnxEngine(model).run({"x": X}, ["chosen"])
    np.testing.assert_allclose(got["chosen"], -(X + OFFSET))


def test_metadata_and_names_are_read_without_onnx() -> None:
    data = small_model({"bodyloop.card": 'name = "small"\n', "other": "ö"})
    assert graph_names(data) == (
        ("x",),
        ("twice", "root"),
        {"bodyloop.card": 'name = "small"\n', "other": "ö"},
    )
    assert OnnxEngine(data).metadata["other"] == "ö"


def test_from_a_file_and_warm_up(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    path.write_bytes(small_model())
    engine = OnnxEngine(path, threads=1)
    engine.warm_up()
    engine.warm_up(["twice"])
    np.testing.assert_allclose(engine.run({"x": X}, ["twice"])["twice"], 2 * X)


def test_many_threads_get_their_own_answers() -> None:
    engine = OnnxEngine(small_model(), threads=1)
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = np.full((2, 3), seed, np.float32)
        for i in range(20):
            name = ("twice", "root")[(i + seed) % 2]
            expected = 2 * x if name == "twice" else np.sqrt(x + OFFSET)
            if not np.allclose(engine.run({"x": x}, [name])[name], expected):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_unknown_output_names_what_there_is() -> None:
    with pytest.raises(ModelError, match=r"quality.*twice, root"):
        OnnxEngine(small_model()).run({"x": X}, ["quality"])


@pytest.mark.parametrize(
    "inputs",
    [{}, {"y": X}, {"x": X, "y": X}, {"x": X.astype(np.float64)}, {"x": np.zeros((2, 4), np.float32)}],
    ids=["none", "unknown", "one too many", "type", "shape"],
)
def test_unfit_inputs(inputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(InputError):
        OnnxEngine(small_model()).run(inputs, ["twice"])


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_are_model_errors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = bytearray(small_model())
    kind = seed % 4
    if kind == 0:
        data = data[: rng.integers(0, len(data) - 1)]
    elif kind == 1:
        data = bytearray(rng.integers(0, 256, 300, dtype=np.uint8).tobytes())
    elif kind == 2:
        data = bytearray(b"PK\x03\x04" + bytes(200))
    else:  # some flipped bits; what still loads must run or refuse cleanly
        for i in rng.integers(0, len(data), 3):
            data[i] ^= 1 << rng.integers(0, 8)
    try:
        engine = OnnxEngine(bytes(data))
        engine.run(dict.fromkeys(engine.inputs, X), engine.outputs)
    except (ModelError, InputError) as e:
        assert "ONNX" in str(e)
    else:
        assert kind == 3


def test_missing_file() -> None:
    with pytest.raises(FileError, match=r"nowhere\.onnx"):
        OnnxEngine("nowhere.onnx")


def test_an_absent_provider_is_an_error_with_the_pip_line() -> None:
    import onnxruntime

    absent = [
        p for p in ("cuda", "directml", "coreml") if _full(p) not in onnxruntime.get_available_providers()
    ]
    for name in absent:
        with pytest.raises(MissingDependency, match="not available"):
            OnnxEngine(small_model(), providers=[name])
    if "cuda" in absent:
        with pytest.raises(MissingDependency, match="pip install onnxruntime-gpu"):
            OnnxEngine(small_model(), providers=["cuda", "cpu"])


def _full(name: str) -> str:
    return {"cuda": "CUDA", "directml": "Dml", "coreml": "CoreML"}[name] + "ExecutionProvider"


@pytest.mark.parametrize("providers", [["gpu3000"], [], "cpu"], ids=str)
def test_unknown_providers_are_input_errors(providers: list[str]) -> None:
    with pytest.raises(InputError):
        OnnxEngine(small_model(), providers=providers)
