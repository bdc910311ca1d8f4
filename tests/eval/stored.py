"""The stored numbers of public evaluators (tests/fixtures/eval_parity), for the tests of `bodyloop.eval`.

Everything stored must be compared by some test, but for what `manifest.toml` names as input or as left out.
What was compared is recorded by `close`, `same`, `close_numbers` and `check_report`; arrays are known by
themselves, so a test need not repeat their names. A complete run of tests/eval fails if something was not
compared (see tests/conftest.py).
"""

from __future__ import annotations

import gzip
import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from bodyloop.eval.evidence import APReport

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "eval_parity"
MANIFEST = Path(__file__).with_name("manifest.toml")
TOLERANCE = 1e-12

Key = tuple[str, str]  # a file and the array or number in it

_keys: dict[int, Key] = {}  # arrays handed out, by identity; they live as long as the cache of `arrays`


@cache
def load_json(file: str) -> Any:
    """A stored json file (do not change what comes back)."""
    return json.loads((FIXTURES / file).read_text(encoding="utf-8"))


@cache
def arrays(file: str) -> dict[str, npt.NDArray[Any]]:
    """All arrays of a stored npz, read-only."""
    with np.load(FIXTURES / file) as z:
        out = {k: z[k] for k in z.files}
    for k, a in out.items():
        a.flags.writeable = False
        _keys[id(a)] = file, k
        if a.base is not None:  # what views of it have as their base
            _keys[id(a.base)] = file, k
    return out


def sets(*kinds: str) -> list[str]:
    """Names of the sets of these kinds ("kpt", "bbox", ...)."""
    return [name for name, e in load_json("expected.json").items() if e["kind"] in kinds]


def paths(name: str) -> tuple[Path, Path]:
    """Ground truth and predictions of a set."""
    return FIXTURES / "sets" / f"{name}.gt.json.gz", FIXTURES / "sets" / f"{name}.dt.json.gz"


