"""Samples for teaching a SAM people: a photo as the segmenter gets it, one person's mask, and its keypoints there.

Augmentation turns photo, mask and keypoints together into another photo of the same size (mirrored, turned, sheared,
other colours); what follows is the segmenter's own preparation of a photo.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bodyloop.data.masked import MaskedPeople
from bodyloop.images import Image
from bodyloop.models.cards import Preprocess
from bodyloop.segment.logits import stretched
from bodyloop.segment.sam2 import network_input
from bodyloop.train.config import SamConfig
from bodyloop.train.mixture import Mixture, parse_sources
from bodyloop.train.pose_data import source_file

Rng = np.random.Generator
Floats = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

JITTERS = ((0.1, 0.03, 0.03), (0.1, 0.05, 0.05))  # brightness, contrast, saturation; published
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
VISIBLE = 2  # flag of a keypoint that can be seen


@dataclass(frozen=True, eq=False)
class Shown:
    """A person in a photo of S x S.

    Attributes:
        image: (3, S, S) float32, normalised. target: (S, S) bool.
        points: (K, 2) float32 input px, as prompts have them. usable: (K,) visible, and still in the picture.
    """

    image: npt.NDArray[np.float32]
    target: npt.NDArray[np.bool_]
    points: npt.NDArray[np.float32]
    usable: npt.NDArray[np.bool_]


class SamSamples:
    """People with masks of several sets, as `bodyloop.train.loop.Samples`; a ref is (source, person)."""

    def __init__(self, config: SamConfig, preprocess: Preprocess) -> None:
        self.config, self.preprocess = config, preprocess
        root = Path(os.path.expandvars(config.data))
        shares = parse_sources(config.sources)
        self.sets = [MaskedPeople(source_file(root, n), least_area=config.least_area) for n in shares]
        self.mixture = Mixture([len(s) for s in self.sets], list(shares.values()), config.seed)

    @property
    def digests(self) -> Mapping[str, str]:
        return {str(s.path): s.digest for s in self.sets}

    def batches_per_epoch(self, size: int) -> int:
        return self.mixture.batches_per_epoch(size)

    def draw(self, n: int, size: int) -> Sequence[tuple[int, int]]:
        return self.mixture.draw(n, size)

    def sample(self, ref: tuple[int, ...], rng: Rng) -> Shown:
        """One person; not augmented while overfitting."""
        people, index = self.sets[ref[0]], ref[1]
        pixels, mask = people.image(index).pixels, people.mask(index).bitmap(0)
        keypoints = people.keypoints(index)
        if not self.config.overfit:
            pixels, mask, keypoints = augmented(
                pixels, mask, keypoints, self.config, self.preprocess.mean, rng
            )
        return shown(pixels, mask, keypoints, self.preprocess)

    def collate(self, samples: Sequence[Shown]) -> dict[str, Tensor]:
        """``images`` (B, 3, S, S), ``targets`` (B, S, S) bool, ``points`` (B, K, 2), ``usable`` (B, K) bool."""
        return {
            "images": torch.from_numpy(np.stack([s.image for s in samples])),
            "targets": torch.from_numpy(np.stack([s.target for s in samples])),
            "points": torch.from_numpy(np.stack([s.points for s in samples])),
            "usable": torch.from_numpy(np.stack([s.usable for s in samples])),
        }


def shown(pixels: U8, mask: npt.NDArray[np.bool_], keypoints: Floats, preprocess: Preprocess) -> Shown:
    """A person as the network sees it; keypoints (K, 3) x y flag in photo px."""
    (w, h), size = (pixels.shape[1], pixels.shape[0]), preprocess.size
    x, y, flag = keypoints.T
    inside = (x >= -0.5) & (x < w - 0.5) & (y >= -0.5) & (y < h - 0.5)
    return Shown(
        network_input(Image(pixels), preprocess),
        stretched(mask.astype(np.float32)[..., None], size)[..., 0] > 0.5,
        (keypoints[:, :2] * (np.array(size) / (w, h))).astype(np.float32),
        np.asarray((flag == VISIBLE) & inside, np.bool_),
    )


def augmented(
    pixels: U8,
    mask: npt.NDArray[np.bool_],
    keypoints: Floats,
    config: SamConfig,
    mean: tuple[float, float, float],
    rng: Rng,
) -> tuple[U8, npt.NDArray[np.bool_], Floats]:
    """Photo, mask and keypoints (K, 3) after a random flip, turn and shear, and other colours.

    Where nothing of the person would be left in the picture it is not turned.
    """
    size = (pixels.shape[1], pixels.shape[0])
    mirrored = bool(rng.random() < config.flip)
    angle, shear = rng.uniform(-1, 1, 2) * (config.rotate, config.shear)
    matrix = transform(size, mirrored, angle, shear)
    moved = _warped(mask.astype(np.uint8), matrix, (0, 0, 0)) > 0
    if not moved.any():
        matrix = transform(size, mirrored, 0.0, 0.0)
        moved = _warped(mask.astype(np.uint8), matrix, (0, 0, 0)) > 0
    points = keypoints.copy()
    points[:, :2] = keypoints[:, :2] @ matrix[:, :2].T + matrix[:, 2]
    photo = _warped(pixels, matrix, mean)
    for amounts in JITTERS:
        photo = jittered(photo, 1 + config.colour * rng.uniform(-1, 1, 3) * amounts)
    if rng.random() < config.grey:
        photo = jittered(photo, np.array([1.0, 1.0, 0.0]))
    return photo, moved, points


def transform(size: tuple[int, int], mirrored: bool, angle: float, shear: float) -> Floats:
    """(2, 3) photo px to photo px: mirrored, sheared along x, turned about the centre (degrees, clockwise)."""
    centre = (np.array(size) - 1) / 2
    turn, lean = np.deg2rad(angle), np.tan(np.deg2rad(shear))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = rotation @ np.array([[1.0, lean], [0.0, 1.0]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    return np.column_stack([linear, centre - linear @ centre])


def _warped(pixels: U8, matrix: Floats, border: tuple[float, float, float]) -> U8:
    import cv2

    size = (pixels.shape[1], pixels.shape[0])
    how = cv2.INTER_LINEAR if pixels.ndim == 3 else cv2.INTER_NEAREST
    return np.asarray(cv2.warpAffine(pixels, matrix, size, flags=how, borderValue=border), np.uint8)


def jittered(pixels: U8, factors: Floats) -> U8:
    """Brightness, contrast (about the mean grey) and saturation times three factors."""
    brightness, contrast, saturation = factors.astype(np.float32)
    x = np.clip(pixels * brightness, 0, 255)
    middle = (x @ LUMA).mean()
    x = np.clip((x - middle) * contrast + middle, 0, 255)
    grey = (x @ LUMA)[..., None]
    return np.asarray(np.rint(np.clip(grey + (x - grey) * saturation, 0, 255)), np.uint8)
