"""The exported file says what the torch network says, and carries its card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bodyloop.detect import RTMDetDetector
from bodyloop.detect.export import detector_function, export_detector
from bodyloop.engines.onnx import OnnxEngine
from bodyloop.errors import ModelError
from bodyloop.images import Image
from bodyloop.models.cards import Card, Decode, Detection, Licenses, Preprocess
from bodyloop.nn.rtmdet import rtmdet_n
from bodyloop.skeletons import COCO

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

LICENSES = Licenses("Apache-2.0", "none", "none")
PREPROCESS = Preprocess((96, 64), mean=(127.0,) * 3, std=(128.0,) * 3, input="uint8-nhwc")
CARD = Card("d", "detector", "rtmdet-n", LICENSES, PREPROCESS, detection=Detection(score_threshold=0.001))


def test_only_detectors() -> None:
    pose = Card(
        "p", "pose", "vit-s", LICENSES, Preprocess((192, 256), (48, 64)),
        head="plain", skeleton=COCO, decode=Decode("dark-udp"),
    )  # fmt: skip
    with pytest.raises(ModelError, match="not of a detector"):
        detector_function(rtmdet_n(), pose)


@pytest.mark.slow
def test_same_answers_from_a_small_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = rtmdet_n().train()
    for conv in net.bbox_head.rtm_cls:
        torch.nn.init.normal_(conv.get_parameter("weight"), std=2.0)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.momentum = 1.0
    with torch.no_grad():
        net(torch.randn(4, 3, 96, 96))  # statistics that fit the weights
    path, exact = tmp_path / "d.onnx", tmp_path / "exact.onnx"
    own = export_detector(net, CARD, path)
    export_detector(net, CARD, exact, half=False)
    assert net.training
    assert own.weights is not None and own.weights.file == "d.onnx"
    assert path.stat().st_size < 6_000_000
    engine = OnnxEngine(path, threads=1)
    assert Card.from_metadata(engine.metadata) == own
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    with torch.inference_mode():
        truth = detector_function(net.eval(), CARD)(torch.from_numpy(pixels))
    assert float(truth["scores"].std()) > 0.1
    for file, scores, boxes in (
        (exact, 1e-4, 1e-2),
        (path, 0.03, 1.0),
    ):  # px; random weights amplify rounding
        found = OnnxEngine(file, threads=1).run({"images": pixels}, ["boxes", "scores"])
        assert np.abs(found["scores"] - truth["scores"].numpy()).max() < scores
        assert np.abs(found["boxes"] - truth["boxes"].numpy()).max() < boxes
    people = RTMDetDetector.from_card(engine, own).detect([Image(p) for p in pixels])
    assert len(people) == 3 and all(len(p) for p in people)
