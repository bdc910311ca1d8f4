"""SAM 2.1 and SAM-pose2seg as segmenters: a picture encoded once, masks from points, boxes and first masks.

The network comes as two engines, an encoder and a decoder (`bodyloop.nn.sam2`, or two exported files); what is
kept of a picture stays where the engine computes. Prompts with equally many tokens are decoded together: a
prompt's answer is the same alone and in company. Each gets one mask; `candidates` gives three. Source: SAM 2's
image predictor (loop specification, section 5).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.engines import Array, Engine, held
from bodyloop.errors import InputError, ModelError
from bodyloop.images import Image
from bodyloop.masks import Masks
from bodyloop.models.cards import Card, Preprocess, Segmentation
from bodyloop.roles import Encoded, MaskResult, Prompt
from bodyloop.segment.logits import Floats, as_masks, from_mask, stretched

FEATURES = ("image_embedding", "high_0", "high_1")  # what the encoder gives and the decoder takes
TOP_LEFT, BOTTOM_RIGHT, PADDING = 2, 3, -1  # labels beside those of points
STRIDE = 4  # input px of a logit
LIMIT = 32.0  # logits that are handed out lie within it
PICTURES, PROMPTS = 2, 8  # at once: some 60 MB a prompt; more are slower on a CPU


@dataclass(frozen=True, eq=False)
class SamImage:
    """What is kept of a picture: its features, where the engine computes, and which encoder made them."""

    image_size: tuple[int, int]
    features: Mapping[str, Any]
    encoder: Engine


@dataclass(frozen=True, eq=False)
class SamLogits:
    """Small maps, which can be prompts of another call.

    Attributes:
        maps: (P, M, h, w) logits within -32..32, of the whole picture stretched. scores: (P, M) predicted IoU.
    """

    maps: Floats
    scores: Floats


def network_input(image: Image, preprocess: Preprocess) -> Floats:
    """(3, S, S): a picture stretched and normalised."""
    pixels = stretched(image.pixels, preprocess.size)
    pixels -= np.asarray(preprocess.mean, np.float32)
    pixels /= np.asarray(preprocess.std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


class SamSegmenter:
    """A `bodyloop.roles.Segmenter` over SAM 2.1's two halves. Of prompts it takes points, box and mask.

    Args:
        encoder: takes ``images`` (B, 3, S, S) normalised, gives `FEATURES`.
        decoder: takes the features of one picture, ``points`` (P, T, 2) in input px, ``labels`` (P, T),
            ``first_masks`` (P, 1, S/4, S/4) logits and ``given`` (P,) which of them count; gives mask and score, and
            masks and scores.
        preprocess, segmentation: of the model's card.
        pictures, prompts: largest numbers in one call of the engines.

    Raises:
        ModelError: an engine that lacks an output, or a card of another kind of input.
    """

    def __init__(
        self,
        encoder: Engine,
        decoder: Engine,
        preprocess: Preprocess,
        segmentation: Segmentation,
        *,
        pictures: int = PICTURES,
        prompts: int = PROMPTS,
    ) -> None:
        for what, engine, names in (("encoder", encoder, FEATURES), ("decoder", decoder, ("mask", "score"))):
            missing = [n for n in names if n not in engine.outputs]
            if missing:
                raise ModelError(f"the segmenter's {what} has no output {', '.join(missing)}")
        if preprocess.input != "float32-nchw" or preprocess.order != "rgb":
            raise ModelError(
                f"the segmenter's encoder must take normalised RGB (float32-nchw), its card says {preprocess.input!r} "
                f"in {preprocess.order!r}"
            )
        if min(pictures, prompts) < 1:
            raise InputError(f"at least one picture and prompt at a time, got {pictures} and {prompts}")
        self.encoder, self.decoder = encoder, decoder
        self.preprocess, self.segmentation = preprocess, segmentation
        self.name = "segmenter"
        self._pictures, self._prompts = pictures, prompts
        self._map = (preprocess.size[0] // STRIDE, preprocess.size[1] // STRIDE)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def from_card(cls, encoder: Engine, decoder: Engine, card: Card) -> SamSegmenter:
        """The segmenter that a card describes.

        Raises:
            ModelError: the card is not of a segmenter that takes points.
        """
        if card.segmentation is None or card.segmentation.method != "points":
            raise ModelError(f"{card.name!r} is no segmenter that takes points but a {card.kind} model")
        segmenter = cls(encoder, decoder, card.preprocess, card.segmentation)
        segmenter.name = card.name
        return segmenter

    # pictures

    def encode(self, images: Sequence[Image]) -> list[SamImage]:
        """What is kept of each picture, in order."""
        out: list[SamImage] = []
        for start in range(0, len(images), self._pictures):
            some = images[start : start + self._pictures]
            features = held(
                self.encoder,
                {"images": np.stack([network_input(i, self.preprocess) for i in some])},
                FEATURES,
            )
            for n, image in enumerate(some):
                own = {name: features[name][n : n + 1] for name in FEATURES}
                out.append(SamImage(image.size, own, self.encoder))
        return out

    # prompts

    def segment(self, encoded: Encoded, prompts: Sequence[Prompt]) -> MaskResult:
        """One mask and its predicted IoU for each prompt, in order; a prompt may be empty."""
        image = self._own(encoded)
        masks = [Masks.empty(1, image.image_size)] * len(prompts)
        scores = np.zeros(len(prompts), np.float32)
        for where, maps, iou in self._answers(image, prompts, None, multimask=False):
            scores[where] = iou[:, 0]
            for i, mask in zip(where.tolist(), self._masks(maps[:, 0], image), strict=True):
                masks[i] = mask
        joined = Masks.concat(masks) if masks else Masks.empty(0, image.image_size)
        return MaskResult(joined, scores)

    def candidates(self, encoded: Encoded, prompts: Sequence[Prompt]) -> list[MaskResult]:
        """Three masks for each prompt, which may mean a part, a person or a group; scores say which is likely."""
        image = self._own(encoded)
        out: dict[int, MaskResult] = {}
        for where, maps, iou in self._answers(image, prompts, None, multimask=True):
            for i, m, s in zip(where.tolist(), maps, iou, strict=True):
                out[i] = MaskResult(self._masks(m, image), s)
        return [out[i] for i in range(len(prompts))]

    def logits(
        self,
        encoded: Encoded,
        prompts: Sequence[Prompt],
        *,
        previous: Sequence[Floats | None] | None = None,
        multimask: bool = False,
    ) -> SamLogits:
        """The small maps behind `segment` (M = 1) or `candidates` (M = 3), nothing filled or removed.

        Args:
            previous: for each prompt a map (h, w) of an earlier answer to go on from, instead of its mask.

        Raises:
            InputError: other than one map a prompt, or of another size.
        """
        count, (w, h) = 3 if multimask else 1, self._map
        maps = np.zeros((len(prompts), count, h, w), np.float32)
        scores = np.zeros((len(prompts), count), np.float32)
        for where, some, iou in self._answers(self._own(encoded), prompts, previous, multimask=multimask):
            maps[where] = np.clip(some, -LIMIT, LIMIT)
            scores[where] = iou
        return SamLogits(maps, scores)

    def _own(self, encoded: Encoded) -> SamImage:
        if not isinstance(encoded, SamImage) or encoded.encoder is not self.encoder:
            raise InputError(
                f"{self.name}: this picture was encoded by another segmenter; encode it by this one"
            )
        return encoded

    def _masks(self, maps: Floats, image: SamImage) -> Masks:
        s = self.segmentation
        return as_masks(maps, image.image_size, max_hole=s.max_hole_area, max_sprinkle=s.max_sprinkle_area)

    def _answers(
        self,
        image: SamImage,
        prompts: Sequence[Prompt],
        previous: Sequence[Floats | None] | None,
        *,
        multimask: bool,
    ) -> Iterator[tuple[npt.NDArray[np.int64], Floats, Floats]]:
        """(numbers of prompts, their maps (n, M, h, w), scores (n, M)), those of equally many tokens together."""
        names = ("masks", "scores") if multimask else ("mask", "score")
        tokens = [self._tokens(p, image.image_size) for p in prompts]
        given = self._given(prompts, previous)
        lengths = np.array([len(labels) for _, labels in tokens], np.int64)
        for length in np.unique(lengths):
            alike = np.flatnonzero(lengths == length)
            for start in range(0, len(alike), self._prompts):
                where = alike[start : start + self._prompts]
                answer = self.decoder.run({**image.features, **self._batch(where, tokens, given)}, names)
                maps, scores = (np.asarray(answer[n], np.float32) for n in names)
                yield where, maps.reshape(len(where), -1, *maps.shape[-2:]), scores.reshape(len(where), -1)

    def _tokens(self, prompt: Prompt, size: tuple[int, int]) -> tuple[Floats, npt.NDArray[np.int64]]:
        """(T, 2) in input px and (T,): the box's corners, the points, and always one token of padding."""
        corners = np.zeros((0, 2), np.float32) if prompt.box is None else prompt.box.reshape(2, 2)
        kinds = np.array([TOP_LEFT, BOTTOM_RIGHT][: len(corners)], np.int64)
        scale = np.array(self.preprocess.size, np.float32) / np.array(size, np.float32)
        points = np.concatenate([np.concatenate([corners, prompt.points]) * scale, np.zeros((1, 2))])
        return points.astype(np.float32), np.concatenate([kinds, prompt.labels, [PADDING]])

    def _given(
        self, prompts: Sequence[Prompt], previous: Sequence[Floats | None] | None
    ) -> list[Floats | None]:
        """For each prompt the map it brings, or None."""
        w, h = self._map
        if previous is None:
            previous = [None] * len(prompts)
        if len(previous) != len(prompts) or any(m is not None and m.shape != (h, w) for m in previous):
            raise InputError(
                f"{self.name}: previous maps: one ({h}, {w}) or None for each of {len(prompts)} prompts"
            )
        return [
            m if m is not None or p.mask is None else from_mask(p.mask, self._map)
            for m, p in zip(previous, prompts, strict=True)
        ]

    def _batch(
        self,
        where: npt.NDArray[np.int64],
        tokens: Sequence[tuple[Floats, npt.NDArray[np.int64]]],
        given: Sequence[Floats | None],
    ) -> dict[str, Array]:
        """The decoder's inputs for some prompts of equally many tokens."""
        masks = np.zeros((len(where), 1, *self._map[::-1]), np.float32)
        for row, i in enumerate(where):
            if (m := given[i]) is not None:
                masks[row, 0] = m
        return {
            "points": np.stack([tokens[i][0] for i in where]),
            "labels": np.stack([tokens[i][1] for i in where]),
            "first_masks": masks,
            "given": np.array([given[i] is not None for i in where]),
        }
