"""MPII: the common json list, or the publisher's ``.mat``; 16 joints, pixels counted from 1.

The box is the published training's: a square of the person's height (scale x 200) around the centre, lowered by
15/200 of it. Areas are 0.53 of the box around the joints, since that square is wider than a person. The json says
which joints are labelled, the ``.mat`` also which of them are hidden. Sizes of images are in neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.data.labels import FILL, Floats, Labels, array, box_around, document, person
from bodyloop.errors import InputError
from bodyloop.records import check_objects
from bodyloop.skeletons import MPII_16

NAME = "mpii"
ABOUT = "MPII as the common json list, or the publisher's .mat"
HEIGHT = 200.0  # px of a person of scale 1
LOWERED = 15.0  # px of scale 1


def fits(path: Path, content: object) -> bool:
    """Whether a file's content has this layout."""
    if isinstance(content, Mapping):
        return "RELEASE" in content and path.suffix == ".mat"
    return isinstance(content, list) and bool(content) and {"center", "scale"} <= set(content[0])


def read(path: Path, content: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> Labels:
    """Labels of MPII's training part.

    Raises:
        InputError: a person is malformed; the message names its photo.
    """
    if isinstance(content, Mapping):
        people, skipped = _of_mat(path, content["RELEASE"])
        knows = True
    else:
        check_objects(content, f"{path}: entry")
        people, skipped, knows = (
            [_of_entry(r, f"{path}: entry {i}") for i, r in enumerate(content)],
            {},
            False,
        )
    names: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    for name, points, center, scale, head in people:
        image = names.setdefault(name, len(names) + 1)
        rows.append(_person(len(rows) + 1, image, points, center, scale, head))
    images = [{"id": i, "file_name": name} for name, i in names.items()]
    content_ = document(images, rows, MPII_16)
    return Labels(path, NAME, content_, MPII_16, (path,), knows_hidden=knows, notes=skipped)


_Found = tuple[
    str, Floats, Floats, float, "list[float] | None"
]  # photo, joints from 1, centre, scale, head box


def _person(
    id: int, image: int, points: Floats, center: Floats, scale: float, head: list[float] | None
) -> dict[str, Any]:
    side = HEIGHT * scale
    at = center + np.array([0.0, LOWERED * scale]) if center[0] != -1 else center
    x, y = at - 1 - side / 2
    points = points - [1.0, 1.0, 0.0]
    w, h = box_around(points)[2:]
    made = person(id, image, points, box=[x, y, side, side], area=FILL * w * h, area_estimated=1)
    return made if head is None else made | {"head_box": head}


def _of_entry(record: Mapping[str, Any], where: str) -> _Found:
    name = record.get("image")
    if not isinstance(name, str):
        raise InputError(f"{where}: field 'image' must be a file's name")
    where = f"{where} ({name})"
    points = np.zeros((16, 3))
    if "joints" in record:
        points[:, :2] = array(record["joints"], (16, 2), f"{where}: joints")
        points[:, 2] = 2.0 * (array(record.get("joints_vis"), (16,), f"{where}: joints_vis") > 0)
    center = array(record.get("center"), (2,), f"{where}: center")
    return name, points, center, float(array(record.get("scale"), (), f"{where}: scale")), None


# ------------------------------------------------------------------ the publisher's file


def _of_mat(path: Path, release: Any) -> tuple[list[_Found], dict[str, int]]:
    """People of the training images, and what was left out."""
    train = np.atleast_1d(_field(release, "img_train", f"{path}: RELEASE"))
    listed = _many(_field(release, "annolist", f"{path}: RELEASE"))
    if len(train) != len(listed):
        raise InputError(f"{path}: {len(listed)} images, but {len(train)} entries of img_train")
    found: list[_Found] = []
    skipped = {
        "images of the test part, which has no joints": int((train == 0).sum()),
        "people without joints": 0,
    }
    for i in np.flatnonzero(train).tolist():
        where = f"{path}: image {i + 1}"
        name = str(_field(_field(listed[i], "image", where), "name", where))
        for n, rect in enumerate(_many(getattr(listed[i], "annorect", ()))):
            one = _of_rect(rect, f"{where} ({name}), person {n + 1}")
            if one is None:
                skipped["people without joints"] += 1
            else:
                found.append((name, *one))
    return found, {k: v for k, v in skipped.items() if v}


def _of_rect(rect: Any, who: str) -> tuple[Floats, Floats, float, list[float]] | None:
    listed = _many(getattr(getattr(rect, "annopoints", None), "point", ()))
    if not listed or not hasattr(rect, "objpos"):
        return None
    points = np.zeros((16, 3))
    for p in listed:
        at = int(array(_field(p, "id", who), (), f"{who}: id of a joint"))
        if not 0 <= at < 16:
            raise InputError(f"{who}: a joint has the id {at}, of 0 to 15")
        x, y = (float(array(_field(p, axis, who), (), f"{who}: joint {at}")) for axis in ("x", "y"))
        hidden = str(getattr(p, "is_visible", "")) in ("0", "0.0")  # neck and head have none
        points[at] = x, y, 1 if hidden else 2
    center = array([_field(rect.objpos, axis, who) for axis in ("x", "y")], (2,), f"{who}: objpos")
    x1, y1, x2, y2 = (float(array(_field(rect, k, who), (), f"{who}: {k}")) for k in ("x1", "y1", "x2", "y2"))
    scale = float(array(_field(rect, "scale", who), (), f"{who}: scale"))
    return points, center, scale, [x1 - 1, y1 - 1, x2 - x1, y2 - y1]


def _field(value: Any, name: str, who: str) -> Any:
    if not hasattr(value, name):
        raise InputError(f"{who}: has no field {name!r}; is it the publisher's file?")
    return getattr(value, name)


def _many(value: Any) -> Sequence[Any]:
    """What MATLAB keeps as nothing, one thing or an array of things."""
    if isinstance(value, np.ndarray):
        return list(value.ravel())
    return value if isinstance(value, tuple | list) else [value]
