"""People in files: ``.npz`` for exactness, ``.json`` for reading; and whether two People are the same.

The JSON form is one document a picture and is described by ``docs/schema/people-1.json``: what is not
available is null, masks are COCO RLE, maps and features are left out. The ``.npz`` form holds every field bit
for bit. Files are written beside their place and moved there when complete. Nothing that is read can run
code, and a file that lies about its sizes is refused before memory is taken for it.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from bodyloop.errors import BodyloopError, FileError, InputError
from bodyloop.images import Source
from bodyloop.maps.layers import ProbabilityMaps
from bodyloop.masks import Masks
from bodyloop.people import _ARRAYS, Change, People, Provenance
from bodyloop.skeletons import SKELETONS, Skeleton

SCHEMA = "bodyloop/people-1"
NPZ_SCHEMA = "bodyloop/people-npz-1"
MAX_NPZ_BYTES = 2 << 30  # unpacked; thousands of people with maps and features

# field of People -> key of a person in the JSON form
_KEYS = {
    "boxes": "box",
    "scores": "score",
    "masks": "mask",
    "mask_scores": "mask_score",
    "keypoints": "keypoints",
    "map_scores": "map_scores",
    "quality": "quality",
    "presence": "presence",
    "visibility": "visibility",
    "windows": "window",
    "track_ids": "track_id",
    "provenance": "provenance",
}
_BROKEN = (
    ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError, EOFError, RuntimeError, OSError,
    SyntaxError, TokenError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


def save(people: People, path: str | os.PathLike[str]) -> None:
    """Write ``.npz`` (exact, everything) or ``.json`` (readable, without maps and features), atomically.

    Raises:
        FileError: another suffix, or the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npz":
        arrays = _to_arrays(people)
        with atomic_write(path) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    elif suffix == ".json":
        text = json.dumps(people_to_json(people), allow_nan=False, ensure_ascii=False)
        with atomic_write(path) as file:
            file.write(text.encode())
    else:
        raise FileError(f"{os.fspath(path)}: people are saved as .npz or .json, not as {suffix or 'this'}")


