"""A segmenter that cuts people out: crop and pose in, the person's mask out. For pose2seg-n, and models like it.

Nothing is computed of a picture as a whole: encoding keeps its pixels. Each prompt says where its person is (by its
maps' window, else its box, its first mask, or its points) and what is known of it; the network sees the crop of that
window and the planes of `bodyloop.segment.planes`. Masks are sampled back from the crop only where they can be, and
end at the window. How crops are made and what becomes of logits stands in the model's card.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.engines import Array, Engine
from bodyloop.errors import InputError, ModelError
from bodyloop.geometry import Crop
from bodyloop.images import Image, Pixels
from bodyloop.masks import Bits, Masks
from bodyloop.models.cards import Card, Preprocess, Segmentation
from bodyloop.people import People
from bodyloop.roles import Encoded, MaskResult, Prompt
from bodyloop.segment import planes
from bodyloop.segment.logits import tidy
from bodyloop.segment.planes import MAPPED, PLANES, Floats
from bodyloop.skeletons import Skeleton

BATCH = 16  # people in one call of the engine
SPREAD = 1.5  # of the box around points, where only they say where a person is
LEAST = 0.25  # of the picture's longer side, that such a box has at least
OUTPUTS = ("masks", "scores")


@dataclass(frozen=True, eq=False)
class Photo:
    """What is kept of a picture: its pixels (H, W, 3) uint8 RGB."""

    pixels: Pixels

    @property
    def image_size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[0]


class CropSegmenter:
    """A `bodyloop.roles.Segmenter` over an engine from ``crops`` and ``prompts`` to ``masks`` and ``scores``.

    Args:
        engine: takes crops (B, h, w, 3) uint8 RGB and prompts (B, 13, h / 4, w / 4) float32; gives masks (B, h, w)
            logits and scores (B,).
        preprocess, segmentation: of the model's card.
        skeleton: of maps whose keypoints a prompt does not name, if it has as many. Maps that nobody names still
            say where the person is.
        batch: largest number of people in one call of the engine.

    Raises:
        ModelError: the engine or the card are not of such a network.
    """

    def __init__(
        self,
        engine: Engine,
        preprocess: Preprocess,
        segmentation: Segmentation,
        *,
        skeleton: Skeleton | None = None,
        batch: int = BATCH,
    ) -> None:
        if segmentation.method != "crops" or preprocess.input != "uint8-nhwc":
            raise ModelError(
                f"a crop segmenter needs a card with method 'crops' and input 'uint8-nhwc', got "
                f"{segmentation.method!r} and {preprocess.input!r}"
            )
        missing = [n for n in OUTPUTS if n not in engine.outputs]
        if missing:
            raise ModelError(f"the segmenter's network has no output {', '.join(missing)}")
        if batch < 1:
            raise InputError(f"batch must be at least 1, got {batch}")
        self.engine, self.preprocess, self.segmentation = engine, preprocess, segmentation
        self.skeleton, self.name, self._batch = skeleton, "segmenter", batch

    def __str__(self) -> str:
        return self.name

    @classmethod
    def from_card(cls, engine: Engine, card: Card, *, batch: int = BATCH) -> CropSegmenter:
        """The segmenter that a card describes.

        Raises:
            ModelError: the card is not of a segmenter that takes crops.
        """
        if card.segmentation is None:
            raise ModelError(f"{card.name!r} is no segmenter but a {card.kind} model")
        segmenter = cls(engine, card.preprocess, card.segmentation, skeleton=card.skeleton, batch=batch)
        segmenter.name = card.name
        return segmenter

    def encode(self, images: Sequence[Image]) -> list[Photo]:
        """The pictures' pixels."""
        return [Photo(image.pixels) for image in images]

    def segment(self, encoded: Encoded, prompts: Sequence[Prompt]) -> MaskResult:
        """A mask and its guessed IoU for each prompt; no mask and 0 where a prompt says nothing.

        Raises:
            InputError: ``encoded`` is of another segmenter, or a prompt is of another picture size.
        """
        if not isinstance(encoded, Photo):
            raise InputError(f"{self.name}: encoded by another segmenter ({type(encoded).__name__})")
        size = encoded.image_size
        windows = [self.window(p, size) for p in prompts]
        asked = [i for i, w in enumerate(windows) if w is not None]
        cuts: list[tuple[int, int, Bits] | None] = [None] * len(prompts)
        scores = np.zeros(len(prompts), np.float32)
        for at in range(0, len(asked), self._batch):
            some = asked[at : at + self._batch]
            crops = [w for i in some if (w := windows[i]) is not None]
            seen = np.stack([cut_out(encoded.pixels, c) for c in crops])
            told = np.stack([self.drawn(prompts[i], c) for i, c in zip(some, crops, strict=True)])
            masks, sure = self._run(seen, told)
            for i, c, m, s in zip(some, crops, masks, sure.tolist(), strict=True):
                limits = self.segmentation.max_hole_area, self.segmentation.max_sprinkle_area
                cuts[i] = pasted(tidy(m, *limits), c, size)
                scores[i] = s if cuts[i] is not None else 0.0
        return MaskResult(Masks.from_cuts(cuts, size), scores)

    def _run(self, crops: Pixels, prompts: Floats) -> tuple[Floats, Floats]:
        out = self.engine.run({"crops": crops, "prompts": prompts}, OUTPUTS)
        return _as(out["masks"], crops.shape[:3]), _as(out["scores"], crops.shape[:1])

    def window(self, prompt: Prompt, size: tuple[int, int]) -> Crop | None:
        """Where a prompt's person is in a picture of ``size``: one window, None if the prompt does not say.

        Raises:
            InputError: maps of a turned window, or a mask or neighbours of another picture.
        """
        for what, given in (
            ("mask", prompt.mask and prompt.mask.size),
            ("neighbours", prompt.neighbours and prompt.neighbours.image_size),
        ):
            if given and given != size:
                raise InputError(f"Prompt.{what}: of a picture of size {given}, this one is {size} (w, h)")
        p = self.preprocess
        if prompt.maps is not None:
            crop = prompt.maps.layers[0].crop
            if np.isfinite(crop.center).all() and np.isfinite(crop.scale).all():
                if crop.rotation.any():
                    raise InputError("Prompt.maps: of a turned window, from which no upright crop is made")
                return Crop(crop.center, crop.scale, crop.rotation, p.size, p.size)
        box = self._box(prompt, size)
        return None if box is None else Crop.from_boxes(box, size=p.size, map_size=p.size, padding=p.padding)

    @staticmethod
    def _box(prompt: Prompt, size: tuple[int, int]) -> npt.NDArray[np.float32] | None:
        if prompt.box is not None:
            return prompt.box
        if prompt.mask is not None and prompt.mask.present[0]:
            return np.asarray(prompt.mask.boxes[0], np.float32)
        on = prompt.points[prompt.labels == 1]
        if not len(on):
            return None
        low, high = on.min(axis=0), on.max(axis=0)
        half = np.maximum((high - low) * SPREAD, LEAST * max(size)) / 2
        return np.concatenate([(low + high) / 2 - half, (low + high) / 2 + half]).astype(np.float32)

    def drawn(self, prompt: Prompt, crop: Crop) -> Floats:
        """(13, h, w): what a prompt says of the person in a window, as planes."""
        out = np.zeros((len(PLANES), *planes.grid_of(crop.size)[::-1]), np.float32)
        on = prompt.labels == 1
        if prompt.maps is not None:
            sure = planes.certainty(prompt.maps.layers[0].values)
            names = self._names(prompt, sure.shape[1])
            if names is None:
                out[PLANES.index("points")] = planes.unnamed_plane(sure, crop.size)[0]
            else:
                out[:MAPPED] = planes.map_planes(sure, names, crop.size)[0]
        if on.any():
            points = planes.dots(crop.to_crop(prompt.points[on][None])[0], crop.size)
            np.maximum(out[PLANES.index("points")], points, out=out[PLANES.index("points")])
        if prompt.box is not None:
            corners = crop.to_crop(prompt.box.reshape(1, 2, 2))[0]
            out[PLANES.index("box")] = planes.box_plane(corners.ravel(), crop.size)
        if prompt.mask is not None and prompt.mask.present[0]:
            out[PLANES.index("mask")] = planes.mask_plane(seen_through(prompt.mask, crop))
        others = out[PLANES.index("others")]
        if not on.all():
            others[:] = planes.dots(crop.to_crop(prompt.points[~on][None])[0], crop.size)
        if prompt.neighbours is not None:
            np.maximum(others, _figures(prompt.neighbours, crop), out=others)
            if prompt.neighbours.masks is not None:
                covered = seen_through(prompt.neighbours.masks, crop)
                out[PLANES.index("others_mask")] = planes.share(covered)
        return out

    def _names(self, prompt: Prompt, k: int) -> Skeleton | None:
        """Whose keypoints ``k`` maps are."""
        known = [s for s in (prompt.skeleton, self.skeleton) if s is not None and len(s) == k]
        return known[0] if known else None


