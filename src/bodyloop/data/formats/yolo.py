"""YOLO-pose: ``data.yaml`` and a text file a photo, numbers in shares of the photo's size.

Photos are where ``train:`` (or ``val:``, ``test:``) says, below ``path:``; labels are at the same place with the folder
``labels`` instead of ``images``. A row is ``class cx cy w h`` and ``x y [flag]`` a keypoint. Names of keypoints come
from ``kpt_names``; 17 without names are COCO's; otherwise they are made up so that ``flip_idx`` mirrors them. Sizes
are read from the photos, turned by their EXIF entry as YOLO's own tools do.

It cannot hold masks, areas, ids, crowds, or what lies outside the photo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.data.labels import Labels, array, document, person, rows_of, skeleton_of
from bodyloop.data.shards import SUFFIXES, Photos
from bodyloop.errors import FileError, InputError, MissingDependency
from bodyloop.skeletons import COCO, Skeleton
from bodyloop.storage import atomic_write

NAME = "yolo-pose"
ABOUT = "YOLO-pose (data.yaml or its folder)"
HOLDS = frozenset(("bbox", "keypoints"))
SPLIT = "train"


def load(path: Path) -> Any:
    """The content of a yaml file.

    Raises:
        FileError: unreadable, or not yaml. MissingDependency: pyyaml is not installed.
    """
    try:
        import yaml
    except ImportError as e:
        raise MissingDependency(f"{path}: yaml is read by pyyaml: pip install pyyaml") from e
    try:
        return yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise FileError(f"{path}: cannot be read as yaml: {e}") from e


def fits(path: Path, content: object) -> bool:
    """Whether a file's content has this layout."""
    return isinstance(content, Mapping) and "kpt_shape" in content


def read(path: Path, content: Mapping[str, Any], split: str = SPLIT) -> Labels:
    """Labels of one part of a YOLO-pose set.

    Args:
        split: "train", "val" or "test".

    Raises:
        FileError: there is no such part, or its photos are missing. InputError: a malformed row; it is named.
    """
    skeleton, flagged = _skeleton(content, str(path))
    root = (path.parent / str(content.get("path") or "")).absolute()
    root = root if root.is_dir() else path.parent.absolute()
    pictures = _pictures(root, content.get(split), path, split)
    photos = Photos([root])
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    files = [path]
    for picture in pictures:
        name = picture.relative_to(root).as_posix()
        size = photos.size(name, oriented=True)
        images.append({"id": len(images) + 1, "file_name": name, "width": size[0], "height": size[1]})
        labels = _label_file(picture)
        if labels.is_file():
            files.append(labels)
            for where, numbers in _rows(labels):
                rows.append(_person(len(rows) + 1, len(images), numbers, size, len(skeleton), flagged, where))
    names = content.get("names") or ["person"]
    classes = (
        names
        if isinstance(names, Mapping)
        else dict(enumerate(names if isinstance(names, list) else [names]))
    )
    if not all(isinstance(c, int) for c in classes):
        raise InputError(f"{path}: names must be a list, or a table from 0 on")
    fields = document([], [], skeleton)["categories"][0]
    categories = [{**fields, "id": c + 1, "name": str(n)} for c, n in classes.items()]
    content_ = {"images": images, "annotations": rows, "categories": categories}
    return Labels(path, NAME, content_, skeleton, tuple(files), photos=root, knows_hidden=flagged)


def _skeleton(content: Mapping[str, Any], origin: str) -> tuple[Skeleton, bool]:
    """The skeleton, and whether keypoints have flags."""
    count, width = (int(v) for v in array(content["kpt_shape"], (2,), f"{origin}: kpt_shape"))
    if count < 1 or width not in (2, 3):
        raise InputError(f"{origin}: kpt_shape must be [keypoints, 2 or 3], got {content['kpt_shape']}")
    flip = (
        array(content.get("flip_idx") or range(count), (count,), f"{origin}: flip_idx").astype(int).tolist()
    )
    if sorted(flip) != list(range(count)):
        raise InputError(f"{origin}: flip_idx must list 0 to {count - 1}, each once")
    names = content.get("kpt_names")
    named = next(iter(names.values()), None) if isinstance(names, Mapping) else names
    if named is not None and (not isinstance(named, list) or len(named) != count):
        raise InputError(f"{origin}: kpt_names must list {count} names")
    if named is None and count == len(COCO) and flip in (COCO.flip.tolist(), list(range(count))):
        return COCO, width == 3
    if named is None:
        pair = [f"point_{min(i, j) + 1}" for i, j in enumerate(flip)]
        named = [
            ("left_" if i < j else "right_" if i > j else "") + n
            for i, (j, n) in enumerate(zip(flip, pair, strict=True))
        ]
    return skeleton_of([str(n) for n in named], origin), width == 3


