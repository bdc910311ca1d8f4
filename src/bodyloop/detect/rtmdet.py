"""RTMDet and RTMDet-Ins as detectors: fit the photo, run the network, keep the boxes that are persons.

The engine gives a box, scores and perhaps a mask's kernel for every prior; here they become people in photo px.
Which numbers decide (size, padding, thresholds) stands in the card. Boxes end at the photo's border and masks
lie on its own grid; what the published system does differently is a switch of `DetectorParity`. A file that has
the suppression inside (`bodyloop.detect.export`) gives people at once; then only the way to the photo is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from bodyloop.detect.instances import level_sizes, masks_in_photo, person_masks, priors
from bodyloop.detect.letterbox import Letterbox
from bodyloop.engines import Array, Engine
from bodyloop.errors import InputError, ModelError
from bodyloop.geometry import suppress
from bodyloop.images import Image, Pixels
from bodyloop.masks import Masks
from bodyloop.models.cards import Card, Detection, Preprocess
from bodyloop.people import People

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]

BATCH = 8  # photos in one call of the engine, so that memory stays bounded
PICTURE = "picture"  # the output of files with the suppression inside: which picture of the batch a box is of
PUBLISHED_LIMIT = 40


@dataclass(frozen=True)
class DetectorParity:
    """Quirks of the published system, off by default.

    Attributes:
        bilinear: shrink photos by bilinear samples alone, which skips pixels of large ones.
        clip_to_canvas: cut boxes at the padded canvas instead of the photo, so that they can reach beyond it.
        swapped_factors: enlarge masks by the other axis's factor; they are then off by up to a row of pixels, and
            may end before the photo does.
        all_classes: other classes take places among the best of a level and of the photo.
        at_most_40: keep 40 boxes of a photo, as the published loop's copy of the configuration does.
    """

    bilinear: bool = False
    clip_to_canvas: bool = False
    swapped_factors: bool = False
    all_classes: bool = False
    at_most_40: bool = False

    @classmethod
    def published(cls) -> DetectorParity:
        """Everything as the published system does it."""
        return cls(**{f.name: True for f in fields(cls)})


@dataclass(frozen=True, eq=False)
class Chosen:
    """What `select` keeps, best first.

    Attributes:
        boxes: (N, 4) in photo px. scores: (N,).
        labels: (N,) column of the scores. priors: (N,) index of the prior.
    """

    boxes: npt.NDArray[np.float32]
    scores: Floats
    labels: Ints
    priors: Ints


class RTMDetDetector:
    """A `bodyloop.roles.Detector` over an engine of a `nn.rtmdet.DetectorFunction`, or of a file exported from one.

    Args:
        engine: takes ``images`` (B, h, w, 3) uint8 RGB; gives at least boxes (B, P, 4) ``x1 y1 x2 y2`` in input px
            and scores (B, P, C).
        preprocess, detection: of the model's card.
        score_threshold: instead of the card's.
        masks: draw masks, if the network can.
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
        masks: bool = True,
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
            check_threshold(score_threshold)
            if PICTURE in engine.outputs and score_threshold < detection.score_threshold:
                raise InputError(
                    f"score_threshold {score_threshold:g}: this file drops boxes up to "
                    f"{detection.score_threshold:g} by itself; export it anew with a lower threshold in its card"
                )
            detection = replace(detection, score_threshold=score_threshold)
        self.engine = engine
        self.preprocess = preprocess
        self.detection = detection
        self.parity = parity or DetectorParity()
        self.name = "detector"
        self._batch = batch
        self._draws = masks and ("kernels" in engine.outputs or "masks" in engine.outputs)
        self._ranking = "logits" if "logits" in engine.outputs else "scores"

    def __str__(self) -> str:
        return self.name

    @classmethod
    def from_card(
        cls,
        engine: Engine,
        card: Card,
        *,
        score_threshold: float | None = None,
        masks: bool = True,
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
            score_threshold=score_threshold, masks=masks, batch=batch, parity=parity,
        )  # fmt: skip
        detector.name = card.name
        return detector

    def detect(self, images: Sequence[Image]) -> list[People]:
        """The people of each photo: boxes in photo px, scores, and masks of networks that draw them; best first."""
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
        inputs = {"images": np.stack(pixels)}
        if PICTURE in self.engine.outputs:
            wanted = [PICTURE, "boxes", "scores", *(("masks",) if self._draws else ())]
            answer = self.engine.run(inputs, wanted)
            parts = [self._finished(answer, n, place) for n, place in enumerate(places)]
        else:
            wanted = ["boxes", self._ranking, *(("kernels", "prototypes") if self._draws else ())]
            answer = self.engine.run(inputs, wanted)
            self._check(answer, len(images))
            parts = [self._raw(answer, n, place) for n, place in enumerate(places)]
        return [
            People(image.size, image.source, boxes=boxes, scores=scores, masks=masks)
            for image, (boxes, scores, masks) in zip(images, parts, strict=True)
        ]

    def _check(self, answer: dict[str, Array], n: int) -> None:
        p = sum(level_sizes(self.preprocess.size))
        boxes, scores = answer["boxes"].shape, answer[self._ranking].shape
        if boxes != (n, p, 4) or scores[:2] != (n, p) or scores[2] <= self.detection.person_class:
            c = self.detection.person_class + 1
            raise ModelError(
                f"the detector's card means boxes {(n, p, 4)} and scores {(n, p)} of at least {c} classes; "
                f"its network gave {boxes} and {scores}"
            )

    def _raw(
        self, answer: dict[str, Array], n: int, place: Letterbox
    ) -> tuple[npt.NDArray[np.float32], Floats, Masks | None]:
        """Photo ``n`` of a batch, from all priors."""
        person = self.detection.person_class
        ranks = answer[self._ranking][n]
        if not self.parity.all_classes:
            ranks, person = ranks[:, person : person + 1], 0
        scores = _sigmoid(ranks) if self._ranking == "logits" else ranks
        found = select(answer["boxes"][n], scores, place, self.detection, self.parity, ranks)
        mine = np.flatnonzero(found.labels == person)
        masks = None
        if self._draws:
            chosen = found.priors[mine]
            points, strides = priors(self.preprocess.size)
            masks = person_masks(
                answer["kernels"][n, chosen], answer["prototypes"][n], points[chosen], strides[chosen],
                place, self.parity.swapped_factors,
            )  # fmt: skip
        return found.boxes[mine], found.scores[mine], masks

    def _finished(
        self, answer: dict[str, Array], n: int, place: Letterbox
    ) -> tuple[npt.NDArray[np.float32], Floats, Masks | None]:
        """Photo ``n`` of a batch, from a file that has chosen by itself."""
        scores = answer["scores"].astype(np.float32)
        of_photo = (answer[PICTURE] == n) & (scores > self.detection.score_threshold)
        boxes, sound = _to_photo(answer["boxes"][of_photo], place, self.parity)
        of_photo[of_photo] = sound
        masks = None
        if self._draws:
            masks = masks_in_photo(answer["masks"][of_photo], place, self.parity.swapped_factors)
        return boxes[sound], scores[of_photo], masks


