"""What each person gives the segmenter: points on it, points on others, box, mask, maps.

`select` orders the keypoints of one person by one of four methods; `choose` makes the prompts of all people of
a pass, one by one or all together with as many points each. A person with nothing to say gets no prompt, and
keeps the mask it has.

Source: BBoxMaskPose (ICCV 2025) and its code of March 2026; what that does otherwise is a switch of `Parity`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bodyloop.geometry import iou
from bodyloop.loop.config import LoopConfig, Selection
from bodyloop.loop.joints import NEVER, Floats, Ints, Joints
from bodyloop.people import People
from bodyloop.roles import Prompt

GATE = 80  # percentile of the remaining confidences that a point of "distance+confidence" must reach
GROWN = np.float32(2)  # px around the points' own box by which a prompt box is extended
CLOSE = 0.25  # of a box, on every side: who reaches into it is a neighbour


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen for one person.

    Attributes:
        prompt: None for a person that is not sent.
        why: what is sent, or why nothing is, in words.
        evidence: points (P, 2) px and labels (P,) that tell a better mask from a worse one.
    """

    prompt: Prompt | None
    why: str
    evidence: tuple[Floats, Ints]


def select(
    method: Selection,
    points: Floats,
    confidence: Floats,
    rank: Floats,
    threshold: float,
    *,
    faces: Sequence[Ints] = (),
    box: Floats | None = None,
    limit: int | None = None,
) -> Ints:
    """Indices of the keypoints that become prompt points, in their order.

    Args:
        points: (K, 2) px. confidence, rank: (K,) see `Joints`.
        threshold: who ranks below is no candidate.
        faces: of each group of indices only the best ranked is a candidate, but for "k_most_visible".
        box: (4,) ``x1 y1 x2 y2``; its centre is where "distance" and "closest" measure from. None: the mean of
            the candidates.
        limit: so many at most.
    """
    candidate = (rank >= threshold) & (rank != NEVER)
    if method != "k_most_visible":
        for group in faces:
            others = np.delete(group, int(rank[group].argmax())) if len(group) else group
            candidate[others] = False
    at = np.flatnonzero(candidate)
    if len(at) == 0:
        return at
    if method == "k_most_visible":
        order = _falling(rank[at])
    elif method == "distance+confidence":
        order = _spread(points[at], confidence[at], limit)
    else:
        order = _by_distance(method, points[at], box)
    return np.asarray(at[order[:limit]], np.int64)


def _falling(values: Floats) -> Ints:
    """Descending; of equals the last first, as an ascending sort turned round gives them."""
    return np.argsort(values, kind="stable")[::-1]


def _by_distance(method: Selection, points: Floats, box: Floats | None) -> Ints:
    """Nearest to the centre first, or farthest from it and from the other candidates first."""
    centre = points.mean(axis=0) if box is None else (box[:2] + box[2:]) / np.float32(2)
    far = np.linalg.norm(points - centre, axis=1)
    if method == "closest":
        return np.argsort(far, kind="stable")
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    alone = apart.min(axis=1) if len(points) > 1 else np.zeros_like(far)
    return _falling(far + 3 * alone)


def _spread(points: Floats, confidence: Floats, limit: int | None) -> Ints:
    """The surest, then always the one farthest from those taken, among the surest of the rest."""
    order = _falling(confidence)
    points, left = points[order], confidence[order].copy()
    near = np.full(len(points), np.inf, np.float32)  # distance to the nearest one taken
    taken = [0]
    while len(taken) < min(len(points), len(points) if limit is None else limit):
        left[taken[-1]] = -1  # a confidence that is used up still counts in the percentile
        near = np.minimum(near, np.linalg.norm(points - points[taken[-1]], axis=1))
        score = np.where(left < np.percentile(left, GATE), np.float32(-1), near)
        score[taken] = -np.inf
        taken.append(int(score.argmax()))
    return np.asarray(order[taken], np.int64)


# ---------------------------------------------------------------------------------------------- all people


