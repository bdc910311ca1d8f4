"""The detector's task: samples from files, reproducible anywhere, and that boxes and masks are learned."""

from __future__ import annotations

import json
import math
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import bodyloop
from bodyloop.errors import ConfigError
from bodyloop.nn.rtmdet_ins import rtmdet_ins
from bodyloop.train.config import DetectorConfig, config_from, load_config
from bodyloop.train.detection import DetectorSamples, DetectorTask
from bodyloop.train.loop import batches, update_average
from bodyloop.train.optimiser import learning_rate

SIDE = 96
WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "rtmdet-n.safetensors"
PEOPLE = [[(12, 12, 44, 84)], [(40, 20, 90, 50)], [(6, 30, 36, 90), (50, 10, 86, 80)], []]


def write(root: Path, name: str, masked: bool = True) -> None:
    """Pictures with striped ellipses as people; masks as polygons."""
    folder = root / name / "images"
    folder.mkdir(parents=True)
    annotations: list[dict[str, Any]] = []
    for i, boxes in enumerate(PEOPLE):
        image = np.full((SIDE, SIDE, 3), 60, np.uint8)
        for x1, y1, x2, y2 in boxes:
            middle, axes = ((x1 + x2) // 2, (y1 + y2) // 2), ((x2 - x1) // 2, (y2 - y1) // 2)
            cv2.ellipse(image, middle, axes, 0, 0, 360, (40, 90, 220), -1)
            outline = cv2.ellipse2Poly(middle, axes, 0, 0, 360, 10).reshape(-1).tolist()
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i, "category_id": 1, "iscrowd": 0,
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1) * 0.785,
                 "segmentation": [outline] if masked else []}
            )  # fmt: skip
        cv2.imwrite(str(folder / f"{i}.png"), image)
    images = [{"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in range(len(PEOPLE))]
    table = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (root / name / "train.json").write_text(json.dumps(table), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write(root, "masked")
    write(root, "plain", masked=False)
    return root


def config(data: Path, **changes: Any) -> DetectorConfig:
    table = {"task": "detector", "model": "rtmdet-ins-n", "data": str(data), "sources": ["masked", "plain"],
             "size": SIDE, "size_high": SIDE, "test_size": SIDE, "batch": 4, "steps": 20, "precision": "fp32",
             "fixed_stages": 0, "validation": "masked/train.json"}  # fmt: skip
    made = config_from({**table, **changes})
    assert isinstance(made, DetectorConfig)
    return made


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k].nan_to_num(-1), b[k].nan_to_num(-1)) for k in a)


def test_samples_follow_from_seed_and_number_alone(data: Path) -> None:
    c = config(data, copy_paste=0.5, mask_out=0.5, mask_out_rough=0.5, size=64)
    samples = DetectorSamples(c)
    one = [parts[0] for parts, _ in batches(samples, c, 0, 4)]
    travelled = pickle.loads(pickle.dumps(samples))  # as a worker gets them
    two = [parts[0] for parts, _ in batches(travelled, c, 2, 4)]  # and a run that goes on
    assert equal(one[2], two[0]) and equal(one[3], two[1])
    assert not equal(one[0], one[1])
    other = config(data, copy_paste=0.5, mask_out=0.5, mask_out_rough=0.5, size=64, seed=1)
    assert not equal(one[0], next(iter(batches(DetectorSamples(other), other, 0, 1)))[0][0])


def test_a_batch_keeps_masks_with_their_people(data: Path) -> None:
    c = config(data, mosaic=0.0)
    samples = DetectorSamples(c)
    for parts, _ in batches(samples, c, 0, 3):
        (b,) = parts
        there = b["boxes"][..., 0].isfinite()
        assert not b["masked"][~there].any()
        assert not b["masked"][2:].any()  # the second source has none
        assert torch.equal(b["masked"][:2], there[:2])
        assert len(b["masks"]) == b["masked"].sum()
        who = b["masked"]
        for mask, box, centre in zip(b["masks"], b["boxes"][who], b["centres"][who], strict=True):
            y, x = (mask.nonzero().float() * 4 + 2).T
            assert x.min() >= box[0] - 4 and x.max() <= box[2] + 4
            assert y.min() >= box[1] - 4 and y.max() <= box[3] + 4
            assert (centre - torch.stack([x.mean(), y.mean()])).abs().max() < 3


def test_the_closing_part_has_no_mosaic(data: Path) -> None:
    c = config(data, mosaic=1.0, closing=0.25, closing_scale=0.5, scale_low=1.0, scale_high=1.0)
    samples = DetectorSamples(c)
    assert [samples.draw(n, 4)[0][3] for n in (0, 14, 15, 19)] == [0, 0, 1, 1]
    rng = np.random.default_rng(0)
    image = samples.sample((0, 3, SIDE, 1), rng).image  # nobody on it: a grey square of half the size
    ys, xs = np.nonzero((image != 114).any(axis=-1))
    assert np.ptp(ys) + 1 == np.ptp(xs) + 1 == SIDE // 2


