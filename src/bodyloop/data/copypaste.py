"""Copy-paste of people: others in front of and behind a person, with exact visibility.

Crowds are rare in photographs and rarely labelled. A person with a mask can be cut out of its photo and
pasted next to another one: in front, where it hides what it covers, or behind, where the target's own mask
keeps it away. Since the masks are known, so is what can still be seen. After Ghiasi et al., "Simple
Copy-Paste" (CVPR 2021), aimed at one person instead of a whole picture.

`paste` is deterministic; `random_paste` draws its arguments. Coordinates are image px of the target's picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bodyloop.data.persons import PersonSet
from bodyloop.data.sample import U8, Sample
from bodyloop.errors import InputError

Rng = np.random.Generator

LEAST_HEIGHT = 64.0  # px of a cut-out's box: smaller ones are blurred when they are pasted
LARGEST_SCALE = 2.0  # of a cut-out
MOST_HIDDEN = 0.7  # share of the target's labelled keypoints (or mask) that may be covered


@dataclass(frozen=True, eq=False)
class CutOut:
    """A person without its background: pixels (h, w, 3) uint8 RGB and mask (h, w) uint8 0/1."""

    pixels: U8
    mask: U8


class Donors:
    """People with masks, to be cut out: those of some sets that are tall enough."""

    def __init__(self, sets: Sequence[PersonSet], least_height: float = LEAST_HEIGHT) -> None:
        self.sets = tuple(sets)
        self.where = [
            (s, i)
            for s, persons in enumerate(self.sets)
            for i in np.flatnonzero(
                persons.has_mask & (persons.boxes[:, 3] - persons.boxes[:, 1] >= least_height)
            ).tolist()
        ]

    def __len__(self) -> int:
        return len(self.where)

    def cut_out(self, number: int) -> CutOut | None:
        """Person ``number`` without its background; None if its mask is empty."""
        s, i = self.where[number]
        sample = self.sets[s].sample(i)
        return None if sample.mask is None else cut_out(sample.image, sample.mask)


def cut_out(image: U8, mask: U8) -> CutOut | None:
    """The smallest rectangle of a picture that holds the mask; None if the mask is empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return CutOut(image[part], mask[part])


def paste(
    sample: Sample, person: CutOut, *, scale: float, at: tuple[int, int], front: bool, mirrored: bool = False
) -> Sample:
    """Paste a person into a sample's picture.

    Args:
        scale: of the cut-out. at: top left corner of the scaled cut-out in the picture; may lie outside.
        front: before the target (covered keypoints become hidden, the target's mask loses what is covered);
            else behind it: the target's mask stays whole.
        mirrored: left and right of the cut-out exchanged.

    Raises:
        InputError: behind somebody without a mask.
    """
    if not front and sample.mask is None:
        raise InputError("nobody can be pasted behind a person without a mask")
    height, width = sample.image.shape[:2]
    found = placed(person, (width, height), scale=scale, at=at, mirrored=mirrored)
    if found is None:
        return sample
    there, pixels, covers = found
    if not front and sample.mask is not None:
        covers &= sample.mask[there] == 0
    image = sample.image.copy()
    image[there][covers] = pixels[covers]
    if not front:
        return replace(sample, image=image)
    covered = np.zeros((height, width), np.bool_)
    covered[there] = covers
    left = sample.mask
    if left is not None:
        left = left.copy()
        left[covered] = 0
    return replace(sample, image=image, visible=sample.visible & ~_at(covered, sample.keypoints), mask=left)


def placed(
    person: CutOut, size: tuple[int, int], *, scale: float, at: tuple[int, int], mirrored: bool = False
) -> tuple[tuple[slice, slice], U8, npt.NDArray[np.bool_]] | None:
    """A person scaled and put into a picture of ``size`` = (w, h): which part of it, the pixels there (h, w, 3) and
    those that are the person's (h, w); None outside. Arguments as in `paste`."""
    import cv2

    h, w = person.mask.shape
    target = max(1, round(w * scale)), max(1, round(h * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    pixels = np.asarray(cv2.resize(person.pixels, target, interpolation=how), np.uint8)
    mask = cv2.resize(person.mask, target, interpolation=cv2.INTER_NEAREST) > 0
    if mirrored:
        pixels, mask = pixels[:, ::-1], mask[:, ::-1]
    x1, y1 = max(at[0], 0), max(at[1], 0)
    x2, y2 = min(at[0] + target[0], size[0]), min(at[1] + target[1], size[1])
    if x1 >= x2 or y1 >= y2:
        return None
    source = np.s_[y1 - at[1] : y2 - at[1], x1 - at[0] : x2 - at[0]]
    return np.s_[y1:y2, x1:x2], pixels[source], mask[source].copy()


def _at(covered: npt.NDArray[np.bool_], points: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether the pixel nearest to each point (K, 2) is covered; points outside the picture are not."""
    h, w = covered.shape
    x, y = np.rint(points).astype(np.int64).T
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    out = np.zeros(len(points), np.bool_)
    out[inside] = covered[y[inside], x[inside]]
    return out


def random_paste(sample: Sample, donors: Donors, rng: Rng, probability: float = 0.3) -> Sample:
    """Paste a random person of about the target's height next to it, in front or (with a mask) behind.

    A paste that would hide more than 70 % of the target is left out. The same number of draws whatever happens.
    """
    use, which, depth, size, mirror = rng.random(5)
    offset = rng.uniform((-0.9, -0.3), (0.9, 0.3))
    if use >= probability or not len(donors):
        return sample
    person = donors.cut_out(int(which * len(donors)))
    if person is None:
        return sample
    x1, y1, x2, y2 = sample.box
    h, w = person.mask.shape
    scale = min(float(np.exp((size - 0.5) * 0.8)) * (y2 - y1) / h, LARGEST_SCALE)
    cx, cy = (x1 + x2) / 2 + offset[0] * (x2 - x1), (y1 + y2) / 2 + offset[1] * (y2 - y1)
    at = round(cx - w * scale / 2), round(cy - h * scale / 2)
    front = sample.mask is None or depth < 0.5
    out = paste(sample, person, scale=scale, at=at, front=front, mirrored=mirror < 0.5)
    return sample if front and _too_hidden(sample, out) else out


def _too_hidden(before: Sample, after: Sample) -> bool:
    seen = np.count_nonzero(before.visible)
    if np.count_nonzero(after.visible) < (1 - MOST_HIDDEN) * seen:
        return True
    if before.mask is None or after.mask is None:
        return False
    return int(after.mask.sum()) < (1 - MOST_HIDDEN) * int(before.mask.sum())
