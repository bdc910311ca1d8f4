"""Writes a detector as one self-sufficient ONNX file: pixels in, boxes and scores of all priors out.

Normalisation and box decoding are inside, the card in the metadata; thresholds and non-maximum suppression
stay outside, where the card's numbers can be changed. Weights are stored in half precision.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bodyloop.errors import ModelError
from bodyloop.models.cards import Card
from bodyloop.models.export import OPSET, finish, import_onnx, quiet

if TYPE_CHECKING:
    from torch import nn

    from bodyloop.nn.rtmdet import DetectorFunction


def detector_function(network: nn.Module, card: Card) -> DetectorFunction:
    """The card's preprocessing around its network (put into evaluation mode), for engines and export.

    Raises:
        ModelError: the card is of another kind.
    """
    from bodyloop.nn.rtmdet import DetectorFunction, RTMDet

    if card.kind != "detector":
        raise ModelError(f"card {card.name!r} is of a {card.kind}, not of a detector")
    if not isinstance(network, RTMDet):
        raise ModelError(f"card {card.name!r}: a {type(network).__name__} is no detector")
    p = card.preprocess
    return DetectorFunction(network, p.size, mean=p.mean, std=p.std, bgr=p.order == "bgr").eval()


def export_detector(network: nn.Module, card: Card, path: str | Path, *, half: bool = True) -> Card:
    """Write ``network`` with its card as an ONNX file.

    The file takes ``images`` (batch, h, w, 3) uint8 RGB of the card's size with any batch and gives ``boxes``
    (batch, P, 4) ``x1 y1 x2 y2`` in input px and ``scores`` (batch, P, classes).

    Args:
        network: an `RTMDet`, weights loaded; it is left as it was.
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
    function = detector_function(network, card)
    batch = torch.export.Dim("batch")
    try:
        with quiet():
            program = torch.onnx.export(
                _as_tuple(function),
                (function.blank(2)["images"],),
                dynamo=True,
                input_names=list(function.inputs),
                output_names=list(function.outputs),
                dynamic_shapes=({0: batch},),
                opset_version=OPSET,
                verbose=False,
            )
    finally:
        network.train(was_training)
    if program is None:
        raise ModelError("torch could not write the network as ONNX")
    model = program.model_proto
    return finish(model, card, path, half=half)


def _as_tuple(function: DetectorFunction) -> nn.Module:
    """The exporter wants outputs in a tuple."""
    import torch

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.function = function

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            out = self.function(images)
            return tuple(out[n] for n in function.outputs)

    return Graph().eval()
