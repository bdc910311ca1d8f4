"""Which pictures a run is about, and what its results are called.

A photo's results have its name, below its folder's place in the folder that was given: ``photos/a/1.jpg`` of
``photos`` becomes ``a/1.json``. Where that name belongs to another photo (of this run, of an earlier one, or
to a file that is not ours), six digits of the photo's address are added, so that nothing is overwritten
whichever photos come in which order. A name that leaves no room for suffixes is cut and ends with digits of the
whole.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bodyloop.cli._common import absolute, one_line
from bodyloop.errors import FileError

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2", ".avif",
)  # fmt: skip
DRAWN = (
    ".vis.jpg",
    ".maps.jpg",
    ".masks.png",
    ".loop.jpg",
    ".loop.gif",
)  # what we draw ourselves is no photo
RESERVED = ("results",)  # the run's own file
LONGEST = 200  # bytes of a name; file systems allow 255, suffixes and digits are added
_OURS = b'{"schema":"bodyloop/people-1"'


@dataclass(frozen=True)
class Photo:
    """A picture of the run.

    Attributes:
        path: of the file.
        stem: what its results would like to be called: a relative path with slashes, without suffix.
        named: the caller named this very file, not a folder or pattern.
    """

    path: Path
    stem: str
    named: bool = False

    @property
    def shown(self) -> str:
        """The path in characters that can be written everywhere."""
        return one_line(str(self.path))


def find_photos(arguments: Sequence[str]) -> tuple[list[Photo], list[tuple[str, str]]]:
    """The pictures meant by files, folders (with all below them) and patterns, each once, in order.

    Returns: photos, and (argument, complaint) for each argument that means none.
    """
    found: dict[str, Photo] = {}
    problems: list[tuple[str, str]] = []
    for argument in arguments:
        path = Path(argument)
        if _is(path, os.path.isdir):
            some = [Photo(p, p.relative_to(path).with_suffix("").as_posix()) for p in _below(path)]
            complaint = f"{argument}: there is no picture in this folder or below it"
        elif not _is(path, os.path.exists) and glob.has_magic(argument):
            names = glob.glob(argument, recursive=True)  # noqa: PTH207 - Path.glob knows no absolute patterns
            hits = [Path(p) for p in sorted(names, key=_natural)]
            some = [Photo(p, p.stem) for p in hits if _is_picture(p)]
            complaint = f"{argument}: no picture fits this pattern"
        else:  # whatever it is, reading it says what is wrong
            some, complaint = [Photo(path, path.stem, True)], ""
        for photo in some:
            found.setdefault(str(absolute(photo.path)), photo)
        if not some:
            problems.append((argument, complaint))
    return list(found.values()), problems


def _below(folder: Path) -> list[Path]:
    found = []
    for at, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [p for f in files if _is_picture(p := Path(at, f))]
    return sorted(found, key=lambda p: _natural(str(p)))


def _is_picture(path: Path) -> bool:
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.endswith(DRAWN) and not name.startswith(".")


def _is(path: Path, test: Any) -> bool:
    try:
        return bool(test(path))
    except (OSError, ValueError):  # too long for a path, or a NUL in it
        return False


def _natural(text: str) -> list[tuple[int, int, str]]:
    """Key that sorts 2 before 10."""
    return [
        (0, int(part), "") if part.isdecimal() and part.isascii() else (1, 0, part)
        for part in re.split(r"([0-9]{1,18})", text)
        if part
    ]


@dataclass(frozen=True)
class Earlier:
    """What stands where a photo's result should be written.

    Attributes:
        kind: "absent"; "foreign": not written by a run, or by one about something else; "broken": begins like
            one of ours and is not whole; "ours".
        document: of "ours".
    """

    kind: str
    document: dict[str, Any] | None = None


def look(path: Path) -> Earlier:
    """Read what is there."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return Earlier("absent")
    except OSError:
        return Earlier("foreign")
    head = b"".join(raw[:80].split())
    if raw and not head.startswith(_OURS):
        return Earlier("foreign")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return Earlier("broken")
    run = document.get("run") if isinstance(document, dict) else None
    return Earlier("ours", document) if isinstance(run, dict) else Earlier("foreign")


@dataclass(frozen=True)
class Place:
    """Where a photo's results go: ``name`` below the run's folder, and what is there already."""

    name: str
    earlier: Earlier


def address(photo: Path, out: Path) -> str:
    """The photo as seen from the run's folder: stays true when both are moved together."""
    here, there = absolute(photo), absolute(out)
    try:
        return one_line(Path(os.path.relpath(here, there)).as_posix())
    except ValueError:  # another drive
        return one_line(str(here))


def _fitting(name: str) -> str:
    """The name of a file or folder, cut where it is too long for a suffix to fit behind it."""
    raw = name.encode()
    if len(raw) <= LONGEST:
        return name
    return f"{raw[: LONGEST - 17].decode(errors='ignore')}-{hashlib.sha256(raw).hexdigest()[:16]}"


def place(photo: Photo, out: Path, taken: set[str]) -> Place:
    """Choose the name of a photo's results; it is added to ``taken``."""
    mine = address(photo.path, out)
    digits = hashlib.sha256(mine.encode()).hexdigest()
    stem = "/".join(_fitting(part) for part in one_line(photo.stem).split("/")) or "photo"
    for name in (stem, f"{stem}-{digits[:6]}", f"{stem}-{digits[:16]}"):
        if name.casefold() in taken or name.casefold() in RESERVED:
            continue
        earlier = look(out / f"{name}.json")
        if earlier.kind == "foreign":
            continue
        if earlier.document is not None and earlier.document["run"].get("photo") != mine:
            continue
        break
    taken.add(name.casefold())
    return Place(name, earlier)


def make_folder(folder: Path) -> None:
    """A folder for results."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as e:
        raise FileError(f"{folder}: cannot be made a folder for results: {e}; choose another --out") from e


def remove_old(path: Path) -> None:
    """Remove an earlier result, if it is there."""
    try:
        path.unlink(missing_ok=True)
    except OSError as e:
        raise FileError(f"{path}: the old result cannot be removed: {e.strerror or e}") from e


def refuse_foreign_results(path: Path) -> None:
    """A file of that name that no run wrote is not overwritten."""
    try:
        with path.open("rb") as f:
            head = f.read(1 << 16)
    except FileNotFoundError:
        return
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror or e}; choose another --out") from e
    if head.split() != [b"[", b"]"] and not (head.startswith(b'[\n{"image_id"') and b"file_name" in head):
        raise FileError(f"{path} is there and was not written by a run of bodyloop; choose another --out")
