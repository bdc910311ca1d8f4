"""The few functions most people need: load a model, predict one picture or many.

Loaded networks are kept (a handful, the least recently used goes first) and shared between threads; a file
that changes on disk is loaded anew. What a model is (name, file, repository) the registry knows, how it runs
the engines, what comes out the roles; here they are only put together.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from bodyloop.detect import YOLO_FAMILIES, weights_of_transformers
from bodyloop.errors import FileError, InputError, MissingDependency, ModelError
from bodyloop.images import Image, Order
from bodyloop.models.cards import Card
from bodyloop.models.registry import bare_onnx, resolve
from bodyloop.people import People
from bodyloop.pose.estimator import Asked, OnePicture, PoseModel
from bodyloop.pose.inference import PoseOptions
from bodyloop.pose.parity import NONE, REFERENCE
from bodyloop.roles import Detector, PoseEstimator, Segmenter, as_detector

if TYPE_CHECKING:
    from typing import Unpack

    from bodyloop.detect.rtmdet import DetectorParity
    from bodyloop.engines import Engine
    from bodyloop.engines.torch import TorchEngine
    from bodyloop.loop import BodyLoop, LoopConfig

DEFAULT_POSE = "pmpose-n"  # in the wheel
DEFAULT_DETECTOR = "rtmdet-n"  # in the wheel
DEFAULT_PIPELINE = "bmp-n"
PIPELINES = {  # who plays in each configuration of the loop: detector, pose estimator, segmenter
    "bmp-d3": ("rtmdet-ins-l-mask", "pmpose-b", "sam2.1-base-plus"),
    "bmp-j1": ("rtmdet-ins-l-mask", "maskpose-b-1.0.0", "sam2.1-base-plus"),
    "bmp-v2": ("rtmdet-ins-l-mask", "pmpose-b", "sam-pose2seg-b+"),
    "bmp-n": ("rtmdet-ins-n", "pmpose-n", "pose2seg-n"),
}
KEPT = 4  # networks kept in memory
ENCODER, DECODER = "encoder.onnx", "decoder.onnx"  # in the folder of an exported SAM

Precision = Literal["fp32", "bf16", "fp16"]
T = TypeVar("T")


class _Cache:
    """Values by key, made once even if several threads ask at the same time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, Any] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:  # other keys go on meanwhile
            with self._lock:
                if key in self._values:
                    self._values.move_to_end(key)
                    return self._values[key]  # type: ignore[no-any-return]
            value = make()
            with self._lock:
                self._values[key] = value
                while len(self._values) > self._size:
                    self._values.popitem(last=False)
                self._making = {k: m for k, m in self._making.items() if m.locked()}
            return value

    def clear(self) -> None:
        with self._lock:
            self._values.clear()


_engines = _Cache(KEPT)


def clear_models() -> None:
    """Let go of all networks that are kept in memory."""
    _engines.clear()


def load_pose(
    model: str | Path | Card = DEFAULT_POSE,
    *,
    device: str = "cpu",
    card: str | Path | Card | None = None,
    dtype: Precision = "fp32",
    compile: bool = False,
    threads: int | None = None,
    detector: str | Path | Detector | None = DEFAULT_DETECTOR,
    options: PoseOptions | None = None,
) -> PoseModel:
    """Load a pose model.

    Args:
        model: a name ("pmpose-n", "pmpose-b", ...), a file (.onnx, .safetensors, .pth) or a hub id.
        device: "cpu", "cuda", "mps", or for ONNX files the name of an execution provider. One that is not
            there is an error.
        card: what a bare weight file is, if it fits several models.
        dtype, compile: of torch networks.
        threads: inside one call, for ONNX files.
        detector: a detector, or the name of one that is loaded when somebody is to be found; None: none.
        options: defaults of its predictions.

    Raises:
        ModelError: an unknown model, or weights that do not fit.
        FileError: a file cannot be read.
        MissingDependency: torch, or the device, is not there.
    """
    found, path = resolve(model, card)
    engine = _engine(found, path, device, dtype, compile, threads)
    finder: Detector | Callable[[], Detector] | None
    if isinstance(detector, str | Path):
        name = detector
        finder = lambda: load_detector(name)  # noqa: E731
    else:
        finder = detector
    return PoseModel(engine, found, detector=finder, options=options)


