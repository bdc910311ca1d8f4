"""`draw`: people over their photo. What is shown is chosen here; how it looks stands in `style` and `figure`.

Layers from bottom to top: photo, heat of maps, masks, windows, regions and ellipses, boxes, skeletons, words.
The sheet grows beyond the photo when something that is shown lies outside of it, and a line marks where the
photo ends; with nothing outside, the picture has the photo's size. The first person lies on top.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from bodyloop.drawing import fields, palette, shapes
from bodyloop.drawing.canvas import Canvas, Points, Shape, Sheet, Stroke
from bodyloop.drawing.figure import Figure, Look, line_width, looks
from bodyloop.drawing.picture import Picture
from bodyloop.drawing.style import Style
from bodyloop.drawing.text import Plates, beside
from bodyloop.errors import InputError
from bodyloop.images import Image, Order, as_image
from bodyloop.people import People

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

MAX_SHEET = 400_000_000  # px of a drawing; more is a slip in ``scale``
VALUES = ("name", "presence", "visibility", "quality", "score")


def draw(
    image: Image | str | os.PathLike[str] | npt.NDArray[np.generic] | PillowImage,
    people: People,
    *,
    skeleton: bool = True,
    masks: bool = True,
    boxes: bool | None = None,
    windows: bool = False,
    maps: bool = False,
    regions: bool = False,
    ellipses: bool = False,
    mass: Sequence[float] = (0.5, 0.95),
    keypoints: str | int | Sequence[str | int] | None = None,
    labels: bool | Sequence[str] | None = None,
    values: str | Sequence[str] | None = None,
    muted: Sequence[int] = (),
    canvas: Literal["grow", "photo"] = "grow",
    scale: float = 1.0,
    style: Style | None = None,
    order: Order = "rgb",
) -> Picture:
    """People drawn over their photo. Everything that is known and asked for is drawn; nothing is filtered.

    Args:
        image: the photo, as path, uint8 array (H, W, 3) in ``order``, Pillow image or `Image`.
        people: N people with the photo's ``image_size``; to draw fewer, index them first.
        skeleton: joints and limbs: filled where certain, hollow where hidden, broken and dashed where absent.
        masks: tint and outline.
        boxes: None draws them only where people have neither keypoints nor masks.
        windows: the activation windows that presence speaks of, dashed.
        maps: probability maps as heat over the muted photo.
        regions: the smallest regions that hold each of ``mass`` of the maps.
        ellipses: ellipses by the maps' mean and covariance that hold each of ``mass`` of a normal
        keypoints: the keypoints that maps, regions, ellipses and values speak of, by name or number; all by
            default. The skeleton is always whole.
        labels: index (or "#" and track) and score of each person; None only with several people; or N texts.
        values: what to write beside each of ``keypoints``: any of "name", "presence", "visibility",
            "quality", "score".
        muted: numbers of the people that are drawn in grey, below the others.
        canvas: "grow" makes the picture larger where something lies outside the photo; "photo" keeps the
            photo's size and points at it with arrow heads.
        scale: px of the picture per px of the photo; 2 draws on the photo at twice its size.
        style: looks; see `Style`.

    Returns:
        The picture; its ``origin`` says where the photo's corner came to lie.

    Raises:
        InputError: people of another picture size, something asked for by a wrong name, maps, regions or
            ellipses of people without maps.
    """
    photo = as_image(image, order)
    what = Elements(
        skeleton,
        masks,
        windows,
        maps,
        regions,
        ellipses,
        tuple(mass),
        boxes,
        canvas == "grow",
        style or Style(),
        frozenset(int(i) for i in muted),
    )
    _check(photo, people, what, canvas, scale)
    chosen = _chosen(people, keypoints)
    texts, fields_of = _labels(people, labels), _value_names(people, values)
    scene = _Scene(photo, people, what, chosen, scale)
    scene.paint()
    joints = [f.points[f.looks >= 0] for f in scene.figures] if skeleton else []
    plates = Plates(scene.canvas, np.concatenate(joints) if joints else None)
    scene.label_people(plates, texts)
    scene.label_keypoints(plates, fields_of)
    return Picture(scene.canvas.pixels, scene.sheet.margins[:2], float(scale))


@dataclass(frozen=True)
class Elements:
    """What is drawn."""

    skeleton: bool
    masks: bool
    windows: bool
    maps: bool
    regions: bool
    ellipses: bool
    mass: tuple[float, ...]
    boxes: bool | None
    grow: bool
    style: Style
    muted: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False)
class _Contour:
    """The outlines of one region or ellipse in image px and how they look."""

    loops: list[Points]
    colour: palette.RGB
    fill: float
    dashed: bool


class _Scene:
    """One drawing in the making: people on the sheet, and the layers that are painted in order."""

    def __init__(
        self, photo: Image, people: People, what: Elements, chosen: Sequence[int], scale: float
    ) -> None:
        self.people, self.what, self.chosen = people, what, chosen
        self.sheet = Sheet(photo.size, scale)
        tracks = people.track_ids
        numbers = [int(i if tracks is None or tracks[i] < 0 else tracks[i]) for i in range(len(people))]
        self.numbers = numbers
        sided = what.style.colour_by == "side"
        hues = [palette.GREY if i in what.muted else palette.of_person(n) for i, n in enumerate(numbers)]
        self.colours = [palette.SIDES if sided and c is not palette.GREY else c for c in hues]
        self.hues = [c.middle for c in hues]
        self.upwards = sorted(range(len(people) - 1, -1, -1), key=lambda i: i not in what.muted)
        self.widths = [
            line_width(_extent(people, i) * scale, self.sheet.scaled, what.style.line)
            for i in range(len(people))
        ]
        self.boxes = (
            what.boxes if what.boxes is not None else people.keypoints is None and people.masks is None
        )
        self.contours = self._contours()
        if what.grow:
            self.sheet = replace(self.sheet, margins=self._margins())
        self.canvas = Canvas(photo.pixels, self.sheet)
        self.figures = [self._figure(i) for i in range(len(people))] if people.keypoints is not None else []

    # the sheet

    def _contours(self) -> list[list[_Contour]]:
        """Per person: regions and ellipses, the wide ones first."""
        out: list[list[_Contour]] = [[] for _ in range(len(self.people))]
        maps, what = self.people.maps, self.what
        if maps is None or not (what.regions or what.ellipses):
            return out
        for i, mine in enumerate(out):
            absent, colours = self._absent(i), self._keypoint_colours(i, maps.keypoint_count)
            for m in sorted(what.mass, reverse=True):
                for k in self.chosen:
                    fill = 0.08 + 0.2 * (1 - m)
                    if what.regions:
                        loops = fields.region(maps, i, k, m)
                        mine.append(_Contour(loops, colours[k], fill, bool(absent[k])))
                    if what.ellipses:
                        loops = fields.ellipse(maps, i, k, m)
                        mine.append(_Contour(loops, colours[k], fill, bool(absent[k])))
        return out

    def _keypoint_colours(self, i: int, count: int) -> list[palette.RGB]:
        skeleton = self.people.skeleton
        if skeleton is None:
            return [self.colours[i].middle] * count
        return palette.of_keypoints(skeleton.keypoints, self.colours[i])

    def _absent(self, i: int) -> npt.NDArray[np.bool_]:
        presence = self.people.presence
        if presence is None:
            return np.zeros(max(self.chosen, default=0) + 1, bool)
        return np.asarray(presence[i] < self.what.style.presence_at)

    def _margins(self) -> tuple[int, int, int, int]:
        """How far the sheet must grow to each side, within the style's reach."""
        w, h = self.sheet.scaled
        low, high = np.zeros(2), np.zeros(2)
        for points, pad in self._shown():
            p = self.sheet.place(points).reshape(-1, 2)
            p = p[np.isfinite(p).all(axis=1)]
            over = (
                np.maximum(-0.5 - p, 0).max(axis=0, initial=0),
                np.maximum(p - (w - 0.5, h - 0.5), 0).max(axis=0, initial=0),
            )
            low = np.maximum(low, np.where(over[0] > 0, over[0] + pad, 0))
            high = np.maximum(high, np.where(over[1] > 0, over[1] + pad, 0))
        most = self.what.style.reach * max(w, h)
        margins = np.ceil(np.minimum(np.concatenate([low, high]), most))
        room = MAX_SHEET
        while (w + margins[0] + margins[2]) * (h + margins[1] + margins[3]) > room and margins.any():
            margins = np.floor(margins / 2)
        left, top, right, bottom = (int(m) for m in margins)
        return left, top, right, bottom

    def _shown(self) -> list[tuple[npt.NDArray[np.floating], float]]:
        """Points in image px that the sheet should hold, each with the room its mark needs in sheet px."""
        p, what = self.people, self.what
        out: list[tuple[npt.NDArray[np.floating], float]] = []
        for i in range(len(p)):
            width = self.widths[i]
            if what.skeleton and p.keypoints is not None:
                out.append((p.keypoints[i], 3.5 * width + 2))
            if self.boxes and p.boxes is not None:
                out.append((p.boxes[i].reshape(2, 2), width + 2))
            if what.windows and p.windows is not None:
                out.append((p.windows[i].reshape(2, 2), width + 2))
            if what.maps and p.maps is not None:
                out.append((fields.extent(p.maps, i, self.chosen), 2))
            out.extend((loop, width + 2) for contour in self.contours[i] for loop in contour.loops)
        return out

    def _figure(self, i: int) -> Figure:
        p, style = self.people, self.what.style
        assert p.keypoints is not None
        scores = p.keypoint_scores
        look = looks(
            p.keypoints[i],
            None if p.presence is None else p.presence[i],
            None if p.visibility is None else p.visibility[i],
            None if scores is None else scores[i],
            presence_at=style.presence_at,
            visibility_at=style.visibility_at,
            score_at=style.score_at,
        )
        points, beyond = _held(self.sheet, self.sheet.place(p.keypoints[i]), 2.6 * self.widths[i] + 2)
        colours = self._keypoint_colours(i, len(points))
        links = p.skeleton.links if p.skeleton is not None else ()
        return Figure(points, look, colours, links, self.widths[i], beyond)

    # the layers

    def paint(self) -> None:
        """Everything but the words."""
        canvas, what = self.canvas, self.what
        canvas.frame(max(1, round(0.0035 * max(self.sheet.scaled))))
        upwards = self.upwards
        if what.maps and self.people.maps is not None:
            canvas.mute(what.style.mute)
            fields.heat(canvas, self.people.maps, upwards, self.chosen, what.style.map_alpha)
        for i in upwards:
            if what.masks:
                self._mask(i)
        for i in upwards:
            if what.windows and self.people.windows is not None:
                self._rectangle(i, self.people.windows[i], dashed=True)
            for c in self.contours[i]:
                loops = [self.sheet.place(loop) for loop in c.loops]
                fields.outline(canvas, loops, c.colour, 0.65 * self.widths[i], fill=c.fill, dashed=c.dashed)
            if self.boxes and self.people.boxes is not None:
                self._rectangle(i, self.people.boxes[i], dashed=False)
        if what.skeleton:
            for i in upwards if self.figures else ():
                self.figures[i].draw(canvas)

    def _mask(self, i: int) -> None:
        import cv2

        masks = self.people.masks
        if masks is None or not masks.present[i]:
            return
        x, y, cut = masks.cut(i)
        found = cv2.findContours(cut.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)[-2]
        contours = [
            self.sheet.place(np.asarray(c, np.float64).reshape(-1, 2) + np.array([x, y])) for c in found
        ]
        alpha = self.what.style.mask_alpha
        fields.outline(self.canvas, contours, self.hues[i], 0.8 * self.widths[i], fill=alpha, dashed=False)

    def _rectangle(self, i: int, box: npt.NDArray[np.floating], *, dashed: bool) -> None:
        if not np.isfinite(box).all():
            return
        corners = self.sheet.place(box.reshape(2, 2).astype(np.float64))
        inset = 0.4 * self.widths[i]
        corners = np.clip(corners, inset, np.array(self.sheet.size) - 1 - inset)
        low, high = corners.min(axis=0), corners.max(axis=0)
        contour = shapes.rectangle(low, high, 1.6 * self.widths[i])
        radius = max(0.5, 0.28 * self.widths[i])
        rim = max(0.5, 0.14 * self.widths[i])
        line: list[Shape] = [Stroke(contour, radius, closed=True)]
        halo: list[Shape] = [Stroke(contour, radius + rim, closed=True)]
        if dashed:
            dash, gap = max(3.0, 2.2 * self.widths[i]), max(3.0, 1.6 * self.widths[i])
            line = shapes.dashes(contour, radius, dash, gap, closed=True)
            halo = shapes.dashes(contour, radius + rim, dash, gap, closed=True)
        self.canvas.paint(halo, palette.INK, 0.45)
        self.canvas.paint(line, self.hues[i])

    # words

    def label_people(self, plates: Plates, texts: Sequence[str]) -> None:
        """A plate at each person's head."""
        for i, text in enumerate(texts):
            low, high = self._bounds(i)
            x = low[0] if self.boxes else (low[0] + high[0]) / 2
            ax = 0.0 if self.boxes else 0.5
            spots = [
                (x, low[1], ax, 1.0),
                (x, low[1], ax, 0.0),
                (high[0], low[1], 1.0, 1.0),
                (x, high[1], ax, 0.0),
            ]
            plates.add(text, spots, self._text_size(i), self.hues[i])

    def label_keypoints(self, plates: Plates, names: Sequence[str]) -> None:
        """A smaller plate beside each chosen keypoint."""
        if not names:
            return
        for i, figure in enumerate(self.figures):
            here = figure.points[figure.looks == Look.CERTAIN]
            centre = here.mean(axis=0) if len(here) else np.array(self.sheet.size) / 2
            for k in self.chosen:
                if figure.looks[k] >= 0:
                    p = figure.points[k]
                    spots = beside(p, 2.2 * figure.width + 2, p - centre)
                    plates.add(self._value(i, k, names), spots, 0.85 * self._text_size(i), figure.colours[k])

    def _text_size(self, i: int) -> float:
        return 2.7 * self.widths[i] / self.what.style.line * self.what.style.text

    def _value(self, i: int, k: int, names: Sequence[str]) -> str:
        p = self.people
        columns = {
            "presence": p.presence,
            "visibility": p.visibility,
            "quality": p.quality,
            "score": p.keypoint_scores,
        }
        numbers = [n for n in names if n != "name"]
        words = []
        for name in names:
            column = columns.get(name)
            if name == "name":
                words.append(p.skeleton.keypoints[k].replace("_", " ") if p.skeleton is not None else f"{k}")
            elif column is None or not np.isfinite(column[i, k]):
                words.append("–")
            else:
                number = float(column[i, k])
                shown = f"{100 * number:.0f} %" if name in ("presence", "visibility") else f"{number:.2f}"
                words.append(f"{name} {shown}" if len(numbers) > 1 else shown)
        return "  ".join(words)

    def _bounds(self, i: int) -> tuple[Points, Points]:
        """Lowest and highest corner of a person on the sheet."""
        box = _box(self.people, i)
        width, height = self.sheet.size
        if box is None:
            return np.zeros(2), np.array([width, 0.0])
        corners = np.clip(self.sheet.place(box.reshape(2, 2)), 0, (width, height))
        grown = 0.0 if self.people.boxes is not None else 2.5 * self.widths[i]
        return corners.min(axis=0) - grown, corners.max(axis=0) + grown


