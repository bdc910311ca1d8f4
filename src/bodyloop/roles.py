"""The three roles of the loop as protocols: anything that has the methods is one.

A detector finds people, a pose estimator adds keypoints to them, a segmenter draws masks from prompts. What a
prompt holds is chosen by the loop; the segmenter only obeys it. No implementation is known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.geometry import as_boxes
from bodyloop.images import Image
from bodyloop.masks import Masks
from bodyloop.people import People

if TYPE_CHECKING:
    from bodyloop.maps import ProbabilityMaps
    from bodyloop.skeletons import Skeleton


@runtime_checkable
class Detector(Protocol):
    """Finds people: boxes and scores, perhaps masks."""

    def detect(self, images: Sequence[Image]) -> list[People]:
        """One People for each image, in order."""
        ...


@runtime_checkable
class PoseEstimator(Protocol):
    """Adds keypoints, and whatever else it estimates, to people that have boxes."""

    def estimate(self, images: Sequence[Image], people: Sequence[People]) -> list[People]:
        """The people of each image with keypoints: same number, same order."""
        ...


@runtime_checkable
class Encoded(Protocol):
    """What a segmenter keeps of one image; only that segmenter knows what is inside."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in px."""
        ...


@dataclass(frozen=True, eq=False)
class Prompt:
    """What one person gives the segmenter; everything in image px.

    Attributes:
        points: (P, 2) float32; P may be 0.
        labels: (P,) int64, 1 on the person, 0 on something else.
        box: (4,) float32 ``x1 y1 x2 y2``, or None.
        mask: a Masks of one person as a first guess, or None.
        maps: the person's probability maps (of one person), or None.
        neighbours: other people that are not to be covered, or None.
        skeleton: whose keypoints the maps are of, or None.
    """

    points: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    box: npt.NDArray[np.float32] | None = None
    mask: Masks | None = None
    maps: ProbabilityMaps | None = None
    neighbours: People | None = None
    skeleton: Skeleton | None = None

    def __post_init__(self) -> None:
        try:
            points, labels = np.asarray(self.points, np.float32), np.asarray(self.labels)
        except (TypeError, ValueError) as e:
            raise InputError(f"Prompt.points, labels: expected numbers: {e}") from e
        points = points.reshape(0, 2) if points.size == 0 else points
        if points.shape != (labels.size, 2) or labels.ndim != 1 or not np.isfinite(points).all():
            raise InputError(
                f"Prompt.points: expected finite numbers (P, 2) with labels (P,), "
                f"got {points.shape} and {labels.shape}"
            )
        if not np.isin(labels, (0, 1)).all():
            raise InputError("Prompt.labels: 1 is on the person, 0 on something else")
        labels = labels.astype(np.int64)
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", labels)
        if self.box is not None:
            object.__setattr__(self, "box", as_boxes(self.box, "Prompt.box")[0])
        for name in ("mask", "maps"):
            value = getattr(self, name)
            if value is not None and len(value) != 1:
                raise InputError(f"Prompt.{name}: expected that of one person, got {len(value)}")


@dataclass(frozen=True, eq=False)
class MaskResult:
    """What a segmenter answers to P prompts.

    Attributes:
        masks: P masks.
        scores: (P,) float32, the segmenter's own estimate of their IoU.
    """

    masks: Masks
    scores: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        scores = np.asarray(self.scores, np.float32)
        if scores.shape != (len(self.masks),):
            raise InputError(f"MaskResult: {len(self.masks)} masks but scores of shape {scores.shape}")
        object.__setattr__(self, "scores", scores)

    def __len__(self) -> int:
        return len(self.masks)


@runtime_checkable
class Segmenter(Protocol):
    """Draws masks: encodes an image once, answers prompts as often as wanted."""

    def encode(self, images: Sequence[Image]) -> Sequence[Encoded]:
        """What is kept of each image, in order."""
        ...

    def segment(self, encoded: Encoded, prompts: Sequence[Prompt]) -> MaskResult:
        """One mask and score for each prompt, in order."""
        ...


@dataclass(frozen=True)
class _FunctionDetector:
    function: Callable[[npt.NDArray[np.uint8]], Any]

    def detect(self, images: Sequence[Image]) -> list[People]:
        return [self._one(image) for image in images]

    def _one(self, image: Image) -> People:
        found = self.function(image.pixels)
        if isinstance(found, People):
            if found.image_size != image.size:
                raise InputError(
                    f"detector function: people for size {found.image_size}, the image is {image.size} (w, h)"
                )
            return found if found.source is not None else found.replace(source=image.source)
        boxes, scores = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        checked = as_boxes(boxes, "boxes of the detector function")
        if scores is not None:
            scores = np.asarray(scores, np.float32)
        return People(image.size, image.source, boxes=checked, scores=scores)


def as_detector(function: Callable[[npt.NDArray[np.uint8]], Any]) -> Detector:
    """A detector from a plain function.

    Args:
        function: takes pixels (H, W, 3) uint8 RGB; returns boxes (N, 4) ``x1 y1 x2 y2`` in px, or
            (boxes, scores), or People.
    """
    return _FunctionDetector(function)


def one_each(given: Any, n: int, what: str) -> list[Any]:
    """One entry a picture from what was given for ``n`` pictures: a list, or None or "image" for all.

    Raises:
        InputError: something else, or another length.
    """
    if given is None or (isinstance(given, str) and given == "image"):
        return [given] * n
    if not isinstance(given, list | tuple) or len(given) != n:
        got = f"{len(given)} entries" if isinstance(given, list | tuple) else type(given).__name__
        raise InputError(f"{what}: for {n} pictures expected a list with one entry a picture, got {got}")
    return list(given)


def given_people(image: Image, boxes: Any, masks: Any, where: str = "") -> People | None:
    """The people whom the caller named; None if that is left to a detector.

    Args:
        boxes: (N, 4) ``x1 y1 x2 y2`` in px; "image": the whole picture is one person; None: around the masks.
        masks: as `Masks.from_any`, one a box.
        where: which picture, for messages.

    Raises:
        InputError: boxes or masks that cannot be used, or different numbers of them.
    """
    if isinstance(boxes, str) and boxes != "image":
        raise InputError(f"boxes{where}: expected (N, 4) numbers, 'image' or None, got {boxes!r}")
    try:
        kept = None if masks is None else Masks.from_any(masks, image.size)
    except InputError as e:
        raise InputError(f"{e}{where}") from e
    if boxes is None:
        if kept is None:
            return None
        absent = np.flatnonzero(~kept.present)
        if absent.size:
            raise InputError(
                f"masks[{absent[0]}]{where} has no pixel; without boxes nothing says where to look"
            )
        boxes = kept.boxes
    elif isinstance(boxes, str):
        boxes = [[0, 0, *image.size]]
    checked = as_boxes(boxes, f"boxes{where}")
    if kept is not None and len(kept) != len(checked):
        raise InputError(f"{len(kept)} masks for {len(checked)} boxes{where}")
    return People(image.size, image.source, boxes=checked, masks=kept)