def load_detector(
    model: str | Path | Card | Detector | Callable[..., Any] = DEFAULT_DETECTOR,
    *,
    device: str = "cpu",
    card: str | Path | Card | None = None,
    dtype: Precision = "fp32",
    compile: bool = False,
    threads: int | None = None,
    score_threshold: float | None = None,
    masks: bool = True,
    parity: DetectorParity | None = None,
) -> Detector:
    """Load a person detector, or make one of what is at hand.

    Args:
        model: a name ("rtmdet-n", "rtmdet-ins-l", ...), a file (.onnx, .pth, .safetensors) or a hub id; an ONNX file of
            a YOLO or YOLOX; a folder with an object detector of `transformers`, or that detector itself; a function
            as for `as_detector`; or a detector, which is returned as it is.
        device, card, dtype, compile, threads: as `load_pose`.
        score_threshold: instead of the card's.
        masks: draw masks, if the network is an RTMDet-Ins.
        parity: quirks of the published RTMDet to repeat.

    Raises:
        ModelError, FileError, MissingDependency: as `load_pose`.
        InputError: options that such a detector does not have.
    """
    if not isinstance(model, str | Path | Card):
        return _made_of(model, score_threshold)
    found, path = find_detector(model, card)
    if found is None and path.suffix.lower() != ".onnx":
        if compile or threads is not None or card is not None:
            raise InputError(f"{model}: compile, threads and card are not for detectors of transformers")
        from bodyloop.detect.hf import TransformersDetector

        return TransformersDetector.from_folder(
            path.parent, device=device, dtype=dtype, score_threshold=score_threshold
        )
    engine = _engine(found, path, device, dtype, compile, threads)
    if found is None or found.architecture in YOLO_FAMILIES:
        from bodyloop.detect.yolo import YoloDetector

        return YoloDetector(engine, found, score_threshold=score_threshold, name=path.stem)
    from bodyloop.detect.rtmdet import RTMDetDetector

    return RTMDetDetector.from_card(
        engine, found, score_threshold=score_threshold, masks=masks, parity=parity
    )


def find_detector(
    model: str | Path | Card, card: str | Path | Card | None = None
) -> tuple[Card | None, Path]:
    """A detector's card, None for a file of others that has none, and its weights' file, fetched if necessary.

    Raises:
        ModelError, ConfigError, FileError: as `bodyloop.models.registry.resolve`.
    """
    if not isinstance(model, Card) and (weights := weights_of_transformers(model)) is not None:
        return None, weights
    bare = bare_onnx(model) if card is None else None
    return resolve(model, card) if bare is None else (None, bare)


def _made_of(model: Any, score_threshold: float | None) -> Detector:
    """A detector from an object that is one, a detector of `transformers`, or a function."""
    if hasattr(model, "config") and callable(model) and not isinstance(model, Detector):
        from bodyloop.detect.hf import TransformersDetector

        return TransformersDetector(model, score_threshold=score_threshold)
    if score_threshold is not None:
        raise InputError("score_threshold: a detector or function of yours has its own")
    if isinstance(model, Detector):
        return model
    if callable(model):
        return as_detector(model)
    raise InputError(f"a detector is a name, a file, a function or has detect(); got {type(model).__name__}")


def load_segmenter(
    model: str | Path | Card,
    *,
    device: str = "cpu",
    dtype: Precision = "fp32",
    compile: bool = False,
    card: str | Path | Card | None = None,
    threads: int | None = None,
) -> Segmenter:
    """Load a segmenter: "sam2.1-tiny", "sam-pose2seg-b+", ..., a weight file, a hub id, or a folder of
    ``bodyloop export``.

    Args:
        device, dtype, compile, card, threads: as `load_pose`.

    Raises:
        ModelError, FileError, MissingDependency: as `load_pose`.
    """
    found, path = resolve(_exported(model), card)
    if found.segmentation is None:
        raise ModelError(f"{found.name!r} is no segmenter but a {found.kind} model")
    if found.segmentation.method == "crops":
        from bodyloop.segment.crops import CropSegmenter

        return CropSegmenter.from_card(_engine(found, path, device, dtype, compile, threads), found)
    from bodyloop.segment.sam2 import SamSegmenter

    return SamSegmenter.from_card(*_halves(found, path, device, dtype, compile, threads), found)


