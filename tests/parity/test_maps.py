"""Sparsemax, kernels, decoders and the double map against the reference.

Entries are left out only by the rules of the fixtures' README: near ties (margin) where which cell wins is a
matter of rounding, and the all-zero map, for which the reference answers (-1, -1) and bodyloop NaN.
"""

from __future__ import annotations

import numpy as np
import pytest

from bodyloop import COCO
from bodyloop.geometry import Crop
from bodyloop.maps import (
    decode,
    decode_dark_udp,
    decode_expected_oks,
    in_box,
    merge_points,
    oks_convolve,
    oks_kernel,
    oks_targets,
    oks_variances,
    sparsemax,
    sparsemax_grad,
    sparsemax_newton,
)
from bodyloop.maps.kernels import kernel_radius
from tests.parity.manifest import compare, given
from tests.parity.reference_px import INPUT, to_input_px

VARIANCES = oks_variances(COCO.sigma_array)
OUTER = 1.25
PX = 1e-4 * 192 / 47  # the README's 1e-4 map px, in the reference's input px


@pytest.mark.parametrize(("z", "p", "g", "dz"), [("z", "p", "g", "dz"), ("z3", "p3", "g3", "dz3")])
def test_sparsemax_and_its_gradient(z: str, p: str, g: str, dz: str) -> None:
    file = "sparsemax.npz"
    result = sparsemax(given(file, z), axes=1)
    compare(file, p, result, 1e-6)
    compare(file, dz, sparsemax_grad(result, given(file, g), axes=1), 1e-6)


def test_sparsemax_of_whole_maps() -> None:
    z = given("sparsemax.npz", "z_big")
    compare("sparsemax.npz", "p_big", sparsemax(z.reshape(3, 64, 48)).reshape(3, 3072), 1e-6)
    compare("sparsemax.npz", "p_big", sparsemax_newton(z, axes=1), 1e-6)


def test_kernels() -> None:
    file = "oks_kernels.npz"
    compare(file, "s", VARIANCES, 1e-12)
    compare(file, "area", np.sqrt(64 / 1.25 * 48 / 1.25), 1e-12)
    compare(file, "radius", [kernel_radius(s) for s in VARIANCES], 0)
    for k in (0, 1, 3, 5, 7, 9, 11, 13, 15):
        compare(file, f"k{k:02d}", oks_kernel(VARIANCES[k]), 1e-12)
    np.testing.assert_array_equal(VARIANCES, VARIANCES[COCO.flip])  # pairs share one


@pytest.mark.parametrize("exact", [True, False])
def test_expected_oks_maps(exact: bool) -> None:
    c = oks_convolve(given("decode.npz", "maps"), VARIANCES, exact=exact)
    compare("decode.npz", "eoks_conv_max", c.max(axis=(-2, -1)), 1e-6)
    compare("decode.npz", "eoks_conv_sub", c[..., ::4, ::4], 1e-6)


def test_expected_oks_points() -> None:
    d = decode_expected_oks(given("decode.npz", "maps"), VARIANCES)
    # no entry is left out: exact ties go to the first cell in row-major order in both
    compare("decode.npz", "eoks_xy", d.points, 1e-4)
    compare("decode.npz", "eoks_kpts", to_input_px(d.points), PX)
    compare("decode.npz", "eoks_val", d.scores, 0)
    compare("decode.npz", "eoks_score", d.scores, 0)


def test_dark_points() -> None:
    d = decode(given("decode.npz", "maps"), "dark_udp", parity=True)
    zero = given("decode.npz", "desc").reshape(3, 17) == "all zero"
    assert zero.sum() == 1
    assert np.isnan(d.points[zero]).all()
    step, margin = given("decode.npz", "dark_step"), given("decode.npz", "dark_margin")
    loose = ((step > 1) | (margin < 1e-2)) & ~zero
    strict = ~loose & ~zero
    assert strict.sum() > 30
    compare("decode.npz", "dark_xy", d.points, 1e-4, mask=strict[..., None])
    compare("decode.npz", "dark_xy", d.points, 0.02, mask=loose[..., None])
    compare("decode.npz", "dark_kpts", to_input_px(d.points), PX, mask=strict[..., None])
    compare("decode.npz", "dark_kpts", to_input_px(d.points), 200 * PX, mask=loose[..., None])
    compare("decode.npz", "dark_val", d.scores, 0)


