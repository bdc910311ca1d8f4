"""What a pose network is taught: one class a recipe, each from a batch and the network's outputs to loss terms.

`Own` is ours (sparsemax loss with a share of the expected risk, per keypoint, so that it does not vanish);
`Heatmaps` is ViTPose's and MaskPose's; `Published` and `Doubled` wrap the losses of ProbPose, PMPose and the
double map, whose terms are computed where parity is tested. Sums over keypoints are divided by counts of the
whole batch, that is of all processes (``shared``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from bodyloop.maps import oks_variances
from bodyloop.models.cards import Card, Preprocess
from bodyloop.nn.maps import Decoder
from bodyloop.skeletons import Skeleton
from bodyloop.train.config import PoseConfig
from bodyloop.train.double import DoubleLoss
from bodyloop.train.losses import distillation, heatmap_mse, sparsemax_loss
from bodyloop.train.published import PublishedLoss
from bodyloop.train.targets import distribution_targets, oks_targets, udp_targets

Batch = Mapping[str, Tensor]
Shared = Callable[[Tensor], Tensor]


class PoseLoss(Protocol):
    """Loss terms of a recipe; ``outputs`` are what the network must compute for it."""

    outputs: tuple[str, ...]

    def __call__(self, out: Mapping[str, Tensor], batch: Batch, shared: Shared) -> dict[str, Tensor]: ...


class Own:
    """Our own recipe for probability maps, or for heatmaps with our side branches (``loss: mse`` of pmpose-n).

    The quality is judged on COCO's own scale, with the person's area.
    """

    outputs: tuple[str, ...] = ("logits", "maps", "presence", "visibility", "quality")

    def __init__(
        self, config: PoseConfig, skeleton: Skeleton, preprocess: Preprocess, temperature: float
    ) -> None:
        self.config = config
        self.size, self.map_size = preprocess.size, preprocess.map_size or (48, 64)
        self.temperature = temperature
        self.variances = torch.from_numpy(oks_variances(skeleton.sigma_array, self.map_size))
        self.sigmas = torch.tensor(skeleton.sigmas)
        self.plain = config.loss == "mse"
        self.decoder = (
            Decoder("dark_udp", self.map_size)
            if self.plain
            else Decoder("expected_oks", self.map_size, self.variances.tolist())
        )

    def __call__(self, out: Mapping[str, Tensor], batch: Batch, shared: Shared) -> dict[str, Tensor]:
        c = self.config
        points = to_map(batch["points"], self.size, self.map_size).float()
        annotated, inside = batch["flags"] > 0, batch["inside"]
        known = annotated.float()
        w = (annotated & inside).float()
        seen = w * batch["knows_hidden"][:, None]
        n, n_known, n_seen = shared(torch.stack([w.sum(), known.sum(), seen.sum()])).clamp(min=1)
        quality, d2 = self._true_quality(out["maps"], points, batch["area"])
        bce = F.binary_cross_entropy_with_logits
        presence = bce(out["presence_logits"], inside.float(), reduction="none")
        visibility = bce(out["visibility_logits"], (batch["flags"] == 2).float(), reduction="none")
        return {
            **self._maps(out, points, annotated & inside, n),
            "presence": c.presence * (presence * known).sum() / n_known,
            "visibility": c.visibility * (visibility * seen).sum() / n_seen,
            "quality": c.quality * ((out["quality"] - quality) ** 2 * w).sum() / n,
            "_oks": (quality * w).sum() / n,
            "_px": (d2.sqrt() * w).sum() / n,
            "_absent": (known * ~inside).sum() / n_known,
        }

    def _maps(self, out: Mapping[str, Tensor], points: Tensor, known: Tensor, n: Tensor) -> dict[str, Tensor]:
        """Terms of the maps over known points (B, K, 2 and B, K); n of them in all."""
        w = known.float()
        if self.plain:
            target, weight = udp_targets(points, known, self.map_size)
            return {"map": self.config.mse * heatmap_mse(out["logits"], target, weight)}
        variances = self.variances.to(points)
        target = distribution_targets(points, variances, self.map_size)
        z = out["logits"].flatten(2) / self.temperature
        fy = sparsemax_loss(z, out["maps"].flatten(2), target.flatten(2))
        oks_map, _ = oks_targets(points, known, variances, self.map_size, unit_peak=False)
        risk = (out["maps"] * (1 - oks_map)).sum(dim=(2, 3))
        return {"map": (fy * w).sum() / n, "risk": self.config.risk * (risk * w).sum() / n}

    @torch.no_grad()
    def _true_quality(self, maps: Tensor, points: Tensor, area: Tensor) -> tuple[Tensor, Tensor]:
        """COCO's similarity (B, K) of the decoded points, and their squared distance in map px^2."""
        decoded, _ = self.decoder.to(maps.device)(maps.detach())
        d2 = ((decoded.nan_to_num() - points) ** 2).sum(dim=-1)
        scale = 2.0 * (2.0 * self.sigmas.to(maps)) ** 2 * area[:, None].clamp(min=1e-3)
        return torch.exp(-d2 / scale), d2


