"""Models judged from photos, with models that know the answer or a known part of it."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.errors import ConfigError, FileError, InputError
from bodyloop.eval import (
    evaluate_calibration,
    evaluate_extended,
    evaluate_keypoints,
    evaluate_pck,
    evaluate_pose_model,
    evaluate_presence_files,
    evaluate_quality,
)
from bodyloop.eval.border import BorderBaseline, touched_sides
from bodyloop.eval.boxed import instance_scores, predict_boxed, results_of
from bodyloop.eval.photos import PhotoSet
from bodyloop.people import People
from bodyloop.skeletons import COCO, Skeleton
from tests.eval.photo_sets import LSP, Knowing, both, write_set


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_set(tmp_path / "coco", COCO.keypoints)
    write_set(tmp_path / "coco", COCO.keypoints, split="train")
    write_set(tmp_path / "lsp", LSP)
    return tmp_path


def test_a_model_that_knows_everything(data: Path) -> None:
    r = evaluate_pose_model(Knowing(both(data)), data / "coco", resamples=50)
    whole, cropped = r.sets
    assert (whole.persons, whole.cropped, cropped.cropped) == (12, False, True)
    for s in r.sets:
        assert s.oks is not None and s.extended is not None and s.pck is None
        assert s.oks.numbers["AP"] == pytest.approx(1, abs=1e-6) and s.intervals["AP"].low > 0.999
        assert pytest.approx(1, abs=1e-6) == s.extended.AP
        assert (
            s.visibility is not None and s.visibility.auroc == 1 and s.visibility.intervals["auroc"].low == 1
        )
    assert whole.presence is None  # there is nobody outside
    assert cropped.extended is not None and cropped.extended.AP_v3 == pytest.approx(1, abs=1e-6)
    assert cropped.presence is not None and cropped.presence.auroc == 1 and cropped.presence.negatives > 5
    assert cropped.advantage is not None and cropped.baseline is not None
    assert cropped.advantage.value == pytest.approx(1 - (cropped.baseline.auroc or 0))
    quality = cropped.keypoint_quality  # 1 for everything in the window, and true there
    assert quality is not None and quality.mae == pytest.approx(0, abs=1e-6) and quality.pearson is None
    assert whole.instance_quality is not None and whole.instance_quality.count == 12
    assert r.speed.persons == 12 + cropped.persons
    out = json.loads(json.dumps(r.to_json(), allow_nan=False))
    assert out["sets"][0]["oks"]["numbers"]["AP"] == whole.oks.numbers["AP"]  # type: ignore[union-attr]
    assert "a guess without pixels" in r.table() and r.table().startswith("knowing")


def test_saved_predictions_are_judged_alike(data: Path, tmp_path: Path) -> None:
    document = both(data)
    rng = np.random.default_rng(0)
    for a in document["annotations"]:  # some way off, so that numbers say something
        flat = np.array(a["keypoints"], float).reshape(-1, 3)
        flat[:, :2] += rng.normal(0, 2, (len(flat), 2)) * (flat[:, 2:] > 0)
        a["keypoints"] = flat.ravel().tolist()
    model = Knowing(document)
    r = evaluate_pose_model(model, data / "coco", resamples=5, limit=4)
    pairs = r.save(tmp_path / "out")
    assert [p.name for p, _ in pairs] == ["coco-dev.json", "coco-dev.cropped.json"]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["model"] == "knowing"
    for s, (labels, results) in zip(r.sets, pairs, strict=True):
        assert s.oks is not None and s.extended is not None and s.keypoint_quality is not None
        assert 0.1 < s.extended.AP < 0.99
        assert evaluate_extended(labels, results).numbers == s.extended.numbers
        if not s.cropped:
            assert evaluate_keypoints(labels, results).numbers == s.oks.numbers
        presence = evaluate_presence_files(labels, results, resamples=5)
        assert presence.assigned.how == "annotation id" and presence.visibility is not None
        assert s.presence is None or presence.presence.auroc == s.presence.auroc
        quality = evaluate_quality(labels, results, resamples=5)
        assert quality.keypoints.mae == pytest.approx(s.keypoint_quality.mae, abs=1e-6)
    with pytest.raises(FileError, match="folder"):
        r.save(pairs[0][0])


def test_photos_are_found_in_tar_files_and_by_the_tail_of_their_path(data: Path) -> None:
    path = data / "coco" / "dev.json"
    (image,) = PhotoSet.open(path).first(1).document["images"]
    expected = PhotoSet.open(path).photo(image).pixels
    long = {**image, "file_name": f"images/{image['file_name']}"}
    np.testing.assert_array_equal(PhotoSet.open(path).photo(long).pixels, expected)
    with tarfile.open(data / "coco" / "images.tar", "w") as tar:
        tar.add(data / "coco" / "images", "images")
    shutil.rmtree(data / "coco" / "images")
    np.testing.assert_array_equal(PhotoSet.open(path).photo(image).pixels, expected)
    np.testing.assert_array_equal(
        PhotoSet.open(path, data / "coco" / "images.tar").photo(image).pixels, expected
    )
    with pytest.raises(FileError, match="gone"):
        PhotoSet.open(path).photo({**image, "file_name": "gone.jpg"})


def test_files_that_are_cropped_already(data: Path, tmp_path: Path) -> None:
    """Saved labels of cropped photos: judged as they are, with the photos that they were cut from."""
    saved = evaluate_pose_model(Knowing(both(data)), data / "coco", resamples=5).save(tmp_path / "out")
    labels = saved[1][0]
    r = evaluate_pose_model(Knowing(both(data)), labels, data / "coco" / "images", resamples=5)
    (only,) = r.sets
    assert only.cropped and only.presence is not None and only.presence.auroc == 1
    assert only.baseline is None and "guess" not in r.table()


@pytest.mark.parametrize(("kind", "auroc"), [("false", 0.0), ("flat", 0.5)])
def test_presence_that_is_wrong_or_says_nothing(data: Path, kind: str, auroc: float) -> None:
    r = evaluate_pose_model(Knowing(both(data), presence=kind), data / "coco", resamples=20)
    cropped = r.sets[1]
    assert cropped.presence is not None and cropped.presence.auroc == auroc
    assert cropped.advantage is not None and cropped.advantage.value < 0
    assert cropped.extended is not None
    assert cropped.extended.AP_v3 is not None and cropped.extended.AP_v3 < 0.99  # 0.5 says "in"


def test_a_model_without_presence(data: Path) -> None:
    model = Knowing(both(data), presence="none")
    (whole,) = evaluate_pose_model(model, data / "coco", resamples=20).sets
    assert whole.presence is None and not whole.cropped
    found = predict_boxed(model, PhotoSet.open(data / "coco" / "dev.json"))
    results = results_of(found)
    assert {p["keypoints"][2] for p in results} == {1.0}  # its scores instead
    assert "presence" not in results[0] and results[0]["annotation_id"] == found.annotations[0]["id"]
    with pytest.raises(InputError, match="does not estimate presence"):
        instance_scores(found, "presence")


def test_pck_of_the_keypoints_that_both_have(data: Path) -> None:
    document = json.loads((data / "lsp" / "dev.json").read_text())
    shifted = json.loads(json.dumps(document))
    for a in shifted["annotations"]:  # the neck just over 0.2 of the longer side, 80, off
        a["keypoints"][6] += 16.01
    without_head = Skeleton.define("three", ["left_ankle", "right_ankle", "neck"])
    r = evaluate_pose_model(Knowing(shifted, without_head), data / "lsp" / "dev.json", resamples=20)
    (only,) = r.sets
    pck = only.pck
    assert pck is not None and only.oks is None and pck.missing == 0
    assert pck.not_predicted == ("head_top",)
    assert pck.each[0.2] == {"right_ankle": 1, "left_ankle": 1, "neck": 0}
    assert only.intervals["PCK"] is pck.pck[0.2]
    assert pck.pck[0.2].value == pytest.approx(2 / 3) and pck.pck[0.2].low == pytest.approx(2 / 3)
    assert "not predicted: head_top" in r.table()


def test_pck_of_saved_predictions(data: Path, tmp_path: Path) -> None:
    """Two persons an image, paired by annotation id."""
    document = json.loads((data / "lsp" / "dev.json").read_text())
    r = evaluate_pose_model(Knowing(document), data / "lsp" / "dev.json", resamples=5)
    ((labels, results),) = r.save(tmp_path / "out")
    again = evaluate_pck(labels, results, resamples=5)
    assert again.assigned.how == "annotation id" and again.numbers.pck[0.05].value == 1


def test_several_sets_below_one_folder(data: Path) -> None:
    write_set(data / "boxes", ())
    every = both(data)
    lsp = json.loads((data / "lsp" / "dev.json").read_text())

    class Two(Knowing):
        def predict(self, images: list[Any], *args: Any, **kwargs: Any) -> list[People]:
            document = lsp if "lsp" in images[0].path else every
            return Knowing(document).predict(images, *args, **kwargs)

    r = evaluate_pose_model(Two(every), data, resamples=10, presence=False)
    assert [s.oks is None for s in r.sets] == [False, True] and r.sets[1].pck is not None


def test_labels_without_areas_say_nothing_of_quality(data: Path) -> None:
    path = data / "lsp" / "dev.json"
    document = json.loads(path.read_text())
    for a in document["annotations"]:
        del a["area"]
    path.write_text(json.dumps(document))
    (only,) = evaluate_pose_model(Knowing(document), path, resamples=5).sets
    assert only.keypoint_quality is None and only.pck is not None


def test_calibration_of_a_model_that_doubts_itself(data: Path) -> None:
    """Half of the mass on the true cell, which is always right: every region holds it, and one cell is enough."""
    r = evaluate_calibration(Knowing(both(data)), data / "coco", resamples=10)
    whole, cropped = r.sets
    assert (whole.cropped, cropped.cropped) == (False, True) and r.parameters["cell"] == "nearest"
    for s in r.sets:
        inside = sum(1 <= f <= 2 for a in s.found.annotations for f in a["keypoints"][2::3])
        assert len(s.maps) == inside and s.maps.map_cells == 192
        assert (s.maps.coverage == 1).all() and s.maps.error == pytest.approx(0.5)
        assert s.error.low == pytest.approx(0.5)
        assert s.maps.nll == pytest.approx(-np.log(0.5 + 0.5 / 192), abs=1e-5)
        assert sum(len(k) for k in s.each.values()) == inside
        assert s.maps.region_cells[9] == 1 and s.maps.levels[9] == 0.5
        assert s.visibility is not None and s.visibility.brier == 0
    assert whole.presence is None and cropped.presence is not None and cropped.presence.auroc == 1
    out = json.loads(json.dumps(r.to_json(), allow_nan=False))
    assert out["sets"][1]["maps"]["error"] == pytest.approx(0.5)
    assert "holds the true cell" in r.table() and "keypoint quality" in r.table()
    assert len(evaluate_calibration(Knowing(both(data)), data / "coco", resamples=5, crops=False).sets) == 1


def test_calibration_of_keypoints_by_name(data: Path) -> None:
    """LSP's keypoints of a model with others, in another order."""
    document = json.loads((data / "lsp" / "dev.json").read_text())
    model = Knowing(document, Skeleton.define("three", ["neck", "tail", "right_ankle"]))
    (s,) = evaluate_calibration(model, data / "lsp", resamples=5, crops=False).sets
    assert set(s.each) == {"neck", "right_ankle"} and (s.maps.coverage == 1).all()
    assert s.each["neck"].nll == pytest.approx(-np.log(0.5 + 0.5 / 192), abs=1e-5)


def test_an_unknown_protocol_is_refused_at_once(data: Path) -> None:
    model = Knowing(both(data))
    with pytest.raises(ConfigError, match="unknown protocol 'mine'"):
        evaluate_pose_model(model, data / "coco", protocol="mine")
    assert model.asked == []


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
    found = replace(found, scores=scores, presence=presence)
    assert instance_scores(found)[:2].tolist() == [pytest.approx(0.6), 0]
    assert instance_scores(found, "presence")[:2].tolist() == [pytest.approx((0.9 + 0.2) / 2), 0]


def test_keypoints_that_the_model_lacks(data: Path) -> None:
    model = Knowing(both(data), Skeleton.define("one", ["nose"]))
    with pytest.raises(InputError, match="lacks left_eye"):
        evaluate_pose_model(model, data / "coco")
    other = Knowing(json.loads((data / "lsp" / "dev.json").read_text()), model.skeleton)
    with pytest.raises(InputError, match="no keypoint name in common"):
        evaluate_pose_model(other, data / "lsp")


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
