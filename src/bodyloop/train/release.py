"""From a run to a weight file, and from a weight file to the start of another run.

`release` writes the averaged weights of a run with the model's card inside, ready for `bodyloop export`;
`load_start` fills a network with any weight file of its own kind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bodyloop.errors import FileError
from bodyloop.models.cards import Card
from bodyloop.models.checkpoints import load_into, read_checkpoint, save_safetensors


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
    weights, step = _averaged(run / f"{which}.pt")
    target = out or run / "weights.safetensors"
    arrays = {k: (v.astype(np.float16) if half and v.ndim > 1 else v) for k, v in weights.items()}
    save_safetensors(target, arrays, card, {"step": str(step)})
    return target, step


def load_start(network: nn.Module, start: str) -> None:
    """Fill a network with the averaged weights of a run (``last.pt``, ``best.pt``) or with a weight file.

    Raises:
        FileError: it cannot be read. ModelError: it is of another network; the tensors are named.
    """
    path = Path(start)
    weights = _averaged(path)[0] if path.suffix == ".pt" else read_checkpoint(path).state
    load_into(network, weights, where=start)


def _averaged(path: Path) -> tuple[dict[str, npt.NDArray[np.float32]], int]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights, step = state["average"], int(state["step"])
    except FileNotFoundError as e:
        raise FileError(f"{path}: no such checkpoint; has the training reached one yet?") from e
    except (OSError, KeyError, EOFError, RuntimeError) as e:
        raise FileError(f"{path}: not a checkpoint of the training loop: {e}") from e
    return {k: v.float().numpy() for k, v in weights.items() if v.dtype.is_floating_point}, step
