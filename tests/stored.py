"""A folder of stored reference numbers, and a record of what tests compared of it.

Everything stored must be compared by some test, but for what the folder's `manifest.toml` names as input or as
left out. What was compared is recorded by `Store.close`, `same`, `close_numbers` and `seen`; arrays are known by
themselves, so a test need not repeat their names. A complete run of the folder's tests fails if something was
not compared (see tests/conftest.py).
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Key = tuple[str, str]  # a file and the array or number in it


@dataclass
class Store:
    """The stored files below ``fixtures``; ``manifest`` says what of them is no number to compare."""

    title: str
    fixtures: Path
    manifest: Path
    checked: Counter[Key] = field(default_factory=Counter)  # entries compared so far
    _files: dict[str, Any] = field(default_factory=dict)
    _keys: dict[int, Key] = field(default_factory=dict)  # arrays handed out, by identity; `_files` keeps them

    def load_json(self, file: str) -> Any:
        """A stored json file (do not change what comes back)."""
        if file not in self._files:
            self._files[file] = json.loads((self.fixtures / file).read_text(encoding="utf-8"))
        return self._files[file]

    def arrays(self, file: str) -> dict[str, npt.NDArray[Any]]:
        """All arrays of a stored npz, read-only."""
        if file in self._files:
            return dict(self._files[file])
        with np.load(self.fixtures / file) as z:
            out = {k: z[k] for k in z.files}
        for k, a in out.items():
            a.flags.writeable = False
            self._keys[id(a)] = file, k
            if a.base is not None:  # what views of it have as their base
                self._keys[id(a.base)] = file, k
        self._files[file] = out
        return dict(out)

    # -------------------------------------------------------------- what there is, and what was compared

    @cached_property
    def marks(self) -> dict[str, Any]:
        """The manifest: patterns ``file: key`` of inputs, and of what is left out with the reason."""
        return tomllib.loads(self.manifest.read_text(encoding="utf-8"))

    @cached_property
    def everything(self) -> dict[Key, int]:
        """Every stored array and number, with its number of entries."""
        out: dict[Key, int] = {}
        for path in sorted(self.fixtures.rglob("*")):
            name = path.relative_to(self.fixtures).as_posix()
            if path.suffix == ".npz":
                out |= {(name, k): a.size for k, a in self.arrays(name).items()}
            elif path.suffix == ".json":
                out |= dict.fromkeys(((name, "/".join(p)) for p, _ in _leaves(self.load_json(name))), 1)
        return out

    @cached_property
    def to_compare(self) -> dict[Key, int]:
        """What some test must compare, with its number of entries."""
        known = [*self.marks["input"], *self.marks["left_out"]]
        return {
            k: n for k, n in self.everything.items() if not any(fnmatchcase(": ".join(k), m) for m in known)
        }

    def missing(self) -> list[Key]:
        """What is to be compared and was not, or not wholly."""
        return [k for k, n in self.to_compare.items() if k not in self.checked or self.checked[k] < n]

    def summary(self) -> str:
        """One line of counts."""
        done = len(self.to_compare) - len(self.missing())
        return (
            f"{self.title}: {done} of {len(self.to_compare)} stored arrays and numbers compared "
            f"({sum(self.checked.values())} entries)"
        )

    def reasons(self) -> list[str]:
        """What is left out and why, a line each."""
        return [f"{pattern}: {why}" for pattern, why in self.marks["left_out"].items()]

    # -------------------------------------------------------------- comparing

    def recorded(self, expected: npt.ArrayLike) -> None:
        """Count a stored array, or a view of one, as compared."""
        if isinstance(expected, np.ndarray):
            key = self._keys.get(id(expected)) or self._keys.get(id(expected.base))
            if key:
                self.checked[key] += expected.size

    def close(self, actual: npt.ArrayLike, expected: npt.ArrayLike, tolerance: float) -> None:
        """Assert equal shapes and |actual - expected| <= tolerance everywhere."""
        __tracebackhide__ = True
        a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
        assert a.shape == e.shape
        gap = np.abs(a - e)
        assert (gap <= tolerance).all(), f"greatest gap {gap.max():.3g}, allowed {tolerance:.3g}"
        self.recorded(expected)

    def same(self, actual: npt.ArrayLike, expected: npt.ArrayLike) -> None:
        """Assert equal shapes and equal entries."""
        __tracebackhide__ = True
        a, e = np.asarray(actual), np.asarray(expected)
        assert a.shape == e.shape
        assert np.array_equal(a, e), f"{np.count_nonzero(a != e)} of {e.size} entries differ"
        self.recorded(expected)

    def seen(self, file: str, *path: str) -> None:
        """Count the numbers at a place of a json file as compared, where a test compares them in its own way."""
        for place, _ in _leaves(self.at(file, path)):
            self.checked[file, "/".join((*path, *place))] += 1

    def at(self, file: str, path: Sequence[str]) -> Any:
        """What is stored at a place of a json file."""
        value = self.load_json(file)
        for p in path:
            value = value[int(p)] if isinstance(value, list) else value[p]
        return value

    def close_numbers(self, actual: Any, file: str, *path: str, tolerance: float) -> None:
        """Assert that a dict or list has all numbers stored at a place of a json file; null must be None.

        Whatever ``actual`` has beside them is not looked at.
        """
        __tracebackhide__ = True
        stored = self.at(file, path)
        if isinstance(actual, Sequence):
            assert len(actual) == len(stored), f"{file}: {'/'.join(path)}: {len(actual)} of {len(stored)}"
        for place, expected in _leaves(stored):
            mine = actual
            for p in place:
                mine = mine[int(p)] if isinstance(mine, Sequence) else mine[p]
            where = f"{file}: {'/'.join((*path, *place))}: got {mine!r}, expected {expected!r}"
            if expected is None or expected == -1:
                assert mine == expected, where
            else:
                assert mine is not None and abs(mine - expected) <= tolerance, where
        self.seen(file, *path)


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float | None]]:
    """Numbers and nulls of a json document with their places."""
    if isinstance(value, Mapping):
        for k, v in value.items():
            yield from _leaves(v, (*path, k))
    elif isinstance(value, list):
        for i, v in enumerate(value):
            yield from _leaves(v, (*path, str(i)))
    elif value is None or isinstance(value, int | float):
        yield path, value
