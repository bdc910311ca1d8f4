"""The training loop: samples, model, optimiser, steps, evaluation, checkpoint. One file, read top to bottom.

A `Task` brings the model, its samples and losses, and evaluates. Sample i of batch n is made from a
generator seeded by (seed, n, i) alone, and torch's generator is seeded anew before every step: a run that
goes on after a kill, other numbers of workers and of processes see the same samples, and on one process
every bit is the same. `accelerate` spreads a batch over processes (`accelerate launch`, `torchrun`): losses
divide by counts that are summed over all of them. Weights are averaged (EMA); evaluation and export use the
average. Checkpoints are written beside the old one and moved over it, so a kill leaves a whole file.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bodyloop.errors import BodyloopError, ConfigError
from bodyloop.models.cards import Card
from bodyloop.train.checkpoint import Record, Row, origin, restore, save, state_of
from bodyloop.train.config import TrainConfig
from bodyloop.train.optimiser import learning_rate, parameter_groups
from bodyloop.train.release import write_card

log = logging.getLogger(__name__)

REPORT_EVERY = 50  # steps from one row of figures to the next
FIRST_REPORT = 10  # the step of the first row, so that nobody waits long to see how fast it goes

Ref = tuple[int, ...]  # names a sample; what the numbers mean is the samples' own business
Shared = Callable[[Tensor], Tensor]
"""The mean of a tensor over all processes, without a gradient: what losses divide their counts by."""


class Samples(Protocol):
    """Training data: which samples a batch has, and how one is made. Travels to worker processes."""

    @property
    def digests(self) -> Mapping[str, str]:
        """sha256 of the annotation files by path."""
        ...

    def batches_per_epoch(self, size: int) -> int: ...

    def draw(self, n: int, size: int) -> Sequence[Ref]:
        """The samples of batch ``n``; the same whenever asked."""
        ...

    def sample(self, ref: Ref, rng: np.random.Generator) -> Any:
        """One sample; all randomness from ``rng``."""
        ...

    def collate(self, samples: Sequence[Any]) -> dict[str, Tensor]: ...


class Task(Protocol):
    """What is trained: a model, its samples, its losses, its measure."""

    @property
    def model(self) -> nn.Module: ...

    @property
    def samples(self) -> Samples: ...

    @property
    def blocks(self) -> int:
        """Blocks of a transformer backbone, for the layer-wise decay; 0 for others."""
        ...

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor], shared: Shared) -> dict[str, Tensor]:
        """Scalar terms whose sum is minimised; names starting with ``_`` are only logged."""
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Figures of the averaged weights; ``score`` decides which checkpoint is best."""
        ...


