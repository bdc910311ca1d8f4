"""Torch's checkpoint files, read without torch and without running anything that they contain.

The pickle inside goes through `_pickle.Machine`, which has no way to call code. Tensors are views into the
mapped file; nothing is read before it is looked at. Formats: torch's zip archive (since 1.6), torch's older
stream of pickles, and a bare pickle of numpy arrays. What stands in a checkpoint, and what its names mean,
belongs to `checkpoints` and `keymaps`.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from pathlib import Path

import numpy as np

from bodyloop.errors import FileError, ModelError
from bodyloop.models._pickle import DTYPES, Bytes, Global, Machine, PickledArray, Storage, Stub, Tensor

__all__ = ["Global", "PickledArray", "Stub", "Tensor", "read_torch"]

MAX_ENTRIES = 200_000  # in one archive; the largest published network has 495 tensors
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = 30  # bytes of a zip entry's local header before name and extra field


def read_torch(path: str | Path) -> object:
    """What the file holds: dicts, lists, tuples, scalars, `Tensor`, `PickledArray`, `Stub` and `Global`.

    Raises:
        FileError: it cannot be opened.
        ModelError: it is no checkpoint, is damaged, or is made to exhaust memory.
    """
    p = Path(path)
    try:
        with p.open("rb") as f:
            if f.seek(0, 2) == 0:
                raise ModelError(f"{p}: the file is empty")
            data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as e:
        raise FileError(f"cannot read the checkpoint {p}: {e.strerror or e}") from e
    try:
        return _read_zip(p, data) if data[:4] == b"PK\x03\x04" else _read_stream(data)
    except ModelError as e:
        raise ModelError(f"{p}: {e}") from None


def _read_zip(path: Path, data: mmap.mmap) -> object:
    """torch's archive: ``<name>/data.pkl`` and ``<name>/data/<key>``, all stored without compression."""
    entries = _zip_entries(path, data)
    pickles = [n for n in entries if n == "data.pkl" or n.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ModelError("a zip archive, but not one of torch (it has no data.pkl)")
    root = pickles[0].removesuffix("data.pkl")
    order = entries.get(root + "byteorder")
    if order is not None and data[order[0] : order[0] + min(order[1], 8)] != b"little":
        raise ModelError("the file was written on a big-endian machine; convert it there")

    def read(storage: Storage) -> memoryview:
        name = f"{root}data/{storage.key}"
        if name not in entries:
            raise ModelError(f"the archive lacks the entry {name[:80]!r}")
        start, size = entries[name]
        width = 1 if storage.dtype is None else np.dtype(DTYPES[storage.dtype]).itemsize
        if storage.numel * width != size:
            raise ModelError(f"entry {name!r} has {size} bytes, expected {storage.numel * width}")
        return memoryview(data)[start : start + size]

    start, size = entries[pickles[0]]
    return Machine(Bytes(memoryview(data)[start : start + size]), read).run()


def _zip_entries(path: Path, data: mmap.mmap) -> dict[str, tuple[int, int]]:
    """Name to (start, size) of every entry in the mapped file."""
    entries: dict[str, tuple[int, int]] = {}
    try:
        with zipfile.ZipFile(path) as z:
            infos = z.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OSError, EOFError) as e:
        raise ModelError(f"damaged or incomplete (a zip archive is expected: {e})") from None
    if len(infos) > MAX_ENTRIES:
        raise ModelError(f"{len(infos)} entries are too many for a checkpoint")
    for i in infos:
        at = i.header_offset
        head = data[at : at + _LOCAL_HEADER] if at >= 0 else b""
        if len(head) < _LOCAL_HEADER or head[:4] != b"PK\x03\x04":
            raise ModelError(f"entry {i.filename[:80]!r} is damaged")
        start = at + _LOCAL_HEADER + sum(struct.unpack_from("<HH", head, 26))
        if i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size or i.flag_bits & 1:
            raise ModelError(f"entry {i.filename[:80]!r} is compressed or encrypted; torch stores it plainly")
        if start + i.file_size > len(data):
            raise ModelError(f"entry {i.filename[:80]!r} reaches beyond the end of the file (cut off?)")
        if i.filename in entries:
            raise ModelError(f"entry {i.filename[:80]!r} occurs twice")
        entries[i.filename] = (start, i.file_size)
    return entries


def _read_stream(data: mmap.mmap) -> object:
    """torch's older format: magic number, version, system, object, storage keys, then the storages."""
    source = Bytes(memoryview(data))
    places: dict[str, tuple[int, int]] = {}

    def read(storage: Storage) -> memoryview:
        if storage.key not in places:
            raise ModelError(f"the file lacks the storage {storage.key[:80]!r}")
        start, numel = places[storage.key]
        width = 1 if storage.dtype is None else np.dtype(DTYPES[storage.dtype]).itemsize
        if numel != storage.numel:
            raise ModelError(f"storage {storage.key!r} has {numel} numbers, expected {storage.numel}")
        return memoryview(data)[start : start + numel * width]

    first = Machine(source, None).run()
    if first != _LEGACY_MAGIC:
        return first  # a plain pickle, of numpy arrays perhaps
    Machine(source, None).run()
    Machine(source, None).run()
    machine = Machine(source, read)
    tree = machine.run()
    keys = Machine(source, None).run()
    if not isinstance(keys, list):
        raise ModelError("the list of storages is missing")
    widths = {s.key: np.dtype(DTYPES[s.dtype or "uint8"]).itemsize for s in machine.storages}
    at = source.tell()
    for key in keys:
        if key not in widths or at + 8 > len(data):
            raise ModelError("the storages are damaged or cut off")
        (numel,) = struct.unpack_from("<q", data, at)
        places[key] = (at + 8, numel)
        at += 8 + numel * widths[key]
        if numel < 0 or at > len(data):
            raise ModelError("the storages are damaged or cut off")
    return tree
