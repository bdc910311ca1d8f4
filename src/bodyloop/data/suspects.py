"""Labelled people that are hardly meant so: what is well formed, and implausible.

Each test is about one person (`of_people`) or the whole set (`of_set`) and gives the name of a rule of
`bodyloop.data.check` with what it found. Thresholds are wide: of COCO's own labels about two people in a thousand are
named, most of them rightly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.data.labels import Floats, Labels, Table, plain, rows_of
from bodyloop.errors import InputError
from bodyloop.geometry import iou
from bodyloop.masks import Masks

Bits = npt.NDArray[np.bool_]
Found = tuple[str, int, str]  # rule, number of the annotation, what it is

STICKS_OUT = 0.05  # of a box's longer side, beyond the photo
FAR, HIDDEN_FAR = 0.25, 0.5  # of a box's longer side, from the box to a visible and to a hidden keypoint
SUBPIXEL = 1.0  # px beyond the photo that are nobody's mistake
SAME_BOX, SAME_PLACE = 0.9, 0.05  # IoU of boxes; distance of keypoints in square roots of the area
COVERED, RIM = (
    0.5,
    0.05,
)  # share of the visible keypoints in a mask; its rim in square roots of the box's area
OVERLAP = 0.3  # IoU of a mask's box with the box
TWISTED = -0.5  # cosine between the axes of shoulders and hips: nobody turns by 120 degrees
LEAST_AXIS = 0.3  # of the torso's length; a shorter axis is seen from the side
LEAST_FACES, MIRRORED = 10, 0.5  # faces that are enough, share of them that makes it the whole set


def of_people(labels: Labels, table: Table) -> Iterator[Found]:
    """What is implausible about single people; ``table`` is that of the labels."""
    sizes = _sizes(labels)[table.image]
    yield from _boxes(labels, table, sizes)
    yield from _keypoints(labels, table, sizes)
    yield from _twice(labels, table)
    for n, row in enumerate(labels.annotations):
        if row.get("segmentation"):
            yield from _mask(row, n, table, sizes[n])
    bodies, faces = swapped_sides(table.keypoints, labels.skeleton.keypoints)
    for n in np.flatnonzero(bodies).tolist():
        yield "sides", n, "shoulders and hips point to opposite sides"
    if not _whole_set(faces):
        for n in np.flatnonzero(faces == -1).tolist():
            yield "sides", n, "the eyes of a face that is seen are on the wrong sides of the nose"


def of_set(labels: Labels, table: Table) -> Iterator[tuple[str, str]]:
    """What is implausible about the set."""
    names = [plain(n) for n in labels.skeleton.keypoints]
    _, faces = swapped_sides(table.keypoints, names)
    if _whole_set(faces):
        yield "sides-all", f"in {int((faces == -1).sum())} of {int((faces != 0).sum())} faces"
    for i in np.flatnonzero(~(table.keypoints[..., 2] > 0).any(axis=0)).tolist() if len(table.ids) else ():
        yield "never", labels.skeleton.keypoints[i]
    if len(names) > 1 and not any(n.startswith(("left_", "right_")) for n in names):
        yield "no-mirror", ", ".join(names[:5])


def _whole_set(faces: npt.NDArray[np.int64]) -> bool:
    known = int((faces != 0).sum())
    return known >= LEAST_FACES and int((faces == -1).sum()) > MIRRORED * known


def swapped_sides(
    keypoints: Floats, names: list[str] | tuple[str, ...]
) -> tuple[Bits, npt.NDArray[np.int64]]:
    """Whose left and right are exchanged, of people with keypoints (N, K, 3).

    Two tests, each true whatever way the person is turned in the picture. *Body*: seen from any side, the axes from
    right to left shoulder and hip make less than 120 degrees, unless one is seen end on. *Face*: where both eyes and
    the nose are visible, the face is towards the camera, and turning from the nose to the eyes and on to the left eye
    is clockwise on the screen.

    Returns:
        (N,) bool, shoulders and hips point to opposite sides; (N,) 1 a face that is right, -1 one that is
        mirrored, 0 no face to be judged by.
    """
    at = {plain(n): i for i, n in enumerate(names)}

    def of(name: str) -> Floats:
        return keypoints[:, at[name]] if name in at else np.zeros((len(keypoints), 3))

    sides = [of(f"{side}_{part}") for part in ("shoulder", "hip") for side in ("left", "right")]
    shoulders, hips = (sides[i][:, :2] - sides[i + 1][:, :2] for i in (0, 2))
    torso = np.linalg.norm(sides[0] + sides[1] - sides[2] - sides[3], axis=1) / 2
    long = [np.linalg.norm(v, axis=1) for v in (shoulders, hips)]
    known = np.all([s[:, 2] > 0 for s in sides], axis=0) & (np.minimum(*long) > LEAST_AXIS * torso)
    bodies = known & ((shoulders * hips).sum(axis=1) < TWISTED * long[0] * long[1])

    left, right, nose = (of(n) for n in ("left_eye", "right_eye", "nose"))
    across, up = (left - right)[:, :2], ((left + right) / 2 - nose)[:, :2]
    lengths = np.linalg.norm(across, axis=1) * np.linalg.norm(up, axis=1)
    turn = (
        across[:, 0] * up[:, 1] - across[:, 1] * up[:, 0]
    )  # negative: clockwise from up to across, y is down
    seen = np.all([p[:, 2] == 2 for p in (left, right, nose)], axis=0) & (np.abs(turn) > lengths / 2)
    wide = np.linalg.norm(across, axis=1) > np.maximum(3.0, np.linalg.norm(up, axis=1) / 2)
    return bodies, np.where(seen & wide, -np.sign(turn), 0).astype(np.int64)


# ------------------------------------------------------------------ boxes and keypoints


def _sizes(labels: Labels) -> Floats:
    """(I, 2) width and height, NaN where the file has none."""
    told = [(i.get("width"), i.get("height")) for i in labels.images]
    return np.array([s if all(type(v) is int for v in s) else (np.nan, np.nan) for s in told]).reshape(-1, 2)


def _boxes(labels: Labels, table: Table, sizes: Floats) -> Iterator[Found]:
    boxes, limit = table.boxes, sizes
    drawn = np.array([not r.get("bbox_estimated") for r in labels.annotations], np.bool_)
    away = drawn & ((boxes[:, 2:] <= 0).any(axis=1) | (boxes[:, :2] >= limit).any(axis=1))
    beyond = np.maximum(-boxes[:, :2], boxes[:, 2:] - limit).max(axis=1)
    side = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    formula = labels.format == "mpii"  # a square around the person's centre, whatever the photo
    for n in np.flatnonzero(away).tolist():
        yield "box-outside", n, f"x, y, width, height {_xywh(boxes[n])} in {_size(sizes[n])}"
    sticks = drawn & ~away & (beyond > np.maximum(2.0, STICKS_OUT * side))
    for n in np.flatnonzero(sticks).tolist() if not formula else ():
        yield "box-beyond", n, f"by {beyond[n]:.1f} px"
    own = np.array([("area" in r and not r.get("area_estimated")) for r in labels.annotations], np.bool_)
    room = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for n in np.flatnonzero(own & ((table.area <= 0) | (table.area > 1.05 * room)) & ~table.crowd).tolist():
        yield "area", n, f"{table.area[n]:.0f} px^2, the box has {room[n]:.0f}"


def _xywh(box: Floats) -> str:
    return ", ".join(f"{v:g}" for v in (*box[:2], *(box[2:] - box[:2])))


def _size(size: Floats) -> str:
    return f"a photo of {size[0]:g} x {size[1]:g}"


def _keypoints(labels: Labels, table: Table, sizes: Floats) -> Iterator[Found]:
    xy, flags = table.keypoints[..., :2], table.keypoints[..., 2]
    names = labels.skeleton.keypoints
    cropped = bool((flags == 3).any())  # then hidden ones may lie outside, too
    meant = flags == 2 if cropped else (flags > 0) & (flags < 3)
    with np.errstate(invalid="ignore"):
        outside = meant & ((xy < -SUBPIXEL) | (xy > sizes[:, None] + SUBPIXEL)).any(axis=2)
    low, high = table.boxes[:, None, :2], table.boxes[:, None, 2:]
    away = np.linalg.norm(np.maximum(0, np.maximum(low - xy, xy - high)), axis=2)
    drawn = np.array([not r.get("bbox_estimated") for r in labels.annotations], np.bool_)
    limit = np.where(flags == 2, FAR, HIDDEN_FAR) * (high - low).max(axis=2)
    far = meant & ~outside & (away > limit) & drawn[:, None]
    zero = (xy == 0).all(axis=2)
    for rule, found in (
        ("outside", outside),
        ("far", far & ~zero),
        ("origin", (flags > 0) & zero),
        ("unlabelled", (flags == 0) & ~zero),
    ):
        for n in np.flatnonzero(found.any(axis=1)).tolist():
            at = np.flatnonzero(found[n])
            told = ", ".join(f"{names[i]} ({xy[n, i, 0]:g}, {xy[n, i, 1]:g})" for i in at[:3].tolist())
            yield rule, n, told + (f" and {len(at) - 3} more" if len(at) > 3 else "")
    for n, row in enumerate(labels.annotations):
        count, visible = int((flags[n] > 0).sum()), int((flags[n] == 2).sum())
        told = row.get("num_keypoints", count)
        if told not in (count, visible):  # CrowdPose counts the visible ones
            yield "count", n, f"it is {told}, {count} are labelled"
        if table.crowd[n] and count:
            yield "crowd", n, f"{count} labelled"
        if count >= 3:
            most = np.unique(xy[n][flags[n] > 0], axis=0, return_counts=True)[1].max()
            if most >= 3:
                yield "heap", n, f"{most} of {count}"


def _twice(labels: Labels, table: Table) -> Iterator[Found]:
    labelled = table.keypoints[..., 2] > 0
    for rows in rows_of(labels):
        mine = np.array([n for n in rows if labelled[n].any() and not table.crowd[n]], np.int64)
        if len(mine) < 2:
            continue
        pairs = np.argwhere(np.triu(iou(table.boxes[mine], table.boxes[mine]) > SAME_BOX, 1))
        for a, b in mine[pairs].tolist():
            both = labelled[a] & labelled[b]
            gap = np.linalg.norm(table.keypoints[a, both, :2] - table.keypoints[b, both, :2], axis=1)
            if len(gap) and gap.mean() < SAME_PLACE * np.sqrt(max(table.area[a], 1.0)):
                yield "twice", b, f"as annotation id {table.ids[a]}, {gap.mean():.1f} px apart"


# ------------------------------------------------------------------ masks


def _mask(row: dict[str, Any], n: int, table: Table, size: Floats) -> Iterator[Found]:
    if np.isnan(size).any():
        return
    try:
        mask = Masks.from_any([row["segmentation"]], (int(size[0]), int(size[1])))
        drawn = bool(mask.present[0])
    except InputError as e:
        yield "mask", n, str(e)
        return
    if not drawn:
        yield "mask-empty", n, "no pixel is inside"
    elif not table.crowd[n]:
        overlap = float(iou(mask.boxes, table.boxes[n : n + 1])[0, 0])
        if overlap < OVERLAP:
            yield "mask-box", n, f"their IoU is {overlap:.2f}"
        else:
            yield from _uncovered(mask, n, table)


def _uncovered(mask: Masks, n: int, table: Table) -> Iterator[Found]:
    """Visible keypoints that the mask, widened by a rim, does not cover."""
    import cv2

    points = table.keypoints[n][table.keypoints[n, :, 2] == 2, :2]
    if not len(points):
        return
    box = table.boxes[n]
    rim = max(2, round(RIM * float(np.sqrt((box[2:] - box[:2]).prod()))))
    x0, y0, cut = mask.cut(0)
    wide = np.pad(cut, rim).view(np.uint8)
    wide = np.asarray(
        cv2.dilate(wide, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1)))
    )
    x, y = (np.rint(points) - [x0 - rim, y0 - rim]).astype(np.int64).T
    inside = (x >= 0) & (x < wide.shape[1]) & (y >= 0) & (y < wide.shape[0])
    covered = int(np.count_nonzero(wide[y[inside], x[inside]]))
    if covered < COVERED * len(points):
        yield "mask-off", n, f"{len(points) - covered} of {len(points)} lie outside it"
