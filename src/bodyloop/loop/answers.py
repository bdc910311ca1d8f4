"""What the roles answered, checked: a role is anybody's code, and its mistakes must not become the loop's.

Each function returns the answer in the form that the loop works with, or raises an error that names the role
and what was wrong with its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from bodyloop.errors import InputError
from bodyloop.geometry import as_boxes
from bodyloop.images import Image
from bodyloop.people import People
from bodyloop.roles import Encoded, MaskResult
from bodyloop.skeletons import Skeleton

T = TypeVar("T")


def only(answer: Sequence[T], kind: type[T], role: str) -> T:
    """The one answer about one picture."""
    if isinstance(answer, kind) or not isinstance(answer, Sequence) or len(answer) != 1:
        got = f"{len(answer)}" if isinstance(answer, list | tuple) else type(answer).__name__
        raise InputError(f"{role}: expected a list with one answer for one picture, got {got}")
    return answer[0]


def _people(answer: Sequence[People], image: Image, role: str) -> People:
    people = only(answer, People, role)
    if not isinstance(people, People):
        raise InputError(f"{role}: expected People, got {type(people).__name__}")
    if people.image_size != image.size:
        raise InputError(
            f"{role}: people in a picture of {people.image_size}, the picture has {image.size} (w, h)"
        )
    return people


def detected(answer: Sequence[People], image: Image, role: str) -> People:
    """People with boxes, scores and perhaps masks.

    Raises:
        InputError: another picture, no boxes, boxes that are no boxes, scores that are no numbers.
    """
    return sound(_people(answer, image, role), image, role)


def sound(people: People, image: Image, role: str) -> People:
    """People whose boxes have an area in the picture, with a score each (1 where none was told)."""
    boxes = people.boxes
    if boxes is None and people.masks is not None:
        boxes = people.masks.boxes
    if boxes is None and len(people):
        raise InputError(f"{role}: its people have neither boxes nor masks")
    checked = as_boxes(np.zeros((0, 4)) if boxes is None else boxes, f"{role}: boxes")
    outside = (checked[:, 2:] <= 0).any(axis=1) | (checked[:, :2] >= image.size).any(axis=1)
    if outside.any():
        i = int(outside.argmax())
        raise InputError(
            f"{role}: boxes[{i}] = {checked[i].tolist()} lies outside the picture of {image.size} (w, h)"
        )
    scores = np.ones(len(people), np.float32) if people.scores is None else people.scores
    if not np.isfinite(scores).all():
        raise InputError(f"{role}: scores[{int((~np.isfinite(scores)).argmax())}] is no number")
    return people.replace(boxes=checked, scores=scores, source=image.source)


def posed(answer: Sequence[People], asked: People, image: Image, skeleton: Skeleton | None = None) -> People:
    """The people that were asked about, with keypoints.

    Args:
        skeleton: of those who are known already.

    Raises:
        InputError: other people, another order, no keypoints, no skeleton or another one.
    """
    role = "pose estimator"
    people = _people(answer, image, role)
    if len(people) != len(asked):
        raise InputError(f"{role}: asked about {len(asked)} people, got {len(people)}; none may be left out")
    assert asked.boxes is not None
    if people.boxes is not None and not np.allclose(people.boxes, asked.boxes, atol=1e-2):
        raise InputError(f"{role}: other boxes than those it was asked about; was the order changed?")
    if people.keypoints is None or people.skeleton is None:
        missing = "keypoints" if people.keypoints is None else "skeleton"
        raise InputError(f"{role}: its people have no {missing}; return people.replace({missing}=...)")
    if skeleton is not None and people.skeleton != skeleton:
        raise InputError(f"{role}: skeleton {people.skeleton.name}, before it was {skeleton.name}")
    return people.replace(
        source=image.source, boxes=asked.boxes, scores=asked.scores, masks=asked.masks,
        mask_scores=asked.mask_scores, provenance=asked.provenance,
    )  # fmt: skip


def encoded(answer: Sequence[Encoded], image: Image) -> Encoded:
    """What the segmenter keeps of the picture.

    Raises:
        InputError: none, several, or of another size.
    """
    role = "segmenter"
    if not isinstance(answer, Sequence) or len(answer) != 1:
        raise InputError(f"{role}: encode must return a list with one entry for one picture")
    kept = answer[0]
    size = getattr(kept, "image_size", None)
    if size != image.size:
        raise InputError(f"{role}: encoded for a picture of {size}, the picture has {image.size} (w, h)")
    return kept


def segmented(answer: MaskResult, prompts: int, size: tuple[int, int]) -> MaskResult:
    """A mask and a score for each prompt.

    Raises:
        InputError: another number, masks of another size, scores that are no numbers.
    """
    role = "segmenter"
    if not isinstance(answer, MaskResult):
        raise InputError(f"{role}: expected a MaskResult, got {type(answer).__name__}")
    if len(answer) != prompts:
        raise InputError(f"{role}: {len(answer)} masks for {prompts} prompts")
    if answer.masks.size != size:
        raise InputError(f"{role}: masks of size {answer.masks.size}, the picture has {size} (w, h)")
    if not np.isfinite(answer.scores).all():
        raise InputError(f"{role}: scores[{int((~np.isfinite(answer.scores)).argmax())}] is no number")
    return answer
