"""COCO files whose records a task reads itself: opened once, read by `reading`, further fields taken from them.

`GroundTruth` and `Predictions` hold what every task needs. Segmentations, crowd indices, the keypoints of
hands and faces and the names of a category stand in the parsed file only; a task that wants them opens it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from bodyloop.errors import InputError
from bodyloop.eval.reading import (
    GroundTruth,
    Predictions,
    Record,
    ResultSource,
    Source,
    load_json,
    read_ground_truth,
    read_predictions,
    records_of,
)


@dataclass(frozen=True, eq=False)
class Document:
    """A parsed COCO file.

    Attributes:
        content: what stands in it.
        origin: its path, or what a dict or list is called in messages.
        digest: sha256 of the file, None for a dict or list.
    """

    content: Any
    origin: str
    digest: str | None

    def records(self, key: str) -> Sequence[Record]:
        """The list of objects under a key of a ground truth; an InputError where there is none."""
        return records_of(self._dictionary, key, self.origin)

    @property
    def _dictionary(self) -> Record:
        if not isinstance(self.content, Mapping):
            raise InputError(f"{self.origin}: expected a COCO dictionary, got {type(self.content).__name__}")
        return self.content

    def ground_truth(self, *, keypoints: int | None = None, need_area: bool = True) -> GroundTruth:
        """As `read_ground_truth`."""
        truth = read_ground_truth(
            self._dictionary, keypoints=keypoints, need_area=need_area, origin=self.origin
        )
        return replace(truth, digest=self.digest)

    def predictions(self, truth: GroundTruth, **how: Any) -> Predictions:
        """As `read_predictions`."""
        if isinstance(self.content, str):  # which would be taken for a path
            raise InputError(f"{self.origin}: expected a list of predictions, got a text")
        found = read_predictions(self.content, truth, origin=self.origin, **how)
        return replace(found, digest=self.digest)


def opened(source: Source | ResultSource | Document, name: str) -> Document:
    """A file parsed; a dict or list as it is, called ``name``.

    Raises:
        FileError: the file cannot be read.
    """
    if isinstance(source, Document):
        return source
    if isinstance(source, str | os.PathLike):
        content, digest = load_json(source)
        return Document(content, os.fspath(source), digest)
    return Document(cast(Any, source), name, None)
