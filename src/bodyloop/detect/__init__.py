"""The detector role: photos in, people with boxes and scores out."""

from __future__ import annotations

from bodyloop.detect.rtmdet import DetectorParity, RTMDetDetector

__all__ = ["DetectorParity", "RTMDetDetector"]
