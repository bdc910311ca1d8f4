"""The safetensors file format: a JSON header with names, types and places, then the numbers.

Reading maps the file, so that opening a model of gigabytes costs nothing until a tensor is looked at;
writing goes tensor by tensor into a temporary file that takes the name at the end, so that a model is never
held twice and an interrupted run leaves nothing half-done. The tests hold it against the safetensors library.
"""

from __future__ import annotations

import itertools
import json
import math
import mmap
import os
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.errors import FileError, ModelError

Array = npt.NDArray[Any]
MAX_HEADER = 100_000_000  # bytes; the limit of the format
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_NAMES = {np.dtype(v): k for k, v in _DTYPES.items() if k != "BF16"}


def looks_like_safetensors(head: bytes) -> bool:
    """Whether a file that begins with these (at least nine) bytes can be one."""
    return len(head) >= 9 and head[8:9] == b"{" and struct.unpack_from("<Q", head)[0] <= MAX_HEADER


def read_safetensors(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Tensors (read-only, mapped; bfloat16 widened to float32) and metadata.

    Raises:
        FileError: it cannot be opened.
        ModelError: it is damaged; the message names the tensor.
    """
    data, header = _header(path)
    raw = header.pop("__metadata__", {})
    if not isinstance(raw, dict) or not all(isinstance(v, str) for v in raw.values()):
        raise ModelError(f"{path}: __metadata__ must be a table of texts")
    start = 8 + struct.unpack_from("<Q", data)[0]
    tensors: dict[str, Array] = {}
    places = []
    for name, entry in header.items():
        try:
            tensors[name], place = _tensor(data, start, entry)
        except ModelError as e:
            raise ModelError(f"{path}: tensor {name[:80]!r}: {e}") from None
        places.append((*place, name))
    places.sort()
    for (_, end, one), (begin, _, other) in itertools.pairwise(places):
        if begin < end:
            raise ModelError(f"{path}: tensors {one[:80]!r} and {other[:80]!r} overlap")
    return tensors, dict(raw)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata alone.

    Raises:
        FileError, ModelError: as `read_safetensors`.
    """
    raw = _header(path)[1].get("__metadata__", {})
    return {k: v for k, v in raw.items() if isinstance(v, str)} if isinstance(raw, dict) else {}


def _header(path: Path) -> tuple[mmap.mmap, dict[str, Any]]:
    try:
        with path.open("rb") as f:
            size = f.seek(0, 2)
            if size < 9:
                raise ModelError(f"{path}: {size} bytes are no model")
            data = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as e:
        raise FileError(f"cannot read {path}: {e.strerror or e}") from e
    (length,) = struct.unpack_from("<Q", data)
    if length > min(MAX_HEADER, size - 8):
        raise ModelError(f"{path}: no safetensors file, or cut off (its header would have {length} bytes)")
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_unique)
    except (ValueError, RecursionError) as e:
        raise ModelError(f"{path}: the header is damaged: {str(e)[:120]}") from None
    if not isinstance(header, dict):
        raise ModelError(f"{path}: the header is no table")
    return data, header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name occurs twice")
    return out


def _tensor(data: mmap.mmap, start: int, entry: object) -> tuple[Array, tuple[int, int]]:
    match entry:
        case {"dtype": str() as kind, "shape": list() as shape, "data_offsets": [int() as a, int() as b]}:
            pass
        case _:
            raise ModelError("dtype, shape and data_offsets are expected")
    if kind not in _DTYPES:
        raise ModelError(f"type {kind[:20]!r} is not supported (there are {', '.join(_DTYPES)})")
    if len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise ModelError(f"the shape {str(shape)[:60]} is none")
    dtype, count = np.dtype(_DTYPES[kind]), math.prod(shape)
    if not 0 <= a <= b <= len(data) - start:
        raise ModelError(f"bytes {a} to {b} lie outside the file (cut off?)")
    if count * dtype.itemsize != b - a:
        raise ModelError(f"{b - a} bytes are not the {count} numbers of shape {tuple(shape)}")
    array = np.frombuffer(data, dtype, count, start + a).reshape(shape)
    if kind == "BF16":
        array = (array.astype("<u4") << 16).view("<f4")
    return array, (a, b)


def replace_metadata(source: Path, metadata: Mapping[str, str]) -> bytes:
    """The bytes of the file with other metadata; the tensors stay as they are, in whatever type.

    Raises:
        FileError, ModelError: as `read_safetensors`.
    """
    data, header = _header(source)
    start = 8 + struct.unpack_from("<Q", data)[0]
    return _head({**header, "__metadata__": dict(metadata)}) + data[start:]


def _head(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_safetensors(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write atomically.

    Raises:
        ModelError: a tensor's type does not exist in the format.
        FileError: the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    # Large numbers first, so that all tensors lie aligned; then by name: equal models give equal files.
    names = sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n))
    at = 0
    for name in names:
        t = tensors[name]
        kind = _NAMES.get(t.dtype.newbyteorder("<") if t.dtype.itemsize > 1 else t.dtype)
        if kind is None:
            raise ModelError(f"tensor {name!r}: type {t.dtype} cannot be written")
        header[name] = {"dtype": kind, "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    temporary: Path | None = None
    try:
        handle, created = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        temporary = Path(created)
        with os.fdopen(handle, "wb") as f:
            f.write(_head(header))
            for name in names:
                t = tensors[name]
                f.write(np.ascontiguousarray(t, t.dtype.newbyteorder("<")).data)
            f.flush()
            os.fsync(f.fileno())
        temporary.chmod(0o644)  # mkstemp's files are private
        temporary.replace(path)
        temporary = None
    except OSError as e:
        raise FileError(f"cannot write {path}: {e.strerror or e}") from e
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
