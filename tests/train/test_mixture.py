"""Batches of several sources: fixed numbers, everybody once a turn, the same whenever asked."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodyloop.errors import ConfigError
from bodyloop.train.mixture import Mixture, parse_sources


def test_published_counts() -> None:
    sizes = [149813, 22246, 378352]
    assert Mixture([5, 5, 5], sizes).counts(128) == [36, 5, 87]
    assert Mixture([5, 5, 5], [1, 1, 1]).counts(64) == [22, 21, 21]
    assert Mixture([149813, 22246, 378352], sizes).batches_per_epoch(128) == 4301


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(3, 12), st.integers(0, 5))
def test_everybody_once_a_turn(lengths: list[int], size: int, seed: int) -> None:
    m = Mixture(lengths, [1.0] * len(lengths), seed)
    turns = 4 * max(lengths)
    drawn = Counter(ref for n in range(turns) for ref in m.draw(n, size))
    for source, length in enumerate(lengths):
        counts = [drawn[source, i] for i in range(length)]
        assert max(counts) - min(counts) <= 1
    assert sum(drawn.values()) == turns * size


def test_any_batch_at_any_time() -> None:
    a, b = (Mixture([7, 11], [2, 1], 3) for _ in range(2))
    forward = [a.draw(n, 6) for n in range(20)]
    assert [b.draw(n, 6) for n in reversed(range(20))] == forward[::-1]
    assert forward != [Mixture([7, 11], [2, 1], 4).draw(n, 6) for n in range(20)]


def test_sources() -> None:
    assert parse_sources(["coco:3", "more"]) == {"coco": 3.0, "more": 1.0}
    for bad in ([], ["coco:x"], ["coco:0"], ["coco", "coco:2"], [":1"]):
        with pytest.raises(ConfigError, match="coco"):
            parse_sources(bad)
