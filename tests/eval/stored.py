"""The stored numbers of public evaluators (tests/fixtures/eval_parity), for the tests of `bodyloop.eval`.

What counts as compared, and that all must be, `tests.stored` tells.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.stored import Store

if TYPE_CHECKING:
    from bodyloop.eval.evidence import APReport

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "eval_parity"
STORE = Store("evaluation", FIXTURES, Path(__file__).with_name("manifest.toml"))
TOLERANCE = 1e-12

load_json, arrays = STORE.load_json, STORE.arrays
close, same, seen, close_numbers = STORE.close, STORE.same, STORE.seen, STORE.close_numbers


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
