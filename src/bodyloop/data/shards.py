"""The photos of a data set: in folders or in tar files (shards), which are read without unpacking.

A tar is gone through once; where each photo begins is kept beside it (``<name>.tar.index.json``, renewed when
the tar changes; in memory where nothing can be written). `Photos` opens files only while it reads, so that it
can be handed to any number of processes. A photo is found by its name as the labels have it, or where one path
is the tail of the other: ``train/1.jpg`` in the folder or tar that holds ``coco/train/1.jpg`` or ``1.jpg``.
"""

from __future__ import annotations

import json
import logging
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from bodyloop.data.cropcoco_folder import inner_path, set_name
from bodyloop.errors import FileError, InputError
from bodyloop.images import Image, decode, header
from bodyloop.records import load_json
from bodyloop.storage import atomic_write

logger = logging.getLogger(__name__)

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif"))
HEAD = 1 << 16  # bytes that hold a picture's header, unless it has a large preview
INDEX = ".index.json"
_VERSION = 1
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


@dataclass(frozen=True)
class Place:
    """Where the bytes of a photo are: a whole file, or ``size`` bytes of it from ``start`` on."""

    file: Path
    start: int = 0
    size: int = -1

    def read(self, limit: int = -1) -> bytes:
        """The bytes, or the first ``limit`` of them.

        Raises:
            FileError: unreadable, or cut off.
        """
        wanted = self.size if limit < 0 or 0 <= self.size < limit else limit
        try:
            with self.file.open("rb") as f:
                f.seek(self.start)
                data = f.read(wanted)
        except OSError as e:
            raise FileError(f"{self.file}: cannot be read: {e.strerror or e}") from e
        if wanted > len(data) and self.size >= 0:
            raise FileError(f"{self.file}: ends within a photo; fetch it again")
        return data


class Photos:
    """Photos in folders and tar files.

    Args:
        places: folders (those of tar files: `open`) and tar files, searched in this order.
    """

    def __init__(self, places: Sequence[Path]) -> None:
        self.places = tuple(places)
        self._folders = [p for p in places if p.is_dir()]
        self._members: dict[str, Place] = {}
        for p in places:
            if not p.is_dir():
                self._members = tar_index(p) | self._members
        self._tails: dict[str, list[str]] | None = None

    @classmethod
    def open(cls, path: str | Path) -> Photos:
        """Photos of a folder, of a tar file, or of a folder of tar files.

        Raises:
            FileError: there is no such thing, or a tar cannot be read.
        """
        p = Path(path)
        if p.is_dir():
            return cls([p, *sorted(p.glob("*.tar"))])
        if not p.is_file():
            raise FileError(f"{p}: no such folder or tar file of photos; name the one they are in")
        return cls([p])

    def find(self, name: str) -> Place | None:
        """Where a photo is, None if it is nowhere.

        Raises:
            InputError: a name that leads out of every folder, or that fits several photos.
        """
        parts = inner_parts(name)
        inner = "/".join(parts)
        for folder in self._folders:
            if (folder / inner).is_file():
                return Place(folder / inner)
        if inner in self._members:
            return self._members[inner]
        if self._tails is None:
            self._tails = self._by_tail()
        common = {n: _common_tail(n.split("/"), parts) for n in self._tails.get(parts[-1], ())}
        best = [n for n, c in common.items() if c and c == max(common.values())]
        if len(best) > 1:
            raise InputError(f"photo {name!r}: could be {best[0]} or {best[1]}; write more of its path")
        return self._place(best[0]) if best else None

    def __getitem__(self, name: str) -> Place:
        """Where a photo is.

        Raises:
            FileError: nowhere. InputError: as `find`.
        """
        place = self.find(name)
        if place is None:
            told = ", ".join(map(str, self.places)) or "no folder"
            raise FileError(f"photo {name!r} is not in {told}; name the folder or tar that it is in")
        return place

    def read(self, name: str, size: tuple[int, int] | None = None, id: int | None = None) -> Image:
        """A photo as it was when it was labelled: as it is stored, or turned by its EXIF entry, by its size.

        Args:
            size: (width, height) that the labels speak of; None: as it is stored.

        Raises:
            FileError: it is not there, or no picture. InputError: it has another size.
        """
        data = self[name].read()
        image = decode(data, name, orient=False, id=id)
        if size is not None and image.size != size:
            image = decode(data, name, id=id)
            if image.size != size:
                raise InputError(f"photo {name!r}: {image.size} px, but its labels are for {size}")
        return image

    def size(self, name: str, *, oriented: bool = False) -> tuple[int, int]:
        """(width, height) as stored, or as the EXIF entry turns it; from the photo's header.

        Raises:
            FileError: it is not there, or no picture.
        """
        place = self[name]
        try:
            _, (w, h), turned = header(place.read(HEAD), name)
        except FileError:
            _, (w, h), turned = header(place.read(), name)
        return (h, w) if oriented and turned >= 5 else (w, h)

    def names(self) -> list[str]:
        """Paths of all photos below the folders and in the tars, sorted."""
        return sorted({*self._members, *self._below()})

    def _below(self) -> Iterable[str]:
        for folder in self._folders:
            for p in folder.rglob("*"):
                if p.suffix.lower() in SUFFIXES:
                    yield p.relative_to(folder).as_posix()

    def _by_tail(self) -> dict[str, list[str]]:
        tails: dict[str, list[str]] = {}
        for n in self.names():
            tails.setdefault(n.rpartition("/")[2], []).append(n)
        return tails

    def _place(self, name: str) -> Place:
        for folder in self._folders:
            if (folder / name).is_file():
                return Place(folder / name)
        return self._members[name]


