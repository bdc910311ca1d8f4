"""Logits to masks and back, by hand: areas and corners, order, enlarging only where something is, shrinking."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.masks import Masks
from bodyloop.segment.logits import as_masks, enlarged, from_mask, stretched, tidy

Floats = npt.NDArray[np.float32]


def field(*rows: str) -> Floats:
    """A map from a drawing: ``#`` is 3, ``.`` is -2, ``0`` is 0."""
    values = {"#": 3.0, ".": -2.0, "0": 0.0}
    return np.array([[values[c] for c in row] for row in rows], np.float32)


class TestTidy:
    def test_corners_connect(self) -> None:
        # the two holes touch at a corner: one area of 2 px, which a limit of 1 leaves alone
        touching = field("#####", "#.###", "##.##", "#####")
        assert np.array_equal(tidy(touching, 1, 0), touching)
        assert (tidy(touching, 2, 0) > 0).all()
        islands = field(".....", ".#...", "..#..", ".....")
        assert np.array_equal(tidy(islands, 0, 1), islands)
        assert (tidy(islands, 0, 2) < 0).all()

    def test_values(self) -> None:
        hole, speck = tidy(field("###", "#.#", "###"), 1, 0), tidy(field("...", ".#.", "..."), 0, 1)
        assert hole.tolist() == [[3, 3, 3], [3, 10, 3], [3, 3, 3]]
        assert speck.tolist() == [[-2, -2, -2], [-2, -10, -2], [-2, -2, -2]]

    def test_nought_is_outside(self) -> None:
        assert tidy(field("###", "#0#", "###"), 1, 0)[1, 1] == 10

    @pytest.mark.parametrize(("limit", "stays"), [(2, True), (3, False), (4, False)])
    def test_up_to_the_limit(self, limit: int, stays: bool) -> None:
        found = tidy(field("......", ".###..", "......"), 0, limit)
        assert bool((found > 0).any()) is stays

    def test_both_are_looked_for_in_the_map_as_it_came(self) -> None:
        # an island of 8 px around a hole of 1: it goes, the hole is filled nevertheless. One after the other would
        # give an island of 9 px that stays, or a background without a hole.
        ring = field(".....", ".###.", ".#.#.", ".###.", ".....")
        found = tidy(ring, 1, 8)
        assert (found > 0).tolist() == (field(".....", ".....", "..#..", ".....", ".....") > 0).tolist()

    def test_off(self) -> None:
        ring = field("###", "#.#", "###")
        assert tidy(ring, 0, 0) is ring


class TestEnlarged:
    def test_by_hand(self) -> None:
        # centres of four pixels lie at -0.25, 0.25, 0.75 and 1.25 cells; outside the outermost cell holds
        assert enlarged(np.array([[0, 4]], np.float32), (4, 1)).tolist() == [[0, 1, 3, 4]]
        assert enlarged(np.array([[0], [4]], np.float32), (1, 4)).ravel().tolist() == [0, 1, 3, 4]
        # a picture smaller than the map: centres at 0.5 and 2.5 cells
        assert enlarged(np.array([[0, 4, 8, 0]], np.float32), (2, 1)).tolist() == [[2, 4]]

    def test_as_torch_does(self) -> None:
        torch = pytest.importorskip("torch")
        values = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
        for w, h in ((160, 120), (7, 33), (16, 16), (5, 5)):
            told = torch.nn.functional.interpolate(
                torch.from_numpy(values)[None, None], size=(h, w), mode="bilinear", align_corners=False
            )
            assert np.abs(enlarged(values, (w, h)) - told[0, 0].numpy()).max() < 1e-5

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(0, 2**32 - 1),
        st.tuples(st.integers(1, 60), st.integers(1, 60)),
        st.tuples(st.integers(1, 9), st.integers(1, 9)),
        st.floats(-2, 1),
    )
    def test_masks_are_those_of_the_whole_map(
        self, seed: int, size: tuple[int, int], grid: tuple[int, int], shift: float
    ) -> None:
        maps = (np.random.default_rng(seed).standard_normal((2, *grid)) + shift).astype(np.float32)
        found = as_masks(maps, size)
        assert found.equals(Masks.from_bitmaps([enlarged(m, size) > 0 for m in maps], size))

    def test_holes_and_specks_go_before_enlarging(self) -> None:
        ring = field("....", ".###", ".#.#", ".###")[None]
        assert as_masks(ring, (16, 16), max_hole=1).areas[0] > as_masks(ring, (16, 16)).areas[0]
        assert not as_masks(ring, (8, 8), max_sprinkle=8).present[0]
        assert len(as_masks(np.zeros((0, 4, 4), np.float32), (8, 8))) == 0


def antialiased(length: int, target: int) -> npt.NDArray[np.float64]:
    """(target, length) weights of a triangle as wide as a new pixel, at least one old one, on each side."""
    scale = length / target
    support = max(scale, 1.0)
    centre = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(length) + 0.5 - centre[:, None]) / support
    weights = np.maximum(1 - distance, 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float64)


@pytest.mark.parametrize("size", [(1300, 1500), (1500, 600), (640, 480), (1024, 1024), (3, 5)])
def test_pictures_are_averaged_where_they_shrink(size: tuple[int, int]) -> None:
    w, h = size
    pixels = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    expected = np.einsum("yv,vuc->yuc", antialiased(h, 1024)[::64], pixels.astype(np.float64), optimize=True)
    expected = np.einsum("xu,yuc->yxc", antialiased(w, 1024)[::64], expected, optimize=True)
    found = stretched(pixels, (1024, 1024))
    assert found.dtype == np.float32 and found.shape == (1024, 1024, 3)
    assert np.abs(found[::64, ::64] - expected).max() < 1e-3


def test_a_mask_as_a_map() -> None:
    mask = Masks.from_bitmaps(np.array([[[1, 1, 0, 0], [1, 1, 0, 0]]], bool))
    assert from_mask(mask, (4, 2)).tolist() == [[10, 10, -10, -10]] * 2
    assert (from_mask(mask, (2, 2))[:, 0] > 0).all() and (from_mask(mask, (2, 2))[:, 1] < 0).all()
    assert as_masks(from_mask(mask, (16, 8))[None], (4, 2)).equals(mask)
