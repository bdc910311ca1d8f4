"""What a run leaves behind: whole checkpoints, rows of figures, the configuration, tensorboard's files.

A checkpoint holds weights, their average, the optimiser, the step, and what made them: configuration,
versions, sha256 of the annotations. No random state is needed: every step draws from its own number.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bodyloop.errors import ConfigError, FileError
from bodyloop.storage import atomic_write
from bodyloop.train.config import TrainConfig

log = logging.getLogger(__name__)

Row = dict[str, float]
PACKAGES = ("bodyloop", "torch", "numpy", "accelerate")


def state_of(
    model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, step: int, best: float
) -> dict[str, Any]:
    """What a run goes on from."""
    return {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "best": best,
    }


def origin(config: TrainConfig, digests: Mapping[str, str]) -> dict[str, Any]:
    """What made a checkpoint: configuration (with its seed), versions, sha256 of the annotations."""
    return {
        "config": config.to_dict(),
        "data": dict(digests),
        "versions": {
            **{p: version(p) for p in PACKAGES},
            "python": platform.python_version(),
        },
    }


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside the old one, then put it in its place."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def restore(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    config: TrainConfig,
    digests: Mapping[str, str],
) -> tuple[int, float]:
    """Fill model, average and optimiser from a checkpoint; its step and best score.

    Raises:
        FileError: it is none. ConfigError: it is of another model.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, best = int(state["step"]), float(state["best"])
        before, data = state["config"], state["data"]
    except (OSError, KeyError, EOFError, pickle.UnpicklingError) as e:
        raise FileError(f"{path}: not a checkpoint of this loop: {e}; move it away to start anew") from e
    except (RuntimeError, ValueError) as e:
        raise ConfigError(
            f"{path}: was written by another model or configuration: {e}; move the folder away, or name "
            "another by --run, to start anew"
        ) from e
    changed = [k for k, v in config.to_dict().items() if before.get(k, v) != v]
    if changed:
        log.warning("%s: goes on with other values of %s", path, ", ".join(changed))
    if dict(data) != dict(digests):
        log.warning("%s: the data are no longer those that the run began with", path)
    return step, best


class Record:
    """metrics.jsonl, config.json and tensorboard of a run; only the main process writes."""

    def __init__(
        self, run: Path, step: int, config: TrainConfig, main: bool, tell: Callable[[Row], None] | None
    ) -> None:
        self.path, self.main, self.tell = run / "metrics.jsonl", main, tell
        self.board: Any = None
        if not main:
            return
        with atomic_write(run / "config.json") as out:
            out.write((json.dumps(config.to_dict(), indent=1) + "\n").encode())
        rows = "".join(
            _rows_until(self.path, step)
        )  # those after the checkpoint are of steps that are done again
        with atomic_write(self.path) as out:
            out.write(rows.encode())
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        if self.board is not None:
            self.board.close()

    def write(self, row: Row) -> None:
        """Keep one row of figures and tell it."""
        if not self.main:
            return
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        for name, value in row.items() if self.board is not None else ():
            if name != "step":
                self.board.add_scalar(name.lstrip("_"), value, row["step"])
        if self.tell is not None:
            self.tell(row)


def _rows_until(path: Path, step: int) -> Iterator[str]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError, KeyError):  # a kill may have left half a line
            if json.loads(line)["step"] <= step:
                yield line + "\n"
