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
from bodyloop.eval.matching import stable_order
from bodyloop.eval.protocols import Distance
from bodyloop.oks import EPS, kernel, variances

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PAIRS_AT_ONCE = 200_000  # bounds the memory, to some 50 MB
CELLS_AT_ONCE = 100_000  # keypoints of pairs: arrays that stay in the processor's cache
ROWS_AT_ONCE = 600  # people, likewise
FAR = 746.0  # the exponential of minus that is 0: such keypoints need not be measured
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
    Pairs so far apart that every keypoint's score would be rounded to 0 are not measured.

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
        self.predicted, self.area, self.windows = np.ascontiguousarray(predicted), area, windows
        self.variance = variances(sigmas)
        self.regions = np.ascontiguousarray(regions.T)
        self.bare = np.stack([(flags > 0 if v == 0 else flags == v).sum(axis=1) == 0 for v in levels])
        self.extents, self.labelled_extents = _extents(self.predicted), _extents(truth, flags > 0)
        self.count, columns = _places(flags > 0)
        self.row = np.zeros(len(flags), np.int64)  # of each annotation among those alike
        self.alike: dict[int, _Alike] = {}
        for n, some in _by_count(self.count):
            self.row[some] = np.arange(len(some))
            at = some[:, None], columns[some, :n]
            self.alike[n] = _Alike(
                some, at[1], truth[..., 0][at], truth[..., 1][at], flags[at], levels, windows
            )

    @np.errstate(over="ignore")  # whoever is infinitely far is not similar
    def __call__(self, p: Ints, g: Ints) -> Floats:
        out = np.zeros((len(self.bare), len(p)))
        for start in range(0, len(p), PAIRS_AT_ONCE):
            at = slice(start, start + PAIRS_AT_ONCE)
            self._measure(p[at], g[at], out[:, at])
        return out

    def _measure(self, p: Ints, g: Ints, out: Floats) -> None:
        """One count of labelled keypoints at a time: no work on unlabelled ones, and numpy then adds exactly the
        numbers that pycocotools adds, in its order, so that the last bit is the same."""
        for q in _pieces(np.flatnonzero(self.bare[:, g].any(axis=0)), self.predicted.shape[1]):
            out[:, q] = np.where(self.bare[:, g[q]], self._to_region(p[q], g[q]), 0)
        measured = np.arange(len(p))
        if self.windows is None:
            measured = np.flatnonzero(self._near(p, g, self.labelled_extents))
        for n, pairs in _by_count(self.count[g[measured]]):
            for q in _pieces(measured[pairs], n) if n else ():
                here = self.row[g[q]]
                self.alike[n].average(self._terms(self.alike[n], p[q], g[q], here), here, q, out)

    def _near(self, p: Ints, g: Ints, boxes: Floats) -> Bools:
        """(m,) whether some keypoint may be similar; boxes (4, G) x0 y0 x1 y1 of what the annotations have."""
        a, b = self.extents.take(p, axis=1), boxes.take(g, axis=1)
        dx, dy = (np.maximum(0, np.maximum(b[i] - a[i + 2], a[i] - b[i + 2])) for i in (0, 1))
        return np.asarray(dx**2 + dy**2 <= 2 * FAR * self.variance.max() * (self.area[g] + EPS))

    def _to_region(self, p: Ints, g: Ints) -> Floats:
        """(m,) similarities to regions: all keypoints, by their distances from the region, 0 inside."""
        a, b = self.extents.take(p, axis=1), self.regions.take(g, axis=1)
        inside = (a[:2] >= b[:2]).all(axis=0) & (a[2:] <= b[2:]).all(axis=0)
        out: Floats = np.asarray(inside, np.float64)
        q = np.flatnonzero(self._near(p, g, self.regions) & ~inside)
        points = self.predicted.take(p[q], axis=0)
        squared = np.zeros(points.shape[:2])
        for i in (0, 1):
            x = points[..., i]
            squared += (x - np.clip(x, b[i, q, None], b[i + 2, q, None])) ** 2
        out[q] = kernel(squared, self.variance, self.area[g[q], None]).sum(axis=1) / points.shape[1]
        return out

    def _terms(self, alike: _Alike, p: Ints, g: Ints, here: Ints) -> Floats:
        """(m, n) similarities of the labelled keypoints of m pairs."""
        k, step = self.predicted.shape[1:]
        column = alike.columns.take(here, axis=0)
        at = column + (p * k)[:, None]
        flat = self.predicted.reshape(-1)
        x, y = flat.take(at * step), flat.take(at * step + 1)
        squared = x - alike.x.take(here, axis=0)
        squared *= squared
        off = y - alike.y.take(here, axis=0)
        squared += np.square(off, out=off)
        if self.windows is not None:
            said_in = self.windows.said_in.reshape(-1).take(at)
            squared = np.where(said_in, squared, alike.said_out.take(here, axis=0))
            i, j = np.nonzero(said_in & alike.out.take(here, axis=0))
            squared[i, j] = self.windows.squared(x[i, j], y[i, j], g[i])
        return kernel(squared, self.variance.take(column), self.area[g, None])


