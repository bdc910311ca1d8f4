"""The drawing surface: a photo on a sheet that may reach beyond it, and smooth shapes painted on it.

Everything that is drawn is a `Shape`: closed contours in sheet px, filled by the even-odd rule, or a line of
any width (real numbers, not whole pixels). A group of shapes is painted at once: overlaps are joined before
the colour is laid over the photo, so that pale limbs do not darken each other where they meet. Small groups
are rasterised at up to four times the resolution and averaged, large ones with OpenCV's antialiasing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.drawing.palette import PAPER, PAPER_INK, RGB

Points = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stroke:
    """A line of width ``2 radius`` through points (M, 2), with round ends and corners."""

    points: Points
    radius: float
    closed: bool = False


Shape = tuple[Points, ...] | Stroke  # closed contours (M, 2) filled by the even-odd rule, or a line

_BAND = 1 << 16  # px blended at a time
_SHIFT = 4  # OpenCV's fixed-point bits for sub-pixel coordinates
_FAR = 1e5  # sheet px; beyond any sheet, and safe in OpenCV's fixed point after oversampling


@dataclass(frozen=True)
class Sheet:
    """Where the photo lies: its size, the scale, and the margins (left, top, right, bottom) around it."""

    photo: tuple[int, int]
    scale: float = 1.0
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def scaled(self) -> tuple[int, int]:
        """(width, height) of the photo on the sheet."""
        return max(1, round(self.photo[0] * self.scale)), max(1, round(self.photo[1] * self.scale))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the sheet."""
        w, h = self.scaled
        left, top, right, bottom = self.margins
        return w + left + right, h + top + bottom

    def place(self, points: npt.ArrayLike) -> Points:
        """Points (..., 2) in image px to sheet px; pixel centres are at integers in both."""
        p = np.asarray(points, np.float64)
        factor = np.array(self.scaled) / np.array(self.photo)
        return np.asarray((p + 0.5) * factor - 0.5 + np.array(self.margins[:2], np.float64))

    def affine(self) -> npt.NDArray[np.float64]:
        """(2, 3) matrix of `place`."""
        origin, x, y = self.place([[0, 0], [1, 0], [0, 1]])
        return np.stack([x - origin, y - origin, origin], axis=1)


