"""CropCOCO: one crop worked by hand, the properties of the procedure, hostile files."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.data import cropcoco as m
from bodyloop.errors import InputError
from bodyloop.geometry import activation_windows
from bodyloop.masks import Masks

IMAGE = {"id": 7, "width": 200, "height": 100, "file_name": "7.jpg", "license": 3}
WHOLE = m.Rectangle(0, 0, 200, 100)


def person(points: list[tuple[float, float, int]], bbox: list[float], **fields: Any) -> dict[str, Any]:
    flat = [v for p in points for v in p]
    base = {
        "id": 1, "image_id": 7, "category_id": 1, "iscrowd": 0, "bbox": bbox, "area": 600.0,
        "num_keypoints": sum(p[2] > 0 for p in points), "keypoints": flat,
    }  # fmt: skip
    return base | fields


def coco(annotations: list[dict[str, Any]], images: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    names = [f"k{i}" for i in range(len(annotations[0]["keypoints"]) // 3)] if annotations else ["k"]
    return {
        "info": {"year": 2017},
        "images": [IMAGE] if images is None else images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": names}],
    }


def test_a_crop_by_hand() -> None:
    """Box 60..100 x 20..80; crop 50..90 x 10..60 leaves 10..40 x 10..50 of it, 30 x 40 = 3:4.

    Window at padding 1.25: centre (25, 30), 37.5 x 50: x 6.25..43.75, y 5..55.
    """
    points = [
        (70, 30, 2),  # -> 20, 20: inside all
        (75, 40, 1),  # -> 25, 30: hidden before, hidden now
        (92.5, 40, 2),  # -> 42.5, 30: beyond the crop (40 wide), inside the window
        (95, 40, 2),  # -> 45, 30: beyond the window
        (70, 65.5, 1),  # -> 20, 55.5: below both
        (55, 40, 2),  # -> 5, 30: in the crop, left of the window
        (0, 0, 0),
        (71, 31, 3),  # an old 3 that is inside the new window
        (33, 44, 0),  # unlabelled, whatever its numbers
        (90, 40, 2),  # -> 40, 30: the first column beyond the crop
        (70, 60, 2),  # -> 20, 50: the first row beyond it
    ]
    segmentation = [[60, 20, 100, 20, 100, 80, 60, 80]]
    before = person(points, [60, 20, 40, 60], segmentation=segmentation, area=2400)
    image, people = m.cut_annotations(IMAGE, [before], m.Rectangle(50, 10, 40, 50))
    assert image == IMAGE | {
        "width": 40,
        "height": 50,
        "crop": {"x": 50, "y": 10, "width": 40, "height": 50, "full_width": 200, "full_height": 100},
    }
    (a,) = people
    assert a["bbox"] == [10, 10, 30, 40] and a["bbox_amodal"] == [10, 10, 40, 60]
    assert a["keypoints"] == [
        20, 20, 2, 25, 30, 1, 42.5, 30, 1, 45, 30, 3, 20, 55.5, 3, 5, 30, 3, 0, 0, 0, 21, 21, 1, 0, 0, 0,
        40, 30, 1, 20, 50, 1,
    ]  # fmt: skip
    assert a["num_keypoints"] == 9
    assert a["area"] == 30 * 40  # pixels of the cut mask
    mask = Masks.from_rle([a["segmentation"]], (40, 50)).bitmap(0)
    assert mask[10:, 10:].all() and mask.sum() == 1200
    # window at padding 1: 30 x 40, x 10..40, y 10..50; (45, 30) is 5 beyond: 1 + 2 * 5 / 30
    expected = [1, 1, 1 + 5 / 30, 1 + 10 / 30, 1 + 11 / 40, 1 + 10 / 30, -1, 1, -1, 1, 1]
    np.testing.assert_allclose(a["pad_to_contain"], expected, rtol=0, atol=1e-12)


def test_a_given_rectangle_by_hand() -> None:
    """A picture of 12 x 10 px, of which columns 4..9 and rows 2..6 are left: what becomes of five annotations.

    A: box x 2..8, y 1..9, left is x 0..4, y 0..5 (20 of 48 px^2). Wider than 3:4, so its window is 4 x 16/3 around
    2, 2.5: x 0..4, y -1/6..31/6 at padding 1 and x -0.5..4.5, y -5/6..35/6 at 1.25.
    """
    image = {"id": 3, "width": 12, "height": 10, "file_name": "3.jpg"}
    bits = np.zeros((10, 12), bool)
    bits[2:8, 3:7] = True
    points = [
        (5, 4, 2),  # -> 1, 2: stays visible
        (3.5, 4, 2),  # -> -0.5, 2: left of the picture, on the window's very border
        (3.25, 4, 1),  # -> -0.75, 2: a quarter pixel further
        (8.5, 7, 3),  # -> 4.5, 5: below the picture, on the border, was outside another window
        (9, 4, 2),  # -> 5, 2: in the picture, right of the window
        (0, 0, 0),
        (5, 9, 3),  # -> 1, 7: below both
    ]
    none = [(0.0, 0.0, 0)] * 7
    a = person(points, [2, 1, 6, 8], segmentation=Masks.from_bitmaps(bits[None]).rle(0), area=24)
    crowd = {"size": [10, 12], "counts": [85, 5, 5, 5, 5, 5, 5, 5]}  # columns 8..11, rows 5..9
    b = person(none, [6, 3, 6, 7], id=2, iscrowd=1, segmentation=crowd, area=20)
    c = person(none, [8, 2, 4, 3], id=3, area=12)  # no mask; half of the box is left
    d = person(none, [5, 3, 2, 2], id=4, segmentation=[[5, 3, 7, 3, 7, 5, 5, 5]], area=4)
    e = person([(1, 1, 2), *none[1:]], [0, 0, 4.2, 3], id=5)  # 0.2 px are left
    people = [x | {"image_id": 3} for x in (a, b, c, d, e)]
    cut = m.cut_annotations(image, people, m.Rectangle(4, 2, 6, 5))
    a, b, c, d = cut[1]
    assert [x["bbox"] for x in (a, b, c, d)] == [[0, 0, 4, 5], [2, 1, 4, 4], [4, 0, 2, 3], [1, 1, 2, 2]]
    assert [x["bbox_amodal"] for x in (a, b, c, d)] == [
        [-2, -1, 6, 8],
        [2, 1, 6, 7],
        [4, 0, 4, 3],
        [1, 1, 2, 2],
    ]
    assert [x["area"] for x in (a, b, c, d)] == [15, 4, 6, 4]
    assert [x["iscrowd"] for x in (a, b, c, d)] == [0, 1, 0, 0]
    assert "segmentation" not in c and d["segmentation"] == [[1, 1, 3, 1, 3, 3, 1, 3]]
    left, corner = (
        Masks.from_rle([a["segmentation"], b["segmentation"]], (6, 5)).bitmap(0),
        np.zeros((5, 6), bool),
    )
    corner[:, :3] = True
    assert np.array_equal(left, corner)
    corner = np.zeros((5, 6), bool)
    corner[3:, 4:] = True
    assert np.array_equal(Masks.from_rle([b["segmentation"]], (6, 5)).bitmap(0), corner)
    assert a["keypoints"] == [
        1, 2, 2, -0.5, 2, 1, -0.75, 2, 3, 4.5, 5, 1, 5, 2, 3, 0, 0, 0, 1, 7, 3
    ]  # fmt: skip
    assert a["num_keypoints"] == 6 and d["num_keypoints"] == 0
    np.testing.assert_allclose(
        a["pad_to_contain"], [1, 1.25, 1.375, 1.25, 1.5, -1, 1.6875], rtol=0, atol=1e-12
    )
    document = coco(people, [image]) | {"licenses": [{"id": 3}]}
    made = m.assemble(document, [cut], 9)
    assert made.statistics | {"flags_per_keypoint": None} == {
        "images": 1, "skipped": 0, "annotations": 4, "dropped": 1,
        "flags": {"0": 22, "1": 2, "2": 1, "3": 3},
        "flags_outside_picture": {"0": 0, "1": 2, "2": 0, "3": 2},
        "flags_per_keypoint": None, "flags_per_image": {"3": {"0": 22, "1": 2, "2": 1, "3": 3}},
    }  # fmt: skip
    assert made.statistics["flags_per_keypoint"]["k2"] == {"0": 3, "1": 0, "2": 0, "3": 1}
    twin = m.coco_twin(made.document)
    assert twin["annotations"][0]["keypoints"] == [
        1, 2, 2, -0.5, 2, 1, 0, 0, 0, 4.5, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0
    ]  # fmt: skip
    assert [x["num_keypoints"] for x in twin["annotations"]] == [3, 0, 0, 0]
    ours = {"bbox_amodal", "pad_to_contain"}
    assert all(not ours & x.keys() for x in twin["annotations"]) and "crop" not in twin["images"][0]
    assert twin["licenses"] == [{"id": 3}] and made.document["annotations"][0]["keypoints"][8] == 3


def test_masks_and_areas() -> None:
    inside = [[10, 10, 20, 10, 20, 20, 10, 20]]
    points = [(15, 15, 2)]
    r = m.Rectangle(5, 5, 30, 30)
    rle = Masks.from_polygons([inside], (200, 100)).rle(0)
    box = [10, 10, 10, 10]
    cases = {
        "polygon inside stays one": (person(points, box, segmentation=inside), 100),
        "rle": (person(points, box, segmentation=rle), 100),
        "none": (
            person(points, [0, 10, 10, 10], segmentation=[], area=80.0),
            40.0,
        ),  # half of the box is left
        "no field": (person(points, [0, 10, 10, 10], area=80.0), 40.0),
    }
    for name, (before, area) in cases.items():
        (a,) = m.cut_annotations(IMAGE, [before], r)[1]
        assert a["area"] == area, name
    (a,) = m.cut_annotations(IMAGE, [cases["polygon inside stays one"][0]], r)[1]
    assert a["segmentation"] == [[5, 5, 15, 5, 15, 15, 5, 15]]
    (a,) = m.cut_annotations(IMAGE, [cases["rle"][0]], r)[1]
    assert Masks.from_rle([a["segmentation"]], (30, 30)).areas[0] == 100


@pytest.mark.parametrize(
    ("bbox", "kept"),
    [
        ([0, 0, 100, 20], True),  # 5 of 100 columns: exactly 5 %
        ([0, 0, 101, 20], False),  # less than 5 %
        ([94, 0, 2, 20], True),  # a pixel wide
        ([94.5, 0, 0.9, 20], False),
        ([110, 0, 10, 10], False),
    ],
)
def test_who_is_dropped(bbox: list[float], kept: bool) -> None:
    r = m.Rectangle(95, 0, 5, 100)
    for crowd in (0, 1):
        people = m.cut_annotations(IMAGE, [person([(1, 1, 2)], bbox, iscrowd=crowd)], r)[1]
        assert bool(people) == kept


def test_the_whole_image_is_the_identity_but_for_points_outside_their_window() -> None:
    far, near = (199, 99, 2), (30, 30, 1)
    before = person(
        [near, far, (0, 0, 0)], [20.5, 20.25, 30, 40.125], segmentation=[[20, 20, 50, 20, 50, 60]]
    )
    image, (a,) = m.cut_annotations(IMAGE, [before], WHOLE)
    assert {k: image[k] for k in IMAGE} == IMAGE
    assert a["keypoints"] == [30, 30, 1, 199, 99, 3, 0, 0, 0]
    changed = {"keypoints", "bbox_amodal", "pad_to_contain"}
    assert {k: v for k, v in a.items() if k not in changed} == {
        k: v for k, v in before.items() if k not in changed
    }
    assert a["bbox_amodal"] == before["bbox"]


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """One to three images with people of five keypoints; boxes around the points, sometimes too small."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    whole = draw(st.booleans())
    images, people = [], []
    for i in range(draw(st.integers(1, 3))):
        w, h = (int(v) for v in rng.integers(20, 300, 2))
        images.append({"id": i, "width": w, "height": h, "file_name": f"{i}.jpg"})
        for _ in range(draw(st.integers(0, 3))):
            xy = rng.uniform(0, 1, (5, 2)) * (w, h)
            if whole:  # points meet the borders of windows
                xy = np.floor(xy)
            flags = rng.integers(0, 4, 5)
            low, high = xy.min(axis=0), xy.max(axis=0)
            grow = rng.uniform(-0.3, 0.3) * (high - low)
            box = [*(low - grow), *(high - low + 2 * grow)]
            flat = np.where(flags[:, None] > 0, np.column_stack([xy, flags]), 0).ravel().tolist()
            people.append(
                {
                    "id": len(people) + 1, "image_id": i, "category_id": 1, "bbox": [float(v) for v in box],
                    "iscrowd": int(rng.uniform() < 0.1), "area": 10.0, "keypoints": flat,
                }
            )  # fmt: skip
    return coco(people, images) if people else coco([], images)