def load(path: str | os.PathLike[str]) -> People:
    """Read what `save` wrote.

    Raises:
        FileError: missing, broken or of another kind; it names the file and what is wrong with it.
    """
    name = os.fspath(path)
    suffix = Path(path).suffix.lower()
    if suffix not in (".npz", ".json"):
        raise FileError(f"{name}: people are read from .npz or .json, not from {suffix or 'this'}")
    try:
        if suffix == ".npz":
            return _from_arrays(_read_npz(name))
        return people_from_json(json.loads(Path(path).read_bytes()))
    except BodyloopError as e:
        raise FileError(f"{name}: {e}") from e
    except FileNotFoundError as e:
        raise FileError(f"{name}: no such file; check the path") from e
    except _BROKEN as e:
        raise FileError(f"{name}: cannot be read as people ({type(e).__name__}: {e}); make it anew") from e


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write to that takes its place only when the block ends without an error.

    Raises:
        FileError: the folder is missing or not writable, or the disk is full.
    """
    target = Path(path)
    part = target.with_name(
        f".{secrets.token_hex(6)}.part"
    )  # short, so that any name that fits can be written
    try:
        with part.open("xb") as file:
            yield file
        part.replace(target)
    except OSError as e:
        if isinstance(e, BodyloopError):
            raise
        raise FileError(f"{target}: cannot be written: {e.strerror or e}") from e
    finally:
        with suppress(OSError):  # what went wrong before is what the caller must hear
            part.unlink(missing_ok=True)


# JSON


def people_to_json(people: People, /, **meta: Any) -> dict[str, Any]:
    """People as a document of ``docs/schema/people-1.json``, ready for `json.dumps`.

    Args:
        meta: further entries at the top, such as ``model={"name": ...}``.

    Raises:
        InputError: a name in ``meta`` that the document uses itself.
    """
    source = people.source or Source()
    w, h = people.image_size
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "image": {
            "path": source.path,
            "width": w,
            "height": h,
            "id": source.image_id,
            "frame": source.frame,
        },
        "skeleton": _skeleton_to_json(people.skeleton),
        "fields": [key for name, key in _KEYS.items() if getattr(people, name) is not None],
    }
    taken = sorted({*document, "people"} & meta.keys())
    if taken:
        raise InputError(f"people_to_json: {', '.join(taken)} belong to the document; use other names")
    columns = {key: _column_to_json(people, name) for name, key in _KEYS.items()}
    extra = {k: to_plain(v) for k, v in people.extra.items()}
    persons: list[dict[str, Any]] = []
    for i in range(len(people)):
        person = {key: c[i] for key, c in columns.items() if c is not None}
        if extra:
            person["extra"] = {k: v[i] for k, v in extra.items()}
        persons.append(person)
    return {**document, **meta, "people": persons}


def people_from_json(document: Any) -> People:
    """People of a document of ``docs/schema/people-1.json``; written by hand, ``fields`` may be left out.

    Raises:
        InputError: another kind of document, or an entry that does not fit; it names the entry.
    """
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        got = document.get("schema") if isinstance(document, Mapping) else type(document).__name__
        raise InputError(f"expected a document with schema {SCHEMA!r}, got {got!r}")
    image, persons = document.get("image"), document.get("people")
    if not isinstance(image, Mapping) or not {"width", "height"} <= image.keys():
        raise InputError("image: expected an object with width and height")
    if not isinstance(persons, list) or not all(isinstance(p, Mapping) for p in persons):
        raise InputError("people: expected a list of objects")
    skeleton = _skeleton_from_json(document.get("skeleton"))
    known = {*_KEYS.values(), "extra"}
    for i, person in enumerate(persons):
        strange = sorted(person.keys() - known)
        if strange:
            raise InputError(f"people[{i}]: unknown {', '.join(strange)}; known: {', '.join(sorted(known))}")
    size = (image["width"], image["height"])
    told = document.get("fields", [])
    if not isinstance(told, list):
        raise InputError("fields: expected a list of names")
    there = {key for key in _KEYS.values() if key in told or any(key in p for p in persons)}
    if not there and not any(p.get("extra") for p in persons):
        there = {"box"} if persons else there  # people of whom nothing is known are still so many
    values = {
        name: _column_from_json([p.get(key) for p in persons], name, size, skeleton)
        for name, key in _KEYS.items()
        if key in there
    }
    source = Source(image.get("path"), image.get("id"), image.get("frame"))
    if (
        not isinstance(source.path, str | None)
        or not isinstance(source.image_id, str | int | None)
        or not isinstance(source.frame, int | None)
    ):
        raise InputError("image: path is a text, id a text or whole number, frame a whole number")
    return People(
        size,
        source if source != Source() else None,
        skeleton,
        extra=extra_columns([p.get("extra", {}) for p in persons]),
        **values,
    )


def to_plain(a: npt.NDArray[Any]) -> list[Any]:
    """An array as nested lists for JSON: NaN and infinity are None, float32 has its own few digits."""
    if a.dtype.kind != "f":
        return [None if v is None else v for v in a.tolist()]
    wide = a.astype("U32").astype(np.float64) if a.dtype.itemsize < 8 else a
    plain = wide.astype(object)
    plain[~np.isfinite(a)] = None
    return list(plain.tolist())


def _column_to_json(people: People, name: str) -> list[Any] | None:
    value = getattr(people, name)
    if value is None:
        return None
    if isinstance(value, Masks):
        return [value.rle(i) if there else None for i, there in enumerate(value.present)]
    if name == "provenance":
        return [{"pass": p.pass_number, "changes": [_change_to_json(c) for c in p.changes]} for p in value]
    return to_plain(value)


def _column_from_json(entries: list[Any], name: str, size: tuple[int, int], skeleton: Skeleton | None) -> Any:
    if name == "masks":
        return Masks.from_any(entries, size)
    if name == "provenance":
        return tuple(_provenance_from_json(e, i) for i, e in enumerate(entries))
    if name == "track_ids":
        return np.array([-1 if e is None else e for e in entries], None if entries else np.int64)
    tail = _tail(name, next((e for e in entries if e is not None), None), skeleton)
    rows = [np.full(tail, np.nan) if e is None else _numbers(e, name, i) for i, e in enumerate(entries)]
    for i, row in enumerate(rows):
        if row.shape != tail:
            raise InputError(f"people[{i}].{_KEYS[name]}: expected shape {tail}, got {row.shape}")
    return np.stack(rows) if rows else np.zeros((0, *tail))


def _tail(name: str, first: Any, skeleton: Skeleton | None) -> tuple[int, ...]:
    """Shape of a person's entry: K is the skeleton's, or without one that of the first entry there is."""
    count = len(skeleton) if skeleton else len(first) if isinstance(first, list) else 0
    return tuple(count if s == "K" else int(s) for s in _ARRAYS[name][0][1:])


def _numbers(entry: Any, name: str, i: int) -> npt.NDArray[np.float64]:
    try:
        return np.asarray(entry, np.float64)  # None becomes NaN
    except (TypeError, ValueError, OverflowError) as e:
        raise InputError(f"people[{i}].{_KEYS[name]}: expected numbers or null: {e}") from e


def extra_columns(extras: list[Any]) -> dict[str, npt.NDArray[Any]]:
    """Columns of what persons carry by name, NaN where one lacks it.

    Raises:
        InputError: something else than names with numbers or text of one kind and shape.
    """
    columns: dict[str, npt.NDArray[Any]] = {}
    if not all(isinstance(e, Mapping) for e in extras):
        raise InputError("extra: expected an object with entries by name")
    for name in sorted({k for e in extras for k in e}):
        entries = [e.get(name) for e in extras]
        try:
            a = np.asarray(entries)
            columns[name] = a if not a.dtype.hasobject else np.asarray(entries, np.float64)
        except (TypeError, ValueError, OverflowError) as e:
            raise InputError(
                f"people[].extra[{name!r}]: expected the same kind of numbers or text: {e}"
            ) from e
    return columns


def _skeleton_to_json(skeleton: Skeleton | None) -> dict[str, Any] | None:
    return None if skeleton is None else json.loads(json.dumps(asdict(skeleton)))


def _skeleton_from_json(value: Any) -> Skeleton | None:
    """A skeleton of a file; one of our own names with the same keypoints is the very one we have."""
    if value is None:
        return None
    if isinstance(value, str):
        if value not in SKELETONS:
            raise InputError(f"skeleton: unknown name {value!r}; known: {', '.join(SKELETONS)}")
        return SKELETONS[value]
    try:
        names = [str(k) for k in value["keypoints"]]
        n = len(names)
        links = tuple((int(a), int(b)) for a, b in value.get("links", ()))
        upper = tuple(int(i) for i in value.get("upper", ()))
        lower = tuple(int(i) for i in value.get("lower", ()))
        if not all(0 <= i < n for i in (*upper, *lower, *(i for link in links for i in link))):
            raise InputError(f"skeleton: links, upper and lower must be indices below {n}")
        plain = Skeleton.define(str(value["name"]), names, sigmas=value.get("sigmas"))
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise InputError(f"skeleton: expected name, keypoints, links, sigmas, upper, lower: {e}") from e
    return Skeleton(plain.name, plain.keypoints, links, plain.sigmas, upper, lower)


def _change_to_json(change: Change) -> dict[str, Any]:
    return {"what": change.what, "why": change.why, "pass": change.pass_number}


def _provenance_from_json(value: Any, i: int) -> Provenance:
    if value is None:
        return Provenance()
    try:
        changes = tuple(
            Change(str(c["what"]), str(c.get("why", "")), c.get("pass")) for c in value["changes"]
        )
        return Provenance(value.get("pass"), changes)
    except (KeyError, TypeError, AttributeError) as e:
        raise InputError(f"people[{i}].provenance: expected pass and changes (what, why, pass): {e!r}") from e


# npz


def _to_arrays(people: People) -> dict[str, npt.NDArray[Any]]:
    meta = {
        "schema": NPZ_SCHEMA,
        "image_size": people.image_size,
        "source": None if people.source is None else asdict(people.source),
        "skeleton": _skeleton_to_json(people.skeleton),
        "count": len(people),
        "provenance": _column_to_json(people, "provenance"),
        "extra": list(people.extra),
    }
    arrays = {name: a for name in _ARRAYS if (a := getattr(people, name)) is not None}
    arrays |= {f"extra_{i}": a for i, a in enumerate(people.extra.values())}
    if people.masks is not None:
        arrays |= {f"masks_{k}": a for k, a in people.masks.to_arrays().items()}
    if people.maps is not None:
        arrays |= {f"maps_{k}": a for k, a in people.maps.to_arrays().items()}
    return {"meta": np.array(json.dumps(meta)), **arrays}


def _from_arrays(arrays: dict[str, npt.NDArray[Any]]) -> People:
    if "meta" not in arrays or arrays["meta"].dtype.kind != "U":
        raise InputError("not a file of people: it has no 'meta'")
    meta = json.loads(str(arrays["meta"]))
    if not isinstance(meta, dict) or meta.get("schema") != NPZ_SCHEMA:
        raise InputError(f"not a file of people of this version ({NPZ_SCHEMA})")
    size = tuple(meta["image_size"])
    values: dict[str, Any] = {name: arrays[name] for name in _ARRAYS if name in arrays}
    values["extra"] = {str(k): arrays[f"extra_{i}"] for i, k in enumerate(meta["extra"])}
    masks, maps = (
        {k.removeprefix(start): a for k, a in arrays.items() if k.startswith(start)}
        for start in ("masks_", "maps_")
    )
    masks.pop("scores", None)  # mask_scores is a field of its own
    if masks:
        values["masks"] = Masks.from_arrays(masks, size)
    if maps:
        values["maps"] = ProbabilityMaps.from_arrays(maps)
    if meta["provenance"] is not None:
        values["provenance"] = tuple(_provenance_from_json(p, i) for i, p in enumerate(meta["provenance"]))
    source = None if meta["source"] is None else Source(**meta["source"])
    return People(size, source, _skeleton_from_json(meta["skeleton"]), **values)


def _read_npz(name: str) -> dict[str, npt.NDArray[Any]]:
    arrays = {}
    with zipfile.ZipFile(name) as archive:
        members = archive.infolist()
        total = sum(m.file_size for m in members)
        if total > MAX_NPZ_BYTES:
            raise InputError(f"{total} bytes unpacked are too many for people (at most {MAX_NPZ_BYTES})")
        for member in members:
            if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{member.filename}: encrypted or packed in an unusual way")
            with archive.open(member) as file:
                arrays[member.filename.removesuffix(".npy")] = _read_npy(file, member)
    return arrays


def _read_npy(file: IO[bytes], member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """One array, after its header has been held against the bytes that are there."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    if dtype.hasobject:
        raise InputError(f"{member.filename}: holds Python objects, which are not opened")
    count = 1
    for n in shape:
        count *= n
    if count < 0 or count * dtype.itemsize != member.file_size - file.tell():
        raise InputError(f"{member.filename}: its header does not fit its size")
    a = np.frombuffer(file.read(), dtype, count)
    return a.reshape(shape, order="F" if fortran else "C")


# comparing


def same(a: People, b: People, *, rtol: float, atol: float) -> bool:
    """Whether two People say the same up to the tolerances; NaN equals NaN, absent only absent."""
    if len(a) != len(b) or set(a.extra) != set(b.extra):
        return False
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(People) if f.name != "extra"]
    pairs += [(a.extra[k], b.extra[k]) for k in a.extra]
    return all(_alike(x, y, rtol, atol) for x, y in pairs)


def _alike(x: object, y: object, rtol: float, atol: float) -> bool:
    if isinstance(x, Masks) and isinstance(y, Masks):
        return x.equals(y)
    if isinstance(x, ProbabilityMaps) and isinstance(y, ProbabilityMaps):
        p, q = x.to_arrays(), y.to_arrays()
        return p.keys() == q.keys() and all(_alike(p[k], q[k], rtol, atol) for k in p)
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        if x.shape != y.shape or x.dtype.kind in "US" or y.dtype.kind in "US":
            return np.array_equal(x, y)
        return bool(np.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True))
    return x is y or (type(x) is type(y) and bool(x == y))