def choose(people: People, others: People | None, config: LoopConfig) -> list[Choice]:
    """What each of ``people`` is to send; the others are context.

    Together and with settled people not skipped, choices of the others follow.
    """
    if not config.together:
        return _one_by_one(people, others, config)
    if others is None or config.skip_settled:
        return _together(people, config)
    return _together(People.concat([people, others]), config)


def believed(boxes: Floats, config: LoopConfig) -> Floats:
    """Boxes (N, 4) as the configuration reads them: as they are, or corners as x, y, width, height."""
    if not config.parity.boxes_as_xywh:
        return boxes
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def max_overlap(boxes: Floats) -> npt.NDArray[np.float64]:
    """(N,) the largest IoU of each box (N, 4) ``x1 y1 x2 y2`` with another one."""
    each = iou(boxes, boxes)
    np.fill_diagonal(each, 0)
    return np.asarray(each.max(axis=1, initial=0))


def too_small(people: People, config: LoopConfig) -> npt.NDArray[np.bool_]:
    """(N,) whether a person is too small for its mask to be refined."""
    boxes = _boxes(people)
    sides = believed(boxes, config)[:, 2:] - believed(boxes, config)[:, :2]
    low = boxes[:, 3] - boxes[:, 1] < config.min_box_height
    return np.asarray(low | (sides.prod(axis=1) < config.min_box_area), bool)


def _one_by_one(people: People, others: People | None, config: LoopConfig) -> list[Choice]:
    n, joints = len(people), Joints.of(people, config)
    context = people if others is None else People.concat([people, others])
    everybody = Joints.of(context, config)
    boxes = believed(_boxes(context), config)
    overlap, limit = max_overlap(boxes), _crowd_limit(config)
    small = too_small(people, config)
    choices = []
    for i in range(n):
        crowd = limit is not None and overlap[i] > limit
        box = None if crowd else boxes[i]
        count = config.positives_if_crowd if crowd else config.positives
        mine = _positives(joints, i, config, box, count)
        rows = np.r_[n : len(context), 0:i, i + 1 : n]  # those known first, as they came
        away = _negatives(everybody, rows, config, box)
        if small[i]:
            choices.append(_nothing("the person is small"))
        elif len(mine) or config.parity.empty_prompts or (config.prompt_box and box is not None):
            choices.append(_choice(joints, i, mine, everybody, away, box, config))
        else:
            choices.append(_nothing("no valid keypoint"))
    return _with_extras(choices, people, context, config)


def _together(people: People, config: LoopConfig) -> list[Choice]:
    """Equally many points for everybody who has a valid keypoint: the last one is repeated."""
    joints = Joints.of(people, config)
    small, valid = too_small(people, config), joints.valid.sum(axis=1)
    asked = np.flatnonzero(~small & (valid > 0))
    raw = _boxes(people)
    boxes, limit = believed(raw, config), _crowd_limit(config)
    crowd = limit is not None and bool((max_overlap(boxes[asked]) > limit).any())
    count = config.positives_if_crowd if crowd else config.positives
    mine = {i: _positives(joints, i, config, raw[i], None) for i in asked.tolist()}
    longest = max((max(len(m), int(valid[i])) for i, m in mine.items()), default=0)
    choices = []
    for i in range(len(people)):
        if i not in mine:
            choices.append(_nothing("the person is small" if small[i] else "no valid keypoint"))
            continue
        points = mine[i][np.minimum(np.arange(min(longest, count)), len(mine[i]) - 1)]
        rows = np.r_[0:i, i + 1 : len(people)]
        away = _negatives(joints, rows, config, raw[i])
        choices.append(_choice(joints, i, points, joints, away, None if crowd else boxes[i], config))
    return _with_extras(choices, people, people, config)


def _positives(joints: Joints, i: int, config: LoopConfig, box: Floats | None, count: int | None) -> Ints:
    if not joints.valid[i].any():
        return np.zeros(0, np.int64)
    return select(
        config.selection, joints.points[i], joints.confidence[i], joints.rank[i], config.visibility,
        faces=(joints.face,), box=box, limit=count,
    )  # fmt: skip


