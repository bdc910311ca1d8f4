"""Writes a pose network as one self-sufficient ONNX file.

The file holds everything behind the crop: normalisation, network, sparsemax by Newton steps (no sorting), the
temperatures under their own names (``temperature.maps``, ``temperature.presence``, ...) so that calibration
can change them in the file, and the card's decoder; its metadata hold the card. Weights of matrices and
convolutions are stored in half precision behind casts that the runtime folds when it loads the file. Standard
operators only, and none that sorts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bodyloop.errors import FileError, MissingDependency, ModelError
from bodyloop.maps.kernels import oks_variances
from bodyloop.models.cards import Card, Input, WeightsFile

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

    from bodyloop.nn.function import PoseFunction

log = logging.getLogger(__name__)

OPSET = 18
_SIDES = ("presence", "visibility", "quality")
# Newton steps of an exported sparsemax up to the published temperature, and above. Eight agree to 5e-7 on random
# logits, but a trained network of ours had maps that took nine.
_COOL, _COOL_STEPS, _WARM_STEPS = 0.5, 10, 12
_HALF_FROM = 4096  # numbers in a weight worth storing in half precision
_HALF_LIMIT = 65504.0  # the largest half-precision number


def pose_function(network: nn.Module, card: Card, *, bound: float | None = 1.0) -> PoseFunction:
    """The card's preprocessing, calibration and decoder around its network.

    Args:
        network: normalised crops in, named outputs out.
        card: of a pose model.
        bound: largest sub-pixel step of the DARK-UDP decoder, map px; None is the published behaviour.

    Raises:
        ModelError: the card is of another kind, or network and card differ in keypoints or sizes.
    """
    from bodyloop.nn.function import PoseFunction

    if card.kind != "pose" or card.skeleton is None or card.decode is None:
        raise ModelError(f"card {card.name!r} is of a {card.kind}, not of a pose model")
    p, d = card.preprocess, card.decode
    for what, given, expected in (
        ("size", network.size, p.size),
        ("map_size", network.map_size, p.map_size),
        ("num_keypoints", network.num_keypoints, card.num_keypoints),
    ):
        if given != expected:
            raise ModelError(f"card {card.name!r}: {what} is {expected}, the network's is {given}")
    has = _outputs_of(network)
    named = [*card.outputs, *(["maps_outer"] if card.head == "double" else [])]
    trained = [n for n in dict.fromkeys((*named, "logits", "logits_outer", "features")) if n in has]
    missing = [n for n in named if n not in has]
    if missing:
        raise ModelError(f"card {card.name!r} names outputs that the network lacks: {', '.join(missing)}")
    if "error" in has and "error" not in trained:
        trained.append("error")  # there, untrained, computed only for whoever asks
    temperatures = {n: getattr(d, f"{n}_temperature") for n in _SIDES if n in trained}
    if card.head in ("probability", "double"):
        temperatures["maps"] = d.temperature
    return PoseFunction(
        network,
        available=trained,
        mean=p.mean,
        std=p.std,
        flip=card.skeleton.flip.tolist(),
        method=d.method.replace("-", "_"),
        spreads=oks_variances(card.skeleton.sigma_array, p.map_size or (48, 64)).tolist(),
        temperatures=temperatures,
        bgr=p.order == "bgr",
        bound=bound,
    )


def export_onnx(
    network: nn.Module,
    card: Card,
    path: str | Path,
    *,
    half: bool = True,
    opset: int = OPSET,
    outputs: Sequence[str] | None = None,
) -> Card:
    """Write ``network`` with its card as an ONNX file.

    The file takes ``crops`` (batch, h, w, 3) uint8 RGB with any batch and gives keypoints (batch, K, 2) in
    crop px, map_scores, maps, logits, features and the card's trained side outputs.

    Args:
        network: the pose network, weights loaded; it is left as it was.
        half: store large weights as float16.
        opset: version of the operator set.
        outputs: only these; default all trained ones.

    Returns: the card as it stands in the file.

    Raises:
        ModelError: network and card do not fit, or an output is unknown.
        MissingDependency: torch, onnx or onnxscript is missing.
        FileError: the file cannot be written.
    """
    import_onnx()  # missing packages are named before anything is computed
    function = pose_function(network, card)
    offered = [n for n in function.outputs if not n.startswith("flip_") and n != "error"]
    names = offered if outputs is None else list(outputs)
    unknown = [n for n in names if n not in offered]
    if unknown or not names:
        raise ModelError(f"cannot export {', '.join(unknown) or 'nothing'}; there are {', '.join(offered)}")
    was_training = network.training
    function.eval()
    try:
        model = _trace(function, names, opset)
    finally:
        network.train(was_training)
    temperatures = {n: float(t) for n, t in function.temperature.named_buffers()}
    _inputs_to_initialisers(model, {f"temperature.{n}": t for n, t in temperatures.items()})
    _fold_division(model)
    return finish(model, card, path, half=half)


def finish(
    model: onnx.ModelProto, card: Card, path: str | Path, *, half: bool = True, input: Input = "uint8-nhwc"
) -> Card:
    """Strip a fresh ONNX graph, halve its weights, put the card inside, check it and write it.

    ``input``: what the graph takes.

    Returns: the card of the new file.
    """
    onnx = import_onnx()
    for (
        node
    ) in model.graph.node:  # the exporter's notes on where each node came from: a tenth of a small file
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    if half:
        halve(model)
    target = Path(path)
    own = replace(
        card,
        preprocess=replace(card.preprocess, input=input),
        weights=WeightsFile(file=target.name, format="onnx"),
    )
    onnx.helper.set_model_props(model, own.to_metadata())
    model.doc_string = card.summary
    onnx.checker.check_model(model)
    write_atomically(target, model.SerializeToString())
    return own


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is either complete or not there.

    Raises:
        FileError: it cannot be written; what was there before stays.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as e:
        with contextlib.suppress(OSError):
            part.unlink()
        raise FileError(f"cannot write {path}: {e.strerror or e}") from e


def _outputs_of(network: nn.Module) -> tuple[str, ...]:
    names: tuple[str, ...] = getattr(network, "available", None) or network.outputs  # type: ignore[assignment]
    return names


def import_onnx() -> Any:
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter needs it)
        import torch  # noqa: F401
    except ImportError as e:
        raise MissingDependency(f"exporting needs {e.name}; pip install 'bodyloop[export]'") from e
    return onnx


def _trace(function: PoseFunction, names: Sequence[str], opset: int) -> onnx.ModelProto:
    """The function as an ONNX graph: crops and temperatures in, ``names`` out."""
    import torch

    buffers = dict(function.temperature.named_buffers())
    shared = {f"temperature.{n}": t for n, t in buffers.items()}
    if "maps" in buffers:
        for path, module in function.network.named_modules():
            if "temperature" in module._buffers:
                shared[".".join(p for p in ("network", path, "temperature") if p)] = buffers["maps"]
    order = list(buffers)

    class Graph(torch.nn.Module):
        """Temperatures are arguments, because the exporter would fold constants away."""

        def __init__(self) -> None:
            super().__init__()
            self.function = function

        def forward(self, crops: Tensor, *temperatures: Tensor) -> tuple[Tensor, ...]:
            by_tensor = {id(buffers[n]): t for n, t in zip(order, temperatures, strict=True)}
            changed = {path: by_tensor[id(t)] for path, t in shared.items()}
            out = torch.func.functional_call(self.function, changed, (crops, tuple(names)), strict=False)
            return tuple(out[n] for n in names)

    crops = function.blank(2)["crops"]
    arguments = (crops, *(buffers[n].clone() for n in order))
    batch = torch.export.Dim("batch")
    try:
        with _newton(function), quiet():
            program = torch.onnx.export(
                Graph().eval(),
                arguments,
                dynamo=True,
                input_names=["crops", *(f"temperature.{n}" for n in order)],
                output_names=list(names),
                dynamic_shapes=({0: batch}, *([tuple({} for _ in order)] if order else [])),
                opset_version=opset,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as e:
        raise ModelError(f"torch could not write the network as ONNX: {str(e).splitlines()[0]}") from e
    if program is None:
        raise ModelError("torch could not write the network as ONNX")
    model: onnx.ModelProto = program.model_proto
    return model


@contextlib.contextmanager
def _newton(function: PoseFunction) -> Iterator[None]:
    """Networks with their sparsemax in an attribute get a fixed number of Newton steps.

    A network may state in ``newton_steps`` how many it needs at its own temperature.
    """
    from bodyloop.nn.maps import sparsemax_newton

    temperature = function.temperature.of("maps")
    # the warmer, the more cells share the mass, and the more steps it takes to find which
    warm = temperature is not None and float(temperature) > _COOL
    usual = _WARM_STEPS if warm else _COOL_STEPS
    fixed = partial(sparsemax_newton, steps=getattr(function.network, "newton_steps", usual))
    owners = [vars(m) for m in function.network.modules() if "sparsemax" in vars(m)]
    before = [o["sparsemax"] for o in owners]
    for o in owners:
        o["sparsemax"] = fixed
    try:
        yield
    finally:
        for o, s in zip(owners, before, strict=True):
            o["sparsemax"] = s


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter's own remarks concern its developers, not ours."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def _inputs_to_initialisers(model: onnx.ModelProto, values: dict[str, float]) -> None:
    """Graph inputs become named scalars in the file, where calibration finds them."""
    from onnx import numpy_helper

    kept = [i for i in model.graph.input if i.name not in values]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    used = {n for node in model.graph.node for n in node.input}
    for name, value in values.items():
        if name in used:  # an export of some outputs only may not need it
            model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))


def _fold_division(model: onnx.ModelProto) -> None:
    """Move the division by std into the first convolution: exact, as padding is 0 before and after it."""
    from onnx import numpy_helper

    stored = {t.name: t for t in model.graph.initializer}
    for divide in [n for n in model.graph.node if n.op_type == "Div"]:
        by = stored.get(divide.input[1])
        users = [n for n in model.graph.node if divide.output[0] in n.input]
        if by is None or tuple(by.dims) != (1, 3, 1, 1) or not users:
            continue
        weights = [stored.get(n.input[1]) if n.op_type == "Conv" else None for n in users]
        if any(w is None or w.dims[1] != 3 for w in weights):
            continue  # another order of channels, or something else looks at the picture
        for user, weight in zip(users, weights, strict=True):
            assert weight is not None  # checked above
            scaled = numpy_helper.to_array(weight) / numpy_helper.to_array(by)
            weight.CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), weight.name))
            user.input[0] = divide.input[0]
        model.graph.node.remove(divide)
    used = {i for n in model.graph.node for i in n.input}
    for tensor in [t for t in model.graph.initializer if t.name not in used]:
        model.graph.initializer.remove(tensor)


def halve(model: onnx.ModelProto) -> None:
    """Store the large weights of convolutions and matrix products as float16, with casts back."""
    import onnx
    from onnx import numpy_helper

    weights = {
        node.input[1]
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and "decoder" not in node.input[1]
    }
    casts = []
    for i, tensor in enumerate(model.graph.initializer):
        if tensor.name not in weights or tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        value = numpy_helper.to_array(tensor)
        if value.size <= _HALF_FROM or not (np.abs(value) < _HALF_LIMIT).all():
            continue
        stored = f"{tensor.name}.half"
        casts.append(onnx.helper.make_node("Cast", [stored], [tensor.name], name=f"{tensor.name}.cast", to=1))
        model.graph.initializer[i].CopyFrom(numpy_helper.from_array(value.astype(np.float16), stored))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)
