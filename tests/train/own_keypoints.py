"""Five keypoints of our own on the bundled photos, labelled by hand: the set that docs/train.md is run on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

PHOTOS = Path(__file__).resolve().parents[2] / "src" / "bodyloop" / "assets" / "photos"
NAMES = ["head_top", "left_hand", "right_hand", "left_foot", "right_foot"]
HEIGHT = 200  # px of each person

# x1 y1 x2 y2 of a person, then x y flag of each keypoint
TRAIN = {
    "street_610.jpg": (
        "641 304 672 412  655 306 2  666 368 1  645 366 1  658 402 2  650 408 2",
        "348 426 400 576  370 428 2  393 522 2  352 520 1  391 566 2  0 0 0",
        "506 189 545 273  523 190 2  521 232 1  537 230 2  511 258 2  536 271 2",
        "148 142 173 210  158 143 2  152 180 1  166 179 1  161 208 2  169 208 2",
        "528 293 590 402  558 294 2  570 315 2  545 352 1  580 394 2  534 397 2",
        "3 183 44 252  20 185 2  20 196 2  13 215 1  38 245 2  13 249 2",
        "716 230 760 327  741 231 2  756 270 2  719 264 2  735 316 2  744 324 2",
    ),
    "basketball.jpg": (
        "36 82 180 479  83 84 2  158 160 2  137 152 2  133 462 2  62 473 2",
        "436 22 640 479  549 24 2  450 245 2  0 0 0  0 0 0  0 0 0",
    ),
}
DEV = {
    "street_198.jpg": (
        "605 263 644 367  627 264 2  642 309 2  610 321 2  628 363 2  609 345 2",
        "697 250 737 348  721 251 2  735 297 2  698 299 2  718 346 2  711 337 2",
        "500 145 529 220  506 146 2  517 185 1  502 185 1  526 213 2  505 217 2",
        "225 193 255 267  239 194 2  228 228 2  250 235 1  249 265 2  245 250 2",
        "89 155 119 216  98 156 2  102 176 1  107 186 2  112 214 2  93 211 2",
        "679 99 699 152  688 100 2  697 130 2  682 128 2  697 150 2  684 150 2",
    ),
    "astronaut.jpg": ("15 15 370 512  233 16 2  0 0 0  160 505 2  0 0 0  0 0 0",),
}
Person = tuple[np.ndarray, np.ndarray, np.ndarray]


def people(table: dict[str, tuple[str, ...]], margins: Sequence[float]) -> Iterator[Person]:
    """Each person cut out as a photo of its own (H, W, 3) BGR, with box (4,) ``x1 y1 x2 y2`` and keypoints (5, 3)."""
    for name, rows in table.items():
        photo = cv2.imread(str(PHOTOS / name))
        assert photo is not None
        for row in rows:
            box, points = np.split(np.array(row.split(), float), [4])
            for margin in margins:
                pad = margin * (box[2:] - box[:2]).max()
                low = np.maximum(box[:2] - pad, 0).astype(int)
                high = np.minimum(box[2:] + pad, photo.shape[1::-1]).astype(int)
                scale = HEIGHT / (box[3] - box[1])
                piece = photo[low[1] : high[1], low[0] : high[0]]
                piece = cv2.resize(piece, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
                k = points.reshape(5, 3).copy()
                k[:, :2] = (k[:, :2] - low) * scale * (k[:, 2:] > 0)
                yield piece, (box.reshape(2, 2) - low).ravel() * scale, k


def write_coco(folder: Path, split: str, who: Sequence[Person]) -> None:
    """``<split>.json`` in COCO's layout and ``images``."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for i, (pixels, box, k) in enumerate(who, 1):
        h, w = pixels.shape[:2]
        cv2.imwrite(str(folder / "images" / f"{split}{i}.jpg"), pixels)
        images.append({"id": i, "file_name": f"{split}{i}.jpg", "width": w, "height": h})
        xywh = [*box[:2], *(box[2:] - box[:2])]
        annotations.append(
            {"id": i, "image_id": i, "category_id": 1, "bbox": xywh, "area": 0.53 * xywh[2] * xywh[3],
             "keypoints": k.ravel().tolist()}
        )  # fmt: skip
    category = {"id": 1, "name": "person", "keypoints": NAMES}
    table = {"images": images, "annotations": annotations, "categories": [category]}
    (folder / f"{split}.json").write_text(json.dumps(table))


def write_yolo(folder: Path, split: str, who: Sequence[Person]) -> None:
    """A part of a YOLO-pose set without names of keypoints."""
    photos, labels = folder / "images" / split, folder / "labels" / split
    photos.mkdir(parents=True)
    labels.mkdir(parents=True)
    for i, (pixels, box, k) in enumerate(who, 1):
        size = np.array(pixels.shape[1::-1])
        cv2.imwrite(str(photos / f"{i}.jpg"), pixels)
        low, high = np.clip(box[:2] / size, 0, 1), np.clip(box[2:] / size, 0, 1)
        points = " ".join(f"{x / size[0]:.6f} {y / size[1]:.6f} {int(f)}" for x, y, f in k)
        row = " ".join(f"{v:.6f}" for v in (*(low + high) / 2, *(high - low)))
        (labels / f"{i}.txt").write_text(f"0 {row} {points}\n")
    (folder / "data.yaml").write_text(
        "train: images/train\nval: images/val\nkpt_shape: [5, 3]\nflip_idx: [0, 2, 1, 4, 3]\nnames: {0: person}\n"
    )
