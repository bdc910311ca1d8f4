"""Probability maps: what is known of a keypoint's location, cell by cell.

Sparsemax makes them, OKS kernels and decoders read points out of them, moments, regions and zones describe
the rest. Everything is numpy, vectorised over people and keypoints; maps get to image px through `Crop`
only.
"""

from __future__ import annotations

from bodyloop.maps.conformal import (
    conformal_quantile,
    conformal_region,
    conformal_score,
    nested_scores,
)
from bodyloop.maps.decode import Decoded, Decoder, decode, decode_dark_udp, decode_expected_oks
from bodyloop.maps.double import Merged, in_box, merge_double, merge_points
from bodyloop.maps.flip import flip_average, flip_average_scores, unflip_maps
from bodyloop.maps.kernels import oks_convolve, oks_kernel, oks_targets, oks_variances
from bodyloop.maps.layers import MapLayer, ProbabilityMaps, Thresholds
from bodyloop.maps.moments import Moments, layer_moments, moments
from bodyloop.maps.regions import Region, region, region_cells
from bodyloop.maps.sparsemax import sparsemax, sparsemax_grad, sparsemax_newton
from bodyloop.maps.zones import probability_in, zone_cells

__all__ = [
    "Decoded",
    "Decoder",
    "MapLayer",
    "Merged",
    "Moments",
    "ProbabilityMaps",
    "Region",
    "Thresholds",
    "conformal_quantile",
    "conformal_region",
    "conformal_score",
    "decode",
    "decode_dark_udp",
    "decode_expected_oks",
    "flip_average",
    "flip_average_scores",
    "in_box",
    "layer_moments",
    "merge_double",
    "merge_points",
    "moments",
    "nested_scores",
    "oks_convolve",
    "oks_kernel",
    "oks_targets",
    "oks_variances",
    "probability_in",
    "region",
    "region_cells",
    "sparsemax",
    "sparsemax_grad",
    "sparsemax_newton",
    "unflip_maps",
    "zone_cells",
]
