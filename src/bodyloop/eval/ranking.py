"""Which photos to label next: those of whose people a pose model knows least, without any label.

Three measures, each between 0 (sure) and 1 (at a loss), first of a keypoint, then meaned over a person's
keypoints and a photo's people:

* entropy: of the answer to "where is it, if it is in the window at all?", from presence and map together,
  as a share of what is possible;
* quality: one minus the quality that the model itself expects;
* disagreement: one minus the similarity (OKS) to the keypoints that it finds in the mirrored photo and in
  windows around smaller, larger and shifted boxes.

The last two weigh keypoints by their presence, since nobody can point at what is not there. Settles (2009) is
a survey of choosing what to label; disagreement of a network with itself is Gal et al.'s and others' idea.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from bodyloop.data.labels import FILL
from bodyloop.errors import ConfigError, InputError
from bodyloop.images import Image
from bodyloop.oks import keypoint_similarity
from bodyloop.people import People
from bodyloop.pose.estimator import PoseModel

Floats = npt.NDArray[np.float64]
Measure = Literal["entropy", "quality", "disagreement"]

# other boxes to look at a person through: factor of the size, shift in x and y as shares of it
OTHER_BOXES = ((0.85, 0.0, 0.0), (1.2, 0.0, 0.0), (1.0, 0.1, -0.06), (1.0, -0.1, 0.06))


@dataclass(frozen=True)
class Ranked:
    """A photo and how little is known of it.

    Attributes:
        photo: path of the photo, or its number in the order given.
        people: how many there are.
        score: mean of theirs; None where nobody is.
        persons: the measure of each, in the order of their boxes.
    """

    photo: str
    people: int
    score: float | None
    persons: tuple[float, ...]


def rank(model: PoseModel, photos: Iterable[tuple[Image, People]], by: Measure = "entropy") -> list[Ranked]:
    """Photos by falling doubt; those on which nobody was found come last, in the order given.

    Args:
        photos: each with its people, who have boxes: annotated ones, or what a detector found. Taken one by one.

    Raises:
        ConfigError: an unknown measure. InputError: by quality with a model that has none, people without boxes.
    """
    if by not in get_args(Measure):
        raise ConfigError(f"by must be {', '.join(get_args(Measure))}, got {by!r}")
    out = []
    for i, (image, people) in enumerate(photos):
        persons = doubts(model, image, people, by)
        name = str(i if image.path is None else image.path)
        score = float(persons.mean()) if len(persons) else None
        out.append(Ranked(name, len(persons), score, tuple(persons.tolist())))
    return sorted(out, key=lambda r: (r.score is None, -(r.score or 0.0)))


def doubts(model: PoseModel, image: Image, people: People, by: Measure) -> Floats:
    """How unsure the model is of each of the N people (N,), in 0..1.

    Raises:
        InputError: by quality with a model that has none, or people without boxes.
    """
    if not len(people):
        return np.zeros(0)
    if by == "entropy":
        return _entropy(model, image, people)
    if by == "quality":
        return _lacking_quality(model, image, people)
    return _disagreement(model, image, people)


def _entropy(model: PoseModel, image: Image, people: People) -> Floats:
    (found,) = model.with_options(flip=False, maps=True).estimate([image], [people])
    assert found.maps is not None
    h, w = found.maps.widest.values.shape[-2:]
    p = _presence(found)
    entropy = found.moments().entropy
    # the chain rule: first whether it is there, then, if it is, where; log(1 + cells) if all that is equally likely
    where = np.nan_to_num(entropy, nan=np.log(h * w))  # of a heatmap without a positive value
    return np.asarray(((_binary_entropy(p) + p * where) / np.log(1 + h * w)).mean(axis=1))


def _lacking_quality(model: PoseModel, image: Image, people: People) -> Floats:
    (found,) = model.with_options(flip=False).estimate([image], [people])
    if found.quality is None:
        raise InputError(f"{model.card.name} does not estimate quality; rank by entropy or disagreement")
    return _meaned(1 - np.clip(found.quality.astype(np.float64), 0, 1), _presence(found))


def _disagreement(model: PoseModel, image: Image, people: People) -> Floats:
    if people.boxes is None:
        raise InputError("disagreement needs the boxes of people, these have only masks")
    model = model.with_options(flip=False)
    (found,) = model.estimate([image], [people])
    assert found.keypoints is not None
    size = people.boxes[:, 2:] - people.boxes[:, :2]
    area = FILL * size.prod(axis=1).astype(np.float64)
    similar: list[Floats] = []
    present = [_presence(found)]
    for other in (_mirrored(model, image, people), *_through_other_boxes(model, image, people)):
        assert other.keypoints is not None
        similar.append(
            keypoint_similarity(other.keypoints, found.keypoints, area, model.skeleton.sigma_array)
        )
        present.append(_presence(other))
    return _meaned(1 - np.mean(similar, axis=0), np.mean(present, axis=0))


def _mirrored(model: PoseModel, image: Image, people: People) -> People:
    """What the model says of the mirrored photo, brought back."""
    assert people.boxes is not None
    last = image.size[0] - 1
    boxes = people.boxes.copy()
    boxes[:, [0, 2]] = last - people.boxes[:, [2, 0]]
    pixels = np.ascontiguousarray(image.pixels[:, ::-1])
    (found,) = model.estimate([Image(pixels)], [People(image.size, boxes=boxes)])
    assert found.keypoints is not None
    order = model.skeleton.flip
    points = found.keypoints[:, order].copy()
    points[..., 0] = last - points[..., 0]
    presence = None if found.presence is None else found.presence[:, order]
    return People(image.size, boxes=people.boxes, keypoints=points, presence=presence)


def _through_other_boxes(model: PoseModel, image: Image, people: People) -> list[People]:
    assert people.boxes is not None
    center = (people.boxes[:, :2] + people.boxes[:, 2:]) / 2
    size = people.boxes[:, 2:] - people.boxes[:, :2]
    others = []
    for factor, dx, dy in OTHER_BOXES:
        middle, half = center + size * (dx, dy), size * factor / 2
        boxes = np.concatenate([middle - half, middle + half], axis=1).astype(np.float32)
        others.append(People(image.size, boxes=boxes))
    return model.estimate([image] * len(others), others)


def _presence(people: People) -> Floats:
    """(N, K); 1 for models that do not estimate it."""
    if people.presence is not None:
        return np.clip(people.presence.astype(np.float64), 0, 1)
    assert people.keypoints is not None
    return np.ones(people.keypoints.shape[:2])


def _meaned(values: Floats, weight: Floats) -> Floats:
    """(N,) weighted means over keypoints; 1 for a person none of whose keypoints is there."""
    total = weight.sum(axis=1)
    out: Floats = np.divide((values * weight).sum(axis=1), total, out=np.ones(len(total)), where=total > 0)
    return out


def _binary_entropy(p: Floats) -> Floats:
    """Nats of a yes with probability ``p``."""
    q = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(-(q * np.log(q) + (1 - q) * np.log1p(-q)))
