"""Single people worth a look: which ones, and their pictures.

What costs most AP is a confident prediction that is wrong; what an AP does not show is who was not found at
all. With two files, the people whom one finds much better than the other say most about both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bodyloop.data.cropcoco_folder import inner_path, read_labelled
from bodyloop.drawing import Picture, Style, draw
from bodyloop.errors import BodyloopError, FileError
from bodyloop.eval.analysis import find, most_similar
from bodyloop.eval.evidence import Evidence
from bodyloop.eval.mistakes import KINDS, Mistakes
from bodyloop.eval.reading import GroundTruth
from bodyloop.geometry import boxes_from_xywh, iou
from bodyloop.images import Image, read
from bodyloop.people import People
from bodyloop.skeletons import Skeleton

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RIGHT = 0.5  # similarity below which a prediction is wrong at every threshold
ALIKE = 0.01  # below this similarity a prediction resembles nobody
HEIGHT = 345  # px of a picture
WIDEST = 450
GAP = 5  # px between the two pictures of a case
BESIDE = 0.12  # margin around a person, of the longer side
REACH = 0.75  # how far beyond the label a prediction's keypoints may draw the picture, of the longer side
MOST_NAMED = 4
LEAST_GAP = 0.05  # of similarities, below which two predictions are alike


@dataclass(frozen=True)
class Case:
    """One person in question.

    Attributes:
        annotation: index in the file, -1 if the prediction is near nobody.
        predictions: for each report the index of the prediction in its file, -1 for none.
        similarity: of each prediction to the person.
    """

    annotation: int
    predictions: tuple[int, ...]
    similarity: tuple[float, ...]


def confident_and_wrong(evidence: Evidence, count: int) -> list[Case]:
    """The best scored predictions that are wrong at every threshold, one a person, with the nearest person."""
    found, similar = find(evidence, RIGHT), most_similar(evidence)
    out: list[Case] = []
    shown: set[int] = set()
    for p in found.alarms[np.argsort(-evidence.predictions.scores[found.alarms], kind="stable")]:
        near, much = _about(evidence, int(p), similar)
        if near in shown or much >= RIGHT:  # a second prediction of somebody who was found
            continue
        shown.update([near] if near >= 0 else [])
        out.append(Case(near, (int(p),), (much,)))
        if len(out) == count:
            break
    return out


def missed(evidence: Evidence, count: int, besides: Sequence[Case] = ()) -> list[Case]:
    """The largest people whom nothing matches, without those of other cases, and the prediction nearest to each."""
    found, similar = find(evidence, RIGHT), most_similar(evidence)
    people = np.setdiff1d(found.missed, [c.annotation for c in besides])
    size = evidence.truth.boxes[people, 2] * evidence.truth.boxes[people, 3]
    out = []
    for g in people[np.argsort(-size, kind="stable")][:count]:
        here = found.alarms[evidence.predictions.image[found.alarms] == evidence.truth.image[g]]
        near = [(much, int(p)) for p in here for who, much in [_about(evidence, int(p), similar)] if who == g]
        much, best = max(near, default=(0.0, -1))
        out.append(Case(int(g), (best,), (much,)))
    return out


def _about(evidence: Evidence, prediction: int, similar: tuple[Ints, Floats]) -> tuple[int, float]:
    """The annotation that a prediction is about, -1 for none, and how similar it is: the most similar one
    (`most_similar`), or the nearest one where it resembles nobody."""
    who, much = int(similar[0][prediction]), float(similar[1][prediction])
    if much > ALIKE:
        return who, much
    near = _nearest(evidence, prediction)
    return near, much if near == who else 0.0


def differences(evidence: Sequence[Evidence], count: int) -> tuple[list[Case], list[Case]]:
    """People whom the second of two reports finds better, and those whom the first does, widest gap first.

    The fewer keypoints of somebody are labelled, the less the gap says and the later they come.
    """
    who, much = zip(*(_by_person(e) for e in evidence[:2]), strict=True)
    points = evidence[0].truth.keypoints
    told = 1.0 if points is None else np.minimum(1, 2 * (points[..., 2] > 0).mean(axis=1))
    gap = (much[1] - much[0]) * told

    def cases(order: Ints) -> list[Case]:
        return [
            Case(int(g), tuple(int(w[g]) for w in who), tuple(float(m[g]) for m in much))
            for g in order[:count]
        ]

    order = np.argsort(gap, kind="stable")
    return cases(order[::-1][: np.count_nonzero(gap > LEAST_GAP)]), cases(
        order[: np.count_nonzero(gap < -LEAST_GAP)]
    )


def _by_person(evidence: Evidence) -> tuple[Ints, Floats]:
    """For each annotation the prediction that matches it (-1 for none) and how similar it is."""
    found = find(evidence)
    who, much = np.full(len(evidence.truth.ids), -1), np.zeros(len(evidence.truth.ids))
    who[found.annotation], much[found.annotation] = found.prediction, found.similarity
    return who, much


def _nearest(evidence: Evidence, prediction: int) -> int:
    """The annotation of the image whose box shares most with the prediction's extent, -1 if none shares any."""
    truth, image = evidence.truth, evidence.predictions.image[prediction]
    here = np.flatnonzero((truth.image == image) & ~truth.crowd)
    extent = _extent(evidence, prediction)
    if not len(here) or extent is None:
        return -1
    shared = iou(extent[None], boxes_from_xywh(truth.boxes[here]))[0]
    return int(here[shared.argmax()]) if shared.max() > 0 else -1


