"""``bodyloop convert``: a checkpoint of the authors or of MMPose into a safetensors file with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bodyloop.cli._common import AsJson, CardName, example, put_json, say

NAME = "convert"
EXAMPLE = example("bodyloop convert PMPose-b-1.0.0.pth pmpose-b.safetensors --card pmpose-b")


def command(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Weights: .pth, .pt or .safetensors.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="The new file, ending in .safetensors.")],
    card: CardName = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn a checkpoint into a safetensors file that carries its card.

    No code in the checkpoint is run. Every tensor must fit the model's network; what does not is named.
    """
    from bodyloop.models.checkpoints import convert
    from bodyloop.models.registry import find_card

    done = convert(source, target, None if card is None else find_card(card), overwrite=overwrite)
    if as_json:
        put_json(
            {
                "source": str(done.source), "target": str(done.target), "card": done.card.name,
                "tensors": done.tensors, "parameters": done.parameters,
            }
        )  # fmt: skip
    else:
        say(f"{done.target}: {done.card.name}, {done.tensors} tensors, {done.parameters:,} parameters")
