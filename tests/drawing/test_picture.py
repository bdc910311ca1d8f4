"""`Picture`: frozen pixels, and files that are whole or not there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from bodyloop.drawing import Picture
from bodyloop.errors import FileError, InputError

from .helpers import photo

NOISE = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)


def test_png_is_exact_and_others_are_close(tmp_path: Path) -> None:
    assert np.array_equal(np.asarray(PIL.Image.open(Picture(NOISE).save(tmp_path / "a.png"))), NOISE)
    for name in ("a.jpg", "a.JPEG", "a.webp"):
        back = np.asarray(PIL.Image.open(Picture(photo()).save(tmp_path / name)).convert("RGB"))
        assert back.shape == (100, 120, 3) and np.abs(back.astype(int) - 128).max() <= 2


def test_only_the_named_file_is_left(tmp_path: Path) -> None:
    target = Picture(NOISE).save(os.fspath(tmp_path / "a.png"))
    assert target == tmp_path / "a.png" and [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a", "a.gif", "a.png.txt", ".png"])
def test_unknown_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match=r"\.png"):
        Picture(NOISE).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nowhere"):
        Picture(NOISE).save(tmp_path / "nowhere" / "a.png")


def test_what_a_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.webp"):
        with pytest.raises(FileError, match=r"a\."):
            Picture(np.zeros((1, 70_000, 3), np.uint8)).save(tmp_path / name)
    with pytest.raises(FileError):
        Picture(NOISE).save(f"{tmp_path}/\0.png")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Picture(NOISE).save(tmp_path / "a.png")
    old = target.read_bytes()

    def broken(self: PIL.Image.Image, fp: Any, *_: Any, **__: Any) -> None:
        fp.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(PIL.Image.Image, "save", broken)
    with pytest.raises(FileError, match="disk full"):
        Picture(photo()).save(target)
    assert target.read_bytes() == old and [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(FileError):
        Picture(NOISE).save(tmp_path / "a.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_pillow_and_notebooks() -> None:
    picture = Picture(NOISE)
    assert picture.to_pil().size == (60, 40) == picture.size
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert "60x40" in repr(picture)


def test_pixels_are_read_only_and_the_callers_array_is_not() -> None:
    mine = photo()
    picture = Picture(mine)
    with pytest.raises(ValueError):
        picture.pixels[0] = 0
    mine[0] = 1


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), [[1]], None]
)
def test_anything_else_is_refused(bad: Any) -> None:
    with pytest.raises(InputError, match=r"Picture\.pixels"):
        Picture(bad)
