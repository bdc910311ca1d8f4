"""Photographs: one frozen value that says what a picture is, and how it comes in.

`Image` holds uint8 RGB pixels (H, W, 3) together with where they are from. `read` opens a file: the header
is looked at first (size, format, EXIF orientation), so that a decompression bomb is refused before it is
unpacked; OpenCV decodes what it can, Pillow the rest. `as_image` takes whatever a caller has in hand. Arrays
are taken as they are or refused by name; pixels are copied only where their order must change. Transparency
is dropped.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from bodyloop.errors import FileError, InputError

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

Order: TypeAlias = Literal["rgb", "bgr"]
Pixels: TypeAlias = npt.NDArray[np.uint8]

MAX_SIDE = 32766  # OpenCV's warps address a source by signed 16-bit integers
MAX_PIXELS = 178_956_970  # where Pillow stops as well: half a gigabyte of RGB
MAX_FILE_BYTES = 1 << 30

_BY_OPENCV = {"JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000"}
_ORIENTATION = 274  # EXIF tag
# Formats whose readers only decode. Pillow knows others (EPS, WMF) that it hands to programs which run their code.
FORMATS = (
    "JPEG",
    "PNG",
    "BMP",
    "WEBP",
    "TIFF",
    "PPM",
    "JPEG2000",
    "GIF",
    "AVIF",
    "MPO",
    "TGA",
    "PCX",
    "SGI",
    "QOI",
)


@dataclass(frozen=True)
class Source:
    """Where a picture is from: what results, evaluation and resumed runs are keyed by."""

    path: str | None = None
    image_id: int | str | None = None
    frame: int | None = None

    def __post_init__(self) -> None:
        """Paths become text and numpy's numbers plain ones, so that keys compare and go into JSON."""
        if isinstance(self.path, os.PathLike):
            object.__setattr__(self, "path", os.fspath(self.path))
        for name in ("image_id", "frame"):
            value = getattr(self, name)
            if isinstance(value, np.integer):
                object.__setattr__(self, name, int(value))


@dataclass(frozen=True, eq=False)
class Image:
    """One picture.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, read-only.
        path: the file it was read from, if any.
        id: the caller's or the data set's identifier, if any.
        frame: the number of the frame in a video, if any.

    Raises:
        InputError: at construction, for anything but a uint8 array of that shape.
    """

    pixels: Pixels
    path: str | None = None
    id: int | str | None = None
    frame: int | None = None

    def __post_init__(self) -> None:
        a = self.pixels
        if not isinstance(a, np.ndarray) or a.dtype != np.uint8 or a.ndim != 3 or a.shape[2] != 3:
            raise InputError(f"Image.pixels: expected a uint8 array (H, W, 3), got {_describe(a)}")
        _check_size(a.shape[1], a.shape[0], "Image.pixels")
        if a.flags.writeable:
            a = a.view()
            a.flags.writeable = False
            object.__setattr__(self, "pixels", a)

    @classmethod
    def from_array(
        cls,
        array: npt.ArrayLike,
        order: Order = "rgb",
        *,
        path: str | None = None,
        id: int | str | None = None,
        frame: int | None = None,
    ) -> Image:
        """A picture from an array of uint8.

        (H, W, 3) in the named order is taken as it is ("bgr" is turned round, which copies); grey (H, W) and
        (H, W, 1) is repeated to three channels. Without a copy the picture shares the caller's memory.

        Raises:
            InputError: float or wider integer values (their range is not known), RGBA, channels first (CHW),
                batches, empty arrays, or an unknown order; the message says what to write instead.
        """
        a = np.asarray(array)
        _check_array(a, order)
        if a.ndim == 2:
            a = a[:, :, None]
        if a.shape[2] == 1:
            a = np.repeat(a, 3, axis=2)
        elif order == "bgr":
            a = np.ascontiguousarray(a[:, :, ::-1])
        return cls(a, path, id, frame)

    def __reduce__(self) -> tuple[type[Image], tuple[object, ...]]:
        return Image, (self.pixels, self.path, self.id, self.frame)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in px."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def source(self) -> Source:
        """Path, id and frame as the key that people carry."""
        return Source(self.path, self.id, self.frame)

    def __repr__(self) -> str:
        known = [f"{k}={v!r}" for k in ("path", "id", "frame") if (v := getattr(self, k)) is not None]
        return f"Image({', '.join([f'{self.size[0]}x{self.size[1]}', *known])})"


