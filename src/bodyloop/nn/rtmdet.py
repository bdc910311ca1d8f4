"""RTMDet, boxes only: a backbone, the CSPNeXt feature pyramid and a head shared over three levels.

The network says for every cell of the grids at strides 8, 16 and 32 how likely a person stands there and how
far away the four sides of the box are. Cells are called priors; cell (row i, column j) of stride s lies at
(j s, i s), its upper left corner, as the published weights expect. `rtmdet(size)` builds the published sizes
with the published names of tensors; `rtmdet_n()` is our own small one on EfficientNet-Lite0 features.
Thresholds, non-maximum suppression and coordinates of the photo belong to `bodyloop.detect`, the assignment
of priors to people to `bodyloop.train.detection`.

Source: RTMDet (Lyu et al., 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bodyloop.errors import ModelError
from bodyloop.nn.cspnext import SIZES, Activation, ConvModule, CSPLayer, CSPNeXt
from bodyloop.nn.efficientnet import CHANNELS, EfficientNetLite0

STRIDES = (8, 16, 32)
RTMDET_N_WIDTH = 64

Distances = Literal["exp", "linear", "relu"]


class CSPNeXtPAFPN(nn.Module):
    """Feature pyramid: maps of ``channels`` at strides 8, 16, 32, mixed down, then up, to ``width``."""

    def __init__(
        self, channels: Sequence[int], width: int, blocks: int, activation: Activation = nn.SiLU
    ) -> None:
        super().__init__()
        c3, c4, c5 = channels

        def layer(cin: int, cout: int) -> CSPLayer:
            return CSPLayer(cin, cout, blocks, activation=activation)

        def conv(cin: int, cout: int, kernel: int = 1, stride: int = 1) -> ConvModule:
            return ConvModule(cin, cout, kernel, stride, activation=activation)

        self.reduce_layers = nn.ModuleList([conv(c5, c4), conv(c4, c3)])
        self.top_down_blocks = nn.ModuleList([layer(2 * c4, c4), layer(2 * c3, c3)])
        self.downsamples = nn.ModuleList([conv(c3, c3, 3, 2), conv(c4, c4, 3, 2)])
        self.bottom_up_blocks = nn.ModuleList([layer(2 * c3, c4), layer(2 * c4, c5)])
        self.out_convs = nn.ModuleList([conv(c, width, 3) for c in (c3, c4, c5)])

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        c3, c4, c5 = maps
        r5 = self.reduce_layers[0](c5)
        t4 = self.top_down_blocks[0](torch.cat([_up(r5), c4], dim=1))
        r4 = self.reduce_layers[1](t4)
        t3 = self.top_down_blocks[1](torch.cat([_up(r4), c3], dim=1))
        b4 = self.bottom_up_blocks[0](torch.cat([self.downsamples[0](t3), r4], dim=1))
        b5 = self.bottom_up_blocks[1](torch.cat([self.downsamples[1](b4), r5], dim=1))
        return [conv(x) for conv, x in zip(self.out_convs, (t3, b4, b5), strict=True)]


def _up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def towers(width: int, depth: int, activation: Activation, shared: bool = True) -> nn.ModuleList:
    """One stack of 3x3 ConvModules a level; if ``shared`` the convolutions are the same modules, the norms not."""
    stacks = nn.ModuleList(
        nn.Sequential(*(ConvModule(width, width, 3, activation=activation) for _ in range(depth)))
        for _ in STRIDES
    )
    for stack in list(stacks)[1:] if shared else ():
        for module, first in zip(_modules(stack), _modules(stacks[0]), strict=True):
            module.conv = first.conv
    return stacks


def _modules(tower: nn.Module) -> list[ConvModule]:
    return [m for m in tower.children() if isinstance(m, ConvModule)]


class RTMDetHead(nn.Module):
    """Class logits and box distances per prior; convolutions shared over levels, batch norms not.

    Args:
        one_tower: boxes are read off the very features of the classes (RTMDet-Ins).
        distance_bias: first value of the box branch.
    """

    def __init__(
        self,
        width: int,
        num_classes: int,
        distances: Distances,
        depth: int = 2,
        activation: Activation = nn.SiLU,
        distance_bias: float = 0.0,
        one_tower: bool = False,
    ) -> None:
        super().__init__()
        self.distances, self.num_classes = distances, num_classes
        self.cls_convs = towers(width, depth, activation)
        self.reg_convs = self.cls_convs if one_tower else towers(width, depth, activation)
        self.rtm_cls = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for _ in STRIDES)
        self.rtm_reg = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in STRIDES)
        start_small(self)
        for cls, reg in zip(self.rtm_cls, self.rtm_reg, strict=True):
            nn.init.constant_(cls.get_parameter("bias"), -math.log(99.0))  # every prior starts at 1 %
            nn.init.constant_(reg.get_parameter("bias"), distance_bias)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        logits, distances = [], []
        for i, (x, stride) in enumerate(zip(maps, STRIDES, strict=True)):
            of_class = self.cls_convs[i](x)
            of_box = of_class if self.reg_convs is self.cls_convs else self.reg_convs[i](x)
            logits.append(flat(self.rtm_cls[i](of_class)))
            raw = at_least_float(flat(self.rtm_reg[i](of_box)))
            distances.append(_activated(raw, self.distances) * stride)
        return at_least_float(torch.cat(logits, dim=1)), torch.cat(distances, dim=1)


def start_small(module: nn.Module) -> None:
    """Starting values of heads: every convolution's weights are normal with deviation 0.01."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.normal_(m.weight, std=0.01)


