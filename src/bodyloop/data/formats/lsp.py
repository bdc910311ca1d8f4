"""Leeds Sports Pose and its extension: ``joints.mat``, one person a photo, pixels counted from 1.

LSP's third number says hidden, the extension's says labelled (so its flag 2 does not mean visible). Boxes are drawn
around the joints. Photos are ``im0001.jpg`` and so on, with five digits in the extension.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.data.labels import Labels, array, document, person
from bodyloop.skeletons import LSP_14

NAME = "lsp"
ABOUT = "Leeds Sports Pose and LSP-extended (joints.mat)"


def fits(path: Path, content: object) -> bool:
    """Whether a file's content has this layout."""
    return isinstance(content, Mapping) and "joints" in content and path.suffix == ".mat"


def read(path: Path, content: Mapping[str, Any]) -> Labels:
    """Labels of ``joints.mat``.

    Raises:
        InputError: other shapes than (3, 14, N) and (14, 3, N), or numbers that are not finite.
    """
    joints = np.asarray(content["joints"])
    joints = joints[..., None] if joints.ndim == 2 else joints
    extended = joints.shape[:2] == (14, 3)
    shape = (14, 3, -1) if extended else (3, 14, -1)
    points = array(joints, shape, f"{path}: joints").transpose((2, 0, 1) if extended else (2, 1, 0)).copy()
    points[..., :2] -= 1
    points[..., 2] = np.where(points[..., 2] > 0, *((2, 0) if extended else (1, 2)))
    digits = 5 if extended else 4
    images = [{"id": i, "file_name": f"im{i:0{digits}d}.jpg"} for i in range(1, len(points) + 1)]
    rows = [person(i, i, k) for i, k in enumerate(points, 1)]
    document_ = document(images, rows, LSP_14)
    return Labels(path, NAME, document_, LSP_14, (path,), knows_hidden=not extended)
