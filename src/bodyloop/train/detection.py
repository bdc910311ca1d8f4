"""Training of person detectors: which cell answers for which person, the losses, and the task for the loop.

A *prior* is a cell of one of the three grids. The dynamic soft label assignment lets the network's own
predictions decide: for each person the cells whose boxes already fit best and whose score is nearest to that fit
become positive, as many as there are well-fitting ones; the score they must learn is the IoU of their box. All
other cells must say 0, unless they lie in an ignore box.

Source: RTMDet (Lyu et al., 2022), assigner and losses of its boxes-only configurations.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bodyloop.data.detection import Augmentation, Photo, letterbox, parse_sources, read_photos, sample
from bodyloop.detect.suppress import suppress
from bodyloop.errors import ConfigError
from bodyloop.nn.efficientnet import MEAN, STD
from bodyloop.nn.frugal import make_frugal
from bodyloop.nn.rtmdet import decode, make_priors, rtmdet_n
from bodyloop.train.config import TrainConfig, read_options

CANDIDATES = 13  # best IoUs of a person that decide how many cells answer for it
IOU_WEIGHT = 3.0
CENTRE_RADIUS = 3.0  # strides; at this distance from the centre the cost of a cell is 1
BOX_WEIGHT = 2.0
SCORE_FLOOR = 0.01  # AP integrates over all scores; below this nothing is found any more
NMS_IOU = 0.65

Floats = npt.NDArray[np.float32]

OPTIONS = {
    "size": 320.0,
    "test_size": 416.0,
    "mosaic": 0.5,
    "scale_low": 0.45,
    "scale_high": 1.4,
    "fixed_stages": 2.0,
    "train_depthwise": 0.0,
}


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
    points: Tensor, strides: Tensor, predicted: Tensor, logits: Tensor, boxes: Tensor
) -> tuple[Tensor, Tensor]:
    """Dynamic soft label assignment of one picture, one class.

    Args:
        points: (P, 2) priors. strides: (P,). predicted: (P, 4) decoded boxes. logits: (P,).
        boxes: (G, 4) true boxes; all in input px.
    Returns: owner (P,) int64, the person a prior answers for or -1; metric (P,) its IoU with that person, else 0.
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
    cost = _cost(points[inside], strides[inside], logits[inside], iou, boxes)
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