def _box(people: People, i: int) -> npt.NDArray[np.float64] | None:
    """(4,) image px: a person's box, else around its mask, else around its keypoints."""
    if people.boxes is not None and np.isfinite(people.boxes[i]).all():
        return np.asarray(people.boxes[i], np.float64)
    if people.masks is not None and people.masks.present[i]:
        return np.asarray(people.masks[i].boxes[0], np.float64)
    if people.keypoints is not None:
        p = people.keypoints[i].astype(np.float64)
        p = p[np.isfinite(p).all(axis=1)]
        if len(p):
            return np.concatenate([p.min(axis=0), p.max(axis=0)])
    return None


def _extent(people: People, i: int) -> float:
    """A person's longer side in image px, as far as it is in the photo; of middling size where unknown."""
    unknown = 0.4 * max(people.image_size)
    box = _box(people, i)
    if box is None:
        return unknown
    inside = np.clip(box, 0, [*people.image_size, *people.image_size])
    longer = float(max(abs(inside[2] - inside[0]), abs(inside[3] - inside[1])))
    return longer if longer >= 2 else unknown


def _held(sheet: Sheet, points: Points, inset: float) -> tuple[Points, Points]:
    """Points moved onto the sheet where they lie beyond it, and the way (K, 2) from there to them."""
    size = np.array(sheet.size, np.float64)
    inset = min(inset, float(size.min()) / 4)
    outside = np.any((points < -0.5) | (points > size - 0.5), axis=1, keepdims=True)
    held = np.where(outside, np.clip(points, inset, size - 1 - inset), points)
    return held, np.where(outside, np.clip(points - held, -1e6, 1e6), 0.0)


