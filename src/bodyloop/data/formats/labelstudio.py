"""Label Studio's json: tasks with rectangles, and keypoints that belong to them, in percent of the photo.

A keypoint belongs to the rectangle that its ``parentID`` or a relation names, else to the only one around it; in a
photo without rectangles all keypoints are one person's, if none repeats. A region's note (``meta.text``) "hidden" or
"outside" is flag 1 or 3. Of several annotations of a task the first that was not cancelled is taken. The order of
keypoints is that of the labelling configuration ``<name>.config.xml`` beside the file, where there is one (it is
written, and goes into the project's settings); else that of their first use.

It cannot hold areas, ids of people, crowds, masks with holes, or links between keypoints.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np

from bodyloop.data.formats import cvat
from bodyloop.data.labels import Floats, Labels, array, document, person, photo_size, rows_of, skeleton_of
from bodyloop.errors import InputError
from bodyloop.masks import Masks
from bodyloop.records import check_objects
from bodyloop.storage import atomic_write

NAME = "label-studio"
ABOUT = "Label Studio's json export"
HOLDS = frozenset(("bbox", "keypoints", "segmentation"))
CONFIG = ".config.xml"
_NOTES = {1: "hidden", 3: "outside"}
_DOT = 0.5  # size of a written keypoint, percent
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of a file

Region = Mapping[str, Any]


def fits(path: Path, content: object) -> bool:
    """Whether a file's content has this layout."""
    return (
        isinstance(content, list)
        and bool(content)
        and "data" in content[0]
        and ("annotations" in content[0] or "predictions" in content[0])
    )


def read(path: Path, content: Sequence[Mapping[str, Any]]) -> Labels:
    """Labels of Label Studio's tasks.

    Raises:
        InputError: a region is malformed, or it is not clear whose a keypoint is; the message names task and region.
    """
    check_objects(content, f"{path}: task")
    notes: Counter[str] = Counter()
    tasks = [(f"{path}: task {t.get('id', n)}", t, _regions(t, notes)) for n, t in enumerate(content, 1)]
    names = _names(path, [r for _, _, regions in tasks for r in regions])
    if not names:
        raise InputError(f"{path}: no keypoints (regions of type 'keypointlabels') in it")
    skeleton = skeleton_of(names, str(path))
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    kinds: dict[str, int] = {}
    for where, task, regions in tasks:
        size = _size(task, regions, where)
        image: dict[str, Any] = {"id": len(images) + 1, "file_name": _photo(task, where)}
        images.append(image | ({} if size is None else {"width": size[0], "height": size[1]}))
        for mine in _people(regions, where):
            if size is None:
                raise InputError(f"{where}: regions do not say how large the photo is (original_width)")
            row = _person(len(rows) + 1, len(images), mine, names, size, where)
            rows.append(row | {"category_id": kinds.setdefault(_kind(mine), len(kinds) + 1)})
        notes.update(f"regions of type {t}" for t in _types(regions) - {"relation", *_READ})
    (fields,) = document([], [], skeleton)["categories"]
    categories = [{**fields, "id": i, "name": name} for name, i in (kinds or {"person": 1}).items()]
    content_ = {"images": images, "annotations": rows, "categories": categories}
    return Labels(path, NAME, content_, skeleton, (path,), notes=notes)


_READ = ("keypointlabels", "rectanglelabels", "polygonlabels")


def _types(regions: Iterable[Region]) -> set[str]:
    return {str(r.get("type")) for r in regions}


def _regions(task: Mapping[str, Any], notes: Counter[str]) -> list[Region]:
    """Regions and relations of the annotation that is taken."""
    done = [a for a in _objects(task.get("annotations")) if not a.get("was_cancelled")]
    done = done or _objects(task.get("predictions"))
    if len(done) > 1:
        notes["annotations of tasks beside the first"] += len(done) - 1
    return _objects(done[0].get("result")) if done else []


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def _names(path: Path, regions: Iterable[Region]) -> list[str]:
    used = list(dict.fromkeys(_name(r) for r in regions if r.get("type") == "keypointlabels"))
    config = path.with_name(path.stem + CONFIG)
    tags = cvat.load(config).iter("KeyPointLabels") if config.is_file() else ()
    listed = [str(e.get("value")) for tag in tags for e in tag.iter("Label")]
    return listed if set(used) <= set(listed) else used


