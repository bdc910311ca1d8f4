"""Bodies (meshes) over the picture and from the side, drawn by a small painter that needs no graphics card.

All triangles of all people that face the camera are painted from the farthest to the nearest, each in its person's
colour by how much light falls on it, at twice the size, then shrunk, which smooths the edges. Bodies have tens of
thousands of small triangles that do not cut each other: what a painter gets wrong cannot be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bodyloop.drawing.palette import PAPER, RGB, of_person
from bodyloop.drawing.picture import Picture
from bodyloop.errors import InputError
from bodyloop.images import as_image

if TYPE_CHECKING:
    from bodyloop.mesh import BodyMesh

Floats = npt.NDArray[np.float64]

FINER = 2  # pixels drawn for one shown, in each direction
LIGHT = np.array([-0.35, -0.6, -0.72])  # towards the light: from the camera's left, above
DARKEST = 0.35  # of a colour, where no light falls
SIDE = 60.0  # degrees that the published pictures turn people by
AROUND = 0.08  # of the side view's sides is left free


def draw_bodies(image: Any, meshes: Sequence[BodyMesh], *, opacity: float = 1.0) -> Picture:
    """Bodies over the picture they were found in, whoever is nearer before the others.

    Args:
        image: a path, an array (H, W, 3) uint8 RGB or an `Image`.
        opacity: 0..1 of the bodies.

    Raises:
        InputError: bodies of a picture of another size, an opacity out of range.
    """
    picture = as_image(image)
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity must be in 0..1, got {opacity}")
    odd = next((m for m in meshes if m.image_size != picture.size), None)
    if odd is not None:
        raise InputError(f"bodies of a picture of {odd.image_size}, this one has {picture.size} (w, h)")
    w, h = picture.size
    shapes = [
        (m.vertices.astype(np.float64), m.faces, m.focal_length, np.array([w / 2, h / 2])) for m in meshes
    ]
    painted, cover = _painted(shapes, (w, h))
    mixed = picture.pixels + opacity * cover * (painted - picture.pixels)
    return Picture(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def draw_from_side(
    meshes: Sequence[BodyMesh], size: tuple[int, int], *, degrees: float = SIDE, ground: RGB = PAPER
) -> Picture:
    """The same bodies seen from the side, all of them in the picture.

    Args:
        size: (w, h) px of the picture.
        degrees: that the scene is turned by, about the upright axis through its middle.

    Raises:
        InputError: a size below one px.
    """
    if min(size) < 1:
        raise InputError(f"size must be at least 1 x 1 px, got {size}")
    w, h = size
    paper = np.full((h, w, 3), ground, np.float64)
    if not meshes:
        return Picture(paper.astype(np.uint8))
    everybody = np.concatenate([m.vertices for m in meshes]).astype(np.float64)
    middle = (everybody.min(axis=0) + everybody.max(axis=0)) / 2
    a = np.radians(degrees)
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    turned = [(m.vertices - middle) @ turn.T for m in meshes]
    reach = np.concatenate(turned)
    away = (
        2.5 * float(np.linalg.norm(reach, axis=1).max()) + 1e-6
    )  # the camera's distance: a mild perspective
    flat = reach[:, :2] / (reach[:, 2:] + away)
    low, high = flat.min(axis=0), flat.max(axis=0)
    focal = (1 - 2 * AROUND) * float((np.array(size) / np.maximum(high - low, 1e-9)).min())
    centre = np.array(size) / 2 - focal * (low + high) / 2
    shapes = [
        (t + np.array([0, 0, away]), m.faces, focal, centre) for t, m in zip(turned, meshes, strict=True)
    ]
    painted, cover = _painted(shapes, size)
    return Picture(np.clip(np.rint(paper + cover * (painted - paper)), 0, 255).astype(np.uint8))


def pastel(colour: RGB, share: float = 0.5) -> RGB:
    """A colour moved towards a light, nearly grey one of its hue."""
    import cv2

    hue, saturation, value = cv2.cvtColor(np.array([[colour]], np.uint8), cv2.COLOR_RGB2HSV)[0, 0].tolist()
    softer = [hue, (1 - share) * saturation + share * 20, (1 - share) * value + share * 240]
    made = cv2.cvtColor(np.rint(np.array([[softer]])).astype(np.uint8), cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return made[0], made[1], made[2]


Shape = tuple[Floats, npt.NDArray[np.int64], float, Floats]
"""Vertices (V, 3) before a camera, faces (F, 3), focal length px, where its axis meets the picture (2,) px."""


def _painted(shapes: Sequence[Shape], size: tuple[int, int]) -> tuple[Floats, Floats]:
    """Colours (h, w, 3) and how much of each pixel (h, w, 1) is covered."""
    import cv2

    w, h = size
    canvas = np.zeros((h * FINER, w * FINER, 3), np.uint8)
    cover = np.zeros((h * FINER, w * FINER), np.uint8)
    none = np.zeros((0, 3, 2)), np.zeros((0, 3)), np.zeros(0)
    parts = [none, *(_triangles(shape, i) for i, shape in enumerate(shapes))]
    xy, rgb, depth = (np.concatenate([part[k] for part in parts]) for k in range(3))
    near = np.abs(xy - np.array([w, h]) / 2).max(axis=(1, 2), initial=0) < 4 * max(
        w, h
    )  # fits OpenCV's fractions
    order = np.argsort(-depth, kind="stable")
    order = order[near[order]]
    fixed = np.rint(((xy + 0.5) * FINER - 0.5) * 16).astype(np.int32)  # sixteenths of a pixel
    for n in order.tolist():
        cv2.fillConvexPoly(canvas, fixed[n], rgb[n].tolist(), shift=4)
        cv2.fillConvexPoly(cover, fixed[n], 255, shift=4)
    share = cv2.resize(cover, size, interpolation=cv2.INTER_AREA).astype(np.float64)[..., None] / 255
    mixed = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA).astype(np.float64)
    return np.divide(mixed, share, out=np.zeros_like(mixed), where=share > 0), share


def _triangles(shape: Shape, person: int) -> tuple[Floats, Floats, Floats]:
    """Corners (T, 3, 2) px, colours (T, 3) and depths (T,) of the triangles that face the camera."""
    vertices, faces, focal, centre = shape
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    if (np.cross(a, b) * c).sum() < 0:  # the body's volume: its faces are written clockwise
        normals = -normals
    middle = (a + b + c) / 3
    facing = np.flatnonzero(
        ((normals * middle).sum(axis=1) < 0) & (np.stack([a, b, c])[..., 2] > 1e-3).all(axis=0)
    )
    smooth = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(smooth, faces[:, k], normals)
    lit = smooth[faces[facing]].mean(axis=1)
    lit /= np.maximum(np.linalg.norm(lit, axis=1, keepdims=True), 1e-12)
    light = DARKEST + (1 - DARKEST) * np.clip(lit @ (LIGHT / np.linalg.norm(LIGHT)), 0, 1)
    points = np.stack([p[facing] for p in (a, b, c)], axis=1)
    xy = points[..., :2] * focal / points[..., 2:] + centre
    colours = np.array(pastel(of_person(person).middle), np.float64) * light[:, None]
    return xy, colours, middle[facing, 2]
