"""A model that is listened to: what calibration wants to know of maps, while an evaluation runs the model.

Maps and logits are large, so they are looked at photo by photo and let go. `Listener` stands in for the model in
`predict_boxed` and hands every photo's maps, with the true cells, to those who asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.calibrate.regions import JudgedRegions, Scores
from bodyloop.calibrate.temperatures import Tried, coverage_shares, steps_needed
from bodyloop.errors import ModelError
from bodyloop.eval.boxed import labels_of
from bodyloop.eval.calibration import LEVELS, true_cells
from bodyloop.eval.photos import PhotoSet
from bodyloop.maps import nested_scores
from bodyloop.people import People
from bodyloop.pose.estimator import PoseModel
from bodyloop.pose.inference import MIRRORED
from bodyloop.skeletons import Skeleton

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Heard:
    """One photo's n people, keypoints in the model's order.

    Attributes:
        maps: (n, K, h, w) of the widest layer; logits: (n, K, h, w) of the crop as it is, None if not asked for;
            mirrored: of the mirrored crop, put back, with the flip test.
        variances: (K,) of the OKS kernels.
        cells: (n, K, 2) int x y; counted: (n, K) whether the keypoint is labelled in its window; hidden: (n, K) whether
            it is labelled as hidden.
        image: id of the photo.
    """

    maps: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32] | None
    mirrored: npt.NDArray[np.float32] | None
    variances: Floats
    cells: Ints
    counted: npt.NDArray[np.bool_]
    hidden: npt.NDArray[np.bool_]
    image: int


class Listener:
    """A pose model whose maps are looked at; a `PosePredictor` for `predict_boxed` on the same photos.

    Args:
        model: the model; photos: what it will be run on, in full and once.
        ears: called with every photo.
        logits: name of the network's output to listen to as well.
    """

    def __init__(
        self,
        model: PoseModel,
        photos: PhotoSet,
        ears: Sequence[Callable[[Heard], None]],
        *,
        logits: str | None = None,
    ) -> None:
        self._model, self._ears, self._logits = model, ears, logits
        self.skeleton = model.skeleton
        self._at = model.skeleton.indices_in(Skeleton.define("file", photos.names))
        self._persons = [a for _, a in photos.persons()]
        self._keypoints = len(photos.names)
        self._done = 0

    def __repr__(self) -> str:
        return repr(self._model)

    def predict(
        self,
        images: list[Any],
        boxes: list[Any],
        masks: list[Any] | None = None,
        *,
        flip: bool | None = None,
        maps: bool | None = None,
    ) -> list[People]:
        """As the model's own."""
        extra = () if self._logits is None else (self._logits, *([MIRRORED + self._logits] if flip else []))
        found = self._model.predict(images, boxes, masks, flip=flip, maps=True, extra=extra)
        for people in found:
            heard = self._heard(people)
            for ear in self._ears:
                ear(heard)
        return [p.replace(extra={}) for p in found]

    def _heard(self, people: People) -> Heard:
        mine = self._persons[self._done : self._done + len(people)]
        self._done += len(people)
        if people.maps is None:
            raise ModelError(f"{self._model.card.name} gives no maps")
        labels = labels_of(mine, self._keypoints)[:, self._at]
        flags = np.where(self._at >= 0, labels[..., 2], 0)
        layer = people.maps.widest
        cells, counted = true_cells(layer.crop, labels[..., :2], flags)
        logits = people.extra.get(self._logits or "")
        mirrored = people.extra.get(f"{MIRRORED}{self._logits}")
        return Heard(
            maps=layer.values,
            logits=logits,
            mirrored=mirrored,
            variances=people.maps.variances,
            cells=cells,
            counted=counted,
            hidden=flags == 1,
            image=mine[0]["image_id"],
        )