class Canvas:
    """Mutable pixels of one sheet; made from a photo, painted on, and taken with ``pixels``."""

    def __init__(self, photo: npt.NDArray[np.uint8], sheet: Sheet) -> None:
        import cv2

        w, h = sheet.scaled
        left, top = sheet.margins[:2]
        if (w, h) != (photo.shape[1], photo.shape[0]):
            shrink = w * h < photo.shape[0] * photo.shape[1]
            how = cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
            photo = np.asarray(cv2.resize(photo, (w, h), interpolation=how), np.uint8)
        self.sheet = sheet
        self.pixels: npt.NDArray[np.uint8]
        if sheet.size == (w, h):
            self.pixels = photo.copy()
        else:
            right, bottom = sheet.margins[2:]
            around = (top, bottom, left, right, cv2.BORDER_CONSTANT)
            self.pixels = np.asarray(cv2.copyMakeBorder(photo, *around, value=PAPER), np.uint8)

    @property
    def photo(self) -> npt.NDArray[np.uint8]:
        """The photo's part of the sheet, writable."""
        w, h = self.sheet.scaled
        left, top = self.sheet.margins[:2]
        return self.pixels[top : top + h, left : left + w]

    def frame(self, width: int) -> None:
        """A line around the photo, just outside it, on the sides where the sheet goes on."""
        w, h = self.sheet.scaled
        left, top = self.sheet.margins[:2]
        y0, x0 = max(top - width, 0), max(left - width, 0)
        kept = self.photo.copy()
        self.pixels[y0 : top + h + width, x0 : left + w + width] = PAPER_INK
        self.photo[:] = kept

    def mute(self, amount: float) -> None:
        """Take colour and light from the photo, so that heat over it can be read."""
        import cv2

        part = self.photo
        grey = cv2.cvtColor(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        part[:] = cv2.addWeighted(part, 1 - amount, grey, amount * (1 - 0.5 * amount), 0)

    def paint(self, shapes: Sequence[Shape], colour: RGB, alpha: float = 1.0) -> None:
        """Lay one colour over the photo where any of the shapes is."""
        found = self._rasterise(shapes)
        if found is None or alpha <= 0:
            return
        coverage, x, y = found
        height, width = coverage.shape
        rows = max(1, _BAND // width)
        for top in range(0, height, rows):  # bands keep large drawings within the processor's cache
            band = coverage[top : top + rows]
            ys, xs = np.divmod(np.flatnonzero(band != 0), width)
            if len(ys):
                weight = band[ys, xs].astype(np.float32)[:, None] * np.float32(alpha / 255)
                part = self.pixels[y + top : y + top + len(band), x : x + width]
                below = part[ys, xs].astype(np.float32)
                mixed = below + (np.array(colour, np.float32) - below) * weight
                part[ys, xs] = np.rint(mixed).astype(np.uint8)

    def overlay(
        self, colours: npt.NDArray[np.uint8], alpha: npt.NDArray[np.float32], at: tuple[int, int]
    ) -> None:
        """Lay an image (h, w, 3) with its own alpha (h, w) in [0, 1] over the sheet, corner at ``at``."""
        x, y = at
        part = self.pixels[y : y + alpha.shape[0], x : x + alpha.shape[1]]
        below = part.astype(np.float32)
        part[:] = np.rint(below + (colours.astype(np.float32) - below) * alpha[..., None]).astype(np.uint8)

    def _rasterise(self, shapes: Sequence[Shape]) -> tuple[npt.NDArray[np.uint8], int, int] | None:
        """Coverage (h, w) uint8 of the union and its corner on the sheet; None where it is empty."""
        import cv2

        if not shapes:
            return None
        bounds = np.stack([_bounds(shape) for shape in shapes])
        low = np.maximum(np.floor(bounds[:, 0].min(axis=0)) - 1, 0)
        high = np.minimum(np.ceil(bounds[:, 1].max(axis=0)) + 2, self.sheet.size)
        if not (high > low).all():
            return None
        (x, y), (w, h) = low.astype(int), (high - low).astype(int)
        fine = int(np.clip(1600 // max(w, h), 1, 4))
        mask = np.zeros((h * fine, w * fine), np.uint8)
        for shape in shapes:
            if isinstance(shape, Stroke):
                line = [_fixed(shape.points, low, fine)]
                thick = max(1, round(2 * shape.radius * fine))
                cv2.polylines(mask, line, shape.closed, 255, thick, cv2.LINE_AA, _SHIFT)
            else:
                cv2.fillPoly(mask, [_fixed(c, low, fine) for c in shape], 255, cv2.LINE_AA, _SHIFT)
        if fine > 1:
            mask = np.asarray(cv2.resize(mask, (w, h), interpolation=cv2.INTER_AREA), np.uint8)
        return mask, int(x), int(y)


def _bounds(shape: Shape) -> Points:
    """(2, 2) lowest and highest corner."""
    if isinstance(shape, Stroke):
        p, r = shape.points, shape.radius
        return np.stack([p.min(axis=0) - r, p.max(axis=0) + r])
    return np.stack(
        [np.min([c.min(axis=0) for c in shape], axis=0), np.max([c.max(axis=0) for c in shape], axis=0)]
    )


def _fixed(points: Points, low: Points, fine: int) -> npt.NDArray[np.int32]:
    """Sheet px to OpenCV's fixed point on a mask ``fine`` times as fine whose corner is at ``low``."""
    p = (np.clip(points, -_FAR, _FAR) - low + 0.5) * fine - 0.5
    return np.rint(p * (1 << _SHIFT)).astype(np.int32)
