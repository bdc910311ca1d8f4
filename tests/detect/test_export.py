"""Exported files say what the torch network says, and carry their cards; the suppression outside or inside."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bodyloop.detect import RTMDetDetector
from bodyloop.detect.export import Suppression, detector_function, export_detector, people_function
from bodyloop.engines.onnx import OnnxEngine
from bodyloop.engines.torch import TorchEngine
from bodyloop.errors import InputError, ModelError
from bodyloop.images import Image
from bodyloop.models.cards import Card, Decode, Detection, Licenses, Preprocess
from bodyloop.nn.rtmdet import rtmdet_n
from bodyloop.nn.rtmdet_ins import RTMDetIns, rtmdet_ins_n
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
    with pytest.raises(ModelError, match="a Linear is no detector"):
        detector_function(torch.nn.Linear(1, 1), CARD)


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
    path = tmp_path / "d.onnx"
    own = export_detector(net, CARD, path)
    assert net.training
    assert own.weights is not None and own.weights.file == "d.onnx"
    assert path.stat().st_size < 6_000_000
    engine = OnnxEngine(path, threads=1)
    assert Card.from_metadata(engine.metadata) == own
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), dtype=np.uint8)
    with torch.inference_mode():
        truth = detector_function(net.eval(), CARD)(torch.from_numpy(pixels))
    assert float(truth["scores"].std()) > 0.1
    found = engine.run({"images": pixels}, ["boxes", "scores"])
    assert np.abs(found["scores"] - truth["scores"].numpy()).max() < 0.03  # random weights amplify rounding
    assert np.abs(found["boxes"] - truth["boxes"].numpy()).max() < 1.0  # px
    people = RTMDetDetector.from_card(engine, own).detect([Image(p) for p in pixels])
    assert len(people) == 3 and all(len(p) for p in people)


INSTANCES = replace(
    CARD, architecture="rtmdet-ins-n", detection=Detection(score_threshold=0.05, nms_pre=50, max_per_image=9)
)


@pytest.fixture(scope="module")
def instances() -> RTMDetIns:
    """Random weights that find people of all sizes, with masks of many shapes."""
    torch.manual_seed(0)
    net = rtmdet_ins_n()
    for name, m in net.named_modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.momentum = 1.0
        if isinstance(m, torch.nn.Conv2d) and ("rtm_" in name or "mask_head" in name):
            torch.nn.init.normal_(m.weight, std=2.0 if "cls" in name else 0.3)
    with torch.no_grad():
        net(torch.randn(4, 3, 96, 96))  # statistics that fit the weights
    return net.eval()


def noise(n: int) -> list[Image]:
    rng = np.random.default_rng(0)
    sizes = [(64, 96), (100, 100), (20, 200), (1, 1), (300, 31)]
    return [Image(rng.integers(0, 256, (*s, 3), dtype=np.uint8), id=i) for i, s in enumerate(sizes[:n])]


def test_people_chosen_inside_are_those_chosen_outside(instances: RTMDetIns) -> None:
    card = replace(INSTANCES, preprocess=replace(PREPROCESS, size=(96, 96)))
    square = [Image(np.random.default_rng(i).integers(0, 256, (96, 96, 3), dtype=np.uint8)) for i in range(3)]
    outside = RTMDetDetector.from_card(TorchEngine(detector_function(instances, card)), card)
    engine = TorchEngine(people_function(instances, card))
    assert engine.outputs == ("picture", "boxes", "scores", "masks")
    inside = RTMDetDetector.from_card(engine, card)
    for a, b in zip(outside.detect(square), inside.detect(square), strict=True):
        assert len(a) == 9 and a.allclose(b)
    higher = RTMDetDetector.from_card(engine, card, score_threshold=0.99, masks=False)
    for a, b in zip(inside.detect(square), higher.detect(square), strict=True):
        assert a.scores is not None and b.scores is not None and b.masks is None
        assert np.array_equal(a.scores[a.scores > 0.99], b.scores)
    with pytest.raises(InputError, match=r"drops boxes up to 0\.05"):
        RTMDetDetector.from_card(engine, card, score_threshold=0.01)


def test_photos_of_all_sizes_together_as_alone(instances: RTMDetIns) -> None:
    rng = np.random.default_rng(1)
    sizes = [(1, 1), (20, 4000), (4000, 20), (64, 96), (3, 2)]
    photos = [Image(rng.integers(0, 256, (*s, 3), dtype=np.uint8), id=i) for i, s in enumerate(sizes)]
    card = replace(INSTANCES, detection=Detection(score_threshold=0.001, max_per_image=9))
    detector = RTMDetDetector.from_card(TorchEngine(detector_function(instances, card)), card, batch=3)
    for photo, people in zip(photos, detector.detect(photos), strict=True):
        assert people.boxes is not None and people.masks is not None and len(people) > 0
        assert (people.boxes >= 0).all() and (people.boxes <= np.tile(photo.size, 2)).all()
        assert people.masks.size == photo.size == people.image_size
        (alone,) = detector.detect([photo])
        assert alone.boxes is not None and alone.masks is not None and len(alone) == len(people)
        assert np.abs(alone.boxes - people.boxes).max() <= 1e-3 * max(photo.size)
        assert people.source is not None and people.source.image_id == photo.id


@pytest.mark.slow
@pytest.mark.parametrize("suppression", ["outside", "inside"])
def test_masks_from_a_file(instances: RTMDetIns, tmp_path: Path, suppression: Suppression) -> None:
    photos = noise(5)
    every = RTMDetDetector.from_card(TorchEngine(detector_function(instances, INSTANCES)), INSTANCES)
    best = sorted(float(p.scores.max()) for p in every.detect(photos) if p.scores is not None)
    between = (best[0] + best[1]) / 2  # so that one photo is without people
    detection = Detection(score_threshold=between, nms_pre=50, max_per_image=9, num_classes=80)
    card = replace(INSTANCES, detection=detection)
    make = detector_function if suppression == "outside" else people_function
    reference = RTMDetDetector.from_card(TorchEngine(make(instances, card)), card)
    path = tmp_path / "i.onnx"
    own = export_detector(instances, card, path, half=False, suppression=suppression)
    assert own.detection is not None and own.detection.num_classes == 1  # as the network has it
    by_file = RTMDetDetector.from_card(OnnxEngine(path, threads=1), own)
    counts = []
    for photo, b in zip(photos, reference.detect(photos), strict=True):
        (a,) = by_file.detect([photo])
        counts.append(len(a))
        assert a.boxes is not None and b.boxes is not None and len(a) == len(b)
        assert np.abs(a.boxes - b.boxes).max(initial=0) < 0.05
        assert a.masks is not None and b.masks is not None and a.masks.size == a.image_size
        assert (a.masks.present == b.masks.present).all()
        differ = np.count_nonzero(a.masks.bitmaps() != b.masks.bitmaps())
        assert differ <= 1e-3 * b.masks.areas.sum()
    assert counts.count(0) == 1
    assert [len(p) for p in by_file.detect(photos)] == counts
    assert by_file.detect([]) == []
