"""Shapes as contours: capsules, discs, rings, dashes, boxes, ellipses. Pure functions on sheet px."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bodyloop.drawing.canvas import Points, Shape, Stroke


def _arc(radius: float) -> int:
    """Corners of a circle so that it looks round: the chord stays within a twentieth of a pixel."""
    return int(np.clip(np.ceil(np.pi / np.sqrt(0.1 / max(radius, 0.1))), 12, 180))


def circle(center: npt.ArrayLike, radius: float) -> Points:
    """A contour."""
    n = _arc(radius)
    t = np.arange(n) * (2 * np.pi / n)
    return np.asarray(center, np.float64) + radius * np.stack([np.cos(t), np.sin(t)], axis=1)


def disc(center: npt.ArrayLike, radius: float) -> Shape:
    """A filled circle."""
    return (circle(center, radius),)


def ring(center: npt.ArrayLike, outer: float, inner: float) -> Shape:
    """A circle with a hole."""
    return (circle(center, outer), circle(center, inner)) if inner > 0.05 else disc(center, outer)


def capsule(a: npt.ArrayLike, b: npt.ArrayLike, radius: float) -> Shape:
    """A line of width ``2 radius`` with round ends."""
    p, q = np.asarray(a, np.float64), np.asarray(b, np.float64)
    d = q - p
    n = max(_arc(radius) // 2, 6)
    start = np.arctan2(d[1], d[0]) - np.pi / 2
    t = start + np.linspace(0, np.pi, n)
    cap = radius * np.stack([np.cos(t), np.sin(t)], axis=1)
    return (np.concatenate([q + cap, p - cap]),)


def dashes(points: Points, radius: float, dash: float, gap: float, *, closed: bool = False) -> list[Shape]:
    """A dashed line through points (M, 2); at least one dash, dashes evenly spread."""
    p = np.concatenate([points, points[:1]]) if closed else np.asarray(points)
    steps = np.hypot(*np.diff(p, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    total = float(along[-1])
    if total <= 0:
        return [disc(p[0], radius)]
    count = int(np.clip(round((total if closed else total + gap) / (dash + gap)), 1, 2000))
    period = total / count if closed else (total + gap) / count
    out: list[Shape] = []
    for i in range(count):
        low, high = i * period, min(i * period + max(period - gap, 0.3 * period), total)
        inside = along[(along > low) & (along < high)]
        at = np.concatenate([[low], inside, [high]])
        piece = np.stack([np.interp(at, along, p[:, c]) for c in (0, 1)], axis=1)
        out.append(Stroke(piece, radius))
    return out


def clipped(a: Points, b: Points, low: Points | float, high: Points | float) -> tuple[Points, Points] | None:
    """The part of the segment from ``a`` to ``b`` between the corners ``low`` and ``high``; None outside."""
    d = b - a
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.stack([(low - a) / d, (high - a) / d])
    inside = (a >= low) & (a <= high)
    t = np.where(d == 0, np.where(inside, [[-np.inf], [np.inf]], [[np.inf], [-np.inf]]), t)
    enter, leave = max(0.0, float(t.min(axis=0).max())), min(1.0, float(t.max(axis=0).min()))
    if (d == 0).any() and not inside[d == 0].all():
        return None
    return (a + enter * d, a + leave * d) if enter < leave else None


def rectangle(low: npt.ArrayLike, high: npt.ArrayLike, corner: float = 0.0) -> Points:
    """The contour of a rectangle, with rounded corners of the given radius."""
    (x0, y0), (x1, y1) = np.asarray(low, np.float64), np.asarray(high, np.float64)
    r = min(corner, (x1 - x0) / 2, (y1 - y0) / 2)
    if r <= 0:
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    t = np.linspace(0, np.pi / 2, max(_arc(r) // 4, 3))
    parts = []
    for i, (cx, cy) in enumerate([(x1 - r, y1 - r), (x0 + r, y1 - r), (x0 + r, y0 + r), (x1 - r, y0 + r)]):
        parts.append(
            np.stack([cx + r * np.cos(t + i * np.pi / 2), cy + r * np.sin(t + i * np.pi / 2)], axis=1)
        )
    return np.concatenate(parts)


def ellipse(mean: npt.ArrayLike, covariance: npt.ArrayLike, mass: float) -> Points:
    """The contour that holds ``mass`` of a normal distribution with that mean (2,) and covariance (2, 2)."""
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    radii = np.sqrt(np.clip(values, 0, None) * (-2.0 * np.log1p(-mass)))
    n = _arc(float(radii.max()))
    t = np.arange(n) * (2 * np.pi / n)
    around = np.stack([np.cos(t), np.sin(t)], axis=1) * radii
    return np.asarray(np.asarray(mean, np.float64) + around @ vectors.T, np.float64)


def chevron(tip: npt.ArrayLike, direction: npt.ArrayLike, size: float) -> Shape:
    """An arrow head at ``tip`` that points along ``direction`` (unit length)."""
    d = np.asarray(direction, np.float64)
    side = np.array([-d[1], d[0]])
    p = np.asarray(tip, np.float64)
    return (
        np.stack(
            [p, p - d * size + side * size * 0.7, p - d * size * 0.65, p - d * size - side * size * 0.7]
        ),
    )
