"""`draw_loop`: a run of the loop as contact sheet, moving picture or replay, made when it is asked for.

All three walk through the same stations (`loop_story`). The sheet has a row a pass, the moving picture stops at
each station and fades to the next, the replay (`loop_replay`) lets the reader walk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bodyloop.drawing import palette, shapes
from bodyloop.drawing.canvas import Canvas, Shape, Sheet
from bodyloop.drawing.loop_stations import Stage
from bodyloop.drawing.loop_story import STATIONS, Chapter, chapters
from bodyloop.drawing.moving import moving_path, write_moving
from bodyloop.drawing.picture import Picture
from bodyloop.drawing.sheets import CELL, MAX_SIDE, contact_sheet, whole
from bodyloop.drawing.style import Style
from bodyloop.drawing.text import clean, stamp, stencil
from bodyloop.errors import FileError, InputError
from bodyloop.images import Image, Order, as_image
from bodyloop.loop.record import LoopResult

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Pixels = npt.NDArray[np.uint8]

REPLAY = (".html", ".htm")
_STILL = (".png", ".jpg", ".jpeg", ".webp")
_SHOWN, _LAST, _FADE = 1.6, 3.5, 0.4  # seconds of a station, of the last one, and between two
_FADES = {".gif": 2, ".mp4": 8}  # frames of a fade
_SIDE = {".gif": 640, ".mp4": 960}  # px of the photo's longer side, at most twice its own


def draw_loop(
    image: Image | str | os.PathLike[str] | npt.NDArray[np.generic] | PillowImage,
    result: LoopResult,
    *,
    style: Style | None = None,
    order: Order = "rgb",
) -> LoopDrawing:
    """What each pass of the loop saw, found, posed, dropped, prompted and masked.

    >>> bl.draw_loop(image, loop.predict(image, return_intermediates=True)).save("loop.html")  # doctest: +SKIP

    Args:
        image: the photo that the loop ran on, as for `draw`.
        result: of `BodyLoop.predict(..., return_intermediates=True)`.
        style: looks; see `Style`.

    Raises:
        InputError: a result of a picture of another size, or one whose passes do not follow from each other.
    """
    photo = as_image(image, order)
    told = chapters(result)
    if result.people.image_size != photo.size:
        size = result.people.image_size
        raise InputError(
            f"draw_loop: the people are of a picture of size {size}, the image is {photo.size} (w, h)"
        )
    return LoopDrawing(photo, result, tuple(told), style or Style())


@dataclass(frozen=True, eq=False)
class LoopDrawing:
    """What `draw_loop` returns; nothing is drawn before it is asked for.

    Attributes:
        image: the photo.
        result: the run.
        chapters: its passes, with everybody's number.
        style: looks.
    """

    image: Image
    result: LoopResult
    chapters: tuple[Chapter, ...]
    style: Style

    def show(self, pass_number: int, station: str, side: int | None = None) -> Picture:
        """One station of one pass on the photo, whose longer side becomes ``side`` px (as it is, by default).

        Args:
            pass_number: from 1.
            station: "seen", "found", "posed", "judged", "prompted", "refined" or "known".

        Raises:
            InputError: a pass that was not made, or no such station in it.
        """
        chapter = next((c for c in self.chapters if c.record.number == pass_number), None)
        if chapter is None or station not in chapter.stations():
            known = [] if chapter is None else chapter.stations()
            where = f"pass {pass_number} of {len(self.chapters)}"
            raise InputError(f"draw_loop: {where} has no {station!r}; it has {', '.join(known) or 'nothing'}")
        longer = max(self.image.size)
        return self._stage(whole("side", longer if side is None else side, MAX_SIDE) / longer).show(
            chapter, station
        )

    def sheet(self, cell: int = CELL) -> Picture:
        """The contact sheet: a row a pass, a picture of ``cell`` px (longer side) a station.

        Raises:
            InputError: ``cell`` is no whole number from 1 to 20000.
        """
        stage = self._stage(whole("cell", cell, MAX_SIDE) / max(self.image.size))
        pictures: list[Picture] = []
        captions: list[str] = []
        for chapter in self.chapters:
            for key in STATIONS:
                if key in chapter.stations():
                    pictures.append(stage.show(chapter, key))
                    first = f"Pass {chapter.record.number} · " if key == "seen" else ""
                    captions.append(f"{first}{STATIONS[key]}: {chapter.text(key)}")
                else:
                    pictures.append(_BLANK)
                    captions.append("")
        if not pictures:
            return contact_sheet([self.image], captions=["no pass was made"], cell=cell)
        columns = len(STATIONS) if len(self.chapters) > 1 else 4
        return contact_sheet(pictures, columns, captions, cell=cell)

    def html(self, title: str | None = None) -> str:
        """The replay as one self-contained HTML page; ``title`` is the photo's name unless given."""
        from bodyloop.drawing.loop_replay import replay

        return replay(self.image, self.result, self.chapters, self.style, title)

    def save(self, path: str | os.PathLike[str], *, side: int | None = None) -> Path:
        """Write, by the ending, the contact sheet (.png, .jpg, .webp), a moving picture (.gif, .mp4) or the
        replay (.html), whole or not at all, and return the path.

        Args:
            side: px of the photo's longer side; by default 480 on a sheet, in a .gif 640 and in an .mp4 960, but
                at most twice the photo's own.

        Raises:
            FileError: another ending, or the file cannot be written; an older file of that name stays.
            MissingDependency: .mp4 without PyAV.
        """
        from bodyloop.storage import atomic_write

        target = Path(path)
        suffix = target.suffix.lower()
        if suffix in _STILL:
            return self.sheet(CELL if side is None else side).save(target)
        if suffix in _FADES:
            moving = moving_path(target)
            usual = min(_SIDE[suffix], 2 * max(self.image.size))
            longer = whole("side", usual if side is None else side, MAX_SIDE)
            frames, seconds = self._film(longer / max(self.image.size), _FADES[suffix])
            return write_moving(frames, seconds, moving)
        if suffix in REPLAY:
            text = self.html().encode()
            with atomic_write(target) as file:
                file.write(text)
            return target
        known = ", ".join((*_STILL, *_FADES, *REPLAY))
        raise FileError(f"{target}: a run of the loop is saved as {known}; give one of these endings")

    def _repr_png_(self) -> bytes:
        """What notebooks show."""
        return self.sheet(CELL // 2)._repr_png_()

    def _stage(self, scale: float) -> Stage:
        return Stage(self.image, scale, self.style)

    @cached_property
    def _steps(self) -> list[tuple[Chapter, str]]:
        return [(c, key) for c in self.chapters for key in c.stations()]

    def _film(self, scale: float, fades: int) -> tuple[list[Pixels], list[float]]:
        """Frames and how long each is shown: pictures fade, the words below change at once."""
        frames: list[Pixels] = []
        seconds: list[float] = []
        before: Pixels | None = None
        for picture, bar in self._frames(self._stage(scale)):
            for i in range(fades if before is not None else 0):
                assert before is not None
                mixed = before + (picture.astype(np.float32) - before) * np.float32((i + 1) / (fades + 1))
                frames.append(np.concatenate([np.rint(mixed).astype(np.uint8), bar]))
                seconds.append(_FADE / fades)
            frames.append(np.concatenate([picture, bar]))
            seconds.append(_SHOWN)
            before = picture
        seconds[-1] = _LAST
        return frames, seconds

    def _frames(self, stage: Stage) -> Iterator[tuple[Pixels, Pixels]]:
        """For each station the picture, and the bar below that says what happens."""
        if not self._steps:
            bare = Canvas(self.image.pixels, Sheet(self.image.size, stage.scale)).pixels
            yield bare, _bar(bare.shape[1], "", "no pass was made", 0, 0)
        for i, (chapter, key) in enumerate(self._steps):
            pixels = stage.show(chapter, key).pixels
            said = STATIONS[key], f"pass {chapter.record.number}: {chapter.text(key)}"
            yield pixels, _bar(pixels.shape[1], *said, i, len(self._steps))


_BLANK = Picture(np.full((1, 1, 3), palette.WHITE, np.uint8))


def _bar(width: int, title: str, text: str, at: int, steps: int) -> Pixels:
    """The dark bar below a frame: station, sentence, and how far the film is."""
    size = int(np.clip(round(width / 34), 10, 30))
    height = round(3.1 * size)
    canvas = Canvas(np.full((height, width, 3), palette.INK, np.uint8), Sheet((width, height)))
    pad = round(0.7 * size)
    x = pad
    for words, colour in ((title, palette.WHITE), (text, (174, 181, 192))):
        if words:
            word = stencil(clean(words), size)
            stamp(canvas, word, x, round(0.62 * size), colour)
            x += word.shape[1] + round(0.6 * size)
    if steps > 1:
        y = height - 0.65 * size
        line = np.array([[pad, y], [max(pad, width - 1 - pad), y]])
        ends = line[0], line[0] + (line[1] - line[0]) * (at / (steps - 1))
        canvas.paint([shapes.capsule(line[0], line[1], 0.12 * size)], (62, 68, 80))
        done: list[Shape] = [shapes.capsule(*ends, 0.12 * size), shapes.disc(ends[1], 0.3 * size)]
        canvas.paint(done, palette.PEOPLE[0].middle)
    return canvas.pixels
