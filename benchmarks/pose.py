"""How fast is a pose model, and where does the time go?

    python benchmarks/pose.py                              # pmpose-n and pmpose-b, one thread, batch 8
    python benchmarks/pose.py --model pmpose-n --int8 int8.onnx --repeat 30
    python benchmarks/pose.py --model pmpose-b --device cuda --precision bf16 --compile --batch 256

On the CPU: backbone, map head, sparsemax, decoding and side branches of torch eager and of the exported file,
side by side on the same crops; then everything that is not the network, for ten people in one photo of 640 px
with the flip test. With `--device`, `--precision` or `--compile`: crops per second and the share of the matrix
rate that this chip reaches on one large product. Weights are random unless a file is named: speed does not
depend on them. On a machine with other work use --cpu-time.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from bodyloop.engines import Array, Engine
from bodyloop.engines.onnx import OnnxEngine
from bodyloop.engines.torch import TorchEngine
from bodyloop.images import read
from bodyloop.maps import decode_expected_oks, oks_variances
from bodyloop.masks import Masks
from bodyloop.models.build import build_network
from bodyloop.models.cards import IMAGENET_MEAN, IMAGENET_STD, Card, Decode, Licenses, Preprocess
from bodyloop.models.export import export_onnx, pose_function
from bodyloop.models.quantize import quantize
from bodyloop.models.registry import find_card
from bodyloop.pose.estimator import PoseModel
from bodyloop.skeletons import BODY_19, COCO

SIDES = ("presence", "visibility", "quality")
clock = time.perf_counter


def card_of(name: str) -> Card:
    """The card of a model; our small one also before it is in the package."""
    if name == "pmpose-n":
        return Card(
            name=name,
            kind="pose",
            architecture=name,
            licenses=Licenses("Apache-2.0", "none: random weights", "none"),
            preprocess=Preprocess((192, 256), (48, 64), IMAGENET_MEAN, IMAGENET_STD, mask_alpha=0.25),
            head="probability",
            skeleton=BODY_19,
            decode=Decode("expected-oks", temperature=0.5),
            outputs=("maps", *SIDES),
        )
    return find_card(name)


def crops(n: int, card: Card, seed: int = 0) -> npt.NDArray[np.uint8]:
    w, h = card.preprocess.size
    small = np.random.default_rng(seed).integers(0, 256, (n, h // 16, w // 16, 3), dtype=np.uint8)
    return np.stack([cv2.resize(s, (w, h), interpolation=cv2.INTER_CUBIC) for s in small])


def timed(calls: Mapping[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Fewest seconds of each call, which is what the machine does when it is left alone; the calls take turns."""
    for call in calls.values():
        call()
    seconds: dict[str, list[float]] = {k: [] for k in calls}
    for _ in range(repeat):
        for k, call in calls.items():
            start = clock()
            call()
            seconds[k].append(clock() - start)
    return {k: min(v) for k, v in seconds.items()}


def table(title: str, rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}")
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for r in rows:
        print(
            "  "
            + "  ".join(
                c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))
            )
        )


def parts(engines: Mapping[str, Engine], card: Card, batch: int, repeat: int) -> dict[str, dict[str, float]]:
    """ms per crop of each part: differences of what more and more outputs take."""
    sides = [n for n in SIDES if n in card.outputs]
    stages = {
        "backbone": ["features"],
        "map head": ["logits"],
        "sparsemax": ["maps"],
        "decoding": ["keypoints", "map_scores"],
        "all": ["keypoints", "map_scores", *sides],
    }
    feed = {"crops": crops(batch, card)}
    calls = {
        f"{e}/{s}": (lambda engine=engine, names=names: engine.run(feed, names))
        for e, engine in engines.items()
        for s, names in stages.items()
    }
    seconds = timed(calls, repeat)
    out: dict[str, dict[str, float]] = {}
    for e in engines:
        before = 0.0
        for s in stages:
            now = seconds[f"{e}/{s}"] / batch * 1e3
            out.setdefault("side branches" if s == "all" else s, {})[e] = now - before
            before = now
        out.setdefault("all", {})[e] = before
    return out


