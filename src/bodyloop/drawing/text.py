"""Words on a drawing: Pillow's own TrueType font on small dark plates, placed where they fit.

Plates are placed greedily: the first of the wished-for corners where the plate lies on the sheet and on no
earlier plate; where none is free, the one that overlaps least. Nothing is left out for want of room.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bodyloop.drawing import shapes
from bodyloop.drawing.canvas import Canvas, Points
from bodyloop.drawing.palette import INK, RGB, WHITE

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

MIN_TEXT = 10  # px: below, the built-in font cannot be read
_LONGEST = 200  # characters of one line


@lru_cache(maxsize=32)
def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def clean(text: str) -> str:
    """One printable line of bounded length."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


@lru_cache(maxsize=512)
def stencil(text: str, size: int) -> npt.NDArray[np.uint8]:
    """(h, w) coverage of one line of text; its height depends on the size only."""
    from PIL import Image, ImageDraw

    font = _font(size)
    left, _, right, _ = font.getbbox(text)
    width = max(1, int(np.ceil(right - min(left, 0))))
    top, bottom = font.getbbox("Égjpqy|")[1::2]
    image = Image.new("L", (width, max(1, int(np.ceil(bottom - top)))), 0)
    ImageDraw.Draw(image).text((-min(left, 0), -top), text, fill=255, font=font)
    out = np.asarray(image, np.uint8)
    out.flags.writeable = False
    return out


class Plates:
    """The plates of one drawing; `add` places and paints one."""

    def __init__(self, canvas: Canvas, avoid: Points | None = None) -> None:
        """Plates on ``canvas`` that keep off the points (M, 2) to ``avoid`` where they can."""
        self._canvas = canvas
        self._avoid = np.zeros((0, 2)) if avoid is None else avoid
        self._taken: list[tuple[float, float, float, float]] = []

    def add(
        self,
        text: str,
        spots: Sequence[tuple[float, float, float, float]],
        size: float,
        chip: RGB | None = None,
    ) -> None:
        """Paint ``text`` at the best spot: (x, y) on the sheet and the plate's own anchor (ax, ay) there."""
        text = clean(text)
        if not text.strip():
            return
        px = max(MIN_TEXT, round(size))
        word = stencil(text, px)
        pad_x, pad_y = 0.42 * px, 0.22 * px
        stripe = 0.42 * px if chip is not None else 0.0
        w, h = word.shape[1] + 2 * pad_x + stripe, word.shape[0] + 2 * pad_y
        x, y = self._place(spots, w, h)
        self._taken.append((x, y, x + w, y + h))
        corner = 0.24 * px
        low, high = np.array([x, y]), np.array([x + w, y + h])
        self._canvas.paint([(shapes.rectangle(low, high, corner),)], INK, 0.78)
        if chip is not None:
            bar = shapes.rectangle(
                low + 0.16 * px, (x + 0.16 * px + stripe * 0.62, y + h - 0.16 * px), corner * 0.6
            )
            self._canvas.paint([(bar,)], chip)
        self._stamp(word, round(x + pad_x + stripe), round(y + pad_y))

    def _place(
        self, spots: Sequence[tuple[float, float, float, float]], w: float, h: float
    ) -> tuple[float, float]:
        width, height = self._canvas.sheet.size
        best, best_cost = (0.0, 0.0), np.inf
        for rank, (px, py, ax, ay) in enumerate(spots):
            wished = (px - ax * w, py - ay * h)
            x = min(max(wished[0], 0.0), max(width - w, 0.0))
            y = min(max(wished[1], 0.0), max(height - h, 0.0))
            moved = abs(x - wished[0]) + abs(y - wished[1])
            hidden = sum(
                max(0.0, min(x + w, b[2]) - max(x, b[0])) * max(0.0, min(y + h, b[3]) - max(y, b[1]))
                for b in self._taken
            )
            on = (self._avoid > (x, y)) & (self._avoid < (x + w, y + h))
            covered = int(np.count_nonzero(on.all(axis=1)))
            cost = 0.7 * covered + hidden / (w * h) * 10 + moved / h + 0.01 * rank
            if cost < best_cost - 1e-9:
                best, best_cost = (x, y), cost
        return best

    def _stamp(self, word: npt.NDArray[np.uint8], x: int, y: int) -> None:
        stamp(self._canvas, word, x, y, WHITE)


def stamp(canvas: Canvas, word: npt.NDArray[np.uint8], x: int, y: int, colour: RGB) -> None:
    """Lay a stencil in one colour over the sheet; what does not fit is cut."""
    width, height = canvas.sheet.size
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + word.shape[1], width), min(y + word.shape[0], height)
    if x1 <= x0 or y1 <= y0:
        return
    part = word[y0 - y : y1 - y, x0 - x : x1 - x]
    colours = np.broadcast_to(np.array(colour, np.uint8), (*part.shape, 3))
    canvas.overlay(colours, part.astype(np.float32) / np.float32(255), (x0, y0))


def beside(
    point: npt.ArrayLike, gap: float, outward: Points | None = None
) -> list[tuple[float, float, float, float]]:
    """Spots for a plate next to a point: first on the side that ``outward`` (2,) points to."""
    x, y = (float(v) for v in np.asarray(point))
    right, left = (x + gap, y, 0.0, 0.5), (x - gap, y, 1.0, 0.5)
    below, above = (x, y + gap, 0.5, 0.0), (x, y - gap, 0.5, 1.0)
    first = [right, left] if outward is None or outward[0] >= 0 else [left, right]
    near = 0.7 * gap
    corners = [(x + i * near, y + j * near, 0.5 - 0.5 * i, 0.5 - 0.5 * j) for j in (-1, 1) for i in (1, -1)]
    away = [(x, y + j * 3 * gap, 0.5, 0.5 - 0.5 * j) for j in (-1, 1)]
    return [*first, below, above, *corners, *away]
