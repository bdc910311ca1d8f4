"""`draw`: what must be visible, what must not, and that it never filters."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.drawing import Picture, Style, draw
from bodyloop.drawing.palette import PAPER, PAPER_INK
from bodyloop.errors import BodyloopError, ConfigError, InputError
from bodyloop.geometry import Crop
from bodyloop.maps import MapLayer, ProbabilityMaps
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.skeletons import COCO, Skeleton

from .helpers import PAIR, painted, people, photo

INSIDE = np.array([[30, 50], [90, 50], [60, 20]], np.float32)


def near(picture: Picture, x: float, y: float, radius: int = 6) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Pixels around a place of the photo."""
    ox, oy = picture.origin
    cx, cy = round(x) + ox, round(y) + oy
    return picture.pixels[max(cy - radius, 0) : cy + radius + 1, max(cx - radius, 0) : cx + radius + 1]


def ground(picture: Picture) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The grey photo on its sheet with the line around it, before anything is drawn."""
    out = np.full(picture.pixels.shape, PAPER, np.uint8)
    ox, oy = picture.origin
    out[max(oy - 1, 0) : oy + 101, max(ox - 1, 0) : ox + 121] = PAPER_INK
    out[oy : oy + 100, ox : ox + 120] = 128
    return out


def one_map(cell: tuple[int, int], size: tuple[int, int] = (120, 100)) -> People:
    """One person in a window of 48 x 64 cells, all of the single keypoint's mass in one cell."""
    crop = Crop.from_boxes([[36, 18, 84, 82]], padding=1.0)
    values = np.zeros((1, 1, 64, 48), np.float32)
    values[0, 0, cell[1], cell[0]] = 1
    maps = ProbabilityMaps.single(values, crop, [1.0])
    return People(size, keypoints=np.full((1, 1, 2), np.nan, np.float32), maps=maps)


class TestNothingIsFiltered:
    @given(
        st.floats(-1e4, 1e4),
        st.floats(-1e4, 1e4),
        st.sampled_from(["grow", "photo"]),
        st.floats(0, 1),
        st.floats(0, 1),
    )
    @settings(max_examples=60, deadline=None)
    def test_every_finite_keypoint_leaves_a_mark(
        self, x: float, y: float, canvas: Any, presence: float, visibility: float
    ) -> None:
        p = people([[x, y]], presence=[[presence]], visibility=[[visibility]])
        picture = draw(photo(), p, canvas=canvas)
        assert painted(picture.pixels, ground(picture)).any()

    def test_each_of_many_keypoints_is_marked_where_it_is(self) -> None:
        rng = np.random.default_rng(3)
        points = rng.uniform(-60, 180, (17, 2)).astype(np.float32)
        presence = rng.uniform(0, 1, (1, 17)).astype(np.float32)
        flat = draw(photo(), people(points, skeleton=COCO, presence=presence))
        marked = painted(flat.pixels, ground(flat))
        ox, oy = flat.origin
        for x, y in points + np.array([ox, oy]):
            cx, cy = round(float(x)), round(float(y))
            assert marked[max(cy - 5, 0) : cy + 6, max(cx - 5, 0) : cx + 6].any()

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_a_keypoint_without_coordinates_leaves_none(self, bad: float) -> None:
        points = np.array([[[bad, 50], [50, bad], [bad, bad]]], np.float32)
        picture = draw(photo(), people(points))
        assert picture.size == (120, 100)
        assert np.array_equal(picture.pixels, photo())

    def test_a_limb_needs_both_ends(self) -> None:
        one = INSIDE.copy()
        one[0] = np.nan
        picture = draw(photo(), people(one))
        assert not painted(near(picture, 40, 40, 2)).any()
        assert painted(near(draw(photo(), people(INSIDE)), 40, 40, 2)).any()

    def test_nobody_is_the_photo(self) -> None:
        assert np.array_equal(draw(photo(), People.empty((120, 100), COCO)).pixels, photo())
        assert np.array_equal(draw(photo(), People((120, 100))).pixels, photo())

    def test_low_scores_are_drawn_too(self) -> None:
        p = people(INSIDE, map_scores=np.zeros((1, 3), np.float32))
        assert all(painted(near(draw(photo(), p), *xy)).any() for xy in INSIDE)


