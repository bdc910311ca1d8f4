"""AI Challenger's own layout: a list of images with people by name (``human1``), boxes ``x1 y1 x2 y2``.

Its flags are 1 visible, 2 hidden, 3 unlabelled: COCO's 2, 1 and 0. Sizes of images are not in the file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.data.labels import Labels, array, document, person
from bodyloop.errors import InputError
from bodyloop.records import check_objects
from bodyloop.skeletons import AIC_14

NAME = "aic"
ABOUT = "AI Challenger's own layout (.json)"
_FLAGS = np.array([0.0, 2.0, 1.0, 0.0])


def fits(path: Path, content: object) -> bool:
    """Whether a file's content has this layout."""
    return isinstance(content, list) and bool(content) and "keypoint_annotations" in content[0]


def read(path: Path, content: Sequence[Mapping[str, Any]]) -> Labels:
    """Labels of AI Challenger's own file.

    Raises:
        InputError: a person is malformed, or has only a box or only keypoints; it names image and person.
    """
    check_objects(content, f"{path}: image")
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for number, image in enumerate(content, 1):
        where = f"{path}: image {image.get('image_id', number)}"
        boxes, points = image.get("human_annotations"), image.get("keypoint_annotations")
        if not isinstance(boxes, Mapping) or not isinstance(points, Mapping) or set(boxes) != set(points):
            raise InputError(
                f"{where}: human_annotations and keypoint_annotations must be of the same people"
            )
        images.append({"id": number, "file_name": f"{image.get('image_id')}.jpg"})
        for name, value in points.items():
            x1, y1, x2, y2 = array(boxes[name], (4,), f"{where}, {name}: its box").tolist()
            k = array(value, (42,), f"{where}, {name}: its keypoints").reshape(14, 3)
            if not np.isin(k[:, 2], (0, 1, 2, 3)).all():
                raise InputError(f"{where}, {name}: flags must be 1 (visible), 2 (hidden) or 3 (unlabelled)")
            k[:, 2] = _FLAGS[k[:, 2].astype(int)]
            rows.append(person(len(rows) + 1, number, k, box=[x1, y1, x2 - x1, y2 - y1]))
    return Labels(path, NAME, document(images, rows, AIC_14), AIC_14, (path,))
