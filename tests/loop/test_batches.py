"""Many pictures: one's failure is reported and the others go on; nothing of it stays in memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.errors import FileError, InputError
from bodyloop.geometry import Crop
from bodyloop.images import Image
from bodyloop.loop import BodyLoop, Failure, LoopConfig, LoopResult
from bodyloop.maps import ProbabilityMaps
from bodyloop.people import People
from tests.loop.scene import PHOTO, found, person
from tests.parity_loop.players import Discs, Poser

CONFIG = LoopConfig(passes=1)


class OutOfMemoryError(RuntimeError):
    """What torch raises is known by its name alone."""


class Gpu(MemoryError):
    """A child of Python's own."""


class Always:
    """Finds the same person in every picture, but for those that fail."""

    def __init__(self, fails: dict[int, Callable[[], Exception]] | None = None) -> None:
        self.fails, self.calls, self.held = fails or {}, 0, []

    def detect(self, images: Sequence[Image]) -> list[People]:
        n, self.calls = self.calls, self.calls + 1
        if n in self.fails:
            large = np.zeros(1000)
            self.held.append(weakref.ref(large))
            raise self.fails[n]()
        return [found(person())]


def loop(fails: dict[int, Callable[[], Exception]] | None = None, pose: Any = None) -> BodyLoop:
    return BodyLoop(Always(fails), pose or Poser(person()), Discs(), CONFIG)


def test_one_and_many() -> None:
    one = loop().predict(PHOTO)
    many = loop().predict([PHOTO, PHOTO.pixels, PHOTO])
    assert isinstance(one, People) and [len(p) for p in many] == [1, 1, 1]
    assert one.allclose(many[0])
    assert isinstance(loop().predict(PHOTO, return_intermediates=True), LoopResult)
    assert all(isinstance(r, LoopResult) for r in loop().predict([PHOTO], return_intermediates=True))
    assert loop().predict([]) == []


def test_order_of_channels() -> None:
    seen: list[Image] = []

    class Looks(Always):
        def detect(self, images: Sequence[Image]) -> list[People]:
            seen.extend(images)
            return super().detect(images)

    BodyLoop(Looks(), Poser(person()), Discs(), CONFIG).predict(PHOTO.pixels[..., ::-1], order="bgr")
    assert (seen[0].pixels == PHOTO.pixels).all()


def test_boxes_of_each() -> None:
    box = person().boxes
    people = loop().predict([PHOTO, PHOTO], boxes=[box, None])
    assert [h[0].changes[0].why for p in people if (h := p.provenance)] == [
        "given by the caller",
        "by the detector",
    ]
    with pytest.raises(InputError, match="boxes: for 2 pictures expected a list"):
        loop().predict([PHOTO, PHOTO], boxes=[box])


@pytest.mark.parametrize("error", [MemoryError, OutOfMemoryError, Gpu])
def test_out_of_memory_in_one_picture(error: type[Exception]) -> None:
    it = loop({1: lambda: error("allocating 2 GB")})
    out = it.predict([PHOTO, PHOTO, PHOTO], on_error="keep")
    assert [type(o).__name__ for o in out] == ["People", "Failure", "People"]
    failure = out[1]
    assert isinstance(failure, Failure) and failure.out_of_memory and failure.number == 1
    assert failure.source == PHOTO.source
    assert str(failure) == "picture 1 (a.jpg): out of memory; make the picture smaller"
    gc.collect()
    assert it.roles.detector.held[0]() is None  # type: ignore[attr-defined]


def test_out_of_memory_behind_an_error_of_ours() -> None:
    def wrapped() -> Exception:
        error = InputError("the network failed on cuda")
        error.__cause__ = OutOfMemoryError("2 GB")
        return error

    out = loop({0: wrapped}).predict([PHOTO], on_error="keep")
    assert isinstance(out[0], Failure) and out[0].out_of_memory


def test_a_picture_that_cannot_be_read(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    out = loop().predict([PHOTO, broken, np.zeros((4, 4)), PHOTO], on_error="keep")
    assert [isinstance(o, Failure) for o in out] == [False, True, True, False]
    assert isinstance(out[1], Failure) and isinstance(out[1].error, FileError) and not out[1].out_of_memory
    assert "broken.jpg" in str(out[1]) and str(out[2]).startswith("picture 2: ")


def test_errors_are_raised_unless_kept() -> None:
    with pytest.raises(MemoryError) as caught:
        loop({1: MemoryError}).predict([PHOTO, PHOTO])
    assert caught.value.__notes__ == ["picture 1, counted from 0"]
    with pytest.raises(InputError, match="on_error must be"):
        loop().predict(PHOTO, on_error="ignore")  # type: ignore[call-overload]


def test_mistakes_in_a_program_are_never_kept() -> None:
    for error in (RuntimeError, TypeError, KeyError):
        with pytest.raises(error):
            loop({0: lambda error=error: error("a bug")}).predict([PHOTO], on_error="keep")


def test_maps_stay_only_if_wanted() -> None:
    class Maps(Poser):
        def estimate(self, images: Any, people: Any) -> list[People]:
            [p] = super().estimate(images, people)
            crop = Crop.from_boxes(p.boxes, size=(12, 16), map_size=(3, 4))
            maps = ProbabilityMaps.single(np.full((len(p), 17, 4, 3), 1 / 12, np.float32), crop, np.ones(17))
            return [p.replace(maps=maps)]

    it = loop(pose=Maps(person()))
    assert it.predict(PHOTO).maps is None and it.predict(PHOTO, maps=True).maps is not None
    assert it.run(PHOTO).people.maps is not None


def test_stream() -> None:
    opened: list[int] = []

    def photos() -> Iterator[Any]:
        for i, p in enumerate([PHOTO, "none.jpg", PHOTO.pixels, PHOTO]):
            opened.append(i)
            yield p

    stream = loop({2: MemoryError}).stream(photos(), on_error="keep")
    image, people = next(stream)
    assert image is PHOTO and len(people) == 1 and opened == [0]  # type: ignore[arg-type]
    rest = list(stream)
    assert [type(p).__name__ for _, p in rest] == ["Failure", "People", "Failure"]
    assert rest[0][0] is None and rest[2][0] is PHOTO
    with pytest.raises(FileError):
        list(loop().stream(["none.jpg"]))
