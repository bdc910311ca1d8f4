"""People whom the caller names in a file: boxes and masks for each photo.

Three forms are read: people files of this package (one, several in a list, or a folder of them), COCO
annotations or results, and a table by file name: ``{"photo.jpg": [[x1, y1, x2, y2], ...]}``. What a file says
is looked at when its photo comes, so that one bad entry costs one photo; every complaint names the file, the
photo and the entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from bodyloop.cli._common import absolute, one_line
from bodyloop.errors import BodyloopError, FileError, InputError

FORMS = (
    "a people file of bodyloop (schema bodyloop/people-1), a list or folder of such, COCO annotations or "
    'results, or a table by file name such as {"photo.jpg": [[x1, y1, x2, y2]]}'
)
SCHEMA = "bodyloop/people-1"
Item = Mapping[str, Any]


@dataclass(frozen=True)
class Entry:
    """What a file says about one photo.

    Attributes:
        kind: "document", "coco" or "table".
        items: the document, COCO's dicts, or {"boxes": ..., "masks": ..., "scores": ...}.
        size: (width, height) that the file says the photo has.
        image_id: of a data set.
    """

    kind: str
    items: Any
    size: tuple[int, int] | None = None
    image_id: int | str | None = None

    @property
    def digest(self) -> str:
        """Changes when the entry does."""
        text = json.dumps([self.kind, self.items, self.size, self.image_id], sort_keys=True, default=str)
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:16]


class NotNamed(InputError):
    """A file says nothing about a photo."""


class GivenFile:
    """A file of people, and which of them are on which photo.

    Raises:
        FileError: it cannot be read. InputError: it is of no known form.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_name: dict[str, Entry] = {}
        self.by_id: dict[str, Entry] = {}
        self.rest_is_empty = False  # COCO results say nothing of photos on which nobody was found
        if path.is_dir():
            self._read_folder(path)
        else:
            self._read(_load(path), str(path))

    def match(self, photos: Sequence[Path]) -> list[Entry | InputError]:
        """What the file says about each photo of a run, or why that is not clear."""
        keys = [self._key(p) for p in photos]
        users: dict[tuple[str, str], list[Path]] = {}
        for key, photo in zip(keys, photos, strict=True):
            if key is not None:
                users.setdefault(key, []).append(photo)
        empty = self.rest_is_empty and (bool(users) or not (self.by_name or self.by_id))
        out: list[Entry | InputError] = []
        for key, photo in zip(keys, photos, strict=True):
            if key is None:
                out.append(Entry("coco", []) if empty else NotNamed(self._does_not_name(photo)))
            elif len(users[key]) > 1:
                both = " and ".join(str(p) for p in users[key][:2])
                out.append(
                    InputError(f"{self.path}: {key[1]!r} could be {both}; write more of the path in the file")
                )
            else:
                out.append((self.by_name if key[0] == "name" else self.by_id)[key[1]])
        return out

    def _key(self, photo: Path) -> tuple[str, str] | None:
        """The entry of a photo: the longest end of its path that the file names, else its number."""
        parts = PurePosixPath(absolute(photo).as_posix()).parts
        for n in range(len(parts), 0, -1):
            name = "/".join(parts[-n:]).replace("//", "/")
            if name in self.by_name:
                return "name", name
        for key in (photo.stem, photo.stem.lstrip("0") or "0"):
            if key in self.by_id:
                return "id", key
        return None

    def _does_not_name(self, photo: Path) -> str:
        names = [*self.by_name, *(f"image_id {i}" for i in self.by_id)]
        some = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
        return f"{self.path} does not name the photo {photo.name}; it names {some or 'none'}"

    # ---- forms ---------------------------------------------------------------------------------------------

    def _read_folder(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*.json")):
            document = _load(path)
            if _is_document(document):
                self._document(document, str(path))
        if not self.by_name:
            raise InputError(f"{folder}: no people file (schema {SCHEMA}) in this folder")

    def _read(self, content: Any, where: str) -> None:
        if _is_document(content):
            self._document(content, where)
        elif isinstance(content, Mapping) and isinstance(content.get("annotations"), list):
            self._annotations(content, where)
        elif isinstance(content, Mapping) and "schema" not in content and "annotations" not in content:
            for name, value in content.items():
                self._table(name, value, where)
        elif isinstance(content, list) and all(_is_document(d) for d in content) and content:
            for i, document in enumerate(content):
                self._document(document, f"{where}[{i}]")
        elif isinstance(content, list) and all(isinstance(d, Mapping) and "image_id" in d for d in content):
            self._results(content, where)
        elif isinstance(content, list) and all(isinstance(d, Mapping) and "file_name" in d for d in content):
            for d in content:
                self._table(d["file_name"], {k: v for k, v in d.items() if k != "file_name"}, where)
        else:
            what = f"an object with schema {content['schema']!r}" if _has_schema(content) else _kind(content)
            raise InputError(f"{where}: expected {FORMS}; got {what}")

    def _document(self, document: Item, where: str) -> None:
        image = document.get("image")
        path = image.get("path") if isinstance(image, Mapping) else None
        if not isinstance(path, str) or not path:
            raise InputError(f"{where}: image.path: expected the photo's file name, got {path!r}")
        self._put(_plain(path), Entry("document", document), where)

    def _annotations(self, content: Item, where: str) -> None:
        images = content.get("images")
        if not isinstance(images, list):
            raise InputError(f"{where}: images: expected a list, got {_kind(images)}")
        persons = _person_categories(content.get("categories"))
        per_image: dict[str, list[Item]] = {}
        for i, a in enumerate(content["annotations"]):
            if not isinstance(a, Mapping) or "image_id" not in a:
                raise InputError(f"{where}: annotations[{i}]: expected an object with image_id")
            if (persons is None or str(a.get("category_id")) in persons) and not a.get("iscrowd"):
                per_image.setdefault(str(a["image_id"]), []).append(a)
        for i, image in enumerate(images):
            if not isinstance(image, Mapping) or not isinstance(image.get("file_name"), str):
                raise InputError(f"{where}: images[{i}].file_name: expected the photo's file name")
            size = image.get("width"), image.get("height")
            if not all(isinstance(s, int) for s in size):
                size = (None, None)
            number = _identifier(image.get("id"), f"{where}: images[{i}].id")
            items = per_image.get(str(number), [])
            entry = Entry("coco", items, None if None in size else size, number)  # type: ignore[arg-type]
            self._put(_plain(image["file_name"]), entry, where)

    def _results(self, content: Sequence[Item], where: str) -> None:
        self.rest_is_empty = True
        grouped: dict[str, list[Item]] = {}
        for i, item in enumerate(content):
            _identifier(item["image_id"], f"{where}[{i}].image_id")
            grouped.setdefault(str(item["image_id"]), []).append(item)
        for key, items in grouped.items():
            entry = Entry("coco", items, None, items[0]["image_id"])
            name = items[0].get("file_name")
            if isinstance(name, str) and name:
                self._put(_plain(name), entry, where)
            else:
                self.by_id[key] = entry

    def _table(self, name: Any, value: Any, where: str) -> None:
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}: file_name: expected text, got {name!r}")
        items = value if isinstance(value, Mapping) else {"": value}
        strange = sorted(set(items) - {"", "boxes", "masks", "scores"})
        if strange:
            raise InputError(f"{where}: {name}: unknown {strange[0]!r}; known: boxes, masks, scores")
        self._put(_plain(name), Entry("table", dict(items)), where)

    def _put(self, name: str, entry: Entry, where: str) -> None:
        if name in self.by_name:
            raise InputError(f"{where}: {name} is named twice")
        self.by_name[name] = entry


