"""Photos of upright figures with masks and COCO's keypoints, drawn on the spot: a stand-in for a labelled set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bodyloop.masks import Masks
from bodyloop.skeletons import COCO

# x and y of each keypoint as shares of the box: arms stretched out, legs to the lower edge
SHARES = np.array(
    [
        [0.5, 0.08], [0.53, 0.06], [0.47, 0.06], [0.56, 0.07], [0.44, 0.07], [0.64, 0.24], [0.36, 0.24], [0.8, 0.24],
        [0.2, 0.24], [0.96, 0.24], [0.04, 0.24], [0.6, 0.5], [0.4, 0.5], [0.66, 0.72], [0.34, 0.72], [0.72, 0.95],
        [0.28, 0.95],
    ]
)  # fmt: skip
OUTLINE = [
    (0.4, 0), (0.6, 0), (0.6, 0.18), (1, 0.18), (1, 0.3), (0.66, 0.3), (0.66, 0.5), (0.82, 1), (0.18, 1), (0.34, 0.5),
    (0.34, 0.3), (0, 0.3), (0, 0.18), (0.4, 0.18),
]  # fmt: skip
SIZE = (200, 160)


def figure(box: tuple[float, float, float, float]) -> tuple[list[float], list[float]]:
    """Outline (one polygon) and keypoints (51 numbers) of a figure in a box ``x y w h``."""
    x, y, w, h = box
    outline = [v for a, b in OUTLINE for v in (x + a * w, y + b * h)]
    points = [v for a, b in SHARES for v in (x + a * w, y + b * h, 2)]
    return outline, points


def write_figures(folder: Path, photos: int = 5, split: str = "dev") -> Path:
    """Photos of noise with two figures each, of one colour a photo, standing on the ground."""
    import cv2

    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(photos)
    images, rows = [], []
    for i in range(photos):
        pixels = rng.integers(40, 90, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
        pixels[150:] = 120
        for p, x in enumerate((20 + 5 * i, 125)):
            box = (float(x), 45.0 - i, 40.0, 100.0 + i)
            outline, points = figure(box)
            pixels[Masks.from_polygons([[outline]], SIZE).bitmap(0)] = (200, 60 + 30 * i, 255 * p)
            rows.append(
                {
                    "id": len(rows) + 1, "image_id": 7 + i, "category_id": 1, "iscrowd": 0, "bbox": list(box),
                    "area": 2900.0, "num_keypoints": 17, "keypoints": points, "segmentation": [outline],
                }
            )  # fmt: skip
        cv2.imwrite(str(folder / "images" / f"{split}{i}.png"), pixels[:, :, ::-1])
        images.append({"id": 7 + i, "width": SIZE[0], "height": SIZE[1], "file_name": f"{split}{i}.png"})
    category = {"id": 1, "name": "person", "keypoints": list(COCO.keypoints), "skeleton": []}
    path = folder / f"{split}.json"
    path.write_text(json.dumps({"images": images, "annotations": rows, "categories": [category]}))
    return path
