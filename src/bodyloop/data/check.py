"""What is wrong with labelled people: which annotation, and how to mend it.

`RULES` is the list of what is looked for. Errors spoil a training or an evaluation; warnings are what is rarely
meant so, and are worth a look. COCO's layout is checked record by record, so that one fault does not hide the next;
what another format's reader refuses is the one error of its file. Which keypoints are labelled, and how, is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from bodyloop.data import suspects
from bodyloop.data.formats import read_labels
from bodyloop.data.labels import FARTHEST, Labels, Table
from bodyloop.data.shards import Photos, photos_beside
from bodyloop.errors import BodyloopError, FileError, InputError
from bodyloop.records import name_of

Progress = Callable[[int, int], None]

LISTED = 5  # of a rule's findings, in words; all of them in JSON

# rule: is it an error, what is wrong, what to do
RULES: dict[str, tuple[bool, str, str]] = {
    "unreadable": (True, "the labels cannot be read", "correct what is named and check again"),
    "image": (True, "an image's id or name is missing or malformed, or used twice", "give each its own id and file"),
    "photo-missing": (True, "a photo is not there", "put it there, name its folder by --images, or remove the image"),
    "photo-broken": (True, "a photo cannot be opened", "fetch or export it again"),
    "photo-size": (True, "a photo has another size than its labels say", "use the photos that were labelled; scaled or "
                   "turned copies need scaled or turned labels"),
    "annotation": (True, "an id is missing, malformed or used twice", "number annotations anew"),
    "unknown": (True, "an annotation is of an image or category that is not there", "add it or remove the annotation"),
    "keypoints": (True, "keypoints are not x, y, flag for each name, or not finite", "write 3 numbers a keypoint, "
                  "0 0 0 where it is unlabelled"),
    "flags": (True, "a keypoint's flag is not 0, 1, 2 or 3", "write 0 unlabelled, 1 hidden, 2 visible"),
    "box": (True, "a box is missing, not finite or without area", "draw it around the person: x, y, width, height"),
    "box-outside": (True, "a box lies outside its photo", "check the photo's size, and that it is x, y, width, height"),
    "mask": (True, "a mask is malformed or of another size", "write polygons of 3 points or more, or an RLE of the "
             "photo's size"),
    "sides-all": (True, "left and right are exchanged in the whole set", "name them as the person sees them: exchange "
                  "left_ and right_ in the list of keypoints"),
    "photos": (False, "no photos were found, so none was looked at", "name their folder or tar by --images"),
    "sides": (False, "left and right may be exchanged", "look at the person: left is its own left"),
    "twice": (False, "the same person may be labelled twice", "remove one of the two"),
    "box-beyond": (False, "a box sticks out of its photo", "cut it at the border"),
    "count": (False, "num_keypoints is not the number of labelled keypoints", "count flags above 0"),
    "outside": (False, "a keypoint lies outside its photo", "correct it, or give it the flag 0 (or 3 if it is known)"),
    "far": (False, "a keypoint lies far from its box", "correct the keypoint or the box"),
    "origin": (False, "a labelled keypoint lies at 0, 0", "give it the flag 0 if it is unlabelled"),
    "unlabelled": (False, "an unlabelled keypoint has a place", "give it a flag if it is meant, else 0 0 0"),
    "heap": (False, "three or more keypoints lie at the same place", "correct them"),
    "crowd": (False, "a crowd region has keypoints", "remove the mark of the crowd, or the keypoints"),
    "mask-empty": (False, "a mask has no pixel", "draw it again, or leave it away"),
    "mask-off": (False, "a mask does not cover the visible keypoints", "check that it is this person's"),
    "mask-box": (False, "a mask and its box are at different places", "check that both are this person's"),
    "area": (False, "the area is not positive, or larger than the box", "write the mask's area, or 0.53 of the box's"),
    "never": (False, "a keypoint is never labelled", "leave it out of the training's skeleton"),
    "no-mirror": (False, "no keypoint is called left_... or right_..., so that nothing is mirrored by a flip",
                  "name keypoints that have sides so"),
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One thing that is found: by which of `RULES`, where, and what it is."""

    rule: str
    where: str
    what: str

    @property
    def is_error(self) -> bool:
        """Whether it spoils a training."""
        return RULES[self.rule][0]