def read_people(file: GivenFile, entry: Entry, image: Any, wanted: str, *, boxes_needed: bool = True) -> Any:
    """The people of an entry on an image: boxes and scores, and masks if the file has them.

    Args:
        image: the photo, a `bodyloop.Image`.
        wanted: "boxes" or "masks", what the option that named the file is called.
        boxes_needed: False where another file has the boxes: a person may then have neither box nor mask
            here, and its box is NaN.

    Raises:
        InputError: an entry that does not fit; it names file, photo and field.
    """
    from bodyloop.people import Source

    source = Source(image.path, entry.image_id if entry.image_id is not None else image.id)
    where = f"{file.path}: {Path(str(image.path)).name}"
    if entry.size is not None and entry.size != image.size:
        raise InputError(f"{where}: the file speaks of {entry.size} px (w, h), the photo has {image.size}")
    read: dict[str, Callable[..., Any]] = {
        "document": _from_document,
        "coco": _from_coco,
        "table": _from_table,
    }
    try:
        people = read[entry.kind](entry.items, image.size, wanted, boxes_needed)
    except BodyloopError as e:
        raise InputError(f"{where}: {e}") from e
    return replace(people, source=source)


def _from_document(document: Item, size: tuple[int, int], wanted: str, needed: bool) -> Any:
    import numpy as np

    from bodyloop.storage import people_from_json

    old = people_from_json(document)
    if old.image_size != size:
        raise InputError(f"image: the file speaks of {old.image_size} px (w, h), the photo has {size}")
    _have(old.boxes, old.masks, wanted)
    boxes = None if old.boxes is None else [None if np.isnan(b).all() else b.tolist() for b in old.boxes]
    kept = {n: getattr(old, n) for n in ("scores", "mask_scores", "track_ids", "extra")}
    return _people(size, boxes, old.masks, needed, lambda i: f"people[{i}].box", **kept)


def _from_coco(items: Sequence[Item], size: tuple[int, int], wanted: str, needed: bool) -> Any:
    boxes = [_xyxy(a.get("bbox"), _name(a, i)) for i, a in enumerate(items)]
    masks = [a.get("segmentation") or None for a in items]
    given = None if items and all(b is None for b in boxes) else boxes
    shapes = None if all(m is None for m in masks) else masks
    _have(given, shapes, wanted)
    scores = [a.get("bbox_score", a.get("score")) for a in items]
    known = bool(items) and all(isinstance(s, int | float) and not isinstance(s, bool) for s in scores)
    return _people(
        size, given, shapes, needed, lambda i: f"{_name(items[i], i)}: bbox", scores=scores if known else None
    )


