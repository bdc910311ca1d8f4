"""Conformal regions: the nested family, the exact rank, and what people's regions hold."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bodyloop.errors import InputError
from bodyloop.geometry import Crop
from bodyloop.maps import (
    MapLayer,
    ProbabilityMaps,
    Thresholds,
    conformal_quantile,
    conformal_region,
    conformal_score,
    nested_scores,
    oks_kernel,
)
from bodyloop.people import People
from bodyloop.skeletons import Skeleton
from bodyloop.storage import load, save

KERNELS = np.array([0.55, 1.5])
SKELETON = Skeleton.define("two", ("nose", "tail"))


def identity(n: int, size: tuple[int, int]) -> Crop:
    """Windows whose map px are image px."""
    span = np.array(size) - 1.0
    return Crop(np.tile(span / 2, (n, 1)), np.tile(span, (n, 1)), np.zeros(n), (192, 256), size)


def spots(n: int, seed: int = 0, shape: tuple[int, int] = (16, 12)) -> npt.NDArray[np.float32]:
    """(n, 2, h, w) maps of a few cells each, summing to 1."""
    rng = np.random.default_rng(seed)
    m = rng.random((n, 2, *shape)) ** 8
    m[m < np.quantile(m, 0.97)] = 0
    m[..., 3, 4] += 1e-3
    return (m / m.sum(axis=(2, 3), keepdims=True)).astype(np.float32)


# --- the family ------------------------------------------------------------------------------------------


def test_the_family_of_one_cell_worked_by_hand() -> None:
    h, w, s = 9, 11, 0.55
    maps = np.zeros((1, h, w), np.float32)
    maps[0, 4, 5] = 1
    kernel = oks_kernel(s)  # radius 2: inside the map
    mass = np.zeros((h, w))
    mass[2:7, 3:8] = 0.9 * kernel
    bump = np.array([[(1 + ((x - 5) ** 2 + (y - 4) ** 2) / 4.0) ** -1.5 for x in range(w)] for y in range(h)])
    mass += 0.1 * bump / bump.sum()
    cells = [(y, x) for y in range(h) for x in range(w)]
    falling = sorted(cells, key=lambda c: (-mass[c], c))
    expected, held = np.zeros((h, w)), 0.0
    for cell in falling:
        expected[cell] = held
        held += mass[cell]
    got = nested_scores(maps, [s])
    assert got[0, 4, 5] == 0 and held == pytest.approx(1)
    # cells at equal distances tie: which of them comes first is rounding, so each ring is compared as a set
    rings = np.round([mass[c] for c in cells], 12)
    for ring in np.unique(rings):
        at = tuple(np.array([c for c, r in zip(cells, rings, strict=True) if r == ring]).T)
        np.testing.assert_allclose(np.sort(got[0][at]), np.sort(expected[at]), atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, (2, 2, 9, 7), elements=st.sampled_from([0, 0, 0, 0.1, 0.5, 3.0])))
def test_regions_grow_cell_by_cell_over_the_whole_window(maps: npt.NDArray[np.float32]) -> None:
    scores = nested_scores(maps, KERNELS).reshape(4, 63)
    for p, s in zip(maps.reshape(4, 63), scores, strict=True):
        if p.sum() == 0:
            assert np.isnan(s).all()
            continue
        assert s.min() == 0 and s.max() < 1
        assert len(np.unique(s)) == 63  # zeros of the map are told apart as well


def test_cells_far_from_a_sharp_map_are_told_apart() -> None:
    maps = np.zeros((1, 64, 48), np.float32)
    maps[0, 2, 2] = 1
    scores = nested_scores(maps, [0.55])[0]
    assert len(np.unique(scores)) == 64 * 48
    assert (np.diff(np.diagonal(scores)[3:]) > 0).all()  # farther cells come later


def test_the_score_is_that_of_the_true_cell() -> None:
    maps = spots(3)
    rng = np.random.default_rng(1)
    cells = np.stack([rng.integers(0, 12, (3, 2)), rng.integers(0, 16, (3, 2))], axis=-1)
    scores, all_cells = conformal_score(maps, cells, KERNELS), nested_scores(maps, KERNELS)
    for i in range(3):
        for k in range(2):
            x, y = cells[i, k]
            assert scores[i, k] == all_cells[i, k, y, x]
    with pytest.raises(InputError, match="not on the map"):
        conformal_score(maps, cells + np.array([0, 16]), KERNELS)
    with pytest.raises(InputError, match="int cells"):
        conformal_score(maps, cells.astype(float), KERNELS)
    with pytest.raises(InputError, match="int cells"):
        conformal_score(maps, cells[:2], KERNELS)


# --- the rank --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "alpha", "rank"),
    [(9, 0.1, 9), (8, 0.1, None), (19, 0.05, 19), (18, 0.05, None), (99, 0.1, 90), (4, 0.2, 4), (3, 0.2, None),
     (1, 0.5, 1), (0, 0.5, None), (29, 0.3, 21)],
)  # fmt: skip
def test_the_rank_is_exact(n: int, alpha: float, rank: int | None) -> None:
    scores = np.random.default_rng(n).permutation(np.arange(1, n + 1) / 1000)
    assert conformal_quantile(scores, alpha) == (1.0 if rank is None else rank / 1000)
    assert conformal_quantile(scores, alpha, np.arange(n)) == (1.0 if rank is None else rank / 1000)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 60), st.sampled_from([0.01, 0.05, 0.1, 0.2, 1 / 3, 0.5, 0.9]))
def test_the_rank_is_ceil_of_n_plus_one_times_coverage(n: int, alpha: float) -> None:
    from fractions import Fraction

    rank = math.ceil((n + 1) * (1 - Fraction(alpha).limit_denominator(1000)))
    expected = rank / 1000 if rank <= n else 1.0
    assert conformal_quantile(np.arange(1, n + 1) / 1000, alpha) == expected


def test_a_photo_counts_once_however_many_people_it_shows() -> None:
    scores, photos = [0.1, 0.2, 0.5], ["a", "a", "b"]
    # two photos and the next one: of 3, the wanted share; a's people count half a photo each
    assert conformal_quantile(scores, 0.9, photos) == 0.1  # 0.3 of a photo
    assert conformal_quantile(scores, 0.7, photos) == 0.2  # 0.9
    assert conformal_quantile(scores, 0.5, photos) == 0.5  # 1.5
    assert conformal_quantile(scores, 0.3, photos) == 1.0  # 2.1 of two photos


def test_rank_refuses_what_it_cannot_use() -> None:
    for scores, alpha, groups in (
        ([0.1, np.nan], 0.1, None), ([[0.1]], 0.1, None), ([0.1], 0.0, None), ([0.1], 1.0, None),
        ([0.1], 0.1, [1, 2]),
    ):  # fmt: skip
        with pytest.raises(InputError, match="conformal_quantile"):
            conformal_quantile(scores, alpha, groups)


def simulated(rng: np.random.Generator, photos: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Scores of people in photos: people of one photo alike, and crowds easier than single people."""
    crowd = rng.random(photos) < 0.3
    sizes = np.where(crowd, 12, 1)
    level = np.where(crowd, 0.2, 0.5) + 0.3 * rng.random(photos)
    group = np.repeat(np.arange(photos), sizes)
    return np.clip(level[group] + 0.02 * rng.standard_normal(len(group)), 0, 0.999), group


