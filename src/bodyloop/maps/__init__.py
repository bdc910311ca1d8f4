"""Probability maps: what a keypoint's location is known to be, cell by cell.

Sparsemax makes them, OKS kernels and decoders read points out of them, moments and regions describe the rest.
Everything is numpy, vectorised over people and keypoints; maps to image px only through `Crop`.
"""

from __future__ import annotations

from bodyloop.maps.layers import MapLayer, ProbabilityMaps

__all__ = ["MapLayer", "ProbabilityMaps"]
