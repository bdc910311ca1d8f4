"""Pictures: what is taken, what is refused by name, and files of every kind of brokenness."""

from __future__ import annotations

import io
import os
import pickle
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodyloop.errors import FileError, InputError
from bodyloop.images import MAX_SIDE, Image, Source, as_image, read

# a picture whose mirror images and channel orders are all different
CORNERS = np.zeros((24, 32, 3), np.uint8)
CORNERS[:12, :16] = 250, 20, 20
CORNERS[:12, 16:] = 20, 250, 20
CORNERS[12:, :16] = 20, 20, 250


def encoded(pixels: npt.NDArray[np.uint8], kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


class TestArrays:
    def test_rgb_is_taken_without_a_copy(self) -> None:
        a = CORNERS.copy()
        image = Image.from_array(a, id=7)
        assert np.shares_memory(image.pixels, a)
        assert (image.size, image.id, image.source) == ((32, 24), 7, Source(image_id=7))
        assert a.flags.writeable and not image.pixels.flags.writeable

    def test_bgr_is_turned_round(self) -> None:
        image = Image.from_array(CORNERS[:, :, ::-1], order="bgr")
        assert (image.pixels == CORNERS).all()
        assert image.pixels.flags.c_contiguous

    @pytest.mark.parametrize("order", ["rgb", "bgr"])
    @pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (3, 3), (3, 5), (1, 1, 1)])
    def test_grey_becomes_three_equal_channels(self, shape: tuple[int, ...], order: Any) -> None:
        grey = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        image = Image.from_array(grey, order)
        assert image.size == (shape[1], shape[0])
        assert (image.pixels == grey.reshape(*shape[:2], 1)).all()

    def test_three_by_three_by_three_is_channels_last(self) -> None:
        assert Image.from_array(np.zeros((3, 3, 3), np.uint8)).size == (3, 3)

    @pytest.mark.parametrize(
        ("array", "says"),
        [
            (np.zeros((4, 5, 3), np.float32), "float image"),
            (np.zeros((4, 5, 3), np.float64), "float image"),
            (np.zeros((4, 5), np.float16), "float image"),
            (np.zeros((4, 5, 4), np.uint8), "RGBA"),
            (np.zeros((4, 5, 2), np.uint8), "RGBA"),
            (np.zeros((3, 40, 50), np.uint8), "CHW"),
            (np.zeros((1, 40, 50), np.uint8), "CHW"),
            (np.zeros((4, 5, 3), np.uint16), "uint16"),
            (np.zeros((4, 5, 3), np.int64), "int64"),
            (np.zeros((4, 5, 3), bool), "bool"),
            (np.zeros((2, 4, 5, 3), np.uint8), "batch"),
            (np.zeros((5,), np.uint8), r"\(H, W, 3\)"),
            (np.zeros((4, 5, 7), np.uint8), r"\(H, W, 3\)"),
            (np.zeros((0, 5, 3), np.uint8), "at least one pixel"),
            (np.array([["a"]]), "uint8"),
            (np.array(None), r"one pixel|\(H, W, 3\)"),
        ],
    )
    def test_refused_by_name(self, array: npt.NDArray[Any], says: str) -> None:
        with pytest.raises(InputError, match=says):
            Image.from_array(array)
        with pytest.raises(InputError):
            as_image(array)

    def test_sides_that_no_warp_can_address_are_refused(self) -> None:
        with pytest.raises(InputError, match="smaller"):
            Image(np.zeros((1, MAX_SIDE + 1, 3), np.uint8))

    def test_unknown_order_is_refused(self) -> None:
        with pytest.raises(InputError, match="'rgb' or 'bgr'"):
            Image.from_array(CORNERS, order="rbg")  # type: ignore[arg-type]

    @given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
    def test_orders_are_mirror_images(self, h: int, w: int, random: Any) -> None:
        a = np.frombuffer(random.randbytes(h * w * 3), np.uint8).reshape(h, w, 3)
        assert (Image.from_array(a, "bgr").pixels == Image.from_array(a).pixels[:, :, ::-1]).all()


