"""The stored numbers of public evaluators (tests/fixtures/eval_parity), for the tests of `bodyloop.eval`."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "eval_parity"


@cache
def load_json(file: str) -> Any:
    """A stored json file (do not change what comes back)."""
    return json.loads((FIXTURES / file).read_text(encoding="utf-8"))


@cache
def arrays(file: str) -> dict[str, npt.NDArray[Any]]:
    """All arrays of a stored npz, read-only."""
    with np.load(FIXTURES / file) as z:
        out = {k: z[k] for k in z.files}
    for a in out.values():
        a.flags.writeable = False
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


def close(actual: npt.ArrayLike, expected: npt.ArrayLike, tolerance: float) -> None:
    """Assert equal shapes and |actual - expected| <= tolerance everywhere."""
    __tracebackhide__ = True
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert a.shape == e.shape
    gap = np.abs(a - e)
    assert (gap <= tolerance).all(), f"greatest gap {gap.max():.3g}, allowed {tolerance:.3g}"
