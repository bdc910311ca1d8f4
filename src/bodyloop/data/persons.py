"""Persons of COCO-layout annotation files as training samples in one target skeleton.

Photos are kept as the JPEG bytes that were read (a whole data set in memory at the size it has on disk) and
decoded when a sample is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.data.sample import U8, Sample
from bodyloop.errors import FileError, InputError
from bodyloop.skeletons import Skeleton


@dataclass(frozen=True, eq=False)
class Person:
    """One annotation: where its photo is, its plain box, keypoints (K, 3) ``x y v``, polygons."""

    photo: Path
    image_id: int
    annotation_id: int
    image_size: tuple[int, int]
    box: npt.NDArray[np.float64]
    keypoints: npt.NDArray[np.float64]
    area: float
    polygons: tuple[npt.NDArray[np.float64], ...]


class PersonSet:
    """Persons of one annotation file, their keypoints moved by name into ``skeleton``.

    Persons without keypoints, crowds, boxes of no area and, if asked, small ones are left out
    (spec 11.1). Boxes are clipped to the picture's last pixel as in the published training.
    """

    def __init__(
        self,
        annotations: str | Path,
        skeleton: Skeleton,
        *,
        min_keypoints: int = 1,
        min_height: float = 0.0,
    ) -> None:
        self.path = Path(annotations)
        self.skeleton = skeleton
        table = _read_json(self.path)
        names = _keypoint_names(table, self.path)
        self.columns = np.array([names.index(k) if k in names else -1 for k in skeleton.keypoints])
        images = {im["id"]: im for im in table["images"]}
        folder = self.path.parent / "images"
        self.persons: list[Person] = []
        for number, a in enumerate(table["annotations"]):
            try:
                person = self._person(a, images, folder, len(names))
            except (KeyError, TypeError, ValueError) as e:
                raise InputError(f"{self.path}: annotations[{number}] (id {a.get('id')}): {e!r}") from e
            if person is None or (person.keypoints[:, 2] > 0).sum() < min_keypoints:
                continue
            if person.box[3] - person.box[1] < min_height:
                continue
            self.persons.append(person)
        self._bytes: dict[Path, npt.NDArray[np.uint8]] = {}

    def _person(
        self, a: Mapping[str, Any], images: Mapping[Any, Mapping[str, Any]], folder: Path, count: int
    ) -> Person | None:
        if a.get("iscrowd") or not a.get("num_keypoints"):
            return None
        im = images[a["image_id"]]
        w, h = int(im["width"]), int(im["height"])
        x, y, bw, bh = (float(v) for v in a["bbox"])
        x1, y1 = np.clip(x, 0, w - 1), np.clip(y, 0, h - 1)
        x2, y2 = np.clip(x + bw, 0, w - 1), np.clip(y + bh, 0, h - 1)
        if x2 <= x1 or y2 <= y1:
            return None
        source = np.asarray(a["keypoints"], np.float64).reshape(count, 3)
        kp = np.where(self.columns[:, None] >= 0, source[self.columns], 0.0)
        seg = a.get("segmentation")
        polygons = [np.asarray(p, np.float64).reshape(-1, 2) for p in seg] if isinstance(seg, list) else []
        return Person(
            folder / im["file_name"],
            int(im["id"]),
            int(a["id"]),
            (w, h),
            np.array([x1, y1, x2, y2], np.float64),
            kp,
            float(a.get("area") or bw * bh),
            tuple(p for p in polygons if len(p) >= 3),
        )

    def __len__(self) -> int:
        return len(self.persons)

    def photo(self, person: Person) -> U8:
        """Decode the person's photo, (H, W, 3) RGB."""
        import cv2

        data = self._bytes.get(person.photo)
        if data is None:
            try:
                data = np.fromfile(person.photo, np.uint8)
            except OSError as e:
                raise FileError(f"{person.photo}: named in {self.path} but cannot be read: {e}") from e
            self._bytes[person.photo] = data
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None:
            raise FileError(f"{person.photo}: not a picture that can be decoded")
        return pixels  # type: ignore[return-value]

    def sample(self, index: int, with_mask: bool = True) -> Sample:
        """The sample of person ``index``."""
        import cv2

        p = self.persons[index]
        mask = None
        if with_mask and p.polygons:
            mask = np.zeros((p.image_size[1], p.image_size[0]), np.uint8)
            cv2.fillPoly(mask, [np.rint(q).astype(np.int32) for q in p.polygons], (1,))
        return Sample.create(self.photo(p), self.skeleton, p.keypoints, p.box, mask)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise FileError(f"{path}: cannot read annotations: {e}") from e
    except (UnicodeDecodeError, json.JSONDecodeError) as e:
        raise FileError(f"{path}: not JSON: {e}") from e
    missing = [k for k in ("images", "annotations", "categories") if k not in table]
    if not isinstance(table, dict) or missing:
        raise InputError(f"{path}: not a COCO-layout file: no {', '.join(missing)}")
    return table


def _keypoint_names(table: Mapping[str, Any], path: Path) -> Sequence[str]:
    for category in table["categories"]:
        if category.get("keypoints"):
            return [str(k) for k in category["keypoints"]]
    raise InputError(f"{path}: no category lists its keypoints' names")