def inner_parts(name: object) -> list[str]:
    """The parts of a photo's name below whatever folder it is in.

    Raises:
        InputError: no name, or one that leads out of its folder.
    """
    path = PureWindowsPath(name if isinstance(name, str) else "")  # knows both kinds of separators
    inner = inner_path(str(path.relative_to(path.anchor)))
    if inner is None:
        raise InputError(f"file_name must be the path of a photo below its folder, got {name!r}")
    return list(inner.parts)


def _common_tail(a: Sequence[str], b: Sequence[str]) -> int:
    """The number of last parts that two paths share if one is the other's tail, else 0."""
    n = min(len(a), len(b))
    return n if list(a[-n:]) == list(b[-n:]) else 0


def photos_beside(labels: str | Path) -> Photos:
    """The photos of a file (or folder) of labels whose place nobody named.

    The first of these that is there: a folder ``images`` or ``<name>`` beside the file; tar files ``images*.tar`` or
    ``<name>*.tar`` beside it; its own folder. ``<name>`` is ``train2017`` of ``person_keypoints_train2017.json``. Of
    a file in a folder ``annotations`` or ``annot`` what is beside that folder comes first. Folders may hold tars.
    """
    path = Path(labels)
    names = list(dict.fromkeys(("images", set_name(path))))
    homes = [path if path.is_dir() else path.parent]
    if path.parent.name in ("annotations", "annot"):
        homes.insert(0, path.parent.parent)
        names.reverse()
    for folder in (home / n for home in homes for n in names):
        if folder.is_dir():
            return Photos.open(folder)
    tars = [p for home in homes for n in names for p in sorted(home.glob(f"{n}*.tar"))]
    return Photos(tars or [homes[-1]])


# ------------------------------------------------------------------ tar files


def tar_index(path: Path) -> dict[str, Place]:
    """Every photo of a tar file by its path in it; the last one of several with the same path.

    Raises:
        FileError: it cannot be read, is compressed, or ends too early.
    """
    try:
        state = path.stat()
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror or e}") from e
    kept = path.with_name(path.name + INDEX)
    stamp = [_VERSION, state.st_size, state.st_mtime_ns]
    rows = _kept_rows(kept, stamp)
    if rows is None:
        rows = _rows(path, state.st_size)
        try:
            with atomic_write(kept) as f:
                f.write(json.dumps({"of": stamp, "photos": rows}).encode())
        except FileError as e:
            logger.info("the index of %s is not kept: %s", path, e)
    return {name: Place(path, start, size) for name, start, size in rows}


def _kept_rows(kept: Path, stamp: list[int]) -> list[tuple[str, int, int]] | None:
    if not kept.is_file():
        return None
    try:
        content, _ = load_json(kept)
        if content["of"] != stamp:
            return None
        return [(str(n), int(start), int(size)) for n, start, size in content["photos"]]
    except (FileError, TypeError, KeyError, ValueError):
        return None  # broken: made anew


def _rows(path: Path, length: int) -> list[tuple[str, int, int]]:
    with path.open("rb") as f:
        start = f.read(6)
    for magic, kind in _PACKED.items():
        if start.startswith(magic):
            raise FileError(
                f"{path}: packed by {kind}, so that no photo can be read without all that stand before it; "
                "unpack it to a plain .tar (photos hardly shrink) or to a folder"
            )
    rows = []
    try:
        with tarfile.open(path, "r:") as tar:
            for m in tar:
                name = inner_path(m.name)  # None: leads out of the folder it would be unpacked to
                if name and m.isreg() and not m.issparse() and name.suffix.lower() in SUFFIXES:
                    rows.append((name.as_posix(), m.offset_data, m.size))
    except (tarfile.TarError, OSError, EOFError, ValueError) as e:
        raise FileError(f"{path}: not a whole tar file ({e}); fetch it again") from e
    if rows and rows[-1][1] + rows[-1][2] > length:
        raise FileError(f"{path}: ends within {rows[-1][0]}; fetch it again")
    return rows
