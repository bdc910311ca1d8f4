"""Models judged from photos, with models that know the answer or a known part of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.data.cropcoco import build
from bodyloop.errors import FileError, InputError
from bodyloop.eval import evaluate_detector, evaluate_pose_model
from bodyloop.eval.border import BorderBaseline, touched_sides
from bodyloop.eval.photos import PhotoSet, predict_boxed
from bodyloop.eval.pose import instance_scores, pck_section, results_of
from bodyloop.people import People
from bodyloop.skeletons import BODY_19, COCO, Skeleton

WIDTH, HEIGHT = 120, 90
LSP = ("right_ankle", "left_ankle", "neck", "head_top")


def write_set(folder: Path, names: tuple[str, ...], images: int = 6, split: str = "dev") -> Path:
    """Grey photos with two persons each and a crowd; keypoints spread over the boxes."""
    import cv2

    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(names))
    records, people = [], []
    for i in range(images):
        name = f"{split}{i}.jpg"
        cv2.imwrite(str(folder / "images" / name), np.full((HEIGHT, WIDTH, 3), 10 * i, np.uint8))
        records.append({"id": 100 + i, "width": WIDTH, "height": HEIGHT, "file_name": name})
        for p in range(3):
            x, y = 5 + 40 * p, 5
            xy = np.column_stack([rng.uniform(x, x + 30, len(names)), rng.uniform(y, y + 80, len(names))])
            flags = rng.integers(1, 3, len(names)) * (p < 2)  # the third is a crowd without keypoints
            flat = np.where(flags[:, None] > 0, np.column_stack([xy, flags]), 0)
            people.append(
                {
                    "id": len(people) + 1, "image_id": 100 + i, "category_id": 1, "iscrowd": int(p == 2),
                    "bbox": [x, y, 30, 80], "area": 1500.0, "num_keypoints": int((flags > 0).sum()),
                    "keypoints": flat.ravel().tolist(),
                }
            )  # fmt: skip
    document = {
        "images": records,
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": list(names)}],
    }
    path = folder / f"{split}.json"
    path.write_text(json.dumps(document))
    return path


class Knowing:
    """A model that finds a box's person in an annotation file and says what stands there."""

    def __init__(
        self, document: dict[str, Any], skeleton: Skeleton = BODY_19, presence: str = "true"
    ) -> None:
        self.skeleton, self.presence = skeleton, presence
        names = document["categories"][0]["keypoints"]
        self.columns = [names.index(k) if k in names else -1 for k in skeleton.keypoints]
        self.known = {(a["image_id"], *np.float32(a["bbox"]).tolist()): a for a in document["annotations"]}
        self.asked: list[tuple[int, bool | None, Any]] = []

    def __repr__(self) -> str:
        return "knowing"

    def predict(
        self, images: list[Any], boxes: list[Any], masks: Any = None, *, flip: bool | None = None
    ) -> list[People]:
        self.asked.append((len(images), flip, masks))
        return [self._one(i, np.asarray(b, np.float64)) for i, b in zip(images, boxes, strict=True)]

    def _one(self, image: Any, boxes: np.ndarray) -> People:
        rows = []
        for x1, y1, x2, y2 in boxes:
            key = (image.id, *np.float32([x1, y1, x2 - x1, y2 - y1]).tolist())
            flat = np.array(self.known[key]["keypoints"], np.float64).reshape(-1, 3)
            rows.append(np.vstack([flat, [0, 0, 0]])[self.columns])
        table = np.array(rows).reshape(len(boxes), len(self.skeleton), 3)
        inside = table[..., 2] < 3
        presence = {"true": inside, "false": ~inside, "flat": np.full(inside.shape, 0.5), "none": None}
        return People(
            image.size, image.source, self.skeleton, boxes=boxes.astype(np.float32),
            keypoints=table[..., :2].astype(np.float32), map_scores=np.ones(inside.shape, np.float32),
            presence=presence[self.presence],
        )  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_set(tmp_path / "coco", COCO.keypoints)
    write_set(tmp_path / "coco", COCO.keypoints, split="train")
    write_set(tmp_path / "lsp", LSP)
    return tmp_path


def both(data: Path) -> dict[str, Any]:
    """One document that knows the whole photos, the cropped ones and the other skeleton's."""
    a = json.loads((data / "coco" / "dev.json").read_text())
    return a | {"annotations": a["annotations"] + build(a, 0).document["annotations"]}


