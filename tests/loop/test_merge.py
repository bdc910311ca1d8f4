"""Pose NMS, exclusive masks, blackening: by hand where the stored numbers say nothing, or by plain definitions."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bodyloop.images import Image
from bodyloop.loop import LoopConfig, Parity
from bodyloop.loop.merge import Lost, changed, claims, exclusive, masked_out, pose_nms, pose_similarity
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.skeletons import BODY_19, COCO
from tests.parity_loop.players import posed

PLACES = np.stack([np.linspace(20, 60, 17), np.linspace(10, 100, 17)], axis=1)


def someone(dx: float = 0, sure: float = 0.9, box: Any = (10, 5, 70, 105)) -> People:
    k = np.concatenate([PLACES + np.array([dx, 0]), np.full((17, 1), sure)], axis=1)
    return posed([box], [k], np.ones((1, 17)))


class TestSimilarity:
    def test_areas_are_those_of_the_boxes(self) -> None:
        """One keypoint that counts, 6 px off, in a box of 60 x 100: exp(-36 / (2 var 6000))."""
        pair = People.concat([someone(), someone(dx=6)])
        sure = np.zeros((2, 17), np.float32)
        sure[:, 5] = 0.9  # a shoulder: sigma .079
        oks, strength = pose_similarity(pair.replace(map_scores=sure), LoopConfig())
        expected = np.exp(-36 / (2 * 0.158**2 * 6000))
        np.testing.assert_allclose(oks, [[1, expected], [expected, 1]], rtol=1e-6)
        assert strength.tolist() == [1, 1]

    def test_published_areas_grow_with_the_place(self) -> None:
        """x2 * y2 in place of the sides: 70 * 105."""
        pair = People.concat([someone(), someone(dx=6)])
        sure = np.zeros((2, 17), np.float32)
        sure[:, 5] = 0.9
        config = LoopConfig(parity=Parity(boxes_as_xywh=True))
        oks, _ = pose_similarity(pair.replace(map_scores=sure), config)
        np.testing.assert_allclose(oks[0, 1], np.exp(-36 / (2 * 0.158**2 * 70 * 105)), rtol=1e-6)

    def test_the_truth_decides_which_keypoints_count(self) -> None:
        other = someone(dx=50)
        points = other.keypoints.copy()  # type: ignore[union-attr]
        points[0, 0] = PLACES[0]
        pair = People.concat([someone(), other.replace(keypoints=points)])
        sure = np.full((2, 17), 0.9, np.float32)
        sure[0, 1:] = 0.1  # of the first only the nose counts, and there they agree
        oks, strength = pose_similarity(pair.replace(map_scores=sure), LoopConfig())
        assert oks[0, 1] == 1 and oks[1, 0] < 0.1 and strength.tolist() == [1, 17]

    def test_a_truth_without_keypoints_is_its_box_and_its_surroundings(self) -> None:
        """The box 10..30, 10..30 grown by its sides: -10..50. At 53 a point is 3 px outside."""
        blind = someone(sure=0.1, box=(10, 10, 30, 30))
        other = someone().replace(keypoints=np.tile(np.float32([[53, 20]]), (1, 17, 1)))
        oks, strength = pose_similarity(People.concat([blind, other]), LoopConfig())
        variances = (2 * COCO.sigma_array) ** 2
        np.testing.assert_allclose(oks[0, 1], np.exp(-9 / (2 * variances * 400)).mean(), rtol=1e-6)
        inside = other.replace(keypoints=np.tile(np.float32([[50, -10]]), (1, 17, 1)))
        assert pose_similarity(People.concat([blind, inside]), LoopConfig())[0][0, 1] == 1
        assert strength.tolist() == [0, 17]

    def test_by_the_larger_one(self) -> None:
        """A head beside the black: its box has 400 px, the person that it belongs to 6000; 3 px off."""
        head, whole = someone(3, box=(10, 10, 30, 30)), someone()
        sure = np.zeros((1, 17), np.float32)
        sure[0, 0] = 0.9
        both = People.concat([whole, head.replace(map_scores=sure)])
        expected = {a: np.exp(-9 / (2 * 0.052**2 * a)) for a in (400, 6000)}
        oks, strength = pose_similarity(both, LoopConfig())
        np.testing.assert_allclose(oks[1, 0], expected[400], rtol=1e-5)
        oks, strength = pose_similarity(both, LoopConfig(compare_larger=True))
        np.testing.assert_allclose(oks[1, 0], expected[6000], rtol=1e-5)
        assert sorted(pose_nms(oks, strength, 0.7)) == [1]

    def test_keypoints_that_are_nowhere_agree_with_nothing(self) -> None:
        gone = someone().replace(keypoints=np.full((1, 17, 2), np.nan, np.float32))
        oks, strength = pose_similarity(People.concat([someone(), gone]), LoopConfig())
        assert oks[0, 1] == 0 and strength.tolist() == [17, 0]

    def test_other_skeletons_are_compared_by_coco_s_keypoints(self) -> None:
        pair = People.concat([someone(), someone(dx=4)])
        more = pair.in_skeleton(BODY_19)  # neck and head top are not known
        np.testing.assert_allclose(
            pose_similarity(more, LoopConfig())[0], pose_similarity(pair, LoopConfig())[0], rtol=1e-6
        )


class TestNms:
    def test_the_one_with_fewer_keypoints_goes_whichever_role_it_has(self) -> None:
        oks = np.array([[1, 0.9, 0], [0.3, 1, 0], [0, 0, 1.0]])
        assert pose_nms(oks, np.array([5, 4, 1]), 0.8) == {1: Lost(0, 0.9)}
        assert pose_nms(oks, np.array([4, 5, 1]), 0.8) == {0: Lost(1, 0.9)}
        assert pose_nms(oks, np.array([5, 5, 1]), 0.8) == {
            0: Lost(1, 0.9)
        }  # equal: the one in the role of truth

    def test_at_the_threshold_both_stay(self) -> None:
        oks = np.array([[1, 0.8], [0.8, 1]])
        assert pose_nms(oks, np.array([5, 4]), 0.8) == {} and len(pose_nms(oks, np.array([5, 4]), 0.79)) == 1

    def test_the_most_alike_first_of_equals_the_first_row(self) -> None:
        oks = np.array([[1, 0.85, 0], [0, 1, 0.95], [0, 0, 1.0]])
        assert pose_nms(oks, np.array([3, 3, 3]), 0.8) == {
            1: Lost(2, 0.95)
        }  # then nobody looks like the first
        equal = np.array([[1, 0.9, 0], [0, 1, 0], [0, 0.9, 1.0]])
        assert pose_nms(equal, np.array([3, 3, 3]), 0.8)[0] == Lost(1, 0.9)

    def test_who_is_removed_removes_nobody(self) -> None:
        """B (stronger than C) loses to A; B's likeness to C then counts no more."""
        oks = np.array([[1, 0.95, 0.1], [0.95, 1, 0.9], [0.1, 0.1, 1]])
        strength = np.array([9, 7, 5])
        assert pose_nms(oks, strength, 0.8) == {1: Lost(0, 0.95)}
        assert sorted(pose_nms(oks, strength, 0.8, whole_groups=True)) == [1, 2]  # its row stays

    @settings(max_examples=50, deadline=None)
    @given(
        oks=hnp.arrays(np.float64, (6, 6), elements=st.floats(0, 1)),
        strength=hnp.arrays(np.int64, 6, elements=st.integers(0, 3)),
        threshold=st.floats(0, 1),
    )
    def test_nobody_left_looks_like_somebody_left(self, oks: Any, strength: Any, threshold: float) -> None:
        lost = pose_nms(oks, strength, threshold)
        kept = [i for i in range(6) if i not in lost]
        assert kept
        among = oks[np.ix_(kept, kept)] * (1 - np.eye(len(kept)))
        assert (among <= threshold).all()
        assert all(strength[why.to] >= strength[i] for i, why in lost.items())

    def test_nobody(self) -> None:
        assert pose_nms(np.zeros((0, 0)), np.zeros(0, np.int64), 0.5) == {}


