"""Sets on disk: the same bytes however they come about, nothing half written, names that stay in their folder."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from bodyloop.data import cropcoco as procedure
from bodyloop.data import cropcoco_folder as m
from bodyloop.errors import FileError, InputError
from bodyloop.images import read

SOURCE = {"sha256": "0" * 64}
WIDTH, HEIGHT = 64, 48


NAMES = tuple(f"k{k}" for k in range(8))


def make_source(folder: Path, count: int = 8, names: tuple[str, ...] = NAMES) -> dict[str, Any]:
    """Photos whose colours tell each place, with a person who fills them, and the COCO document of these."""
    (folder / "sub").mkdir(parents=True)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    images, people = [], []
    for i in range(count):
        name = ("{}.jpg", "sub/{}.jpeg", "{}.png")[i % 3].format(i)
        pixels = np.stack([4 * x, 5 * y, np.full_like(x, 20 * i)], axis=2).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / name, **({} if "png" in name else {"quality": 100}))
        images.append({"id": 10 + i, "width": WIDTH, "height": HEIGHT, "file_name": name})
        k = len(names)
        xy = np.column_stack([np.linspace(2, WIDTH - 3, k), np.linspace(2, HEIGHT - 3, k)])
        flags = np.resize([2, 1, 2, 2, 2, 0, 2, 2], k)
        flat = np.where(flags[:, None] > 0, np.column_stack([xy, flags]), 0).ravel().tolist()
        people.append(
            {
                "id": 100 + i, "image_id": 10 + i, "category_id": 1, "iscrowd": 0, "area": 1000.0,
                "bbox": [1, 1, WIDTH - 2, HEIGHT - 2], "num_keypoints": int((flags > 0).sum()), "keypoints": flat,
                "segmentation": [[1, 1, WIDTH - 1, 1, WIDTH - 1, HEIGHT - 1, 1, HEIGHT - 1]],
            }
        )  # fmt: skip
    categories = [{"id": 1, "name": "person", "keypoints": list(names), "skeleton": [[1, 2], [2, 3]]}]
    return {"images": images, "annotations": people, "categories": categories}


def digests(root: Path) -> dict[str, str]:
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in root.rglob("*")
        if p.is_file()
    }


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    return make_source(tmp_path / "in")


def build(document: dict[str, Any], folder: Path, out: str = "out", **options: Any) -> m.BuiltSet:
    more = {"name": "val", "source": SOURCE, "workers": 1, **options}
    return m.build_folder(document, folder / "in", folder / out, **more)


def test_the_layout_and_what_is_in_it(source: dict[str, Any], tmp_path: Path) -> None:
    before = copy.deepcopy(source)
    told: list[tuple[int, int]] = []
    built = build(source, tmp_path, progress=lambda done, total: told.append((done, total)))
    assert source == before and told == [(i + 1, 8) for i in range(8)]
    out = tmp_path / "out"
    document = json.loads((out / "annotations" / "person_keypoints_val.json").read_bytes())
    names = {image["file_name"] for image in document["images"]}
    assert {n.partition("/")[0] for n in digests(out)} == {
        "annotations",
        "cropcoco.json",
        "statistics.json",
        "val",
    }
    assert {n.removeprefix("val/") for n in digests(out) if n.startswith("val/")} == names
    assert "2.jpg" in names and "sub/1.jpeg" in names  # 2.png is written as JPEG
    assert built.written == len(names) == len(document["images"]) > 5
    twin = json.loads((out / "annotations" / "coco_compatible_val.json").read_bytes())
    assert twin == procedure.coco_twin(document)
    alone = procedure.build(source)
    assert document["annotations"] == alone.document["annotations"]
    assert document["info"] == alone.document["info"]
    statistics = json.loads((out / "statistics.json").read_bytes())
    assert statistics["flags"] == alone.statistics["flags"] and statistics["seed"] == 0
    for image, original in zip(document["images"], alone.document["images"], strict=True):
        photo = read(out / "val" / image["file_name"]).pixels
        c = image["crop"]
        whole = read(tmp_path / "in" / original["file_name"]).pixels
        part = whole[c["y"] : c["y"] + c["height"], c["x"] : c["x"] + c["width"]]
        assert photo.shape == part.shape
        assert abs(photo.astype(int) - part).mean() < 1.5  # a pixel beside would be 4 or 5 off in one colour


def test_the_same_bytes_whatever_the_number_of_workers(source: dict[str, Any], tmp_path: Path) -> None:
    build(source, tmp_path)
    build(source, tmp_path, workers=3, out="shared")
    assert digests(tmp_path / "out") == digests(tmp_path / "shared")
    build(source, tmp_path, seed=1, out="other")
    assert digests(tmp_path / "out")["val/0.jpg"] != digests(tmp_path / "other")["val/0.jpg"]


KILLED = """
import json, multiprocessing, os, signal, sys
from bodyloop.data.cropcoco_folder import build_folder

