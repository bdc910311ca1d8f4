"""The pose task of the training loop: crops of people in, maps and side outputs judged.

Our own recipe: the sparsemax loss on the maps (proper scoring, dense gradient) with a share of the expected
OKS risk, cross-entropy for presence and visibility, squared error for quality against the true OKS of the
decoded point on COCO's own scale. Half of the people that have masks are shown with a dimmed background; a
third is cut, as CropCOCO cuts photos; others may be pasted before and behind them. With the option ``mse`` the
maps are plain heatmaps instead, for comparison.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bodyloop.data import augment
from bodyloop.data.copypaste import Donors, random_paste
from bodyloop.data.persons import PersonSet
from bodyloop.data.sample import CroppedSample, cut
from bodyloop.errors import ConfigError
from bodyloop.maps import oks_variances
from bodyloop.nn.efficientnet import MEAN, STD, freeze
from bodyloop.nn.frugal import make_frugal
from bodyloop.nn.maps import Decoder
from bodyloop.nn.small import SmallPose
from bodyloop.skeletons import BODY_19, COCO
from bodyloop.train.config import TrainConfig, read_options
from bodyloop.train.losses import heatmap_mse, sparsemax_loss
from bodyloop.train.release import load_start
from bodyloop.train.targets import distribution_targets, oks_targets, udp_targets

OPTIONS = {
    "mask_probability": 0.5,
    "mask_alpha": 0.25,
    "cut_probability": 0.35,
    "rotate": 40.0,
    "rotate_probability": 0.6,
    "scale": 0.35,
    "half_body": 0.2,
    "photometric": 0.3,
    "patches": 0.1,
    "paste": 0.0,
    "mse": 0.0,
    "risk": 0.25,
    "presence": 0.5,
    "visibility": 0.25,
    "quality": 2.0,
    "min_height": 40.0,
    "min_keypoints": 5.0,
    "fixed_norms": 1.0,
    "fixed_stages": 2.0,
    "train_depthwise": 0.0,
}
SOURCES_WITH_VISIBILITY = ("coco", "coco_more")  # LSP-extended does not say which joints are hidden


class PoseTask:
    """`pmpose-n` on COCO-layout person sets."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.options = read_options(config.options, OPTIONS, "pose")
        self.skeleton = BODY_19
        root = Path(os.path.expandvars(config.data))
        shares = [_share(s) for s in config.sources]
        if not shares:
            raise ConfigError("a pose training needs sources, for instance coco:1")
        self.names = [n for n, _ in shares]
        weights = np.array([w for _, w in shares])
        self.shares = weights / weights.sum()
        self.sets = [
            PersonSet(
                root / n / "train.json",
                self.skeleton,
                min_keypoints=int(self.options["min_keypoints"]),
                min_height=self.options["min_height"],
            )
            for n in self.names
        ]
        self.donors = Donors(self.sets if self.options["paste"] else ())
        self.dev = PersonSet(root / "coco" / "dev.json", self.skeleton)
        torch.manual_seed(config.seed)  # of the layers that start from nothing
        self.network = SmallPose(len(self.skeleton))
        if config.start == "imagenet":
            self.network.backbone.load_imagenet()
        elif config.start != "none":
            load_start(self.network, config.start)
        if config.device == "cpu":
            make_frugal(self.network, [self.network.backbone] if self.options["fixed_norms"] else [])
        freeze(
            self.network.backbone, int(self.options["fixed_stages"]), bool(self.options["train_depthwise"])
        )
        self.variances = torch.from_numpy(oks_variances(self.skeleton.sigma_array))
        self.decoded = "logits" if self.options["mse"] else "maps"
        self.decoder = (
            Decoder("dark_udp", self.network.map_size)
            if self.options["mse"]
            else Decoder("expected_oks", self.network.map_size, self.variances.tolist())
        )
        self.sigmas = torch.tensor(self.skeleton.sigmas)
        self.mean = torch.tensor(MEAN).reshape(1, 3, 1, 1)
        self.std = torch.tensor(STD).reshape(1, 3, 1, 1)

    @property
    def model(self) -> nn.Module:
        return self.network

    def backbone(self) -> nn.Module:
        return self.network.backbone

    # ---- data ----------------------------------------------------------------------------------------------

    def augmented(self, source: int, index: int, rng: np.random.Generator) -> CroppedSample:
        """One random training crop."""
        o = self.options
        use_mask = rng.random() < o["mask_probability"]
        s = self.sets[source].sample(index, with_mask=use_mask or o["paste"] > 0)
        if o["paste"]:
            s = random_paste(s, self.donors, rng, o["paste"])
        if s.mask is not None and use_mask:
            noisy = augment.random_mask_noise(s.mask, rng)
            s = augment.dim_background(replace(s, mask=noisy), o["mask_alpha"])
        s = augment.random_flip(s, rng)
        s = augment.random_half_body(s, rng, o["half_body"])
        s = augment.random_transform(
            s, rng, scale=o["scale"], rotate=o["rotate"], rotate_probability=o["rotate_probability"]
        )
        s = augment.random_cut(s, rng, o["cut_probability"])
        c = cut(s)
        if rng.random() < 0.8:
            c = augment.photometric(c, rng, o["photometric"])
        return augment.random_patches(c, rng, o["patches"])

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        counts = np.floor(self.shares * size + rng.random()).astype(int)
        counts[0] += size - counts.sum()
        rows: list[CroppedSample] = []
        areas, knows_hidden = [], []
        for source, count in enumerate(counts):
            chosen = rng.integers(len(self.sets[source]), size=max(count, 0))
            for index in chosen:
                c = self.augmented(source, int(index), rng)
                rows.append(c)
                areas.append(self.sets[source].persons[index].area / c.crop.map_cell_area[0])
                knows_hidden.append(self.names[source] in SOURCES_WITH_VISIBILITY)
        return collate(rows, areas, knows_hidden)

    # ---- losses --------------------------------------------------------------------------------------------

    def normalise(self, images: Tensor) -> Tensor:
        """(B, h, w, 3) uint8 to normalised channels-last (B, 3, h, w)."""
        return (images.permute(0, 3, 1, 2).float() - self.mean.to(images.device)) / self.std.to(images.device)

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = self.network(
            self.normalise(batch["images"]), ("logits", "maps", "presence", "visibility", "quality")
        )
        o = self.options
        points, annotated, inside = batch["points"], batch["annotated"], batch["inside"]
        w = (annotated & inside).float()
        n = w.sum().clamp(min=1)
        quality, d2 = self._true_quality(out[self.decoded], batch)
        known = annotated.float()
        seen = w * batch["knows_hidden"][:, None]
        bce = F.binary_cross_entropy_with_logits
        presence = bce(out["presence_logits"], inside.float(), reduction="none")
        visibility = bce(out["visibility_logits"], batch["visible"].float(), reduction="none")
        return {
            **self._map_losses(out, points, annotated & inside),
            "presence": o["presence"] * (presence * known).sum() / known.sum().clamp(min=1),
            "visibility": o["visibility"] * (visibility * seen).sum() / seen.sum().clamp(min=1),
            "quality": o["quality"] * ((out["quality"] - quality) ** 2 * w).sum() / n,
            "_oks": (quality * w).sum() / n,
            "_px": (d2.sqrt() * w).sum() / n,
            "_absent": (known * ~inside).sum() / known.sum().clamp(min=1),
        }

    def _map_losses(self, out: Mapping[str, Tensor], points: Tensor, known: Tensor) -> dict[str, Tensor]:
        """The loss of the maps over known points (B, K, 2 and B, K): probability maps, or heatmaps if asked."""
        o, w = self.options, known.float()
        n = w.sum().clamp(min=1)
        if o["mse"]:
            target, weight = udp_targets(points, known, self.network.map_size)
            return {"map": o["mse"] * heatmap_mse(out["logits"], target, weight)}
        variances = self.variances.to(points)
        target = distribution_targets(points, variances)
        z = out["logits"].flatten(2) / self.network.temperature
        fy = sparsemax_loss(z, out["maps"].flatten(2), target.flatten(2))
        oks_map, _ = oks_targets(points, known, variances, unit_peak=False)
        risk = (out["maps"] * (1 - oks_map)).sum(dim=(2, 3))
        return {"map": (fy * w).sum() / n, "risk": o["risk"] * (risk * w).sum() / n}

    @torch.no_grad()
    def _true_quality(self, maps: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """COCO's similarity (B, K) of the decoded points, and their squared distance in map px^2."""
        decoded, _ = self.decoder.to(maps.device)(maps.detach())
        d2 = ((decoded - batch["points"]) ** 2).sum(dim=-1)
        scale = 2.0 * (2.0 * self.sigmas.to(maps)) ** 2 * batch["area"][:, None].clamp(min=1e-3)
        return torch.exp(-d2 / scale), d2

    # ---- evaluation ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """COCO AP on dev with true boxes (no flip, no mask) and presence AUROC on randomly cut dev people."""
        from bodyloop.eval.keypoints import evaluate_keypoints

        report = evaluate_keypoints(
            self.dev.path, self.results(model, self.dev, limit=self.config.evaluate_samples)
        )
        return {
            "AP": round(report.AP, 4),
            "AP50": round(report.AP50, 4),
            "presence_auroc": round(self._presence_auroc(model), 4),
            "score": report.AP,
        }

    @torch.no_grad()
    def results(
        self, model: nn.Module, persons: PersonSet, *, with_mask: bool = False, limit: int = 0
    ) -> list[dict[str, object]]:
        """COCO results of a set on its own boxes, in COCO's keypoints: presence in the triplets, annotation ids.

        Args:
            with_mask: dim the background of people who have a mask. limit: the first people only; 0: all.
        """
        columns = COCO.indices_in(self.skeleton)
        found: list[dict[str, object]] = []
        for start in range(0, min(len(persons), limit or len(persons)), 32):
            chosen = range(start, min(start + 32, len(persons)))
            rows = []
            for i in chosen:
                s = persons.sample(i, with_mask=with_mask)
                rows.append(cut(augment.dim_background(s, self.options["mask_alpha"])))
            out = {k: v.numpy() for k, v in self._infer(model, rows).items()}
            for row, i in enumerate(chosen):
                p = persons.persons[i]
                xy = rows[row].crop.from_map(out["points"][row][None])[0][columns]
                presence, quality = out["presence"][row][columns], out["quality"][row][columns]
                present = presence > 0.45
                found.append(
                    {
                        "image_id": p.image_id,
                        "category_id": 1,
                        "id": p.annotation_id,
                        "keypoints": np.concatenate([xy, presence[:, None]], axis=1).ravel().tolist(),
                        "score": float(quality[present].mean()) if present.any() else 0.0,
                    }
                )
        return found

    def _presence_auroc(self, model: nn.Module) -> float:
        from bodyloop.eval.presence import auroc

        scores, labels = [], []
        total = min(len(self.dev), self.config.evaluate_samples or len(self.dev))
        for start in range(0, total, 32):
            rows = []
            for i in range(start, min(start + 32, total)):
                s = self.dev.sample(i, with_mask=False)
                rows.append(cut(augment.random_cut(s, np.random.default_rng([7, i]), 1.0)))
            presence = self._infer(model, rows)["presence"].numpy()
            for p, c in zip(presence, rows, strict=True):
                scores.append(p[c.annotated])
                labels.append(c.in_window[c.annotated])
        return auroc(np.concatenate(scores), np.concatenate(labels)) or 0.0

    def _infer(self, model: nn.Module, rows: list[CroppedSample]) -> dict[str, Tensor]:
        images = torch.from_numpy(np.stack([c.image for c in rows])).to(self.config.device)
        with torch.autocast(
            torch.device(self.config.device).type,
            dtype=torch.bfloat16,
            enabled=self.config.precision == "bf16",
        ):
            out = model(self.normalise(images), ("logits", "maps", "presence", "quality"))
        points, _ = self.decoder.to(images.device)(out[self.decoded])
        return {
            "points": points.float().cpu(),
            "presence": out["presence"].float().cpu(),
            "quality": out["quality"].float().cpu(),
        }


def collate(rows: list[CroppedSample], areas: list[float], knows_hidden: list[bool]) -> dict[str, Tensor]:
    """Samples as tensors: images (B, h, w, 3) uint8, points (B, K, 2) map px, flags (B, K) bool, area (B,) map px^2."""
    points = np.stack([c.crop.crop_to_map(c.keypoints) for c in rows]).astype(np.float32)
    return {
        "images": torch.from_numpy(np.stack([c.image for c in rows])),
        "points": torch.from_numpy(points),
        "annotated": torch.from_numpy(np.stack([c.annotated for c in rows])),
        "inside": torch.from_numpy(np.stack([c.in_window for c in rows])),
        "visible": torch.from_numpy(np.stack([c.visible for c in rows])),
        "area": torch.tensor(areas, dtype=torch.float32),
        "knows_hidden": torch.tensor(knows_hidden),
    }


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.partition(":")
    try:
        return name, float(share or 1)
    except ValueError as e:
        raise ConfigError(f"source {text!r}: expected name:share, for instance coco:2") from e