@settings(max_examples=60, deadline=None)
@given(files(), st.integers(0, 1000))
def test_properties(document: dict[str, Any], seed: int) -> None:
    before = copy.deepcopy(document)
    r = m.build(document, seed)
    assert document == before
    assert r.to_bytes() == m.build(document, seed).to_bytes()
    counted = {str(f): 0 for f in range(4)}
    sizes = {i["id"]: i for i in r.document["images"]}
    old = {a["id"]: a for a in document["annotations"]}
    somebody_cut = dict.fromkeys(sizes, False)
    for a in r.document["annotations"]:
        image = sizes[a["image_id"]]
        crop = image["crop"]
        assert 0 <= crop["x"] <= crop["full_width"] - crop["width"]
        x, y, w, h = a["bbox"]
        assert x >= 0 and y >= 0 and x + w <= image["width"] + 1e-9 and y + h <= image["height"] + 1e-9
        points = np.array(a["keypoints"]).reshape(-1, 3)
        was = np.array(old[a["id"]]["keypoints"]).reshape(-1, 3)
        assert ((points[:, 2] > 0) == (was[:, 2] > 0)).all()
        known = points[:, 2] > 0
        np.testing.assert_allclose(
            points[known, :2] + (crop["x"], crop["y"]), was[known, :2], rtol=0, atol=1e-9
        )
        x1, y1, x2, y2 = activation_windows([a["bbox"]])[0]
        out = (points[:, 0] < x1) | (points[:, 0] > x2) | (points[:, 1] < y1) | (points[:, 1] > y2)
        assert (points[known & out, 2] == 3).all() and (points[known & ~out, 2] <= 2).all()
        beyond = (points[:, :2] < 0).any(axis=1) | (points[:, 0] >= image["width"])
        beyond |= points[:, 1] >= image["height"]
        assert (points[known & beyond, 2] != 2).all()
        pads = np.array(a["pad_to_contain"])
        assert (pads[~known] == -1).all() and ((pads > 1.25) == out)[known].all()
        assert a["num_keypoints"] == known.sum()
        for f in points[:, 2]:
            counted[str(int(f))] += 1
        if not a["iscrowd"]:
            somebody_cut[a["image_id"]] |= bool((known & beyond).any())
    assert r.statistics["flags"] == counted
    assert all(somebody_cut.values())
    assert set(r.statistics["flags_per_image"]) == {str(i) for i in sizes}
    assert r.statistics["images"] + r.statistics["skipped"] == len(document["images"])


