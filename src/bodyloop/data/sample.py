"""One training sample of a top-down pose model, and its cut to the network's input.

Two boxes travel in parallel, as in the published recipes: the *plain* box, which alone decides the crop, and a
padded box (centre and scale), the length unit of some augmentations. Every augmentation step is a pure
function from sample and generator to sample (`bodyloop.data.augment`); arrays are never changed in place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bodyloop.geometry import PADDING, Crop
from bodyloop.skeletons import Skeleton

F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Sample:
    """A person in a photo.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        skeleton: of the K keypoints.
        keypoints: (K, 2) image px, anywhere.
        annotated: (K,) bool, the keypoint has a label.
        visible: (K,) bool, labelled as seen (COCO flag 2).
        box: (4,) plain box ``x1 y1 x2 y2``.
        center, scale: (2,) padded box, the length unit of augmentations.
        rotation: degrees, clockwise on the screen.
        mask: (H, W) uint8 0/1 of the person, or None.
        in_image: (K,) bool, inside the part of the picture that an edge blackout kept.
        canvas: (4,) the part of the picture that is kept, ``x1 y1 x2 y2``, half open.
    """

    image: U8
    skeleton: Skeleton
    keypoints: F64
    annotated: npt.NDArray[np.bool_]
    visible: npt.NDArray[np.bool_]
    box: F64
    center: F64
    scale: F64
    rotation: float
    mask: U8 | None
    in_image: npt.NDArray[np.bool_]
    canvas: tuple[int, int, int, int]

    @classmethod
    def create(
        cls,
        image: U8,
        skeleton: Skeleton,
        keypoints: npt.ArrayLike,
        box: npt.ArrayLike,
        mask: U8 | None = None,
    ) -> Sample:
        """From COCO triplets (K, 3) ``x y v`` and a plain box; padded by 1.25 for the length unit."""
        kp = np.asarray(keypoints, np.float64).reshape(len(skeleton), 3)
        b = np.asarray(box, np.float64)
        return cls(
            image=image,
            skeleton=skeleton,
            keypoints=kp[:, :2],
            annotated=kp[:, 2] > 0,
            visible=kp[:, 2] == 2,
            box=b,
            center=(b[:2] + b[2:]) / 2,
            scale=(b[2:] - b[:2]) * PADDING,
            rotation=0.0,
            mask=mask,
            in_image=np.ones(len(kp), np.bool_),
            canvas=(0, 0, image.shape[1], image.shape[0]),
        )


@dataclass(frozen=True, eq=False)
class Pixels:
    """How a crop's picture is made: warp, then colours, then black. Done at the very end, here or on a device.

    Attributes:
        source: (H, W, 3) uint8 RGB, the photo.
        matrix: (2, 3) float32, photo px to crop px. size: (w, h) of the crop.
        colours: (256, 3) uint8, the new value of each old one by channel; None: as they are.
        black: (h, w) bool, pixels that are black in the end; None: no further ones.
    """

    source: U8
    matrix: npt.NDArray[np.float32]
    size: tuple[int, int]
    colours: U8 | None = None
    black: npt.NDArray[np.bool_] | None = None

    def make(self) -> U8:
        """(h, w, 3) uint8 RGB: bilinear, black outside the photo."""
        import cv2

        out = np.asarray(
            cv2.warpAffine(self.source, self.matrix, self.size, flags=cv2.INTER_LINEAR), np.uint8
        )
        if self.colours is not None:
            out = np.asarray(cv2.LUT(out, self.colours[None]), np.uint8)
        if self.black is not None:
            out[self.black] = 0
        return out


@dataclass(frozen=True, eq=False)
class CroppedSample:
    """What the network sees of a sample, and its labels in crop px.

    Attributes:
        pixels: of the crop. keypoints: (K, 2) crop px.
        annotated, visible, in_window: (K,) bool; in_window is 0 <= x < w and 0 <= y < h of any keypoint.
        box: (2, 2) two opposite corners of the plain box in crop px. crop: the window (one).
    """

    pixels: Pixels
    skeleton: Skeleton
    keypoints: F64
    annotated: npt.NDArray[np.bool_]
    visible: npt.NDArray[np.bool_]
    in_window: npt.NDArray[np.bool_]
    in_image: npt.NDArray[np.bool_]
    box: F64
    crop: Crop

    @cached_property
    def image(self) -> U8:
        """(h, w, 3) uint8 RGB crop."""
        return self.pixels.make()


def cut(
    sample: Sample,
    size: tuple[int, int] = (192, 256),
    map_size: tuple[int, int] = (48, 64),
    padding: float = PADDING,
) -> CroppedSample:
    """Cut the window of the plain box with the UDP warp (bilinear, black outside)."""
    b = sample.box
    wh = np.maximum(b[2:] - b[:2], 1.0)
    box = np.concatenate([(b[:2] + b[2:] - wh) / 2, (b[:2] + b[2:] + wh) / 2])
    crop = Crop.from_boxes(box[None], size=size, map_size=map_size, padding=padding, rotation=sample.rotation)
    points = crop.to_crop(sample.keypoints[None])[0]
    inside = (points >= 0).all(axis=1) & (points[:, 0] < size[0]) & (points[:, 1] < size[1])
    return CroppedSample(
        pixels=Pixels(sample.image, crop.matrix[0], size),
        skeleton=sample.skeleton,
        keypoints=points,
        annotated=sample.annotated,
        visible=sample.visible,
        in_window=inside,
        in_image=sample.in_image & inside,
        box=crop.to_crop(sample.box.reshape(1, 2, 2))[0],
        crop=crop,
    )


def with_box(sample: Sample, box: F64) -> Sample:
    """The sample with another plain box."""
    return replace(sample, box=np.asarray(box, np.float64))
