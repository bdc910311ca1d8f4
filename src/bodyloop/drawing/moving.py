"""Moving pictures: frames and how long each is shown, as GIF, WebP or MP4.

A GIF's frames share one table of colours, so that what stands still does not flicker. An MP4 (H.264 where the
machine has it) repeats a frame for as long as it is shown; its sides are even, as the format wants it. PyAV,
which writes it, is the extra [video].
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from bodyloop.drawing.palette import INK
from bodyloop.drawing.picture import write_whole
from bodyloop.drawing.sheets import MAX_SIDE, Like, aligned, shrunk, some_of, whole
from bodyloop.errors import FileError, InputError, MissingDependency

if TYPE_CHECKING:
    from av import VideoStream
    from PIL.Image import Image as PillowImage

Pixels = npt.NDArray[np.uint8]

MOVING = (".gif", ".webp", ".mp4")
FILM_RATE = 20  # frames a second of an MP4
_DITHER = np.float32(12)  # grey values
_CODECS: tuple[tuple[str, dict[str, str]], ...] = (  # the first that the machine has
    ("libx264", {"crf": "20", "preset": "veryfast"}),
    ("libopenh264", {}),
    ("mpeg4", {"b": "4M"}),
)


def animate(
    pictures: Iterable[Like],
    path: str | os.PathLike[str],
    fps: float = 8.0,
    *,
    width: int | None = None,
    hold: float = 1.0,
    loop: bool = True,
) -> Path:
    """Write the pictures as one moving .gif, .webp or .mp4, whole or not at all, and return its path.

    Args:
        pictures: the frames; their photos are laid on each other.
        fps: frames a second, at most 50 (a GIF counts in hundredths of a second).
        width: px; wider frames are shrunk.
        hold: extra seconds for the last frame.
        loop: start again at the end (an .mp4 leaves that to the player).

    Raises:
        InputError: no pictures or numbers out of range.
        FileError: another ending, or the file cannot be written.
        MissingDependency: .mp4 without PyAV.
    """
    target = moving_path(path)
    if not 0 < fps <= 50 or not 0 <= hold <= 60:
        raise InputError(f"animate: fps must be in (0, 50] and hold in 0..60 s, got {fps!r} and {hold!r}")
    limit = None if width is None else whole("width", width, MAX_SIDE)
    frames = aligned(some_of(list(pictures)), limit)
    seconds = [1 / fps] * len(frames)
    seconds[-1] += hold
    return write_moving(frames, seconds, target, loop=loop)


def moving_path(path: str | os.PathLike[str]) -> Path:
    """The path, if a moving picture can be written there.

    Raises:
        FileError: another ending.
        MissingDependency: .mp4 without PyAV.
    """
    target = Path(path)
    if target.suffix.lower() not in MOVING:
        raise FileError(
            f"{target}: moving pictures are saved as {', '.join(MOVING)}; give one of these endings"
        )
    if target.suffix.lower() == ".mp4":
        try:
            import av  # noqa: F401
        except ImportError as e:
            raise MissingDependency(
                f"{target}: an .mp4 needs PyAV ({e}); pip install 'bodyloop[video]', or save a .gif"
            ) from e
    return target


def write_moving(
    frames: Sequence[Pixels], seconds: Sequence[float], target: Path, *, loop: bool = True
) -> Path:
    """Write frames (H, W, 3) of one size, each shown so long, whole or not at all; ``target`` by `moving_path`.

    Raises:
        FileError: it cannot be written.
    """
    if target.suffix.lower() == ".mp4":
        write_whole(target, lambda f: _film(f, frames, seconds, target))
        return target
    times = [max(20, round(s * 100) * 10) for s in seconds]
    options: dict[str, Any] = {"save_all": True, "duration": times}
    if target.suffix.lower() == ".webp":
        kind, moving = "WEBP", [_pillow(f) for f in frames]
        options |= {"quality": 80, "loop": 0 if loop else 1}
    else:
        kind, moving = "GIF", _indexed(frames)
        options |= {"loop": 0} if loop else {}
    write_whole(target, lambda f: moving[0].save(f, kind, append_images=moving[1:], **options))
    return target


def _film(file: IO[bytes], frames: Sequence[Pixels], seconds: Sequence[float], target: Path) -> None:
    import av

    name, options = next((c, o) for c, o in _CODECS if c in av.codecs_available)
    height, width = frames[0].shape[:2]
    try:
        with av.open(file, "w", format="mp4") as container:
            stream = cast("VideoStream", container.add_stream(name, rate=FILM_RATE, options=options))
            stream.width, stream.height = width + width % 2, height + height % 2
            stream.pix_fmt = "yuv420p"
            at = 0
            for pixels, shown in zip(frames, seconds, strict=True):
                picture = _even(pixels)
                for _ in range(max(1, round(shown * FILM_RATE))):
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    frame.pts, frame.time_base = at, Fraction(1, FILM_RATE)
                    container.mux(stream.encode(frame))
                    at += 1
            container.mux(stream.encode(None))
    except av.FFmpegError as e:
        raise FileError(f"{target}: cannot be written as a film: {e}") from e


def _even(pixels: Pixels) -> Pixels:
    """The frame with even sides, a dark line added where one is missing."""
    h, w = pixels.shape[:2]
    if h % 2 == 0 and w % 2 == 0:
        return np.ascontiguousarray(pixels)
    out = np.full((h + h % 2, w + w % 2, 3), INK, np.uint8)
    out[:h, :w] = pixels
    return out


def _pillow(frame: Pixels) -> PillowImage:
    import PIL.Image

    return PIL.Image.fromarray(frame)


def _indexed(frames: Sequence[Pixels]) -> list[PillowImage]:
    """The frames in one common table of 256 colours.

    The table is an octree's, which keeps the few pixels of a skeleton in their hue (median cut gives its colours
    to the photo). The dither is a fixed pattern: what stands still keeps its pixels, which a GIF stores only once
    (error diffusion makes files four times as large).
    """
    from PIL import Image as Pillow

    h, w = frames[0].shape[:2]
    some = frames[:: max(1, len(frames) // 8)]
    factor = min(1.0, math.sqrt(400_000 / (w * h * len(some))))
    sample = np.concatenate([shrunk(f, factor) for f in some])
    table = _pillow(sample).quantize(256, method=Pillow.Quantize.FASTOCTREE)
    noise = np.tile(_bayer(), (h // 8 + 1, w // 8 + 1))[:h, :w, None] * _DITHER
    spread = (np.clip(np.rint(f + noise), 0, 255).astype(np.uint8) for f in frames)
    return [_pillow(f).quantize(palette=table, dither=Pillow.Dither.NONE) for f in spread]


def _bayer() -> npt.NDArray[np.float32]:
    """(8, 8) thresholds in -0.5..0.5, each as far as can be from those of like value."""
    m = np.zeros((1, 1))
    for _ in range(3):
        m = np.block([[4 * m, 4 * m + 2], [4 * m + 3, 4 * m + 1]])
    return ((m + 0.5) / 64 - 0.5).astype(np.float32)