class Heatmaps:
    """Plain heatmaps with squared error (ViTPose, MaskPose; spec 8.6)."""

    outputs: tuple[str, ...] = ("maps",)

    def __init__(self, config: PoseConfig, preprocess: Preprocess) -> None:
        self.weight = config.mse
        self.size, self.map_size = preprocess.size, preprocess.map_size or (48, 64)

    def __call__(self, out: Mapping[str, Tensor], batch: Batch, shared: Shared) -> dict[str, Tensor]:
        points = to_map(batch["points"], self.size, self.map_size, single=True)
        target, weight = udp_targets(points, batch["flags"] > 0, self.map_size)
        return {"map": self.weight * heatmap_mse(out["maps"], target.float(), weight.float())}


class Published:
    """ProbPose's ("oks") or PMPose's ("oks-unit") five terms."""

    outputs: tuple[str, ...] = ("maps", "presence", "visibility", "quality", "error")

    def __init__(self, config: PoseConfig, skeleton: Skeleton, preprocess: Preprocess) -> None:
        self.loss = PublishedLoss(
            torch.tensor(skeleton.sigmas, dtype=torch.float64),
            unit_peak=config.loss == "oks-unit",
            size=preprocess.size,
            map_size=preprocess.map_size or (48, 64),
        )

    def __call__(self, out: Mapping[str, Tensor], batch: Batch, shared: Shared) -> dict[str, Tensor]:
        return self.loss(out, self.loss.targets(batch["points"], batch["flags"]), shared=shared)


class Doubled:
    """The double map's terms."""

    outputs: tuple[str, ...] = ("maps", "maps_outer", "presence", "visibility", "quality")

    def __init__(self, skeleton: Skeleton, preprocess: Preprocess, padding: float) -> None:
        self.loss = DoubleLoss(
            torch.tensor(skeleton.sigmas, dtype=torch.float64),
            padding=padding,
            size=preprocess.size,
            map_size=preprocess.map_size or (48, 64),
        )

    def __call__(self, out: Mapping[str, Tensor], batch: Batch, shared: Shared) -> dict[str, Tensor]:
        return self.loss(out, self.loss.targets(batch["points"], batch["flags"], batch["in_image"]))


class Distilled:
    """Another recipe's terms, and the sparsemax loss against the maps of a teacher that is shown the same crops.

    Taught are keypoints that both know by name, where they are labelled and in the window.

    Args:
        teacher: its card and network; size and padding of its crops are the student's.
        skeleton: of the student.
    """

    def __init__(
        self,
        inner: PoseLoss,
        teacher: tuple[Card, torch.nn.Module],
        skeleton: Skeleton,
        weight: float,
        temperature: float,
    ) -> None:
        self.inner, self.weight, self.temperature = inner, weight, temperature
        card, self.network = teacher
        assert card.skeleton is not None  # of every pose card
        self.preprocess = card.preprocess
        columns = torch.from_numpy(skeleton.indices_in(card.skeleton))
        self.known, self.columns = columns >= 0, columns.clamp(min=0)
        self.outputs = tuple(dict.fromkeys((*inner.outputs, "logits", "maps")))

    def __call__(self, out: Mapping[str, Tensor], batch: Batch, shared: Shared) -> dict[str, Tensor]:
        terms = self.inner(out, batch, shared)
        device = out["maps"].device
        with torch.no_grad():
            crops = normalised(batch["images"], self.preprocess)
            maps = self.network.to(device)(crops, ("maps",))["maps"][:, self.columns.to(device)]
        weight = (batch["inside"] & (batch["flags"] > 0) & self.known.to(device)).float()
        count = shared(weight.sum()).clamp(min=1)
        z = out["logits"].float() / self.temperature
        taught = distillation(z, out["maps"], maps.float(), weight)
        return terms | {"teacher": self.weight * taught / count}


def normalised(images: Tensor, preprocess: Preprocess) -> Tensor:
    """(B, h, w, 3) uint8 RGB to normalised channels-last (B, 3, h, w) in the order of channels of a network."""
    mean, std = (torch.tensor(v, device=images.device) for v in (preprocess.mean, preprocess.std))
    x = (images.float() - mean) / std
    return (x.flip(-1) if preprocess.order == "bgr" else x).permute(0, 3, 1, 2)


def to_map(
    points: Tensor, size: tuple[int, int], map_size: tuple[int, int], *, single: bool = False
) -> Tensor:
    """Crop px (B, K, 2) float64 to map px; ``single`` divides by float32 factors, as published codecs do."""
    grid = torch.tensor([(s - 1) / (m - 1) for s, m in zip(size, map_size, strict=True)], dtype=torch.float64)
    return points / (grid.float().double() if single else grid).to(points.device)
