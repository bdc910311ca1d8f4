"""The detector role: photos in, people with boxes, scores and perhaps masks out.

`rtmdet` runs RTMDet and RTMDet-Ins (ours and the published ones), `yolo` the ONNX files of YOLO's families, `hf` the
object detectors of `transformers`; any function becomes a detector by `bodyloop.roles.as_detector`.
"""

from __future__ import annotations

from pathlib import Path

from bodyloop.detect.rtmdet import DetectorParity, RTMDetDetector

__all__ = ["YOLO_FAMILIES", "DetectorParity", "RTMDetDetector", "is_folder_of_transformers"]

YOLO_FAMILIES = ("yolox", "yolov5", "yolov8", "yolo-end-to-end")  # architectures of cards for `yolo`


def is_folder_of_transformers(path: str | Path) -> bool:
    """Whether a folder holds a model that was saved by `transformers`."""
    try:
        return (Path(path) / "config.json").is_file()
    except (OSError, ValueError):  # too long for a path, or a NUL in it
        return False
