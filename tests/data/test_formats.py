"""Readers of published layouts: numbers worked by hand from the official samples, and from tiny ones of our own."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from bodyloop.data.check import check_labels
from bodyloop.data.convert import TARGETS, convert
from bodyloop.data.formats import FORMATS, read_labels
from bodyloop.data.formats.openpose import BODY_25
from bodyloop.data.labels import Labels, columns_from, digest_of, skeleton_of
from bodyloop.data.persons import PersonSet
from bodyloop.errors import BodyloopError, ConfigError, FileError, InputError, MissingDependency
from bodyloop.masks import Masks
from bodyloop.skeletons import (
    AIC_14,
    COCO,
    COCO_WHOLEBODY_133,
    CROWDPOSE_14,
    HALPE_136,
    LSP_14,
    MERGED_23,
    MPII_16,
    OCHUMAN_19,
    SKELETONS,
)
from tests.data.sets import draw, official, people, write


def at(labels: Labels, person: int, *names: str) -> list[list[float]]:
    """Keypoints of a person by name."""
    k = labels.table().keypoints[person]
    return [k[labels.skeleton.index(n)].tolist() for n in names]


def dump(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


# ------------------------------------------------------------------ official samples


def test_coco() -> None:
    labels = read_labels(official("coco_keypoints.json"))
    table = labels.table()
    assert (labels.format, labels.skeleton, len(labels.images), len(labels.annotations)) == (
        "coco",
        COCO,
        2,
        6,
    )
    np.testing.assert_allclose(
        table.boxes[0], [280.79, 44.73, 499.49, 391.41]
    )  # 280.79 + 218.7, 44.73 + 346.68
    assert table.area[0] == 27789.11055 and table.ids[0] == 442619 and table.image[0] == 0
    assert at(labels, 0, "nose", "left_eye", "right_ankle") == [[367, 81, 2], [374, 73, 2], [396, 341, 2]]
    assert table.labelled.tolist() == [17, 15, 15, 0, 12, 17] and not table.crowd.any()


def test_whole_body_is_one_list_of_133() -> None:
    labels = read_labels(official("coco_wholebody.json"))
    assert labels.skeleton is COCO_WHOLEBODY_133
    assert at(labels, 0, "nose", "right_jaw_1", "right_hand_root") == [
        [367, 81, 2],
        [355.82, 75.36, 1],
        [304.1, 181.75, 1],
    ]
    assert at(labels, 0, "left_hand_root") == [[0, 0, 0]]
    assert labels.table().labelled[0] == 17 + 6 + 68 + 21  # the left hand is not labelled
    assert "face_kpts" not in labels.annotations[0] and "face_box" in labels.annotations[0]


def test_crowdpose_has_no_areas() -> None:
    labels = read_labels(official("crowdpose.json"))
    table = labels.table()
    assert labels.skeleton is CROWDPOSE_14
    assert table.area[0] == pytest.approx(0.53 * 273.15 * 352.42)
    assert at(labels, 0, "left_shoulder", "right_shoulder", "head_top") == [
        [0, 0, 0],
        [208, 108, 2],
        [256, 27, 1],
    ]
    assert labels.images[0]["crowdIndex"] == 0.33


def test_halpe_names_nothing() -> None:
    labels = read_labels(official("halpe_coco_style.json"))
    assert labels.skeleton is HALPE_136
    # 17 head, 20 left big toe, 24 left heel, 115 right hand's root (beside the right wrist at 309, 178)
    points = at(labels, 0, "head_top", "left_big_toe", "left_heel", "right_wrist", "right_hand_root")
    assert points == [[370, 52, 2], [431, 378, 2], [488, 372, 2], [309, 178, 2], [306, 188, 2]]


def test_ochuman_in_cocos_layout() -> None:
    labels = read_labels(official("ochuman_coco_style.json"))
    assert labels.skeleton is COCO and labels.table().area[0] == 356725
    mask = Masks.from_any([labels.annotations[0]["segmentation"]], (900, 864))
    x1, y1, x2, y2 = mask.boxes[0]
    assert (250 <= x1 <= 300) and (y1 >= 112) and (x2 <= 725) and (y2 <= 863)


def test_ochumans_own() -> None:
    labels = read_labels(official("ochuman_native.json"))
    table = labels.table()
    assert labels.skeleton is OCHUMAN_19 and labels.images[0]["file_name"] == "000001.jpg"
    assert table.boxes[0].tolist() == [60, 20, 110, 150] and table.area[0] == 50 * 130
    # 1 visible and 2 hidden by the person are seen, 3 hidden by others is not, 0 is missing
    three = at(labels, 0, "right_shoulder", "right_elbow", "right_wrist")
    assert three == [[73, 50, 2], [69, 68, 2], [71, 85, 1]]
    assert at(labels, 1, "left_hip", "left_knee", "nose") == [[0, 0, 0], [0, 0, 0], [105, 39, 2]]
    assert labels.annotations[0]["segmentation"] == [[62, 22, 108, 22, 108, 148, 62, 148]]
    assert table.labelled.tolist() == [19, 16, 0] and table.boxes[2].tolist() == [10, 40, 40, 120]


def test_mpii_json() -> None:
    labels = read_labels(official("mpii_json.json"))
    table = labels.table()
    assert labels.skeleton is MPII_16 and not labels.knows_hidden
    assert [i["file_name"] for i in labels.images] == ["005808361.jpg", "052475643.jpg", "051423444.jpg"]
    # scale 4.718488: 943.6976 px around (966, 340 + 15 * 4.718488) - 1
    half = 200 * 4.718488 / 2
    cx, cy = 965, 340 + 15 * 4.718488 - 1
    np.testing.assert_allclose(table.boxes[0], [cx - half, cy - half, cx + half, cy + half])
    assert at(labels, 0, "right_ankle", "left_wrist") == [[803, 710, 2], [1141, 477, 2]]  # pixels from 0
    assert at(labels, 2, "right_ankle", "right_knee") == [[0, 0, 0], [1032, 648, 2]]
    # joints from 798 to 1167 and 80.0306 to 711, 10 % and 8 % of the longer side on each side
    w, h = 369 + 0.2 * 630.9694, 1.16 * 630.9694
    assert table.area[0] == pytest.approx(0.53 * w * h)


def test_mpii_mat() -> None:
    pytest.importorskip("scipy")
    labels = read_labels(official("mpii_mini.mat"))
    table = labels.table()
    assert labels.skeleton is MPII_16 and labels.knows_hidden and len(labels.images) == 1
    as_json = read_labels(official("mpii_json.json")).table()
    np.testing.assert_allclose(table.boxes[0], as_json.boxes[0])
    assert at(labels, 0, "right_ankle", "head_top") == [[803, 710, 2], [961.2409, 79.0306, 2]]
    assert at(labels, 1, "right_hip", "left_hip") == [[289, 273, 2], [0, 0, 0]]
    assert labels.annotations[0]["head_box"] == [99, 49, 50, 60]


def test_aic_both_ways() -> None:
    own, coco = (read_labels(official(f"aic_{n}.json")) for n in ("native", "coco_style"))
    assert own.skeleton is AIC_14 and coco.skeleton is AIC_14  # "Right Shoulder" is right_shoulder
    assert at(own, 0, "right_shoulder", "right_elbow", "right_knee") == [
        [313, 201, 2],
        [312, 313, 1],
        [0, 0, 0],
    ]
    assert own.table().boxes[0].tolist() == [279, 55, 492, 599]
    np.testing.assert_array_equal(own.table().keypoints, coco.table().keypoints[:3])
    np.testing.assert_array_equal(own.table().boxes, coco.table().boxes[:3])
    assert own.images[0]["file_name"] == coco.images[0]["file_name"] and "width" not in own.images[0]


def test_lsp_and_its_extension() -> None:
    pytest.importorskip("scipy")
    labels = read_labels(official("lsp_joints.mat"))
    assert labels.skeleton is LSP_14 and labels.knows_hidden
    assert [i["file_name"] for i in labels.images] == ["im0001.jpg", "im0002.jpg", "im0003.jpg"]
    np.testing.assert_allclose(
        at(labels, 0, "right_ankle", "head_top"),
        [[28.74645941, 142.34544031, 2], [37.9884044, 14.56550525, 2]],
    )
    more = read_labels(official("lspet_joints.mat"))
    assert not more.knows_hidden and more.images[0]["file_name"] == "im00001.jpg"
    assert at(more, 0, "right_ankle") == [[0, 0, 0]]  # not labelled, though it has a place
    np.testing.assert_allclose(at(more, 0, "right_knee"), [[25.03094352, 85.41022512, 2]])
    assert more.table().labelled.tolist() == [13, 14, 11]


def test_lsp_boxes_are_those_of_the_converted_set() -> None:
    pytest.importorskip("scipy")
    labels = read_labels(official("lsp_joints.mat"))
    rows = {}
    for split in ("train", "dev"):
        other = read_labels(official("").parent / "lsp" / f"{split}.json")
        images = {i["id"]: i for i in other.images if i["source"] == "LSP" and i["index"] <= 3}
        rows |= {images[a["image_id"]]["index"]: a for a in other.annotations if a["image_id"] in images}
    assert sorted(rows) == [1, 2, 3]
    for index, row in rows.items():
        mine = labels.annotations[index - 1]
        np.testing.assert_allclose(mine["bbox"], row["bbox"], atol=0.051)
        np.testing.assert_allclose(mine["keypoints"], row["keypoints"], atol=0.051)


def test_a_list_of_results_is_no_labels() -> None:
    with pytest.raises(InputError, match="list of results"):
        read_labels(official("coco_person_detections.json"))


# ------------------------------------------------------------------ our own, everywhere


def mpii_entry(**fields: Any) -> dict[str, Any]:
    joints = [[10.0 + i, 20.0 + 2 * i] for i in range(16)]
    return {
        "image": "a.jpg",
        "joints": joints,
        "joints_vis": [0] + [1] * 15,
        "scale": 0.5,
        "center": [30.0, 40.0],
        **fields,
    }


def test_mpii_by_hand(tmp_path: Path) -> None:
    two = [mpii_entry(), mpii_entry(center=[-1, 40])]
    labels = read_labels(dump(tmp_path / "train.json", two))
    assert labels.format == "mpii" and len(labels.images) == 1
    # 100 px around (30, 40 + 7.5) - 1; without a centre it is not lowered
    assert labels.table().boxes.tolist() == [[-21, -3.5, 79, 96.5], [-52, -11, 48, 89]]
    assert at(labels, 0, "right_ankle", "right_knee") == [[0, 0, 0], [10, 21, 2]]


def aic_image() -> dict[str, Any]:
    points = [v for k in range(14) for v in (5 + k, 6 + k, 1 + k % 3)]
    boxes = {"human1": [1, 2, 31, 52]}
    return {"image_id": "x", "human_annotations": boxes, "keypoint_annotations": {"human1": points}}


def test_aic_by_hand(tmp_path: Path) -> None:
    labels = read_labels(dump(tmp_path / "aic.json", [aic_image()]))
    assert at(labels, 0, *AIC_14.keypoints[:4]) == [[5, 6, 2], [6, 7, 1], [0, 0, 0], [8, 9, 2]]
    assert labels.annotations[0]["bbox"] == [1, 2, 30, 50] and labels.annotations[0]["area"] == 0.53 * 1500


def ochuman(**fields: Any) -> dict[str, Any]:
    names = ["head", *OCHUMAN_19.keypoints[:12], *OCHUMAN_19.keypoints[13:]]  # another order
    points = [v for k in range(19) for v in (10 + k, 20, k % 4)]
    row = {
        "bbox": [8, 5, 40, 35],
        "keypoints": points,
        "segms": {"outer": [[10, 10, 30, 10, 30, 30, 10, 30]], "inner": []},
    }
    image = {
        "image_id": "1",
        "file_name": "1.jpg",
        "width": 60,
        "height": 40,
        "annotations": [{**row, **fields}],
    }
    return {"keypoint_names": names, "keypoint_visible": {}, "images": [image]}


def test_ochuman_by_hand(tmp_path: Path) -> None:
    hole = {"outer": [[10, 10, 30, 10, 30, 30, 10, 30]], "inner": [[15, 15, 25, 15, 25, 25, 15, 25]]}
    labels = read_labels(dump(tmp_path / "o.json", ochuman(segms=hole)))
    assert labels.skeleton is OCHUMAN_19
    # head is the file's first (flag 0), right_shoulder its second (1: visible), and so on
    assert at(labels, 0, "head_top", "right_shoulder", "right_elbow", "right_wrist") == [
        [0, 0, 0], [11, 20, 2], [12, 20, 2], [13, 20, 1]
    ]  # fmt: skip
    mask = Masks.from_any([labels.annotations[0]["segmentation"]], (60, 40))
    assert mask.areas[0] == 20 * 20 - 10 * 10  # a hole, which polygons cannot have
    assert not mask.bitmap(0)[20, 20] and mask.bitmap(0)[12, 12]


def test_lsp_by_hand(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    joints = np.zeros((3, 14, 2))
    joints[0], joints[1] = 11 + np.arange(14)[:, None], 21 + 2 * np.arange(14)[:, None]
    joints[2, 0, 1] = 1  # hidden
    savemat(tmp_path / "joints.mat", {"joints": joints})
    labels = read_labels(tmp_path)  # a folder with joints.mat
    assert at(labels, 1, "right_ankle", "right_knee") == [[10, 20, 1], [11, 22, 2]]
    # 13 wide, 26 high, 2.6 and 2.08 more on each side
    np.testing.assert_allclose(labels.annotations[0]["bbox"], [7.4, 17.92, 18.2, 30.16])
    assert labels.annotations[0]["bbox_estimated"] == 1
    savemat(tmp_path / "one.mat", {"joints": joints[..., 0].T})  # LSPET's order, one person
    assert len(read_labels(tmp_path / "one.mat").annotations) == 1


def test_mpii_mat_by_hand(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    points = [
        {"x": 11.0, "y": 21.0, "id": 0, "is_visible": "0"},
        {"x": 31.0, "y": 41.0, "id": 9, "is_visible": []},
    ]
    rect = {"x1": 5.0, "y1": 6.0, "x2": 15.0, "y2": 26.0, "scale": 1.0, "objpos": {"x": 50.0, "y": 60.0},
            "annopoints": {"point": points}}  # fmt: skip
    images = [{"image": {"name": "a.jpg"}, "annorect": rect}, {"image": {"name": "b.jpg"}, "annorect": []}]
    savemat(tmp_path / "m.mat", {"RELEASE": {"annolist": images, "img_train": [1, 0]}})
    labels = read_labels(tmp_path / "m.mat")
    assert at(labels, 0, "right_ankle", "head_top", "pelvis") == [
        [10, 20, 1],
        [30, 40, 2],
        [0, 0, 0],
    ]
    assert labels.table().boxes[0].tolist() == [-51, -26, 149, 174]  # 200 px around (50, 75) - 1
    assert labels.annotations[0]["head_box"] == [4, 5, 10, 20]
    assert labels.notes == {"images of the test part, which has no joints": 1}


def whole_body(path: Path) -> dict[str, Any]:
    document = people()
    for row in document["annotations"]:
        row |= {
            "foot_kpts": [0] * 18,
            "face_kpts": [0] * 204,
            "lefthand_kpts": [0] * 63,
            "righthand_kpts": [3, 4, 0.3] * 21,
        }
    return document


def test_fractional_flags_are_labelled(tmp_path: Path) -> None:
    labels = read_labels(write(tmp_path, whole_body(tmp_path)))
    assert at(labels, 2, "right_hand_root", "left_big_toe") == [[3, 4, 1], [0, 0, 0]]
    assert labels.table().labelled.tolist() == [16 + 21, 21, 17 + 21]


def test_keypoints_of_your_own(tmp_path: Path) -> None:
    document = people()
    document["categories"][0] |= {"keypoints": ["Left Paw", "tail"], "skeleton": [[1, 2]]}
    document["categories"].append({"id": 2, "name": "car"})
    for row in document["annotations"]:
        row["keypoints"] = [1, 2, 2, 3, 4, 3]
    document["annotations"].append({"id": 99, "image_id": 3, "category_id": 2, "bbox": [0, 0, 5, 5]})
    labels = read_labels(write(tmp_path, document))
    assert labels.skeleton.keypoints == ("Left Paw", "tail") and labels.skeleton.links == ((0, 1),)
    assert len(labels.annotations) == 3 and labels.notes == {"annotations of categories without keypoints": 1}


def test_names_decide_the_skeleton() -> None:
    for known in SKELETONS.values():
        assert skeleton_of([n.replace("_", " ").title() for n in known.keypoints], "x") is known
    assert skeleton_of([*COCO.keypoints[::-1]], "x").name == "own"
    with pytest.raises(InputError, match="twice"):
        skeleton_of(["a", "a"], "x")
    with pytest.raises(InputError, match="pairs of numbers from 1 to 2"):
        skeleton_of(["a", "b"], "x", [[1, 3]])


def test_how_keypoints_move() -> None:
    to = columns_from(MPII_16, MERGED_23)  # by the published table: 6 pelvis, 7 thorax, 8 neck, 9 head top
    assert to[MERGED_23.index("thorax_mpii")] == 7 and to[MERGED_23.index("head_top_aic")] == -1
    assert to[MERGED_23.index("left_ankle")] == 5 and to[MERGED_23.index("nose")] == -1
    own = skeleton_of(["Right Knee", "tail"], "x")
    assert columns_from(own, COCO)[COCO.index("right_knee")] == 0
    assert (columns_from(own, COCO) >= 0).sum() == 1


def yolo(folder: Path, rows: str, **fields: Any) -> Path:
    draw(folder / "images" / "train" / "a.png")
    place = folder / "labels" / "train" / "a.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(rows)
    import yaml

    content = {
        "train": "images/train",
        "kpt_shape": [2, 3],
        "flip_idx": [1, 0],
        "names": {0: "dog"},
        **fields,
    }
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder


def test_yolo_by_hand(tmp_path: Path) -> None:
    labels = read_labels(
        yolo(tmp_path, "0 0.5 0.5 0.2 0.5 0.25 0.5 2 0.75 0.1 1\n\n0 0.5 0.5 0.1 0.1 0 0 0 0.5 0.5 2\n")
    )
    assert labels.format == "yolo-pose" and labels.document["categories"][0]["name"] == "dog"
    assert labels.images == [{"id": 1, "file_name": "images/train/a.png", "width": 60, "height": 40}]
    assert labels.annotations[0]["bbox"] == pytest.approx([24, 10, 12, 20])
    assert labels.table().keypoints[0].tolist() == [[15, 20, 2], [45, 4, 1]]
    assert labels.skeleton.flip.tolist() == [1, 0]  # of names that were made up
    assert len(labels.files) == 2 and digest_of(labels.files) != digest_of(labels.files[:1])


def test_yolo_without_flags(tmp_path: Path) -> None:
    names = {"kpt_names": {0: ["left_ear", "right_ear"]}, "kpt_shape": [2, 2], "path": "."}
    labels = read_labels(yolo(tmp_path, "0 0.5 0.5 0.2 0.5 0.25 0.5 0 0\n", **names))
    assert labels.skeleton.keypoints == ("left_ear", "right_ear") and not labels.knows_hidden
    assert labels.table().keypoints[0].tolist() == [[15, 20, 2], [0, 0, 0]]


def test_yolo_finds_its_photos(tmp_path: Path) -> None:
    row = "0 0.5 0.5 0.2 0.5 0.25 0.5 2 0.75 0.1 1\n"
    read = read_labels(yolo(tmp_path / "a", row, train="../images/train"))  # as some tools write it
    assert len(read.annotations) == 1
    (tmp_path / "a" / "list.txt").write_text("./images/train/a.png\n")
    assert read_labels(yolo(tmp_path / "a", row, train="list.txt")).images == read.images
    with pytest.raises(FileError, match="no part 'val'"):
        read_labels(tmp_path / "a", split="val")
    with pytest.raises(FileError, match="put them there"):
        read_labels(yolo(tmp_path / "a", row, train="nowhere"))


def test_yolo_turned_photos(tmp_path: Path) -> None:
    folder = yolo(tmp_path, "0 0.5 0.5 1 1 0.5 0.5 2 0 0 0\n")
    (folder / "images" / "train" / "a.png").unlink()
    exif = PIL.Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    draw(folder / "images" / "train" / "a.jpg", exif=exif)
    labels = read_labels(folder)
    assert (labels.images[0]["width"], labels.images[0]["height"]) == (40, 60)
    assert labels.table().keypoints[0, 0].tolist() == [20, 30, 2]


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version>
 <meta><task><labels>
  <label><name>dog</name><type>skeleton</type></label>
  <label><name>left_ear</name><type>points</type><parent>dog</parent></label>
  <label><name>tail</name><type>points</type><parent>dog</parent></label>
 </labels></task></meta>
 <image id="0" name="sub/a.jpg" width="60" height="40">
  {shapes}
 </image>
</annotations>"""
SKELETON = """<skeleton label="dog" source="manual" z_order="0" {group}>
  <points label="tail" source="manual" outside="0" occluded="1" points="20.50,30.00"/>
  <points label="left_ear" source="manual" outside="1" occluded="0" points="1.00,2.00"/>
</skeleton>"""


