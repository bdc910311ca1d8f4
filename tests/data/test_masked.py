"""People with masks: who counts, what comes along, and what is wrong with a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.data.coarse import cell_of, coarsened, random_coarse
from bodyloop.data.masked import MaskedPeople
from bodyloop.errors import FileError, InputError
from bodyloop.skeletons import BODY_19, COCO
from tests.data.sets import HEIGHT, SQUARE, WIDTH, draw, upright


def row(id: int, **fields: Any) -> dict[str, Any]:
    return {
        "id": id,
        "image_id": 7,
        "category_id": 1,
        "bbox": [10, 8, 30, 24],
        "area": 720,
        "segmentation": SQUARE,
    } | fields


def written(folder: Path, rows: list[dict[str, Any]], named: bool = True, **image: Any) -> Path:
    draw(folder / "images" / "a.png")
    category = {"id": 1, "name": "person"} | ({"keypoints": list(COCO.keypoints)} if named else {})
    document = {
        "images": [{"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT, **image}],
        "annotations": rows,
        "categories": [category],
    }
    path = folder / "train.json"
    path.write_text(json.dumps(document))
    return path


def test_who_counts_and_who_stands_beside(tmp_path: Path) -> None:
    people = MaskedPeople(
        written(tmp_path, [
            row(1, keypoints=upright(), num_keypoints=17),
            row(2, bbox=[30, 8, 50, 24]),  # reaches beyond the photo; no keypoints
            row(3, segmentation=[], keypoints=upright(10)),
            row(4, bbox=[1, 1, 4, 4]),
            row(5, iscrowd=1, segmentation={"size": [HEIGHT, WIDTH], "counts": [WIDTH * HEIGHT]}),
            row(6, maybe_crowd=1),
        ]),
        least_area=16,
    )  # fmt: skip
    assert people.annotation_ids.tolist() == [1, 2] and people.image_ids.tolist() == [7, 7]
    assert people.boxes.tolist() == [[10, 8, 40, 32], [30, 8, 60, 32]]
    assert [g.tolist() for g in people.by_image()] == [[0, 1]]
    assert people.mask(0).areas.tolist() == [30 * 24] and people.image(0).size == (WIDTH, HEIGHT)
    assert people.keypoints(0)[BODY_19.index("nose")].tolist() == upright()[:3]
    assert not people.keypoints(0)[BODY_19.index("head_top")].any() and not people.keypoints(1).any()
    beside = people.beside(1)
    assert len(beside.boxes) == 3 and beside.masks.present.tolist() == [True, False, True]
    assert (beside.keypoints[:, 0, 2] > 0).tolist() == [True, True, False]


def test_sets_without_keypoints(tmp_path: Path) -> None:
    people = MaskedPeople(written(tmp_path, [row(1)], named=False))
    assert len(people) == 1 and not people.keypoints(0).any() and len(people.beside(0).boxes) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(1, segmentation=[])], "nobody has a mask"),
        ([row(1, bbox=[1, 2, 3])], r"annotation id 1: field 'bbox'"),
        ([row(1, image_id=8)], r"'image_id' = 8 is no image in the file"),
        ([row(1, keypoints=[1, 2, 3])], r"annotation id 1: field 'keypoints'"),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MaskedPeople(written(tmp_path, rows))


def test_what_is_found_out_later_names_the_person(tmp_path: Path) -> None:
    people = MaskedPeople(written(tmp_path, [row(1, segmentation=[[1, 2]])]))
    with pytest.raises(InputError, match="annotation id 1: segmentation"):
        people.mask(0)
    people = MaskedPeople(written(tmp_path, [row(1)], width=WIDTH + 1))
    with pytest.raises(InputError, match="image id 7"):
        people.image(0)
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(FileError, match="image id 7"):
        people.image(0)


def test_coarse_masks() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:40] = 1
    assert cell_of((416, 300)) == 8 and cell_of((100, 208)) == 4
    once = coarsened(mask, 5)
    both = (once & mask).sum() / (once | mask).sum()
    assert 0.85 < both < 1 and set(np.unique(once)) == {0, 1}
    assert coarsened(mask, 5, 0.2).sum() > once.sum() > coarsened(mask, 5, 0.8).sum()
    assert (coarsened(mask, 5, noise=np.full((2, 2), -1.0)) == 0).all()
    assert np.array_equal(coarsened(mask, 1), mask)


@pytest.mark.parametrize("seed", range(12))
def test_spoiled_masks_are_masks_and_follow_from_the_generator(seed: int) -> None:
    mask, other = np.zeros((2, 48, 36), np.uint8)
    mask[10:40, 5:20] = 1
    other[10:40, 20:30] = 1
    a, b = (random_coarse(mask, other, 4.0, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(a, b) and a.dtype == np.uint8 and a.shape == mask.shape and a.max() <= 1
    assert not random_coarse(np.zeros_like(mask), None, 4.0, np.random.default_rng(seed)).all()


def test_what_is_lost_is_lost_at_one_side() -> None:
    """Over many draws: parts go missing, parts of the neighbour come along, most of the mask stays."""
    mask, other = np.zeros((2, 96, 72), np.uint8)
    mask[20:80, 10:40] = 1
    other[20:80, 40:60] = 1
    drawn = [random_coarse(mask, other, 4.0, np.random.default_rng(s)) for s in range(60)]
    kept = np.array([(d & mask).sum() / mask.sum() for d in drawn])
    taken = np.array([(d & other).sum() / other.sum() for d in drawn])
    assert np.median(kept) > 0.75 and (kept < 0.7).any() and (taken > 0.3).any() and np.median(taken) < 0.2
