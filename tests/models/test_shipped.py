"""The shipped pose file against torch: the network is rebuilt from the file's own weights and run beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import bodyloop
from bodyloop.engines.onnx import OnnxEngine
from bodyloop.geometry import Crop
from bodyloop.images import read
from bodyloop.models.cards import Card
from bodyloop.models.registry import resolve
from bodyloop.pose.crops import warp_crops

torch = pytest.importorskip("torch", reason="needs the extra bodyloop[torch]")
onnx = pytest.importorskip("onnx", reason="the tests read ONNX files with the onnx package")

from bodyloop.engines.torch import TorchEngine  # noqa: E402
from bodyloop.models.build import build_network  # noqa: E402
from bodyloop.models.export import pose_function  # noqa: E402

PHOTOS = Path(bodyloop.__file__).parent / "assets" / "photos"


def rebuilt(card: Card, path: Path) -> torch.nn.Module:
    """The map branch with the file's weights: norms are folded into the convolutions before them."""
    stored = {
        t.name.removesuffix(".half"): onnx.numpy_helper.to_array(t).astype(np.float32)
        for t in onnx.load(path).graph.initializer
    }
    network = build_network(card)
    std = np.float32(card.preprocess.std)[:, None, None]
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.zero_()
                module.running_var.fill_(1 - module.eps)
                module.weight.fill_(1)
                module.bias.zero_()
            elif isinstance(module, torch.nn.Conv2d):
                weight = stored[f"function.network.{name}.weight"]
                bias = stored.get(f"function.network.{name}.weight_bias")
                if bias is None:
                    bias = stored[f"function.network.{name}.bias"]
                # the division by std was moved into the first convolution
                weight = weight * std if weight.shape[1:] == (3, 3, 3) else weight
                module.weight.copy_(torch.from_numpy(weight))
                module.bias = torch.nn.Parameter(torch.from_numpy(bias))
    return network.eval()


def crops() -> npt.NDArray[np.uint8]:
    out = []
    for path in sorted(PHOTOS.glob("*.jpg")):
        image = read(path)
        w, h = image.size
        boxes = [[0, 0, w, h], [0.1 * w, 0.1 * h, 0.5 * w, 0.9 * h], [0.5 * w, 0.3 * h, 0.8 * w, h]]
        out.append(warp_crops(image.pixels, Crop.from_boxes(boxes)))
    return np.concatenate(out)


def test_maps_and_keypoints_are_torch_s() -> None:
    card, path = resolve("pmpose-n")
    names = ["maps", "keypoints", "map_scores", "logits"]
    x = crops()
    expected = TorchEngine(pose_function(rebuilt(card, path), card)).run({"crops": x}, names)
    got = OnnxEngine(path, threads=1).run({"crops": x}, names)
    assert expected["maps"].max() > 0.01  # of a trained network
    np.testing.assert_allclose(got["maps"], expected["maps"], atol=1e-4)
    np.testing.assert_allclose(got["map_scores"], expected["map_scores"], atol=1e-4)
    np.testing.assert_allclose(got["keypoints"], expected["keypoints"], atol=0.05)


def test_its_card_is_the_one_beside_it() -> None:
    card, path = resolve("pmpose-n")
    inside = Card.from_metadata(OnnxEngine(path).metadata)
    assert inside is not None and inside.with_weights(None) == card.with_weights(None)
    assert path.stat().st_size < 12e6
