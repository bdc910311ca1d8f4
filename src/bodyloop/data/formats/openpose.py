"""OpenPose's json: a file a photo, people as lists ``x y confidence``; BODY_25 or COCO-18, face 70, hands 21.

A confidence above 0 is flag 2. Keypoints are named as elsewhere here: the middle of the hips is the pelvis; face
and hands, where any file has them, are WholeBody's. Boxes are drawn around the keypoints. ``photo_keypoints.json``
is of the picture ``photo`` in the folder of photos (or beside), ``photo.jpg`` if there is none.

It cannot hold boxes, masks, areas, ids, crowds, sizes, whether a keypoint is hidden, or other keypoints than its own.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.data.labels import Floats, Labels, array, document, person, plain, rows_of
from bodyloop.data.shards import SUFFIXES, Photos, photos_beside
from bodyloop.errors import FileError, InputError
from bodyloop.records import load_json
from bodyloop.skeletons import COCO_WHOLEBODY_133, Skeleton
from bodyloop.storage import atomic_write

NAME = "openpose"
ABOUT = "OpenPose's json, a folder of *_keypoints.json"
HOLDS = frozenset(("keypoints",))
ENDING = "_keypoints.json"


def _arm(side: str) -> list[str]:
    return [f"{side}_{n}" for n in ("shoulder", "elbow", "wrist")]


def _leg(side: str) -> list[str]:
    return [f"{side}_{n}" for n in ("hip", "knee", "ankle")]


_FACE = [f"{side}_{n}" for n in ("eye", "ear") for side in ("right", "left")]
_FEET = [f"{side}_{n}" for side in ("left", "right") for n in ("big_toe", "small_toe", "heel")]
_UPPER = ("nose", "neck", *_arm("right"), *_arm("left"))
BODY_25 = Skeleton.define("openpose-25", (*_UPPER, "pelvis", *_leg("right"), *_leg("left"), *_FACE, *_FEET))
BODY_18 = Skeleton.define("openpose-18", (*_UPPER, *_leg("right"), *_leg("left"), *_FACE))
_WHOLE = COCO_WHOLEBODY_133.keypoints
# list of a person -> names of its points; the last two of a face are pupils, which no other set has
PARTS: dict[str, tuple[str, ...]] = {
    "face_keypoints_2d": (*_WHOLE[23:91], "right_pupil", "left_pupil"),
    "hand_left_keypoints_2d": _WHOLE[91:112],
    "hand_right_keypoints_2d": _WHOLE[112:133],
}


def fits(path: Path, content: object) -> bool:
    """Whether a file's content has this layout."""
    return isinstance(content, Mapping) and isinstance(content.get("people"), list)


def read(path: Path, content: object, photos: Photos | None = None) -> Labels:
    """Labels of one file, or of all in a folder.

    Args:
        photos: where their pictures are, for their names.

    Raises:
        FileError: no file in the folder, or one that is no json. InputError: lists of another length.
    """
    files = [path] if path.is_file() else sorted(path.rglob(f"*{ENDING}"))
    if not files:
        raise FileError(f"{path}: no files *{ENDING} in it")
    root = path if path.is_dir() else path.parent
    found = [(f, _people(f)) for f in files]
    parts = {key for _, people in found for p in people for key in PARTS if p.get(key)}
    told = [p.get("pose_keypoints_2d") for _, people in found for p in people]
    sizes = {len(t) for t in told if isinstance(t, list)}
    body = BODY_18 if sizes <= {0, 54} and 54 in sizes else BODY_25
    names = (*body.keypoints, *(n for key, of in PARTS.items() if key in parts for n in of))
    skeleton = Skeleton.define(body.name if not parts else f"{body.name}-whole", names)
    photos = photos or photos_beside(path)
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for file, people in found:
        stem = file.relative_to(root).as_posix().removesuffix(".json").removesuffix("_keypoints")
        name = next((n for s in SUFFIXES if photos.find(n := stem + s)), f"{stem}.jpg")
        images.append({"id": len(images) + 1, "file_name": name})
        for i, p in enumerate(people):
            where = f"{file}: person {i}"
            k = [_points(p, "pose_keypoints_2d", len(body), where)]
            k += [_points(p, key, len(of), where) for key, of in PARTS.items() if key in parts]
            rows.append(person(len(rows) + 1, len(images), np.concatenate(k)))
    content_ = document(images, rows, skeleton)
    return Labels(path, NAME, content_, skeleton, tuple(files), knows_hidden=False)


def _people(file: Path) -> Sequence[Mapping[str, Any]]:
    content, _ = load_json(file)
    people = content.get("people") if isinstance(content, Mapping) else None
    if not isinstance(people, list) or not all(isinstance(p, Mapping) for p in people):
        raise InputError(f"{file}: has no list 'people'; is it OpenPose's?")
    return people


def _points(p: Mapping[str, Any], key: str, count: int, where: str) -> Floats:
    told = p.get(key)
    if not told:
        return np.zeros((count, 3))
    k = array(told, (3 * count,), f"{where}: {key}").reshape(count, 3)
    k[:, 2] = np.where(k[:, 2] > 0, 2, 0)
    return k


def write(labels: Labels, out: Path) -> Counter[str]:
    """Write a file a photo into a new folder; what is lost, counted.

    Raises:
        InputError: two photos would have the same file. FileError: it cannot be written.
    """
    table, lost = labels.table(), Counter[str]()
    at = {plain(n): i for i, n in enumerate(labels.skeleton.keypoints)}
    lists = {"pose_keypoints_2d": BODY_25.keypoints, **PARTS}
    places = {key: [at.get(n, -1) for n in of] for key, of in lists.items()}
    held = {i for of in places.values() for i in of}
    flags = table.keypoints[..., 2]
    lost["flags 1 (hidden), written as found"] = int((flags == 1).sum())
    lost["flags 3 (outside the window), written as found"] = int((flags == 3).sum())
    for i, name in enumerate(labels.skeleton.keypoints):
        if i not in held:
            lost[f"keypoints {name}"] = int((flags[:, i] > 0).sum())
    texts: dict[Path, str] = {}
    for image, mine in zip(labels.images, rows_of(labels), strict=True):
        place = out / labels.path_of(image)
        place = place.with_name(place.stem + ENDING)
        if place in texts:
            raise InputError(f"{labels.path}: two images would be {place}; rename one")
        people = [_person(table.keypoints[n], places, lost) for n in mine]
        texts[place] = json.dumps({"version": 1.3, "people": people}) + "\n"
    for place, text in texts.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(place) as f:
            f.write(text.encode())
    return lost


def _person(keypoints: Floats, places: Mapping[str, Sequence[int]], lost: Counter[str]) -> dict[str, Any]:
    lost["people without keypoints"] += not (keypoints[:, 2] > 0).any()
    found = np.concatenate([keypoints, np.zeros((1, 3))])  # the last for what the set does not have
    found[:, 2] = found[:, 2] > 0
    found *= found[:, 2:]
    out: dict[str, Any] = {"person_id": [-1]}
    for key, of in places.items():
        used = key == "pose_keypoints_2d" or max(of) >= 0
        out[key] = found[list(of)].ravel().tolist() if used else []
    return out
