"""Several pictures together: contact sheets and strips with captions.

Pictures come as `Picture`, `Image` or uint8 RGB arrays. On a sheet they are shrunk to a common cell and never
enlarged (a strip brings them to one height). `aligned` lays them on each other by the photo's corner, however
their sheets have grown: what moving pictures are made of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from bodyloop.drawing.canvas import Canvas, Sheet
from bodyloop.drawing.palette import PAPER, PAPER_INK, RGB, WHITE
from bodyloop.drawing.picture import Picture
from bodyloop.drawing.text import MIN_TEXT, clean, stamp, stencil
from bodyloop.errors import InputError
from bodyloop.images import Image, as_image

Pixels = npt.NDArray[np.uint8]
Like = Picture | Image | npt.NDArray[np.uint8]

CELL = 480  # px: longer side of a picture on a sheet unless told otherwise
MAX_SIDE = 20_000  # px of a cell or strip


def contact_sheet(
    pictures: Sequence[Like],
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    *,
    cell: int | None = None,
    title: str | None = None,
) -> Picture:
    """Pictures in rows of ``columns``, each with its caption below.

    Args:
        pictures: at least one; any sizes.
        columns: pictures a row; by default such that the sheet is somewhat wider than high.
        captions: one text a picture ("" for none); long ones are broken into lines.
        cell: px that a picture's longer side may have; `CELL` by default.
        title: a line above the sheet.

    Raises:
        InputError: no pictures, another count of captions, or numbers out of range.
    """
    shown = [_pixels(p) for p in some_of(pictures)]
    side = whole("cell", CELL if cell is None else cell, MAX_SIDE)
    count = (
        whole("columns", columns, 1000) if columns is not None else max(1, round(math.sqrt(1.4 * len(shown))))
    )
    small = [shrunk(p, min(1.0, side / max(p.shape[:2]))) for p in shown]
    return _arrange(small, min(count, len(small)), _texts(captions, len(small)), title)


def strip(
    pictures: Sequence[Like],
    captions: Sequence[str] | None = None,
    *,
    height: int | None = None,
    title: str | None = None,
    align: Literal["height", "photo"] = "height",
) -> Picture:
    """Pictures in one row, all of the same height.

    Args:
        pictures, captions, title: as in `contact_sheet`.
        height: px; by default the lowest picture's, at most `CELL`.
        align: "height" scales each picture on its own; "photo" keeps their sizes to each other and lays the
            photos' corners on one line, which shows what was cropped.

    Raises:
        InputError: as `contact_sheet`.
    """
    if align not in ("height", "photo"):
        raise InputError(f"strip: align must be 'height' or 'photo', got {align!r}")
    some = some_of(pictures)
    shown = aligned(some, None, WHITE) if align == "photo" else [_pixels(p) for p in some]
    wanted = whole(
        "height", min(CELL, min(p.shape[0] for p in shown)) if height is None else height, MAX_SIDE
    )
    same = [shrunk(p, wanted / p.shape[0]) for p in shown]
    return _arrange(same, len(same), _texts(captions, len(same)), title)


def some_of(pictures: Sequence[Like]) -> Sequence[Like]:
    if isinstance(pictures, Picture | Image | np.ndarray | str) or not len(pictures):
        raise InputError("give a list with at least one picture")
    return pictures


def _pixels(picture: Like) -> Pixels:
    return picture.pixels if isinstance(picture, Picture) else as_image(picture).pixels


def whole(what: str, value: int, top: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= top:
        raise InputError(f"{what} must be a whole number in 1..{top}, got {value!r}")
    return int(value)


def _texts(captions: Sequence[str] | None, count: int) -> list[str]:
    if captions is None:
        return [""] * count
    texts = [captions] if isinstance(captions, str) else [str(c) for c in captions]
    if len(texts) != count:
        raise InputError(f"{len(texts)} captions for {count} pictures")
    return [clean(t) for t in texts]


def shrunk(pixels: Pixels, factor: float) -> Pixels:
    import cv2

    size = max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor))
    if size == (pixels.shape[1], pixels.shape[0]):
        return pixels
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, size, interpolation=how), np.uint8)


def _arrange(pictures: list[Pixels], columns: int, texts: list[str], title: str | None) -> Picture:
    """Cells in rows: a row is as high as its highest picture and its longest caption."""
    widths = [max(p.shape[1] for p in pictures[c::columns]) for c in range(columns)]
    gap = max(6, round(0.035 * float(np.mean(widths))))
    size = int(np.clip(round(0.042 * float(np.mean(widths))), 11, 64))
    rows = [list(range(i, min(i + columns, len(pictures)))) for i in range(0, len(pictures), columns)]
    wrapped = [_wrap(t, size, widths[i % columns]) for i, t in enumerate(texts)]
    line = round(1.35 * size)
    picture_heights = [max(pictures[i].shape[0] for i in row) for row in rows]
    word_heights = [
        max(len(wrapped[i]) for i in row) * line + (gap // 2 if any(texts[i] for i in row) else 0)
        for row in rows
    ]
    big = max(MIN_TEXT, round(1.35 * size))
    top = gap + (round(1.6 * big) + gap // 2 if title else 0)
    height = top + sum(picture_heights) + sum(word_heights) + gap * len(rows)
    blank = np.full((height, sum(widths) + gap * (columns + 1), 3), WHITE, np.uint8)
    canvas = Canvas(blank, Sheet((blank.shape[1], blank.shape[0])))
    if title:
        stamp(canvas, stencil(clean(title), big), gap, gap, PAPER_INK)
    y = top
    for row, tall, words in zip(rows, picture_heights, word_heights, strict=True):
        x = gap
        for i in row:
            p, wide = pictures[i], widths[i % columns]
            px, py = x + (wide - p.shape[1]) // 2, y + (tall - p.shape[0]) // 2
            canvas.pixels[py : py + p.shape[0], px : px + p.shape[1]] = p
            for n, text in enumerate(wrapped[i]):
                word = stencil(text, size)
                stamp(
                    canvas, word, x + (wide - word.shape[1]) // 2, y + tall + gap // 2 + n * line, PAPER_INK
                )
            x += wide + gap
        y += tall + words + gap
    return Picture(canvas.pixels)


def _wrap(text: str, size: int, width: int) -> list[str]:
    """The text in lines that fit ``width``; a single word that does not is cut into pieces."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and stencil(joined, size).shape[1] <= width:
            lines[-1] = joined
            continue
        while len(word) > 1 and stencil(word, size).shape[1] > width:
            fits = next(
                (n for n in range(len(word) - 1, 1, -1) if stencil(word[:n], size).shape[1] <= width), 1
            )
            lines.append(word[:fits])
            word = word[fits:]
        lines.append(word)
    return lines


def aligned(pictures: Sequence[Like], width: int | None, blank: RGB = PAPER) -> list[Pixels]:
    """Frames of one size with the photos' corners in the same place."""
    pixels = [_pixels(p) for p in pictures]
    origins = np.array([p.origin if isinstance(p, Picture) else (0, 0) for p in pictures])
    sizes = np.array([(p.shape[1], p.shape[0]) for p in pixels])
    corner = origins.max(axis=0)
    w, h = (corner + (sizes - origins).max(axis=0)).tolist()
    if max(w, h) > MAX_SIDE:
        raise InputError(f"pictures of {w} x {h} px together are too large; give smaller ones")
    out = []
    for p, (x, y) in zip(pixels, corner - origins, strict=True):
        frame = np.full((h, w, 3), blank, np.uint8)
        frame[y : y + p.shape[0], x : x + p.shape[1]] = p
        out.append(frame if width is None or w <= width else shrunk(frame, width / w))
    return out
