"""Photos of folders and tar files: found by name, read where they are, whatever is wrong with the tar said."""

from __future__ import annotations

import io
import json
import multiprocessing
import tarfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from bodyloop.data import shards
from bodyloop.data.shards import Photos, photos_beside
from bodyloop.errors import FileError, InputError
from tests.data.sets import HEIGHT, WIDTH, draw, pack


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    """Three photos by the names that they shall have in a set."""
    names = ("coco/train/1.png", "coco/val/1.png", "coco/train/2.jpg")
    return {n: draw(tmp_path / "folder" / n, seed=i) for i, n in enumerate(names)}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(PIL.Image.open(path).convert("RGB"))


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "tar"])
def test_photos_are_found_by_their_paths(photos: dict[str, Path], tmp_path: Path, packed: bool) -> None:
    place = pack(tmp_path / "all.tar", photos) if packed else tmp_path / "folder"
    found = Photos.open(place)
    assert found.names() == sorted(photos)
    for name, path in photos.items():
        np.testing.assert_array_equal(found.read(name).pixels, found.read(f"./{name}").pixels)
        if path.suffix == ".png":
            np.testing.assert_array_equal(found.read(name).pixels, pixels(path))
        assert found.size(name) == (WIDTH, HEIGHT)
    # tails: of a longer path in the labels, and of a shorter one
    for longer_or_shorter in (
        "data/coco/val/1.png",
        "val/1.png",
        "C:\\data\\coco\\val\\1.png",
        "/data/coco/val/1.png",
    ):
        np.testing.assert_array_equal(found.read(longer_or_shorter).pixels, pixels(photos["coco/val/1.png"]))
    np.testing.assert_array_equal(found.read("2.jpg").pixels, found.read("coco/train/2.jpg").pixels)
    with pytest.raises(InputError, match="write more of its path"):
        found.find("1.png")
    assert found.find("test/1.png") is None  # another folder is another photo
    with pytest.raises(FileError, match=r"'3\.png' is not in"):
        found.read("3.png")


