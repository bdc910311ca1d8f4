"""The pose task of the training loop: a network by its card, people's crops, a recipe's losses, evaluation.

Any pose card can be trained (`probpose-s`, `pmpose-b`, our `pmpose-n`, ...), also with other keypoints than
its own. Evaluation is what ``bodyloop eval pose`` and ``eval calibration`` compute, on the averaged weights.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from bodyloop.data.cropcoco import build
from bodyloop.errors import ConfigError, FileError
from bodyloop.eval.boxed import Scoring, predict_boxed
from bodyloop.eval.photos import PhotoSet
from bodyloop.eval.pose import judge_set, posed_sets
from bodyloop.eval.pose_report import PoseSet
from bodyloop.models.build import SMALL, build_network, load_network
from bodyloop.models.cards import Card, Decode
from bodyloop.models.registry import find_card, resolve
from bodyloop.nn.efficientnet import freeze as freeze_stages
from bodyloop.nn.frugal import make_frugal
from bodyloop.nn.small import SmallPose
from bodyloop.nn.topdown import TopDown
from bodyloop.pose.estimator import PoseModel
from bodyloop.pose.inference import PoseOptions
from bodyloop.skeletons import COCO, Skeleton, load_skeleton, skeleton_by_name
from bodyloop.train import device_warp
from bodyloop.train.config import PoseConfig
from bodyloop.train.optimiser import freeze
from bodyloop.train.overfit import judge_samples
from bodyloop.train.pose_data import PoseSamples
from bodyloop.train.pose_losses import (
    Batch,
    Distilled,
    Doubled,
    Heatmaps,
    Own,
    PoseLoss,
    Published,
    Shared,
    normalised,
)
from bodyloop.train.release import unproven
from bodyloop.train.starts import load_start

RESAMPLES = 50  # of intervals that a curve does not need
PROBABILITIES = ("probability", "double")  # heads whose maps can be judged as such


class PoseTask:
    """Trains a pose network; implements `bodyloop.train.loop.Task`."""

    def __init__(self, config: PoseConfig) -> None:
        self.config = config
        card = card_for(config)
        assert card.skeleton is not None  # of every pose card
        # who learns samples by heart is asked for them
        self.photos = None if config.overfit else _validation(config, card.skeleton)
        p = card.preprocess
        self.samples = PoseSamples(config, card.skeleton, p)
        torch.manual_seed(config.seed)  # of the layers that start from nothing
        self.network = _network(card, config)
        self.loss = _loss(config, card, self.network)
        self.card = replace(
            card,
            parameters=sum(x.numel() for x in self.network.parameters()),
            training_data=tuple(self.samples.people),
            starts_from="" if config.start == "none" else Path(config.start).name,
        )

    @property
    def model(self) -> nn.Module:
        return self.network

    @property
    def blocks(self) -> int:
        return len(self.network.backbone.layers) if isinstance(self.network, TopDown) else 0

    def losses(self, model: nn.Module, batch: Batch, shared: Shared) -> dict[str, Tensor]:
        images = batch["images"] if "images" in batch else device_warp.make(batch)
        out: Mapping[str, Tensor] = model(normalised(images, self.card.preprocess), self.loss.outputs)
        with torch.autocast(images.device.type, enabled=False):
            return self.loss({k: v.float() for k, v in out.items()}, {**batch, "images": images}, shared)

    # ---- evaluation ------------------------------------------------------------------------------------------

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """The numbers of ``bodyloop eval pose`` and ``eval calibration`` on the validation file, without flip test.

        On whole photos, then (``_cropped``) on photos cut so that people leave them, if the model knows presence; with
        the labelled masks, if every training sample is dimmed by one.
        While overfitting the samples themselves are judged (`bodyloop.train.overfit`).
        """
        if self.config.overfit:
            rng = np.random.default_rng(0)  # nothing is drawn
            fixed = [self.samples.sample(r, rng) for r in self.samples.draw(0, self.config.overfit)]
            return judge_samples(self.pose_model(model), fixed)
        if self.photos is None:
            return {}
        asked = self.pose_model(model)
        judged = self._judged(asked, self.photos)
        figures = _figures(judged)
        if "presence" in self.card.outputs and not judged.cropped and self._cropped.document["images"]:
            figures |= {f"{k}_cropped": v for k, v in _figures(self._judged(asked, self._cropped)).items()}
        return figures | {"score": figures.get("AP", figures.get("PCK", 0.0))}

    @cached_property
    def _cropped(self) -> PhotoSet:
        assert self.photos is not None
        return self.photos.cropped(build(self.photos.document))

    def _judged(self, model: PoseModel, photos: PhotoSet) -> PoseSet:
        found = predict_boxed(
            model, photos, flip=False, masks=self.config.mask >= 1, maps=self.card.head in PROBABILITIES
        )
        scoring: Scoring = "presence" if "presence" in self.card.outputs else "keypoints"
        return judge_set(photos, found, scoring=scoring, resamples=RESAMPLES)

    def pose_model(self, model: nn.Module) -> PoseModel:
        """A network of this task as users have it (a copy: the engine changes precision)."""
        from bodyloop.engines.torch import TorchEngine
        from bodyloop.models.export import pose_function

        dtype: Literal["bf16", "fp32"] = "bf16" if self.config.precision == "bf16" else "fp32"
        function = pose_function(copy.deepcopy(model), self.card)
        engine = TorchEngine(function, device=self.config.device, dtype=dtype)
        return PoseModel(engine, self.card, options=PoseOptions(batch_size=32))


def _validation(config: PoseConfig, skeleton: Skeleton) -> PhotoSet | None:
    """The photos to evaluate on; what would stop the first evaluation is said before the first step.

    Of COCO's keypoints only those that the model learns are kept: of some of them there is PCK, of all AP.

    Raises:
        FileError, InputError: they cannot be read, or show nobody. ConfigError: no keypoint that the model learns.
    """
    if not config.validation:
        return None
    path = Path(os.path.expandvars(config.data)) / config.validation
    if not path.is_file():
        raise FileError(
            f"{path}: no such file to evaluate on; name one by validation=, or none by validation=''"
        )
    ((_, photos),) = posed_sets(path, None, "dev", config.evaluate_samples or None)
    known = [i for i, name in enumerate(photos.names) if name in skeleton.keypoints]
    if not known or not photos.persons():
        raise ConfigError(
            f"{path}: nobody with a keypoint that is learned ({', '.join(skeleton.keypoints[:4])}, ...) to evaluate on"
        )
    photos.photo(photos.document["images"][photos.persons()[0][0]])
    return _only(photos, known) if photos.names == COCO.keypoints and len(known) < len(COCO) else photos


def _only(photos: PhotoSet, kept: Sequence[int]) -> PhotoSet:
    """The photos with some of their keypoints."""
    names = tuple(photos.names[i] for i in kept)
    rows = [
        {**a, "keypoints": [v for i in kept for v in a["keypoints"][3 * i : 3 * i + 3]]}
        for a in photos.document["annotations"]
    ]
    categories = [{**c, "keypoints": list(names), "skeleton": []} for c in photos.document["categories"]]
    return replace(
        photos, names=names, document={**photos.document, "annotations": rows, "categories": categories}
    )


def _figures(s: PoseSet) -> dict[str, float]:
    """What a curve is made of."""
    found: dict[str, float | None] = {
        "AP": None if s.oks is None else s.oks.numbers["AP"],
        "Ex_AP": None if s.extended is None else s.extended.numbers["AP"],
        "PCK": None if s.pck is None or s.cropped else s.intervals["PCK"].value,
        "map_error": None if s.found.maps is None else s.found.maps.calibration.error,
    }
    for name, report in (("presence", s.presence), ("visibility", s.visibility)):
        if report is not None:
            found |= {f"{name}_auroc": report.auroc, f"{name}_ece": report.reliability[10].ece}
    if s.keypoint_quality is not None and s.keypoint_quality.reliability is not None:
        found["quality_ece"] = s.keypoint_quality.reliability.ece
    return {k: round(v, 4) for k, v in found.items() if v is not None and math.isfinite(v)}


def card_for(config: PoseConfig) -> Card:
    """The card of the model to be trained, with the recipe's keypoints and kind of maps.

    Raises:
        ConfigError: the loss does not fit the model's maps.
    """
    card = unproven(find_card(config.model))
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
        loss = Distilled(loss, _teacher(config, card), card.skeleton, config.distill, temperature)
    return loss


def _teacher(config: PoseConfig, card: Card) -> tuple[Card, nn.Module]:
    """The model to learn maps from.

    Raises:
        ConfigError: it has no probability maps, other crops than the student, or none of its keypoints.
    """
    found, path = resolve(config.teacher)
    if found.head not in PROBABILITIES or card.head not in PROBABILITIES:
        raise ConfigError(f"teacher: {found.name} and {card.name} must both have probability maps")
    own, theirs = card.preprocess, found.preprocess
    if (own.size, own.map_size, own.padding) != (theirs.size, theirs.map_size, theirs.padding):
        raise ConfigError(
            f"teacher: {found.name} takes other crops than {card.name}: size, map_size and padding"
        )
    assert card.skeleton is not None and found.skeleton is not None  # of every pose card
    if (card.skeleton.indices_in(found.skeleton) < 0).all():
        raise ConfigError(f"teacher: {found.name} knows none of the keypoints that are learned")
    return found, load_network(found, path).requires_grad_(False)
