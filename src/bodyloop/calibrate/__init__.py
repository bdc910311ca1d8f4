"""Calibration: numbers of a model that mean what they say, and regions that hold what they promise.

`calibrate` fits temperatures, a presence threshold and conformal regions on annotated photos, writes a new model
file with them, and reports on other photos. The parts are plain functions on arrays: `fit_temperature`,
`control_threshold`, `fit_thresholds`; the regions themselves are `bodyloop.maps.conformal`.
"""

from __future__ import annotations

from bodyloop.calibrate.regions import JudgedRegions, Scores, fit_thresholds, over_splits
from bodyloop.calibrate.report import CalibrationReport
from bodyloop.calibrate.risk import Controlled, control_threshold, false_alarms, refuted
from bodyloop.calibrate.run import Wanted, calibrate
from bodyloop.calibrate.splits import refuse_overlap, refuse_same, split
from bodyloop.calibrate.temperatures import (
    Fitted,
    Tried,
    coverage_shares,
    fit_temperature,
    log_losses,
    of_photos,
    steps_needed,
    tried_temperatures,
)

__all__ = [
    "CalibrationReport",
    "Controlled",
    "Fitted",
    "JudgedRegions",
    "Scores",
    "Tried",
    "Wanted",
    "calibrate",
    "control_threshold",
    "coverage_shares",
    "false_alarms",
    "fit_temperature",
    "fit_thresholds",
    "log_losses",
    "of_photos",
    "over_splits",
    "refuse_overlap",
    "refuse_same",
    "refuted",
    "split",
    "steps_needed",
    "tried_temperatures",
]
