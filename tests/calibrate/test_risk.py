"""The presence threshold: rates and bets by hand, and how often the promise is broken on drawn photos."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.calibrate import Controlled, control_threshold, false_alarms, refuted
from bodyloop.errors import InputError

Floats = npt.NDArray[np.float64]


def test_false_alarms_are_shares_of_each_photo() -> None:
    presence, photo = [0.9, 0.2, 0.6, 0.6, 0.1], [7, 7, 3, 7, 3]
    np.testing.assert_allclose(false_alarms(presence, photo, 0.6), [1 / 2, 2 / 3])  # photos 3, 7; 0.6 counts
    np.testing.assert_allclose(false_alarms(presence, photo, 0.61), [0, 1 / 3])
    np.testing.assert_allclose(false_alarms(presence, photo, 0.0), [1, 1])


def test_a_bet_worked_by_hand() -> None:
    # rate 1/2, two photos without a false alarm. Both stakes are the largest, 0.75 / 0.5 = 1.5 (the first would be
    # sqrt(2 ln 2 / (2 * 0.25)) = 1.67 for confidence 1/2): the money is 1.75 and then 1.75^2 = 3.06
    assert refuted([0.0, 0.0], 0.5, 0.5)
    assert refuted([0.0, 0.0], 0.5, 1 - 1 / 3)
    assert not refuted([0.0, 0.0], 0.5, 1 - 1 / 3.1)
    assert not refuted([0.0], 0.5, 0.5)
    assert not refuted([0.0, 0.0], 0.5, 0.9)
    assert not refuted([0.5, 0.5], 0.5, 0.5)  # the mean is the rate: nothing is won
    assert not refuted(np.zeros(0), 0.5, 0.5)
    assert refuted([0.0, 0.0, 1.0, 1.0], 0.5, 0.5)  # refuted after two; what comes later does not undo it


def test_many_hypotheses_at_once_are_as_one_by_one() -> None:
    shares = np.random.default_rng(0).random((5, 30)) * np.array([0, 0.05, 0.1, 0.3, 1])[:, None]
    together = refuted(shares, 0.2, 0.9)
    assert [bool(refuted(s, 0.2, 0.9)) for s in shares] == together.tolist()
    assert together[0] and not together[-1]


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, n: (rng.random(n) < 0.2).astype(float),  # all or nothing
        lambda rng, n: (rng.random(n) < 0.4) * 0.5,
        lambda rng, n: rng.beta(0.4, 1.6, n),
        lambda rng, n: np.full(n, 0.2),
        lambda rng, n: (rng.random(n) < 0.02) * 0.8 + 0.184,
    ],
    ids=["bernoulli", "half", "beta", "constant", "rare"],
)
@pytest.mark.parametrize("n", [8, 40, 150])
def test_a_true_mean_is_refuted_seldom_enough(draw: object, n: int) -> None:
    rng = np.random.default_rng(n)
    runs = 3000
    shares = np.stack([draw(rng, n) for _ in range(runs)])  # type: ignore[operator]
    assert shares.mean() == pytest.approx(0.2, abs=0.02)
    wrong = refuted(shares, 0.2, 0.9).mean()
    assert wrong <= 0.1 + 3 * np.sqrt(0.09 / runs)


def drawn(rng: np.random.Generator, photos: int) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Presence of keypoints outside: alike within a photo; some photos are hard."""
    sizes = rng.integers(1, 9, photos)
    hard = rng.random(photos) < 0.25
    level = np.where(hard, rng.uniform(0.3, 1, photos), rng.uniform(0, 0.6, photos))
    photo = np.repeat(np.arange(photos), sizes)
    return np.clip(level[photo] + rng.normal(0, 0.1, len(photo)), 0, 0.999), photo


def test_the_promise_is_kept_on_most_splits_and_a_naive_choice_would_not() -> None:
    rng, rate, runs = np.random.default_rng(0), 0.1, 150
    grid = np.arange(0, 51) / 50
    presence, photo = drawn(np.random.default_rng(99), 20_000)
    truth = np.array([false_alarms(presence, photo, t).mean() for t in grid])
    broken, naive, found = 0, 0, 0
    for _ in range(runs):
        p, who = drawn(rng, 60)
        c = control_threshold(p, who, rate, 0.9)
        if c.threshold is not None:
            found += 1
            broken += np.interp(c.threshold, grid, truth) > rate
        seen = np.array([false_alarms(p, who, t).mean() for t in grid])
        naive += np.interp(grid[np.argmax(seen <= rate)], grid, truth) > rate
    assert found == runs
    assert broken / runs <= 0.1 + 3 * np.sqrt(0.09 / runs)
    assert naive / runs > 0.3  # the threshold that just keeps the rate on what was seen


def test_a_threshold_by_hand() -> None:
    # 100 photos with one keypoint outside each: 99 at 0.3, one at 0.75
    presence, photo = np.append(np.full(99, 0.3), 0.75), np.arange(100)
    c = control_threshold(presence, photo, 0.1, 0.9)
    assert c.threshold == pytest.approx(0.301)  # the one alarm of 100 is allowed, 99 more are not
    assert c.observed == pytest.approx(0.01)
    assert (c.photographs, c.keypoints) == (100, 100)
    assert "presence threshold 0.301" in str(c) and "90% confidence" in str(c)


def test_too_few_photos_are_told_so() -> None:
    c = control_threshold(np.zeros(10), np.arange(10), 0.1, 0.9)
    assert c.threshold is None and c.needed > 20
    assert f"at least {c.needed} photographs are needed" in str(c)
    enough = control_threshold(np.zeros(c.needed), np.arange(c.needed), 0.1, 0.9)
    assert enough.threshold == 0.001  # 0 would call them present
    assert control_threshold(np.zeros(c.needed - 1), np.arange(c.needed - 1), 0.1, 0.9).threshold is None
    nobody = control_threshold([], [], 0.1, 0.9)
    assert nobody.threshold is None and nobody.photographs == 0 and np.isnan(nobody.observed)
    assert "needed" in str(nobody)


def test_certain_false_alarms_leave_no_threshold() -> None:
    c = control_threshold(np.ones(100), np.arange(100), 0.1, 0.9)
    assert c.threshold is None and c.observed == 1
    assert "surest threshold, 1, still lets 100.0% through" in str(c)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_photos_count_not_keypoints_and_order_within_a_photo_is_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    presence, photo = drawn(rng, 30)
    one = control_threshold(presence, photo, 0.2, 0.8)
    order = np.argsort(photo + rng.random(len(photo)) * 0.5)
    assert control_threshold(presence[order], photo[order], 0.2, 0.8) == one
    twice = control_threshold(np.repeat(presence, 2), np.repeat(photo, 2), 0.2, 0.8)
    assert (twice.threshold, twice.photographs) == (one.threshold, one.photographs)


@pytest.mark.parametrize(
    ("presence", "photo", "rate", "confidence"),
    [
        ([0.5, np.nan], [1, 2], 0.1, 0.9),
        ([0.5], [1, 2], 0.1, 0.9),
        ([0.5], [1], 0.0, 0.9),
        ([0.5], [1], 0.1, 1.0),
    ],
)
def test_what_cannot_be_controlled(presence: object, photo: object, rate: float, confidence: float) -> None:
    with pytest.raises(InputError):
        control_threshold(presence, photo, rate, confidence)  # type: ignore[arg-type]


def test_controlled_is_plain() -> None:
    c = Controlled(0.1, 0.9, 0.5, 0.02, 30, 50, 23)
    assert vars(c)["threshold"] == 0.5
