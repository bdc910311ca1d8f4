"""OCHuman's own layout: 19 keypoints named in the file, boxes ``x1 y1 x2 y2``, outlines with holes.

As its authors convert it to COCO: visible (1) and hidden by the person (2) become 2, hidden by others (3) becomes
1, the area is the box's. Persons of whom only a box is known keep it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.data.labels import Floats, Labels, array, document, person, photo_size, skeleton_of
from bodyloop.errors import InputError
from bodyloop.masks import Masks
from bodyloop.records import records_of
from bodyloop.skeletons import OCHUMAN_19

NAME = "ochuman"
ABOUT = "OCHuman's own layout (.json)"
_FLAGS = np.array([0.0, 2.0, 2.0, 1.0])


def fits(path: Path, content: object) -> bool:
    """Whether a file's content has this layout."""
    return isinstance(content, Mapping) and "keypoint_names" in content and "images" in content


def read(path: Path, content: Mapping[str, Any]) -> Labels:
    """Labels of OCHuman's own file.

    Raises:
        InputError: an image, box, keypoint or outline is malformed; the message names image and person.
    """
    origin = str(path)
    names = content["keypoint_names"]
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise InputError(f"{origin}: field 'keypoint_names' must be a list of names")
    found = skeleton_of([n.replace("head", "head_top") if n == "head" else n for n in names], origin)
    same = sorted(found.keypoints) == sorted(OCHUMAN_19.keypoints)
    skeleton = OCHUMAN_19 if same else found
    order = [found.keypoints.index(k) for k in skeleton.keypoints]
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for number, image in enumerate(records_of(content, "images", origin), 1):
        where = f"{origin}: image {image.get('image_id', number)}"
        width, height = photo_size(image.get("width"), image.get("height"), where)
        name = str(image.get("file_name", ""))
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for i, row in enumerate(records_of(image, "annotations", where)):
            who = f"{where}, person {i}"
            x1, y1, x2, y2 = array(row.get("bbox"), (4,), f"{who}: bbox").tolist()
            points = np.zeros((len(names), 3))
            if row.get("keypoints") is not None:
                points = _points(row["keypoints"], len(names), who)
            rows.append(
                person(
                    len(rows) + 1, number, points[order],
                    box=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1),
                    segmentation=_outline(row.get("segms"), (width, height), who),
                )
            )  # fmt: skip
    return Labels(path, NAME, document(images, rows, skeleton), skeleton, (path,))


def _points(value: object, count: int, who: str) -> Floats:
    points = array(value, (3 * count,), f"{who}: keypoints").reshape(count, 3)
    if not np.isin(points[:, 2], (0, 1, 2, 3)).all():
        raise InputError(f"{who}: visibility of keypoints must be 0, 1, 2 or 3")
    points[:, 2] = _FLAGS[points[:, 2].astype(int)]
    return points


def _outline(segms: object, size: tuple[int, int], who: str) -> object:
    """Polygons, or an RLE where there are holes, which polygons cannot have."""
    if not segms:
        return None
    outer, inner = (segms.get(k) for k in ("outer", "inner")) if isinstance(segms, Mapping) else (None, None)
    if not isinstance(outer, list) or not isinstance(inner, list | None):
        raise InputError(f"{who}: segms must have the lists 'outer' and 'inner'")
    if not inner:
        return outer
    try:
        whole, holes = Masks.from_polygons([outer, inner], size).bitmaps()
    except InputError as e:
        raise InputError(f"{who}: segms: {e}") from e
    return dict(Masks.from_bitmaps([whole & ~holes]).rle(0))
