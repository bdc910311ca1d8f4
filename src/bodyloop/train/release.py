"""From a run to a weight file: the averaged weights with the model's card inside, ready for `bodyloop export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from bodyloop.errors import FileError
from bodyloop.models.cards import Card
from bodyloop.models.checkpoints import save_safetensors
from bodyloop.train.starts import run_average


def release(
    run: Path,
    card: Card,
    out: Path | None = None,
    *,
    which: Literal["last", "best"] = "last",
    half: bool = False,
) -> tuple[Path, int]:
    """Write ``out`` (default ``run/weights.safetensors``) from the averaged weights of a run.

    With ``half`` matrices and filters are stored in 16 bits.

    Returns: the file and the step its weights are of.
    Raises:
        FileError: the run has no such checkpoint, or it is none of the training loop.
    """
    path = run / f"{which}.pt"
    found = run_average(path)
    if found is None:
        raise FileError(f"{path}: not a checkpoint of the training loop")
    weights, step = found
    target = out or run / "weights.safetensors"
    arrays = {k: (v.astype(np.float16) if half and v.ndim > 1 else v) for k, v in weights.items()}
    save_safetensors(target, arrays, card, {"step": str(step)})
    return target, step
