"""Does a pose model mean what it says? Its maps, presence, visibility and quality against annotated photos.

The model is run on annotated boxes. Maps are judged by whether their regions hold the true points as often as they
say (`calibration`), probabilities and quality by their reliability. Whole photos, and cropped ones after them, where
keypoints lie outside their windows: only there presence has something to tell apart.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.data.cropcoco import build
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.boxed import Boxed, PosePredictor, predict_boxed
from bodyloop.eval.calibration import MapCalibration
from bodyloop.eval.photos import PhotoSet, Progress
from bodyloop.eval.pose import posed_sets, probabilities, qualities, window_flags
from bodyloop.eval.presence import BinaryReport
from bodyloop.eval.quality import QualityReport

Floats = npt.NDArray[np.float64]

SHOWN = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)  # levels in tables
LITTLE = 50  # keypoints with fewer maps say too little of themselves to be shown


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """A model's honesty on one annotation file.

    Attributes:
        photos: the file; found: what the model said, without the maps.
        cropped: the photos are cropped.
        maps: of all keypoints that are labelled in their window; error: its error with an interval over images.
        each: maps by keypoint name.
        presence, visibility: None where the model has none, or only one kind is labelled.
        quality: of keypoints; None without areas.
    """

    photos: PhotoSet
    found: Boxed
    cropped: bool
    maps: MapCalibration
    error: boot.Interval
    each: Mapping[str, MapCalibration]
    presence: BinaryReport | None
    visibility: BinaryReport | None
    quality: QualityReport | None

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        parts = {"presence": self.presence, "visibility": self.visibility, "quality": self.quality}
        return {
            "data": self.photos.origin,
            "persons": len(self.found.annotations),
            "images": self.found.images,
            "cropped": self.cropped,
            "maps": self.maps.to_json(),
            "map_error": self.error.to_json(),
            "each": {name: m.to_json() for name, m in self.each.items()},
            **{n: None if p is None else p.to_json() for n, p in parts.items()},
        }

    def table(self) -> str:
        """As text."""
        persons, images = len(self.found.annotations), self.found.images
        lines = [
            f"{self.photos.origin}: {persons} persons in {images} images, annotated boxes",
            *self._of_maps(),
        ]
        for report in (self.presence, self.visibility):
            if report is not None:
                lines += [report.table(), report.reliability[10].table()]
        if self.quality is not None and self.quality.reliability is not None:
            lines += [self.quality.table(), self.quality.reliability.table()]
        return "\n".join(lines)

    def _of_maps(self) -> list[str]:
        m = self.maps
        lines = [
            f"maps: {len(m)} keypoints in their window, nearest cell of {m.map_cells}",
            f"  error, mean |coverage - level|  {boot.shown(m.error, self.error)}",
            f"  the same, last cells by shares  {boot.shown(m.even_error)}",
            f"  -log of the true cell's mass    {boot.shown(m.nll)}",
            f"  true cells without any mass     {boot.shown(m.beyond)}",
        ]
        if not len(m):
            return lines
        at = [int(np.argmin(np.abs(m.levels - q))) for q in SHOWN]
        columns = "".join(f"{q:>8.0%}" for q in m.levels[at])
        lines += [
            f"  region that holds {'':14}{columns}",
            f"  holds the true cell {'':12}" + "".join(f"{c:>8.1%}" for c in m.coverage[at]),
            f"  mean size, cells {'':15}" + "".join(f"{c:>8.1f}" for c in m.region_cells[at]),
        ]
        each = {name: k for name, k in self.each.items() if len(k) >= LITTLE}
        if each:
            lines.append(f"  {'keypoint':<18}{'maps':>6} {'error':>7}{columns}")
        for name, k in each.items():
            covered = "".join(f"{c:>8.1%}" for c in k.coverage[at])
            lines.append(f"  {name:<18}{len(k):>6} {k.error:>7.4f}{covered}")
        return lines


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """A model's honesty, file by file: whole photos, and cropped ones after them."""

    model: str
    parameters: Mapping[str, object]
    sets: tuple[CalibrationSet, ...]

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            "model": self.model,
            "parameters": dict(self.parameters),
            "sets": [s.to_json() for s in self.sets],
        }

    def table(self) -> str:
        """As text."""
        return "\n\n".join([self.model, *(s.table() for s in self.sets)])


def evaluate_calibration(
    model: PosePredictor,
    data: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    split: str = "dev",
    flip: bool = True,
    masks: bool = False,
    crops: bool = True,
    threshold: float = 0.5,
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
    limit: int | None = None,
    progress: Progress | None = None,
) -> CalibrationReport:
    """Judge the honesty of a pose model with probability maps on annotated photos.

    Args:
        data, images, split, limit: as of `evaluate_pose_model`.
        flip, masks: see `predict_boxed`.
        crops: judge cropped photos, too.
        threshold: of presence and visibility.
        seed: of the crops and of the bootstrap.
        progress: called with persons done and persons in all.

    Raises:
        FileError, InputError: files or photos that are missing or malformed; a model without probability maps.
    """
    done: list[CalibrationSet] = []
    for _, photos in posed_sets(data, images, split, limit):
        whole = _judged(model, photos, flip, masks, threshold, seed, resamples, progress)
        done.append(whole)
        if crops and not whole.cropped:
            cropped = photos.cropped(build(photos.document, seed))
            if cropped.document["images"]:
                done.append(_judged(model, cropped, flip, masks, threshold, seed, resamples, progress))
    return CalibrationReport(
        model=str(model),
        parameters={
            "flip": flip, "masks": masks, "threshold": threshold, "seed": seed, "resamples": resamples,
            "cell": "nearest", "levels": done[0].maps.levels.tolist(),
        },
        sets=tuple(done),
    )  # fmt: skip


def _judged(
    model: PosePredictor,
    photos: PhotoSet,
    flip: bool,
    masks: bool,
    threshold: float,
    seed: int,
    resamples: int,
    progress: Progress | None,
) -> CalibrationSet:
    found = predict_boxed(model, photos, flip=flip, masks=masks, maps=True, progress=progress)
    weights = boot.draw(found.images, np.random.default_rng(seed), resamples)
    flags = window_flags(photos, found)
    assert found.maps is not None
    maps, keypoint = found.maps.calibration, found.maps.keypoint
    samples = maps.error_samples(found.image[found.maps.person], weights)
    known = probabilities(found, flags, threshold, weights)
    return CalibrationSet(
        photos=photos,
        found=found,
        cropped=bool((flags == 3).any()),
        maps=maps,
        error=boot.interval(maps.error, samples),
        each={name: maps[keypoint == k] for k, name in enumerate(photos.names) if (keypoint == k).any()},
        presence=known.get("presence"),
        visibility=known.get("visibility"),
        quality=qualities(found, "keypoints", weights).get("keypoint_quality"),
    )