class TestSheet:
    def test_points_inside_keep_the_photos_size(self) -> None:
        picture = draw(photo(), people(INSIDE))
        assert picture.size == (120, 100) and picture.origin == (0, 0)

    @pytest.mark.parametrize(
        ("x", "y", "sides"),
        [(-40, 50, (1, 0, 0, 0)), (60, -30, (0, 1, 0, 0)), (150, 50, (0, 0, 1, 0)), (160, 140, (0, 0, 1, 1))],
    )
    def test_it_grows_to_the_sides_where_points_lie(self, x: float, y: float, sides: tuple[int, ...]) -> None:
        picture = draw(photo(), people([[x, y]]))
        left, top = picture.origin
        right, bottom = picture.size[0] - 120 - left, picture.size[1] - 100 - top
        assert tuple(int(m > 0) for m in (left, top, right, bottom)) == sides
        assert 0 <= x + left < picture.size[0] and 0 <= y + top < picture.size[1]

    def test_the_photo_lies_at_the_origin_and_the_rest_is_paper(self) -> None:
        image = np.random.default_rng(0).integers(0, 255, (100, 120, 3)).astype(np.uint8)
        picture = draw(image, people([[-50, 50]]))
        ox, oy = picture.origin
        assert np.array_equal(picture.pixels[oy : oy + 100, ox + 30 : ox + 120], image[:, 30:])
        assert (picture.pixels[2, 2] == PAPER).all()

    def test_a_line_marks_where_the_photo_ends(self) -> None:
        value = np.array(PAPER, np.uint8)
        image = np.broadcast_to(value, (100, 120, 3)).copy()
        picture = draw(image, people([[-60, 50]]))
        column = picture.pixels[5, : picture.origin[0] + 2]
        assert painted(column[None], PAPER, 40).any()

    def test_growth_is_bounded_and_an_arrow_points_further(self) -> None:
        picture = draw(photo(), people([[1e6, 50], [60, 1e30]]))
        assert picture.size[0] <= 120 * 1.75 + 1 and picture.size[1] <= 100 + 120 * 0.75 + 1
        right = picture.pixels[40:60, -25:]
        assert painted(right, PAPER, 40).any()

    def test_canvas_photo_never_grows_and_still_marks(self) -> None:
        picture = draw(photo(), people([[-500, 50], [60, 900]]), canvas="photo")
        assert picture.size == (120, 100)
        assert painted(picture.pixels[40:60, :25]).any() and painted(picture.pixels[-25:, 50:70]).any()

    def test_boxes_windows_and_contours_grow_it_only_when_shown(self) -> None:
        box = np.array([[-30, 10, 60, 90]], np.float32)
        p = people(INSIDE, boxes=box, windows=box - 20)
        assert draw(photo(), p).size == (120, 100)
        assert draw(photo(), p, boxes=True).origin[0] >= 30
        assert draw(photo(), p, windows=True).origin[0] >= 50

    @pytest.mark.parametrize("scale", [0.5, 1, 2.5])
    def test_scale_resizes_photo_and_marks_together(self, scale: float) -> None:
        picture = draw(photo(), people(INSIDE), scale=scale)
        assert picture.size == (round(120 * scale), round(100 * scale)) and picture.scale == scale
        ys, xs = np.nonzero(painted(picture.pixels))
        x, y = (60 + 0.5) * scale - 0.5, (50 - 15 + 0.5) * scale - 0.5
        assert abs((xs.min() + xs.max()) / 2 - x) <= 1
        assert abs((ys.min() + ys.max()) / 2 - y) <= 1.5 * max(1, scale)


