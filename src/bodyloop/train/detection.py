"""Training of person detectors: which cell answers for which person, the losses, and the task for the loop.

A *prior* is a cell of one of the three grids. The dynamic soft label assignment lets the network's own
predictions decide: for each person the cells whose boxes already fit best and whose score is nearest to that
fit become positive, as many as there are well-fitting ones; the score they must learn is the IoU of their
box. All other cells must say 0, unless they lie in an ignore box.

Source: RTMDet (Lyu et al., 2022), assigner and losses of its boxes-only configurations.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bodyloop.data.detection import Augmentation, DetectionSample, read_photos, sample
from bodyloop.detect.rtmdet import RTMDetDetector
from bodyloop.engines import Array
from bodyloop.errors import ConfigError
from bodyloop.geometry import boxes_to_xywh
from bodyloop.images import read
from bodyloop.models.cards import Detection, Preprocess
from bodyloop.nn.efficientnet import MEAN, STD
from bodyloop.nn.efficientnet import freeze as freeze_stages
from bodyloop.nn.frugal import make_frugal
from bodyloop.nn.rtmdet import STRIDES, DetectorFunction, decode, make_priors, rtmdet_n
from bodyloop.roles import Detector
from bodyloop.train.config import DetectorConfig
from bodyloop.train.loop import Shared
from bodyloop.train.mixture import Mixture, parse_sources
from bodyloop.train.optimiser import freeze
from bodyloop.train.pose_data import source_file
from bodyloop.train.starts import load_start

CANDIDATES = 13  # best IoUs of a person that decide how many cells answer for it
IOU_WEIGHT = 3.0
CENTRE_RADIUS = 3.0  # strides; at this distance from the centre the cost of a cell is 1
BOX_WEIGHT = 2.0
SCORE_FLOOR = 0.01  # AP integrates over all scores; below this nothing is found any more
NMS_IOU = 0.65

Floats = npt.NDArray[np.float32]


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (N, M) of boxes (N, 4) and (M, 4); 0 where a box has no area."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (high - low).clamp(min=0).prod(dim=-1)
    area_a = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(dim=-1)
    area_b = (b[:, 2:] - b[:, :2]).clamp(min=0).prod(dim=-1)
    return inter / (area_a[:, None] + area_b[None] - inter).clamp(min=1e-6)


@torch.no_grad()
def assign(
    points: Tensor, strides: Tensor, predicted: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Dynamic soft label assignment of one picture.

    Args:
        points: (P, 2) priors. strides: (P,). predicted: (P, 4) decoded boxes. logits: (P, C).
        boxes: (G, 4) true boxes; all in input px. labels: (G,) int64, their classes.
    Returns: owner (P,) int64, the person a prior answers for or -1; metric (P,), its IoU with that one or 0.
    """
    owner = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    metric = torch.zeros(len(points), device=points.device)
    if not len(boxes):
        return owner, metric
    sides = torch.cat([points[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None]], dim=-1)
    inside = (sides.amin(dim=-1) > 0).any(dim=1).nonzero().flatten()
    if not len(inside):
        return owner, metric
    iou = pairwise_iou(predicted[inside], boxes)
    cost = _cost(points[inside], strides[inside], logits[inside], iou, boxes, labels)
    chosen = torch.zeros_like(iou, dtype=torch.bool)
    best = iou.topk(min(CANDIDATES, len(inside)), dim=0).values
    counts = best.sum(dim=0).int().clamp(min=1).tolist()
    for g, k in enumerate(counts):
        chosen[cost[:, g].topk(k, largest=False).indices, g] = True
    contested = chosen.sum(dim=1) > 1
    chosen[contested] = F.one_hot(cost[contested].argmin(dim=1), len(boxes)).bool()
    row, person = chosen.nonzero(as_tuple=True)
    owner[inside[row]] = person
    metric[inside[row]] = iou[row, person]
    return owner, metric


def _cost(
    points: Tensor, strides: Tensor, logits: Tensor, iou: Tensor, boxes: Tensor, labels: Tensor
) -> Tensor:
    """(V, G): soft centre prior, -3 ln IoU, and the classification loss against the IoU as soft label."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (points[:, None] - centre[None]).norm(dim=-1) / strides[:, None]
    target = F.one_hot(labels, logits.shape[1]) * iou[..., None]
    quality = quality_focal(logits[:, None].expand_as(target), target).sum(dim=-1)
    off_centre: Tensor = 10.0 ** (distance - CENTRE_RADIUS)
    return off_centre - IOU_WEIGHT * (iou + 1e-7).log() + quality


def giou(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalised IoU (N,) of paired boxes (N, 4)."""
    inter = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    hull = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).clamp(min=0).prod(dim=1)
    union = (a[:, 2:] - a[:, :2]).prod(dim=1) + (b[:, 2:] - b[:, :2]).prod(dim=1) - inter
    union, hull = union.clamp(min=eps), hull.clamp(min=eps)
    return inter / union - (hull - union) / hull