def cvat(path: Path, shapes: str) -> Path:
    path.write_text(CVAT.replace("{shapes}", shapes), encoding="utf-8")
    return path


def test_cvat_skeletons(tmp_path: Path) -> None:
    labels = read_labels(cvat(tmp_path / "a.xml", SKELETON.format(group="") + '<polyline points="1,1;2,2"/>'))
    assert labels.skeleton.keypoints == ("left_ear", "tail")  # the order of the labels, not of the points
    assert labels.table().keypoints[0].tolist() == [[0, 0, 0], [20.5, 30, 1]]
    assert labels.annotations[0]["bbox_estimated"] == 1 and labels.notes == {"shapes <polyline>": 1}
    assert labels.images[0] == {"id": 1, "file_name": "sub/a.jpg", "width": 60, "height": 40}


def test_cvat_groups(tmp_path: Path) -> None:
    # 4 x 3 px at (10, 20), column by column of rows: 0 1 1 0 / 1 1 1 1 / 0 0 0 0
    mask = '<mask label="dog" rle="1, 2, 1, 4, 4" left="10" top="20" width="4" height="3" group_id="2"/>'
    box = '<box label="dog" xtl="5" ytl="6" xbr="25" ybr="36" group_id="2"/>'
    labels = read_labels(cvat(tmp_path / "a.xml", SKELETON.format(group='group_id="2"') + box + mask))
    (row,) = labels.annotations
    assert row["bbox"] == [5, 6, 20, 30] and "bbox_estimated" not in row
    bitmap = Masks.from_any([row["segmentation"]], (60, 40)).bitmap(0)
    assert np.argwhere(bitmap).tolist() == [[20, 11], [20, 12], [21, 10], [21, 11], [21, 12], [21, 13]]
    assert labels.document["categories"][0]["name"] == "dog"