class Sharpness:
    """How much of the true cells the regions of the maps hold at many temperatures (`coverage_shares`)."""

    def __init__(self, temperatures: Floats) -> None:
        self._temperatures = temperatures
        self._sums: list[Floats] = []
        self._counts: list[int] = []

    def __call__(self, heard: Heard) -> None:
        """Listen to a photo."""
        assert heard.logits is not None
        of = heard.counted
        if of.any():
            mirrored = None if heard.mirrored is None else heard.mirrored[of]
            shares = coverage_shares(heard.logits[of], heard.cells[of], self._temperatures, mirrored)
            self._sums.append(shares.sum(axis=0))
            self._counts.append(int(of.sum()))

    @property
    def tried(self) -> Tried:
        """Of all photos heard."""
        levels = np.array(LEVELS)
        sums = np.stack(self._sums) if self._sums else np.zeros((0, len(self._temperatures), len(levels)))
        return Tried(sums, np.array(self._counts, np.float64), levels)


class NewtonSteps:
    """How many Newton steps an exported file needs at a temperature.

    Args:
        temperature: of the maps; there: steps that the file has, None for weights that take what they need.
    """

    def __init__(self, temperature: float, there: int | None) -> None:
        self._temperature = temperature
        self.enough = there

    def __call__(self, heard: Heard) -> None:
        """Listen to a photo; from then on ``enough`` is one more than any map has needed, or more."""
        assert heard.logits is not None
        for logits in (heard.logits, heard.mirrored):
            if self.enough is not None and logits is not None:
                self.enough = steps_needed(logits, self._temperature, self.enough - 1) + 1


class Regions:
    """Scores of labelled keypoints, and the sizes of their regions under given thresholds.

    Args:
        thresholds: (A, K); none at all by default.
        keep: the scores of all cells of these keypoints, sorted, for regions at any threshold (12 kB a keypoint).
    """

    def __init__(self, thresholds: Floats | None = None, *, keep: bool = False) -> None:
        self._thresholds, self._keep = thresholds, keep
        self._cells: list[npt.NDArray[np.float32]] = []
        self._scores: list[Floats] = []
        self._keypoints: list[Ints] = []
        self._images: list[Ints] = []
        self._shares: list[Floats] = []

    def __call__(self, heard: Heard) -> None:
        """Listen to a photo."""
        nested = nested_scores(heard.maps, heard.variances)
        person, keypoint = np.nonzero(heard.counted)
        x, y = heard.cells[person, keypoint].T
        self._scores.append(nested[person, keypoint, y, x])
        self._keypoints.append(keypoint)
        self._images.append(np.full(len(person), heard.image, np.int64))
        if self._thresholds is not None:
            inside = nested[person, keypoint] <= self._thresholds[:, keypoint, None, None]
            self._shares.append(inside.mean(axis=(-2, -1)))
        if self._keep:
            rows = nested[person, keypoint].reshape(len(person), -1)
            self._cells.append(np.sort(rows, axis=1).astype(np.float32))

    @property
    def scores(self) -> Scores:
        """Of all keypoints heard."""
        return Scores(
            np.concatenate([np.zeros(0), *self._scores]),
            np.concatenate([np.zeros(0, np.int64), *self._keypoints]),
            np.concatenate([np.zeros(0, np.int64), *self._images]),
        )

    @property
    def cells(self) -> npt.NDArray[np.float32]:
        """(M, cells) of the keypoints kept, each row ascending."""
        return np.concatenate(self._cells)

    def judged(self, alphas: Sequence[float], names: tuple[str, ...]) -> tuple[JudgedRegions, ...]:
        """The regions at each alpha, in the thresholds' order."""
        assert self._thresholds is not None
        s = self.scores
        share = np.concatenate([np.zeros((len(alphas), 0)), *self._shares], axis=1)
        return tuple(
            JudgedRegions(
                alpha,
                names,
                s.score <= self._thresholds[a, s.keypoint],
                share[a],
                s.keypoint,
                s.image,
                np.arange(len(s.score)),
            )
            for a, alpha in enumerate(alphas)
        )