def load_pipeline(
    config: str | LoopConfig = DEFAULT_PIPELINE,
    *,
    device: str = "cpu",
    detector: str | Path | Card | Detector | None = None,
    pose: str | Path | Card | PoseEstimator | None = None,
    segmenter: str | Path | Card | Segmenter | None = None,
    second_detector: str | Path | Card | Detector | None = None,
    dtype: Precision = "fp32",
    published: bool = False,
) -> BodyLoop:
    """Load the loop over detector, pose estimator and segmenter.

    Args:
        config: "bmp-n", "bmp-v2", "bmp-d3", "bmp-j1" (in any case), or a LoopConfig of your own, whose models
            are those of the configuration it is named after, else those of "bmp-n".
        device: of all models that are loaded here.
        detector, pose, segmenter: instead of the configuration's: a role, or what `load_detector`, `load_pose`
            and `load_segmenter` take.
        second_detector: looks from the second pass on.
        dtype: of torch networks.
        published: repeat what the published loop, pose and detector code does where it is wrong.

    Raises:
        ConfigError: an unknown configuration.
        ModelError, FileError, MissingDependency: as `load_pose`.
    """
    from bodyloop.loop import BodyLoop, Parity, find_config

    chosen = find_config(config) if isinstance(config, str) else config
    by_name = PIPELINES.get(chosen.name, PIPELINES[DEFAULT_PIPELINE])
    if published:
        chosen = chosen.changed(parity=Parity.published())

    def finder(given: str | Path | Card | Detector) -> Detector:
        return _finder(given, device, dtype, published) if isinstance(given, str | Path | Card) else given

    segments = by_name[2] if segmenter is None else segmenter
    if isinstance(segments, str | Path | Card):
        segments = load_segmenter(segments, device=device, dtype=dtype)
    poses = by_name[1] if pose is None else pose
    if isinstance(poses, str | Path | Card):
        options = PoseOptions(parity=REFERENCE if published else NONE)
        poses = load_pose(poses, device=device, dtype=dtype, detector=None, options=options)
    if isinstance(poses, PoseModel) and chosen.prompt_maps:
        poses = poses.with_options(maps=True)
    finds = finder(by_name[0] if detector is None else detector)
    again = None if second_detector is None else finder(second_detector)
    return BodyLoop(finds, poses, segments, chosen, again)


def _finder(model: str | Path | Card, device: str, dtype: Precision, published: bool) -> Detector:
    from bodyloop.detect.rtmdet import DetectorParity

    parity = DetectorParity.published() if published else None
    return load_detector(model, device=device, dtype=dtype, parity=parity)


@overload
def predict(
    images: list[Any] | tuple[Any, ...],
    boxes: Any = None,
    masks: Any = None,
    *,
    model: str | Path | Card | PoseModel = DEFAULT_POSE,
    device: str = "cpu",
    **asked: Unpack[Asked],
) -> list[People]: ...
@overload
def predict(
    images: OnePicture,
    boxes: Any = None,
    masks: Any = None,
    *,
    model: str | Path | Card | PoseModel = DEFAULT_POSE,
    device: str = "cpu",
    **asked: Unpack[Asked],
) -> People: ...
def predict(
    images: Any,
    boxes: Any = None,
    masks: Any = None,
    *,
    model: str | Path | Card | PoseModel = DEFAULT_POSE,
    device: str = "cpu",
    **asked: Any,
) -> People | list[People]:
    """People with poses in a picture, or in each of several; by default with the models in the package.

    Args:
        images: a path, an array (H, W, 3) uint8 RGB, an `Image`, or a list or tuple of such.
        boxes, masks: whose pose; without them a detector finds people. See `PoseModel.predict`.
        model: a pose model or its name.
        device: see `load_pose`.
        asked: ``flip``, ``maps``, ``features``, ``detector``, ``order`` ...: see `PoseModel.predict`.

    Returns: People for one picture, a list of People for a list or tuple.
    """
    found: People | list[People] = _pose(model, device).predict(images, boxes, masks, **asked)
    return found


