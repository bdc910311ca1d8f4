"""The detector role over an engine that answers what the test says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from bodyloop.detect import DetectorParity, RTMDetDetector
from bodyloop.detect.instances import level_sizes
from bodyloop.detect.letterbox import Letterbox
from bodyloop.detect.rtmdet import select
from bodyloop.engines import Array
from bodyloop.errors import InputError, ModelError
from bodyloop.images import Image
from bodyloop.models.cards import Card, Detection, Licenses, Preprocess, Segmentation
from bodyloop.roles import Detector

SIZE = (64, 64)
PRIORS = sum(level_sizes(SIZE))  # 64 + 16 + 4
PREPROCESS = Preprocess(SIZE, input="uint8-nhwc")
DETECTION = Detection(score_threshold=0.3, nms_iou=0.5)


class Spot:
    """Finds the brightest block of 8 px: its box has that block's score; all other priors say 0."""

    outputs: tuple[str, ...] = ("boxes", "scores")
    device = "cpu"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        images = inputs["images"]
        assert images.dtype == np.uint8
        self.batches.append(len(images))
        boxes = np.zeros((len(images), PRIORS, 4), np.float32)
        scores = np.zeros((len(images), PRIORS, 1), np.float32)
        blocks = images[..., 0].reshape(-1, 8, 8, 8, 8).mean(axis=(2, 4)).reshape(-1, 64)
        for n, best in enumerate(blocks.argmax(axis=1)):
            y, x = divmod(int(best), 8)
            boxes[n, best] = [8 * x, 8 * y, 8 * x + 8, 8 * y + 8]
            scores[n, best, 0] = blocks[n, best] / 255
        return {"boxes": boxes, "scores": scores}

    def warm_up(self, outputs: Sequence[str] | None = None) -> None: ...


