"""Json files, and one field of many records as an array.

Python's objects are what reading costs: a number of a json file takes 32 bytes and a tenth of a microsecond.
So a list of objects, as results files are, comes in pieces (`stream_json`) that are turned into arrays before
the next one is parsed, and large documents are parsed without the garbage collector, which would walk through
them again and again to find nothing.

A field is converted and checked for all records together; only when that fails the records are walked, to
name the file, the record, the field and what to do. With orjson or without it numbers are the same bits and
messages the same words.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import hashlib
import json
import os
import re
import reprlib
import struct
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, Protocol, cast

import numpy as np
import numpy.typing as npt

from bodyloop.errors import FileError, InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Record = Mapping[str, Any]  # one json object of a file: anything may stand in it


class Digest(Protocol):
    """What is asked of a `hashlib` object."""

    def update(self, data: bytes, /) -> object:
        """Take in more bytes."""
        ...


BLOCK = 1 << 17  # bytes parsed at once: what becomes of them stays in the processor's cache
NEXT_OBJECT = re.compile(rb"\},[ \t\r\n]*\{")


# ------------------------------------------------------------------ files


def load_json(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """A json file (gzip if it ends in .gz) and the sha256 of its bytes as they are on disk.

    Raises:
        FileError: missing, unreadable, truncated or not json.
    """
    p = Path(path)
    digest = hashlib.sha256()
    with _opened(p, digest) as f:
        text = f.read()
    if not text.strip():
        raise FileError(f"{p}: not valid json (the file is empty); write it again")
    try:
        with uncollected():
            return _parsed(text), digest.hexdigest()
    except RecursionError:
        raise FileError(f"{p}: not valid json (too many brackets within each other)") from None
    except ValueError as e:
        raise FileError(f"{p}: not valid json ({e}); is the file complete?") from e


def stream_json(path: str | os.PathLike[str], digest: Digest) -> Iterator[Any]:
    """The document of a json file; a list of objects comes as several lists, together the whole one.

    The file is cut between two objects. Where that is not between two elements of the outermost list (inside a
    string, a list within an object), the piece before the cut is no json, and the cut is moved on. If all
    pieces are, then so is the file, and its elements are those of the pieces.

    Args:
        path: as in `load_json`.
        digest: is given the bytes of the file as they are on disk.

    Raises:
        FileError: missing, unreadable, truncated or not json.
    """
    p = Path(path)
    with _opened(p, digest) as f:
        opening, text, wanted = b"", b"", BLOCK
        while block := f.read(wanted):
            text += block
            comma = _last_comma(text)
            piece = _parsed_or_none(opening + text[:comma] + b"]") if comma else None
            if piece is None:
                wanted = len(text)  # doubled, so that a file that cannot be cut costs no more than twice
                continue
            yield piece
            opening, text, wanted = b"[", text[comma + 1 :], BLOCK
        piece = _parsed_or_none(opening + text)
    if piece is None:
        piece, _ = load_json(p)  # says what is wrong, and where in the whole file
        if opening:
            raise FileError(f"{p}: was changed while it was read; try again")
    yield piece


@contextlib.contextmanager
def _opened(path: Path, digest: Digest) -> Iterator[IO[bytes]]:
    try:
        with path.open("rb") as raw:
            hashed = cast(IO[bytes], _Hashed(raw, digest))
            yield cast(IO[bytes], gzip.GzipFile(fileobj=hashed)) if path.suffix == ".gz" else hashed
    except FileError:
        raise
    except (OSError, EOFError, zlib.error) as e:
        raise FileError(f"{path}: cannot be read: {e}") from e


class _Hashed:
    """A file whose bytes go through a digest while they are read."""

    def __init__(self, file: IO[bytes], digest: Digest) -> None:
        self._file, self._digest = file, digest

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._digest.update(block)
        return block


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection while it lasts: a parser makes millions of objects, none of them garbage."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def _last_comma(text: bytes) -> int:
    """Where the comma between the last two objects is, 0 if there is none."""
    at = text.rfind(b"},")
    while at >= 0 and not NEXT_OBJECT.match(text, at):
        at = text.rfind(b"},", 0, at + 1)
    return at + 1


def _parsed(text: bytes) -> Any:
    try:
        import orjson
    except ImportError:
        return json.loads(text)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return json.loads(text)  # accepts NaN, which is then refused with the annotation's name


def _parsed_or_none(text: bytes) -> Any:
    """What a json text means; None if it is no json (or says null)."""
    try:
        return _parsed(text)
    except (ValueError, RecursionError):
        return None


# ------------------------------------------------------------------ fields as arrays


def records_of(doc: Record, key: str, origin: str) -> Sequence[Record]:
    """The list of objects under a key.

    Raises:
        InputError: there is none.
    """
    found = doc.get(key)
    if not isinstance(found, Sequence) or isinstance(found, str | bytes):
        raise InputError(f"{origin}: field {key!r} must be a list, got {type(found).__name__}; is it COCO?")
    check_objects(found, f"{origin}: {key}")
    return found


def check_objects(found: Sequence[Any], where: str, first: int = 0) -> None:
    """Refuse what is no object with fields, by name; ``first`` is the number of the first one."""
    if set(map(type, found)) <= {dict}:
        return
    for i, r in enumerate(found):
        if not isinstance(r, Mapping):
            raise InputError(
                f"{where} number {first + i}: expected an object with fields, got {type(r).__name__}; "
                "remove it"
            )


def numbers(
    records: Sequence[Record],
    key: str,
    where: str,
    shape: tuple[int, ...],
    default: float | None = None,
    *,
    first: int = 0,
) -> Floats:
    """Field ``key`` of all records as (len, *shape) float64, all finite.

    Args:
        records: of one file.
        key: the field's name.
        where: what the records are called in messages, "gt.json: annotation".
        shape: () for a number, (n,) for a list of n numbers.
        default: for records without the field; only for shape (). NaN: need not be finite.
        first: number of the first record, for messages.

    Raises:
        InputError: naming the first record whose field is missing or something else (true and false are no
            numbers).
    """
    if not len(records):
        return np.zeros((0, *shape))
    column = _column(records, key, default)
    try:
        if shape:
            pack = struct.Struct(f"{shape[0]}d").pack  # strict: n numbers, no text
            values = np.frombuffer(bytearray().join([pack(*c) for c in column])).reshape(len(column), *shape)
        else:
            values = np.frombuffer(bytearray(struct.pack(f"{len(column)}d", *column)))
    except (struct.error, TypeError, OverflowError):
        _blame(records, key, where, shape, default, first)
    if not (default is not None and np.isnan(default)) and not np.isfinite(values).all():
        _blame(records, key, where, shape, default, first)
    if _has_bools(column, values):
        _blame(records, key, where, shape, default, first)
    return values


def _column(records: Sequence[Record], key: str, default: float | None) -> list[Any]:
    with contextlib.suppress(KeyError):
        return [r[key] for r in records]  # half the time of the other way
    return [r.get(key, default) for r in records]


def _has_bools(column: Sequence[Any], values: Floats) -> bool:
    """Whether true or false stand among numbers; they have become 1 and 0, so only those are looked at."""
    if values.ndim == 1:
        return bool in map(type, column)
    maybe = ((values == 0) | (values == 1)).any(axis=1)
    return any(bool in map(type, column[i]) for i in np.flatnonzero(maybe).tolist())


def integers(records: Sequence[Record], key: str, where: str, *, first: int = 0) -> Ints:
    """Field ``key`` of all records as (len,) int64; floats may stand for whole numbers.

    Raises:
        InputError: as `numbers`, or not a whole number of 64 bits.
    """
    column = _column(records, key, None)
    with contextlib.suppress(OverflowError):
        if set(map(type, column)) <= {int}:
            return np.fromiter(column, np.int64, len(column))
    values = numbers(records, key, where, (), first=first)
    whole = (values == np.floor(values)) & (np.abs(values) < 2.0**63)
    if not whole.all():
        i = int(np.flatnonzero(~whole)[0])
        raise InputError(
            f"{where} {name_of(records[i], first + i)}: field {key!r} must be a whole number of 64 bits, "
            f"got {values[i]}"
        )
    # by way of the original numbers: float64 does not hold every 64-bit id
    return np.fromiter(map(int, column), np.int64, len(column))


def truths(records: Sequence[Record], key: str, where: str) -> Bools:
    """Field ``key`` of all records as (len,) bool: 0 or 1, false or true; missing is false.

    Raises:
        InputError: something else.
    """
    values = [r.get(key, 0) for r in records]
    try:
        if set(values) <= {0, 1}:
            return np.array(values, bool)
    except TypeError:
        pass  # a list, an object
    wrong = next(i for i, v in enumerate(values) if not isinstance(v, int | float) or v not in (0, 1))
    raise InputError(
        f"{where} {name_of(records[wrong], wrong)}: field {key!r} must be 0 or 1, got {reprlib.repr(values[wrong])}"
    )


def look_up(
    records: Sequence[Record], key: str, known: Ints, where: str, what: str, *, first: int = 0
) -> Ints:
    """Indices of the records' ids in the ascending array ``known``; ``what`` an id should be, in words.

    Raises:
        InputError: as `integers`, or an id that is not known.
    """
    wanted = integers(records, key, where, first=first)
    at, found = find(wanted, known)
    if not found.all():
        i = int(np.flatnonzero(~found)[0])
        raise InputError(
            f"{where} {name_of(records[i], first + i)}: field {key!r} = {wanted[i]} is no {what}; "
            "do both files belong to the same data?"
        )
    return at


def find(wanted: Ints, known: Ints) -> tuple[Ints, Bools]:
    """Indices in the ascending array ``known``, and whether each is there (where not, the index is any)."""
    at = np.searchsorted(known, wanted)
    at[at == len(known)] = 0
    return at, known[at] == wanted if len(known) else np.zeros(len(wanted), bool)


def refuse_duplicates(ids: Ints, where: str) -> None:
    """Refuse ids that occur more than once, by name."""
    ordered = np.sort(ids)
    again = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(again):
        twice = sorted(set(again.tolist()))
        raise InputError(
            f"{where} ids must be unique, but {twice[:3]} occur more than once; give each {where.split()[-1]} "
            "an id of its own"
        )


# ------------------------------------------------------------------ culprits by name


def name_of(record: Record, number: int) -> str:
    """What a record is called: by its id, else by its number in the file."""
    i = record.get("id")
    if isinstance(i, str):
        return f"id {reprlib.repr(i)}"
    return f"id {i}" if isinstance(i, int | float) and abs(i) < 2.0**63 else f"number {number}"


def _blame(
    records: Sequence[Record],
    key: str,
    where: str,
    shape: tuple[int, ...],
    default: float | None,
    first: int,
) -> NoReturn:
    """Find the record that spoils a field and raise an InputError that names it."""
    expected = f"{shape[0]} finite numbers" if shape else "a finite number"
    for i, r in enumerate(records):
        who = f"{where} {name_of(r, first + i)}: field {key!r}"
        if key not in r:
            if default is None:
                raise InputError(f"{who} is missing; expected {expected}")
            continue
        fault = _fault(r[key], shape, key)
        if fault:
            raise InputError(f"{who} must be {expected}, got {fault}")
    raise InputError(f"{where}s: field {key!r} must be {expected} in every entry")


def _fault(value: Any, shape: tuple[int, ...], key: str) -> str:
    """What is wrong with a value that should be a number or a list of them; "" for nothing."""
    entries: Collection[Any] = (value,)
    if shape:
        if not isinstance(value, Collection) or isinstance(value, str | bytes | Mapping):
            return f"{reprlib.repr(value)}; write a list"
        entries = value
    for e in entries:
        if isinstance(e, str):
            return f"the text {reprlib.repr(e)}; write numbers without quotes"
        if isinstance(e, bool | np.bool_):
            return f"{e}; write a number"
        if e is None:
            return "None (null); write a number or remove the entry"
        if not isinstance(e, int | float | np.number):
            return (
                f"a nested or uneven list, {reprlib.repr(value)}"
                if shape
                else f"{reprlib.repr(value)}; write a number"
            )
    if shape and len(entries) != shape[0]:
        return f"{len(entries)} numbers{_wrong_length(key, len(entries))}"
    try:
        finite = all(np.isfinite(float(e)) for e in entries)
    except OverflowError:
        return "a number too large for 64 bits; correct it"
    return "" if finite else "NaN or infinity; remove the entry or correct it"


def _wrong_length(key: str, n: int) -> str:
    """What to do about a list of n numbers that should have another length."""
    if key == "bbox":
        return "; write x y width height"
    if key != "keypoints":
        return ""
    return (
        f", {n // 3} keypoints; is it a file of another skeleton?"
        if n % 3 == 0
        else "; write x y v for each keypoint"
    )
