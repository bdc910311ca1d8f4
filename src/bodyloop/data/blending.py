"""Cutting a person out of one photo and setting it into another so that the cut cannot be seen.

Labelled outlines miss the true edge by some pixels: the edge is looked for anew in a band around them (GrabCut:
Rother et al., SIGGRAPH 2004). The rim's colours, half background, are replaced by the nearest ones inside. Light
and colourfulness of the piece are moved towards the photo it comes into. The same input gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from bodyloop.errors import InputError

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Bits = npt.NDArray[np.bool_]
Pixels = TypeVar("Pixels", U8, F32)

MARGIN = 8  # px of background that are cut out, too
MOST_MOVED = 0.12  # of the area: an edge found anew that changes more is not believed
RIM = 1.0  # px: how soft the edge is


@dataclass(frozen=True, eq=False)
class Piece:
    """A person cut out of a photo.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, the person's colours also around it. mask: (h, w) bool.
        corner: x and y of the rectangle in its photo.
        light, colour: mean lightness (0..255) and mean distance from grey of the whole photo.
    """

    pixels: U8
    mask: Bits
    corner: tuple[int, int]
    light: float
    colour: float


def cut_piece(pixels: U8, mask: Bits) -> Piece:
    """Cut somebody out.

    Args:
        pixels: (H, W, 3) uint8 RGB. mask: (H, W) of the person, as labelled.

    Raises:
        InputError: an empty mask.
    """
    import cv2

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise InputError("an empty mask: nobody to cut out")
    top, left = max(int(rows[0]) - MARGIN, 0), max(int(columns[0]) - MARGIN, 0)
    part = np.s_[top : int(rows[-1]) + 1 + MARGIN, left : int(columns[-1]) + 1 + MARGIN]
    edge = true_edge(np.ascontiguousarray(pixels[part]), mask[part])
    inner = cv2.erode(edge.astype(np.uint8), np.ones((3, 3), np.uint8))
    inner = inner if inner.any() else edge.astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels(1 - inner, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    colours = np.zeros((int(nearest.max()) + 1, 3), np.uint8)
    colours[nearest[inner > 0]] = pixels[part][inner > 0]
    return Piece(colours[nearest], edge, (left, top), *_light(pixels))


def true_edge(pixels: U8, mask: Bits) -> Bits:
    """The mask with its edge moved, within a few pixels, to where the picture has one."""
    import cv2

    width = max(2, round(0.015 * max(mask.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    given = mask.astype(np.uint8)
    sure, maybe = cv2.erode(given, disc) > 0, cv2.dilate(given, disc) > 0
    if not sure.any() or maybe.all():
        return mask
    marks = np.where(mask, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    marks[sure], marks[~maybe] = cv2.GC_FGD, cv2.GC_BGD
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(pixels, marks, (0, 0, 1, 1), *models, 2, cv2.GC_INIT_WITH_MASK)
    found = ((marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)).astype(np.uint8)
    found = cv2.medianBlur(found, 5) > 0
    return found if (found ^ mask).sum() <= MOST_MOVED * mask.sum() else mask


def resized(values: Pixels, size: tuple[int, int], mirrored: bool) -> Pixels:
    """An array (h, w, ...) at another size (w, h), perhaps mirrored."""
    import cv2

    how = cv2.INTER_AREA if size[0] < values.shape[1] else cv2.INTER_CUBIC
    out = np.asarray(cv2.resize(values, size, interpolation=how), values.dtype)
    return np.ascontiguousarray(out[:, ::-1]) if mirrored else out


def soft(mask: npt.NDArray[Any]) -> F32:
    """How much of each pixel a mask of 0..1 covers, its edge a little inwards and softened."""
    import cv2

    blurred = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), RIM)
    return np.asarray(np.clip((blurred - 0.3) / 0.5, 0, 1), np.float32)


def blend(picture: U8, piece: U8, cover: F32) -> U8:
    """A piece (h, w, 3) over a picture of the same size as far as it covers (h, w) 0..1."""
    mixed = picture + cover[..., None] * (piece.astype(np.float32) - picture)
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def in_light_of(piece: Piece, picture: U8) -> U8:
    """The piece's pixels with lightness and colourfulness moved half-way towards a picture's (H, W, 3)."""
    import cv2

    light, colour = _light(picture)
    lab = cv2.cvtColor(piece.pixels, cv2.COLOR_RGB2LAB).astype(np.float32)
    lab[..., 0] *= np.clip(np.sqrt(light / max(piece.light, 1.0)), 0.75, 1.3)
    lab[..., 1:] = 128 + (lab[..., 1:] - 128) * np.clip(np.sqrt(colour / max(piece.colour, 0.5)), 0, 1.15)
    done = cv2.cvtColor(np.clip(np.rint(lab), 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB)
    return np.asarray(done, np.uint8)


def _light(pixels: U8) -> tuple[float, float]:
    """Mean lightness and mean distance from grey."""
    import cv2

    lab = cv2.cvtColor(cv2.resize(pixels, (64, 64), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2LAB)
    away = lab[..., 1:].astype(np.float64) - 128
    return float(lab[..., 0].mean()), float(np.hypot(away[..., 0], away[..., 1]).mean())
