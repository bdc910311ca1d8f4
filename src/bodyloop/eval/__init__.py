"""Judging models: AP by OKS and IoU, PCK, presence, and the intervals that belong to every number."""

from __future__ import annotations

from bodyloop.eval.boxes import BoxReport, evaluate_boxes
from bodyloop.eval.keypoints import KeypointReport, evaluate_keypoints

__all__ = ["BoxReport", "KeypointReport", "evaluate_boxes", "evaluate_keypoints"]