class TestAsImage:
    def test_image_stays_the_very_same(self) -> None:
        image = Image(CORNERS)
        assert as_image(image) is image

    def test_pillow(self, tmp_path: Path) -> None:
        assert (as_image(PIL.Image.fromarray(CORNERS)).pixels == CORNERS).all()
        grey = PIL.Image.fromarray(CORNERS).convert("L")
        assert as_image(grey).pixels.shape == (24, 32, 3)
        file = tmp_path / "a.png"
        PIL.Image.fromarray(CORNERS).save(file)
        with PIL.Image.open(file) as opened:
            assert as_image(opened).path == str(file)

    def test_pillow_without_a_range_is_refused(self) -> None:
        with pytest.raises(InputError, match="mode 'F'"):
            as_image(PIL.Image.new("F", (3, 3)))

    @pytest.mark.parametrize("kind", [str, Path])
    def test_path(self, tmp_path: Path, kind: type) -> None:
        (tmp_path / "ä b.png").write_bytes(encoded(CORNERS, "png"))
        image = as_image(kind(tmp_path / "ä b.png"))
        assert (image.pixels == CORNERS).all()
        assert image.path == str(tmp_path / "ä b.png")

    @pytest.mark.parametrize("x", [None, 3, b"bytes", [1, 2], {"a": 1}, object()])
    def test_other_types_are_refused(self, x: Any) -> None:
        with pytest.raises(InputError, match=type(x).__name__):
            as_image(x)

    def test_tensors_are_told_what_to_write(self) -> None:
        torch = pytest.importorskip("torch")
        with pytest.raises(InputError, match=r"permute\(1, 2, 0\)"):
            as_image(torch.zeros(3, 4, 5))


class TestRead:
    @pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "ppm", "gif", "webp", "tga", "pcx"])
    def test_lossless_formats(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / "a").write_bytes(encoded(CORNERS, kind, **({"lossless": True} if kind == "webp" else {})))
        assert (read(tmp_path / "a").pixels == CORNERS).all()

    def test_jpeg(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(encoded(CORNERS, "jpeg", quality=95, subsampling=0))
        assert np.abs(read(tmp_path / "a").pixels.astype(int) - CORNERS).mean() < 4

    @pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "RGBA", "CMYK", "I;16"])
    def test_modes(self, tmp_path: Path, mode: str) -> None:
        grey = np.repeat(CORNERS[:, :, :1], 3, axis=2)
        if mode == "I;16":
            picture = PIL.Image.fromarray(grey[:, :, 0].astype(np.uint16) * 257)
        else:
            picture = PIL.Image.fromarray(grey)
            dither = PIL.Image.Dither.NONE
            picture = picture.quantize(4) if mode == "P" else picture.convert(mode, dither=dither)
        picture.save(tmp_path / "a", "tiff" if mode == "CMYK" else "png")
        pixels = read(tmp_path / "a").pixels
        assert pixels.shape == (24, 32, 3)
        tolerance = 128 if mode == "1" else 2
        assert np.abs(pixels.astype(int) - grey).max() <= tolerance

    @pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation(self, tmp_path: Path, orientation: int, kind: str) -> None:
        exif = PIL.Image.Exif()
        exif[274] = orientation
        big = CORNERS.repeat(4, 0).repeat(4, 1)
        options = {"quality": 95} if kind in ("jpeg", "webp") else {}
        (tmp_path / "a").write_bytes(encoded(big, kind, exif=exif, **options))
        with PIL.Image.open(tmp_path / "a") as stored:
            from PIL import ImageOps

            expected = np.asarray(ImageOps.exif_transpose(stored).convert("RGB")).astype(int)
        upright = read(tmp_path / "a").pixels
        assert upright.shape == expected.shape
        assert np.abs(upright - expected).mean() < 3
        lying = read(tmp_path / "a", orient=False)
        assert lying.size == (128, 96)
        assert np.abs(lying.pixels.astype(int) - big).mean() < 6

    def test_id_is_carried(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(encoded(CORNERS, "png"))
        image = read(tmp_path / "a", id=12)
        assert image.source == Source(str(tmp_path / "a"), 12, None)
        assert "12" in repr(image)


def bomb() -> bytes:
    """A PNG of 60000 x 60000 px in a few bytes."""
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunks = b""
    for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return b"\x89PNG\r\n\x1a\n" + chunks


def long_jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    thumbnail = encoded(CORNERS, "jpeg")  # has an end marker of its own
    exif = PIL.Image.Exif()
    exif[0x010E] = "x" + thumbnail.decode("latin-1").replace("\0", "0")
    return encoded(noise, "jpeg", exif=exif)


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "text": (b"hello, I am a text and no picture", "not a picture"),
    "one byte": (b"\xff", "not a picture"),
    "zeros": (bytes(4096), "not a picture"),
    "html": (b"<html><body>404 not found</body></html>", "not a picture"),
    "pickle": (b"cos\nsystem\n(S'true'\ntR.", "not a picture"),
    "jpeg cut in the header": (encoded(CORNERS, "jpeg")[:100], "truncated|broken|not a picture"),
    "jpeg cut in the scan": (long_jpeg()[:-8000], "truncated"),
    "jpeg without its end": (long_jpeg()[:-2], "truncated"),
    "png cut": (encoded(CORNERS.repeat(20, 0), "png")[:-20], "truncated|broken"),
    "png header only": (encoded(CORNERS, "png")[:33], "truncated|broken"),
    "gif cut": (encoded(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8), "gif")[:2000],
                "truncated|broken"),
    "tiff cut": (encoded(CORNERS, "tiff")[:200], "truncated|broken|not a picture"),
    "bmp cut": (encoded(CORNERS, "bmp")[:200], "truncated|broken"),
    "webp cut": (encoded(CORNERS.repeat(9, 0), "webp", lossless=True)[:-20], "truncated|broken|not a pict"),
    "bomb": (bomb(), "too many"),
    "svg": (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named(tmp_path: Path, kind: str) -> None:
    data, says = BROKEN[kind]
    file = tmp_path / "broken picture"
    file.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FileError, match=says) as e:
            read(file)
    assert str(file) in str(e.value)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp", "tiff", "gif"])