def test_coverage_holds_on_new_photos_and_would_not_without_groups() -> None:
    rng, alpha, runs = np.random.default_rng(0), 0.2, 1500
    held, plain = np.zeros(runs), np.zeros(runs)
    for r in range(runs):
        scores, group = simulated(rng, 25)
        new, _ = simulated(rng, 1)
        held[r] = (new <= conformal_quantile(scores, alpha, group)).mean()
        plain[r] = (new <= conformal_quantile(scores, alpha)).mean()
    slack = 3 * 0.5 / np.sqrt(runs)
    assert held.mean() >= 1 - alpha - slack
    assert held.mean() <= 1 - alpha + 1 / 26 + slack + 0.02  # and not by being wide
    assert plain.mean() < 1 - alpha - 2 * slack  # people taken for independent promise too much


# --- regions ---------------------------------------------------------------------------------------------


def people(n: int = 3, thresholds: Thresholds | None = None) -> People:
    maps = spots(n)
    both = ProbabilityMaps.single(maps, identity(n, (12, 16)), KERNELS, thresholds)
    return People((12, 16), skeleton=SKELETON, boxes=np.tile([0, 0, 12, 16], (n, 1)), maps=both)


TWO = Thresholds(np.array([0.8, 0.9]), np.array([[0.3, 0.4], [0.7, 1.0]]))


