"""TorchEngine: the same contract as OnnxEngine, for modules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra bodyloop[torch]")

from bodyloop.engines import Engine  # noqa: E402
from bodyloop.engines.torch import TorchEngine  # noqa: E402
from bodyloop.errors import InputError, MissingDependency, ModelError  # noqa: E402


class Function(torch.nn.Module):
    inputs = ("crops",)
    outputs = ("mean", "linear")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(12, 5)
        self.asked: list[tuple[str, ...]] = []

    def blank(self, batch: int = 1) -> dict[str, torch.Tensor]:
        return {"crops": torch.zeros(batch, 2, 2, 3, dtype=torch.uint8)}

    def forward(self, crops: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
        self.asked.append(tuple(outputs))
        x = crops.float().flatten(1) / 255
        out = {}
        if "mean" in outputs:
            out["mean"] = x.mean(1)
        if "linear" in outputs:
            out["linear"] = self.layer(x)
        return out


CROPS = np.arange(36, dtype=np.uint8).reshape(3, 2, 2, 3)


def test_outputs_by_name_only_those_asked_for() -> None:
    module = Function()
    engine = TorchEngine(module)
    assert isinstance(engine, Engine)
    assert engine.device == "cpu" and engine.outputs == ("mean", "linear")
    got = engine.run({"crops": CROPS}, ["mean"])
    assert list(got) == ["mean"] and module.asked == [("mean",)]
    np.testing.assert_allclose(got["mean"], CROPS.reshape(3, -1).mean(1) / 255, rtol=1e-6)
    assert engine.run({"crops": CROPS}, []) == {}


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_gives_float32_near_the_truth(dtype: str) -> None:
    exact = TorchEngine(Function()).run({"crops": CROPS}, ["linear"])["linear"]
    half = TorchEngine(Function(), dtype=dtype).run({"crops": CROPS}, ["linear"])["linear"]
    assert half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() < 0.02


def test_the_module_is_put_to_evaluation_and_without_gradients() -> None:
    module = Function().train()
    TorchEngine(module)
    assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_warm_up_runs_once() -> None:
    module = Function()
    TorchEngine(module).warm_up(["linear"])
    assert module.asked == [("linear",)]


@pytest.mark.parametrize("device", ["cuda:99", "mps"])
def test_an_absent_device_is_an_error(device: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    with pytest.raises(MissingDependency, match="not there"):
        TorchEngine(Function(), device=device)


@pytest.mark.parametrize("options", [{"device": "toaster"}, {"device": "meta"}, {"dtype": "int3"}])
def test_unknown_options(options: dict[str, str]) -> None:
    with pytest.raises(InputError, match="known"):
        TorchEngine(Function(), **options)


def test_unknown_names() -> None:
    engine = TorchEngine(Function())
    with pytest.raises(ModelError, match=r"quality.*mean, linear"):
        engine.run({"crops": CROPS}, ["quality"])
    with pytest.raises(InputError, match="crops"):
        engine.run({"pixels": CROPS}, ["mean"])


def test_a_failure_inside_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="cpu"):
        TorchEngine(Function()).run({"crops": CROPS[:, :1]}, ["linear"])


def test_a_plain_module_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear"):
        TorchEngine(torch.nn.Linear(2, 2))
