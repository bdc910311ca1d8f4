"""How fast is a training, and does it wait for its data?

    python benchmarks/train.py                                      # pmpose-n, with 0, 1 and 2 workers
    python benchmarks/train.py pmpose-b data=/data device=cuda warp=device --workers 8 16 --steps 100

Prints images per second of the data alone, of forward and backward (with the optimiser's step) alone on a batch that
lies ready, and of both together, as the loop does them, with the share of the time that it waited for data. Numbers
are of the second half of the steps; the first half warms up. Nothing is kept.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bodyloop.cli.train import recipe, task_of
from bodyloop.train import loop
from bodyloop.train.config import TrainConfig, load_config
from bodyloop.train.loop import Ref, Samples, Task


class Ready:
    """The samples of batch 0, made once and given again and again."""

    def __init__(self, samples: Samples, config: TrainConfig) -> None:
        self.digests = samples.digests
        (self.parts, _) = next(loop.batches(samples, replace(config, workers=0, accumulate=1), 0, 1))

    def batches_per_epoch(self, size: int) -> int:
        return 1000

    def draw(self, n: int, size: int) -> Sequence[Ref]:
        return [(0,)] * size

    def sample(self, ref: Ref, rng: np.random.Generator) -> Any:
        return None

    def collate(self, samples: Sequence[Any]) -> dict[str, Tensor]:
        return self.parts[0]


def data_alone(samples: Samples, config: TrainConfig, steps: int) -> float:
    """Images per second."""
    made = loop.batches(samples, config, 0, 2 * steps)
    started = 0.0
    for i, _ in enumerate(made):
        if i == steps - 1:
            started = time.monotonic()
    return steps * config.batch / (time.monotonic() - started)


def trained(task: Task, config: TrainConfig, steps: int) -> Mapping[str, float]:
    """The loop's own row of figures of ``steps`` steps."""
    rows: list[Mapping[str, float]] = []
    whole = replace(config, epochs=0, steps=10**9, checkpoint_every=10**9, evaluate_every=10**9)
    loop.REPORT_EVERY = steps
    with tempfile.TemporaryDirectory() as folder:
        loop.fit(task, whole, Path(folder), stop_after=2 * steps, tell=rows.append)
    return rows[-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", nargs="?", default="pmpose-n", help="a recipe by name, or a YAML file")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="numbers of the recipe to change")
    parser.add_argument("--workers", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=10, help="that are measured")
    a = parser.parse_args()
    config = load_config(recipe(a.config), a.changes)
    task = task_of(config)
    samples = task.samples
    cuda = config.device.startswith("cuda")
    where = torch.cuda.get_device_name() if cuda else f"{config.device}, {config.threads} threads"
    print(
        f"{a.config}, batches of {config.batch}, {config.precision}, {where}, crops made by: {_maker(config)}"
    )
    still = _with(task, Ready(samples, config))
    alone = trained(still, replace(config, workers=0), a.steps)["samples_per_s"]
    _with(task, samples)
    print(f"forward and backward alone: {alone:.1f} images/s")
    print("| workers | data alone, images/s | both, images/s | waiting |\n|---|---|---|---|")
    for workers in a.workers:
        c = replace(config, workers=workers)
        data = data_alone(samples, c, a.steps)
        row = trained(task, c, a.steps)
        print(
            f"| {workers} | {data:.1f} | {row['samples_per_s']:.1f} | {100 * row['waiting']:.1f} % |",
            flush=True,
        )


def _maker(config: TrainConfig) -> str:
    return str(getattr(config, "warp", "cpu"))


def _with(task: Any, samples: Samples) -> Task:
    """The task over other samples."""
    task.samples = samples
    return task


if __name__ == "__main__":
    main()
