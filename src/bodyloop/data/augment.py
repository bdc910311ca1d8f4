"""Augmentations of pose training: pure functions of (sample, generator).

Each random step is split in two: ``draw``-like code that uses the generator, and a deterministic function
with the drawn numbers as arguments, which the parity tests call. Parameters default to the published
recipes (ProbPose, MaskPose, PMPose; spec section 10). All coordinates are image px of the sample's picture,
but for `blackout_patches`, which works on the crop.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bodyloop.data.sample import F64, U8, CroppedSample, Sample, with_box

Rng = np.random.Generator


def truncated_normal(rng: Rng, size: int) -> F64:
    """Standard normal draws, redrawn until they lie in [-1, 1]."""
    out = rng.standard_normal(size)
    while (outside := np.abs(out) > 1).any():
        out[outside] = rng.standard_normal(int(outside.sum()))
    return out


# ---- flip --------------------------------------------------------------------------------------------------


def flip(sample: Sample) -> Sample:
    """Mirror picture, mask, boxes and keypoints; left and right change names."""
    w = sample.image.shape[1]
    order = sample.skeleton.flip
    x1, y1, x2, y2 = sample.box
    kp = sample.keypoints[order].copy()
    kp[:, 0] = w - 1 - kp[:, 0]
    cx1, cy1, cx2, cy2 = sample.canvas
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        mask=None if sample.mask is None else np.ascontiguousarray(sample.mask[:, ::-1]),
        keypoints=kp,
        annotated=sample.annotated[order],
        visible=sample.visible[order],
        in_image=sample.in_image[order],
        box=np.array([w - 1 - x2, y1, w - 1 - x1, y2]),
        center=np.array([w - 1 - sample.center[0], sample.center[1]]),
        canvas=(w - cx2, cy1, w - cx1, cy2),
    )


def random_flip(sample: Sample, rng: Rng, probability: float = 0.5) -> Sample:
    return flip(sample) if rng.random() < probability else sample


# ---- half body ---------------------------------------------------------------------------------------------


def choose_half(
    sample: Sample, draw_upper: float, min_upper: int = 2, min_lower: int = 3, prefer_upper: float = 0.7
) -> npt.NDArray[np.intp] | None:
    """Indices of the annotated keypoints of the upper or lower body; None if there are too few of both."""
    known = sample.annotated
    upper = np.array([i for i in sample.skeleton.upper if known[i]], np.intp)
    lower = np.array([i for i in sample.skeleton.lower if known[i]], np.intp)
    if len(upper) < min_upper and len(lower) < min_lower:
        return None
    if len(lower) < min_lower:
        return upper
    if len(upper) < min_upper:
        return lower
    return upper if draw_upper < prefer_upper else lower


def half_body(sample: Sample, ids: npt.NDArray[np.intp], padding: float = 1.5) -> Sample:
    """The box around some keypoints: mean of them, ``padding`` times their range; the plain box stays inside itself."""
    points = sample.keypoints[ids]
    center = points.mean(axis=0)
    size = (points.max(axis=0) - points.min(axis=0)) * padding
    new = np.concatenate([center - size / 2, center + size / 2])
    low, high = sample.box[:2], sample.box[2:]
    clipped = np.concatenate([np.maximum(new[:2], low), np.minimum(new[2:], high)])
    if (clipped[2:] - clipped[:2] < 1).any():
        return sample
    return replace(sample, center=center, scale=size, box=clipped)


def random_half_body(sample: Sample, rng: Rng, probability: float = 0.3, min_keypoints: int = 9) -> Sample:
    use, draw = rng.random(2)
    if sample.annotated.sum() < min_keypoints or use > probability:
        return sample
    ids = choose_half(sample, float(draw))
    return sample if ids is None else half_body(sample, ids)


# ---- shift, scale, rotate ------------------------------------------------------------------------------------


def transform_box(sample: Sample, offset: npt.ArrayLike, factor: float, rotation: float) -> Sample:
    """Shift both boxes by ``offset`` times their own size, scale them by ``factor``, set the rotation (degrees)."""
    shift = np.asarray(offset, np.float64)
    size = sample.box[2:] - sample.box[:2]
    center = (sample.box[:2] + sample.box[2:]) / 2 + shift * size
    half = size * factor / 2
    return replace(
        sample,
        box=np.concatenate([center - half, center + half]),
        center=sample.center + shift * sample.scale,
        scale=sample.scale * factor,
        rotation=float(rotation),
    )


def random_transform(
    sample: Sample,
    rng: Rng,
    *,
    shift: float = 0.16,
    shift_probability: float = 0.3,
    scale: float = 0.5,
    rotate: float = 80.0,
    rotate_probability: float = 0.6,
) -> Sample:
    u = truncated_normal(rng, 4)
    use = rng.random(2)
    offset = u[:2] * shift if use[0] < shift_probability else np.zeros(2)
    rotation = float(u[3] * rotate) if use[1] < rotate_probability else 0.0
    return transform_box(sample, offset, 1 + scale * float(u[2]), rotation)


# ---- edge blackout: what a cropped photo looks like -----------------------------------------------------------


def keep_rectangle(sample: Sample, rectangle: tuple[int, int, int, int], black: bool = True) -> Sample:
    """Keep x1 y1 x2 y2 (half open) of the picture: black outside, keypoints there hidden, box clipped to it."""
    x1, y1, x2, y2 = rectangle
    image = sample.image
    if black:
        image = np.zeros_like(image)
        image[y1:y2, x1:x2] = sample.image[y1:y2, x1:x2]
    x, y = sample.keypoints.T
    inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    low, high = np.array([x1, y1], np.float64), np.array([x2, y2], np.float64)
    box = np.concatenate([np.clip(sample.box[:2], low, high), np.clip(sample.box[2:], low, high)])
    return replace(
        with_box(sample, box),
        image=image,
        visible=sample.visible & inside,
        in_image=inside,
        canvas=(x1, y1, x2, y2),
    )


def random_edges(
    sample: Sample,
    rng: Rng,
    probability: float = 0.2,
    ratio: tuple[float, float] = (0.7, 0.9),
    context: float = 1.5,
) -> Sample:
    """Keep a random rectangle of the box's surroundings (probability), else only clip to the picture."""
    h, w = sample.image.shape[:2]
    size = (sample.box[2:] - sample.box[:2]) * context
    center = (sample.box[:2] + sample.box[2:]) / 2
    x0, y0 = (int(v) for v in np.clip(center - size / 2, 0, (w, h)))
    x1, y1 = (int(v) for v in np.clip(center + size / 2, 0, (w, h)))
    if rng.random() >= probability or x1 - x0 < 8 or y1 - y0 < 8:
        return keep_rectangle(sample, (0, 0, w, h), black=False)
    rh, rw = rng.uniform(*ratio, size=2)
    dh, dw = int((y1 - y0) * rh), int((x1 - x0) * rw)
    x = int(rng.integers(x0, max(x1 - dw, x0 + 1)))
    y = int(rng.integers(y0, max(y1 - dh, y0 + 1)))
    return keep_rectangle(sample, (x, y, x + dw, y + dh))