@settings(max_examples=60, deadline=None)
@given(files())
def test_whole_images_change_nothing_but_flags_outside_windows(document: dict[str, Any]) -> None:
    sizes = {i["id"]: (i["width"], i["height"]) for i in document["images"]}
    document["annotations"] = [
        a | {"bbox": [0.0, 0.0, *(v - 0.25 for v in sizes[a["image_id"]])]} if k % 2 else a
        for k, a in enumerate(document["annotations"])
        if k % 2 or inside(a["bbox"], sizes[a["image_id"]])
    ]
    crops = [
        m.cut_annotations(i, mine, m.Rectangle(0, 0, i["width"], i["height"]))
        for i, mine in m.by_image(document)
    ]
    made = m.assemble(document, crops, 0)
    assert made.statistics["skipped"] == made.statistics["dropped"] == 0
    before = {a["id"]: a for a in document["annotations"]}
    counted = 0
    for a in made.document["annotations"]:
        old = before[a["id"]]
        was, now = (np.array(x["keypoints"]).reshape(-1, 3) for x in (old, a))
        x1, y1, x2, y2 = activation_windows([old["bbox"]])[0]
        out = (was[:, 0] < x1) | (was[:, 0] > x2) | (was[:, 1] < y1) | (was[:, 1] > y2)
        out &= was[:, 2] > 0
        kept = np.where(was[:, 2] == 3, 1, was[:, 2])  # a 3 of another window
        assert (now[:, :2] == was[:, :2]).all() and (now[:, 2] == np.where(out, 3, kept)).all()
        assert all(a[k] == old[k] for k in old if k not in ("keypoints", "num_keypoints"))
        counted += int(out.sum())
    assert made.statistics["flags"]["3"] == counted
    assert not any(made.statistics["flags_outside_picture"].values())


