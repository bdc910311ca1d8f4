"""Persons of a labelled set as training samples in one target skeleton.

Labels come from any format (`bodyloop.data.formats`), photos from folders or tar files (`bodyloop.data.shards`);
what is kept of a person is a row of arrays and its mask as the file has it. Photos are read and masks are drawn
when a sample is asked for, so that a set can be handed to any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.data.formats import read_labels
from bodyloop.data.labels import FARTHEST, Labels, Table, columns_from, digest_of
from bodyloop.data.sample import U8, Sample
from bodyloop.data.shards import Photos, photos_beside
from bodyloop.errors import ConfigError, FileError, InputError
from bodyloop.geometry import iou
from bodyloop.masks import Masks
from bodyloop.records import check_objects, find, integers, load_json, numbers
from bodyloop.skeletons import SKELETONS, Skeleton

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MATCHED = 0.5  # IoU from which on a detection is of a person


class PersonSet:
    """Persons of one set, their keypoints moved into ``skeleton``.

    Between known skeletons by the tables of the published joint training, otherwise by name; keypoints that the set
    does not have are unlabelled. Left out are crowds, persons without keypoints, boxes of no area and, if asked,
    small ones (spec 11.1). Boxes are clipped to the picture's last pixel as in the published training.

    Args:
        labels: file or folder in any known format, or what was read of it.
        photos: their folder or tar file; None: as `bodyloop.data.shards.photos_beside` finds it.
        detections: a COCO list of boxes with scores; each takes the place of the box of the person it overlaps by
            an IoU of at least 0.5 (the best pairs first). Who has none keeps the labelled box.
        min_keypoints, min_height: persons with less are left out (height in px of the clipped box).

    Attributes:
        boxes: (N, 4) ``x1 y1 x2 y2``. keypoints: (N, K, 3) x y flag. areas: (N,) px^2. has_mask: (N,) bool.
        left_out: keypoints of the set that the skeleton lacks; none of a published skeleton, which tables map.
        image_ids, annotation_ids: (N,). knows_hidden: False where flag 2 only says "labelled".

    Raises:
        FileError, InputError: unreadable or malformed; the message names file, annotation and field.
        ConfigError: no keypoint of the set is one of the skeleton's.
    """

    def __init__(
        self,
        labels: str | Path | Labels,
        skeleton: Skeleton,
        *,
        photos: str | Path | Photos | None = None,
        detections: str | Path | None = None,
        min_keypoints: int = 1,
        min_height: float = 0.0,
    ) -> None:
        if isinstance(photos, str | Path):
            photos = Photos.open(photos)
        if not isinstance(labels, Labels):
            labels = read_labels(labels, photos=photos)
        self.path = labels.path
        self.files = labels.files
        self.skeleton = skeleton
        self.knows_hidden = labels.knows_hidden
        self.photos = photos or (Photos([labels.photos]) if labels.photos else photos_beside(labels.path))
        columns = columns_from(labels.skeleton, skeleton)
        if (columns < 0).all():
            raise ConfigError(
                f"{self.path}: its keypoints ({', '.join(labels.skeleton.keypoints[:4])}, ...) are none of "
                f"{skeleton.name}'s; name the skeleton's keypoints as the labels do"
            )
        published = SKELETONS.get(labels.skeleton.name) is labels.skeleton
        names = () if published else labels.skeleton.keypoints
        self.left_out = tuple(k for i, k in enumerate(names) if i not in columns)
        table = labels.table()
        boxes = table.boxes
        if detections is not None:
            boxes = _detected(labels, table, Path(detections))
        self._sizes = self._image_sizes(labels.images, np.unique(table.image))
        boxes = np.clip(boxes, 0, np.tile(self._sizes[table.image] - 1, 2))
        keypoints = np.where((columns >= 0)[:, None], table.keypoints[:, columns], 0.0)
        labelled = (keypoints[..., 2] > 0).sum(axis=1)
        fits = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (boxes[:, 3] - boxes[:, 1] >= min_height)
        kept = np.flatnonzero(fits & ~table.crowd & (table.labelled > 0) & (labelled >= min_keypoints))
        self.boxes, self.keypoints, self.areas = boxes[kept], keypoints[kept], table.area[kept]
        self.annotation_ids, self._image = table.ids[kept], table.image[kept]
        self.image_ids = np.array([i["id"] for i in labels.images], np.int64)[self._image]
        self._names = [str(i.get("file_name", "")) for i in labels.images]
        self._outlines = [_packed(labels.annotations[n].get("segmentation")) for n in kept.tolist()]
        self.has_mask = np.array([bool(s) for s in self._outlines], np.bool_)

    def _image_sizes(self, images: Sequence[Mapping[str, Any]], used: Ints) -> Floats:
        """(I, 2) width and height; of images that people are on and that have none, from their photos."""
        told = {
            key: numbers(images, key, f"{self.path}: image", (), default=np.nan)
            for key in ("width", "height")
        }
        sizes = np.stack([told["width"], told["height"]], axis=1)
        for i in used[~(sizes[used] > 0).all(axis=1)].tolist():
            sizes[i] = self.photos.size(str(images[i].get("file_name", "")))
        odd = used[((sizes[used] > FARTHEST) | (sizes[used] != np.floor(sizes[used]))).any(axis=1)]
        if len(odd):
            who = f"{self.path}: image id {images[odd[0]]['id']}"
            raise InputError(f"{who}: width and height must be whole pixels, got {sizes[odd[0]]}")
        return sizes

    @property
    def digest(self) -> str:
        """sha256 of the labels."""
        return digest_of(self.files)

    def __len__(self) -> int:
        return len(self.boxes)

    def photo(self, index: int) -> U8:
        """The photo that person ``index`` is on, (H, W, 3) RGB.

        Raises:
            FileError: it cannot be read. InputError: it is of another size than its labels.
        """
        image = self._image[index]
        w, h = self._sizes[image].astype(int).tolist()
        try:
            return self.photos.read(self._names[image], (w, h)).pixels
        except (FileError, InputError) as e:
            raise type(e)(f"{self.path}: image id {self.image_ids[index]}: {e}") from e

    def mask(self, index: int) -> U8 | None:
        """The mask of person ``index``, (H, W) 0/1; None if it has none, or an empty one.

        Raises:
            InputError: an outline or RLE is malformed.
        """
        if not self.has_mask[index]:
            return None
        w, h = self._sizes[self._image[index]].astype(int).tolist()
        try:
            mask = Masks.from_any([self._outlines[index]], (w, h))
        except InputError as e:
            raise InputError(
                f"{self.path}: annotation id {self.annotation_ids[index]}: segmentation: {e}"
            ) from e
        return mask.bitmap(0).view(np.uint8) if mask.present[0] else None

    def sample(self, index: int, with_mask: bool = True) -> Sample:
        """The sample of person ``index``."""
        mask = self.mask(index) if with_mask else None
        return Sample.create(self.photo(index), self.skeleton, self.keypoints[index], self.boxes[index], mask)


def _packed(outline: Any) -> Any:
    """Polygons as arrays, which take a fifth of the memory; what is malformed stays, and is named when it is drawn."""
    if not isinstance(outline, list) or not all(isinstance(p, list) for p in outline):
        return outline
    try:
        return [np.asarray(p, np.float64) for p in outline]
    except (TypeError, ValueError):
        return outline


# ------------------------------------------------------------------ boxes of a detector


def match_boxes(boxes: Floats, detections: Floats, least: float = MATCHED) -> npt.NDArray[np.intp]:
    """(N,) which of detections (M, 4) is of each box (N, 4), -1 for none; both ``x1 y1 x2 y2``.

    The pairs of the highest IoU first, each box and each detection once.
    """
    out = np.full(len(boxes), -1, np.intp)
    overlap = iou(boxes, detections)
    taken = np.zeros(len(detections), np.bool_)
    for flat in np.argsort(-overlap, axis=None, kind="stable").tolist():
        i, j = divmod(flat, len(detections))
        if overlap[i, j] < least:
            break
        if out[i] < 0 and not taken[j]:
            out[i], taken[j] = j, True
    return out


def _detected(labels: Labels, table: Table, path: Path) -> Floats:
    """The boxes (N, 4) of the annotations, those of detected people from the file of detections."""
    found, _ = load_json(path)
    if not isinstance(found, list):
        raise InputError(f"{path}: expected a list of boxes with image_id and score")
    check_objects(found, f"{path}: detection")
    where = f"{path}: detection"
    xywh = numbers(found, "bbox", where, (4,))
    numbers(found, "score", where, ())  # of results, not of labels
    known = np.array([i["id"] for i in labels.images], np.int64)
    order = np.argsort(known, kind="stable")
    at, there = find(integers(found, "image_id", where), known[order])
    image = np.where(there, order[at], -1)
    boxes, theirs = table.boxes.copy(), np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    by_image = np.argsort(image, kind="stable")
    people = np.flatnonzero(~table.crowd)
    people = people[np.argsort(table.image[people], kind="stable")]
    for i in np.unique(table.image[people]).tolist():
        mine = people[slice(*np.searchsorted(table.image[people], [i, i + 1]))]
        there_ = by_image[slice(*np.searchsorted(image[by_image], [i, i + 1]))]
        best = match_boxes(boxes[mine], theirs[there_])
        boxes[mine[best >= 0]] = theirs[there_[best[best >= 0]]]
    return boxes
