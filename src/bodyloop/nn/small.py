"""pmpose-n: our own small pose network, with the outputs of PMPose at a hundredth of the cost.

EfficientNet-Lite0 at strides 4 to 32, a top-down pyramid of depthwise 5x5 blocks to the 64x48 map grid, one
1x1 convolution to logits, sparsemax. Each side branch (presence, visibility, quality) reads, for each keypoint,
what lies where its map says the keypoint is: the pyramid's features averaged under the map, the peak logit,
where the map's mass lies and how wide, and the pooled features of the whole crop. So "is it in the window?"
is asked of the place in question, with some 70 thousand weights instead of four stacks of 3x3 convolutions.

Two coordinate channels enter the pyramid: the UDP grid (corner to corner) and the strided convolution's grid
differ by up to three crop pixels, growing from the middle to the borders; the network has to know where it is.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bodyloop.nn.efficientnet import CHANNELS, EfficientNetLite0
from bodyloop.nn.maps import sparsemax

TEMPERATURE = 8.0
SIDE_GRADIENT = 0.2  # of the side branches' gradient that reaches the shared features
BRANCHES = ("presence", "visibility", "quality")


def _conv(cin: int, cout: int, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, padding=kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(cout)
    )


class SeparableBlock(nn.Module):
    """Depthwise kxk, pointwise 1x1, added to the input."""

    def __init__(self, channels: int, kernel: int = 5) -> None:
        super().__init__()
        self.depthwise = _conv(channels, channels, kernel, groups=channels)
        self.pointwise = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + F.relu6(self.pointwise(F.relu6(self.depthwise(x))))
        return out


class Pyramid(nn.Module):
    """Feature maps at strides 32, 16, 8, 4 merged into one of ``widths[3]`` channels at stride 4."""

    def __init__(self, widths: tuple[int, int, int, int], blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        deep_first = CHANNELS[::-1]
        self.lateral = nn.ModuleList(
            _conv(c + (2 if i == 0 else 0), w)
            for i, (c, w) in enumerate(zip(deep_first, widths, strict=True))
        )
        self.reduce = nn.ModuleList(_conv(a, b) for a, b in pairwise(widths))
        self.blocks = nn.ModuleList(
            nn.Sequential(*(SeparableBlock(w) for _ in range(n))) for w, n in zip(widths, blocks, strict=True)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        deepest = features[-1]
        x: Tensor = F.relu6(self.lateral[0](torch.cat([deepest, _coordinates(deepest)], dim=1)))
        x = self.blocks[0](x)
        for i in range(1, 4):
            up = F.interpolate(self.reduce[i - 1](x), scale_factor=2.0, mode="nearest")
            x = self.blocks[i](F.relu6(up + self.lateral[i](features[-1 - i])))
        return x


def _coordinates(like: Tensor) -> Tensor:
    """(B, 2, h, w) of x and y in [-1, 1]."""
    h, w = like.shape[-2:]
    y = torch.linspace(-1.0, 1.0, h, device=like.device, dtype=like.dtype)[None, None, :, None]
    x = torch.linspace(-1.0, 1.0, w, device=like.device, dtype=like.dtype)[None, None, None, :]
    zero = torch.zeros_like(like[:, :1])
    return torch.cat([x + zero, y + zero], dim=1)


class SideBranches(nn.Module):
    """Presence, visibility and quality of each keypoint from what its map points at.

    Input: stride-4 features (B, C, h, w), maps (B, K, h, w), logits, pooled deep features (B, D).
    Output: (B, K, 3) logits. A shared two-layer perceptron; each keypoint brings its own embedding.
    """

    def __init__(self, keypoints: int, channels: int, deep: int, hidden: int = 96) -> None:
        super().__init__()
        # the backbone ends in a linear layer of any scale; unnormalised, it drives every unit below into saturation
        self.norm_pooled = nn.LayerNorm(deep)
        self.norm_under = nn.LayerNorm(channels)
        self.local = nn.Linear(channels + 6, hidden)
        self.norm_local = nn.LayerNorm(hidden)
        self.context = nn.Linear(deep, hidden * 2)
        self.embedding = nn.Parameter(torch.zeros(1, keypoints, hidden))
        self.mixed = nn.Linear(keypoints, keypoints, bias=False)
        self.hidden = nn.Linear(hidden, hidden)
        self.norm_hidden = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, len(BRANCHES))
        self.out_per_keypoint = nn.Parameter(torch.zeros(1, keypoints, len(BRANCHES)))
        nn.init.normal_(self.embedding, std=0.02)
        nn.init.normal_(self.mixed.weight, std=0.02)

    def forward(self, features: Tensor, maps: Tensor, logits: Tensor, pooled: Tensor) -> Tensor:
        b, c = features.shape[:2]
        k = maps.shape[1]
        under = maps.reshape(b, k, -1) @ features.reshape(b, c, -1).transpose(1, 2)
        peak = torch.stack([logits.flatten(2).amax(-1) / 10.0, maps.flatten(2).amax(-1) * 10.0], dim=-1)
        seen = torch.cat([self.norm_under(under), peak, _moments(maps)], dim=-1)
        gain, shift = self.context(self.norm_pooled(pooled))[:, None].chunk(2, dim=-1)
        x = self.norm_local(self.local(seen)) + self.embedding
        x = F.relu6(x * (1 + gain) + shift)
        # neighbours speak: a present wrist makes a present elbow likely
        x = F.relu6(self.norm_hidden(self.hidden(x + self.mixed(x.transpose(1, 2)).transpose(1, 2))))
        out: Tensor = self.out(x) + self.out_per_keypoint
        return out


def _moments(maps: Tensor) -> Tensor:
    """(B, K, 4): mean x and y of each map and their variances, the window being [-1, 1] in both."""
    out = []
    for axis in (2, 3):  # summed over y leaves x, and the other way round
        marginal = maps.sum(dim=axis)
        grid = torch.linspace(-1.0, 1.0, marginal.shape[-1], device=maps.device, dtype=maps.dtype)
        mean = marginal @ grid
        out += [mean, marginal @ grid**2 - mean * mean]
    return torch.stack(out, dim=-1)


def _softened(x: Tensor) -> Tensor:
    """The same values; gradients pass at a share of SIDE_GRADIENT."""
    return x * SIDE_GRADIENT + x.detach() * (1 - SIDE_GRADIENT)


class SmallPose(nn.Module):
    """Normalised crops (B, 3, 256, 192) to maps and side outputs; names as of every pose network."""

    outputs = ("logits", "maps", *BRANCHES, "features")
    # of an exported sparsemax; on the dev photos 8 are off by up to 1e-3, 9 by 3e-8 (2e-4 at half the temperature)
    newton_steps = 10
    temperature: Tensor

    def __init__(
        self,
        num_keypoints: int,
        widths: tuple[int, int, int, int] = (128, 112, 96, 64),
        blocks: tuple[int, int, int, int] = (2, 2, 2, 1),
        last_repeats: int = 3,
        plain: bool = False,
    ) -> None:
        super().__init__()
        self.num_keypoints = num_keypoints
        self.plain = plain  # "maps" are the logits, heat maps; the side branches still look through sparsemax
        self.size = (192, 256)
        self.map_size = (48, 64)
        self.backbone = EfficientNetLite0(last_repeats)
        self.pyramid = Pyramid(widths, blocks)
        self.final = nn.Conv2d(widths[-1], num_keypoints, 1)
        self.branches = SideBranches(num_keypoints, widths[-1], CHANNELS[-1])
        nn.init.normal_(self.final.weight, std=0.01)
        nn.init.constant_(self.final.bias, 0.0)  # type: ignore[arg-type]
        self.sparsemax = sparsemax  # an export puts its fixed steps here
        # divides the logits before sparsemax: a map with a peak of 0.1 needs differences of 0.1 behind it, and
        # logits that small would be drowned by every step of an optimiser. Not in the state dict, calibration
        # may change it
        self.register_buffer("temperature", torch.tensor(TEMPERATURE), persistent=False)

    def forward(self, images: Tensor, outputs: Collection[str] | None = None) -> dict[str, Tensor]:
        wanted = set(self.outputs if outputs is None else outputs)
        taps = self.backbone(images)
        features = self.pyramid(taps)
        logits = self.final(features).float()
        out: dict[str, Tensor] = {"logits": logits}
        if wanted - {"logits", "features"}:
            maps = self.sparsemax(logits.flatten(2) / self.temperature).reshape(logits.shape)
            out["maps"] = logits if self.plain else maps
        if wanted & set(BRANCHES):
            pooled = taps[-1].mean(dim=(2, 3))
            # the branches do not steer the maps, as in ProbPose; but what tells a cut person must be in the
            # features, and localisation alone does not teach it: a part of the gradient goes on
            side = self.branches(
                _softened(features).float(), maps.detach(), logits.detach(), _softened(pooled).float()
            )
            for name, value in zip(BRANCHES, side.unbind(-1), strict=True):
                out[name] = torch.sigmoid(value.float())
                out[f"{name}_logits"] = value.float()
        if "features" in wanted:
            out["features"] = taps[-1]
        return out