def test_flipped_bytes_give_a_picture_or_our_error(tmp_path: Path, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = np.frombuffer(encoded(CORNERS, kind), np.uint8).copy()
    data[rng.integers(0, len(data), 6)] = rng.integers(0, 256, 6)
    (tmp_path / "a").write_bytes(data.tobytes()[: rng.integers(1, len(data) + 1)])
    try:
        image = read(tmp_path / "a")
    except FileError as e:
        assert str(tmp_path / "a") in str(e)
    else:
        assert image.pixels.dtype == np.uint8


def test_missing_folder_and_odd_paths(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        read(tmp_path / "none.jpg")
    with pytest.raises(FileError, match="folder"):
        read(tmp_path)
    with pytest.raises(FileError, match=r"not a path|no such file"):
        read("a\0b")
    with pytest.raises(FileError):
        read("x" * 5000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_pipes_are_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="not a regular file"):
        read(tmp_path / "pipe")


def test_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(encoded(CORNERS, "png"))
    (tmp_path / "a").chmod(0)
    if os.access(tmp_path / "a", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(FileError, match="cannot be read"):
        read(tmp_path / "a")


def test_sources_are_plain_values() -> None:
    image = Image(CORNERS, Path("a") / "b.jpg", np.int64(3), np.int32(4))  # type: ignore[arg-type]
    assert image.source == Source(str(Path("a") / "b.jpg"), 3, 4)
    assert [type(v) for v in (image.source.image_id, image.source.frame)] == [int, int]


def test_image_is_frozen() -> None:
    image = Image(CORNERS.copy())
    with pytest.raises(ValueError, match="read-only"):
        image.pixels[0, 0] = 0
    again = pickle.loads(pickle.dumps(image))
    assert (again.pixels == image.pixels).all() and not again.pixels.flags.writeable
    with pytest.raises(AttributeError):
        image.path = "x"  # type: ignore[misc]


def test_postscript_never_reaches_the_program_that_would_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import PIL.EpsImagePlugin
    import PIL.Image

    def run(*args: object, **options: object) -> None:
        raise AssertionError("Ghostscript was asked to run the file")

    monkeypatch.setattr(PIL.EpsImagePlugin, "Ghostscript", run)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(marker) (w) file\n%%EOF\n"
    (tmp_path / "photo.jpg").write_bytes(eps)
    with pytest.raises(FileError, match=r"photo\.jpg"):
        read(tmp_path / "photo.jpg")
    with PIL.Image.open(tmp_path / "photo.jpg") as picture, pytest.raises(FileError, match="EPS"):
        as_image(picture)