def fit(
    task: Task,
    config: TrainConfig,
    run: Path,
    *,
    card: Card | None = None,
    stop_after: int | None = None,
    tell: Callable[[Row], None] | None = None,
) -> dict[str, float]:
    """Train to the end (or ``stop_after`` steps from now); go on from ``run/last.pt`` if it is there.

    Writes ``last.pt``, ``best.pt``, ``metrics.jsonl``, ``config.json`` and, with tensorboard installed, its
    files below ``run``; ``card``, if there is one, as ``card.toml``. ``tell`` gets every row of figures. Returns
    the last figures of the evaluation.

    Raises:
        ConfigError: a device that is not there, or a checkpoint of another model.
        FileError: ``last.pt`` is no checkpoint.
    """
    run.mkdir(parents=True, exist_ok=True)
    accelerator = _start(config)
    device = accelerator.device
    per_epoch, steps = steps_per_epoch(task, config), total_steps(task, config)
    by_epochs = 0 if config.overfit else config.evaluate_epochs * per_epoch
    evaluate_every = by_epochs or config.evaluate_every
    model = task.model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval().requires_grad_(False)
    groups = parameter_groups(model.named_parameters(), config, task.blocks)
    optimiser = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.999), fused=True)  # a fifth of the time
    step, best = 0, -math.inf
    last = run / "last.pt"
    if last.exists():
        step, best = restore(last, model, average, optimiser, config, task.samples.digests)
        log.info("going on from %s at step %d", last, step)
    _refuse_apart(accelerator, step, run)
    if card is not None and accelerator.is_main_process:
        write_card(card, run)
    parallel = accelerator.prepare(model)
    if config.compile:
        parallel = torch.compile(parallel)
    end = steps if stop_after is None else min(steps, step + stop_after)
    figures: dict[str, float] = {}
    made_by = origin(config, task.samples.digests)
    with Record(run, step, config, accelerator.is_main_process, tell) as record:
        started, seen, waited = time.monotonic(), 0, 0.0
        sums: dict[str, Tensor] = {}
        for parts, wait in batches(
            task.samples, config, step, end, accelerator.process_index, accelerator.num_processes
        ):
            rate = learning_rate(step, config, steps, per_epoch)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            torch.manual_seed(_torch_seed(config.seed, step, accelerator.process_index))
            optimiser.zero_grad(set_to_none=True)
            for i, batch in enumerate(parts):
                batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
                whole = i == len(parts) - 1
                with contextlib.nullcontext() if whole else accelerator.no_sync(parallel):
                    terms = forward(task, parallel, batch, config, accelerator)
                    total = torch.stack([v for k, v in terms.items() if not k.startswith("_")]).sum()
                    accelerator.backward(total / len(parts))
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0) + value.detach() / len(parts)
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip)
            if torch.isfinite(norm):
                optimiser.step()
            update_average(average, model, config.ema, step, config.ema_ramp)
            sums["_norm"] = sums.get("_norm", 0) + norm.detach()
            step += 1
            seen += 1
            waited += wait
            if step % REPORT_EVERY == 0 or step in (FIRST_REPORT, end):
                elapsed = time.monotonic() - started
                means = accelerator.reduce(torch.stack([v.float() / seen for v in sums.values()]), "mean")
                pace = seen / max(elapsed, 1e-9)
                row: Row = {"step": step, "lr": rate}
                row |= dict(zip(sums, (round(v, 6) for v in means.tolist()), strict=True))
                row |= {
                    "samples_per_s": round(pace * config.batch, 2),
                    "waiting": round(waited / max(elapsed, 1e-9), 3),
                    "minutes_left": round((steps - step) / pace / 60, 1),
                }
                record.write(row)
                started, seen, waited, sums = time.monotonic(), 0, 0.0, {}
            if step % evaluate_every == 0 or step == steps:
                paused = time.monotonic()
                if accelerator.is_main_process:
                    figures = task.evaluate(average)
                    if figures:
                        record.write({"step": step, **figures})
                    if figures.get("score", -math.inf) > best:
                        best = figures["score"]
                        kept = {"average": average.state_dict(), "step": step, "figures": figures}
                        save(run / "best.pt", kept | made_by)
                accelerator.wait_for_everyone()
                started += time.monotonic() - paused
            if (step % config.checkpoint_every == 0 or step == end) and accelerator.is_main_process:
                save(last, state_of(model, average, optimiser, step, best) | made_by)
    accelerator.wait_for_everyone()
    return figures


