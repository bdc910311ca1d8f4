"""CVAT's XML for images 1.1: skeletons, or points named by their labels, with boxes and outlines by group.

A keypoint with ``outside`` is unlabelled, ``occluded`` hidden. CVAT's skeletons have no box and no mask of their own:
``<box>``, ``<polygon>`` and ``<mask>`` with the same ``group_id`` are the person's, and so they are written.

It cannot hold areas, ids, crowds, flag 3, or links between keypoints.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from bodyloop.data.labels import Floats, Labels, array, document, person, photo_size, rows_of, skeleton_of
from bodyloop.errors import FileError, InputError
from bodyloop.masks import Masks
from bodyloop.storage import atomic_write

NAME = "cvat"
ABOUT = "CVAT for images 1.1 (.xml)"
HOLDS = frozenset(("bbox", "keypoints", "segmentation"))
_SHAPES = ("skeleton", "points", "box", "polygon", "mask")

Element = ElementTree.Element


def load(path: Path) -> Element:
    """The root of an XML file.

    Raises:
        FileError: unreadable, not XML, or one with a DOCTYPE, whose entities could fill the memory.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror or e}") from e
    if b"\0" in data or re.search(rb"<!\s*(DOCTYPE|ENTITY)", data, re.IGNORECASE):
        raise FileError(f"{path}: has a DOCTYPE or is not in UTF-8, which CVAT never writes; export it again")
    try:
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as e:
        raise FileError(f"{path}: not XML: {e}; is the file complete?") from e


def fits(path: Path, content: object) -> bool:
    """Whether a file's content has this layout."""
    return isinstance(content, Element) and content.tag == "annotations"


def read(path: Path, content: Element) -> Labels:
    """Labels of CVAT's XML for images.

    Raises:
        InputError: an export for videos, a malformed shape, or points that no group joins to people.
    """
    if content.find("track") is not None:
        raise InputError(f"{path}: CVAT's XML for videos; export it as 'CVAT for images 1.1'")
    names = _names(content, str(path))
    if not names:
        raise InputError(f"{path}: no skeleton and no points in it")
    skeleton = skeleton_of(names, str(path))
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    notes = Counter(f"shapes <{e.tag}>" for i in content.iter("image") for e in i if e.tag not in _SHAPES)
    kinds: dict[str, int] = {}
    for e in content.iter("image"):
        where = f"{path}: image {e.get('name')!r}"
        w, h = photo_size(e.get("width"), e.get("height"), where)
        images.append({"id": len(images) + 1, "file_name": str(e.get("name")), "width": w, "height": h})
        for group in _groups(e, where):
            label = next((_label(s) for s in group if s.tag != "points"), "person")
            row = _person(len(rows) + 1, len(images), group, names, (w, h), where)
            rows.append(row | {"category_id": kinds.setdefault(label, len(kinds) + 1)})
    (fields,) = document([], [], skeleton)["categories"]
    categories = [{**fields, "id": i, "name": name} for name, i in (kinds or {"person": 1}).items()]
    content_ = {"images": images, "annotations": rows, "categories": categories}
    return Labels(path, NAME, content_, skeleton, (path,), notes=notes)


def _names(root: Element, origin: str) -> list[str]:
    """Names of the keypoints: the labels that belong to a skeleton, else those of points in order of use."""
    listed = dict.fromkeys(
        str(label.findtext("name"))
        for label in root.iter("label")
        if (label.findtext("parent") or "").strip()
    )
    used = dict.fromkeys(name for e in root.iter("points") for name, _ in _points(e, origin))
    return list(listed) if used.keys() <= listed.keys() else list(used)


def _label(e: Element) -> str:
    return str(e.get("label"))


def _points(e: Element, who: str) -> list[tuple[str, Floats]]:
    """Names and places of a ``<points>``; several under one label are numbered."""
    pairs = _pairs(e, who)
    return [(_label(e) if len(pairs) == 1 else f"{_label(e)}_{i}", xy) for i, xy in enumerate(pairs, 1)]


def _groups(image: Element, where: str) -> list[list[Element]]:
    """Shapes of each person: of one group, a skeleton or box alone, or all single points if none repeats."""
    groups: dict[str, list[Element]] = {}
    loose: list[Element] = []
    for n, e in enumerate(s for s in image if s.tag in _SHAPES):
        group = e.get("group_id", "0")
        if group != "0":
            groups.setdefault(group, []).append(e)
        elif e.tag in ("skeleton", "box"):
            groups[f"alone {n}"] = [e]
        elif e.tag == "points":
            loose.append(e)
    if len({_label(e) for e in loose}) < len(loose):
        raise InputError(
            f"{where}: points {_label(loose[-1])!r} of several people; group each person's points in CVAT"
        )
    people = [*groups.values(), loose]
    return [p for p in people if any(e.tag in ("skeleton", "points", "box") for e in p)]


def _person(
    id: int, image: int, shapes: list[Element], names: list[str], size: tuple[int, int], where: str
) -> dict[str, Any]:
    who = f"{where}, person {id}"
    k = np.zeros((len(names), 3))
    for e in [p for s in shapes for p in ([s] if s.tag == "points" else s.iter("points"))]:
        for name, xy in _points(e, who):
            if e.get("outside", "0") != "1":
                k[names.index(name)] = [*xy, 1 if e.get("occluded") == "1" else 2]
    box = next((s for s in shapes if s.tag == "box"), None)
    xywh = None
    if box is not None:
        corners = [box.get(a) for a in ("xtl", "ytl", "xbr", "ybr")]
        x1, y1, x2, y2 = array(corners, (4,), f"{who}: box").tolist()
        xywh = [x1, y1, x2 - x1, y2 - y1]
    return person(id, image, k, box=xywh, segmentation=_outline(shapes, size, who))