def test_the_default_dark_step_differs_only_where_the_reference_leaps() -> None:
    maps = given("decode.npz", "maps")
    free, bounded = decode_dark_udp(maps, parity=True).points, decode_dark_udp(maps).points
    leaps = given("decode.npz", "dark_step") > 1
    differs = np.nan_to_num(np.abs(free - bounded)).max(axis=-1) > 0
    zero = given("decode.npz", "desc").reshape(3, 17) == "all zero"
    np.testing.assert_array_equal(differs, leaps & ~zero)


def test_the_double_codec_reads_the_same_maps() -> None:
    d = decode_expected_oks(given("decode.npz", "maps"), VARIANCES)
    compare("decode.npz", "double_in_kpts", to_input_px(d.points), PX)
    compare("decode.npz", "double_out_kpts", to_input_px(d.points, OUTER), OUTER * PX)


def window(area: float, n: int) -> Crop:
    """The codec's window in its own frame, where a window of ``area`` spans area * size - 1."""
    span = INPUT * area - 1
    center = INPUT / 2 - INPUT * area / 2 + span / 2
    return Crop(np.tile(center, (n, 1)), np.tile(span, (n, 1)), np.zeros(n))


def test_double_map_windows_and_targets() -> None:
    file = "double_map.npz"
    points, at = given(file, "points"), {}
    for name, area in (("in", 1.0), ("out", OUTER)):
        crop = window(area, len(points))
        at[name] = crop.to_map(points)
        compare(file, f"{name}_scale", crop.scale[0] / (np.array(crop.map_size) - 1), 1e-6)
        compare(file, f"{name}_tl", (crop.center - crop.scale / 2)[0], 1e-9)
        compare(file, f"points_{name}", at[name], 1e-5)  # the reference's scale factors are float32
    near, far = (oks_targets(given(file, f"points_{name}")[0], VARIANCES) for name in ("in", "out"))
    compare(file, "enc_maps_in_max", near.max(axis=(1, 2)), 1e-6)
    compare(file, "enc_maps_out_max", far.max(axis=(1, 2)), 1e-6)
    compare(file, "enc_maps_out", far, 5e-4)  # stored as float16
    compare(file, "enc_weights", near.max(axis=(1, 2))[None] > 0, 0)
    compare(file, "enc_out_weights", far.max(axis=(1, 2))[None] > 0, 0)
    inside = (at["out"][:1] >= 0) & (at["out"][:1] < [48, 64])
    compare(file, "enc_in_image", inside.all(axis=-1), 0)


def test_double_map_merge() -> None:
    file = "double_map.npz"
    near = decode_expected_oks(given(file, "maps_in"), VARIANCES)
    far = decode_expected_oks(given(file, "maps_out"), VARIANCES)
    near_px, far_px = to_input_px(near.points), to_input_px(far.points, OUTER)
    compare(file, "kpts_in", near_px, 0.01)
    compare(file, "kpts_out", far_px, 0.01)
    compare(file, "scores_in", near.scores, 5e-4)
    compare(file, "scores_out", far.scores, 5e-4)
    crop, rects = window(1.0, 3), given(file, "mask_rects")
    take = in_box(far_px, crop, rects, (192, 256))
    compare(file, "out_inside", take, 0)
    compare(file, "in_inside", in_box(near_px, crop, rects, (192, 256)), 0)
    points, scores = merge_points(near_px, near.scores, far_px, far.scores, take)
    compare(file, "merged", points, 0.01)
    compare(file, "merged_scores", scores, 5e-4)