class TestLooks:
    def looks(self, presence: float | None, visibility: float | None, **more: Any) -> Picture:
        columns = {
            "presence": None if presence is None else [[presence]],
            "visibility": None if visibility is None else [[visibility]],
        }
        return draw(photo(400, 400), people([[200, 200]], (400, 400), **columns, **more))

    def test_certain_is_filled_hidden_is_hollow_absent_is_broken(self) -> None:
        certain, hidden, absent = self.looks(0.9, 0.9), self.looks(0.9, 0.1), self.looks(0.1, 0.1)
        counts = [int(painted(p.pixels).sum()) for p in (certain, hidden, absent)]
        assert painted(near(certain, 200, 200, 0)).all()
        assert not painted(near(hidden, 200, 200, 0)).any() and not painted(near(absent, 200, 200, 0)).any()
        assert counts[0] > counts[1] > counts[2] > 0

    def test_an_absent_ring_has_gaps_and_a_hidden_one_has_none(self) -> None:
        def gaps(picture: Picture) -> int:
            marks = painted(picture.pixels[960:1041, 960:1041], above=12)
            angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
            radii = np.linspace(1, 39, 100)[:, None]
            x, y = (np.rint(40 + radii * f(angle)).astype(int) for f in (np.cos, np.sin))
            hit = marks[y, x].any(axis=0)
            return int((hit & ~np.roll(hit, 1)).sum())

        large = (2000, 2000)
        hidden = people([[1000, 1000]], large, presence=[[0.9]], visibility=[[0.1]])
        absent = people([[1000, 1000]], large, presence=[[0.1]])
        assert gaps(draw(photo(*large), hidden)) == 0
        assert gaps(draw(photo(*large), absent)) == 5

    def test_unknown_says_nothing(self) -> None:
        same = [
            self.looks(None, None),
            self.looks(np.nan, np.nan),
            self.looks(0.9, None),
            self.looks(None, 0.9),
        ]
        assert all(np.array_equal(same[0].pixels, p.pixels) for p in same)

    def test_scores_decide_only_where_nothing_else_is_known(self) -> None:
        low = np.array([[0.05]], np.float32)
        hollow = self.looks(None, None, map_scores=low)
        assert not painted(near(hollow, 200, 200, 0)).any() and painted(hollow.pixels).any()
        assert painted(near(self.looks(0.9, None, map_scores=low), 200, 200, 0)).all()

    def test_thresholds_belong_to_the_style(self) -> None:
        p = people([[200, 200]], (400, 400), presence=[[0.4]])
        filled = draw(photo(400, 400), p, style=Style(presence_at=0.3))
        assert painted(near(filled, 200, 200, 0)).all()
        assert not painted(near(draw(photo(400, 400), p), 200, 200, 0)).any()

    def test_sides_and_people_differ_in_colour_and_tracks_keep_theirs(self) -> None:
        points = np.stack([INSIDE, INSIDE + 4])

        def colour(i: int, k: int, **columns: Any) -> tuple[int, ...]:
            p = people(points, **columns)[i]
            return tuple(near(draw(photo(), p), *points[i, k], radius=0)[0, 0].tolist())

        tracks = {"track_ids": np.array([4, 7])}
        assert colour(0, 0) != colour(0, 1)
        assert colour(0, 0, **tracks) != colour(1, 0, **tracks)
        both = draw(photo(), people(points, **tracks)[[1, 0]], labels=False)
        alone = draw(photo(), people(points, **tracks)[0], labels=False)
        x, y = points[0, 1]
        assert (near(alone, x, y, 0) == near(both, x, y, 0)).all() or painted(near(both, x, y, 0)).all()

    def test_by_side_everybody_is_alike(self) -> None:
        points = np.stack([INSIDE, INSIDE])
        style = Style(colour_by="side")
        tracks = people(points, track_ids=np.array([0, 1]))
        first, second = (draw(photo(), tracks[i], style=style).pixels for i in (0, 1))
        assert np.array_equal(first, second)

    @pytest.mark.parametrize("side", [300, 1200, 4000])
    def test_marks_keep_their_share_of_the_picture(self, side: int) -> None:
        points = INSIDE / 120 * side
        picture = draw(photo(side, side), people(points, (side, side)))
        share = (picture.pixels[..., 0] != 128).mean()
        assert 0.008 < share < 0.03

    def test_a_small_person_gets_thinner_lines(self) -> None:
        big, small = INSIDE * 8, INSIDE * 0.6
        counts = [painted(draw(photo(960, 800), people(p, (960, 800))).pixels).sum() for p in (big, small)]
        length = [np.hypot(*(p[0] - p[2])) for p in (big, small)]
        assert counts[1] / length[1] < 0.9 * counts[0] / length[0] + 25


