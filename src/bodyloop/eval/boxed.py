"""A pose model run on annotated boxes: what it says of each person, as arrays and as COCO results.

`predict_boxed` returns arrays aligned with the annotations; of probability maps only what judges them is kept,
batch by batch, so that memory does not grow with the photos. What is computed from them is left to `pose` and
`calibrated`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.eval.calibration import MapCalibration, map_calibration, true_cells
from bodyloop.eval.photos import IMAGES_AT_ONCE, PhotoSet, Progress, Record
from bodyloop.images import Image
from bodyloop.interop import mean_of_counted
from bodyloop.people import People
from bodyloop.skeletons import COCO, Skeleton
from bodyloop.storage import to_plain

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Scoring = Literal["keypoints", "presence"]

SCORE_THRESHOLDS = {"keypoints": 0.2, "presence": 0.45}  # of the published evaluations


class PosePredictor(Protocol):
    """What is asked of a pose model here; `bodyloop.load_pose` gives one."""

    @property
    def skeleton(self) -> Skeleton:
        """The model's keypoints."""
        ...

    def predict(
        self,
        images: list[Any],
        boxes: list[Any],
        masks: list[Any] | None = None,
        *,
        flip: bool | None = None,
        maps: bool | None = None,
    ) -> list[People]:
        """Poses of the boxes (n, 4) ``x1 y1 x2 y2`` of each image, in order."""
        ...


@dataclass(frozen=True, eq=False)
class JudgedMaps:
    """Maps of the M keypoints that are labelled in their window.

    Attributes:
        calibration: of the M maps.
        person, keypoint: (M,) indices into the persons and the file's keypoints.
    """

    calibration: MapCalibration
    person: Ints
    keypoint: Ints


@dataclass(frozen=True, eq=False)
class Boxed:
    """What a model says about N annotated persons; keypoints in the order of the file, NaN where it has none.

    Attributes:
        skeleton: the file's keypoints, with the model's OKS constants.
        annotations: N of the file.
        image: (N,) place of each one's image among the file's image ids, ascending; images: how many there are.
        keypoints: (N, K, 2) image px; scores: (N, K); presence, visibility, quality: (N, K) or None.
        seconds: time spent in the model's predict.
        maps: None if they were not asked for.
    """

    skeleton: Skeleton
    annotations: tuple[Record, ...]
    image: Ints
    images: int
    keypoints: Floats
    scores: Floats
    presence: Floats | None
    visibility: Floats | None
    quality: Floats | None
    seconds: float
    maps: JudgedMaps | None = None

    @property
    def labels(self) -> Floats:
        """(N, K, 3) x, y, flag of the file."""
        return labels_of(self.annotations, len(self.skeleton))


def labels_of(annotations: Sequence[Record], k: int) -> Floats:
    """(N, K, 3) x, y, flag."""
    return np.array([a["keypoints"] for a in annotations], np.float64).reshape(-1, k, 3)


def predict_boxed(
    model: PosePredictor,
    photos: PhotoSet,
    *,
    flip: bool = True,
    masks: bool = False,
    maps: bool = False,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Boxed:
    """Run a pose model on the annotated boxes of everybody with labelled keypoints.

    Args:
        flip: average with the mirrored crop.
        masks: give the model the annotated masks, too.
        maps: judge the probability maps; of the double map the outer one.
        progress: called with persons done and persons in all.

    Raises:
        FileError, InputError: photos that are missing or of another size; nobody to run on; maps that are no
            probabilities.
    """
    persons = photos.persons() if photos.names else []
    if not persons:
        raise InputError(f"{photos.origin}: nobody has labelled keypoints")
    skeleton = file_skeleton(photos.names, model.skeleton)
    more: dict[str, Any] = {"maps": True} if maps else {}
    found: list[People] = []
    judged: list[tuple[MapCalibration, Ints, Ints]] = []
    seconds, done = 0.0, 0
    for images, groups in _batches(photos, persons):
        boxes = [np.array([a["bbox"] for a in g], np.float64) for g in groups]
        xyxy = [np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1) for b in boxes]
        given = [[a.get("segmentation") or None for a in g] for g in groups] if masks else None
        start = clock()
        people = model.predict(images, xyxy, given, flip=flip, **more)
        seconds += clock() - start
        for p, g in zip(people, groups, strict=True):
            if maps:
                judged.append(_judged(p, labels_of(g, len(skeleton)), skeleton, done))
            found.append(p.replace(maps=None).in_skeleton(skeleton))
            done += len(g)
        if progress is not None:
            progress(done, len(persons))
    ids = sorted(i["id"] for i in photos.document["images"])
    return Boxed(
        skeleton=skeleton,
        annotations=tuple(a for _, a in persons),
        image=np.searchsorted(ids, [a["image_id"] for _, a in persons]),
        images=len(ids),
        keypoints=_stack([p.keypoints for p in found]),
        scores=_stack([p.keypoint_scores for p in found]),
        presence=_optional([p.presence for p in found]),
        visibility=_optional([p.visibility for p in found]),
        quality=_optional([p.quality for p in found]),
        seconds=seconds,
        maps=_joined(judged) if maps else None,
    )


