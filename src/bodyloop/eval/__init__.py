"""Judging models: AP by OKS, Ex-OKS and IoU, PCK, presence, quality, calibration, and the intervals that belong
to every number.

Files in, typed reports out: `evaluate` by the name of a task (`TASKS`), or `evaluate_keypoints`,
`evaluate_extended`, `evaluate_crowdpose`, `evaluate_wholebody`, `evaluate_ochuman`, `evaluate_boxes`,
`evaluate_masks`, `evaluate_pck`, `evaluate_presence_files`, `evaluate_quality`; `COCOeval` has pycocotools' calls.
`compare` puts reports side by side with intervals, `write_report` makes a page of them.
Models in, reports out: `evaluate_pose_model`, `evaluate_calibration`, `evaluate_detector`, `evaluate_pipeline`
(and `recall_gain`: what later passes find). Arrays in: `evaluate_presence`, `map_calibration`.
"""

from __future__ import annotations

from bodyloop.eval.boxes import BoxReport, evaluate_boxes
from bodyloop.eval.calibrated import CalibrationReport, evaluate_calibration
from bodyloop.eval.calibration import MapCalibration, map_calibration
from bodyloop.eval.cocoeval import COCOeval
from bodyloop.eval.comparison import Comparison, compare
from bodyloop.eval.crowd_recall import RecallReport, recall_gain
from bodyloop.eval.crowdpose import CrowdPoseReport, evaluate_crowdpose
from bodyloop.eval.detector import DetectorReport, evaluate_detector
from bodyloop.eval.extended import ExtendedReport, evaluate_extended
from bodyloop.eval.instance_masks import MaskReport, evaluate_masks
from bodyloop.eval.keypoints import KeypointReport, evaluate_keypoints
from bodyloop.eval.ochuman import OCHumanReport, evaluate_ochuman
from bodyloop.eval.pck_files import PckReport, evaluate_pck
from bodyloop.eval.pipeline import PipelineReport, evaluate_pipeline
from bodyloop.eval.pose import evaluate_pose_model
from bodyloop.eval.pose_report import PoseReport, PoseSet
from bodyloop.eval.presence import BinaryReport, evaluate_presence
from bodyloop.eval.presence_files import PresenceReport, evaluate_presence_files
from bodyloop.eval.quality import QualityFilesReport, evaluate_quality
from bodyloop.eval.report import write_report
from bodyloop.eval.tasks import TASKS, evaluate
from bodyloop.eval.wholebody import WholeBodyReport, evaluate_wholebody

__all__ = [
    "TASKS",
    "BinaryReport",
    "BoxReport",
    "COCOeval",
    "CalibrationReport",
    "Comparison",
    "CrowdPoseReport",
    "DetectorReport",
    "ExtendedReport",
    "KeypointReport",
    "MapCalibration",
    "MaskReport",
    "OCHumanReport",
    "PckReport",
    "PipelineReport",
    "PoseReport",
    "PoseSet",
    "PresenceReport",
    "QualityFilesReport",
    "RecallReport",
    "WholeBodyReport",
    "compare",
    "evaluate",
    "evaluate_boxes",
    "evaluate_calibration",
    "evaluate_crowdpose",
    "evaluate_detector",
    "evaluate_extended",
    "evaluate_keypoints",
    "evaluate_masks",
    "evaluate_ochuman",
    "evaluate_pck",
    "evaluate_pipeline",
    "evaluate_pose_model",
    "evaluate_presence",
    "evaluate_presence_files",
    "evaluate_quality",
    "evaluate_wholebody",
    "map_calibration",
    "recall_gain",
    "write_report",
]