class TestElements:
    def test_boxes_show_by_themselves_only_when_nothing_else_would(self) -> None:
        box = np.array([[20, 20, 100, 80]], np.float32)
        alone = draw(photo(), People((120, 100), boxes=box))
        assert painted(near(alone, 60, 20, 1)).any() and painted(near(alone, 60, 80, 1)).any()
        assert not painted(near(alone, 60, 50, 3)).any()
        posed = people(np.array([[60, 50]], np.float32), boxes=box)
        assert not painted(near(draw(photo(), posed), 60, 80, 2)).any()
        assert painted(near(draw(photo(), posed, boxes=True), 60, 80, 2)).any()
        assert np.array_equal(draw(photo(), People((120, 100), boxes=box), boxes=False).pixels, photo())

    def test_a_box_without_numbers_draws_nothing(self) -> None:
        box = np.full((1, 4), np.nan, np.float32)
        assert np.array_equal(
            draw(photo(), People((120, 100), boxes=box, windows=box), windows=True).pixels, photo()
        )

    def test_a_box_around_everything_shows_at_the_rim(self) -> None:
        picture = draw(photo(), People((120, 100), boxes=np.array([[-9e5, -9e5, 9e5, 9e5]])), canvas="photo")
        assert painted(picture.pixels[:3]).any() and not painted(picture.pixels[30:70, 30:90]).any()

    def test_masks_tint_inside_and_nothing_outside(self) -> None:
        bits = np.zeros((1, 100, 120), bool)
        bits[0, 30:70, 40:80] = True
        bits[0, 45:55, 55:65] = False
        p = People((120, 100), masks=Masks.from_bitmaps(bits))
        picture = draw(photo(), p)
        assert painted(near(picture, 46, 36, 1)).all()
        assert not painted(near(picture, 60, 50, 1)).any()  # the hole
        assert not painted(near(picture, 20, 50, 8)).any()
        assert np.array_equal(draw(photo(), p, masks=False).pixels, photo())
        none = People((120, 100), masks=Masks.empty(2, (120, 100)))
        assert np.array_equal(draw(photo(), none, labels=False).pixels, photo())

    def test_a_mask_of_one_pixel_is_seen(self) -> None:
        bits = np.zeros((1, 100, 120), bool)
        bits[0, 50, 60] = True
        assert painted(draw(photo(), People((120, 100), masks=Masks.from_bitmaps(bits))).pixels).any()

    def test_skeleton_can_be_left_out(self) -> None:
        assert np.array_equal(draw(photo(), people(INSIDE), skeleton=False).pixels, photo())

    @pytest.mark.parametrize("cell", [(24, 32), (5, 60)])
    def test_heat_lies_where_the_map_says(self, cell: tuple[int, int]) -> None:
        p = one_map(cell)
        assert p.maps is not None
        where = p.maps.layers[0].crop.from_map(np.array([[cell]], np.float64))[0, 0]
        picture = draw(photo(), p, maps=True, style=Style(mute=0.0))
        heat = painted(picture.pixels)
        ys, xs = np.nonzero(heat)
        assert np.hypot(xs.mean() - where[0], ys.mean() - where[1]) < 0.6
        assert 1 <= heat.sum() < 60

    def test_maps_mute_the_photo_and_only_it(self) -> None:
        red = np.zeros((100, 120, 3), np.uint8)
        red[..., 0] = 200
        picture = draw(red, one_map((24, 32)), maps=True)
        r, g, _ = (int(v) for v in picture.pixels[2, 2])
        assert g > 10 and r < 200

    def test_maps_outside_the_photo_grow_the_sheet(self) -> None:
        crop = Crop.from_boxes([[80, 20, 118, 70]], padding=2.0)
        values = np.zeros((1, 1, 64, 48), np.float32)
        values[0, 0, 30, 46] = 1
        p = People(
            (120, 100), keypoints=np.full((1, 1, 2), np.nan), maps=ProbabilityMaps.single(values, crop, [1.0])
        )
        assert draw(photo(), p).size == (120, 100)
        assert draw(photo(), p, maps=True).size[0] > 120

    def test_keypoints_choose_whose_map(self) -> None:
        crop = Crop.from_boxes([[36, 18, 84, 82]], padding=1.0)
        values = np.zeros((1, 3, 64, 48), np.float32)
        for k, y in enumerate((8, 32, 56)):
            values[0, k, y, 24] = 1
        p = people(np.full((3, 2), np.nan), maps=ProbabilityMaps.single(values, crop, np.ones(3)))
        plain = Style(mute=0.0)
        marked = painted(draw(photo(), p, maps=True, keypoints="right_hand", style=plain).pixels)
        y = crop.from_map(np.array([[[24, 32]]], np.float64))[0, 0, 1]
        assert abs(np.nonzero(marked)[0].mean() - y) < 0.6
        everything = painted(draw(photo(), p, maps=True, style=plain).pixels)
        assert everything.sum() > 2.5 * marked.sum()
        assert np.array_equal(marked, painted(draw(photo(), p, maps=True, keypoints=[1], style=plain).pixels))

    def test_both_layers_of_a_double_map_show(self) -> None:
        crop = Crop.from_boxes([[40, 30, 70, 70]], padding=1.0)
        inner, outer = np.zeros((2, 1, 1, 64, 48), np.float32)
        inner[0, 0, 32, 24] = outer[0, 0, 2, 2] = 1
        layers = (MapLayer(inner, crop, "inner"), MapLayer(outer, crop.enlarged(1.25), "outer"))
        p = People((120, 100), keypoints=np.full((1, 1, 2), np.nan), maps=ProbabilityMaps(layers, np.ones(1)))
        picture = draw(photo(), p, maps=True, style=Style(mute=0.0))
        far = crop.enlarged(1.25).from_map(np.array([[[2.0, 2.0]]]))[0, 0]
        assert painted(near(picture, *far, radius=1)).any() and painted(near(picture, 55, 50, 1)).any()

    def test_a_coarse_layer_with_the_same_mass_is_the_paler(self) -> None:
        crop = Crop.from_boxes([[40, 30, 70, 70]], padding=1.0)
        wide = crop.enlarged(3)
        inner, outer = np.zeros((2, 1, 1, 64, 48), np.float32)
        inner[0, 0, 32, 24] = outer[0, 0, 32, 34] = 1
        maps = ProbabilityMaps((MapLayer(inner, crop, "inner"), MapLayer(outer, wide, "outer")), np.ones(1))
        p = People((120, 100), keypoints=np.full((1, 1, 2), np.nan), maps=maps)
        picture = draw(photo(value=0), p, maps=True, scale=4)

        def brightest(layer: Crop, cell: tuple[float, float]) -> int:
            x, y = (layer.from_map(np.array([[cell]]))[0, 0] + 0.5) * 4 - 0.5
            return int(near(picture, x, y, 3).sum(axis=-1).max())

        assert brightest(crop, (24.0, 32.0)) > 1.4 * brightest(wide, (34.0, 32.0)) > 0

    def test_regions_and_ellipses_surround_the_mass(self) -> None:
        crop = Crop.from_boxes([[36, 18, 84, 82]], padding=1.0)
        yy, xx = np.mgrid[:64, :48]
        v = np.exp(-0.5 * (((xx - 24) / 6) ** 2 + ((yy - 32) / 6) ** 2))
        maps = ProbabilityMaps.single((v / v.sum())[None, None], crop, [1.0])
        p = People((120, 100), keypoints=np.full((1, 1, 2), np.nan), maps=maps)
        px = crop.scale[0, 0] / 47  # image px per cell
        for what in ("regions", "ellipses"):
            extent = []
            for mass in (0.5, 0.95):
                picture = draw(photo(), p, mass=[mass], **{what: True})  # type: ignore[arg-type]
                columns = np.flatnonzero(painted(picture.pixels, above=30)[50])
                extent.append((columns.max() - columns.min()) / 2)
            wanted = [6 * px * np.sqrt(-2 * np.log(1 - m)) for m in (0.5, 0.95)]
            assert extent[0] == pytest.approx(wanted[0], abs=2.5)
            assert extent[1] == pytest.approx(wanted[1], abs=2.5)

    @pytest.mark.parametrize("what", ["maps", "regions", "ellipses"])
    @pytest.mark.parametrize("fill", [0.0, np.nan])
    def test_a_map_without_mass_draws_nothing(self, what: str, fill: float) -> None:
        maps = one_map((1, 1)).maps
        assert maps is not None
        layer = MapLayer(np.full((1, 1, 64, 48), fill, np.float32), maps.layers[0].crop)
        p = People(
            (120, 100), keypoints=np.full((1, 1, 2), np.nan), maps=ProbabilityMaps((layer,), np.ones(1))
        )
        more: Any = {what: True}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            picture = draw(photo(), p, style=Style(mute=0.0), **more)
            blank = People((120, 100), keypoints=p.keypoints, maps=maps.blank(1))
            empty = draw(photo(), blank, style=Style(mute=0.0), **more)
        assert np.array_equal(picture.pixels, photo()) and np.array_equal(empty.pixels, photo())


