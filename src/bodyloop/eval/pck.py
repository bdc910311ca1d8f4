"""PCK and its relatives: shares of keypoints closer than a share of some length.

PCK, PCKh (MPII), AUC, NME and EPE over plain arrays. Distances are kept in float32 and compared strictly, as
in the public implementations (a distance of exactly the threshold is a miss). A keypoint without a prediction
(NaN) is a miss at every threshold, and left out of mean distances. Which predictions belong to which persons is
the caller's business (for files: `pck_files`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

HEAD_FACTOR = 0.6  # MPII's head size is 0.6 of the diagonal of the head box
MPII_PARTS: dict[str, tuple[int, ...]] = {
    "head": (9,),
    "shoulder": (12, 13),
    "elbow": (11, 14),
    "wrist": (10, 15),
    "hip": (2, 3),
    "knee": (1, 4),
    "ankle": (0, 5),
}
MPII_KEYPOINTS = 16
MPII_LEFT_OUT = (6, 7)  # pelvis and thorax do not count in MPII's total


@dataclass(frozen=True, eq=False)
class Pck:
    """Shares of right keypoints.

    Attributes:
        each: (K,) share per keypoint, -1 where none is labelled.
        mean: plain mean over the keypoints that have a share, 0 if none has.
        keypoints: how many have one.
    """

    each: Floats
    mean: float
    keypoints: int


def distances(
    predicted: npt.ArrayLike, truth: npt.ArrayLike, labelled: npt.ArrayLike, norm: npt.ArrayLike
) -> npt.NDArray[np.float32]:
    """Normalised distances (N, K) float32: NaN where not labelled or where the norm has a zero, else infinite
    where there is no prediction.

    Args:
        predicted: (N, K, 2) px, NaN where there is none; truth: (N, K, 2) px.
        labelled: (N, K) bool.
        norm: (N, 2) px, or anything that broadcasts to it.

    Raises:
        InputError: shapes that do not belong together.
    """
    p, g = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    m = np.asarray(labelled, bool)
    if p.ndim != 3 or p.shape[2] != 2 or p.shape != g.shape or m.shape != p.shape[:2]:
        raise InputError(
            "PCK: expected keypoints (N, K, 2) twice and labelled (N, K), "
            f"got {p.shape}, {g.shape}, {m.shape}"
        )
    n = np.broadcast_to(np.asarray(norm, np.float64), (len(p), 2))
    usable = m & (n != 0).all(axis=1)[:, None]
    scaled = np.divide(p - g, n[:, None], out=np.zeros_like(p), where=usable[..., None])
    out: npt.NDArray[np.float32] = np.sqrt((scaled**2).sum(axis=-1)).astype(np.float32)
    out[np.isnan(out)] = np.inf
    out[~usable] = np.nan
    return out


def pck(
    predicted: npt.ArrayLike,
    truth: npt.ArrayLike,
    labelled: npt.ArrayLike,
    norm: npt.ArrayLike,
    threshold: float = 0.2,
) -> Pck:
    """Share of labelled keypoints closer than ``threshold`` norms; arguments as in `distances`."""
    d = distances(predicted, truth, labelled, norm)
    count = (~np.isnan(d)).sum(axis=0)
    right = (d < np.float32(threshold)).sum(axis=0)
    each = np.divide(right, count, out=np.full(d.shape[1], -1.0), where=count > 0)
    there = each >= 0
    return Pck(each, float(each[there].mean()) if there.any() else 0.0, int(there.sum()))


def auc(predicted: npt.ArrayLike, truth: npt.ArrayLike, labelled: npt.ArrayLike, norm: float = 30.0) -> float:
    """Mean PCK at thresholds 0, 0.05, ..., 0.95 of one length for all persons (px)."""
    return float(np.mean([pck(predicted, truth, labelled, (norm, norm), i / 20).mean for i in range(20)]))


def nme(
    predicted: npt.ArrayLike, truth: npt.ArrayLike, labelled: npt.ArrayLike, norm: npt.ArrayLike
) -> float | None:
    """Mean normalised distance over the labelled keypoints with a prediction, None if there is none."""
    d = distances(predicted, truth, labelled, norm)
    d = d[np.isfinite(d)]
    return float(d.mean()) if d.size else None


def epe(predicted: npt.ArrayLike, truth: npt.ArrayLike, labelled: npt.ArrayLike) -> float | None:
    """Mean distance in px over the labelled keypoints with a prediction, None if there is none."""
    return nme(predicted, truth, labelled, (1.0, 1.0))


def box_norm(boxes: npt.ArrayLike) -> Floats:
    """(N, 2) norms max(w, h) of boxes (N, 4) ``x1 y1 x2 y2``."""
    b = np.asarray(boxes, np.float64).reshape(-1, 4)
    longest = (b[:, 2:] - b[:, :2]).max(axis=1)
    return np.stack([longest, longest], axis=1)


def head_norm(head_boxes: npt.ArrayLike) -> Floats:
    """(N, 2) norms of MPII head boxes (N, 4) ``x1 y1 x2 y2``."""
    b = np.asarray(head_boxes, np.float64).reshape(-1, 4)
    size = HEAD_FACTOR * np.hypot(b[:, 2] - b[:, 0], b[:, 3] - b[:, 1])
    return np.stack([size, size], axis=1)


def torso_norm(predicted: npt.ArrayLike, truth: npt.ArrayLike, ends: tuple[int, int] = (4, 5)) -> Floats:
    """(N, 2) norms of JHMDB (tPCK): length of the labelled torso, of the predicted one if it is below 1 px.

    Args:
        predicted, truth: (N, K, 2) px.
        ends: the two keypoints that span the torso.
    """
    a, b = ends
    g, p = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    size = np.linalg.norm(g[:, a] - g[:, b], axis=1)
    size = np.where(size < 1, np.linalg.norm(p[:, a] - p[:, b], axis=1), size)
    return np.stack([size, size], axis=1)


def mpii_summary(
    predicted: npt.ArrayLike, truth: npt.ArrayLike, labelled: npt.ArrayLike, head_size: npt.ArrayLike
) -> dict[str, float | None]:
    """MPII's table in %: PCKh@0.5 by part, total, and total@0.1; None where nothing is labelled.

    Args:
        predicted, truth: (N, 16, 2) px in MPII order and both 0-based or both 1-based; labelled: (N, 16).
        head_size: (N, 2), see `head_norm`.
    """
    d = distances(predicted, truth, labelled, head_size)
    count = (~np.isnan(d)).sum(axis=0).astype(np.float64)
    counts = np.delete(count, MPII_LEFT_OUT)

    def total(share: Floats) -> float | None:
        return (
            float((np.delete(share, MPII_LEFT_OUT) * counts).sum() / counts.sum()) if counts.sum() else None
        )

    share = [
        100.0 * np.divide((d < np.float32(t)).sum(axis=0), count, out=np.zeros_like(count), where=count > 0)
        for t in (0.5, 0.1)
    ]
    out: dict[str, float | None] = {}
    for name, parts in MPII_PARTS.items():
        here = [k for k in parts if count[k]]
        out[name] = float(share[0][here].mean()) if here else None
    return out | {"total": total(share[0]), "total@0.1": total(share[1])}
