"""Photos with boxes: reading COCO files, and augmentations under which boxes stay on their persons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.data.detection import (
    MIN_SIDE,
    PAD,
    Augmentation,
    Photo,
    Placed,
    donors_of,
    paste,
    read_photos,
    sample,
)
from bodyloop.errors import FileError

NO_BOXES = np.zeros((0, 4), np.float32)


def photo(
    w: int,
    h: int,
    box: tuple[int, int, int, int],
    *,
    complete: bool = True,
    crowd: bool = False,
    mask: bool = False,
) -> Photo:
    """A black picture with one red person; encoded without loss."""
    pixels = np.zeros((h, w, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = (0, 0, 255)  # BGR
    ok, data = cv2.imencode(".png", pixels)
    assert ok
    boxes = np.array([box], np.float32)
    x1, y1, x2, y2 = box
    outlines = ([[x1, y1, x2, y1, x2, y2, x1, y2]],) if mask else ()
    return Photo(
        "p",
        data.tobytes(),
        w,
        h,
        NO_BOXES if crowd else boxes,
        boxes if crowd else NO_BOXES,
        complete,
        outlines,
    )


def put(
    canvas: np.ndarray[Any, Any],
    shown: Photo,
    place: tuple[int, int, int, int],
    factor: float,
    flip: bool,
    rng: np.random.Generator,
) -> Placed:
    return paste(canvas, shown.scene(), place, factor, flip, rng)


def red_box(image: np.ndarray[Any, Any]) -> list[float] | None:
    """Around pixels at least half red."""
    y, x = np.nonzero((image[..., 0] > 127) & (image[..., 1] < 90))
    return [x.min(), y.min(), x.max() + 1.0, y.max() + 1.0] if len(x) else None


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.floats(0.3, 3.0), st.booleans(), st.integers(40, 120), st.integers(40, 120)
)
def test_boxes_follow_the_pixels(seed: int, factor: float, flip: bool, w: int, h: int) -> None:
    rng = np.random.default_rng(seed)
    x1, y1 = rng.integers(0, [w - 20, h - 20])
    x2, y2 = rng.integers([x1 + 15, y1 + 15], [w, h])
    canvas = np.full((100, 100, 3), PAD, np.uint8)
    place = (10, 20, 90, 100)
    people = put(canvas, photo(w, h, (x1, y1, x2, y2)), place, factor, flip, rng)
    seen = red_box(canvas)
    boxes, found = people.boxes, np.concatenate([people.boxes, people.ignore])
    assert not people.masked.any() and len(people.masks) == 0
    assert np.allclose(people.centres, (boxes[:, :2] + boxes[:, 2:]) / 2)
    if seen is None:  # out of sight, or a sliver that interpolation washed out
        assert len(boxes) == 0
        assert all((b[2:] - b[:2]).min() < 2 for b in found)
    else:
        assert len(found) == 1
        assert np.abs(found[0] - seen).max() <= 1.0 + factor
        assert (found[0] >= [10, 20, 10, 20]).all() and (found[0] <= [90, 100, 90, 100]).all()
    outside = canvas.copy()
    outside[20:100, 10:90] = PAD
    assert (outside == PAD).all()


def test_little_that_is_left_is_ignored() -> None:
    rng = np.random.default_rng(0)
    wide = photo(400, 40, (0, 0, 400, 40))
    people = put(np.zeros((40, 40, 3), np.uint8), wide, (0, 0, 40, 40), 1.0, False, rng)
    assert people.boxes.tolist() == []
    assert people.ignore.tolist() == [[0, 0, 40, 40]]
    tiny = photo(100, 100, (10, 10, 20, 20))
    people = put(np.zeros((24, 24, 3), np.uint8), tiny, (0, 0, 24, 24), 0.25, False, rng)
    assert people.boxes.tolist() == []  # 2.5 px
    assert people.ignore.shape == (1, 4) and (people.ignore[0, 2:] - people.ignore[0, :2] < MIN_SIDE).all()


def test_what_is_not_labelled_is_ignored() -> None:
    rng = np.random.default_rng(0)
    canvas = np.zeros((80, 80, 3), np.uint8)
    partly = photo(40, 40, (5, 5, 25, 25), complete=False)
    people = put(canvas, partly, (0, 0, 80, 80), 1.0, False, rng)
    assert len(people.boxes) == 1
    assert (people.ignore[0, 2:] - people.ignore[0, :2]).tolist() == [40, 40]  # the photo, not the canvas
    people = put(canvas, photo(80, 80, (5, 6, 7, 8), crowd=True), (0, 0, 80, 80), 1.0, False, rng)
    assert people.boxes.tolist() == []
    assert people.ignore.tolist() == [[5, 6, 7, 8]]  # however small


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.4, 2.5), st.booleans())
def test_masks_follow_the_pixels(seed: int, factor: float, flip: bool) -> None:
    rng = np.random.default_rng(seed)
    x1, y1 = rng.integers(0, [60, 40])
    x2, y2 = rng.integers([x1 + 20, y1 + 20], [100, 80])
    canvas = np.full((96, 96, 3), PAD, np.uint8)
    shown = photo(100, 80, (int(x1), int(y1), int(x2), int(y2)), mask=True)
    people = put(canvas, shown, (8, 8, 96, 80), factor, flip, rng)
    red = (canvas[..., 0] > 127) & (canvas[..., 1] < 90)
    assert people.masked.all() and len(people.masks) == len(people.boxes) <= 1
    if not len(people.boxes):
        return
    around = np.ones((5, 5), np.uint8)
    surely = cv2.erode(red.astype(np.uint8), around, borderValue=0)[2::4, 2::4] > 0
    perhaps = cv2.dilate(red.astype(np.uint8), around)[2::4, 2::4] > 0
    assert (people.masks[0] >= surely).all() and (people.masks[0] <= perhaps).all()
    y, x = np.nonzero(red)
    assert np.abs(people.centres[0] - [x.mean(), y.mean()]).max() <= 1 + factor
    assert np.abs(people.boxes[0] - red_box(canvas)).max() <= 1 + factor


def test_a_box_that_is_cut_goes_round_what_is_left_of_the_mask() -> None:
    # an L: a wide foot below a thin leg; where the foot is out of sight the box is as wide as the leg
    pixels = np.zeros((40, 32, 3), np.uint8)
    pixels[:32, :8] = pixels[32:] = (0, 0, 255)
    leg = [[0, 0, 8, 0, 8, 32, 32, 32, 32, 40, 0, 40]]
    box = np.array([[0, 0, 32, 40]], np.float32)
    shown = Photo("p", cv2.imencode(".png", pixels)[1].tobytes(), 32, 40, box, NO_BOXES, True, (leg,))
    widths = set()
    for seed in range(30):
        canvas = np.zeros((32, 32, 3), np.uint8)
        people = put(canvas, shown, (0, 0, 32, 32), 1.0, False, np.random.default_rng(seed))
        assert people.boxes.tolist() == [red_box(canvas)]
        widths.add(people.boxes[0, 2])
        if people.boxes[0, 2] == 8:
            assert people.centres.tolist() == [[3.5, 15.5]]
            assert people.masks[0].nonzero()[1].max() == 1
    assert widths == {8, 32}


def test_whose_mask_is_not_in_sight_is_ignored() -> None:
    # the box reaches into the crop, the mask does not
    pixels = cv2.imencode(".png", np.zeros((32, 64, 3), np.uint8))[1].tobytes()
    box = np.array([[0, 0, 64, 32]], np.float32)
    right = Photo("p", pixels, 64, 32, box, NO_BOXES, True, ([[60, 0, 64, 0, 64, 32, 60, 32]],))
    people = put(np.zeros((32, 32, 3), np.uint8), right, (0, 0, 32, 32), 1.0, False, np.random.default_rng(0))
    assert len(people.boxes) == 0 and len(people.ignore) == 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_samples_are_reproducible_and_sound(seed: int) -> None:
    photos = [photo(60 + 10 * i, 90, (5, 5, 45, 75), mask=i % 2 == 0) for i in range(4)]
    how = Augmentation(size=96, copy_paste=0.5, mask_out=0.5, mask_out_rough=0.5, mask_out_all=0.3)
    donors = donors_of(photos)
    assert [i for _, i in donors] == [0, 0]
    a, b = (sample(photos, how, np.random.default_rng(seed), 1, donors) for _ in range(2))
    assert np.array_equal(a.image, b.image)
    for name in ("boxes", "ignore", "centres", "masked", "masks"):
        assert np.array_equal(getattr(a.people, name), getattr(b.people, name))
    assert a.image.shape == (96, 96, 3) and a.image.dtype == np.uint8
    p = a.people
    assert p.masks.shape == (p.masked.sum(), 24, 24) and len(p.masked) == len(p.boxes) == len(p.centres)
    for boxes in (p.boxes, p.ignore):
        assert boxes.dtype == np.float32
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all() and (boxes <= 96).all()
    assert (p.centres >= p.boxes[:, :2] - 1).all() and (p.centres <= p.boxes[:, 2:]).all()


def test_published_scales_are_of_the_longest_side() -> None:
    # 100 px at 0.5 of a longest side of 64: the person of 40 px has 12.8
    shown = photo(100, 50, (10, 5, 50, 45))
    how = Augmentation(size=96, longest=64, scale=(0.5, 0.5), mosaic=0.0, flip=0.0)
    (box,) = sample([shown], how, np.random.default_rng(0), 0).people.boxes
    assert box[2] - box[0] == pytest.approx(12.8) and box[3] - box[1] == pytest.approx(12.8)


def test_black_stays_black_whatever_the_light() -> None:
    shown = photo(64, 64, (0, 0, 64, 20), mask=True)
    how = Augmentation(size=64, mosaic=0.0, scale=(1.0, 1.0), hue=90, saturation=255, value=255)
    shades = set()
    for seed in range(8):
        image = sample([shown], how, np.random.default_rng(seed), 0).image
        shades.add(int(image[5, 5].max()))
        assert (image[30:] == 0).all()
    assert len(shades) > 2


def write(folder: Path, table: dict[str, Any]) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    ok, data = cv2.imencode(".jpg", np.zeros((30, 40, 3), np.uint8))
    assert ok
    (folder / "images" / "a.jpg").write_bytes(data.tobytes())
    path = folder / "train.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


def coco(*annotations: dict[str, Any], **image: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30, **image}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, **a} for i, a in enumerate(annotations)],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
    }


def test_reading(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        coco(
            {"bbox": [1, 2, 10, 20], "iscrowd": 0, "segmentation": [[1, 2, 11, 2, 11, 22, 1, 22]]},
            {"bbox": [3, 3, 4, 4], "segmentation": []},
            {"bbox": [0, 0, 60, 5], "iscrowd": 1},
            {"bbox": [5, 5, 5, 5], "maybe_crowd": 1},
            {"bbox": [5, 5, 0, 5]},
            {"bbox": [9, 9, 9, 9], "category_id": 2},
        ),
    )
    (p,) = read_photos(path)
    assert p.boxes.tolist() == [[1, 2, 11, 22], [3, 3, 7, 7]]
    first, second = p.cut(0), p.cut(1)
    assert first is not None and (first.x, first.y, first.bits.shape) == (1, 2, (20, 10)) and second is None
    assert p.ignore.tolist() == [[0, 0, 40, 5], [5, 5, 10, 10]]
    assert p.complete
    assert p.pixels().shape == (30, 40, 3)
    (q,) = read_photos(write(tmp_path, coco(complete={"boxes": False})))
    assert not q.complete and len(q.boxes) == 0
    (r,) = read_photos(write(tmp_path, coco()), complete=False)
    assert not r.complete  # a set that is known to label some only, and does not say so
    (broken,) = read_photos(write(tmp_path, coco({"bbox": [1, 2, 10, 20], "segmentation": [[1, 2]]})))
    with pytest.raises(FileError, match=r"a\.jpg: person 0: .*3 points"):
        broken.scene()


@pytest.mark.parametrize(
    "table",
    [{}, [], {"images": [], "annotations": []}, coco({"bbox": [1, 2]}), coco({"bbox": "abcd"}),
     coco(file_name="../a.jpg"), coco(file_name="missing.jpg")],
    ids=["empty", "list", "no categories", "short box", "text box", "outside", "missing"],
)  # fmt: skip
def test_malformed_files(tmp_path: Path, table: dict[str, Any]) -> None:
    with pytest.raises(FileError, match=r"train\.json"):
        read_photos(write(tmp_path, table))