def test_a_model_that_knows_everything(data: Path) -> None:
    r = evaluate_pose_model(Knowing(both(data)), data / "coco", resamples=50)
    (oks,), (presence,) = r.oks, r.presence
    assert pytest.approx(1, abs=1e-6) == oks.report.AP and oks.persons == 12
    assert oks.ap.low == pytest.approx(1, abs=1e-6)
    assert presence.report.auroc == 1 and presence.auroc.low == 1
    assert presence.report.negatives > 5
    assert presence.advantage is not None and presence.baseline is not None
    assert presence.advantage.value == pytest.approx(1 - (presence.baseline.auroc or 0))
    assert r.pck == () and r.speed.persons == 12 + presence.persons
    out = json.loads(json.dumps(r.to_json(), allow_nan=False))
    assert out["oks"][0]["numbers"]["AP"] == oks.report.AP
    assert "baseline" in r.table() and r.table().startswith("knowing")


@pytest.mark.parametrize(("kind", "auroc"), [("false", 0.0), ("flat", 0.5)])
def test_presence_that_is_wrong_or_says_nothing(data: Path, kind: str, auroc: float) -> None:
    (presence,) = evaluate_pose_model(
        Knowing(both(data), presence=kind), data / "coco", resamples=20
    ).presence
    assert presence.report.auroc == auroc
    assert presence.advantage is not None and presence.advantage.value < 0


def test_a_model_without_presence(data: Path) -> None:
    model = Knowing(both(data), presence="none")
    assert evaluate_pose_model(model, data / "coco", resamples=20).presence == ()
    found = predict_boxed(model, PhotoSet.open(data / "coco" / "dev.json"))
    assert {p["keypoints"][2] for p in results_of(found)} == {1.0}  # its scores instead
    with pytest.raises(InputError, match="does not estimate presence"):
        instance_scores(found, "presence")


def test_pck_of_the_keypoints_that_both_have(data: Path) -> None:
    document = json.loads((data / "lsp" / "dev.json").read_text())
    shifted = json.loads(json.dumps(document))
    for a in shifted["annotations"]:  # the neck just over 0.2 of the longer side, 80, off
        a["keypoints"][6] += 16.01
    without_head = Skeleton.define("three", ["left_ankle", "right_ankle", "neck"])
    r = evaluate_pose_model(Knowing(shifted, without_head), data / "lsp" / "dev.json", resamples=20)
    (pck,) = r.pck
    assert pck.missing == ("head_top",)
    assert pck.each == {"right_ankle": 1, "left_ankle": 1, "neck": 0}
    assert pck.pck.value == pytest.approx(2 / 3) and pck.pck.low == pytest.approx(2 / 3)
    assert "not predicted: head_top" in pck.table()


def test_several_sets_below_one_folder(data: Path) -> None:
    write_set(data / "boxes", ())
    every = both(data)
    lsp = json.loads((data / "lsp" / "dev.json").read_text())

    class Two(Knowing):
        def predict(self, images: list[Any], *args: Any, **kwargs: Any) -> list[People]:
            document = lsp if "lsp" in images[0].path else every
            return Knowing(document).predict(images, *args, **kwargs)

    r = evaluate_pose_model(Two(every), data, resamples=10, presence=False)
    assert len(r.oks) == len(r.pck) == 1 and r.presence == ()


def test_how_the_model_is_asked(data: Path) -> None:
    path = write_set(data / "many", COCO.keypoints, images=20)
    document = json.loads(path.read_text())
    for a in document["annotations"]:
        a["segmentation"] = [[6, 6, 20, 6, 20, 20]]
    path.write_text(json.dumps(document))
    model, seen = Knowing(document), []
    ticks = iter(range(100))
    found = predict_boxed(
        model, PhotoSet.open(path), flip=False, masks=True,
        progress=lambda done, total: seen.append((done, total)), clock=lambda: float(next(ticks)),
    )  # fmt: skip
    assert [n for n, _, _ in model.asked] == [16, 4] and seen == [(32, 40), (40, 40)]
    assert found.seconds == 2 and model.asked[0][1] is False
    assert model.asked[0][2][0] == [[[6, 6, 20, 6, 20, 20]]] * 2
    assert np.array_equal(found.keypoints[..., 0], found.labels[..., 0].astype(np.float32))


def test_instance_scores_by_hand(data: Path) -> None:
    found = predict_boxed(Knowing(both(data)), PhotoSet.open(data / "coco" / "dev.json"))
    scores, presence = np.zeros((12, 17)), np.zeros((12, 17))
    scores[0, :3] = 0.9, 0.3, 0.2  # 0.2 is not above the threshold
    presence[0, :3] = 0.5, 0.45, 0.9
    object.__setattr__(found, "scores", scores)
    object.__setattr__(found, "presence", presence)
    assert instance_scores(found)[:2].tolist() == [pytest.approx(0.6), 0]
    assert instance_scores(found, "presence")[:2].tolist() == [pytest.approx((0.9 + 0.2) / 2), 0]


