"""Pipelines judged from photos: roles that know the answer, found one by one, so that numbers follow by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.errors import ConfigError, FileError, InputError, ModelError
from bodyloop.eval import evaluate_boxes, evaluate_keypoints, evaluate_masks
from bodyloop.eval.oracle import MergingOracle, TrueMasks
from bodyloop.eval.pipeline import RANKINGS, evaluate_pipeline, results_of
from bodyloop.eval.pipeline_run import open_photos, run_pipeline
from bodyloop.geometry import boxes_from_xywh, iou
from bodyloop.images import Image
from bodyloop.loop import BodyLoop, LoopConfig
from bodyloop.people import People
from bodyloop.roles import Prompt
from bodyloop.skeletons import BODY_19, COCO
from tests.data.figures import write_figures

CONFIG = LoopConfig("test", prompt_box=True, stop_when_settled=True)


class OneByOne:
    """Finds the first of the labelled people who is not painted black; scores fall from photo to photo."""

    def __init__(self, path: Path, broken: int | None = None, error: type[Exception] = InputError) -> None:
        self.rows: dict[int, list[list[float]]] = {}
        for a in json.loads(path.read_text())["annotations"]:
            self.rows.setdefault(a["image_id"], []).append(a["bbox"])
        self.broken, self.error, self.asked = broken, error, 0

    def __repr__(self) -> str:
        return "one by one"

    def detect(self, images: Any) -> list[People]:
        (image,) = images
        self.asked += 1
        if image.id == self.broken:
            raise self.error("the lens cap is on")
        boxes = boxes_from_xywh(self.rows[image.id])
        middle = ((boxes[:, :2] + boxes[:, 2:]) / 2).round().astype(int)
        left = [i for i, (x, y) in enumerate(middle) if image.pixels[y, x].any()][:1]
        scores = np.full(len(left), 1 - image.id / 100, np.float32)
        return [People(image.size, image.source, boxes=boxes[left], scores=scores)]


class Labelled:
    """Says where the labels of the person with the most similar box are."""

    skeleton = BODY_19

    def __init__(self, path: Path) -> None:
        self.rows = json.loads(path.read_text())["annotations"]

    def __repr__(self) -> str:
        return "labelled"

    def estimate(self, images: Any, people: Any) -> list[People]:
        out = []
        for image, some in zip(images, people, strict=True):
            mine = [a for a in self.rows if a["image_id"] == image.id]
            best = iou(some.boxes, boxes_from_xywh([a["bbox"] for a in mine])).argmax(axis=1)
            points = np.array([mine[i]["keypoints"] for i in best]).reshape(len(some), 17, 3)[..., :2]
            points = np.concatenate([points, np.full((len(some), 2, 2), np.nan)], axis=1)
            scores = np.where(np.isnan(points[..., 0]), np.nan, 0.5)
            out.append(
                some.replace(
                    skeleton=BODY_19, keypoints=points, map_scores=scores, visibility=np.ones_like(scores)
                )
            )
        return out


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_figures(tmp_path / "data", photos=4)


def loop_of(path: Path, detector: Any = None, **changes: Any) -> BodyLoop:
    segmenter = TrueMasks(open_photos(path))
    return BodyLoop(detector or OneByOne(path), Labelled(path), segmenter, CONFIG.changed(**changes))


def test_what_each_pass_brings(path: Path, tmp_path: Path) -> None:
    r = evaluate_pipeline(loop_of(path, passes=3), path.parent, resamples=50)
    once, twice, thrice = r.stages
    assert [s.people for s in r.stages] == [4, 8, 8]
    for task in ("boxes", "masks", "keypoints"):
        assert once.intervals[task].value == pytest.approx(51 / 101)  # half of the people, all of them right
        assert twice.intervals[task].value == pytest.approx(1)
        assert twice.gains[task].value == pytest.approx(50 / 101) and twice.gains[task].low > 0.4
        assert thrice.gains[task].value == twice.gains[task].value
    assert not once.gains and set(r.seconds) == {"detect", "pose", "segment", "loop"}
    told = json.loads(json.dumps(r.to_json(), allow_nan=False))
    assert told["stages"][1]["reports"]["masks"]["numbers"]["AP"] == pytest.approx(1)
    assert "after 2x: 8 people" in r.table() and "box*keypoint score (keypoints)" in r.table()
    out = r.save(tmp_path / "saved")
    labels = out / "data-dev.json"
    for task, judge in (
        ("boxes", evaluate_boxes),
        ("masks", evaluate_masks),
        ("keypoints", evaluate_keypoints),
    ):
        numbers = [judge(labels, out / f"data-dev.{task}.{n}x.json").numbers["AP"] for n in (1, 2)]
        assert numbers == pytest.approx([51 / 101, 1])
    assert json.loads((out / "report.json").read_text())["images"] == 4


def test_a_run_goes_on(path: Path, tmp_path: Path) -> None:
    detector = OneByOne(path)
    first = evaluate_pipeline(loop_of(path, detector), path, folder=tmp_path / "run", resamples=5)
    asked = detector.asked
    assert asked == 8
    again = evaluate_pipeline(loop_of(path, detector), path, folder=tmp_path / "run", resamples=5)
    assert detector.asked == asked and again.to_json() == first.to_json()
    kept = sorted((tmp_path / "run" / "photos").iterdir())
    kept[0].unlink()
    kept[1].write_text('{"size": [200')  # as if something had cut it off
    evaluate_pipeline(loop_of(path, detector), path, folder=tmp_path / "run", resamples=5)
    assert detector.asked == asked + 4
    with pytest.raises(FileError, match="holds another set"):
        evaluate_pipeline(loop_of(path, detector, passes=3), path, folder=tmp_path / "run")


def test_parts_join(path: Path, tmp_path: Path) -> None:
    photos = open_photos(path)
    half = run_pipeline(loop_of(path), photos, folder=tmp_path / "run", part=(2, 2))
    assert [s.image_id for s in half.seen] == [8, 10]
    whole = run_pipeline(loop_of(path), photos, folder=tmp_path / "run", part=(1, 2))
    assert [s.image_id for s in whole.seen] == [7, 8, 9, 10] and not whole.failed
    with pytest.raises(ConfigError, match="i of n"):
        run_pipeline(loop_of(path), photos, part=(3, 2))


def test_a_photo_that_fails_is_named_and_tried_again(path: Path, tmp_path: Path) -> None:
    (path.parent / "images" / "dev3.png").unlink()
    broken = loop_of(path, OneByOne(path, broken=8))
    r = evaluate_pipeline(broken, path, folder=tmp_path / "run", resamples=5)
    assert set(r.run.failed) == {"dev1.png", "dev3.png"} and "lens cap" in r.run.failed["dev1.png"]
    assert r.stages[1].intervals["boxes"].value == pytest.approx(1) and len(r.run.seen) == 2
    assert "FAILED, not judged: dev1.png: " in r.table() and r.to_json()["images"] == 2
    mended = evaluate_pipeline(loop_of(path), path, folder=tmp_path / "run", resamples=5)
    assert set(mended.run.failed) == {"dev3.png"} and len(mended.run.seen) == 3
    memory = evaluate_pipeline(loop_of(path, OneByOne(path, 8, MemoryError)), path, resamples=5)
    assert "out of memory" in memory.run.failed["dev1.png"]
    with pytest.raises(ModelError, match="lens cap"):  # wrong for every photo
        evaluate_pipeline(loop_of(path, OneByOne(path, 8, ModelError)), path)
    for i in range(3):
        (path.parent / "images" / f"dev{i}.png").unlink()
    with pytest.raises(InputError, match="none of its 4 photos"):
        evaluate_pipeline(loop_of(path), path)


def test_rankings(path: Path) -> None:
    run = run_pipeline(loop_of(path), open_photos(path))
    row = run.seen[0].passes[0][0]
    assert row["box"] == np.float32(0.93) and row["keypoint"] == 0.5 and 0.9 < row["mask"] <= 1
    for ranking in RANKINGS:
        scores = [r["score"] for r in results_of(run, "boxes", ranking, 1)]
        factors = {"box": 0.93, "mask": row["mask"], "keypoint": 0.5}
        assert scores[0] == pytest.approx(np.prod([factors[f] for f in ranking.split("*")]))
    assert {r["category_id"] for r in results_of(run, "masks", "mask", 2)} == {1}
    whole, around = (results_of(run, "boxes", "box", 1, b)[0]["bbox"] for b in ("detector", "masks"))
    assert whole == [20, 45, 40, 100] and around == pytest.approx(whole, abs=1.5)
    with pytest.raises(ConfigError, match=r"known: box, mask"):
        evaluate_pipeline(loop_of(path), path, ranking="luck")  # type: ignore[arg-type]


def test_what_labels_do_not_say_is_not_judged(path: Path) -> None:
    document = json.loads(path.read_text())
    document["annotations"][0]["segmentation"] = []
    document["images"][3]["complete"] = {"boxes": False, "keypoints": True}
    path.write_text(json.dumps(document))
    r = evaluate_pipeline(loop_of(path), path, resamples=5)
    assert set(r.stages[1].intervals) == {"boxes", "keypoints"}
    assert [r.stages[1].reports[t].counts["images"] for t in ("boxes", "keypoints")] == [3, 4]
    # whoever has no mask is not painted out, and hides the other from this detector: 5 of 6 are found
    assert r.stages[1].intervals["boxes"].value == pytest.approx(84 / 101)


def test_ochuman_as_its_authors_convert_it(tmp_path: Path) -> None:
    """19 keypoints become COCO's; whoever has a box only is nobody."""
    names = [*COCO.keypoints, "head", "neck"]
    points = [v for k in range(19) for v in (10 + k, 20 + k, 1 if k % 2 else 3)]
    people = [
        {"bbox": [5, 5, 60, 80], "keypoints": points, "segms": None},
        {"bbox": [50, 5, 90, 80], "keypoints": None, "segms": None},
    ]
    image = {"image_id": "a", "file_name": "a.jpg", "width": 100, "height": 90, "annotations": people}
    path = tmp_path / "ochuman.json"
    path.write_text(json.dumps({"keypoint_names": names, "images": [image]}))
    photos = open_photos(path)
    assert photos.names == COCO.keypoints
    (only,) = photos.document["annotations"]
    assert only["num_keypoints"] == 17 and only["keypoints"][:6] == [10, 20, 1, 11, 21, 2]
    assert only["area"] == 55 * 75


