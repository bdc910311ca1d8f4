"""Writes a detector as one self-sufficient ONNX file: pixels in, boxes and scores of all priors out.

Normalisation and box decoding are inside, the card in the metadata; thresholds and non-maximum suppression
stay outside, where the card's numbers can be changed. Weights are stored in half precision.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bodyloop.errors import ModelError
from bodyloop.models.cards import Card, WeightsFile
from bodyloop.models.export import OPSET, _import_onnx, _quiet, halve, write_atomically

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from bodyloop.nn.rtmdet import DetectorFunction


def detector_function(network: nn.Module, card: Card) -> DetectorFunction:
    """The card's preprocessing around its network (put into evaluation mode), for engines and export.

    Raises:
        ModelError: the card is of another kind.
    """
    from bodyloop.nn.rtmdet import DetectorFunction

    if card.kind != "detector":
        raise ModelError(f"card {card.name!r} is of a {card.kind}, not of a detector")
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
    onnx = _import_onnx()
    import torch

    was_training = network.training
    function = detector_function(network, card)
    batch = torch.export.Dim("batch")
    try:
        with _quiet():
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
    _strip(model)
    if half:
        halve(model)
    target = Path(path)
    own = replace(
        card,
        preprocess=replace(card.preprocess, input="uint8-nhwc"),
        weights=WeightsFile(file=target.name, format="onnx"),
    )
    onnx.helper.set_model_props(model, own.to_metadata())
    model.doc_string = card.summary
    onnx.checker.check_model(model)
    write_atomically(target, model.SerializeToString())
    return own


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes on where each node came from: a tenth of a small file, of no use in it."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]


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
