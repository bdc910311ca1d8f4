"""COCO's layout and the sets that are published in it: COCO, CropCOCO, CrowdPose, COCO-WholeBody, Halpe, OCHuman, AIC.

WholeBody's five lists become one of 133 keypoints, fractional flags of its parts are rounded up. Halpe names no
keypoints, 136 of them are its. CrowdPose lacks areas. Categories without keypoints are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bodyloop.data.labels import KNOWS, Labels, skeleton_of
from bodyloop.errors import InputError
from bodyloop.records import name_of, records_of
from bodyloop.skeletons import COCO_WHOLEBODY_133, HALPE_136, Skeleton

NAME = "coco"
ABOUT = "COCO keypoints, CropCOCO, CrowdPose, COCO-WholeBody, Halpe, and others in their layout (.json)"
PARTS = {"keypoints": 17, "foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
_BY_COUNT = {len(s): s for s in (COCO_WHOLEBODY_133, HALPE_136)}


def fits(path: Path, content: object) -> bool:
    """Whether a file's content has this layout."""
    return isinstance(content, Mapping) and "images" in content and "annotations" in content


def read(path: Path, content: Mapping[str, Any]) -> Labels:
    """Labels of a COCO document.

    Raises:
        InputError: lists or names are missing, or categories have different keypoints.
    """
    origin = str(path)
    records_of(content, "images", origin)
    rows = records_of(content, "annotations", origin)
    whole = any("foot_kpts" in r for r in rows[:100])
    if whole:
        rows = [_whole_body(r, i, origin) for i, r in enumerate(rows)]
    skeleton, categories = _skeleton(content, rows, whole, origin)
    other = {str(c.get("id")) for c in content["categories"]} - {str(c) for c in categories}
    kept = [r for r in rows if str(r.get("category_id")) not in other]
    notes = {}
    if len(kept) < len(rows):
        notes["annotations of categories without keypoints"] = len(rows) - len(kept)
    document = {**content, "annotations": kept, "categories": _named(content, categories, skeleton)}
    info = content.get("info")
    knows = not isinstance(info, Mapping) or bool(info.get(KNOWS, True))
    return Labels(path, NAME, document, skeleton, (path,), knows_hidden=knows, notes=notes)


def _skeleton(
    content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], whole: bool, origin: str
) -> tuple[Skeleton, list[Any]]:
    """The skeleton, and the ids of the categories that have it."""
    categories = records_of(content, "categories", origin)
    named = [c for c in categories if c.get("keypoints")]
    of = [c.get("id") for c in named or categories]
    if whole and of:
        return COCO_WHOLEBODY_133, of
    if not named:
        counts = {len(r["keypoints"]) // 3 for r in rows[:100] if isinstance(r.get("keypoints"), list)}
        guess = _BY_COUNT.get(counts.pop()) if len(counts) == 1 else None
        if guess is None or not of:
            raise InputError(
                f"{origin}: no category lists its keypoints' names; write them as 'keypoints': [\"nose\", ...]"
            )
        return guess, of
    made = [_of_category(c, f"{origin}: category {name_of(c, 0)}") for c in named]
    if any(s.keypoints != made[0].keypoints for s in made):
        raise InputError(
            f"{origin}: the categories have different keypoints; write a file for each kind of them"
        )
    return made[0], of


def _of_category(category: Mapping[str, Any], who: str) -> Skeleton:
    names, links = category["keypoints"], category.get("skeleton") or []
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise InputError(f"{who}: field 'keypoints' must be a list of names")
    if not isinstance(links, list) or not all(isinstance(p, list) for p in links):
        raise InputError(f"{who}: field 'skeleton' must be a list of pairs")
    return skeleton_of(names, who, links)


def _named(content: Mapping[str, Any], ids: Sequence[Any], skeleton: Skeleton) -> list[dict[str, Any]]:
    """The categories with keypoints, these under the names that the skeleton has."""
    names = list(skeleton.keypoints)
    return [{**c, "keypoints": names} for c in content["categories"] if c.get("id") in ids]


def _whole_body(row: Mapping[str, Any], number: int, origin: str) -> dict[str, Any]:
    """An annotation whose five lists are one."""
    points: list[Any] = []
    for key, count in PARTS.items():
        part = row.get(key)
        if not isinstance(part, list) or len(part) != 3 * count:
            raise InputError(
                f"{origin}: annotation {name_of(row, number)}: field {key!r} must be {3 * count} numbers"
            )
        points += part
    flags = [v if isinstance(v, int | float) else math.nan for v in points[2::3]]
    points[2::3] = [min(2, math.ceil(v)) if 0 < v < math.inf else v for v in flags]
    labelled = sum(v > 0 for v in flags)
    return {k: v for k, v in row.items() if k not in PARTS} | {"keypoints": points, "num_keypoints": labelled}
