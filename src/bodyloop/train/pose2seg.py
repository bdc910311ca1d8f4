"""The task of the training loop that teaches a network to draw a person from its crop and its pose (pose2seg-n).

A batch's maps come from labelled keypoints or from the pose model itself, which is asked about the very crops that
the network sees: with others pasted before them, boxes a little off and colours changed it errs as it will in use.
Evaluation prompts each person of the dev photos by its own pose (`bodyloop.eval.segmenter`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bodyloop.api import load_pose
from bodyloop.engines.torch import TorchEngine
from bodyloop.errors import ConfigError, FileError
from bodyloop.models.registry import find_card, resolve
from bodyloop.nn.efficientnet import freeze as freeze_stages
from bodyloop.nn.frugal import make_frugal
from bodyloop.nn.pose2seg import Pose2Seg
from bodyloop.pose.inference import PoseOptions
from bodyloop.segment import planes
from bodyloop.segment.crops import CropSegmenter
from bodyloop.segment.crops_export import crops_function
from bodyloop.segment.planes import MAPPED, PLANES
from bodyloop.train.config import Pose2SegConfig
from bodyloop.train.loop import Shared
from bodyloop.train.mask_losses import dice, true_iou
from bodyloop.train.optimiser import freeze
from bodyloop.train.pose2seg_data import MAPS, NOTHING, POINTS, UNNAMED, Pose2SegSamples
from bodyloop.train.starts import load_start

RESAMPLES = 100  # of intervals that a curve does not need


class Pose2SegTask:
    """Trains `Pose2Seg`; implements `bodyloop.train.loop.Task`.

    Raises:
        ConfigError: the model is no segmenter of this kind. FileError: a file is not there.
    """

    blocks = 0

    def __init__(self, config: Pose2SegConfig) -> None:
        self.config = config
        self.card = find_card(config.model)
        if self.card.segmentation is None or self.card.segmentation.method != "crops":
            raise ConfigError(f"model {config.model!r} is no segmenter that takes crops; train pose2seg-n")
        root = Path(os.path.expandvars(config.data))
        self.validation = root / config.validation if config.validation and not config.overfit else None
        if self.validation is not None and not self.validation.is_file():
            raise FileError(
                f"{self.validation}: no such file to evaluate on; name one by validation=, or none by validation=''"
            )
        onnx = resolve(config.pose)[1].suffix.lower() == ".onnx"
        self.pose = load_pose(
            config.pose,
            device=config.device,
            threads=config.threads if onnx and config.device == "cpu" else None,
            options=PoseOptions(flip=False, maps=True),
        )
        p, self.map_size = self.card.preprocess, self.pose.card.preprocess.map_size or (48, 64)
        self.samples = Pose2SegSamples(config, self.pose.skeleton, p, self.pose.card.preprocess)
        torch.manual_seed(config.seed)
        self.network = Pose2Seg()
        self._start()
        self.mean, self.std = (torch.tensor(v).reshape(3, 1, 1) for v in (p.mean, p.std))

    def _start(self) -> None:
        c, network = self.config, self.network
        if c.start == "imagenet":
            network.backbone.load_imagenet()
        elif c.start != "none":
            load_start(network, c.start, self.pose.skeleton)
        freeze_stages(network.backbone, c.fixed_stages, c.train_depthwise)
        freeze(network, c.freeze)
        if c.device == "cpu":
            make_frugal(network, [network.backbone])

    @property
    def model(self) -> nn.Module:
        return self.network

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor], shared: Shared) -> dict[str, Tensor]:
        crops = batch["crop"]
        prompts = torch.from_numpy(self.told(batch)).to(crops.device)
        images = (crops.permute(0, 3, 1, 2).float() - self.mean.to(crops.device)) / self.std.to(crops.device)
        out = model(images, prompts)
        with torch.autocast(images.device.type, enabled=False):
            return self._terms(out["masks"].float(), out["score_logits"].float(), batch["target"].float())

    def _terms(self, logits: Tensor, score: Tensor, target: Tensor) -> dict[str, Tensor]:
        c, iou = self.config, true_iou(logits, target)
        return {
            "bce": c.bce * F.binary_cross_entropy_with_logits(logits, target),
            "dice": c.dice * dice(logits, target).mean(),
            "score": c.score * F.binary_cross_entropy_with_logits(score, iou),
            "_iou": iou.mean(),
            "_off": (torch.sigmoid(score.detach()) - iou).abs().mean(),
        }

    # ---- what the network is told of each person ----------------------------------------------------------------

    def told(self, batch: Mapping[str, Tensor]) -> npt.NDArray[np.float32]:
        """(B, 13, h, w): the planes of a batch, with those that come from maps."""
        b = {k: v.cpu().numpy() for k, v in batch.items() if k not in ("crop", "target")}
        size, skeleton = self.card.preprocess.size, self.pose.skeleton
        asked = np.asarray(b["predicted"] & (b["mode"] != NOTHING), np.bool_)
        sure = np.zeros((len(asked), len(skeleton), *self.map_size[::-1]), np.float32)
        if asked.any():
            sure[asked] = planes.certainty(self._maps(b["pose_crop"][asked]))
        sure[~asked] = planes.certainty(_drawn(b["points"][~asked], b["spread"][~asked], self.map_size))
        sure[np.isnan(b["points"]).any(axis=-1)] = 0
        out: npt.NDArray[np.float32] = b["planes"].copy()
        named = b["mode"] == MAPS
        out[named, :MAPPED] = planes.map_planes(sure[named], skeleton, size)
        plane = out[:, PLANES.index("points")]
        unnamed = b["mode"] == UNNAMED
        plane[unnamed] = planes.unnamed_plane(sure[unnamed], size)
        at, height = planes.peaks(sure, size)
        for i in np.flatnonzero((named | (b["mode"] == POINTS)) & (b["sent"] > 0)).tolist():
            # the surest first, as the loop chooses, with some luck
            best = np.argsort(-(height[i] + b["order"][i]), kind="stable")[: max(int(b["sent"][i]), 1)]
            plane[i] = planes.dots(at[i, best[height[i, best] > 0.3]], size)
        return out

    def _maps(self, crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return np.asarray(
            self.pose.engine.run({"crops": np.ascontiguousarray(crops)}, ["maps"])["maps"], np.float32
        )

    # ---- evaluation ---------------------------------------------------------------------------------------------

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Mean IoU on the validation file by pose and box, then with a first mask, too; ``score`` is the former.

        While overfitting that of the samples themselves.
        """
        from bodyloop.eval.segmenter import PROMPT, evaluate_segmenter

        if self.config.overfit:
            return self._judge_fixed(model)
        if self.validation is None:
            return {}
        segmenter, limit = self.segmenter(model), self.config.evaluate_samples or None
        figures: dict[str, float] = {}
        for name, known in (("", PROMPT), ("_with_mask", (*PROMPT, "mask"))):
            report = evaluate_segmenter(
                segmenter, self.pose, self.validation, known=known, limit=limit, resamples=RESAMPLES
            )
            figures[f"IoU{name}"] = round(report.iou.value, 4)
            figures[f"score_error{name}"] = round(report.score_error, 4)
        return figures | {"score": figures["IoU"]}

    @torch.no_grad()
    def _judge_fixed(self, model: nn.Module) -> dict[str, float]:
        """Mean IoU of the samples that are learned by heart, in the window."""
        c, refs = self.config, self.samples.draw(0, self.config.overfit)
        fixed = [self.samples.sample(r, np.random.Generator(np.random.PCG64([c.seed, *r]))) for r in refs]
        terms = self.losses(model, self.samples.collate(fixed), lambda x: x)
        return {"IoU": float(terms["_iou"]), "score": float(terms["_iou"])}

    def segmenter(self, model: nn.Module) -> CropSegmenter:
        """A network of this task as users have it (a copy: the engine changes precision)."""
        dtype: Literal["bf16", "fp32"] = "bf16" if self.config.precision == "bf16" else "fp32"
        function = crops_function(copy.deepcopy(model), self.card)
        engine = TorchEngine(function, device=self.config.device, dtype=dtype)
        return CropSegmenter.from_card(engine, self.card)


def _drawn(
    points: npt.NDArray[np.float64], spread: npt.NDArray[np.float64], size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """(B, K, h, w) round maps of mass 1 at points (B, K, 2) in shares of the window; 0 where they are NaN.

    Points outside the window spread what is left of them along its side, as a model's maps do.
    """
    w, h = size
    known = np.asarray(np.isfinite(points).all(axis=-1), np.bool_)
    at = np.clip(np.where(known[..., None], points, 0.0), -0.05, 1.05) * (w - 1, h - 1)
    cells = spread * w
    x = np.exp(-((np.arange(w) - at[..., :1]) ** 2) / (2 * cells[..., None] ** 2))
    y = np.exp(-((np.arange(h) - at[..., 1:]) ** 2) / (2 * cells[..., None] ** 2))
    maps = (y[..., :, None] * x[..., None, :]).astype(np.float32)
    maps /= np.maximum(maps.sum(axis=(2, 3), keepdims=True), 1e-6)
    out: npt.NDArray[np.float32] = np.where(known[..., None, None], maps, np.float32(0))
    return out
