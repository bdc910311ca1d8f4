"""The one door between the stored reference numbers and the tests.

`manifest.toml` marks every array of every ``.npz`` under ``tests/fixtures/parity`` as *compared*, as *input*
of a comparison, or as *not reproduced* with the reason. Tests reach arrays only through this module:
`given` hands out inputs, `compare` checks a result and records which array it was checked against. At the end
of a run over the whole folder `tests/conftest.py` fails if an array marked as compared never was.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "parity"
MANIFEST = Path(__file__).with_name("manifest.toml")

Key = tuple[str, str]


@dataclass
class Record:
    """What one run has compared: entries checked per (file, key), over all calls."""

    checked: Counter[Key] = field(default_factory=Counter)

    def missing(self) -> list[Key]:
        """Arrays marked as compared that no test has compared, in the manifest's order."""
        return [k for k, (kind, _) in manifest().items() if kind == "compared" and not self.checked[k]]

    def summary(self) -> str:
        """One line of counts."""
        kinds = Counter(kind for kind, _ in manifest().values())
        done = sum(1 for k, (kind, _) in manifest().items() if kind == "compared" and self.checked[k])
        return (
            f"parity arrays: {done} of {kinds['compared']} compared ({sum(self.checked.values())} numbers), "
            f"{kinds['input']} inputs, {kinds['not_reproduced']} not reproduced"
        )

    def reasons(self) -> list[str]:
        """What is not reproduced and why, a line each."""
        return [f"{f}: {k}: {why}" for (f, k), (kind, why) in manifest().items() if kind == "not_reproduced"]


RECORD = Record()


@cache
def manifest() -> dict[Key, tuple[str, str]]:
    """(file, key) to (kind, reason); kind is ``compared``, ``input`` or ``not_reproduced``."""
    table: dict[Key, tuple[str, str]] = {}
    for file, marks in tomllib.loads(MANIFEST.read_text(encoding="utf-8")).items():
        rows = [(k, ("compared", "")) for k in marks.get("compared", [])]
        rows += [(k, ("input", "")) for k in marks.get("input", [])]
        rows += [(k, ("not_reproduced", why)) for k, why in marks.get("not_reproduced", {}).items()]
        for key, mark in rows:
            if (file, key) in table:
                raise ValueError(f"{MANIFEST.name}: {file}: {key} is marked twice")
            table[file, key] = mark
    return table


@cache
def _load(file: str) -> dict[str, npt.NDArray[Any]]:
    with np.load(FIXTURES / file) as z:
        arrays = {k: z[k] for k in z.files}
    for a in arrays.values():
        a.flags.writeable = False
    return arrays


def _kind(file: str, key: str) -> str:
    if (file, key) not in manifest():
        raise KeyError(f"{file}: {key} is not in {MANIFEST.name}")
    return manifest()[file, key][0]


def given(file: str, key: str) -> npt.NDArray[Any]:
    """A stored array as input of a test (read-only); nothing is recorded."""
    _kind(file, key)
    return _load(file)[key]


def load_json(file: str) -> Any:
    """A stored json file."""
    return json.loads((FIXTURES / file).read_text(encoding="utf-8"))


def compare(
    file: str,
    key: str,
    actual: npt.ArrayLike,
    tolerance: float,
    rtol: float = 0.0,
    mask: npt.ArrayLike | None = None,
) -> None:
    """Assert ``|actual - expected| <= tolerance + rtol * |expected|`` everywhere and record the array.

    Args:
        file, key: the stored array; it must be marked as compared.
        actual: same shape as the stored array; booleans count as 0 and 1, texts must be equal.
        mask: bool, broadcast to the array's shape: entries to compare. At least one must be left.
    """
    __tracebackhide__ = True
    if _kind(file, key) != "compared":
        raise ValueError(f"{file}: {key} is marked {_kind(file, key)}, not compared")
    expected, got = _load(file)[key], np.asarray(actual)
    assert got.shape == expected.shape, f"{file}: {key}: shape {got.shape}, expected {expected.shape}"
    chosen = np.ones(expected.shape, bool)
    if mask is not None:
        chosen &= np.broadcast_to(np.asarray(mask, bool), expected.shape)
    assert chosen.any(), f"{file}: {key}: the mask leaves nothing to compare"
    if expected.dtype.kind == "U":
        assert (got[chosen] == expected[chosen]).all(), f"{file}: {key}: texts differ"
    else:
        _check_numbers(f"{file}: {key}", got, expected, chosen, tolerance, rtol)
    RECORD.checked[file, key] += int(chosen.sum())


def _check_numbers(
    name: str,
    got: npt.NDArray[Any],
    expected: npt.NDArray[Any],
    chosen: npt.NDArray[np.bool_],
    tolerance: float,
    rtol: float,
) -> None:
    __tracebackhide__ = True
    a, e = got.astype(np.float64), expected.astype(np.float64)
    difference = np.abs(a - e)
    allowed = tolerance + rtol * np.abs(e)
    wrong = chosen & ~(difference <= allowed)  # NaN on either side is wrong, too
    if wrong.any():
        worst = np.unravel_index(
            np.where(wrong, np.nan_to_num(difference - allowed, nan=np.inf), -1).argmax(), a.shape
        )
        at = tuple(int(i) for i in worst)
        raise AssertionError(
            f"{name}: {int(wrong.sum())} of {int(chosen.sum())} entries differ; worst at {at}: "
            f"got {a[worst]!r}, expected {e[worst]!r}, allowed {float(allowed[worst]):.3g}"
        )