def photo(x: int, y: int, size: tuple[int, int] = (128, 96), name: int = 0) -> Image:
    """A black photo with a white square of 16 px; scaled to 64 px it is one block of 8."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[y : y + 16, x : x + 16] = 255
    return Image(pixels, id=name)


def test_boxes_are_in_photo_pixels() -> None:
    detector = RTMDetDetector(Spot(), PREPROCESS, DETECTION)
    assert isinstance(detector, Detector)
    (people,) = detector.detect([photo(32, 64, name=7)])
    assert people.image_size == (128, 96)
    assert people.source is not None and people.source.image_id == 7
    assert people.boxes is not None and people.scores is not None
    assert people.boxes.tolist() == [[32, 64, 48, 80]]
    assert people.scores.tolist() == [1.0]


def test_many_photos_as_one_by_one_in_bounded_batches() -> None:
    photos = [photo(16 * i, 16, name=i) for i in range(5)]
    engine = Spot()
    together = RTMDetDetector(engine, PREPROCESS, DETECTION, batch=2).detect(photos)
    assert engine.batches == [2, 2, 1]
    single = RTMDetDetector(Spot(), PREPROCESS, DETECTION)
    for image, people in zip(photos, together, strict=True):
        assert people.allclose(single.detect([image])[0])


def test_nobody() -> None:
    dark = Image(np.full((10, 20, 3), 20, np.uint8))
    detector = RTMDetDetector(Spot(), PREPROCESS, replace(DETECTION, pad_value=0))
    (people,) = detector.detect([dark])
    assert len(people) == 0
    assert people.boxes is not None and people.boxes.shape == (0, 4)
    assert people.scores is not None and people.scores.shape == (0,)
    assert detector.detect([]) == []


def answer(rows: Mapping[int, tuple[Sequence[float], float]]) -> tuple[np.ndarray, np.ndarray]:
    boxes, scores = np.zeros((PRIORS, 4), np.float32), np.zeros((PRIORS, 1), np.float32)
    for i, (box, score) in rows.items():
        boxes[i], scores[i] = box, score
    return boxes, scores


PLACE = Letterbox.fit((128, 64), SIZE)  # half size, the lower half of the canvas is empty


def test_threshold_is_exclusive_and_best_comes_first() -> None:
    boxes, scores = answer({0: ([0, 0, 8, 8], 0.3), 1: ([8, 8, 16, 16], 0.4), 83: ([32, 0, 40, 8], 0.9)})
    found = select(
        boxes, scores, PLACE, replace(DETECTION, score_threshold=float(np.float32(0.3))), DetectorParity()
    )
    assert found.boxes.tolist() == [[64, 0, 80, 16], [16, 16, 32, 32]]
    assert np.allclose(found.scores, [0.9, 0.4])
    assert found.priors.tolist() == [83, 1]


def test_clipped_to_the_photo_or_as_the_reference_to_the_canvas() -> None:
    boxes, scores = answer({5: ([-4, 16, 20, 50], 0.9), 6: ([10, 40, 20, 60], 0.8)})
    b = select(boxes, scores, PLACE, DETECTION, DetectorParity()).boxes
    assert b.tolist() == [[0, 32, 40, 64]]  # the second lay in the padding
    b = select(boxes, scores, PLACE, DETECTION, DetectorParity(clip_to_canvas=True)).boxes
    assert b.tolist() == [[0, 32, 40, 100], [20, 80, 40, 120]]


def test_limits_of_levels_and_of_the_photo() -> None:
    rows = {i: ([8.0 * i, 0, 8.0 * i + 4, 4], 0.5 + 0.01 * i) for i in range(8)}
    rows[64] = ([0, 16, 4, 20], 0.4)  # the first prior of the second level
    boxes, scores = answer(rows)
    b = select(boxes, scores, PLACE, replace(DETECTION, nms_pre=2), DetectorParity()).boxes
    assert b[:, 0].tolist() == [112, 96, 0]
    b = select(boxes, scores, PLACE, replace(DETECTION, max_per_image=3), DetectorParity()).boxes
    assert b[:, 0].tolist() == [112, 96, 80]


@pytest.mark.parametrize(
    "box", [[8, 8, 8, 16], [16, 8, 8, 16], [float("nan"), 0, 8, 8], [float("inf"), 0, 8, 8]], ids=str
)
def test_boxes_without_area_go(box: list[float]) -> None:
    boxes, scores = answer({3: (box, 0.9), 4: ([0, 0, 8, 8], 0.5)})
    b = select(boxes, scores, PLACE, DETECTION, DetectorParity()).boxes
    assert b.tolist() == [[0, 0, 16, 16]]


def test_ranks_decide_where_scores_are_equal() -> None:
    boxes, scores = answer({3: ([0, 0, 8, 8], 1.0), 4: ([1, 0, 8, 8], 1.0), 70: ([0, 1, 8, 8], 1.0)})
    assert select(boxes, scores, PLACE, DETECTION, DetectorParity()).priors.tolist() == [3]  # grid order
    ranks = np.where(scores > 0, 20.0, -9.0)
    ranks[70] = 21
    assert select(boxes, scores, PLACE, DETECTION, DetectorParity(), ranks).priors.tolist() == [70]


def test_classes_do_not_suppress_each_other_but_compete_for_places() -> None:
    boxes, _ = answer({3: ([0, 0, 8, 8], 0), 4: ([1, 0, 8, 8], 0), 9: ([32, 0, 40, 8], 0)})
    scores = np.zeros((PRIORS, 2), np.float32)
    scores[3], scores[4], scores[9] = (0.9, 0.8), (0.7, 0), (0, 0.5)
    found = select(boxes, scores, PLACE, DETECTION, DetectorParity())
    assert found.priors.tolist() == [3, 3, 9] and found.labels.tolist() == [0, 1, 1]
    two = replace(DETECTION, nms_pre=2)
    assert select(boxes, scores, PLACE, two, DetectorParity()).priors.tolist() == [3, 3]


class TwoClasses(Spot):
    """As `Spot`, with something of class 0 beside everything of class 1, and better."""

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        out = super().run(inputs, outputs)
        out["scores"] = np.concatenate([np.sqrt(out["scores"]), out["scores"]], axis=2)
        return out


def test_only_persons_come_out() -> None:
    two = replace(DETECTION, num_classes=2, person_class=1)
    grey = Image(photo(32, 64).pixels // 2)
    (alone,) = RTMDetDetector(TwoClasses(), PREPROCESS, two).detect([grey])
    assert alone.scores is not None and alone.scores.tolist() == [np.float32(127 / 255)]
    strict = replace(two, max_per_image=1)
    (people,) = RTMDetDetector(TwoClasses(), PREPROCESS, strict).detect([grey])
    assert people.allclose(alone)
    published = RTMDetDetector(TwoClasses(), PREPROCESS, strict, parity=DetectorParity(all_classes=True))
    assert len(published.detect([grey])[0]) == 0  # the one place went to the other class


def test_forty_places_as_published() -> None:
    rows = {
        i: ([8.0 * (i % 8), 8.0 * (i // 8), 8.0 * (i % 8) + 4, 8.0 * (i // 8) + 4], 0.5) for i in range(32)
    }
    rows |= {
        64 + i: ([16.0 * (i % 4) + 4, 16.0 * (i // 4) + 4, 16.0 * (i % 4) + 8, 16.0 * (i // 4) + 8], 0.6)
        for i in range(16)
    }
    boxes, scores = answer(rows)
    place = Letterbox.fit(SIZE, SIZE)
    assert len(select(boxes, scores, place, DETECTION, DetectorParity()).priors) == 48
    assert len(select(boxes, scores, place, DETECTION, DetectorParity(at_most_40=True)).priors) == 40
    assert all(vars(DetectorParity.published()).values())


def test_card_and_engine_must_fit() -> None:
    card = Card("d", "detector", "rtmdet-n", Licenses("a", "b", "c"), PREPROCESS, detection=DETECTION)
    assert RTMDetDetector.from_card(Spot(), card, score_threshold=0.7).detection.score_threshold == 0.7
    with pytest.raises(ModelError, match="segmenter"):
        RTMDetDetector.from_card(
            Spot(), replace(card, kind="segmenter", detection=None, segmentation=Segmentation("points"))
        )
    with pytest.raises(ModelError, match="float32-nchw"):
        RTMDetDetector(Spot(), replace(PREPROCESS, input="float32-nchw"), DETECTION)
    with pytest.raises(ModelError, match="at least 4 classes; its network gave"):
        other = replace(DETECTION, num_classes=80, person_class=3)
        RTMDetDetector(Spot(), PREPROCESS, other).detect([photo(0, 0)])
    without = Spot()
    without.outputs = ("boxes",)
    with pytest.raises(ModelError, match="scores"):
        RTMDetDetector(without, PREPROCESS, DETECTION)


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"score_threshold": 1.5}, {"score_threshold": float("nan")}]
)
def test_options_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(InputError):
        RTMDetDetector(Spot(), PREPROCESS, DETECTION, **options)  # type: ignore[arg-type]
