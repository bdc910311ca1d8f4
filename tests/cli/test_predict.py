"""``bodyloop predict``: what is written, what is skipped, what goes on after an error."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from bodyloop.errors import BodyloopError, InputError, MissingDependency, ModelError
from bodyloop.masks import Masks
from bodyloop.people import People, Source
from bodyloop.storage import people_to_json
from tests.cli.conftest import Call, run
from tests.cli.standins import picture

SCHEMA = Path(__file__).parents[2] / "docs" / "schema" / "people-1.json"


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def results(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return found


def test_what_is_written(predict: Call, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = predict(photos, "--save", "json,vis,npz,maps")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("3 photos: 3 done; 3 people; ") and result.stderr == ""
    endings = (".json", ".vis.jpg", ".npz", ".maps.jpg")
    assert names(out) == {"results.json", *(f"{i}{e}" for i in range(3) for e in endings)}
    people = People.load(out / "1.json")
    exact = People.load(out / "1.npz")
    assert people.source is not None and people.source.path == str(photos / "1.jpg")
    assert people.keypoints is not None and exact.keypoints is not None and exact.maps is not None
    np.testing.assert_allclose(people.keypoints, exact.keypoints)


def test_every_json_fits_the_schema(predict: Call, photos: Path, tmp_path: Path) -> None:
    predict(photos)
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    for i in range(3):
        document = json.loads((tmp_path / "out" / f"{i}.json").read_text(encoding="utf-8"))
        validator.validate(document)
        assert document["model"]["pose"]["name"] == "stand-in-pose"
        assert document["model"]["detector"]["name"] == "stand-in-detector"


def test_results_are_coco_results(predict: Call, photos: Path, tmp_path: Path) -> None:
    predict(photos)
    rows = results(tmp_path / "out")
    # all names are different numbers, so these are the ids, as in COCO
    assert [r["image_id"] for r in rows] == [0, 1, 2]
    assert [Path(r["file_name"]).name for r in rows] == ["0.jpg", "1.jpg", "2.jpg"]
    for r in rows:
        assert len(r["keypoints"]) == 51 and len(r["bbox"]) == 4 and r["category_id"] == 1
        assert 0 <= r["score"] <= 1


def test_ids_count_where_names_are_no_numbers(predict: Call, tmp_path: Path) -> None:
    for name in ("b.jpg", "a.jpg", "10.jpg"):
        picture(tmp_path / "photos" / name)
    predict(tmp_path / "photos")
    assert [(r["image_id"], Path(r["file_name"]).stem) for r in results(tmp_path / "out")] == [
        (1, "10"), (2, "a"), (3, "b"),
    ]  # fmt: skip


def test_a_second_run_skips_what_is_done(predict: Call, photos: Path, tmp_path: Path) -> None:
    predict(photos)
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    again = predict(photos)
    assert again.exit_code == 0 and "0 done, 3 skipped (done before); 3 people" in again.stdout
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    assert {n: t for n, t in after.items() if n != "results.json"} == {
        n: t for n, t in before.items() if n != "results.json"
    }
    assert len(results(tmp_path / "out")) == 3


@pytest.mark.parametrize(
    ("change", "skipped"),
    [
        (["--no-flip"], 0),
        (["--threshold", "0.5"], 0),
        (["--whole-image"], 0),
        (["--overwrite"], 0),
        (["--save", "json,npz"], 0),  # the npz is not there yet
        (["--save", "json"], 3),  # less than before
        (["--batch-size", "2"], 3),  # changes no result
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_what_changes_the_result_is_done_again(
    predict: Call, photos: Path, change: list[str], skipped: int
) -> None:
    predict(photos)
    said = json.loads(predict(photos, "--json", *change).stdout)
    assert (said["done"], said["skipped"]) == (3 - skipped, skipped)


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "not people", "picture gone", "photo changed"])
def test_what_is_not_whole_is_done_again(predict: Call, photos: Path, tmp_path: Path, damage: str) -> None:
    predict(photos)
    file = tmp_path / "out" / "1.json"
    whole = file.read_bytes()
    if damage == "cut":
        file.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "gone":
        file.unlink()
    elif damage == "not people":
        file.write_bytes(whole.replace(b'"width": 120', b'"width": -1'))
    elif damage == "picture gone":
        (tmp_path / "out" / "1.vis.jpg").unlink()
    else:
        picture(photos / "1.jpg", 9, (140, 160))
    said = json.loads(predict(photos, "--json").stdout)
    assert (said["done"], said["skipped"]) == (1, 2)
    assert (tmp_path / "out" / "1.vis.jpg").is_file()
    assert names(tmp_path / "out") == {
        "results.json",
        *(f"{i}{e}" for i in range(3) for e in (".json", ".vis.jpg")),
    }
    if damage != "photo changed":
        assert file.read_bytes() == whole


def test_another_model_is_another_run(predict: Call, photos: Path, tmp_path: Path) -> None:
    from tests.cli.standins import POSE, write_pose

    predict(photos)
    other = write_pose(tmp_path / "other.onnx", POSE.with_weights(None), keypoints=17)
    data = bytearray(other.read_bytes())
    other.write_bytes(bytes(data).replace(b"stand-in-pose", b"stand-in-poze"))
    said = json.loads(predict(photos, "--model", other, "--json").stdout)
    assert (said["done"], said["skipped"]) == (3, 0)


def test_photos_of_the_same_name_keep_apart(predict: Call, tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a" / "1.jpg", 1), picture(tmp_path / "b" / "1.jpg", 2, (90, 90))
    c = picture(tmp_path / "a" / "1.png", 3, (70, 80))
    result = predict(a, b, c, "--save", "json,vis")
    assert result.exit_code == 0
    out = tmp_path / "out"
    found = {p: People.load(p) for p in out.glob("*.json") if p.name != "results.json"}
    assert {(p.source.path, p.image_size) for p in found.values() if p.source} == {
        (str(a), (120, 160)), (str(b), (90, 90)), (str(c), (70, 80)),
    }  # fmt: skip
    assert len(list(out.glob("*.vis.jpg"))) == 3
    again = json.loads(predict(c, b, a, "--json").stdout)  # in another order
    assert again["skipped"] == 3


def test_a_later_run_does_not_overwrite_a_photo_of_the_same_name(predict: Call, tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a" / "1.jpg", 1), picture(tmp_path / "b" / "1.jpg", 2, (90, 90))
    predict(a)
    first = (tmp_path / "out" / "1.json").read_bytes()
    predict(b, "--overwrite")
    assert (tmp_path / "out" / "1.json").read_bytes() == first
    assert len(list((tmp_path / "out").glob("1*.json"))) == 2
    assert json.loads(predict(a, "--json").stdout)["skipped"] == 1


def test_folders_keep_their_order(predict: Call, tmp_path: Path) -> None:
    for name in ("x/2.jpg", "x/10.jpg", "y/2.jpg", ".hidden/3.jpg"):
        picture(tmp_path / "photos" / name)
    predict(tmp_path / "photos", "--save", "json")
    assert names(tmp_path / "out") == {"x/2.json", "x/10.json", "y/2.json", "results.json"}
    order = [r["file_name"] for r in results(tmp_path / "out")]
    assert [Path(n).parent.name + "/" + Path(n).name for n in order] == ["x/2.jpg", "x/10.jpg", "y/2.jpg"]


def test_files_of_others_are_left_alone(predict: Call, photos: Path) -> None:
    """Results beside the photos: neither the photos nor somebody's labels are touched, and a second run does
    not take the drawings for photos."""
    (photos / "1.json").write_text('{"labels": "of somebody"}', encoding="utf-8")
    before = {p.name: p.read_bytes() for p in photos.iterdir()}
    assert predict(photos, "--out", photos).exit_code == 0
    assert {n: (photos / n).read_bytes() for n in before} == before
    again = json.loads(predict(photos, "--out", photos, "--json").stdout)
    assert (again["photos"], again["skipped"]) == (3, 3)


def test_a_results_file_of_others_is_not_overwritten(predict: Call, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text('[{"image_id": 1, "score": 0.5}]', encoding="utf-8")
    result = predict(photos)
    assert result.exit_code == 1 and "results.json" in result.stderr and "--out" in result.stderr
    assert names(out) == {"results.json"}


def test_a_photo_called_results(predict: Call, tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "results.jpg")
    predict(tmp_path / "photos", "--save", "json")
    assert len(results(tmp_path / "out")) == 1
    assert len(names(tmp_path / "out")) == 2


def test_one_bad_photo_and_the_rest_goes_on(predict: Call, photos: Path, tmp_path: Path) -> None:
    (photos / "1.jpg").write_bytes((photos / "1.jpg").read_bytes()[:200])
    result = predict(photos, "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert (said["done"], len(said["failed"]), said["people"]) == (2, 1, 2)
    assert said["failed"][0]["photo"] == str(photos / "1.jpg")
    assert result.stderr.count("\n") == 1 and "1.jpg" in result.stderr
    assert len(results(tmp_path / "out")) == 2
    assert predict(photos).stdout.startswith("3 photos: 0 done, 2 skipped (done before), 1 failed; ")


def test_what_means_no_photo_is_said(predict: Call, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    result = predict(photos / "0.jpg", tmp_path / "none", tmp_path / "*.jpg", tmp_path / "gone.jpg")
    assert result.exit_code == 1 and "4 photos: 1 done, 3 failed" in result.stdout
    lines = result.stderr.splitlines()
    assert len(lines) == 3 and all(line.startswith("bodyloop: ") for line in lines)
    assert any("gone.jpg: no such file" in line for line in lines)
    only = predict(tmp_path / "none")
    assert only.exit_code == 2 and "no picture" in only.stderr


def test_patterns_and_repetitions(predict: Call, photos: Path) -> None:
    said = json.loads(predict(str(photos / "*.jpg"), photos / "1.jpg", photos, "--json").stdout)
    assert said["photos"] == 3


def test_nobody_in_the_picture(predict: Call, photos: Path, tmp_path: Path) -> None:
    result = predict(photos, "--threshold", "0.95", "--save", "json,vis,npz,maps")
    assert result.exit_code == 0 and "0 people" in result.stdout
    people = People.load(tmp_path / "out" / "0.json")
    assert len(people) == 0 and people.keypoints is not None and people.keypoints.shape == (0, 17, 2)
    assert results(tmp_path / "out") == []
    assert json.loads(predict(photos, "--threshold", "0.95", "--json").stdout)["skipped"] == 3


def test_the_whole_image_is_one_person(predict: Call, photos: Path, tmp_path: Path) -> None:
    predict(photos, "--whole-image", "--detector", "none")
    people = People.load(tmp_path / "out" / "2.json")
    assert people.boxes is not None
    np.testing.assert_array_equal(people.boxes, [[0, 0, 120, 160]])


def test_results_do_not_depend_on_who_is_in_the_run(predict: Call, tmp_path: Path) -> None:
    for i in range(11):
        picture(tmp_path / "photos" / f"{i}.jpg", i, (100 + i, 120))
    predict(tmp_path / "photos", "--save", "json")
    predict(tmp_path / "photos" / "7.jpg", "--save", "json", "--out", tmp_path / "alone", "--batch-size", "1")
    one, many = (People.load(tmp_path / d / "7.json") for d in ("alone", "out"))
    assert one.replace(source=None).allclose(many.replace(source=None), atol=1e-3)


@pytest.mark.skipif(sys.platform == "win32", reason="file names are text there")
def test_names_that_are_no_text(predict: Call, tmp_path: Path) -> None:
    strange = os.fsdecode(bytes(tmp_path / "photos") + b"/\xff\xfe new\nline.jpg")
    picture(tmp_path / "photos" / "a.jpg")
    shutil.copy(tmp_path / "photos" / "a.jpg", strange)
    result = predict(tmp_path / "photos", "--save", "json,vis")
    assert result.exit_code == 0, result.stderr
    assert len(results(tmp_path / "out")) == 2
    assert json.loads(predict(tmp_path / "photos", "--json").stdout)["skipped"] == 2


def test_out_that_is_no_folder(predict: Call, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    result = predict(photos)
    assert result.exit_code == 1 and "--out" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
def test_ctrl_c_keeps_what_is_done(pose_file: Path, detector_file: Path, tmp_path: Path) -> None:
    first = picture(tmp_path / "photos" / "0.jpg", size=(640, 480))
    for i in range(1, 400):
        os.link(first, tmp_path / "photos" / f"{i}.jpg")
    arguments = ["predict", tmp_path / "photos", "--model", pose_file, "--detector", detector_file]
    arguments += ["--out", tmp_path / "out", "--save", "json,vis"]
    command = [sys.executable, "-m", "bodyloop", *(str(a) for a in arguments)]
    going = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # tests that run in the background inherit an ignored SIGINT, and so would the command
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 60
    while not list((tmp_path / "out").glob("[0-9]*.json")) and time.monotonic() < until:
        time.sleep(0.02)
    going.send_signal(signal.SIGINT)
    said, complaints = going.communicate(timeout=60)
    assert going.returncode == 130, complaints
    assert "Traceback" not in complaints and "Run the same command again" in complaints
    done = list((tmp_path / "out").glob("[0-9]*.json"))
    assert 0 < len(done) < 400
    assert f"400 photos: {len(done)} done, {400 - len(done)} left" in said
    for path in done:
        assert len(People.load(path)) == 1
    assert not list((tmp_path / "out").glob(".*"))  # no halves of files
    assert len(results(tmp_path / "out")) == len(done)
    for path in (tmp_path / "photos").glob("*.jpg"):  # what is left is a little, so that the test ends soon
        if int(path.stem) > 20 and not (tmp_path / "out" / f"{path.stem}.json").exists():
            path.unlink()
    again = run(*arguments, "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["skipped"] == len(done)


@pytest.mark.parametrize(
    "stem", ["x" * 251, "\N{CYRILLIC SMALL LETTER ZHE}" * 125], ids=["ascii", "two bytes each"]
)
def test_photos_with_the_longest_names(predict: Call, tmp_path: Path, stem: str) -> None:
    """Names that leave no room for a suffix; two that differ only where they are cut keep apart."""
    folder = tmp_path / "photos"
    a = picture(folder / "a.jpg", 1).rename(folder / f"{stem}.jpg")
    b = picture(folder / "b.jpg", 2, (90, 90)).rename(folder / f"{stem[:-1]}y.jpg")
    result = predict(folder, "--save", "json,vis,npz,maps")
    assert result.exit_code == 0, result.stderr
    found = [People.load(p) for p in (tmp_path / "out").glob("*.json") if p.name != "results.json"]
    assert {(p.source.path, p.image_size) for p in found if p.source} == {
        (str(a), (120, 160)),
        (str(b), (90, 90)),
    }
    assert len(names(tmp_path / "out")) == 9
    assert json.loads(predict(folder, "--save", "json,vis,npz,maps", "--json").stdout)["skipped"] == 2


def test_forms_of_an_earlier_run_are_not_taken_for_this_one(
    predict: Call, photos: Path, tmp_path: Path
) -> None:
    """The npz was made without --no-flip, the json with it: asked for both, neither run is done."""
    predict(photos, "--save", "json,npz")
    stale = (tmp_path / "out" / "1.npz").read_bytes()
    predict(photos, "--save", "json", "--no-flip")
    said = json.loads(predict(photos, "--save", "json,npz", "--no-flip", "--json").stdout)
    assert (said["done"], said["skipped"]) == (3, 0)
    assert (tmp_path / "out" / "1.npz").read_bytes() != stale
    exact, people = People.load(tmp_path / "out" / "1.npz"), People.load(tmp_path / "out" / "1.json")
    np.testing.assert_allclose(exact.keypoints, people.keypoints)
    assert json.loads(predict(photos, "--save", "json", "--no-flip", "--json").stdout)["skipped"] == 3


def test_a_run_that_ends_between_two_forms_is_not_done(predict: Call, photos: Path, tmp_path: Path) -> None:
    """The picture is of the second run, the npz could not be written: the first run's json must not vouch."""
    photo, npz = photos / "1.jpg", tmp_path / "out" / "1.npz"
    predict(photo, "--save", "json,vis,npz")
    kept = npz.read_bytes()
    npz.unlink()
    npz.mkdir()
    assert predict(photo, "--save", "json,vis,npz", "--no-flip").exit_code == 1
    npz.rmdir()
    npz.write_bytes(kept)
    assert json.loads(predict(photo, "--save", "json,vis,npz", "--json").stdout)["done"] == 1