class _Alike:
    """Annotations (m,) with equally many labelled keypoints, n, and what is known of these: arrays (m, n)."""

    def __init__(
        self,
        annotations: Ints,
        columns: Ints,
        x: Floats,
        y: Floats,
        flags: Floats,
        levels: Sequence[int],
        windows: Windows | None,
    ) -> None:
        self.columns, self.x, self.y = columns, x, y
        # per level of its own: how many keypoints an annotation has there, and their places
        self.members = [None if v == 0 else _places(flags == v) for v in levels]
        self.out = flags == OUT
        if windows is not None:  # squared distances where the prediction says "out"
            self.said_out = np.where(self.out, 0, windows.squared(x, y, annotations))

    def average(self, terms: Floats, here: Ints, pairs: Ints, out: Floats) -> None:
        """Write the means of terms (m, n) at every level into columns of ``out`` (V, Q)."""
        for row, member in zip(out, self.members, strict=True):
            if member is None:
                row[pairs] = terms.sum(axis=1) / terms.shape[1]
                continue
            counts, places = member
            for m, i in _by_count(counts[here]):
                if m:
                    chosen = np.take_along_axis(terms[i], places[here[i], :m], axis=1)
                    row[pairs[i]] = chosen.sum(axis=1) / m


def _extents(points: Floats, there: Bools | None = None) -> Floats:
    """(4, N) x0 y0 x1 y1 of the points (N, K, 2+) that are there (N, K); no points: from inf to -inf."""
    out = np.empty((4, len(points)))
    for start in range(0, len(points), ROWS_AT_ONCE):
        at = slice(start, start + ROWS_AT_ONCE)
        low = high = np.ascontiguousarray(points[at, :, :2].transpose(1, 2, 0))
        if there is not None:
            some = there[at].T[:, None]
            low, high = np.where(some, low, np.inf), np.where(some, high, -np.inf)
        out[:2, at], out[2:, at] = low.min(axis=0), high.max(axis=0)
    return out


def _pieces(of: Ints, size: int) -> Iterator[Ints]:
    """``of`` in pieces, so that arrays of ``size`` numbers each stay small."""
    step = max(1, CELLS_AT_ONCE // size)
    for start in range(0, len(of), step):
        yield of[start : start + step]


def _places(member: Bools) -> tuple[Ints, Ints]:
    """(G,) how many of each row (G, K) are members, and (G, K) where: first the members' columns, in order."""
    return member.sum(axis=1), np.argsort(~member, axis=1, kind="stable")


def _by_count(counts: Ints) -> Iterator[tuple[int, Ints]]:
    """Each count that occurs, with the positions where it does."""
    order = stable_order(counts)
    ends = np.cumsum(np.bincount(counts)).tolist()
    for n, (low, high) in enumerate(zip([0, *ends], ends, strict=False)):
        if high > low:
            yield n, order[low:high]


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
