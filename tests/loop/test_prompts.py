"""Which keypoints become prompt points, by hand: rules that the stored numbers do not pin, and what is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bodyloop.geometry import Crop
from bodyloop.loop import BMP_N, LoopConfig, Parity
from bodyloop.loop.config import SELECTIONS
from bodyloop.loop.prompts import Choice, choose, max_overlap, select, too_small
from bodyloop.maps import ProbabilityMaps
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import Prompt
from bodyloop.skeletons import BODY_19
from tests.loop.scene import person
from tests.parity_loop.players import SIZE

LINE = np.float32([[0, 0], [10, 0], [20, 0], [30, 0], [40, 0]])
ONES = np.ones(5, np.float32)


def chosen(method: Any, sure: Any = ONES, rank: Any = ONES, threshold: float = 0.5, **more: Any) -> list[int]:
    return select(method, LINE, np.float32(sure), np.float32(rank), threshold, **more).tolist()


class TestSelect:
    def test_at_the_threshold_is_a_candidate(self) -> None:
        assert chosen("k_most_visible", rank=[0.5, 0.49, 0.9, 0.1, 0.6]) == [2, 4, 0]
        assert chosen("closest", rank=[0.5, 0.49, 0.9, 0.1, 0.1]) == [0, 2]

    def test_confidence_does_not_admit(self) -> None:
        assert chosen("k_most_visible", sure=[0, 0, 0, 0, 0.0]) != []

    def test_one_of_the_face(self) -> None:
        rank, faces = [0.6, 0.9, 0.7, 0.5, 0.5], (np.array([0, 1, 2]),)
        assert chosen("closest", rank=rank, faces=faces, box=np.float32([0, 0, 0, 0])) == [1, 3, 4]
        assert chosen("k_most_visible", rank=rank, faces=faces)[:3] == [1, 2, 0]
        equal = [0.6, 0.6, 0.6, 0.1, 0.1]
        assert chosen("closest", rank=equal, faces=faces) == [0]  # of equals the first

    def test_a_face_that_is_not_seen_leaves_the_rest(self) -> None:
        assert chosen("closest", rank=[0.1, 0.2, 0.3, 0.5, 0.6], faces=(np.array([0, 1, 2]),)) == [3, 4]

    def test_closest_to_the_box_or_to_the_mean(self) -> None:
        assert chosen("closest", box=np.float32([35, -5, 45, 5])) == [4, 3, 2, 1, 0]
        assert chosen("closest", rank=[1, 1, 0, 0, 1])[0] == 1  # mean x is 16.7

    def test_distance_adds_three_times_how_alone(self) -> None:
        # candidates x 0, 10, 40 about 20: d = 20, 10, 20; nearest other 10, 10, 30; sums 50, 40, 110
        box = np.float32([10, -10, 30, 10])
        assert chosen("distance", rank=[1, 1, 0, 0, 1], box=box) == [4, 0, 1]
        assert chosen("distance", rank=[0, 1, 0, 0, 0]) == [1]  # alone, nobody to be near to

    def test_spread_takes_the_surest_then_the_farthest_of_the_sure(self) -> None:
        # left after the surest: .8 .7 .6 .5 and a -1; their 80th percentile is .72: only the .8 may
        sure = [0.5, 0.9, 0.6, 0.8, 0.7]
        assert chosen("distance+confidence", sure=sure)[:2] == [1, 3]
        # then .7 .6 .5 -1 -1: the percentile is .62, the .7 at x 40; then .6 (x 20) before .5 (x 0)
        assert chosen("distance+confidence", sure=sure) == [1, 3, 4, 2, 0]

    def test_spread_with_all_at_one_place_takes_everybody_once(self) -> None:
        same = np.zeros((5, 2), np.float32)
        order = select("distance+confidence", same, ONES, ONES, 0.5).tolist()
        assert sorted(order) == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("method", SELECTIONS)
    @settings(max_examples=50, deadline=None)
    @given(
        rank=hnp.arrays(np.float32, 5, elements=st.floats(0, 1, width=32)),
        sure=hnp.arrays(np.float32, 5, elements=st.floats(0, 1, width=32)),
        limit=st.integers(0, 6),
    )
    def test_a_limit_cuts_and_nobody_comes_twice(self, method: Any, rank: Any, sure: Any, limit: int) -> None:
        whole = chosen(method, sure, rank)
        assert sorted(whole) == np.flatnonzero(rank >= 0.5).tolist()
        assert chosen(method, sure, rank, limit=limit) == whole[:limit]

    def test_nobody(self) -> None:
        assert all(chosen(m, rank=np.zeros(5)) == [] for m in SELECTIONS)


def prompt(choice: Choice) -> Prompt:
    assert choice.prompt is not None
    return choice.prompt


class TestOneByOne:
    def test_points_of_its_own(self) -> None:
        [a, b] = choose(People.concat([person(30), person(120)]), None, LoopConfig())
        assert len(prompt(a).points) == 3 and (prompt(a).points[:, 0] == 30).all()
        assert (prompt(b).points[:, 0] == 120).all() and prompt(a).box is None

    def test_nobody_overlaps_nobody_is_a_crowd(self) -> None:
        config = LoopConfig(positives=2, positives_if_crowd=5, crowd_iou=0.3, prompt_box=True)
        apart = choose(People.concat([person(30), person(120)]), None, config)
        assert [len(prompt(c).points) for c in apart] == [2, 2] and prompt(apart[0]).box is not None
        close = choose(person(50), person(60), config)  # boxes of 40 px share 30 of 50
        assert len(prompt(close[0]).points) == 5 and prompt(close[0]).box is None

    def test_no_crowd_without_a_limit_but_in_the_published_way(self) -> None:
        config = LoopConfig(positives=2, positives_if_crowd=5, prompt_box=True)
        assert prompt(choose(person(50), person(60), config)[0]).box is not None
        config = config.changed(parity=Parity(false_crowd_is_zero=True))
        assert prompt(choose(person(50), person(60), config)[0]).box is None

    def test_negatives_come_from_all_others_nearest_first(self) -> None:
        config = LoopConfig(negatives=4)
        others = People.concat([person(150), person(70)])
        sent = prompt(choose(person(50), others, config)[0])
        assert sent.labels.tolist() == [1, 1, 1, 0, 0, 0, 0] and (sent.points[3:, 0] == 70).all()

    def test_one_face_of_each_neighbour(self) -> None:
        others = People.concat([person(150), person(70)])
        sent = prompt(choose(person(50), others, LoopConfig(negatives=100))[0])
        faces = sent.points[(sent.labels == 0) & (sent.points[:, 1] < 25)]  # nose and eyes: y 10, 15, 20
        assert sorted(faces[:, 0].tolist()) == [70, 150]
        parity = Parity(face_of_first_neighbour=True)
        sent = prompt(choose(person(50), others, LoopConfig(negatives=100, parity=parity))[0])
        faces = sent.points[(sent.labels == 0) & (sent.points[:, 1] < 25)]
        assert sorted(faces[:, 0].tolist()) == [70, 70, 70, 150]

    def test_an_extended_box_holds_its_points_and_two_px_more(self) -> None:
        config = LoopConfig(prompt_box=True, extend_box=True, positives=1)
        sent = prompt(choose(person(50, box=[40, 20, 60, 80]), None, config)[0])
        assert sent.points.tolist() == [[50, 90]] and sent.box is not None
        assert sent.box.tolist() == [40, 20, 60, 92]

    def test_nothing_to_say_nothing_sent(self) -> None:
        unseen = person(50, seen=0.2)
        assert choose(unseen, None, LoopConfig())[0].prompt is None
        published = LoopConfig(parity=Parity(empty_prompts=True))
        assert prompt(choose(unseen, None, published)[0]).points.shape == (0, 2)
        boxed = prompt(choose(unseen, None, LoopConfig(prompt_box=True))[0])
        assert boxed.points.shape == (0, 2) and boxed.box is not None

    def test_corners_read_as_sides(self) -> None:
        config = LoopConfig(prompt_box=True, parity=Parity(boxes_as_xywh=True))
        sent = prompt(choose(person(50, box=[30, 5, 70, 100]), None, config)[0])
        assert sent.box is not None and sent.box.tolist() == [30, 5, 100, 105]

    def test_mask_maps_and_neighbours(self) -> None:
        people = People.concat([person(30), person(60), person(140)]).replace(
            masks=Masks.from_bitmaps([np.ones((120, 160), bool), None, None], SIZE)
        )
        crop = Crop.from_boxes(people.boxes, size=(12, 16), map_size=(3, 4))
        values = np.arange(3, dtype=np.float32)[:, None, None, None] * np.ones((3, 17, 4, 3), np.float32)
        people = people.replace(maps=ProbabilityMaps.single(values, crop, np.ones(17)))
        each = [prompt(c) for c in choose(people, None, BMP_N)]
        assert each[0].mask is not None and each[1].mask is None
        assert [p.maps is not None and p.maps.layers[0].values.max() for p in each] == [0, 1, 2]
        near = [None if p.neighbours is None else p.neighbours.boxes[:, 0].tolist() for p in each]  # type: ignore[index]
        assert near == [[40], [10], None]
        plain = prompt(choose(people, None, LoopConfig())[0])
        assert plain.mask is plain.maps is plain.neighbours is None

    def test_small_people_are_left_alone(self) -> None:
        people = People.concat([person(30), person(120, box=[110, 5, 130, 30])])
        assert too_small(people, LoopConfig(min_box_height=32)).tolist() == [False, True]
        assert too_small(people, LoopConfig(min_box_area=600)).tolist() == [False, True]  # 20 x 25
        assert too_small(people, LoopConfig()).tolist() == [False, False]
        assert [c.prompt is None for c in choose(people, None, LoopConfig(min_box_height=32))] == [
            False,
            True,
        ]
        # corners as sides: 130 x 30
        config = LoopConfig(min_box_area=600, parity=Parity(boxes_as_xywh=True))
        assert too_small(people, config).tolist() == [False, False]


class TestTogether:
    config = LoopConfig(together=True, selection="distance+confidence", positives=4, positives_if_crowd=6)

    def test_lists_are_filled_up_with_their_last_point(self) -> None:
        few = person(120)
        seen = np.zeros((1, 17), np.float32)
        seen[0, [5, 9]] = 0.9
        [a, b] = choose(People.concat([person(30), few.replace(visibility=seen)]), None, self.config)
        assert len(prompt(a).points) == len(prompt(b).points) == 4
        assert prompt(b).points[:, 1].tolist() == [55, 35, 35, 35]  # keypoints 9 (surer), 5, 5, 5

    def test_longer_lists_than_anybody_has_valid_keypoints_are_cut(self) -> None:
        """Points are admitted by visibility, counted as valid by confidence, too: where the reference fails."""
        unsure = person(30)
        sure = np.full((1, 17), 0.4, np.float32)
        sure[0, 9] = 0.8
        [a] = choose(unsure.replace(map_scores=sure), None, self.config)
        assert len(prompt(a).points) == 4

    def test_nobody_gets_another_ones_points(self) -> None:
        people = People.concat([person(30), person(80, seen=0.1), person(130)])
        a, b, c = choose(people, None, self.config)
        assert (
            (prompt(a).points[:, 0] == 30).all()
            and b.prompt is None
            and (prompt(c).points[:, 0] == 130).all()
        )

    def test_one_crowd_is_everybody(self) -> None:
        config = self.config.changed(crowd_iou=0.3, prompt_box=True)
        each = choose(People.concat([person(30), person(40), person(130)]), None, config)
        assert [len(prompt(c).points) for c in each] == [6, 6, 6] and all(prompt(c).box is None for c in each)

    def test_known_people_are_asked_again_unless_settled(self) -> None:
        assert len(choose(person(30), person(120), self.config)) == 2
        assert len(choose(person(30), person(120), self.config.changed(skip_settled=True))) == 1

    def test_nobody_at_all(self) -> None:
        assert [c.prompt for c in choose(person(30, seen=0), None, self.config)] == [None]


def test_more_keypoints_than_coco() -> None:
    """body-19: the face rule by name, and its neck may be a point."""
    y = np.linspace(10, 100, 19)
    points = np.stack([np.full(19, 50), y], axis=1)[None]
    seen = np.full((1, 19), 0.6, np.float32)
    seen[0, 17] = 0.95
    people = People(
        SIZE, skeleton=BODY_19, boxes=[[30, 5, 70, 110]], keypoints=points, visibility=seen,
        map_scores=np.full((1, 19), 0.9),
    )  # fmt: skip
    sent = prompt(choose(people, None, LoopConfig(positives=19))[0])
    assert len(sent.points) == 19 and sent.points[0, 1] == np.float32(y[17])
    sent = prompt(choose(people, None, LoopConfig(positives=19, selection="closest"))[0])
    assert len(sent.points) == 17 and not np.isin(y[[1, 2]].astype(np.float32), sent.points[:, 1]).any()


def test_largest_overlap() -> None:
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 10, 5], [5, 0, 15, 10], [100, 0, 110, 10]])
    np.testing.assert_allclose(max_overlap(boxes), [0.5, 0.5, 1 / 3, 0])
    assert max_overlap(boxes[:1]).tolist() == [0] and max_overlap(boxes[:0]).shape == (0,)
