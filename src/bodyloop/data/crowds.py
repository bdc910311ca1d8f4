"""Synthetic crowds: people pasted next to others so that their boxes overlap, with labels that are exact.

Crowds are where detectors merge people, and few are labelled. Here somebody with a mask is cut out of one photo and
set beside (before or behind) somebody of another: the torsos of like length, the feet on like levels (the shoulders,
where the picture ends above the feet), so that the boxes of the two overlap by a wanted IoU and enough of everybody
is left to see. Masks are drawn to the picture's own edges before they are cut, colours of the old background are
kept out of the rim, light and colourfulness are moved towards the new photo's.

The people to come out are known to the pixel: masks of what can be seen, boxes around them, keypoints that are
covered marked as hidden. `crowds_folder` writes such sets; `copypaste` is for training. Coordinates are px.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.data.blending import Piece, blend, in_light_of, resized, soft, true_edge
from bodyloop.data.labels import Labels, rows_of
from bodyloop.geometry import iou
from bodyloop.masks import Masks
from bodyloop.skeletons import Skeleton

Bits = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]
Rng = np.random.Generator
Record = Mapping[str, Any]

OVERLAP = (0.3, 0.7)  # IoU of the boxes of two people that are called a crowd
LEAST_SEEN = 0.3  # share of everybody's mask that must be left
LEAST_HEIGHT = 80.0  # px of the box of those who are cut out or stood next to
SCALES = (0.25, 1.3)  # of a cut-out: more would be seen as blur
HEIGHTS = (0.75, 1.6)  # of a cut-out to the one beside it: a standing one by one who sits
MOST_BELOW = 0.45  # of a cut-out's height may lie below the picture
BORDER = 3.0  # px: boxes nearer to the picture's side are cut off by it
TRIES = 60
COUNTS = (0.55, 0.3, 0.15)  # how often 1, 2, 3 people are pasted into a photo
_TORSO = ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
_LEGS = ("left_knee", "right_knee", "left_ankle", "right_ankle")


@dataclass(frozen=True, eq=False)
class Donor:
    """Somebody who can be cut out.

    Attributes:
        image, row: records of the photo and the person.
        cut: the picture's lower side cuts the person off; there is nothing below.
        torso: px, shoulders to hips. shoulders: y of their middle.
    """

    image: Record
    row: Record
    cut: bool
    torso: float
    shoulders: float


@dataclass(frozen=True, eq=False)
class Figure:
    """Somebody in the picture that is being made.

    Attributes:
        row: annotation, of this picture or of the donor's.
        mask: (H, W) what can be seen. whole: px of it before anybody was pasted.
        points: (K, 3) x y flag.
        ground: y of the lower end, also below the picture; the greater, the nearer.
        pasted: record of the photo it was cut out of, None for somebody who was there.
    """

    row: Record
    mask: Bits
    whole: int
    points: Floats
    ground: float
    pasted: Record | None = None

    @property
    def box(self) -> Floats:
        """(4,) ``x1 y1 x2 y2`` around what can be seen; NaN if nothing can."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        if not len(rows):
            return np.full(4, np.nan)
        return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float64)

    def behind(self, cover: Bits) -> Figure:
        """The same person with some pixels covered, keypoints there hidden."""
        if not (self.mask & cover).any():
            return self
        points = self.points.copy()
        points[_at(cover, points) & (points[:, 2] > 1), 2] = 1
        return replace(self, mask=self.mask & ~cover, points=points)


@dataclass(frozen=True, eq=False)
class Crowd:
    """A picture with people pasted in, and everybody in it.

    Attributes:
        overlaps: IoU of each pasted person's box with the box of the one it was set beside.
    """

    pixels: U8
    figures: tuple[Figure, ...]
    overlaps: tuple[float, ...]


# ------------------------------------------------------------------ who can be cut out, and what can be pasted into


