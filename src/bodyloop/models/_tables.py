"""Typed tables: a frozen dataclass read from a TOML table and written back, exactly.

The dataclass is the schema. Unknown keys, missing keys and wrong types are refused with the place
(`file: weights.size_bytes`) and, for an unknown key, the nearest known one. Written text reads back to an
equal value (numbers by their shortest exact form; ``None`` is a key that is not there).
What the values mean is checked by the dataclasses themselves; this module knows nothing of models.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
from collections.abc import Callable, Hashable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from bodyloop.errors import ConfigError

T = TypeVar("T")
_LARGEST = 2**53  # integers beyond it are no sizes, and not exact in every reader of JSON

Reader = Callable[[object, str], object]
Writer = Callable[[Any], object]


def read_table(cls: type[T], table: object, where: str, special: Mapping[type, Reader] | None = None) -> T:
    """Build dataclass ``cls`` from ``table``; ``special`` reads types that are no dataclasses of ours.

    Raises:
        ConfigError: an unknown or missing key, a value of the wrong type; the message begins with ``where``.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"{where}: expected a table, got {_kind(table)}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            near = difflib.get_close_matches(str(key), list(fields), n=1, cutoff=0.0)
            known = ", ".join(fields)
            raise ConfigError(
                f"{where}: unknown key {str(key)[:60]!r}; did you mean {near[0]!r}? (keys: {known})"
            )
    hints = _hints(cast(Hashable, cls))
    values: dict[str, object] = {}
    for name, f in fields.items():
        if name in table:
            values[name] = _value(hints[name], table[name], f"{where}: {name}", special or {})
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: key {name!r} is missing")
    try:
        return cls(**values)
    except ConfigError as e:
        raise ConfigError(f"{where}: {e}") from None


@cache
def _hints(cls: Hashable) -> dict[str, Any]:
    return get_type_hints(cls)  # evaluates the annotations' text: most of the time a card takes


def _value(hint: Any, value: object, where: str, special: Mapping[type, Reader]) -> object:
    origin, args = get_origin(hint), get_args(hint)
    if hint in special:
        return special[hint](value, where)
    if origin in (Union, types.UnionType):
        (inner,) = [a for a in args if a is not type(None)]
        return _value(inner, value, where, special)
    if origin is Literal:
        if value not in args or isinstance(value, bool):
            raise ConfigError(f"{where}: expected one of {', '.join(map(repr, args))}, got {_short(value)}")
        return value
    if origin is tuple:
        return _items(args, value, where, special)
    if dataclasses.is_dataclass(hint):
        return read_table(hint, value, where, special)  # type: ignore[arg-type]
    return _scalar(hint, value, where)


def _items(args: tuple[Any, ...], value: object, where: str, special: Mapping[type, Reader]) -> object:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: expected a list, got {_kind(value)}")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_value(args[0], v, f"{where}[{i}]", special) for i, v in enumerate(value))
    if len(value) != len(args):
        raise ConfigError(f"{where}: expected {len(args)} values, got {len(value)}")
    pairs = zip(args, value, strict=True)
    return tuple(_value(a, v, f"{where}[{i}]", special) for i, (a, v) in enumerate(pairs))


def _scalar(hint: type, value: object, where: str) -> object:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) <= _LARGEST:  # false for NaN and infinity, too
            return float(value)
        raise ConfigError(f"{where}: expected a finite number, got {_short(value)}")
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) <= _LARGEST:
            return value
        raise ConfigError(f"{where}: {_short(value)} is out of range")
    if hint in (str, bool) and isinstance(value, hint):
        return value
    raise ConfigError(f"{where}: expected {hint.__name__}, got {_kind(value)}")


def _kind(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else _short(value)


def _short(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _LARGEST:
        return "a huge integer"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def to_table(value: object, special: Mapping[type, Writer] | None = None) -> dict[str, object]:
    """The table that `read_table` reads back to ``value``; None, empty texts and empty lists are left out
    where that is their default."""
    out: dict[str, object] = {}
    for f in dataclasses.fields(value):  # type: ignore[arg-type]
        v = getattr(value, f.name)
        if v is not None and not (v in ("", ()) and f.default == v):
            out[f.name] = _plain(v, special or {})
    return out


def _plain(value: object, special: Mapping[type, Writer]) -> object:
    if type(value) in special:
        return special[type(value)](value)
    if dataclasses.is_dataclass(value):
        return to_table(value, special)
    if isinstance(value, tuple | list):
        return [_plain(v, special) for v in value]
    return value


def write_toml(table: Mapping[str, object]) -> str:
    """TOML text of a table of scalars, lists, tables and lists of tables."""
    return "\n".join(_lines(table, "")) + "\n"


def _lines(table: Mapping[str, object], prefix: str) -> list[str]:
    out, below = [], []
    for key, v in table.items():
        name = f"{prefix}{key}"
        if isinstance(v, Mapping):
            below += ["", f"[{name}]", *_lines(v, f"{name}.")]
        elif isinstance(v, list) and v and all(isinstance(x, Mapping) for x in v):
            for x in v:
                below += ["", f"[[{name}]]", *_lines(x, f"{name}.")]
        else:
            out.append(f"{key} = {_inline(v)}")
    return out + below


def _inline(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"cannot write the number {value!r}: it must be finite")
        return repr(value)
    if isinstance(value, int):
        return repr(value)
    if isinstance(value, list):
        return _list(value)
    raise ConfigError(f"cannot write a {type(value).__name__} to TOML")


def _list(values: list[object]) -> str:
    items = [_inline(v) for v in values]
    line = "[" + ", ".join(items) + "]"
    if len(line) <= 100:
        return line
    return "[\n" + "".join(f"    {i},\n" for i in items) + "]"


def _text(value: str) -> str:
    # A JSON string is a TOML basic string but for DEL, which TOML wants escaped; lone surrogates are in
    # neither.
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise ConfigError(f"cannot write text that is no Unicode: {value[:40]!r}") from e
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
