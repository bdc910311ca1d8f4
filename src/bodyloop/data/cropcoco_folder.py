"""A CropCOCO-like set on disk: annotation file, COCO-compatible twin, cut photos, statistics.

    OUT/cropcoco.json                               what the set was made from, and how
    OUT/annotations/person_keypoints_<name>.json    the set
    OUT/annotations/coco_compatible_<name>.json     its twin for tools that know no flag 3
    OUT/<name>/                                     the photos
    OUT/statistics.json

The layout is that of the published set. Every image is the work of one function of it, the seed and nothing
else, so that processes may share the images in any way. Files take their names when they are whole: a run
that was killed is started again with the same call and cuts only the photos that are not there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from bodyloop.data.cropcoco import (
    PROCEDURE,
    CropSet,
    Cut,
    Record,
    assemble,
    by_image,
    coco_twin,
    crop_image_annotations,
    cut_image,
    to_bytes,
)
from bodyloop.errors import BodyloopError, FileError, InputError
from bodyloop.geometry import PADDING
from bodyloop.images import Image, read
from bodyloop.storage import atomic_write

Progress = Callable[[int, int], None]
Todo = TypeVar("Todo")
Done = TypeVar("Done")

MANIFEST = "cropcoco.json"
FORMAT = "bodyloop/cropcoco-1"
QUALITY = 95  # of the JPEG files: the photos are encoded a second time
PREFIX, TWIN_PREFIX = "person_keypoints_", "coco_compatible_"
IMAGES_A_WORKER = 200  # fewer are cut before another process has started
_PART = ".*.part"  # what `atomic_write` leaves when it is killed


@dataclass(frozen=True, eq=False)
class BuiltSet:
    """Where a set was written, and the set.

    Attributes:
        annotations, twin, photos, statistics: of the files and the folder of photos.
        crops: what was written.
        written: photos cut by this call; the others were there.
    """

    annotations: Path
    twin: Path
    photos: Path
    statistics: Path
    crops: CropSet
    written: int


def build_folder(
    document: Record,
    images: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    name: str,
    source: Mapping[str, Any],
    seed: int = 0,
    padding: float = PADDING,
    quality: int = QUALITY,
    workers: int | None = None,
    progress: Progress | None = None,
) -> BuiltSet:
    """Crop the photos of a COCO keypoint file and write them with their labels.

    Args:
        document: the loaded json of a COCO-layout keypoint file.
        images: folder of its photos.
        out: a new folder, or one that an earlier, equal call began.
        name: of the set; its photos go to the folder of this name.
        source: what ``document`` is (its sha256, say); kept in the manifest and held against it.
        seed, padding: as in `bodyloop.data.cropcoco.build`.
        quality: 1..100, of the JPEG files.
        workers: processes; None: as many as there are cores and work for. Nothing that is written depends on it.
        progress: called with images done and images in all.

    Raises:
        FileError: a photo cannot be read or written; ``out`` holds something else.
        InputError: a malformed file, photos of another size than their labels say, names that would leave
            ``out``.
    """
    folder, root = Path(images), Path(out)
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder of photos; name the one that the file's photos are in")
    todo = by_image(document)
    _check_names([image for image, _ in todo])
    made = {"procedure": PROCEDURE, "seed": seed, "padding": padding, "quality": quality, "name": name}
    claim(root, {**made, "source": dict(source)})
    photos = root / name
    before = len(_jpegs(photos))
    job = _Job(folder, photos, seed, padding, quality)
    crops = []
    for cut in in_processes(job, todo, workers):
        crops.append(cut)
        if progress is not None:
            progress(len(crops), len(todo))
    done = assemble(document, crops, seed, padding=padding)
    annotations = make_folder(root / "annotations")
    built = BuiltSet(
        annotations / f"{PREFIX}{name}.json",
        annotations / f"{TWIN_PREFIX}{name}.json",
        photos,
        root / "statistics.json",
        done,
        len(_jpegs(photos)) - before,
    )
    _write(built.twin, to_bytes(coco_twin(done.document)))
    _write(built.statistics, (json.dumps({**made, **done.statistics}, indent=1) + "\n").encode())
    _write(built.annotations, done.to_bytes())
    return built


# ------------------------------------------------------------------ names and places


def set_name(annotations: str | os.PathLike[str]) -> str:
    """What a set is called by its annotation file: ``val2017`` of ``person_keypoints_val2017.json``."""
    stem = Path(annotations).name.removesuffix(".gz").removesuffix(".json")
    name = stem.removeprefix(PREFIX).removeprefix(TWIN_PREFIX)
    return "images" if name in ("", "annotations") else name


def photo_folder(annotations: str | os.PathLike[str]) -> Path:
    """Where the photos of an annotation file are unless somebody says otherwise.

    ``<name>`` beside the folder ``annotations`` if both are there, ``images`` beside the file otherwise.
    """
    path = Path(annotations)
    beside = path.parent.parent / set_name(path)
    return beside if path.parent.name == "annotations" and beside.is_dir() else path.parent / "images"


def read_labelled(
    path: str | os.PathLike[str], sizes: Sequence[tuple[int, int]], image_id: int | None = None
) -> Image:
    """A photo as it was when it was labelled: as it is stored, or turned by its EXIF entry, by the size.

    Args:
        sizes: (width, height) that the labels may speak of.

    Raises:
        FileError: it cannot be read. InputError: it has another size.
    """
    image = read(path, orient=False, id=image_id)
    if image.size not in sizes:
        image = read(path, id=image_id)
    if image.size not in sizes:
        told = " or ".join(map(str, sizes))
        raise InputError(
            f"{os.fspath(path)}: {image.size} px, but its labels (image id {image_id}) are for {told}"
        )
    return image


def photo_name(image: Record) -> str:
    """The name under which a cut photo is written: its own, ending in .jpg.

    Raises:
        InputError: no name, or one that leads out of the folder.
    """
    name = image.get("file_name")
    path = inner_path(name)
    if path is None:
        raise InputError(
            f"image {image.get('id')}: field 'file_name' must be a file below the photos' folder, got {name!r}"
        )
    kept = path if path.suffix.lower() in (".jpg", ".jpeg") else path.with_suffix(".jpg")
    return kept.as_posix()


def inner_path(name: object) -> PurePosixPath | None:
    """A name from a file or an archive as a path below a folder; None if it is none or leads out of it."""
    path = PureWindowsPath(name if isinstance(name, str) else "")  # knows both kinds of separators
    if not path.name or path.anchor or ".." in path.parts or "\0" in str(name):
        return None
    return PurePosixPath(path.as_posix())


def claim(
    root: Path,
    content: Mapping[str, Any],
    *,
    manifest: str = MANIFEST,
    format: str = FORMAT,
    alone: bool = True,
) -> None:
    """Take a folder for a set: its manifest says what is made there, and an unequal one is left alone.

    Args:
        alone: nobody else is writing there, so that what a killed run left half written can be removed.

    Raises:
        FileError: the folder holds something else, or cannot be written.
    """
    path = root / manifest
    mine = json.loads(json.dumps({"format": format, **content}))
    if not path.is_file():
        if root.is_dir() and any(not p.match(_PART) for p in root.iterdir()):
            raise FileError(f"{root}: holds files and is no set of this command; name a new or empty folder")
        make_folder(root)
        _write(path, (json.dumps(mine, indent=1) + "\n").encode())
        return
    try:
        there = json.loads(path.read_bytes())
    except (OSError, ValueError) as e:
        raise FileError(f"{path}: cannot be read ({e}); remove the folder or name another one") from e
    if there != mine:
        told = there if isinstance(there, dict) else {}
        keys = [k for k in (told | mine) if told.get(k) != mine.get(k)]
        differing = "; ".join(f"{k} {_shown(told.get(k))} there, {_shown(mine.get(k))} here" for k in keys)
        raise FileError(f"{root}: holds another set ({differing}); name another folder, or remove this one")
    for part in root.rglob(_PART) if alone else ():
        part.unlink(missing_ok=True)


def make_folder(path: Path) -> Path:
    """The folder, made if necessary."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise FileError(f"{path}: the folder cannot be made: {e.strerror or e}") from e
    return path


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 90 else text[:87] + "..."