def donors_of(labels: Labels) -> tuple[Donor, ...]:
    """People of a set that can be cut out: tall, in one piece, upright or cut off by the picture's lower side only.

    Most of their keypoints are labelled as visible; whoever is not cut off stands on both feet.
    """
    table, names = labels.table(), labels.skeleton
    if not {*_TORSO, *_LEGS} <= set(names.keypoints):
        return ()
    flags, y = table.keypoints[..., 2], table.keypoints[..., 1]
    torso, legs = ([names.index(k) for k in part] for part in (_TORSO, _LEGS))
    sizes = np.array([labels.size_of(i) for i in labels.images], np.float64).reshape(-1, 2)[table.image]
    x1, y1, x2, y2 = table.boxes.T
    hips, knees, ankles = (y[:, pair].mean(axis=1) for pair in (torso[2:], legs[:2], legs[2:]))
    upright = (flags[:, legs] > 0).all(axis=1) & (ankles > knees) & (knees - hips > 0.5 * (ankles - knees))
    upright &= y2 - y1 > 1.5 * (x2 - x1)
    cut = y2 > sizes[:, 1] - BORDER
    free = (x1 > BORDER) & (x2 < sizes[:, 0] - BORDER) & (y1 > BORDER)
    hidden = (flags == 1).sum(axis=1) / np.maximum((flags > 0).sum(axis=1), 1)
    good = (flags[:, torso] > 0).all(axis=1) & (y2 - y1 >= LEAST_HEIGHT) & free & (hidden < 0.3)
    good &= ~table.crowd & (cut | upright)
    found = []
    for n in np.flatnonzero(good).tolist():
        row = labels.annotations[n]
        if isinstance(row.get("segmentation"), list) and len(row["segmentation"]) == 1:
            length, level = _torso(table.keypoints[n], names)
            found.append(Donor(labels.images[int(table.image[n])], row, bool(cut[n]), length, level))
    return tuple(found)


def scenes_of(labels: Labels) -> list[tuple[Record, list[Record]]]:
    """Photos that people can be pasted into, with their annotations: all people have masks, somebody is tall.

    Photos with crowd regions are left out: what is in them is not known.
    """
    out: list[tuple[Record, list[Record]]] = []
    for image, rows in zip(labels.images, rows_of(labels), strict=True):
        people: list[Record] = [labels.annotations[n] for n in rows]
        told = image.get("complete")
        complete = not isinstance(told, Mapping) or (told.get("boxes", True) and told.get("masks", True))
        known = all(p.get("segmentation") and not p.get("iscrowd") for p in people)
        if (
            complete
            and known
            and any(_can_be_beside(points_of(p), _corners(p), labels.skeleton) for p in people)
        ):
            out.append((image, people))
    return out


def figures_of(image: Record, people: Sequence[Record]) -> list[Figure]:
    """Everybody on a photo as labelled."""
    size = int(image["width"]), int(image["height"])
    masks = Masks.from_any([p["segmentation"] for p in people], size)
    return [
        Figure(p, m := masks.bitmap(i), int(m.sum()), points_of(p), float(p["bbox"][1] + p["bbox"][3]))
        for i, p in enumerate(people)
    ]


def _can_be_beside(points: Floats, box: Floats, skeleton: Skeleton) -> bool:
    """Whether somebody with keypoints (K, 3) and a box ``x1 y1 x2 y2`` has a torso and is tall."""
    return bool(
        (points[[skeleton.index(k) for k in _TORSO], 2] > 0).all() and box[3] - box[1] >= LEAST_HEIGHT
    )


def points_of(row: Record) -> Floats:
    """(K, 3) x y flag of an annotation."""
    return np.array(row["keypoints"], np.float64).reshape(-1, 3)


def _corners(row: Record) -> Floats:
    x, y, w, h = row["bbox"]
    return np.array([x, y, x + w, y + h], np.float64)


def _torso(points: Floats, skeleton: Skeleton) -> tuple[float, float]:
    """Length of the torso and y of the shoulders, px."""
    a, b, c, d = (points[skeleton.index(k), :2] for k in _TORSO)
    return float(np.linalg.norm((a + b - c - d) / 2)), float((a[1] + b[1]) / 2)


