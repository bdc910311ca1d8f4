"""Crops of people for pose training: which person, what is done to it, and a batch of them as tensors."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bodyloop.data import augment
from bodyloop.data.copypaste import Donors, random_paste
from bodyloop.data.labels import digest_of
from bodyloop.data.persons import PersonSet
from bodyloop.data.sample import CroppedSample, Sample, cut
from bodyloop.errors import ConfigError
from bodyloop.models.cards import Preprocess
from bodyloop.skeletons import Skeleton
from bodyloop.train import device_warp
from bodyloop.train.config import PoseConfig
from bodyloop.train.mixture import Mixture, parse_sources

log = logging.getLogger(__name__)

Rng = np.random.Generator
Ref = tuple[int, ...]

PHOTOMETRIC_SHARE = 0.8  # of the crops get other colours, where they are asked for


@dataclass(frozen=True, eq=False)
class Labelled:
    """A crop with what the losses need beside it: the person's area in map px^2, whether v = 1 was labelled."""

    crop: CroppedSample
    area: float
    knows_hidden: bool


class PoseSamples:
    """People of several COCO-layout sets, as `bodyloop.train.loop.Samples`; a ref is (source, person)."""

    def __init__(self, config: PoseConfig, skeleton: Skeleton, preprocess: Preprocess) -> None:
        self.config = config
        self.skeleton = skeleton
        self.preprocess = preprocess
        root = Path(os.path.expandvars(config.data))
        shares = parse_sources(config.sources)
        photos = _of_sources("photos", config.photos, shares)
        detections = _of_sources("detections", config.detections, shares)
        self.sets = [
            PersonSet(
                source_file(root, name),
                skeleton,
                photos=root / photos[name] if name in photos else None,
                detections=root / detections[name] if name in detections else None,
                min_keypoints=config.min_keypoints,
                min_height=config.min_height,
            )
            for name in shares
        ]
        empty = [name for name, s in zip(shares, self.sets, strict=True) if not len(s)]
        if empty:
            raise ConfigError(
                f"source {empty[0]} shows nobody to learn from: with min_keypoints={config.min_keypoints} of the "
                f"keypoints {', '.join(skeleton.keypoints[:3])}, ... and min_height={config.min_height:g} px"
            )
        unsure = set(config.knows_hidden) - set(shares)
        if unsure:
            raise ConfigError(f"knows_hidden names {', '.join(sorted(unsure))}, which are no sources")
        self.knows_hidden = [
            s.knows_hidden and (not config.knows_hidden or name in config.knows_hidden)
            for name, s in zip(shares, self.sets, strict=True)
        ]
        self.mixture = Mixture([len(s) for s in self.sets], list(shares.values()), config.seed)
        self.people = [f"{name}: {len(s)} people" for name, s in zip(shares, self.sets, strict=True)]
        _tell(self.people, self.sets, skeleton)
        self._detections = [root / d for d in detections.values()]
        self.donors = Donors(self.sets if config.paste else ())

    @property
    def digests(self) -> Mapping[str, str]:
        return {
            **{str(s.path): s.digest for s in self.sets},
            **{str(d): digest_of([d]) for d in self._detections},
        }

    def batches_per_epoch(self, size: int) -> int:
        return self.mixture.batches_per_epoch(size)

    def draw(self, n: int, size: int) -> Sequence[Ref]:
        return self.mixture.draw(n, size)

    def sample(self, ref: Ref, rng: Rng) -> Labelled:
        """One random training crop; not augmented at all while overfitting."""
        source, index = ref
        persons, c = self.sets[source], self.config
        if c.overfit:
            crop = self._cut(persons.sample(index, with_mask=False))
        else:
            crop = self._augmented(persons, index, rng)
        area = float(persons.areas[index] / crop.crop.map_cell_area[0])
        return Labelled(crop, area, self.knows_hidden[source])

    def _augmented(self, persons: PersonSet, index: int, rng: Rng) -> CroppedSample:
        c = self.config
        use_mask = bool(rng.random() < c.mask)
        s = persons.sample(index, with_mask=use_mask or c.paste > 0)
        if c.paste:
            s = random_paste(s, self.donors, rng, c.paste)
        if use_mask and s.mask is not None:
            if rng.random() < c.mask_noise:
                s = replace(s, mask=augment.random_mask_noise(s.mask, rng))
            s = augment.dim_background(s, c.mask_alpha)
        s = augment.random_flip(replace(s, mask=None), rng, c.flip)
        s = augment.random_half_body(s, rng, c.half_body, c.half_body_least)
        s = augment.random_transform(
            s, rng, shift=c.shift, shift_probability=c.shift_share, scale=c.scale, rotate=c.rotate,
            rotate_probability=c.rotate_share,
        )  # fmt: skip
        if c.edges:
            s = augment.random_edges(s, rng, c.edges)
        if c.cut:
            s = augment.random_cut(s, rng, c.cut)
        crop = self._cut(s)
        if c.photometric and rng.random() < PHOTOMETRIC_SHARE:
            crop = augment.photometric(crop, rng, c.photometric)
        return augment.random_patches(crop, rng, c.patches)

    def _cut(self, sample: Sample) -> CroppedSample:
        p = self.preprocess
        return cut(sample, p.size, p.map_size or (p.size[0] // 4, p.size[1] // 4), p.padding)

    def collate(self, samples: Sequence[Labelled]) -> dict[str, Tensor]:
        """``images`` (B, h, w, 3) uint8 (or, with ``warp: device``, what `device_warp.make` makes them of), ``points``
        (B, K, 2) crop px float64, ``flags`` (B, K) 0, 1, 2 (visible), ``inside``, ``in_image`` (B, K) bool,
        ``area`` (B,) map px^2, ``knows_hidden`` (B,) bool."""
        crops = [s.crop for s in samples]
        here = self.config.warp == "cpu"
        return {
            **(
                {"images": torch.from_numpy(np.stack([c.image for c in crops]))}
                if here
                else device_warp.pack(crops)
            ),
            "points": torch.from_numpy(np.stack([c.keypoints for c in crops])),
            "flags": torch.from_numpy(
                np.stack([c.annotated * (1 + c.visible) for c in crops]).astype(np.int64)
            ),
            "inside": torch.from_numpy(np.stack([c.in_window for c in crops])),
            "in_image": torch.from_numpy(np.stack([c.in_image for c in crops])),
            "area": torch.tensor([s.area for s in samples], dtype=torch.float32),
            "knows_hidden": torch.tensor([s.knows_hidden for s in samples]),
        }


def _tell(people: Sequence[str], sets: Sequence[PersonSet], skeleton: Skeleton) -> None:
    """Who will be learned from, and keypoints that only labels or only the model know."""
    log.info("learning from %s", ", ".join(people))
    for s in sets:
        if s.left_out:
            log.warning(
                "%s: %s are labelled, but not learned: %s has no keypoints of these names (see skeleton)",
                s.path, ", ".join(s.left_out), skeleton.name,
            )  # fmt: skip
    taught = np.any([(s.keypoints[..., 2] > 0).any(axis=0) for s in sets], axis=0)
    if not taught.all():
        never = [k for k, known in zip(skeleton.keypoints, taught, strict=True) if not known]
        log.warning("nobody labels %s: nothing teaches the model where they are", ", ".join(never))


def source_file(root: Path, name: str) -> Path:
    """The labels of a source: a file below ``root``, or a folder: its train.json, else what a reader finds in it."""
    path = root / name
    usual = path / "train.json"
    if path.is_dir():
        return usual if usual.is_file() else path
    return path if path.suffix else usual


def _of_sources(key: str, told: Sequence[str], sources: Mapping[str, float]) -> dict[str, str]:
    """What ``source=path`` entries say of each source."""
    out = dict(t.partition("=")[::2] for t in told)
    if not all(out.values()) or not out.keys() <= sources.keys():
        raise ConfigError(
            f"{key}: expected source=path of the sources {', '.join(sources)}, got {', '.join(told)}"
        )
    return out
