"""The stations of the loop as pictures: what each step of a pass saw and did, drawn on the photo.

Everybody keeps the colour and number that they have in the result, at every station; who does not count (poses
that are taken, people that give way) is grey.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bodyloop.drawing import palette, shapes
from bodyloop.drawing.canvas import Canvas, Shape, Sheet
from bodyloop.drawing.loop_story import Chapter, poses_of
from bodyloop.drawing.picture import Picture
from bodyloop.drawing.scene import draw
from bodyloop.drawing.style import Style
from bodyloop.drawing.text import MIN_TEXT, stamp, stencil
from bodyloop.images import Image
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.roles import Prompt


@dataclass(frozen=True, eq=False)
class Stage:
    """The photo that the stations of a run are drawn on, at ``scale`` px a px of the photo."""

    image: Image
    scale: float
    style: Style

    def show(self, chapter: Chapter, key: str) -> Picture:
        """A station as picture, always of the photo's size times the scale."""
        return _PAINTERS[key](self, chapter)

    def _draw(
        self,
        people: People,
        labels: Sequence[str],
        *,
        on: Image | None = None,
        boxes: bool = False,
        masks: bool = False,
        skeleton: bool = False,
        muted: Iterable[int] = (),
        style: Style | None = None,
    ) -> Picture:
        return draw(
            self.image if on is None else on, people, canvas="photo", scale=self.scale, labels=labels,
            boxes=boxes, masks=masks, skeleton=skeleton, muted=tuple(muted), style=style or self.style,
        )  # fmt: skip

    def _seen(self, chapter: Chapter) -> Image:
        """The picture as the detector gets it."""
        hidden = chapter.record.masked_out
        if not hidden.present.any():
            return self.image
        pixels = self.image.pixels.copy()
        pixels[hidden.union()] = 0
        return Image(pixels)

    def _paint_seen(self, chapter: Chapter) -> Picture:
        return self._draw(People.empty(self.image.size), [], on=self._seen(chapter))

    def _paint_found(self, chapter: Chapter) -> Picture:
        numbers, found = chapter.found_numbers(), chapter.record.detected
        labels = [_label(n, s) for n, s in zip(numbers, _column(found.scores, len(found)), strict=True)]
        gone = [i for i, n in enumerate(numbers) if n is None]
        people = _numbered(found, numbers)
        return self._draw(people, labels, on=self._seen(chapter), boxes=True, masks=True, muted=gone)

    def _paint_posed(self, chapter: Chapter) -> Picture:
        numbers = chapter.found_numbers()
        labels = [_label(n) for n in numbers]
        gone = [i for i, n in enumerate(numbers) if n is None]
        return self._draw(_numbered(chapter.record.posed, numbers), labels, skeleton=True, muted=gone)

    def _paint_judged(self, chapter: Chapter) -> Picture:
        known = _numbered(poses_of(chapter.known), chapter.numbers)
        posed = _numbered(poses_of(chapter.record.posed), chapter.found_numbers())
        labels = [_label(n) for n in (*chapter.numbers, *chapter.found_numbers())]
        muted = []
        for offset, dropped in ((0, chapter.lost), (len(known), chapter.doubles)):
            for d in dropped:
                muted.append(offset + d.row)
                like = "dropped" if d.like is None else f"= {d.like}  {d.oks:.2f}"
                labels[offset + d.row] = like
        people = People.concat([known, posed]) if len(known) else posed
        return self._draw(people, labels, skeleton=True, muted=muted)

    def _paint_prompted(self, chapter: Chapter) -> Picture:
        p, size = chapter.record, self.image.size
        boxes = np.full((len(p.prompts), 4), np.nan, np.float32)
        masks: list[Masks] = []
        for i, prompt in enumerate(p.prompts):
            if prompt is not None and prompt.box is not None:
                boxes[i] = prompt.box
            masks.append(
                prompt.mask if prompt is not None and prompt.mask is not None else Masks.empty(1, size)
            )
        unsent = [i for i, prompt in enumerate(p.prompts) if prompt is None]
        asked = _numbered(poses_of(p.refined), chapter.new).replace(boxes=boxes, masks=Masks.concat(masks))
        pale = replace(self.style, mask_alpha=0.6 * self.style.mask_alpha, line=0.6 * self.style.line)
        labels = [f"{n}  not sent" if i in unsent else _label(n) for i, n in enumerate(chapter.new)]
        picture = self._draw(asked, labels, boxes=True, masks=True, muted=unsent, style=pale)
        return self._points(picture, list(zip(chapter.new, p.prompts, strict=True)))

    def _points(self, picture: Picture, prompts: Sequence[tuple[int, Prompt | None]]) -> Picture:
        """Prompt points with their rank, the first on top: filled on the person, hollow on somebody else."""
        on_photo = Sheet(self.image.size, self.scale)
        canvas = Canvas(picture.pixels, Sheet(picture.size))
        size = max(MIN_TEXT, round(0.02 * float(np.sqrt(picture.size[0] * picture.size[1]))))
        for number, prompt in reversed(prompts):
            if prompt is None:
                continue
            colour = palette.of_person(number).middle
            at, labels = on_photo.place(prompt.points), prompt.labels.tolist()
            for i in range(len(at) - 1, -1, -1):
                word = stencil(str(i + 1) if labels[i] else "–", size)
                _mark(canvas, at[i], 0.62 * size, colour, word, filled=bool(labels[i]))
        return Picture(canvas.pixels, scale=self.scale)

    def _paint_refined(self, chapter: Chapter) -> Picture:
        people = chapter.record.refined
        scores = _column(people.mask_scores, len(people))
        labels = [_label(n, s) for n, s in zip(chapter.new, scores, strict=True)]
        return self._draw(_numbered(people, chapter.new), labels, masks=True)

    def _paint_known(self, chapter: Chapter) -> Picture:
        people = _numbered(chapter.record.people, chapter.after)
        return self._draw(people, [_label(n) for n in chapter.after], masks=True, skeleton=True)


