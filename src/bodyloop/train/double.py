"""The training loss of the double map (ProbPose-DH), which its authors never released in a working form.

Two maps of one person: the inner one covers the crop, the outer one a window 1.25 times as large around the same
centre. The inner map learns keypoints that are in the picture and in the outer window, the outer map all that are
in the outer window; presence means the outer window. Terms and weights follow spec 8.7 ("in/all"), both maps
being sparsemax maps (our completion); quality is judged at the merged point: outer decides, inner refines.

The map loss is ProbPose's, summed over the map instead of meaned, so that it does not vanish. With a map's largest
Sobel value in place of their sum, maps collapse onto spots where the target is 0, and nothing moves them from there:
learning eight persons by heart, AP stayed at 0.65, with the sum it came to 0.92.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bodyloop.maps import oks_variances
from bodyloop.nn.maps import Decoder
from bodyloop.train.losses import oks_risk, presence_loss, quality_loss, true_quality
from bodyloop.train.targets import oks_targets


@dataclass(frozen=True, eq=False)
class DoubleTargets:
    """Points (B, K, 2) in inner and outer map px, and flags (B, K) bool."""

    inner: Tensor
    outer: Tensor
    annotated: Tensor
    in_outer: Tensor
    in_image: Tensor
    visible: Tensor


class DoubleLoss:
    """Targets and losses for one skeleton.

    Args:
        sigmas: (K,) of the skeleton.
        padding: size of the outer window relative to the crop.
        size, map_size: (w, h) of crop and maps.
    """

    def __init__(
        self,
        sigmas: Tensor,
        *,
        padding: float = 1.25,
        size: tuple[int, int] = (192, 256),
        map_size: tuple[int, int] = (48, 64),
    ) -> None:
        self.sigmas = sigmas.double()
        self.variances = torch.from_numpy(oks_variances(sigmas.numpy(), map_size))
        self.padding = padding
        self.size = torch.tensor(size, dtype=torch.float64)
        self.map_size = map_size
        self.decoder = Decoder("expected_oks", map_size, self.variances.tolist())

    def targets(self, points: Tensor, flags: Tensor, in_image: Tensor | None = None) -> DoubleTargets:
        """Points (B, K, 2) crop px and COCO flags (B, K); ``in_image`` of an edge blackout, else the outer window."""
        last = self.size.to(points.device) - 1
        grid = (torch.tensor(self.map_size, dtype=torch.float64, device=points.device) - 1) / last
        far = (points.double() - last / 2) / self.padding + last / 2
        inside = ((far >= 0) & (far <= last)).all(dim=-1)
        kept = inside if in_image is None else in_image & inside
        return DoubleTargets(points.double() * grid, far * grid, flags > 0, inside, kept, flags == 2)

    def __call__(self, out: Mapping[str, Tensor], targets: DoubleTargets) -> dict[str, Tensor]:
        """``out``: "maps", "maps_outer", "presence", "visibility", "quality" of the network."""
        known = targets.annotated & targets.in_outer
        weight = known.float()
        visibility = F.binary_cross_entropy(out["visibility"], targets.visible.float(), reduction="none")
        return {
            "map": self._map_loss(out["maps"], targets.inner, known & targets.in_image),
            "map_outer": self._map_loss(out["maps_outer"], targets.outer, known),
            "presence": presence_loss(out["presence"], targets.in_outer, targets.annotated),
            "visibility": (visibility * weight).mean(),
            "quality": quality_loss(out["quality"], self.quality(out, targets), weight),
        }

    def _map_loss(self, maps: Tensor, points: Tensor, use: Tensor) -> Tensor:
        target, weight = oks_targets(points, use, self.variances, self.map_size, unit_peak=False)
        return oks_risk(maps, target.float(), weight.float()).sum(dim=(2, 3)).mean()

    @torch.no_grad()
    def quality(self, out: Mapping[str, Tensor], targets: DoubleTargets) -> Tensor:
        """OKS (B, K) of the merged points, on the published quality's scale; 0 where nothing is known."""
        device = out["maps"].device
        decoder = self.decoder.to(device)
        near, _ = decoder(out["maps"])
        far, _ = decoder(out["maps_outer"])
        last = torch.tensor(self.map_size, dtype=torch.float64, device=device) - 1
        home = (far.double() - last / 2) * self.padding + last / 2  # outer to inner map px
        inside = ((home >= 0) & (home <= last)).all(dim=-1, keepdim=True)
        merged = torch.where(inside, near.double(), home)
        to_crop = (self.size.to(device) - 1) / last
        known = targets.annotated & targets.in_outer
        return true_quality(
            merged * to_crop, targets.inner * to_crop, known, self.sigmas.to(device), self.map_size
        ).float()