def _name(region: Region, key: str = "keypointlabels") -> str:
    value = region.get("value")
    names = value.get(key) if isinstance(value, Mapping) else None
    return str(names[0]) if isinstance(names, list) and names else ""


def _kind(regions: Iterable[Region]) -> str:
    """What the rectangle of a person is called."""
    return next((n for r in regions if (n := _name(r, "rectanglelabels"))), "person")


def _photo(task: Mapping[str, Any], where: str) -> str:
    """The file's name of an uploaded, local or remote photo."""
    data = task.get("data")
    texts = [v for v in data.values() if isinstance(v, str)] if isinstance(data, Mapping) else []
    told = data.get("image", texts[0] if texts else None) if isinstance(data, Mapping) else None
    if not isinstance(told, str):
        raise InputError(f"{where}: data has no photo under 'image'")
    url = urlsplit(told)
    local = parse_qs(url.query).get("d")
    if local:
        return local[0]
    if not url.scheme and not told.startswith("/data/"):
        return told
    return _UPLOADED.sub("", unquote(url.path).rpartition("/")[2])


def _size(task: Mapping[str, Any], regions: Iterable[Region], where: str) -> tuple[int, int] | None:
    for r in regions:
        if "original_width" in r:
            return photo_size(r["original_width"], r.get("original_height"), where)
    data = task.get("data")
    w, h = (data.get("width"), data.get("height")) if isinstance(data, Mapping) else (None, None)
    return (w, h) if isinstance(w, int) and isinstance(h, int) else None


def _people(regions: Sequence[Region], where: str) -> list[list[Region]]:
    """Regions of each person."""
    groups = {str(r.get("id")): [r] for r in regions if r.get("type") == "rectanglelabels"}
    related = {str(r.get("from_id")): str(r.get("to_id")) for r in regions if r.get("type") == "relation"}
    related |= {b: a for a, b in related.items()}
    loose: list[Region] = []
    for r in regions:
        if r.get("type") not in ("keypointlabels", "polygonlabels"):
            continue
        owner = next((o for o in (r.get("parentID"), related.get(str(r.get("id")))) if o in groups), None)
        if owner is None and groups and r["type"] == "keypointlabels":
            around = [g for g, (box, *_) in groups.items() if _inside(r, box, where)]
            if len(around) != 1:
                raise InputError(
                    f"{where}: keypoint {_name(r)!r} (region {r.get('id')}) lies in {len(around)} rectangles; "
                    "drag it onto its rectangle in Label Studio"
                )
            owner = around[0]
        (loose if owner is None else groups[owner]).append(r)
    points = [_name(r) for r in loose if r["type"] == "keypointlabels"]
    if len(set(points)) < len(points):
        raise InputError(
            f"{where}: keypoints of several people; draw a rectangle around each in Label Studio"
        )
    return [*groups.values(), *([loose] if points else [])]


def _inside(point: Region, box: Region, where: str) -> bool:
    x, y = _numbers(point, ("x", "y"), where)
    x1, y1, w, h = _numbers(box, ("x", "y", "width", "height"), where)
    return bool(x1 <= x <= x1 + w and y1 <= y <= y1 + h)


def _numbers(region: Region, keys: Sequence[str], where: str) -> Floats:
    value = region.get("value")
    told = [value.get(k) for k in keys] if isinstance(value, Mapping) else None
    return array(told, (len(keys),), f"{where}: {' '.join(keys)} of region {region.get('id')}")


def _person(
    id: int, image: int, regions: Sequence[Region], names: Sequence[str], size: tuple[int, int], where: str
) -> dict[str, Any]:
    percent = np.array(size) / 100
    k = np.zeros((len(names), 3))
    box: Floats | None = None
    polygons = []
    for r in regions:
        if r["type"] == "rectanglelabels":
            box = _numbers(r, ("x", "y", "width", "height"), where) * np.tile(percent, 2)
        elif r["type"] == "polygonlabels":
            told = r["value"].get("points") if isinstance(r.get("value"), Mapping) else None
            points = array(told, (-1, 2), f"{where}: points of region {r.get('id')}")
            polygons.append((points * percent).ravel().tolist())
        else:
            at = names.index(_name(r))
            if k[at, 2]:
                raise InputError(
                    f"{where}: a person has two keypoints {names[at]!r}; remove one (region {r.get('id')})"
                )
            k[at] = [*(_numbers(r, ("x", "y"), where) * percent), _flag(r)]
    return person(id, image, k, box=box, segmentation=polygons)


