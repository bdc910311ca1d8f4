"""Detectors of the YOLO families from ONNX files that others exported: YOLOX, YOLOv5 to v12, end-to-end ones.

Nothing in such a file says what its numbers mean, but the shapes do: how many cells there are, whether an objectness
stands before the classes, whether boxes come sorted. A file whose shapes fit nothing known is refused. What the
pixels must be follows from the family (YOLOX: blue first, 0..255; the others: red first, 0..1), what a person is
from the names that the file lists, or from COCO's order. A card beside the file says otherwise where that is wrong.

Sources: YOLOX (Ge et al., 2021); the layouts of exported YOLOv5, v7, v8 and v10.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bodyloop.detect.instances import level_sizes, masks_in_photo, priors
from bodyloop.detect.letterbox import Letterbox
from bodyloop.detect.rtmdet import BATCH, DetectorParity, check_threshold, select
from bodyloop.engines import Array, Engine
from bodyloop.engines.onnx import OnnxEngine
from bodyloop.errors import ModelError
from bodyloop.images import Image
from bodyloop.masks import Masks
from bodyloop.models.cards import Card, Detection, Licenses, Preprocess
from bodyloop.people import People

Family = Literal["yolox", "yolov5", "yolov8", "yolo-end-to-end"]
Floats = npt.NDArray[np.floating]

PAD = 114
SIDE = 640  # where a file takes any size
COCO_CLASSES = 80
ANCHORS = 3  # boxes a cell of YOLOv5 and v7
SORTED = 6  # numbers of a box that comes sorted: its corners, score and class
RAW_WITHIN = 8.0  # YOLOX without decoding: centres are offsets of a few cells, not px


@dataclass(frozen=True)
class Layout:
    """What a file's numbers mean.

    Attributes:
        family: which kind of network; output: the array with the boxes.
        classes: how many it tells apart; 0 where the class is a number of its own.
        prototypes: the array with mask prototypes, None without masks; coefficients: their number.
    """

    family: Family
    output: str
    classes: int
    prototypes: str | None = None
    coefficients: int = 0


def recognise(shapes: Mapping[str, tuple[int, ...]], size: tuple[int, int]) -> Layout:
    """The layout of outputs of these shapes for one picture of ``size`` (w, h).

    Raises:
        ModelError: none that is known.
    """
    flat = {n: s for n, s in shapes.items() if len(s) == 3}
    maps = {n: s for n, s in shapes.items() if len(s) == 4}
    if len(flat) == 1 and len(maps) <= 1 and len(flat) + len(maps) == len(shapes):
        (name, (_, rows, columns)), cells = next(iter(flat.items())), sum(level_sizes(size))
        prototypes, m = next(((n, s[1]) for n, s in maps.items()), (None, 0))
        boxes_only = not m
        if rows == cells and columns >= 6 and boxes_only:
            return Layout("yolox", name, columns - 5)
        if rows == ANCHORS * cells and columns - m >= 6:
            return Layout("yolov5", name, columns - 5 - m, prototypes, m)
        if columns == cells and rows - m >= 5:
            return Layout("yolov8", name, rows - 4 - m, prototypes, m)
        if columns == SORTED + m and rows < cells:
            return Layout("yolo-end-to-end", name, 0, prototypes, m)
    shown = ", ".join(f"{n} {list(s)}" for n, s in shapes.items())
    raise ModelError(
        f"its outputs ({shown} for {size[0]} x {size[1]} px) are of no layout that is known: YOLOX, YOLOv5, YOLOv8 and "
        "later, or end to end with (boxes, 6). Export it with boxes decoded and without suppression"
    )


class YoloDetector:
    """A `bodyloop.roles.Detector` over a YOLO's ONNX file.

    Args:
        engine: of the file. It is run once on an empty picture to see its shapes.
        card: what to know of it; found out if None.
        score_threshold: instead of the card's.
        name: of the file, for messages.

    Raises:
        ModelError: the file's inputs or outputs are of no known kind, or it does not say which class a person is.
    """

    def __init__(
        self,
        engine: Engine,
        card: Card | None = None,
        *,
        score_threshold: float | None = None,
        name: str = "yolo",
    ) -> None:
        if not isinstance(engine, OnnxEngine):
            raise ModelError(f"{name}: a YOLO is run from an ONNX file")
        if score_threshold is not None:
            check_threshold(score_threshold)
        self.engine = engine
        self.name = name if card is None else card.name
        self._input, self._dtype, self._size, self._batch, self._last = self._entrance(card)
        try:
            empty = self._run(
                np.full((1, self._size[1], self._size[0], 3), PAD, np.uint8), (0, 0, 0), (1, 1, 1)
            )
            self.layout = recognise({n: a.shape for n, a in empty.items()}, self._size)
        except ModelError as e:
            raise ModelError(f"{self.name}: {e}") from None
        found = empty[self.layout.output]
        x = self.layout.family == "yolox"
        # the centres of all boxes lie within a few cells of the upper left corner
        self._raw = x and float(np.median(np.abs(found[..., :2]))) < RAW_WITHIN
        self._bytes = x and not (found[..., 4] == 1).all()  # YOLOv6 writes 1 for objectness, and takes 0..1
        self.card = card or self._card_of(name)
        d = self.card.detection
        if d is None or (self.layout.classes and d.person_class >= self.layout.classes):
            raise ModelError(
                f"{self.name}: its card is no detector's, or its person_class is not in the file"
            )
        self.detection = d
        self._threshold = d.score_threshold if score_threshold is None else score_threshold

    def __str__(self) -> str:
        return self.name

    def detect(self, images: Sequence[Image]) -> list[People]:
        """The people of each photo: boxes in photo px, scores, and masks of files that draw them; best first."""
        out: list[People] = []
        for start in range(0, len(images), self._batch):
            part = images[start : start + self._batch]
            places = [Letterbox.fit(i.size, self._size, self.detection.keep_aspect) for i in part]
            pixels = [p.draw(i.pixels, self.detection.pad_value) for i, p in zip(part, places, strict=True)]
            p = self.card.preprocess
            answer = self._run(np.stack(pixels), p.mean, p.std, bgr=p.order == "bgr")
            out += [self._one(answer, n, i, x) for n, (i, x) in enumerate(zip(part, places, strict=True))]
        return out

    def _one(self, answer: dict[str, Array], n: int, image: Image, place: Letterbox) -> People:
        rows = answer[self.layout.output][n].astype(np.float32)
        boxes, scores, coefficients = self._decoded(rows.T if self.layout.family == "yolov8" else rows)
        settings = Detection(
            score_threshold=self._threshold, nms_iou=self.detection.nms_iou, nms_pre=len(boxes),
            max_per_image=self.detection.max_per_image,
        )  # fmt: skip
        found = select(boxes, scores[:, None], place, settings, DetectorParity(), levels=[len(boxes)])
        masks: Masks | None = None
        if self.layout.prototypes is not None:
            prototypes = answer[self.layout.prototypes][n].astype(np.float32)
            logits = np.tensordot(coefficients[found.priors], prototypes, axes=1)
            masks = masks_in_photo(logits, place, within=found.boxes)
        return People(image.size, image.source, boxes=found.boxes, scores=found.scores, masks=masks)

    def _decoded(self, rows: Floats) -> tuple[Floats, Floats, Floats]:
        """Corners (P, 4) in input px, scores (P,) of persons and mask coefficients (P, M) from (P, numbers)."""
        m, person = self.layout.coefficients, self.detection.person_class
        rows, coefficients = rows[:, : rows.shape[1] - m], rows[:, rows.shape[1] - m :]
        if self.layout.family == "yolo-end-to-end":
            return rows[:, :4], np.where(rows[:, 5].round() == person, rows[:, 4], 0), coefficients
        centre, sides = rows[:, :2], rows[:, 2:4]
        if self._raw:
            points, strides = priors(self._size)
            centre = centre * strides[:, None] + points
            sides = np.exp(np.minimum(sides, 20)) * strides[:, None]
        before = 4 if self.layout.family == "yolov8" else 5
        scores = rows[:, before + person] * (1 if before == 4 else rows[:, 4])
        return np.concatenate([centre - sides / 2, centre + sides / 2], axis=1), scores, coefficients

    def _run(
        self, pixels: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float], bgr: bool = False
    ) -> dict[str, Array]:
        """All outputs for pictures (B, h, w, 3) RGB on the canvas."""
        x: Array = pixels
        if self._dtype != np.uint8:
            normal = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
            x = normal.astype(self._dtype)
        x = x[..., ::-1] if bgr else x
        x = x if self._last else x.transpose(0, 3, 1, 2)
        return self.engine.run({self._input: np.ascontiguousarray(x)}, self.engine.outputs)

    def _entrance(self, card: Card | None) -> tuple[str, np.dtype[np.generic], tuple[int, int], int, bool]:
        """Name and type of the input, size of the picture (w, h), pictures a call, whether channels come last."""
        takes = self.engine.takes()
        name, (dtype, shape) = next(iter(takes.items()))
        last = len(shape) == 4 and shape[3] == 3 and shape[1] != 3
        fits = len(takes) == 1 and len(shape) == 4 and (last or shape[1] in (3, None))
        if not fits or dtype not in (np.float32, np.float16, np.uint8):
            shown = ", ".join(f"{n} {dt} {list(s)}" for n, (dt, s) in takes.items())
            raise ModelError(
                f"{self.name}: takes {shown}; one picture (batch, 3, height, width) was expected"
            )
        h, w = shape[1:3] if last else shape[2:4]
        wanted = (SIDE, SIDE) if card is None else card.preprocess.size
        size = (w or wanted[0], h or wanted[1])
        if size[0] % 32 or size[1] % 32 or (card is not None and card.preprocess.size != size):
            raise ModelError(
                f"{self.name}: takes pictures of {size[0]} x {size[1]} px; "
                + ("its sides must be multiples of 32" if card is None else f"its card says {list(wanted)}")
            )
        return name, dtype, size, shape[0] or BATCH, last

    def _card_of(self, name: str) -> Card:
        """What is usual for the file's family."""
        x = self._bytes
        sorted_already = self.layout.family == "yolo-end-to-end"
        classes, person = self._classes()
        short = re.sub(r"[^a-z0-9.+_-]+", "-", name.lower()).strip("-.+_")[:64]
        return Card(
            short or "yolo", "detector", self.layout.family,
            Licenses("not stated", "not stated", "not stated"),
            Preprocess(
                self._size, mean=(0, 0, 0), std=(1, 1, 1) if x else (255, 255, 255), order="bgr" if x else "rgb"
            ),
            detection=Detection(
                pad_value=PAD, score_threshold=0.3, nms_iou=1.0 if sorted_already else 0.6,
                num_classes=classes, person_class=person,
            ),
        )  # fmt: skip

    def _classes(self) -> tuple[int, int]:
        """Number of classes, and which is the person."""
        names = _names(self.engine.metadata.get("names", ""))
        n = self.layout.classes or max(names, default=COCO_CLASSES - 1) + 1
        persons = [i for i, text in names.items() if text.strip().lower() == "person" and i < n]
        if persons or n == 1 or (not names and n == COCO_CLASSES):
            return n, persons[0] if persons else 0
        known = ", ".join(list(names.values())[:10]) or "no names"
        raise ModelError(
            f"{self.name}: tells {n} classes apart ({known}); put a card beside the file that says which of them is "
            "the person (detection.num_classes, detection.person_class)"
        )


def _names(text: str) -> dict[int, str]:
    """Class names from a file's metadata, as a dict or list in Python's notation; nothing where there are none."""
    try:
        value = ast.literal_eval(text[:100_000]) if text else {}
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return {}
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {k: v for k, v in pairs if isinstance(k, int) and 0 <= k < 1_000_000 and isinstance(v, str)}