def quality_focal(logits: Tensor, target: Tensor) -> Tensor:
    """Element-wise quality focal loss (beta 2): cross-entropy times the squared error of the score."""
    error = target - logits.sigmoid()
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none") * error**2


def inside_any(points: Tensor, boxes: Tensor) -> Tensor:
    """(P,) bool: priors that lie in one of the boxes (M, 4)."""
    x, y = points[:, :1], points[:, 1:]
    within = (x >= boxes[:, 0]) & (x <= boxes[:, 2]) & (y >= boxes[:, 1]) & (y <= boxes[:, 3])
    return within.any(dim=1)


def detection_losses(
    logits: Tensor,
    distances: Tensor,
    boxes: list[Tensor],
    ignore: list[Tensor],
    size: tuple[int, int],
    labels: list[Tensor] | None = None,
    shared: Shared = lambda x: x,
) -> dict[str, Tensor]:
    """Classification and box loss of a batch.

    Args:
        logits: (B, P, C). distances: (B, P, 4). boxes, ignore: per picture (N, 4), (M, 4) input px.
        size: (height, width) of the input. labels: per picture (N,) int64; None: all are class 0.
        shared: the mean of a sum over all processes, by which the terms are divided.
    """
    if labels is None:
        labels = [torch.zeros(len(b), dtype=torch.int64, device=b.device) for b in boxes]
    points, strides = make_priors(*size, device=logits.device)
    scores, targets, weights, errors, metrics = [], [], [], [], []
    for i, (z, d) in enumerate(zip(logits.float(), distances.float(), strict=True)):
        truth, predicted = boxes[i], decode(points, d)
        owner, metric = assign(points, strides, predicted, z, truth, labels[i])
        positive = owner >= 0
        target = torch.zeros_like(z)
        target[positive, labels[i][owner[positive]]] = metric[positive]
        scores.append(z)
        targets.append(target)
        weights.append((positive | ~inside_any(points, ignore[i])).float()[:, None])
        errors.append(1 - giou(predicted[positive], truth[owner[positive]]))
        metrics.append(metric[positive])
    metric = torch.cat(metrics)
    total = shared(metric.sum()).clamp(min=1.0)
    quality = quality_focal(torch.stack(scores), torch.stack(targets)) * torch.stack(weights)
    return {
        "class": quality.sum() / total,
        "box": BOX_WEIGHT * (torch.cat(errors) * metric).sum() / total,
        "_positives": torch.tensor(float(len(metric)) / len(boxes)),
        "_iou": metric.mean() if len(metric) else metric.sum(),
    }


class DetectorSamples:
    """Photos of several sets, as `bodyloop.train.loop.Samples`; a ref is (source, photo, side of the canvas)."""

    def __init__(self, config: DetectorConfig) -> None:
        self.root = Path(os.path.expandvars(config.data))
        self.seed = config.seed
        shares = parse_sources(config.sources)
        self.files = [source_file(self.root, name) for name in shares]
        self.photos = [read_photos(f) for f in self.files]
        self.mixture = Mixture([len(p) for p in self.photos], list(shares.values()), config.seed)
        self.sizes = range(config.size, config.size_high + 1, STRIDES[-1])
        if not len(self.sizes) or self.sizes[0] % STRIDES[-1]:
            raise ConfigError(f"size must be a multiple of {STRIDES[-1]} and at most size_high")
        self.augmentation = Augmentation(
            size=self.sizes[0], mosaic=config.mosaic, scale=(config.scale_low, config.scale_high)
        )

    @property
    def digests(self) -> Mapping[str, str]:
        return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in self.files}

    def batches_per_epoch(self, size: int) -> int:
        return self.mixture.batches_per_epoch(size)

    def draw(self, n: int, size: int) -> Sequence[tuple[int, ...]]:
        side = int(np.random.default_rng([self.seed, n]).choice(self.sizes))  # one canvas a batch
        return [(source, index, side) for source, index in self.mixture.draw(n, size)]

    def sample(self, ref: tuple[int, ...], rng: np.random.Generator) -> DetectionSample:
        source, index, side = ref
        return sample(self.photos[source], replace(self.augmentation, size=side), rng, index)

    def collate(self, samples: Sequence[DetectionSample]) -> dict[str, Tensor]:
        """``images`` (B, H, W, 3) uint8, ``boxes`` and ``ignore`` (B, n, 4), filled up with NaN rows."""
        return {
            "images": torch.from_numpy(np.stack([s.image for s in samples])),
            "boxes": _padded([s.boxes for s in samples]),
            "ignore": _padded([s.ignore for s in samples]),
        }


