"""Fine-tuning of SAM 2.1 on people, prompted by keypoints: SAM-pose2seg, as far as it was published.

The image encoder stays as it is. Each step is a conversation about one person of a picture: the first point is a
visible keypoint or a pixel of the true mask and brings three masks; then corrections, one point each, with the last
logits as mask prompt. How a correction is chosen was not published ("uniform_or_kpt"); here it is, half of the time
each, a visible keypoint in what is wrongly left out (if none lies there any visible one not yet used), or any pixel of
what is wrong, labelled as what it should be. Now and then the pixel comes from the true mask.

Source: SAM 2's interactive training; loop specification section 6 for SAM-pose2seg's numbers.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bodyloop.engines.torch import TorchEngine
from bodyloop.errors import ConfigError, FileError
from bodyloop.models.build import build_network
from bodyloop.models.checkpoints import is_sam, load_into, prepare, read_checkpoint
from bodyloop.models.keymaps import strip_prefix
from bodyloop.models.registry import find_card, resolve
from bodyloop.nn.sam2 import (
    MASK_STRIDE,
    NEGATIVE,
    PADDING,
    POSITIVE,
    decode,
    embed_masks,
    embed_points,
    encode,
    halves,
)
from bodyloop.segment.sam2 import LIMIT, SamSegmenter
from bodyloop.train.config import SamConfig
from bodyloop.train.loop import Shared
from bodyloop.train.mask_losses import Answer, interaction_losses, true_iou, weighted
from bodyloop.train.optimiser import freeze
from bodyloop.train.sam_data import SamSamples
from bodyloop.train.starts import run_average

if TYPE_CHECKING:
    from transformers import Sam2Model

RESAMPLES = 100  # of intervals that a curve does not need


class Conversation(nn.Module):
    """The network in conversation about a person a picture.

    Args:
        corrections: rounds after the first.
        keypoint, truth: probabilities that a correction is a keypoint, and that a pixel is of the true mask.
    """

    def __init__(self, model: Sam2Model, corrections: int, keypoint: float, truth: float) -> None:
        super().__init__()
        self.model = model
        self.corrections, self.keypoint, self.truth = corrections, keypoint, truth

    def forward(
        self, images: Tensor, targets: Tensor, points: Tensor, usable: Tensor
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Answers of all rounds: logits (B, M, S, S) (M = 3, then 1), predicted IoU (B, M), presence (B,).

        Args:
            images: (B, 3, S, S) normalised. targets: (B, S, S) bool. points: (B, K, 2) keypoints, input px.
                usable: (B, K) which of them may be shown.
        """
        network, count = self.model, len(images)
        features = encode(network, images)
        first = torch.zeros(count, 1, *(s // MASK_STRIDE for s in targets.shape[1:]), device=images.device)
        given = torch.zeros(count, dtype=torch.bool, device=images.device)
        padding = points.new_zeros(count, 1, 2), torch.full((count, 1), PADDING, device=points.device)
        at, label, usable = first_point(targets, points, usable)
        said, labels = at[:, None], label[:, None]
        answers: list[tuple[Tensor, Tensor, Tensor]] = []
        for turn in range(1 + self.corrections):
            tokens = embed_points(
                network, torch.cat([said, padding[0]], dim=1), torch.cat([labels, padding[1]], dim=1)
            )
            small, iou, presence = decode(network, features, tokens, embed_masks(network, first, given))
            chosen = slice(1, None) if turn == 0 else slice(0, 1)
            small, iou = small[:, chosen].float(), iou[:, chosen].float()
            large = F.interpolate(small, size=targets.shape[1:], mode="bilinear", align_corners=False)
            answers.append((large, iou, presence.float()))
            if turn == self.corrections:
                break
            best = iou.argmax(dim=1)
            rows = torch.arange(count, device=images.device)
            first, given = small[rows, best].detach().clamp(-LIMIT, LIMIT)[:, None], torch.ones_like(given)
            at, label, usable = self.correct(targets, large[rows, best].detach() > 0, points, usable)
            said, labels = torch.cat([said, at[:, None]], dim=1), torch.cat([labels, label[:, None]], dim=1)
        return answers

    def correct(
        self, targets: Tensor, drawn: Tensor, points: Tensor, usable: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next point (B, 2), its label (B,), and the keypoints that are still to be used (B, K)."""
        count, device = len(targets), targets.device
        missed, wrong = targets & ~drawn, targets ^ drawn
        from_truth = (torch.rand(count, device=device) < self.truth) | ~wrong.flatten(1).any(dim=1)
        region = torch.where(from_truth[:, None, None], targets, wrong)
        # of nothing at all that there is, nothing is right: any pixel is background
        region = torch.where(region.flatten(1).any(dim=1)[:, None, None], region, ~targets)
        at = any_pixel(region)
        label = value_at(targets, at).long()
        lying = usable & value_at(missed, points)
        pool = torch.where(lying.any(dim=1, keepdim=True), lying, usable)
        by_name = (torch.rand(count, device=device) < self.keypoint) & pool.any(dim=1)
        k = any_of(pool)
        at = torch.where(by_name[:, None], points[torch.arange(count, device=device), k], at)
        label = torch.where(by_name, POSITIVE, torch.where(label > 0, POSITIVE, NEGATIVE))
        taken = F.one_hot(k, points.shape[1]).bool() & by_name[:, None]
        return at, label, usable & ~taken


def first_point(targets: Tensor, points: Tensor, usable: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One of the usable keypoints and a pixel of the mask, all alike; label and remaining keypoints as `correct`."""
    count, keypoints = usable.shape
    there = targets.flatten(1).any(dim=1)
    pixel = any_pixel(torch.where(there[:, None, None], targets, ~targets))
    k = any_of(torch.cat([usable, torch.ones_like(usable[:, :1])], dim=1))
    by_name = k < keypoints
    at = torch.where(
        by_name[:, None], points[torch.arange(count, device=points.device), k.clamp(max=keypoints - 1)], pixel
    )
    label = torch.where(by_name | there, POSITIVE, NEGATIVE)
    return at, label, usable & ~F.one_hot(k, keypoints + 1)[:, :-1].bool()


def any_of(pool: Tensor) -> Tensor:
    """(B,) the place of one of the true entries of each row (B, K), all alike; any place where none is."""
    return torch.where(pool, torch.rand(pool.shape, device=pool.device), -1.0).argmax(dim=1)


def any_pixel(region: Tensor) -> Tensor:
    """(B, 2) x y of one of the pixels of each region (B, H, W), all alike."""
    k = any_of(region.flatten(1))
    return torch.stack([k % region.shape[2], k // region.shape[2]], dim=1).float()


def value_at(bitmaps: Tensor, points: Tensor) -> Tensor:
    """What bitmaps (B, H, W) hold at the pixels nearest to points (B, 2) or (B, K, 2); False outside."""
    h, w = bitmaps.shape[1:]
    x, y = points.round().long().unbind(dim=-1)
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    flat = y.clamp(0, h - 1) * w + x.clamp(0, w - 1)
    found = bitmaps.flatten(1).gather(1, flat.reshape(len(flat), -1)).reshape(flat.shape)
    return found & inside


class SamTask:
    """Trains prompt encoder and mask decoder of a SAM; implements `bodyloop.train.loop.Task`.

    Raises:
        ConfigError: the model is no SAM. FileError: a file is not there. ModelError: weights that do not fit.
    """

    blocks = 0

    def __init__(self, config: SamConfig) -> None:
        self.config = config
        self.card = find_card(config.model)
        if not is_sam(self.card):
            raise ConfigError(
                f"model {config.model!r} is a {self.card.kind} that is no SAM; train sam-pose2seg-b+"
            )
        root = Path(os.path.expandvars(config.data))
        self.validation = root / config.validation if config.validation and not config.overfit else None
        if self.validation is not None and not self.validation.is_file():
            raise FileError(
                f"{self.validation}: no such file to evaluate on; name one by validation=, or none by validation=''"
            )
        self.samples = SamSamples(config, self.card.preprocess)
        torch.manual_seed(config.seed)
        self.network = Conversation(self._network(), config.corrections, config.keypoint, config.truth)
        freeze(self.network, [f"model.{prefix}" for prefix in config.freeze])

    def _network(self) -> Sam2Model:
        start = self.config.start
        network = build_network(self.card, meta=start != "none")
        if start != "none":
            path = Path(start) if Path(start).suffix else resolve(start)[1]
            run = run_average(path) if path.suffix == ".pt" else None
            if run is None:
                load_into(network, prepare(read_checkpoint(path), self.card), where=str(path))
            else:
                load_into(network, strip_prefix(run[0]), where=str(path))
        return cast("Sam2Model", network)

    @property
    def model(self) -> nn.Module:
        return self.network

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor], shared: Shared) -> dict[str, Tensor]:
        targets = batch["targets"]
        answers = model(batch["images"], targets, batch["points"], batch["usable"])
        with torch.autocast(targets.device.type, enabled=False):
            terms = weighted(interaction_losses([Answer(*a) for a in answers], targets.float()))
            first, last = (true_iou(answers[i][0], targets[:, None].float()).amax(dim=1) for i in (0, -1))
        return terms | {"_first_iou": first.mean(), "_iou": last.mean()}

    # ---- evaluation ---------------------------------------------------------------------------------------------

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean IoU on the validation file, prompted by the three most visible keypoints of the pose model's poses.

        While overfitting that of the samples themselves after all corrections.
        """
        from bodyloop.api import load_pose
        from bodyloop.eval.segmenter import evaluate_segmenter

        if self.config.overfit:
            return self._judge_fixed(model)
        if self.validation is None:
            return {}
        report = evaluate_segmenter(
            self.segmenter(model),
            load_pose(self.config.pose, device=self.config.device, detector=None),
            self.validation,
            known=("points",),
            limit=self.config.evaluate_samples or None,
            resamples=RESAMPLES,
        )
        iou = round(report.iou.value, 4)
        return {"IoU": iou, "score_error": round(report.score_error, 4), "score": iou}

    @torch.no_grad()
    def _judge_fixed(self, model: nn.Module) -> dict[str, float]:
        ious = []
        for ref in self.samples.draw(0, self.config.overfit):
            batch = self.samples.collate([self.samples.sample(ref, np.random.default_rng(0))])
            there = {k: v.to(next(model.parameters()).device) for k, v in batch.items()}
            torch.manual_seed(self.config.seed)
            ious.append(float(self.losses(model, there, lambda x: x)["_iou"]))
        iou = float(np.mean(ious))
        return {"IoU": iou, "score": iou}

    def segmenter(self, model: nn.Module) -> SamSegmenter:
        """A network of this task as users have it (a copy: the engine changes precision)."""
        dtype: Literal["bf16", "fp32"] = "bf16" if self.config.precision == "bf16" else "fp32"
        network = copy.deepcopy(cast(Conversation, model).model)
        encoder, decoder = (TorchEngine(f, device=self.config.device, dtype=dtype) for f in halves(network))
        return SamSegmenter.from_card(encoder, decoder, self.card)