def _pairs(e: Element, who: str) -> Floats:
    pairs = [p.split(",") for p in str(e.get("points")).split(";")]
    return array(pairs, (-1, 2), f"{who}: points of {_label(e)!r}")


def _outline(shapes: Iterable[Element], size: tuple[int, int], who: str) -> object:
    """Polygons of a person, or the RLE of its mask."""
    polygons = [_pairs(s, who).ravel().tolist() for s in shapes if s.tag == "polygon"]
    masks = [s for s in shapes if s.tag == "mask"]
    if not masks:
        return polygons
    bitmap = np.zeros((size[1], size[0]), bool)
    for m in masks:
        left, top, w, h = array(
            [m.get(a) for a in ("left", "top", "width", "height")], (4,), f"{who}: mask"
        ).astype(int)
        runs = array(str(m.get("rle")).split(","), (-1,), f"{who}: rle of the mask").astype(int)
        inside = 0 <= left <= left + w <= size[0] and 0 <= top <= top + h <= size[1]
        if not inside or (runs < 0).any() or runs.sum() != w * h:
            raise InputError(f"{who}: the mask's runs do not fill its {w} x {h} px inside the photo")
        bitmap[top : top + h, left : left + w] |= np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(h, w)
    drawn = [Masks.from_bitmaps([bitmap]), *([Masks.from_polygons([polygons], size)] if polygons else [])]
    return dict(Masks.from_bitmaps([np.any([d.bitmap(0) for d in drawn], axis=0)]).rle(0))


# ------------------------------------------------------------------ writing


def write(labels: Labels, out: Path) -> Counter[str]:
    """Write one XML file; what is lost, counted.

    Raises:
        InputError: images without size. FileError: it cannot be written.
    """
    table, lost = labels.table(), Counter[str]()
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    _write_labels(root, labels)
    lost["flags 3 (outside the window), written as hidden"] = int((table.keypoints[..., 2] == 3).sum())
    for number, (image, mine) in enumerate(zip(labels.images, rows_of(labels), strict=True)):
        size = labels.size_of(image)
        told = {
            "id": str(number),
            "name": labels.path_of(image).as_posix(),
            "width": str(size[0]),
            "height": str(size[1]),
        }
        e = ElementTree.SubElement(root, "image", told)
        for group, n in enumerate(mine, 1):
            row = labels.annotations[n]
            more = {"source": "file", "z_order": "0", "group_id": str(group)}
            of = {"label": labels.kind_of(row), **more}
            _write_person(e, of, table.boxes[n], table.keypoints[n], labels)
            _write_outline(e, of, row, size, f"{labels.path}: annotation id {row['id']}")
    ElementTree.indent(root)
    with atomic_write(out) as f:
        f.write(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))
    return lost


def _write_labels(root: Element, labels: Labels) -> None:
    """The labels that a task must have for this file to be uploaded to it."""
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    listed = ElementTree.SubElement(task, "labels")
    for c in labels.document["categories"]:
        name = str(c.get("name", "person"))
        for label, kind, parent in [
            (name, "skeleton", ""),
            *((k, "points", name) for k in labels.skeleton.keypoints),
        ]:
            e = ElementTree.SubElement(listed, "label")
            for tag, text in (("name", label), ("type", kind), ("parent", parent)):
                if text:
                    ElementTree.SubElement(e, tag).text = text


def _write_person(image: Element, of: dict[str, str], box: Floats, keypoints: Floats, labels: Labels) -> None:
    skeleton = ElementTree.SubElement(image, "skeleton", of)
    for name, (x, y, flag) in zip(labels.skeleton.keypoints, keypoints.tolist(), strict=True):
        told = {"outside": str(int(flag == 0)), "occluded": str(int(flag in (1, 3)))}
        place = {"label": name, "source": "file", **told, "points": f"{x:.10g},{y:.10g}"}
        ElementTree.SubElement(skeleton, "points", place)
    corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), (f"{v:.10g}" for v in box.tolist()), strict=True))
    ElementTree.SubElement(image, "box", {**of, "occluded": "0", **corners})


def _write_outline(image: Element, of: dict[str, str], row: Any, size: tuple[int, int], who: str) -> None:
    outline = row.get("segmentation")
    if not outline:
        return
    try:
        mask = Masks.from_any([outline], size)
    except InputError as e:
        raise InputError(f"{who}: segmentation: {e}") from e
    if isinstance(outline, list):
        for polygon in mask.polygons(0):
            points = ";".join(f"{x:.10g},{y:.10g}" for x, y in polygon.tolist())
            ElementTree.SubElement(image, "polygon", {**of, "occluded": "0", "points": points})
    elif mask.present[0]:
        x, y, bits = mask.cut(0)
        change = np.flatnonzero(np.diff(bits.ravel(), prepend=False))
        runs = np.diff(np.r_[0, change, bits.size])
        place = {"left": str(x), "top": str(y), "width": str(bits.shape[1]), "height": str(bits.shape[0])}
        told = {**of, "occluded": "0", "rle": ", ".join(map(str, runs.tolist())), **place}
        ElementTree.SubElement(image, "mask", told)