def test_keypoints_that_the_model_lacks(data: Path) -> None:
    model = Knowing(both(data), Skeleton.define("one", ["nose"]))
    with pytest.raises(InputError, match="lacks left_eye"):
        evaluate_pose_model(model, data / "coco")
    photos = PhotoSet.open(data / "lsp" / "dev.json")
    found = predict_boxed(
        Knowing(json.loads((data / "lsp" / "dev.json").read_text()), model.skeleton), photos
    )
    with pytest.raises(InputError, match="no keypoint name in common"):
        pck_section(photos, found)


def test_files_and_photos_that_do_not_fit(data: Path, tmp_path: Path) -> None:
    import cv2

    model = Knowing(both(data))
    with pytest.raises(FileError, match=r"no annotation file test\.json"):
        evaluate_pose_model(model, data, split="test")
    boxes = write_set(tmp_path / "b", ())
    with pytest.raises(InputError, match="no file with keypoints"):
        evaluate_pose_model(model, boxes)
    cv2.imwrite(str(data / "coco" / "images" / "dev3.jpg"), np.zeros((10, 10, 3), np.uint8))
    with pytest.raises(InputError, match=r"dev3\.jpg: \(10, 10\) px.*\(120, 90\)"):
        evaluate_pose_model(model, data / "coco")
    (data / "coco" / "images" / "dev3.jpg").unlink()
    with pytest.raises(FileError, match=r"dev3\.jpg"):
        evaluate_pose_model(model, data / "coco")
    with pytest.raises(InputError, match="nobody has labelled keypoints"):
        predict_boxed(model, PhotoSet.open(boxes))


def test_sides_that_a_box_touches() -> None:
    document = {"images": [{"id": 1, "width": 100, "height": 50}]}
    boxes = {(10, 10, 20, 20): 0, (1, 10, 20, 20): 1, (10, 0, 20, 20): 2, (79, 10, 20, 20): 4,
             (10, 29.5, 20, 20): 8, (0, 0, 100, 50): 15, (1.5, 1.5, 97, 47): 0}  # fmt: skip
    people = [{"image_id": 1, "bbox": list(b)} for b in boxes]
    assert touched_sides(document, people).tolist() == list(boxes.values())


def test_baseline_by_hand() -> None:
    """One joint: of 4 boxes that touch nothing all are inside, of 4 at the lower side 1 of 4."""
    image = {"id": 1, "width": 100, "height": 100}
    free, low = [10, 10, 20, 20], [10, 80, 20, 20]
    people = [{"image_id": 1, "bbox": free, "keypoints": [1, 1, 2]}] * 4
    people += [{"image_id": 1, "bbox": low, "keypoints": [1, 1, f]} for f in (1, 3, 3, 3)]
    document = {"images": [image], "annotations": people}
    share = (5 + 1) / (8 + 2)
    guess = BorderBaseline.fit(document).predict(document, [people[0], people[4]])
    expected = [[(4 + 4 * share) / 8], [(1 + 4 * share) / 8]]
    np.testing.assert_allclose(guess, expected, rtol=0, atol=1e-12)


class Finding:
    """A detector that finds the annotated boxes, and a false alarm in the first photo."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def detect(self, images: Any) -> list[People]:
        out = []
        for image in images:
            mine = [a["bbox"] for a in self.document["annotations"] if a["image_id"] == image.id]
            rows = [[x, y, x + w, y + h] for x, y, w, h in mine]
            if image.id == 100:
                rows.append([50, 0, 120, 20])
            scores = np.linspace(0.9, 0.5, len(rows), dtype=np.float32)
            out.append(People(image.size, image.source, boxes=np.array(rows, np.float32), scores=scores))
        return out


def test_detector(data: Path) -> None:
    path = data / "coco" / "dev.json"
    document = json.loads(path.read_text())
    r = evaluate_detector(Finding(document), path, resamples=50)
    assert pytest.approx(1, abs=0.02) == r.report.AP and r.images == 6
    assert r.ap.low <= r.report.AP <= r.ap.high + 1e-12
    assert r.report.counts["predictions"] == 19
    assert json.loads(json.dumps(r.to_json(), allow_nan=False))["numbers"]["AP"] == r.report.AP
    assert "box AP" in r.table()


def test_photos_with_incomplete_boxes_are_left_out(data: Path) -> None:
    path = data / "coco" / "dev.json"
    document = json.loads(path.read_text())
    document["images"][0]["complete"] = {"boxes": False}
    document["images"][1]["complete"] = {"boxes": True}
    path.write_text(json.dumps(document))
    r = evaluate_detector(Finding(document), path, resamples=10)
    assert r.images == 5 and r.report.counts["annotations"] == 15
    document["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="no category named 'person'"):
        evaluate_detector(Finding(document), path)
