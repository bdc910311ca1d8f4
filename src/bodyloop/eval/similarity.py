"""How alike a predicted and an annotated person are, for all pairs of an evaluation: OKS.

A similarity is a function of pairs (`evidence.Similarity`), made from the arrays of both files.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bodyloop.eval.accumulate import EPS
from bodyloop.eval.evidence import Similarity

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PAIRS_AT_ONCE = 50_000  # bounds the memory of the distances: about 20 MB


def oks_of_pairs(predicted: Floats, truth: Floats, boxes: Floats, area: Floats, sigmas: Floats) -> Similarity:
    """Object keypoint similarity as a function of pairs.

    Args:
        predicted: (P, K, 3), truth: (G, K, 3) with flags; boxes: (G, 4) x y w h; area: (G,); sigmas: (K,).

    For an annotation with labelled keypoints, the mean of exp(-d^2 / (2 (2 sigma)^2 area)) over them; for one
    without (a crowd), d is the distance to its box grown to three times its size, over all keypoints.
    """
    variance = (sigmas * 2) ** 2
    labelled = truth[..., 2] > 0
    count = labelled.sum(axis=1)
    columns = np.argsort(~labelled, axis=1, kind="stable")  # the labelled keypoints first
    x0, y0 = boxes[:, 0] - boxes[:, 2], boxes[:, 1] - boxes[:, 3]
    x1, y1 = boxes[:, 0] + boxes[:, 2] * 2, boxes[:, 1] + boxes[:, 3] * 2

    def distances(p: Ints, g: Ints, n: int) -> tuple[Floats, Floats, Floats]:
        if n == 0:
            x, y = predicted[p, :, 0], predicted[p, :, 1]
            dx = np.maximum(0, x0[g, None] - x) + np.maximum(0, x - x1[g, None])
            dy = np.maximum(0, y0[g, None] - y) + np.maximum(0, y - y1[g, None])
            return dx, dy, np.broadcast_to(variance, dx.shape)
        k = columns[g, :n]
        d = predicted[p[:, None], k, :2] - truth[g[:, None], k, :2]
        return d[..., 0], d[..., 1], variance[k]

    def similarity(p: Ints, g: Ints) -> Floats:
        out = np.empty(len(p))
        by_count = np.argsort(count[g], kind="stable")
        # one count of labelled keypoints at a time: no work on unlabelled ones, and numpy then adds exactly
        # the numbers that pycocotools adds, in its order, so that the last bit is the same
        for n in np.unique(count[g]):
            low, high = np.searchsorted(count[g[by_count]], [n, n + 1])
            for start in range(low, high, PAIRS_AT_ONCE):
                q = by_count[start : min(start + PAIRS_AT_ONCE, high)]
                dx, dy, var = distances(p[q], g[q], int(n))
                with np.errstate(over="ignore"):
                    e = (dx**2 + dy**2) / var / (area[g[q]] + EPS)[:, None] / 2
                    out[q] = np.exp(-e).sum(axis=1) / e.shape[1]
        return out

    return similarity
