"""Malformed answers, inputs and configurations of every kind, twenty seeds each: one of the package's own errors,
which says whose mistake it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from bodyloop.errors import BodyloopError
from bodyloop.images import Image
from bodyloop.loop import BodyLoop, LoopConfig, find_config
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import MaskResult
from bodyloop.skeletons import BODY_19, COCO
from tests.loop.scene import PHOTO, found, person
from tests.parity_loop.players import SIZE, Discs, Finder, Kept, Poser

SEEDS = 20
Rng = np.random.Generator
Trial = Callable[[Rng], object]
KINDS: dict[str, tuple[Trial, tuple[str, ...]]] = {}
ENOUGH = [person(x) for x in (30, 80, 130)]


def kind(*says: str) -> Callable[[Trial], Trial]:
    """Of these words the error must hold one."""

    def keep(trial: Trial) -> Trial:
        KINDS[trial.__name__.replace("_", "-")] = trial, says
        return trial

    return keep


def choose(rng: Rng, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def run(
    detector: Any = None,
    pose: Any = None,
    segmenter: Any = None,
    config: LoopConfig | None = None,
    **given: Any,
) -> object:
    loop = BodyLoop(
        detector or Finder([found(*ENOUGH), found(*ENOUGH)]), pose or Poser(People.concat(ENOUGH)),
        segmenter or Discs(), config or LoopConfig(pose_nms=1.0),
    )  # fmt: skip
    return loop.run(given.pop("image", PHOTO), **given)


class Says:
    """A role that answers everything with the same, whatever it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def detect(self, images: Any) -> Any:
        return self.answer() if callable(self.answer) else self.answer

    estimate = encode = segment = None  # a detector only


class Changed(Poser):
    """A pose estimator that does something to its answers."""

    def __init__(self, change: Callable[[People], Any]) -> None:
        super().__init__(People.concat(ENOUGH))
        self.change = change

    def estimate(self, images: Any, people: Any) -> Any:
        return [self.change(p) for p in super().estimate(images, people)]


class Draws(Discs):
    """A segmenter that does something to its answers."""

    def __init__(self, change: Callable[[MaskResult], Any]) -> None:
        super().__init__()
        self.change = change

    def segment(self, encoded: Kept, prompts: Any) -> Any:
        return self.change(super().segment(encoded, prompts))


def boxes_with(rng: Rng, bad: Any) -> np.ndarray[Any, Any]:
    boxes = np.concatenate([p.boxes for p in ENOUGH if p.boxes is not None]).copy()
    boxes[int(rng.integers(3))] = bad
    return boxes


# ---- detectors ---------------------------------------------------------------------------------------------


@kind("detector: people in a picture of")
def detector_of_another_picture(rng: Rng) -> object:
    size = tuple(int(v) for v in rng.integers(1, 100, 2))
    return run(Says([People(size, boxes=[[0, 0, 1, 1]])]))


@kind("detector: boxes[")
def detector_with_boxes_that_are_no_numbers(rng: Rng) -> object:
    boxes = boxes_with(rng, choose(rng, [np.nan, np.inf, -np.inf]))
    return run(Says([People(SIZE, boxes=boxes, scores=np.full(3, 0.9))]))


@kind("detector: boxes[")
def detector_with_boxes_of_no_area(rng: Rng) -> object:
    x, y = rng.integers(5, 50, 2)
    bad = choose(rng, [[x, y, x, y + 5], [x, y, x + 5, y - 1], [x, y, x - 3, y + 5]])
    return run(Says([People(SIZE, boxes=boxes_with(rng, bad))]))


@kind("detector: boxes[")
def detector_with_boxes_outside(rng: Rng) -> object:
    away = float(rng.integers(1, 1000))
    bad = choose(
        rng, [[160 + away, 5, 170 + away, 9], [5, 120 + away, 9, 130 + away], [-9 - away, 5, -away, 9]]
    )
    return run(Says([People(SIZE, boxes=boxes_with(rng, bad))]))


@kind("masks", "People.masks")
def detector_with_masks_of_another_size(rng: Rng) -> object:
    size = (int(rng.integers(1, 100)), int(rng.integers(1, 100)))
    people = found(ENOUGH[0])
    return run(Says(lambda: [people.replace(masks=Masks.empty(1, size))]))


@kind("People.masks")
def detector_with_too_few_masks(rng: Rng) -> object:
    n = choose(rng, [0, 1, 2, 4, 7])
    return run(Says(lambda: [found(*ENOUGH).replace(masks=Masks.empty(n, SIZE))]))


@kind("detector: scores[")
def detector_with_scores_that_are_no_numbers(rng: Rng) -> object:
    scores = rng.random(3)
    scores[int(rng.integers(3))] = choose(rng, [np.nan, np.inf])
    return run(Says([found(*ENOUGH).replace(scores=scores)]))


