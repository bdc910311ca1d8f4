"""The plain vision transformer that all published pose models stand on, in four sizes.

A crop is cut into 16 x 16 patches, every patch becomes a token, L blocks of attention and MLP (pre-norm) let
the tokens talk, and the tokens go back to their places as one feature map. No class token, no layer scale, no
dropout but stochastic depth. Names of parameters are those of the published state dicts.
Heads are in `heads`, the whole network in `topdown`; images and weights' files are other parts' business.
Sources: Dosovitskiy et al. 2021 (ViT), Xu et al. 2022 (ViTPose).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bodyloop.errors import ModelError

NORM_EPS = 1e-6  # the published weights were trained with it; torch's own default is 1e-5


def resize_pos_embed(
    pos_embed: Tensor, grid: tuple[int, int], source: tuple[int, int] | None = None
) -> Tensor:
    """Position embedding (1, L, D), row-major, fitted to another patch grid: (1, h*w, D).

    A class token's embedding in front is dropped. Other lengths are resized with bicubic interpolation
    (align_corners=False, computed in float32), as when a classification ViT starts a pose model.

    Args:
        pos_embed: (1, L, D), L = tokens of the stored grid, with or without a class token before them.
        grid: (h, w) patches wanted.
        source: (h, w) patches of the stored grid; None: a length that fits ``grid`` is taken as it is,
            any other is taken as a square.

    Raises:
        ModelError: the length fits neither ``grid``, ``source`` nor a square.
    """
    if pos_embed.ndim != 3 or pos_embed.shape[0] != 1:
        raise ModelError(f"pos_embed: expected shape (1, tokens, width), got {tuple(pos_embed.shape)}")
    length = int(pos_embed.shape[1])
    if source is None:
        side = math.isqrt(length)
        fits = length in (grid[0] * grid[1], grid[0] * grid[1] + 1)
        source = grid if fits else (side, side)
    tokens = source[0] * source[1]
    if length not in (tokens, tokens + 1):
        raise ModelError(
            f"pos_embed has {length} tokens: neither {source[0]} x {source[1]} patches nor one more; "
            "give the stored grid as source=(h, w)"
        )
    patches = pos_embed[:, length - tokens :]
    if source == grid:
        return patches
    plane = patches.float().transpose(1, 2).reshape(1, -1, *source)
    plane = F.interpolate(plane, size=grid, mode="bicubic", align_corners=False)
    return plane.flatten(2).transpose(1, 2).to(pos_embed.dtype)


class DropPath(nn.Module):
    """Stochastic depth: in training a sample of a residual branch (B, ...) drops with probability ``rate``.

    Survivors are divided by ``1 - rate``, so that the expectation stays. Source: Huang et al. 2016.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        alive = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (alive / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4g}"


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, N, D); q, k, v are one linear map, each head-major."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))
        return out


class MLP(nn.Module):
    """Two linear maps with an exact (erf) GELU between; the nesting only keeps the published names."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(dim, hidden), nn.GELU()),
            nn.Linear(hidden, dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class Block(nn.Module):
    """Pre-norm transformer block on tokens (B, N, D); both residual branches drop independently."""

    def __init__(self, dim: int, heads: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.ln2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.ffn = MLP(dim, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.ln1(x)))
        out: Tensor = x + self.drop_path(self.ffn(self.ln2(x)))
        return out


class PatchEmbed(nn.Module):
    """Crop (B, 3, H, W) to patch features (B, D, H/16, W/16); the padding of 2 is the published models'."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, dim, kernel_size=16, stride=16, padding=2)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.projection(images)
        return out


class ViT(nn.Module):
    """Crop (B, 3, H, W), normalised, to one feature map (B, D, H/16, W/16).

    The position embedding belongs to crops of ``size``; for others it is resized in every forward.

    Args:
        dim: width D of the tokens.
        depth: blocks L; block i drops its branches with probability ``drop_path * i / (L - 1)``.
        heads: attention heads; each is ``dim / heads`` wide.
        hidden: width of the MLP.
        drop_path: stochastic depth of the last block.
        size: (width, height) of the crop in px.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        hidden: int,
        drop_path: float,
        size: tuple[int, int] = (192, 256),
    ) -> None:
        super().__init__()
        self.dim = dim
        self.size = size
        self.grid = (size[1] // 16, size[0] // 16)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], dim))
        self.patch_embed = PatchEmbed(dim)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.layers = nn.ModuleList(Block(dim, heads, hidden, rate) for rate in rates)
        self.ln1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Starting values when no weights are loaded: everything not named here keeps torch's defaults."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, MLP):
                for layer in module.modules():
                    if isinstance(layer, nn.Linear):
                        nn.init.xavier_uniform_(layer.weight)
                        nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.patch_embed(images)
        batch, dim, rows, columns = x.shape
        pos_embed = resize_pos_embed(self.pos_embed, (rows, columns), self.grid)
        x = x.flatten(2).transpose(1, 2) + pos_embed
        for block in self.layers:
            x = block(x)
        x = self.ln1(x)
        return x.transpose(1, 2).reshape(batch, dim, rows, columns)


def vit_s() -> ViT:
    """21.7 M parameters. 12 heads of 32, not the 6 of DeiT-S."""
    return ViT(dim=384, depth=12, heads=12, hidden=1536, drop_path=0.1)


def vit_b() -> ViT:
    """85.8 M parameters."""
    return ViT(dim=768, depth=12, heads=12, hidden=3072, drop_path=0.3)


def vit_l() -> ViT:
    """303.3 M parameters."""
    return ViT(dim=1024, depth=24, heads=16, hidden=4096, drop_path=0.5)


def vit_h() -> ViT:
    """630.9 M parameters."""
    return ViT(dim=1280, depth=32, heads=16, hidden=5120, drop_path=0.55)
