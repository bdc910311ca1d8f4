"""The detector role: photos in, people with boxes, scores and perhaps masks out.

`rtmdet` runs RTMDet and RTMDet-Ins (ours and the published ones), `yolo` the ONNX files of YOLO's families, `hf` the
object detectors of `transformers`; any function becomes a detector by `bodyloop.roles.as_detector`.
"""

from __future__ import annotations

from pathlib import Path

from bodyloop.detect.rtmdet import DetectorParity, RTMDetDetector

__all__ = ["YOLO_FAMILIES", "DetectorParity", "RTMDetDetector", "weights_of_transformers"]

YOLO_FAMILIES = ("yolox", "yolov5", "yolov8", "yolo-end-to-end")  # architectures of cards for `yolo`


def weights_of_transformers(folder: str | Path) -> Path | None:
    """The weights' file (the first of several) in a folder that `transformers` saved, None if it is no such folder."""
    path = Path(folder)
    try:
        if not (path / "config.json").is_file():
            return None
        return min((*path.glob("model*.safetensors"), *path.glob("pytorch_model*.bin")), default=None)
    except (OSError, ValueError):  # too long for a path, or a NUL in it
        return None