def _extent(evidence: Evidence, prediction: int) -> Floats | None:
    """(4,) x1 y1 x2 y2 of what is predicted."""
    p = evidence.predictions
    if p.keypoints is not None:
        points = p.keypoints[prediction, :, :2]
        return np.concatenate([points.min(axis=0), points.max(axis=0)])
    box = p.boxes[prediction]
    return None if np.isnan(box).any() else np.concatenate([box[:2], box[:2] + box[2:]])


# words


def caption(
    case: Case, evidence: Sequence[Evidence], names: Sequence[str], similarity: str, mistakes: Mistakes | None
) -> str:
    """How similar, how sure, what is wrong, and where to find it."""
    first = evidence[0]
    told = []
    for e, p, s, name in zip(evidence, case.predictions, case.similarity, names, strict=False):
        who = f"{name}: " if len(case.predictions) > 1 else ""
        if p < 0:
            told.append(f"{who}not found")
        else:
            told.append(f"{who}{similarity} {s:.2f}, score {e.predictions.scores[p]:.2f}")
    if mistakes is not None and len(case.predictions) == 1:
        told += _wrong_keypoints(case, mistakes)
    image = (
        first.truth.image[case.annotation]
        if case.annotation >= 0
        else first.predictions.image[case.predictions[0]]
    )
    place = first.truth.file_names[image] or f"image {first.truth.image_ids[image]}"
    whose = (
        f", annotation {first.truth.ids[case.annotation]}"
        if case.annotation >= 0
        else ", nobody labelled here"
    )
    return f"{' · '.join(told)}. {place}{whose}"


def _wrong_keypoints(case: Case, mistakes: Mistakes) -> list[str]:
    """Kinds of mistakes with the keypoints' names, the grave ones first; jitter is only counted."""
    row = np.flatnonzero(
        (mistakes.prediction == case.predictions[0]) & (mistakes.annotation == case.annotation)
    )
    if not len(row):
        return []
    kind = mistakes.kind[row[0]]
    out = []
    for i in range(len(KINDS) - 1, 1, -1):
        names = [mistakes.skeleton.keypoints[k].replace("_", " ") for k in np.flatnonzero(kind == i)]
        if len(names) > MOST_NAMED:
            out.append(f"{KINDS[i]}: {len(names)} keypoints")
        elif names:
            out.append(f"{KINDS[i]}: {', '.join(names)}")
    jitter = int((kind == 1).sum())
    return [*out, *([f"jitter: {jitter}"] if jitter else [])]


# pictures