def _at(cover: Bits, points: Floats) -> Bits:
    """(K,) whether the pixel nearest to each labelled point (K, 3) is covered."""
    h, w = cover.shape
    x, y = np.rint(points[:, :2]).astype(np.int64).T
    inside = (points[:, 2] > 0) & (x >= 0) & (x < w) & (y >= 0) & (y < h)
    out = np.zeros(len(points), np.bool_)
    out[inside] = cover[y[inside], x[inside]]
    return out


# ------------------------------------------------------------------ a picture


def make_crowd(
    pixels: U8,
    figures: Sequence[Figure],
    donors: Sequence[Donor],
    piece: Callable[[Donor], Piece],
    skeleton: Skeleton,
    rng: Rng,
    *,
    overlap: tuple[float, float] = OVERLAP,
) -> Crowd | None:
    """Paste 1 to 3 people into a photo, each beside somebody whom it then overlaps; None if nobody fits.

    Args:
        pixels: (H, W, 3) uint8 RGB of the photo; figures: everybody on it.
        donors: who may be pasted, if not from this very photo. piece: cuts one out.
        overlap: least and greatest IoU of the boxes, around what can be seen, of the two; nobody else overlaps a
            pasted person by more than the greatest.
    """
    shape = pixels.shape[0], pixels.shape[1]
    now, overlaps, used = list(figures), list[float](), {int(f.row["image_id"]) for f in figures}
    for _ in range(1 + int(rng.choice(len(COUNTS), p=COUNTS))):
        free = [d for d in donors if d.image["id"] not in used]
        beside = [i for i, f in enumerate(now) if _can_be_beside(f.points, f.box, skeleton)]
        for _ in range(TRIES if free and beside else 0):
            anchor, donor = beside[int(rng.integers(len(beside)))], free[int(rng.integers(len(free)))]
            place = _place_beside(now[anchor], donor, skeleton, shape, rng)
            if place is None:
                continue
            new = _stood(piece(donor), donor, place, skeleton, shape)
            after, new, hidden = _in_depth(now, new)
            met = _overlap_if_good(after, new, anchor, overlap)
            if met is not None:
                pixels = _painted(pixels, piece(donor), place, [now[i].mask for i in hidden])
                now, overlaps = [*after, new], [*overlaps, met]
                used.add(int(donor.image["id"]))
                break
    return Crowd(pixels, tuple(now), tuple(overlaps)) if overlaps else None


@dataclass(frozen=True)
class _Place:
    """Where a cut-out will stand: its photo's pixel (x, y) comes to scale * (x, y) + shift, then it is mirrored.

    Attributes:
        centre: x in the picture about which it is mirrored. ground: y of its lower end.
    """

    scale: float
    shift: tuple[float, float]
    mirrored: bool
    ground: float


def _place_beside(
    anchor: Figure, donor: Donor, skeleton: Skeleton, shape: tuple[int, int], rng: Rng
) -> _Place | None:
    """A place beside somebody, at random within what looks right; None where the donor does not fit."""
    u, depth, jitter, mirror = rng.random(4).tolist()
    torso, shoulders = _torso(anchor.points, skeleton)
    nearer = 2 * depth - 1  # -1 somewhat behind, 1 somewhat before
    scale = torso / donor.torso * (1 + 0.08 * nearer + 0.06 * (jitter - 0.5))
    x, y, w, h = donor.row["bbox"]
    x1, y1, x2, _ = anchor.box.tolist()
    tall = anchor.ground - y1
    if not SCALES[0] <= scale <= SCALES[1] or not HEIGHTS[0] <= h * scale / tall <= HEIGHTS[1]:
        return None
    if anchor.ground < shape[0] - BORDER:
        top = anchor.ground + 0.03 * nearer * tall - h * scale  # the feet on one level
    else:
        top = shoulders - (donor.shoulders - y) * scale
    bottom = top + h * scale
    if (donor.cut and bottom < shape[0]) or top < 0 or bottom > shape[0] + MOST_BELOW * h * scale:
        return None
    left = (x1 + x2 - w * scale + (2 * u - 1) * (x2 - x1 + w * scale)) / 2
    return _Place(scale, (left - x * scale, top - y * scale), mirror < 0.5, bottom)