def test_photos_without_people_can_be_left_out(data: Path) -> None:
    assert [len(p) for p in DetectorSamples(config(data)).photos] == [4, 4]
    assert [len(p) for p in DetectorSamples(config(data, people_only=True)).photos] == [3, 3]


def test_the_published_schedule() -> None:
    c = load_config(Path(bodyloop.__file__).parent / "configs" / "rtmdet-ins-l-mask.yaml")
    rate = partial(learning_rate, config=c, steps=100_000, steps_per_epoch=333)
    assert rate(0) == pytest.approx(0.002 * 1e-5)
    assert rate(999) == rate(1000) == rate(50_000) == 0.002
    assert rate(75_000) == pytest.approx(0.002 * (0.05 + 0.95 / 2))
    assert rate(100_000) == pytest.approx(0.0001)
    # the average's momentum at step n: (1 - 0.0002) exp(-(1 + n) / 2000) + 0.0002
    for n in (0, 999, 20_000):
        average, model = nn.Linear(1, 1), nn.Linear(1, 1)
        for module, value in ((average, 0.0), (model, 1.0)):
            nn.init.constant_(module.weight, value)
        update_average(average, model, c.ema, n, c.ema_ramp)
        momentum = (1 - 0.0002) * math.exp(-(1 + n) / 2000) + 0.0002
        assert average.weight.item() == pytest.approx(momentum, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": "pmpose-n"}, "pmpose-n"),
        ({"incomplete": ["other"]}, "'other' is not among the sources masked, plain"),
        ({"size": 100}, "multiple of 32"),
        ({"size": 128, "size_high": 96}, "at most size_high"),
    ],
    ids=["pose model", "unknown source", "odd size", "sizes"],
)
def test_configurations_that_cannot_be(data: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        DetectorTask(config(data, **changes))


def test_boxes_alone_are_trained_by_the_same_task(data: Path) -> None:
    task = DetectorTask(config(data, model="rtmdet-n"))
    ((batch,), _) = next(iter(batches(task.samples, task.config, 0, 1)))
    terms = task.losses(task.model.train(), batch, lambda x: x)
    assert set(terms) == {"class", "box", "_positives", "_iou"}


def test_a_published_size_starts_from_a_file_of_80_classes(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = rtmdet_ins("tiny").state_dict()
    torch.save({"state_dict": theirs}, tmp_path / "tiny.pth")
    task = DetectorTask(config(data, model="rtmdet-ins-tiny", start=str(tmp_path / "tiny.pth")))
    ours = task.model.state_dict()
    for name in ("bbox_head.rtm_cls.1.weight", "bbox_head.rtm_cls.2.bias"):
        assert len(ours[name]) == 1 and torch.equal(ours[name], theirs[name][:1])  # class 0 is the person
    assert torch.equal(ours["bbox_head.rtm_kernel.0.weight"], theirs["bbox_head.rtm_kernel.0.weight"])
    image = torch.tensor(
        [[[[200, 100, 50]]]], dtype=torch.uint8
    )  # red, green, blue: the network wants blue first
    expected = (torch.tensor([50, 100, 200]) - torch.tensor([103.53, 116.28, 123.675])) / torch.tensor(
        [57.375, 57.12, 58.395]
    )
    assert torch.allclose(task.normalise(image).flatten(), expected)
    assert task.card.preprocess.size == (SIDE, SIDE) and not task.card.accuracy and task.card.weights is None
    assert task.card.detection is not None and task.card.detection.num_classes == 1


@pytest.mark.slow
def test_boxes_and_masks_are_learned_by_heart(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not WEIGHTS.is_file():
        pytest.skip(f"needs {WEIGHTS.name} of the repository to start from")
    c = config(
        data, sources=["masked"], start=str(WEIGHTS), overfit=4, mosaic=0.0, scale_low=1.0, scale_high=1.0
    )
    task = DetectorTask(c)
    assert "bbox_head.mask_head" in caplog.text and "neck" not in caplog.text  # what starts anew
    network = task.model.train()
    optimiser = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=2e-3)
    losses: list[dict[str, float]] = []
    for (batch,), _ in batches(task.samples, c, 0, 60):
        terms = task.losses(network, batch, lambda x: x)
        optimiser.zero_grad()
        torch.stack([v for k, v in terms.items() if not k.startswith("_")]).sum().backward()
        optimiser.step()
        losses.append({k: v.item() for k, v in terms.items()})
    assert losses[-1]["mask"] < 0.3 * losses[0]["mask"]
    assert losses[-1]["box"] < losses[0]["box"]
    figures = task.evaluate(network)  # of the samples themselves
    assert figures["AP"] > 0.7
    assert figures["mask_AP"] > 0.5
    assert figures["score"] == pytest.approx((figures["AP"] + figures["mask_AP"]) / 2, abs=1e-4)