# checks of what was asked for


def _check(photo: Image, people: People, what: Elements, canvas: str, scale: float) -> None:
    if not isinstance(people, People):
        raise InputError(f"draw: people must be a People, got {type(people).__name__}")
    if people.image_size != photo.size:
        raise InputError(
            f"draw: the people are of a picture of size {people.image_size}, the image is {photo.size} (w, h)"
        )
    if canvas not in ("grow", "photo"):
        raise InputError(f"draw: canvas must be 'grow' or 'photo', got {canvas!r}")
    if not isinstance(scale, int | float) or not 0 < scale < np.inf:
        raise InputError(f"draw: scale must be a positive number, got {scale!r}")
    if photo.size[0] * photo.size[1] * scale**2 > MAX_SHEET:
        raise InputError(f"draw: scale {scale} makes more than {MAX_SHEET} px of a picture of {photo.size}")
    strangers = [i for i in what.muted if not 0 <= i < len(people)]
    if strangers:
        raise InputError(f"draw: muted person {strangers[0]} of {len(people)} people")
    bad = [m for m in what.mass if not 0 < m < 1]
    if bad:
        raise InputError(f"draw: mass must lie between 0 and 1, got {bad[0]!r}")
    if people.maps is None and len(people) and (what.maps or what.regions or what.ellipses):
        asked = next(n for n in ("maps", "regions", "ellipses") if getattr(what, n))
        raise InputError(f"draw: {asked}=True, but these people have no maps; predict them with maps=True")


