"""Contact sheets, strips and moving pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

from bodyloop.drawing import Picture, animate, contact_sheet, draw, strip
from bodyloop.errors import BodyloopError, FileError, InputError
from bodyloop.images import Image

from .helpers import painted, people, photo

COLOURS = [(220, 30, 30), (30, 200, 30), (30, 30, 220), (200, 200, 30), (120, 40, 160)]


def tile(i: int, w: int = 80, h: int = 60) -> npt.NDArray[np.uint8]:
    return np.full((h, w, 3), COLOURS[i], np.uint8)


def place(sheet: Picture, i: int) -> tuple[int, int, int, int]:
    """x0 y0 x1 y1 of the pixels of one tile's colour."""
    ys, xs = np.nonzero(~painted(sheet.pixels, COLOURS[i]))
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


def test_every_picture_is_on_the_sheet_in_reading_order() -> None:
    sheet = contact_sheet([tile(i) for i in range(5)], columns=2)
    at = [place(sheet, i) for i in range(5)]
    assert all((x1 - x0, y1 - y0) == (80, 60) for x0, y0, x1, y1 in at)
    assert at[0][1] == at[1][1] < at[2][1] == at[3][1] < at[4][1]
    assert at[0][0] == at[2][0] == at[4][0] < at[1][0] == at[3][0]


def test_pictures_of_all_kinds_and_sizes_are_shrunk_but_never_enlarged() -> None:
    sheet = contact_sheet([tile(0, 400, 100), Picture(tile(1, 20, 90)), Image(tile(2))], columns=3, cell=100)
    sizes = [(x1 - x0, y1 - y0) for x0, y0, x1, y1 in (place(sheet, i) for i in range(3))]
    assert sizes == [(100, 25), (20, 90), (80, 60)]


def test_captions_take_room_below_and_nothing_else_moves() -> None:
    bare = contact_sheet([tile(0), tile(1)], 2)
    told = contact_sheet([tile(0), tile(1)], 2, ["", "right hand"])
    assert told.size[0] == bare.size[0] and told.size[1] > bare.size[1]
    assert place(told, 0) == place(bare, 0)
    below = told.pixels[place(told, 0)[3] + 1 :]
    half = told.size[0] // 2
    assert painted(below[:, half:], 255, 60).any() and not painted(below[:, :half], 255, 60).any()


def test_long_captions_are_broken_not_cut() -> None:
    short = contact_sheet([tile(0)], 1, ["one"])
    long = contact_sheet([tile(0)], 1, ["one two three four five six seven eight"])
    unbroken = contact_sheet([tile(0)], 1, ["x" * 60])
    assert long.size[1] > short.size[1] and unbroken.size[1] > short.size[1]


def test_a_title_stands_above() -> None:
    sheet = contact_sheet([tile(0)], 1, title="People")
    top = place(sheet, 0)[1]
    assert painted(sheet.pixels[:top], 255, 60).any()


def test_a_strip_brings_pictures_to_one_height() -> None:
    row = strip([tile(0, 80, 60), tile(1, 50, 120)])
    a, b = place(row, 0), place(row, 1)
    assert (a[1], a[3]) == (b[1], b[3]) and a[3] - a[1] == 60
    assert place(strip([tile(0)], height=30), 0)[3] - place(strip([tile(0)], height=30), 0)[1] == 30


def test_a_strip_by_photo_keeps_sizes_and_corners() -> None:
    row = strip([Picture(tile(0, 80, 120)), Picture(tile(1, 80, 40))], height=120, align="photo")
    a, b = place(row, 0), place(row, 1)
    assert a[1] == b[1] and (a[3] - a[1], b[3] - b[1]) == (120, 40)


@pytest.mark.parametrize(
    "call",
    [
        lambda: contact_sheet([]),
        lambda: contact_sheet(tile(0)),  # type: ignore[arg-type]
        lambda: contact_sheet([tile(0)], 0),
        lambda: contact_sheet([tile(0)], 1.5),  # type: ignore[arg-type]
        lambda: contact_sheet([tile(0)], captions=["a", "b"]),
        lambda: contact_sheet([tile(0)], cell=-1),
        lambda: contact_sheet([np.zeros((3, 3, 4), np.uint8)]),
        lambda: strip([]),
        lambda: strip([tile(0)], height=10**9),
        lambda: strip([tile(0)], align="diagonal"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sheet_is_refused(call: Any) -> None:
    with pytest.raises(BodyloopError):
        call()


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_a_moving_picture_holds_every_frame_in_order(tmp_path: Path, name: str) -> None:
    path = animate([tile(i) for i in range(4)], tmp_path / name, fps=10, hold=2)
    with PIL.Image.open(path) as moving:
        assert moving.n_frames == 4 and moving.size == (80, 60)  # type: ignore[attr-defined]
        times = []
        for i in range(4):
            moving.seek(i)
            frame = np.asarray(moving.convert("RGB")).astype(int)
            times.append(moving.info["duration"])
            assert np.abs(frame[30, 40] - COLOURS[i]).max() < 16
    assert times == [100, 100, 100, 2100]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_equal_frames_keep_their_time(tmp_path: Path) -> None:
    path = animate([tile(0)] * 3, tmp_path / "a.gif", fps=10, hold=0)
    total = 0
    with PIL.Image.open(path) as moving:
        for i in range(moving.n_frames):  # type: ignore[attr-defined]
            moving.seek(i)
            total += moving.info["duration"]
    assert total == 300


def test_photos_lie_still_while_sheets_grow(tmp_path: Path) -> None:
    frames = [draw(tile(0, 120, 100), people([[x, 50]])) for x in (60, -40, 150)]
    assert len({f.size for f in frames}) == 3
    path = animate(frames, tmp_path / "a.gif")
    left = max(f.origin[0] for f in frames)
    with PIL.Image.open(path) as moving:
        for i in range(3):
            moving.seek(i)
            frame = np.asarray(moving.convert("RGB")).astype(int)
            assert np.abs(frame[5, left + 3] - COLOURS[0]).max() < 16
            assert np.abs(frame[5, left - 5] - COLOURS[0]).max() > 60


def test_width_limits_frames(tmp_path: Path) -> None:
    with PIL.Image.open(animate([tile(0), tile(1)], tmp_path / "a.gif", width=40)) as moving:
        assert moving.size == (40, 30)


def test_frames_may_come_from_a_generator(tmp_path: Path) -> None:
    animate((tile(i) for i in range(2)), tmp_path / "a.gif")
    assert (tmp_path / "a.gif").stat().st_size > 0


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"path": "a.avi"}, FileError),
        ({"path": "nowhere/a.gif"}, FileError),
        ({"pictures": []}, InputError),
        ({"fps": 0}, InputError),
        ({"fps": 1000}, InputError),
        ({"fps": float("nan")}, InputError),
        ({"hold": -1}, InputError),
        ({"width": 0}, InputError),
    ],
    ids=str,
)
def test_what_makes_no_moving_picture_is_refused(tmp_path: Path, more: Any, error: type[Exception]) -> None:
    wanted = {"pictures": [photo()], "path": "a.gif", **more}
    wanted["path"] = tmp_path / wanted["path"]
    with pytest.raises(error):
        animate(**wanted)
    assert not list(tmp_path.iterdir())
