from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bodyloop.errors import ConfigError, InputError
from bodyloop.eval import presence as m

VALUES = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=30
)


def test_by_hand() -> None:
    # positives 0.9, 0.5; negatives 0.5, 0.1: pairs won 1 + 1 + 1/2 + 1
    r = m.evaluate_presence([0.9, 0.5, 0.5, 0.1, 0.3], [2, 1, 3, 3, 0])
    assert (r.positives, r.negatives) == (2, 2)
    assert r.auroc == 3.5 / 4
    assert (r.confusion.tp, r.confusion.fp, r.confusion.fn, r.confusion.tn) == (2, 1, 0, 1)  # 0.5 is "yes"
    assert r.confusion.balanced_accuracy == 0.75
    assert r.brier == pytest.approx((0.01 + 0.25 + 0.25 + 0.01) / 4)
    # distinct thresholds 0.9 (precision 1, recall 1/2), 0.5 (precision 2/3, recall 1)
    assert r.average_precision == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_visibility_uses_flags_1_and_2_only() -> None:
    r = m.evaluate_presence([0.9, 0.1, 0.7, 0.2], [2, 1, 3, 0], task="visibility")
    assert (r.positives, r.negatives, r.auroc) == (1, 1, 1.0)


@given(VALUES)
def test_auroc_is_the_share_of_pairs_won(pairs: list[tuple[float, bool]]) -> None:
    p, y = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    won = [(a > b) + (a == b) / 2 for a in p[y] for b in p[~y]]
    assert m.auroc(p, y) == (pytest.approx(np.mean(won)) if won else None)


@given(VALUES)
def test_reliability_counts_everything_once(pairs: list[tuple[float, bool]]) -> None:
    p, y = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])
    r = m.reliability(p, y, 10)
    assert r.count.sum() == len(p)
    assert r.ece <= r.mce <= 1
    weighed = np.nansum(r.count * np.nan_to_num(r.observed))
    assert weighed == pytest.approx(y.sum())


def test_the_value_1_is_in_the_last_bin() -> None:
    r = m.reliability(np.array([1.0]), np.array([True]), 10)
    assert r.count.tolist() == [0] * 9 + [1] and r.ece == 0
    assert "1.00" in r.table()


@pytest.mark.parametrize("flags", [[2, 1], [3, 3]])
def test_one_class_only_has_no_auroc(flags: list[int]) -> None:
    r = m.evaluate_presence([0.2, 0.8], flags)
    assert r.auroc is None and r.confusion.balanced_accuracy is None
    assert r.to_json()["auroc"] is None and "-" in r.table()


def test_nothing_labelled() -> None:
    r = m.evaluate_presence(np.zeros((2, 3)), np.zeros((2, 3)))
    assert r.brier is None and r.auroc is None and r.reliability == {}


def test_values_of_unlabelled_keypoints_do_not_matter() -> None:
    assert m.evaluate_presence([0.5, np.nan], [2, 0]).positives == 1


@pytest.mark.parametrize("bad", [np.nan, 1.5, -0.1, np.inf])
def test_what_is_no_probability(bad: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        m.evaluate_presence([bad, 0.5], [2, 3])


def test_shapes_and_tasks() -> None:
    with pytest.raises(InputError, match="shape"):
        m.evaluate_presence([0.5], [[2]])
    with pytest.raises(ConfigError, match="presence, visibility"):
        m.labels_of(np.array([1]), "absence")
