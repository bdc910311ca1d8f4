"""int8: smaller, near the original, float32 where rounding would hurt, and honest about what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="needs the extra bodyloop[export]")
onnx = pytest.importorskip("onnx", reason="needs the extra bodyloop[export]")
pytest.importorskip("onnxscript", reason="needs the extra bodyloop[export]")

from bodyloop import skeletons  # noqa: E402
from bodyloop.engines.onnx import OnnxEngine  # noqa: E402
from bodyloop.errors import InputError, ModelError  # noqa: E402
from bodyloop.models.cards import Card, Decode, Licenses, Preprocess  # noqa: E402
from bodyloop.models.export import export_onnx  # noqa: E402
from bodyloop.models.quantize import Quantized, quantize  # noqa: E402

pytestmark = pytest.mark.slow  # an export takes torch some ten seconds
K = len(skeletons.COCO)


class Net(torch.nn.Module):
    """A small convolutional network with smooth maps."""

    outputs = ("maps", "logits", "presence")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.num_keypoints, self.size, self.map_size = K, (192, 256), (48, 64)
        conv = torch.nn.Conv2d
        self.body = torch.nn.Sequential(
            conv(3, 16, 3, 2, 1), torch.nn.ReLU6(), conv(16, 32, 3, 2, 1), torch.nn.ReLU6(),
            conv(32, 32, 5, padding=2, groups=32), torch.nn.ReLU6(), conv(32, 64, 1), torch.nn.ReLU6(),
        )  # fmt: skip
        self.last = conv(64, K, 1)
        with torch.no_grad():
            self.last.weight.mul_(20)
        self.side = torch.nn.Linear(64, K)
        self.register_buffer("temperature", torch.tensor(0.5), persistent=False)

    def forward(self, images: torch.Tensor, outputs: list[str]) -> dict[str, torch.Tensor]:
        from bodyloop.nn.maps import sparsemax_newton

        x = self.body(images)
        logits = self.last(x)
        maps = sparsemax_newton(logits.flatten(2) / self.temperature).reshape(logits.shape)
        return {"logits": logits, "maps": maps, "presence": torch.sigmoid(self.side(x.mean((2, 3))))}


CARD = Card(
    name="thin",
    kind="pose",
    architecture="pmpose-n",
    licenses=Licenses("Apache-2.0", "none", "none"),
    preprocess=Preprocess(size=(192, 256), map_size=(48, 64)),
    head="probability",
    skeleton=skeletons.COCO,
    decode=Decode("expected-oks", temperature=0.5),
    outputs=("maps", "presence"),
)


def crops(n: int, seed: int) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 16, 12, 3), dtype=np.uint8).repeat(16, axis=1).repeat(16, axis=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Quantized]:
    folder = tmp_path_factory.mktemp("int8")
    export_onnx(Net(), CARD, folder / "full.onnx")
    report = quantize(folder / "full.onnx", folder / "int8.onnx", crops(16, 0), compared=crops(12, 1))
    return folder / "full.onnx", report


def test_the_report_tells_the_measured_difference(made: tuple[Path, Quantized]) -> None:
    full, report = made
    x = {"crops": crops(12, 1)}
    a, b = (OnnxEngine(p).run(x, ["maps", "keypoints", "presence"]) for p in (full, report.path))
    d = np.abs(a["maps"] - b["maps"])
    assert report.crops == 12
    assert report.maps_max == pytest.approx(d.max(), rel=1e-3)
    assert report.maps_mean == pytest.approx(d.mean(), rel=0.05)
    assert 0 < report.maps_moved < 0.2
    assert report.sides_mean["presence"] == pytest.approx(
        np.abs(a["presence"] - b["presence"]).mean(), rel=0.05
    )
    distance = np.linalg.norm(a["keypoints"] - b["keypoints"], axis=-1)
    assert report.keypoints_median == pytest.approx(np.median(distance), abs=0.02)
    assert report.keypoints_median < 2
    assert "px" in str(report) and "12 crops" in str(report)


def test_bytes_inside_and_float_where_it_decides(made: tuple[Path, Quantized]) -> None:
    _, report = made
    model = onnx.load(report.path)
    onnx.checker.check_model(model)
    types = {i.data_type for i in model.graph.initializer}
    assert {onnx.TensorProto.INT8, onnx.TensorProto.UINT8} <= types
    assert {n.domain for n in model.graph.node} <= {""}
    scales = {n.input[0]: n for n in model.graph.node if n.op_type == "DequantizeLinear"}
    weights = [
        i for i in model.graph.initializer if i.data_type == onnx.TensorProto.INT8 and len(i.dims) == 4
    ]
    assert len(weights) == 4  # the last convolution is not among them
    sizes = {i.name: list(i.dims) for i in model.graph.initializer}
    for w in weights:
        assert sizes[scales[w.name].input[1]] == [w.dims[0]]  # one scale a channel
    maker = {o: n.op_type for n in model.graph.node for o in n.output}
    assert maker["maps"] not in ("DequantizeLinear", "QuantizeLinear")


def test_card_and_temperatures_stay(made: tuple[Path, Quantized]) -> None:
    full, report = made
    a, b = (Card.from_metadata(OnnxEngine(p).metadata) for p in (full, report.path))
    assert a is not None and b is not None and b.weights is not None
    assert b.weights.file == "int8.onnx" and b.with_weights(None) == a.with_weights(None)
    names = {i.name for i in onnx.load(report.path).graph.initializer}
    assert {"temperature.maps", "temperature.presence"} <= names


def test_what_cannot_be_quantized(made: tuple[Path, Quantized], tmp_path: Path) -> None:
    full, _ = made
    out = tmp_path / "never.onnx"
    with pytest.raises(InputError, match="crops"):
        quantize(full, out, crops(2, 0)[:, :100])
    with pytest.raises(InputError, match="crops"):
        quantize(full, out, crops(0, 0))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(full.read_bytes()[:500])
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        quantize(broken, out, crops(2, 0))
    foreign = onnx.load(full)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ModelError, match="no pose model exported"):
        quantize(tmp_path / "foreign.onnx", out, crops(2, 0))
    assert not out.exists()
