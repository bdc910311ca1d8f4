"""Masks for people that have none, by any segmenter, from their boxes and keypoints.

Models that take masks (MaskPose, PMPose) were trained with masks that SAM made for MPII and AIC, and that were never
published. `make_masks` makes such ones: it writes a new COCO file, the masks as RLE, areas those of the masks where
the set had only estimates. Photos are worked on in groups, and every group is a small file in ``<out>.parts`` that is
whole or not there: a call that was stopped is given again, and any number of processes may work on the same ``out`` at
once (``part`` shares the work between them). Whoever finds all groups there joins them.

A segmenter is any function ``f(image, boxes, keypoints)`` with the photo (H, W, 3) uint8 RGB, boxes (N, 4)
``x1 y1 x2 y2`` and keypoints (N, K, 3) ``x y flag`` in its px; it gives a bitmap (H, W) for each of the N people, or
None: a list, or one array (N, H, W), of bool, integers or floats from 0 to 1.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bodyloop.data.cropcoco_folder import make_folder
from bodyloop.data.formats import read_labels
from bodyloop.data.labels import Floats, Labels, Table, coco_document, digest_of, rows_of
from bodyloop.data.shards import Photos, photos_beside
from bodyloop.errors import ConfigError, FileError, InputError
from bodyloop.masks import Masks
from bodyloop.records import load_json
from bodyloop.storage import atomic_write

Progress = Callable[[int, int], None]

GROUP = 16  # photos of a group: what is lost when a process is killed
LEAST_SIDE = 8.0  # px of a box: what is smaller has no mask worth having
OUTCOMES = ("made", "kept", "small", "empty")


class SegmentPeople(Protocol):
    """Draws the masks of people in a photo, from their boxes and keypoints."""

    def __call__(
        self, image: npt.NDArray[np.uint8], boxes: Floats, keypoints: Floats, /
    ) -> Sequence[npt.ArrayLike | None] | npt.NDArray[np.generic]:
        """N bitmaps (H, W), None for who cannot be found; see the module."""
        ...


@dataclass(frozen=True, eq=False)
class MadeMasks:
    """What became of the people of a set.

    Attributes:
        out: the file, None as long as other processes have groups to do.
        counts: people whose mask was "made" or "kept" (they had one), or who have none: too "small", or the
            segmenter's answer was "empty".
        done, groups: groups that are there, and in all.
    """

    out: Path | None
    counts: Mapping[str, int]
    done: int
    groups: int


def make_masks(
    labels: str | Path,
    out: str | Path,
    segmenter: SegmentPeople,
    *,
    photos: str | Path | None = None,
    name: str = "",
    format: str | None = None,
    split: str = "train",
    part: tuple[int, int] = (1, 1),
    least_side: float = LEAST_SIDE,
    progress: Progress | None = None,
) -> MadeMasks:
    """Write labels with masks for everybody who has none.

    Args:
        labels: file or folder in any known format.
        out: a new COCO file, or one that an equal call began.
        segmenter: as the module says. name: what it is called in the file, and held against when going on.
        photos: their folder or tar; None: beside the labels.
        part: (i, n): do every n-th group from the i-th (1 to n) on.
        least_side: px; people whose box (clipped to the photo) is narrower or lower are left without.
        progress: called with photos done and photos of this part.

    Raises:
        FileError: ``out`` is the input, or was made of something else; photos are missing. InputError: malformed
            labels, or an answer of the segmenter that does not fit; the message names the image.
    """
    out = Path(out)
    given = Photos.open(photos) if photos is not None else None
    read = read_labels(labels, format=format, photos=given, split=split)
    if any(out.exists() and f.exists() and out.samefile(f) for f in read.files):
        raise FileError(f"{out}: is the input, which is never written over; name another file")
    place = given or (Photos([read.photos]) if read.photos else photos_beside(read.path))
    made = {"labels": digest_of(read.files), "segmenter": name, "least_side": least_side}
    if out.exists():
        return _finished(out, made)
    job = _Job(read, read.table(), place, segmenter, least_side)
    groups = [list(range(i, min(i + GROUP, len(read.images)))) for i in range(0, len(read.images), GROUP)]
    folder = make_folder(out.with_name(out.name + ".parts"))
    _claim(folder, made)
    _work(job, groups, folder, out, part, progress)
    done = [folder / f"{g}.json" for g in range(len(groups)) if (folder / f"{g}.json").is_file()]
    if len(done) == len(groups):
        with _unless_finished(out):
            rows = {int(n): row for path in done for n, row in load_json(path)[0].items()}
            _join(read, rows, {**made, "groups": len(groups)}, out)
    elif not out.exists():  # where it does another process has joined them, and tidies up
        return MadeMasks(None, {}, len(done), len(groups))
    with suppress(OSError):  # or another process tidies up
        for path in (*done, folder / "of.json"):
            path.unlink(missing_ok=True)
        folder.rmdir()
    return _finished(out, made)


def segmenter_named(name: str) -> SegmentPeople:
    """The function ``package.module:function``, of a package that is installed or in the current folder.

    Raises:
        ConfigError: not written so, or there is no such module or function.
    """
    module, _, function = name.partition(":")
    if not module or not function:
        raise ConfigError(f"segmenter {name!r}: expected package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as e:
        raise ConfigError(f"segmenter {name!r}: {e}; write package.module:function") from e
    if not callable(found):
        raise ConfigError(f"segmenter {name!r}: is no function")
    segment: SegmentPeople = found
    return segment


# ------------------------------------------------------------------ the work


@dataclass(frozen=True, eq=False)
class _Job:
    labels: Labels
    table: Table
    photos: Photos
    segmenter: SegmentPeople
    least_side: float

    def group(self, images: Sequence[int], rows: Sequence[Sequence[int]]) -> dict[int, dict[str, Any]]:
        """Size of the photo, outcome and mask of the people of some images, by their number."""
        return {n: row for i in images for n, row in self._image(i, rows[i]).items()}

    def _image(self, i: int, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        record = self.labels.images[i]
        who = f"{self.labels.path}: image id {record['id']}"
        people = [n for n in rows if not self.table.crowd[n]]
        if not people:
            return {}
        out: dict[int, dict[str, Any]] = {
            n: {"outcome": "kept"} for n in people if self.labels.annotations[n].get("segmentation")
        }
        todo = [n for n in people if n not in out]
        sized = {"width", "height"} <= record.keys()
        if todo or not sized:
            image = self.photos.read(
                str(record.get("file_name", "")), self.labels.size_of(record) if sized else None
            )
            out |= self._segmented(image.pixels, todo, who)
            out = {n: row | {"size": list(image.size)} for n, row in out.items()}
        return out

    def _segmented(
        self, pixels: npt.NDArray[np.uint8], todo: Sequence[int], who: str
    ) -> dict[int, dict[str, Any]]:
        h, w = pixels.shape[:2]
        boxes = np.clip(self.table.boxes[todo], 0, [w, h, w, h])
        tall = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= self.least_side
        out: dict[int, dict[str, Any]] = {
            n: {"outcome": "small"} for n, t in zip(todo, tall.tolist(), strict=True) if not t
        }
        asked = [n for n, t in zip(todo, tall.tolist(), strict=True) if t]
        if not asked:
            return out
        answer = self.segmenter(pixels, boxes[tall], self.table.keypoints[asked])
        try:
            masks = Masks.from_bitmaps(answer if isinstance(answer, np.ndarray) else list(answer), (w, h))
        except (InputError, TypeError) as e:
            raise InputError(f"{who}: the segmenter's masks: {e}") from e
        if len(masks) != len(asked):
            raise InputError(f"{who}: the segmenter gave {len(masks)} masks for {len(asked)} people")
        for at, n in enumerate(asked):
            there = bool(masks.present[at])
            out[n] = {"outcome": "made", "mask": masks.rle(at)} if there else {"outcome": "empty"}
        return out


def _work(
    job: _Job,
    groups: Sequence[Sequence[int]],
    folder: Path,
    out: Path,
    part: tuple[int, int],
    progress: Progress | None,
) -> None:
    """Do the groups of a part that are not there."""
    first, every = part
    if not 1 <= first <= every:
        raise ConfigError(f"part must be i of n with i from 1 to n, got {first} of {every}")
    rows = rows_of(job.labels)
    mine = range(first - 1, len(groups), every)
    total, done = sum(len(groups[g]) for g in mine), 0
    for g in mine:
        path = folder / f"{g}.json"
        if not path.is_file() and not out.exists():
            found = job.group(groups[g], rows)
            with _unless_finished(out), atomic_write(path) as f:
                f.write(json.dumps(found).encode())
        done += len(groups[g])
        if progress is not None:
            progress(done, total)


def _join(
    labels: Labels, found: Mapping[int, Mapping[str, Any]], made: Mapping[str, object], out: Path
) -> None:
    """Write the labels with the masks."""
    content = coco_document(labels)
    images = {i["id"]: i for i in labels.images}
    rows = content["annotations"]
    for n, one in found.items():
        if "mask" in one:
            rows[n] = _masked(rows[n], one["mask"])
        if "size" in one:
            w, h = one["size"]
            image = rows[n]["image_id"]
            images[image] = images[image] | {"width": w, "height": h}
    counted = Counter(one["outcome"] for one in found.values())
    told = {**made, "counts": {k: counted[k] for k in OUTCOMES}}
    content |= {"info": {**content.get("info", {}), "masks": told}, "images": list(images.values())}
    with atomic_write(out) as f:
        f.write((json.dumps(content, separators=(",", ":")) + "\n").encode())


def _masked(row: Mapping[str, Any], rle: Mapping[str, Any]) -> dict[str, Any]:
    """An annotation with a mask, whose area takes the place of an estimated one."""
    done = {**row, "segmentation": dict(rle), "mask_made": 1}
    if done.pop("area_estimated", None):
        done["area"] = float(Masks.from_rle([rle]).areas[0])
    return done


# ------------------------------------------------------------------ going on


@contextmanager
def _unless_finished(out: Path) -> Iterator[None]:
    """What fails because another process has joined the groups meanwhile does not matter."""
    try:
        yield
    except FileError:
        if not out.exists():
            raise


def _claim(folder: Path, made: Mapping[str, object]) -> None:
    """Take the folder of groups, or go on with that of an equal call."""
    path = folder / "of.json"
    if not path.is_file():
        with atomic_write(path) as f:
            f.write(json.dumps(made).encode())
    _compare(load_json(path)[0], made, folder)


def _finished(out: Path, made: Mapping[str, object]) -> MadeMasks:
    """What is there already, if an equal call made it."""
    content, _ = load_json(out)
    info = content.get("info") if isinstance(content, Mapping) else None
    told = info.get("masks") if isinstance(info, Mapping) else None
    if not isinstance(told, Mapping):
        raise FileError(f"{out}: is there already and was not made by this; name a new file")
    _compare(told, made, out)
    groups = int(told.get("groups", 0))
    return MadeMasks(out, dict(told.get("counts", {})), groups, groups)


def _compare(there: object, made: Mapping[str, object], where: Path) -> None:
    told = there if isinstance(there, Mapping) else {}
    other = [f"{k} {told.get(k)!r}, now {v!r}" for k, v in made.items() if told.get(k) != v]
    if other:
        raise FileError(
            f"{where}: was made of something else ({'; '.join(other)}); name another file, or remove this"
        )