class TestWords:
    def test_several_people_are_numbered_and_one_is_not(self) -> None:
        two = people(np.stack([INSIDE - 10, INSIDE + 20]), scores=[0.9, np.nan])
        with_words, without = draw(photo(), two), draw(photo(), two, labels=False)
        assert not np.array_equal(with_words.pixels, without.pixels)
        one = two[0]
        assert np.array_equal(draw(photo(), one).pixels, draw(photo(), one, labels=False).pixels)
        assert not np.array_equal(draw(photo(), one, labels=True).pixels, draw(photo(), one).pixels)

    def test_own_words_and_values_are_written(self) -> None:
        p = people(INSIDE, presence=[[0.9, np.nan, 0.1]])
        seen = {
            draw(photo(300, 250), p.replace(image_size=(300, 250)), **more).pixels.tobytes()  # type: ignore[arg-type]
            for more in (
                {},
                {"labels": ["Ada"]},
                {"labels": ["Ben"]},
                {"values": "presence"},
                {"values": "name"},
                {"values": ("name", "presence")},
                {"values": "presence", "keypoints": "nose"},
                {"values": ("presence", "quality", "score", "visibility")},
            )
        }
        assert len(seen) == 8

    @pytest.mark.parametrize("text", ["", " ", "\n\t\x00", "x" * 100_000, "ÄÖ漢字🙂", "‮abc"])
    def test_any_text_is_survived(self, text: str) -> None:
        picture = draw(photo(), people(INSIDE), labels=[text])
        assert picture.size == (120, 100)

    def test_plates_of_a_crowd_do_not_cover_each_other(self) -> None:
        from bodyloop.drawing.canvas import Canvas, Sheet
        from bodyloop.drawing.text import Plates

        plates = Plates(Canvas(photo(400, 300), Sheet((400, 300))))
        for _ in range(4):
            plates.add(
                "somebody", [(200, 150, 0, 1), (200, 150, 0, 0), (200, 150, 1, 1), (200, 150, 1, 0)], 12
            )
        taken = plates._taken
        for i, a in enumerate(taken):
            for b in taken[:i]:
                assert min(a[2], b[2]) <= max(a[0], b[0]) + 1e-6 or min(a[3], b[3]) <= max(a[1], b[1]) + 1e-6


