"""A set of the size of COCO val: how much memory it takes, whichever parser reads it.

That its numbers are those of the tools is tested in `test_parity`, how long it takes by benchmarks/eval.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.eval.stored import FIXTURES

pytestmark = pytest.mark.slow

EVALUATE = """
import json, resource, sys
from pathlib import Path
if sys.argv[3] == "json":
    sys.modules["orjson"] = None
from bodyloop.eval.extended import evaluate_extended
from bodyloop.eval.keypoints import evaluate_keypoints
reports = [f(sys.argv[1], sys.argv[2]).to_json() for f in (evaluate_keypoints, evaluate_extended)]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
status = Path("/proc/self/status")
if status.is_file():  # Linux hands ru_maxrss on from the process that started this one
    peak = int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
print(json.dumps([reports, peak]))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """5,000 images, 11,000 persons, 50,000 predictions: 24 MB of json."""
    folder = tmp_path_factory.mktemp("large")
    subprocess.run([sys.executable, FIXTURES / "make_large.py", "--out", folder], check=True)
    return folder / "gt.json", folder / "dt.json"


def evaluated(files: tuple[Path, Path], parser: str) -> tuple[list[dict[str, Any]], float]:
    """Reports of both evaluations, and the greatest resident memory (MB) of a process that makes them."""
    out = subprocess.run(
        [sys.executable, "-c", EVALUATE, *files, parser], check=True, stdout=subprocess.PIPE, text=True
    )
    reports, peak = json.loads(out.stdout)
    return reports, peak / (1024**2 if sys.platform == "darwin" else 1024)


def test_less_than_300_mb_and_the_same_report_by_both_parsers(files: tuple[Path, Path]) -> None:
    pytest.importorskip("resource")
    pytest.importorskip("orjson")
    quick, peak = evaluated(files, "orjson")
    plain, peak_of_plain = evaluated(files, "json")
    assert quick == plain
    assert [r["counts"]["predictions"] for r in quick] == [50_000, 50_000]
    assert max(peak, peak_of_plain) < 300
