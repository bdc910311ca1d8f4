"""Photo sets written on the spot, and a pose model that knows what stands in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.data.cropcoco import build
from bodyloop.eval.calibration import true_cells
from bodyloop.geometry import Crop
from bodyloop.maps import ProbabilityMaps, oks_variances
from bodyloop.people import People
from bodyloop.skeletons import BODY_19, Skeleton

WIDTH, HEIGHT = 120, 90
LSP = ("right_ankle", "left_ankle", "neck", "head_top")


def write_set(folder: Path, names: tuple[str, ...], images: int = 6, split: str = "dev") -> Path:
    """Grey photos with two persons each and a crowd; keypoints spread over the boxes."""
    import cv2

    (folder / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(names))
    records, people = [], []
    for i in range(images):
        name = f"{split}{i}.jpg"
        cv2.imwrite(str(folder / "images" / name), np.full((HEIGHT, WIDTH, 3), 10 * i, np.uint8))
        records.append({"id": 100 + i, "width": WIDTH, "height": HEIGHT, "file_name": name})
        for p in range(3):
            x, y = 5 + 40 * p, 5
            xy = np.column_stack([rng.uniform(x, x + 30, len(names)), rng.uniform(y, y + 80, len(names))])
            flags = rng.integers(1, 3, len(names)) * (p < 2)  # the third is a crowd without keypoints
            flat = np.where(flags[:, None] > 0, np.column_stack([xy, flags]), 0)
            people.append(
                {
                    "id": len(people) + 1, "image_id": 100 + i, "category_id": 1, "iscrowd": int(p == 2),
                    "bbox": [x, y, 30, 80], "area": 1500.0, "num_keypoints": int((flags > 0).sum()),
                    "keypoints": flat.ravel().tolist(),
                }
            )  # fmt: skip
    document = {
        "images": records,
        "annotations": people,
        "categories": [{"id": 1, "name": "person", "keypoints": list(names)}],
    }
    path = folder / f"{split}.json"
    path.write_text(json.dumps(document))
    return path


class Knowing:
    """A model that finds a box's person in an annotation file and says what stands there."""

    def __init__(
        self, document: dict[str, Any], skeleton: Skeleton = BODY_19, presence: str = "true"
    ) -> None:
        self.skeleton, self.presence = skeleton, presence
        names = document["categories"][0]["keypoints"]
        self.columns = [names.index(k) if k in names else -1 for k in skeleton.keypoints]
        self.known = {(a["image_id"], *np.float32(a["bbox"]).tolist()): a for a in document["annotations"]}
        self.asked: list[tuple[int, bool | None, Any]] = []

    def __repr__(self) -> str:
        return "knowing"

    def predict(
        self,
        images: list[Any],
        boxes: list[Any],
        masks: Any = None,
        *,
        flip: bool | None = None,
        maps: bool | None = None,
    ) -> list[People]:
        self.asked.append((len(images), flip, masks))
        people = [self._one(i, np.asarray(b, np.float64)) for i, b in zip(images, boxes, strict=True)]
        return [p.replace(maps=self._maps(p)) for p in people] if maps else people

    def _maps(self, people: People) -> ProbabilityMaps:
        """Half of the mass on the true cell (if it is on the map), the rest even."""
        crop = Crop.from_boxes(people.boxes, map_size=(12, 16))
        values = np.full((*people.keypoints.shape[:2], 16, 12), 0.5 / 192, np.float32)
        cells, there = true_cells(crop, people.keypoints, np.ones(people.keypoints.shape[:2]))
        n, k = np.nonzero(there)
        values[n, k, cells[n, k, 1], cells[n, k, 0]] += 0.5
        values[~there] *= 2
        return ProbabilityMaps.single(values, crop, oks_variances(self.skeleton.sigma_array, (12, 16)))

    def _one(self, image: Any, boxes: np.ndarray) -> People:
        rows = []
        for x1, y1, x2, y2 in boxes:
            key = (image.id, *np.float32([x1, y1, x2 - x1, y2 - y1]).tolist())
            flat = np.array(self.known[key]["keypoints"], np.float64).reshape(-1, 3)
            rows.append(np.vstack([flat, [0, 0, 0]])[self.columns])
        table = np.array(rows).reshape(len(boxes), len(self.skeleton), 3)
        inside = table[..., 2] < 3
        presence = {"true": inside, "false": ~inside, "flat": np.full(inside.shape, 0.5), "none": None}
        return People(
            image.size, image.source, self.skeleton, boxes=boxes.astype(np.float32),
            keypoints=table[..., :2].astype(np.float32), map_scores=np.ones(inside.shape, np.float32),
            presence=presence[self.presence], visibility=(table[..., 2] == 2).astype(np.float32),
            quality=np.where(inside, 1, 0.5).astype(np.float32),
        )  # fmt: skip


def both(data: Path) -> dict[str, Any]:
    """One document that knows the whole photos, the cropped ones and the other skeleton's."""
    a = json.loads((data / "coco" / "dev.json").read_text())
    return a | {"annotations": a["annotations"] + build(a, 0).document["annotations"]}