def print_parts(name: str, engines: Mapping[str, Engine], card: Card, batch: int, repeat: int) -> None:
    rows = [["ms per crop", *engines]]
    measured = parts(engines, card, batch, repeat)
    rows += [[part, *(f"{ms[e]:.2f}" for e in engines)] for part, ms in measured.items()]
    first = next(iter(engines))
    rows.append(
        ["relative to " + first, *(f"{measured['all'][e] / measured['all'][first]:.2f}" for e in engines)]
    )
    table(f"{name}: batch {batch}, no flip", rows)


@dataclass
class Stopwatch:
    """An engine that adds up the time spent inside it."""

    engine: Engine
    seconds: float = 0.0
    inputs: tuple[str, ...] = field(default=("crops",))

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.engine.outputs

    @property
    def device(self) -> str:
        return self.engine.device

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        start = clock()
        out = self.engine.run(inputs, outputs)
        self.seconds += clock() - start
        return out

    def warm_up(self, outputs: Sequence[str] | None = None) -> None:
        self.engine.warm_up(outputs)


def photo(folder: Path) -> tuple[Path, npt.NDArray[np.float32], Masks]:
    """A 640 x 480 picture file, ten boxes and their masks."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    pixels = cv2.resize(small, (640, 480), interpolation=cv2.INTER_CUBIC)
    path = folder / "photo.jpg"
    cv2.imwrite(str(path), pixels)
    x, y = rng.uniform(0, 520, 10), rng.uniform(0, 260, 10)
    boxes = np.stack([x, y, x + rng.uniform(60, 120, 10), y + rng.uniform(150, 220, 10)], axis=1)
    yy, xx = np.mgrid[:480, :640]
    c, r = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    bits = [((xx - a) / p) ** 2 + ((yy - b) / q) ** 2 <= 1 for (a, b), (p, q) in zip(c, r, strict=True)]
    return path, boxes.astype(np.float32), Masks.from_bitmaps(np.array(bits))


def print_overhead(name: str, engine: Engine, card: Card, repeat: int, folder: Path) -> None:
    """Everything but the network: reading, warping, masking, flipping, decoding, assembling."""
    path, boxes, masks = photo(folder)
    rows = [["10 people, 640 px, flip", "all ms", "network ms", "rest ms", "rest / network"]]
    for label, given in (("boxes", None), ("boxes and masks", masks)):
        watch = Stopwatch(engine)
        pose = PoseModel(watch, card)
        pose.predict(path, boxes, given)
        whole, network = [], []
        for _ in range(repeat):
            watch.seconds = 0.0
            start = clock()
            pose.predict(path, boxes, given)
            whole.append(clock() - start)
            network.append(watch.seconds)
        rest = statistics.median(a - b for a, b in zip(whole, network, strict=True)) * 1e3
        inside = statistics.median(network) * 1e3
        rows.append(
            [label, f"{inside + rest:.1f}", f"{inside:.1f}", f"{rest:.1f}", f"{100 * rest / inside:.1f} %"]
        )
    start = timed({"read": lambda: read(path)}, repeat)["read"] * 1e3
    rows.append(["(of which reading)", "", "", f"{start:.1f}", ""])
    table(f"{name}: everything but the network ({engine.device})", rows)


def print_decoding(repeat: int) -> None:
    z = np.random.default_rng(0).standard_normal((170, 64, 48)).astype(np.float32)
    maps = np.maximum([cv2.GaussianBlur(m, (0, 0), 3) for m in z], 0)
    maps = (maps / maps.sum(axis=(1, 2), keepdims=True)).reshape(10, 17, 64, 48)
    variances = oks_variances(COCO.sigma_array)
    ms = timed({"eoks": lambda: decode_expected_oks(maps, variances)}, repeat)["eoks"] * 1e3
    print(f"\nexpected-OKS decoding of 10 people x 17 maps: {ms:.2f} ms")


def on_cpu(name: str, options: argparse.Namespace) -> None:
    card = card_of(name)
    torch.manual_seed(0)
    network = build_network(card).eval()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        file = Path(options.onnx) if options.onnx else folder / f"{name}.onnx"
        if not options.onnx:
            export_onnx(network, card, file)
        own = pose_function(network, card)
        engines: dict[str, Engine] = {
            "torch eager": TorchEngine(own),
            "ONNX fp32": OnnxEngine(file, threads=options.threads, keep=6),
        }
        if options.int8 or card.architecture == "pmpose-n":
            small = Path(options.int8) if options.int8 else folder / "int8.onnx"
            if not options.int8:
                quantize(file, small, crops(16, card))
            engines["ONNX int8"] = OnnxEngine(small, threads=options.threads, keep=6)
        print_parts(name, engines, card, options.batch, options.repeat)
        for label in [e for e in engines if e != "torch eager"]:
            print_overhead(f"{name} {label}", engines[label], card, options.repeat, folder)


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of one large matrix product: what the chip really gives."""
    n = 8192 if device != "cpu" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):
        synchronise(device)
        start = clock()
        for _ in range(5):
            a @ b
        synchronise(device)
        best = max(best, 5 * 2 * n**3 / (clock() - start))
    return best


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def operations(card: Card, names: Sequence[str]) -> float:
    """Floating-point operations of one crop (two for each multiply-add)."""
    from torch.utils.flop_counter import FlopCounterMode

    function = pose_function(build_network(card).eval(), card)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(torch.from_numpy(crops(1, card)), names)
    return float(counter.get_total_flops())


