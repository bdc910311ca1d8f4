"""From a run to a weight file: the averaged weights with the model's card inside, ready for `bodyloop export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from bodyloop.errors import FileError
from bodyloop.models.cards import Card
from bodyloop.models.checkpoints import save_safetensors


def release(
    run: Path, card: Card, out: Path | None = None, *, which: Literal["last", "best"] = "last"
) -> tuple[Path, int]:
    """Write ``out`` (default ``run/weights.safetensors``) from the averaged weights of a run.

    Returns: the file and the step its weights are of.
    Raises:
        FileError: the run has no such checkpoint, or it is none of the training loop.
    """
    source = run / f"{which}.pt"
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
        weights, step = state["average"], int(state["step"])
    except FileNotFoundError as e:
        raise FileError(f"{source}: no such checkpoint; has the training reached one yet?") from e
    except (OSError, KeyError, EOFError, RuntimeError) as e:
        raise FileError(f"{source}: not a checkpoint of the training loop: {e}") from e
    target = out or run / "weights.safetensors"
    arrays = {k: v.float().numpy() for k, v in weights.items() if v.dtype.is_floating_point}
    save_safetensors(target, arrays, card, {"step": str(step)})
    return target, step