def _window(piece: Piece, place: _Place) -> tuple[int, int, int, int]:
    """x, y, width, height of a cut-out in the picture; may reach beyond it."""
    h, w = piece.mask.shape
    x, y = (c * place.scale + s for c, s in zip(piece.corner, place.shift, strict=True))
    return round(x), round(y), max(1, round(w * place.scale)), max(1, round(h * place.scale))


def _laid(values: npt.NDArray[Any], at: tuple[int, int], shape: tuple[int, int]) -> npt.NDArray[Any]:
    """What of an array (h, w, ...) at (x, y) lies in a picture, zeros around it."""
    x, y = at
    h, w = values.shape[:2]
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, shape[1]), min(y + h, shape[0])
    out = np.zeros((*shape, *values.shape[2:]), values.dtype)
    if x1 < x2 and y1 < y2:
        out[y1:y2, x1:x2] = values[y1 - y : y2 - y, x1 - x : x2 - x]
    return out


def _stood(piece: Piece, donor: Donor, place: _Place, skeleton: Skeleton, shape: tuple[int, int]) -> Figure:
    """The donor in the picture, before anybody else."""
    x, y, w, h = _window(piece, place)
    mask = np.asarray(resized(piece.mask.astype(np.float32), (w, h), place.mirrored) > 0.5)
    points = points_of(donor.row)
    labelled = points[:, 2] > 0
    ratio = np.array([w, h]) / piece.mask.shape[::-1]
    points[:, :2] = (points[:, :2] - piece.corner + 0.5) * ratio - 0.5  # corners of pixels scale, not centres
    if place.mirrored:
        points[:, 0] = w - 1 - points[:, 0]
        points, labelled = points[skeleton.flip], labelled[skeleton.flip]
    points[:, :2] += x, y
    inside = (points[:, :2] > -0.5).all(axis=1) & (points[:, :2] < np.array(shape[::-1]) - 0.5).all(axis=1)
    points[~(labelled & inside)] = 0
    return Figure(donor.row, _laid(mask, (x, y), shape), int(mask.sum()), points, place.ground, donor.image)


def _in_depth(now: Sequence[Figure], new: Figure) -> tuple[list[Figure], Figure, list[int]]:
    """Everybody and the new one with what those nearer leave to see, and the indices of who is nearer than it."""
    hidden_by = [i for i, f in enumerate(now) if not _is_nearer(new, f)]
    after = [f if i in hidden_by else f.behind(new.mask) for i, f in enumerate(now)]
    # who is nearer than the new one covers it; who is farther is covered by all of it, also where it is hidden
    for i in hidden_by:
        new = new.behind(now[i].mask)
    return after, new, hidden_by


def _is_nearer(a: Figure, b: Figure) -> bool:
    """Whether a stands nearer than b: lower feet; where both are cut off alike, the taller one."""
    return (a.ground, -float(a.box[1])) > (b.ground, -float(b.box[1]))


def _overlap_if_good(
    after: Sequence[Figure], new: Figure, anchor: int, overlap: tuple[float, float]
) -> float | None:
    """IoU of the new person with the one beside it; None if it does not fit or too little of somebody is left."""
    if new.mask.sum() < LEAST_SEEN * new.whole or any(f.mask.sum() < LEAST_SEEN * f.whole for f in after):
        return None
    overlaps = np.nan_to_num(iou(new.box[None], np.stack([f.box for f in after]))[0])
    if not overlap[0] <= overlaps[anchor] <= overlap[1] or overlaps.max() > overlap[1]:
        return None
    return float(overlaps[anchor])


def _painted(pixels: U8, piece: Piece, place: _Place, before: Sequence[Bits]) -> U8:
    """The picture with a person in it, behind some masks."""
    shape = pixels.shape[0], pixels.shape[1]
    x, y, w, h = _window(piece, place)
    cover = _laid(soft(resized(piece.mask.astype(np.float32), (w, h), place.mirrored)), (x, y), shape)
    colours = _laid(resized(in_light_of(piece, pixels), (w, h), place.mirrored), (x, y), shape)
    for mask in before:
        if (mask & (cover > 0)).any():
            cover = cover * (1 - soft(true_edge(pixels, mask)))
    return blend(pixels, colours, cover)
