"""pose2seg-n: our own small network from a person's crop and pose to the person's mask.

EfficientNet-Lite0 to stride 16, started from pmpose-n's, which knows people already. What is known of the person
(maps by body part, limbs, points, box, a first mask, other people: the planes of `bodyloop.segment.planes`) enters at
stride 4, so that everything behind it looks at one person and not at people, and again at the decoder's stages of
strides 16 and 4. The decoder goes up to stride 2, where the first stage's features know edges, and gives four
logits a cell: a mask of the crop's own size. The score is the IoU that the probabilities themselves promise,
corrected by what was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bodyloop.nn.efficientnet import CHANNELS, EfficientNetLite0
from bodyloop.nn.small import SeparableBlock

PLANES = 13  # of `bodyloop.segment.planes.PLANES`, which knows no torch; a test holds them together
PRIOR = -1.5  # logit before anything is learned: a person fills a fifth of the window
_STRIDE_2 = 16  # channels of the backbone's first stage
_KERNELS = (5, 5, 5, 3)  # of the decoder's stages; the last one costs as much as all others


def _conv(cin: int, cout: int, kernel: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(cout), nn.ReLU6()
    )


class Pose2Seg(nn.Module):
    """Normalised crops (B, 3, 192, 144) and planes (B, 13, 48, 36) to a mask and its score.

    Returns: ``masks`` (B, 192, 144) logits, on the pixels of the crop; ``scores`` (B,) the mask's IoU with the truth,
    as it is guessed; ``score_logits`` (B,) before the sigmoid.
    """

    size = (144, 192)
    outputs = ("masks", "scores")

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (96, 64, 48, 16),
        blocks: tuple[int, int, int, int] = (2, 1, 1, 1),
        prompt: int = 32,
    ) -> None:
        super().__init__()
        self.backbone = EfficientNetLite0(last_repeats=0)  # no stage at stride 32: a map says where to look
        self.prompt = nn.Sequential(_conv(PLANES, prompt, 3), _conv(prompt, prompt))
        self.inject = nn.Conv2d(prompt, CHANNELS[0], 1)
        nn.init.zeros_(self.inject.weight)  # the backbone begins as it was
        nn.init.zeros_(self.inject.bias)  # type: ignore[arg-type]
        taps = (CHANNELS[2] + prompt, CHANNELS[1], CHANNELS[0] + prompt, _STRIDE_2)
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, w, 1, bias=False), nn.BatchNorm2d(w))
            for c, w in zip(taps, widths, strict=True)
        )
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b)) for a, b in pairwise(widths)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(SeparableBlock(w, k) for _ in range(n)))
            for w, n, k in zip(widths, blocks, _KERNELS, strict=True)
        )
        self.final = nn.Conv2d(widths[-1], 4, 1)
        nn.init.normal_(self.final.weight, std=0.01)
        nn.init.constant_(self.final.bias, PRIOR)  # type: ignore[arg-type]
        self.score = Score(widths[-1] + widths[0])

    def forward(self, images: Tensor, planes: Tensor) -> dict[str, Tensor]:
        stages = self.backbone.stages
        half = stages[0](self.backbone.stem(images))
        prompt = self.prompt(planes)
        quarter = stages[1](half) + self.inject(prompt)
        eighth = stages[2](quarter)
        deep = stages[4](stages[3](eighth))
        taps = (
            torch.cat([deep, F.avg_pool2d(prompt, 4)], dim=1),
            eighth,
            torch.cat([quarter, prompt], dim=1),
            half,
        )
        x = context = self.blocks[0](F.relu6(self.lateral[0](taps[0])))
        for i in range(1, 4):
            up = F.interpolate(self.reduce[i - 1](x), scale_factor=2.0, mode="nearest")
            x = self.blocks[i](F.relu6(up + self.lateral[i](taps[i])))
        masks = F.pixel_shuffle(self.final(x), 2)[:, 0].float()
        score = self.score(masks.detach(), x.detach().float(), context.detach().float())
        return {"masks": masks, "scores": torch.sigmoid(score), "score_logits": score}


class Score(nn.Module):
    """Logit (B,) of a mask's IoU, from its logits (B, h, w), features (B, C, h / 2, w / 2) and context (B, D, ., .).

    If every pixel is on the person with the probability that the mask states, the thresholded mask has an IoU of
    sum(p where p > 1/2) / sum(max(p, [p > 1/2])) about: the start, to which a small perceptron adds.
    """

    def __init__(self, channels: int, hidden: int = 64) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.hidden = nn.Linear(channels + 3, hidden)
        self.out = nn.Linear(hidden, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, masks: Tensor, features: Tensor, context: Tensor) -> Tensor:
        p = torch.sigmoid(masks)
        inside = (masks > 0).to(p.dtype)
        area = inside.mean(dim=(1, 2))
        promised = ((p * inside).mean(dim=(1, 2)) + 1e-4) / (torch.maximum(p, inside).mean(dim=(1, 2)) + 2e-4)
        logit = torch.log(promised / (1 - promised))
        share = F.avg_pool2d(p[:, None], 2)
        under = (features * share).mean(dim=(2, 3)) / (share.mean(dim=(2, 3)) + 1e-4)
        seen = self.norm(torch.cat([under, context.mean(dim=(2, 3))], dim=1))
        known = torch.stack([logit, torch.log(area + 1e-3), area], dim=1)
        more: Tensor = self.out(F.relu6(self.hidden(torch.cat([seen, known], dim=1))))
        return logit + more[:, 0]


class Pose2SegFunction(nn.Module):
    """What engines run and an export writes: ``crops`` (B, h, w, 3) uint8 RGB and ``prompts`` (B, 13, h / 4, w / 4)
    float32 to ``masks`` (B, h, w) logits and ``scores`` (B,).

    Args:
        network: a `Pose2Seg`.
        mean, std: of the channels in RGB order, on 0..255 values.
    """

    inputs = ("crops", "prompts")
    outputs = Pose2Seg.outputs
    mean: Tensor
    std: Tensor

    def __init__(self, network: Pose2Seg, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(tuple(mean)).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).reshape(1, 3, 1, 1), persistent=False)

    def blank(self, batch: int = 1) -> dict[str, Tensor]:
        """Black crops of which nothing is known."""
        w, h = self.network.size
        return {
            "crops": torch.zeros(batch, h, w, 3, dtype=torch.uint8),
            "prompts": torch.zeros(batch, PLANES, h // 4, w // 4),
        }

    def normalised(self, crops: Tensor) -> Tensor:
        """(B, h, w, 3) uint8 RGB to (B, 3, h, w) float32 in channels-last memory."""
        return (crops.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def forward(self, crops: Tensor, prompts: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        out = self.network(self.normalised(crops), prompts)
        return {n: out[n].float() for n in outputs}