def test_a_region_is_the_cells_up_to_the_threshold() -> None:
    p = people(3, TWO)
    scores = nested_scores(p.maps.widest.values, KERNELS)  # type: ignore[union-attr]
    for i in range(3):
        for k, name in enumerate(SKELETON.keypoints):
            for a, coverage in enumerate((0.8, 0.9)):
                region = p.region(i, name, coverage=coverage)
                cells = scores[i, k] <= TWO.values[a, k]
                assert np.array_equal(region.on((12, 16)), cells)
                assert region.area == pytest.approx(cells.sum())  # a cell is a pixel here
    whole = p.region(1, "tail", coverage=0.9)
    assert whole.area == pytest.approx(12 * 16) and whole.mass == pytest.approx(1) and whole.level == 0


def test_the_region_of_a_points_own_score_holds_it_and_any_smaller_does_not() -> None:
    maps, crop = spots(4, seed=5), identity(4, (12, 16))
    layer = MapLayer(maps, crop)
    rng = np.random.default_rng(2)
    cells = np.stack([rng.integers(0, 12, (4, 2)), rng.integers(0, 16, (4, 2))], axis=-1)
    scores = conformal_score(maps, cells, KERNELS)
    for i in range(4):
        for k in range(2):
            x, y = cells[i, k]
            region = conformal_region(layer, i, k, scores[i, k], KERNELS)
            assert region.on((12, 16))[y, x]
            if scores[i, k] > 0:
                smaller = np.nextafter(scores[i, k], 0)
                assert not conformal_region(layer, i, k, smaller, KERNELS).on((12, 16))[y, x]


def test_regions_know_what_was_calibrated() -> None:
    with pytest.raises(InputError, match="bodyloop calibrate"):
        people().region(0, "nose", coverage=0.9)
    with pytest.raises(InputError, match=r"0\.95 was not calibrated; this model has 0\.8, 0\.9"):
        people(3, TWO).region(0, "nose", coverage=0.95)
    with pytest.raises(InputError, match="not both"):
        people(3, TWO).region(0, "nose", mass=0.5, coverage=0.9)
    with pytest.raises(InputError, match=r"a threshold lies in 0\.\.1"):
        conformal_region(MapLayer(spots(1), identity(1, (12, 16))), 0, 0, 1.5, KERNELS)
    with pytest.raises(InputError, match="no map"):
        conformal_region(MapLayer(spots(1), identity(1, (12, 16))), 0, 2, 0.5, KERNELS)


def test_thresholds_follow_people_keypoints_and_files(tmp_path: Path) -> None:
    p = people(3, TWO)
    wanted = p.region(2, "tail", coverage=0.8).area
    assert p[2].region(0, "tail", coverage=0.8).area == wanted
    turned = p.in_skeleton(Skeleton.define("turned", ("tail", "nose")))
    assert turned.region(2, "tail", coverage=0.8).area == wanted
    assert turned.maps is not None and turned.maps.thresholds is not None
    assert np.array_equal(turned.maps.thresholds.values, TWO.values[:, ::-1])
    save(p, tmp_path / "p.npz")
    assert load(tmp_path / "p.npz").region(2, "tail", coverage=0.8).area == wanted
    joined = People.concat([p, p])
    assert joined.region(5, "tail", coverage=0.8).area == wanted
    mixed = People.concat([p, people()])
    assert mixed.maps is not None and mixed.maps.thresholds is None  # of two models: nothing is promised


@pytest.mark.parametrize(
    ("coverage", "values"),
    [
        ([0.9, 0.8], [[0.5], [0.6]]),
        ([0.9], [[1.2]]),
        ([1.0], [[0.5]]),
        ([0.9], [0.5]),
        ([0.9], [[0.5], [0.6]]),
    ],
)
def test_thresholds_are_checked(coverage: list[float], values: list[object]) -> None:
    with pytest.raises(InputError, match="thresholds"):
        Thresholds(np.array(coverage), np.array(values))


def test_thresholds_of_other_keypoints_are_refused() -> None:
    with pytest.raises(InputError, match="thresholds of 2 keypoints, maps of 1"):
        ProbabilityMaps.single(spots(1)[:, :1], identity(1, (12, 16)), KERNELS[:1], TWO)