def inside(box: list[float], size: tuple[int, int]) -> bool:
    x, y, w, h = box
    return min(x, y) >= 0 and x + w <= size[0] and y + h <= size[1] and min(w, h) >= 1


def test_an_image_does_not_depend_on_the_others() -> None:
    points = [(20, 20, 2), (30, 30, 2), (40, 40, 2), (190, 90, 2)]
    one = person(points, [10, 10, 185, 85])
    other_image = IMAGE | {"id": 8}
    two = one | {"id": 2, "image_id": 8}
    both = m.build(coco([two, one], [other_image, IMAGE]), 5)
    alone = m.build(coco([one]), 5)
    assert alone.document["images"][0] in both.document["images"]
    assert alone.document["annotations"][0] in both.document["annotations"]
    assert m.build(coco([one]), 6).document["images"] != alone.document["images"]


@pytest.mark.parametrize("crowd", [True, False])
def test_images_without_anybody_to_cut_are_skipped(crowd: bool) -> None:
    nobody = person([(5, 5, 2), (6, 6, 2), (7, 7, 2), (150, 80, 2)], [0, 0, 160, 90], iscrowd=1)
    if not crowd:
        nobody = person([(0, 0, 0)] * 4, [0, 0, 160, 90])
    r = m.build(coco([nobody]), 0)
    assert r.document["images"] == [] and r.statistics["skipped"] == 1


