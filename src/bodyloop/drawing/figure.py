"""One person's skeleton: three looks for three kinds of keypoints, limbs that take the look of their ends.

* certain: a filled joint on a solid limb,
* hidden (in the picture, but not seen): a hollow ring on a thin limb,
* absent (probably not in the picture at all): a broken ring on a dashed, pale limb.

A limb is drawn in two halves, each in the colour and look of its own end, so that an arm that leaves the
picture turns from solid to dashed on the way. Sizes follow the person and the picture, and shrink where
joints stand close (faces). A look is never a filter: every keypoint with finite coordinates leaves a mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from bodyloop.drawing import shapes
from bodyloop.drawing.canvas import Canvas, Points, Shape
from bodyloop.drawing.palette import INK, RGB, WHITE


class Look(IntEnum):
    """How a keypoint is drawn."""

    NONE = -1  # not available: no coordinates
    CERTAIN = 0
    HIDDEN = 1
    ABSENT = 2


Column = npt.NDArray[np.floating] | None


def looks(
    points: npt.NDArray[np.floating],
    presence: Column,
    visibility: Column,
    scores: Column,
    *,
    presence_at: float,
    visibility_at: float,
    score_at: float,
) -> npt.NDArray[np.int8]:
    """(K,) Look of each of (K, 2) points by the (K,) columns that there are; NaN in a column says nothing.

    Scores decide only for keypoints of which neither presence nor visibility is known.
    """
    out = np.full(len(points), Look.CERTAIN, np.int8)
    known = np.zeros(len(points), bool)
    if visibility is not None:
        out[visibility < visibility_at] = Look.HIDDEN
        known |= np.isfinite(visibility)
    if presence is not None:
        out[presence < presence_at] = Look.ABSENT
        known |= np.isfinite(presence)
    if scores is not None:
        out[~known & (scores < score_at)] = Look.HIDDEN
    out[~np.isfinite(points).all(axis=-1)] = Look.NONE
    return out


def line_width(extent: float, sheet: tuple[int, int], factor: float = 1.0) -> float:
    """Width of a limb in sheet px for a person ``extent`` px tall or wide on a sheet of that size."""
    base = 0.0072 * float(np.sqrt(sheet[0] * sheet[1]))
    return max(1.3, float(np.clip(0.017 * extent, 0.5 * base, 1.25 * base))) * factor


@dataclass(frozen=True)
class Figure:
    """What is known of one person when it is drawn.

    Attributes:
        points: (K, 2) sheet px, NaN where not available.
        looks: (K,) Look.
        colours: K colours.
        links: pairs of keypoints.
        width: of its limbs, sheet px.
        beyond: (K, 2) the way from ``points`` to keypoints that lie beyond the sheet, zero elsewhere;
            ``points`` then holds the nearest place on the sheet, where an arrow head points out.
    """

    points: Points
    looks: npt.NDArray[np.int8]
    colours: Sequence[RGB]
    links: Sequence[tuple[int, int]]
    width: float
    beyond: Points

    def radii(self) -> npt.NDArray[np.float64]:
        """(K,) radii of the joints: smaller where the next one is close, never below a pixel."""
        r = np.full(len(self.points), 0.95 * self.width)
        for a, b in self._drawn():
            a_to_b = self.points[b] + self.beyond[b] - self.points[a] - self.beyond[a]
            near = 0.3 * float(np.hypot(*a_to_b))
            r[a], r[b] = min(r[a], near), min(r[b], near)
        linked = {k for pair in self.links for k in pair}
        alone = [k for k in range(len(r)) if k not in linked and self.looks[k] >= 0]
        if len(alone) > 1:  # dense clouds without limbs, such as a face's outline
            p = self.points[alone]
            apart = np.hypot(*(p[:, None] - p[None]).transpose(2, 0, 1)) + np.diag(np.full(len(p), np.inf))
            r[alone] = np.minimum(0.6 * self.width, 0.35 * apart.min(axis=1))
        return np.asarray(np.maximum(r, max(1.1, 0.35 * self.width)))

    def draw(self, canvas: Canvas) -> None:
        """Paint pale things first, so that what is certain lies on top."""
        radii = self.radii()
        for look in (Look.ABSENT, Look.HIDDEN, Look.CERTAIN):
            self._limbs(canvas, look, radii)
        for look in (Look.ABSENT, Look.HIDDEN, Look.CERTAIN):
            self._joints(canvas, look, radii)
        self._arrows(canvas)

    def _drawn(self) -> list[tuple[int, int]]:
        return [(a, b) for a, b in self.links if self.looks[a] >= 0 and self.looks[b] >= 0]

    def _limbs(self, canvas: Canvas, look: Look, radii: npt.NDArray[np.float64]) -> None:
        halo: list[Shape] = []
        by_colour: dict[RGB, list[Shape]] = {}
        pairs = self._drawn()
        for a, b in [*pairs, *((b, a) for a, b in pairs)]:
            if self.looks[a] != look:
                continue
            start = self.points[a] + self.beyond[a]
            end = (start + self.points[b] + self.beyond[b]) / 2
            length = float(np.hypot(*(end - start)))
            if length < 0.5:
                continue
            if look != Look.CERTAIN:  # hollow joints stay hollow
                start = start + (end - start) * min(radii[a] / length, 0.9)
            radius = min(0.5 * self.width, 0.12 * length + 0.5)
            kept = shapes.clipped(start, end, -4 * self.width, np.array(canvas.sheet.size) + 4 * self.width)
            if kept is None:
                continue
            start, end = kept
            core, edge = self._limb(look, start, end, radius)
            by_colour.setdefault(self.colours[a], []).extend(core)
            halo.extend(edge)
        canvas.paint(halo, INK, (0.6, 0.55, 0.4)[look])
        for colour, group in by_colour.items():
            canvas.paint(group, colour, (1.0, 0.95, 0.85)[look])

    def _limb(self, look: Look, a: Points, b: Points, radius: float) -> tuple[list[Shape], list[Shape]]:
        rim = max(0.5, 0.14 * self.width)
        if look == Look.CERTAIN:
            return [shapes.capsule(a, b, radius)], [shapes.capsule(a, b, radius + rim)]
        if look == Look.HIDDEN:
            thin = max(0.5, 0.5 * radius)
            return [shapes.capsule(a, b, thin)], [shapes.capsule(a, b, thin + rim)]
        thin = max(0.45, 0.4 * radius)
        line = np.stack([a, b])
        dash, gap = max(2.0, 1.1 * self.width), max(2.5, 1.3 * self.width)
        return (
            shapes.dashes(line, thin, dash, gap),
            shapes.dashes(line, thin + 0.8 * rim, dash, gap),
        )

    def _joints(self, canvas: Canvas, look: Look, radii: npt.NDArray[np.float64]) -> None:
        rim = max(0.5, 0.14 * self.width)
        chosen = np.flatnonzero((self.looks == look) & ~self.beyond.any(axis=1)).tolist()
        halo: list[Shape] = []
        white: list[Shape] = []
        by_colour: dict[RGB, list[Shape]] = {}
        for k in chosen:
            p, r = self.points[k], float(radii[k])
            r = r if look == Look.CERTAIN else max(r, 1.9)  # below, a ring has no hole
            mine = by_colour.setdefault(self.colours[k], [])
            if look == Look.CERTAIN:
                halo.append(shapes.disc(p, r + 2 * rim))
                white.append(shapes.disc(p, r + rim))
                mine.append(shapes.disc(p, r))
            elif look == Look.HIDDEN:
                line = max(0.9, 0.36 * r)
                halo.append(shapes.ring(p, r + line / 2 + rim, r - line / 2 - rim))
                mine.append(shapes.ring(p, r + line / 2, r - line / 2))
            else:
                line = max(0.4, 0.13 * r)
                arc = shapes.circle(p, r)
                step = 2 * np.pi * r / 5
                halo.extend(shapes.dashes(arc, line + 0.5 * rim, 0.45 * step, 0.55 * step, closed=True))
                mine.extend(shapes.dashes(arc, line, 0.45 * step, 0.55 * step, closed=True))
        canvas.paint(halo, INK, (0.6, 0.55, 0.4)[look])
        canvas.paint(white, WHITE)
        for colour, group in by_colour.items():
            canvas.paint(group, colour, (1.0, 1.0, 0.9)[look])

    def _arrows(self, canvas: Canvas) -> None:
        """Arrow heads where a keypoint lies further out than the sheet reaches."""
        rim = max(0.5, 0.14 * self.width)
        size = max(4.0, 2.2 * self.width)
        for k in np.flatnonzero(self.beyond.any(axis=1) & (self.looks >= 0)).tolist():
            way = self.beyond[k] / np.hypot(*self.beyond[k])
            tip = self.points[k] + way * 0.5 * size
            alpha = (1.0, 0.9, 0.75)[self.looks[k]]
            canvas.paint([shapes.chevron(tip + way * rim, way, size + 3 * rim)], INK, 0.6 * alpha)
            canvas.paint([shapes.chevron(tip, way, size)], self.colours[k], alpha)
