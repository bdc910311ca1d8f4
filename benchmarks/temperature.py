"""Ways to choose the maps' temperature, on random splits by photo.

    python benchmarks/temperature.py DATA/coco/dev.json [--model pmpose-n] [--photos 74] [--splits 100] [--no-flip]

The model is run once on annotated boxes. Every split chooses a temperature on some photos by the least difference of
coverage and level (what `bodyloop calibrate` does), by sparsemax's own loss (of maps before the flip average), or not
at all, and is judged on the other photos by `bodyloop eval calibration`'s error and by the one that is made least.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bodyloop.api import load_pose
from bodyloop.calibrate import Tried, coverage_shares
from bodyloop.calibrate.listen import Heard, Listener
from bodyloop.eval.boxed import predict_boxed
from bodyloop.eval.calibration import LEVELS, map_calibration
from bodyloop.eval.photos import PhotoSet
from bodyloop.maps import sparsemax

Q = np.array(LEVELS)


def sparsemax_losses(logits: np.ndarray, cells: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """(M, T): <z, p> - |p|^2 / 2 + 1/2 - z(true cell), z the logits over the temperature, p = sparsemax(z)."""
    m = np.arange(len(logits))
    out = []
    for t in temperatures:
        z = logits.reshape(len(m), -1) / t
        p = sparsemax(logits, t).reshape(z.shape)
        true = z[m, cells[:, 1] * logits.shape[-1] + cells[:, 0]]
        out.append((z * p - p * p / 2).sum(axis=1) + 0.5 - true)
    return np.stack(out, axis=1)


class Sums:
    """What each photo says of many temperatures."""

    def __init__(self, temperatures: np.ndarray) -> None:
        self.temperatures = temperatures
        self.parts: list[tuple[np.ndarray, ...]] = []

    def __call__(self, heard: Heard) -> None:
        """Listen to a photo."""
        assert heard.logits is not None
        of, t = heard.counted, self.temperatures
        if not of.any():
            return
        logits, cells = heard.logits[of], heard.cells[of]
        mirrored = None if heard.mirrored is None else heard.mirrored[of]
        held = []
        for one in t:
            maps = sparsemax(logits, one)
            maps = maps if mirrored is None else (maps + sparsemax(mirrored, one)) / 2
            held.append(map_calibration(maps, cells).covered)
        shares = coverage_shares(logits, cells, t, mirrored)
        losses = sparsemax_losses(logits, cells, t)
        self.parts.append((shares.sum(0), losses.sum(0), np.stack(held, 1).sum(0), np.array(len(cells))))

    def tried(self) -> tuple[Tried, Tried, Tried]:
        """Shares, losses, and what whole-cell regions hold."""
        shares, losses, held, counts = (np.stack(p).astype(np.float64) for p in zip(*self.parts, strict=True))
        return Tried(shares, counts, Q), Tried(losses, counts), Tried(held, counts, Q)


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a COCO keypoint file")
    parser.add_argument("--model", default="pmpose-n")
    parser.add_argument("--photos", type=int, default=74, help="to choose on")
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--no-flip", action="store_true")
    asked = parser.parse_args()
    photos, model = PhotoSet.open(asked.data), load_pose(asked.model, threads=1, detector=None)
    assert model.card.decode is not None
    temperatures = model.card.decode.temperature * 2.0 ** (np.arange(-8, 9) / 8)
    heard = Sums(temperatures)
    predict_boxed(Listener(model, photos, [heard], logits="logits"), photos, flip=not asked.no_flip)
    shares, losses, held = heard.tried()
    rng, n, found = np.random.default_rng(0), len(shares), []
    for _ in range(asked.splits):
        some = (rng.permutation(n) < asked.photos).astype(np.float64)[None]
        chosen = shares.loss(some).argmin(), losses.loss(some).argmin(), len(temperatures) // 2
        judged = held.loss(1 - some)[0], shares.loss(1 - some)[0]
        found.append([(np.log(temperatures[c]), *(j[c] for j in judged)) for c in chosen])
    names = ("coverage", "sparsemax loss", "as it is")
    for name, (log, whole, part) in zip(names, np.array(found).transpose(1, 2, 0), strict=True):
        print(
            f"{name:<15} temperature {np.exp(np.median(log)):.2f} (standard deviation of its logarithm "
            f"{log.std():.3f}); on the other photos error {whole.mean():.4f}, with cells in part {part.mean():.4f}"
        )


if __name__ == "__main__":
    main()
