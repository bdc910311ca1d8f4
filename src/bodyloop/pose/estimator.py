"""`PoseModel`: pictures and boxes in, people with keypoints out. The pose role of the package.

Whose pose is asked for (boxes, the whole picture, around masks, whomever a detector finds) is settled here,
and the rows that come out of the network become `People` again. Windows are `Crop`'s arithmetic, batches and
the flip test `inference`'s; where weights come from is the api's business.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, Unpack, overload

import numpy as np
import numpy.typing as npt

from bodyloop.engines import Engine
from bodyloop.errors import InputError
from bodyloop.geometry import Crop, as_boxes
from bodyloop.images import Image, Order, as_image
from bodyloop.maps import MapLayer, ProbabilityMaps, Thresholds, in_box, merge_points
from bodyloop.models.cards import Card
from bodyloop.people import People
from bodyloop.pose.inference import SIDES, Array, PoseOptions, Runner, Windows
from bodyloop.pose.parity import Parity
from bodyloop.roles import Detector, given_people, one_each

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

OnePicture: TypeAlias = "Image | str | os.PathLike[str] | npt.NDArray[Any] | PillowImage"


class Asked(TypedDict, total=False):
    """The keywords of `PoseModel.predict`."""

    flip: bool | None
    batch_size: int | None
    maps: bool | None
    features: bool | None
    extra: Sequence[str] | None
    decode: str | None
    parity: Parity | None
    detector: Detector | None
    order: Order


WINDOW = 16  # pictures held in memory while a list or stream is worked through


class PoseModel:
    """A pose network with everything around it; safe to call from several threads.

    Args:
        engine: runs the network.
        card: how the network is fed and its maps are decoded.
        detector: finds people where no boxes are given; a function that returns one is called when needed.
        options: what `estimate` does, and the defaults of `predict`.

    Raises:
        ModelError: the card is not of a pose model, or the engine lacks what it names.
    """

    def __init__(
        self,
        engine: Engine,
        card: Card,
        *,
        detector: Detector | Callable[[], Detector] | None = None,
        options: PoseOptions | None = None,
    ) -> None:
        self._runner = Runner(engine, card)
        self._detector = detector
        self.engine = engine
        self.card = card
        self.skeleton = self._runner.skeleton
        self.options = options or PoseOptions()

    def __repr__(self) -> str:
        return f"PoseModel({self.card.name}, {len(self.skeleton)} keypoints, {self.engine.device})"

    def with_options(self, **changes: Any) -> PoseModel:
        """The same model (weights shared) with other defaults; names as of `PoseOptions`."""
        options = replace(self.options, **changes)
        return PoseModel(self.engine, self.card, detector=self._detector, options=options)

    def warm_up(self) -> None:
        """Do once what the first call would spend time on."""
        self._runner.warm_up(self.options)

    @overload
    def predict(
        self,
        images: list[Any] | tuple[Any, ...],
        boxes: Any = None,
        masks: Any = None,
        **asked: Unpack[Asked],
    ) -> list[People]: ...
    @overload
    def predict(
        self, images: OnePicture, boxes: Any = None, masks: Any = None, **asked: Unpack[Asked]
    ) -> People: ...

    def predict(
        self,
        images: Any,
        boxes: Any = None,
        masks: Any = None,
        *,
        flip: bool | None = None,
        batch_size: int | None = None,
        maps: bool | None = None,
        features: bool | None = None,
        extra: Sequence[str] | None = None,
        decode: str | None = None,
        parity: Parity | None = None,
        detector: Detector | None = None,
        order: Order = "rgb",
    ) -> People | list[People]:
        """Poses of the people in a picture (People) or in several (a list of People).

        Args:
            images: a path, an array (H, W, 3) uint8, an `Image`, or a list or tuple of such.
            boxes: (N, 4) ``x1 y1 x2 y2`` in px; "image": the whole picture is one person; None: around the
                masks if there are any, else the detector finds people. For several pictures "image", None or
                a list with one entry a picture.
            masks: N masks as arrays (H, W), RLE, polygons or None for any person; used as they are. Models
                trained without masks do not look at them. For several pictures a list.
            flip, batch_size, maps, features, extra, decode, parity: see `PoseOptions`; None: the model's own.
            detector: instead of the model's own.
            order: of the channels of arrays.

        Raises:
            InputError: a picture, box or mask that cannot be used; the message names it.
            FileError: a picture cannot be read.
            ModelError: an output that the model does not have.
        """
        asked: dict[str, Any] = {
            "flip": flip, "batch_size": batch_size, "maps": maps, "features": features, "decode": decode,
            "extra": None if extra is None else tuple(extra), "parity": parity,
        }  # fmt: skip
        options = replace(self.options, **{k: v for k, v in asked.items() if v is not None})
        if not isinstance(images, list | tuple):
            return self._predict([as_image(images, order)], [boxes], [masks], options, detector)[0]
        all_boxes = one_each(boxes, len(images), "boxes")
        all_masks = one_each(masks, len(images), "masks")
        out: list[People] = []
        for at in range(0, len(images), WINDOW):
            part = slice(at, at + WINDOW)
            opened = [as_image(i, order) for i in images[part]]
            out += self._predict(opened, all_boxes[part], all_masks[part], options, detector, at)
        return out

    def stream(
        self, images: Iterable[Any], *, detector: Detector | None = None, order: Order = "rgb"
    ) -> Iterator[tuple[Image, People]]:
        """(Image, People) of each picture, in order; however many there are, a few are in memory."""
        source = iter(images)
        while window := [as_image(i, order) for i in islice(source, WINDOW)]:
            nothing: list[Any] = [None] * len(window)
            people = self._predict(window, nothing, nothing, self.options, detector)
            yield from zip(window, people, strict=True)

    def estimate(self, images: Sequence[Image], people: Sequence[People]) -> list[People]:
        """The people of each image with keypoints: same number, same order, everything else kept.

        Raises:
            InputError: people with neither boxes nor masks, or of another picture size.
        """
        return self._estimate(images, people, self.options)

    def _predict(
        self,
        images: Sequence[Image],
        boxes: Sequence[Any],
        masks: Sequence[Any],
        options: PoseOptions,
        detector: Detector | None,
        first: int | None = None,
    ) -> list[People]:
        people: list[People | None] = []
        for i, (image, b, m) in enumerate(zip(images, boxes, masks, strict=True)):
            people.append(given_people(image, b, m, "" if first is None else f" of image {first + i}"))
        unknown = [i for i, p in enumerate(people) if p is None]
        if unknown:
            found = self._find(detector).detect([images[i] for i in unknown])
            for i, p in zip(unknown, found, strict=True):
                people[i] = p
        return self._estimate(images, [p for p in people if p is not None], options)

    def _find(self, detector: Detector | None) -> Detector:
        found = self._detector if detector is None else detector
        if found is None:
            raise InputError(
                "no boxes were given and this model has no detector: give boxes (N, 4), boxes='image' for "
                "one person that fills the picture, or detector="
            )
        return found if isinstance(found, Detector) else found()

    def _estimate(
        self, images: Sequence[Image], people: Sequence[People], options: PoseOptions
    ) -> list[People]:
        if len(images) != len(people):
            raise InputError(f"estimate: {len(images)} images but {len(people)} People")
        windows = []
        for i, (image, p) in enumerate(zip(images, people, strict=True)):
            if p.image_size != image.size:
                raise InputError(f"people of image {i}: made for {p.image_size}, the image is {image.size}")
            windows.append(Windows(image.pixels, self._crop(p, i), p.masks))
        rows = self._runner.rows(windows, options)
        ends = np.cumsum([len(w.crop) for w in windows])
        out = []
        for p, w, end in zip(people, windows, ends, strict=True):
            mine = {k: v[end - len(w.crop) : end] for k, v in rows.items()} if len(w.crop) else {}
            out.append(self._assembled(p, w.crop, mine, options))
        return out

    def _crop(self, people: People, i: int) -> Crop:
        boxes = people.boxes
        if boxes is None and people.masks is not None:
            boxes = people.masks.boxes
        if boxes is None and len(people):
            raise InputError(f"people of image {i} have neither boxes nor masks")
        p = self.card.preprocess
        checked = as_boxes(np.zeros((0, 4)) if boxes is None else boxes, f"boxes of image {i}")
        return Crop.from_boxes(checked, size=p.size, map_size=self._runner.map_size, padding=p.padding)

    def _assembled(self, people: People, crop: Crop, rows: dict[str, Array], options: PoseOptions) -> People:
        """The people with what the network said about their windows."""
        k = len(self.skeleton)
        if not len(crop):  # nobody: the right shapes for whoever joins this with others
            blank: dict[str, Array] = dict.fromkeys(self._runner.side_names, np.zeros((0, k), np.float32))
            rows = blank | {"keypoints": np.zeros((0, k, 2)), "map_scores": np.zeros((0, k), np.float32)}
        points, scores = self._points(people, crop, rows)
        changed: dict[str, Any] = {n: rows[n] for n in SIDES if n in rows}
        if options.maps and len(crop):
            changed["maps"] = self._maps(crop, rows, self._runner.thresholds(options, people.masks))
        if options.features and "features" in rows:
            changed["features"] = rows["features"]
        extra = {n: rows[n] for n in options.extra if n in rows}
        return people.replace(
            skeleton=self.skeleton,
            keypoints=points.astype(np.float32),
            map_scores=scores,
            windows=crop.windows,
            extra={**people.extra, **extra},
            **{"maps": None, "features": None, **dict.fromkeys(SIDES), **changed},
        )

    def _points(self, people: People, crop: Crop, rows: dict[str, Array]) -> tuple[Array, Array]:
        """Keypoints (N, K, 2) in image px and their map scores."""
        double = self._runner.double
        if double is None or "keypoints_outer" not in rows:
            return crop.from_map(rows["keypoints"]), rows["map_scores"]
        inner, outer = crop.enlarged(double.inner), crop.enlarged(double.outer)
        far = outer.from_map(rows["keypoints_outer"])
        boxes = people.boxes if people.boxes is not None else crop.windows
        near = in_box(inner.to_crop(far), inner, boxes, people.image_size)
        return merge_points(
            inner.from_map(rows["keypoints"]), rows["map_scores"], far, rows["map_scores_outer"], near
        )

    def _maps(self, crop: Crop, rows: dict[str, Array], thresholds: Thresholds | None) -> ProbabilityMaps:
        double = self._runner.double
        if double is None:
            return ProbabilityMaps.single(rows["maps"], crop, self._runner.variances, thresholds)
        layers = (
            MapLayer(rows["maps"], crop.enlarged(double.inner), "inner"),
            MapLayer(rows["maps_outer"], crop.enlarged(double.outer), "outer"),
        )
        return ProbabilityMaps(layers, self._runner.variances, thresholds)
