"""Prompts, pose NMS, exclusive masks and consistency against the reference's numbers (glue/glue.json).

Where the reference fails the right result is worked out by hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bodyloop.geometry import boxes_from_xywh, suppress
from bodyloop.loop import BodyLoop, LoopConfig, LoopResult, Parity
from bodyloop.loop.consistency import agreement
from bodyloop.loop.joints import Joints
from bodyloop.loop.merge import exclusive, pose_nms, pose_similarity
from bodyloop.loop.prompts import choose, max_overlap, select
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import Prompt
from tests.parity_loop.players import (
    SIZE,
    Discs,
    Finder,
    Poser,
    config_of,
    disc_mask,
    photo,
    posed,
)
from tests.parity_loop.stored import close_numbers, load_json, seen

FILE = "glue/glue.json"
GLUE: dict[str, Any] = load_json(FILE)
# as the stored functions were called: boxes that are what they are said to be
CALLED = Parity(empty_prompts=True, false_crowd_is_zero=True, face_of_first_neighbour=True)


def names(key: str) -> list[Any]:
    return [pytest.param(i, id=f"{i}-{c['name']}") for i, c in enumerate(GLUE[key])]


class TestPoseNms:
    stored = GLUE["pose_nms"]

    @pytest.mark.parametrize("i", range(len(stored["cases"])))
    def test_case(self, i: int) -> None:
        case = self.stored["cases"][i]
        boxes = np.array(self.stored["boxes_xyxy"])
        if case["box_kind"] == "xywh":
            boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        people = posed(boxes, self.stored["keypoints"], np.ones((6, 17)))
        config = LoopConfig(confidence=case["confidence_thr"], parity=Parity(boxes_as_xywh=True))
        oks, strength = pose_similarity(people, config)
        at = ("pose_nms", "cases", str(i))
        close_numbers(strength.tolist(), FILE, *at, "num_valid", tolerance=0)
        close_numbers(oks.tolist(), FILE, *at, "oks", tolerance=1e-6)
        lost = pose_nms(oks, strength, case["oks_thr"], whole_groups=True)
        close_numbers([i for i in range(6) if i not in lost], FILE, *at, "keep", tolerance=0)


@pytest.mark.parametrize("i", range(len(GLUE["box_nms"]["cases"])))
def test_box_nms(i: int) -> None:
    dets = np.array(GLUE["box_nms"]["dets"])[::-1]  # of equal scores the reference takes the last first
    kept = (
        len(dets) - 1 - suppress(dets[:, :4], dets[:, 4], GLUE["box_nms"]["cases"][i]["thr"], inclusive=True)
    )
    close_numbers(kept.tolist(), FILE, "box_nms", "cases", str(i), "keep", tolerance=0)


@pytest.mark.parametrize("i", range(len(GLUE["select"]["cases"])))
def test_select(i: int) -> None:
    case = GLUE["select"]["cases"][i]
    pose = GLUE["select"]["poses"][case["pose"]]
    box = None if case["bbox"] is None else np.array(case["bbox"], np.float32)
    joints = Joints.of(posed([[0, 0, 9, 9]], [pose["keypoints"]], [pose["visibility"]]), LoopConfig())
    chosen = select(
        case["method"], joints.points[0], joints.confidence[0], joints.rank[0], case["visibility_thr"],
        faces=(joints.face,), box=box,
    )  # fmt: skip
    if not case["num_visible"]:  # who has no valid keypoint is not asked about
        chosen = chosen[:0]
    values = joints.rank if case["method"] == "k_most_visible" else joints.confidence
    close_numbers(chosen.tolist(), FILE, "select", "cases", str(i), "indices", tolerance=0)
    close_numbers(values[0][chosen].tolist(), FILE, "select", "cases", str(i), "values", tolerance=0)


def test_max_ious() -> None:
    boxes = boxes_from_xywh(GLUE["max_ious"]["boxes_xywh"])
    close_numbers(max_overlap(boxes).tolist(), FILE, "max_ious", "values", tolerance=1e-9)


@pytest.mark.parametrize("i", range(len(GLUE["consistency"]["cases"])))
def test_consistency(i: int) -> None:
    case = GLUE["consistency"]["cases"][i]
    mask = Masks.from_rle([GLUE["consistency"]["mask"]])
    sides = [np.array(case[k], np.float32) for k in ("pos", "neg")]
    on, off = (s[s[:, 2] > 0.5, :2] for s in sides)
    both = agreement(mask, 0, np.concatenate([on, off]), np.repeat([1, 0], [len(on), len(off)]))
    alone = agreement(mask, 0, on, np.ones(len(on), np.int64))
    for key, value in {"both": both, "pos_only": alone, "as_uint8": both}.items():
        close_numbers(value, FILE, "consistency", "cases", str(i), key, tolerance=1e-9)


def test_exclusive() -> None:
    stored = GLUE["exclusive"]
    masks = exclusive(Masks.from_rle(stored["masks"]), stored["scores"])
    assert masks.equals(Masks.from_rle(stored["result"]))
    seen(FILE, "exclusive", "result")


def run(people: People, config: LoopConfig) -> tuple[LoopResult, Discs]:
    """One pass over people who are found as they stand, nobody of them twice."""
    segmenter = Discs()
    scores = 0.9 - 0.2 * np.arange(len(people))
    found = People(SIZE, boxes=people.boxes, masks=people.masks, scores=scores)
    config = config.changed(passes=1, pose_nms=1.0)
    return BodyLoop(Finder([found]), Poser(people), segmenter, config).run(photo()), segmenter


def same_prompt(prompt: Prompt, *at: str) -> None:
    """Hold a prompt to what the reference's segmenter was called with."""
    close_numbers(prompt.points.tolist(), FILE, *at, "point_coords", tolerance=1e-5)
    close_numbers(prompt.labels.tolist(), FILE, *at, "point_labels", tolerance=0)
    close_numbers(None if prompt.box is None else prompt.box.tolist(), FILE, *at, "box", tolerance=1e-5)
    # one mask a prompt is all that a segmenter is ever asked for
    close_numbers(False, FILE, *at, "multimask_output", tolerance=0)


