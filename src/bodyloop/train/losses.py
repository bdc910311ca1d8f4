"""Losses of pose training: those of ProbPose, PMPose and MaskPose (spec section 8), and our own map loss.

Every function returns a scalar tensor, or an unreduced one where asked. Symbols: maps p and targets t
(B, K, h, w), keypoint weights w (B, K). A batch without any annotation gives 0, never an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTHING = 0.05  # share of the Sobel term in the map loss

Risk = Literal["minus", "plus", "both"]


def _sobel(p: Tensor) -> Tensor:
    """Squared gradient magnitude of maps with zeros beyond the border, (B, K, h, w)."""
    q = F.pad(p, (1, 1, 1, 1))
    left, middle, right = q[..., :-2], q[..., 1:-1], q[..., 2:]
    across = left - right
    gx = across[..., :-2, :] + 2 * across[..., 1:-1, :] + across[..., 2:, :]
    along = left + 2 * middle + right
    gy = along[..., :-2, :] - along[..., 2:, :]
    return gx * gx + gy * gy


def _risk(p: Tensor, t: Tensor, kind: Risk) -> Tensor:
    if kind == "minus":
        return p * (1 - t)
    if kind == "plus":
        return (1 - p) * t
    return (p * (1 - t) + (1 - p) * t) / 2


def oks_risk(
    p: Tensor,
    t: Tensor,
    w: Tensor,
    *,
    smoothing: float = SMOOTHING,
    gaussian: float = 0.0,
    kind: Risk = "minus",
    reduction: Literal["mean", "per_pixel", "per_keypoint"] = "per_pixel",
) -> Tensor:
    """Expected risk 1 - OKS under the map, with Sobel regularisation.

    ``per_pixel``: (B, K, h, w) of (1 - smoothing) * risk * w + smoothing * sobel * w, whose mean is the
    published loss (so the risk of a keypoint is divided by h * w). ``per_keypoint``: (B, K), the risk summed
    over the map, the largest Sobel value and the mean squared difference from the target. ``mean``: its mean,
    the scale that does not vanish.
    """
    weight = w[..., None, None]
    r = _risk(p, t, kind) * weight
    s = _sobel(p) * weight
    if reduction == "per_pixel":
        return (1 - smoothing - gaussian) * r + smoothing * s + gaussian * weight * (p - t) ** 2
    out = (1 - smoothing - gaussian) * r.sum(dim=(2, 3)) + smoothing * s.flatten(2).max(dim=-1).values
    if gaussian:
        out = out + gaussian * (weight * (p - t) ** 2).mean(dim=(2, 3))
    return out if reduction == "per_keypoint" else out.mean()


class _FenchelYoung(torch.autograd.Function):
    """Loss whose gradient with respect to the scores is the projected map minus the target."""

    @staticmethod
    def forward(ctx: object, z: Tensor, p: Tensor, t: Tensor) -> Tensor:
        d = p - t
        ctx.save_for_backward(d)  # type: ignore[attr-defined]
        return (d * z).sum(-1) - 0.5 * (p * p - t * t).sum(-1)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor, None, None]:
        (d,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return d * grads[0][..., None], None, None


def sparsemax_loss(z: Tensor, p: Tensor, t: Tensor) -> Tensor:
    """Fenchel-Young loss of sparsemax, (...,) over the last axis; 0 exactly where the map equals the target.

    Args:
        z: (..., n) scores after the temperature. p: sparsemax(z). t: (..., n) target, sums to 1.
    A proper scoring rule: its minimum in expectation is the true distribution of the location, which is what
    makes the map a calibrated one. Source: Martins & Astudillo 2016; Blondel, Martins & Niculae 2020.
    """
    out: Tensor = _FenchelYoung.apply(z, p.detach(), t)  # type: ignore[no-untyped-call]
    return out


def presence_loss(predicted: Tensor, inside: Tensor, annotated: Tensor) -> Tensor:
    """Mean over all B*K of annotated * BCE (spec 8.2): unannotated keypoints add 0 and count."""
    return (
        annotated * F.binary_cross_entropy(predicted, inside.to(predicted.dtype), reduction="none")
    ).mean()


def visibility_weights(
    annotated: Tensor, visible: Tensor, shared: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """Balanced weights (B, K) of the published visibility loss (spec 8.3): the rarer class weighs more.

    Annotated keypoints outside the window keep a weight, as in the published code. ``shared`` gives the mean of
    the two counts over all processes.
    """
    ann, vis = annotated.bool(), visible.bool()
    hidden, seen = ann & ~vis, ann & vis
    share = 1.0 / (shared(torch.stack([hidden.sum(), seen.sum()]).float()) + 1e-10)
    w = torch.where(hidden, share[0], torch.where(seen, share[1], 0.0))
    return w / share.min()


def visibility_loss(
    predicted: Tensor,
    visible: Tensor,
    annotated: Tensor,
    shared: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Mean over B*K of balanced BCE; 0 for a batch without annotation."""
    w = visibility_weights(annotated, visible, shared)
    return (w * F.binary_cross_entropy(predicted, visible.to(predicted.dtype), reduction="none")).mean()


def quality_loss(predicted: Tensor, true_oks: Tensor, weight: Tensor) -> Tensor:
    """Mean over B*K of ((predicted - true) * weight)^2 (spec 8.4); nothing flows through the true OKS."""
    return (((predicted - true_oks.detach()) * weight) ** 2).mean()


def log_error_loss(predicted: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Smooth L1 of log(1 + error), both weighted (spec 8.5)."""
    return F.smooth_l1_loss(torch.log1p(predicted) * weight, torch.log1p(true) * weight)


def heatmap_mse(predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over B, K, h, w of weight * squared difference (plain-map models, spec 8.6)."""
    return (weight[..., None, None] * (predicted - target) ** 2).mean()


def log_likelihood(p: Tensor, t: Tensor) -> Tensor:
    """-log(p * t + 1e-10) per pixel: a calibration loss of the published code that none of its recipes uses."""
    return -torch.log(p * t + 1e-10)


def true_quality(
    predicted: Tensor, truth: Tensor, weight: Tensor, sigmas: Tensor, map_size: tuple[int, int] = (48, 64)
) -> Tensor:
    """The published quality target (B, K): OKS of decoded points in the reference's input px (spec 8.4).

    The area is 0.53 of the map's while distances are in crop pixels: sixteen times stricter than a person's
    own OKS. Published quality branches learned this scale.
    """
    d2 = ((predicted - truth) ** 2).sum(dim=-1)
    area = 0.53 * map_size[0] * map_size[1]
    return torch.exp(-d2 / (2.0 * (2.0 * sigmas) ** 2 * area)) * (weight > 0)


def distillation(z: Tensor, p: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    """Sparsemax loss against a teacher's maps, weighted sum over keypoints.

    Args: z (B, K, h, w) scores, p their maps, teacher (B, K, h, w) maps summing to 1, weight (B, K).
    """
    per_keypoint = sparsemax_loss(z.flatten(2), p.flatten(2), teacher.flatten(2))
    return (per_keypoint * weight).sum()
