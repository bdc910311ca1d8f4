"""How fast is the evaluation of keypoints, and how much memory does it take, beside the other tools?

    python benchmarks/eval.py                          # 5,000 images, 11,000 persons, 50,000 predictions
    python benchmarks/eval.py --times 10 --repeat 1    # ten times that
    python benchmarks/eval.py --set gt.json dt.json    # files of your own

From json files to the ten numbers of COCO keypoints; for ours also without orjson, and by Ex-OKS with all visibility
levels. Each tool that is installed runs in fresh processes, one after the other and in turns; of each the quickest run
counts. Seconds are CPU time (user and system) of the process without its imports, so other work on the machine
matters little; the peak is the process's greatest resident memory, interpreter and imports included. "read" is
reading both files into what the tool needs, "evaluate" everything after it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MAKER = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "eval_parity" / "make_large.py"
REFERENCE = "pycocotools"
Read = Callable[[str, str], Any]
Evaluate = Callable[[Any], float]


def ours(kind: str) -> tuple[Read, Evaluate]:
    """Our own evaluation, plain or extended."""
    from bodyloop.eval.extended import evaluate_extended
    from bodyloop.eval.keypoints import evaluate_keypoints
    from bodyloop.eval.reading import read_ground_truth, read_predictions

    if "orjson" not in kind:
        import_module("orjson")

    def read(gt: str, dt: str) -> Any:
        truth = read_ground_truth(gt, keypoints=17)
        return truth, read_predictions(dt, truth, keypoints=17)

    def evaluate(files: Any) -> float:
        return (evaluate_extended if "Ex-OKS" in kind else evaluate_keypoints)(*files).AP

    return read, evaluate


def cocoapi(coco: str, evaluator: str, *arguments: Any) -> tuple[Read, Evaluate]:
    """A tool with the calls of pycocotools; modules and classes as "module:class"."""
    COCO, COCOeval = (getattr(import_module(m), c) for m, c in (s.split(":") for s in (coco, evaluator)))

    def read(gt: str, dt: str) -> Any:
        truth = COCO(gt)
        return truth, truth.loadRes(dt)

    def evaluate(files: Any) -> float:
        e = COCOeval(*files, "keypoints", *arguments)
        e.evaluate()
        e.accumulate()
        e.summarize()
        return float(e.stats[0])

    return read, evaluate


def xtcocotools() -> tuple[Read, Evaluate]:
    """It is told the sigmas when it is made."""
    import numpy as np

    sigmas = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
    return cocoapi("xtcocotools.coco:COCO", "xtcocotools.cocoeval:COCOeval", sigmas)


# name of each line: the distribution it needs, and how to import it
TOOLS: dict[str, tuple[str, Callable[[], tuple[Read, Evaluate]]]] = {
    "bodyloop": ("bodyloop", lambda: ours("")),
    "bodyloop without orjson": ("bodyloop", lambda: ours("without orjson")),
    "bodyloop Ex-OKS, all levels": ("bodyloop", lambda: ours("Ex-OKS")),
    "hotcoco": ("hotcoco", lambda: cocoapi("hotcoco:COCO", "hotcoco:COCOeval")),
    "vernier (its COCOeval)": (
        "vernier",
        lambda: cocoapi("pycocotools.coco:COCO", "vernier:COCOeval"),
    ),
    "ultrafast-pycocotools": (
        "ultrafast-pycocotools",
        lambda: cocoapi("ultrafast_pycocotools.coco:COCO", "ultrafast_pycocotools.cocoeval:COCOeval"),
    ),
    "faster-coco-eval": (
        "faster-coco-eval",
        lambda: cocoapi("faster_coco_eval:COCO", "faster_coco_eval:COCOeval_faster"),
    ),
    "pycocotools": (
        "pycocotools",
        lambda: cocoapi("pycocotools.coco:COCO", "pycocotools.cocoeval:COCOeval"),
    ),
    "xtcocotools": ("xtcocotools", xtcocotools),
}


def usage() -> tuple[float, float]:
    """CPU seconds and greatest resident MB of this process so far (MB: NaN on Windows)."""
    try:
        import resource
    except ImportError:
        import time

        return time.process_time(), float("nan")
    r = resource.getrusage(resource.RUSAGE_SELF)
    return r.ru_utime + r.ru_stime, r.ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


def run_one(name: str, gt: str, dt: str) -> None:
    """What a fresh process does: one tool once; a line of json on stdout."""
    if "without orjson" in name:
        sys.modules["orjson"] = None  # type: ignore[assignment]
    with contextlib.redirect_stdout(io.StringIO()):
        read, evaluate = TOOLS[name][1]()
        start, _ = usage()
        files = read(gt, dt)
        middle, _ = usage()
        ap = evaluate(files)
        end, peak = usage()
    print(json.dumps({"read": middle - start, "evaluate": end - middle, "peak": peak, "AP": ap}))


def measured(names: list[str], gt: Path, dt: Path, repeat: int) -> dict[str, dict[str, float]]:
    """The quickest run of each tool; a tool that fails is reported and left out."""
    best: dict[str, dict[str, float]] = {}
    env = os.environ | {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    failed = set()
    for _ in range(repeat):
        for name in [n for n in names if n not in failed]:
            command = [sys.executable, __file__, "--one", name, "--set", str(gt), str(dt)]
            out = subprocess.run(command, env=env, capture_output=True, check=False, text=True)
            if out.returncode:
                failed.add(name)
                print(f"{name} fails: {out.stderr.strip().splitlines()[-1]}", file=sys.stderr)
                continue
            run = json.loads(out.stdout.splitlines()[-1])
            run["total"] = run["read"] + run["evaluate"]
            best[name] = min(run, best.get(name, run), key=lambda r: r["total"])
    return best


def installed() -> list[str]:
    """Lines whose tool is there."""
    out = []
    for name, (distribution, _) in TOOLS.items():
        with contextlib.suppress(PackageNotFoundError):
            version(distribution)
            out.append(name)
    return out


def table(title: str, runs: dict[str, dict[str, float]]) -> None:
    reference = runs.get(REFERENCE, {}).get("total")
    heads = ("version", "read s", "eval. s", "total s", f"of {REFERENCE}", "peak MB")
    print(f"\n{title}\n  {'':29}" + "".join(f" {h:>{len(h) + 1}}" for h in heads) + "  AP")
    for name, r in sorted(runs.items(), key=lambda item: item[1]["total"]):
        cells = [version(TOOLS[name][0]), *(f"{r[k]:.2f}" for k in ("read", "evaluate", "total"))]
        cells += [f"1/{reference / r['total']:.1f}" if reference else "", f"{r['peak']:.0f}"]
        row = "".join(f" {c:>{len(h) + 1}}" for c, h in zip(cells, heads, strict=True))
        print(f"  {name:29}{row}  {r['AP']:.9f}")


def make(folder: Path, times: int, *options: str) -> tuple[Path, Path]:
    """Write a made set; ground truth and predictions."""
    command = [sys.executable, str(MAKER), "--out", str(folder), "--times", str(times), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "gt.json", folder / "dt.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", nargs=2, type=Path, metavar=("GT", "DT"), help="files instead of made ones")
    parser.add_argument("--times", type=int, default=1, help="size of the made sets (1: 50,000 predictions)")
    parser.add_argument(
        "--repeat", type=int, default=3, help="runs of each tool, of which the quickest counts"
    )
    parser.add_argument(
        "--tools", nargs="+", choices=list(TOOLS), help="lines of the table; all that are installed"
    )
    parser.add_argument("--one", choices=list(TOOLS), help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.one:
        run_one(a.one, *map(str, a.set))
        return
    names = a.tools or installed()
    print(
        f"{platform.platform()}, Python {platform.python_version()}, numpy {version('numpy')}; least of {a.repeat}"
    )
    if a.set:
        table(" ".join(map(str, a.set)), measured(names, *a.set, a.repeat))
        return
    for title, *options in (("persons in whole photos",), ("persons cut by the photo", "--crop")):
        with tempfile.TemporaryDirectory() as folder:
            files = make(Path(folder), a.times, *options)
            table(f"{title}, {50_000 * a.times:,} predictions", measured(names, *files, a.repeat))


if __name__ == "__main__":
    main()
