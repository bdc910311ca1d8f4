"""Writes a crop segmenter as one self-sufficient ONNX file: crops and planes in, logits and scores out.

Normalisation is inside, the card in the metadata; windows, planes and the way back to the picture are
`bodyloop.segment.crops`'s. Weights are stored in half precision.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bodyloop.errors import ModelError
from bodyloop.models.cards import Card
from bodyloop.models.export import OPSET, finish, import_onnx, quiet

if TYPE_CHECKING:
    from torch import nn

    from bodyloop.nn.pose2seg import Pose2SegFunction


def crops_function(network: nn.Module, card: Card) -> Pose2SegFunction:
    """The card's preprocessing around its network (put into evaluation mode), for engines and export.

    Raises:
        ModelError: the card is of another kind, or its sizes or order of channels are not the network's.
    """
    from bodyloop.nn.pose2seg import Pose2Seg, Pose2SegFunction

    p = card.preprocess
    if card.segmentation is None or card.segmentation.method != "crops" or not isinstance(network, Pose2Seg):
        raise ModelError(f"card {card.name!r} is not of a segmenter that takes crops")
    if p.size != network.size or p.map_size not in (None, network.size) or p.order != "rgb":
        raise ModelError(
            f"card {card.name!r}: size and map_size must be {list(network.size)} and order 'rgb', as of its network; "
            f"got {list(p.size)}, {p.map_size and list(p.map_size)} and {p.order!r}"
        )
    return Pose2SegFunction(network, mean=p.mean, std=p.std).eval()


def export_crops(network: nn.Module, card: Card, path: str | Path, *, half: bool = True) -> Card:
    """Write ``network`` with its card as an ONNX file.

    The file takes ``crops`` (batch, h, w, 3) uint8 RGB and ``prompts`` (batch, 13, h / 4, w / 4) float32 with any
    batch and gives ``masks`` (batch, h, w) logits and ``scores`` (batch,).

    Args:
        network: a `Pose2Seg`, weights loaded; it is left as it was.
        half: store large weights as float16.

    Returns: the card as it stands in the file.

    Raises:
        ModelError: network and card do not fit.
        MissingDependency: torch, onnx or onnxscript is missing.
        FileError: the file cannot be written.
    """
    import_onnx()  # missing packages are named before anything is computed
    import torch

    was_training = network.training
    function = crops_function(network, card)

    class Graph(torch.nn.Module):
        """The exporter wants outputs in a tuple."""

        def __init__(self) -> None:
            super().__init__()
            self.function = function

        def forward(self, crops: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor, ...]:
            out = self.function(crops, prompts, function.outputs)
            return tuple(out[n] for n in function.outputs)

    batch = torch.export.Dim("batch")
    blank = function.blank(2)
    try:
        with quiet():
            program = torch.onnx.export(
                Graph().eval(),
                tuple(blank[n] for n in function.inputs),
                dynamo=True,
                input_names=list(function.inputs),
                output_names=list(function.outputs),
                dynamic_shapes=({0: batch}, {0: batch}),
                opset_version=OPSET,
                verbose=False,
            )
    finally:
        network.train(was_training)
    if program is None:
        raise ModelError("torch could not write the network as ONNX")
    return finish(program.model_proto, card, path, half=half)