def read(path: str | os.PathLike[str], *, orient: bool = True, id: int | str | None = None) -> Image:
    """Read a picture file.

    Args:
        path: a file in any format that OpenCV or Pillow reads; of several frames the first is taken.
        orient: turn the picture as its EXIF orientation says. Data sets whose labels were made on the
            unrotated pixels (COCO among them) want False.
        id: identifier to carry along.

    Raises:
        FileError: missing, a folder, empty, truncated, not a picture, or too large; it names the file.
    """
    name = os.fspath(path)
    return decode(_read_bytes(name), name, orient=orient, id=id)


def decode(data: bytes, name: str, *, orient: bool = True, id: int | str | None = None) -> Image:
    """The picture in the bytes of a file called ``name``; as `read`."""
    image_format, orientation = _inspect(data, name)
    # OpenCV turns TIFF whether asked or not
    by_opencv = image_format in _BY_OPENCV and not (image_format == "TIFF" and orientation != 1)
    pixels = _decode_opencv(data) if by_opencv else None
    if pixels is None:
        pixels = _decode_pillow(data, name)
    if orient and orientation != 1:
        pixels = _oriented(pixels, orientation)
    return Image(pixels, path=name, id=id)


def as_image(
    x: Image | str | os.PathLike[str] | npt.NDArray[np.generic] | PillowImage, order: Order = "rgb"
) -> Image:
    """An `Image` from a path, an array (in ``order``), a Pillow image (its pixels as they are) or an `Image`.

    Raises:
        InputError: another type, or an array that `Image.from_array` refuses.
        FileError: a path that cannot be read.
    """
    if isinstance(x, Image):
        return x
    if isinstance(x, str | os.PathLike):
        return read(x)
    if isinstance(x, np.ndarray):
        return Image.from_array(x, order)
    if type(x).__module__.partition(".")[0] == "PIL":
        return _from_pillow(x)
    if type(x).__module__.partition(".")[0] == "torch":
        raise InputError(
            "a torch tensor is not an image: give tensor.permute(1, 2, 0).cpu().numpy() as uint8 RGB"
        )
    raise InputError(
        f"expected an image as a path, a uint8 array (H, W, 3), a Pillow image or a bodyloop Image; "
        f"got {type(x).__name__}"
    )


def _describe(a: object) -> str:
    return f"{a.dtype} array {a.shape}" if isinstance(a, np.ndarray) else type(a).__name__


def _check_size(w: int, h: int, what: str) -> None:
    if w < 1 or h < 1:
        raise InputError(f"{what}: an image needs at least one pixel, got {w} x {h}")
    if w > MAX_SIDE or h > MAX_SIDE or w * h > MAX_PIXELS:
        raise InputError(
            f"{what}: {w} x {h} pixels are too many (at most {MAX_SIDE} a side and {MAX_PIXELS} together); "
            "make the picture smaller or cut it into tiles"
        )


def _check_array(a: npt.NDArray[np.generic], order: str) -> None:
    if order not in ("rgb", "bgr"):
        raise InputError(f"order must be 'rgb' or 'bgr', got {order!r}")
    what = _describe(a)
    if a.size == 0:
        raise InputError(f"an image needs at least one pixel, got a {what}")
    if a.ndim not in (2, 3):
        hint = "; give the pictures of a batch one by one or as a list" if a.ndim == 4 else ""
        raise InputError(f"expected an image array (H, W, 3), got a {what}{hint}")
    if a.ndim == 3 and a.shape[2] not in (1, 3):
        if a.shape[0] in (1, 3):
            raise InputError(f"channels first (CHW): got a {what}; give array.transpose(1, 2, 0)")
        if a.shape[2] in (2, 4):
            raise InputError(f"RGBA (transparency): got a {what}; give array[:, :, :3], or blend it first")
        raise InputError(f"expected an image array (H, W, 3), got a {what}")
    if a.dtype.kind == "f":
        raise InputError(
            f"float image: got a {what}; give uint8, for values in 0..1 (array * 255).round().astype('uint8')"
        )
    if a.dtype != np.uint8:
        raise InputError(f"expected uint8 values 0..255, got a {what}; scale and convert it to uint8 first")


def _read_bytes(name: str) -> bytes:
    path = Path(name)
    try:
        if path.is_dir():
            raise FileError(f"{name}: this is a folder, not a picture; give a file in it")
        if not path.exists():
            raise FileError(f"{name}: no such file; check the path")
        if not path.is_file():
            raise FileError(f"{name}: not a regular file; save the picture to a file first")
        size = path.stat().st_size
        if size == 0:
            raise FileError(f"{name}: the file is empty; fetch or export it again")
        if size > MAX_FILE_BYTES:
            raise FileError(f"{name}: {size} bytes are too many for a picture (at most {MAX_FILE_BYTES})")
        return path.read_bytes()
    except ValueError as e:  # a NUL in the path
        raise FileError(f"{name!r}: not a path: {e}") from e
    except FileError:
        raise
    except OSError as e:
        raise FileError(f"{name}: cannot be read: {e.strerror or e}") from e