def flat(x: Tensor) -> Tensor:
    """(B, c, h, w) to (B, h w, c), row by row."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def at_least_float(x: Tensor) -> Tensor:
    """Half-precision numbers as float32; others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _activated(raw: Tensor, kind: Distances) -> Tensor:
    if kind == "exp":
        return raw.exp()
    return raw.relu() if kind == "relu" else raw


class RTMDet(nn.Module):
    """Backbone, optional 1x1 laterals, neck and head.

    ``forward`` takes (B, 3, H, W) normalised pictures, H and W multiples of 32, and gives class logits
    (B, P, num_classes) and distances (B, P, 4) to left, top, right, bottom in input px, both float32, for the
    P priors of `make_priors(H, W)`.
    """

    outputs: tuple[str, ...] = ("logits", "distances")

    def __init__(
        self, backbone: nn.Module, neck: nn.Module, head: RTMDetHead, laterals: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.bbox_head = head
        if laterals is not None:
            self.laterals = laterals
        self.has_laterals = laterals is not None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.backbone(x)[-3:]
        if self.has_laterals:
            maps = self.laterals(maps)
        out: tuple[Tensor, ...] = self.bbox_head(self.neck(maps))
        return out


class Laterals(nn.Module):
    """A 1x1 ConvModule a level, so that a foreign backbone's widths become the neck's."""

    def __init__(self, channels: Sequence[int], width: int, activation: Activation) -> None:
        super().__init__()
        self.convs = nn.ModuleList(ConvModule(c, width, activation=activation) for c in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [conv(x) for conv, x in zip(self.convs, maps, strict=True)]


def rtmdet(size: str, num_classes: int = 80) -> RTMDet:
    """A published size of RTMDet: "tiny", "s", "m", "l" or "x".

    Raises:
        ModelError: another size.
    """
    backbone, neck, width = body(size)
    head = RTMDetHead(width, num_classes, "linear" if size in ("tiny", "s") else "exp")
    return RTMDet(backbone, neck, head)


def body(size: str) -> tuple[CSPNeXt, CSPNeXtPAFPN, int]:
    """Backbone, neck and the neck's width of a published size.

    Raises:
        ModelError: no such size.
    """
    if size not in SIZES:
        raise ModelError(f"RTMDet has no size {size!r}; there are {', '.join(SIZES)} (and our own, n)")
    s = SIZES[size]
    backbone = CSPNeXt(s)
    return backbone, CSPNeXtPAFPN(backbone.channels, s.width, s.neck_blocks), s.width


def rtmdet_n(*, pretrained: bool = False) -> RTMDet:
    """Our small person detector: EfficientNet-Lite0 up to stride 32, everything behind it 64 wide, one class.

    Args:
        pretrained: start the backbone from its ImageNet weights (an optional package, see `efficientnet`).
    """
    backbone, laterals, neck = small_body(pretrained)
    # exp: relative errors count alike for small and large people; e^1 strides is a usable first box
    head = RTMDetHead(RTMDET_N_WIDTH, 1, "exp", distance_bias=1.0)
    return RTMDet(backbone, neck, head, laterals)


def small_body(pretrained: bool) -> tuple[EfficientNetLite0, Laterals, CSPNeXtPAFPN]:
    """Backbone, laterals and neck of our own detectors."""
    backbone = EfficientNetLite0()
    if pretrained:
        backbone.load_imagenet()
    width = RTMDET_N_WIDTH
    laterals = Laterals(CHANNELS[1:], width, nn.SiLU)
    return backbone, laterals, CSPNeXtPAFPN((width, width, width), width, 1)


def make_priors(height: int, width: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Positions (P, 2) as x, y in input px and strides (P,) of all priors of an input of height x width.

    Levels are joined from stride 8 to 32, each row by row.

    Raises:
        ModelError: height or width is no multiple of 32.
    """
    if height % STRIDES[-1] or width % STRIDES[-1]:
        raise ModelError(f"input of {width} x {height}: both sides must be multiples of {STRIDES[-1]}")
    points, strides = [], []
    for s in STRIDES:
        y, x = torch.meshgrid(torch.arange(height // s), torch.arange(width // s), indexing="ij")
        points.append(torch.stack([x, y], dim=-1).reshape(-1, 2) * s)
        strides.append(torch.full((len(points[-1]),), s))
    return torch.cat(points).float().to(device), torch.cat(strides).float().to(device)


def decode(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes (..., P, 4) ``x1 y1 x2 y2`` in input px from priors (P, 2) and distances (..., P, 4)."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


class DetectorFunction(nn.Module):
    """From bytes to boxes: what engines run and what an export writes.

    ============  =====================================================================
    "boxes"       (B, P, 4) ``x1 y1 x2 y2`` in input px, unclipped
    "scores"      (B, P, C) after the sigmoid
    "logits"      (B, P, C) before it: scores near 1 are equal where these still differ
    "kernels"     (B, P, 169) and
    "prototypes"  (B, 8, h/8, w/8) of an `RTMDetIns`: see `rtmdet_ins.dynamic_masks`
    ============  =====================================================================

    Args:
        network: an `RTMDet`.
        size: (width, height) of the input, multiples of 32.
        mean, std: of the channels in RGB order, on 0..255 values.
        bgr: the network was trained on blue, green, red.
    """

    inputs = ("images",)
    outputs: tuple[str, ...] = ("boxes", "scores", "logits")

    def __init__(
        self,
        network: RTMDet,
        size: tuple[int, int],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        bgr: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.bgr = bgr
        self.outputs = (*self.outputs, *network.outputs[2:])
        self.register_buffer("mean", torch.tensor(tuple(mean)).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("points", make_priors(size[1], size[0])[0], persistent=False)

    mean: Tensor
    std: Tensor
    points: Tensor

    def blank(self, batch: int = 1) -> dict[str, Tensor]:
        """Black pictures."""
        return {"images": torch.zeros(batch, self.size[1], self.size[0], 3, dtype=torch.uint8)}

    def forward(self, images: Tensor, outputs: Sequence[str] = ("boxes", "scores")) -> dict[str, Tensor]:
        """Pictures (B, h, w, 3) uint8 RGB to the outputs asked for."""
        x = (images.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) / self.std
        found = self.network(x.flip(1) if self.bgr else x)
        out = dict(zip(self.network.outputs, found, strict=True))
        out |= {"boxes": decode(self.points, out["distances"]), "scores": out["logits"].sigmoid()}
        return {n: out[n] for n in outputs}
