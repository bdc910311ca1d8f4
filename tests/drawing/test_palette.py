"""Colours: people and sides can be told apart, by the colour-blind as well."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest

import bodyloop
from bodyloop.drawing.palette import PEOPLE, SIDES, heat_ramp

# Machado, Oliveira, Fernandes 2009, severity 1, on linear RGB
VISION = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def oklab(rgb: npt.ArrayLike, vision: str = "normal") -> npt.NDArray[np.float64]:
    c = np.asarray(rgb, np.float64) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.asarray(VISION[vision]).T, 0, 1)
    cone = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    opponent = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.asarray(np.cbrt(seen @ np.array(cone).T) @ np.array(opponent).T)


@pytest.mark.parametrize("vision", VISION)
def test_any_two_people_differ(vision: str) -> None:
    for a, b in itertools.combinations(PEOPLE, 2):
        apart = [
            np.linalg.norm(oklab(getattr(a, s), vision) - oklab(getattr(b, s), vision))
            for s in ("left", "right")
        ]
        assert np.mean(apart) > 0.13


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colours", [*PEOPLE, SIDES])
def test_left_and_right_differ(vision: str, colours: object) -> None:
    left, right = (oklab(getattr(colours, s), vision) for s in ("left", "right"))
    assert np.linalg.norm(left - right) > 0.17


@pytest.mark.parametrize("colours", PEOPLE)
def test_left_is_the_lighter(colours: object) -> None:
    left, right = (oklab(getattr(colours, s))[0] for s in ("left", "right"))
    assert left - right > 0.2


def test_heat_rises_in_lightness_throughout() -> None:
    assert (np.diff(oklab(heat_ramp())[:, 0]) > -1e-3).all()


def test_the_bundled_photographs_are_small_named_and_readable() -> None:
    folder = Path(bodyloop.__file__).parent / "assets" / "photos"
    photos = sorted(folder.glob("*.jpg"))
    readme = (folder / "README.md").read_text()
    assert len(photos) >= 4 and sum(p.stat().st_size for p in folder.iterdir()) < 1_200_000
    for p in photos:
        assert f"`{p.name}`" in readme
        with PIL.Image.open(p) as image:
            image.load()
            assert (
                image.mode == "RGB"
                and max(image.size) <= 768
                and f"`{p.name}` {image.width}x{image.height}" in readme
            )
