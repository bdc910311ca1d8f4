"""Training of person detectors, with masks or without, by the loop: photos, task, evaluation.

Our small ones (`rtmdet-n`, `rtmdet-ins-n`) and the published ones by their cards. What each cell of the network
must learn stands in `bodyloop.train.instances`, how photos become pictures in `bodyloop.data.detection`.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bodyloop.data.detection import Augmentation, DetectionSample, donors_of, read_photos, sample
from bodyloop.detect.rtmdet import RTMDetDetector
from bodyloop.errors import ConfigError
from bodyloop.images import Image
from bodyloop.models.build import build_network
from bodyloop.models.cards import Card
from bodyloop.models.registry import find_card
from bodyloop.nn.efficientnet import EfficientNetLite0
from bodyloop.nn.efficientnet import freeze as freeze_stages
from bodyloop.nn.frugal import make_frugal
from bodyloop.nn.rtmdet import STRIDES, DetectorFunction, RTMDet
from bodyloop.nn.rtmdet_ins import RTMDetIns
from bodyloop.train.config import DetectorConfig
from bodyloop.train.instances import Truth, detection_losses
from bodyloop.train.loop import Shared
from bodyloop.train.mixture import Mixture, parse_sources
from bodyloop.train.optimiser import freeze
from bodyloop.train.pose_data import source_file
from bodyloop.train.release import unproven
from bodyloop.train.starts import load_start

if TYPE_CHECKING:
    from bodyloop.eval import BoxReport, MaskReport

SCORE_FLOOR = 0.01  # AP integrates over all scores; below this nothing is found any more
RESAMPLES = 2  # of intervals that a curve does not need

Floats = npt.NDArray[np.float32]


class DetectorSamples:
    """Photos of several sets, as `bodyloop.train.loop.Samples`.

    A ref is (source, photo, side of the canvas, whether the run is in its closing part).
    """

    def __init__(self, config: DetectorConfig) -> None:
        self.root = Path(os.path.expandvars(config.data))
        self.seed = config.seed
        shares = parse_sources(config.sources)
        unknown = [s for s in config.incomplete if s not in shares]
        if unknown:
            raise ConfigError(f"incomplete: {unknown[0]!r} is not among the sources {', '.join(shares)}")
        self.files = [source_file(self.root, name) for name in shares]
        self.photos = [
            [
                p
                for p in read_photos(f, complete=name not in config.incomplete)
                if len(p.boxes) or not config.people_only
            ]
            for f, name in zip(self.files, shares, strict=True)
        ]
        self.mixture = Mixture([len(p) for p in self.photos], list(shares.values()), config.seed)
        self.sizes = range(config.size, config.size_high + 1, STRIDES[-1])
        if not len(self.sizes) or self.sizes[0] % STRIDES[-1]:
            raise ConfigError(f"size must be a multiple of {STRIDES[-1]} and at most size_high")
        steps = config.epochs * self.batches_per_epoch(config.batch) or config.steps
        self.closing_from = round(steps * (1 - config.closing))
        self.augmentation = Augmentation(
            size=self.sizes[0],
            longest=config.longest,
            scale=(config.scale_low, config.scale_high),
            mosaic=config.mosaic,
            copy_paste=config.copy_paste,
            mask_out=config.mask_out,
            mask_out_rough=config.mask_out_rough,
            mask_out_all=config.mask_out_all,
        )
        low, high = (config.closing_scale * s for s in self.augmentation.scale)
        self.closing = replace(self.augmentation, mosaic=0.0, scale=(low, high))
        self.donors = [d for p in self.photos for d in donors_of(p)] if config.copy_paste else []

    @property
    def digests(self) -> Mapping[str, str]:
        return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in self.files}

    def batches_per_epoch(self, size: int) -> int:
        return self.mixture.batches_per_epoch(size)

    def draw(self, n: int, size: int) -> Sequence[tuple[int, ...]]:
        side = int(np.random.default_rng([self.seed, n]).choice(self.sizes))  # one canvas a batch
        closing = int(n >= self.closing_from)
        return [(source, index, side, closing) for source, index in self.mixture.draw(n, size)]

    def sample(self, ref: tuple[int, ...], rng: np.random.Generator) -> DetectionSample:
        source, index, side, closing = ref
        how = replace(self.closing if closing else self.augmentation, size=side)
        return sample(self.photos[source], how, rng, index, self.donors)

    def collate(self, samples: Sequence[DetectionSample]) -> dict[str, Tensor]:
        """``images`` (B, H, W, 3) uint8; ``boxes``, ``ignore`` (B, n, 4), ``centres`` (B, n, 2), filled up with NaN
        rows; ``masked`` (B, n) bool and the ``masks`` (N, H/4, W/4) bool of those."""
        people = [s.people for s in samples]
        boxes = _padded([p.boxes for p in people], 4)
        masked = torch.zeros(boxes.shape[:2], dtype=torch.bool)
        for i, p in enumerate(people):
            masked[i, : len(p.masked)] = torch.from_numpy(p.masked)
        return {
            "images": torch.from_numpy(np.stack([s.image for s in samples])),
            "boxes": boxes,
            "centres": _padded([p.centres for p in people], 2),
            "ignore": _padded([p.ignore for p in people], 4),
            "masked": masked,
            "masks": torch.from_numpy(np.concatenate([p.masks for p in people])),
        }


class DetectorTask:
    """Trains an RTMDet on photos with boxes and, if it has masks, masks; a `bodyloop.train.loop.Task`."""

    blocks = 0

    def __init__(self, config: DetectorConfig) -> None:
        self.config = config
        self.card = card_for(config)
        self.samples = DetectorSamples(config)
        torch.manual_seed(config.seed)
        self._model = _network(self.card, config)
        self.has_masks = isinstance(self._model, RTMDetIns)
        p = self.card.preprocess
        self.mean, self.std = torch.tensor(p.mean), torch.tensor(p.std)

    @property
    def model(self) -> nn.Module:
        return self._model

    def normalise(self, images: Tensor) -> Tensor:
        """(B, H, W, 3) uint8 RGB to channels-last (B, 3, H, W) float32 in the network's channel order."""
        x = (images.float() - self.mean.to(images.device)) / self.std.to(images.device)
        return (x.flip(-1) if self.card.preprocess.order == "bgr" else x).permute(0, 3, 1, 2)

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor], shared: Shared) -> dict[str, Tensor]:
        images = batch["images"]
        outputs = model(self.normalise(images))
        with torch.autocast(images.device.type, enabled=False):
            truth = Truth.of_batch(batch, self.has_masks)
            return detection_losses(outputs, truth, (images.shape[1], images.shape[2]), shared)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Box AP and mask AP of COCO on the validation file; ``score`` is their mean, or box AP.

        While overfitting the samples themselves are judged.
        """
        from bodyloop.eval.detector import evaluate_detector

        if self.config.overfit:
            return self._judge_samples(self.detector(model))
        if not self.config.validation:
            return {}
        report = evaluate_detector(
            self.detector(model),
            self.samples.root / self.config.validation,
            limit=self.config.evaluate_samples or None,
            resamples=RESAMPLES,
        )
        return figures_of(report.report, report.masks)

    def _judge_samples(self, detector: RTMDetDetector) -> dict[str, float]:
        from bodyloop.eval import evaluate_boxes, evaluate_masks

        refs = self.samples.draw(0, self.config.overfit)
        seeds = ([self.config.seed, *ref] for ref in refs)  # as the loop makes them
        made = [
            self.samples.sample(ref, np.random.Generator(np.random.PCG64(seed)))
            for ref, seed in zip(refs, seeds, strict=True)
        ]
        labels = [row for i, s in enumerate(made) for row in s.labelled().to_coco(i)]
        for i, row in enumerate(labels):
            row |= {"id": i + 1, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]}
        document = {
            "images": [{"id": i, "height": len(s.image), "width": len(s.image)} for i, s in enumerate(made)],
            "annotations": labels,
            "categories": [{"id": 1, "name": "person"}],
        }
        found = detector.detect([Image.from_array(s.image) for s in made])
        rows = [row for i, people in enumerate(found) for row in people.to_coco(i)]
        if not rows:
            return {"score": 0.0}
        drawn = [row for row in rows if "segmentation" in row]  # not of people whose mask is empty
        judged = bool(drawn) and all("segmentation" in row for row in labels)
        return figures_of(evaluate_boxes(document, rows), evaluate_masks(document, drawn) if judged else None)

    def detector(self, model: nn.Module) -> RTMDetDetector:
        """A network of this task as users have it (a copy: the engine changes precision), for the whole curve."""
        from bodyloop.engines.torch import TorchEngine

        p = self.card.preprocess
        network = copy.deepcopy(model)
        assert isinstance(network, RTMDet)
        function = DetectorFunction(network, p.size, mean=p.mean, std=p.std, bgr=p.order == "bgr")
        dtype: Literal["bf16", "fp32"] = "bf16" if self.config.precision == "bf16" else "fp32"
        engine = TorchEngine(function, device=self.config.device, dtype=dtype)
        return RTMDetDetector.from_card(engine, self.card, score_threshold=SCORE_FLOOR)


def figures_of(boxes: BoxReport, masks: MaskReport | None) -> dict[str, float]:
    """AP of boxes and, with ``mask_`` before it, of masks; ``score`` is the mean of both."""
    names = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR_100")
    figures = {n: round(float(getattr(boxes, n)), 4) for n in names}
    if masks is None:
        return {"score": boxes.AP, **figures}
    figures |= {f"mask_{n}": round(float(getattr(masks, n)), 4) for n in names[:6]}
    return {"score": (boxes.AP + masks.AP) / 2, **figures}


def card_for(config: DetectorConfig) -> Card:
    """The card of what is trained: its network, persons only, the input it is judged at.

    Raises:
        ConfigError: it is no RTMDet.
    """
    model = config.model
    card = unproven(find_card(model))
    if not card.architecture.startswith("rtmdet") or card.detection is None:
        raise ConfigError(f"the detector task trains RTMDet, not {model!r} ({card.architecture})")
    return replace(
        card,
        preprocess=replace(card.preprocess, size=(config.test_size,) * 2, input="uint8-nhwc"),
        detection=replace(card.detection, num_classes=1, person_class=0),
    )


def _network(card: Card, config: DetectorConfig) -> RTMDet:
    network = build_network(card)
    assert isinstance(network, RTMDet)
    backbone = network.backbone
    if config.start == "imagenet":
        if not isinstance(backbone, EfficientNetLite0):
            raise ConfigError(
                f"start: imagenet is for our small ones; give {card.name} a weight file, or none"
            )
        backbone.load_imagenet()
    elif config.start != "none":
        load_start(network, config.start, classes="bbox_head.rtm_cls.")
    if isinstance(backbone, EfficientNetLite0):
        freeze_stages(backbone, config.fixed_stages, config.train_depthwise)
        make_frugal(network, [backbone])
    freeze(network, config.freeze)
    return network


def _padded(rows: list[Floats], width: int) -> Tensor:
    out = torch.full((len(rows), max(1, max(len(r) for r in rows)), width), float("nan"))
    for i, r in enumerate(rows):
        out[i, : len(r)] = torch.from_numpy(r)
    return out
