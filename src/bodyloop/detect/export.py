"""Writes a detector as one self-sufficient ONNX file: pixels in; boxes, scores and what masks are made of out.

Normalisation and box decoding are inside, the card in the metadata. Thresholds and non-maximum suppression stay
outside, where the card's numbers can be changed, and masks are drawn for the people kept alone; or everything is
inside, and the file gives people. Large weights are stored in half precision.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bodyloop.errors import ModelError
from bodyloop.models.cards import Card
from bodyloop.models.export import OPSET, finish, import_onnx, quiet

if TYPE_CHECKING:
    from torch import nn

    from bodyloop.nn.rtmdet import DetectorFunction
    from bodyloop.nn.suppression import PeopleFunction

Suppression = Literal["outside", "inside"]


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


def people_function(network: nn.Module, card: Card) -> PeopleFunction:
    """`detector_function` with the card's thresholds and the suppression behind it.

    Raises:
        ModelError: the card is of another kind.
    """
    from bodyloop.nn.suppression import PeopleFunction

    function, d = detector_function(network, card), card.detection
    assert d is not None  # a card of a detector has it
    return PeopleFunction(
        function, person=d.person_class, score_threshold=d.score_threshold, iou=d.nms_iou,
        per_level=d.nms_pre, limit=d.max_per_image,
    ).eval()  # fmt: skip


def export_detector(
    network: nn.Module,
    card: Card,
    path: str | Path,
    *,
    half: bool = True,
    suppression: Suppression = "outside",
) -> Card:
    """Write ``network`` with its card as an ONNX file.

    The file takes ``images`` (batch, h, w, 3) uint8 RGB of the card's size with any batch. It gives, for P priors,
    ``boxes`` (batch, P, 4) ``x1 y1 x2 y2`` in input px, ``scores`` and ``logits`` (batch, P, classes), and of
    networks that draw masks ``kernels`` (batch, P, 169) and ``prototypes`` (batch, 8, h/8, w/8). With the suppression
    inside it gives, for K people of all pictures, ``picture`` (K,), ``boxes`` (K, 4), ``scores`` (K,) and ``masks``
    (K, h/8, w/8), logits.

    Args:
        network: an `RTMDet`, weights loaded; it is left as it was.
        half: store large weights as float16.
        suppression: where thresholds and non-maximum suppression are; inside they are the card's for good.

    Returns: the card as it stands in the file.

    Raises:
        ModelError: network and card do not fit.
        MissingDependency: torch, onnx or onnxscript is missing.
        FileError: the file cannot be written.
    """
    import_onnx()  # missing packages are named before anything is computed
    import torch

    card, was_training = _with_classes(card, network), network.training
    make = people_function if suppression == "inside" else detector_function
    function = make(network, card)
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
                custom_translation_table=_translations() if suppression == "inside" else None,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as e:
        raise ModelError(f"torch could not write the network as ONNX: {str(e).splitlines()[0]}") from e
    finally:
        network.train(was_training)
    if program is None:
        raise ModelError("torch could not write the network as ONNX")
    model = program.model_proto
    return finish(model, card, path, half=half)


def _with_classes(card: Card, network: nn.Module) -> Card:
    """The card with as many classes as the network has: files of one class and of 80 are loaded by one card."""
    from bodyloop.nn.rtmdet import RTMDet

    if card.detection is None or not isinstance(network, RTMDet):
        return card
    return replace(card, detection=replace(card.detection, num_classes=network.bbox_head.num_classes))


def _translations() -> dict[Any, Any]:
    """Our own operator in ONNX's."""
    import torch
    from onnxscript import opset18

    op: Any = opset18  # its annotations are those of values, not of graphs

    def suppress(boxes: Any, logits: Any, limit: int, iou: float, floor: float) -> Any:
        numbers = ({"value_ints": [limit]}, {"value_floats": [iou]}, {"value_floats": [floor]})
        return op.NonMaxSuppression(boxes, logits, *(op.Constant(**n) for n in numbers))

    return {torch.ops.bodyloop.suppress.default: suppress}


def _as_tuple(function: DetectorFunction | PeopleFunction) -> nn.Module:
    """The exporter wants outputs in a tuple."""
    import torch

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.function = function

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            out = self.function(images, function.outputs)
            return tuple(out[n] for n in function.outputs)

    return Graph().eval()
