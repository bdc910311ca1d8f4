"""Fetches the published CropCOCO from the hub, checks every file, unpacks archives, finds its labels.

The authors publish it as the data set ``vrg-prague/CropCOCO`` under GPL-3.0; nothing of it is in this package.
How the files lie in that repository is not relied upon: whatever annotations, photos and zip archives it has
are taken, and the annotation file is looked for afterwards. Files are compared with the checksums that the hub
states; archives are held to be hostile. A call that was broken off is taken up where it ended.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bodyloop.data.cropcoco_folder import MANIFEST, PREFIX, claim, inner_path, make_folder, photo_folder
from bodyloop.errors import FileError
from bodyloop.models.hub import hub_errors, human_size
from bodyloop.storage import atomic_write

log = logging.getLogger(__name__)

REPOSITORY = "vrg-prague/CropCOCO"
LICENCE = "gpl-3.0"
FETCHED = "fetched.json"  # written when everything is there
MAX_UNPACKED_BYTES = 8 << 30  # of one archive; the set is some hundred MB
MAX_ENTRIES = 100_000
_CACHE = ".cache"  # where huggingface_hub notes what it has
_PICTURES = (".jpg", ".jpeg", ".png")
_WANTED = (".json", *_PICTURES)
_PATTERNS = [*(f"*{s}" for s in (*_WANTED, ".zip")), "README*", "LICENSE*"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Fetched:
    """What was fetched.

    Attributes:
        repository, revision: where from; the revision as it was asked for, ``commit`` what it meant.
        licence: as the data set's card names it.
        annotations, photos: file and folder, relative to the folder that it was fetched to.
        images: how many the annotation file names; all are there.
    """

    repository: str
    revision: str
    commit: str
    licence: str
    annotations: str
    photos: str
    images: int


@dataclass(frozen=True)
class _Listed:
    """A file of the repository; its sha256 where the hub states one, else git's own sum."""

    name: str
    size: int
    sha256: str | None
    blob: str


