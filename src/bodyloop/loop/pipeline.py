"""`BodyLoop`: pictures in, people with boxes, masks and poses out, by three roles that work in turn.

Who plays the roles is the caller's choice; how they play together stands in a `LoopConfig`, what happens to
one picture in `passes`. Here pictures come in, one or many, and errors of one of many are kept apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, overload

from bodyloop.errors import BodyloopError, ConfigError, InputError
from bodyloop.images import Image, Order, Source, as_image
from bodyloop.loop.config import BMP_N, LoopConfig
from bodyloop.loop.passes import OnePicture, Roles
from bodyloop.loop.record import LoopResult
from bodyloop.people import People
from bodyloop.roles import Detector, PoseEstimator, Segmenter, given_people, one_each

OnError = Literal["raise", "keep"]


@dataclass(frozen=True)
class Failure:
    """A picture of a list that could not be worked through.

    Attributes:
        number: its place in the list, from 0.
        source: of the picture, if it could be opened.
        error: what happened, without the frames that would hold memory.
    """

    number: int
    source: Source | None
    error: Exception

    @property
    def out_of_memory(self) -> bool:
        """Whether memory, of the machine or a device, did not suffice."""
        return _out_of_memory(self.error)

    def __str__(self) -> str:
        where = "" if self.source is None or self.source.path is None else f" ({self.source.path})"
        what = "out of memory; make the picture smaller" if self.out_of_memory else str(self.error)
        return f"picture {self.number}{where}: {what}"


@dataclass(frozen=True)
class _How:
    """What is wanted of each picture, and what happens if it fails."""

    intermediates: bool
    maps: bool
    on_error: OnError
    order: Order


class BodyLoop:
    """Detect, estimate poses, segment, paint out, again; safe to call from several threads if its roles are.

    Args:
        detector: finds people; its masks, if it has any, dim what is around a person for the pose.
        pose: estimates their keypoints.
        segmenter: draws their masks from prompts.
        config: everything that can be chosen.
        second_detector: looks from the second pass on, at the picture without those found; None: the first.
        clock: seconds, for timings and the time budget.

    Raises:
        InputError: something that does not have the methods of its role.
    """

    def __init__(
        self,
        detector: Detector,
        pose: PoseEstimator,
        segmenter: Segmenter,
        config: LoopConfig = BMP_N,
        second_detector: Detector | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        _play("detector", detector, Detector)
        _play("pose", pose, PoseEstimator)
        _play("segmenter", segmenter, Segmenter)
        if second_detector is not None:
            _play("second_detector", second_detector, Detector)
        if not isinstance(config, LoopConfig):
            raise ConfigError(
                f"config: expected a LoopConfig, got {type(config).__name__}; see load_pipeline"
            )
        self.roles = Roles(detector, pose, segmenter, second_detector)
        self.config = config
        self._clock = clock

    def __repr__(self) -> str:
        r = self.roles
        return f"BodyLoop({self.config.name}: {r.detector}, {r.pose}, {r.segmenter})"

    def with_config(self, **changes: Any) -> BodyLoop:
        """The same roles with other choices; names as of `LoopConfig`.

        Raises:
            ConfigError: an unknown name or a value out of range.
        """
        r = self.roles
        config = self.config.changed(**changes)
        return BodyLoop(r.detector, r.pose, r.segmenter, config, r.second_detector, clock=self._clock)

    def run(self, image: Image, boxes: Any = None, masks: Any = None) -> LoopResult:
        """One picture, with everything that happened.

        Args:
            boxes: people to begin with in place of the first detection: (N, 4) ``x1 y1 x2 y2`` px, "image" for
                one person that fills the picture, or People. They stay whatever is found; scores are 1 where none
                are told.
            masks: of these people, as `Masks.from_any`; without boxes these lie around the masks.

        Raises:
            InputError: boxes or masks that cannot be used, or an answer of a role that does not fit.
        """
        if isinstance(boxes, People):
            if masks is not None:
                raise InputError("masks: People were given as boxes, put the masks into them")
            given: People | None = boxes
            if boxes.image_size != image.size:
                raise InputError(
                    f"people in a picture of {boxes.image_size}, this one has {image.size} (w, h)"
                )
        else:
            given = given_people(image, boxes, masks)
        return OnePicture(self.roles, self.config, image, given, self._clock).run()

    @overload
    def predict(
        self,
        images: list[Any] | tuple[Any, ...],
        boxes: Any = None,
        masks: Any = None,
        return_intermediates: Literal[False] = False,
        *,
        maps: bool = False,
        on_error: Literal["raise"] = "raise",
        order: Order = "rgb",
    ) -> list[People]: ...
    @overload
    def predict(
        self,
        images: list[Any] | tuple[Any, ...],
        boxes: Any = None,
        masks: Any = None,
        return_intermediates: bool = False,
        *,
        maps: bool = False,
        on_error: OnError = "raise",
        order: Order = "rgb",
    ) -> list[People | LoopResult | Failure]: ...
    @overload
    def predict(
        self,
        images: Any,
        boxes: Any = None,
        masks: Any = None,
        return_intermediates: Literal[False] = False,
        *,
        maps: bool = False,
        on_error: OnError = "raise",
        order: Order = "rgb",
    ) -> People: ...
    @overload
    def predict(
        self,
        images: Any,
        boxes: Any = None,
        masks: Any = None,
        return_intermediates: bool = False,
        *,
        maps: bool = False,
        on_error: OnError = "raise",
        order: Order = "rgb",
    ) -> People | LoopResult: ...

    def predict(
        self,
        images: Any,
        boxes: Any = None,
        masks: Any = None,
        return_intermediates: bool = False,
        *,
        maps: bool = False,
        on_error: OnError = "raise",
        order: Order = "rgb",
    ) -> Any:
        """The people in a picture, or in each of several.

        Args:
            images: a path, an array (H, W, 3) uint8, an `Image`, or a list or tuple of such.
            boxes, masks: people to begin with in place of the first detection, see `run`; for several pictures
                a list with one entry (perhaps None) a picture.
            return_intermediates: a LoopResult, with all passes, instead of People.
            maps: leave the probability maps, which are large, in the people if the pose estimator made any;
                with intermediates they always stay.
            on_error: of a list; "keep": a picture that fails (unreadable, malformed, out of memory) leaves a
                `Failure` in its place, and the others go on. "raise": the first error ends all.
            order: of the channels of arrays.

        Returns: People (or a LoopResult); for a list or tuple a list of them.

        Raises:
            InputError: a picture, box or mask that cannot be used, or an answer of a role that does not fit.
            FileError: a picture cannot be read.
        """
        how = _How(return_intermediates, maps, _checked(on_error), order)
        if not isinstance(images, list | tuple):
            return self._one(as_image(images, order), boxes, masks, how)
        all_boxes, all_masks = one_each(boxes, len(images), "boxes"), one_each(masks, len(images), "masks")
        each = enumerate(zip(images, all_boxes, all_masks, strict=True))
        return [self._kept(i, picture, b, m, how)[1] for i, (picture, b, m) in each]

    def stream(
        self, images: Iterable[Any], *, maps: bool = False, on_error: OnError = "raise", order: Order = "rgb"
    ) -> Iterator[tuple[Image | None, People | LoopResult | Failure]]:
        """(Image, People) of each picture of an iterable, in order, one in memory at a time.

        Args:
            maps, on_error, order: as `predict`; a picture that failed comes with its `Failure`, and is None
                itself if it could not be opened.
        """
        how = _How(False, maps, _checked(on_error), order)
        for i, picture in enumerate(images):
            yield self._kept(i, picture, None, None, how)

    def _one(self, image: Image, boxes: Any, masks: Any, how: _How) -> People | LoopResult:
        result = self.run(image, boxes, masks)
        if how.intermediates:
            return result
        return result.people if how.maps else result.people.replace(maps=None)

    def _kept(
        self, number: int, picture: Any, boxes: Any, masks: Any, how: _How
    ) -> tuple[Image | None, People | LoopResult | Failure]:
        """One of many pictures, or its failure if failures are kept."""
        image: Image | None = None
        try:
            image = as_image(picture, how.order)
            return image, self._one(image, boxes, masks, how)
        except (BodyloopError, MemoryError, RuntimeError) as e:
            e.add_note(f"picture {number}, counted from 0")
            if how.on_error == "raise" or not (isinstance(e, BodyloopError) or _out_of_memory(e)):
                raise
            return image, Failure(number, None if image is None else image.source, _without_frames(e))


def _checked(on_error: OnError) -> OnError:
    if on_error not in ("raise", "keep"):
        raise InputError(f"on_error must be 'raise' or 'keep', got {on_error!r}")
    return on_error


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, is of memory: Python's own or torch's, which is known by its name."""
    while error is not None:
        names = {c.__name__ for c in type(error).__mro__}
        if names & {"MemoryError", "OutOfMemoryError"}:
            return True
        error = error.__cause__ or error.__context__
    return False


def _without_frames(error: Exception) -> Exception:
    """The error and those behind it without tracebacks: their frames hold the arrays that took the memory."""
    seen: BaseException | None = error
    while seen is not None:
        seen.__traceback__ = None
        seen = seen.__cause__ or seen.__context__
    return error


def _play(name: str, role: object, protocol: type) -> None:
    if not isinstance(role, protocol):
        wanted = {"Detector": "detect", "PoseEstimator": "estimate"}.get(
            protocol.__name__, "encode and segment"
        )
        hint = "; a plain function becomes one with bodyloop.roles.as_detector" if callable(role) else ""
        raise InputError(f"{name}: {type(role).__name__} has no {wanted}{hint if wanted == 'detect' else ''}")