class TestExclusive:
    @settings(max_examples=50, deadline=None)
    @given(
        bitmaps=hnp.arrays(bool, (4, 5, 6)),
        scores=hnp.arrays(np.float64, 4, elements=st.sampled_from([0.2, 0.5, 0.9])),
    )
    def test_as_defined_on_whole_pictures(self, bitmaps: Any, scores: Any) -> None:
        owner = (bitmaps * scores[:, None, None]).argmax(axis=0)
        expected = (owner == np.arange(4)[:, None, None]) & bitmaps.any(axis=0)
        assert (exclusive(Masks.from_bitmaps(bitmaps), scores).bitmaps() == expected).all()

    def test_a_claim_of_nothing_wins_nothing_from_others(self) -> None:
        bitmaps = np.ones((2, 3, 3), bool)
        assert exclusive(Masks.from_bitmaps(bitmaps), [0, 0.5]).areas.tolist() == [0, 9]

    def test_what_does_not_overlap_is_not_touched(self) -> None:
        bitmaps = np.zeros((2, 5, 5), bool)
        bitmaps[0, 0], bitmaps[1, 4] = True, True
        masks = Masks.from_bitmaps(bitmaps)
        after = exclusive(masks, [0.5, 0.5])
        assert after.cut(0)[2] is masks.cut(0)[2] and not changed(masks, after).any()

    def test_costs_what_overlaps_costs(self) -> None:
        """Sixty people in 24 megapixels, each in 40 x 40: a stack of whole pictures would take 1.4 GB."""
        bits = np.ones((40, 40), bool)
        masks = Masks.from_cuts([(20 * i, 30, bits) for i in range(60)], (6000, 4000))
        tracemalloc.start()
        after = exclusive(masks, np.linspace(0.9, 0.1, 60))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert after.areas.tolist() == [1600, *[800] * 59] and peak < 2_000_000

    def test_nobody(self) -> None:
        assert len(exclusive(Masks.empty(0, (5, 5)), [])) == 0
        assert exclusive(Masks.empty(2, (5, 5)), [0.1, 0.2]).present.tolist() == [False, False]

    def test_claims(self) -> None:
        parts = [People((9, 9), scores=[0.4, np.nan, 0.6]), People((9, 9), boxes=[[0, 0, 1, 1]])]
        np.testing.assert_allclose(
            claims(parts, np.float32([0.9, np.nan, np.nan, np.nan])), [0.9, 1, 0.6, 1], rtol=1e-6
        )


def test_changed() -> None:
    a = np.zeros((4, 6, 6), bool)
    a[:3, 1:3, 1:3] = True
    b = a.copy()
    b[1] = np.roll(a[1], 1, axis=0)  # moved, of the same form
    b[2, 1, 1] = False
    b[3, 0, 0] = True
    assert changed(Masks.from_bitmaps(a, (6, 6)), Masks.from_bitmaps(b, (6, 6))).tolist() == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_masked_out(n: int) -> None:
    rng = np.random.default_rng(n)
    pixels = rng.integers(1, 255, (20, 30, 3), dtype=np.uint8)
    image = Image(pixels, path="a.jpg", frame=3)
    bitmaps = rng.random((n, 20, 30)) < 0.3
    hidden = bitmaps.any(axis=0) if n else np.zeros((20, 30), bool)
    out = masked_out(image, Masks.from_bitmaps(bitmaps, (30, 20)))
    assert (out.pixels == np.where(hidden[..., None], 0, pixels)).all()
    assert out.source == image.source and (image.pixels == pixels).all()
    assert n or out is image