@kind("detector: expected")
def detector_with_another_kind_of_answer(rng: Rng) -> object:
    one = found(*ENOUGH)
    return run(
        Says(choose(rng, [None, one, [], [one, one], "people", [None], [np.zeros((2, 4))], {"boxes": 1}]))
    )


@kind("detector: its people have neither boxes nor masks")
def detector_without_boxes(rng: Rng) -> object:
    n = int(rng.integers(1, 5))
    return run(Says([People(SIZE, keypoints=rng.random((n, 3, 2)), scores=np.full(n, 0.9))]))


# ---- pose estimators ---------------------------------------------------------------------------------------


@kind("pose estimator: asked about 3 people")
def pose_that_drops_people(rng: Rng) -> object:
    keep = choose(rng, [[], [0], [0, 2], [0, 0, 1, 2], [2, 1, 0, 0, 0]])
    return run(pose=Changed(lambda p: p[keep]))


@kind("pose estimator: other boxes")
def pose_that_changes_the_order(rng: Rng) -> object:
    order = choose(rng, [[1, 0, 2], [2, 1, 0], [1, 2, 0], [0, 0, 0]])
    return run(pose=Changed(lambda p: p[order]))


@kind("pose estimator: its people have no")
def pose_without_keypoints_or_skeleton(rng: Rng) -> object:
    column = choose(rng, ["keypoints", "skeleton"])
    return run(pose=Changed(lambda p: p.replace(**{column: None})))


@kind("pose estimator: skeleton coco-17, before it was body-19", "pose estimator: skeleton body-19, before")
def pose_with_another_skeleton_in_the_second_pass(rng: Rng) -> object:
    skeletons = iter(choose(rng, [[BODY_19, COCO], [COCO, BODY_19]]))
    return run(pose=Changed(lambda p: p.in_skeleton(next(skeletons))))


@kind("pose estimator: people in a picture of", "pose estimator: expected")
def pose_of_another_picture(rng: Rng) -> object:
    size = (int(rng.integers(1, 100)), 7)
    answers: list[Callable[[People], Any]] = [
        lambda p: p.replace(image_size=size, masks=None), lambda p: None, lambda p: [p]
    ]  # fmt: skip
    return run(pose=Changed(choose(rng, answers)))


# ---- segmenters --------------------------------------------------------------------------------------------


@kind("segmenter: ")
def segmenter_with_another_number_of_masks(rng: Rng) -> object:
    at = choose(rng, [[], [0], [0, 1], [0, 1, 2, 0]])
    return run(segmenter=Draws(lambda m: MaskResult(m.masks[at], m.scores[at])))


@kind("segmenter: masks of size")
def segmenter_with_masks_of_another_size(rng: Rng) -> object:
    size = (int(rng.integers(1, 160)), 120)
    return run(segmenter=Draws(lambda m: MaskResult(Masks.empty(len(m), size), m.scores)))


@kind("segmenter: scores[", "MaskResult")
def segmenter_with_scores_that_are_no_numbers(rng: Rng) -> object:
    bad = choose(rng, [np.full(3, np.nan), np.array([0.5, np.inf, 0.5]), np.zeros(2), np.zeros((3, 1))])
    return run(segmenter=Draws(lambda m: MaskResult(m.masks, bad)))


@kind("segmenter: expected a MaskResult")
def segmenter_with_another_kind_of_answer(rng: Rng) -> object:
    return run(
        segmenter=Draws(choose(rng, [lambda m: None, lambda m: m.masks, lambda m: (m.masks, m.scores)]))
    )


@kind("segmenter: encode")
def segmenter_that_keeps_something_else(rng: Rng) -> object:
    class Keeps(Discs):
        def encode(self, images: Any) -> Any:
            return choose(rng, [None, [], [Kept(SIZE)] * 2, [Kept((3, 4))], [None], [np.zeros(3)]])

    return run(segmenter=Keeps())


# ---- configurations ----------------------------------------------------------------------------------------


@kind("loop: passes", "loop: positives", "loop: negatives", "loop: repose")
def config_with_a_count_out_of_range(rng: Rng) -> object:
    name = choose(rng, ["passes", "positives", "negatives", "repose", "positives_if_crowd"])
    return LoopConfig(**{name: choose(rng, [-1, -1000, 10**9, 1.5, "2", None, True, np.nan])})


@kind("loop: ")
def config_with_a_threshold_out_of_range(rng: Rng) -> object:
    name = choose(
        rng, ["detector_threshold", "pose_nms", "confidence", "visibility", "min_box_height", "seconds"]
    )
    return LoopConfig(**{name: choose(rng, [-0.1, np.nan, "0.5", True, [0.5], np.inf])})