class DetectorTask:
    """Trains `rtmdet_n` on photos with boxes; implements `bodyloop.train.loop.Task`."""

    blocks = 0

    def __init__(self, config: DetectorConfig) -> None:
        if config.model != "rtmdet-n":
            raise ConfigError(f"the detector task trains 'rtmdet-n', not {config.model!r}")
        self.config = config
        self.samples = DetectorSamples(config)
        torch.manual_seed(config.seed)
        self._model = rtmdet_n(pretrained=config.start == "imagenet")
        if config.start not in ("imagenet", "none"):
            load_start(self._model, config.start)
        freeze_stages(self._model.backbone, config.fixed_stages, config.train_depthwise)
        freeze(self._model, config.freeze)
        make_frugal(self._model, [self._model.backbone])

    @property
    def model(self) -> nn.Module:
        return self._model

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor], shared: Shared) -> dict[str, Tensor]:
        images = batch["images"]
        logits, distances = model(normalise(images))
        boxes, ignore = ([b[b[:, 0].isfinite()] for b in batch[k]] for k in ("boxes", "ignore"))
        with torch.autocast(images.device.type, enabled=False):
            return detection_losses(
                logits, distances, boxes, ignore, (images.shape[1], images.shape[2]), shared=shared
            )

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Box AP of COCO on ``coco/dev.json``; ``score`` is AP."""
        from bodyloop.eval import evaluate_boxes

        path = self.samples.root / "coco" / "dev.json"
        truth = json.loads(path.read_text(encoding="utf-8"))
        size = self.config.test_size
        detector = RTMDetDetector(
            _Running(model, size),
            Preprocess((size, size), mean=MEAN, std=STD, input="uint8-nhwc"),
            Detection(score_threshold=SCORE_FLOOR, nms_iou=NMS_IOU),
        )
        results = [row for image in truth["images"] for row in _found(detector, path, image)]
        if not results:
            return {"score": 0.0}
        report = evaluate_boxes(truth, results)
        names = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR_100")
        return {"score": report.AP, **{n: round(float(getattr(report, n)), 4) for n in names}}


def normalise(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 RGB to (B, 3, H, W) float32 as the backbone expects it (in channels_last memory)."""
    x = images.permute(0, 3, 1, 2).float()
    out: Tensor = (x - x.new_tensor(MEAN)[:, None, None]) / x.new_tensor(STD)[:, None, None]
    return out


def _found(detector: Detector, annotations: Path, image: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A detector's answer to one image of a COCO file, as rows of a results file."""
    photo = read(annotations.parent / "images" / image["file_name"], orient=False, id=image["id"])
    (people,) = detector.detect([photo])
    boxes, scores = people.boxes, people.scores
    if boxes is None or scores is None:
        return []
    return [
        {"image_id": image["id"], "category_id": 1, "bbox": box, "score": score}
        for box, score in zip(boxes_to_xywh(boxes).tolist(), scores.tolist(), strict=True)
    ]


class _Running:
    """The model as it is now as an engine, in bf16 where that is allowed; its parameters are not touched."""

    outputs = DetectorFunction.outputs

    def __init__(self, model: nn.Module, size: int) -> None:
        self._device = next(model.parameters()).device
        self._function = DetectorFunction(model, (size, size), mean=MEAN, std=STD).to(self._device)

    @property
    def device(self) -> str:
        return str(self._device)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        images = torch.from_numpy(inputs["images"]).to(self._device)
        with torch.no_grad(), torch.autocast(self._device.type, dtype=torch.bfloat16):
            out = self._function(images, outputs)
        return {k: v.float().cpu().numpy() for k, v in out.items()}

    def warm_up(self, outputs: Sequence[str] | None = None) -> None:
        """Nothing to prepare."""


def _padded(rows: list[Floats]) -> Tensor:
    out = torch.full((len(rows), max(1, max(len(r) for r in rows)), 4), float("nan"))
    for i, r in enumerate(rows):
        out[i, : len(r)] = torch.from_numpy(r)
    return out
