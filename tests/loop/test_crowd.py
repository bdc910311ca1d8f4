"""From pictures to people: somebody whom the detector overlooks is found once the one before it is black."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.images import Image
from bodyloop.loop import BMP_D3, BMP_J1, BMP_N, BMP_V2, BodyLoop, LoopConfig, Parity
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import Prompt
from tests.loop.scene import PHOTO, Drawer, rectangle
from tests.parity_loop.players import SIZE, Poser, posed


@dataclass
class Crowd:
    """People as upright rectangles, the first in front; what is in front hides what is behind."""

    places: list[tuple[int, int]]  # x and y of the upper left corner
    side: tuple[int, int] = (36, 80)

    def __post_init__(self) -> None:
        w, h = self.side
        self.boxes = np.float32([[x, y, x + w, y + h] for x, y in self.places])
        whole = [rectangle(*b) for b in self.boxes.astype(int)]
        taken = np.zeros((120, 160), bool)
        self.bits = []
        for bits in whole:
            self.bits.append(bits & ~taken)
            taken |= bits

    def pose(self, i: int) -> Any:
        """Keypoints spread over the visible part of person ``i``."""
        y, x = np.nonzero(self.bits[i])
        at = np.linspace(0, len(x) - 1, 17).astype(int)
        return np.stack([x[at], y[at], np.full(17, 0.9)], axis=1)

    def people(self) -> People:
        n = len(self.places)
        return posed(self.boxes, [self.pose(i) for i in range(n)], np.full((n, 17), 0.9))


@dataclass
class Merging:
    """A detector that sees who is not black, and takes people who touch for one: the one in front."""

    crowd: Crowd

    def detect(self, images: Sequence[Image]) -> list[People]:
        [image] = images
        light = (image.pixels > 0).any(axis=2)
        seen = [i for i, b in enumerate(self.crowd.bits) if b.any() and light[b].mean() > 0.5]
        alone: list[int] = []
        for i in seen:
            a = self.crowd.boxes[i]
            if not any((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all() for b in self.crowd.boxes[alone]):
                alone.append(i)
        boxes = self.crowd.boxes[alone].reshape(-1, 4)
        return [People(SIZE, boxes=boxes, scores=np.full(len(boxes), 0.9))]


def tracing(crowd: Crowd) -> Drawer:
    """A segmenter that knows whose keypoints it is given."""

    def draw(p: Prompt) -> tuple[Any, float]:
        x, y = p.points[p.labels == 1][0].astype(int)
        return next(b for b in crowd.bits if b[y, x]), 0.9

    return Drawer(draw)


def loop(crowd: Crowd, config: LoopConfig) -> BodyLoop:
    return BodyLoop(Merging(crowd), Poser(crowd.people()), tracing(crowd), config)


PAIR = Crowd([(20, 20), (40, 25)])
ALL = [BMP_D3, BMP_J1, BMP_V2, BMP_N.changed(prompt_maps=False)]


@pytest.mark.parametrize("config", [*ALL, BMP_V2.changed(parity=Parity.published())], ids=lambda c: c.name)
def test_the_second_pass_recovers_the_one_behind(config: LoopConfig) -> None:
    once = loop(PAIR, config.changed(passes=1)).run(PHOTO).people
    assert len(once) == 1
    result = loop(PAIR, config.changed(passes=2)).run(PHOTO)
    people = result.people
    assert len(people) == 2 and people.masks is not None and people.boxes is not None
    assert people.boxes.tolist() == PAIR.boxes.tolist()
    assert [h.pass_number for h in people.provenance or ()] == [1, 2]
    assert (people.masks.bitmaps() == PAIR.bits).all()


@pytest.mark.parametrize("config", ALL, ids=lambda c: c.name)
def test_a_row_takes_a_pass_for_every_second_one(config: LoopConfig) -> None:
    row = Crowd([(5, 20), (30, 20), (55, 20), (80, 20)])  # each hides a part of the next
    found = loop(row, config.changed(passes=10, stop_when_settled=True)).run(PHOTO)
    assert len(found.people) == 4 and found.ended == "settled"
    assert sorted(h.pass_number or 0 for h in found.people.provenance or ()) == [1, 1, 2, 2]


@settings(max_examples=30, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 35)), min_size=1, max_size=5),
    config=st.sampled_from(ALL),
)
def test_whatever_the_crowd(places: list[tuple[int, int]], config: LoopConfig) -> None:
    """Masks never overlap, nobody comes twice, everybody has a history, and passes only add."""
    crowd = Crowd(places)
    crowd = Crowd([p for p, b in zip(places, crowd.bits, strict=True) if b.sum() >= 600])  # nobody hidden
    result = loop(crowd, config.changed(passes=4, stop_when_settled=False)).run(PHOTO)
    people = result.people
    assert people.masks is not None and people.provenance is not None and people.boxes is not None
    assert people.masks.bitmaps().sum(axis=0).max(initial=0) <= 1
    assert len({tuple(b) for b in people.boxes.tolist()}) == len(people) == len(people.provenance)
    counts = [len(p.people) for p in result.passes]
    assert counts == sorted(counts) and counts[-1] == len(people)
    assert [p.number for p in result.passes] == [1, 2, 3, 4]
    for p in result.passes:
        assert len(p.prompts) == len(p.kept) == len(p.refined)
        assert set(p.kept.tolist()) <= set(range(len(p.posed)))


def test_order_of_people_and_company_change_nothing() -> None:
    """Every person's mask and keypoints are the same alone and among others far away."""
    crowd = Crowd([(5, 20), (60, 25), (115, 30)])
    together = loop(crowd, BMP_V2).run(PHOTO).people
    assert together.masks is not None and together.keypoints is not None
    for i in range(3):
        alone = loop(crowd, BMP_V2.changed(passes=1)).run(PHOTO, boxes=crowd.boxes[i]).people
        assert alone.masks is not None and alone.masks.equals(together.masks[i])
        np.testing.assert_array_equal(alone.keypoints, together.keypoints[i : i + 1])
    assert isinstance(together.masks, Masks)
