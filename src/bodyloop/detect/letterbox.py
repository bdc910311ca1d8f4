"""How a photo of any size becomes a detector's input, and how boxes find their way back.

The photo is scaled to fit and lies at the top left of a grey canvas. Rounding makes the two axes' factors
differ a little, so both are kept: a box goes back by the factors that the pixels really had.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
SMOOTH_BELOW = 0.75  # shrinking further by bilinear samples alone would skip pixels


@dataclass(frozen=True)
class Letterbox:
    """Where a photo of ``photo`` = (w, h) px lies on a canvas of ``canvas`` = (w, h) px.

    Attributes:
        target: (w, h) px that the photo fills, from the canvas's top left corner.
    """

    photo: tuple[int, int]
    canvas: tuple[int, int]
    target: tuple[int, int]

    @classmethod
    def fit(cls, photo: tuple[int, int], canvas: tuple[int, int], keep_aspect: bool = True) -> Letterbox:
        """The largest place with the photo's proportions, or the whole canvas."""
        if not keep_aspect:
            return cls(photo, canvas, canvas)
        factor = min(canvas[0] / photo[0], canvas[1] / photo[1])
        w, h = (min(c, max(1, int(p * factor + 0.5))) for p, c in zip(photo, canvas, strict=True))
        return cls(photo, canvas, (w, h))

    @property
    def factors(self) -> tuple[float, float]:
        """Canvas px per photo px, horizontally and vertically."""
        return self.target[0] / self.photo[0], self.target[1] / self.photo[1]

    def draw(self, pixels: Pixels, pad: int, bilinear: bool = False) -> Pixels:
        """The canvas (H, W, 3) with the photo on it, ``pad`` elsewhere.

        ``bilinear``: sample bilinearly however much the photo shrinks, as the reference does.
        """
        import cv2

        smooth = not bilinear and min(self.factors) < SMOOTH_BELOW
        how = cv2.INTER_AREA if smooth else cv2.INTER_LINEAR
        canvas = np.full((self.canvas[1], self.canvas[0], 3), pad, np.uint8)
        canvas[: self.target[1], : self.target[0]] = cv2.resize(pixels, self.target, interpolation=how)
        return canvas

    def to_photo(self, boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Boxes (N, 4) ``x1 y1 x2 y2`` in canvas px to photo px."""
        return np.asarray(boxes / np.tile(self.factors, 2), np.float32)