def test_a_photo_that_cannot_be_saved_costs_one_photo(predict: Call, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "1.vis.jpg").mkdir(parents=True)
    result = predict(photos, "--json")
    said = json.loads(result.stdout)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "1.vis.jpg" in result.stderr
    assert (said["done"], said["people"], len(said["failed"])) == (2, 2, 1)
    assert [r["image_id"] for r in results(tmp_path / "out")] == [0, 2]


@pytest.mark.parametrize("fatal", [ModelError, MissingDependency])
def test_what_is_wrong_with_the_model_ends_the_run(
    predict: Call, photos: Path, monkeypatch: pytest.MonkeyPatch, fatal: type[BodyloopError]
) -> None:
    """Also where it shows only when the photos of a group go one by one."""
    tried: list[int] = []

    def estimate(self: object, images: list[Any], *more: object, **options: object) -> list[People]:
        tried.append(len(images))
        raise fatal("weights do not fit") if len(images) == 1 else InputError("too many at once")

    monkeypatch.setattr("bodyloop.pose.estimator.PoseModel.estimate", estimate)
    result = predict(photos)
    assert result.exit_code == 1 and tried == [3, 1]
    assert result.stderr.count("\n") == 1 and "weights do not fit" in result.stderr


def test_a_bad_photo_of_a_group_is_found(
    predict: Call, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bodyloop.pose.estimator import PoseModel

    sound = PoseModel.estimate

    def estimate(self: PoseModel, images: list[Any], *more: Any, **options: Any) -> list[People]:
        if any(str(i.path).endswith("1.jpg") for i in images):
            raise InputError("no pose for this photo")
        return sound(self, images, *more, **options)

    monkeypatch.setattr(PoseModel, "estimate", estimate)
    result = predict(photos, "--json")
    said = json.loads(result.stdout)
    assert result.exit_code == 1 and said["failed"][0]["photo"] == str(photos / "1.jpg")
    assert (said["done"], said["people"], len(said["failed"])) == (2, 2, 1)


def test_each_network_has_its_device_and_its_threads(
    predict: Call, photos: Path, pose_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--device`` is the pose model's alone; torch weights do not get the threads of ONNX files."""
    torch = pytest.importorskip("torch", reason="the pose model of this run is one of torch")
    from bodyloop import api

    asked: dict[str, tuple[str, int | None]] = {}
    load_pose, load_detector = api.load_pose, api.load_detector

    def pose(model: str, *, device: str, threads: int | None, **more: Any) -> Any:
        asked["pose"] = (device, threads)
        return load_pose(pose_file)

    def detector(model: str, *, device: str, threads: int | None, **more: Any) -> Any:
        asked["detector"] = (device, threads)
        return load_detector(model)

    monkeypatch.setattr(api, "load_pose", pose)
    monkeypatch.setattr(api, "load_detector", detector)
    (tmp_path / "b.safetensors").write_bytes(b"never read")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        result = predict(
            photos,
            "--device",
            "mps",
            "--threads",
            "2",
            "--model",
            tmp_path / "b.safetensors",
            "--card",
            "pmpose-b",
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert result.exit_code == 0, result.stderr
    assert asked == {"pose": ("mps", None), "detector": ("cpu", 2)}
    predict(photos, "--overwrite", "--detector-device", "cuda", "--threads", "3")
    assert asked == {"pose": ("cpu", 3), "detector": ("cuda", 3)}


def test_a_run_knows_its_own_results_file(predict: Call, tmp_path: Path) -> None:
    """A mask of noise makes the first row longer than what is looked at."""
    photo = picture(tmp_path / "photos" / "1.jpg", size=(500, 500))
    noise = np.random.default_rng(0).random((1, 500, 500)) < 0.5
    masks = tmp_path / "masks.json"
    masks.write_text(json.dumps({"1.jpg": [Masks.from_any(noise, (500, 500)).rle(0)]}), encoding="utf-8")
    assert predict(photo, "--masks", masks).exit_code == 0
    assert (tmp_path / "out" / "results.json").stat().st_size > 1 << 16
    assert list(results(tmp_path / "out")[0])[:2] == ["image_id", "file_name"]
    again = predict(photo, "--masks", masks, "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)["skipped"] == 1


@pytest.mark.parametrize(("orientation", "size"), [(3, (120, 160)), (2, (120, 160)), (6, (120, 120))])
@pytest.mark.parametrize("form", ["annotations", "results", "people"])
def test_turns_that_keep_the_size(
    predict: Call, tmp_path: Path, orientation: int, size: tuple[int, int], form: str
) -> None:
    """COCO annotations with a size speak of the stored pixels, all else of the photo as it is looked at."""
    import PIL.Image
    import PIL.ImageOps

    stored = picture(tmp_path / "stored" / "7.png", size=size)
    (tmp_path / "turned").mkdir()
    (tmp_path / "photos").mkdir()
    exif = PIL.Image.Exif()
    exif[274] = orientation
    with PIL.Image.open(stored) as p:
        p.save(tmp_path / "photos" / "7.png", exif=exif)
    with PIL.Image.open(tmp_path / "photos" / "7.png") as p:
        PIL.ImageOps.exif_transpose(p).save(tmp_path / "turned" / "7.png")
    box = [10.0, 20.0, 60.0, 110.0]
    row = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [10.0, 20.0, 50.0, 90.0], "score": 0.5}
    image = {"id": 7, "file_name": "7.png", "width": size[0], "height": size[1]}
    forms: dict[str, Any] = {
        "annotations": {"images": [image], "annotations": [row]},
        "results": [row],
        "people": people_to_json(People(size, Source("7.png"), boxes=np.float32([box]))),
    }
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(forms[form]), encoding="utf-8")
    found = {}
    for folder in ("photos", "stored", "turned"):
        assert predict(tmp_path / folder, "--boxes", boxes, "--out", tmp_path / f"of-{folder}").exit_code == 0
        found[folder] = People.load(tmp_path / f"of-{folder}" / "7.json").keypoints
    meant, other = ("stored", "turned") if form == "annotations" else ("turned", "stored")
    np.testing.assert_array_equal(found["photos"], found[meant])
    assert not np.array_equal(found["photos"], found[other])
