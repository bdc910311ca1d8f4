"""One number that makes a probability honest: temperatures of maps and of side outputs.

A map's temperature moves its sharpness and hardly the order of its cells, so it is told by what a region promises:
of the regions that hold a share q of their maps, a share q should hold the truth. What is made least is the mean
difference over the levels q, of maps as they are used (averaged over the flip test, if there is one). Regions are
made of whole cells and so hold more than q; here the last cell counts in part, or sharp maps that are right would
look too careful. A log loss is of no use: sparsemax gives many true cells exactly nothing. Side outputs have one.

A temperature is changed if its interval over photos excludes the one it has, and if that helps photos it was not
fitted on, by cross-validation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.calibration import LEVELS
from bodyloop.maps import sparsemax, sparsemax_newton

Floats = npt.NDArray[np.float64]

RANGE = 16.0  # temperatures are looked for between a sixteenth and sixteen times the present one
PER_OCTAVE = 4  # tried temperatures; the least loss is found between them
FOLDS = 5  # of the cross-validation; fewer photos than this times two are too few for one
LEAST_GAIN = 1e-6  # of a loss: less is rounding
RESAMPLES = 1000
CLIP = 1e-7  # probabilities of 0 and 1 have no logit
STEP_TOLERANCE = 1e-6  # a cell's mass may be off by that much in a file of fixed Newton steps
MOST_STEPS = 32  # float32 needs fewer


@dataclass(frozen=True)
class Fitted:
    """A temperature: what it was, where the loss is least and the 95 % bootstrap interval of that over photos.

    Attributes:
        gain: by how much the loss of photos that it was not fitted on fell, against leaving it as it was.
    """

    before: float
    best: float
    low: float
    high: float
    gain: float

    @property
    def value(self) -> float:
        """What it is from now on: a few photos are no reason to spoil a number that may be right."""
        apart = not self.low <= self.before <= self.high
        return self.best if apart and self.gain > LEAST_GAIN else self.before

    def to_json(self) -> dict[str, float]:
        """Plain json."""
        return {**asdict(self), "after": self.value}

    def __str__(self) -> str:
        kept = "; kept, as no other is shown to be better" if self.value == self.before else ""
        where = f"best {self.best:.4g}, 95%: {self.low:.4g} to {self.high:.4g}"
        return f"{self.before:.4g} -> {self.value:.4g} ({where}{kept})"


@dataclass(frozen=True, eq=False)
class Tried:
    """What I photos say of T temperatures.

    Attributes:
        sums: (I, T) losses, or (I, T, Q) shares of true cells held at levels Q, summed over each photo's entries.
        counts: (I,) entries.
        levels: (Q,) that the shares should be; None for losses.
    """

    sums: Floats
    counts: Floats
    levels: Floats | None = None

    def __len__(self) -> int:
        return len(self.counts)

    def loss(self, weights: Floats) -> Floats:
        """(R, T) of photos that count as often as ``weights`` (R, I) say."""
        mean = np.tensordot(weights, self.sums, 1)
        mean /= (weights @ self.counts).reshape(-1, *[1] * (mean.ndim - 1))
        return mean if self.levels is None else np.asarray(np.abs(mean - self.levels).mean(axis=-1))

    def validated(self, rng: np.random.Generator) -> float:
        """The loss of all photos, each at the temperature that is best for those of the other folds."""
        fold = rng.permutation(np.arange(len(self)) % FOLDS)
        apart = np.stack([fold != f for f in range(FOLDS)]).astype(np.float64)
        chosen = self.loss(apart).argmin(axis=1)[fold]
        own = self.sums[np.arange(len(self)), chosen][:, None]
        return float(Tried(own, self.counts, self.levels).loss(np.ones((1, len(self))))[0, 0])


def tried_temperatures(now: float) -> Floats:
    """(T,) temperatures to try, ascending, with the present one in the middle."""
    octaves = round(float(np.log2(RANGE)) * PER_OCTAVE)
    return np.asarray(now * 2.0 ** (np.arange(-octaves, octaves + 1) / PER_OCTAVE))


def fit_temperature(seen: Tried, now: float, seed: int = 0) -> Fitted:
    """The temperature of least loss among `tried_temperatures`, and between them.

    Raises:
        InputError: no entries.
    """
    if not seen.counts.sum():
        raise InputError("there is no keypoint labelled in its window: nothing to fit a temperature on")
    tried, rng = tried_temperatures(now), np.random.default_rng(seed)
    losses = seen.loss(np.ones((1, len(seen))))
    low, high = tried[[0, -1]]
    gain = 0.0
    if len(seen) >= 2 * FOLDS:
        low, high = np.quantile(
            _least(seen.loss(boot.draw(len(seen), rng, RESAMPLES)), tried), [0.025, 0.975]
        )
        gain = float(losses[0, len(tried) // 2]) - seen.validated(rng)
    return Fitted(float(now), float(_least(losses, tried)[0]), float(low), float(high), gain)


def _least(losses: Floats, tried: Floats) -> Floats:
    """(R,) where each row (R, T) is least: the vertex of the parabola through the three lowest, in log temperature; at
    an end of the range that end."""
    at = np.clip(losses.argmin(axis=1), 1, len(tried) - 2)
    left, here, right = (np.take_along_axis(losses, (at + d)[:, None], 1)[:, 0] for d in (-1, 0, 1))
    bend = left - 2 * here + right
    step = np.divide(left - right, 2 * bend, out=np.zeros(len(losses)), where=bend > 0)
    return np.asarray(tried[at] * (tried[1] / tried[0]) ** np.clip(step, -1, 1))


def coverage_shares(
    logits: npt.ArrayLike,
    cells: npt.ArrayLike,
    temperatures: npt.ArrayLike,
    mirrored: npt.ArrayLike | None = None,
) -> Floats:
    """How much of each true cell lies in the regions that hold 0.05, 0.1, ..., 0.95 of its map.

    Cells are taken greatest first, equal ones together, the last ones in part. Of maps that are right the mean is the
    level, however few cells they have.

    Args:
        logits: (M, h, w); mirrored: the same of the mirrored crops, put back, if maps are averaged with theirs.
        cells: (M, 2) int x y of the true cells; temperatures: (T,).
    Returns: (M, T, 19) in 0..1.
    """
    z, at = np.asarray(logits), np.asarray(cells)
    m, levels = len(z), np.asarray(LEVELS)
    true = (np.arange(m), at[:, 1] * z.shape[-1] + at[:, 0])
    out = np.empty((m, np.size(temperatures), len(levels)))
    for t, temperature in enumerate(np.ravel(temperatures)):
        maps = sparsemax(z, temperature).reshape(m, -1)
        if mirrored is not None:
            maps = (maps + sparsemax(mirrored, temperature).reshape(m, -1)) / 2
        own = maps[true][:, None]
        before = np.where(maps > own, maps, 0).sum(axis=1, dtype=np.float64)[:, None]
        mass = np.where(maps == own, maps, 0).sum(axis=1, dtype=np.float64)[:, None]
        part = np.divide(levels - before, mass, out=np.zeros((m, len(levels))), where=mass > 0)
        out[:, t] = np.clip(part, 0, 1)
    return out


def log_losses(probability: npt.ArrayLike, truth: npt.ArrayLike, factors: npt.ArrayLike) -> Floats:
    """Log loss of each probability with its temperature multiplied by each factor: (n, T).

    Args:
        probability: (n,) in 0..1; truth: (n,) labels or shares in 0..1; factors: (T,).
    """
    y = np.asarray(truth, np.float64)[:, None]
    z = logit(np.asarray(probability, np.float64))[:, None] / np.asarray(factors, np.float64)
    return np.asarray(np.logaddexp(0, z) - y * z)


def of_photos(values: npt.NDArray[np.floating], image: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Sums (I, ...) of values (M, ...) by photo, and how many there are (I,); image: (M,) any labels."""
    ids, at, count = np.unique(np.asarray(image), return_inverse=True, return_counts=True)
    return boot.per_image(values, at, len(ids)), count.astype(np.float64)


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
