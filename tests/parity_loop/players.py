"""Stand-ins for the three roles that do as the stored numbers of the loop say; they write down what they saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.images import Image
from bodyloop.loop import LoopConfig, Parity
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import MaskResult, Prompt
from bodyloop.skeletons import COCO
from tests.parity_loop.inputs import picture

SIZE = (160, 120)
DISC, HOLE = 144, 36  # squared radii of a point on somebody, and of one on somebody else


def photo() -> Image:
    """The picture that all of the loop's numbers are of, h 120, w 160."""
    return Image.from_array(picture(0, 120, 160), "bgr")


def config_of(args: dict[str, Any], **more: Any) -> LoopConfig:
    """The configuration of stored arguments; nobody is removed by box NMS, as the stored detections came after."""
    crowd = args["crowd_by_max_iou"]
    values: dict[str, Any] = {
        "name": "stored",
        "detector_nms": 1.0,
        "together": args["batch"],
        "prompt_box": args["use_bbox"],
        "positives": args["num_pos_keypoints"],
        "positives_if_crowd": args["num_pos_keypoints_if_crowd"],
        "negatives": args["num_neg_keypoints"],
        "confidence": args["confidence_thr"],
        "visibility": args["visibility_thr"],
        "selection": args["selection_method"],
        "extend_box": args["extend_bbox"],
        "consistency_choice": args["pose_mask_consistency"],
        "crowd_iou": None if crowd is False else crowd,
        "crop": args["crop"],
        "exclusive": args["exclusive_masks"],
        "min_box_area": 10000.0 if args["ignore_small_bboxes"] else 0.0,
        "parity": Parity.published(),
    }
    return LoopConfig(**{**values, **more})


def posed(boxes: npt.ArrayLike, keypoints: npt.ArrayLike, visibility: npt.ArrayLike, **more: Any) -> People:
    """COCO people from keypoints (N, 17, 3) with confidences."""
    k = np.asarray(keypoints, np.float32).reshape(-1, 17, 3)
    seen = np.asarray(visibility, np.float32).reshape(-1, 17)
    return People(
        SIZE, skeleton=COCO, boxes=np.asarray(boxes, np.float32), keypoints=k[..., :2],
        map_scores=k[..., 2], visibility=seen, **more,
    )  # fmt: skip


@dataclass
class Kept:
    image_size: tuple[int, int]


@dataclass
class Discs:
    """Draws discs about the points, cut to the box; the score is a wave over where the points are."""

    encoded: list[tuple[int, int]] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)

    def encode(self, images: Sequence[Image]) -> list[Kept]:
        self.encoded += [i.size for i in images]
        return [Kept(i.size) for i in images]

    def segment(self, encoded: Kept, prompts: Sequence[Prompt]) -> MaskResult:
        self.prompts += prompts
        each = [disc_mask(p, encoded.image_size) for p in prompts]
        masks = Masks.from_bitmaps([m for m, _ in each], encoded.image_size)
        return MaskResult(masks, np.array([s for _, s in each], np.float32))


def disc_mask(prompt: Prompt, size: tuple[int, int]) -> tuple[npt.NDArray[np.bool_], float]:
    """What `Discs` draws for one prompt."""
    y, x = np.mgrid[: size[1], : size[0]].astype(np.float64)
    on = prompt.points[prompt.labels == 1].astype(np.float64)
    mask = np.zeros((size[1], size[0]), bool)
    for px, py in on:
        mask |= (x - px) ** 2 + (y - py) ** 2 <= DISC
    for px, py in prompt.points[prompt.labels == 0].astype(np.float64):
        mask &= ~((x - px) ** 2 + (y - py) ** 2 <= HOLE)
    if prompt.box is not None:
        x1, y1, x2, y2 = prompt.box.astype(np.float64)
        frame = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
        mask = mask & frame if len(on) else frame
    return mask, float(np.float32(0.5 + 0.4 * np.sin(0.01 * on[:, 0].sum() + 0.02 * on[:, 1].sum())))


@dataclass
class Finder:
    """Finds the people of a list in turn, one entry a call; what it was shown is kept."""

    answers: list[People]
    shown: list[Image] = field(default_factory=list)

    def detect(self, images: Sequence[Image]) -> list[People]:
        assert len(images) == 1
        self.shown += images
        return [self.answers[len(self.shown) - 1]]


@dataclass
class Poser:
    """Knows the pose of each box; what it was asked about is kept."""

    known: People
    shown: list[Image] = field(default_factory=list)
    asked: list[People] = field(default_factory=list)

    def estimate(self, images: Sequence[Image], people: Sequence[People]) -> list[People]:
        assert self.known.boxes is not None
        self.shown += images
        self.asked += people
        out = []
        for p in people:
            assert p.boxes is not None
            at = [int((self.known.boxes == b).all(axis=1).argmax()) for b in p.boxes]
            same = self.known[at]
            columns = ("skeleton", "keypoints", "map_scores", "visibility", "presence")
            out.append(p.replace(**{c: getattr(same, c) for c in columns}))
        return out
