"""A threshold that keeps the rate of false alarms, shown on finitely many photos.

A keypoint outside its window that is called present is a false alarm. The rate that is kept is an average over
photos: of each photo with keypoints outside, the share of them that is called present. Keypoints of one photo depend
on each other, photos are taken as independent, so a photo is one observation between 0 and 1, and its number of
keypoints does not matter.

Learn then Test (Angelopoulos et al. 2021): thresholds are tried from 1 downwards, and of one after the other "its rate
is above what is wanted" is tested; the last one before the first that is not refuted is taken. As the tests come in a
fixed order, all of them together are wrong with probability at most 1 - confidence. The test is a bet (Waudby-Smith &
Ramdas 2024): whoever bets photo by photo against a true hypothesis multiplies his money by 1 / (1 - confidence) with
probability at most 1 - confidence, for any number of photos, any model and any distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError

Floats = npt.NDArray[np.float64]

STEPS = 1000  # thresholds tried: 1, 0.999, ..., 0
LARGEST_STAKE = (
    0.75  # of what would lose all to one photo; more of it makes the outcome a matter of the order
)


@dataclass(frozen=True)
class Controlled:
    """What was found of a threshold ("present" is a value of at least it).

    Attributes:
        rate, confidence: what was wanted.
        threshold: the lowest one that was shown to keep it; None if none was.
        observed: the mean rate at the threshold (at 1 if there is none).
        photographs, keypoints: with and of keypoints outside the window.
        needed: photographs that would do if no keypoint outside were called present.
    """

    rate: float
    confidence: float
    threshold: float | None
    observed: float
    photographs: int
    keypoints: int
    needed: int

    def __str__(self) -> str:
        seen = f"{self.photographs} photographs with {self.keypoints} keypoints outside their window"
        if self.threshold is not None:
            return (
                f"presence threshold {self.threshold:.3f}: of a photo's keypoints outside at most {self.rate:.0%} are "
                f"called present on average, with {self.confidence:.0%} confidence ({self.observed:.1%} on {seen})"
            )
        why = (
            f"at least {self.needed} photographs are needed, more if some are called present"
            if self.photographs < self.needed
            else f"the surest threshold, 1, still lets {self.observed:.1%} through"
        )
        return (
            f"no presence threshold can be shown to keep {self.rate:.0%} with {self.confidence:.0%} confidence "
            f"on {seen}: {why}"
        )


def control_threshold(
    presence: npt.ArrayLike, photo: npt.ArrayLike, rate: float, confidence: float = 0.9
) -> Controlled:
    """The lowest threshold whose rate of false alarms is shown to be at most ``rate``.

    Args:
        presence: (n,) of keypoints outside their windows; photo: (n,) which photo each is on, any labels.
        rate, confidence: between 0 and 1.

    Raises:
        InputError: other shapes, NaN, or a rate or confidence outside (0, 1).
    """
    p, who = np.asarray(presence, np.float64), np.asarray(photo)
    if p.ndim != 1 or who.shape != p.shape or np.isnan(p).any():
        raise InputError(f"control_threshold: expected presence and photo (n,), got {p.shape}, {who.shape}")
    if not (0 < rate < 1 and 0 < confidence < 1):
        raise InputError(f"rate and confidence must lie between 0 and 1, got {rate} and {confidence}")
    thresholds = np.arange(STEPS, -1, -1) / STEPS
    photos = len(np.unique(who))
    shares = _shares(p, who, thresholds)
    rates = shares.mean(axis=1) if shares.size else np.full(len(thresholds), np.nan)
    passed = refuted(shares, rate, confidence)
    taken = len(passed) if passed.all() else int(np.argmin(passed))  # tests passed before the first failure
    return Controlled(
        rate=rate,
        confidence=confidence,
        threshold=float(thresholds[taken - 1]) if taken else None,
        observed=float(rates[max(taken - 1, 0)]) if photos else float("nan"),
        photographs=photos,
        keypoints=len(p),
        needed=_needed(rate, confidence),
    )


def false_alarms(presence: npt.ArrayLike, photo: npt.ArrayLike, threshold: float) -> Floats:
    """(photos,) share of each photo's keypoints outside that is called present, photos by ascending label."""
    p, who = np.asarray(presence, np.float64), np.asarray(photo)
    return np.asarray(_shares(p, who, np.array([threshold]))[0])


def _shares(p: Floats, photo: npt.NDArray[np.generic], thresholds: Floats) -> Floats:
    """(T, photos) at thresholds (T,) that fall: a keypoint counts from its own value downwards."""
    _, at, count = np.unique(photo, return_inverse=True, return_counts=True)
    first = np.searchsorted(-thresholds, -p, side="left")
    calls = np.zeros((len(thresholds) + 1, len(count)))
    np.add.at(calls, (first, at), 1)
    return np.asarray(calls[:-1].cumsum(axis=0) / count)


def refuted(shares: npt.ArrayLike, rate: float, confidence: float) -> npt.NDArray[np.bool_]:
    """Whether observations speak against a mean of ``rate`` or more: wrongly with probability at most 1 - confidence.

    The money after a photo with share x is multiplied by 1 - b (x - rate). The stake b is chosen before it is seen,
    from the mean and variance so far, and is never so large that all could be lost.

    Args:
        shares: (..., n) independent observations in 0..1, in an order that does not depend on them.
    """
    x = np.asarray(shares, np.float64)
    n = x.shape[-1]
    seen = np.arange(1, n + 1)
    mean = (0.5 + x.cumsum(axis=-1)) / (1 + seen)
    variance = (0.25 + ((x - mean) ** 2).cumsum(axis=-1)) / (1 + seen)
    before = np.concatenate([np.full((*x.shape[:-1], 1), 0.25), variance[..., :-1]], axis=-1)[..., :n]
    stake = np.minimum(np.sqrt(-2 * np.log(1 - confidence) / (n * before)), LARGEST_STAKE / (1 - rate))
    money = np.log1p(-stake * (x - rate)).cumsum(axis=-1).max(axis=-1, initial=0)
    return np.asarray(money >= -np.log(1 - confidence))


def _needed(rate: float, confidence: float) -> int:
    """Photos that would do if none had a false alarm."""
    n = 1
    while not refuted(np.zeros(n), rate, confidence):
        n += 1 + n // 100
    return n