def cut_out(pixels: Pixels, crop: Crop) -> Pixels:
    """(h, w, 3) uint8: the pixels of one window, black outside the picture.

    A window of twice the crop's size or more is averaged down first, so that no pixel is skipped.
    """
    import cv2

    matrix = crop.matrix[0].astype(np.float64)
    shrink = int(min(crop.scale[0] / np.array(crop.size)))
    if shrink >= 2:
        x1, y1, x2, y2 = _rectangle(crop, (pixels.shape[1], pixels.shape[0]), 2 * shrink)
        if x1 >= x2 or y1 >= y2:
            return np.zeros((crop.size[1], crop.size[0], 3), np.uint8)
        target = -(-(x2 - x1) // shrink), -(-(y2 - y1) // shrink)
        pixels = np.asarray(cv2.resize(pixels[y1:y2, x1:x2], target, interpolation=cv2.INTER_AREA), np.uint8)
        grow = np.array([(x2 - x1) / target[0], (y2 - y1) / target[1]])
        matrix[:, 2] += matrix[:, :2] @ (np.array([x1, y1]) + (grow - 1) / 2)
        matrix[:, :2] *= grow
    return np.asarray(cv2.warpAffine(pixels, matrix, crop.size, flags=cv2.INTER_LINEAR), np.uint8)


def seen_through(masks: Masks, crop: Crop) -> npt.NDArray[np.uint8]:
    """(h, w) 0/1: the pixels of a window that any of the masks covers."""
    import cv2

    out = np.zeros((crop.size[1], crop.size[0]), np.uint8)
    for i in np.flatnonzero(masks.present).tolist():
        x, y, bits = masks.cut(i)
        matrix = crop.matrix[0].astype(np.float64)
        matrix[:, 2] += matrix[:, :2] @ np.array([x, y], np.float64)
        one = cv2.warpAffine(bits.view(np.uint8) * 255, matrix, crop.size, flags=cv2.INTER_LINEAR)
        out |= np.asarray(one, np.uint8) > 127
    return out


def pasted(logits: Floats, crop: Crop, size: tuple[int, int]) -> tuple[int, int, Bits] | None:
    """Where logits (h, w) over one window are above 0 in a picture of ``size``: (x0, y0, bitmap); None: nowhere."""
    import cv2

    rows, columns = np.flatnonzero((logits > 0).any(axis=1)), np.flatnonzero((logits > 0).any(axis=0))
    if not len(rows):
        return None
    # a pixel's logit is mixed of the crop pixels within one of it
    ends = np.array([[columns[0] - 1, rows[0] - 1], [columns[-1] + 1, rows[-1] + 1]], np.float64)
    low, high = crop.from_crop(np.clip(ends, 0, np.array(crop.size) - 1)[None])[0]
    x1, y1 = (int(v) for v in np.maximum(np.ceil(low - 1e-6), 0))
    x2, y2 = (int(v) for v in np.minimum(np.floor(high + 1e-6) + 1, size))
    if x1 >= x2 or y1 >= y2:
        return None
    matrix = crop.matrix[0].astype(np.float64)
    matrix[:, 2] += matrix[:, :2] @ np.array([x1, y1], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    drawn = cv2.warpAffine(logits, matrix, (x2 - x1, y2 - y1), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return x1, y1, np.asarray(drawn, np.float32) > 0


def _rectangle(crop: Crop, size: tuple[int, int], margin: int) -> tuple[int, int, int, int]:
    """The pixels of a picture around one window, x1 y1 x2 y2, half open."""
    x1, y1, x2, y2 = crop.windows[0].astype(np.float64).tolist()
    left, top = max(int(np.floor(x1)) - margin, 0), max(int(np.floor(y1)) - margin, 0)
    return left, top, min(int(np.ceil(x2)) + margin, size[0]), min(int(np.ceil(y2)) + margin, size[1])


def _figures(people: People, crop: Crop) -> Floats:
    """(h, w): the limbs of people in a window, as visible as they are said to be."""
    if people.keypoints is None or people.skeleton is None or not len(people):
        return np.zeros(planes.grid_of(crop.size)[::-1], np.float32)
    n = len(people)
    points = people.keypoints.astype(np.float64)
    at = crop[np.zeros(n, np.intp)].to_crop(points)
    known = people.visibility if people.visibility is not None else people.presence
    sure = np.ones(points.shape[:2], np.float32) if known is None else known
    return planes.limbs(at, sure, people.skeleton, crop.size)


def _as(values: Array, shape: tuple[int, ...]) -> Floats:
    if values.shape != shape:
        raise ModelError(f"the segmenter's network gave {values.shape} where {shape} was meant")
    return np.asarray(values, np.float32)