def on_device(name: str, options: argparse.Namespace) -> None:
    """Crops per second with everything on the device: bytes in, keypoints out, crops already there."""
    card = card_of(name)
    device, precision = options.device, options.precision
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    names = ("keypoints", "map_scores", *(n for n in SIDES if n in card.outputs))
    flop = operations(card, names)
    engine = TorchEngine(
        pose_function(build_network(card), card), device=device, dtype=precision, compile=options.compile
    )
    there = torch.from_numpy(crops(options.batch, card)).to(device)
    here = crops(options.batch, card)

    def resident() -> None:
        engine.run_tensors((there,), names)
        synchronise(device)

    seconds = timed(
        {"resident": resident, "host": lambda: engine.run({"crops": here}, names)}, options.repeat
    )
    chip = matrix_rate(device, dtype)
    rows = [["", "crops/s", "ms per crop", "TFLOP/s", "share of the matrix rate"]]
    for label, key in (("crops on the device", "resident"), ("crops from the host", "host")):
        rate = options.batch / seconds[key]
        reached = rate * flop
        rows.append(
            [
                label,
                f"{rate:.1f}",
                f"{1e3 / rate:.3f}",
                f"{reached / 1e12:.2f}",
                f"{100 * reached / chip:.1f} %",
            ]
        )
    what = torch.cuda.get_device_name() if device.startswith("cuda") else platform.processor() or device
    compiled = "compiled" if options.compile else "eager"
    table(
        f"{name}: {what}, {precision}, {compiled}, batch {options.batch}, {flop / 1e9:.2f} GFLOP a crop, "
        f"matrix rate {chip / 1e12:.1f} TFLOP/s",
        rows,
    )


def main() -> None:
    global clock
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", help="a model's name; may be given several times")
    parser.add_argument("--onnx", help="this exported file instead of random weights")
    parser.add_argument("--int8", help="this int8 file beside it")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", help="cpu, cuda, mps: measure torch there")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds of this process, not wall time")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    if options.cpu_time:
        clock = time.process_time
    print(
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {options.threads} thread(s)"
    )
    alone = options.device or options.precision or options.compile
    options.device, options.precision = options.device or "cpu", options.precision or "fp32"
    for name in options.model or ["pmpose-n", "pmpose-b"]:
        (on_device if alone else on_cpu)(name, options)
    if not alone:
        print_decoding(options.repeat)


if __name__ == "__main__":
    main()
