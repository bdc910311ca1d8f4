"""Whether a cropped set's labels agree with each other: flags with windows, boxes with pictures, and the rest.

Made for the sets of `bodyloop.data.cropcoco_folder` and for the published CropCOCO, which lacks some of their
fields. Every check says how many things it looked at; one that has nothing to look at is reported as skipped,
with the reason. What is malformed (lists of the wrong length, unknown ids, NaN) is one error of the reader;
what is well formed and wrong is listed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bodyloop.data.cropcoco_folder import photo_folder, read_labelled
from bodyloop.errors import BodyloopError, FileError, InputError
from bodyloop.eval.documents import opened
from bodyloop.eval.reading import GroundTruth, Record
from bodyloop.geometry import PADDING, activation_windows, padding_to_contain

Bits = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]

LISTED = 20  # of what is wrong, in words; all of it in JSON
WINDOW_TOLERANCE = 1e-6  # px; nothing but the last bits of a float
BOX_TOLERANCE = 0.01  # px; COCO's boxes are rounded to that
PAD_TOLERANCE = 1e-3  # of pad_to_contain, which may have been computed in single precision


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: found by which check, at which annotation or image, at which keypoint."""

    check: str
    where: str
    keypoint: str | None
    what: str

    def line(self) -> str:
        """In words."""
        return f"{self.where}{f', {self.keypoint}' if self.keypoint else ''}: {self.what}"


@dataclass(frozen=True)
class Check:
    """How one check went: things looked at and wrong; ``skipped`` says why there was nothing to look at, or
    what was left out."""

    name: str
    about: str
    looked_at: int
    wrong: int
    skipped: str = ""

    @property
    def outcome(self) -> str:
        """In a few words."""
        if not self.looked_at:
            return f"skipped: {self.skipped or 'there is nothing of the kind'}"
        left = f" ({self.skipped})" if self.skipped else ""
        return (
            f"{self.wrong} of {self.looked_at} wrong" if self.wrong else f"all {self.looked_at} right"
        ) + left


@dataclass(frozen=True, eq=False)
class SetReport:
    """What was found in a set.

    Attributes:
        origin: the annotation file; photos: their folder.
        padding: of the windows.
        counts: images, annotations, and keypoints per flag ("flag 0" to "flag 3").
    """

    origin: str
    photos: str
    padding: float
    counts: Mapping[str, int]
    checks: tuple[Check, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, object]:
        """As plain json; all that is wrong."""
        checks = [
            {
                "name": c.name,
                "about": c.about,
                "looked_at": c.looked_at,
                "wrong": c.wrong,
                "skipped": c.skipped,
            }
            for c in self.checks
        ]
        problems = [
            {"check": p.check, "where": p.where, "keypoint": p.keypoint, "what": p.what}
            for p in self.problems
        ]
        return {
            "file": self.origin, "photos": self.photos, "padding": self.padding, "counts": dict(self.counts),
            "ok": self.ok, "checks": checks, "problems": problems,
        }  # fmt: skip

    def table(self) -> str:
        """As text; the first of what is wrong, and how much more there is."""
        counts = ", ".join(f"{n} {name}" for name, n in self.counts.items())
        lines = [f"{self.origin}: {counts}; padding {self.padding:g}"]
        wide = max(len(c.name) for c in self.checks)
        lines += [f"  {c.name:<{wide}}  {c.about}: {c.outcome}" for c in self.checks]
        lines += [f"{self.origin}: {p.line()}" for p in self.problems[:LISTED]]
        more = len(self.problems) - LISTED
        if more > 0:
            lines.append(f"and {more} more")
        lines.append("all is right" if self.ok else f"{len(self.problems)} wrong")
        return "\n".join(lines)


def check_set(
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    padding: float | None = None,
    progress: Progress | None = None,
) -> SetReport:
    """Check a cropped set.

    Args:
        annotations: its COCO file.
        images: folder of its photos; None: its `photo_folder`, and no photos are looked at if that is not there.
        padding: of the windows; None: what the file says it was made with, else 1.25.
        progress: called with photos read and photos in all.

    Raises:
        FileError: the file cannot be read, or ``images`` is no folder.
        InputError: the file is malformed; the message names the annotation.
    """
    file = opened(annotations, "")
    names = file.ground_truth(need_area=False).keypoint_names
    if not names:
        raise InputError(f"{file.origin}: no category has keypoints; this is no file of keypoints")
    truth = file.ground_truth(keypoints=len(names), need_area=False)
    folder = photo_folder(annotations) if images is None else Path(images)
    if images is not None and not folder.is_dir():
        raise FileError(f"{folder}: no such folder of photos")
    told = padding if padding is not None else _told_padding(file.content)
    looking = _Looking(truth, file.records("images"), file.records("annotations"), told)
    looking.windows()
    looking.paddings()
    looking.counts()
    looking.boxes()
    looking.crops()
    if not folder.is_dir():
        looking.note(
            "photos", "open, and have the size that is stated", 0, f"no folder {folder}; name it (--images)"
        )
    else:
        looking.photos(folder, progress)
    flags = looking.points[..., 2]
    counts = {"images": len(truth.image_ids), "annotations": len(truth.ids)}
    counts |= {f"flag {f}": int((flags == f).sum()) for f in range(4)}
    return SetReport(file.origin, str(folder), told, counts, tuple(looking.checks), tuple(looking.problems))


