"""RTMDet as a detector: fit the photo, run the network, keep the boxes that are persons.

The engine gives a box and scores for every prior; here they become people in photo px. Which numbers decide
(size, padding, thresholds) stands in the card. Boxes end at the photo's border; what the published system
does differently is a switch of `DetectorParity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bodyloop.detect.letterbox import Letterbox
from bodyloop.detect.suppress import suppress
from bodyloop.engines import Array, Engine
from bodyloop.errors import InputError, ModelError
from bodyloop.images import Image, Pixels
from bodyloop.models.cards import Card, Detection, Preprocess
from bodyloop.people import People

Floats = npt.NDArray[np.float32]

STRIDES = (8, 16, 32)  # of the levels whose priors the network joins in this order
BATCH = 8  # photos in one call of the engine, so that memory stays bounded


@dataclass(frozen=True)
class DetectorParity:
    """Quirks of the published system, off by default.

    Attributes:
        bilinear: shrink photos by bilinear samples alone, which skips pixels of large ones.
        clip_to_canvas: cut boxes at the padded canvas instead of the photo, so that they can reach beyond it.
    """

    bilinear: bool = False
    clip_to_canvas: bool = False


class RTMDetDetector:
    """A `bodyloop.roles.Detector` over an engine with the outputs "boxes" and "scores".

    Args:
        engine: takes ``images`` (B, h, w, 3) uint8 RGB; gives boxes (B, P, 4) ``x1 y1 x2 y2`` in input px and
            scores (B, P, C).
        preprocess, detection: of the model's card.
        score_threshold: instead of the card's.
        batch: largest number of photos in one call of the engine.
        parity: quirks to repeat.

    Raises:
        InputError: a threshold outside 0..1 or a batch below 1.
        ModelError: the engine lacks an output, or the card asks for another kind of input.
    """

    def __init__(
        self,
        engine: Engine,
        preprocess: Preprocess,
        detection: Detection,
        *,
        score_threshold: float | None = None,
        batch: int = BATCH,
        parity: DetectorParity | None = None,
    ) -> None:
        missing = [n for n in ("boxes", "scores") if n not in engine.outputs]
        if missing:
            raise ModelError(f"the detector's network has no output {', '.join(missing)}")
        if preprocess.input != "uint8-nhwc":
            raise ModelError(
                f"the detector's network must take uint8 pixels and normalise them by itself, "
                f"its card says {preprocess.input!r}; export it with `bodyloop export`"
            )
        if batch < 1:
            raise InputError(f"batch must be at least 1, got {batch}")
        if score_threshold is not None:
            if not 0 <= score_threshold <= 1:
                raise InputError(f"score_threshold must lie in 0..1, got {score_threshold}")
            detection = replace(detection, score_threshold=score_threshold)
        self.engine = engine
        self.preprocess = preprocess
        self.detection = detection
        self.parity = parity or DetectorParity()
        self.name = "detector"
        self._batch = batch

    def __str__(self) -> str:
        return self.name

    @classmethod
    def from_card(
        cls,
        engine: Engine,
        card: Card,
        *,
        score_threshold: float | None = None,
        batch: int = BATCH,
        parity: DetectorParity | None = None,
    ) -> RTMDetDetector:
        """The detector that a card describes.

        Raises:
            ModelError: the card is not of a detector.
        """
        if card.detection is None:
            raise ModelError(f"{card.name!r} is no detector but a {card.kind} model")
        detector = cls(
            engine, card.preprocess, card.detection,
            score_threshold=score_threshold, batch=batch, parity=parity,
        )  # fmt: skip
        detector.name = card.name
        return detector

    def detect(self, images: Sequence[Image]) -> list[People]:
        """The people of each photo: boxes in photo px and scores, best first; perhaps none."""
        found: list[People] = []
        for start in range(0, len(images), self._batch):
            found += self._detect(images[start : start + self._batch])
        return found

    def _detect(self, images: Sequence[Image]) -> list[People]:
        places = [Letterbox.fit(i.size, self.preprocess.size, self.detection.keep_aspect) for i in images]
        pixels: list[Pixels] = [
            place.draw(image.pixels, self.detection.pad_value, self.parity.bilinear)
            for image, place in zip(images, places, strict=True)
        ]
        answer = self.engine.run({"images": np.stack(pixels)}, ["boxes", "scores"])
        boxes, scores = self._checked(answer["boxes"], answer["scores"], len(images))
        out = []
        for n, (image, place) in enumerate(zip(images, places, strict=True)):
            b, s = select(boxes[n], scores[n], place, self.detection, self.parity)
            out.append(People(image.size, image.source, boxes=b, scores=s))
        return out

    def _checked(self, boxes: Array, scores: Array, n: int) -> tuple[Floats, Floats]:
        priors = sum(level_sizes(self.preprocess.size))
        classes = self.detection.num_classes
        if boxes.shape != (n, priors, 4) or scores.shape != (n, priors, classes):
            raise ModelError(
                f"the detector's card means boxes {(n, priors, 4)} and scores {(n, priors, classes)}; "
                f"its network gave {boxes.shape} and {scores.shape}"
            )
        return boxes.astype(np.float32), scores[..., self.detection.person_class].astype(np.float32)


def level_sizes(size: tuple[int, int]) -> list[int]:
    """Number of priors of each level for an input of ``size`` = (w, h) px."""
    return [(size[0] // s) * (size[1] // s) for s in STRIDES]


def select(
    boxes: Floats, scores: Floats, place: Letterbox, detection: Detection, parity: DetectorParity
) -> tuple[Floats, Floats]:
    """The persons of one photo among all priors.

    In this order: the score threshold and the best of each level; clipping; back to the photo; boxes without
    area go; non-maximum suppression; the best few.

    Args:
        boxes: (P, 4) ``x1 y1 x2 y2`` in input px. scores: (P,) of the class person.
    Returns: boxes (N, 4) in photo px and scores (N,), best first.
    """
    chosen = _best_of_levels(scores, level_sizes(place.canvas), detection)
    b, s = boxes[chosen], scores[chosen]
    limit = place.canvas if parity.clip_to_canvas else place.target
    b = place.to_photo(np.clip(b, 0, np.tile(limit, 2)))
    sound = np.isfinite(b).all(axis=1) & (b[:, 2] > b[:, 0]) & (b[:, 3] > b[:, 1])
    b, s = b[sound], s[sound]
    kept = suppress(b, s, detection.nms_iou, limit=detection.max_per_image)
    return b[kept], s[kept]


def _best_of_levels(scores: Floats, sizes: Sequence[int], detection: Detection) -> npt.NDArray[np.int64]:
    """Indices of priors above the threshold, the ``nms_pre`` best of each level; ties in grid order."""
    chosen = []
    start = 0
    for size in sizes:
        level = scores[start : start + size]
        above = np.flatnonzero(level > detection.score_threshold)
        order = np.argsort(-level[above], kind="stable")[: detection.nms_pre]
        chosen.append(above[order] + start)
        start += size
    return np.concatenate(chosen)