def _negatives(joints: Joints, rows: Ints, config: LoopConfig, box: Floats | None) -> Ints:
    """Keypoints of the people in ``rows``, nearest first, as places in the flattened (N K) of all."""
    wanted = config.negatives > 0 or config.consistency_choice
    if not wanted or not len(rows) or not joints.valid[rows].any():
        return np.zeros(0, np.int64)
    k = joints.points.shape[1]
    faces = [joints.face + k * n for n in range(len(rows))]
    if config.parity.face_of_first_neighbour:
        faces = faces[:1]
    found = select(
        "closest", joints.points[rows].reshape(-1, 2), joints.confidence[rows].ravel(),
        joints.rank[rows].ravel(), config.visibility, faces=faces, box=box,
    )  # fmt: skip
    return np.asarray(rows[found // k] * k + found % k, np.int64)


def _choice(
    joints: Joints,
    i: int,
    positives: Ints,
    everybody: Joints,
    negatives: Ints,
    box: Floats | None,
    config: LoopConfig,
) -> Choice:
    on, off = joints.points[i][positives], everybody.points.reshape(-1, 2)[negatives]
    sent = np.concatenate([on, off[: config.negatives]])
    labels = np.repeat(np.array([1, 0]), [len(on), len(sent) - len(on)])
    evidence = (np.concatenate([on, off]), np.repeat(np.array([1, 0]), [len(on), len(off)]))
    values = joints.confidence if config.selection != "k_most_visible" else joints.rank
    sure = np.concatenate([values[i][positives], everybody.confidence.ravel()[negatives]]) > 0.5
    frame = _frame(box, on, config) if config.prompt_box and box is not None else None
    parts = [f"{len(on)} points", *([f"{len(sent) - len(on)} on others"] if len(sent) > len(on) else [])]
    why = ", ".join([*parts, *(["box"] if frame is not None else [])])
    return Choice(Prompt(sent, labels, frame), why, (evidence[0][sure], evidence[1][sure]))


def _frame(box: Floats, points: Floats, config: LoopConfig) -> Floats:
    """The prompt's box: the person's, or united with that of its points."""
    if not config.extend_box or not len(points):
        return box
    low, high = points.min(axis=0) - GROWN, points.max(axis=0) + GROWN
    return np.concatenate([np.minimum(box[:2], low), np.maximum(box[2:], high)])


def _with_extras(choices: list[Choice], people: People, context: People, config: LoopConfig) -> list[Choice]:
    """With first mask, maps and neighbours, where they are to be sent."""
    if not (config.prompt_mask or config.prompt_maps or config.prompt_neighbours):
        return choices
    out = []
    for i, c in enumerate(choices):
        if c.prompt is None:
            out.append(c)
            continue
        mask = people.masks[i] if config.prompt_mask and people.masks is not None else None
        maps = people.maps[i] if config.prompt_maps and people.maps is not None else None
        near = _neighbours(context, i) if config.prompt_neighbours else None
        mask = mask if mask is not None and mask.present[0] else None
        names = [n for n, v in (("mask", mask), ("maps", maps), ("neighbours", near)) if v is not None]
        prompt = replace(c.prompt, mask=mask, maps=maps, neighbours=near, skeleton=people.skeleton)
        out.append(replace(c, prompt=prompt, why=", ".join([c.why, *names])))
    return out


def _neighbours(context: People, i: int) -> People | None:
    """Who reaches into the surroundings of person ``i``; None for nobody."""
    boxes = _boxes(context)
    margin = CLOSE * (boxes[i, 2:] - boxes[i, :2])
    low, high = boxes[i, :2] - margin, boxes[i, 2:] + margin
    near = np.asarray(((boxes[:, :2] < high) & (boxes[:, 2:] > low)).all(axis=1))
    near[i] = False
    return context[near] if near.any() else None


def _crowd_limit(config: LoopConfig) -> float | None:
    if config.crowd_iou is None and config.parity.false_crowd_is_zero:
        return 0.0
    return config.crowd_iou


def _boxes(people: People) -> Floats:
    assert people.boxes is not None  # the loop's people have them
    return people.boxes


def _nothing(why: str) -> Choice:
    return Choice(None, why, (np.zeros((0, 2), np.float32), np.zeros(0, np.int64)))
