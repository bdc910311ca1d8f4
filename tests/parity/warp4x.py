"""The bit-exact OpenCV-4 warp that made the stored crops, taken from the fixture folder."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from tests.parity.manifest import FIXTURES


def load_script(name: str) -> ModuleType:
    """A script of the fixture folder as a module."""
    spec = importlib.util.spec_from_file_location(f"parity_fixture_{name}", FIXTURES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


warp = load_script("warp4x").warp  # warp(img uint8, matrix (2, 3), (w, h)) -> uint8, border 0