def _cost(points: Tensor, strides: Tensor, logits: Tensor, iou: Tensor, boxes: Tensor) -> Tensor:
    """(V, G): soft centre prior, -3 ln IoU, and the classification loss against the IoU as soft label."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (points[:, None] - centre[None]).norm(dim=-1) / strides[:, None]
    z = logits[:, None].expand_as(iou)
    quality = F.binary_cross_entropy_with_logits(z, iou, reduction="none") * (iou - z.sigmoid()).abs() ** 2
    return 10.0 ** (distance - CENTRE_RADIUS) - IOU_WEIGHT * (iou + 1e-7).log() + quality


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
) -> dict[str, Tensor]:
    """Classification and box loss of a batch, one class.

    Args:
        logits: (B, P, 1). distances: (B, P, 4). boxes, ignore: per picture (N, 4), (M, 4) input px.
        size: (height, width) of the input.
    """
    points, strides = make_priors(*size, device=logits.device)
    scores, targets, weights, errors, metrics = [], [], [], [], []
    for z, d, truth, unclear in zip(logits[..., 0].float(), distances.float(), boxes, ignore, strict=True):
        predicted = decode(points, d)
        owner, metric = assign(points, strides, predicted, z, truth)
        positive = owner >= 0
        scores.append(z)
        targets.append(metric)
        weights.append((positive | ~inside_any(points, unclear)).float())
        errors.append(1 - giou(predicted[positive], truth[owner[positive]]))
        metrics.append(metric[positive])
    metric = torch.cat(metrics)
    total = metric.sum().clamp(min=1.0)
    quality = quality_focal(torch.stack(scores), torch.stack(targets)) * torch.stack(weights)
    return {
        "class": quality.sum() / total,
        "box": BOX_WEIGHT * (torch.cat(errors) * metric).sum() / total,
        "_positives": torch.tensor(float(len(metric)) / len(boxes)),
        "_iou": metric.mean() if len(metric) else metric.sum(),
    }


class DetectorTask:
    """Trains `rtmdet_n` on photos with boxes; implements `bodyloop.train.loop.Task`."""

    def __init__(self, config: TrainConfig) -> None:
        if config.model != "rtmdet-n":
            raise ConfigError(f"the detector task trains 'rtmdet-n', not {config.model!r}")
        self.options = read_options(config.options, OPTIONS, "detector")
        self._model = rtmdet_n(pretrained=config.start == "imagenet")
        _fix(self._model.backbone, int(self.options["fixed_stages"]), bool(self.options["train_depthwise"]))
        make_frugal(self._model, [self._model.backbone])
        self.root = Path(os.path.expandvars(config.data))
        self.shares = parse_sources(config.sources)
        self.photos = {name: read_photos(self.root / name / "train.json") for name in self.shares}
        self.augmentation = Augmentation(
            size=int(self.options["size"]),
            mosaic=self.options["mosaic"],
            scale=(self.options["scale_low"], self.options["scale_high"]),
        )
        self._dev: list[Photo] | None = None
        self._truth: dict[str, Any] = {}

    @property
    def model(self) -> nn.Module:
        return self._model

    def backbone(self) -> nn.Module | None:
        return self._model.backbone

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """``images`` (B, H, W, 3) uint8, ``boxes`` and ``ignore`` (B, n, 4), filled up with NaN rows."""
        names = list(self.shares)
        samples = []
        for name in rng.choice(len(names), size=size, p=list(self.shares.values())):
            photos = self.photos[names[int(name)]]
            samples.append(sample(photos, self.augmentation, rng, int(rng.integers(len(photos)))))
        return {
            "images": torch.from_numpy(np.stack([s.image for s in samples])),
            "boxes": _padded([s.boxes for s in samples]),
            "ignore": _padded([s.ignore for s in samples]),
        }

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        images = batch["images"]
        logits, distances = self._model(normalise(images))
        boxes, ignore = ([b[b[:, 0].isfinite()] for b in batch[k]] for k in ("boxes", "ignore"))
        with torch.autocast(images.device.type, enabled=False):
            return detection_losses(logits, distances, boxes, ignore, (images.shape[1], images.shape[2]))

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Box AP of COCO on ``coco/dev.json``; ``score`` is AP."""
        from bodyloop.eval import evaluate_boxes

        path = self.root / "coco" / "dev.json"
        if self._dev is None:
            self._dev = read_photos(path)
            self._truth = json.loads(path.read_text(encoding="utf-8"))
        ids = {i["file_name"]: i["id"] for i in self._truth["images"]}
        results = []
        for photo, boxes, scores in predict(model, self._dev, int(self.options["test_size"])):
            for (x1, y1, x2, y2), score in zip(boxes.tolist(), scores.tolist(), strict=True):
                row = {"image_id": ids[photo.name], "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
                results.append({**row, "score": score})
        if not results:
            return {"score": 0.0}
        report = evaluate_boxes(self._truth, results)
        names = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR_100")
        return {"score": report.AP, **{n: round(float(getattr(report, n)), 4) for n in names}}


def normalise(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 RGB to (B, 3, H, W) float32 as the backbone expects it (in channels_last memory)."""
    x = images.permute(0, 3, 1, 2).float()
    out: Tensor = (x - x.new_tensor(MEAN)[:, None, None]) / x.new_tensor(STD)[:, None, None]
    return out


@torch.no_grad()
def predict(
    model: nn.Module, photos: Sequence[Photo], size: int, batch: int = 8
) -> Iterator[tuple[Photo, Floats, Floats]]:
    """Boxes (N, 4) in photo px and scores (N,) of each photo, letterboxed to ``size`` px, best first."""
    points, _ = make_priors(size, size)
    for start in range(0, len(photos), batch):
        part = photos[start : start + batch]
        inputs = [letterbox(p.pixels(), size) for p in part]
        images = torch.from_numpy(np.stack([canvas for canvas, _ in inputs]))
        device = next(model.parameters()).device
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits, distances = model(normalise(images.to(device)))
        boxes = decode(points, distances.float().cpu()).numpy()
        scores = logits[..., 0].float().sigmoid().cpu().numpy()
        for photo, (_, factor), b, s in zip(part, inputs, boxes, scores, strict=True):
            limit = np.array([photo.width, photo.height] * 2, np.float32)
            likely = s > SCORE_FLOOR
            b, s = np.clip(b[likely] / factor, 0, limit), s[likely]
            kept = suppress(b, s, NMS_IOU, limit=100)
            yield photo, b[kept], s[kept]


def _fix(backbone: nn.Module, stages: int, train_depthwise: bool) -> None:
    """Keep the pretrained values of the first stages, and of all depthwise filters unless they are to be trained."""
    for name, p in backbone.named_parameters():
        early = name.startswith("stem.") or any(name.startswith(f"stages.{i}.") for i in range(stages))
        depthwise = "depthwise" in name or name.endswith("norm1.weight")
        if (stages and early) or (depthwise and not train_depthwise):
            p.requires_grad_(False)


def _padded(rows: list[Floats]) -> Tensor:
    out = torch.full((len(rows), max(1, max(len(r) for r in rows)), 4), float("nan"))
    for i, r in enumerate(rows):
        out[i, : len(r)] = torch.from_numpy(r)
    return out
