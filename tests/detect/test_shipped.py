"""The detectors in the package find the people of the package's own pictures, and nobody where nobody is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import bodyloop as bl
from bodyloop.geometry import iou
from bodyloop.images import Image, read
from bodyloop.roles import Detector

PHOTOS = Path(bl.__file__).parent / "assets" / "photos"


@pytest.fixture(scope="module", params=["rtmdet-n", "rtmdet-ins-n"])
def detector(request: pytest.FixtureRequest) -> Detector:
    return bl.load_detector(request.param, threads=1)


@pytest.mark.parametrize(
    ("name", "people"),  # drawn by eye, as shares of the picture's width and height
    [
        ("basketball", [(0.05, 0.17, 0.25, 0.98), (0.70, 0.04, 1.0, 1.0)]),
        ("astronaut", [(0.05, 0.03, 0.80, 1.0)]),
    ],
)
def test_people(detector: Detector, name: str, people: Sequence[tuple[float, ...]]) -> None:
    photo = read(PHOTOS / f"{name}.jpg")
    (found,) = detector.detect([photo])
    assert found.boxes is not None and len(found) == len(people)
    overlap = iou(np.array(people) * np.tile(photo.size, 2), found.boxes)
    assert (overlap.max(axis=1) > 0.6).all()
    assert (overlap.max(axis=0) > 0.6).all()


@pytest.mark.parametrize("level", [0, 114, 255])
def test_nobody(detector: Detector, level: int) -> None:
    (found,) = detector.detect([Image(np.full((300, 400, 3), level, np.uint8))])
    assert len(found) == 0


def test_size_of_the_photo_hardly_matters(detector: Detector) -> None:
    import cv2

    small = read(PHOTOS / "basketball.jpg")
    large = Image(cv2.resize(small.pixels, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC))
    a, b = detector.detect([small, large])
    assert a.boxes is not None and b.boxes is not None
    assert (iou(a.boxes, b.boxes / 4).max(axis=1) > 0.9).all()


def test_masks_lie_on_the_people() -> None:
    photo = read(PHOTOS / "basketball.jpg")
    (found,) = bl.load_detector("rtmdet-ins-n", threads=1).detect([photo])
    assert found.boxes is not None and found.masks is not None and found.masks.present.all()
    assert (iou(found.boxes, found.masks.boxes).diagonal() > 0.7).all()
    filled = found.masks.areas / (found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1)
    assert ((filled > 0.3) & (filled < 0.9)).all()
    shirts = [(100, 210), (590, 250)]  # x, y of the man on the left and the one on the right
    for i, (x, y) in zip(found.boxes[:, 0].argsort(), shirts, strict=True):
        assert found.masks.bitmap(i)[y, x] and not found.masks.bitmap(i)[y, 320]


def test_who_is_painted_black_is_not_found_again() -> None:
    from bodyloop.loop.merge import masked_out

    detector = bl.load_detector("rtmdet-ins-n", threads=1)
    photo = read(PHOTOS / "basketball.jpg")
    (found,) = detector.detect([photo])
    assert found.boxes is not None and found.masks is not None and len(found) == 2
    (again,) = detector.detect([masked_out(photo, found.masks)])
    assert again.boxes is not None
    assert (iou(found.boxes, again.boxes) < 0.3).all()  # an arm that the mask left out may be


@pytest.mark.slow
def test_the_file_against_torch(tmp_path: Path) -> None:
    """The trained weights in torch and as an exported file: the same people, boxes and masks."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from bodyloop.detect import RTMDetDetector
    from bodyloop.detect.export import detector_function, export_detector
    from bodyloop.engines.onnx import OnnxEngine
    from bodyloop.engines.torch import TorchEngine
    from bodyloop.models.build import load_network
    from bodyloop.models.registry import find_card

    weights = PHOTOS.parents[3] / "weights" / "rtmdet-ins-n.safetensors"
    card = find_card("rtmdet-ins-n")
    network = load_network(card, weights)
    own = export_detector(network, card, tmp_path / "d.onnx", half=False)
    photos = [read(PHOTOS / f"{n}.jpg") for n in ("basketball", "street_610", "street_198", "astronaut")]
    by_torch = RTMDetDetector.from_card(TorchEngine(detector_function(network, card)), card).detect(photos)
    by_file = RTMDetDetector.from_card(OnnxEngine(tmp_path / "d.onnx", threads=1), own).detect(photos)
    assert sum(len(p) for p in by_torch) >= 8
    for a, b in zip(by_torch, by_file, strict=True):
        assert a.boxes is not None and b.boxes is not None and a.scores is not None and b.scores is not None
        assert a.masks is not None and b.masks is not None and len(a) == len(b)
        assert np.abs(a.boxes - b.boxes).max(initial=0) < 0.05
        assert np.abs(a.scores - b.scores).max(initial=0) < 1e-3
        assert (np.diag(a.masks.iou(b.masks)) > 0.999).all()
