"""People with masks, with or without keypoints, and who stands beside them: for teaching and judging segmenters.

`PersonSet` is for poses: it leaves out whoever has no keypoints. Here a mask is what counts; keypoints come along
where a set has them, and everybody else of the photo is at hand, because a segmenter has to tell people apart.
Files are of COCO's layout; crowd regions are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.data.labels import plain
from bodyloop.data.shards import Photos, photos_beside
from bodyloop.errors import FileError, InputError
from bodyloop.images import Image
from bodyloop.masks import Masks
from bodyloop.records import integers, load_json, look_up, name_of, numbers, records_of, truths
from bodyloop.skeletons import BODY_19, Skeleton

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Persons:
    """The N people of one photo.

    Attributes:
        boxes: (N, 4) ``x1 y1 x2 y2`` px. keypoints: (N, K, 3) x y flag, flag 0 where not labelled.
        masks: N, none for those whose mask is not known.
    """

    boxes: Floats
    keypoints: Floats
    masks: Masks


class MaskedPeople:
    """People of a set; those with a mask, in boxes of at least ``least_area``, are counted.

    Args:
        path: COCO layout; keypoints are optional, also in the category.
        skeleton: keypoints are moved into it by name.
        photos: None: in the folder ``images`` beside the file, or as `bodyloop.data.shards.photos_beside` finds them.
        least_area: px^2 of a box, w x h, that must be exceeded.

    Attributes:
        boxes: (N, 4) ``x1 y1 x2 y2``, clipped to the photo. image_ids, annotation_ids: (N,).

    Raises:
        FileError, InputError: unreadable or malformed; the message names file, annotation and field. Nobody fits.
    """

    def __init__(
        self,
        path: str | Path,
        skeleton: Skeleton = BODY_19,
        *,
        photos: str | Path | None = None,
        least_area: float = 0.0,
    ) -> None:
        self.path, self.skeleton = Path(path), skeleton
        document, self.digest = load_json(self.path)
        if not isinstance(document, dict):
            raise InputError(f"{self.path}: expected an object with images and annotations")
        self.photos = photos_beside(self.path) if photos is None else Photos.open(photos)
        self.images = records_of(document, "images", str(self.path))
        rows, where = records_of(document, "annotations", str(self.path)), f"{self.path}: annotation"
        crowd = truths(rows, "iscrowd", where) | truths(rows, "maybe_crowd", where)
        self._rows = [r for r, c in zip(rows, crowd.tolist(), strict=True) if not c]
        known = integers(self.images, "id", f"{self.path}: image")
        order = np.argsort(known, kind="stable")
        self._image = order[look_up(self._rows, "image_id", known[order], where, "image in the file")]
        self._sizes = numbers(self.images, "width", where, ()), numbers(self.images, "height", where, ())
        self._boxes = self._clipped(numbers(self._rows, "bbox", where, (4,)))
        self._keypoints = self._named(document, where)
        self._keypoints.flags.writeable = self._boxes.flags.writeable = False
        wh = self._boxes[:, 2:] - self._boxes[:, :2]
        fits = (wh > 0).all(axis=1) & (wh.prod(axis=1) > least_area)
        fits &= np.array([bool(r.get("segmentation")) for r in self._rows], bool)
        self._kept = np.flatnonzero(fits)
        if not len(self._kept):
            raise InputError(f"{self.path}: nobody has a mask and a box of more than {least_area:g} px^2")
        self.boxes = self._boxes[self._kept]
        self.image_ids = known[self._image[self._kept]]
        self.annotation_ids = integers(self._rows, "id", where)[self._kept]

    def __len__(self) -> int:
        return len(self._kept)

    def _clipped(self, xywh: Floats) -> Floats:
        limit = np.stack([s[self._image] for s in self._sizes], axis=1)
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        return np.asarray(np.clip(corners, 0, np.tile(limit, 2)), np.float64)

    def _named(self, document: dict[str, Any], where: str) -> Floats:
        """(M, K, 3) keypoints of all rows; flag 0 for those that a row or the set does not have."""
        out = np.zeros((len(self._rows), len(self.skeleton), 3))
        categories = records_of(document, "categories", str(self.path))
        names: list[str] = next((c["keypoints"] for c in categories if c.get("keypoints")), [])
        having = [i for i, r in enumerate(self._rows) if names and r.get("keypoints")]
        if having:
            flat = numbers([self._rows[i] for i in having], "keypoints", where, (3 * len(names),))
            places = {k: i for i, k in enumerate(self.skeleton.keypoints)}
            for column, name in enumerate(plain(str(n)) for n in names):
                if name in places:
                    out[having, places[name]] = flat.reshape(-1, len(names), 3)[:, column]
        return out

    def image(self, index: int) -> Image:
        """The photo that person ``index`` is on.

        Raises:
            FileError: it cannot be read. InputError: it is of another size than its labels.
        """
        number = int(self._image[self._kept[index]])
        record = self.images[number]
        try:
            return self.photos.read(str(record.get("file_name", "")), self._size(number), int(record["id"]))
        except (FileError, InputError) as e:
            raise type(e)(f"{self.path}: image id {record['id']}: {e}") from e

    def _size(self, number: int) -> tuple[int, int]:
        return int(self._sizes[0][number]), int(self._sizes[1][number])

    def mask(self, index: int) -> Masks:
        """The mask of person ``index``: a Masks of one.

        Raises:
            InputError: an outline or RLE is malformed; the message names the annotation.
        """
        return self._masks(self._kept[[index]])

    def beside(self, index: int) -> Persons:
        """Everybody else on the photo of person ``index``, also the small and those without masks."""
        row = self._kept[index]
        same = np.flatnonzero(self._image == self._image[row])
        rows = same[same != row]
        return Persons(self._boxes[rows], self._keypoints[rows], self._masks(rows, self._image[row]))

    def keypoints(self, index: int) -> Floats:
        """(K, 3) x y flag of person ``index``; read-only."""
        return np.asarray(self._keypoints[self._kept[index]], np.float64)

    def by_image(self) -> list[Ints]:
        """Indices of the people of each photo."""
        order = np.argsort(self.image_ids, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.image_ids[order])) + 1)

    def _masks(self, rows: Ints, image: int | None = None) -> Masks:
        size = self._size(int(self._image[rows[0]] if image is None else image))
        parts = []
        for r in rows.tolist():
            try:
                parts.append(Masks.from_any([self._rows[r].get("segmentation") or None], size))
            except InputError as e:
                who = name_of(self._rows[r], r)
                raise InputError(f"{self.path}: annotation {who}: segmentation: {e}") from e
        return Masks.concat(parts) if parts else Masks.empty(0, size)
