"""Roles: what is one, and functions that become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bodyloop.errors import InputError
from bodyloop.images import Image, Source
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import Detector, Encoded, MaskResult, PoseEstimator, Prompt, Segmenter, as_detector

PHOTO = Image(np.zeros((8, 10, 3), np.uint8), path="a.jpg")


class Flat:
    """A segmenter whose masks are the prompts' boxes."""

    class Kept:
        image_size = (10, 8)

    def encode(self, images: Sequence[Image]) -> Sequence[Encoded]:
        return [self.Kept() for _ in images]

    def segment(self, encoded: Encoded, prompts: Sequence[Prompt]) -> MaskResult:
        polygons = [[p.box[[0, 1, 2, 1, 2, 3, 0, 3]]] if p.box is not None else None for p in prompts]
        return MaskResult(
            Masks.from_polygons(polygons, encoded.image_size), np.ones(len(prompts), np.float32)
        )


class TestProtocols:
    def test_anything_with_the_methods_is_one(self) -> None:
        segmenter: Segmenter = Flat()
        assert isinstance(segmenter, Segmenter)
        assert not isinstance(segmenter, Detector | PoseEstimator)
        assert isinstance(as_detector(lambda pixels: []), Detector)
        [kept] = segmenter.encode([PHOTO])
        result = segmenter.segment(kept, [Prompt([], [], box=[1, 1, 6, 5]), Prompt([[3, 3]], [1])])
        assert len(result) == 2
        assert result.masks.present.tolist() == [True, False]


class TestAsDetector:
    @pytest.mark.parametrize(
        "found",
        [
            [[1, 2, 5, 6]],
            np.array([[1, 2, 5, 6]]),
            ([[1, 2, 5, 6]], [0.5]),
            People((10, 8), boxes=[[1, 2, 5, 6]]),
        ],
    )
    def test_what_a_function_may_give(self, found: Any) -> None:
        shapes = []

        def function(pixels: Any) -> Any:
            shapes.append((pixels.shape, pixels.dtype))
            return found

        people = as_detector(function).detect([PHOTO, PHOTO])
        assert shapes == [((8, 10, 3), np.uint8)] * 2
        for p in people:
            assert p.boxes is not None and p.boxes.tolist() == [[1, 2, 5, 6]]
            assert p.source == Source("a.jpg") and p.image_size == (10, 8)
        if isinstance(found, tuple):
            assert people[0].scores is not None and people[0].scores.tolist() == [0.5]

    @pytest.mark.parametrize("found", [[], np.zeros((0, 4)), ([], [])])
    def test_nobody(self, found: Any) -> None:
        [p] = as_detector(lambda pixels: found).detect([PHOTO])
        assert len(p) == 0 and p.boxes is not None and p.boxes.shape == (0, 4)

    @pytest.mark.parametrize(
        "found",
        [
            None,
            "text",
            [[1, 2, 5]],
            [[5, 6, 1, 2]],
            ([[1, 2, 5, 6]], [0.5, 0.5]),
            People((8, 10), boxes=[[1, 2, 5, 6]]),
        ],
    )
    def test_what_it_may_not(self, found: Any) -> None:
        with pytest.raises(InputError):
            as_detector(lambda pixels: found).detect([PHOTO])


class TestPrompt:
    def test_converted(self) -> None:
        prompt = Prompt([[1, 2], [3, 4]], [1, 0], box=[1, 2, 3, 4])
        assert prompt.points.dtype == np.float32 and prompt.labels.tolist() == [1, 0]
        assert prompt.box is not None and prompt.box.shape == (4,)
        assert Prompt([], []).points.shape == (0, 2)

    @pytest.mark.parametrize(
        "fields",
        [
            {"points": [[1, 2]], "labels": []},
            {"points": [[1, 2, 3]], "labels": [1]},
            {"points": "ab", "labels": [1]},
            {"points": [[1, np.nan]], "labels": [1]},
            {"points": [[1, 2]], "labels": [2]},
            {"points": [], "labels": [], "box": [3, 4, 1, 2]},
            {"points": [], "labels": [], "mask": Masks.empty(2, (3, 3))},
        ],
    )
    def test_refused(self, fields: Any) -> None:
        with pytest.raises(InputError, match=r"Prompt"):
            Prompt(**fields)

    def test_scores_of_every_mask(self) -> None:
        with pytest.raises(InputError, match="MaskResult"):
            MaskResult(Masks.empty(2, (3, 3)), np.zeros(3, np.float32))
