"""What each cell of a detector must learn: which cell answers for which person, and the losses.

A *prior* is a cell of one of the three grids. The dynamic soft label assignment lets the network's own
predictions decide: for each person the cells whose boxes already fit best and whose score is nearest to that
fit become positive, as many as there are well-fitting ones; the score they must learn is the IoU of their
box. All other cells must say 0, unless they lie in an ignore box. A positive cell also learns its box and, if the
person has a mask, the mask. Everything here is of whole batches; people of a picture are filled up to equal numbers.

Source: RTMDet (Lyu et al., 2022), assigner and losses of its configurations with and without masks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bodyloop.nn.rtmdet import decode, make_priors
from bodyloop.nn.rtmdet_ins import dynamic_masks

CANDIDATES = 13  # best IoUs of a person that decide how many cells answer for it
IOU_WEIGHT = 3.0
CENTRE_RADIUS = 3.0  # strides; at this distance from the centre the cost of a cell is 1
BOX_WEIGHT = 2.0
MASK_WEIGHT = 2.0
DICE_EPS = 5e-6


class Truth(NamedTuple):
    """The people of B pictures, at most G in one, input px.

    Attributes:
        boxes: (B, G, 4) ``x1 y1 x2 y2``. labels: (B, G) int64, their classes. centres: (B, G, 2), where cells are
            preferred. there: (B, G), False for what only fills up.
        ignore: (B, M, 4), NaN for what only fills up.
        masked: (B, G), who has a mask; masks: (N, h, w) of those, row by row, at every fourth px from the third on.
    """

    boxes: Tensor
    labels: Tensor
    centres: Tensor
    there: Tensor
    ignore: Tensor
    masked: Tensor
    masks: Tensor

    @classmethod
    def of_batch(cls, batch: Mapping[str, Tensor], use_masks: bool = True) -> Truth:
        """From ``boxes``, ``centres``, ``ignore`` filled up with NaN, ``masked`` and ``masks``; all of class 0.

        Without ``use_masks`` the centres are those of the boxes.
        """
        there = batch["boxes"][..., 0].isfinite()
        boxes = batch["boxes"].nan_to_num()
        centres = batch["centres"].nan_to_num() if use_masks else (boxes[..., :2] + boxes[..., 2:]) / 2
        labels = torch.zeros(there.shape, dtype=torch.int64, device=there.device)
        masked = batch["masked"]
        return cls(boxes, labels, centres, there, batch["ignore"], masked, batch["masks"])


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (..., N, M) of boxes (..., N, 4) and (..., M, 4); 0 where a box has no area."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    inter = (high - low).clamp(min=0).prod(dim=-1)
    area_a, area_b = ((x[..., 2:] - x[..., :2]).clamp(min=0).prod(dim=-1) for x in (a, b))
    return inter / (area_a[..., :, None] + area_b[..., None, :] - inter).clamp(min=1e-6)


@torch.no_grad()
def assign(
    points: Tensor, strides: Tensor, predicted: Tensor, logits: Tensor, truth: Truth
) -> tuple[Tensor, Tensor]:
    """Dynamic soft label assignment.

    Args:
        points: (P, 2) priors. strides: (P,). predicted: (B, P, 4) decoded boxes. logits: (B, P, C).
    Returns: owner (B, P) int64, the person a prior answers for or -1; metric (B, P), its IoU with that one or 0.
    """
    if not truth.there.any():
        shape = predicted.shape[:2]
        return points.new_full(shape, -1, dtype=torch.int64), points.new_zeros(shape)
    to_sides = torch.cat(
        [points[:, None] - truth.boxes[:, None, :, :2], truth.boxes[:, None, :, 2:] - points[:, None]], dim=-1
    )
    inside = (to_sides.amin(dim=-1) > 0) & truth.there[:, None]
    possible = inside.any(dim=2, keepdim=True) & truth.there[:, None]  # (B, P, G)
    iou = pairwise_iou(predicted, truth.boxes) * possible
    cost = _cost(points, strides, logits, iou, truth).masked_fill(~possible, torch.inf)
    counts = iou.topk(min(CANDIDATES, len(points)), dim=1).values.sum(dim=1).int().clamp(min=1)
    best = cost.topk(int(counts.max()), dim=1, largest=False)
    taken = torch.arange(best.indices.shape[1], device=counts.device)[:, None] < counts[:, None]
    chosen = torch.zeros_like(possible).scatter_(1, best.indices, taken & best.values.isfinite())
    several = chosen.sum(dim=2) > 1
    owner = torch.where(several, cost.argmin(dim=2), chosen.int().argmax(dim=2))
    positive = chosen.any(dim=2)
    metric = iou.gather(2, owner[..., None])[..., 0] * positive
    return owner.masked_fill(~positive, -1), metric


def _cost(points: Tensor, strides: Tensor, logits: Tensor, iou: Tensor, truth: Truth) -> Tensor:
    """(B, P, G): soft centre prior, -3 ln IoU, and the classification loss against the IoU as soft label."""
    distance = (points[:, None] - truth.centres[:, None]).norm(dim=-1) / strides[:, None]
    own = logits.gather(2, truth.labels[:, None].expand(-1, logits.shape[1], -1))  # of the person's class
    nothing = torch.zeros_like(logits)
    others = quality_focal(logits, nothing).sum(dim=-1, keepdim=True) - quality_focal(
        own, torch.zeros_like(own)
    )
    off_centre: Tensor = 10.0 ** (distance - CENTRE_RADIUS)
    return off_centre - IOU_WEIGHT * (iou + 1e-7).log() + quality_focal(own, iou) + others


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


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """Dice loss (N,) of mask logits (N, h, w) against masks (N, h, w) of 0 and 1."""
    p, t = logits.sigmoid().flatten(1), target.to(logits.dtype).flatten(1)
    whole = (p * p).sum(dim=1) + DICE_EPS + t.sum(dim=1) + DICE_EPS
    loss: Tensor = 1 - 2 * (p * t).sum(dim=1) / whole
    return loss


def inside_any(points: Tensor, boxes: Tensor) -> Tensor:
    """(..., P) bool: priors (P, 2) that lie in one of the boxes (..., M, 4); in NaN lies nothing."""
    within = (points[:, None] >= boxes[..., None, :, :2]) & (points[:, None] <= boxes[..., None, :, 2:])
    return within.all(dim=-1).any(dim=-1)


class PriorLosses(NamedTuple):
    """Weighted losses before they are averaged.

    Attributes:
        owner, metric: of `assign`. quality, box: (B, P) per prior. mask: (N,) per positive of somebody with a mask.
    """

    owner: Tensor
    metric: Tensor
    quality: Tensor
    box: Tensor
    mask: Tensor


def prior_losses(outputs: Sequence[Tensor], truth: Truth, size: tuple[int, int]) -> PriorLosses:
    """What every prior has to pay.

    Args:
        outputs: logits (B, P, C), distances (B, P, 4), and of a network with masks kernels (B, P, 169) and
            prototypes (B, 8, h, w).
        size: (height, width) of the input.
    """
    logits, distances = outputs[0].float(), outputs[1].float()
    points, strides = make_priors(*size, device=logits.device)
    predicted = decode(points, distances)
    owner, metric = assign(points, strides, predicted, logits, truth)
    picture, prior = (owner >= 0).nonzero(as_tuple=True)
    person, score = owner[picture, prior], metric[picture, prior]
    target = torch.zeros_like(logits)
    target[picture, prior, truth.labels[picture, person]] = score
    counts = (owner >= 0) | ~inside_any(points, truth.ignore)
    quality = quality_focal(logits, target).sum(dim=-1) * counts
    error = 1 - giou(predicted[picture, prior], truth.boxes[picture, person])
    box = torch.zeros_like(metric).index_put((picture, prior), BOX_WEIGHT * score * error)
    mask = metric.new_zeros(0)
    if len(outputs) > 2:
        mask = _mask_losses(outputs[2].float(), outputs[3].float(), points, strides, owner, truth)
    return PriorLosses(owner, metric, quality, box, mask)


def _mask_losses(
    kernels: Tensor, prototypes: Tensor, points: Tensor, strides: Tensor, owner: Tensor, truth: Truth
) -> Tensor:
    number = truth.masked.flatten().cumsum(0).reshape(truth.masked.shape) - 1  # of each person's mask
    terms = [kernels.new_zeros(0)]
    for i in range(len(owner)):
        prior = ((owner[i] >= 0) & truth.masked[i][owner[i]]).nonzero()[:, 0]
        if not len(prior):
            continue
        logits = dynamic_masks(kernels[i, prior], prototypes[i], points[prior], strides[prior])
        finer = F.interpolate(logits[None], scale_factor=2.0, mode="bilinear", align_corners=False)[0]
        terms.append(MASK_WEIGHT * dice(finer, truth.masks[number[i, owner[i, prior]]]))
    return torch.cat(terms)


def detection_losses(
    outputs: Sequence[Tensor],
    truth: Truth,
    size: tuple[int, int],
    shared: Callable[[Tensor], Tensor] = lambda x: x,
) -> dict[str, Tensor]:
    """The losses of a batch: "class", "box" and, of a network with masks, "mask".

    Args:
        outputs, size: as in `prior_losses`.
        shared: the mean of a sum over all processes, by which the terms are divided.
    """
    each = prior_losses(outputs, truth, size)
    total = shared(each.metric.sum()).clamp(min=1.0)
    positives = (each.owner >= 0).sum().float()
    terms = {
        "class": each.quality.sum() / total,
        "box": each.box.sum() / total,
        "_positives": positives / len(each.owner),
        "_iou": each.metric.sum() / positives.clamp(min=1.0),
    }
    if len(outputs) > 2:
        masked = each.mask.new_tensor(float(len(each.mask)))
        # several processes must agree on what takes part, whether anybody has a mask or not
        unused = 0 * (outputs[2].sum() + outputs[3].sum())
        terms["mask"] = each.mask.sum() / shared(masked).clamp(min=1.0) + unused
    return terms