def stop(done, total):
    if done == 3:
        print(*(p.pid for p in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    folder, workers = sys.argv[1], int(sys.argv[2])
    document = json.load(open(folder + "/source.json"))
    build_folder(document, folder + "/in", folder + "/out", name="val", source={"sha256": "0" * 64},
                 workers=workers, progress=stop)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_called_again(source: dict[str, Any], tmp_path: Path, workers: int) -> None:
    (tmp_path / "source.json").write_text(json.dumps(source))
    (tmp_path / "killed.py").write_text(KILLED)
    run = [sys.executable, str(tmp_path / "killed.py"), str(tmp_path), str(workers)]
    ended = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    for pid in map(int, ended.stdout.split()):  # the workers end with their parent
        for _ in range(600):
            if not alive(pid):
                break
            time.sleep(0.05)
        assert not alive(pid)
    out = tmp_path / "out"
    assert (out / "val" / "0.jpg").is_file() and not list(out.glob("annotations/*.json"))
    (out / "val" / ".0123456789ab.part").write_bytes(b"half a photo")
    first = (out / "val" / "0.jpg").stat().st_mtime_ns
    there = len(list((out / "val").rglob("*.jp*g")))
    built = build(source, tmp_path)
    assert (out / "val" / "0.jpg").stat().st_mtime_ns == first
    assert built.written == len(built.crops.document["images"]) - there < 8
    build(source, tmp_path, out="whole")
    assert digests(out) == digests(tmp_path / "whole")
    assert build(source, tmp_path).written == 0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def test_another_set_is_left_alone(source: dict[str, Any], tmp_path: Path) -> None:
    build(source, tmp_path)
    before = digests(tmp_path / "out")
    with pytest.raises(FileError, match=r"another set \(seed 0 there, 1 here\)"):
        build(source, tmp_path, seed=1)
    with pytest.raises(FileError, match="quality 95 there, 80 here; source"):
        build(source, tmp_path, quality=80, source={"sha256": "1" * 64})
    with pytest.raises(FileError, match="padding"):
        build(source, tmp_path, padding=1.5)
    assert digests(tmp_path / "out") == before
    (tmp_path / "out" / m.MANIFEST).write_text("{")
    with pytest.raises(FileError, match=r"cropcoco\.json: cannot be read"):
        build(source, tmp_path)
    (tmp_path / "out" / m.MANIFEST).write_text("[]")
    with pytest.raises(FileError, match="another set"):
        build(source, tmp_path)
    with pytest.raises(FileError, match="holds files and is no set"):
        m.build_folder(source, tmp_path / "in", tmp_path / "in", name="sub", source=SOURCE)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".abc.part").write_bytes(b"")  # killed before the manifest was whole
    build(source, tmp_path, out="begun")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="folder cannot be made"):
        build(source, tmp_path, out="file/out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../7.jpg", "must be a file below"),
        ("/etc/7.jpg", "must be a file below"),
        ("C:\\7.jpg", "must be a file below"),
        ("a\\..\\7.jpg", "must be a file below"),
        ("", "must be a file below"),
        (None, "must be a file below"),
        (7, "must be a file below"),
        ("2.jpg", "images 12 and 10: their photos would both be written as 2.jpg"),
    ],
)
def test_names_of_photos(source: dict[str, Any], tmp_path: Path, name: object, message: str) -> None:
    source["images"] = [source["images"][2], *source["images"][:2]]
    source["annotations"] = source["annotations"][:3]
    source["images"][1]["file_name"] = name
    with pytest.raises(InputError, match=message) as e:
        build(source, tmp_path)
    assert "10" in str(e.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_photos_that_do_not_fit(source: dict[str, Any], tmp_path: Path, workers: int) -> None:
    """The error names the photo; when it is mended, the same call goes on."""
    photo = tmp_path / "in" / "3.jpg"
    right = photo.read_bytes()
    photo.unlink()
    with pytest.raises(FileError, match=r"3\.jpg"):
        build(source, tmp_path, workers=workers)
    if workers == 1:
        photo.write_bytes(right[: len(right) // 2])
        with pytest.raises(FileError, match=r"3\.jpg: .*truncated"):
            build(source, tmp_path)
        PIL.Image.new("RGB", (10, 10)).save(photo)
        with pytest.raises(InputError, match=r"3\.jpg: \(10, 10\) px.*image id 13.*\(64, 48\)"):
            build(source, tmp_path)
    photo.write_bytes(right)
    assert 0 < build(source, tmp_path).written < 8
    with pytest.raises(FileError, match="no such folder of photos"):
        m.build_folder(source, tmp_path / "nowhere", tmp_path / "o", name="val", source=SOURCE)


def test_photos_labelled_as_they_are_looked_at(source: dict[str, Any], tmp_path: Path) -> None:
    """A camera's photo is stored lying; its labels are for the standing one."""
    photo = tmp_path / "in" / "0.jpg"
    lying = PIL.Image.open(photo).rotate(90, expand=True)
    exif = PIL.Image.Exif()
    exif[274] = 6  # a quarter turn clockwise
    upright = np.asarray(lying.rotate(-90, expand=True))
    lying.save(photo, quality=100, exif=exif)
    assert read(photo, orient=False).size == (HEIGHT, WIDTH) and read(photo).size == (WIDTH, HEIGHT)
    source["images"], source["annotations"] = source["images"][:1], source["annotations"][:1]
    (image,) = build(source, tmp_path).crops.document["images"]
    c = image["crop"]
    part = upright[c["y"] : c["y"] + c["height"], c["x"] : c["x"] + c["width"]]
    assert abs(read(tmp_path / "out" / "val" / "0.jpg").pixels.astype(int) - part).mean() < 1.5


def test_where_photos_are(tmp_path: Path) -> None:
    for file, name in (
        ("person_keypoints_val2017.json", "val2017"),
        ("coco_compatible_val2017.json", "val2017"),
        ("dev.json.gz", "dev"),
        ("annotations.json", "images"),
    ):
        assert m.set_name(tmp_path / file) == name
    file = tmp_path / "annotations" / "person_keypoints_val.json"
    assert m.photo_folder(file) == tmp_path / "annotations" / "images"
    (tmp_path / "val").mkdir()
    assert m.photo_folder(file) == tmp_path / "val"
    assert m.photo_folder(tmp_path / "labels" / "person_keypoints_val.json") == tmp_path / "labels" / "images"


def test_coco_tools_read_the_twin(source: dict[str, Any], tmp_path: Path) -> None:
    """They judge what is inside windows only, and nobody whose joints are all outside."""
    COCO = pytest.importorskip("pycocotools.coco").COCO
    COCOeval = pytest.importorskip("pycocotools.cocoeval").COCOeval
    built = build(source, tmp_path)
    truth = COCO(str(built.twin))
    found = []
    for a in json.loads(built.twin.read_bytes())["annotations"]:
        assert truth.annToMask(a).sum() == a["area"]
        points = np.array(a["keypoints"], float).reshape(-1, 3)
        points[points[:, 2] == 0, :2] = 1e4  # wherever: nobody asks
        found.append(
            {k: a[k] for k in ("image_id", "category_id")}
            | {"score": 0.5, "keypoints": points.ravel().tolist()}
        )
    judge = COCOeval(truth, truth.loadRes(found), "keypoints")
    judge.params.kpt_oks_sigmas = np.full(8, 0.05)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[0] == pytest.approx(1, abs=1e-9)
    flags = built.crops.statistics["flags"]
    assert (
        sum(len(a["keypoints"]) // 3 - a["num_keypoints"] for a in truth.anns.values())
        == flags["0"] + flags["3"]
    )
    assert int(flags["3"]) > 0


def test_the_photographs(tmp_path: Path) -> None:
    folder = os.environ.get("BODYLOOP_DATA")
    if not folder:
        pytest.skip("needs the photographs; set BODYLOOP_DATA to their folder")
    from bodyloop.eval.cropcoco_check import check_set

    document = json.loads((Path(folder) / "coco" / "dev.json").read_bytes())
    document["images"] = document["images"][:60]
    ids = {i["id"] for i in document["images"]}
    document["annotations"] = [a for a in document["annotations"] if a["image_id"] in ids]
    photos = Path(folder) / "coco" / "images"
    built = m.build_folder(document, photos, tmp_path / "out", name="dev", source=SOURCE, workers=1)
    report = check_set(built.annotations)
    assert report.ok, report.table()
    assert report.counts["images"] > 30 and report.counts["flag 3"] > 50
    assert all(c.looked_at > 0 and not c.skipped for c in report.checks)