def loaded(name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same as fresh dicts."""
    gt, dt = (json.loads(gzip.decompress(p.read_bytes())) for p in paths(name))
    return gt, dt


# ------------------------------------------------------------------ what there is, and what was compared


@dataclass
class Record:
    """Entries compared so far, by stored array or number."""

    checked: Counter[Key] = field(default_factory=Counter)

    def missing(self) -> list[Key]:
        """What is to be compared and was not, or not wholly."""
        return [k for k, size in to_compare().items() if k not in self.checked or self.checked[k] < size]

    def summary(self) -> str:
        """One line of counts."""
        wanted = to_compare()
        done = len(wanted) - len(self.missing())
        return (
            f"evaluation: {done} of {len(wanted)} stored arrays and numbers compared "
            f"({sum(self.checked.values())} entries)"
        )

    def reasons(self) -> list[str]:
        """What is left out and why, a line each."""
        return [f"{pattern}: {why}" for pattern, why in marks()["left_out"].items()]


RECORD = Record()


@cache
def marks() -> dict[str, Any]:
    """The manifest: patterns ``file: key`` of inputs, and of what is left out with the reason."""
    return tomllib.loads(MANIFEST.read_text(encoding="utf-8"))


@cache
def everything() -> dict[Key, int]:
    """Every stored array and number outside sets/, with its number of entries."""
    out: dict[Key, int] = {}
    for path in sorted(FIXTURES.rglob("*")):
        name = path.relative_to(FIXTURES).as_posix()
        if path.suffix == ".npz":
            out |= {(name, k): a.size for k, a in arrays(name).items()}
        elif path.suffix == ".json":
            out |= dict.fromkeys(((name, "/".join(p)) for p, _ in _leaves(load_json(name))), 1)
    return out


@cache
def to_compare() -> dict[Key, int]:
    """What some test must compare, with its number of entries."""
    known = [*marks()["input"], *marks()["left_out"]]
    return {k: n for k, n in everything().items() if not any(fnmatchcase(": ".join(k), m) for m in known)}


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


# ------------------------------------------------------------------ comparing


def _recorded(expected: npt.ArrayLike) -> None:
    """Count a stored array, or a view of one, as compared."""
    if isinstance(expected, np.ndarray):
        key = _keys.get(id(expected)) or _keys.get(id(expected.base))
        if key:
            RECORD.checked[key] += expected.size


def close(actual: npt.ArrayLike, expected: npt.ArrayLike, tolerance: float) -> None:
    """Assert equal shapes and |actual - expected| <= tolerance everywhere."""
    __tracebackhide__ = True
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == e.shape
    gap = np.abs(a - e)
    assert (gap <= tolerance).all(), f"greatest gap {gap.max():.3g}, allowed {tolerance:.3g}"
    _recorded(expected)


def same(actual: npt.ArrayLike, expected: npt.ArrayLike) -> None:
    """Assert equal shapes and equal entries."""
    __tracebackhide__ = True
    a, e = np.asarray(actual), np.asarray(expected)
    assert a.shape == e.shape
    assert np.array_equal(a, e), f"{np.count_nonzero(a != e)} of {e.size} entries differ"
    _recorded(expected)


def seen(file: str, *path: str) -> None:
    """Count the numbers at a place of a json file as compared, where a test compares them in its own way."""
    for place, _ in _leaves(_at(file, path)):
        RECORD.checked[file, "/".join((*path, *place))] += 1


def _at(file: str, path: Sequence[str]) -> Any:
    value = load_json(file)
    for p in path:
        value = value[int(p)] if isinstance(value, list) else value[p]
    return value


def close_numbers(actual: Any, file: str, *path: str, tolerance: float) -> None:
    """Assert that a dict or list has all numbers stored at a place of a json file; null must be None.

    Whatever ``actual`` has beside them is not looked at.
    """
    __tracebackhide__ = True
    stored = _at(file, path)
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
    seen(file, *path)


_NAMES = {"AP .5": "AP50", "AP .75": "AP75", "AR .5": "AR50", "AR .75": "AR75"} | {
    f"{what} ({x})": f"{what}_{x.replace('=', '')}"
    for what in ("AP", "AR")
    for x in ("M", "L", "v=1", "v=2", "v=3")
}


def by_our_names(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """exococotools' numbers ("AP (v=1)", "AP .5") by the names of our reports ("AP_v1", "AP50")."""
    return {_NAMES.get(k, k): v for k, v in numbers.items()}


def check_report(report: APReport, name: str, key: str) -> None:
    """Compare a report with everything stored for a set.

    Numbers, precision, recall, scores, similarities, matches and ignore flags are compared as far as they are
    stored; numbers of pycocotools exactly, all others within 1e-12, -1 and null exactly.

    Args:
        name: of the set.
        key: a tool of expected.json ("pycocotools", "exococotools_ex", ...) or a protocol of standard.json
            ("coco", "ex_paper", ...).
    """
    __tracebackhide__ = True
    mine = report.numbers
    if key in load_json("standard.json").get(name, {}):
        close_numbers(mine, "standard.json", name, key, tolerance=TOLERANCE)
        prefix = key
    else:
        tool = load_json("expected.json")[name]["tools"][key]
        path = name, "tools", key
        if tool["names"]:
            wanted = [by_our_names({n: 0}) for n in tool["names"]]
            values = [mine[next(iter(n))] for n in wanted]
        else:
            values = list(mine.values())
        tolerance = 0.0 if key == "pycocotools" else TOLERANCE
        close_numbers(values, "expected.json", *path, "stats", tolerance=tolerance)
        if "levels" in tool:
            levels = [0 if v.name == "all" else int(v.name) for v in report.evidence.levels]
            close_numbers(levels, "expected.json", *path, "levels", tolerance=0.0)
        prefix = tool["arrays"]
    _check_arrays(report, f"expected/{name}.npz", prefix)


def _check_arrays(report: APReport, file: str, prefix: str) -> None:
    """Curves (with an axis of levels where the tool has one), and per image similarities and matches."""
    __tracebackhide__ = True
    evidence, checked = report.evidence, 0
    for key, expected in arrays(file).items():
        tool, what, *where = key.split("/")
        if tool != prefix:
            continue
        if what in ("precision", "recall", "scores"):
            curve = getattr(evidence.curves, what)
            assert curve.shape[1] == 1 or curve.ndim == expected.ndim, f"{file}: {key}: levels"
            close(curve if curve.ndim == expected.ndim else curve[:, 0], expected, TOLERANCE)
            continue
        image, category, *level = (int(w) for w in where)
        if what == "iou":
            close(evidence.similarity(image, category, *level), expected, TOLERANCE)
        else:
            same(evidence.matched_ids(image, category, *level)[what == "dtig"], expected)
        checked += 1
    if prefix in load_json("expected.json").get(Path(file).stem, {}).get("tools", {}):
        assert checked or not len(report.evidence.predictions)
