"""One number that makes a probability honest: temperatures of maps and of side outputs.

Maps: sparsemax gives most cells exactly nothing, so the log loss of the true cell is infinite for many maps and
says nothing. Sparsemax has a loss of its own (Martins & Astudillo 2016; Blondel et al. 2020), which is to sparsemax
what the log loss is to softmax: with p = sparsemax(z), z the logits over the temperature,

    loss = <z, p> - |p|^2 / 2 + 1/2 - z(true cell)

It is convex in 1 / temperature, finite beyond the support, and its gradient in z is p minus the truth: least where
the mean logit under the map equals the mean logit at the true cells. Side outputs: the log loss, convex as well.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.eval import bootstrap as boot
from bodyloop.maps import sparsemax, sparsemax_newton

Floats = npt.NDArray[np.float64]

RANGE = 16.0  # temperatures are looked for between a sixteenth and sixteen times the present one
PER_OCTAVE = 4  # tried temperatures; the least loss is found between them
RESAMPLES = 1000
LEVEL = 0.99  # of the interval that decides whether a temperature is changed
LEAST_PHOTOS = 20  # resamples of fewer photos look surer than they are: the interval is all that was tried
CLIP = 1e-7  # probabilities of 0 and 1 have no logit
STEP_TOLERANCE = 1e-6  # a cell's mass may be off by that much in a file of fixed Newton steps
MOST_STEPS = 32  # float32 needs fewer


@dataclass(frozen=True)
class Fitted:
    """A temperature: what it was, where the loss is least, and the 99 % bootstrap interval of that over photos.

    It is changed only if it lies outside: a few photos are no reason to spoil a number that may be right.
    """

    before: float
    best: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """What it is from now on."""
        return self.before if self.low <= self.before <= self.high else self.best

    def to_json(self) -> dict[str, float]:
        """Plain json."""
        return {**asdict(self), "after": self.value}

    def __str__(self) -> str:
        fitted = f"best {self.best:.4g}, {LEVEL:.0%}: {self.low:.4g} to {self.high:.4g}"
        kept = "" if self.value != self.before else "; kept"
        return f"{self.before:.4g} -> {self.value:.4g} ({fitted}{kept})"


def tried_temperatures(now: float) -> Floats:
    """(T,) temperatures to try, ascending, with the present one in the middle."""
    octaves = round(float(np.log2(RANGE)) * PER_OCTAVE)
    return np.asarray(now * 2.0 ** (np.arange(-octaves, octaves + 1) / PER_OCTAVE))


def fit_temperature(losses: npt.ArrayLike, now: float, image: npt.ArrayLike, seed: int = 0) -> Fitted:
    """The temperature of least mean loss among `tried_temperatures`, and between them.

    Args:
        losses: (M, T), M > 0, at each tried temperature; now: the present one; image: (M,) whose photo, any labels.
        seed: of the resamples of photos.

    Raises:
        InputError: no entries.
    """
    mean, tried = np.asarray(losses, np.float64), tried_temperatures(now)
    if not len(mean):
        raise InputError("there is no keypoint labelled in its window: nothing to fit a temperature on")
    ids, at = np.unique(np.asarray(image), return_inverse=True)
    low, high = tried[[0, -1]]
    if len(ids) >= LEAST_PHOTOS:
        weights = boot.draw(len(ids), np.random.default_rng(seed), RESAMPLES)
        resampled = _least(boot.sums(mean, at, weights), tried)
        low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    best = float(_least(mean.sum(axis=0)[None], tried)[0])
    return Fitted(float(now), best, float(low), float(high))


def _least(sums: Floats, tried: Floats) -> Floats:
    """(R,) where each row (R, T) is least: the vertex of the parabola through the three lowest, in log temperature; at
    an end of the range that end."""
    at = np.clip(sums.argmin(axis=1), 1, len(tried) - 2)
    left, here, right = (np.take_along_axis(sums, (at + d)[:, None], 1)[:, 0] for d in (-1, 0, 1))
    bend = left - 2 * here + right
    step = np.divide(left - right, 2 * bend, out=np.zeros(len(sums)), where=bend > 0)
    return np.asarray(tried[at] * (tried[1] / tried[0]) ** np.clip(step, -1, 1))


def sparsemax_losses(logits: npt.ArrayLike, cells: npt.ArrayLike, temperatures: npt.ArrayLike) -> Floats:
    """The loss of each map at each temperature.

    Args:
        logits: (M, h, w); cells: (M, 2) int x y of the true cells; temperatures: (T,).
    Returns: (M, T) float64, not negative.
    """
    z, at = np.asarray(logits), np.asarray(cells)
    m, w = len(z), z.shape[-1]
    flat = z.reshape(m, -1).astype(np.float64)
    true = flat[np.arange(m), at[:, 1] * w + at[:, 0]]
    out = np.empty((m, np.size(temperatures)))
    for t, temperature in enumerate(np.ravel(temperatures)):
        p = sparsemax(z, temperature).reshape(m, -1).astype(np.float64)
        inner = np.einsum("mc,mc->m", flat, p)
        out[:, t] = (inner - true) / temperature + (1 - np.einsum("mc,mc->m", p, p)) / 2
    return np.maximum(out, 0)


def log_losses(probability: npt.ArrayLike, truth: npt.ArrayLike, factors: npt.ArrayLike) -> Floats:
    """Log loss of each probability with its temperature multiplied by each factor: (n, T).

    Args:
        probability: (n,) in 0..1; truth: (n,) labels or shares in 0..1; factors: (T,).
    """
    y = np.asarray(truth, np.float64)[:, None]
    z = logit(np.asarray(probability, np.float64))[:, None] / np.asarray(factors, np.float64)
    return np.asarray(np.logaddexp(0, z) - y * z)


def logit(p: Floats) -> Floats:
    """Log odds of probabilities, those of 0 and 1 held at 1e-7 from there."""
    c = np.clip(p, CLIP, 1 - CLIP)
    return np.asarray(np.log(c) - np.log1p(-c))


def steps_needed(logits: npt.ArrayLike, temperature: float, least: int) -> int:
    """Newton steps that the maps of these logits take to be exact within 1e-6, at least ``least``.

    Args:
        logits: (..., h, w).
    """
    z = np.asarray(logits, np.float32).reshape(-1, *np.shape(logits)[-2:])
    exact = sparsemax(z, temperature)
    for steps in range(least, MOST_STEPS):
        off = np.abs(sparsemax_newton(z, steps, temperature) - exact).max(axis=(1, 2)) > STEP_TOLERANCE
        if not off.any():
            return steps
        z, exact = z[off], exact[off]
    return MOST_STEPS
