"""Non-maximum suppression of boxes in numpy: of detections that overlap, the best one stays.

Results do not depend on the machine: equal scores are taken in the order in which they came.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def suppress(
    boxes: Floats, scores: Floats, threshold: float, *, limit: int | None = None, inclusive: bool = False
) -> npt.NDArray[np.int64]:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4) ``x1 y1 x2 y2``. scores: (N,).
        threshold: a box goes if its IoU with a better one that stays is larger than this.
        limit: stop after so many survivors.
        inclusive: count sides as x2 - x1 + 1, as old pixel-index code does (a parity matter).
    Returns: indices of the survivors, best first.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    b = np.asarray(boxes, np.float64)[order]
    extra = 1.0 if inclusive else 0.0
    area = (b[:, 2:] - b[:, :2] + extra).prod(axis=1)
    alive = np.ones(len(b), bool)
    kept: list[int] = []
    for i in range(len(b)):
        if not alive[i]:
            continue
        kept.append(i)
        if limit is not None and len(kept) >= limit:
            break
        rest = np.flatnonzero(alive[i + 1 :]) + i + 1
        low = np.maximum(b[i, :2], b[rest, :2])
        high = np.minimum(b[i, 2:], b[rest, 2:])
        inter = np.clip(high - low + extra, 0, None).prod(axis=1)
        union = area[i] + area[rest] - inter
        alive[rest[inter > threshold * union]] = False
    return np.asarray(order[kept], np.int64)