class TestGoodManners:
    def test_same_input_same_pixels_and_nothing_is_changed(self) -> None:
        image = np.random.default_rng(1).integers(0, 255, (100, 120, 3)).astype(np.uint8)
        kept = image.copy()
        p = one_map((24, 32)).replace(keypoints=np.array([[[150, 20]]]), boxes=np.array([[10, 10, 90, 90]]))
        before = [p.keypoints.copy(), p.boxes.copy()]  # type: ignore[union-attr]
        how: Any = {
            "maps": True,
            "regions": True,
            "ellipses": True,
            "boxes": True,
            "values": "name",
            "labels": True,
        }
        first, second = draw(image, p, **how), draw(image, p, **how)
        assert np.array_equal(first.pixels, second.pixels)
        assert np.array_equal(image, kept)
        assert np.array_equal(p.keypoints, before[0]) and np.array_equal(p.boxes, before[1])

    def test_the_result_is_frozen_and_its_own(self) -> None:
        image = photo()
        picture = draw(image, people(INSIDE))
        assert not picture.pixels.flags.writeable and not np.shares_memory(picture.pixels, image)
        assert not np.shares_memory(draw(image, People((120, 100))).pixels, image)

    def test_a_path_and_bgr_give_the_same_picture(self, tmp_path: Path) -> None:
        image = np.random.default_rng(1).integers(0, 255, (100, 120, 3)).astype(np.uint8)
        file = Picture(image).save(tmp_path / "photo.png")
        p = people(INSIDE)
        wanted = draw(image, p).pixels
        assert np.array_equal(draw(file, p).pixels, wanted)
        assert np.array_equal(draw(image[..., ::-1].copy(), p, order="bgr").pixels, wanted)

    def test_the_first_person_lies_on_top(self) -> None:
        far = np.array([[10, 10], [110, 10], [60, 90]], np.float32)
        tracks = np.array([0, 1])
        both = draw(photo(), people(np.stack([far, far]), track_ids=tracks), labels=False)
        one = draw(photo(), people(far, track_ids=tracks[:1]))
        other = draw(photo(), people(far, track_ids=tracks[1:]))
        middle = [near(p, 10, 10, 0)[0, 0].tolist() for p in (both, one, other)]
        assert middle[0] == middle[1] != middle[2]

    def test_importing_it_loads_neither_opencv_nor_pillow(self) -> None:
        code = (
            "import sys, bodyloop.drawing; "
            "print([m for m in ('cv2', 'PIL', 'torch', 'onnxruntime') if m in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
        )
        assert done.stdout.strip() == "[]"