_PAINTERS: dict[str, Callable[[Stage, Chapter], Picture]] = {
    "seen": Stage._paint_seen,
    "found": Stage._paint_found,
    "posed": Stage._paint_posed,
    "judged": Stage._paint_judged,
    "prompted": Stage._paint_prompted,
    "refined": Stage._paint_refined,
    "known": Stage._paint_known,
}


def _numbered(people: People, numbers: Sequence[int | None]) -> People:
    """The people in the colours of their numbers."""
    tracks = np.array([-1 if n is None else n for n in numbers], np.int64)
    return people.replace(track_ids=tracks)


def _column(values: npt.NDArray[np.floating] | None, n: int) -> list[float]:
    return [float("nan")] * n if values is None else [float(v) for v in values]


def _label(number: int | None, score: float = float("nan")) -> str:
    parts = ["" if number is None else str(number), f"{score:.2f}" if np.isfinite(score) else ""]
    return "  ".join(p for p in parts if p)


def _mark(
    canvas: Canvas,
    at: npt.NDArray[np.float64],
    radius: float,
    colour: palette.RGB,
    word: npt.NDArray[np.uint8],
    *,
    filled: bool,
) -> None:
    halo: list[Shape] = [shapes.disc(at, radius + 2.2)]
    canvas.paint(halo, palette.INK, 0.55)
    canvas.paint([shapes.disc(at, radius + 1.2)], palette.WHITE if filled else colour)
    canvas.paint([shapes.disc(at, radius)], colour if filled else palette.INK)
    light = filled and sum(colour) > 380
    x, y = round(at[0] - word.shape[1] / 2), round(at[1] - word.shape[0] / 2)
    stamp(canvas, word, x, y, palette.INK if light else palette.WHITE)
