"""People whose pose and mask are known, and roles that know them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.images import Image
from bodyloop.loop import BodyLoop, LoopConfig, LoopResult
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import MaskResult, Prompt
from tests.parity_loop.players import SIZE, Discs, Finder, Kept, Poser, posed

PHOTO = Image(np.random.default_rng(0).integers(40, 255, (120, 160, 3), dtype=np.uint8), path="a.jpg")


def person(x: float = 50, seen: float = 0.9, box: Any = None) -> People:
    """Seventeen keypoints in a column at ``x``, 5 px apart from y 10 on, the lower the surer."""
    y = 10 + 5.0 * np.arange(17)
    k = np.stack([np.full(17, x), y, np.linspace(0.6, 0.99, 17)], axis=1)
    return posed([[x - 20, 5, x + 20, 100]] if box is None else [box], [k], np.full((1, 17), seen))


def found(*people: People, score: float = 0.9, masks: Masks | None = None) -> People:
    """What a detector says of people, the first the surest."""
    if not people:
        return People.empty(SIZE)
    boxes = np.concatenate([p.boxes for p in people if p.boxes is not None])
    return People(SIZE, boxes=boxes, scores=score - 0.01 * np.arange(len(boxes)), masks=masks)


def rectangle(x1: int, y1: int, x2: int, y2: int) -> npt.NDArray[np.bool_]:
    """(120, 160) True in a rectangle."""
    out = np.zeros((120, 160), bool)
    out[y1:y2, x1:x2] = True
    return out


@dataclass
class Drawer:
    """A segmenter that draws what a function makes of a prompt: a bitmap (H, W) and a score."""

    draw: Callable[[Prompt], tuple[npt.NDArray[np.bool_], float]]
    calls: list[list[Prompt]] = field(default_factory=list)
    encoded: list[Image] = field(default_factory=list)

    def encode(self, images: Sequence[Image]) -> list[Kept]:
        self.encoded += images
        return [Kept(i.size) for i in images]

    def segment(self, encoded: Kept, prompts: Sequence[Prompt]) -> MaskResult:
        self.calls.append(list(prompts))
        each = [self.draw(p) for p in prompts]
        return MaskResult(
            Masks.from_bitmaps([m for m, _ in each], encoded.image_size), np.array([s for _, s in each])
        )


@dataclass
class Stage:
    """One run of the loop over passes of detections, and the roles that wrote down what they saw."""

    result: LoopResult
    detector: Finder
    pose: Poser
    segmenter: Any


def run(
    config: LoopConfig,
    *passes: Sequence[People],
    segmenter: Any = None,
    masks: Sequence[Masks | None] = (),
    image: Image = PHOTO,
    more: Sequence[People] = (),
    **given: Any,
) -> Stage:
    """The loop where pass i finds the people ``passes[i]``; ``more`` are poses of boxes that the caller gives."""
    told = [found(*p, masks=m) for p, m in zip(passes, [*masks, *[None] * len(passes)], strict=False)]
    detector = Finder(told)
    everybody = People.concat([*more, *(p for some in passes for p in some), person(0, box=[0, 0, 1, 1])])
    pose = Poser(everybody)
    drawer = Discs() if segmenter is None else segmenter
    result = BodyLoop(detector, pose, drawer, config).run(image, **given)
    return Stage(result, detector, pose, drawer)


def told(people: People, what: str) -> list[list[str]]:
    """Reasons of all changes of a kind, person by person."""
    assert people.provenance is not None
    return [[c.why for c in h.changes if c.what == what] for h in people.provenance]