class TestRefusals:
    @pytest.mark.parametrize(
        ("more", "word"),
        [
            ({"canvas": "huge"}, "canvas"),
            ({"scale": 0}, "scale"),
            ({"scale": -1.0}, "scale"),
            ({"scale": float("nan")}, "scale"),
            ({"scale": 1e6}, "scale"),
            ({"mass": [0.5, 1.5]}, "mass"),
            ({"mass": [float("nan")]}, "mass"),
            ({"maps": True}, "maps=True"),
            ({"regions": True}, "regions"),
            ({"ellipses": True}, "ellipses"),
            ({"labels": ["a", "b"]}, "2 labels"),
            ({"values": "colour"}, "colour"),
            ({"keypoints": "tail"}, "tail"),
            ({"keypoints": 17}, "17"),
            ({"keypoints": -1}, "-1"),
        ],
        ids=str,
    )
    def test_what_cannot_be_drawn_is_named(self, more: Any, word: str) -> None:
        with pytest.raises(BodyloopError, match=word):
            draw(photo(), people(INSIDE), **more)

    def test_people_of_another_picture(self) -> None:
        with pytest.raises(InputError, match=r"\(120, 100\).*\(64, 48\)"):
            draw(photo(64, 48), people(INSIDE))

    @pytest.mark.parametrize(
        "nobody", [None, [], "people", np.zeros((1, 17, 2))], ids=lambda x: type(x).__name__
    )
    def test_something_else_than_people(self, nobody: Any) -> None:
        with pytest.raises(InputError, match="People"):
            draw(photo(), nobody)

    @pytest.mark.parametrize("image", [np.zeros((10, 10, 4), np.uint8), np.zeros((10, 10, 3)), 3, None])
    def test_something_else_than_a_photo(self, image: Any) -> None:
        with pytest.raises(BodyloopError):
            draw(image, People((10, 10)))

    @pytest.mark.parametrize(
        "bad",
        [{"line": 0}, {"text": -1}, {"mute": 2}, {"reach": float("nan")}, {"colour_by": "mood"}],
        ids=str,
    )
    def test_styles_out_of_range(self, bad: Any) -> None:
        with pytest.raises(ConfigError, match=next(iter(bad))):
            Style(**bad)


