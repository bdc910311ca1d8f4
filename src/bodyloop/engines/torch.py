"""Runs torch modules as engines: on the CPU, on CUDA or on Apple's GPU, in fp32, bf16 or fp16.

The module does everything from bytes to named outputs (normalisation, flip average, decoding), so that maps
leave the device only when someone asks for them. In half precision the matrices are stored and multiplied in
bf16 or fp16 and everything sensitive (norms, softmax, sparsemax, decoding) stays in float32, by autocast.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from bodyloop.engines import Array
from bodyloop.errors import InputError, MissingDependency, ModelError

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Function(Protocol):
    """What a module must have to be an engine: names, and a blank input for warming up."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def blank(self, batch: int = 1) -> dict[str, Tensor]:
        """Inputs of the right shape and type, on the CPU."""
        ...

    def __call__(self, *inputs: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]: ...


class TorchEngine:
    """A torch module as a function. The module is put into evaluation mode and moved to the device.

    Args:
        module: an `nn.Module` that is a `Function`.
        device: "cpu", "cuda", "cuda:1", "mps".
        dtype: "fp32", "bf16" or "fp16".
        compile: let torch.compile make the kernels; the first call then takes up to some minutes.

    Raises:
        MissingDependency: the device is not there.
        InputError: an unknown device or precision.
    """

    def __init__(
        self, module: nn.Module, *, device: str = "cpu", dtype: Precision = "fp32", compile: bool = False
    ) -> None:
        if dtype not in DTYPES:
            raise InputError(f"unknown precision {dtype!r}; known: {', '.join(DTYPES)}")
        self._device = checked_device(device)
        self._dtype = DTYPES[dtype]
        for name in ("inputs", "outputs", "blank"):
            if not hasattr(module, name):
                raise ModelError(f"{type(module).__name__} has no {name!r}: it is not a network function")
        self._function: Function = module  # type: ignore[assignment]
        self._module = module.eval().requires_grad_(False).to(self._device)
        if self._dtype != torch.float32:
            for p in module.parameters():
                if p.ndim >= 2:  # what is multiplied; norms and biases are few and stay exact
                    p.data = p.data.to(self._dtype)
        self._call = torch.compile(self._module) if compile else self._module
        # torch.compile guards its cache, but several threads would compile the same graph several times
        self._lock: contextlib.AbstractContextManager[object] = (
            threading.Lock() if compile else contextlib.nullcontext()
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the arrays that `run` takes."""
        return self._function.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the arrays that `run` can return."""
        return self._function.outputs

    @property
    def device(self) -> str:
        """As asked for."""
        return str(self._device)

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Outputs of one batch; only what they need is computed, and only they leave the device.

        Inputs may be what `hold` of an engine gave.

        Raises:
            InputError: inputs that the function does not take.
            ModelError: an output it does not have, or a failure on the device (out of memory, ...).
        """
        return {n: _to_numpy(v) for n, v in self.hold(inputs, outputs).items()}

    def hold(self, inputs: Mapping[str, Array | Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """As `run`, but the outputs stay on the device."""
        wanted = tuple(dict.fromkeys(outputs))
        unknown = [o for o in wanted if o not in self.outputs]
        if unknown:
            raise ModelError(
                f"the network has no output {', '.join(unknown)}; it has {', '.join(self.outputs)}"
            )
        if set(inputs) != set(self._function.inputs):
            raise InputError(f"the network takes {list(self._function.inputs)}, got {sorted(inputs)}")
        if not wanted:
            return {}
        return self.run_tensors(tuple(_to_tensor(inputs[n]) for n in self._function.inputs), wanted)

    def run_tensors(self, inputs: Sequence[Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """As `run`, for inputs in the function's order; the outputs stay on the device.

        Raises:
            ModelError: a failure on the device (wrong shapes, out of memory, ...).
        """
        try:
            with self._lock, torch.inference_mode(), self._precision():
                out = self._call(*(a.to(self._device) for a in inputs), outputs=tuple(outputs))
                return {n: out[n] for n in outputs}
        except RuntimeError as e:  # what torch raises for shapes, memory and kernels alike
            raise ModelError(f"the network failed on {self._device}: {str(e).splitlines()[0]}") from e

    def warm_up(self, outputs: Sequence[str] | None = None) -> None:
        """Run once on one blank input."""
        blank = {k: v.numpy() for k, v in self._function.blank().items()}
        self.run(blank, self.outputs if outputs is None else outputs)

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self._dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._dtype)


def checked_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise InputError(f"unknown device {name!r}; known: cpu, cuda, cuda:0, mps") from e
    if device.type == "cpu":
        return device
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) < count:
            return device
        raise MissingDependency(
            f"device {name!r} is not there: this torch ({torch.__version__}) sees {count} CUDA devices. "
            "Install a driver and a torch build for it (https://pytorch.org/get-started), or ask for 'cpu'"
        )
    if device.type == "mps":
        if torch.backends.mps.is_available():
            return device
        raise MissingDependency(f"device {name!r} is not there: it needs Apple silicon; ask for 'cpu'")
    raise InputError(f"unknown device {name!r}; known: cpu, cuda, cuda:0, mps")


def _to_tensor(value: Array | Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))


def _to_numpy(t: Tensor) -> Array:
    t = t.detach()
    if t.is_floating_point():
        t = t.float()
    return np.asarray(t.cpu().numpy())
