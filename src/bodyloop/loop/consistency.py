"""How well masks and poses agree: a person's visible joints lie in its own mask, and in nobody else's.

`shares` measures it over everybody; `better_mask` chooses between two masks of one person by the points that
were, or could have been, its prompts.

Source: the choice is BBoxMaskPose's (ICCV 2025, "pose-mask consistency"); the score is ours.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bodyloop.loop.config import LoopConfig
from bodyloop.loop.joints import Floats, Ints, Joints
from bodyloop.masks import Masks
from bodyloop.people import People

Bools = npt.NDArray[np.bool_]

CLEAR = 0.1  # a smaller difference in agreement says nothing: then the smaller mask is taken


def inside(masks: Masks, i: int, points: npt.NDArray[np.floating]) -> Bools:
    """(P,) whether points (P, 2) px, rounded down, lie in mask ``i``."""
    x0, y0, bits = masks.cut(i)
    at = np.floor(points).astype(np.int64) - (x0, y0)
    within = ((at >= 0) & (at < (bits.shape[1], bits.shape[0]))).all(axis=1)
    out = np.zeros(len(points), bool)
    out[within] = bits[at[within, 1], at[within, 0]]
    return out


def shares(people: People, config: LoopConfig) -> tuple[Floats, Floats]:
    """(N,) share of each person's valid joints in its own mask, and (N,) in the mask of anybody else.

    NaN for a person without a valid joint in the picture.
    """
    joints, masks = Joints.of(people, config), people.masks
    own, others = (np.full(len(people), np.nan, np.float32) for _ in range(2))
    if masks is None:
        return own, others
    for i in range(len(people)):
        points = joints.points[i][joints.valid[i]]
        points = points[((points >= 0) & (points < people.image_size)).all(axis=1)]
        if not len(points):
            continue
        hits = np.array([inside(masks, j, points) for j in range(len(people))])
        own[i] = hits[i].mean()
        hits[i] = False
        others[i] = hits.any(axis=0).mean()
    return own, others


def scored(people: People, config: LoopConfig) -> People:
    """The people with `shares` as ``extra["joints_in_own"]`` and ``extra["joints_in_others"]`` and their
    difference, from -1 (all joints in others' masks) to 1 (all in the own), as ``extra["consistency"]``.
    """
    own, others = shares(people, config)
    columns = {"consistency": own - others, "joints_in_own": own, "joints_in_others": others}
    return people.replace(extra={**people.extra, **columns})


def agreement(masks: Masks, i: int, points: Floats, labels: Ints) -> float:
    """How well mask ``i`` agrees with points (P, 2) px on it (label 1) and off it (0), 0 to 1.

    Half the share of the former that it has, and half the share of the latter that it has not; a kind without
    points counts 0. Points on the person that lie outside the picture count at its border.
    """
    w, h = masks.size
    on = np.clip(points[labels == 1], 0, (w - 1, h - 1))
    off = points[labels == 0]
    total = 0.0
    if len(on):
        total += 0.5 * float(inside(masks, i, on).mean())
    if len(off):
        total += 0.5 * float((~inside(masks, i, off)).mean())
    return total


def better_mask(before: Masks, after: Masks, points: Floats, labels: Ints) -> Masks:
    """Of two masks (one each) the one that agrees better with the points; if it is not clear, the smaller one.

    A mask that is not there never wins.
    """
    if not before.present[0] or not after.present[0]:
        return after if after.present[0] else before
    gain = agreement(after, 0, points, labels) - agreement(before, 0, points, labels)
    if abs(gain) < CLEAR:
        return before if before.areas[0] < after.areas[0] else after
    return after if gain > 0 else before
