"""The least that presence must beat: a guess from the joint's index and where the box touches the picture.

A box that ends at the picture's lower edge says by itself that the ankles may be missing. `BorderBaseline`
counts, on other photos, how often each joint lies inside the window for each of the 16 ways in which a box
can touch the four sides; a model whose presence is no better has learnt nothing from the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Record = Mapping[str, Any]

NEAR = 1.0  # px: boxes drawn by hand seldom end exactly at the picture's edge
PRIOR = 4.0  # so many imagined observations of a joint's overall share steady the rare cases


@dataclass(frozen=True, eq=False)
class BorderBaseline:
    """P(the joint lies in the window | joint, sides touched) as a table (K, 16)."""

    table: Floats

    @classmethod
    def fit(cls, document: Record) -> BorderBaseline:
        """Count in a cropped COCO document (flags 1 and 2: inside, 3: outside)."""
        annotations = labelled_persons(document)
        flags = flags_of(annotations)
        touched = touched_sides(document, annotations)
        k = flags.shape[1]
        inside, outside = np.zeros((k, 16)), np.zeros((k, 16))
        for side in range(16):
            mine = flags[touched == side]
            inside[:, side] = ((mine > 0) & (mine < 3)).sum(axis=0)
            outside[:, side] = (mine == 3).sum(axis=0)
        share = (inside.sum(axis=1) + 1) / (inside.sum(axis=1) + outside.sum(axis=1) + 2)
        table = (inside + PRIOR * share[:, None]) / (inside + outside + PRIOR)
        return cls(table)

    def predict(self, document: Record, annotations: Sequence[Record]) -> Floats:
        """(N, K) guesses for annotations of a cropped document."""
        return self.table[:, touched_sides(document, annotations)].T


def labelled_persons(document: Record) -> list[Record]:
    """Everybody with labelled keypoints who is no crowd, in file order."""
    return [
        a
        for a in document["annotations"]
        if not a.get("iscrowd") and any(v > 0 for v in a.get("keypoints", [])[2::3])
    ]


def flags_of(annotations: Sequence[Record]) -> Floats:
    """(N, K) flags."""
    if not annotations:
        return np.zeros((0, 0))
    return np.array([a["keypoints"][2::3] for a in annotations], np.float64)


def touched_sides(document: Record, annotations: Sequence[Record]) -> npt.NDArray[np.int64]:
    """(N,) bits: 1 left, 2 top, 4 right, 8 bottom side of the picture reached by the box."""
    sizes = {i["id"]: (i["width"], i["height"]) for i in document["images"]}
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    size = np.array([sizes[a["image_id"]] for a in annotations], np.float64).reshape(-1, 2)
    low, high = boxes[:, :2] <= NEAR, boxes[:, :2] + boxes[:, 2:] >= size - NEAR
    return np.asarray(np.concatenate([low, high], axis=1) @ np.array([1, 2, 4, 8]), np.int64)
