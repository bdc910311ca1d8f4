"""How well masks and poses agree: shares of joints, and the choice between two masks."""

from __future__ import annotations

import numpy as np
import pytest

from bodyloop.loop import LoopConfig
from bodyloop.loop.consistency import agreement, better_mask, inside, scored, shares
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.skeletons import Skeleton

FOUR = Skeleton.define("four", ["a", "b", "c", "d"])
NO_POINTS = (np.zeros((0, 2), np.float32), np.zeros(0, np.int64))


def square(x: int, y: int, side: int) -> Masks:
    bitmap = np.zeros((20, 30), bool)
    bitmap[y : y + side, x : x + side] = True
    return Masks.from_bitmaps(bitmap[None])


def pair(points: object, seen: object = 1.0) -> People:
    return People(
        (30, 20), skeleton=FOUR, keypoints=np.float32(points), visibility=np.broadcast_to(np.float32(seen), (2, 4)),
        masks=Masks.concat([square(0, 0, 10), square(15, 0, 10)]),
    )  # fmt: skip


def test_points_are_rounded_down() -> None:
    points = np.float32([[5, 5], [4.9, 5], [9.9, 9.9], [10, 9], [-3, 2], [100, 5]])
    assert inside(square(5, 5, 5), 0, points).tolist() == [True, False, True, False, False, False]
    assert not inside(Masks.empty(1, (30, 20)), 0, points).any()


def test_shares() -> None:
    own = [[2, 2], [3, 3], [20, 5], [12, 5]]  # two in its own mask, one in the other's, one in none
    people = pair([own, [[16, 1]] * 4])
    a, b = shares(people, LoopConfig())
    assert a.tolist() == [0.5, 1] and b.tolist() == [0.25, 0]
    out = scored(people.replace(extra={"mine": np.arange(2)}), LoopConfig())
    assert out.extra["consistency"].tolist() == [0.25, 1]
    assert sorted(out.extra) == ["consistency", "joints_in_others", "joints_in_own", "mine"]


def test_only_visible_joints_in_the_picture_count() -> None:
    seen = [[0.9, 0.4, 0.9, 0.9], [0.1] * 4]
    people = pair([[[2, 2], [20, 5], [-5, 5], [5, 500]], [[16, 1]] * 4], seen)
    a, b = shares(people, LoopConfig())
    assert a[0] == 1 and b[0] == 0 and np.isnan(a[1]) and np.isnan(b[1])


def test_without_masks_nothing_is_known() -> None:
    assert np.isnan(shares(pair(np.ones((2, 4, 2))).replace(masks=None), LoopConfig())[0]).all()


def test_agreement() -> None:
    points = np.float32([[1, 1], [50, 5], [3, 3], [20, 5]])
    # on: (1, 1) is inside, (50, 5) counts as (29, 5), outside; off: (3, 3) is inside, (20, 5) is not
    assert agreement(square(0, 0, 10), 0, points, np.array([1, 1, 0, 0])) == 0.5 * 0.5 + 0.5 * 0.5
    assert agreement(square(0, 0, 10), 0, points[:1], np.array([1])) == 0.5
    assert agreement(square(0, 0, 10), 0, *NO_POINTS) == 0


class TestChoice:
    def test_the_detector_s_mask_wins_if_it_agrees_better(self) -> None:
        detector, drawn = square(0, 0, 10), square(15, 0, 4)
        points, on = np.float32([[2, 2], [8, 8]]), np.array([1, 1])
        assert better_mask(detector, drawn, points, on) is detector
        assert better_mask(drawn, detector, points, on) is detector

    def test_the_smaller_one_if_both_agree_as_well(self) -> None:
        large, small = square(0, 0, 10), square(0, 0, 6)
        points, on = np.float32([[2, 2]]), np.array([1])
        assert better_mask(large, small, points, on) is small is better_mask(small, large, points, on)
        same = square(0, 0, 6)
        assert better_mask(small, same, points, on) is same  # nothing between them: the one drawn

    def test_less_than_a_tenth_is_not_clear(self) -> None:
        """One point of four less is 0.125, of six 0.083."""
        points = np.float32([[1, 1], [2, 2], [3, 3], [8, 8], [4, 4], [5, 5]])
        large, small = square(0, 0, 10), square(0, 0, 6)
        assert better_mask(small, large, points[:4], np.ones(4, np.int64)) is large
        assert better_mask(small, large, points, np.ones(6, np.int64)) is small

    @pytest.mark.parametrize("there", [True, False])
    def test_no_mask_never_wins(self, there: bool) -> None:
        none, some = Masks.empty(1, (30, 20)), square(0, 0, 10)
        assert (better_mask(none, some, *NO_POINTS) if there else better_mask(some, none, *NO_POINTS)) is some
