"""Crops made where the network is: the last step of augmentation, for whole batches on a GPU.

With ``warp: device`` a sample carries not its crop but the rectangle of the photo that the crop is made of, and
how (`bodyloop.data.sample.Pixels`); everything before, and all labels, are those of ``warp: cpu``. Rectangles
of a batch lie one after another in one array, so that none is padded to the size of the largest. Interpolation
is bilinear in float32 with zeros beyond the photo, rounded to the nearest grey level: within one level of exact
arithmetic, and within four of OpenCV, whose versions differ among themselves by as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from bodyloop.data.sample import CroppedSample
from bodyloop.pose.crops import source_rectangles

SAME = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)


def pack(crops: Sequence[CroppedSample]) -> dict[str, Tensor]:
    """What `make` needs of B samples.

    Returns: ``source`` (1 + P, 3) uint8, a black pixel and those of all rectangles, row by row; ``source_at`` (B,)
        int64, the first pixel of each; ``source_size`` (B, 2) int64, width and height; ``source_matrix`` (B, 2, 3)
        float32, crop px to px of the rectangle; ``colours`` (B, 256, 3) and ``black`` (B, h, w) as of `Pixels`.
    """
    parts, sizes, matrices = [np.zeros((1, 3), np.uint8)], [], []
    for c in crops:
        p = c.pixels
        photo = (p.source.shape[1], p.source.shape[0])
        x1, y1, x2, y2 = (int(v) for v in source_rectangles(c.crop, photo)[0])
        parts.append(p.source[y1:y2, x1:x2].reshape(-1, 3))
        sizes.append((x2 - x1, y2 - y1))
        linear = np.linalg.inv(p.matrix[:, :2].astype(np.float64))
        shift = -linear @ p.matrix[:, 2] - (x1, y1)
        matrices.append(np.concatenate([linear, shift[:, None]], axis=1).astype(np.float32))
    ends = np.cumsum([len(p) for p in parts])
    w, h = crops[0].pixels.size
    return {
        "source": torch.from_numpy(np.concatenate(parts)),
        "source_at": torch.from_numpy(ends[:-1]),
        "source_size": torch.tensor(sizes),
        "source_matrix": torch.from_numpy(np.stack(matrices)),
        "colours": torch.from_numpy(
            np.stack([SAME if c.pixels.colours is None else c.pixels.colours for c in crops])
        ),
        "black": torch.from_numpy(
            np.stack(
                [np.zeros((h, w), np.bool_) if c.pixels.black is None else c.pixels.black for c in crops]
            )
        ),
    }


def make(batch: Mapping[str, Tensor]) -> Tensor:
    """Crops (B, h, w, 3) uint8 RGB of a batch that `pack` made, on the device it is on."""
    black = batch["black"]
    b, h, w = black.shape
    x, y = _positions(batch["source_matrix"], w, h)
    pixels = _bilinear(batch["source"], batch["source_at"], batch["source_size"], x, y)
    colours = batch["colours"]
    channel = torch.arange(3, device=colours.device)
    crop = torch.arange(b, device=colours.device)[:, None, None, None]
    out = colours[crop, pixels, channel]
    return out.masked_fill(black[..., None], 0)


def _positions(matrix: Tensor, w: int, h: int) -> tuple[Tensor, Tensor]:
    """x and y (B, h, w) of every crop pixel in its rectangle; sums, because products of matrices may be rounded."""
    u = torch.arange(w, device=matrix.device, dtype=matrix.dtype)
    v = torch.arange(h, device=matrix.device, dtype=matrix.dtype)[:, None]
    m = matrix[..., None, None]
    return m[:, 0, 0] * u + m[:, 0, 1] * v + m[:, 0, 2], m[:, 1, 0] * u + m[:, 1, 1] * v + m[:, 1, 2]


def _bilinear(source: Tensor, at: Tensor, size: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Interpolated pixels (B, h, w, 3), rounded, as indices (int64)."""
    width, height = (n[:, None, None] for n in size.unbind(1))
    left, top = x.floor(), y.floor()
    fx, fy = (x - left)[..., None], (y - top)[..., None]
    columns, rows = left.long(), top.long()
    total = torch.zeros(1, device=source.device)
    for dy, wy in ((0, 1 - fy), (1, fy)):
        for dx, wx in ((0, 1 - fx), (1, fx)):
            cx, cy = columns + dx, rows + dy
            there = (cx >= 0) & (cx < width) & (cy >= 0) & (cy < height)
            index = torch.where(there, at[:, None, None] + cy * width + cx, 0)  # 0: the black pixel
            total = total + source[index].float() * (wx * wy)
    return total.round().long()
