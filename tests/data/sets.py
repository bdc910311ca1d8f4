"""Small sets of labelled people for the tests of `bodyloop.data`: drawn photos, labels worked by hand."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from bodyloop.skeletons import COCO

WIDTH, HEIGHT = 60, 40
SQUARE = [[10.0, 8.0, 40.0, 8.0, 40.0, 32.0, 10.0, 32.0]]


def official(name: str) -> Path:
    """A sample of a published set, or a skip."""
    root = os.environ.get("BODYLOOP_DATA")
    if not root:
        pytest.skip("needs BODYLOOP_DATA: the folder with samples of published formats")
    return Path(root) / "formats" / name


def draw(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), seed: int = 0, **how: Any) -> Path:
    """A photo of noise, whose pixels tell one from another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(path, **how)
    return path


def upright(x: float = 25.0, y: float = 10.0, step: float = 1.2, flag: int = 2) -> list[float]:
    """17 keypoints of somebody who stands and looks at the camera."""
    rows = {"nose": (0, 1), "eye": (1.5, 0), "ear": (2.5, 0.5), "shoulder": (4, 4), "elbow": (5, 8), "wrist": (5, 11),
            "hip": (3, 11), "knee": (3, 14), "ankle": (3, 17)}  # fmt: skip
    points: list[float] = []
    for name in COCO.keypoints:
        dx, dy = rows[name.removeprefix("left_").removeprefix("right_")]
        side = -1 if name.startswith("right_") else 1  # seen from the front, the right is on the left
        points += [x + side * dx * step, y + dy * step, flag]
    return points


def people(**fields: Any) -> dict[str, Any]:
    """Two photos, the first with two people (one a crowd region), the second with one whose box touches the border."""
    keypoints = upright()
    keypoints[3:6] = [0, 0, 0]  # no left eye
    keypoints[-1] = 1  # right ankle hidden
    rows = [
        {"id": 7, "image_id": 3, "category_id": 1, "bbox": [10.0, 8.0, 30.0, 24.0], "keypoints": keypoints,
         "num_keypoints": 16, "area": 700.0, "iscrowd": 0, "segmentation": SQUARE},
        {"id": 8, "image_id": 3, "category_id": 1, "bbox": [0.0, 0.0, 9.0, 9.0], "keypoints": [0] * 51,
         "num_keypoints": 0, "area": 20.0, "iscrowd": 1, "segmentation": [[0, 0, 4, 0, 4, 5, 0, 5]]},
        {"id": 9, "image_id": 5, "category_id": 1, "bbox": [30.0, 5.0, 30.0, 35.0],
         "keypoints": upright(45, 12), "num_keypoints": 17, "area": 500.0, "iscrowd": 0},
    ]  # fmt: skip
    images = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (3, 5)]
    category = {"id": 1, "name": "person", "keypoints": list(COCO.keypoints), "skeleton": []}
    return {"images": images, "annotations": rows, "categories": [category], **fields}


def write(folder: Path, document: Any, name: str = "train.json", photos: bool = True) -> Path:
    """Labels in a folder, and their photos in ``images`` below it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(json.dumps(document), encoding="utf-8")
    if photos:
        for image in document["images"]:
            size = (image.get("width", WIDTH), image.get("height", HEIGHT))
            draw(folder / "images" / image["file_name"], size, seed=image["id"])
    return path


def pack(tar: Path, files: Mapping[str, Path] | Iterable[Path], mode: str = "w") -> Path:
    """A tar of files by their names in it."""
    named = files if isinstance(files, Mapping) else {f.name: f for f in files}
    with tarfile.open(tar, mode) as t:  # type: ignore[call-overload]
        for name, file in named.items():
            t.add(file, name)
    return tar
