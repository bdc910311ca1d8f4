"""CSPNeXt, the convolutional backbone of RTMDet, and the blocks that its neck and heads are made of.

The idea: large-kernel depthwise convolutions (5x5) inside cross-stage-partial layers, so that a plain
convolutional network sees far at little cost. Module names are those of the published checkpoints, so a
state dict of MMDetection loads unchanged. The neck and heads are in `rtmdet.py`; pictures, weights and
preprocessing are left to others.

Source: RTMDet (Lyu et al., 2022); block layout and sizes after its published configurations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


class ConvModule(nn.Module):
    """Convolution without bias, batch norm (eps 1e-5), activation; (B, cin, h, w) to (B, cout, h/s, w/s)."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=1e-5, momentum=0.1)
        self.activate = activation()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activate(self.bn(self.conv(x)))
        return out


class DepthwiseSeparable(nn.Module):
    """Depthwise k x k convolution, then pointwise 1x1, both with norm and activation; keeps (B, c, h, w)."""

    def __init__(self, channels: int, kernel: int, activation: Activation = nn.SiLU) -> None:
        super().__init__()
        self.depthwise_conv = ConvModule(channels, channels, kernel, groups=channels, activation=activation)
        self.pointwise_conv = ConvModule(channels, channels, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pointwise_conv(self.depthwise_conv(x))
        return out


class CSPNeXtBlock(nn.Module):
    """3x3 convolution and a 5x5 depthwise separable one, with a residual if ``identity``."""

    def __init__(self, channels: int, identity: bool, activation: Activation = nn.SiLU) -> None:
        super().__init__()
        self.conv1 = ConvModule(channels, channels, 3, activation=activation)
        self.conv2 = DepthwiseSeparable(channels, 5, activation)
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.identity else y


class ChannelAttention(nn.Module):
    """Scales each channel by the hard sigmoid of a linear function of all channels' means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc(x.mean(dim=(2, 3), keepdim=True)))


class CSPLayer(nn.Module):
    """Half of the channels go through ``blocks`` blocks, the other half past them; (B, cin, h, w) to cout."""

    def __init__(
        self,
        cin: int,
        cout: int,
        blocks: int,
        identity: bool = False,
        attention: bool = False,
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        mid = cout // 2
        self.main_conv = ConvModule(cin, mid, activation=activation)
        self.short_conv = ConvModule(cin, mid, activation=activation)
        self.final_conv = ConvModule(2 * mid, cout, activation=activation)
        self.blocks = nn.Sequential(*(CSPNeXtBlock(mid, identity, activation) for _ in range(blocks)))
        if attention:
            self.attention = ChannelAttention(2 * mid)
        self.has_attention = attention

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.blocks(self.main_conv(x)), self.short_conv(x)], dim=1)
        if self.has_attention:
            both = self.attention(both)
        out: Tensor = self.final_conv(both)
        return out


class SPPBottleneck(nn.Module):
    """Joins a map with its maxima over 5x5, 9x9 and 13x13 neighbourhoods; keeps (B, c, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = ConvModule(channels, channels // 2)
        self.conv2 = ConvModule(channels // 2 * 4, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        pooled = [F.max_pool2d(x, k, stride=1, padding=k // 2) for k in (5, 9, 13)]
        out: Tensor = self.conv2(torch.cat([x, *pooled], dim=1))
        return out


@dataclass(frozen=True)
class CSPNeXtSize:
    """Widths of stem and stages, blocks of the stages, width of neck and head, blocks of a neck layer."""

    stem: int
    stages: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    width: int
    neck_blocks: int


SIZES = {
    "tiny": CSPNeXtSize(24, (48, 96, 192, 384), (1, 1, 1, 1), 96, 1),
    "s": CSPNeXtSize(32, (64, 128, 256, 512), (1, 2, 2, 1), 128, 1),
    "m": CSPNeXtSize(48, (96, 192, 384, 768), (2, 4, 4, 2), 192, 2),
    "l": CSPNeXtSize(64, (128, 256, 512, 1024), (3, 6, 6, 3), 256, 3),
    "x": CSPNeXtSize(80, (160, 320, 640, 1280), (4, 8, 8, 4), 320, 4),
}


class CSPNeXt(nn.Module):
    """The backbone: (B, 3, H, W) normalised picture to maps at strides 8, 16 and 32 (stages 2, 3 and 4)."""

    def __init__(self, size: CSPNeXtSize) -> None:
        super().__init__()
        half = size.stem // 2
        self.stem = nn.Sequential(
            ConvModule(3, half, 3, stride=2), ConvModule(half, half, 3), ConvModule(half, size.stem, 3)
        )
        cin = size.stem
        for i, (cout, blocks) in enumerate(zip(size.stages, size.blocks, strict=True)):
            last = i == 3
            parts: list[nn.Module] = [ConvModule(cin, cout, 3, stride=2)]
            if last:
                parts.append(SPPBottleneck(cout))
            parts.append(CSPLayer(cout, cout, blocks, identity=not last, attention=True))
            self.add_module(f"stage{i + 1}", nn.Sequential(*parts))
            cin = cout
        self.channels = size.stages[1:]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for i in range(1, 5):
            x = self.get_submodule(f"stage{i}")(x)
            maps.append(x)
        return maps[1:]
