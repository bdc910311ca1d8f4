"""The loop over one picture: what goes in and out of the roles, what people's histories say, each choice by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bodyloop.errors import ConfigError, InputError
from bodyloop.loop import BMP_D3, BMP_J1, BMP_N, BMP_V2, BodyLoop, LoopConfig, Parity, find_config
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import Prompt
from tests.loop.scene import PHOTO, Drawer, Stage, found, person, rectangle, run, told
from tests.parity_loop.players import SIZE, Discs, Finder, Poser

PLAIN = LoopConfig(detector_nms=1.0)
LEFT, RIGHT, MIDDLE = person(30), person(130), person(80)


def box_filler(score: float = 0.8) -> Drawer:
    """A segmenter whose mask is the whole box."""

    def draw(p: Prompt) -> tuple[Any, float]:
        assert p.box is not None
        return rectangle(*p.box.astype(int)), score

    return Drawer(draw)


class TestPasses:
    def test_people_of_all_passes(self) -> None:
        stage = run(PLAIN, [LEFT], [RIGHT])
        people, passes = stage.result.people, stage.result.passes
        assert people.boxes is not None and people.boxes[:, 0].tolist() == [10, 110]
        assert [h.pass_number for h in people.provenance or ()] == [1, 2]
        assert [len(p.people) for p in passes] == [1, 2] and stage.result.ended == "passes"
        assert people.masks is not None and people.masks.present.all() and people.source == PHOTO.source
        assert stage.segmenter.encoded == [SIZE]  # once
        assert told(people, "found") == [["by the detector"]] * 2
        assert told(people, "mask") == [["drawn from 3 points"]] * 2

    def test_the_second_pass_sees_the_first_ones_black_and_poses_see_all(self) -> None:
        stage = run(PLAIN, [LEFT], [RIGHT])
        first, second = (i.pixels for i in stage.detector.shown)
        masks = stage.result.passes[1].masked_out
        assert (first == PHOTO.pixels).all()
        assert (second == np.where(masks.bitmap(0)[..., None], 0, PHOTO.pixels)).all() and masks.areas[
            0
        ] > 100
        assert all((i.pixels == PHOTO.pixels).all() for i in stage.pose.shown)

    def test_somebody_found_again_is_dropped_and_says_why(self) -> None:
        again = person(30, box=[8, 5, 52, 100])
        stage = run(PLAIN.changed(prefer_known=True), [LEFT], [again, RIGHT])
        second = stage.result.passes[1]
        assert second.kept.tolist() == [1] and len(second.dropped_known) == 0
        assert told(second.posed, "dropped") == [["in the same pose as somebody known (OKS 1.00)"], []]
        dropped = stage.result.dropped
        assert dropped is not None and len(dropped) == 1 and dropped.masks is None
        assert stage.result.people.boxes is not None and len(stage.result.people) == 2

    def test_a_better_pose_replaces_somebody_known(self) -> None:
        few = person(30)
        sure = np.full((1, 17), 0.1, np.float32)
        sure[0, 5:] = 0.9
        stage = run(PLAIN, [few.replace(map_scores=sure), RIGHT], [person(30, box=[8, 5, 52, 100])])
        second = stage.result.passes[1]
        assert second.dropped_known.tolist() == [0] and second.kept.tolist() == [0]
        assert stage.result.people.boxes is not None
        assert stage.result.people.boxes[:, 0].tolist() == [110, 8]
        assert stage.result.dropped is not None
        [[why]] = told(stage.result.dropped, "dropped")
        assert why.startswith("in the same pose as somebody else of this pass (OKS 1.00")

    def test_prefer_known(self) -> None:
        """The same: but whoever is known stays, and its box with it."""
        sure = np.full((1, 17), 0.1, np.float32)
        sure[0, 5:] = 0.9
        few = person(30).replace(map_scores=sure)
        stage = run(PLAIN.changed(prefer_known=True), [few, RIGHT], [person(30, box=[8, 5, 52, 100])])
        assert stage.result.people.boxes is not None and stage.result.people.boxes[:, 0].tolist() == [10, 110]
        assert not PLAIN.prefer_known and BMP_N.prefer_known

    def test_nobody(self) -> None:
        result = run(PLAIN, [], []).result
        assert len(result.people) == 0 and len(result.passes) == 2 and result.dropped is None
        assert result.people.masks is not None and result.people.boxes is not None

    def test_nobody_has_the_pose_model_s_shapes(self) -> None:
        pose = Poser(person())
        pose.skeleton = person().skeleton  # type: ignore[attr-defined]
        result = BodyLoop(Finder([People.empty(SIZE)]), pose, Discs(), LoopConfig(passes=1)).run(PHOTO)
        assert result.people.keypoints is not None and result.people.keypoints.shape == (0, 17, 2)

    def test_nobody_first_somebody_then(self) -> None:
        result = run(PLAIN, [], [LEFT]).result
        assert [h.pass_number for h in result.people.provenance or ()] == [2]

    def test_second_detector_looks_from_the_second_pass_on(self) -> None:
        first, second = Finder([found(LEFT)]), Finder([found(RIGHT), found()])
        poses = Poser(People.concat([LEFT, RIGHT]))
        result = BodyLoop(first, poses, Discs(), PLAIN.changed(passes=3), second).run(PHOTO)
        assert len(first.shown) == 1 and len(second.shown) == 2
        assert told(result.people, "found") == [["by the detector"], ["by the second detector"]]

    def test_box_nms_counts_sides_with_one_more_and_takes_scores_above_the_threshold(self) -> None:
        """3.9: 10 x 10 boxes 5 px apart share 6 * 11 of 176 px: 0.375; without the ones 0.333."""
        boxes = np.float32([[10, 10, 20, 20], [15, 10, 25, 20], [60, 10, 70, 20], [90, 10, 99, 20]])
        people = People(SIZE, boxes=boxes, scores=[0.5, 0.9, 0.31, 0.3])
        poses = Poser(People.concat([person(0, box=b) for b in boxes]))
        config = LoopConfig(passes=1, pose_nms=1.0)
        for nms, expected in ((0.37, [15, 60]), (0.38, [15, 10, 60])):
            loop = BodyLoop(Finder([people]), poses, Discs(), config.changed(detector_nms=nms))
            detected = loop.run(PHOTO).passes[0].detected
            assert detected.boxes is not None and detected.boxes[:, 0].tolist() == expected

    def test_seconds_of_every_role(self) -> None:
        now = [0.0]

        class Slow(Finder):
            def detect(self, images: Any) -> Any:
                now[0] += 3
                return super().detect(images)

        config = PLAIN.changed(passes=1)
        loop = BodyLoop(Slow([found(LEFT)]), Poser(LEFT), Discs(), config, clock=lambda: now[0])
        assert loop.run(PHOTO).passes[0].seconds == {"detect": 3, "pose": 0, "segment": 0, "loop": 0}


class TestGiven:
    def test_boxes_in_place_of_the_first_detection(self) -> None:
        stage = run(PLAIN, [RIGHT], more=[LEFT], boxes=LEFT.boxes)
        assert len(stage.detector.shown) == 1  # in the second pass
        people = stage.result.people
        assert people.scores is not None and people.scores[0] == 1
        assert told(people, "found") == [["given by the caller"], ["by the detector"]]
        assert stage.pose.asked[0].masks is None

    def test_masks_are_what_the_pose_sees(self) -> None:
        bits = rectangle(10, 5, 50, 100)
        poses, detector = Poser(LEFT), Finder([])
        BodyLoop(detector, poses, Discs(), PLAIN.changed(passes=1)).run(PHOTO, masks=[bits])
        assert poses.asked[0].boxes is not None and poses.asked[0].boxes.tolist() == [[10, 5, 50, 100]]
        assert poses.asked[0].masks is not None and poses.asked[0].masks.areas[0] == 40 * 95
        assert not detector.shown

    def test_people_with_what_else_is_known_of_them(self) -> None:
        given = People(SIZE, boxes=LEFT.boxes, scores=[0.4], extra={"mine": np.array([7])})
        result = BodyLoop(Finder([]), Poser(LEFT), Discs(), PLAIN.changed(passes=1)).run(PHOTO, given)
        assert result.people.extra["mine"].tolist() == [7] and result.people.scores is not None
        assert result.people.scores[0] == np.float32(0.4)

    def test_given_people_stay(self) -> None:
        """Twins without a sure keypoint, and somebody found later in the same pose with all of them."""
        twins = [person(30, box=[9 + i, 5, 50, 100]) for i in range(2)]
        blind = People.concat(twins).replace(map_scores=np.full((2, 17), 0.1))
        for config in (PLAIN, PLAIN.changed(parity=Parity.published())):
            poses = Poser(People.concat([blind, LEFT.replace(boxes=[[8, 5, 52, 100]])]))
            detector = Finder([People(SIZE, boxes=[[8, 5, 52, 100]], scores=[0.9])])
            result = BodyLoop(detector, poses, Discs(), config).run(PHOTO, blind.boxes)
            assert result.people.boxes is not None and result.people.boxes[:2, 0].tolist() == [9, 10]
            assert len(result.people) == 2 and result.dropped is not None and len(result.dropped) == 1

    def test_given_people_are_not_thinned_by_boxes(self) -> None:
        two = np.concatenate([LEFT.boxes, LEFT.boxes + np.float32(1)])  # type: ignore[list-item, operator]
        poses = Poser(People.concat([LEFT, person(130, box=two[1])]))
        result = BodyLoop(Finder([]), poses, Discs(), LoopConfig(passes=1)).run(PHOTO, two)
        assert len(result.people) == 2

    def test_the_picture_itself(self) -> None:
        poses = Poser(person(50, box=[0, 0, *SIZE]))
        result = BodyLoop(Finder([]), poses, Discs(), PLAIN.changed(passes=1)).run(PHOTO, "image")
        assert len(result.people) == 1


class TestMasks:
    def test_a_detector_without_masks(self) -> None:
        stage = run(PLAIN.changed(passes=1), [LEFT])
        assert stage.pose.asked[0].masks is None and stage.result.people.masks is not None

    def test_pose_sees_the_detector_s_masks(self) -> None:
        masks = Masks.from_bitmaps([rectangle(10, 5, 50, 100)], SIZE)
        stage = run(PLAIN.changed(passes=1), [LEFT], masks=[masks])
        assert stage.pose.asked[0].masks is not None and stage.pose.asked[0].masks.equals(masks)

    def test_every_pixel_to_one_person_and_old_masks_make_room(self) -> None:
        """The second pass's person has the better score: 20 px of the first one's box are its own."""
        a, b = person(40), person(60)

        def draw(p: Prompt) -> tuple[Any, float]:
            assert p.box is not None
            return rectangle(*p.box.astype(int)), 0.5 if p.box[0] == 20 else 0.9

        config = PLAIN.changed(prompt_box=True)
        people = run(config, [a], [b], segmenter=Drawer(draw)).result.people
        assert people.masks is not None and people.masks.areas.tolist() == [20 * 95, 40 * 95]
        assert told(people, "mask")[0] == ["drawn from 3 points, box", "made room for somebody found later"]
        published = config.changed(parity=Parity(keep_old_masks=True))
        people = run(published, [a], [b], segmenter=Drawer(draw)).result.people
        assert people.masks is not None and people.masks.areas.tolist() == [40 * 95, 40 * 95]
        loose = run(config.changed(exclusive=False), [a], [b], segmenter=Drawer(draw)).result.people
        assert loose.masks is not None and loose.masks.areas.tolist() == [40 * 95, 40 * 95]

    def test_nobody_valid_keeps_the_detector_s_mask(self) -> None:
        masks = Masks.from_bitmaps([rectangle(10, 5, 50, 100)], SIZE)
        stage = run(PLAIN.changed(passes=1), [person(30, seen=0.1)], masks=[masks])
        people = stage.result.people
        assert people.masks is not None and people.masks.equals(masks) and not stage.segmenter.prompts
        assert people.mask_scores is not None and np.isnan(people.mask_scores[0])
        assert told(people, "mask") == [["kept: no valid keypoint"]]
        assert stage.result.passes[0].prompts == (None,) and not stage.segmenter.encoded

    def test_a_segmenter_that_draws_nothing(self) -> None:
        masks = Masks.from_bitmaps([rectangle(10, 5, 50, 100)], SIZE)
        nothing = Drawer(lambda p: (rectangle(0, 0, 0, 0), 0.1))
        people = run(PLAIN.changed(passes=1), [LEFT], masks=[masks], segmenter=nothing).result.people
        assert people.masks is not None and people.masks.equals(masks)
        assert told(people, "mask") == [["kept: the segmenter drew nothing for 3 points"]]

    def test_consistency_choice(self) -> None:
        """The detector's mask holds all points, the one drawn none."""
        masks = Masks.from_bitmaps([rectangle(10, 5, 50, 100)], SIZE)
        wrong = Drawer(lambda p: (rectangle(100, 5, 120, 20), 0.9))
        people = run(PLAIN.changed(passes=1), [LEFT], masks=[masks], segmenter=wrong).result.people
        assert people.masks is not None and people.masks.boxes[0, 0] == 100
        config = PLAIN.changed(passes=1, consistency_choice=True)
        people = run(config, [LEFT], masks=[masks], segmenter=wrong).result.people
        assert people.masks is not None and people.masks.equals(masks)
        assert told(people, "mask") == [["kept: it agrees better with the pose than the one drawn"]]

    def test_crop_encodes_each_box_and_puts_masks_back(self) -> None:
        """Box 10..50, 5..100, half as large again: 0..60, -19..124, cut at 0..120."""
        full = Drawer(lambda p: (np.zeros((0, 0), bool), 0.9))

        def draw(p: Prompt) -> tuple[Any, float]:
            assert p.box is not None
            x1, y1, x2, y2 = p.box.astype(int)
            bits = np.zeros(full.encoded[-1].pixels.shape[:2], bool)
            bits[y1:y2, x1:x2] = True
            return bits, 0.9

        full.draw = draw
        config = PLAIN.changed(passes=1, crop=True, prompt_box=True)
        people = run(config, [RIGHT, LEFT], segmenter=full).result.people
        assert [i.size for i in full.encoded] == [(60, 120), (60, 120)]
        assert people.masks is not None and people.masks.boxes.tolist() == [
            [110, 5, 150, 100],
            [10, 5, 50, 100],
        ]
        assert (full.encoded[1].pixels == PHOTO.pixels[:, :60]).all()

    def test_crop_of_a_box_without_a_whole_pixel(self) -> None:
        tiny = person(159, box=[159.9, 10.1, 160.4, 10.2])
        drawer = Drawer(lambda p: (np.ones((1, 1), bool), 0.9))
        people = run(
            PLAIN.changed(passes=1, crop=True, prompt_box=True), [tiny], segmenter=drawer
        ).result.people
        assert people.masks is not None and people.masks.boxes.tolist() == [[159, 10, 160, 11]]

    def test_a_run_that_sends_boxes(self) -> None:
        stage = run(PLAIN.changed(passes=1, prompt_box=True), [LEFT, RIGHT])
        assert [p.box.tolist() for p in stage.segmenter.prompts] == [[10, 5, 50, 100], [110, 5, 150, 100]]

    def test_channels_for_the_segmenter(self) -> None:
        for parity, order in (
            (Parity(), slice(None)),
            (Parity(bgr_to_segmenter=True), slice(None, None, -1)),
        ):
            drawer = box_filler()
            run(PLAIN.changed(passes=1, prompt_box=True, parity=parity), [LEFT], segmenter=drawer)
            assert (drawer.encoded[0].pixels == PHOTO.pixels[..., order]).all()


