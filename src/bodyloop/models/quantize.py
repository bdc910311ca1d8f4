"""int8 for exported files: convolutions in bytes, everything that decides in float32.

The backbone and the map head's convolutions get unsigned activations and signed weights with one scale a
channel, calibrated on crops like those the model will see. Normalisation, the last convolution, sparsemax, the
side outputs and the decoder stay float32: they cost little and rounding there moves keypoints. The result is an
ONNX file like any other, with the same card; what it costs is measured against the original and reported.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bodyloop.engines import Array
from bodyloop.engines.onnx import OnnxEngine
from bodyloop.errors import InputError, MissingDependency, ModelError
from bodyloop.models.cards import Card, WeightsFile
from bodyloop.models.export import halve, write_atomically

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

QUANTIZED = ("Conv", "Clip", "Relu", "Add", "Resize", "Concat", "MaxPool", "GlobalAveragePool")
BATCH = 8


@dataclass(frozen=True)
class Quantized:
    """What int8 costs, on the crops of the report.

    Attributes:
        path: the file.
        crops: how many crops were compared.
        size_bytes, size_before: of the files.
        maps_mean, maps_max: absolute difference of map cells; ``maps_moved`` is the mean share of a map's mass
            that lies elsewhere (half the summed absolute difference).
        keypoints_median, keypoints_p95: distance in crop px.
        sides_mean: mean absolute difference of each side output.
    """

    path: Path
    crops: int
    size_bytes: int
    size_before: int
    maps_mean: float
    maps_max: float
    maps_moved: float
    keypoints_median: float
    keypoints_p95: float
    sides_mean: dict[str, float]

    def __str__(self) -> str:
        sides = ", ".join(f"{k} {v:.4f}" for k, v in self.sides_mean.items())
        return (
            f"{self.path}: {self.size_bytes / 1e6:.1f} MB (was {self.size_before / 1e6:.1f}); on {self.crops} "
            f"crops: maps differ by {self.maps_mean:.2e} (mean), {self.maps_max:.3f} (max), "
            f"{100 * self.maps_moved:.1f} % of their mass moved; keypoints by {self.keypoints_median:.2f} px "
            f"(median), {self.keypoints_p95:.2f} px (95 %); mean difference of {sides or 'no side outputs'}"
        )


def quantize(
    path: str | Path,
    out: str | Path,
    crops: npt.NDArray[np.uint8],
    *,
    compared: npt.NDArray[np.uint8] | None = None,
) -> Quantized:
    """Write an int8 version of an exported pose model.

    Args:
        path: a file of `export_onnx`.
        out: the file to write.
        crops: (N, h, w, 3) uint8 RGB to calibrate on, as the model sees them (dimmed by masks, if it is used
            so); some hundred.
        compared: other crops for the report; default the same.

    Raises:
        ModelError: the file is no exported pose model.
        InputError: crops of another shape, or none.
        MissingDependency: onnx is missing.
        FileError: a file cannot be read or written.
    """
    quantization = _import()
    source, target = Path(path), Path(out)
    engine = OnnxEngine(source)
    card = Card.from_metadata(engine.metadata, str(source))
    if card is None or "maps" not in engine.outputs or engine.inputs != ("crops",):
        raise ModelError(f"{source} is no pose model exported by bodyloop")
    _check(crops, card, "crops")
    model = _read(source)
    _unhalve(model)
    chosen = _trunk(model)
    with tempfile.TemporaryDirectory() as folder:
        plain, done = Path(folder) / "plain.onnx", Path(folder) / "int8.onnx"
        # nothing is left to prepare: said so, or onnxruntime advises it on every call
        model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
        plain.write_bytes(model.SerializeToString())
        quantization.quantize_static(
            plain,
            done,
            _Crops(crops),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_quantize=chosen,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        result = _read(done)
    halve(result)
    _finish(result, card, target)
    return _compare(source, target, crops if compared is None else compared, card)


class _Crops:
    """Batches of crops, as onnxruntime's calibration reads them."""

    def __init__(self, crops: npt.NDArray[np.uint8]) -> None:
        self._crops = crops
        self._next = self._batches()

    def _batches(self) -> Iterator[dict[str, npt.NDArray[np.uint8]]]:
        for at in range(0, len(self._crops), BATCH):
            yield {"crops": np.ascontiguousarray(self._crops[at : at + BATCH])}

    def get_next(self) -> dict[str, npt.NDArray[np.uint8]] | None:
        return next(self._next, None)

    def rewind(self) -> None:
        self._next = self._batches()


def _import() -> Any:
    try:
        from onnxruntime import quantization
    except ImportError as e:
        raise MissingDependency(f"int8 needs {e.name}; pip install 'bodyloop[export]'") from e
    return quantization


