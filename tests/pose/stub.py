"""A pose network of a few lines: each keypoint is where its colour is strongest.

Keypoint k of the skeleton sees one colour channel; its map is that channel's brightness, sharpened and
normalised over the crop. So the right answers are known from the picture, and the network mirrors exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bodyloop.maps import decode, oks_variances
from bodyloop.models.cards import Card, Decode, Licenses, Preprocess
from bodyloop.skeletons import Skeleton

SKELETON = Skeleton.define("colours", ["left_red", "right_green", "blue", "left_green", "right_red"])
CHANNEL = (0, 1, 2, 1, 0)
CARD = Card(
    name="colours",
    kind="pose",
    architecture="stub",
    licenses=Licenses("Apache-2.0", "none", "none"),
    preprocess=Preprocess(size=(192, 256), map_size=(48, 64), input="uint8-nhwc", mask_alpha=0.25),
    head="probability",
    skeleton=SKELETON,
    decode=Decode("dark-udp"),
    outputs=("maps", "presence", "visibility", "quality"),
)


class Colours:
    """An engine (`bodyloop.engines.Engine`) in numpy."""

    device = "cpu"
    inputs: tuple[str, ...] = ("crops",)

    def __init__(self, *, decodes: bool = False, without: Sequence[str] = ()) -> None:
        names = ["maps", "presence", "visibility", "quality", "features", "error"]
        names += ["keypoints", "map_scores"] if decodes else []
        self.outputs = tuple(n for n in names if n not in without)
        self.calls: list[tuple[int, tuple[str, ...]]] = []

    def run(self, inputs: Mapping[str, npt.NDArray], outputs: Sequence[str]) -> dict[str, npt.NDArray]:
        crops = inputs["crops"]
        assert crops.dtype == np.uint8 and crops.flags.c_contiguous
        self.calls.append((len(crops), tuple(outputs)))
        # cells are sampled at the UDP grid's own positions, so that points come back exactly
        y = np.rint(np.linspace(0, 255, 64)).astype(int)
        x = np.rint(np.linspace(0, 191, 48)).astype(int)
        light = crops[:, y][:, :, x].astype(np.float64) / 255
        brightness = np.moveaxis(light, -1, 1)[:, CHANNEL, :, :]
        maps = brightness**8 + 1e-9
        maps = (maps / maps.sum(axis=(2, 3), keepdims=True)).astype(np.float32)
        mean = brightness.mean(axis=(2, 3)).astype(np.float32)
        side = mean * np.linspace(0.5, 1, len(CHANNEL), dtype=np.float32)  # left and right differ
        out = {"maps": maps, "presence": side, "visibility": side**2, "quality": 1 - side, "error": side * 3}
        out["features"] = crops[:, ::64, ::64].transpose(0, 3, 1, 2).astype(np.float32)
        if "keypoints" in outputs:
            read = decode(maps, "dark_udp", oks_variances(SKELETON.sigma_array))
            out["keypoints"] = (read.points * (191 / 47, 255 / 63)).astype(np.float32)
            out["map_scores"] = read.scores
        return {n: out[n] for n in outputs}

    def warm_up(self, outputs: Sequence[str] | None = None) -> None:
        self.run({"crops": np.zeros((1, 256, 192, 3), np.uint8)}, outputs or self.outputs)


def picture(seed: int = 0, size: tuple[int, int] = (300, 120), people: int = 3):
    """A dark picture with a red, a green and a blue spot for each of some people.

    Returns: pixels (H, W, 3), boxes (N, 4), and the spots (N, 3, 2) in px.
    """
    rng = np.random.default_rng(seed)
    w, h = size
    pixels = np.zeros((h, w, 3), np.float64)
    yy, xx = np.mgrid[:h, :w]
    boxes, spots = [], []
    for i in range(people):
        x1, y1 = 8 + i * w / people, rng.uniform(5, 20)
        x2, y2 = x1 + w / people - 16, h - rng.uniform(5, 20)
        boxes.append([x1, y1, x2, y2])
        own = np.stack([rng.uniform(x1 + 4, x2 - 4, 3), rng.uniform(y1 + 8, y2 - 8, 3)], axis=1)
        spots.append(own)
        for c, (sx, sy) in enumerate(own):
            pixels[..., c] += 250 * np.exp(-((xx - sx) ** 2 + (yy - sy) ** 2) / (2 * 4.0**2))
    return np.clip(pixels, 0, 255).astype(np.uint8), np.array(boxes, np.float32), np.array(spots)


def card(**changes: object) -> Card:
    return replace(CARD, **changes)