class TestFieldsOfOurs:
    """Each is off in the published configurations."""

    def test_size_gates(self) -> None:
        small = person(120, box=[110, 5, 130, 30])
        masks = Masks.from_bitmaps([rectangle(10, 5, 50, 100), rectangle(110, 5, 130, 30)], SIZE)
        for gate in ({"min_box_height": 32.0}, {"min_box_area": 600.0}):
            stage = run(PLAIN.changed(passes=1, **gate), [LEFT, small], masks=[masks])
            people = stage.result.people
            assert len(stage.segmenter.prompts) == 1 and people.masks is not None
            assert people.masks[1].equals(masks[1]) and not people.masks[0].equals(masks[0])
            assert told(people, "mask")[1] == ["kept: the person is small"]
            assert stage.result.passes[0].prompts[1] is None
        assert len(run(PLAIN.changed(passes=1), [LEFT, small], masks=[masks]).segmenter.prompts) == 2

    def test_least_quality(self) -> None:
        poor, fair = RIGHT.replace(map_scores=np.full((1, 17), 0.4, np.float32)), MIDDLE
        config = PLAIN.changed(least_quality=0.45, confidence=0.3)
        stage = run(config, [LEFT], [poor, fair])
        second = stage.result.passes[1]
        assert second.kept.tolist() == [1] and len(stage.result.people) == 2
        assert told(second.posed, "dropped") == [["a pose like nobody's (quality 0.40)"], []]
        assert stage.result.dropped is not None and len(stage.result.dropped) == 1
        assert len(run(config, [poor], []).result.people) == 1  # the first pass is the detector's
        assert len(run(config.changed(least_quality=0), [LEFT], [poor, fair]).result.people) == 3

    def test_somebody_like_nobody_takes_nobody_s_place(self) -> None:
        known = person(30).replace(map_scores=np.array([[0.7, *[0.1] * 16]], np.float32))
        poor = person(30, box=[8, 5, 52, 100]).replace(map_scores=np.full((1, 17), 0.55, np.float32))
        stays = run(PLAIN.changed(least_quality=0.6), [known], [poor]).result
        assert stays.passes[1].dropped_known.tolist() == [] and len(stays.people) == 1
        assert run(PLAIN, [known], [poor]).result.passes[1].dropped_known.tolist() == [0]

    def test_stop_when_settled(self) -> None:
        config = PLAIN.changed(passes=5, stop_when_settled=True)
        result = run(config, [LEFT], [RIGHT], []).result
        assert result.ended == "settled" and len(result.passes) == 3
        result = run(config, []).result  # nobody in the first pass: the next one would see the same
        assert result.ended == "settled" and len(result.passes) == 1
        again = config.changed(prefer_known=True)  # somebody known, found again, is nobody new
        result = run(again, [LEFT], [person(30, box=[8, 5, 52, 100])]).result
        assert result.ended == "settled" and len(result.passes) == 2
        everything = run(config.changed(parity=Parity(run_all_passes=True)), [LEFT], [], [], [], []).result
        assert everything.ended == "passes" and len(everything.passes) == 5

    def test_nobody_in_the_first_pass_is_not_the_end_if_another_looks_next(self) -> None:
        config = PLAIN.changed(passes=3, stop_when_settled=True)
        second = Finder([found(LEFT), found()])
        result = BodyLoop(Finder([found()]), Poser(LEFT), Discs(), config, second).run(PHOTO)
        assert len(result.passes) == 3 and result.ended == "settled"
        result = run(config, [LEFT], [], more=[RIGHT], boxes=np.zeros((0, 4))).result
        assert [len(p.kept) for p in result.passes] == [0, 1, 0]

    def test_time_budget(self) -> None:
        now = [0.0]

        class Slow(Finder):
            def detect(self, images: Any) -> Any:
                now[0] += 3
                return super().detect(images)

        for seconds, passes, ended in ((2, 1, "time"), (4, 2, "time"), (20, 3, "passes"), (0, 1, "time")):
            detector = Slow([found(LEFT), found(RIGHT), found(MIDDLE)])
            poses = Poser(People.concat([LEFT, RIGHT, MIDDLE]))
            config = PLAIN.changed(passes=3, seconds=seconds)
            result = BodyLoop(detector, poses, Discs(), config, clock=lambda: now[0]).run(PHOTO)
            assert (len(result.passes), result.ended) == (passes, ended)

    def test_score_consistency(self) -> None:
        result = run(
            PLAIN.changed(passes=1, score_consistency=True, prompt_box=True), [LEFT], segmenter=box_filler()
        )
        assert result.result.people.extra["consistency"].tolist() == [1]
        assert "consistency" not in run(PLAIN.changed(passes=1), [LEFT]).result.people.extra

    def repose(self, *passes: list[People], **changes: Any) -> Stage:
        config = PLAIN.changed(prompt_box=True, **changes)
        return run(config, *passes, segmenter=box_filler())

    def test_repose(self) -> None:
        """Pose by the detector's mask, then by the refined one, then by that of the second round."""
        masks = Masks.from_bitmaps([rectangle(20, 20, 30, 30)], SIZE)
        config = PLAIN.changed(passes=1, repose=2, prompt_box=True, prompt_mask=True)
        stage = run(config, [LEFT], masks=[masks], segmenter=box_filler())
        areas = [p.masks.areas[0] for p in stage.pose.asked if p.masks is not None]
        assert areas == [100, 40 * 95, 40 * 95] and len(stage.segmenter.calls) == 3
        [[first], [second], _] = stage.segmenter.calls
        assert first.mask is not None and second.mask is not None
        assert first.mask.areas[0] == 100 and second.mask.areas[0] == 40 * 95
        assert [c.what for c in stage.result.people.provenance[0].changes] == [  # type: ignore[index]
            "found", "mask", "pose", "mask", "pose", "mask",
        ]  # fmt: skip
        assert len(stage.segmenter.encoded) == 1 and BMP_V2.repose == 0

    def test_repose_is_not_for_small_people(self) -> None:
        small = person(120, box=[110, 5, 130, 30])
        stage = self.repose([LEFT, small], passes=1, repose=1, min_box_height=32)
        assert [len(p) for p in stage.pose.asked] == [2, 1]
        assert stage.result.people.boxes is not None and len(stage.result.people) == 2

    def test_repose_takes_known_people_along(self) -> None:
        stage = self.repose([LEFT], [RIGHT], repose=1)
        assert [len(p) for p in stage.pose.asked] == [1, 1, 1, 2]
        people = stage.result.people
        assert people.boxes is not None and people.boxes[:, 0].tolist() == [10, 110]  # the order stays

    def test_skip_settled_in_repose(self) -> None:
        """Known people only if a newcomer took pixels of theirs; in later rounds who did not change is left."""
        stage = self.repose([LEFT], [RIGHT], repose=3, skip_settled=True)
        # first pass: posed, then by its new mask, which stays what it is; the second pass the same for the other
        assert [len(p) for p in stage.pose.asked] == [1, 1, 1, 1]
        a, b = person(40), person(60)

        def draw(p: Prompt) -> tuple[Any, float]:
            assert p.box is not None
            return rectangle(*p.box.astype(int)), 0.5 if p.box[0] == 20 else 0.9

        config = PLAIN.changed(prompt_box=True, repose=1, skip_settled=True)
        stage = run(config, [a], [b], segmenter=Drawer(draw))
        assert [len(p) for p in stage.pose.asked] == [1, 1, 1, 2]

    def test_skip_settled_together(self) -> None:
        config = PLAIN.changed(together=True)
        stage = run(config, [LEFT], [RIGHT])
        assert len(stage.segmenter.prompts) == 3  # the known one again
        stage = run(config.changed(skip_settled=True), [LEFT], [RIGHT])
        assert len(stage.segmenter.prompts) == 2
        assert len(stage.result.passes[1].prompts) == 1

    def test_off_in_the_published_ones_on_in_ours(self) -> None:
        ours = (
            "min_box_height",
            "skip_settled",
            "stop_when_settled",
            "score_consistency",
            "prefer_known",
            "compare_larger",
            "least_quality",
        )
        for c in (BMP_D3, BMP_J1, BMP_V2):
            assert not any(getattr(c, f) for f in (*ours, "repose", "seconds", "consistency_choice"))
        assert all(getattr(BMP_N, f) for f in ours)


class TestConfig:
    def test_names(self) -> None:
        assert find_config("BMP_D3") is find_config("bmp-d3") is BMP_D3
        with pytest.raises(ConfigError, match="did you mean 'bmp-v2'"):
            find_config("bmp-v3")

    def test_changed(self) -> None:
        loop = BodyLoop(Finder([]), Poser(person()), Discs(), BMP_V2).with_config(passes=4)
        assert loop.config.passes == 4 and loop.config.name == "bmp-v2"
        with pytest.raises(ConfigError, match="no field 'pases'; did you mean 'passes'"):
            loop.with_config(pases=4)

    def test_published(self) -> None:
        assert all(getattr(Parity.published(), f) for f in Parity.__dataclass_fields__)

    @pytest.mark.parametrize("place", range(3))
    def test_roles_are_checked(self, place: int) -> None:
        roles: list[Any] = [Finder([]), Poser(person()), Discs()]
        roles[place] = lambda image: []
        with pytest.raises(InputError, match=r"has no (detect|estimate|encode)"):
            BodyLoop(*roles)
        with pytest.raises(ConfigError, match="expected a LoopConfig"):
            BodyLoop(Finder([]), Poser(person()), Discs(), "bmp-n")  # type: ignore[arg-type]
