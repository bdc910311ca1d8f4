"""Cutting people out and pasting their masks back, with engines whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bodyloop.errors import InputError, ModelError
from bodyloop.geometry import Crop
from bodyloop.images import Image
from bodyloop.maps import ProbabilityMaps
from bodyloop.masks import Masks
from bodyloop.models.cards import Preprocess, Segmentation
from bodyloop.people import People
from bodyloop.roles import MaskResult, Prompt, Segmenter
from bodyloop.segment.crops import CropSegmenter, cut_out, pasted, seen_through
from bodyloop.segment.planes import MAPPED, PLANES
from bodyloop.skeletons import BODY_19, COCO

SIZE = (144, 192)
PREPROCESS = Preprocess(SIZE, SIZE, input="uint8-nhwc")
Draw = Callable[[npt.NDArray[np.uint8], npt.NDArray[np.float32]], npt.NDArray[np.float32]]
NO_POINTS = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)


class Drawn:
    """An engine whose logits are a function of crops and planes; it keeps what it was asked."""

    outputs = ("masks", "scores")
    device = "cpu"

    def __init__(self, draw: Draw) -> None:
        self.draw, self.seen = draw, list[npt.NDArray[np.float32]]()

    def run(self, inputs: Mapping[str, npt.NDArray], outputs: Sequence[str]) -> dict[str, npt.NDArray]:
        crops, prompts = inputs["crops"], inputs["prompts"]
        self.seen += list(prompts)
        masks = np.stack([self.draw(c, p) for c, p in zip(crops, prompts, strict=True)]).astype(np.float32)
        return {"masks": masks, "scores": np.linspace(0.9, 0.8, len(crops), dtype=np.float32)}

    def warm_up(self, outputs: Sequence[str] | None = None) -> None:
        pass


def segmenter(draw: Draw, **options: int) -> CropSegmenter:
    return CropSegmenter(Drawn(draw), PREPROCESS, Segmentation("crops"), skeleton=BODY_19, **options)


def reddish(crop: npt.NDArray[np.uint8], _: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return crop[..., 0].astype(np.float32) - 127.5


def everything(crop: npt.NDArray[np.uint8], _: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.full(crop.shape[:2], 5, np.float32)


def by_box(*box: float) -> Prompt:
    return Prompt(*NO_POINTS, box=np.array(box, np.float32))


def maps_over(box: Sequence[float], k: int = 19, rotation: float = 0.0) -> ProbabilityMaps:
    crop = Crop.from_boxes([box], size=(192, 256), map_size=(48, 64), rotation=rotation)
    values = np.zeros((1, k, 64, 48), np.float32)
    values[..., 30, 20] = 1
    return ProbabilityMaps.single(values, crop, np.ones(k))


def segmented(
    draw: Draw, picture: npt.NDArray[np.uint8], prompts: Sequence[Prompt], **options: int
) -> MaskResult:
    s = segmenter(draw, **options)
    return s.segment(s.encode([Image(picture)])[0], prompts)


BLACK = np.zeros((90, 120, 3), np.uint8)
boxes = st.tuples(st.floats(-60, 110), st.floats(-60, 80), st.floats(3, 150), st.floats(3, 150)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


def test_it_is_a_segmenter() -> None:
    assert isinstance(segmenter(everything), Segmenter)


@settings(max_examples=40, deadline=None)
@given(box=boxes)
def test_a_mask_is_all_of_its_window_and_never_more(box: tuple[float, ...]) -> None:
    result = segmented(everything, BLACK, [by_box(*box)])
    x1, y1, x2, y2 = Crop.from_boxes([box], size=SIZE, padding=1.25).windows[0].astype(float)
    y, x = np.mgrid[:90, :120]
    gap = np.minimum(np.minimum(x - x1, x2 - x), np.minimum(y - y1, y2 - y))
    mask = result.masks.bitmap(0)
    assert mask[gap > 1e-3].all() and not mask[gap < -1e-3].any()
    assert (result.scores[0] > 0) == mask.any()


@settings(max_examples=25, deadline=None)
@given(box=boxes, seed=st.integers(0, 99))
@example(box=(20.0, 1.0, 23.0, 4.0), seed=1)  # a side of the window on a row of pixels
def test_pasting_back_undoes_the_crop(box: tuple[float, ...], seed: int) -> None:
    """What a network draws on the crop's red pixels are the picture's red pixels, but for its edges."""
    import cv2

    rng = np.random.default_rng(seed)
    picture = BLACK.copy()
    cv2.ellipse(
        picture, (rng.integers(120), rng.integers(90)), rng.integers(10, 60, 2), 0, 0, 360, (255, 0, 0), -1
    )
    got = segmented(reddish, picture, [by_box(*box)]).masks.bitmap(0)
    red = picture[..., 0] > 0
    crop = Crop.from_boxes([box], size=SIZE, padding=1.25)
    reach = (
        2 * int(np.ceil(max(1.0, crop.scale[0, 0] / 144))) + 1
    )  # a crop pixel mixes picture pixels that far
    ones = np.ones((reach, reach), np.uint8)
    sure = cv2.erode(red.view(np.uint8), ones, borderValue=1) > 0
    maybe = cv2.dilate(red.view(np.uint8), ones) > 0
    y, x = np.mgrid[:90, :120]
    x1, y1, x2, y2 = crop.windows[0].astype(float)
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    border = reach // 2  # black beyond the picture
    sure[:border] = sure[-border:] = sure[:, :border] = sure[:, -border:] = False
    e = 1e-3  # a pixel on the side of the window is in it, as the window's corners are pixels of the crop
    beyond = (x < x1 - e) | (x > x2 + e) | (y < y1 - e) | (y > y2 + e)
    assert got[sure & inside].all() and not got[~maybe].any() and not got[beyond].any()


def test_an_edge_comes_back_where_it_was() -> None:
    """The zero line of a ramp across the crop, to a hundredth of a pixel."""
    crop = Crop.from_boxes([[20, 10, 80, 90]], size=SIZE, padding=1.25)
    ramp = np.broadcast_to(np.arange(144, dtype=np.float32) - 70.3, (192, 144))
    cut = pasted(np.ascontiguousarray(ramp), crop, (120, 100))
    assert cut is not None
    x0, y0, bits = cut
    at = crop.from_crop(np.array([[[70.3, 0.0]]]))[0, 0, 0]
    assert x0 == int(np.ceil(at)) and bits.all() and y0 == 0


@settings(max_examples=10, deadline=None)
@given(some=st.lists(boxes, min_size=1, max_size=5), batch=st.integers(1, 4))
def test_neither_batches_nor_order_matter(some: list[tuple[float, ...]], batch: int) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    prompts = [by_box(*b) for b in some]
    one = segmented(reddish, picture, prompts, batch=batch).masks
    assert one.equals(segmented(reddish, picture, prompts).masks)
    turned = segmented(reddish, picture, prompts[::-1]).masks
    assert one.equals(turned[list(range(len(some)))[::-1]])


def test_nothing_to_go_by_is_nobody() -> None:
    negative = Prompt(np.float32([[5, 5]]), np.array([0]))
    result = segmented(everything, BLACK, [Prompt(*NO_POINTS), negative, by_box(5, 5, 50, 60)])
    assert result.masks.present.tolist() == [False, False, True]
    assert result.scores.tolist() == [0, 0, np.float32(0.9)]
    assert len(segmented(everything, BLACK, [])) == 0


def test_nothing_drawn_has_no_score() -> None:
    result = segmented(lambda c, _: -np.ones(c.shape[:2], np.float32), BLACK, [by_box(5, 5, 50, 60)])
    assert not result.masks.present[0] and result.scores[0] == 0


def test_whose_window() -> None:
    s = segmenter(everything)
    size = (120, 90)
    mask = Masks.from_cuts([(10, 20, np.ones((30, 12), bool))], size)
    points = np.float32([[30, 40], [50, 60]]), np.ones(2, np.int64)
    full = Prompt(*points, box=np.float32([0, 0, 30, 40]), mask=mask, maps=maps_over([40, 10, 70, 80]))
    of_maps = Crop.from_boxes([[40, 10, 70, 80]], size=(192, 256))
    for prompt, center, scale in (
        (full, of_maps.center[0], of_maps.scale[0]),  # also with another box
        (replace(full, maps=None), [15, 20], [37.5, 50]),
        (replace(full, maps=None, box=None), [16, 35], [30 * 0.75 * 1.25, 37.5]),
        # points: a box half as large again, a quarter of the longer side at least: 30 x 30, 3:4, padded
        (replace(full, maps=None, box=None, mask=None), [40, 50], [37.5, 50]),
    ):
        window = s.window(prompt, size)
        assert window is not None and window.size == SIZE
        assert np.allclose(window.center[0], center) and np.allclose(window.scale[0], scale)
    assert s.window(Prompt(*NO_POINTS, maps=full.maps.blank(1) if full.maps else None), size) is None


def planes_of(prompt: Prompt) -> dict[str, npt.NDArray[np.float32]]:
    s = segmenter(everything)
    window = s.window(prompt, (120, 90))
    assert window is not None
    return dict(zip(PLANES, s.drawn(prompt, window), strict=True))


def test_what_is_not_known_is_zero() -> None:
    told = planes_of(by_box(10, 10, 40, 70))
    assert {n for n, p in told.items() if p.any()} == {"box"}
    assert told["box"][24, 18] == 1 and told["box"][24, 0] == -1
    told = planes_of(Prompt(np.float32([[20, 20], [30, 30]]), np.array([1, 0])))
    assert {n for n, p in told.items() if p.any()} == {"points", "others"}
    told = planes_of(Prompt(*NO_POINTS, mask=Masks.from_cuts([(10, 20, np.ones((30, 12), bool))], (120, 90))))
    assert {n for n, p in told.items() if p.any()} == {"mask"}
    assert told["mask"][24, 18] == 1 and told["mask"][0, 0] == -1


def test_maps_by_name_and_without_names() -> None:
    parts = set(PLANES[:MAPPED])
    told = planes_of(
        Prompt(*NO_POINTS, maps=maps_over([10, 10, 40, 70]))
    )  # as many as the card's skeleton has
    assert {n for n, p in told.items() if p.any()} == parts
    told = planes_of(Prompt(*NO_POINTS, maps=maps_over([10, 10, 40, 70], k=17)))  # nobody's
    assert {n for n, p in told.items() if p.any()} == {"points"}
    told = planes_of(Prompt(*NO_POINTS, maps=maps_over([10, 10, 40, 70], k=17), skeleton=COCO))
    assert {n for n, p in told.items() if p.any()} == parts


def test_neighbours_are_drawn_as_visible_as_they_are() -> None:
    keypoints = np.full((1, 17, 2), np.nan, np.float32)
    keypoints[0, COCO.index("left_shoulder")] = 20, 30
    keypoints[0, COCO.index("left_hip")] = 20, 50
    visibility = np.full((1, 17), 0.6, np.float32)
    masks = Masks.from_cuts([(25, 20, np.ones((40, 10), bool))], (120, 90))
    beside = People((120, 90), boxes=[[15, 25, 25, 55]], skeleton=COCO, keypoints=keypoints,
                    visibility=visibility, masks=masks)  # fmt: skip
    prompt = replace(by_box(10, 10, 40, 70), neighbours=beside)
    told = planes_of(prompt)
    assert {n for n, p in told.items() if p.any()} == {"box", "others", "others_mask"}
    assert told["others"].max() == pytest.approx(0.6, abs=0.01)
    assert told["others_mask"].max() == 1 and told["others_mask"].min() == 0
    nobody = replace(prompt, neighbours=People((120, 90), boxes=np.zeros((0, 4))))
    assert {n for n, p in planes_of(nobody).items() if p.any()} == {"box"}


def test_large_windows_are_averaged_down() -> None:
    """Stripes of one pixel become grey, and a ramp stays where it was."""
    ramp = np.broadcast_to(np.rint(np.linspace(0, 250, 2400))[None, :, None], (3200, 2400, 3)).astype(
        np.uint8
    )
    crop = Crop.from_boxes([[300, 300, 1500, 2500]], size=SIZE, padding=1.25)
    out = cut_out(ramp, crop)
    x = crop.from_crop(np.stack([np.arange(144.0), np.full(144, 96.0)], axis=-1)[None])[0, :, 0]
    inside = (x > 10) & (x < 2390)
    error = out[96, inside, 0] - x[inside] * 250 / 2399
    assert (
        np.abs(error).max() <= 1.5 and abs(error.mean()) < 0.1
    )  # rounded three times; a px off would be 0.104
    stripes = np.zeros((3200, 2400, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(cut_out(stripes, crop)[60:130, 40:100].astype(int) - 127).max() < 20
    assert not cut_out(ramp, Crop.from_boxes([[9000, 9000, 9900, 9900]], size=SIZE)).any()


def test_masks_seen_through_a_window() -> None:
    crop = Crop.from_boxes([[0, 0, 114.4, 152.8]], size=SIZE, padding=1.25)  # one picture px is one crop px
    masks = Masks.from_cuts([(10, 20, np.ones((30, 12), bool)), None], (400, 300))
    x, y = np.rint(crop.to_crop(np.array([[[10.0, 20.0]]]))[0, 0]).astype(int)
    seen = seen_through(masks, crop)
    assert seen.sum() == 30 * 12 and seen[y : y + 30, x : x + 12].all()


def test_what_does_not_fit_is_named() -> None:
    s = segmenter(everything)
    photo = s.encode([Image(BLACK)])[0]
    other = Masks.from_cuts([(1, 2, np.ones((3, 2), bool))], (50, 50))
    with pytest.raises(InputError, match=r"Prompt.mask: of a picture of size \(50, 50\)"):
        s.segment(photo, [Prompt(*NO_POINTS, mask=other)])
    beside = People((50, 50), boxes=[[1, 2, 3, 4]])
    with pytest.raises(InputError, match=r"Prompt\.neighbours"):
        s.segment(photo, [replace(by_box(1, 2, 30, 40), neighbours=beside)])
    with pytest.raises(InputError, match="turned window"):
        s.segment(photo, [Prompt(*NO_POINTS, maps=maps_over([1, 2, 30, 40], rotation=10.0))])

    class Foreign:
        image_size = (120, 90)

    with pytest.raises(InputError, match="another segmenter"):
        s.segment(Foreign(), [by_box(1, 2, 30, 40)])
    with pytest.raises(ModelError, match="method 'crops'"):
        CropSegmenter(Drawn(everything), PREPROCESS, Segmentation("points"))
    with pytest.raises(ModelError, match="float32-nchw"):
        CropSegmenter(Drawn(everything), Preprocess(SIZE, SIZE), Segmentation("crops"))
    with pytest.raises(ModelError, match=r"gave \(1, 3, 3\)"):
        segmented(lambda c, _: np.zeros((3, 3), np.float32), BLACK, [by_box(1, 2, 30, 40)])