@pytest.mark.parametrize("name", ["", "..", "../1.png", "a/../../1.png", "a\0b", None, 3])
def test_names_stay_in_their_folder(photos: dict[str, Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="below its folder"):
        Photos.open(tmp_path / "folder").find(name)


def test_shards_of_a_folder(photos: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for i, (name, path) in enumerate(photos.items()):
        pack(tmp_path / "shards" / f"{i}.tar", {f"./{name}": path})
    found = Photos.open(tmp_path / "shards")
    assert found.names() == sorted(photos)
    np.testing.assert_array_equal(found.read("coco/train/1.png").pixels, pixels(photos["coco/train/1.png"]))


def test_the_index_is_kept_and_renewed(
    photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = pack(tmp_path / "a.tar", photos)
    index = tmp_path / "a.tar.index.json"
    Photos.open(tar)
    rows = json.loads(index.read_text())["photos"]
    assert sorted(n for n, _, _ in rows) == sorted(photos)
    name, start, size = rows[0]
    assert tar.read_bytes()[start : start + size] == photos[name].read_bytes()
    with monkeypatch.context() as m:
        m.setattr(tarfile, "open", lambda *a, **k: pytest.fail("the tar was gone through again"))
        assert Photos.open(tar).names() == sorted(photos)
    index.write_text('{"of": [')  # as a crash would never leave it, since it is written atomically
    assert Photos.open(tar).names() == sorted(photos)
    draw(photos["coco/train/1.png"], (20, 10), seed=9)
    pack(tar, photos)
    assert Photos.open(tar).size("coco/train/1.png") == (20, 10)


def test_where_nothing_can_be_written(
    photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise FileError(f"{path}: read-only")

    tar = pack(tmp_path / "a.tar", photos)
    monkeypatch.setattr(shards, "atomic_write", refuse)
    assert Photos.open(tar).names() == sorted(photos) and not (tmp_path / "a.tar.index.json").exists()


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_packed_tars_are_refused(photos: dict[str, Path], tmp_path: Path, mode: str) -> None:
    tar = pack(tmp_path / "a.tar", photos, f"w:{mode}")
    with pytest.raises(FileError, match=r"packed by .*unpack it to a plain \.tar"):
        Photos.open(tar)


def test_broken_tars(photos: dict[str, Path], tmp_path: Path) -> None:
    tar = pack(tmp_path / "a.tar", photos)
    whole = tar.read_bytes()
    with tarfile.open(tar) as t:
        last = t.getmember("coco/train/2.jpg")
    for cut in (last.offset_data + 10, 700, 3):
        tar.write_bytes(whole[:cut])
        with pytest.raises(FileError, match=r"a\.tar"):
            Photos.open(tar)
    with pytest.raises(FileError, match="no such folder or tar"):
        Photos.open(tmp_path / "b.tar")


def test_members_that_lead_out_are_left_out(photos: dict[str, Path], tmp_path: Path) -> None:
    path = photos["coco/train/1.png"]
    tar = pack(tmp_path / "a.tar", {"../1.png": path, "/root/2.png": path, "3.png": path, "3.txt": path})
    with tarfile.open(tar, "a") as t:
        link = tarfile.TarInfo("4.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        t.addfile(link, io.BytesIO())
    assert Photos.open(tar).names() == ["3.png", "root/2.png"]


def test_a_tar_that_shrinks_later(photos: dict[str, Path], tmp_path: Path) -> None:
    tar = pack(tmp_path / "a.tar", photos)
    found = Photos.open(tar)
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(FileError, match="ends within a photo"):
        found.read("coco/train/2.jpg")


def _sum(photos: Photos, name: str) -> int:
    return int(photos.read(name).pixels.sum())


def test_several_processes_read_at_once(photos: dict[str, Path], tmp_path: Path) -> None:
    found = Photos.open(pack(tmp_path / "a.tar", photos))
    jobs = [(found, n) for n in photos] * 6
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.starmap(_sum, jobs) == [_sum(*j) for j in jobs]


def test_photos_are_turned_as_they_were_labelled(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[274] = 6
    draw(tmp_path / "a.jpg", exif=exif)
    found = Photos.open(tmp_path)
    assert found.size("a.jpg") == (WIDTH, HEIGHT) and found.size("a.jpg", oriented=True) == (HEIGHT, WIDTH)
    assert found.read("a.jpg").size == found.read("a.jpg", (WIDTH, HEIGHT)).size == (WIDTH, HEIGHT)
    assert found.read("a.jpg", (HEIGHT, WIDTH)).size == (HEIGHT, WIDTH)
    with pytest.raises(InputError, match=r"its labels are for \(9, 9\)"):
        found.read("a.jpg", (9, 9))


def test_a_header_behind_a_large_preview(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[270] = "x" * 60_000
    draw(tmp_path / "a.jpg", exif=exif, comment=b"y" * 65_000)
    assert Photos.open(tmp_path).size("a.jpg") == (WIDTH, HEIGHT)
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    with pytest.raises(FileError, match=r"b\.jpg"):
        Photos.open(tmp_path).size("b.jpg")


@pytest.mark.parametrize(
    ("labels", "place"),
    [
        ("train.json", "images/1.png"),
        ("train2017.json", "train2017/1.png"),
        ("annotations/person_keypoints_val2017.json", "val2017/1.png"),
        ("annotations/mine.json", "images/1.png"),
        ("annot/mine.json", "annot/images/1.png"),
        ("train.json", "1.png"),
        ("train.json", "deep/below/1.png"),
    ],
)
def test_photos_beside_the_labels(tmp_path: Path, labels: str, place: str) -> None:
    draw(tmp_path / "set" / place)
    (tmp_path / "set" / labels).parent.mkdir(exist_ok=True)
    assert photos_beside(tmp_path / "set" / labels).find("1.png") is not None


@pytest.mark.parametrize("tar", ["images.tar", "images-000.tar", "train.tar"])
def test_tars_beside_the_labels(photos: dict[str, Path], tmp_path: Path, tar: str) -> None:
    (tmp_path / "set").mkdir()
    pack(tmp_path / "set" / tar, photos)
    assert photos_beside(tmp_path / "set" / "train.json").find("2.jpg") is not None
