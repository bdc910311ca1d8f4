"""A run of the loop as pictures: stations, contact sheet, GIF and film."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import bodyloop as bl
from bodyloop.drawing import LoopDrawing, Picture, Style, palette
from bodyloop.errors import BodyloopError, FileError, InputError, MissingDependency
from bodyloop.loop.record import LoopResult, Pass
from bodyloop.masks import Masks
from bodyloop.people import People

from .helpers import painted
from .loops import CONFIG, SIZE, A, B, C, crowd, photo, run


@pytest.fixture(scope="module")
def usual() -> LoopDrawing:
    return bl.draw_loop(*run())


def coloured(picture: Picture, image: Any, box: tuple[int, ...]) -> float:
    """The share of a box in which a picture differs from the photo."""
    x1, y1, x2, y2 = box
    return float(painted(picture.pixels, image.pixels)[y1:y2, x1:x2].mean())


def test_everybody_has_one_number_for_good(usual: LoopDrawing) -> None:
    first, second, third = usual.chapters
    assert first.new == (3, 0) and first.after == (3, 0)  # B is lost later: behind those of the result
    assert second.numbers == (3, 0) and second.new == (1, 2) and second.after == (0, 1, 2)
    assert third.after == tuple(range(len(usual.result.people)))


def test_who_was_dropped_and_for_whom(usual: LoopDrawing) -> None:
    first, second, _ = usual.chapters
    (double,) = first.doubles
    assert (double.row, double.like) == (0, 0) and 0.9 < double.oks <= 1
    (again,), (lost,) = second.doubles, second.lost
    assert again.like == 0 and lost.like == 2 and second.numbers[lost.row] == 3


def test_only_stations_with_something_to_see(usual: LoopDrawing) -> None:
    all_of_them = ["seen", "found", "posed", "judged", "prompted", "refined", "known"]
    assert [c.stations() for c in usual.chapters] == [all_of_them, all_of_them, ["seen", "found", "known"]]
    assert usual.chapters[1].text("judged") == "2 new, 1 in a pose that is taken, 1 known before give way"
    assert usual.chapters[1].text("seen") == "2 people masked out"
    assert usual.chapters[2].text("found") == "nobody found"


def test_the_detector_sees_people_of_earlier_passes_black(usual: LoopDrawing) -> None:
    photo = usual.image.pixels
    assert np.array_equal(usual.show(1, "seen").pixels, photo)
    black = usual.chapters[1].record.masked_out.union()
    assert black.any()
    expected = np.where(black[..., None], 0, photo)
    assert np.array_equal(usual.show(2, "seen").pixels, expected)


def test_stations_show_their_people_and_no_others(usual: LoopDrawing) -> None:
    for station in ("found", "refined", "known"):
        picture = usual.show(1, station)
        assert picture.size == SIZE
        assert coloured(picture, usual.image, A) > 0.2 and coloured(picture, usual.image, B) > 0.2
        assert coloured(picture, usual.image, C) < 0.1, station
    assert coloured(usual.show(2, "refined"), usual.image, C) > 0.2
    assert coloured(usual.show(2, "refined"), usual.image, A) < 0.1
    assert coloured(usual.show(2, "known"), usual.image, A) > 0.2


def test_prompt_points_lie_on_the_photo_where_they_were_sent(usual: LoopDrawing) -> None:
    picture = usual.show(2, "prompted", side=4 * SIZE[0])
    plain = usual.show(2, "refined", side=4 * SIZE[0])
    for prompt in usual.chapters[1].record.prompts:
        assert prompt is not None and len(prompt.points) == 3
        for x, y in (4 * (prompt.points + 0.5) - 0.5).round().astype(int):
            around = np.s_[y - 3 : y + 4, x - 3 : x + 4]
            assert painted(picture.pixels[around], plain.pixels[around]).mean() > 0.5


def test_a_person_that_was_not_sent_is_said_so() -> None:
    image, result = run(config=CONFIG.changed(min_box_height=1000))
    drawing = bl.draw_loop(image, result)
    assert "prompted" not in drawing.chapters[0].stations()
    image, result = run(config=CONFIG.changed(min_box_height=90.5))
    drawing = bl.draw_loop(image, result)
    assert "prompted" not in drawing.chapters[1].stations()


def test_a_sheet_has_a_row_a_pass(usual: LoopDrawing) -> None:
    one = bl.draw_loop(*run(config=CONFIG.changed(passes=1)))
    two = bl.draw_loop(*run(config=CONFIG.changed(passes=2)))
    sizes = [d.sheet(120).size for d in (two, usual)]
    assert sizes[0][0] == sizes[1][0] and sizes[0][1] < sizes[1][1]
    assert sizes[0][0] > 7 * 120 > one.sheet(120).size[0] > 4 * 120


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_the_sheet_is_what_a_still_picture_holds(usual: LoopDrawing, tmp_path: Path, name: str) -> None:
    path = usual.save(tmp_path / name, side=100)
    with PIL.Image.open(path) as saved:
        assert saved.size == usual.sheet(100).size


def test_a_gif_stops_at_every_station(usual: LoopDrawing, tmp_path: Path) -> None:
    path = usual.save(tmp_path / "a.gif", side=160)
    stations = sum(len(c.stations()) for c in usual.chapters)
    with PIL.Image.open(path) as moving:
        assert moving.size[0] == 160 and moving.info["loop"] == 0
        times = []
        for i in range(moving.n_frames):  # type: ignore[attr-defined]
            moving.seek(i)
            times.append(moving.info["duration"])
    assert sum(t >= 1000 for t in times) == stations and times[-1] == max(times)
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


def test_a_film_has_even_sides_and_every_station(usual: LoopDrawing, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="films need the extra [video]")
    path = usual.save(tmp_path / "a.mp4", side=161)
    with av.open(path) as film:
        stream = film.streams.video[0]
        assert (stream.width, stream.height % 2) == (162, 0)
        frames = [f.to_ndarray(format="rgb24") for f in film.decode(stream)]
        seconds = len(frames) / float(stream.average_rate)
    assert 17 * 1.6 < seconds < 17 * 2.2 + 3
    assert np.abs(frames[0][:100, :161].astype(int) - usual.image.pixels[:100]).mean() < 6


def test_animate_makes_films_too(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="films need the extra [video]")
    from bodyloop.drawing import animate

    tiles = [np.full((31, 45, 3), v, np.uint8) for v in (40, 120, 220)]
    with av.open(animate(tiles, tmp_path / "a.mp4", fps=2, hold=0)) as film:
        grey = [f.to_ndarray(format="rgb24")[5, 5].mean() for f in film.decode(video=0)]
    assert (
        len(grey) == 30 and [abs(grey[i] - v) < 8 for i, v in ((4, 40), (15, 120), (25, 220))] == [True] * 3
    )


def test_without_pyav_a_film_names_the_extra(
    usual: LoopDrawing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingDependency, match=r"bodyloop\[video\]"):
        usual.save(tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_crowd_is_drawn(tmp_path: Path) -> None:
    drawing = bl.draw_loop(*crowd(35))
    assert len(drawing.result.people) == 35
    assert drawing.save(tmp_path / "a.gif", side=300).stat().st_size > 0
    assert drawing.show(1, "known").size == drawing.image.size


@pytest.mark.parametrize("passes", [0, 1])
def test_nobody_is_drawn_as_nobody(tmp_path: Path, passes: int) -> None:
    image = photo()
    result = LoopResult(People.empty(SIZE), (), "time") if not passes else run([[]], image)[1]
    drawing = bl.draw_loop(image, result)
    for name in ("a.png", "a.gif", "a.html"):
        assert drawing.save(tmp_path / name).stat().st_size > 0


def test_a_notebook_shows_the_sheet(usual: LoopDrawing) -> None:
    with PIL.Image.open(io.BytesIO(usual._repr_png_())) as shown:
        assert shown.width > 7 * 200


@pytest.mark.parametrize("name", ["a.avi", "a", "a.html.zip"])
def test_another_ending_is_refused(usual: LoopDrawing, tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match=r"\.gif.*\.mp4.*\.html"):
        usual.save(tmp_path / name)


def changed(p: Pass, **changes: Any) -> Any:
    return lambda: replace(p, **changes)


def broken() -> list[tuple[str, LoopResult, str]]:
    _, good = run()
    first, second = good.passes[:2]
    people = good.people
    wrong = {
        "another size": (replace(first, detected=People.empty((9, 9))), "another size"),
        "prompts": (replace(first, prompts=()), "prompts"),
        "refined": (replace(first, refined=first.refined[:1]), "refined"),
        "detected": (replace(first, detected=first.detected[:1]), "detected"),
        "kept twice": (replace(first, kept=np.array([1, 1])), "kept"),
        "kept beyond": (replace(first, kept=np.array([1, 7])), "kept"),
        "known beyond": (replace(first, dropped_known=np.array([0])), "dropped_known"),
        "people": (replace(first, people=first.people[:1]), "people after"),
    }
    out = [(k, LoopResult(people, (p, second), "passes"), why) for k, (p, why) in wrong.items()]
    return [*out, ("result", LoopResult(people[:1], good.passes, "passes"), "in the result")]


@pytest.mark.parametrize(("result", "why"), [b[1:] for b in broken()], ids=[b[0] for b in broken()])
def test_passes_that_do_not_follow_from_each_other_are_refused(result: LoopResult, why: str) -> None:
    with pytest.raises(InputError, match=why):
        bl.draw_loop(photo(), result)


def test_what_is_no_run_of_this_photo_is_refused(usual: LoopDrawing) -> None:
    for image, result in ((photo((50, 50)), usual.result), (photo(), usual.result.people)):
        with pytest.raises(BodyloopError):
            bl.draw_loop(image, result)  # type: ignore[arg-type]
    for pass_number, station in ((0, "seen"), (3, "refined"), (1, "elsewhere")):
        with pytest.raises(InputError, match="has no"):
            usual.show(pass_number, station)
    for side in (0, -3, 1.5):
        with pytest.raises(InputError):
            usual.sheet(side)  # type: ignore[arg-type]


def test_muted_people_are_grey_and_below() -> None:
    mask = Masks.from_bitmaps([np.ones((40, 40), bool)] * 2, (40, 40))
    two = People((40, 40), masks=mask)
    grey = np.full((40, 40, 3), 128, np.uint8)
    solid = Style(mask_alpha=1)
    top = [
        tuple(bl.draw(grey, two, labels=False, muted=m, style=solid).pixels[20, 20].tolist())
        for m in ((), [0], [1], [0, 1])
    ]
    assert top == [
        palette.PEOPLE[0].middle,
        palette.PEOPLE[1].middle,
        palette.PEOPLE[0].middle,
        palette.GREY.middle,
    ]
    with pytest.raises(InputError, match="muted person 2"):
        bl.draw(grey, two, muted=[2])
