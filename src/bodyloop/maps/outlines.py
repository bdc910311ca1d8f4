"""Outlines of sets of map cells, along the cells' edges.

(OpenCV's contours run through the cells' centres and so miss half a cell all around.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vertex = tuple[int, int]


def outlines(cells: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.float64]]:
    """Closed outlines of the set cells of (h, w) bool, each (M, 2) float64 x y in map px, corners only.

    Outer outlines run clockwise on the screen, holes counter-clockwise. Cells that touch at a corner only are
    kept apart.
    """
    after = _edges(cells)
    loops = []
    while after:
        start = next(iter(after))
        loop, came = [start], start
        at = _take(after, start, after[start][0])
        while True:
            # at a corner that two cells share, turn right: stay with the cell the path goes around
            right = (at[0] - (at[1] - came[1]), at[1] + (at[0] - came[0]))
            left_over = after.get(at, [])
            if at == start and right not in left_over:
                break
            loop.append(at)
            came, at = at, _take(after, at, right if right in left_over else left_over[0])
        loops.append(_corners(np.array(loop, np.float64)) - 0.5)
    return loops


def _take(after: dict[Vertex, list[Vertex]], start: Vertex, end: Vertex) -> Vertex:
    """Walk an edge and strike it out."""
    after[start].remove(end)
    if not after[start]:
        del after[start]
    return end


def _edges(cells: npt.NDArray[np.bool_]) -> dict[Vertex, list[Vertex]]:
    """Unit edges around the set cells, cell on the right-hand side: start corner to end corners."""
    c = np.pad(cells, 1)
    mid = c[1:-1, 1:-1]
    sides = (  # neighbour outside, start and end corner relative to the cell
        (c[:-2, 1:-1], (0, 0), (1, 0)),
        (c[1:-1, 2:], (1, 0), (1, 1)),
        (c[2:, 1:-1], (1, 1), (0, 1)),
        (c[1:-1, :-2], (0, 1), (0, 0)),
    )
    after: dict[Vertex, list[Vertex]] = {}
    for outside, (ax, ay), (bx, by) in sides:
        ys, xs = np.nonzero(mid & ~outside)
        for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
            after.setdefault((x + ax, y + ay), []).append((x + bx, y + by))
    return after


def _corners(loop: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The vertices of a closed loop (M, 2) where its direction changes."""
    arriving = loop - np.roll(loop, 1, axis=0)
    leaving = np.roll(loop, -1, axis=0) - loop
    return np.asarray(loop[(arriving != leaving).any(axis=1)])
