"""What the stored numbers were computed from: pictures and weights, made by the fixtures' own generators."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.parity_loop.stored import FIXTURES, arrays, load_json


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"parity_loop_{name}", FIXTURES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(k: int, h: int, w: int) -> npt.NDArray[np.uint8]:
    """Synthetic picture number ``k`` (h, w, 3)."""
    made: npt.NDArray[np.uint8] = _module("pictures").picture(k, h, w)
    return made


def weights(name: str, statistics: str | None = None) -> dict[str, npt.NDArray[Any]]:
    """The weights of ``keys/NAME.json`` in the original layout.

    Args:
        statistics: a file of batch norms' running statistics that replace the drawn ones.
    """
    bn = None if statistics is None else arrays(statistics)
    made: dict[str, npt.NDArray[Any]] = _module("weights").make_weights(load_json(f"keys/{name}.json"), bn)
    return made