def _pictures(root: Path, places: object, path: Path, split: str) -> list[Path]:
    """The photos of a part: of folders, or of text files that list them."""
    named = [places] if isinstance(places, str) else places
    if not named or not isinstance(named, list):
        raise FileError(f"{path}: has no part {split!r}; name another split")
    found: list[Path] = []
    for place in map(str, named):
        where = root / place
        if place.startswith("../") and not where.exists():
            where = root / place[3:]  # as some tools write it, who think of a folder that is not there
        if where.is_dir():
            found += sorted(p for p in where.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif where.is_file():
            listed = [line.strip() for line in where.read_text("utf-8").splitlines() if line.strip()]
            found += [
                next((p for p in (where.parent / n, root / n) if p.is_file()), root / n) for n in listed
            ]
    if not found:
        raise FileError(f"{path}: no photos for {split!r} in {places} below {root}; put them there")
    if not all(p.is_relative_to(root) for p in found):
        raise InputError(f"{path}: photos for {split!r} are not below {root}; name their folder as 'path'")
    return found


def _label_file(picture: Path) -> Path:
    parts = list(picture.with_suffix(".txt").parts)
    at = [i for i, p in enumerate(parts) if p == "images"]
    if at:
        parts[at[-1]] = "labels"
    return Path(*parts)


def _rows(labels: Path) -> list[tuple[str, list[str]]]:
    try:
        lines = labels.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise FileError(f"{labels}: cannot be read: {e}") from e
    return [(f"{labels}: line {i}", line.split()) for i, line in enumerate(lines, 1) if line.strip()]


def _person(
    id: int, image: int, row: Sequence[str], size: tuple[int, int], count: int, flagged: bool, where: str
) -> dict[str, Any]:
    width = 3 if flagged else 2
    v = array(row, (5 + width * count,), f"{where}: class, box and {count} keypoints of {width} numbers")
    k = v[5:].reshape(count, width)
    if not flagged:
        k = np.column_stack([k, 2.0 * (k != 0).any(axis=1)])
    if not np.isin(k[:, 2], (0, 1, 2)).all() or (v[3:5] < 0).any():
        raise InputError(f"{where}: flags must be 0, 1 or 2, width and height not negative")
    k = k * [size[0], size[1], 1]
    w, h = v[3:5] * size
    made = person(id, image, k, box=[v[1] * size[0] - w / 2, v[2] * size[1] - h / 2, w, h])
    return made | {"category_id": int(v[0]) + 1}


# ------------------------------------------------------------------ writing


def write(labels: Labels, out: Path, split: str = SPLIT) -> Counter[str]:
    """Write ``data.yaml`` and the text files into a new folder; what is lost, counted.

    Raises:
        InputError: images without size, or two whose labels would be the same file. FileError: cannot be written.
    """
    table, lost = labels.table(), Counter[str]()
    sizes = [labels.size_of(i) for i in labels.images]
    texts: dict[Path, str] = {}
    for image, size, mine in zip(labels.images, sizes, rows_of(labels), strict=True):
        place = out / "labels" / split / labels.path_of(image).with_suffix(".txt")
        if place in texts:
            raise InputError(f"{labels.path}: two images would have the labels {place}; rename one")
        lines = []
        for n in mine:
            if table.crowd[n]:
                lost["crowd regions, which would be taken for people"] += 1
                continue
            k, outside = _inside(table.keypoints[n], np.array(size, float))
            lost["keypoints outside their photo"] += outside
            numbers = _row(table.boxes[n], k, np.array(size, float), lost)
            lines.append(f"{labels.category_of(labels.annotations[n])} {numbers}\n")
        texts[place] = "".join(lines)
    _write_all(labels, out, split, texts)
    return lost


def _inside(k: Any, size: Any) -> tuple[Any, int]:
    """Keypoints as shares, those outside the photo unlabelled; and how many these were."""
    xy = k[:, :2] / size
    fits = ((xy >= 0) & (xy <= 1)).all(axis=1) & (k[:, 2] < 3)
    shown = np.column_stack([xy, k[:, 2]]) * (fits & (k[:, 2] > 0))[:, None]
    return shown, int(((k[:, 2] > 0) & ~fits).sum())


def _row(box: Any, k: Any, size: Any, lost: Counter[str]) -> str:
    low, high = np.clip(box[:2] / size, 0, 1), np.clip(box[2:] / size, 0, 1)
    lost["boxes cut at the photo's border"] += bool(
        np.abs(np.r_[low, high] * np.r_[size, size] - box).max() > 0.01
    )
    shares = [*((low + high) / 2), *(high - low)]
    return " ".join([*(f"{v:.10g}" for v in shares), *(f"{x:.10g} {y:.10g} {int(f)}" for x, y, f in k)])


def _write_all(labels: Labels, out: Path, split: str, texts: Mapping[Path, str]) -> None:
    s = labels.skeleton
    names = {i: str(c.get("name", "person")) for i, c in enumerate(labels.document["categories"])}
    content = {
        split: f"images/{split}",
        **({} if split == "val" else {"val": f"images/{split}"}),
        "kpt_shape": [len(s), 3],
        "flip_idx": s.flip.tolist(),
        "names": names,
        "kpt_names": {i: list(s.keypoints) for i in names},
    }
    try:
        import yaml
    except ImportError as e:
        raise MissingDependency("data.yaml is written by pyyaml: pip install pyyaml") from e
    for place in {p.parent for p in texts} | {out / "images" / split}:
        place.mkdir(parents=True, exist_ok=True)
    for place, text in texts.items():
        with atomic_write(place) as f:
            f.write(text.encode())
    with atomic_write(out / "data.yaml") as f:
        f.write(yaml.safe_dump(content, sort_keys=False).encode())
