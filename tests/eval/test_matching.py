"""The matcher against a walk written down as the protocol says it, one prediction after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.eval import matching as m

THRESHOLDS = np.array([0.5, 0.75, 1.0])
GRID = [0.0, 0.3, 0.5, 0.75, 0.9, 1.0]  # few values: ties everywhere


def walk(
    similarity: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, threshold: float
) -> tuple[list[int], list[bool]]:
    """Matched annotation of each prediction (rows, by falling score) and whether it is ignored."""
    order = np.argsort(ignored, kind="stable")
    taken: set[int] = set()
    found, flags = [], []
    for row in similarity:
        best, chosen = min(threshold, 1 - 1e-10), -1
        for g in order:
            if g in taken and not crowd[g]:
                continue
            if chosen >= 0 and not ignored[chosen] and ignored[g]:
                break
            if row[g] < best:
                continue
            best, chosen = row[g], int(g)
        if chosen >= 0:
            taken.add(chosen)
        found.append(chosen)
        flags.append(chosen >= 0 and bool(ignored[chosen]))
    return found, flags


@st.composite
def scenes(draw: st.DrawFn) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Some images, each with similarities (D, G), two rows of ignore flags (2, G) and crowd flags (G,)."""
    out = []
    for _ in range(draw(st.integers(1, 4))):
        d, g = draw(st.integers(0, 5)), draw(st.integers(0, 5))
        cells = draw(st.lists(st.sampled_from(GRID), min_size=d * g, max_size=d * g))
        flags = draw(st.lists(st.booleans(), min_size=3 * g, max_size=3 * g))
        f = np.array(flags, bool).reshape(3, g)
        out.append((np.array(cells).reshape(d, g), f[:2], f[2]))
    return out


@settings(max_examples=300, deadline=None)
@given(scenes())
def test_same_as_the_walk(scenes: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
    images = len(scenes)
    p_image = np.concatenate([np.full(len(s), i) for i, (s, _, _) in enumerate(scenes)]).astype(np.int64)
    a_image = np.concatenate([np.full(f.shape[1], i) for i, (_, f, _) in enumerate(scenes)]).astype(np.int64)
    scores = -np.arange(len(p_image), dtype=np.float64)
    p = m.pair(p_image, np.zeros_like(p_image), scores, a_image, np.zeros_like(a_image), images, 20)
    similarity = np.concatenate([s.ravel() for s, _, _ in scenes])
    ignored = np.concatenate([f for _, f, _ in scenes], axis=1)
    crowd = np.concatenate([c for _, _, c in scenes])
    outside = np.zeros((2, len(p_image)), bool)
    r = m.match(p, similarity, ignored, crowd, outside, THRESHOLDS)
    for i, (s, f, c) in enumerate(scenes):
        rows, first = np.flatnonzero(p_image == i), int(np.searchsorted(a_image, i))
        for a in range(2):
            for t, threshold in enumerate(THRESHOLDS):
                found, flags = walk(s, f[a], c, threshold)
                mine = r.annotation[a, t, rows]
                assert np.where(mine >= 0, mine - first, -1).tolist() == found
                assert r.ignored[a, t, rows].tolist() == flags


def test_results_do_not_depend_on_how_many_outcomes_are_worked_out_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    image, truth = np.sort(rng.integers(0, 50, 300)), np.sort(rng.integers(0, 50, 120))
    zero = np.zeros(300, np.int64)
    p = m.pair(image, zero, rng.uniform(size=300), truth, zero[:120], 50, 20)
    args = (
        p,
        rng.uniform(size=len(p.pair_prediction)),
        rng.uniform(size=(30, 120)) < 0.3,  # 30 area ranges by 3 thresholds: more than 64
        rng.uniform(size=120) < 0.2,
        rng.uniform(size=(30, 300)) < 0.2,
    )
    for thresholds in (THRESHOLDS, np.linspace(0.01, 1, 100)):
        together = m.match(*args, thresholds)
        monkeypatch.setattr(m, "BITS", 2)
        single = m.match(*args, thresholds)
        monkeypatch.undo()
        assert np.array_equal(together.annotation, single.annotation)
        assert np.array_equal(together.ignored, single.ignored)
        assert (together.annotation >= 0).any()
    assert m.match(*args, np.zeros(0)).annotation.shape == (30, 0, 300)


def test_only_the_best_take_part_and_ties_keep_file_order() -> None:
    image, zero = np.array([0, 1, 0, 0]), np.zeros(4, np.int64)
    p = m.pair(image, zero, np.array([0.5, 0.1, 0.9, 0.5]), np.array([1]), zero[:1], 2, 2)
    assert p.predictions.tolist() == [2, 0, 1]  # image 0: 0.9, then the first of the two with 0.5
    assert p.rank.tolist() == [0, 1, 0]
    assert p.pair_prediction.tolist() == [2] and p.pair_annotation.tolist() == [0]
