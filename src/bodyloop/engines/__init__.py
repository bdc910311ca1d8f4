"""A network as a function: arrays in by name, arrays out by name.

Everything above this line (crops, flips, decoding, people) is the same whichever engine runs the network; an
engine knows nothing of images or people. `bodyloop.engines.onnx.OnnxEngine` runs exported files,
`bodyloop.engines.torch.TorchEngine` runs modules; each is imported when it is asked for, because onnxruntime
and torch are heavy and torch is optional.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


@runtime_checkable
class Engine(Protocol):
    """What every engine offers; a class with these four members is one.

    Attributes:
        outputs: names that `run` can return.
        device: where the network runs, as the caller asked for it ("cpu", "cuda", ...).
    """

    @property
    def outputs(self) -> tuple[str, ...]: ...
    @property
    def device(self) -> str: ...

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Outputs of one batch, only those asked for, as arrays on the CPU; several threads may call."""
        ...

    def warm_up(self, outputs: Sequence[str] | None = None) -> None:
        """Do once what the first call would spend time on (session, kernels, compilation)."""
        ...


@runtime_checkable
class Holding(Protocol):
    """An engine that can leave outputs where it computed them."""

    def hold(self, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Any]:
        """As `Engine.run`, but the outputs are the engine's own: inputs for engines on the same device."""
        ...


def held(engine: Engine, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Any]:
    """Outputs that only go into another engine: they stay on the device if the engine can leave them there."""
    return engine.hold(inputs, outputs) if isinstance(engine, Holding) else engine.run(inputs, outputs)
