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
    paste,
    read_photos,
    sample,
)
from bodyloop.errors import FileError

NO_BOXES = np.zeros((0, 4), np.float32)


def photo(
    w: int, h: int, box: tuple[int, int, int, int], *, complete: bool = True, crowd: bool = False
) -> Photo:
    """A black picture with one red person; encoded without loss."""
    pixels = np.zeros((h, w, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = (0, 0, 255)  # BGR
    ok, data = cv2.imencode(".png", pixels)
    assert ok
    boxes = np.array([box], np.float32)
    return Photo(
        "p", data.tobytes(), w, h, NO_BOXES if crowd else boxes, boxes if crowd else NO_BOXES, complete
    )


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
    boxes, ignore = paste(canvas, photo(w, h, (x1, y1, x2, y2)), place, factor, flip, rng)
    seen = red_box(canvas)
    found = np.concatenate([boxes, ignore])
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
    boxes, ignore = paste(np.zeros((40, 40, 3), np.uint8), wide, (0, 0, 40, 40), 1.0, False, rng)
    assert boxes.tolist() == []
    assert ignore.tolist() == [[0, 0, 40, 40]]
    tiny = photo(100, 100, (10, 10, 20, 20))
    boxes, ignore = paste(np.zeros((25, 25, 3), np.uint8), tiny, (0, 0, 25, 25), 0.25, False, rng)
    assert boxes.tolist() == []  # 2.5 px
    assert ignore.shape == (1, 4) and (ignore[0, 2:] - ignore[0, :2] < MIN_SIDE).all()


def test_what_is_not_labelled_is_ignored() -> None:
    rng = np.random.default_rng(0)
    canvas = np.zeros((80, 80, 3), np.uint8)
    partly = photo(40, 40, (5, 5, 25, 25), complete=False)
    boxes, ignore = paste(canvas, partly, (0, 0, 80, 80), 1.0, False, rng)
    assert len(boxes) == 1
    assert (ignore[0, 2:] - ignore[0, :2]).tolist() == [40, 40]  # the photo, not the canvas
    boxes, ignore = paste(canvas, photo(80, 80, (5, 6, 7, 8), crowd=True), (0, 0, 80, 80), 1.0, False, rng)
    assert boxes.tolist() == []
    assert ignore.tolist() == [[5, 6, 7, 8]]  # however small


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_samples_are_reproducible_and_sound(seed: int) -> None:
    photos = [photo(60 + 10 * i, 90, (5, 5, 45, 70)) for i in range(4)]
    how = Augmentation(size=96)
    a, b = (sample(photos, how, np.random.default_rng(seed), 1) for _ in range(2))
    assert np.array_equal(a.image, b.image) and np.array_equal(a.boxes, b.boxes)
    assert a.image.shape == (96, 96, 3) and a.image.dtype == np.uint8
    for boxes in (a.boxes, a.ignore):
        assert boxes.dtype == np.float32
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert (boxes >= 0).all() and (boxes <= 96).all()


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
            {"bbox": [1, 2, 10, 20], "iscrowd": 0},
            {"bbox": [0, 0, 60, 5], "iscrowd": 1},
            {"bbox": [5, 5, 5, 5], "maybe_crowd": 1},
            {"bbox": [5, 5, 0, 5]},
            {"bbox": [9, 9, 9, 9], "category_id": 2},
        ),
    )
    (p,) = read_photos(path)
    assert p.boxes.tolist() == [[1, 2, 11, 22]]
    assert p.ignore.tolist() == [[0, 0, 40, 5], [5, 5, 10, 10]]
    assert p.complete
    assert p.pixels().shape == (30, 40, 3)
    (q,) = read_photos(write(tmp_path, coco(complete={"boxes": False})))
    assert not q.complete and len(q.boxes) == 0


@pytest.mark.parametrize(
    "table",
    [{}, [], {"images": [], "annotations": []}, coco({"bbox": [1, 2]}), coco({"bbox": "abcd"}),
     coco(file_name="../a.jpg"), coco(file_name="missing.jpg")],
    ids=["empty", "list", "no categories", "short box", "text box", "outside", "missing"],
)  # fmt: skip
def test_malformed_files(tmp_path: Path, table: dict[str, Any]) -> None:
    with pytest.raises(FileError, match=r"train\.json"):
        read_photos(write(tmp_path, table))
