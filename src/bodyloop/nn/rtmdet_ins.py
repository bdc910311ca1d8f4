"""RTMDet-Ins: RTMDet that also draws a mask for every box.

Beside class and box each prior predicts the 169 numbers of a tiny network of its own; that network, run over
eight prototype maps at stride 8 and the coordinates relative to the prior, is the person's mask. So masks cost
next to nothing until a box is kept: `dynamic_masks` is called for those alone. `rtmdet_ins(size)` builds the
published sizes with the published names of tensors, `rtmdet_ins_n()` our own small one. Thresholds, suppression
and the way to the photo's grid belong to `bodyloop.detect`.

Source: RTMDet (Lyu et al., 2022), its instance segmentation; the dynamic network after CondInst (Tian et al.,
2020).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bodyloop.errors import ModelError
from bodyloop.nn.cspnext import Activation, ConvModule
from bodyloop.nn.rtmdet import (
    RTMDET_N_WIDTH,
    STRIDES,
    Distances,
    RTMDet,
    RTMDetHead,
    at_least_float,
    body,
    flat,
    small_body,
    start_small,
    towers,
)

PROTOTYPES = 8
HIDDEN = 8  # channels inside the dynamic network
# of its three 1x1 layers: weights, output-major, then biases
LAYERS = ((HIDDEN, PROTOTYPES + 2), (HIDDEN, HIDDEN), (1, HIDDEN))
KERNEL = sum(n * m for n, m in LAYERS) + sum(n for n, _ in LAYERS)  # 169
SMALL_MASK_WIDTH = 48


class MaskPrototypes(nn.Module):
    """Prototype maps (B, 8, h, w) at stride 8 from the neck's three maps of ``cin`` channels."""

    def __init__(self, cin: int, width: int, depth: int, activation: Activation = nn.SiLU) -> None:
        super().__init__()
        self.fusion_conv = nn.Conv2d(len(STRIDES) * cin, width, 1)
        self.stacked_convs = nn.Sequential(
            *(ConvModule(width, width, 3, activation=activation) for _ in range(depth))
        )
        self.projection = nn.Conv2d(width, PROTOTYPES, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        fine = maps[0].shape[-2:]
        coarse = [F.interpolate(x, fine, mode="bilinear", align_corners=False) for x in maps[1:]]
        fused = self.fusion_conv(torch.cat([maps[0], *coarse], dim=1))
        out: Tensor = self.projection(self.stacked_convs(fused))
        return out


class RTMDetInsHead(RTMDetHead):
    """Class logits, distances, kernels and prototypes.

    Args:
        shared_kernels: the kernel branch shares its convolutions over levels, as the other branches do.
        mask_width, mask_depth: of the prototypes' branch.
        others: see `RTMDetHead`.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        distances: Distances = "relu",
        *,
        depth: int = 2,
        activation: Activation = nn.SiLU,
        one_tower: bool = True,
        shared_kernels: bool = False,
        mask_width: int | None = None,
        mask_depth: int = 4,
    ) -> None:
        super().__init__(width, num_classes, distances, depth, activation, 1.0, one_tower)
        self.kernel_convs = towers(width, depth, activation, shared_kernels)
        self.rtm_kernel = nn.ModuleList(nn.Conv2d(width, KERNEL, 1) for _ in STRIDES)
        self.mask_head = MaskPrototypes(width, mask_width or width, mask_depth, activation)
        for part in (self.kernel_convs, self.rtm_kernel, self.mask_head):
            start_small(part)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        kernels = [flat(self.rtm_kernel[i](self.kernel_convs[i](x))) for i, x in enumerate(maps)]
        prototypes = at_least_float(self.mask_head(maps))
        return *super().forward(maps), at_least_float(torch.cat(kernels, dim=1)), prototypes


class RTMDetIns(RTMDet):
    """Backbone, optional 1x1 laterals, neck and head.

    ``forward`` takes (B, 3, H, W) normalised pictures, H and W multiples of 32, and gives, all float32: class
    logits (B, P, num_classes); distances (B, P, 4) to left, top, right, bottom in input px; kernels (B, P, 169);
    prototypes (B, 8, H/8, W/8). The P priors are those of `make_priors(H, W)`.
    """

    outputs = ("logits", "distances", "kernels", "prototypes")


def rtmdet_ins(size: str, num_classes: int = 80) -> RTMDetIns:
    """A published size of RTMDet-Ins: "tiny", "s", "m", "l" or "x".

    Its box branch is its class branch under a second name, batch norms included, as the published weights have it.

    Raises:
        ModelError: another size.
    """
    backbone, neck, width = body(size)
    return RTMDetIns(backbone, neck, RTMDetInsHead(width, num_classes))


def rtmdet_ins_n(*, pretrained: bool = False) -> RTMDetIns:
    """Our small one: `rtmdet_n` with a kernel branch and narrow prototypes, one class.

    Everything that `rtmdet_n` has is there under the same name and shape, so that its weights start this one.

    Args:
        pretrained: start the backbone from its ImageNet weights (an optional package, see `efficientnet`).
    """
    backbone, laterals, neck = small_body(pretrained)
    head = RTMDetInsHead(
        RTMDET_N_WIDTH,
        1,
        "exp",
        one_tower=False,
        shared_kernels=True,
        mask_width=SMALL_MASK_WIDTH,
        mask_depth=2,
    )
    return RTMDetIns(backbone, neck, head, laterals)


def dynamic_masks(kernels: Tensor, prototypes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Mask logits (N, h, w) at stride 8: every person's own network over the prototypes.

    The first two input channels are the way from the cell to the person's prior in units of 8 strides of that
    prior; they are linear in row and column, so they are added to the first layer without being laid out.

    Args:
        kernels: (N, 169). prototypes: (N, 8, h, w), or (8, h, w) of the one picture that all N are in.
        points: (N, 2) the priors' x, y in input px. strides: (N,) of their levels.

    Raises:
        ModelError: arrays that do not fit each other.
    """
    n, (h, w) = kernels.shape[0], prototypes.shape[-2:]
    if kernels.shape != (n, KERNEL) or points.shape != (n, 2) or strides.shape != (n,):
        raise ModelError(
            f"dynamic masks: kernels (N, {KERNEL}), points (N, 2), strides (N,) are needed, "
            f"got {tuple(kernels.shape)}, {tuple(points.shape)}, {tuple(strides.shape)}"
        )
    numbers = torch.split(kernels, [a * b for a, b in LAYERS] + [a for a, _ in LAYERS], dim=1)
    w1, w2, w3 = (x.reshape(n, *shape) for x, shape in zip(numbers[:3], LAYERS, strict=True))
    b1, b2, b3 = (x[..., None] for x in numbers[3:])
    cell = STRIDES[0]
    reach = (strides * cell)[:, None]
    columns = torch.arange(w, dtype=points.dtype, device=points.device) * cell
    rows = torch.arange(h, dtype=points.dtype, device=points.device) * cell
    dx, dy = (points[:, :1] - columns) / reach, (points[:, 1:] - rows) / reach  # (N, w), (N, h)
    x = (w1[:, :, 2:] @ prototypes.flatten(-2)).reshape(n, HIDDEN, h, w)
    x = x + (w1[:, :, 0, None] * dx[:, None])[:, :, None] + (w1[:, :, 1, None] * dy[:, None] + b1)[..., None]
    x = (w2 @ x.flatten(2).relu() + b2).relu()
    return torch.reshape(w3 @ x + b3, (n, h, w))
