"""Which samples make up batch number n: several sources in fixed numbers, each an endless row of permutations.

Everything follows from (seed, n) alone, without a state that would have to be kept: a run that goes on, and
any number of processes or workers, see the same samples (published sampling, spec 11.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError


class Mixture:
    """Draws from sources of given lengths.

    Args:
        lengths: samples of each source. shares: how much of a batch each gets, any positive numbers.
        seed: of the permutations.
    """

    def __init__(self, lengths: Sequence[int], shares: Sequence[float], seed: int = 0) -> None:
        if len(lengths) != len(shares) or not lengths or min(lengths) < 1 or min(shares) <= 0:
            raise ConfigError(
                f"sources need samples and positive shares, got {list(lengths)}, {list(shares)}"
            )
        self.lengths = tuple(lengths)
        self.shares = tuple(shares)
        self.seed = seed
        self._orders: dict[tuple[int, int], npt.NDArray[np.int64]] = {}

    def counts(self, size: int) -> list[int]:
        """Samples of each source in a batch: rounded down, the first source gets the rest."""
        whole = sum(self.shares)
        counts = [int(size * s / whole) for s in self.shares]
        counts[0] += size - sum(counts)
        return counts

    def draw(self, n: int, size: int) -> list[tuple[int, int]]:
        """(source, index) of every sample of batch ``n``, by source."""
        out = []
        for source, count in enumerate(self.counts(size)):
            for at in range(n * count, (n + 1) * count):
                turn, place = divmod(at, self.lengths[source])
                out.append((source, int(self._order(source, turn)[place])))
        return out

    def batches_per_epoch(self, size: int) -> int:
        """Batches that hold as many samples as there are (ceil)."""
        return -(-sum(self.lengths) // size)

    def _order(self, source: int, turn: int) -> npt.NDArray[np.int64]:
        key = (source, turn)
        if key not in self._orders:
            for old in [k for k in self._orders if k[0] == source]:
                del self._orders[old]
            rng = np.random.Generator(np.random.PCG64([self.seed, source, turn]))
            self._orders[key] = rng.permutation(self.lengths[source])
        return self._orders[key]


def parse_sources(sources: Sequence[str]) -> dict[str, float]:
    """``name:share`` (share 1 if it is left out) as a table, in the given order.

    Raises:
        ConfigError: none, twice the same, or a share that is no positive number.
    """
    out: dict[str, float] = {}
    for text in sources:
        name, _, share = text.partition(":")
        try:
            value = float(share or 1)
        except ValueError:
            value = 0.0
        if not value > 0 or not name or name in out:
            raise ConfigError(f"source {text!r}: expected name:share, each name once, for instance coco:2")
        out[name] = value
    if not out:
        raise ConfigError("a training needs sources, for instance coco:1")
    return out
