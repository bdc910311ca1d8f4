"""Roles that know the labels: how far the loop could get with better ones, and one role judged by itself.

`TrueBoxes`, `TruePoses` and `TrueMasks` say what is labelled. `MergingOracle` finds everybody but takes the two who
overlap most for one, as detectors do in crowds, until it sees that one of them has been painted out. What the second
pass gains over the first with it is the most that this kind of mistake leaves to gain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.eval.boxed import file_skeleton
from bodyloop.eval.photos import PhotoSet
from bodyloop.geometry import boxes_from_xywh, iou
from bodyloop.images import Image
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import Encoded, MaskResult, Prompt
from bodyloop.skeletons import COCO

Bools = npt.NDArray[np.bool_]
Boxes = npt.NDArray[np.float32]

PAINTED = 0.5  # share of a person's mask that is black and was not: it has been painted out


class _Knowing:
    """The labels of a set by photo; crowd regions are nobody."""

    def __init__(self, photos: PhotoSet) -> None:
        self._photos = photos
        self._images = {i["id"]: i for i in photos.document["images"]}
        self._people: dict[Any, list[Mapping[str, Any]]] = {}
        for a in photos.document["annotations"]:
            if not a.get("iscrowd"):
                self._people.setdefault(a["image_id"], []).append(a)
        self._masks = lru_cache(maxsize=2)(self._read_masks)
        self._pixels = lru_cache(maxsize=2)(self._read_pixels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._photos.origin})"

    def _rows(self, key: Any) -> list[Mapping[str, Any]]:
        """The persons of a photo."""
        if key not in self._images:
            raise InputError(f"{self!r}: has no photo with id {key!r}")
        return self._people.get(key, [])

    def _boxes(self, key: Any) -> Boxes:
        """(N, 4) x1 y1 x2 y2."""
        return boxes_from_xywh([a["bbox"] for a in self._rows(key)])

    def _read_masks(self, key: Any) -> Masks:
        rows = self._rows(key)
        size = int(self._images[key]["width"]), int(self._images[key]["height"])
        return Masks.from_any([a.get("segmentation") or None for a in rows], size)

    def _read_pixels(self, key: Any) -> npt.NDArray[np.uint8]:
        return self._photos.photo(self._images[key]).pixels


class TrueBoxes(_Knowing):
    """A detector that gives the labelled boxes, without masks."""

    def detect(self, images: Sequence[Image]) -> list[People]:
        """The people of each image, which must have its id in the labels."""
        found = [(image, self._boxes(image.id)) for image in images]
        return [People(i.size, i.source, boxes=b, scores=np.ones(len(b), np.float32)) for i, b in found]


class TruePoses(_Knowing):
    """A pose estimator that gives the labelled keypoints of the person whose box fits best.

    Scores are 1, visibility is 1 for what is labelled as visible and 0 for what is hidden; unlabelled keypoints are
    not there.
    """

    def __init__(self, photos: PhotoSet) -> None:
        super().__init__(photos)
        self.skeleton = file_skeleton(photos.names, COCO)

    def estimate(self, images: Sequence[Image], people: Sequence[People]) -> list[People]:
        """The people with keypoints."""
        return [self._one(image.id, some) for image, some in zip(images, people, strict=True)]

    def _one(self, key: Any, people: People) -> People:
        k, known = len(self.skeleton), self._boxes(key)
        if people.boxes is None or not len(people) or not len(known):
            return people.replace(skeleton=self.skeleton, keypoints=np.full((len(people), k, 2), np.nan))
        best = iou(people.boxes, known).argmax(axis=1)
        table = np.array([a["keypoints"] for a in self._rows(key)], np.float64).reshape(-1, k, 3)[best]
        flags = table[..., 2]
        return people.replace(
            skeleton=self.skeleton,
            keypoints=np.where(flags[..., None] > 0, table[..., :2], np.nan),
            map_scores=np.where(flags > 0, 1.0, np.nan),
            visibility=np.where(flags > 0, flags == 2, np.nan),
        )


class MergingOracle(_Knowing):
    """A detector that gives the labelled boxes and masks; of the two people whose boxes overlap most only the larger.

    People who have been painted black are not found again; once one of the two is, the other is found, too.
    """

    def detect(self, images: Sequence[Image]) -> list[People]:
        """The people that are left in each image, which must have its id in the labels."""
        return [self._one(image) for image in images]

    def _one(self, image: Image) -> People:
        boxes, masks = self._boxes(image.id), self._masks(image.id)
        painted = (image.pixels == 0).all(axis=2) & (self._pixels(image.id) != 0).any(axis=2)
        left = np.array([not _mostly(painted, *masks.cut(i)) for i in range(len(boxes))], np.bool_)
        between = iou(boxes, boxes)
        np.fill_diagonal(between, 0)
        if between.size and between.max() > 0:
            i, j = np.unravel_index(between.argmax(), between.shape)
            if left[i] and left[j]:
                left[j if masks.areas[i] >= masks.areas[j] else i] = False
        kept = np.flatnonzero(left)
        scores = np.ones(len(kept), np.float32)
        return People(image.size, image.source, boxes=boxes[kept], scores=scores, masks=masks[kept])


def _mostly(painted: Bools, x: int, y: int, bits: Bools) -> bool:
    h, w = bits.shape
    return bool((painted[y : y + h, x : x + w] & bits).sum() >= PAINTED * bits.sum() > 0)


@dataclass(frozen=True)
class _Photo:
    """All that `TrueMasks` keeps of an image."""

    image_size: tuple[int, int]
    key: Any


class TrueMasks(_Knowing):
    """A segmenter that answers with the labelled mask of the person a prompt fits best.

    What fits: the IoU of the boxes, that of the masks, and the share of the points that lie on the right side of the
    mask. A prompt that fits nobody gets an empty mask. The score is the fit's mean.
    """

    def encode(self, images: Sequence[Image]) -> Sequence[Encoded]:
        """Which photo each is."""
        return [_Photo(image.size, image.id) for image in images]

    def segment(self, encoded: Encoded, prompts: Sequence[Prompt]) -> MaskResult:
        """One labelled mask a prompt."""
        assert isinstance(encoded, _Photo)
        boxes, known = self._boxes(encoded.key), self._masks(encoded.key)
        masks = [Masks.empty(0, encoded.image_size)]
        scores = np.zeros(len(prompts), np.float32)
        for n, prompt in enumerate(prompts):
            fit = _fit(boxes, known, prompt)
            best = int(fit.argmax()) if len(fit) else -1
            good = best >= 0 and fit[best] > 0
            masks.append(known[best] if good else Masks.empty(1, encoded.image_size))
            scores[n] = fit[best] if good else 0
        return MaskResult(Masks.concat(masks), scores)


def _fit(boxes: Boxes, masks: Masks, prompt: Prompt) -> npt.NDArray[np.float64]:
    """(N,) how well a prompt fits each person, 0..1."""
    parts = []
    if prompt.box is not None:
        parts.append(iou(prompt.box[None], boxes)[0])
    if prompt.mask is not None and prompt.mask.present[0]:
        parts.append(prompt.mask.iou(masks)[0])
    if len(prompt.points):
        parts.append(np.array([_on_it(masks, i, prompt) for i in range(len(boxes))]))
    return np.mean(parts, axis=0) if parts else np.zeros(len(boxes))


def _on_it(masks: Masks, i: int, prompt: Prompt) -> float:
    """Share of the points that lie on (label 1) or off (label 0) a mask."""
    x0, y0, bits = masks.cut(i)
    x, y = np.rint(prompt.points).astype(np.int64).T
    x, y = x - x0, y - y0
    inside = (x >= 0) & (y >= 0) & (x < bits.shape[1]) & (y < bits.shape[0])
    on = np.zeros(len(x), bool)
    on[inside] = bits[y[inside], x[inside]]
    return float((on == (prompt.labels > 0)).mean())
