"""What a model knows least: the measures by hand on a model of known answers, and the order of real photos."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest

import bodyloop as bl
from bodyloop.errors import ConfigError, InputError
from bodyloop.eval.ranking import Measure, doubts, rank
from bodyloop.images import Image
from bodyloop.people import People
from bodyloop.pose.estimator import PoseModel
from tests.pose.stub import CARD, Colours, card, picture

PHOTOS = Path(bl.__file__).parent / "assets" / "photos"
CELLS = 48 * 64


class Says(Colours):
    """The same answer whatever the crop shows."""

    def __init__(self, maps: np.ndarray, presence: float, quality: np.ndarray) -> None:
        super().__init__()
        self.answer = {"maps": maps, "presence": np.full(5, presence), "quality": quality}

    def run(self, inputs, outputs):
        n = len(inputs["crops"])
        said = {k: np.repeat(v[None], n, axis=0).astype(np.float32) for k, v in self.answer.items()}
        return super().run(inputs, outputs) | {k: v for k, v in said.items() if k in outputs}


def spot(cells: int) -> np.ndarray:
    """Maps (5, 64, 48) that are even over so many cells."""
    flat = np.zeros(CELLS)
    flat[:cells] = 1 / cells
    return np.tile(flat.reshape(64, 48), (5, 1, 1))


def asked(model: PoseModel, by: Measure, seed: int = 0) -> np.ndarray:
    pixels, boxes, _ = picture(seed)
    return doubts(model, Image(pixels), People((300, 120), boxes=boxes), by)


@pytest.mark.parametrize(
    ("cells", "presence", "nats"),
    [
        (1, 1.0, 0.0),
        (16, 1.0, np.log(16)),
        (1, 0.5, np.log(2)),
        (16, 0.5, np.log(2) + 0.5 * np.log(16)),
        (CELLS, CELLS / (CELLS + 1), np.log(CELLS + 1)),  # all answers equally likely: nothing is known
    ],
)
def test_entropy_is_that_of_where_if_anywhere(cells: int, presence: float, nats: float) -> None:
    model = PoseModel(Says(spot(cells), presence, np.ones(5)), CARD)
    assert asked(model, "entropy") == pytest.approx([nats / np.log(CELLS + 1)] * 3, abs=1e-5)


def test_quality_counts_keypoints_that_are_there() -> None:
    quality = np.array([0.9, 0.8, 0.4, 0.1, 0.3])
    model = PoseModel(Says(spot(1), 0.7, quality), CARD)
    assert asked(model, "quality") == pytest.approx([0.5] * 3, abs=1e-5)
    model = PoseModel(Says(spot(1), 0.0, quality), CARD)
    assert asked(model, "quality") == pytest.approx([1.0] * 3)  # nothing is there


def test_a_model_that_finds_the_same_everywhere_does_not_disagree() -> None:
    # it reads the colours off the picture: the same spots in every window and in the mirror
    assert asked(PoseModel(Colours(), CARD), "disagreement").max() < 0.02


def test_a_model_that_answers_by_the_window_disagrees() -> None:
    # always the upper left corner of the window: the mirror sends it to the other side
    model = PoseModel(Says(spot(1), 1.0, np.ones(5)), CARD)
    assert asked(model, "disagreement").min() > 0.3


def test_models_without_presence_and_without_quality() -> None:
    bare = PoseModel(Says(spot(16), 0.1, np.ones(5)), card(outputs=("maps",)))
    assert asked(bare, "entropy") == pytest.approx([np.log(16) / np.log(CELLS + 1)] * 3, abs=1e-5)
    with pytest.raises(InputError, match="entropy or disagreement"):
        asked(bare, "quality")


def test_order_and_photos_without_anybody() -> None:
    pixels, boxes, _ = picture(0)
    nobody = np.zeros((0, 4), np.float32)
    image = Image(pixels)
    photos = [
        (image, nobody),
        (image, boxes),
        (Image(cv2.GaussianBlur(pixels, (0, 0), 12)), boxes),
        (image, nobody),
    ]
    ranked = rank(PoseModel(Colours(), CARD), [(i, People((300, 120), boxes=b)) for i, b in photos])
    assert [r.photo for r in ranked] == ["2", "1", "0", "3"]
    assert [r.people for r in ranked] == [3, 3, 0, 0] and ranked[2].score is None
    assert ranked[0].score == pytest.approx(np.mean(ranked[0].persons)) and ranked[0].score > ranked[1].score
    with pytest.raises(ConfigError, match="disagreement"):
        rank(PoseModel(Colours(), CARD), [], "margin")  # type: ignore[arg-type]


@pytest.mark.parametrize("by", get_args(Measure))
def test_blurred_streets_come_before_clear_photos(by: Measure) -> None:
    detector, model = bl.load_detector(), bl.load_pose()
    photos = []
    for path in sorted(PHOTOS.glob("*.jpg")):
        image = bl.read(path)
        (people,) = detector.detect([image])
        photos.append((image, people))
        if path.stem.startswith("street"):
            photos.append((Image(cv2.GaussianBlur(image.pixels, (0, 0), 8), f"{path.stem}, blurred"), people))
    order = [r.photo for r in rank(model, photos, by)]
    assert {Path(p).name for p in order[:2]} == {"street_198, blurred", "street_610, blurred"}


@pytest.mark.parametrize("by", get_args(Measure))
def test_people_of_whom_only_a_part_is_shown_come_before_whole_ones(by: Measure) -> None:
    image = bl.read(PHOTOS / "basketball.jpg")
    (people,) = bl.load_detector().detect([image])
    x1, y1, x2, y2 = people.boxes[0].round().astype(int)
    middle = Image(
        np.ascontiguousarray(image.pixels[y1 + (y2 - y1) // 3 : y1 + (y2 - y1) // 2, x1:x2]), "part"
    )
    part = People(middle.size, boxes=np.array([[0, 0, *middle.size]], np.float32))
    assert rank(bl.load_pose(), [(image, people[:1]), (middle, part)], by)[0].photo == "part"
