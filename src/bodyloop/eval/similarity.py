"""How alike predicted and annotated people are, for all pairs of an evaluation: OKS and extended OKS.

`LevelOks` measures pairs at several visibility levels at once: a keypoint's similarity is the same at each, only
the mean runs over other keypoints. With a `Windows` it is extended OKS (Ex-OKS, Purkrabek & Matas,
"ProbPose", CVPR 2025): a keypoint out of its activation window has no place, and who says that it is out, or in,
wrongly pays for the distance between point and window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.eval.evidence import Similarity
from bodyloop.eval.protocols import Distance
from bodyloop.oks import kernel, variances

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CELLS_AT_ONCE = 1_000_000  # keypoints of pairs: bounds the memory to some 8 MB an array
OUT = 3  # the flag of a labelled keypoint out of its window


@dataclass(frozen=True, eq=False)
class Windows:
    """What extended OKS knows beside plain OKS.

    Attributes:
        corners: (G, 4) activation windows x1 y1 x2 y2, px.
        said_in: (P, K) whether each prediction says that a keypoint lies in its window.
        distance: to the window: to its border, or to the nearest of its corners (exococotools).
    """

    corners: Floats
    said_in: Bools
    distance: Distance

    def squared(self, x: Floats, y: Floats, annotation: Ints) -> Floats:
        """Squared distances of points (n,) or (n, K) to the windows of annotations (n,), px^2."""
        x0, y0, x1, y1 = self.corners[annotation].T.reshape(4, -1, *[1] * (x.ndim - 1))
        ax, ay = np.minimum(x - x0, x1 - x), np.minimum(y - y0, y1 - y)
        if self.distance == "corner":
            return np.asarray(ax**2 + ay**2)
        inside = np.minimum(ax, ay)
        outside = np.minimum(ax, 0) ** 2 + np.minimum(ay, 0) ** 2
        return np.asarray(np.where(inside > 0, inside**2, outside))


class LevelOks:
    """(V, Q) similarities of Q pairs at V levels.

    At each level: the mean of exp(-d^2 / (2 (2 sigma)^2 area)) over the annotation's keypoints of that level; for
    an annotation without any (a crowd, unlabelled), d is the distance to its region and the mean runs over all K.

    Args:
        predicted: (P, K, 3+) x y; truth: (G, K, 3+) x y; flags: (G, K), > 0 for labelled.
        regions: (G, 4) x1 y1 x2 y2 of annotations without keypoints.
        area: (G,) px^2; sigmas: (K,).
        levels: 0 for all labelled keypoints, else the flag whose keypoints count.
        windows: makes it extended OKS.
    """

    def __init__(
        self,
        predicted: Floats,
        truth: Floats,
        flags: Floats,
        regions: Floats,
        area: Floats,
        sigmas: Floats,
        levels: Sequence[int] = (0,),
        windows: Windows | None = None,
    ) -> None:
        self.x, self.y = (np.ascontiguousarray(predicted[..., i]) for i in (0, 1))
        self.regions, self.area, self.windows = regions, area, windows
        self.variance = variances(sigmas)
        self.count, self.columns = _places(flags > 0)
        self.truth_x, self.truth_y = (self._labelled_first(truth[..., i]) for i in (0, 1))
        self.spread = self._labelled_first(np.broadcast_to(self.variance, flags.shape))
        flags = self._labelled_first(flags)
        # per level of its own: how many keypoints an annotation has there, and their places among the labelled
        self.members: list[tuple[Ints, Ints] | None] = [
            None if v == 0 else _places(flags == v) for v in levels
        ]
        self.bare = np.any([(m[0] if m else self.count) == 0 for m in self.members], axis=0)
        if windows is not None:
            everyone = np.arange(len(flags))
            self.out = flags == OUT
            missed = windows.squared(self.truth_x, self.truth_y, everyone)
            self.said_out = np.where(self.out, 0, missed)  # squared distances where the prediction says "out"

    def _labelled_first(self, values: Floats) -> Floats:
        return np.take_along_axis(values, self.columns, axis=1)

    def __call__(self, p: Ints, g: Ints) -> Floats:
        out = np.empty((len(self.members), len(p)))
        k = max(self.x.shape[1], 1)
        for start in range(0, len(p), max(1, CELLS_AT_ONCE // k)):
            at = slice(start, start + max(1, CELLS_AT_ONCE // k))
            self._measure(p[at], g[at], out[:, at])
        return out

    def _measure(self, p: Ints, g: Ints, out: Floats) -> None:
        """One count of keypoints at a time: no work on unlabelled ones, and numpy then adds exactly the numbers
        that pycocotools adds, in its order, so that the last bit is the same."""
        q = np.flatnonzero(self.bare[g])
        region = np.zeros(len(p))
        region[q] = self._to_region(p[q], g[q])
        whole, terms, first = region.copy(), [np.zeros(0)], np.zeros(len(p), np.int64)
        done = 0
        for n, q in _by_count(self.count[g]):
            if n:
                block = self._block(p[q], g[q], n)
                whole[q] = block.sum(axis=1) / n
                first[q] = np.arange(done, done + block.size, n)
                done += block.size
                terms.append(block.ravel())
        term = np.concatenate(terms) if any(self.members) else terms[0]  # level 0 alone needs the means only
        for row, member in zip(out, self.members, strict=True):
            if member is None:
                row[:] = whole
                continue
            counts, places = member
            row[:] = region
            for n, q in _by_count(counts[g]):
                if n:
                    row[q] = term[first[q, None] + places[g[q], :n]].sum(axis=1) / n

    def _block(self, p: Ints, g: Ints, n: int) -> Floats:
        """(m, n) similarities of the n labelled keypoints of m pairs."""
        k = self.x.shape[1]
        cell = (p * k)[:, None] + self.columns[:, :n].take(g, axis=0)
        x, y = self.x.ravel().take(cell), self.y.ravel().take(cell)
        squared = (x - self.truth_x[:, :n].take(g, axis=0)) ** 2
        squared += (y - self.truth_y[:, :n].take(g, axis=0)) ** 2
        if self.windows is not None:
            said_in = self.windows.said_in.ravel().take(cell)
            squared = np.where(said_in, squared, self.said_out[:, :n].take(g, axis=0))
            i, j = np.nonzero(said_in & self.out[:, :n].take(g, axis=0))
            squared[i, j] = self.windows.squared(x[i, j], y[i, j], g[i])
        return kernel(squared, self.spread[:, :n].take(g, axis=0), self.area[g, None])

    def _to_region(self, p: Ints, g: Ints) -> Floats:
        """(m,) similarities to regions: all keypoints, by their distances from the region, 0 inside."""
        x, y = self.x.take(p, axis=0), self.y.take(p, axis=0)
        x0, y0, x1, y1 = self.regions[g].T[..., None]
        squared = (x - np.clip(x, x0, x1)) ** 2
        squared += (y - np.clip(y, y0, y1)) ** 2
        return np.asarray(kernel(squared, self.variance, self.area[g, None]).sum(axis=1) / x.shape[1])


def _places(member: Bools) -> tuple[Ints, Ints]:
    """(G,) how many of each row (G, K) are members, and (G, K) where: first the members' columns, in order."""
    return member.sum(axis=1), np.argsort(~member, axis=1, kind="stable")


def _by_count(counts: Ints) -> Iterator[tuple[int, Ints]]:
    """Each count that occurs, with the positions where it does."""
    order = np.argsort(counts, kind="stable")
    values, start = np.unique(counts[order], return_index=True)
    for n, at in zip(values, np.split(order, start[1:]), strict=True):
        yield int(n), at


def tripled(boxes: Floats) -> Floats:
    """Boxes (G, 4) x y w h grown to three times their size, as x1 y1 x2 y2: COCO's region of a crowd."""
    low, size = boxes[:, :2], boxes[:, 2:]
    return np.concatenate([low - size, low + size * 2], axis=1)


def oks_of_pairs(predicted: Floats, truth: Floats, boxes: Floats, area: Floats, sigmas: Floats) -> Similarity:
    """Plain object keypoint similarity as a function of pairs.

    Args:
        predicted: (P, K, 3), truth: (G, K, 3) with flags; boxes: (G, 4) x y w h; area: (G,); sigmas: (K,).
    """
    measure = LevelOks(predicted, truth, truth[..., 2], tripled(boxes), area, sigmas)
    return lambda p, g: measure(p, g)[0]