def _told_padding(content: Mapping[str, object]) -> float:
    info = content.get("info")
    made = info.get("cropcoco") if isinstance(info, Mapping) else None
    told = made.get("padding") if isinstance(made, Mapping) else None
    return float(told) if isinstance(told, int | float) and told > 0 else PADDING


class _Looking:
    """A set in the course of being checked."""

    def __init__(
        self, truth: GroundTruth, images: Sequence[Record], annotations: Sequence[Record], padding: float
    ) -> None:
        self.truth, self.images, self.annotations, self.padding = truth, images, annotations, padding
        points = truth.keypoints
        self.points: Floats = np.zeros((0, 0, 3)) if points is None else points
        self.labelled: Bits = self.points[..., 2] > 0
        self.sizes = truth.image_sizes[truth.image]
        self.sized: Bits = np.asarray(np.isfinite(self.sizes).all(axis=1))
        # Ex-OKS never asks where a point of flag 3 is, and some files have 0, 0 there.
        self.unplaced: Bits = (self.points[..., 2] == 3) & (self.points[..., :2] == 0).all(axis=-1)
        self.checks: list[Check] = []
        self.problems: list[Problem] = []

    # how findings are kept

    def note(
        self, name: str, about: str, looked_at: int, skipped: str = "", found: Iterable[Problem] = ()
    ) -> None:
        """Keep how a check went."""
        wrong = list(found)
        self.checks.append(Check(name, about, looked_at, len(wrong), skipped))
        self.problems += wrong

    def at_keypoints(
        self,
        name: str,
        about: str,
        used: Bits,
        wrong: Bits,
        what: Callable[[int, int], str],
        skipped: str = "",
    ) -> None:
        """A check of keypoints (G, K)."""
        names = self.truth.keypoint_names
        found = [
            Problem(name, self._who(g), names[k], what(g, k)) for g, k in np.argwhere(used & wrong).tolist()
        ]
        self.note(name, about, int(used.sum()), skipped, found)

    def at_annotations(
        self, name: str, about: str, used: Bits, wrong: Bits, what: Callable[[int], str], skipped: str = ""
    ) -> None:
        """A check of annotations (G,)."""
        found = [Problem(name, self._who(g), None, what(g)) for g in np.flatnonzero(used & wrong).tolist()]
        self.note(name, about, int(used.sum()), skipped, found)

    def _who(self, g: int) -> str:
        return f"annotation id {self.truth.ids[g]}"

    # the checks

    def windows(self) -> None:
        """Flags against windows and pictures."""
        p, flags = self.points, self.points[..., 2]
        w = activation_windows(self.truth.boxes, self.padding)[:, None]
        beyond = np.maximum(w[..., :2] - p[..., :2], p[..., :2] - w[..., 2:]).max(axis=-1)  # px, < 0 inside
        here = (flags == 1) | (flags == 2)
        out = (flags == 3) & ~self.unplaced
        left = int(self.unplaced.sum())
        self.at_keypoints(
            "flag 3", "outside the window of its box", out, beyond < -WINDOW_TOLERANCE,
            lambda g, k: f"flag 3, but {-beyond[g, k]:.4g} px inside the window",
            f"{left} at 0, 0 left out: their place is not told" if left else "",
        )  # fmt: skip
        self.at_keypoints(
            "flags 1, 2", "inside the window of its box", here, beyond > WINDOW_TOLERANCE,
            lambda g, k: f"flag {flags[g, k]:.0f}, but {beyond[g, k]:.4g} px outside the window",
        )  # fmt: skip
        size = self.sizes[:, None]
        outside: Bits = np.asarray(((p[..., :2] < 0) | (p[..., :2] >= size)).any(axis=-1))
        self.at_keypoints(
            "flag 2", "inside the picture", np.asarray((flags == 2) & self.sized[:, None]), outside,
            lambda g, k: f"flag 2 at {p[g, k, 0]:g}, {p[g, k, 1]:g}, outside the picture of {_by(self.sizes[g])} px",
        )  # fmt: skip
        self.at_keypoints(
            "flag 0", "at 0, 0", ~self.labelled, (p[..., :2] != 0).any(axis=-1),
            lambda g, k: f"unlabelled, but at {p[g, k, 0]:g}, {p[g, k, 1]:g} instead of 0, 0",
        )  # fmt: skip

    def paddings(self) -> None:
        """`pad_to_contain` against flags and windows."""
        name, about = (
            "pad_to_contain",
            "the least padding that holds the point, above the set's where the flag is 3",
        )
        given = self.truth.pad_to_contain
        if given is None:
            self.note(name, about, 0, "no annotation has it")
            return
        flags = self.points[..., 2]
        needed = padding_to_contain(self.truth.boxes, self.points[..., :2])
        right = np.where(self.labelled, needed, -1.0)
        differs = (np.abs(given - right) > PAD_TOLERANCE * np.maximum(1, np.abs(right))) & ~self.unplaced
        wrong = differs | (((given > self.padding) != (flags == 3)) & self.labelled)
        self.at_keypoints(
            name, about, np.ones_like(wrong), wrong,
            lambda g, k: f"pad_to_contain {given[g, k]:g}, flag {flags[g, k]:.0f}; {right[g, k]:.6g} is needed",
        )  # fmt: skip

    def counts(self) -> None:
        """`num_keypoints` against flags."""
        told, counted = self.truth.num_keypoints, self.labelled.sum(axis=1)
        self.at_annotations(
            "num_keypoints", "the number of flags above 0", told >= 0, told != counted,
            lambda g: f"num_keypoints {told[g]:g}, but {counted[g]} flags above 0",
        )  # fmt: skip

    def boxes(self) -> None:
        """Boxes against pictures, amodal boxes against boxes."""
        boxes = _corners(self.truth.boxes)
        inside = _contains(np.concatenate([np.zeros_like(self.sizes), self.sizes], axis=1), boxes)
        self.at_annotations(
            "bbox", "inside the picture", self.sized, ~inside,
            lambda g: f"bbox {self.truth.boxes[g].tolist()} leaves the picture of {_by(self.sizes[g])} px",
        )  # fmt: skip
        amodal = [a.get("bbox_amodal") for a in self.annotations]
        whole = np.array([a if _is_box(a) else [np.nan] * 4 for a in amodal], np.float64).reshape(-1, 4)
        used = np.array([a is not None for a in amodal], bool)
        self.at_annotations(
            "bbox_amodal", "four numbers, and holds the bbox", used, ~_contains(_corners(whole), boxes),
            lambda g: f"bbox_amodal {amodal[g]!r} does not hold bbox {self.truth.boxes[g].tolist()}",
            "" if used.any() else "no annotation has it",
        )  # fmt: skip

    def crops(self) -> None:
        """The record of what was cut out against the picture's size."""
        found, looked_at = [], 0
        for image in self.images:
            crop = image.get("crop")
            if isinstance(crop, Mapping):
                looked_at += 1
                if not _fits(crop, image):
                    what = f"crop {dict(crop)} is no rectangle of the picture's size inside the whole one"
                    found.append(Problem("crop", f"image id {image.get('id')}", None, what))
        self.note(
            "crop",
            "a rectangle of the picture's size",
            looked_at,
            "" if looked_at else "no image has it",
            found,
        )

    def photos(self, folder: Path, progress: Progress | None) -> None:
        """Photos against what the file says of them."""
        self.note(
            "photos",
            "open, and have the size that is stated",
            len(self.images),
            "",
            self._photos(folder, progress),
        )

    def _photos(self, folder: Path, progress: Progress | None) -> Iterator[Problem]:
        for i, image in enumerate(self.images):
            try:
                size = image.get("width"), image.get("height")
                read_labelled(folder / str(image.get("file_name", "")), [size], image["id"])  # type: ignore[list-item]
            except BodyloopError as e:
                yield Problem("photos", f"image id {image['id']}", None, str(e))
            if progress is not None:
                progress(i + 1, len(self.images))


def _is_box(box: object) -> bool:
    return isinstance(box, Sequence) and len(box) == 4 and all(isinstance(v, int | float) for v in box)


def _fits(crop: Mapping[str, object], image: Record) -> bool:
    values = [crop.get(k) for k in ("x", "y", "width", "height", "full_width", "full_height")]
    if not all(isinstance(v, int) for v in values):
        return False
    x, y, w, h, full_w, full_h = values
    return (w, h) == (image.get("width"), image.get("height")) and (
        x >= 0 and y >= 0 and x + w <= full_w and y + h <= full_h  # type: ignore[operator]
    )


def _corners(xywh: Floats) -> Floats:
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def _contains(outer: Floats, inner: Floats) -> Bits:
    low = outer[:, :2] <= inner[:, :2] + BOX_TOLERANCE
    return np.asarray((low & (outer[:, 2:] >= inner[:, 2:] - BOX_TOLERANCE)).all(axis=1))


def _by(size: Floats) -> str:
    return f"{size[0]:g} x {size[1]:g}"