def test_photos_are_cut() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (100, 200, 3), np.uint8)
    points = [(20, 20, 2), (30, 30, 2), (40, 40, 2), (190, 90, 2)]
    (image,) = m.build(coco([person(points, [10, 10, 185, 85])]), 3).document["images"]
    part = m.cut_image(pixels, image)
    c = image["crop"]
    assert part.shape == (image["height"], image["width"], 3)
    assert np.array_equal(part, pixels[c["y"] :, c["x"] :][: c["height"], : c["width"]])
    with pytest.raises(InputError, match="its labels are for 200 x 100"):
        m.cut_image(pixels[:50], image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": None}, "annotation id 1: field 'bbox'"),
        ({"bbox": [1, 2, 3]}, "annotation id 1: field 'bbox'"),
        ({"bbox": [1, 2, -3, 4]}, "annotation id 1: field 'bbox'"),
        ({"bbox": [1, 2, float("nan"), 4]}, "annotation id 1: field 'bbox'"),
        ({"keypoints": [1, 2]}, "annotation id 1: field 'keypoints'"),
        ({"keypoints": ["a", 2, 1]}, "annotation id 1: field 'keypoints'"),
        ({"keypoints": [float("nan"), 2, 1]}, "annotation id 1: field 'keypoints'"),
        ({"segmentation": [[1, 2]]}, "annotation id 1: field 'segmentation'"),
        ({"segmentation": {"size": [5, 5], "counts": [25]}}, "annotation id 1: field 'segmentation'"),
        ({"image_id": 9}, "annotation id 1 is of an image 9"),
        ({"image_id": "x"}, "field 'image_id' must be a whole number"),
        ({"image_id": float("nan")}, "field 'image_id' must be a whole number"),
        ({"area": "much"}, "annotation id 1: field 'area'"),
        ({"area": float("inf")}, "annotation id 1: field 'area'"),
    ],
)
def test_malformed_annotations(change: dict[str, Any], message: str) -> None:
    points = [(20, 20, 2), (30, 30, 2), (40, 40, 2), (190, 90, 2)]
    sound = person(points, [10, 10, 185, 85])
    assert m.build(coco([sound]), 3).document["images"]  # so that the error is the change's
    with pytest.raises(InputError, match=message):
        m.build(coco([sound | change]), 3)


