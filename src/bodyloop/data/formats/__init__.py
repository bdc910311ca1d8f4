"""Readers of labelled people: one small module a format, all giving `bodyloop.data.labels.Labels`.

The format is known by the file's content, or it is named. COCO's layout, its relatives and a YOLO-pose set may have
any keypoints. ``read_labels`` is the door; writers of the formats that people exchange are in the same modules and
are used by `bodyloop.data.convert`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from bodyloop.data.formats import aic, coco, cvat, labelstudio, lsp, matlab, mpii, ochuman, openpose, yolo
from bodyloop.data.labels import Labels
from bodyloop.data.shards import Photos
from bodyloop.errors import ConfigError, FileError, InputError
from bodyloop.records import load_json

# asked in this order what a file is
FORMATS: dict[str, ModuleType] = {
    m.NAME: m for m in (ochuman, coco, mpii, aic, lsp, yolo, cvat, labelstudio, openpose)
}
_LOADERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda p: load_json(p)[0],
    ".gz": lambda p: load_json(p)[0],
    ".xml": cvat.load,
    ".mat": matlab.load,
    ".yaml": yolo.load,
    ".yml": yolo.load,
}


def read_labels(
    path: str | Path, *, format: str | None = None, photos: Photos | None = None, split: str = "train"
) -> Labels:
    """Read labelled people of any known format.

    Args:
        path: a file, or a folder: of a YOLO-pose set (``data.yaml``), of OpenPose's files, or with ``<split>.json``.
        format: a name of `FORMATS`; None: by the content.
        photos: where the photos are, for formats that need to know (OpenPose's files do not say).
        split: part of a set that has several: "train", "val" or "test".

    Raises:
        FileError: unreadable. InputError: of no known format, or malformed; the message names file and annotation.
        ConfigError: no such format. MissingDependency: a format needs another package.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"no format {format!r}; known: {', '.join(FORMATS)}")
    file = _file_of(Path(path), split)
    if file.is_dir():
        content: Any = None
        module: ModuleType = openpose
    else:
        load = _LOADERS.get(file.suffix.lower())
        if load is None:
            raise InputError(f"{file}: labels are read from {', '.join(_LOADERS)}, or a folder of them")
        content = load(file)
        module = _module(file, content, format)
    if module is yolo:
        return yolo.read(file, content, split)
    if module is openpose:
        return openpose.read(file, content, photos)
    labels: Labels = module.read(file, content)
    return labels


def _file_of(path: Path, split: str) -> Path:
    """What is to be read: the file, the file of a folder, or a folder of OpenPose's files."""
    if not path.is_dir():
        return path
    for name in ("data.yaml", "data.yml", f"{split}.json", "annotations.xml", "joints.mat"):
        if (path / name).is_file():
            return path / name
    if any(path.rglob(f"*{openpose.ENDING}")):
        return path
    raise FileError(
        f"{path}: neither {split}.json nor data.yaml nor *{openpose.ENDING} in it; name the file of labels"
    )


def _module(file: Path, content: object, format: str | None) -> ModuleType:
    if isinstance(content, list) and not all(isinstance(c, dict) for c in content[:1]):
        raise InputError(f"{file}: a list, but not of objects; labels are in none of the known formats so")
    for name, module in FORMATS.items():
        if format in (None, name) and module.fits(file, content):
            return module
    if format is not None:
        raise InputError(f"{file}: is not {FORMATS[format].ABOUT}; leave the format away to have it found")
    if isinstance(content, list) and content and {"image_id", "score"} <= content[0].keys():
        raise InputError(f"{file}: a list of results (boxes or keypoints with scores), not of labels")
    if isinstance(content, dict) and content.keys() & {"images", "annotations", "categories"}:
        missing = [k for k in ("images", "annotations", "categories") if k not in content]
        raise InputError(f"{file}: not a COCO-layout file: no {', '.join(missing)}")
    about = "; ".join(m.ABOUT for m in FORMATS.values())
    raise InputError(f"{file}: in none of the known formats: {about}")