def check_threshold(value: float) -> None:
    """Raises:
    InputError: a score threshold outside 0..1.
    """
    if not 0 <= value <= 1:
        raise InputError(f"score_threshold must lie in 0..1, got {value}")


def select(
    boxes: Floats,
    scores: Floats,
    place: Letterbox,
    detection: Detection,
    parity: DetectorParity,
    ranks: Floats | None = None,
    levels: Sequence[int] | None = None,
) -> Chosen:
    """The detections of one photo among all priors.

    In this order: the score threshold and the best of each level; clipping; back to the photo; boxes without
    area go; non-maximum suppression within each class; the best few.

    Args:
        boxes: (P, 4) ``x1 y1 x2 y2`` in input px. scores: (P, C) of the classes that compete.
        ranks: (P, C) what decides which is better, if not the scores: they may be equal where logits are not.
        levels: number of priors of each level, if they are not those of RTMDet.
    """
    ranks = scores if ranks is None else ranks
    chosen = _best_of_levels(scores, ranks, levels or level_sizes(place.canvas), detection)
    prior, label = np.divmod(chosen, scores.shape[1])
    b, sound = _to_photo(boxes[prior], place, parity)
    b, prior, label = b[sound], prior[sound], label[sound]
    apart = label[:, None] * (b.max(initial=0) + 1.0)  # boxes of different classes do not meet
    limit = min(PUBLISHED_LIMIT, detection.max_per_image) if parity.at_most_40 else detection.max_per_image
    kept = suppress(b + apart, ranks[prior, label], detection.nms_iou, limit=limit)
    prior, label = prior[kept], label[kept]
    return Chosen(b[kept], scores[prior, label], label, prior)


def _to_photo(
    boxes: Floats, place: Letterbox, parity: DetectorParity
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Boxes (N, 4) from input px to photo px, clipped, and which of them (N,) are boxes at all."""
    limit = place.canvas if parity.clip_to_canvas else place.target
    b = place.to_photo(np.clip(boxes, 0, np.tile(limit, 2)))
    return b, np.isfinite(b).all(axis=1) & (b[:, 2] > b[:, 0]) & (b[:, 3] > b[:, 1])


def _best_of_levels(scores: Floats, ranks: Floats, sizes: Sequence[int], detection: Detection) -> Ints:
    """Indices into the flat scores above the threshold, the ``nms_pre`` best of each level; ties in grid order."""
    chosen = []
    start = 0
    for stop in np.cumsum(sizes).tolist():
        above = np.flatnonzero(scores[start:stop] > detection.score_threshold)
        order = np.argsort(-ranks[start:stop].ravel()[above], kind="stable")[: detection.nms_pre]
        chosen.append(above[order] + start * scores.shape[1])
        start = stop
    return np.concatenate(chosen)


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        out: Floats = 1 / (1 + np.exp(-x))
    return out