def test_cvat_points(tmp_path: Path) -> None:
    single = (
        '<points label="tail" points="3,4" occluded="0"/><points label="left_ear" points="5,6" occluded="1"/>'
    )
    labels = read_labels(cvat(tmp_path / "a.xml", single))
    assert labels.table().keypoints.tolist() == [[[5, 6, 1], [3, 4, 2]]]
    many = read_labels(cvat(tmp_path / "b.xml", '<points label="dog" points="1,2;3,4;5,6" group_id="1"/>'))
    assert many.skeleton.keypoints == ("dog_1", "dog_2", "dog_3")
    with pytest.raises(InputError, match="group each person's points"):
        read_labels(cvat(tmp_path / "c.xml", single * 2))


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>', FileError, "DOCTYPE"),
        ("<annotations><version>", FileError, "not XML"),
        ("<annotations></annotations>", InputError, "no skeleton"),
        ('<annotations><track id="0"/></annotations>', InputError, "for videos"),
        ("<svg/>", InputError, "none of the known formats"),
    ],
    ids=["entities", "cut", "empty", "video", "other"],
)
def test_xml_that_is_refused(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(error, match=words):
        read_labels(tmp_path / "a.xml")


def test_xml_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_bytes("<!DOCTYPE a><annotations/>".encode("utf-16"))
    with pytest.raises(FileError, match="UTF-8"):
        read_labels(tmp_path / "a.xml")


def region(kind: str, **value: Any) -> dict[str, Any]:
    name = value.pop("id", "")
    more = {k: value.pop(k) for k in ("parentID", "meta") if k in value}
    return {"id": name, "type": kind, "original_width": 200, "original_height": 100, "value": value, **more}


def point(name: str, x: float, y: float, **more: Any) -> dict[str, Any]:
    return region("keypointlabels", x=x, y=y, width=1, keypointlabels=[name], id=f"{name}{x}", **more)


def box(id: str, x: float, y: float, w: float, h: float) -> dict[str, Any]:
    return region("rectanglelabels", x=x, y=y, width=w, height=h, rectanglelabels=["dog"], id=id)


def task(*regions: dict[str, Any], **data: Any) -> list[dict[str, Any]]:
    return [
        {
            "id": 4,
            "data": {"image": "/data/upload/3/0a1b2c3d-a%20b.jpg", **data},
            "annotations": [{"result": [*regions]}],
        }
    ]


def test_label_studio(tmp_path: Path) -> None:
    regions = [
        box("one", 10, 10, 30, 80), box("two", 50, 0, 40, 90),
        point("ear", 20, 50, parentID="one"), point("tail", 60, 25, meta={"text": ["hidden"]}),
        {"type": "relation", "from_id": "two", "to_id": "ear55"}, point("ear", 55, 50),
        region("polygonlabels", points=[[10, 10], [40, 10], [40, 90]], polygonlabels=["dog"], id="p", parentID="one"),
        region("choices", id="c"),
    ]  # fmt: skip
    labels = read_labels(dump(tmp_path / "tasks.json", task(*regions)))
    assert labels.images == [{"id": 1, "file_name": "a b.jpg", "width": 200, "height": 100}]
    assert labels.skeleton.keypoints == ("ear", "tail") and labels.document["categories"][0]["name"] == "dog"
    assert [a["bbox"] for a in labels.annotations] == [[20, 10, 60, 80], [100, 0, 80, 90]]
    # the tail lies in the second rectangle only; the second ear belongs to it by a relation
    assert labels.table().keypoints.tolist() == [[[40, 50, 2], [0, 0, 0]], [[110, 50, 2], [120, 25, 1]]]
    assert labels.annotations[0]["segmentation"] == [[20, 10, 80, 10, 80, 90]]
    assert labels.notes == {"regions of type choices": 1}


def test_label_studio_without_rectangles(tmp_path: Path) -> None:
    one = task(point("ear", 20, 50), point("tail", 60, 25), image="sub/a.jpg")
    labels = read_labels(dump(tmp_path / "a.json", one))
    assert labels.table().keypoints.tolist() == [[[40, 50, 2], [120, 25, 2]]]
    assert labels.images[0]["file_name"] == "sub/a.jpg"
    for regions, words in (
        ([point("ear", 1, 1), point("ear", 2, 2)], "several people"),
        ([box("a", 0, 0, 50, 50), box("b", 0, 0, 50, 50), point("ear", 20, 20)], "lies in 2 rectangles"),
        ([box("a", 0, 0, 50, 50), point("ear", 20, 20), point("ear", 21, 20)], "two keypoints 'ear'"),
        ([box("a", 0, 0, 50, 50)], "no keypoints"),
        ([{**point("ear", 1, 1), "value": {"keypointlabels": ["ear"]}}], "x y of region"),
    ):
        with pytest.raises(InputError, match=words):
            read_labels(dump(tmp_path / "b.json", task(*regions)))


def openpose_person(count: int = 25, **more: Any) -> dict[str, Any]:
    return {"pose_keypoints_2d": [v for k in range(count) for v in (k, 2 * k, 0.4 * (k > 0))], **more}


def test_openpose(tmp_path: Path) -> None:
    dump(tmp_path / "b_keypoints.json", {"people": []})
    dump(tmp_path / "a_keypoints.json", {"version": 1.3, "people": [openpose_person()]})
    draw(tmp_path / "b.png")
    labels = read_labels(tmp_path)
    assert labels.skeleton == BODY_25 and not labels.knows_hidden
    assert [i["file_name"] for i in labels.images] == ["a.jpg", "b.png"]
    assert at(labels, 0, "nose", "neck", "pelvis", "right_heel") == [
        [0, 0, 0],
        [1, 2, 2],
        [8, 16, 2],
        [24, 48, 2],
    ]
    dump(tmp_path / "b_keypoints.json", {"people": [openpose_person(hand_left_keypoints_2d=[5, 6, 1] * 21)]})
    hands = read_labels(tmp_path)
    assert len(hands.skeleton) == 46 and at(hands, 1, "left_hand_root") == [[5, 6, 2]]
    assert at(hands, 0, "left_hand_root") == [[0, 0, 0]]


def test_openpose_of_18(tmp_path: Path) -> None:
    labels = read_labels(dump(tmp_path / "x_keypoints.json", {"people": [openpose_person(18)]}))
    assert labels.skeleton.name == "openpose-18" and at(labels, 0, "left_ear") == [[17, 34, 2]]


# ------------------------------------------------------------------ what is refused


def changed(document: Any, change: Callable[[Any], object]) -> Any:
    change(document)
    return document


Fault = tuple[Callable[[Path], Any], Callable[[Any], object], str]


def in_row(number: int, **fields: Any) -> Callable[[Any], object]:
    return lambda d: d["annotations"][number].update(**fields)


def in_ochuman(**fields: Any) -> Callable[[Any], object]:
    return lambda d: d["images"][0]["annotations"][0].update(**fields)


def coco(_: Path) -> dict[str, Any]:
    return people()


FAULTS: dict[str, Fault] = {
    "coco-short": (coco, in_row(1, keypoints=[1, 2]), "annotation id 8: field 'keypoints'"),
    "coco-nan": (coco, in_row(0, bbox=[0, 0, float("nan"), 1]), "annotation id 7: field 'bbox'"),
    "coco-flag": (coco, in_row(0, keypoints=[1, 1, 0.9] * 17), "annotation id 7: flags"),
    "coco-image": (coco, in_row(2, image_id=4), "annotation id 9: field 'image_id'"),
    "coco-list": (coco, lambda d: d.update(annotations={}), "'annotations' must be a list"),
    "coco-no-categories": (coco, lambda d: d.pop("categories"), "categories"),
    "coco-names": (coco, lambda d: d["categories"][0].update(keypoints="nose"), "must be a list of names"),
    "coco-kinds": (coco, lambda d: d["categories"].append({"keypoints": ["a"]}), "different keypoints"),
    "whole-body": (
        whole_body,
        lambda d: d["annotations"][1].pop("face_kpts"),
        "annotation id 8: field 'face_",
    ),
    "ochuman-box": (lambda p: ochuman(), in_ochuman(bbox=[1, 2]), "image 1, person 0: bbox"),
    "ochuman-flag": (lambda p: ochuman(), in_ochuman(keypoints=[1, 1, 7] * 19), "visibility"),
    "mpii-joints": (lambda p: [mpii_entry(joints=[[1, 2]])], lambda d: None, r"entry 0 \(a.jpg\): joints"),
    "mpii-scale": (lambda p: [mpii_entry(scale=None)], lambda d: None, r"entry 0 \(a.jpg\): scale"),
    "list": (lambda p: [1, 2], lambda d: None, "a list"),
    "nothing": (lambda p: {}, lambda d: None, "none of the known formats"),
}


@pytest.mark.parametrize(("make", "change", "words"), FAULTS.values(), ids=FAULTS)
def test_faults_are_named(
    tmp_path: Path, make: Callable[[Path], Any], change: Callable[[Any], object], words: str
) -> None:
    path = dump(tmp_path / "bad.json", changed(make(tmp_path), change))
    with pytest.raises(InputError, match=words) as caught:
        read_labels(path).table()
    assert "bad.json" in str(caught.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("0 0.5 0.5 0.1", "line 1"),
        ("0 0.5 0.5 0.2 0.5 0.2 0.5 3 0 0 0", "flags"),
        ("0 a b c d e f g h i j", "line 1"),
    ],
)
def test_yolo_faults(tmp_path: Path, row: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_labels(yolo(tmp_path, row))
    assert "a.txt" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kpt_shape": [2, 4]}, "kpt_shape"),
        ({"flip_idx": [0, 0]}, "flip_idx"),
        ({"kpt_names": ["a"]}, "kpt_names"),
    ],
)
def test_yolo_descriptions(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_labels(yolo(tmp_path, "", **fields))


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.json", "a.xml", "a.yaml"):
        with pytest.raises(FileError, match=name):
            read_labels(tmp_path / name)
        (tmp_path / name).write_bytes(b"\xff\xfe{")
        with pytest.raises(FileError, match=name):
            read_labels(tmp_path / name)
    (tmp_path / "a.txt").write_text("1")
    with pytest.raises(InputError, match="read from"):
        read_labels(tmp_path / "a.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="neither"):
        read_labels(tmp_path / "empty")
    with pytest.raises(ConfigError, match="known: "):
        read_labels(tmp_path / "a.json", format="voc")
    dump(tmp_path / "b.json", people())
    with pytest.raises(InputError, match="is not MPII"):
        read_labels(tmp_path / "b.json", format="mpii")
    assert read_labels(tmp_path / "b.json", format="coco").format == "coco"
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(MissingDependency, match="pip install scipy"):
        read_labels(tmp_path / "c.mat")


def test_broken_mat_files(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    for content in (b"", b"MATLAB 5.0 MAT-file", b"\0" * 200, bytes(range(256)) * 4):
        (tmp_path / "a.mat").write_bytes(content)
        with pytest.raises(FileError, match=r"a\.mat"):
            read_labels(tmp_path / "a.mat")


def test_every_format_says_what_it_is() -> None:
    assert all(m.ABOUT and callable(m.fits) and callable(m.read) for m in FORMATS.values())


# ------------------------------------------------------------------ hostile files

JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 3.5, 1e300, float("nan"), float("inf"), "x", "", [], {}, [[]], [None], {"a": 1}, 10**30, "1",
    "..",
)  # fmt: skip


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield (*path, key)
        yield from nodes(child, (*path, key))


def spoiled(document: Any, rng: random.Random) -> Any:
    """The document with something removed, doubled or replaced at any depth."""
    document = json.loads(json.dumps(document))
    paths = list(nodes(document))
    depth = rng.randint(1, max(map(len, paths)))
    *way, last = rng.choice([p for p in paths if len(p) == depth])
    place = document
    for key in way:
        place = place[key]
    what = rng.random()
    if what < 0.3:
        del place[last]
    elif what < 0.5 and isinstance(place, list):
        place.append(place[last])
    else:
        place[last] = rng.choice(JUNK)
    return document


def label_studio() -> Any:
    return task(
        box("one", 10, 10, 30, 80), point("ear", 20, 50, parentID="one"), point("tail", 30, 50),
        {"type": "relation", "from_id": "two", "to_id": "ear55"},
        region("polygonlabels", points=[[10, 10], [40, 10], [40, 90]], polygonlabels=["dog"], id="p", parentID="one"),
    )  # fmt: skip


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "coco": coco, "whole-body": whole_body, "ochuman": lambda p: ochuman(), "mpii": lambda p: [mpii_entry()],
    "aic": lambda p: [aic_image()], "label-studio": lambda p: label_studio(),
    "openpose": lambda p: {"people": [openpose_person(hand_left_keypoints_2d=[5, 6, 1] * 21)]},
}  # fmt: skip


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_spoiled_files_are_errors_of_the_package(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    """Whatever is wrong, reading, checking, converting and training data end well or with one of our errors."""
    for i in (3, 5):
        draw(tmp_path / "images" / f"{i}.png")
    rng = random.Random(0)
    path = tmp_path / "a_keypoints.json"
    original, outcomes = make(tmp_path), []
    for n in range(60):
        dump(path, spoiled(original, rng))
        steps: list[Callable[[], object]] = [
            lambda: read_labels(path).table(),
            lambda: check_labels(path).text(),
            lambda n=n: convert(path, tmp_path / str(n), TARGETS[n % len(TARGETS)]),  # type: ignore[misc]
            lambda: [PersonSet(path, COCO).sample(0)],
        ]
        for step in steps:
            try:
                step()
                outcomes.append(True)
            except (BodyloopError, IndexError) as e:
                assert isinstance(e, BodyloopError) or "out of bounds" in str(e)  # nobody is left
                outcomes.append(False)
    assert len(set(outcomes)) == 2  # some were spoiled, some were not
