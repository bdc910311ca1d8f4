"""A small annotated set and people on it, for tests that run a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.skeletons import COCO

WIDTH, HEIGHT = 120, 90


def write_set(
    folder: Path,
    photos: int = 12,
    *,
    first_id: int = 1,
    names: tuple[str, ...] = COCO.keypoints,
    name: str = "dev",
) -> Path:
    """Photos of noise with two persons each, keypoints anywhere in their boxes, hidden and visible."""
    import cv2

    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(first_id)
    images, people = [], []
    for i in range(first_id, first_id + photos):
        file = f"{name}{i}.jpg"
        cv2.imwrite(str(folder / "images" / file), rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
        images.append({"id": i, "width": WIDTH, "height": HEIGHT, "file_name": file})
        for p in range(2):
            x, y = 5 + 55 * p, 5
            xy = rng.uniform((x, y), (x + 50, y + 80), (len(names), 2))
            flags = rng.integers(1, 3, len(names))
            people.append(
                {
                    "id": 10 * i + p, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": [x, y, 50, 80],
                    "area": 2500.0, "num_keypoints": len(names),
                    "keypoints": np.column_stack([xy, flags]).ravel().tolist(),
                }
            )  # fmt: skip
    document: dict[str, Any] = {
        "images": images,
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": list(names)}],
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document))
    return path
