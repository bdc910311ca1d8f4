"""Runs ONNX files with onnxruntime.

One file, several sessions: onnxruntime computes a whole graph whatever is fetched, so for every set of
outputs that is asked for the graph is cut to it, and a session is made once and kept. The execution provider
is what the caller named; if it is not there, that is an error and not a silent fall-back to the CPU. The
file's metadata (with the model's card) is handed on as text; reading it is the card's business.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from bodyloop.engines import Array
from bodyloop.engines._graph import cut, graph_names
from bodyloop.errors import FileError, InputError, MissingDependency, ModelError

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
}
_WHEELS = {
    "cuda": "onnxruntime-gpu",
    "tensorrt": "onnxruntime-gpu",
    "directml": "onnxruntime-directml",
    "rocm": "onnxruntime-rocm",
    "migraphx": "onnxruntime-migraphx",
    "openvino": "onnxruntime-openvino",
}
SESSIONS_KEPT = 3  # sets of outputs in use at the same time: with flip, without, and one for a closer look

_TYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


class OnnxEngine:
    """An ONNX file as a function.

    Args:
        model: path of the file, or its bytes.
        providers: where to run, best first: "cpu", "cuda", "coreml", ... or onnxruntime's own names.
        threads: threads inside one call; None lets onnxruntime choose (all physical cores).
        keep: sessions held at a time, one for each set of outputs; each holds the weights it needs.

    Raises:
        FileError: the file cannot be read.
        ModelError: it is not an ONNX model, is cut off, or onnxruntime refuses it.
        MissingDependency: onnxruntime or a provider is not installed; the message has the pip line.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        providers: Sequence[str] = ("cpu",),
        threads: int | None = None,
        keep: int = SESSIONS_KEPT,
    ) -> None:
        self._where = "ONNX model" if isinstance(model, bytes) else str(model)
        self._bytes = model if isinstance(model, bytes) else _read(Path(model))
        self._providers = _known_providers(providers)
        self._threads = threads
        self._keep = keep
        try:
            self._inputs, self._outputs, metadata = graph_names(self._bytes)
        except ModelError as e:
            raise ModelError(f"{self._where}: {e}; fetch or export it again") from e
        self._metadata = MappingProxyType(metadata)
        self._device = _short(self._providers[0])
        self._sessions: OrderedDict[frozenset[str], onnxruntime.InferenceSession] = OrderedDict()
        self._lock = threading.Lock()
        self._checked = False

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays that `run` takes."""
        return self._inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the arrays that `run` can return."""
        return self._outputs

    @property
    def device(self) -> str:
        """Short name of the first provider: "cpu", "cuda", ..."""
        return self._device

    @property
    def metadata(self) -> Mapping[str, str]:
        """The file's metadata, text by key."""
        return self._metadata

    def takes(self) -> dict[str, tuple[np.dtype[np.generic], tuple[int | None, ...]]]:
        """Type and shape of each input; None where the file leaves a length open.

        Raises:
            ModelError: onnxruntime refuses the file, or an input is not of numbers.
        """
        out: dict[str, tuple[np.dtype[np.generic], tuple[int | None, ...]]] = {}
        for i in self._session(frozenset(self._outputs)).get_inputs():
            if i.type not in _TYPES:
                raise ModelError(f"{self._where}: input {i.name!r} is a {i.type}")
            shape = tuple(d if isinstance(d, int) and d > 0 else None for d in i.shape)
            out[i.name] = np.dtype(_TYPES[i.type]), shape
        return out

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Outputs of one batch; only what they need is computed.

        Raises:
            InputError: an input is missing, unknown, or of the wrong shape or type.
            ModelError: an output that the file does not have, or a failure inside onnxruntime.
        """
        wanted = list(dict.fromkeys(outputs))
        if set(inputs) != set(self._inputs):
            raise InputError(f"{self._where} takes the inputs {list(self._inputs)}, got {sorted(inputs)}")
        if not wanted:
            return {}
        session = self._session(frozenset(wanted))
        try:
            values = session.run(wanted, dict(inputs))
        except _bad_argument() as e:
            raise InputError(f"{self._where} refuses its input: {_first_line(e)}") from e
        except _ort_errors() as e:
            raise ModelError(f"{self._where} failed: {_first_line(e)}") from e
        return dict(zip(wanted, values, strict=True))

    def warm_up(self, outputs: Sequence[str] | None = None) -> None:
        """Make the session for ``outputs`` (default: all) and run it once on a batch of one blank input."""
        wanted = list(self._outputs if outputs is None else outputs)
        session = self._session(frozenset(wanted))
        blank: dict[str, Array] = {}
        for i in session.get_inputs():
            shape = [d if isinstance(d, int) and d > 0 else 1 for d in i.shape]
            blank[i.name] = np.zeros(shape, _TYPES.get(i.type, np.float32))
        for name in set(self._inputs) - set(blank):  # an input that these outputs do not need
            blank[name] = np.zeros(1, np.float32)
        self.run(blank, wanted)

    def _session(self, wanted: frozenset[str]) -> onnxruntime.InferenceSession:
        unknown = wanted - set(self._outputs)
        if unknown:
            raise ModelError(
                f"{self._where} has no output {', '.join(sorted(unknown))}; it has {', '.join(self._outputs)}"
            )
        with self._lock:
            session = self._sessions.get(wanted)
            if session is None:
                log.debug("%s: session for %s", self._where, sorted(wanted))
                session = self._make(wanted)
                self._sessions[wanted] = session
                while len(self._sessions) > self._keep:
                    self._sessions.popitem(last=False)
            self._sessions.move_to_end(wanted)
            return session

    def _make(self, wanted: frozenset[str]) -> onnxruntime.InferenceSession:
        ort = _import()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        whole = wanted == frozenset(self._outputs)
        try:
            model = self._bytes if whole else cut(self._bytes, sorted(wanted))
            session = ort.InferenceSession(model, options, providers=self._providers)
        except _ort_errors() as e:
            raise ModelError(f"{self._where}: onnxruntime cannot load it: {_first_line(e)}") from e
        got = session.get_providers()
        if got[0] != self._providers[0]:
            raise _missing(self._providers[0], f"onnxruntime could not start it and offered {got}")
        return session


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise FileError(f"cannot read the model file {path}: {e.strerror or e}") from e


def _import() -> onnxruntime:
    try:
        import onnxruntime
    except ImportError as e:
        raise MissingDependency(f"onnxruntime cannot be imported ({e}); pip install onnxruntime") from e
    if not hasattr(onnxruntime, "InferenceSession"):
        # what is left when two distributions wrote into the same folder and one of them was removed
        raise MissingDependency(
            "onnxruntime is damaged; pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime"
        )
    return onnxruntime


def _known_providers(names: Sequence[str]) -> list[str]:
    if isinstance(names, str) or not names:
        raise InputError(f"providers: expected a list such as ['cpu'], got {names!r}")
    ort = _import()
    available = set(ort.get_available_providers())
    full = []
    for name in names:
        provider = _PROVIDERS.get(name.lower(), name)
        if provider not in available:
            if provider not in _PROVIDERS.values() and provider not in ort.get_all_providers():
                raise InputError(f"unknown execution provider {name!r}; known: {', '.join(_PROVIDERS)}")
            raise _missing(provider, f"this onnxruntime offers {', '.join(sorted(available))}")
        full.append(provider)
    return full


def _short(provider: str) -> str:
    return next((k for k, v in _PROVIDERS.items() if v == provider), provider)


def _missing(provider: str, why: str) -> MissingDependency:
    wheel = _WHEELS.get(_short(provider))
    mend = (
        f"pip uninstall -y onnxruntime && pip install {wheel}"
        if wheel
        else "it needs a build of onnxruntime that has it"
    )
    return MissingDependency(
        f"the execution provider {provider} is not available: {why}. {mend}; or ask for 'cpu'"
    )


def _ort_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    names = (
        "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotFound",
        "ModelLoadCanceled", "ModelRequiresCompilation", "NoModel", "NoSuchFile", "NotImplemented",
        "RuntimeException",
    )  # fmt: skip
    own: list[type[Exception]] = [getattr(state, n) for n in names if hasattr(state, n)]
    return (*own, RuntimeError, ValueError)


def _bad_argument() -> tuple[type[Exception], ...]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (state.InvalidArgument, ValueError, TypeError)


def _first_line(e: BaseException) -> str:
    return str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
