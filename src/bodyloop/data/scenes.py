"""A photo before it becomes a training picture: people pasted into it, people painted out of it.

Two things that a detector in the loop must know are rare in photographs: people who hide each other, and black
holes where somebody has been. `with_another` pastes a masked person of another photo before or behind one who is
there, `mask_out` paints people black on their mask's pixels and drops their labels, so that the network learns to
look past holes to those who are left. Both are pure functions of a scene and a generator.

Sources: Simple Copy-Paste (Ghiasi et al., CVPR 2021); mask-out after BBoxMaskPose (Purkrabek and Matas, 2025), whose
parameters are not published.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bodyloop.data.copypaste import LARGEST_SCALE, MOST_HIDDEN, CutOut, placed

Boxes = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Bits = npt.NDArray[np.bool_]
Rng = np.random.Generator

ROUGHNESS = (
    0.01,
    0.04,
)  # of a mask drawn imperfectly: smoothing over this share of its size (root of its area)
LEVELS = (0.2, 0.8)  # where the smoothed mask is cut: below 1/2 it grows, above it shrinks
LEAST_AREA = 0.1  # of a pasted person's pixels; with less in the picture nothing is pasted


class Cut(NamedTuple):
    """A mask cut to a rectangle: ``bits`` (h, w) with the upper left corner at ``x``, ``y`` px."""

    x: int
    y: int
    bits: Bits

    @property
    def window(self) -> tuple[slice, slice]:
        """Its rectangle as an index into the picture."""
        h, w = self.bits.shape
        return np.s_[self.y : self.y + h, self.x : self.x + w]


@dataclass(frozen=True, eq=False)
class Scene:
    """A photo (H, W, 3) uint8 RGB and who is in it.

    Attributes:
        boxes: (N, 4) ``x1 y1 x2 y2`` px. masks: N, None for those without. ignore: (M, 4), neither person nor
            background. complete: whoever has no box is background.
    """

    pixels: Pixels
    boxes: Boxes
    masks: tuple[Cut | None, ...]
    ignore: Boxes
    complete: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) px."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def without(self, gone: npt.NDArray[np.integer]) -> Scene:
        """The labels of some people dropped; the pixels stay."""
        stay = np.setdiff1d(np.arange(len(self.boxes)), gone).tolist()
        return replace(self, boxes=self.boxes[stay], masks=tuple(self.masks[i] for i in stay))


# ---- painted out ---------------------------------------------------------------------------------------------


def mask_out(scene: Scene, rng: Rng, *, rough: float = 0.0, everybody: float = 0.0) -> Scene:
    """Paint a random non-empty proper subset of the people black on their masks and drop their labels.

    Crowds and other ignore boxes stay. People without a mask are never painted. Nothing happens where nobody can be
    painted such that somebody stays.

    Args:
        rough: probability, for each painted person, of a mask as a segmenter would draw it instead of the exact one.
        everybody: probability that all who have a mask are painted, although nobody may be left.
    """
    able = np.flatnonzero([m is not None for m in scene.masks])
    most = len(able) if rng.random() < everybody else min(len(able), len(scene.boxes) - 1)
    if most < 1:
        return scene
    count = most if most == len(scene.boxes) else int(rng.integers(1, most + 1))
    gone = rng.permutation(able)[:count]
    pixels = scene.pixels.copy()
    for i in gone:
        cut = scene.masks[i]
        assert cut is not None  # of those who are able
        if rng.random() < rough:
            cut = spoiled(cut, scene.size, rng)
        pixels[cut.window][cut.bits] = 0
    return replace(scene, pixels=pixels).without(gone)


def spoiled(cut: Cut, size: tuple[int, int], rng: Rng) -> Cut:
    """A mask with a smoothed outline that has moved outwards or inwards, within a picture of ``size`` = (w, h)."""
    import cv2

    sigma = max(0.5, float(rng.uniform(*ROUGHNESS)) * np.sqrt(np.count_nonzero(cut.bits)))
    level = float(rng.uniform(*LEVELS))
    pad = int(np.ceil(3 * sigma))
    soft = cv2.GaussianBlur(np.pad(cut.bits, pad).astype(np.float32), (0, 0), sigma) > level
    x, y = cut.x - pad, cut.y - pad
    left, top = max(0, -x), max(0, -y)
    return Cut(x + left, y + top, soft[top : max(0, size[1] - y), left : max(0, size[0] - x)])


# ---- pasted in -----------------------------------------------------------------------------------------------


def with_another(scene: Scene, person: CutOut, rng: Rng) -> Scene:
    """Paste somebody next to a random person of about the same height, before or behind; anywhere if nobody is there.

    Left out if it would hide more than 70 % of anybody, or little of the pasted one would be seen.
    """
    width, height = scene.size
    h, w = person.mask.shape
    who, depth, size, mirror = rng.random(4)
    offset = rng.uniform((-0.9, -0.3), (0.9, 0.3))
    if len(scene.boxes):
        x1, y1, x2, y2 = scene.boxes[int(who * len(scene.boxes))].tolist()
    else:
        x1, y1, x2, y2 = width * 0.1, height * 0.2, width * 0.9, height * 0.8
    scale = min(float(np.exp((size - 0.5) * 0.8)) * (y2 - y1) / h, LARGEST_SCALE)
    cx, cy = (x1 + x2) / 2 + offset[0] * (x2 - x1), (y1 + y2) / 2 + offset[1] * (y2 - y1)
    at = round(cx - w * scale / 2), round(cy - h * scale / 2)
    return inserted(scene, person, scale=scale, at=at, front=depth < 0.5, mirrored=mirror < 0.5)


def inserted(
    scene: Scene, person: CutOut, *, scale: float, at: tuple[int, int], front: bool, mirrored: bool = False
) -> Scene:
    """A scene with one more person, the last of its people; the same scene if too much would be hidden.

    The masks of those who are covered lose what is covered, and their boxes go round what is left.

    Args:
        scale: of the cut-out. at: upper left corner of the scaled one, px. front: before all; else behind all who
            have a mask. mirrored: left and right of the cut-out exchanged.
    """
    found = placed(person, scene.size, scale=scale, at=at, mirrored=mirrored)
    if found is None:
        return scene
    there, pixels, covers = found
    covered = np.zeros(scene.pixels.shape[:2], bool)
    covered[there] = covers
    if not front:
        for m in scene.masks:
            if m is not None:
                covered[m.window] &= ~m.bits
    area = scale * scale * np.count_nonzero(person.mask)
    if np.count_nonzero(covered) < max(LEAST_AREA * area, 1):
        return scene
    boxes, masks = scene.boxes.copy(), list(scene.masks)
    for i, (box, m) in enumerate(zip(scene.boxes, scene.masks, strict=True)):
        if m is None:
            x1, y1, x2, y2 = np.round(box).astype(int)
            if covered[y1:y2, x1:x2].sum() > (1 - MOST_HIDDEN) * max((x2 - x1) * (y2 - y1), 1):
                return scene  # nobody knows what of them is left
        elif front and (m.bits & covered[m.window]).any():
            left = trimmed(covered[m.window], m)
            if left is None or np.count_nonzero(left.bits) < (1 - MOST_HIDDEN) * np.count_nonzero(m.bits):
                return scene
            masks[i], boxes[i] = left, _box(left)
    own = trimmed(~covered, Cut(0, 0, np.ones_like(covered)))
    assert own is not None  # something is covered
    image = scene.pixels.copy()
    image[there][covered[there]] = pixels[covered[there]]
    return replace(scene, pixels=image, boxes=np.concatenate([boxes, _box(own)[None]]), masks=(*masks, own))


def trimmed(covered: Bits, cut: Cut) -> Cut | None:
    """What ``covered`` (h, w) leaves of a mask, in the smallest rectangle; None if that is nothing."""
    bits = cut.bits & ~covered
    rows, columns = np.flatnonzero(bits.any(axis=1)), np.flatnonzero(bits.any(axis=0))
    if not len(rows):
        return None
    part = bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Cut(cut.x + int(columns[0]), cut.y + int(rows[0]), part)


def _box(cut: Cut) -> Boxes:
    h, w = cut.bits.shape
    return np.array([cut.x, cut.y, cut.x + w, cut.y + h], np.float32)
