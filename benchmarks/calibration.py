"""Conformal regions over many random splits by photo: do they hold what they promise, and how large are they?

    python benchmarks/calibration.py DATA/coco/dev.json [--model pmpose-n] [--splits 20]

The model is run once (annotated boxes, flip test); every split fits thresholds on half of the photos and judges
them on the other half. Printed are means over the splits, the range of the splits' coverage, and what an average
hides: keypoints labelled as visible and as hidden, and maps by their spread.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from bodyloop.api import load_pose
from bodyloop.calibrate import over_splits
from bodyloop.calibrate.listen import Heard, Listener, Regions
from bodyloop.eval.boxed import predict_boxed
from bodyloop.eval.photos import PhotoSet
from bodyloop.maps import moments


class Kinds:
    """Whether each keypoint is hidden, and how far its map spreads."""

    def __init__(self) -> None:
        self.hidden: list[np.ndarray] = []
        self.spread: list[np.ndarray] = []

    def __call__(self, heard: Heard) -> None:
        """Listen to a photo."""
        covariance = moments(heard.maps).covariance[heard.counted]
        self.hidden.append(heard.hidden[heard.counted])
        self.spread.append(np.sqrt(np.trace(covariance, axis1=1, axis2=2) / 2))


def main() -> None:
    """Read the arguments, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="a COCO keypoint file")
    parser.add_argument("--model", default="pmpose-n")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--no-flip", action="store_true")
    asked = parser.parse_args()
    photos = PhotoSet.open(asked.data)
    model, heard = load_pose(asked.model, threads=1, detector=None), Regions(keep=True)
    kinds = Kinds()
    predict_boxed(Listener(model, photos, [heard, kinds]), photos, flip=not asked.no_flip)
    hidden, spread = np.concatenate(kinds.hidden), np.concatenate(kinds.spread)
    quarter = np.searchsorted(np.quantile(spread, [0.25, 0.5, 0.75]), spread)
    names = model.skeleton.keypoints
    print(f"{model}: {len(heard.scores.score)} keypoints in {len(np.unique(heard.scores.image))} photos")
    for alpha in (0.2, 0.1, 0.05):
        judged = over_splits(heard.scores, heard.cells, names, alpha, repeats=asked.splits)
        n = {k: np.array([j.numbers()[k] for j in judged]) for k in judged[0].numbers()}
        each = {k: np.mean([j.each[k] for j in judged if k in j.each]) for k in judged[0].each}
        worst, best = min(each, key=lambda k: each[k]), max(each, key=lambda k: each[k])
        print(
            f"alpha {alpha:g}: coverage {n['coverage'].mean():.4f} ({n['coverage'].min():.4f} to "
            f"{n['coverage'].max():.4f} over {asked.splits} splits), photos counted once "
            f"{n['coverage_of_photographs'].mean():.4f}; by keypoint {each[worst]:.4f} ({worst}) to "
            f"{each[best]:.4f} ({best}); share of the window: median {n['median_share'].mean():.4f}, mean "
            f"{n['mean_share'].mean():.4f}; whole windows {n['whole_windows'].mean():.4f}"
        )
        parts = {
            "visible": ~hidden,
            "hidden": hidden,
            **{f"spread {q + 1}/4": quarter == q for q in range(4)},
        }
        held = {k: np.mean([j.covered[of[j.row]].mean() for j in judged]) for k, of in parts.items()}
        print("    " + ", ".join(f"{k} {v:.4f}" for k, v in held.items()))


if __name__ == "__main__":
    main()
