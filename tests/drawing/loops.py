"""Runs of the loop over a small photo, with stand-ins in all roles: who is found in which pass is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.images import Image
from bodyloop.loop import BodyLoop, LoopConfig
from bodyloop.loop.record import LoopResult
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import Encoded, MaskResult, Prompt
from bodyloop.skeletons import COCO

SIZE = (161, 121)  # odd on purpose
A, B, C = (10, 10, 50, 100), (60, 20, 95, 110), (110, 15, 150, 105)
AGAIN = (11, 9, 51, 99)  # A, a pixel off
CONFIG = LoopConfig("test", passes=3, detector_nms=1.0, stop_when_settled=True, score_consistency=True)

# COCO's keypoints of somebody who stands upright, as shares of the box
POSE = np.array(
    [
        [0.5, 0.1], [0.45, 0.08], [0.55, 0.08], [0.4, 0.1], [0.6, 0.1], [0.3, 0.25], [0.7, 0.25], [0.2, 0.4],
        [0.8, 0.4], [0.15, 0.55], [0.85, 0.55], [0.38, 0.55], [0.62, 0.55], [0.36, 0.75], [0.64, 0.75],
        [0.35, 0.95], [0.65, 0.95],
    ]
)  # fmt: skip


def photo(size: tuple[int, int] = SIZE, path: str | None = "photo.jpg") -> Image:
    w, h = size
    pixels = np.zeros((h, w, 3), np.uint8)
    pixels[..., 0] = np.linspace(90, 160, w)[None]
    pixels[..., 1] = np.linspace(100, 170, h)[:, None]
    pixels[..., 2] = 130
    return Image(pixels, path)


@dataclass
class Script:
    """A detector that finds in its n-th call what stands n-th in the script."""

    calls: list[Sequence[tuple[float, ...]]]
    seen: list[Image]

    def detect(self, images: Sequence[Image]) -> list[People]:
        (image,) = images
        boxes = np.array(self.calls.pop(0) if self.calls else [], np.float32).reshape(-1, 4)
        self.seen.append(image)
        scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
        masks = Masks.from_bitmaps([blob(image.size, b, 0.35) for b in boxes], image.size)
        return [People(image.size, image.source, boxes=boxes, scores=scores, masks=masks)]


class Poses:
    """Everybody stands upright; whoever's box begins at a whole ten is estimated less surely."""

    def estimate(self, images: Sequence[Image], people: Sequence[People]) -> list[People]:
        out = []
        for p in people:
            assert p.boxes is not None
            low, side = p.boxes[:, None, :2], (p.boxes[:, 2:] - p.boxes[:, :2])[:, None]
            sure = np.full((len(p), 17), 0.9, np.float32)
            sure[(p.boxes[:, 0] % 10 == 0), 9:] = 0.2
            out.append(
                p.replace(skeleton=COCO, keypoints=low + side * POSE, map_scores=sure, visibility=sure)
            )
        return out


@dataclass
class Kept:
    image_size: tuple[int, int]


class Blobs:
    """The mask of a prompt is an ellipse in the box of its neighbourhood of points."""

    def __init__(self, boxes: Sequence[tuple[float, ...]]) -> None:
        self.boxes = np.array(boxes, np.float32)

    def encode(self, images: Sequence[Image]) -> list[Kept]:
        return [Kept(i.size) for i in images]

    def segment(self, encoded: Encoded, prompts: Sequence[Prompt]) -> MaskResult:
        centres = (self.boxes[:, :2] + self.boxes[:, 2:]) / 2
        near = [np.hypot(*(centres - p.points.mean(axis=0)).T).argmin() for p in prompts]
        size = encoded.image_size
        masks = Masks.from_bitmaps([blob(size, self.boxes[i]) for i in near], size)
        return MaskResult(masks, np.linspace(0.95, 0.8, len(prompts), dtype=np.float32))


def blob(size: tuple[int, int], box: npt.ArrayLike, radius: float = 0.45) -> npt.NDArray[np.bool_]:
    x1, y1, x2, y2 = np.asarray(box, np.float64)
    ys, xs = np.mgrid[: size[1], : size[0]]
    rx, ry = radius * (x2 - x1), radius * (y2 - y1)
    return np.asarray(((xs - (x1 + x2) / 2) / rx) ** 2 + ((ys - (y1 + y2) / 2) / ry) ** 2 <= 1)


def run(
    calls: Sequence[Sequence[tuple[float, ...]]] = (
        (A, B, AGAIN),
        (C, (61, 21, 96, 111), (10, 11, 50, 101)),
        (),
    ),
    image: Image | None = None,
    config: LoopConfig = CONFIG,
) -> tuple[Image, LoopResult]:
    """A run; in the usual one A loses to somebody surer in its own pass, B in the next, which finds C, too."""
    image = image or photo()
    boxes = [b for call in calls for b in call]
    loop = BodyLoop(Script(list(calls), []), Poses(), Blobs(boxes or [A]), config)
    return image, loop.run(image)


def crowd(n: int) -> tuple[Image, LoopResult]:
    """``n`` people in rows of twelve."""
    image = photo((247, 72 * (1 + (n - 1) // 12) + 3))
    boxes = [(20 * x + 4, 72 * y + 6, 20 * x + 19, 72 * y + 68) for y, x in (divmod(i, 12) for i in range(n))]
    return run([boxes], image, CONFIG.changed(passes=1))