def steps_per_epoch(task: Task, config: TrainConfig) -> int:
    """Optimiser steps of a pass through all samples, or through the fixed ones while overfitting."""
    fixed = config.overfit
    return -(-fixed // config.batch) if fixed else task.samples.batches_per_epoch(config.batch)


def total_steps(task: Task, config: TrainConfig) -> int:
    """Optimiser steps of the whole run."""
    return config.epochs * steps_per_epoch(task, config) or config.steps


def _start(config: TrainConfig) -> Accelerator:
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device {config.device!r} is not there; device=cpu trains without it")
    accelerator = Accelerator(cpu=config.device == "cpu")
    share = accelerator.num_processes * config.accumulate
    if config.batch % share:
        raise ConfigError(
            f"a batch of {config.batch} cannot be split among {accelerator.num_processes} processes, "
            f"each in {config.accumulate} parts; take a multiple of {share}"
        )
    return accelerator


def _refuse_apart(accelerator: Accelerator, step: int, run: Path) -> None:
    """All processes must have found the same checkpoint, or none."""
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise ConfigError(f"{run}: the processes go on from steps {steps}; give all machines the same folder")


def _torch_seed(seed: int, step: int, process: int) -> int:
    return int(np.random.SeedSequence([seed, step, process]).generate_state(1, np.uint64)[0] >> 1)


# ---- samples -------------------------------------------------------------------------------------------------


def batches(
    samples: Samples, config: TrainConfig, start: int, end: int, process: int = 0, processes: int = 1
) -> Iterator[tuple[list[dict[str, Tensor]], float]]:
    """This process's part of batches ``start`` to ``end``, in ``accumulate`` pieces, and the seconds waited."""
    loader = DataLoader(
        _Keyed(samples, config),
        batch_sampler=_Keys(samples, config, range(start, end), process, processes),
        collate_fn=_Collate(samples),
        num_workers=config.workers,
        # a forked worker may inherit a lock that a thread of this process held: it would wait for ever
        multiprocessing_context="spawn" if config.workers else None,
        worker_init_fn=_alone,
        prefetch_factor=2 if config.workers else None,
        pin_memory=config.device.startswith("cuda"),
    )
    parts = iter(loader)
    for _ in range(start, end):
        begun = time.monotonic()
        yield [_sound(next(parts)) for _ in range(config.accumulate)], time.monotonic() - begun


def samples_of(
    samples: Samples, config: TrainConfig, n: int, places: Sequence[int]
) -> Iterator[tuple[Ref, Any]]:
    """Names and samples at some places of batch ``n``, as `batches` makes them."""
    keyed, refs = _Keyed(samples, config), _Keys(samples, config, range(n, n + 1), 0, 1).refs(n)
    for i in places:
        yield refs[i], _sound(keyed[n, i, refs[i]])


def _sound(made: Any) -> Any:
    """What was made of samples; an error that came instead of it is raised."""
    if isinstance(made, BodyloopError):
        raise made
    return made


def _alone(_worker: int) -> None:
    """One thread a worker: they are as many as there are cores to use."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


class _Keys:
    """Keys of the samples of each piece of a batch: (batch, place in the batch, ref)."""

    def __init__(
        self, samples: Samples, config: TrainConfig, numbers: range, process: int, processes: int
    ) -> None:
        self.samples, self.config, self.numbers = samples, config, numbers
        self.process, self.processes = process, processes

    def __iter__(self) -> Iterator[list[tuple[int, int, Ref]]]:
        own = self.config.batch // self.processes
        size = own // self.config.accumulate
        # every process gets some of every source; a sample keeps its place in the batch, and so its numbers
        order = [i for p in range(self.processes) for i in range(p, self.config.batch, self.processes)]
        for n in self.numbers:
            refs = self.refs(n)
            for at in range(self.process * own, (self.process + 1) * own, size):
                yield [(n, i, refs[i]) for i in order[at : at + size]]

    def __len__(self) -> int:
        return len(self.numbers) * self.config.accumulate

    def refs(self, n: int) -> Sequence[Ref]:
        """All samples of batch ``n``; the fixed ones in turn while overfitting."""
        if self.config.overfit:
            fixed = self.samples.draw(0, self.config.overfit)
            return [fixed[(n * self.config.batch + i) % len(fixed)] for i in range(self.config.batch)]
        return self.samples.draw(n, self.config.batch)


class _Keyed(Dataset[Any]):
    def __init__(self, samples: Samples, config: TrainConfig) -> None:
        self.samples, self.config = samples, config

    def __getitem__(self, key: tuple[int, int, Ref]) -> Any:
        n, i, ref = key
        seeds = [self.config.seed, *ref] if self.config.overfit else [self.config.seed, n, i]
        try:
            return self.samples.sample(ref, np.random.Generator(np.random.PCG64(seeds)))
        except BodyloopError as e:
            return e  # raised in a worker it would come as the text of a traceback


class _Collate:
    """A batch of samples, or the first error among them."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __call__(self, made: Sequence[Any]) -> Any:
        wrong = [m for m in made if isinstance(m, BodyloopError)]
        return wrong[0] if wrong else self.samples.collate(made)


# ---- one step ------------------------------------------------------------------------------------------------


def forward(
    task: Task, model: nn.Module, batch: Mapping[str, Tensor], config: TrainConfig, accelerator: Accelerator
) -> dict[str, Tensor]:
    """The losses of a piece of a batch in the configured precision."""
    model.train()

    def shared(x: Tensor) -> Tensor:
        mean: Tensor = accelerator.reduce(x.detach().clone(), "mean")
        return mean

    with torch.autocast(accelerator.device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        return task.losses(model, batch, shared)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int, ramp: int = 0) -> None:
    """Exponential moving average of weights and buffers; the decay grows from 0 so that early weights fade."""
    d = decay * -math.expm1(-(1 + step) / ramp) if ramp else min(decay, (1 + step) / (10 + step))
    done: set[int] = set()
    for a, m in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if a.data_ptr() in done:  # a tensor that stands under several names is averaged once
            continue
        done.add(a.data_ptr())
        if a.dtype.is_floating_point and d:
            a.lerp_(m, 1 - d)
        else:
            a.copy_(m)
