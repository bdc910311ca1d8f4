"""pose2seg-n as an ONNX file: torch's numbers, any batch, and its card inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bodyloop as bl
from bodyloop.engines.onnx import OnnxEngine
from bodyloop.errors import ModelError
from bodyloop.models.cards import Card
from bodyloop.models.registry import find_card
from bodyloop.segment.crops import CropSegmenter

torch = pytest.importorskip("torch", reason="needs the extra bodyloop[torch]")
pytest.importorskip("onnxscript", reason="needs the extra bodyloop[export]")

from bodyloop.engines.torch import TorchEngine  # noqa: E402
from bodyloop.nn.pose2seg import Pose2Seg  # noqa: E402
from bodyloop.segment.crops_export import crops_function, export_crops  # noqa: E402


@pytest.fixture(scope="module")
def network() -> Pose2Seg:
    """Random weights, as lively as trained ones."""
    torch.manual_seed(0)
    net = Pose2Seg()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        for last in (net.inject, net.final, net.score.out):
            last.weight.normal_(0, 0.3)
    return net.eval()


@pytest.mark.slow
def test_file_and_torch_agree(network: Pose2Seg, tmp_path: Path) -> None:
    card = find_card("pose2seg-n")
    path = tmp_path / "mine.onnx"
    told = export_crops(network.train(), card, path, half=False)
    assert network.training  # left as it was
    network.eval()
    engine = OnnxEngine(path, threads=1)
    assert Card.from_metadata(engine.metadata) == told and told.preprocess.input == "uint8-nhwc"
    rng = np.random.default_rng(0)
    beside = TorchEngine(crops_function(network, card))
    for n in (1, 3):
        asked = {
            "crops": rng.integers(0, 256, (n, 192, 144, 3)).astype(np.uint8),
            "prompts": rng.uniform(-1, 1, (n, 13, 48, 36)).astype(np.float32),
        }
        a, b = (e.run(asked, ["masks", "scores"]) for e in (engine, beside))
        assert np.std(b["masks"]) > 0.01
        np.testing.assert_allclose(a["masks"], b["masks"], atol=1e-3)
        np.testing.assert_allclose(a["scores"], b["scores"], atol=1e-4)
    assert isinstance(bl.load_segmenter(path), CropSegmenter)


def test_cards_that_do_not_fit(network: Pose2Seg) -> None:
    card = find_card("pose2seg-n")
    with pytest.raises(ModelError, match="not of a segmenter that takes crops"):
        crops_function(network, find_card("pmpose-n"))
    with pytest.raises(ModelError, match="not of a segmenter that takes crops"):
        crops_function(torch.nn.Conv2d(1, 1, 1), card)
    with pytest.raises(ModelError, match=r"size and map_size must be \[144, 192\]"):
        crops_function(network, replace(card, preprocess=replace(card.preprocess, size=(192, 256))))
