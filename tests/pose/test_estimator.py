"""PoseModel on a network whose right answers are known: who is asked for, what comes back, in which order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.errors import BodyloopError, InputError, ModelError
from bodyloop.images import Image
from bodyloop.models.cards import Decode, Double
from bodyloop.people import People
from bodyloop.pose.estimator import WINDOW, PoseModel
from bodyloop.pose.inference import PoseOptions
from bodyloop.pose.parity import Parity
from bodyloop.roles import PoseEstimator, as_detector
from tests.pose.stub import CARD, CHANNEL, SKELETON, Colours, card, picture

K = len(SKELETON)
PIXELS, BOXES, SPOTS = picture()
EXPECTED = SPOTS[:, CHANNEL]  # (N, K, 2) px


def model(**changes: object) -> PoseModel:
    return PoseModel(Colours(), CARD, options=PoseOptions(**changes))


def points(people: People) -> npt.NDArray[np.float32]:
    assert people.keypoints is not None
    return people.keypoints


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("decode", ["dark-udp", "expected-oks"])
def test_keypoints_lie_where_the_spots_are(flip: bool, decode: str) -> None:
    people = model().predict(PIXELS, BOXES, flip=flip, decode=decode)
    assert isinstance(model(), PoseEstimator)
    assert points(people).shape == (3, K, 2) and points(people).dtype == np.float32
    np.testing.assert_allclose(points(people), EXPECTED, atol=0.8)
    assert people.skeleton is SKELETON
    np.testing.assert_array_equal(people.boxes, BOXES)


def test_every_field_is_filled_and_nothing_else() -> None:
    people = model().predict(PIXELS, BOXES)
    for name in ("presence", "visibility", "quality", "map_scores"):
        value = getattr(people, name)
        assert value.shape == (3, K) and value.dtype == np.float32, name
    np.testing.assert_allclose(people.presence, 1 - people.quality, atol=1e-6)
    assert people.windows is not None and people.windows.shape == (3, 4)
    center = (BOXES[:, :2] + BOXES[:, 2:]) / 2
    np.testing.assert_allclose((people.windows[:, :2] + people.windows[:, 2:]) / 2, center, atol=1e-3)
    assert (people.windows[:, 2] - people.windows[:, 0] >= 1.25 * (BOXES[:, 2] - BOXES[:, 0]) - 1e-3).all()
    assert people.maps is None and people.features is None and people.masks is None and people.scores is None


def test_maps_features_and_extras_come_on_request() -> None:
    people = model().predict(PIXELS, BOXES, maps=True, features=True, extra=("error",))
    assert people.maps is not None and people.features is not None
    assert people.maps.layers[0].values.shape == (3, K, 64, 48)
    np.testing.assert_allclose(people.maps.layers[0].values.sum(axis=(2, 3)), 1, atol=1e-4)
    np.testing.assert_allclose(people.maps.layers[0].crop.windows, people.windows)
    assert people.features.shape == (3, 3, 4, 3)
    np.testing.assert_allclose(people.extra["error"], 3 * people.presence, rtol=1e-5)
    plain = model().predict(PIXELS, BOXES)
    np.testing.assert_allclose(points(plain), points(people), atol=1e-4)


def test_only_what_is_wanted_is_asked_of_the_engine() -> None:
    engine = Colours(decodes=True)
    pose = PoseModel(engine, CARD)
    pose.predict(PIXELS, BOXES, flip=False)
    assert engine.calls == [(3, ("keypoints", "map_scores", "presence", "visibility", "quality"))]
    engine.calls.clear()
    pose.predict(PIXELS, BOXES, flip=True)
    assert engine.calls == [(3, ("maps", "presence", "visibility", "quality"))] * 2


def test_the_network_decodes_to_the_same_points() -> None:
    inside = PoseModel(Colours(decodes=True), CARD).predict(PIXELS, BOXES, flip=False)
    outside = PoseModel(Colours(), CARD).predict(PIXELS, BOXES, flip=False)
    assert inside.allclose(outside, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(size=st.integers(1, 9), flip=st.booleans())
def test_batches_do_not_matter(size: int, flip: bool) -> None:
    engine = Colours()
    pictures = [picture(s, people=n) for s, n in ((1, 2), (2, 4), (3, 1))]
    boxes = [b for _, b, _ in pictures]
    images = [p for p, _, _ in pictures]
    whole = model(flip=flip, batch_size=64).predict(images, boxes)
    pose = PoseModel(engine, CARD, options=PoseOptions(flip=flip, batch_size=size))
    for a, b in zip(whole, pose.predict(images, boxes), strict=True):
        assert a.allclose(b)
    assert max(n for n, _ in engine.calls) <= size
    runs = -(-7 // size) * (2 if flip else 1)  # crops of different pictures share batches
    assert len(engine.calls) == runs


def test_order_of_people_and_pictures_does_not_matter() -> None:
    straight = model().predict(PIXELS, BOXES)
    turned = model().predict(PIXELS, BOXES[::-1])
    assert turned.allclose(straight[[2, 1, 0]])
    other, other_boxes, _ = picture(9)
    a, b = model().predict([PIXELS, other], [BOXES, other_boxes])
    c, d = model().predict([other, PIXELS], [other_boxes, BOXES])
    assert a.allclose(d) and b.allclose(c)


def test_with_the_flip_test_a_mirrored_picture_gives_mirrored_people() -> None:
    people = model().predict(PIXELS, BOXES)
    w = PIXELS.shape[1]
    mirrored_boxes = np.stack([w - 1 - BOXES[:, 2], BOXES[:, 1], w - 1 - BOXES[:, 0], BOXES[:, 3]], axis=1)
    mirrored = model().predict(np.ascontiguousarray(PIXELS[:, ::-1]), mirrored_boxes)
    back = points(mirrored)[:, SKELETON.flip] * (-1, 1) + (w - 1, 0)
    np.testing.assert_allclose(back, points(people), atol=0.02)
    assert mirrored.presence is not None and people.presence is not None
    np.testing.assert_allclose(mirrored.presence[:, SKELETON.flip], people.presence, atol=2e-3)
    single = model(flip=False).predict(PIXELS, BOXES)
    assert single.presence is not None
    assert np.abs(single.presence[:, 0] - people.presence[:, 0]).max() > 1e-3  # the average does something


@pytest.mark.parametrize(
    "boxes", [[], np.zeros((0, 4)), np.zeros((0, 4), np.float32)], ids=["list", "f64", "f32"]
)
def test_nobody(boxes: npt.ArrayLike) -> None:
    engine = Colours()
    people = PoseModel(engine, CARD).predict(PIXELS, boxes, maps=True)
    assert len(people) == 0 and points(people).shape == (0, K, 2)
    for name in ("presence", "visibility", "quality", "map_scores"):
        assert getattr(people, name).shape == (0, K)
    assert engine.calls == []
    someone = model().predict(PIXELS, BOXES)
    assert People.concat([people, someone]).allclose(someone)


def test_pictures_without_people_among_others() -> None:
    out = model().predict([PIXELS, PIXELS, PIXELS], [[], BOXES, []])
    assert [len(p) for p in out] == [0, 3, 0]
    assert out[1].allclose(model().predict(PIXELS, BOXES))


def test_the_whole_picture_is_one_person() -> None:
    one, _, spots = picture(4, people=1)
    people = model().predict(one, "image")
    np.testing.assert_array_equal(people.boxes, [[0, 0, one.shape[1], one.shape[0]]])
    np.testing.assert_allclose(points(people), spots[:, CHANNEL], atol=2)
    assert [len(p) for p in model().predict([one, one], "image")] == [1, 1]


def test_one_box_may_come_without_its_axis() -> None:
    assert model().predict(PIXELS, BOXES[0].tolist()).allclose(model().predict(PIXELS, BOXES[:1]))


def test_a_detector_finds_people_where_no_boxes_are_given() -> None:
    seen: list[tuple[int, ...]] = []

    def find(pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray, npt.NDArray]:
        seen.append(pixels.shape)
        return BOXES, np.array([0.9, 0.8, 0.7])

    made: list[int] = []

    def make():
        made.append(1)
        return as_detector(find)

    pose = PoseModel(Colours(), CARD, detector=make)
    pose.predict(PIXELS, BOXES)
    assert not made
    people = pose.predict(PIXELS)
    assert made == [1] and seen == [PIXELS.shape]
    np.testing.assert_allclose(people.scores, [0.9, 0.8, 0.7])
    assert points(people).shape == (3, K, 2)
    other = model().predict([PIXELS, PIXELS], [BOXES[:1], None], detector=as_detector(lambda p: BOXES[:2]))
    assert [len(p) for p in other] == [1, 2]


def test_without_detector_boxes_are_needed() -> None:
    with pytest.raises(InputError, match="boxes='image'"):
        model().predict(PIXELS)


def test_masks_give_the_boxes_if_there_are_none() -> None:
    masks = np.zeros((1, *PIXELS.shape[:2]), bool)
    masks[0, 20:90, 10:40] = True
    people = model().predict(PIXELS, masks=masks)
    np.testing.assert_array_equal(people.boxes, [[10, 20, 40, 90]])
    assert people.masks is not None
    with pytest.raises(InputError, match=r"masks\[1\]"):
        model().predict(PIXELS, masks=[masks[0], None])


def test_masks_of_every_kind_for_anybody() -> None:
    h, w = PIXELS.shape[:2]
    bitmap = np.zeros((h, w), bool)
    bitmap[10:100, 5:50] = True
    polygon = [[110, 10, 180, 10, 180, 100, 110, 100]]
    rle = {"size": [h, w], "counts": [0, h * w]}
    people = model().predict(PIXELS, BOXES, [bitmap, polygon, None])
    assert people.masks is not None and people.masks.present.tolist() == [True, True, False]
    whole = model().predict(PIXELS, BOXES, [rle, None, None])
    assert whole.replace(masks=None).allclose(model().predict(PIXELS, BOXES))  # nothing outside to dim


def test_a_mask_dims_what_is_outside() -> None:
    bitmap = np.ones(PIXELS.shape[:2], bool)
    x, y = SPOTS[0, 0].astype(int)
    bitmap[y - 12 : y + 13, x - 12 : x + 13] = False
    assert (
        model().predict(PIXELS, BOXES[:1], [bitmap]).presence[0, 0]
        < model().predict(PIXELS, BOXES[:1]).presence[0, 0]
    )
    blind = PoseModel(Colours(), card(preprocess=replace(CARD.preprocess, mask_alpha=None)))
    ignored = blind.predict(PIXELS, BOXES[:1], [bitmap])
    assert ignored.replace(masks=None).allclose(model().predict(PIXELS, BOXES[:1]))


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_channel_order(order: str) -> None:
    pixels = PIXELS if order == "rgb" else PIXELS[..., ::-1]
    assert model().predict(pixels, BOXES, order=order).allclose(model().predict(PIXELS, BOXES))


def test_a_card_in_bgr_feeds_foreign_files_in_bgr() -> None:
    fed: list[npt.NDArray] = []

    class Foreign(Colours):
        inputs = ("input.1",)
        outputs = ("heat",)

        def __init__(self) -> None:
            self.calls = []

        def run(self, inputs, outputs):
            fed.append(inputs["input.1"])
            return {"heat": np.full((len(inputs["input.1"]), K, 64, 48), -1, np.float32)}

    prep = replace(CARD.preprocess, input="float32-nchw", order="bgr", mean=(10, 20, 30), std=(1, 2, 4))
    foreign = Foreign()
    people = PoseModel(foreign, card(preprocess=prep, head="plain", outputs=("maps",))).predict(
        np.full((50, 50, 3), (110, 120, 130), np.uint8), [[10, 10, 40, 40]], flip=False
    )
    assert fed[0].shape == (1, 3, 256, 192) and fed[0].dtype == np.float32
    np.testing.assert_allclose(fed[0][0, :, 128, 96], [(130 - 30) / 4, (120 - 20) / 2, 110 - 10])
    assert np.isnan(points(people)).all()  # a map without a positive cell has no point
    assert people.presence is None and people.quality is None


def test_an_unbounded_step_is_a_switch() -> None:
    flat = 1e-3 * np.random.default_rng(0).uniform(1.0, 1.1, (1, K, 64, 48)).astype(np.float32)

    class Flat(Colours):
        def run(self, inputs, outputs):
            out = super().run(inputs, outputs)
            return out | ({"maps": np.repeat(flat, len(inputs["crops"]), 0)} if "maps" in out else {})

    pose = PoseModel(Flat(), CARD)
    bounded = pose.predict(PIXELS, BOXES, flip=False)
    free = pose.predict(PIXELS, BOXES, flip=False, parity=Parity(unbounded_dark_step=True))
    assert bounded.windows is not None
    cell = (bounded.windows[:, 2] - bounded.windows[:, 0]) / 47
    apart = np.abs(points(free) - points(bounded)).max(axis=(1, 2)) / cell
    assert (apart > 1).all()


def test_estimate_keeps_everything_else() -> None:
    image = Image.from_array(PIXELS, id=7)
    found = People(
        image.size, image.source, boxes=BOXES, scores=np.float32([0.3, 0.2, 0.1]), extra={"tag": np.arange(3)}
    )
    out = model().estimate([image, image], [found, found[[1]]])
    assert [len(p) for p in out] == [3, 1]
    np.testing.assert_array_equal(out[0].extra["tag"], [0, 1, 2])
    np.testing.assert_allclose(out[0].scores, [0.3, 0.2, 0.1])
    assert out[0].source == image.source and out[1].allclose(out[0][1])
    again = model().estimate([image], [out[0]])[0]  # what an earlier pass said is replaced
    assert again.allclose(out[0])


def test_estimate_refuses_what_does_not_belong_together() -> None:
    image = Image.from_array(PIXELS)
    with pytest.raises(InputError, match="2 images but 1"):
        model().estimate([image, image], [People(image.size, boxes=BOXES)])
    with pytest.raises(InputError, match="image 0"):
        model().estimate([image], [People((5, 5), boxes=BOXES)])
    with pytest.raises(InputError, match="neither boxes nor masks"):
        model().estimate([image], [People(image.size, scores=np.ones(2, np.float32))])


def test_streams_hold_a_few_pictures_only() -> None:
    opened = 0

    def pictures() -> Iterator[npt.NDArray[np.uint8]]:
        nonlocal opened
        for _ in range(10 * WINDOW):
            opened += 1
            yield PIXELS

    out = model(flip=False).stream(pictures(), detector=as_detector(lambda p: BOXES[:1]))
    assert opened == 0
    image, people = next(out)
    assert opened <= WINDOW and len(people) == 1 and image.size == (300, 120)


def test_lists_and_streams_of_more_than_a_window() -> None:
    n = WINDOW + 3
    boxes = [BOXES[: i % 4] for i in range(n)]
    out = model(flip=False).predict([PIXELS] * n, boxes)
    assert [len(p) for p in out] == [i % 4 for i in range(n)]
    streamed = list(model(flip=False).stream([PIXELS] * n, detector=as_detector(lambda p: BOXES)))
    assert len(streamed) == n


def test_files_are_read_and_named_in_results(tmp_path: Path) -> None:
    from PIL import Image as Pillow

    path = tmp_path / "people.png"
    Pillow.fromarray(PIXELS).save(path)
    people = model().predict(path, BOXES)
    assert people.source is not None and people.source.path == str(path)
    assert people.replace(source=None).allclose(model().predict(PIXELS, BOXES).replace(source=None))


def test_several_threads() -> None:
    pose = model(batch_size=2)
    expected = pose.predict(PIXELS, BOXES)
    same: list[bool] = []

    def work() -> None:
        same.extend(pose.predict(PIXELS, BOXES).allclose(expected) for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(same) == 12 and all(same)


def test_inputs_are_left_alone() -> None:
    pixels, boxes = PIXELS.copy(), BOXES.copy()
    mask = np.zeros(PIXELS.shape[:2], bool)
    mask[:60] = True
    model().predict(pixels, boxes, [mask] * 3)
    np.testing.assert_array_equal(pixels, PIXELS)
    np.testing.assert_array_equal(boxes, BOXES)


def test_a_double_map_is_read_by_its_rule() -> None:
    class Twice(Colours):
        def __init__(self) -> None:
            super().__init__()
            self.outputs = (*self.outputs, "maps_outer")

        def run(self, inputs, outputs):
            out = super().run(inputs, [n for n in outputs if n != "maps_outer"])
            outer = np.zeros((len(inputs["crops"]), K, 64, 48), np.float32)
            outer[:, 0, 32, 24] = 1  # in the middle: the inner map decides where
            outer[:, 1:, 0, 0] = 1  # the outer window's corner: outside the crop
            return out | {"maps_outer": outer}

    double = card(head="double", decode=Decode("expected-oks", double=Double(1.0, 1.25)))
    people = PoseModel(Twice(), double).predict(PIXELS, BOXES, maps=True, flip=False)
    plain = model(flip=False).predict(PIXELS, BOXES, decode="expected-oks")
    np.testing.assert_allclose(points(people)[:, 0], points(plain)[:, 0], atol=1e-3)
    assert people.windows is not None and people.maps is not None
    center = (people.windows[:, :2] + people.windows[:, 2:]) / 2
    corner = center + (people.windows[:, :2] - center) * 1.25
    np.testing.assert_allclose(points(people)[:, 1:], np.repeat(corner[:, None], K - 1, 1), atol=1e-2)
    assert [layer.role for layer in people.maps.layers] == ["inner", "outer"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"boxes": [[10, 10, 5, 20]]}, r"boxes\[0\]"),
        ({"boxes": [[1, 2, 3]]}, r"\(N, 4\)"),
        ({"boxes": [[np.nan, 0, 5, 5]]}, "finite"),
        ({"boxes": "picture"}, "'image' or None"),
        ({"boxes": BOXES, "masks": [None]}, "1 masks for 3 boxes"),
        ({"boxes": BOXES, "masks": [np.zeros((3, 3))] * 3}, "masks"),
        ({"boxes": BOXES, "batch_size": 0}, "batch_size"),
        ({"boxes": BOXES, "decode": "softmax"}, "decode"),
        ({"boxes": BOXES, "order": "gbr"}, "order"),
    ],
    ids=lambda x: str(x)[:30] if isinstance(x, str) else "",
)
def test_unfit_arguments(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        model().predict(PIXELS, **arguments)


def test_errors_name_the_picture() -> None:
    with pytest.raises(InputError, match=r"boxes of image 1\[0\]"):
        model().predict([PIXELS, PIXELS], [BOXES, [[5, 5, 1, 1]]])
    with pytest.raises(InputError, match="one entry a picture"):
        model().predict([PIXELS, PIXELS], BOXES)


def test_outputs_that_are_not_there() -> None:
    with pytest.raises(ModelError, match="logits"):
        model().predict(PIXELS, BOXES, extra=("logits",))
    with pytest.raises(ModelError, match="features"):
        PoseModel(Colours(without=["features"]), CARD).predict(PIXELS, BOXES, features=True)
    people = PoseModel(Colours(without=["visibility"]), CARD).predict(PIXELS, BOXES)
    assert people.visibility is None and people.presence is not None


def test_a_network_of_another_model_is_refused() -> None:
    other = card(preprocess=replace(CARD.preprocess, map_size=(24, 32)))
    with pytest.raises(ModelError, match=r"\(3, 5, 32, 24\).*\(3, 5, 64, 48\)"):
        PoseModel(Colours(), other).predict(PIXELS, BOXES)
    with pytest.raises(ModelError, match="maps"):
        PoseModel(Colours(without=["maps"]), CARD)


@pytest.mark.parametrize("seed", range(20))
def test_any_finite_box_gives_an_answer_or_our_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.normal(0, 10.0 ** rng.integers(0, 6), (4, 2))
    boxes = np.concatenate([corner, corner + rng.normal(1, 10.0 ** rng.integers(-3, 6), (4, 2))], axis=1)
    try:
        people = model().predict(PIXELS, boxes)
    except BodyloopError:
        return
    assert len(people) == 4 and np.isfinite(points(people)).all()