def test_the_oracle_takes_two_for_one_until_one_is_painted_out(path: Path) -> None:
    document = json.loads(path.read_text())
    document["annotations"][1]["bbox"] = [30, 45, 40, 100]  # overlaps the other on paper
    document["annotations"][1]["iscrowd"] = document["annotations"][2]["iscrowd"] = 0
    path.write_text(json.dumps(document))
    photos = open_photos(path)
    oracle = MergingOracle(photos)
    image = photos.photo(photos.document["images"][0])
    (people,) = oracle.detect([image])
    assert people.boxes is not None and people.boxes.tolist() == [
        [20, 45, 60, 145]
    ]  # equally large: the first
    assert people.masks is not None
    black = image.pixels.copy()
    black[people.masks.bitmap(0)] = 0
    (left,) = oracle.detect([Image.from_array(black, id=7)])
    assert left.boxes is not None and left.boxes.tolist() == [[30, 45, 70, 145]]
    (apart,) = oracle.detect([photos.photo(photos.document["images"][1])])
    assert len(apart) == 2
    with pytest.raises(InputError, match="no photo with id 99"):
        oracle.detect([Image.from_array(black, id=99)])


def test_true_masks_are_those_of_whom_the_prompt_fits(path: Path) -> None:
    photos = open_photos(path)
    image = photos.photo(photos.document["images"][0])
    segmenter = TrueMasks(photos)
    (kept,) = segmenter.encode([image])
    first, second = (boxes_from_xywh(a["bbox"])[0] for a in photos.document["annotations"][:2])
    none = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)
    middle = np.array([[40, 60]], np.float32)
    prompts = [
        Prompt(*none, box=second + 5),
        Prompt(middle, np.ones(1, np.int64)),
        Prompt(middle, np.zeros(1, np.int64)),  # somebody who is not there
        Prompt(*none),
    ]
    answer = segmenter.segment(kept, prompts)
    boxes = answer.masks.boxes
    assert np.abs(boxes[:3] - [second, first, second]).max() < 2 and not answer.masks.present[3]
    assert answer.scores[1:].tolist() == [1, 1, 0] and 0 < answer.scores[0] < 1
