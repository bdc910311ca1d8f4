"""`calibrate`: fit on some photos, write a new file, report on others.

The order matters. Temperatures come from a third of the photos to fit on: first that of the maps, then, with the
maps as they will be, those of the side outputs (a network may look at its own maps for them). Thresholds come from
the other two thirds, with all temperatures as they will be: a threshold promises something only for scores that
were fixed before. The report runs the model before and after on photos that none of it has seen.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.calibrate import steps as step
from bodyloop.calibrate.listen import NewtonSteps
from bodyloop.calibrate.report import COMMAND, CalibrationReport, accuracy_rows
from bodyloop.calibrate.risk import Controlled
from bodyloop.calibrate.splits import TEMPERATURE_SHARE, labelled_ids, refuse_overlap, split
from bodyloop.calibrate.steps import Stage, Work, decoding
from bodyloop.calibrate.temperatures import RANGE, Fitted
from bodyloop.errors import ConfigError, FileError, ModelError
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.photos import PhotoSet, Progress
from bodyloop.models.cards import Calibration, Card, Decode, PresenceRisk, RegionLevel
from bodyloop.models.registry import ASSETS, resolve
from bodyloop.models.rewrite import check_target, newton_steps, rewrite

Floats = npt.NDArray[np.float64]

TEMPERATURES = ("maps", "presence", "visibility", "quality")
ALPHAS = (0.05, 0.1, 0.2)  # levels that every calibrated card has
METHOD = (
    "Temperature of the maps by the least difference of coverage and level, of presence, visibility and quality by log "
    "loss, on a third of the photographs, changed where their intervals and cross-validation say so. On the others: "
    "presence threshold by tests in a fixed order, each a bet over photographs; regions by hierarchical split "
    "conformal prediction over photographs, a threshold a keypoint."
)


@dataclass(frozen=True)
class Wanted:
    """What a calibration is asked for.

    Attributes:
        flip, masks: how the model will be used: with the flip test, with masks of the people.
        false_positive_rate, confidence: of the presence threshold.
        alpha: what conformal regions may miss; cards get 0.05, 0.1 and 0.2 besides.
        keep: temperatures to leave as they are, of `TEMPERATURES`.
        seed, resamples: of parts, crops and intervals.

    Raises:
        ConfigError: numbers out of their range.
    """

    flip: bool = True
    masks: bool = False
    false_positive_rate: float = 0.1
    confidence: float = 0.9
    alpha: float = 0.1
    keep: tuple[str, ...] = ()
    seed: int = 0
    resamples: int = boot.RESAMPLES

    def __post_init__(self) -> None:
        for name in ("false_positive_rate", "confidence", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        unknown = [n for n in self.keep if n not in TEMPERATURES]
        if unknown:
            raise ConfigError(
                f"there is no temperature of {unknown[0]!r}; there are {', '.join(TEMPERATURES)}"
            )

    @property
    def alphas(self) -> tuple[float, ...]:
        """Falling: from the smallest regions to the largest."""
        return tuple(sorted({*ALPHAS, self.alpha}, reverse=True))


def calibrate(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    fit: PhotoSet,
    report: PhotoSet,
    wanted: Wanted | None = None,
    *,
    card: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    batch_size: int = 16,
    device: str = "cpu",
    threads: int | None = None,
    command: str = COMMAND,
    stage: Stage | None = None,
) -> CalibrationReport:
    """Calibrate a pose model on annotated photos and write it as a new file.

    Args:
        model: a name, or an .onnx or .safetensors file; it stays as it is.
        out: the new file, of the same kind.
        fit, report: photos to fit on and to report on, without a photo in common.
        card: what a bare weight file is.
        overwrite: replace ``out``, if it is there.
        batch_size, device, threads: see `load_pose`.
        command: where the card says its numbers come from.
        stage: called with the name of each step, gives a context with its progress.

    Raises:
        FileError, ModelError: the model cannot be read or calibrated, or ``out`` cannot be written.
        InputError: photos in both sets, too few of them, or nobody in them.
    """
    asked = Wanted() if wanted is None else wanted
    found, source = resolve(str(model), None if card is None else str(card))
    target = Path(out)
    _check(found, source, target, overwrite)
    refuse_overlap(fit, report)
    some, others = split(fit, TEMPERATURE_SHARE, asked.seed)
    had = newton_steps(source)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(
            source,
            Path(folder),
            asked.flip,
            asked.masks,
            batch_size,
            device,
            threads,
            asked.seed,
            stage or _silent,
        )
        before = work.load(source, found)
        decode, fitted = decoding(found), {}
        if "maps" not in asked.keep:
            fitted["maps"] = step.map_temperature(work, before, some)
            decode = replace(decode, temperature=fitted["maps"].value)
        counted = NewtonSteps(decode.temperature, had)
        fitted |= step.side_temperatures(work, replace(found, decode=decode), some, counted, asked.keep)
        sides: dict[str, Any] = {f"{n}_temperature": t.value for n, t in fitted.items() if n != "maps"}
        decode = replace(decode, **sides)
        values, photographs, after = step.region_thresholds(
            work, replace(found, decode=decode), others, asked.alphas, counted
        )
        presence = step.presence_threshold(work, after, others, asked.false_positive_rate, asked.confidence)
        if presence is not None and presence.threshold is not None:
            decode = replace(decode, presence_threshold=presence.threshold)
        ready = _carded(found, decode, asked, _words(fit), values, photographs, presence)
        judged = step.judge(
            work, before, work.version(ready, counted.enough), report, values, asked.alphas, asked.resamples
        )
    made = CalibrationReport(
        out=target,
        card=ready,
        fit=_words(fit),
        report=_words(report),
        parameters=asdict(asked),
        resamples=asked.resamples,
        seed=asked.seed,
        temperatures=fitted,
        newton_steps=None if had is None or counted.enough is None else (had, counted.enough),
        changes=judged.changes,
        presence=presence,
        decisions=judged.decisions,
        regions=judged.regions,
        cropped=judged.cropped,
        notes=_notes(fitted, judged, presence, photographs, found),
    )
    final = replace(ready, accuracy=accuracy_rows(made, command))
    written = rewrite(source, target, final, steps=counted.enough, overwrite=overwrite)
    return replace(made, card=written)


def _check(card: Card, source: Path, target: Path, overwrite: bool) -> None:
    """Refuse early what cannot end well."""
    if card.kind != "pose" or card.head not in ("probability", "double"):
        what = f"a {card.kind}" if card.kind != "pose" else f"a model with {card.head} heat maps"
        raise ModelError(f"{card.name} is {what}; only probability maps can be calibrated")
    check_target(source, target, overwrite=overwrite)
    if target.parent.resolve() == ASSETS.resolve():
        raise FileError(f"{target}: the models of the package stay as they are; choose another folder")


def _carded(
    card: Card,
    decode: Decode,
    asked: Wanted,
    data: str,
    values: Floats,
    photographs: npt.NDArray[np.int64],
    presence: Controlled | None,
) -> Card:
    """The card with all that was fitted."""
    risk = None
    if presence is not None and presence.threshold is not None:
        risk = PresenceRisk(
            presence.rate, presence.confidence, presence.photographs, presence.keypoints, presence.observed
        )
    levels = [RegionLevel(a, tuple(v.tolist())) for a, v in zip(asked.alphas, values, strict=True)]
    calibration = Calibration(
        data=data,
        method=METHOD,
        family="smoothed-map-1",
        flip=asked.flip,
        masks=asked.masks,
        before=decoding(card.uncalibrated()),
        photographs=tuple(photographs.tolist()),
        regions=tuple(levels),
        presence=risk,
    )
    return replace(card, decode=decode, calibration=calibration)


def _notes(
    temperatures: Mapping[str, Fitted],
    judged: step.Judged,
    presence: Controlled | None,
    photographs: npt.NDArray[np.int64],
    card: Card,
) -> tuple[str, ...]:
    notes = []
    for name, t in temperatures.items():
        if not 1.01 / RANGE < t.best / t.before < RANGE / 1.01:
            notes.append(f"the best temperature of {name} lies at the end of what was tried")
    worse = [c.name for c in judged.changes if c.verdict == "worse"]
    if worse:
        notes.append(f"got worse: {', '.join(worse)}")
    if presence is None:
        notes.append("no presence threshold: the model has no presence, or no photo shows somebody cut off")
    elif presence.threshold is None:
        notes.append("the card keeps the presence threshold it had")
    names = card.skeleton.keypoints if card.skeleton is not None else ()
    unseen = [n for n, c in zip(names, photographs, strict=True) if not c]
    if unseen:
        notes.append(
            f"without labels here, and so with the regions of all keypoints together: {', '.join(unseen)}"
        )
    return tuple(notes)


def _words(photos: PhotoSet) -> str:
    persons = len(photos.persons())
    name, _, part = photos.origin.partition(",")
    return f"{Path(name).name}{',' + part if part else ''}: {len(labelled_ids(photos))} photographs, {persons} persons"


@contextmanager
def _silent(_: str) -> Iterator[Progress]:
    yield lambda done, total: None
