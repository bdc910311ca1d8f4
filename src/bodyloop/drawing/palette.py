"""The colours of people, sides and maps, and why these.

A person has two colours of one family: a light one for the left side, a deep one for the right. Hue tells
people apart, lightness tells sides apart, so that both survive colour blindness and a grey print. The six
families were searched for the largest smallest difference (OKLab, mean of both sides) under normal vision and
simulated protanopia, deuteranopia and tritanopia (Machado, Oliveira, Fernandes 2009, full severity): 0.137
between any two. After six people the families repeat; labels carry the number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Colours:
    """One person's colours: light for the left side, deep for the right, between them for the rest."""

    left: RGB
    right: RGB
    middle: RGB


def _hex(text: str) -> RGB:
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


def _family(left: str, right: str, middle: str) -> Colours:
    return Colours(_hex(left), _hex(right), _hex(middle))


PEOPLE: tuple[Colours, ...] = (
    _family("#78C7FD", "#384CDE", "#4F93F5"),  # blue
    _family("#FDF156", "#BB7E00", "#F2B705"),  # amber
    _family("#FF96D3", "#B4065F", "#EC4A9C"),  # pink
    _family("#B1FFDC", "#19A0A0", "#3FD8B4"),  # mint
    _family("#E9E9FC", "#740397", "#B083E0"),  # violet
    _family("#CEC21A", "#2D5A04", "#8A9A1B"),  # olive
)
SIDES = _family("#FF9F1C", "#2A7FFF", "#F4F4F4")  # everybody alike: left orange, right blue
GREY = _family("#DADDE3", "#7C8593", "#AEB5C0")  # whoever does not count

INK: RGB = (16, 18, 24)  # halos, plates
PAPER: RGB = (236, 238, 241)  # the canvas outside the picture
PAPER_INK: RGB = (74, 80, 92)  # lines and words on it
WHITE: RGB = (255, 255, 255)

# Five stops of a ramp whose lightness rises evenly (violet, magenta, orange, straw): readable in grey, too.
_HEAT = np.array([[58, 12, 110], [152, 25, 128], [226, 73, 89], [252, 157, 72], [252, 248, 178]], np.float64)


def heat_ramp() -> npt.NDArray[np.uint8]:
    """(256, 3) RGB from little to much probability."""
    at = np.linspace(0, len(_HEAT) - 1, 256)
    columns = [np.interp(at, np.arange(len(_HEAT)), _HEAT[:, c]) for c in range(3)]
    return np.stack(columns, axis=1).round().astype(np.uint8)


def of_person(index: int) -> Colours:
    """The colours of person (or track) number ``index``."""
    return PEOPLE[index % len(PEOPLE)]


def of_keypoints(names: tuple[str, ...], colours: Colours) -> list[RGB]:
    """K colours by the side in each keypoint's name."""
    by_side = {"left": colours.left, "right": colours.right}
    return [by_side.get(name.partition("_")[0], colours.middle) for name in names]