def fetch_set(
    out: str | os.PathLike[str],
    *,
    repository: str = REPOSITORY,
    revision: str = "main",
    endpoint: str | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """Fetch a published set into a folder.

    Args:
        out: a new folder, or one that an earlier call began or finished (which then asks no network).
        revision: branch, tag or commit.
        endpoint: address of the hub; ``HF_ENDPOINT`` or huggingface.co if None.
        progress: called with files checked and files in all.

    Raises:
        FileError: the hub cannot be reached or lacks the set; files are not what it stated; an archive that is
            broken or not safe; ``out`` holds something else or cannot be written.
    """
    root = Path(out)
    asked = {"repository": repository, "revision": revision}
    there = _finished(root, asked)
    if there is not None:
        return there
    commit, licence, files = _list(repository, revision, endpoint)
    claim(root, {"repository": repository, "revision": commit})
    log.warning(
        "%s is licensed under %s by its authors: what you distribute together with it falls under that licence. "
        "bodyloop itself is Apache-2.0 and does not contain it. Fetching %d files (%s).",
        repository, licence.upper(), len(files), human_size(sum(f.size for f in files)),
    )  # fmt: skip
    _download(root, repository, commit, endpoint)
    _verify(root, repository, files, progress)
    archives = [root / f.name for f in files if f.name.lower().endswith(".zip")]
    for archive in archives:
        unpack(archive)
    annotations, photos, images = _find(root, repository)
    labels, pictures = (p.relative_to(root).as_posix() for p in (annotations, photos))
    done = Fetched(repository, revision, commit, licence, labels, pictures, images)
    with atomic_write(root / FETCHED) as file:
        file.write((json.dumps(asdict(done), indent=1) + "\n").encode())
    for archive in archives:
        archive.unlink(missing_ok=True)
    shutil.rmtree(root / _CACHE, ignore_errors=True)
    return done


def _finished(root: Path, asked: Mapping[str, str]) -> Fetched | None:
    """What an earlier call fetched, if it came to its end."""
    path = root / FETCHED
    if not path.is_file():
        return None
    try:
        done = Fetched(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as e:
        raise FileError(f"{path}: cannot be read ({e}); remove the folder or name another one") from e
    if asked["repository"] != done.repository or asked["revision"] not in (done.revision, done.commit):
        raise FileError(
            f"{root}: holds {done.repository} at {done.commit}, not {asked['repository']} at {asked['revision']}; "
            "name another folder"
        )
    return done


def _list(repository: str, revision: str, endpoint: str | None) -> tuple[str, str, list[_Listed]]:
    """Commit, licence and files of a data set on the hub."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    try:
        api = HfApi(endpoint=endpoint)
        info = api.dataset_info(repository, revision=revision)
        commit = info.sha or revision
        tree = api.list_repo_tree(repository, recursive=True, revision=commit, repo_type="dataset")
        found = [f for f in tree if isinstance(f, RepoFile)]
    except hub_errors() as e:
        raise FileError(_how_to_get(repository, revision, e)) from e
    files = []
    for f in found:
        path = inner_path(f.path)
        if path is None:
            raise FileError(
                f"{repository}: names a file {f.path!r} outside of its own folder; nothing was fetched"
            )
        wanted = path.suffix.lower() in (*_WANTED, ".zip") and path.as_posix() not in (MANIFEST, FETCHED)
        if wanted and path.parts[0] != _CACHE:
            files.append(_Listed(f.path, f.size, None if f.lfs is None else f.lfs.sha256, f.blob_id))
    card: Any = info.card_data
    licence = card.get("license") if card is not None else None
    return commit, licence if isinstance(licence, str) else LICENCE, files


def _download(root: Path, repository: str, commit: str, endpoint: str | None) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(
            repository,
            repo_type="dataset",
            revision=commit,
            local_dir=root,
            endpoint=endpoint,
            allow_patterns=_PATTERNS,
            ignore_patterns=[MANIFEST, FETCHED, f"{_CACHE}/*"],
        )
    except hub_errors() as e:
        raise FileError(_how_to_get(repository, commit, e)) from e


def _how_to_get(repository: str, revision: str, e: Exception) -> str:
    from huggingface_hub import constants

    reason = (str(e).strip() or type(e).__name__).splitlines()[0][:300]
    return (
        f"{repository} at {revision} could not be fetched: {reason} - What has come is kept; call again to go on. "
        f"To do without: download {constants.ENDPOINT}/datasets/{repository} elsewhere and copy its folders "
        "'annotations' and 'val2017' side by side"
    )


def _verify(root: Path, repository: str, files: Sequence[_Listed], progress: Progress | None) -> None:
    """Compare sizes and checksums with what the hub stated; what differs is taken away again."""
    wrong = []
    for i, f in enumerate(files):
        path = root / f.name
        if not _as_stated(path, f):
            path.unlink(missing_ok=True)
            wrong.append(f.name)
        if progress is not None:
            progress(i + 1, len(files))
    if wrong:
        raise FileError(
            f"{root}: {len(wrong)} of {len(files)} files did not come as {repository} states them, the first is "
            f"{wrong[0]}; they were taken away: call again to fetch them anew"
        )


def _as_stated(path: Path, f: _Listed) -> bool:
    if not path.is_file() or path.stat().st_size != f.size:
        return False
    digest = hashlib.sha256() if f.sha256 else hashlib.sha1(b"blob %d\0" % f.size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == (f.sha256 or f.blob)


# ------------------------------------------------------------------ archives


def unpack(archive: Path) -> list[Path]:
    """Unpack the annotations and pictures of a zip file beside it; files that are there already stay.

    An archive without folders of its own goes to a folder of its name.

    Raises:
        FileError: broken, larger than a set can be, or with entries that are encrypted, links, or lead out of the
            folder. Nothing is then unpacked; of a broken one, nothing more.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            entries = _entries(archive, opened)
            flat = any(len(Path(name).parts) == 1 for name in entries)
            base = archive.with_suffix("") if flat else archive.parent
            for name, entry in entries.items():
                target = base / name
                if not target.is_file() or target.stat().st_size != entry.file_size:
                    make_folder(target.parent)
                    with opened.open(entry) as source, atomic_write(target) as file:
                        shutil.copyfileobj(source, file, 1 << 20)
            return [base / name for name in entries]
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as e:
        raise FileError(f"{archive}: cannot be unpacked ({e}); remove it and fetch it again") from e


def _entries(archive: Path, opened: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files to unpack by their names; all are looked at before anything is written."""
    found: dict[str, zipfile.ZipInfo] = {}
    listed = opened.infolist()
    size = sum(e.file_size for e in listed)
    if len(listed) > MAX_ENTRIES or size > MAX_UNPACKED_BYTES:
        raise FileError(
            f"{archive}: {len(listed)} entries of {human_size(size)} unpacked are too many for a set"
        )
    for entry in listed:
        path = inner_path(entry.filename)
        bad = "leads out of the folder" if path is None else ""
        bad = "is a link" if stat.S_ISLNK(entry.external_attr >> 16) else bad
        bad = "is encrypted" if entry.flag_bits & 1 else bad
        if path is None or bad:
            raise FileError(f"{archive}: the entry {entry.filename!r} {bad}; nothing was unpacked")
        if entry.is_dir() or path.suffix.lower() not in _WANTED or path.name.startswith("._"):
            continue
        if path.as_posix() in found:
            raise FileError(f"{archive}: has two entries {path.as_posix()!r}; nothing was unpacked")
        found[path.as_posix()] = entry
    return found


# ------------------------------------------------------------------ what has come


def _find(root: Path, repository: str) -> tuple[Path, Path, int]:
    """Annotation file and folder of photos; all photos that the file names must be there."""
    here = [p for p in sorted(root.rglob(f"{PREFIX}*.json")) if _CACHE not in p.relative_to(root).parts]
    if not here:
        raise FileError(f"{root}: what {repository} holds has no {PREFIX}*.json; is it another data set?")
    annotations = here[0]
    try:
        names = [str(image["file_name"]) for image in json.loads(annotations.read_bytes())["images"]]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise FileError(f"{annotations}: no COCO file ({type(e).__name__}: {e})") from e
    photos = photo_folder(annotations)
    if names and not (photos / names[0]).is_file():
        last = Path(names[0])
        found = [p for p in sorted(root.rglob(last.name)) if p.parts[-len(last.parts) :] == last.parts]
        if found:
            photos = found[0].parents[len(last.parts) - 1]
    missing = [name for name in names if inner_path(name) is None or not (photos / name).is_file()]
    if missing:
        raise FileError(
            f"{photos}: {len(missing)} of the {len(names)} photos that {annotations} names are not there, the first "
            f"is {missing[0]}"
        )
    return annotations, photos, len(names)
