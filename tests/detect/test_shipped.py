"""The detector in the package finds the people of the package's own pictures, and nobody where nobody is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import bodyloop as bl
from bodyloop.geometry import iou
from bodyloop.images import Image, read
from bodyloop.roles import Detector

PHOTOS = Path(bl.__file__).parent / "assets" / "photos"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return bl.load_detector("rtmdet-n", threads=1)


@pytest.mark.parametrize(
    ("name", "people"),  # drawn by eye, as shares of the picture's width and height
    [
        ("basketball", [(0.05, 0.17, 0.25, 0.98), (0.70, 0.04, 1.0, 1.0)]),
        ("astronaut", [(0.05, 0.03, 0.80, 1.0)]),
    ],
)
def test_people(detector: Detector, name: str, people: Sequence[tuple[float, ...]]) -> None:
    photo = read(PHOTOS / f"{name}.jpg")
    (found,) = detector.detect([photo])
    assert found.boxes is not None and len(found) == len(people)
    overlap = iou(np.array(people) * np.tile(photo.size, 2), found.boxes)
    assert (overlap.max(axis=1) > 0.6).all()
    assert (overlap.max(axis=0) > 0.6).all()


@pytest.mark.parametrize("level", [0, 114, 255])
def test_nobody(detector: Detector, level: int) -> None:
    (found,) = detector.detect([Image(np.full((300, 400, 3), level, np.uint8))])
    assert len(found) == 0


def test_size_of_the_photo_hardly_matters(detector: Detector) -> None:
    import cv2

    small = read(PHOTOS / "basketball.jpg")
    large = Image(cv2.resize(small.pixels, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC))
    a, b = detector.detect([small, large])
    assert a.boxes is not None and b.boxes is not None
    assert (iou(a.boxes, b.boxes / 4).max(axis=1) > 0.9).all()