@kind("loop: selection", "loop: exclusive", "loop: together", "loop: parity")
def config_with_another_kind_of_choice(rng: Rng) -> object:
    name, value = choose(
        rng,
        [
            ("selection", "most_visible"),
            ("selection", None),
            ("exclusive", "yes"),
            ("together", 1),
            ("parity", True),
        ],
    )
    return LoopConfig(**{name: value})


@kind("did you mean")
def config_with_an_unknown_field(rng: Rng) -> object:
    name = choose(rng, ["pases", "num_bmp_iters", "oks_nms_thr", "prompt_boxes", "x", ""])
    return LoopConfig().changed(**{name: 1})


@kind("did you mean")
def config_of_an_unknown_name(rng: Rng) -> object:
    return find_config(choose(rng, ["bmp-v1", "bmp", "BMP_D4", "j1", "", "../bmp-v2", "bmp-v2.yaml", "né"]))


@kind("crop needs prompt_box", "crop sends points and box")
def config_that_contradicts_itself(rng: Rng) -> object:
    also = choose(
        rng, [{}, {"prompt_box": True, "prompt_mask": True}, {"prompt_box": True, "prompt_maps": True}]
    )
    return LoopConfig(crop=True, passes=int(rng.integers(1, 5)), **also)


# ---- given people and pictures -----------------------------------------------------------------------------


@kind("without boxes nothing says where to look")
def given_masks_without_boxes_and_without_a_pixel(rng: Rng) -> object:
    masks: list[Any] = [np.ones((120, 160), bool)] * 3
    masks[int(rng.integers(3))] = choose(rng, [None, np.zeros((120, 160), bool)])
    return run(masks=masks)


@kind("masks")
def given_masks_of_another_size(rng: Rng) -> object:
    shape = choose(rng, [(160, 120), (1, 1), (120, 159), (3, 120, 160), (0, 0)])
    return run(boxes=ENOUGH[0].boxes, masks=[np.ones(shape, bool)])


@kind("masks for")
def given_masks_of_other_people(rng: Rng) -> object:
    n = choose(rng, [0, 1, 2, 4])
    return run(boxes=boxes_with(rng, [0, 0, 5, 5]), masks=[np.ones((120, 160), bool)] * n)


@kind("boxes")
def given_boxes_that_are_none(rng: Rng) -> object:
    boxes = choose(
        rng,
        [[[1, 2, 3]], "all", [[np.nan, 1, 2, 3]], [[5, 5, 1, 1]], [[0, 0, 1e9, 1e9]], [["a", "b", "c", "d"]]],
    )
    return run(boxes=boxes)


@kind("given people: boxes[", "people in a picture of", "put the masks into them")
def given_people_of_another_picture(rng: Rng) -> object:
    away = float(rng.integers(200, 900))
    some = choose(
        rng,
        [
            {"boxes": [[away, 5, away + 5, 9]]},
            {"boxes": People((int(away), 7), boxes=[[0, 0, 1, 1]])},
            {"boxes": found(ENOUGH[0]), "masks": [np.ones((120, 160), bool)]},
        ],
    )
    return run(**some)


@kind("image", "Image", "picture", "no such file", "RGBA", "order")
def picture_of_another_kind(rng: Rng) -> object:
    bad = choose(
        rng,
        [
            np.zeros((5, 5, 3)),
            np.zeros((3, 50, 50), np.uint8),
            np.zeros((5, 5, 4), np.uint8),
            "none.jpg",
            None,
            7,
        ],
    )
    loop = BodyLoop(Finder([found()]), Poser(ENOUGH[0]), Discs())
    return loop.predict(bad)


@kind("expected a list with one entry a picture")
def lists_of_other_lengths(rng: Rng) -> object:
    given = choose(rng, [[None], [None] * 3, np.zeros((2, 4)), "x"])
    loop = BodyLoop(Finder([found()]), Poser(ENOUGH[0]), Discs())
    return loop.predict([PHOTO, PHOTO], **{choose(rng, ["boxes", "masks"]): given})


def test_there_are_enough() -> None:
    assert len(KINDS) >= 30 and isinstance(PHOTO, Image)


@pytest.mark.parametrize("name", KINDS)
def test_says_what_is_wrong(name: str) -> None:
    trial, says = KINDS[name]
    for seed in range(SEEDS):
        with pytest.raises(BodyloopError) as caught:
            trial(np.random.default_rng(seed))
        text = str(caught.value)
        assert any(s in text for s in says), f"seed {seed}: {text}"
        assert len(text) < 600


def test_sound_ones_pass() -> None:
    """The same stand-ins, undisturbed."""
    assert run(pose=Changed(lambda p: p), segmenter=Draws(lambda m: m)) is not None