def picture(case: Case, evidence: Sequence[Evidence], skeleton: Skeleton | None, folder: Path) -> Picture:
    """The label and each prediction beside each other, cut around the person.

    Raises:
        FileError, InputError: the photo is missing or is not the labelled one.
    """
    truth = evidence[0].truth
    image = int(
        truth.image[case.annotation]
        if case.annotation >= 0
        else evidence[0].predictions.image[case.predictions[0]]
    )
    photo = _photo(truth, image, folder)
    low, high = _window(case, evidence, photo.size)
    cut = np.ascontiguousarray(photo.pixels[low[1] : high[1], low[0] : high[0]])
    scale = min(HEIGHT / cut.shape[0], WIDEST / cut.shape[1])
    shown = [_labelled(truth, case.annotation, low, cut.shape, skeleton)]
    shown += [
        _predicted(e, p, low, cut.shape, skeleton) for e, p in zip(evidence, case.predictions, strict=False)
    ]
    style = Style(colour_by="side", score_at=0.0)
    drawn = [
        draw(cut, people, canvas="photo", scale=scale, style=style, labels=False).pixels for people in shown
    ]
    gap = np.full((drawn[0].shape[0], GAP, 3), 128, np.uint8)
    return Picture(np.concatenate([x for d in drawn for x in (gap, d)][1:], axis=1))


def _photo(truth: GroundTruth, image: int, folder: Path) -> Image:
    name = inner_path(truth.file_names[image])
    if name is None:
        raise FileError(f"{truth.origin}: image {truth.image_ids[image]} names no file below {folder}")
    size = truth.image_sizes[image]
    if np.isnan(size).any():
        return read(folder / name)
    return read_labelled(folder / name, [(int(size[0]), int(size[1]))], int(truth.image_ids[image]))


def _window(case: Case, evidence: Sequence[Evidence], size: tuple[int, int]) -> tuple[Ints, Ints]:
    """Corners (2,) in whole px of what is shown: label and predictions, of these not what lies far off."""
    truth = evidence[0].truth
    extents = [_extent(e, p) for e, p in zip(evidence, case.predictions, strict=False) if p >= 0]
    seen = [x for x in extents if x is not None]
    if case.annotation >= 0:
        box = truth.boxes[case.annotation]
        own = np.concatenate([box[:2], box[:2] + box[2:]])
        reach = REACH * max(box[2:].max(), 1)
        seen = [np.clip(x, np.tile(own[:2] - reach, 2), np.tile(own[2:] + reach, 2)) for x in seen] + [own]
    if not seen:
        seen = [np.array([0, 0, *size], np.float64)]
    low, high = np.min([x[:2] for x in seen], axis=0), np.max([x[2:] for x in seen], axis=0)
    margin = BESIDE * max((high - low).max(), 24)
    last = np.array(size)
    low = np.clip(np.floor(low - margin), 0, last - 8).astype(np.int64)
    high = np.clip(np.ceil(high + margin), low + 8, last).astype(np.int64)
    return low, high


def _labelled(
    truth: GroundTruth, annotation: int, low: Ints, shape: tuple[int, ...], skeleton: Skeleton | None
) -> People:
    size = shape[1], shape[0]
    if annotation < 0:
        return People(size)
    box = boxes_from_xywh(truth.boxes[[annotation]]) - np.tile(low, 2).astype(np.float32)
    if truth.keypoints is None or skeleton is None:
        return People(size, boxes=box)
    flags = truth.keypoints[annotation, :, 2]
    points = np.where(flags[:, None] > 0, truth.keypoints[annotation, :, :2] - low, np.nan)
    return People(
        size,
        skeleton=skeleton,
        keypoints=points[None].astype(np.float32),
        visibility=np.where(flags == 1, 0.0, 1.0)[None].astype(np.float32),
        presence=np.where(flags == 3, 0.0, 1.0)[None].astype(np.float32),
    )


def _predicted(
    evidence: Evidence, prediction: int, low: Ints, shape: tuple[int, ...], skeleton: Skeleton | None
) -> People:
    size, p = (shape[1], shape[0]), evidence.predictions
    if prediction < 0:
        return People(size)
    if p.keypoints is None or skeleton is None:
        return People(size, boxes=boxes_from_xywh(p.boxes[[prediction]]) - np.tile(low, 2).astype(np.float32))
    given = {name: getattr(p, name) for name in ("presence", "visibility")}
    return People(
        size,
        skeleton=skeleton,
        keypoints=(p.keypoints[[prediction], :, :2] - low).astype(np.float32),
        **{
            name: column[[prediction]].astype(np.float32)
            for name, column in given.items()
            if column is not None
        },
    )


def shown(case: Case, evidence: Sequence[Evidence], skeleton: Skeleton | None, folder: Path) -> Picture | str:
    """The case's picture, or why there is none."""
    try:
        return picture(case, evidence, skeleton, folder)
    except BodyloopError as e:
        return str(e)
