"""`BBoxMaskPose` as its authors call it: a picture in, a dict of boxes, masks and keypoints out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from bodyloop.compat.pmpose import Floats, Picture
from bodyloop.errors import FileError, InputError
from bodyloop.images import as_image
from bodyloop.loop import BodyLoop, LoopResult, Pass
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.skeletons import COCO

Shown = Literal["pose", "mask"]


class Found(TypedDict):
    """What one call found: N people, best known first.

    ``bboxes`` (N, 4) ``x1 y1 x2 y2``, ``masks`` (N, H, W) bool, ``keypoints`` (N, 17, 3) x, y in px and score,
    ``presence`` and ``visibility`` (N, 17); with intermediates one `Step` a pass that had detections.
    """

    bboxes: Floats
    masks: npt.NDArray[np.bool_]
    keypoints: Floats
    presence: Floats
    visibility: Floats
    intermediates: NotRequired[list[Step]]


class Step(TypedDict):
    """One pass: its number from 0, what the detector found, its poses, and the new people with refined masks
    (nobody, if all were known)."""

    iteration: int
    detections: dict[str, npt.NDArray[Any]]
    poses: Found
    refined: Found


class BBoxMaskPose:
    """The whole loop with the published interface.

    Args:
        config: "BMP_v2", "BMP_D3" or "BMP_J1" (or "BMP_N", our small models), in any case.
        device: "cpu", "cuda", ...; all models go there.
        loop: a bodyloop pipeline instead of both.
        published: repeat the published code's peculiarities in loop, pose and detector.

    Raises:
        ConfigError, ModelError, FileError, MissingDependency: as `bodyloop.load_pipeline`.
    """

    def __init__(
        self,
        config: str = "BMP_D3",
        device: str = "cpu",
        *,
        loop: BodyLoop | None = None,
        published: bool = True,
    ) -> None:
        if loop is None:
            from bodyloop.api import load_pipeline

            loop = load_pipeline(config, device=device, published=published)
        self.loop = loop

    def predict(
        self, image: Picture, bboxes: npt.ArrayLike | None = None, return_intermediates: bool = False
    ) -> Found:
        """Everybody in one picture.

        Args:
            image: a path or a BGR array (H, W, 3) uint8.
            bboxes: (N, 4) ``x1 y1 x2 y2`` px in place of the first detection.
            return_intermediates: add what each pass found.
        """
        result = self.loop.run(as_image(image, "bgr"), bboxes)
        found = _found(result.people)
        if return_intermediates:
            found["intermediates"] = _steps(result)
        return found

    def visualize(
        self,
        image: Picture,
        result: Found,
        vis_type: Shown = "pose",
        save_path: str | os.PathLike[str] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """The people drawn over their picture, BGR and of its size; looks are bodyloop's.

        Args:
            vis_type: "pose" or "mask".
            save_path: write it there, too (.png, .jpg, .webp).
        """
        from bodyloop.drawing import draw

        if vis_type not in ("pose", "mask"):
            raise InputError(f"vis_type must be 'pose' or 'mask', got {vis_type!r}")
        photo, pose = as_image(image, "bgr"), vis_type == "pose"
        people = People(
            photo.size, skeleton=COCO, boxes=result["bboxes"], keypoints=result["keypoints"][..., :2],
            map_scores=result["keypoints"][..., 2], presence=result["presence"], visibility=result["visibility"],
            masks=None if pose else Masks.from_bitmaps(result["masks"], photo.size),
        )  # fmt: skip
        picture = draw(photo, people, skeleton=pose, masks=not pose, labels=False, canvas="photo")
        if save_path is not None:
            if not Path(save_path).suffix:
                raise FileError(f"{save_path}: name a file with an ending, such as {save_path}.jpg")
            picture.save(save_path)
        return np.ascontiguousarray(picture.pixels[..., ::-1])


def _found(people: People) -> Found:
    """People as the published dict; of a model without presence and visibility these are its scores."""
    w, h = people.image_size
    n, k = len(people), len(COCO)
    boxes = np.zeros((n, 4), np.float32) if people.boxes is None else people.boxes
    masks = np.zeros((n, h, w), bool) if people.masks is None else people.masks.bitmaps()
    if people.keypoints is None or people.skeleton is None:
        blank = np.zeros((n, k), np.float32)
        return Found(
            bboxes=boxes,
            masks=masks,
            keypoints=np.zeros((n, k, 3), np.float32),
            presence=blank,
            visibility=blank,
        )
    coco = people.in_skeleton(COCO)
    assert coco.keypoints is not None
    scores = np.ones((n, k), np.float32) if coco.keypoint_scores is None else coco.keypoint_scores
    return Found(
        bboxes=boxes,
        masks=masks,
        keypoints=np.concatenate([coco.keypoints, scores[..., None]], axis=2),
        presence=scores if coco.presence is None else coco.presence,
        visibility=scores if coco.visibility is None else coco.visibility,
    )


def _steps(result: LoopResult) -> list[Step]:
    def step(p: Pass) -> Step:
        found, (w, h) = p.detected, p.detected.image_size
        return Step(
            iteration=p.number - 1,
            detections={
                "bboxes": np.zeros((0, 4), np.float32) if found.boxes is None else found.boxes,
                "bbox_scores": np.ones(len(found), np.float32) if found.scores is None else found.scores,
                "masks": np.zeros((len(found), h, w), bool) if found.masks is None else found.masks.bitmaps(),
            },
            poses=_found(p.posed),
            refined=_found(p.refined),
        )

    return [step(p) for p in result.passes if len(p.detected)]