def _from_table(items: Item, size: tuple[int, int], wanted: str, needed: bool) -> Any:
    boxes, masks = items.get("boxes"), items.get("masks")
    if "" in items:  # a bare list is what the option says
        boxes, masks = (items[""], None) if wanted == "boxes" else (None, items[""])
    for name, value in (("boxes", boxes), ("masks", masks)):
        if value is not None and not isinstance(value, list):
            raise InputError(f"{name}: expected a list, got {_kind(value)}")
    if _four_numbers(boxes):  # one person's box, bare
        boxes = [boxes]
    _have(boxes, masks, wanted)
    return _people(size, boxes, masks, needed, lambda i: f"boxes[{i}]", scores=items.get("scores"))


def _people(
    size: tuple[int, int], boxes: Any, masks: Any, needed: bool, names: Callable[[int], str], **more: Any
) -> Any:
    """People with a box each: their own, or that of their mask.

    Args:
        names: what messages call the box of person ``i``.
    """
    import numpy as np

    from bodyloop.masks import Masks
    from bodyloop.people import People

    shapes = None if masks is None else Masks.from_any(masks, size)
    if boxes is None:
        boxes = [None] * (0 if shapes is None else len(shapes))
    if shapes is not None and len(shapes) != len(boxes):
        raise InputError(f"masks: {len(shapes)} masks for {len(boxes)} boxes")
    rows = []
    for i, box in enumerate(boxes):
        if box is None:
            if not needed:
                rows.append(np.full(4, np.nan))
                continue
            if shapes is None or not shapes.present[i]:
                raise InputError(f"{names(i)}: neither a box nor a mask with a pixel says where to look")
            box = shapes.boxes[i].tolist()
        rows.append(_one_box(box, names(i)))
    scores = more.pop("scores", None)
    if scores is not None:
        more["scores"] = _scores(scores, len(rows))
    return People(size, boxes=np.array(rows, np.float32).reshape(-1, 4), masks=shapes, **more)


def _one_box(box: Any, what: str) -> Any:
    from bodyloop.geometry import as_boxes

    if not _four_numbers(box):
        raise InputError(f"{what}: expected four numbers x1 y1 x2 y2, got {str(box)[:80]}")
    try:
        return as_boxes([box], what)[0]
    except OverflowError:
        raise InputError(f"{what}: coordinates beyond a million pixels") from None


def _four_numbers(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in box)
    )


def _scores(scores: Any, n: int) -> Any:
    import numpy as np

    try:
        a = np.asarray(scores, np.float32)
    except (TypeError, ValueError, OverflowError) as e:
        raise InputError(f"scores: expected {n} numbers: {e}") from e
    if a.shape != (n,):
        raise InputError(f"scores: expected {n} numbers, got shape {a.shape}")
    return a


def _have(boxes: Any, masks: Any, wanted: str) -> None:
    if wanted == "masks" and masks is None and boxes is not None and not len(boxes):
        return  # nobody
    if (masks if wanted == "masks" else (boxes if boxes is not None else masks)) is None:
        raise InputError(f"{wanted}: there are none in this entry")


def _xyxy(box: Any, name: str) -> list[float] | None:
    """COCO's x y width height as corners."""
    if box is None:
        return None
    if not _four_numbers(box):
        raise InputError(f"{name}: bbox: expected four numbers x y width height, got {str(box)[:80]}")
    try:
        x, y, w, h = (float(v) for v in box)
    except OverflowError:
        raise InputError(f"{name}: bbox: coordinates beyond a million pixels") from None
    if not (w > 0 and h > 0):
        raise InputError(f"{name}: bbox {box}: width and height must be positive")
    return [x, y, x + w, y + h]


def _name(item: Item, i: int) -> str:
    return f"annotation {item['id']}" if isinstance(item.get("id"), int | str) else f"entry {i}"


def _identifier(value: Any, where: str) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InputError(f"{where}: expected a whole number or text, got {str(value)[:60]!r}")
    return value


def _person_categories(categories: Any) -> set[str] | None:
    """Ids of the categories called person; None if none is, and all annotations are taken."""
    rows = categories if isinstance(categories, list) else []
    return {str(c.get("id")) for c in rows if isinstance(c, Mapping) and c.get("name") == "person"} or None


def _plain(name: str) -> str:
    """A file name as it is compared: slashes, no ``./`` and no ``../`` in front."""
    text = one_line(name.replace("\\", "/"))
    while text.startswith(("./", "../")):
        text = text.partition("/")[2]
    return text


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as e:
        raise FileError(f"{path}: cannot be read: {e.strerror or e}; check the path") from e
    except (ValueError, RecursionError) as e:
        raise FileError(f"{path}: not valid JSON ({one_line(str(e))}); is the file complete?") from e


def _is_document(content: Any) -> bool:
    return isinstance(content, Mapping) and content.get("schema") == SCHEMA


def _has_schema(content: Any) -> bool:
    return isinstance(content, Mapping) and "schema" in content


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", type(None): "nothing"}
    return kinds.get(type(value), f"a {type(value).__name__}")
