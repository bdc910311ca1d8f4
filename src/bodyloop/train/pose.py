"""The pose task of the training loop: a network by its card, people's crops, a recipe's losses, evaluation.

Any pose card can be trained (`probpose-s`, `pmpose-b`, our `pmpose-n`, ...), also with other keypoints than
its own. Evaluation is what ``bodyloop eval pose`` runs, on the averaged weights.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from bodyloop.errors import ConfigError, FileError
from bodyloop.models.build import SMALL, build_network, load_network
from bodyloop.models.cards import Card, Decode
from bodyloop.models.registry import find_card
from bodyloop.nn.efficientnet import freeze as freeze_stages
from bodyloop.nn.frugal import make_frugal
from bodyloop.nn.small import SmallPose
from bodyloop.nn.topdown import TopDown
from bodyloop.pose.estimator import PoseModel
from bodyloop.pose.inference import PoseOptions
from bodyloop.skeletons import load_skeleton, skeleton_by_name
from bodyloop.train import device_warp
from bodyloop.train.config import PoseConfig
from bodyloop.train.optimiser import freeze
from bodyloop.train.overfit import judge_samples
from bodyloop.train.pose_data import PoseSamples
from bodyloop.train.pose_losses import Batch, Distilled, Doubled, Heatmaps, Own, PoseLoss, Published, Shared
from bodyloop.train.starts import load_start

RESAMPLES = 50  # of intervals that a curve does not need


class PoseTask:
    """Trains a pose network; implements `bodyloop.train.loop.Task`."""

    def __init__(self, config: PoseConfig) -> None:
        self.config = config
        self.card = card_for(config)
        root = Path(os.path.expandvars(config.data))
        # who learns samples by heart is asked for them
        self.validation = root / config.validation if config.validation and not config.overfit else None
        if self.validation is not None and not self.validation.is_file():
            raise FileError(
                f"{self.validation}: no such file to evaluate on; name one by validation=, or none by validation=''"
            )
        assert self.card.skeleton is not None  # of every pose card
        p = self.card.preprocess
        self.samples = PoseSamples(config, self.card.skeleton, p)
        torch.manual_seed(config.seed)  # of the layers that start from nothing
        self.network = _network(self.card, config)
        self.loss = _loss(config, self.card, self.network)
        self.mean, self.std = torch.tensor(p.mean), torch.tensor(p.std)

    @property
    def model(self) -> nn.Module:
        return self.network

    @property
    def blocks(self) -> int:
        return len(self.network.backbone.layers) if isinstance(self.network, TopDown) else 0

    def normalise(self, images: Tensor) -> Tensor:
        """(B, h, w, 3) uint8 RGB to normalised channels-last (B, 3, h, w) in the network's channel order."""
        x = (images.float() - self.mean.to(images.device)) / self.std.to(images.device)
        return (x.flip(-1) if self.card.preprocess.order == "bgr" else x).permute(0, 3, 1, 2)

    def losses(self, model: nn.Module, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        images = self.normalise(batch["images"] if "images" in batch else device_warp.make(batch))
        out: Mapping[str, Tensor] = model(images, self.loss.outputs)
        with torch.autocast(images.device.type, enabled=False):
            return self.loss({k: v.float() for k, v in out.items()}, {**batch, "normalised": images}, shared)

    # ---- evaluation ------------------------------------------------------------------------------------------

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """``bodyloop eval pose`` on the validation file: whole photos, then cropped ones; no flip test.

        While overfitting the samples themselves are judged (`bodyloop.train.overfit`).
        """
        from bodyloop.eval.pose import evaluate_pose_model
        from bodyloop.eval.pose_report import PoseSet

        if self.config.overfit:
            rng = np.random.default_rng(0)  # nothing is drawn
            fixed = [self.samples.sample(r, rng) for r in self.samples.draw(0, self.config.overfit)]
            return judge_samples(self.pose_model(model), fixed)
        if self.validation is None:
            return {}
        report = evaluate_pose_model(
            self.pose_model(model),
            self.validation,
            flip=False,
            scoring="presence" if "presence" in self.card.outputs else "keypoints",
            resamples=RESAMPLES,
            limit=self.config.evaluate_samples or None,
        )
        figures: dict[str, float] = {}

        def add(s: PoseSet, suffix: str) -> None:
            for name, part in (("AP", s.oks), ("Ex_AP", s.extended)):
                value = None if part is None else part.numbers["AP"]
                if value is not None:
                    figures[f"{name}{suffix}"] = round(value, 4)
            if s.pck is not None:
                figures[f"PCK{suffix}"] = round(s.intervals["PCK"].value, 4)
            if s.presence is not None and s.presence.auroc is not None:
                figures[f"presence_auroc{suffix}"] = round(s.presence.auroc, 4)
                figures[f"presence_ece{suffix}"] = round(s.presence.reliability[10].ece, 4)

        for s in report.sets:
            add(s, "_cropped" if s.cropped else "")
        return figures | {"score": figures.get("AP", figures.get("PCK", 0.0))}

    def pose_model(self, model: nn.Module) -> PoseModel:
        """A network of this task as users have it (a copy: the engine changes precision)."""
        from bodyloop.engines.torch import TorchEngine
        from bodyloop.models.export import pose_function

        dtype: Literal["bf16", "fp32"] = "bf16" if self.config.precision == "bf16" else "fp32"
        function = pose_function(copy.deepcopy(model), self.card)
        engine = TorchEngine(function, device=self.config.device, dtype=dtype)
        return PoseModel(engine, self.card, options=PoseOptions(batch_size=32))


def card_for(config: PoseConfig) -> Card:
    """The card of the model to be trained, with the recipe's keypoints and kind of maps.

    Raises:
        ConfigError: the loss does not fit the model's maps.
    """
    card = find_card(config.model).uncalibrated()
    if card.kind != "pose" or card.decode is None:
        raise ConfigError(f"model {config.model!r} is a {card.kind}, not a pose model")
    if config.skeleton:
        known = Path(config.skeleton)
        skeleton = load_skeleton(known) if known.suffix else skeleton_by_name(config.skeleton)
        card = replace(card, skeleton=skeleton)
    if config.loss == "mse" and card.architecture == SMALL:
        card = replace(card, head="plain", decode=Decode("dark-udp"))
    fits = {"plain": ("mse",), "simple": ("mse",), "double": ("double",)}
    heads = fits.get(card.head or "", ("sparsemax", "oks", "oks-unit"))
    if config.loss not in heads:
        raise ConfigError(
            f"the maps of {card.name} ({card.head}) learn by {' or '.join(heads)}, not by {config.loss}"
        )
    return card


def _network(card: Card, config: PoseConfig) -> SmallPose | TopDown:
    network = build_network(card)
    assert isinstance(network, SmallPose | TopDown)
    if config.start == "imagenet":
        if not isinstance(network, SmallPose):
            raise ConfigError(f"start: imagenet is for {SMALL}; give {card.name} a weight file, or none")
        network.backbone.load_imagenet()
    elif config.start != "none":
        load_start(network, config.start, card.skeleton)
    if isinstance(network, SmallPose):
        if config.device == "cpu":
            make_frugal(network, [network.backbone] if config.fixed_norms else [])
        freeze_stages(network.backbone, config.fixed_stages, config.train_depthwise)
    freeze(network, config.freeze)
    return network


def _loss(config: PoseConfig, card: Card, network: SmallPose | TopDown) -> PoseLoss:
    assert card.skeleton is not None
    p = card.preprocess
    loss: PoseLoss
    temperature = 1.0 if network.temperature is None else float(network.temperature)
    if config.loss == "double":
        assert card.decode is not None and card.decode.double is not None
        loss = Doubled(card.skeleton, p, card.decode.double.outer / card.decode.double.inner)
    elif config.loss in ("oks", "oks-unit"):
        loss = Published(config, card.skeleton, p)
    elif isinstance(network, TopDown) and config.loss == "mse":
        loss = Heatmaps(config, p)
    else:
        loss = Own(config, card.skeleton, p, temperature)
    if config.teacher:
        teacher = load_network(find_card(config.teacher), config.teacher).requires_grad_(False)
        loss = Distilled(loss, teacher, config.distill, temperature)
    return loss