def ellipse(box: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The stored detector's mask of a box."""
    y, x = np.mgrid[:120, :160]
    x1, y1, x2, y2 = box
    return np.asarray(
        ((x - (x1 + x2) / 2) / ((x2 - x1) / 2)) ** 2 + ((y - (y1 + y2) / 2) / ((y2 - y1) / 2)) ** 2 <= 1
    )


class TestOneByOne:
    """key pose2seg: the first person is asked about, the others are context."""

    @pytest.mark.parametrize("i", names("pose2seg"))
    def test_case(self, i: int) -> None:
        case = GLUE["pose2seg"][i]
        n = len(case["others_keypoints"])
        boxes = [
            case["box_xyxy"],
            *([100 + 25 * k, 0, 120 + 25 * k, 20] for k in range(n)),
        ]  # nobody overlaps
        people = posed(
            boxes, [case["keypoints"], *case["others_keypoints"]],
            [case["visibility"], *case["others_visibility"]],
        )  # fmt: skip
        detector = Masks.from_rle([case["gt_mask"], *[None] * n], SIZE)
        config = config_of(case["args"], exclusive=False, parity=CALLED)
        result, segmenter = run(people.replace(masks=detector), config)
        prompt, at = segmenter.prompts[0], ("pose2seg", str(i))
        assert len(case["call"]) == 1
        same_prompt(prompt, *at, "call", "0")
        assert result.people.masks is not None and result.people.mask_scores is not None
        assert result.people.masks[0].equals(Masks.from_rle([case["mask"]]))
        seen(FILE, *at, "mask")
        score = float(result.people.mask_scores[0])
        close_numbers(score, FILE, *at, "score", tolerance=1e-6)

    @pytest.mark.parametrize("i", names("pose2seg"))
    def test_all_points(self, i: int) -> None:
        """Positives as sent, and all negatives in their order, with the values they are ranked by."""
        case = GLUE["pose2seg"][i]
        n = len(case["others_keypoints"])
        boxes = [[100 + 25 * k, 0, 120 + 25 * k, 20] for k in range(n)]
        person = posed([case["box_xyxy"]], [case["keypoints"]], [case["visibility"]])
        others = posed(boxes, case["others_keypoints"], case["others_visibility"])
        config = config_of(case["args"], negatives=1000, consistency_choice=False, parity=CALLED)
        prompt = choose(person, others, config)[0].prompt
        assert prompt is not None
        by_rank = case["args"]["selection_method"] == "k_most_visible"
        for label, key, people in ((1, "pos_kpts", person), (0, "neg_kpts", others)):
            column = people.visibility if by_rank and label else people.map_scores
            assert people.keypoints is not None and column is not None
            rows = [
                [*p, column.ravel()[(people.keypoints.reshape(-1, 2) == p).all(axis=1).argmax()]]
                for p in prompt.points[prompt.labels == label]
            ]
            close_numbers(np.array(rows, np.float64).tolist(), FILE, "pose2seg", str(i), key, tolerance=1e-5)

    @pytest.mark.parametrize("i", [16, 17])
    def test_cropped_pictures(self, i: int) -> None:
        case = GLUE["pose2seg"][i]
        people = posed([case["box_xyxy"]], [case["keypoints"]], [case["visibility"]])
        _, segmenter = run(people, config_of(case["args"], exclusive=False, parity=CALLED))
        # the reference embeds the whole picture, too, and does not use it
        assert [[h, w, 3] for w, h in segmenter.encoded] == case["images"][1:]
        seen(FILE, "pose2seg", str(i), "images")

    @pytest.mark.parametrize("i", range(16))
    def test_picture_is_encoded_once(self, i: int) -> None:
        case = GLUE["pose2seg"][i]
        people = posed([case["box_xyxy"]], [case["keypoints"]], [case["visibility"]])
        _, segmenter = run(people, config_of(case["args"], parity=CALLED))
        assert [[h, w, 3] for w, h in segmenter.encoded] == case["images"]
        seen(FILE, "pose2seg", str(i), "images")


class TestTogether:
    """key batch: all people in one call."""

    @pytest.mark.parametrize("i", names("batch"))
    def test_case(self, i: int) -> None:
        case, at = GLUE["batch"][i], ("batch", str(i))
        boxes = boxes_from_xywh(case["boxes_xywh"])
        masks = Masks.from_bitmaps([ellipse(b) if case["has_pred_masks"] else None for b in boxes], SIZE)
        people = posed(boxes, case["keypoints"], case["visibility"], masks=masks)
        result, segmenter = run(people, config_of(case["args"], parity=CALLED))
        assert len(segmenter.encoded) == 1 and result.people.masks is not None
        for call in case["calls"]:  # one, or none where the reference had failed before
            for k, prompt in enumerate(segmenter.prompts):
                where = (*at, "calls", "0")
                close_numbers(prompt.points.tolist(), FILE, *where, "point_coords", str(k), tolerance=1e-5)
                close_numbers(prompt.labels.tolist(), FILE, *where, "point_labels", str(k), tolerance=0)
                if call["box"] is None:
                    assert prompt.box is None
                else:
                    assert prompt.box is not None
                    close_numbers(prompt.box.tolist(), FILE, *where, "box", str(k), tolerance=1e-5)
            seen(FILE, *at, "calls", "0", "multimask_output")
            if call["box"] is None:
                seen(FILE, *at, "calls", "0", "box")
        if case["error"] is None:
            self.same_result(result.people, segmenter.prompts, *at)
        else:
            self.right_result(result.people, segmenter.prompts, masks)

    def same_result(self, people: People, prompts: list[Prompt], *at: str) -> None:
        case = GLUE["batch"][int(at[1])]
        assert people.masks is not None and people.mask_scores is not None and people.keypoints is not None
        assert people.masks.equals(Masks.from_rle(case["masks"]))
        seen(FILE, *at, "masks")
        seen(FILE, *at, "error")  # none there, none here
        close_numbers(people.mask_scores.tolist(), FILE, *at, "scores", tolerance=1e-6)
        by_rank = case["args"]["selection_method"] == "k_most_visible"
        column = people.visibility if by_rank else people.map_scores
        assert column is not None
        for k, prompt in enumerate(prompts):
            values = [column[k][(people.keypoints[k] == q).all(axis=1).argmax()] for q in prompt.points]
            rows = np.column_stack([prompt.points, values]).astype(np.float64)
            close_numbers(rows.tolist(), FILE, *at, "sam_kpts", str(k), tolerance=1e-5)

    def right_result(self, people: People, prompts: list[Prompt], before: Masks) -> None:
        """Where the reference fails: equally many points for all who are asked, everybody its own mask, and the
        detector's for who has nothing to say.
        """
        assert people.masks is not None and people.mask_scores is not None and people.map_scores is not None
        assert people.visibility is not None and people.keypoints is not None
        speaks = ((people.map_scores > 0.5) & (people.visibility > 0.5)).any(axis=1)
        assert len(prompts) == speaks.sum() and len({len(p.labels) for p in prompts}) == 1
        drawn = iter(disc_mask(p, SIZE) for p in prompts)
        each = [next(drawn) if s else (before.bitmap(i), 0.9 - 0.2 * i) for i, s in enumerate(speaks)]
        alone = exclusive(Masks.from_bitmaps([m for m, _ in each], SIZE), [s for _, s in each])
        assert people.masks.equals(alone)
        own = iter(prompts)
        for i in np.flatnonzero(speaks).tolist():
            points = next(own).points
            assert all((people.keypoints[i] == q).all(axis=1).any() for q in points)
        assert np.isnan(people.mask_scores).tolist() == (~speaks).tolist()
