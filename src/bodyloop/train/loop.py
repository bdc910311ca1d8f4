"""The training loop: data, model, optimiser, steps, evaluation, checkpoint. One file, read top to bottom.

A `Task` brings the model, makes batches and losses, and evaluates. Batch number n is made from a generator
seeded by (seed, n) alone: a resumed run, or one with more worker threads, sees the same samples. Weights are
averaged (EMA) from the first step; evaluation and export use the average. Checkpoints are written beside
the old one and moved over it, so a kill at any moment leaves a whole file.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from bodyloop.errors import ConfigError, FileError
from bodyloop.train.config import TrainConfig

log = logging.getLogger(__name__)


class Task(Protocol):
    """What is trained: a model, its batches, its losses, its measure."""

    @property
    def model(self) -> nn.Module: ...

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """``size`` training samples as tensors; all randomness from ``rng``."""
        ...

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalar terms whose sum is minimised; names starting with ``_`` are only logged."""
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Figures of the averaged weights on the dev split; ``score`` decides which checkpoint is best."""
        ...

    def backbone(self) -> nn.Module | None:
        """The part that starts from pretrained weights and gets the smaller learning rate."""
        ...


def fit(task: Task, config: TrainConfig, run: Path, *, stop_after: int | None = None) -> dict[str, float]:
    """Train until ``config.steps`` (or ``stop_after`` steps from now); resume from ``run/last.pt`` if there.

    Writes ``last.pt``, ``best.pt``, ``metrics.jsonl`` and ``config.json`` below ``run``. Returns the last figures.
    """
    run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    device = torch.device(config.device)
    layout = torch.channels_last
    model = task.model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimiser = torch.optim.AdamW(parameter_groups(task, config), lr=config.lr, betas=(0.9, 0.999))
    step, best = 0, -math.inf
    last = run / "last.pt"
    if last.exists():
        step, best = _restore(last, model, average, optimiser)
        log.info("resuming %s at step %d", last, step)
    (run / "config.json").write_text(json.dumps(config.to_dict(), indent=1) + "\n", encoding="utf-8")
    end = config.steps if stop_after is None else min(config.steps, step + stop_after)
    figures: dict[str, float] = {}
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as out:
        started, seen, waited = time.monotonic(), 0, 0.0
        sums: dict[str, float] = {}
        for batch, wait in batches(task, config, step, end):
            rate = learning_rate(step, config)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
            terms = _forward(task, batch, config, device)
            total = torch.stack([v for k, v in terms.items() if not k.startswith("_")]).sum()
            optimiser.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            if torch.isfinite(norm):
                optimiser.step()
            update_average(average, model, config.ema, step)
            step += 1
            seen += config.batch
            waited += wait
            for name, value in {**terms, "_norm": norm}.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            if step % 50 == 0 or step == end:
                elapsed = time.monotonic() - started
                n = seen / config.batch
                row = {
                    "step": step,
                    "lr": rate,
                    **{k: round(v / n, 6) for k, v in sums.items()},
                    "samples_per_s": round(seen / elapsed, 2),
                    "waiting": round(waited / elapsed, 3),
                }
                _write(out, row)
                started, seen, waited, sums = time.monotonic(), 0, 0.0, {}
            if step % config.evaluate_every == 0 or step == config.steps:
                figures = task.evaluate(average)
                _write(out, {"step": step, **figures})
                if figures.get("score", -math.inf) > best:
                    best = figures["score"]
                    _save(
                        run / "best.pt", {"average": average.state_dict(), "step": step, "figures": figures}
                    )
                started = time.monotonic()
            if step % config.checkpoint_every == 0 or step == end:
                _save(last, _state(model, average, optimiser, step, best, config))
    return figures


def parameter_groups(task: Task, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups with and without weight decay (norms, biases and vectors have none), backbone apart."""
    backbone = task.backbone()
    slow = {id(p) for p in backbone.parameters()} if backbone is not None else set()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in task.model.parameters():
        if p.requires_grad:
            groups.setdefault((id(p) in slow, p.ndim <= 1), []).append(p)
    return [
        {
            "params": params,
            "factor": config.backbone_lr if is_slow else 1.0,
            "weight_decay": 0.0 if bare else config.weight_decay,
        }
        for (is_slow, bare), params in groups.items()
    ]


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine from ``lr`` to ``final_lr`` times it."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    share = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * share)))


def batches(
    task: Task, config: TrainConfig, start: int, end: int
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Batches number ``start`` to ``end`` and the seconds that the caller waited for each."""

    def make(n: int) -> dict[str, Tensor]:
        return task.batch(np.random.Generator(np.random.PCG64([config.seed, n])), config.batch)

    if config.workers <= 0:
        for n in range(start, end):
            begun = time.monotonic()
            yield make(n), time.monotonic() - begun
        return
    with ThreadPoolExecutor(config.workers) as pool:
        ahead: list[Future[dict[str, Tensor]]] = []
        queue = iter(range(start, end))
        for n in queue:
            ahead.append(pool.submit(make, n))
            if len(ahead) > config.workers:
                break
        while ahead:
            begun = time.monotonic()
            batch = ahead.pop(0).result()
            for n in queue:
                ahead.append(pool.submit(make, n))
                break
            yield batch, time.monotonic() - begun


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of weights and buffers; the decay grows from 0 so that early weights fade."""
    d = min(decay, (1 + step) / (10 + step))
    done: set[int] = set()
    for a, m in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if a.data_ptr() in done:  # a tensor that stands under several names is averaged once
            continue
        done.add(a.data_ptr())
        if a.dtype.is_floating_point:
            a.lerp_(m, 1 - d)
        else:
            a.copy_(m)


def _forward(
    task: Task, batch: dict[str, Tensor], config: TrainConfig, device: torch.device
) -> dict[str, Tensor]:
    task.model.train()
    if config.precision == "bf16":
        context: contextlib.AbstractContextManager[None] = torch.autocast(device.type, dtype=torch.bfloat16)
    else:
        context = contextlib.nullcontext()
    with context:
        return task.losses(batch)


def _state(
    model: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
    best: float,
    config: TrainConfig,
) -> dict[str, Any]:
    return {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "step": step,
        "best": best,
        "config": config.to_dict(),
    }


def _save(path: Path, state: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def _restore(
    path: Path, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> tuple[int, float]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["torch_rng"])
        return int(state["step"]), float(state["best"])
    except (OSError, KeyError, EOFError) as e:
        raise FileError(f"{path}: not a checkpoint of this loop: {e}; move it away to start anew") from e
    except RuntimeError as e:
        raise ConfigError(f"{path}: was written by another model or configuration: {e}") from e


def _write(out: Any, row: Mapping[str, float]) -> None:
    line = json.dumps(row)
    out.write(line + "\n")
    out.flush()
    log.info(line)