def random_cut(
    sample: Sample, rng: Rng, probability: float, keep: tuple[float, float] = (0.35, 0.95)
) -> Sample:
    """Cut the box itself: the picture ends somewhere across the person, as in CropCOCO.

    Each side of the box keeps a share drawn from ``keep``, placed at either end or in between. In one case of
    three the picture goes on beyond the cut (a detector's box that misses a part), else it is black.
    """
    if rng.random() >= probability:
        return sample
    h, w = sample.image.shape[:2]
    size = sample.box[2:] - sample.box[:2]
    share = rng.uniform(*keep, size=2)
    at = np.clip(rng.uniform(-0.3, 1.3, size=2), 0, 1) * (1 - share)
    low = sample.box[:2] + at * size
    high = low + share * size
    goes_on = rng.random() < 1 / 3
    box = np.concatenate([np.maximum(low, 0), np.minimum(high, (w, h))])
    if (box[2:] - box[:2] < 8).any():
        return sample
    cut_sample = with_box(sample, box)
    if goes_on:
        return cut_sample
    # the picture is a rectangle: sides that were not cut stay where the picture ends
    touched_low, touched_high = at > 0, at + share < 1
    x1, y1 = (int(v) if t else 0 for v, t in zip(box[:2], touched_low, strict=True))
    x2, y2 = (int(np.ceil(v)) if t else int(e) for v, t, e in zip(box[2:], touched_high, (w, h), strict=True))
    return keep_rectangle(cut_sample, (x1, y1, x2, y2))


