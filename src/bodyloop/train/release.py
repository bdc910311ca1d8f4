"""From a run to a weight file: the averaged weights with the model's card inside, ready for `bodyloop export`.

A run keeps its card beside its checkpoints (``card.toml``), so that nobody has to say again what was trained.
It is a plain file: licences, failures and notes can be written into it before the model is exported.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from bodyloop.errors import FileError
from bodyloop.models.cards import Card
from bodyloop.models.checkpoints import save_safetensors
from bodyloop.storage import atomic_write
from bodyloop.train.starts import run_average

CARD = "card.toml"


def unproven(card: Card) -> Card:
    """The card of a model that is trained anew: what is known of other weights says nothing about these."""
    return replace(
        card.uncalibrated(),
        licenses=replace(card.licenses, weights="not stated", data="not stated"),
        version="",
        summary="",
        parameters=None,
        accuracy=(),
        training_data=(),
        known_failures=(),
        starts_from="",
        weights=None,
        notes="",
    )


def write_card(card: Card, run: Path) -> None:
    """Keep the card of what is trained in ``run``, under the name of that folder if it can be one."""
    wanted = re.sub(r"[^a-z0-9.+_-]+", "-", run.resolve().name.lower()).strip("-.+_")[:64]
    named = replace(card, name=wanted or card.name, aliases=(), summary=f"{card.name}, trained in {run.name}")
    with atomic_write(run / CARD) as out:
        out.write(named.to_toml().encode())


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
