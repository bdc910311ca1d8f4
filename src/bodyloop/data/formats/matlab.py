"""MATLAB's files (version 5 to 7.2), by scipy: what LSP and MPII are published as."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

from bodyloop.errors import FileError, MissingDependency


def load(path: Path) -> dict[str, Any]:
    """The variables of a ``.mat`` file; structures as objects with attributes, single elements unpacked.

    Raises:
        FileError: it cannot be read. MissingDependency: scipy is not installed.
    """
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as e:
        raise MissingDependency(f"{path}: .mat files are read by scipy: pip install scipy") from e
    broken = (
        MatReadError, OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, EOFError,
        OverflowError, MemoryError, UnicodeDecodeError, zlib.error, struct.error,
    )  # fmt: skip
    try:
        content: dict[str, Any] = loadmat(str(path), squeeze_me=True, struct_as_record=False)
    except broken as e:
        raise FileError(f"{path}: not a MATLAB file of version 5 to 7.2: {e}; fetch it again") from e
    return {k: v for k, v in content.items() if not k.startswith("__")}
