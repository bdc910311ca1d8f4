"""Training from crop and pose to mask: what samples hold, that they follow from their generator, and that it learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bodyloop.errors import ConfigError, FileError
from bodyloop.segment.planes import MAPPED, PLANES
from bodyloop.skeletons import COCO
from bodyloop.train import pose2seg_data
from bodyloop.train.config import Pose2SegConfig, load_config
from bodyloop.train.loop import fit
from bodyloop.train.pose2seg import Pose2SegTask
from bodyloop.train.pose2seg_data import MAPS, NOTHING, POINTS, UNNAMED, Told

W, H = 160, 120


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with two people each: ellipses of their own colour on noise, keypoints along their middle."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split in ("train", "dev"):
        folder = root / "coco"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        images, rows = [], []
        for i in range(4):
            name = f"{split}{i}.png"
            photo = rng.integers(0, 90, (H, W, 3)).astype(np.uint8)
            for p, colour in enumerate(((255, 200, 60), (60, 230, 255))):
                x = 55 + 39 * p
                cv2.ellipse(photo, (x, 60), (18, 45), 0, 0, 360, colour, -1)
                outline = cv2.ellipse2Poly((x, 60), (18, 45), 0, 0, 360, 10).ravel().tolist()
                points = [[x, 20 + 80 * k / 16, 2] for k in range(17)]
                who = {"id": len(rows) + 1, "image_id": i, "category_id": 1, "num_keypoints": 17}
                where = {
                    "bbox": [x - 18, 15, 37, 91],
                    "segmentation": [outline],
                    "keypoints": np.ravel(points).tolist(),
                }
                rows.append(who | where)
            cv2.imwrite(str(folder / "images" / name), photo[..., ::-1])
            images.append({"id": i, "file_name": name, "width": W, "height": H})
        category = {"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}
        (folder / f"{split}.json").write_text(
            json.dumps({"images": images, "annotations": rows, "categories": [category]})
        )
    return root


def config(data: Path, **changes: object) -> Pose2SegConfig:
    plain: dict[str, object] = {
        "data": str(data), "sources": ("coco",), "start": "none", "predicted": 0.0, "batch": 4, "steps": 6,
        "lr": 3e-3, "warmup": 1, "precision": "fp32", "fixed_stages": 0, "evaluate_every": 100, "checkpoint_every": 3,
    }  # fmt: skip
    return Pose2SegConfig(**(plain | changes))


@pytest.fixture(scope="module")
def task(data: Path) -> Pose2SegTask:
    return Pose2SegTask(config(data))


def drawn(task: Pose2SegTask, seed: int, index: int = 0, **changes: object) -> Told:
    samples = task.samples
    before = samples.config
    samples.config = replace(before, **changes)  # type: ignore[arg-type]
    try:
        return samples.sample((0, index), np.random.default_rng(seed))
    finally:
        samples.config = before


def test_a_sample_follows_from_its_generator(task: Pose2SegTask) -> None:
    a, b, c = drawn(task, 5), drawn(task, 5), drawn(task, 6)
    assert all(
        np.array_equal(getattr(a, n), getattr(b, n), equal_nan=True)
        for n in ("crop", "target", "planes", "points")
    )
    assert not np.array_equal(a.crop, c.crop)


@pytest.mark.parametrize("seed", range(10))
def test_the_target_lies_on_the_person_whatever_is_done(task: Pose2SegTask, seed: int) -> None:
    """The person is the brightest thing of its red channel; turned, moved, mirrored and scaled with its mask."""
    s = drawn(task, seed, photometric=0.0, paste=0.0)
    red = (s.crop[..., 0] > 150).astype(np.uint8)
    both = (red & s.target).sum() / (red | s.target).sum()
    assert s.target.shape == (192, 144) and both > 0.9
    told = np.isfinite(s.points).all(axis=1) & (s.points >= 0).all(axis=1) & (s.points < 1).all(axis=1)
    x, y = (s.points[told] * (143, 191)).round().astype(int).T
    assert s.target[y, x].mean() > 0.6  # keypoints move along, a little off


def test_pasted_people_are_not_the_person(task: Pose2SegTask) -> None:
    shares = []
    for seed in range(12):
        with_, without = (drawn(task, seed, photometric=0.0, paste=p, shift_share=0.0, rotate_share=0.0, flip=0.0)
                          for p in (1.0, 0.0))  # fmt: skip
        shares.append(with_.target.sum() / without.target.sum())
    assert min(shares) < 0.95 and max(shares) > 0.99 and min(shares) > 0.25


def test_what_is_known(task: Pose2SegTask) -> None:
    everything, nothing = (
        drawn(task, 3, box=p, mask=p, others=p, shift_share=0.0, rotate_share=0.0) for p in (1.0, 0.0)
    )
    assert not nothing.planes.any()
    for name in ("box", "mask", "others"):
        assert everything.planes[PLANES.index(name)].any()
    assert not everything.planes[:MAPPED].any()  # of the maps: drawn for the batch


@pytest.mark.parametrize("mode", [MAPS, POINTS, UNNAMED, NOTHING])
@pytest.mark.parametrize("predicted", [False, True])
def test_planes_of_a_batch(task: Pose2SegTask, mode: int, predicted: bool) -> None:
    sample = replace(drawn(task, 3, box=0.0, mask=0.0, others=0.0), mode=mode, predicted=predicted, sent=3)
    if predicted:  # the pose model finds nobody it could be sure of on ellipses
        task._maps = lambda crops: pose2seg_stand_in(len(crops))  # type: ignore[method-assign]
    batch = task.samples.collate([sample])
    told = task.told(batch)[0]
    kept = batch["planes"].numpy().any()
    there = {n for n, p in zip(PLANES, told, strict=True) if p.any()}
    named = set(PLANES[:MAPPED])
    assert there == {MAPS: named | {"points"}, POINTS: {"points"}, UNNAMED: {"points"}, NOTHING: set()}[mode]
    assert not kept  # the batch stays as it was


def pose2seg_stand_in(n: int) -> np.ndarray:
    maps = np.zeros((n, 19, 64, 48), np.float32)
    maps[..., 32, 24] = 1
    return maps


def test_learns_and_goes_on_to_the_same_weights(data: Path, tmp_path: Path) -> None:
    c = config(data, validation="", batch=2, steps=4, checkpoint_every=2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(Pose2SegTask(c), c, whole)
    fit(Pose2SegTask(c), c, parts, stop_after=2)
    fit(Pose2SegTask(c), c, parts)
    a, b = (torch.load(r / "last.pt", weights_only=True)["average"] for r in (whole, parts))
    assert all(torch.equal(v, b[k]) for k, v in a.items())


@pytest.mark.slow
def test_learns_by_heart(data: Path, tmp_path: Path) -> None:
    c = config(data, overfit=4, steps=60, evaluate_every=60, ema=0.5, warmup=5)
    assert fit(Pose2SegTask(c), c, tmp_path)["IoU"] > 0.85


def test_evaluation_prompts_the_people_of_the_validation_file(task: Pose2SegTask) -> None:
    figures = task.evaluate(task.network)
    assert set(figures) == {"IoU", "score_error", "IoU_with_mask", "score_error_with_mask", "score"}


def test_what_does_not_fit(data: Path) -> None:
    with pytest.raises(ConfigError, match="no segmenter that takes crops"):
        Pose2SegTask(config(data, model="pmpose-n"))
    with pytest.raises(FileError, match="validation="):
        Pose2SegTask(config(data, validation="coco/nowhere.json"))


def test_the_recipe_is_read() -> None:
    recipe = load_config(Path(pose2seg_data.__file__).parent.parent / "configs" / "pose2seg-n.yaml")
    assert isinstance(recipe, Pose2SegConfig) and recipe.model == "pose2seg-n"