def test_malformed_images_and_files() -> None:
    sound = person([(20, 20, 2), (30, 30, 2), (40, 40, 2), (190, 90, 2)], [10, 10, 185, 85])
    with pytest.raises(InputError, match="no list 'categories'"):
        m.build({"images": [], "annotations": []})
    with pytest.raises(InputError, match="'width' must be a whole number"):
        m.build(coco([sound], [{"id": 7, "height": 3}]))
    with pytest.raises(InputError, match="must be positive"):
        m.build(coco([sound], [IMAGE | {"width": 0}]))
    with pytest.raises(InputError, match="must not be negative"):
        m.build(coco([sound]), -1)
    with pytest.raises(InputError, match="does not contain"):
        m.cut_annotations(IMAGE, [sound], m.Rectangle(190, 0, 20, 20))


def test_the_data_set() -> None:
    folder = os.environ.get("BODYLOOP_DATA")
    if not folder:
        pytest.skip("needs the photographs; set BODYLOOP_DATA to their folder")
    document = json.loads((Path(folder) / "coco" / "dev.json").read_text())
    r = m.build(document, 0)
    flags = r.statistics["flags"]
    assert r.statistics["images"] > 150 and min(flags["1"], flags["3"]) > 300
    whole = [
        m.cut_annotations(i, [a for a in document["annotations"] if a["image_id"] == i["id"]],
                          m.Rectangle(0, 0, i["width"], i["height"]))[1]
        for i in document["images"]
    ]  # fmt: skip
    old = {a["id"]: a for a in document["annotations"]}
    threes = 0
    for a in (a for people in whole for a in people):
        was = np.array(old[a["id"]]["keypoints"]).reshape(-1, 3)
        now = np.array(a["keypoints"]).reshape(-1, 3)
        changed = now[:, 2] != was[:, 2]
        assert (now[changed, 2] == 3).all()
        assert (now[:, :2] == was[:, :2]).all()
        assert a["area"] == old[a["id"]]["area"] and a["segmentation"] == old[a["id"]]["segmentation"]
        threes += int(changed.sum())
    assert 0 < threes < 100
    made = m.assemble(document, [(i, people) for i, people in zip(document["images"], whole, strict=True)], 0)
    assert made.statistics["flags"]["3"] == threes and not any(
        made.statistics["flags_outside_picture"].values()
    )
