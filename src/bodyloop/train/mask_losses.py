"""Losses of masks: focal, dice, the error of a predicted IoU, and their sum over the rounds of an interaction.

Masks are logits (..., H, W), targets (..., H, W) of 0 and 1; the functions of one mask give (...), unreduced.
Source: SAM 2's training losses (Ravi et al., 2024); focal: Lin et al., "Focal Loss" (2017); dice: Milletari et
al., "V-Net" (2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ALPHA, GAMMA = 0.25, 2.0
FOCAL, DICE, IOU, PRESENCE = 20.0, 1.0, 1.0, 1.0  # weights of the terms


@dataclass(frozen=True, eq=False)
class Answer:
    """One round's answers about N objects: logits (N, M, H, W), predicted IoU (N, M), presence (N,) logits."""

    logits: Tensor
    iou: Tensor
    presence: Tensor


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Focal loss, mean over the pixels."""
    p = logits.sigmoid()
    error = torch.where(targets > 0.5, 1 - p, p)
    weight = torch.where(targets > 0.5, ALPHA, 1 - ALPHA)
    cross = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (weight * error**GAMMA * cross).mean(dim=(-2, -1))


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 |p t| + 1) / (|p| + |t| + 1)."""
    p = logits.sigmoid()
    both = (p * targets).sum(dim=(-2, -1))
    return 1 - (2 * both + 1) / (p.sum(dim=(-2, -1)) + targets.sum(dim=(-2, -1)) + 1)


def true_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of where the logits are above 0; 0 where both are empty. Without a gradient."""
    inside, truth = logits.detach() > 0, targets > 0.5
    both, either = (inside & truth).sum(dim=(-2, -1)), (inside | truth).sum(dim=(-2, -1))
    return both / either.clamp(min=1)


def interaction_losses(answers: Sequence[Answer], targets: Tensor) -> dict[str, Tensor]:
    """Terms ``mask`` (focal), ``dice``, ``iou`` and ``presence``, without weights: sums over rounds, means over N.

    Of several masks the one with the least weighted sum of focal and dice learns; all predicted IoUs do. Of an
    object that is not there (an empty target) only the presence does.

    Args:
        targets: (N, H, W).
    """
    there = targets.flatten(1).any(dim=1).to(targets.dtype)
    sums = dict.fromkeys(("mask", "dice", "iou", "presence"), targets.new_zeros(()))
    for a in answers:
        whole = targets[:, None].expand_as(a.logits)
        f, d = focal(a.logits, whole), dice(a.logits, whole)
        best = (FOCAL * f + DICE * d).argmin(dim=1, keepdim=True)
        off = (a.iou - true_iou(a.logits, whole)).abs().mean(dim=1)
        terms = {
            "mask": f.gather(1, best)[:, 0] * there,
            "dice": d.gather(1, best)[:, 0] * there,
            "iou": off * there,
            "presence": F.binary_cross_entropy_with_logits(a.presence, there, reduction="none"),
        }
        sums = {name: total + terms[name].mean() for name, total in sums.items()}
    return sums


def weighted(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """The terms of `interaction_losses` times their weights: what is minimised is their sum."""
    weights = {"mask": FOCAL, "dice": DICE, "iou": IOU, "presence": PRESENCE}
    return {name: weights[name] * value for name, value in terms.items()}