def stream(
    images: Iterable[Any],
    *,
    model: str | Path | Card | PoseModel = DEFAULT_POSE,
    device: str = "cpu",
    detector: Detector | None = None,
    order: Order = "rgb",
) -> Iterator[tuple[Image, People]]:
    """(Image, People) of each picture of an iterable, in order, in bounded memory: for folders and videos."""
    return _pose(model, device).stream(images, detector=detector, order=order)


def _pose(model: str | Path | Card | PoseModel, device: str) -> PoseModel:
    return model if isinstance(model, PoseModel) else load_pose(model, device=device)


def _engine(
    card: Card | None, path: Path, device: str, dtype: Precision, compile: bool, threads: int | None
) -> Engine:
    """The network behind a file, made once for each way of running it."""
    key = (_stamp(path), card, device, dtype, compile, threads)
    if _is_onnx(path, dtype, compile, threads):
        return _engines.get(key, lambda: _onnx(path, device, threads))
    assert card is not None  # only ONNX files go without
    return _engines.get(key, lambda: _torch(card, path, device, dtype, compile))


def _halves(
    card: Card, path: Path, device: str, dtype: Precision, compile: bool, threads: int | None
) -> tuple[Engine, Engine]:
    """Encoder and decoder of a SAM, as `_engine`: two exported files, or one of weights."""
    if _is_onnx(path, dtype, compile, threads):
        files = [path.with_name(n) for n in (ENCODER, DECODER)]
        lacking = [str(f) for f in files if not f.is_file()]
        if lacking:
            raise FileError(
                f"{lacking[0]} is missing: encoder and decoder lie side by side; export the model again"
            )
        encoder, decoder = (_engine(card, f, device, dtype, compile, threads) for f in files)
        return encoder, decoder

    def make() -> tuple[Engine, Engine]:
        torch_engine = _torch_engine(path, "sam")
        from bodyloop.models.build import load_network
        from bodyloop.nn.sam2 import halves

        functions = halves(load_network(card, path))
        encoder, decoder = (torch_engine(f, device=device, dtype=dtype, compile=compile) for f in functions)
        return encoder, decoder

    return _engines.get((_stamp(path), card, device, dtype, compile), make)


def _exported(model: str | Path | Card) -> str | Path | Card:
    """The encoder's file in a folder of an exported SAM; whatever else was named."""
    if isinstance(model, Card):
        return model
    file = Path(model) / ENCODER
    return file if file.is_file() else model


def _stamp(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return str(path.resolve()), stat.st_mtime_ns, stat.st_size


def _is_onnx(path: Path, dtype: Precision, compile: bool, threads: int | None) -> bool:
    """Whether a file is one.

    Raises:
        InputError: an option of the other kind of engine.
    """
    onnx = path.suffix.lower() == ".onnx"
    if onnx and (dtype != "fp32" or compile):
        raise InputError(f"{path.name}: dtype and compile are for torch weights; an ONNX file has its own")
    if threads is not None and not onnx:
        raise InputError(f"{path.name}: threads is for ONNX files; for torch use torch.set_num_threads")
    return onnx


def _onnx(path: Path, device: str, threads: int | None) -> Engine:
    from bodyloop.engines.onnx import OnnxEngine

    providers = [device] if device == "cpu" else [device, "cpu"]  # what the device cannot do the CPU does
    return OnnxEngine(path, providers=providers, threads=threads)


def _torch(card: Card, path: Path, device: str, dtype: Precision, compile: bool) -> Engine:
    torch_engine = _torch_engine(path)
    from bodyloop.models.build import load_network

    network = load_network(card, path)
    if card.kind == "detector":
        from bodyloop.detect.export import detector_function

        return torch_engine(detector_function(network, card), device=device, dtype=dtype, compile=compile)
    if card.kind == "segmenter":
        from bodyloop.segment.crops_export import crops_function

        return torch_engine(crops_function(network, card), device=device, dtype=dtype, compile=compile)
    from bodyloop.models.export import pose_function

    function = pose_function(network, card)
    return torch_engine(function, device=device, dtype=dtype, compile=compile)


def _torch_engine(path: Path, extra: str = "torch") -> type[TorchEngine]:
    try:
        from bodyloop.engines.torch import TorchEngine
    except ImportError as e:
        raise MissingDependency(f"{path.name} needs torch; pip install 'bodyloop[{extra}]'") from e
    return TorchEngine