def results_of(found: Boxed, scoring: Scoring = "keypoints") -> list[dict[str, Any]]:
    """COCO results of predictions on annotated boxes, ready for json.

    The third number of a keypoint is its presence (its score where the model has none). Beside it stand
    ``annotation_id``, ``bbox`` as annotated, and ``presence, visibility, quality`` as far as the model has them.
    A keypoint that the model lacks is 0, 0, 0: COCO has no other word for it.
    """
    third = found.scores if found.presence is None else found.presence
    points = np.nan_to_num(np.concatenate([found.keypoints, third[..., None]], axis=2)).astype(np.float32)
    columns = {"score": instance_scores(found, scoring), "keypoints": points.reshape(len(points), -1)}
    for name in ("presence", "visibility", "quality"):
        values = getattr(found, name)
        if values is not None:  # a network's last bit may be beyond a probability
            columns[name] = np.clip(np.nan_to_num(values), 0, 1)
    plain = {name: to_plain(c.astype(np.float32)) for name, c in columns.items()}
    return [
        {
            "image_id": a["image_id"], "category_id": a["category_id"], "annotation_id": a["id"],
            "bbox": list(a["bbox"]), **{name: c[i] for name, c in plain.items()},
        }
        for i, a in enumerate(found.annotations)
    ]  # fmt: skip


def instance_scores(found: Boxed, scoring: Scoring = "keypoints") -> Floats:
    """(N,) mean keypoint score over the keypoints above the threshold of the scoring, 0 if there is none.

    Raises:
        InputError: scoring by presence of a model that has none.
    """
    if scoring == "presence" and found.presence is None:
        raise InputError("scoring by presence: this model does not estimate presence; use 'keypoints'")
    by = found.presence if scoring == "presence" and found.presence is not None else found.scores
    return mean_of_counted(found.scores, by > SCORE_THRESHOLDS[scoring])


def file_skeleton(names: tuple[str, ...], model: Skeleton) -> Skeleton:
    """A file's keypoints; constants are COCO's, or the model's by name."""
    if names == COCO.keypoints:
        return COCO
    known = dict(zip(model.keypoints, model.sigmas, strict=True))
    return Skeleton.define("file", names, sigmas=known)


def _judged(
    people: People, labels: Floats, skeleton: Skeleton, before: int
) -> tuple[MapCalibration, Ints, Ints]:
    """The maps of one photo's people, with whom (counted from ``before``) and what they are of."""
    if people.maps is None or people.skeleton is None:
        raise InputError("this model returns no maps")
    layer = people.maps.widest
    at = skeleton.indices_in(people.skeleton)
    cells, counted = true_cells(layer.crop, labels[..., :2], labels[..., 2])
    person, keypoint = np.nonzero(counted & (at >= 0))
    calibration = map_calibration(layer.values[person, at[keypoint]], cells[person, keypoint])
    return calibration, person + before, keypoint


def _joined(parts: Sequence[tuple[MapCalibration, Ints, Ints]]) -> JudgedMaps:
    person, keypoint = (np.concatenate([p[i] for p in parts]) for i in (1, 2))
    return JudgedMaps(MapCalibration.concat([p[0] for p in parts]), person, keypoint)


def _batches(
    photos: PhotoSet, persons: Sequence[tuple[int, Record]]
) -> Iterator[tuple[list[Image], list[list[Record]]]]:
    """Some photos at a time with the persons in each; persons come sorted by image."""
    by_image: dict[int, list[Record]] = {}
    for i, a in persons:
        by_image.setdefault(i, []).append(a)
    order = list(by_image)
    for at in range(0, len(order), IMAGES_AT_ONCE):
        part = order[at : at + IMAGES_AT_ONCE]
        yield [photos.photo(photos.document["images"][i]) for i in part], [by_image[i] for i in part]


def _stack(columns: Sequence[npt.NDArray[np.float32] | None]) -> Floats:
    return np.concatenate([c for c in columns if c is not None]).astype(np.float64)


def _optional(columns: Sequence[npt.NDArray[np.float32] | None]) -> Floats | None:
    return None if any(c is None for c in columns) else _stack(columns)