def _readers() -> list[str]:
    """Those of FORMATS that this Pillow can read (MPO comes with JPEG, AVIF is not in every build)."""
    import PIL.Image

    PIL.Image.init()
    return [f for f in FORMATS if f in PIL.Image.OPEN]


def _inspect(data: bytes, name: str) -> tuple[str, int]:
    """Format and EXIF orientation from the header alone; refuses what is too large or cut off."""
    kind, _, orientation = header(data, name)
    if not _complete(data, kind):
        raise FileError(f"{name}: the {kind} file is truncated; fetch or export it again")
    return kind, orientation


def header(data: bytes, name: str) -> tuple[str, tuple[int, int], int]:
    """Format, (width, height) as stored and EXIF orientation (1..8); the file's first bytes are enough.

    Raises:
        FileError: not a picture, or too large.
    """
    import io

    import PIL.Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(data), formats=_readers()) as header:
                kind = header.format or ""
                w, h = header.size
                orientation = header.getexif().get(_ORIENTATION, 1)
    except PIL.Image.DecompressionBombError as e:
        raise FileError(f"{name}: too many pixels to open safely: {e}") from e
    except PIL.UnidentifiedImageError as e:
        start = data[:8].hex(" ")
        raise FileError(f"{name}: not a picture in a known format (it starts with {start})") from e
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, OverflowError) as e:
        raise FileError(f"{name}: the picture's header is broken ({e}); fetch or export it again") from e
    try:
        _check_size(w, h, name)
    except InputError as e:
        raise FileError(str(e)) from e
    return kind, (w, h), orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _complete(data: bytes, kind: str) -> bool:
    """Whether a JPEG or PNG has its end marker: OpenCV fills what is missing with grey and says nothing."""
    if kind == "PNG":
        return b"IEND" in data[-(1 << 16) :] or b"IEND" in data
    if kind not in ("JPEG", "MPO"):
        return True
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:  # segments before the scan; thumbnails in them end, too
        if data[at + 1] == 0xDA:
            return data.find(b"\xff\xd9", at) >= 0
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _decode_opencv(data: bytes) -> Pixels | None:
    import cv2

    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    if bgr is None:
        return None
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=bgr), np.uint8)


def _decode_pillow(data: bytes, name: str) -> Pixels:
    """The pixels as they are stored, whatever the orientation."""
    import io

    import PIL.Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with PIL.Image.open(io.BytesIO(data), formats=_readers()) as picture:
                told = int(picture.getexif().get(_ORIENTATION, 1))
                picture.load()
                turned = picture.getexif().get(_ORIENTATION, 1) != told  # Pillow does so for TIFF
                pixels = _pillow_pixels(picture)
                return _oriented(pixels, {6: 8, 8: 6}.get(told, told)) if turned else pixels
    except InputError as e:
        raise FileError(f"{name}: {e}") from e
    except (OSError, ValueError, SyntaxError, EOFError, KeyError, IndexError, TypeError, OverflowError) as e:
        raise FileError(f"{name}: the picture is broken or truncated ({e}); fetch or export it again") from e


def _from_pillow(picture: PillowImage) -> Image:
    name = getattr(picture, "filename", None)
    if picture.format is not None and picture.format not in FORMATS:
        raise FileError(
            f"{name or 'Pillow image'}: {picture.format} pictures are not opened here, reading one may run programs; "
            "convert it to PNG first"
        )
    try:
        pixels = _pillow_pixels(picture)
    except (OSError, ValueError, SyntaxError, EOFError) as e:
        if isinstance(e, InputError):
            raise
        raise FileError(f"{name or 'Pillow image'}: the picture is broken or truncated ({e})") from e
    return Image(pixels, path=name if isinstance(name, str) and name else None)


def _pillow_pixels(picture: PillowImage) -> Pixels:
    if picture.mode.startswith(("I", "F")):
        raise InputError(
            f"Pillow mode {picture.mode!r} has no known range; convert the picture to 8 bits first"
        )
    if picture.width < 1 or picture.height < 1:
        raise InputError("an image needs at least one pixel")
    return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"), np.uint8)


def _oriented(a: Pixels, orientation: int) -> Pixels:
    """The pixels as EXIF orientation 2..8 says they must be shown."""
    if orientation >= 5:
        a = a.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        a = a[:, ::-1]
    if orientation in (3, 4, 7, 8):
        a = a[::-1]
    return np.ascontiguousarray(a)