def _chosen(people: People, keypoints: str | int | Sequence[str | int] | None) -> list[int]:
    """Numbers of the keypoints asked for."""
    if people.keypoints is not None:
        count = people.keypoints.shape[1]
    else:
        count = people.maps.keypoint_count if people.maps is not None else 0
    if keypoints is None:
        return list(range(count))
    asked = [keypoints] if isinstance(keypoints, str | int | np.integer) else list(keypoints)
    found = [people.keypoint_index(k) for k in asked]
    for k in found:
        if not 0 <= k < count:
            raise InputError(f"draw: keypoint {k} asked for, these people have {count}")
    return found


def _labels(people: People, labels: bool | Sequence[str] | None) -> list[str]:
    if labels is False or (labels is None and len(people) < 2):
        return []
    if labels is None or labels is True:
        tracks, scores = people.track_ids, people.scores
        names = [str(i) if tracks is None or tracks[i] < 0 else f"#{tracks[i]}" for i in range(len(people))]
        if scores is None:
            return names
        return [n if not np.isfinite(s) else f"{n}  {s:.2f}" for n, s in zip(names, scores, strict=True)]
    texts = [str(t) for t in labels] if not isinstance(labels, str) else [labels]
    if len(texts) != len(people):
        raise InputError(f"draw: {len(texts)} labels for {len(people)} people")
    return texts


def _value_names(people: People, values: str | Sequence[str] | None) -> list[str]:
    names = [] if values is None else [values] if isinstance(values, str) else list(values)
    for name in names:
        if name not in VALUES:
            raise InputError(f"draw: values must be among {', '.join(VALUES)}; got {name!r}")
    return names
