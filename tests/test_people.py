"""People: construction, sequence algebra, and what is derived."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bodyloop.maps
from bodyloop.errors import ConfigError, InputError
from bodyloop.geometry import Crop
from bodyloop.images import Source
from bodyloop.maps import ProbabilityMaps
from bodyloop.masks import Masks
from bodyloop.people import NO_TRACK, People, Provenance
from bodyloop.skeletons import BODY_19, COCO, LSP_14
from tests.strategies import PAW, SIZE, few, people

ARRAYS = ("boxes", "scores", "mask_scores", "keypoints", "map_scores", "quality", "presence", "visibility",
          "windows", "features", "track_ids")  # fmt: skip
EXACT = {"rtol": 0.0, "atol": 0.0}


def three() -> People:
    return People(
        (100, 80),
        Source("a.jpg"),
        COCO,
        boxes=[[0, 0, 5, 5], [1, 1, 6, 6], [2, 2, 7, 7]],
        scores=[0.9, 0.8, 0.7],
        keypoints=np.arange(102).reshape(3, 17, 2),
        track_ids=[4, 5, 6],
        provenance=[Provenance(1), Provenance(1), Provenance(2)],
        extra={"hat": np.array([True, False, True])},
    )


class TestConstruction:
    def test_nothing_known(self) -> None:
        p = People((3, 2))
        assert len(p) == 0 and p.boxes is None and p.keypoint_scores is None

    def test_empty(self) -> None:
        p = People.empty((3, 2), BODY_19)
        assert p.boxes is not None and p.boxes.shape == (0, 4)
        assert p.keypoints is not None and p.keypoints.shape == (0, 19, 2)

    def test_arrays_are_read_only_and_not_copied(self) -> None:
        boxes = np.ones((2, 4), np.float32)
        p = People((3, 2), boxes=boxes)
        assert p.boxes is not None and np.shares_memory(p.boxes, boxes)
        with pytest.raises(ValueError, match="read-only"):
            p.boxes[0] = 0
        assert boxes.flags.writeable

    def test_lists_and_other_dtypes_are_converted(self) -> None:
        p = three()
        assert p.boxes is not None and p.boxes.dtype == np.float32
        assert p.track_ids is not None and p.track_ids.dtype == np.int64
        assert People((3, 2), scores=np.array([1e300])).scores.tolist() == [np.inf]  # type: ignore[union-attr]

    def test_frozen(self) -> None:
        with pytest.raises(FrozenInstanceError):
            three().boxes = None  # type: ignore[misc]
        with pytest.raises(TypeError):
            three().extra["a"] = np.zeros(3)  # type: ignore[index]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("boxes", np.zeros((3, 5))),
            ("boxes", np.zeros((2, 4))),
            ("boxes", np.zeros(4)),
            ("boxes", "text"),
            ("boxes", [[1, 2, 3, "x"]] * 3),
            ("boxes", [[1, 2], [3]]),
            ("boxes", np.zeros((3, 4), complex)),
            ("boxes", np.zeros((3, 4), object)),
            ("scores", np.zeros((3, 1))),
            ("scores", 0.5),
            ("keypoints", np.zeros((3, 17, 3))),
            ("keypoints", np.zeros((3, 16, 2))),
            ("keypoints", np.zeros((3, 17))),
            ("quality", np.zeros((3, 16))),
            ("presence", np.zeros((3, 17, 1))),
            ("visibility", np.zeros(3)),
            ("windows", np.zeros((3, 2))),
            ("features", np.zeros((3, 4))),
            ("track_ids", [1.5, 2, 3]),
            ("track_ids", [1, 2]),
            ("provenance", (Provenance(),)),
            ("masks", Masks.empty(2, (100, 80))),
            ("masks", Masks.empty(3, (80, 100))),
            ("extra", {"hat": np.zeros(2)}),
            ("extra", {"hat": 3}),
            ("extra", {"hat": np.zeros(3, object)}),
            ("image_size", (0, 5)),
            ("image_size", None),
        ],
    )
    def test_errors_name_the_field(self, field: str, value: Any) -> None:
        with pytest.raises(InputError, match=rf"{field}\b"):
            three().replace(**{field: value})

    def test_keypoints_need_not_have_a_skeleton_but_must_agree(self) -> None:
        People((3, 2), keypoints=np.zeros((1, 5, 2)), presence=np.zeros((1, 5)))
        with pytest.raises(InputError, match=r"presence: 4 keypoints, but keypoints has 5"):
            People((3, 2), keypoints=np.zeros((1, 5, 2)), presence=np.zeros((1, 4)))

    def test_maps_must_fit(self) -> None:
        maps = ProbabilityMaps.single(
            np.zeros((2, 3, 4, 3)), Crop.from_boxes([[0, 0, 1, 1]] * 2, map_size=(3, 4)), [1, 1, 1]
        )
        with pytest.raises(InputError, match=r"People\.maps: 2 people"):
            three().replace(maps=maps)
        with pytest.raises(InputError, match=r"People\.maps: 3 keypoints"):
            three()[:2].replace(maps=maps)

    def test_repr_is_short(self) -> None:
        big = three().replace(features=np.zeros((3, 100, 9, 9), np.float32))
        assert len(repr(big)) < 200
        assert "3 in 100x80" in repr(big) and "features" in repr(big) and "hat" in repr(big)


class TestSequence:
    @given(people(), st.data())
    @few
    def test_indexing_is_that_of_every_array(self, p: People, data: st.DataObject) -> None:
        n = len(p)
        index: Any = data.draw(
            st.slices(n)
            | st.lists(st.booleans(), min_size=n, max_size=n).map(lambda b: np.array(b, bool))
            | (st.lists(st.integers(-n, n - 1), max_size=6) if n else st.just([]))
        )
        q = p[index]
        at = np.arange(n)[
            index
            if isinstance(index, slice)
            else np.asarray(index, bool if isinstance(index, np.ndarray) else int)
        ]
        assert len(q) == len(at) or all(getattr(p, f) is None for f in ARRAYS)
        for name in ARRAYS:
            column = getattr(p, name)
            if column is None:
                assert getattr(q, name) is None
            else:
                np.testing.assert_array_equal(getattr(q, name), column[at])
                assert not getattr(q, name).flags.writeable
        for name, column in p.extra.items():
            np.testing.assert_array_equal(q.extra[name], column[at])
        if p.masks is not None and q.masks is not None:
            assert (q.masks.bitmaps() == p.masks.bitmaps()[at]).all()
        if p.maps is not None and q.maps is not None:
            for a, b in zip(p.maps.layers, q.maps.layers, strict=True):
                np.testing.assert_array_equal(b.values, a.values[at])
        if p.provenance is not None:
            assert q.provenance == tuple(p.provenance[i] for i in at)

    @given(people(), st.integers(0, 5))
    @few
    def test_concat_undoes_slicing(self, p: People, at: int) -> None:
        assert People.concat([p[:at], p[at:]]).allclose(p, **EXACT)
        assert People.concat([p]).allclose(p, **EXACT)

    @given(people(n=3))
    @few
    def test_iterating_gives_people_of_one(self, p: People) -> None:
        ones = list(p)
        assert [len(one) for one in ones] == [1] * len(p)
        if ones:
            assert People.concat(ones).allclose(p, **EXACT)

    @given(st.lists(people(skip=frozenset({"maps", "source", "skeleton"})), min_size=1, max_size=3))
    @few
    def test_concat_fills_with_what_is_not_available(self, parts: list[People]) -> None:
        joined = People.concat(parts)
        assert len(joined) == sum(map(len, parts))
        start = 0
        for part in parts:
            rows = joined[start : start + len(part)]
            start += len(part)
            for name in ARRAYS:
                whole, own = getattr(rows, name), getattr(part, name)
                if whole is None:
                    assert own is None
                elif own is not None:
                    np.testing.assert_array_equal(whole, own)
                elif name == "track_ids":
                    assert (whole == NO_TRACK).all()
                else:
                    assert np.isnan(whole).all()
            if joined.masks is not None and part.masks is None:
                assert rows.masks is not None and not rows.masks.present.any()
            for name in joined.extra.keys() - part.extra.keys():
                column = rows.extra[name]
                assert (column == "").all() if column.dtype.kind == "U" else np.isnan(column).all()

    @given(people(n=2, skip=frozenset({"source"})), people(n=1, skip=frozenset({"source", "maps"})))
    @few
    def test_maps_of_some_are_nan_for_the_others(self, a: People, b: People) -> None:
        joined = People.concat([a, b])
        if a.maps is None:
            assert joined.maps is None
        else:
            assert joined.maps is not None and len(joined.maps) == len(joined)
            for layer, own in zip(joined.maps.layers, a.maps.layers, strict=True):
                np.testing.assert_array_equal(layer.values[: len(a)], own.values)
                assert np.isnan(layer.values[len(a) :]).all()
            assert np.isnan(joined.moments().covariance[len(a) :]).all()

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"image_size": (80, 100)}, "image_size"),
            ({"source": Source("b.jpg")}, "source"),
            ({"skeleton": LSP_14, "keypoints": np.zeros((3, 14, 2))}, "skeleton"),
        ],
    )
    def test_concat_refuses(self, change: dict[str, Any], says: str) -> None:
        with pytest.raises(InputError, match=f"different {says}"):
            People.concat([three(), three().replace(**change)])

    def test_concat_refuses_other_shapes(self) -> None:
        a = People((3, 2), keypoints=np.zeros((1, 5, 2)))
        with pytest.raises(InputError, match="keypoints has different shapes"):
            People.concat([a, People((3, 2), keypoints=np.zeros((1, 4, 2)))])
        with pytest.raises(InputError, match="nothing to join"):
            People.concat([])

    def test_unknown_source_and_skeleton_give_way(self) -> None:
        bare = People((100, 80), boxes=[[1, 2, 3, 4]])
        joined = People.concat([bare, three()])
        assert (joined.source, joined.skeleton) == (Source("a.jpg"), COCO)

    def test_out_of_range(self) -> None:
        with pytest.raises(IndexError):
            three()[3]
        for wrong in ([True, False], 0.5, "a", None, [[0, 1]]):
            with pytest.raises(InputError, match="index"):
                three()[wrong]  # type: ignore[index]

    def test_numbers_of_numpy_index_too(self) -> None:
        assert three()[np.int64(-1)].scores == np.float32(0.7)


class TestCompare:
    @given(people())
    @few
    def test_equal_to_itself(self, p: People) -> None:
        assert p.allclose(p) and p.allclose(p.replace())

    @given(people(n=2), st.sampled_from(ARRAYS), st.data())
    @few
    def test_any_difference_counts(self, p: People, name: str, data: st.DataObject) -> None:
        column = getattr(p, name)
        if column is None:
            return
        assert not p.allclose(p.replace(**{name: None}))
        if column.size:
            changed = column.copy()
            at = np.unravel_index(data.draw(st.integers(0, column.size - 1)), column.shape)
            changed[at] = 7 if changed[at] != 7 else 8
            assert not p.allclose(p.replace(**{name: changed}))

    def test_other_differences(self) -> None:
        p = three().replace(masks=Masks.from_any([np.ones((80, 100), bool), None, None], (100, 80)))
        for change in (
            {"source": None},
            {"provenance": None},
            {"masks": p.masks[[1, 0, 2]] if p.masks else None},
            {"extra": {}},
            {"extra": {"hat": np.array([True, True, True])}},
            {"provenance": (Provenance(3),) * 3},
        ):
            assert not p.allclose(p.replace(**change))
        assert not p.allclose(p[:2])
        assert p.allclose(p.replace(scores=np.float32([0.9, 0.8, 0.7 + 1e-7])))


class TestCopies:
    @given(people())
    @few
    def test_pickled_and_copied(self, p: People) -> None:
        for again in (pickle.loads(pickle.dumps(p)), copy.deepcopy(p), copy.copy(p)):
            assert again.allclose(p, **EXACT)
            for name in ARRAYS:
                assert getattr(again, name) is None or not getattr(again, name).flags.writeable


class TestDerived:
    def test_keypoint_scores(self) -> None:
        quality, values = np.full((1, 3), 0.5), np.full((1, 3), 0.25)
        both = People(SIZE, skeleton=PAW, quality=quality, map_scores=values)
        assert both.keypoint_scores is both.quality
        plain = both.replace(quality=None)
        assert plain.keypoint_scores is plain.map_scores

    def test_other_skeleton_by_name(self) -> None:
        keypoints = np.arange(38, dtype=np.float32).reshape(1, 19, 2)
        p = People((9, 9), skeleton=BODY_19, keypoints=keypoints, presence=np.arange(19.0)[None])
        coco = p.in_skeleton(COCO)
        assert coco.skeleton == COCO and coco.keypoints is not None
        assert (coco.keypoints == keypoints[:, :17]).all()
        back = coco.in_skeleton(BODY_19)
        assert back.presence is not None
        assert back.presence[0, :17].tolist() == list(range(17)) and np.isnan(back.presence[0, 17:]).all()
        sports = p.in_skeleton(LSP_14)
        assert sports.keypoints is not None
        assert (sports.keypoints[0, LSP_14.index("neck")] == keypoints[0, BODY_19.index("neck")]).all()
        assert p.in_skeleton(BODY_19) is p
        with pytest.raises(InputError, match="no skeleton"):
            People((9, 9), keypoints=keypoints).in_skeleton(COCO)

    def test_maps_follow_only_where_all_keypoints_are_there(self) -> None:
        values = np.random.default_rng(0).random((1, 19, 4, 3), np.float32)
        crop = Crop.from_boxes([[0, 0, 5, 5]], map_size=(3, 4))
        p = People((9, 9), skeleton=BODY_19, maps=ProbabilityMaps.single(values, crop, np.arange(1.0, 20)))
        coco = p.in_skeleton(COCO)
        assert coco.maps is not None
        assert (coco.maps.layers[0].values == values[:, :17]).all()
        assert coco.maps.variances.tolist() == list(range(1, 18))
        assert coco.in_skeleton(BODY_19).maps is None

    def test_keypoints_by_name(self) -> None:
        assert three().keypoint_index("left_ankle") == 15
        assert three().keypoint_index(3) == 3
        with pytest.raises(ConfigError, match="left_paw"):
            three().keypoint_index("left_paw")
        with pytest.raises(InputError, match="give the number"):
            People((9, 9)).keypoint_index("nose")


class TestMaps:
    @pytest.fixture
    def p(self) -> People:
        """One person whose left paw is in one of two cells, 3/4 and 1/4; the others are in the middle."""
        values = np.zeros((1, 3, 4, 3), np.float32)
        values[0, 1, 0, 0], values[0, 1, 3, 2] = 0.75, 0.25
        values[0, [0, 2], 1, 1] = 1
        crop = Crop(np.array([[10.0, 15]]), np.array([[20.0, 30]]), np.zeros(1), (12, 16), (3, 4))
        maps = ProbabilityMaps.single(values, crop, np.ones(3))
        return People((40, 40), skeleton=PAW, presence=np.full((1, 3), 0.5), maps=maps)

    def test_moments_in_image_px(self, p: People) -> None:
        m = p.moments()
        # cells lie at (0, 0) and (20, 30) px
        np.testing.assert_allclose(m.mean[0, 1], [5, 7.5])
        np.testing.assert_allclose(m.covariance[0, 1], np.array([[400, 600], [600, 900]]) * 3 / 16)

    def test_region(self, p: People) -> None:
        region = p.region(0, "left_paw", mass=0.7)
        assert region.mass == pytest.approx(0.75)
        assert region.area == pytest.approx(10 * 10)  # one cell of 20/2 x 30/3 px
        assert p.region(0, 1).area == pytest.approx(200)

    @pytest.mark.parametrize(
        ("zone", "share"),
        [
            ([-10, -10, 10, 20], 0.75),
            ([-100, -100, 100, 100], 1.0),
            ([30, 0, 40, 10], 0.0),
            (lambda points: points[:, 0] > 12, 0.25),
        ],
    )
    def test_probability_is_presence_times_share(self, p: People, zone: Any, share: float) -> None:
        assert p.probability(0, "left_paw", zone) == pytest.approx(0.5 * share)

    def test_probability_in_a_mask(self, p: People) -> None:
        bitmap = np.zeros((40, 40), bool)
        bitmap[20:, 10:] = True
        zone = Masks.from_bitmaps([bitmap])
        assert p.probability(0, "left_paw", zone) == pytest.approx(0.5 * 0.25)
        assert p.probability(0, "left_paw", p.region(0, "left_paw", 0.7)) == pytest.approx(0.5 * 0.75)

    def test_without(self, p: People) -> None:
        with pytest.raises(InputError, match="no probability maps"):
            p.replace(maps=None).region(0, "nose")
        with pytest.raises(InputError, match="presence"):
            p.replace(presence=None).probability(0, "nose", [0, 0, 1, 1])
        for i in (1, -2):
            with pytest.raises((IndexError, InputError)):
                p.probability(i, "nose", [0, 0, 1, 1])
            with pytest.raises((IndexError, InputError)):
                p.region(i, "nose")

    def test_of_the_double_map_the_outer_one_answers(self, p: People) -> None:
        assert p.maps is not None
        inner = p.maps.layers[0]
        wide = bodyloop.maps.MapLayer(inner.values, inner.crop.enlarged(2), "outer")
        both = ProbabilityMaps((bodyloop.maps.MapLayer(inner.values, inner.crop, "inner"), wide), np.ones(3))
        double = p.replace(maps=both)
        assert double.region(0, 1, 0.7).area == pytest.approx(400)
        np.testing.assert_allclose(double.moments().mean[0, 1], [0, 0])


def test_provenance_grows() -> None:
    history = Provenance(1).changed("mask", "refined", 1).changed("mask", "made exclusive", 2)
    assert history.pass_number == 1
    assert [(c.what, c.why, c.pass_number) for c in history.changes] == [
        ("mask", "refined", 1), ("mask", "made exclusive", 2),
    ]  # fmt: skip
