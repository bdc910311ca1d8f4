"""Crops for training a pose-to-mask network: which person, what is done to it, and what the network is told of it.

A sample is a person with a mask, perhaps with somebody of another photo before or behind it, in a window as a
detector's box would give it. What is known of the person is spoiled as in life: keypoints come from labels (moved,
lost, confused with a neighbour's) or, for a share of the samples, from a pose model that sees the very same crop
(`bodyloop.train.pose2seg` runs it on the batch); the first mask is a small detector's, often there is none.
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

from bodyloop.data.augment import colour_table
from bodyloop.data.coarse import cell_of, random_coarse
from bodyloop.data.copypaste import LARGEST_SCALE, LEAST_HEIGHT, MOST_HIDDEN, cut_out, placed
from bodyloop.data.masked import MaskedPeople
from bodyloop.data.sample import U8, Pixels
from bodyloop.geometry import Crop
from bodyloop.models.cards import Preprocess
from bodyloop.segment import planes
from bodyloop.segment.planes import PLANES
from bodyloop.skeletons import Skeleton
from bodyloop.train.config import Pose2SegConfig
from bodyloop.train.mixture import Mixture, parse_sources
from bodyloop.train.pose_data import PHOTOMETRIC_SHARE, source_file

Rng = np.random.Generator
Floats = npt.NDArray[np.float64]

MAPS, POINTS, UNNAMED, NOTHING = range(4)  # what comes of the pose
MODES = (0.82, 0.06, 0.04, 0.08)  # how often
SENT = 6  # points at most; three, as the loop sends, in half of the cases
LOST, LOST_HIDDEN = 0.06, 0.35  # labelled keypoints that the pose model does not find
CONFUSED = 0.08  # people some of whose keypoints lie on a neighbour


@dataclass(frozen=True, eq=False)
class Scene:
    """A photo with a person and those beside it, photo px.

    Attributes:
        pixels: (H, W, 3). mask: (H, W) 0/1. box: (4,). keypoints: (K, 3) x y flag.
        others: their keypoints (K, 3). others_mask: (H, W) 0/1, as far as it is known.
    """

    pixels: U8
    mask: U8
    box: Floats
    keypoints: Floats
    others: tuple[Floats, ...]
    others_mask: U8


@dataclass(frozen=True, eq=False)
class Told:
    """A training crop.

    Attributes:
        crop, pose_crop: (h, w, 3) uint8, for the network and for the pose model. target: (h, w) 0/1.
        planes: (13, h / 4, w / 4), those of the maps still empty.
        points: (K, 2) where keypoints are said to be, in shares of the window, NaN: nowhere; spread: (K,) of their
            maps, in shares of its width. predicted: the pose model is asked instead; points then tell by NaN whom
            it must not find.
        mode: MAPS, POINTS, UNNAMED or NOTHING. order: (K,) random, for choosing points. sent: how many.
    """

    crop: U8
    pose_crop: U8
    target: U8
    planes: npt.NDArray[np.float32]
    points: Floats
    spread: Floats
    predicted: bool
    mode: int
    order: Floats
    sent: int


class Pose2SegSamples:
    """People with masks of several sets, as `bodyloop.train.loop.Samples`; a ref is (source, person)."""

    def __init__(
        self, config: Pose2SegConfig, skeleton: Skeleton, preprocess: Preprocess, pose: Preprocess
    ) -> None:
        self.config, self.skeleton, self.preprocess, self.pose = config, skeleton, preprocess, pose
        root = Path(os.path.expandvars(config.data))
        shares = parse_sources(config.sources)
        self.sets = [
            MaskedPeople(source_file(root, name), skeleton, least_area=config.least_area) for name in shares
        ]
        self.mixture = Mixture([len(s) for s in self.sets], list(shares.values()), config.seed)
        self.donors = [
            (s, i)
            for s, people in enumerate(self.sets)
            for i in np.flatnonzero(people.boxes[:, 3] - people.boxes[:, 1] >= LEAST_HEIGHT).tolist()
        ]

    @property
    def digests(self) -> Mapping[str, str]:
        return {str(s.path): s.digest for s in self.sets}

    def batches_per_epoch(self, size: int) -> int:
        return self.mixture.batches_per_epoch(size)

    def draw(self, n: int, size: int) -> Sequence[tuple[int, ...]]:
        return self.mixture.draw(n, size)

    def sample(self, ref: tuple[int, ...], rng: Rng) -> Told:
        """One random training crop."""
        source, index = ref
        scene = scene_of(self.sets[source], index)
        if rng.random() < self.config.paste:
            scene = self._with_another(scene, rng)
        box, turn = self._as_detected(scene.box, rng)
        return self._told(scene, box, turn, rng)

    def _with_another(self, scene: Scene, rng: Rng) -> Scene:
        """Somebody of another photo before or behind the person, if enough of it is still seen."""
        s, i = self.donors[int(rng.integers(len(self.donors)))]
        people = self.sets[s]
        whole = people.mask(i).bitmap(0).view(np.uint8)
        person = cut_out(people.image(i).pixels, whole)
        size, front, mirrored = rng.uniform(-0.4, 0.4), rng.random() < 0.5, rng.random() < 0.5
        offset = rng.uniform((-0.9, -0.3), (0.9, 0.3))
        if person is None:
            return scene
        x1, y1, x2, y2 = scene.box
        h, w = person.mask.shape
        scale = float(min(np.exp(size) * (y2 - y1) / h, LARGEST_SCALE))
        centre = np.array([x1 + x2, y1 + y2]) / 2 + offset * (x2 - x1, y2 - y1)
        left, top = (centre - np.array([w, h]) * scale / 2).round().astype(int).tolist()
        photo = scene.pixels.shape[1], scene.pixels.shape[0]
        found = placed(person, photo, scale=scale, at=(left, top), mirrored=bool(mirrored))
        if found is None:
            return scene
        there, pixels, covers = found
        if not front:
            covers &= scene.mask[there] == 0
        hidden = np.zeros_like(scene.mask)
        hidden[there] = covers
        mask = scene.mask & (1 - hidden)
        if mask.sum() < (1 - MOST_HIDDEN) * scene.mask.sum():
            return scene
        image = scene.pixels.copy()
        image[there][covers] = pixels[covers]
        points = people.keypoints(i).copy()
        corner = np.flatnonzero(whole.any(axis=0))[0], np.flatnonzero(whole.any(axis=1))[0]
        points[:, :2] = (points[:, :2] - corner) * scale
        if mirrored:
            points = points[self.skeleton.flip]
            points[:, 0] = w * scale - 1 - points[:, 0]
        points[:, :2] += (left, top)
        return Scene(
            image, mask, scene.box, _covered(scene.keypoints, hidden), (*scene.others, points),
            scene.others_mask & (1 - hidden) | hidden,
        )  # fmt: skip

    def _as_detected(self, box: Floats, rng: Rng) -> tuple[Floats, float]:
        """The box as a detector gives it, and how far the window is turned (degrees)."""
        c = self.config
        moved, turned = rng.random(2) < (c.shift_share, c.rotate_share)
        shift, grow = rng.normal(0, c.shift, 2), np.exp(rng.normal(0, c.scale, 2))
        angle = float(np.clip(rng.normal(0, c.rotate / 2), -c.rotate, c.rotate))
        size = box[2:] - box[:2]
        centre = (box[:2] + box[2:]) / 2 + (shift * size if moved else 0)
        half = size * (grow if moved else 1) / 2
        return np.concatenate([centre - half, centre + half]), angle if turned else 0.0

    def _told(self, scene: Scene, box: Floats, turn: float, rng: Rng) -> Told:
        c, p = self.config, self.preprocess
        flip = bool(rng.random() < c.flip)
        crop = Crop.from_boxes(box, size=p.size, map_size=p.size, padding=p.padding, rotation=turn)
        pose = Crop.from_boxes(box, size=self.pose.size, padding=self.pose.padding, rotation=turn)
        dyed = rng.random() < PHOTOMETRIC_SHARE and c.photometric > 0
        colours = colour_table(rng, c.photometric) if dyed else None
        target, beside = (_through(m, crop) for m in (scene.mask, scene.others_mask))
        out = self._evidence(scene, crop, box, target, beside, rng)
        mode = int(rng.choice(4, p=MODES))
        labelled = bool((scene.keypoints[:, 2] > 0).any())
        predicted = bool(rng.random() < c.predicted) or not labelled
        points = self._points(scene, crop, predicted, rng)
        if flip:
            points = points[self.skeleton.flip]
            points[:, 0] = 1 - points[:, 0]
        mirror = np.s_[:, ::-1] if flip else np.s_[:, :]
        return Told(
            Pixels(scene.pixels, crop.matrix[0], p.size, colours).make()[mirror],
            Pixels(scene.pixels, pose.matrix[0], self.pose.size, colours).make()[mirror],
            target[mirror],
            out[..., ::-1] if flip else out,
            points,
            rng.uniform(0.8, 2.5, len(points)) / 48,
            predicted,
            mode,
            rng.random(len(points)),
            3 if rng.random() < 0.5 else int(rng.integers(SENT + 1)),
        )

    def _evidence(
        self, scene: Scene, crop: Crop, box: Floats, target: U8, beside: U8, rng: Rng
    ) -> npt.NDArray[np.float32]:
        """The planes that need no pose of the person: box, first mask, others."""
        c, size = self.config, crop.size
        out = np.zeros((len(PLANES), *planes.grid_of(size)[::-1]), np.float32)
        has_box, has_mask, has_others, has_theirs = rng.random(4) < (c.box, c.mask, c.others, 0.5)
        if has_box:
            half = (box[2:] - box[:2]) / crop.scale[0] * (np.array(size) - 1) / 2
            centre = (np.array(size) - 1) / 2
            out[PLANES.index("box")] = planes.box_plane(np.concatenate([centre - half, centre + half]), size)
        cell = cell_of((scene.pixels.shape[1], scene.pixels.shape[0])) * size[0] / crop.scale[0, 0]
        if has_mask:
            first = random_coarse(target, beside, cell, rng)
            if first.any():
                out[PLANES.index("mask")] = planes.mask_plane(first)
        if has_others and scene.others:
            n = len(scene.others)
            k = np.stack(scene.others)
            at = crop[np.zeros(n, np.intp)].to_crop(
                k[..., :2] + self._error(scene, rng, (n, len(self.skeleton)))
            )
            sure = np.where(k[..., 2] > 1, rng.uniform(0.6, 1, k.shape[:2]), rng.uniform(0, 0.7, k.shape[:2]))
            out[PLANES.index("others")] = planes.limbs(
                at, np.where(k[..., 2] > 0, sure, 0), self.skeleton, size
            )
            if has_mask and has_theirs:
                out[PLANES.index("others_mask")] = planes.share(random_coarse(beside, None, cell, rng))
        return out

    def _error(self, scene: Scene, rng: Rng, shape: tuple[int, ...]) -> Floats:
        """(..., K, 2) px: how far off a pose model is, in the measure of the keypoints' sigmas."""
        side = np.sqrt((scene.box[2:] - scene.box[:2]).prod())
        spread = self.skeleton.sigma_array[:, None] * side * rng.uniform(0.2, 1.0)
        return np.asarray(rng.normal(0, 1, (*shape, 2)) * spread, np.float64)

    def _points(self, scene: Scene, crop: Crop, predicted: bool, rng: Rng) -> Floats:
        """(K, 2) shares of the window: labelled keypoints as a pose model would find them, NaN where it does not."""
        k = scene.keypoints
        at = k[:, :2] + self._error(scene, rng, (len(k),))
        lost = rng.random(len(k)) < np.where(k[:, 2] > 1, LOST, LOST_HIDDEN)
        confused = rng.random() < CONFUSED and bool(scene.others)
        which = rng.random(len(k)) < 0.2
        if confused:
            other = scene.others[int(rng.integers(len(scene.others)))]
            swapped = which & (other[:, 2] > 0)
            at[swapped] = other[swapped, :2]
        if predicted:  # of the points only NaN counts
            return np.where(rng.random((len(k), 1)) < LOST / 2, np.nan, np.full((len(k), 2), 0.5))
        at[lost | (k[:, 2] == 0)] = np.nan
        return np.asarray(crop.to_crop(at[None])[0] / (np.array(crop.size) - 1), np.float64)

    def collate(self, samples: Sequence[Told]) -> dict[str, Tensor]:
        """Fields of `Told` by name, stacked; colours last."""
        names = ("crop", "pose_crop", "target", "planes", "points", "spread", "order")
        out = {
            n: torch.from_numpy(np.ascontiguousarray(np.stack([getattr(s, n) for s in samples])))
            for n in names
        }
        for n in ("predicted", "mode", "sent"):
            out[n] = torch.tensor([getattr(s, n) for s in samples])
        return out


def scene_of(people: MaskedPeople, index: int) -> Scene:
    """A person and its photo as they are."""
    beside = people.beside(index)
    return Scene(
        people.image(index).pixels,
        people.mask(index).bitmap(0).view(np.uint8),
        people.boxes[index],
        people.keypoints(index),
        tuple(k for k in beside.keypoints if (k[:, 2] > 0).any()),
        beside.masks.union().view(np.uint8),
    )


def _covered(points: Floats, hidden: U8) -> Floats:
    """Keypoints (K, 3), those under ``hidden`` (H, W) marked as such."""
    h, w = hidden.shape
    x, y = np.rint(np.clip(points[:, :2], -1, (w, h))).astype(int).T
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    out = points.copy()
    under = inside & (hidden[np.clip(y, 0, h - 1), np.clip(x, 0, w - 1)] > 0)
    out[under & (out[:, 2] > 1), 2] = 1
    return out


def _through(mask: U8, crop: Crop) -> U8:
    """(h, w) 0/1: a mask (H, W) as it is seen through a window."""
    import cv2

    drawn = cv2.warpAffine(mask * 255, crop.matrix[0], crop.size, flags=cv2.INTER_LINEAR)
    return (np.asarray(drawn) > 127).astype(np.uint8)