def _check_names(images: Sequence[Record]) -> None:
    taken: dict[str, object] = {}
    for image in images:
        name = photo_name(image)
        if name in taken:
            raise InputError(
                f"images {taken[name]} and {image.get('id')}: their photos would both be written as {name}; "
                "rename one"
            )
        taken[name] = image.get("id")


def _write(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def _jpegs(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg")]


# ------------------------------------------------------------------ the work


@dataclass(frozen=True)
class _Job:
    """What all images have in common."""

    images: Path
    photos: Path
    seed: int
    padding: float
    quality: int

    def __call__(self, todo: tuple[Record, Sequence[Record]]) -> Cut | None:
        """Crop one image: its labels, and its photo unless it is there."""
        cut = crop_image_annotations(*todo, self.seed, padding=self.padding)
        if cut is None:
            return None
        image = cut[0] | {"file_name": photo_name(todo[0])}
        path = self.photos / image["file_name"]
        if not path.exists():
            self._write_photo(image, self.images / todo[0]["file_name"], path)
        return image, cut[1]

    def _write_photo(self, image: Record, source: Path, target: Path) -> None:
        import cv2

        c = image["crop"]
        photo = read_labelled(source, [(c["full_width"], c["full_height"])], image["id"])
        bgr = cut_image(photo.pixels, image)[:, :, ::-1]
        done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, self.quality])
        if not done:
            raise FileError(f"{target}: the cut photo cannot be encoded as JPEG")
        make_folder(target.parent)
        _write(target, data.tobytes())


def in_processes(job: Callable[[Todo], Done], todo: Sequence[Todo], workers: int | None) -> Iterator[Done]:
    """What a job makes of each of some things, in their order. None: as many processes as cores and work."""
    if workers is None:
        workers = min(_cores(), -(-len(todo) // IMAGES_A_WORKER))
    if workers <= 1:
        yield from map(job, todo)
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    # Spawned, not forked: OpenCV's threads do not survive a fork.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)
    try:
        yield from pool.map(job, todo, chunksize=4)
    except BrokenProcessPool as e:
        raise BodyloopError(
            "a process that made photos has ended, probably for want of memory; what is done is kept: "
            "call again with fewer --workers"
        ) from e
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when it ends, however that comes."""
    import signal
    import threading

    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
