"""Writes a SAM as a folder of two ONNX files: ``encoder.onnx`` and ``decoder.onnx``, both with the card inside.

The encoder takes normalised pictures and gives their features; the decoder takes the features of one picture and
any number of prompts with any number of tokens. Resizing, normalising and enlarging stay outside, as they do with
torch. Weights are stored in half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bodyloop.errors import FileError, ModelError
from bodyloop.models.cards import Card
from bodyloop.models.checkpoints import is_sam
from bodyloop.models.export import OPSET, finish, import_onnx, quiet

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from bodyloop.nn.sam2 import SamDecoder, SamEncoder

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"


def export_sam(network: nn.Module, card: Card, folder: str | Path, *, half: bool = True) -> Card:
    """Write both halves of ``network`` into ``folder``, which is made if it is not there.

    Args:
        network: a `Sam2Model`, weights loaded; it is left as it was.
        half: store large weights as float16.

    Returns: the card as it stands in the encoder's file.

    Raises:
        ModelError: the card is of another kind.
        MissingDependency: torch, onnx or onnxscript is missing.
        FileError: a file cannot be written.
    """
    if not is_sam(card):
        raise ModelError(f"card {card.name!r} is of a {card.kind} that is no SAM")
    import_onnx()  # missing packages are named before anything is computed
    from bodyloop.nn.sam2 import halves

    target = Path(folder)
    try:
        target.mkdir(exist_ok=True)
    except OSError as e:
        raise FileError(f"cannot make the folder {target}: {e.strerror or e}") from e
    was_training = network.training
    encoder, decoder = halves(network.eval())
    try:
        first = _traced(encoder, {"images": {0: "batch"}})
        tokens = {0: "prompts", 1: "tokens"}
        free: dict[str, dict[int, str]] = {"points": tokens, "labels": tokens}
        second = _traced(decoder, free | {"first_masks": {0: "prompts"}, "given": {0: "prompts"}})
    finally:
        network.train(was_training)
    given = card.preprocess.input
    finish(second, card, target / DECODER, half=half, input=given)
    return finish(first, card, target / ENCODER, half=half, input=given)


def _traced(function: SamEncoder | SamDecoder, free: dict[str, dict[int, str]]) -> onnx.ModelProto:
    """A function as an ONNX graph whose inputs have some axes of any length."""
    import torch

    blank = function.blank(2)
    axes = {
        name: torch.export.Dim(name)
        for name in {n for free_axes in free.values() for n in free_axes.values()}
    }
    shapes = tuple({i: axes[n] for i, n in free.get(name, {}).items()} for name in function.inputs)
    with quiet():
        program = torch.onnx.export(
            _as_tuple(function, function.outputs),
            tuple(blank[n] for n in function.inputs),
            dynamo=True,
            input_names=list(function.inputs),
            output_names=list(function.outputs),
            dynamic_shapes=(shapes,),
            opset_version=OPSET,
            verbose=False,
        )
    if program is None:
        raise ModelError("torch could not write the network as ONNX")
    return program.model_proto


def _as_tuple(function: nn.Module, outputs: Sequence[str]) -> nn.Module:
    """The exporter wants inputs in a row and outputs in a tuple."""
    import torch

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.function = function

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            out: dict[str, Any] = self.function(*inputs, outputs=outputs)
            return tuple(out[n] for n in outputs)

    return Graph().eval()