class TestHostile:
    @pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3)])
    def test_tiny_photos(self, size: tuple[int, int]) -> None:
        w, h = size
        bits = np.ones((1, h, w), bool)
        p = people(
            np.array([[0, 0], [w, h], [-5, 900]]), size, boxes=[[0, 0, w, h]], masks=Masks.from_bitmaps(bits),
            windows=[[-9, -9, w + 9, h + 9]], scores=[0.5],
        )  # fmt: skip
        for canvas in ("grow", "photo"):
            picture = draw(
                photo(w, h), p, boxes=True, windows=True, labels=True, values="name", canvas=canvas
            )
            assert picture.size[0] >= w and picture.size[1] >= h
        assert draw(photo(w, h), p, scale=0.01).size[0] >= 1

    @given(st.lists(st.tuples(*[st.floats(width=32)] * 2), min_size=3, max_size=3), st.floats(width=32))
    @settings(max_examples=60, deadline=None)
    def test_any_numbers_at_all(self, points: list[tuple[float, float]], other: float) -> None:
        p = people(
            np.array(points, np.float32),
            presence=np.full((1, 3), other, np.float32),
            quality=np.full((1, 3), -other, np.float32),
            boxes=np.array([[*points[0], *points[1]]], np.float32),
            windows=np.array([[*points[1], *points[2]]], np.float32),
            scores=np.array([other], np.float32),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            picture = draw(
                photo(), p, boxes=True, windows=True, labels=True, values=("name", "presence", "score")
            )
        assert picture.size[0] <= 120 * 3 and picture.size[1] <= 120 * 3

    def test_all_keypoints_in_one_place(self) -> None:
        assert painted(draw(photo(), people(np.full((17, 2), 50.0), skeleton=COCO)).pixels).any()

    def test_a_skeleton_linked_to_itself(self) -> None:
        odd = Skeleton("odd", ("a", "b", "c"), ((0, 0), (0, 1), (0, 1)), (0.1, 0.1, 0.1))
        assert painted(draw(photo(), people(INSIDE, skeleton=odd)).pixels).any()

    def test_a_crowd(self) -> None:
        rng = np.random.default_rng(5)
        crowd = people(rng.uniform(0, 95, (60, 3, 2)), scores=np.ones(60, np.float32))
        assert draw(photo(), crowd, boxes=True).size == (120, 100)

    def test_left_and_right_come_from_names(self) -> None:
        assert PAIR.keypoints[0].startswith("left_")
        plain = Skeleton.define("plain", ["a", "b", "c"], links=["a-b"])
        p = draw(photo(), people(INSIDE, skeleton=plain))
        assert (near(p, *INSIDE[0], radius=0) == near(p, *INSIDE[1], radius=0)).all()


def test_the_public_name_is_the_function() -> None:
    import bodyloop
    import bodyloop.drawing

    assert bodyloop.draw is draw and bodyloop.drawing.draw is draw
