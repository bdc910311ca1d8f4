"""Non-maximum suppression inside a network's graph: pixels in, people out.

For files that other programs run: nothing is left to do behind them but to enlarge the masks. How many people
come out is only known when it runs, so the suppression is an operator of its own (`suppress`); an export writes it
as ONNX's NonMaxSuppression. Our own engines do without, as thresholds can be changed outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bodyloop.geometry import suppress as greedy
from bodyloop.nn.rtmdet import STRIDES, DetectorFunction, make_priors
from bodyloop.nn.rtmdet_ins import dynamic_masks

_NEVER = -1e5  # a logit below every threshold
_LOGITS = 1e4  # thresholds of 0 and 1 as logits


@torch.library.custom_op("bodyloop::suppress", mutates_args=())
def suppress(boxes: Tensor, logits: Tensor, limit: int, iou: float, floor: float) -> Tensor:
    """Greedy suppression within each picture: (K, 3) int64 picture, 0, index; best first.

    Args:
        boxes: (B, M, 4). logits: (B, 1, M); those above ``floor`` take part.
        limit: most people of a picture.
    """
    found = []
    for picture, (b, s) in enumerate(zip(boxes.cpu().numpy(), logits[:, 0].cpu().numpy(), strict=True)):
        above = (s > floor).nonzero()[0]
        kept = torch.from_numpy(above[greedy(b[above], s[above], iou, limit=limit)])
        found.append(torch.stack([torch.full_like(kept, picture), torch.zeros_like(kept), kept], dim=1))
    return torch.cat(found).to(boxes.device)


@suppress.register_fake
def _(boxes: Tensor, logits: Tensor, limit: int, iou: float, floor: float) -> Tensor:
    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(), 3), dtype=torch.int64)


class PeopleFunction(nn.Module):
    """From bytes to the people of all pictures of a batch, one after the other, best first within a picture.

    =========  ====================================================================================
    "picture"  (K,) int64, which picture of the batch
    "boxes"    (K, 4) ``x1 y1 x2 y2`` in input px, clipped to the input
    "scores"   (K,)
    "masks"    (K, h/8, w/8) logits, of networks that draw masks
    =========  ====================================================================================

    Args:
        function: pixels to everything that each prior says.
        person: class that is kept.
        score_threshold, iou: of the people kept.
        per_level: the best of each level that take part. limit: the best of a picture that stay.
    """

    inputs = ("images",)

    def __init__(
        self,
        function: DetectorFunction,
        *,
        person: int,
        score_threshold: float,
        iou: float,
        per_level: int,
        limit: int,
    ) -> None:
        super().__init__()
        self.function = function
        self.person, self.iou, self.per_level, self.limit = person, iou, per_level, limit
        odds = score_threshold / (1 - score_threshold) if score_threshold < 1 else math.inf
        self.floor = min(max(math.log(odds) if odds > 0 else -math.inf, -_LOGITS), _LOGITS)
        self.draws = "kernels" in function.outputs
        self.outputs = ("picture", "boxes", "scores", *(("masks",) if self.draws else ()))
        w, h = function.size
        points, strides = make_priors(h, w)
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("strides", strides, persistent=False)
        self.register_buffer("size", torch.tensor([w, h, w, h], dtype=torch.float32), persistent=False)

    points: Tensor
    strides: Tensor
    size: Tensor

    def blank(self, batch: int = 1) -> dict[str, Tensor]:
        """Black pictures."""
        return self.function.blank(batch)

    def forward(self, images: Tensor, outputs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Pictures (B, h, w, 3) uint8 RGB to the people in them."""
        drawn = ("kernels", "prototypes") if self.draws else ()
        found = self.function(images, ("boxes", "logits", *drawn))
        logits = found["logits"][..., self.person]
        best = self._best(logits)
        logits = logits.gather(1, best)
        boxes = found["boxes"].gather(1, best[..., None].expand(-1, -1, 4))
        boxes = torch.minimum(boxes.clamp(min=0), self.size)
        sound = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        logits = torch.where(sound, logits, _NEVER)
        chosen = torch.ops.bodyloop.suppress(boxes, logits[:, None], self.limit, self.iou, self.floor)
        picture, index = chosen[:, 0], chosen[:, 2]
        out = {
            "picture": picture,
            "boxes": boxes[picture, index],
            "scores": logits[picture, index].sigmoid(),
        }
        if self.draws:
            prior = best[picture, index]
            out["masks"] = dynamic_masks(
                found["kernels"][picture, prior], found["prototypes"][picture],
                self.points[prior], self.strides[prior],
            )  # fmt: skip
        return {n: out[n] for n in outputs or self.outputs}

    def _best(self, logits: Tensor) -> Tensor:
        """(B, M) indices of the best priors of each level."""
        (w, h), parts, start = self.function.size, [], 0
        for s in STRIDES:
            n = (h // s) * (w // s)
            level = logits[:, start : start + n]
            parts.append(level.topk(min(n, self.per_level), dim=1).indices + start)
            start += n
        return torch.cat(parts, dim=1)
