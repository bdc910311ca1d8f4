"""A finished drawing: frozen pixels that know where the photo lies in them, and how to get to disk whole."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bodyloop.errors import FileError, InputError
from bodyloop.storage import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True, eq=False)
class Picture:
    """What `draw` and the sheets return.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, read-only.
        origin: (x, y) in the picture of the photo's corner pixel (0, 0); not (0, 0) where the canvas grew.
        scale: pixels of the picture per pixel of the photo.

    Raises:
        InputError: at construction, for anything but such an array.
    """

    pixels: npt.NDArray[np.uint8]
    origin: tuple[int, int] = (0, 0)
    scale: float = 1.0

    def __post_init__(self) -> None:
        a = self.pixels
        if (
            not isinstance(a, np.ndarray)
            or a.dtype != np.uint8
            or a.ndim != 3
            or a.shape[2] != 3
            or not a.size
        ):
            got = f"{a.dtype} {a.shape}" if isinstance(a, np.ndarray) else type(a).__name__
            raise InputError(f"Picture.pixels: expected a uint8 array (H, W, 3), got {got}")
        view = a.view()
        view.flags.writeable = False
        object.__setattr__(self, "pixels", view)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in px."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def save(self, path: str | os.PathLike[str], *, quality: int = 92) -> Path:
        """Write a .png, .jpg or .webp file, whole or not at all, and return its path.

        Raises:
            FileError: unknown ending, or the file cannot be written; an older file of that name stays.
        """
        target = Path(path)
        kind = _FORMATS.get(target.suffix.lower())
        if kind is None:
            raise FileError(
                f"{target}: pictures are saved as {', '.join(_FORMATS)}; give one of these endings"
            )
        picture = self.to_pil()
        if kind == "PNG":
            write_whole(target, lambda f: picture.save(f, kind, compress_level=6))
        else:
            write_whole(target, lambda f: picture.save(f, kind, quality=quality))
        return target

    def to_pil(self) -> PillowImage:
        """A Pillow image with its own copy of the pixels."""
        import PIL.Image

        return PIL.Image.fromarray(np.ascontiguousarray(self.pixels))

    def _repr_png_(self) -> bytes:
        """What notebooks show."""
        buffer = io.BytesIO()
        self.to_pil().save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        grown = f", photo at {self.origin}" if self.origin != (0, 0) else ""
        return f"Picture({self.size[0]}x{self.size[1]}{grown})"


def write_whole(target: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a file that takes its place when it is complete.

    Raises:
        FileError: the folder is missing, not writable or full, or the format cannot hold the picture.
    """
    try:
        with atomic_write(target) as file:
            write(file)
    except ValueError as e:  # a NUL in the path, or more pixels than the format has room for
        raise FileError(f"{target}: cannot be written: {e}") from e