# ---- patches and colours of the crop -------------------------------------------------------------------------


def blackout_patches(cropped: CroppedSample, grid: npt.NDArray[np.bool_]) -> CroppedSample:
    """Blacken the cells of ``grid`` (rows, columns) on the crop; keypoints in them count as hidden."""
    w, h = cropped.pixels.size
    rows, columns = grid.shape
    tall = np.repeat(np.repeat(grid, h // rows, axis=0), w // columns, axis=1)
    black = np.zeros((h, w), np.bool_) if cropped.pixels.black is None else cropped.pixels.black.copy()
    black[: tall.shape[0], : tall.shape[1]] |= tall
    x, y = np.floor(cropped.keypoints.T / np.array([[w // columns], [h // rows]])).astype(int)
    inside = (x >= 0) & (x < columns) & (y >= 0) & (y < rows)
    hit = np.zeros(len(inside), np.bool_)
    hit[inside] = grid[y[inside], x[inside]]
    return replace(cropped, pixels=replace(cropped.pixels, black=black), visible=cropped.visible & ~hit)


def random_patches(
    cropped: CroppedSample,
    rng: Rng,
    probability: float = 0.1,
    grid: tuple[int, int] = (8, 6),
    ratio: float = 0.2,
) -> CroppedSample:
    if rng.random() >= probability:
        return cropped
    return blackout_patches(cropped, rng.random(grid) < ratio)


def photometric(cropped: CroppedSample, rng: Rng, strength: float = 0.3) -> CroppedSample:
    """Gain, offset and gamma, per channel a little apart: one table look-up. Black borders stay black."""
    table = colour_table(rng, strength)
    before = cropped.pixels.colours
    colours = table if before is None else np.take_along_axis(table, before.astype(np.intp), axis=0)
    return replace(cropped, pixels=replace(cropped.pixels, colours=colours))


def colour_table(rng: Rng, strength: float = 0.3) -> U8:
    """(256, 3): the new value of each old one by channel, by random gain, offset and gamma; 0 stays 0."""
    gain = np.exp(rng.normal(0, strength * 0.6)) * np.exp(rng.normal(0, strength * 0.15, 3))
    gamma = np.exp(rng.normal(0, strength * 0.6))
    offset = rng.normal(0, strength * 40)
    v = np.arange(256, dtype=np.float64)[:, None] / 255
    table: U8 = np.clip(v**gamma * gain * 255 + offset, 0, 255).astype(np.uint8)
    table[0] = 0
    return table


# ---- masks ---------------------------------------------------------------------------------------------------


def dim_background(sample: Sample, alpha: float = 0.25) -> Sample:
    """Dim what lies outside the mask to (1 - alpha); without a mask, or with an empty one, nothing changes."""
    if sample.mask is None or not sample.mask.any():
        return sample
    table = np.rint(np.arange(256) * (1 - alpha)).astype(np.uint8)
    image = np.where(sample.mask[..., None] > 0, sample.image, table[sample.image])
    return replace(sample, image=image)


def smooth_mask(mask: U8) -> U8:
    """5x5 opening, then 5x5 closing."""
    import cv2

    ones = np.ones((5, 5), np.uint8)
    return cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, ones), cv2.MORPH_CLOSE, ones)  # type: ignore[return-value]


def dilate_mask(smooth: U8) -> U8:
    """Closing and dilation by kernels that grow with the mask's area."""
    import cv2

    area = int(smooth.sum())
    close, grow = (np.ones((k, k), np.uint8) for k in (max(area // 1000, 5), max(area // 3000, 5)))
    return cv2.dilate(cv2.morphologyEx(smooth, cv2.MORPH_CLOSE, close), grow)  # type: ignore[return-value]


def erode_mask(smooth: U8) -> U8:
    """Opening and erosion by kernels that grow with the mask's area."""
    import cv2

    area = int(smooth.sum())
    open_, shrink = (np.ones((k, k), np.uint8) for k in (max(area // 1000, 5), max(area // 3000, 5)))
    return cv2.erode(cv2.morphologyEx(smooth, cv2.MORPH_OPEN, open_), shrink)  # type: ignore[return-value]


def nearest_seed_labels(mask: U8, seeds: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
    """Label (1..n) of the nearest seed at every pixel of the mask, 0 outside it.

    ``seeds`` are flat row-major indices. A pixel equally near to several seeds gets the one with the smaller
    x, then the smaller y.
    """
    h, w = mask.shape
    sy, sx = np.divmod(np.asarray(seeds, np.int64), w)
    across = ((np.arange(w) - sx[:, None]) ** 2).astype(np.int32)
    down = ((np.arange(h) - sy[:, None]) ** 2).astype(np.int32)
    labels = np.zeros(mask.shape, np.int32)
    nearest = np.full(mask.shape, np.iinfo(np.int32).max, np.int32)
    distance = np.empty_like(nearest)
    for n in np.lexsort(
        (sy, sx)
    ):  # one seed at a time over the whole picture: a sixth of the time of all pairs
        np.add(down[n][:, None], across[n], out=distance)
        closer = distance < nearest
        np.copyto(nearest, distance, where=closer)
        np.copyto(labels, n + 1, where=closer)
    labels[mask == 0] = 0
    return labels


def remove_patches(mask: U8, seeds: npt.NDArray[np.integer], removed: npt.NDArray[np.integer]) -> U8:
    """Zero the pixels nearest to the seeds whose labels (1..n; 0 does nothing) are in ``removed``."""
    return _without(mask, nearest_seed_labels(mask, seeds), removed)


def _without(mask: U8, labels: npt.NDArray[np.int32], removed: npt.NDArray[np.integer]) -> U8:
    out = mask.copy()
    out[np.isin(labels, removed) & (labels > 0)] = 0
    return out


def _random_patch_removal(mask: U8, rng: Rng, patches: int, amount: float) -> U8:
    pixels = np.flatnonzero(mask)
    if len(pixels) < patches:
        return mask
    seeds = rng.choice(pixels, patches, replace=False)
    count = int(patches * rng.uniform(0, amount))
    if count == 0:
        return mask
    labels = nearest_seed_labels(mask, seeds)
    return _without(mask, labels, rng.choice(np.unique(labels), count, replace=False))


def random_mask_noise(
    mask: U8,
    rng: Rng,
    *,
    dilate_probability: float = 0.5,
    erode_probability: float = 0.5,
    dilate_amount: float = 0.1,
    erode_amount: float = 0.5,
) -> U8:
    """What a segmenter's mask may look like: grown, shrunk, with background blobs or with missing parts."""
    total = dilate_probability + erode_probability
    use, which, coin = rng.random(3)
    if use >= total:
        return mask
    smooth = smooth_mask(mask)
    if which < dilate_probability / total:
        if coin < 0.5:
            background = (1 - smooth).astype(np.uint8)
            return (1 - _random_patch_removal(background, rng, 50, dilate_amount)).astype(np.uint8)
        return dilate_mask(smooth)
    if coin < 0.5:
        return _random_patch_removal(smooth, rng, 10, erode_amount)
    return erode_mask(smooth)
