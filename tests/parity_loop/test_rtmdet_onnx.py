"""Exported detectors against torch, with the weights of the stored numbers: the same people, boxes and masks.

In float32 these random weights amplify rounding (in torch as in onnxruntime), so people are paired by their boxes,
not by their order, the pictures are those whose numbers are stored, and masks are compared with torch in float64.
On other pictures the m network in torch is up to 0.56 px from itself in float64, the file up to 0.49 px.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

from bodyloop.detect import RTMDetDetector  # noqa: E402
from bodyloop.detect.export import detector_function, export_detector  # noqa: E402
from bodyloop.engines.onnx import OnnxEngine  # noqa: E402
from bodyloop.engines.torch import TorchEngine  # noqa: E402
from bodyloop.geometry import iou  # noqa: E402
from bodyloop.images import Image  # noqa: E402
from bodyloop.models.build import build_network  # noqa: E402
from bodyloop.models.checkpoints import load_into  # noqa: E402
from bodyloop.models.registry import find_card  # noqa: E402
from tests.parity_loop.inputs import picture, weights  # noqa: E402

pytestmark = pytest.mark.slow  # an export takes a minute
SIZES = [(96, 144), (170, 120), (333, 500), (101, 1000)]


@pytest.mark.parametrize(
    ("name", "card", "pictures", "px"),
    [
        ("rtmdet-ins-tiny", "rtmdet-ins-tiny", 4, 0.05),
        ("rtmdet-m", "rtmdet-m", 1, 0.5),
        ("rtmdet-ins-l-person", "rtmdet-ins-l", 2, 0.5),
    ],
)
def test_the_same_people(tmp_path: Path, name: str, card: str, pictures: int, px: float) -> None:
    found = find_card(card)
    classes = 1 if name.endswith("-person") else 80
    assert found.detection is not None
    found = replace(found, detection=replace(found.detection, num_classes=classes))
    network = build_network(found, meta=True)
    load_into(network, weights(name, f"rtmdet/bn-{name}.npz"))
    photos = [Image(picture(k, *size)[..., ::-1]) for k, size in enumerate(SIZES[:pictures])]
    own = export_detector(network, found, tmp_path / "d.onnx", half=False)
    function = detector_function(network, found)
    exact = name == "rtmdet-ins-tiny"
    engine = TorchEngine(function.double() if exact else function)
    by_torch = RTMDetDetector.from_card(engine, found).detect(photos)
    by_onnx = RTMDetDetector.from_card(OnnxEngine(tmp_path / "d.onnx", threads=1), own).detect(photos)
    assert sum(len(p) for p in by_torch) > 5
    for a, b in zip(by_torch, by_onnx, strict=True):
        assert a.boxes is not None and b.boxes is not None and a.scores is not None and b.scores is not None
        assert len(a) == len(b)
        pairs = iou(a.boxes, b.boxes).argmax(axis=1) if len(b) else np.zeros(0, int)
        assert sorted(pairs) == list(range(len(b)))
        b = b[pairs]
        assert b.boxes is not None and b.scores is not None
        assert np.abs(a.boxes - b.boxes).max(initial=0) < px
        assert np.abs(a.scores - b.scores).max(initial=0) < 0.02
        if exact:
            assert a.masks is not None and b.masks is not None
            there = a.masks.present | b.masks.present
            assert (np.diag(a.masks.iou(b.masks))[there] > 0.999).all()
