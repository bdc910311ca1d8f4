"""The steps of a calibration, each a run of the model over photos and one fit.

`Work` knows how the model is run and makes versions of it: between the steps the model is a file of its own kind, so
that what is measured is what will be written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bodyloop.api import load_pose
from bodyloop.calibrate import report as told
from bodyloop.calibrate.listen import Heard, Listener, NewtonSteps, Regions, Sharpness
from bodyloop.calibrate.regions import JudgedRegions, fit_thresholds
from bodyloop.calibrate.risk import Controlled, control_threshold
from bodyloop.calibrate.temperatures import (
    Fitted,
    Tried,
    fit_temperature,
    log_losses,
    of_photos,
    tried_temperatures,
)
from bodyloop.data.cropcoco import build
from bodyloop.eval.boxed import Boxed, predict_boxed
from bodyloop.eval.photos import PhotoSet, Progress
from bodyloop.eval.pose import window_flags
from bodyloop.models.cards import Card, Decode
from bodyloop.models.rewrite import rewrite
from bodyloop.pose.estimator import PoseModel

Floats = npt.NDArray[np.float64]
Stage = Callable[[str], AbstractContextManager[Progress]]

SIDES = ("presence", "visibility", "quality")
USUAL_THRESHOLD = 0.5  # of presence, where a card has none
CROPS = 3  # ways to crop each photo: more of them show somebody cut off, and each says more


@dataclass(frozen=True)
class Work:
    """The file, where its versions lie, and how it is run.

    Attributes:
        source: the file; folder: of the versions.
        flip, masks, batch_size, device, threads: of every run.
        seed: of the crops; stage: gives the progress of a step by its name.
    """

    source: Path
    folder: Path
    flip: bool
    masks: bool
    batch_size: int
    device: str
    threads: int | None
    seed: int
    stage: Stage

    def version(self, card: Card, steps: int | None = None) -> PoseModel:
        """The model with another card, and at least so many Newton steps."""
        path = self.folder / f"version{self.source.suffix.lower()}"
        rewrite(self.source, path, card, steps=steps, overwrite=True)
        return self.load(path)

    def load(self, path: Path, card: Card | None = None) -> PoseModel:
        """The model of a file."""
        model = load_pose(path, card=card, device=self.device, threads=self.threads, detector=None)
        return model.with_options(batch_size=self.batch_size)

    def run(
        self,
        what: str,
        model: PoseModel,
        photos: PhotoSet,
        *ears: Callable[[Heard], None],
        maps: bool = False,
        logits: bool = False,
    ) -> Boxed:
        """The model on the annotated boxes of photos, listened to.

        Args:
            maps: judge them; logits: let the ears hear them, too.
        """
        name = "logits" if model.card.head != "double" else "logits_outer"
        listened = Listener(model, photos, ears, logits=name if logits else None) if ears else model
        with self.stage(what) as tell:
            return predict_boxed(listened, photos, flip=self.flip, masks=self.masks, maps=maps, progress=tell)

    def cut(self, photos: PhotoSet) -> list[PhotoSet]:
        """Sets in which people leave the picture: the photos as they are, if labels say so, else cropped in some ways,
        as far as they can be."""
        if any(3 in a["keypoints"][2::3] for _, a in photos.persons()):
            return [photos]
        cropped = [photos.cropped(build(photos.document, self.seed + i)) for i in range(CROPS)]
        return [c for c in cropped if c.persons()]

    def presence(
        self, what: str, model: PoseModel, cut: Sequence[PhotoSet], *ears: Callable[[Heard], None]
    ) -> told.Columns | None:
        """Presence in sets of `cut`, the first one listened to; None for a model without, or no sets."""
        if not cut or "presence" not in model.card.outputs:
            return None
        parts = []
        for i, c in enumerate(cut):
            found = self.run(what, model, c, *(ears if i == 0 else ()))
            parts.append(told.columns_of(found, window_flags(c, found), "presence"))
        return told.Columns.joined(parts)


def map_temperature(work: Work, model: PoseModel, photos: PhotoSet) -> Fitted:
    """The temperature at which the regions of the maps hold the truth as often as they say."""
    now = decoding(model.card).temperature
    sharpness = Sharpness(tried_temperatures(now))
    work.run("temperature of the maps", model, photos, sharpness, logits=True)
    return fit_temperature(sharpness.tried, now, work.seed)


def side_temperatures(
    work: Work, card: Card, photos: PhotoSet, steps: NewtonSteps, keep: Sequence[str] = ()
) -> dict[str, Fitted]:
    """Temperatures of least log loss, of the side outputs that the labels speak of, but for those to ``keep``.

    With the flip test an output is a mean of two; its temperature is fitted as if the mean were one output.
    """
    model, fitted = work.version(card), {}
    whole = work.run("temperatures of side outputs", model, photos, steps, logits=True)
    flags = window_flags(photos, whole)
    known = {task: told.columns_of(whole, flags, task) for task in ("visibility", "quality")}
    presence = work.presence("temperature of presence", model, work.cut(photos))
    if presence is not None:
        known["presence"] = presence
    for task, columns in known.items():
        if task not in keep and len(columns.y) and np.ptp(columns.y) > 0:  # else one kind only is labelled
            now = getattr(decoding(card), f"{task}_temperature")
            losses = log_losses(columns.p, columns.y, tried_temperatures(now) / now)
            fitted[task] = fit_temperature(Tried(*of_photos(losses, columns.image)), now, work.seed)
    return fitted


def region_thresholds(
    work: Work, card: Card, photos: PhotoSet, alphas: Sequence[float], steps: NewtonSteps
) -> tuple[Floats, npt.NDArray[np.int64], PoseModel]:
    """Thresholds (A, K), the photographs (K,) they come from, and the model they are for."""
    while True:
        enough = steps.enough
        model, regions = work.version(card, enough), Regions()
        work.run("conformal regions", model, photos, regions, steps, logits=True)
        if steps.enough == enough:  # no map of these photos needs more steps than the file has
            values, photographs = fit_thresholds(regions.scores, card.num_keypoints, alphas)
            return values, photographs, model


def presence_threshold(
    work: Work, model: PoseModel, photos: PhotoSet, rate: float, confidence: float
) -> Controlled | None:
    """The lowest threshold shown to keep the rate; None for a model or photos that say nothing of it."""
    presence = work.presence("presence threshold", model, work.cut(photos))
    if presence is None:
        return None
    out = presence.y == 0
    return control_threshold(presence.p[out], presence.image[out], rate, confidence)


@dataclass(frozen=True, eq=False)
class Judged:
    """Before and after on other photos; see `CalibrationReport`."""

    changes: tuple[told.Change, ...]
    decisions: tuple[told.Decision, ...]
    regions: tuple[JudgedRegions, ...]
    cropped: tuple[JudgedRegions, ...]


def judge(
    work: Work,
    before: PoseModel,
    after: PoseModel,
    photos: PhotoSet,
    thresholds: Floats,
    alphas: Sequence[float],
    resamples: int,
) -> Judged:
    """Run both models on photos that nothing was fitted on."""
    figures: list[dict[str, told.Figure]] = []
    decisions, cut = [], work.cut(photos)
    on_whole, on_cropped = Regions(thresholds), Regions(thresholds)
    for model, name in ((before, "before"), (after, "after")):
        ears = [on_whole, on_cropped] if model is after else []
        whole = work.run(f"report, {name}", model, photos, *ears[:1], maps=True)
        flags = window_flags(photos, whole)
        known = told.map_figures(whole, resamples, work.seed)
        sides = {task: told.columns_of(whole, flags, task) for task in ("visibility", "quality")}
        presence = work.presence(f"report, {name}, cropped photos", model, cut, *ears[1:])
        if presence is not None:
            at = decoding(model.card).presence_threshold
            threshold = USUAL_THRESHOLD if at is None else at
            decisions.append(told.decision(presence, threshold, resamples, work.seed))
            sides["presence"] = presence
        for task, columns in sides.items():
            known |= told.side_figures(columns, task, resamples, work.seed)
        figures.append(known)
    names = after.skeleton.keypoints
    apart = bool(cut) and cut[0] is not photos
    return Judged(
        changes=tuple(told.compare(*figures)),
        decisions=tuple(d for d in decisions if d is not None),
        regions=on_whole.judged(alphas, names),
        cropped=on_cropped.judged(alphas, names) if apart else (),
    )


def decoding(card: Card) -> Decode:
    """Of a pose model's card, which always has it."""
    assert card.decode is not None
    return card.decode
