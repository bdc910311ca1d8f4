"""Judging models: AP by OKS and IoU, PCK, presence, and the intervals that belong to every number.

Files in, typed reports out: `evaluate_keypoints`, `evaluate_boxes`, `evaluate_presence`. Models in, reports
out: `evaluate_pose_model`, `evaluate_detector`.
"""

from __future__ import annotations

from bodyloop.eval.boxes import BoxReport, evaluate_boxes
from bodyloop.eval.detector import DetectorReport, evaluate_detector
from bodyloop.eval.keypoints import KeypointReport, evaluate_keypoints
from bodyloop.eval.pose import PoseReport, evaluate_pose_model
from bodyloop.eval.presence import BinaryReport, evaluate_presence

__all__ = [
    "BinaryReport",
    "BoxReport",
    "DetectorReport",
    "KeypointReport",
    "PoseReport",
    "evaluate_boxes",
    "evaluate_detector",
    "evaluate_keypoints",
    "evaluate_pose_model",
    "evaluate_presence",
]