@dataclass(frozen=True, eq=False)
class CheckReport:
    """What was found in a set.

    Attributes:
        path: the labels. format: the reader's name, "" if it could not read. skeleton: its name.
        counts: images, people, ... keypoints: by name, counts of the flags 0, 1, 2, 3.
        problems: all that was found.
    """

    path: str
    format: str
    skeleton: str
    counts: Mapping[str, int]
    keypoints: Mapping[str, tuple[int, ...]]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error; there may be warnings."""
        return not any(p.is_error for p in self.problems)

    def to_json(self) -> dict[str, object]:
        """As plain json, with everything that was found."""
        problems = [
            {"severity": "error" if p.is_error else "warning", "rule": p.rule, "where": p.where, "what": p.what,
             "fix": RULES[p.rule][2]}
            for p in self.problems
        ]  # fmt: skip
        return {
            "file": self.path, "format": self.format, "skeleton": self.skeleton, "ok": self.ok,
            "counts": dict(self.counts), "keypoints": {k: list(v) for k, v in self.keypoints.items()},
            "problems": problems,
        }  # fmt: skip

    def text(self) -> str:
        """In words: counts, keypoints by flag, and the first findings of each rule with what to do."""
        counts = ", ".join(f"{n} {name}" for name, n in self.counts.items())
        lines = [
            f"{self.path}: {self.format} ({self.skeleton}); {counts}" if self.format else f"{self.path}:"
        ]
        if self.keypoints:
            wide = max(len(k) for k in self.keypoints)
            lines.append(f"  {'':<{wide}}  unlabelled    hidden   visible   outside")
            lines += [f"  {k:<{wide}}  " + "".join(f"{n:10}" for n in v) for k, v in self.keypoints.items()]
        for rule, (error, about, fix) in RULES.items():
            found = [p for p in self.problems if p.rule == rule]
            if found:
                lines.append(f"{'ERROR' if error else 'warning'} {rule} ({len(found)}): {about}; {fix}")
                lines += [f"  {p.where}: {p.what}" for p in found[:LISTED]]
                lines += [f"  and {len(found) - LISTED} more"] if len(found) > LISTED else []
        errors = sum(p.is_error for p in self.problems)
        told = f"{errors} errors, {len(self.problems) - errors} warnings"
        return "\n".join([*lines, told if self.problems else "all is right"])


def check_labels(
    labels: str | Path | Labels,
    *,
    photos: str | Path | None = None,
    format: str | None = None,
    split: str = "train",
    progress: Progress | None = None,
) -> CheckReport:
    """Look for what is wrong with a set.

    Args:
        labels: file or folder in any known format, or what was read of it.
        photos: their folder or tar; None: beside the labels, and left out if they are not there.
        format, split: as in `bodyloop.data.formats.read_labels`.
        progress: called with images done and images in all.

    Raises:
        FileError: the labels or the named photos are not there. ConfigError: no such format.
    """
    given = Photos.open(photos) if photos is not None else None
    if not isinstance(labels, Labels):
        try:
            labels = read_labels(labels, format=format, photos=given, split=split)
        except InputError as e:
            return CheckReport(str(labels), "", "", {}, {}, (Problem("unreadable", str(labels), str(e)),))
    found = list(_images(labels))
    found += _photos(labels, given, progress)
    known = [{str(r.get("id")) for r in labels.document[key]} for key in ("images", "categories")]
    k = len(labels.skeleton)
    bad = {n: p for n, row in enumerate(labels.annotations) if (p := list(_row(row, n, k, *known)))}
    found += [p for problems in bad.values() for p in problems]
    ids = Counter(str(r.get("id")) for r in labels.annotations)
    found += [
        Problem("annotation", f"annotation id {i}", f"{n} annotations have it")
        for i, n in ids.items()
        if n > 1
    ]
    sound = _without(labels, bad.keys())
    table = sound.table()
    found += [
        Problem(rule, f"annotation id {table.ids[n]}", what)
        for rule, n, what in suspects.of_people(sound, table)
    ]
    found += [Problem(rule, str(labels.path), what) for rule, what in suspects.of_set(sound, table)]
    flags = [(table.keypoints[..., 2] == f).sum(axis=0).tolist() for f in range(4)]
    keypoints = dict(zip(labels.skeleton.keypoints, zip(*flags, strict=True), strict=True))
    counts = _counts(labels, table)
    return CheckReport(str(labels.path), labels.format, labels.skeleton.name, counts, keypoints, tuple(found))


def _counts(labels: Labels, table: Table) -> dict[str, int]:
    people = ~table.crowd
    with_points = (table.keypoints[..., 2] > 0).any(axis=1)
    with_people = {str(a.get("image_id")) for a in labels.annotations}
    return {
        "images": len(labels.images),
        "of them without people": sum(str(i.get("id")) not in with_people for i in labels.images),
        "people": sum(not a.get("iscrowd") for a in labels.annotations),
        "with keypoints": int((people & with_points).sum()),
        "with a mask": sum(bool(a.get("segmentation")) for a in labels.annotations),
        "crowd regions": int(table.crowd.sum()),
    }


# ------------------------------------------------------------------ images and photos


def _images(labels: Labels) -> Iterator[Problem]:
    ids = Counter(str(i.get("id")) for i in labels.images)
    names = Counter(str(i.get("file_name")) for i in labels.images)
    for n, image in enumerate(labels.images):
        who = f"image {name_of(image, n)}"
        if type(image.get("id")) is not int:
            yield Problem("image", who, f"its id is {image.get('id')!r}, not a whole number")
        elif ids[str(image["id"])] > 1:
            yield Problem("image", who, f"{ids[str(image['id'])]} images have this id")
        if not isinstance(image.get("file_name"), str) or not image["file_name"]:
            yield Problem("image", who, "it has no file_name")
        elif names[image["file_name"]] > 1:
            yield Problem(
                "image", who, f"{names[image['file_name']]} images have the file {image['file_name']}"
            )


def _photos(labels: Labels, given: Photos | None, progress: Progress | None) -> list[Problem]:
    """Photos that are missing, broken or of another size."""
    photos = given or (Photos([labels.photos]) if labels.photos else photos_beside(labels.path))
    out = []
    there = 0
    for n, image in enumerate(labels.images, 1):
        name, who = str(image.get("file_name", "")), f"image {name_of(image, n)}"
        try:
            size = photos.size(name) if photos.find(name) is not None else None
            there += size is not None
            problem = _size_problem(image, photos, name, size)
        except BodyloopError as e:
            problem = ("photo-broken" if isinstance(e, FileError) else "image"), str(e)
        if problem is not None:
            out.append(Problem(problem[0], who, problem[1]))
        if progress is not None:
            progress(n, len(labels.images))
    if not there and given is None:
        return [Problem("photos", str(labels.path), f"not in {', '.join(map(str, photos.places))}")]
    return out


def _size_problem(
    image: Mapping[str, Any], photos: Photos, name: str, size: tuple[int, int] | None
) -> tuple[str, str] | None:
    if size is None:
        return "photo-missing", name
    told = image.get("width"), image.get("height")
    if told in ((None, None), size) or told == photos.size(name, oriented=True):
        return None
    hint = "; it is the size of the photo turned" if told == size[::-1] else ""
    return (
        "photo-size",
        f"{name} is {size[0]} x {size[1]}, labelled {told[0]} x {told[1]}{hint}",
    )


# ------------------------------------------------------------------ one annotation


def _row(
    row: Mapping[str, Any], number: int, keypoints: int, images: set[str], categories: set[str]
) -> Iterator[Problem]:
    """What makes an annotation useless."""
    who = f"annotation {name_of(row, number)}"
    if type(row.get("id")) is not int:
        yield Problem("annotation", who, f"its id is {row.get('id')!r}, not a whole number")
    if str(row.get("image_id")) not in images:
        yield Problem("unknown", who, f"image_id {row.get('image_id')!r}")
    if "category_id" in row and str(row["category_id"]) not in categories:
        yield Problem("unknown", who, f"category_id {row['category_id']!r}")
    count = 3 * keypoints
    points = row.get("keypoints")
    if not _numbers(points, count):
        length = f"{len(points)} numbers" if isinstance(points, list) else str(points)
        yield Problem("keypoints", who, f"{length}, or some that are not finite, instead of {count} numbers")
    elif not {float(v) for v in points[2::3]} <= {0, 1, 2, 3}:
        wrong = sorted({float(v) for v in points[2::3]} - {0, 1, 2, 3})
        yield Problem("flags", who, f"flags {wrong[:5]}")
    box = row.get("bbox")
    if not _numbers(box, 4):
        yield Problem("box", who, f"bbox is {box!r}"[:80])
    elif min(box[2:]) <= 0 and not row.get("bbox_estimated"):
        yield Problem("box", who, f"width and height are {box[2]:g} and {box[3]:g}")
    for key in ("area", "num_keypoints", "iscrowd"):
        if key in row and not _numbers([row[key]], 1, FARTHEST**2):
            yield Problem("annotation", who, f"{key} is {row[key]!r}"[:80])


def _numbers(value: object, count: int, limit: float = FARTHEST) -> TypeGuard[list[float]]:
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < limit for v in value)
    )


def _without(labels: Labels, left_out: Collection[int]) -> Labels:
    """The labels without some annotations, and with the first of the images of the same id."""
    rows = [r for n, r in enumerate(labels.annotations) if n not in left_out]
    images = {i["id"]: i for i in reversed(labels.images) if type(i.get("id")) is int}
    document = {**labels.document, "annotations": rows, "images": list(reversed(images.values()))}
    return replace(labels, document=document)
