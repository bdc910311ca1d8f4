"""Small COCO files written by hand, for tests worked out on paper."""

from __future__ import annotations

from typing import Any

K = 17
SIGMA_NOSE = 0.026


def image(number: int = 1, width: int = 640, height: int = 480) -> dict[str, Any]:
    return {"id": number, "width": width, "height": height, "file_name": f"{number}.jpg"}


def keypoints(points: dict[int, tuple[float, float, float]], k: int = K) -> list[float]:
    """Flat x y v of the given keypoints, zeros elsewhere."""
    flat = [0.0] * (3 * k)
    for i, p in points.items():
        flat[3 * i : 3 * i + 3] = p
    return flat


def person(number: int, image_id: int = 1, x: float = 100, y: float = 100, **fields: Any) -> dict[str, Any]:
    """A person of 100 x 100 px whose nose is labelled at (x, y); area 10000."""
    base = {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [x - 50, y - 50, 100, 100],
        "area": 10000.0,
        "num_keypoints": 1,
        "keypoints": keypoints({0: (x, y, 2)}),
    }
    return base | fields


def guess(score: float, image_id: int = 1, x: float = 100, y: float = 100, **fields: Any) -> dict[str, Any]:
    """A prediction of area 10000 with its nose at (x, y)."""
    base = {
        "image_id": image_id,
        "category_id": 1,
        "score": score,
        "keypoints": keypoints(
            {
                0: (x, y, 1),
                1: (x - 50, y - 50, 1),
                2: (x + 50, y + 50, 1),
                **dict.fromkeys(range(3, K), (x, y, 1.0)),
            }
        ),
    }
    return base | fields


def truth(annotations: list[dict[str, Any]], images: int = 1) -> dict[str, Any]:
    return {
        "images": [image(i + 1) for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
