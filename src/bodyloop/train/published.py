"""The complete training loss of ProbPose and PMPose, as their heads compute it (spec 8 and 9).

Sum of five terms of weight 1. The quality target compares the decoded target map with the decoded prediction
in the reference's input px (map px over map size - 1, times the crop's size): a scale of its own, which
published quality branches learned and which exists only here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bodyloop.maps import oks_variances
from bodyloop.nn.maps import Decoder
from bodyloop.train.losses import (
    log_error_loss,
    oks_risk,
    presence_loss,
    quality_loss,
    true_quality,
    visibility_loss,
)
from bodyloop.train.targets import oks_targets


@dataclass(frozen=True, eq=False)
class PublishedTargets:
    """What a batch's labels become: maps (B, K, h, w), weights (B, K), flags (B, K) bool."""

    maps: Tensor
    weights: Tensor
    annotated: Tensor
    inside: Tensor
    visible: Tensor


class PublishedLoss:
    """Targets and losses for one skeleton.

    Args:
        sigmas: (K,) of the skeleton.
        unit_peak: PMPose's targets (best pixel exactly 1); else ProbPose's.
        size, map_size: (w, h) of crop and map.
    """

    def __init__(
        self,
        sigmas: Tensor,
        *,
        unit_peak: bool,
        size: tuple[int, int] = (192, 256),
        map_size: tuple[int, int] = (48, 64),
    ) -> None:
        self.sigmas = sigmas.double()
        self.variances = torch.from_numpy(oks_variances(self.sigmas.numpy(), map_size))
        self.unit_peak = unit_peak
        self.size = size
        self.map_size = map_size
        self.decoder = Decoder("dark_udp", map_size, bound=None)

    def targets(self, points: Tensor, flags: Tensor) -> PublishedTargets:
        """Points (B, K, 2) crop px anywhere and COCO flags (B, K) to targets. In window: 0 <= x < w, 0 <= y < h."""
        w, h = self.size
        # the codec divides by float32 factors
        steps = [(w - 1) / (self.map_size[0] - 1), (h - 1) / (self.map_size[1] - 1)]
        grid = torch.tensor(steps, device=points.device).double()
        annotated = flags > 0
        maps, weights = oks_targets(
            points.double() / grid.float().double(),
            annotated,
            self.variances,
            self.map_size,
            unit_peak=self.unit_peak,
        )
        x, y = points.unbind(-1)
        inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
        return PublishedTargets(maps.float(), weights.float(), annotated, inside, flags == 2)

    @torch.no_grad()
    def quality(self, maps: Tensor, targets: PublishedTargets) -> tuple[Tensor, Tensor]:
        """True quality (B, K) and distance in the reference's input px (B, K) of the decoded maps."""
        weight = targets.annotated & targets.inside
        predicted, truth = self._input_px(maps), self._input_px(targets.maps)
        # maps without a peak decode to NaN; they belong to unlabelled keypoints
        truth = torch.where(torch.isfinite(truth), truth, predicted)
        oks = true_quality(predicted, truth, weight, self.sigmas.to(maps.device), self.map_size)
        return oks.float() * weight, (predicted - truth).norm(dim=-1)

    def _input_px(self, maps: Tensor) -> Tensor:
        points: Tensor = self.decoder.to(maps.device)(maps)[0]
        step = [s / (m - 1) for s, m in zip(self.size, self.map_size, strict=True)]
        return points.double() * torch.tensor(step, dtype=torch.float64, device=maps.device)

    def __call__(
        self,
        out: Mapping[str, Tensor],
        targets: PublishedTargets,
        *,
        error_frozen: bool = True,
        shared: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> dict[str, Tensor]:
        """The five terms by name. ``out``: "maps", "presence", "visibility", "quality", "error" of the network.

        ``shared`` gives the mean of a count over all processes.
        """
        weight = (targets.annotated & targets.inside).float()
        oks, distance = self.quality(out["maps"], targets)
        true_error = torch.zeros_like(weight) if error_frozen else distance.float()
        return {
            "map": oks_risk(out["maps"], targets.maps, targets.weights).mean(),
            "presence": presence_loss(out["presence"], targets.inside, targets.annotated),
            "visibility": visibility_loss(out["visibility"], targets.visible, targets.annotated, shared),
            "quality": quality_loss(out["quality"], oks, weight),
            "error": log_error_loss(out["error"], true_error, weight),
        }

    def monitored(
        self, out: Mapping[str, Tensor], targets: PublishedTargets, *, error_frozen: bool = True
    ) -> dict[str, float]:
        """Figures the published logs show (spec 8.8): PCK of the argmax, mean absolute errors of two branches."""
        weight = targets.annotated & targets.inside
        oks, distance = self.quality(out["maps"], targets)
        true_error = torch.zeros_like(distance) if error_frozen else distance
        return {
            "acc_pose": argmax_pck(out["maps"], targets.maps, targets.weights),
            "mae_oks": _masked_mean((out["quality"] - oks).abs(), weight),
            "mae_err": _masked_mean((out["error"] - true_error).abs(), weight),
        }


def argmax_pck(predicted: Tensor, target: Tensor, weight: Tensor, threshold: float = 0.05) -> float:
    """Share of argmax positions within ``threshold``; x is divided by the height and y by the width, as published."""
    h, w = predicted.shape[-2:]
    at, true = (m.flatten(2).argmax(-1) for m in (predicted, target))
    dx = (at % w - true % w).double() / h
    dy = (torch.div(at, w, rounding_mode="floor") - torch.div(true, w, rounding_mode="floor")).double() / w
    hit = (torch.hypot(dx, dy) < threshold).double()
    use = (weight > 0.5).double()
    counts = use.sum(dim=0)
    if not bool((counts > 0).any()):
        return 0.0
    per_keypoint = (hit * use).sum(dim=0)[counts > 0] / counts[counts > 0]
    return float(per_keypoint.mean())


def _masked_mean(values: Tensor, mask: Tensor) -> float:
    return float(values.detach()[mask].double().mean()) if bool(mask.any()) else 0.0


def published_factor(iteration: int, epoch: int) -> float:
    """Learning-rate factor of the published recipes (spec 12), both counted from 0.

    Linear warm-up over the first 500 iterations from 0.001, a tenth from the 171st epoch on, a hundredth from the
    201st.
    """
    warm = 0.001 + 0.999 * iteration / 499 if iteration < 500 else 1.0
    later: float = 0.1 ** sum(epoch >= milestone for milestone in (170, 200))
    return warm * later
