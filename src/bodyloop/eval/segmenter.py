"""A segmenter judged on people with masks: the mean IoU of their masks, prompted by their own poses.

Everybody on a photo gets a pose from the labelled boxes; then each person is prompted as the loop would prompt it,
with as much as is asked for: maps, box, the people beside, a first mask spoiled as a small detector's. The box itself,
filled, is the baseline. Means are over people, intervals over photographs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from bodyloop.data.coarse import cell_of, random_coarse
from bodyloop.data.masked import MaskedPeople, Persons
from bodyloop.errors import InputError
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.photos import Progress
from bodyloop.images import Image
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import PoseEstimator, Prompt, Segmenter

Floats = npt.NDArray[np.float64]
Known = Literal["box", "points", "maps", "neighbours", "mask"]
PROMPT: tuple[Known, ...] = ("box", "points", "maps", "neighbours")
LEAST_AREA = 32.0 * 32.0  # px^2 of a box: smaller people have no outline worth judging
POINTS = 3  # the most visible keypoints, as the published loop sends them


@dataclass(frozen=True, eq=False)
class SegmenterReport:
    """Masks of N people against the truth.

    Attributes:
        known: what the prompts held.
        iou, box_iou: mean over people, of the masks and of the filled boxes. mask_iou: of the first masks, if sent.
        score_error: mean difference between a mask's score and its IoU.
        ious, scores: (N,). annotation_ids, image_ids: (N,).
        seconds: of the segmenter alone.
    """

    model: str
    path: Path
    known: tuple[Known, ...]
    iou: boot.Interval
    box_iou: boot.Interval
    mask_iou: boot.Interval | None
    score_error: float
    ious: Floats
    scores: Floats
    annotation_ids: npt.NDArray[np.int64]
    image_ids: npt.NDArray[np.int64]
    seconds: float

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            "model": self.model, "data": str(self.path), "known": list(self.known), "people": len(self.ious),
            "IoU": self.iou.to_json(), "box_IoU": self.box_iou.to_json(),
            "first_mask_IoU": None if self.mask_iou is None else self.mask_iou.to_json(),
            "score_error": self.score_error, "seconds": self.seconds,
        }  # fmt: skip

    def table(self) -> str:
        """As text."""
        ms = 1000 * self.seconds / max(len(self.ious), 1)
        head = f"{self.model} by {', '.join(self.known)}  [{self.path}, {len(self.ious)} people, {ms:.1f} ms each]"
        rows = [("mean mask IoU", self.iou), ("filled boxes", self.box_iou), ("first masks", self.mask_iou)]
        lines = [f"{name:14} {value}" for name, value in rows if value is not None]
        return "\n".join([head, *lines, f"{'score off by':14} {self.score_error:.4f}"])


def words(text: str) -> tuple[Known, ...]:
    """What prompts hold, from words with commas between them.

    Raises:
        InputError: an unknown word, or none.
    """
    known = tuple(w.strip() for w in text.split(",") if w.strip())
    unknown = [w for w in known if w not in get_args(Known)]
    if unknown or not known:
        raise InputError(f"prompts hold some of {', '.join(get_args(Known))}; got {text!r}")
    return cast(tuple[Known, ...], known)


def evaluate_segmenter(
    segmenter: Segmenter,
    pose: PoseEstimator,
    path: str | Path,
    *,
    known: Sequence[Known] = PROMPT,
    least_area: float = LEAST_AREA,
    limit: int | None = None,
    resamples: int = boot.RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
) -> SegmenterReport:
    """Judge a segmenter on the people of a COCO-layout file that have a mask and a box above ``least_area`` px^2.

    Args:
        pose: gives everybody on a photo a pose, from the labelled boxes. With "maps" it must return maps.
        known: what the prompts hold. "mask": the true mask, spoiled as a small detector's (`random_coarse`).
        limit: the first photos only. seed: of the intervals.
        progress: called with photos done and photos in all.

    Raises:
        InputError, FileError: as `MaskedPeople`; an unknown or no word in ``known``.
    """
    known = words(",".join(known))
    people = MaskedPeople(path, least_area=least_area)
    groups = people.by_image()[:limit]
    parts, seconds = [], 0.0
    for done, rows in enumerate(groups):
        numbers, took = _judged(segmenter, pose, people, rows, known)
        parts.append(numbers)
        seconds += took
        if progress is not None:
            progress(done + 1, len(groups))
    ious, scores, boxes, masks = np.concatenate(parts, axis=1)
    order = np.concatenate(groups)
    _, number = np.unique(people.image_ids[order], return_inverse=True)
    weights = boot.draw(len(groups), np.random.default_rng(seed), resamples)
    iou, box_iou, mask_iou = (
        boot.interval(float(v.mean()), boot.mean_samples(v, number, weights)) for v in (ious, boxes, masks)
    )
    return SegmenterReport(
        str(segmenter), Path(path), known, iou, box_iou, mask_iou if "mask" in known else None,
        float(np.abs(scores - ious).mean()), ious, scores, people.annotation_ids[order], people.image_ids[order],
        seconds,
    )  # fmt: skip


def _judged(
    segmenter: Segmenter,
    pose: PoseEstimator,
    people: MaskedPeople,
    rows: npt.NDArray[np.int64],
    known: Sequence[Known],
) -> tuple[Floats, float]:
    """Of the people of one photo (4, n) IoU, score, IoU of the filled boxes and of first masks; and seconds."""
    image, truth = people.image(int(rows[0])), Masks.concat([people.mask(int(i)) for i in rows])
    everybody = _posed(people, rows, image, pose)
    first = _first(people, rows, truth)
    prompts = [_prompt(everybody, i, first[i], known) for i in range(len(rows))]
    began = time.perf_counter()
    answer = segmenter.segment(segmenter.encode([image])[0], prompts)
    seconds = time.perf_counter() - began
    filled = Masks.from_bitmaps([_filled(b, image.size) for b in people.boxes[rows]], image.size)
    drawn, box, given = (_paired(m, truth) for m in (answer.masks, filled, first))
    return np.stack([drawn, answer.scores.astype(np.float64), box, given]), seconds


def _posed(people: MaskedPeople, rows: npt.NDArray[np.int64], image: Image, pose: PoseEstimator) -> People:
    """Those who are judged, then everybody else on the photo, with poses."""
    beside: Persons = people.beside(int(rows[0]))
    mine = people.boxes[rows]
    # who is judged is also beside the first one
    others = [b for b in beside.boxes if (b[2:] > b[:2]).all() and not (mine == b).all(axis=1).any()]
    boxes = np.concatenate([mine, np.array(others).reshape(-1, 4)])
    (posed,) = pose.estimate([image], [People(image.size, image.source, boxes=boxes)])
    return posed


def _prompt(people: People, i: int, first: Masks, known: Sequence[Known]) -> Prompt:
    points = np.zeros((0, 2), np.float32)
    if "points" in known and people.keypoints is not None:
        seen = people.visibility if people.visibility is not None else people.keypoint_scores
        if seen is not None:
            best = np.argsort(-np.nan_to_num(seen[i], nan=-1.0), kind="stable")[:POINTS]
            points = people.keypoints[i, best]
    others = np.arange(len(people)) != i
    return Prompt(
        points,
        np.ones(len(points), np.int64),
        box=people.boxes[i] if "box" in known and people.boxes is not None else None,
        mask=first if "mask" in known and first.present[0] else None,
        maps=people.maps[i] if "maps" in known and people.maps is not None else None,
        neighbours=people[others] if "neighbours" in known and others.any() else None,
        skeleton=people.skeleton,
    )


def _first(people: MaskedPeople, rows: npt.NDArray[np.int64], truth: Masks) -> Masks:
    """The masks of the people of one photo as a small detector would draw them: the same for everybody who asks."""
    cell, out = cell_of(truth.size), []
    for i, row in enumerate(rows.tolist()):
        rng = np.random.default_rng(int(people.annotation_ids[row]))
        beside = people.beside(row).masks.union().view(np.uint8)
        out.append(random_coarse(truth.bitmap(i).view(np.uint8), beside, cell, rng))
    return Masks.from_bitmaps(out, truth.size)


def _filled(box: Floats, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A box as a mask: the pixels whose centres lie in it, these half a pixel inside (COCO's areas)."""
    out = np.zeros((size[1], size[0]), bool)
    x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
    out[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)] = True
    return out


def _paired(masks: Masks, truth: Masks) -> Floats:
    """(N,) IoU of each mask with its own truth."""
    return np.array([masks[i].iou(truth[i])[0, 0] for i in range(len(truth))])