def _check(crops: npt.NDArray[np.uint8], card: Card, what: str) -> None:
    w, h = card.preprocess.size
    if crops.ndim != 4 or crops.shape[1:] != (h, w, 3) or crops.dtype != np.uint8 or not len(crops):
        raise InputError(
            f"{what}: expected uint8 (N, {h}, {w}, 3) with N > 0, got {crops.dtype} {crops.shape}"
        )


def _read(path: Path) -> onnx.ModelProto:
    import onnx

    return onnx.load(path)


def _unhalve(model: onnx.ModelProto) -> None:
    """Weights that stand in half precision behind a cast become float32 initialisers again."""
    from onnx import numpy_helper

    stored = {t.name: t for t in model.graph.initializer}
    casts = [n for n in model.graph.node if n.op_type == "Cast" and n.input[0] in stored]
    for cast in casts:
        tensor = stored[cast.input[0]]
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float16:
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), cast.output[0]))
            model.graph.node.remove(cast)


def _trunk(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes to quantize: what leads to the logits, from the first convolution, but the last one.

    Nodes without a name get one.
    """
    nodes = list(model.graph.node)
    for i, node in enumerate(nodes):
        node.name = node.name or f"{node.op_type}_{i}"
    maker = {o: n for n in nodes for o in n.output}
    goal = "logits" if "logits" in maker else "maps"
    before: list[onnx.NodeProto] = []
    seen: set[str] = set()
    open_ones = [goal]
    while open_ones:
        node = maker.get(open_ones.pop())
        if node is not None and node.name not in seen:
            seen.add(node.name)
            before.append(node)
            open_ones += node.input
    after = _behind_a_convolution(nodes)
    order = {n.name: i for i, n in enumerate(nodes)}
    convolutions = sorted((n for n in before if n.op_type == "Conv"), key=lambda n: order[n.name])
    if len(convolutions) < 2:
        raise ModelError("there are no convolutions to quantize in this model")
    last = convolutions[-1].name
    return [n.name for n in before if n.op_type in QUANTIZED and n.name != last and n.name in after]


def _behind_a_convolution(nodes: list[onnx.NodeProto]) -> set[str]:
    """Names of convolutions and of what is computed from them: not the normalisation of the input."""
    reached: set[str] = set()
    names: set[str] = set()
    for node in nodes:
        if node.op_type == "Conv" or any(i in reached for i in node.input):
            reached.update(node.output)
            names.add(node.name)
    return names


def _finish(model: onnx.ModelProto, card: Card, target: Path) -> None:
    import onnx

    # the figures are those of the file it was made from; what was lost is in the report
    measured = tuple(replace(a, protocol=f"{a.protocol} (before int8)".strip()) for a in card.accuracy)
    # what regions and a threshold promise, they promise for the maps they were fitted on
    named = replace(
        card, accuracy=measured, calibration=None, weights=WeightsFile(file=target.name, format="onnx")
    )
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, named.to_metadata())
    write_atomically(target, model.SerializeToString())


def _compare(source: Path, target: Path, crops: npt.NDArray[np.uint8], card: Card) -> Quantized:
    _check(crops, card, "compared")
    a, b = OnnxEngine(source), OnnxEngine(target)
    sides = [n for n in ("presence", "visibility", "quality") if n in a.outputs]
    wanted = ["maps", "keypoints", *sides]
    cells: list[tuple[float, float, float]] = []
    far: list[npt.NDArray[np.floating]] = []
    off: dict[str, list[float]] = {n: [] for n in sides}
    for at in range(0, len(crops), BATCH):
        feed = {"crops": np.ascontiguousarray(crops[at : at + BATCH])}
        x, y = a.run(feed, wanted), b.run(feed, wanted)
        d = np.abs(_gap(x["maps"], y["maps"]))
        cells.append((float(d.mean()), float(d.max()), float(d.sum(axis=(2, 3)).mean() / 2)))
        far.append(np.linalg.norm(_gap(x["keypoints"], y["keypoints"]), axis=-1).ravel())
        for n in sides:
            off[n].append(float(np.abs(_gap(x[n], y[n])).mean()))
    distance = np.concatenate(far)
    mean, most, moved = np.array(cells).T
    return Quantized(
        target,
        len(crops),
        target.stat().st_size,
        source.stat().st_size,
        float(mean.mean()),
        float(most.max()),
        float(moved.mean()),
        float(np.nanmedian(distance)),
        float(np.nanpercentile(distance, 95)),
        {n: float(np.mean(v)) for n, v in off.items()},
    )


def _gap(a: Array, b: Array) -> npt.NDArray[np.float64]:
    return np.asarray(a, np.float64) - np.asarray(b, np.float64)