def _flag(region: Region) -> int:
    meta = region.get("meta")
    text = meta.get("text") if isinstance(meta, Mapping) else None
    told = " ".join(map(str, text)) if isinstance(text, list) else str(text or "")
    return next((flag for flag, note in _NOTES.items() if note in told.lower()), 2)


# ------------------------------------------------------------------ writing


def write(labels: Labels, out: Path) -> Counter[str]:
    """Write the tasks and, beside them, the labelling configuration that fits them; what is lost, counted.

    Raises:
        InputError: images without size. FileError: it cannot be written.
    """
    table, lost, tasks = labels.table(), Counter[str](), []
    for image, mine in zip(labels.images, rows_of(labels), strict=True):
        whole = labels.size_of(image)
        told = {"to_name": "image", "original_width": whole[0], "original_height": whole[1]}
        told["image_rotation"] = 0
        result: list[dict[str, Any]] = []
        for n in mine:
            percent = np.array(whole) / 100
            result += _person_regions(labels, n, table.boxes[n], table.keypoints[n], percent, told)
            result += _outline_regions(labels, n, whole, told, lost)
        data = {"image": labels.path_of(image).as_posix(), "width": whole[0], "height": whole[1]}
        tasks.append({"id": image["id"], "data": data, "annotations": [{"result": result}]})
    with atomic_write(out.with_name(out.stem + CONFIG)) as f:
        f.write(_config(labels))
    with atomic_write(out) as f:
        f.write((json.dumps(tasks, separators=(",", ":")) + "\n").encode())
    return lost


def _person_regions(
    labels: Labels, n: int, box: Floats, keypoints: Floats, percent: Any, told: Mapping[str, Any]
) -> list[dict[str, Any]]:
    row = labels.annotations[n]
    owner = f"person{row['id']}"
    (x, y), (w, h) = box[:2] / percent, (box[2:] - box[:2]) / percent
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [labels.kind_of(row)]}
    regions = [{"id": owner, "type": "rectanglelabels", "from_name": "box", **told, "value": value}]
    for name, (px, py, flag) in zip(labels.skeleton.keypoints, keypoints.tolist(), strict=True):
        if flag:
            value = {"x": px / percent[0], "y": py / percent[1], "width": _DOT, "keypointlabels": [name]}
            meta = {"meta": {"text": [_NOTES[int(flag)]]}} if flag in _NOTES else {}
            of = {"id": f"{owner}-{name}", "parentID": owner, "type": "keypointlabels"}
            regions.append({**of, "from_name": "keypoint", **told, "value": value, **meta})
    return regions


def _outline_regions(
    labels: Labels, n: int, size: tuple[int, int], told: Mapping[str, Any], lost: Counter[str]
) -> list[dict[str, Any]]:
    row = labels.annotations[n]
    outline = row.get("segmentation")
    if not outline:
        return []
    try:
        mask = Masks.from_any([outline], size)
    except InputError as e:
        raise InputError(f"{labels.path}: annotation id {row['id']}: segmentation: {e}") from e
    lost["masks written as their outlines, without holes"] += not isinstance(outline, list)
    owner, kind, percent = f"person{row['id']}", labels.kind_of(row), np.array(size) / 100
    of = {"parentID": owner, "type": "polygonlabels", "from_name": "outline", **told}
    return [
        {**of, "id": f"{owner}-{i}", "value": {"points": (p / percent).tolist(), "polygonlabels": [kind]}}
        for i, p in enumerate(mask.polygons(0))
    ]


def _config(labels: Labels) -> bytes:
    """The labelling configuration: keypoints with their names, rectangles and outlines of people."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", {"name": "image", "value": "$image"})
    people = [str(c.get("name", "person")) for c in labels.document["categories"]]
    names = list(labels.skeleton.keypoints)
    for tag, name, values in (
        ("KeyPointLabels", "keypoint", names), ("RectangleLabels", "box", people), ("PolygonLabels", "outline", people)
    ):  # fmt: skip
        e = ElementTree.SubElement(view, tag, {"name": name, "toName": "image"})
        for value in values:
            ElementTree.SubElement(e, "Label", {"value": value})
    ElementTree.indent(view)
    return bytes(ElementTree.tostring(view, encoding="utf-8"))
