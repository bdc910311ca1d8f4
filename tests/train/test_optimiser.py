"""Groups of the optimiser against the published recipes', and schedules by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bodyloop.errors import ConfigError
from bodyloop.models.build import build_network
from bodyloop.models.registry import find_card
from bodyloop.nn.topdown import TopDown
from bodyloop.train.config import TrainConfig
from bodyloop.train.optimiser import freeze, learning_rate, parameter_groups

STORED = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "parity" / "optim_groups.json").read_text(encoding="utf-8")
)
CONFIG = TrainConfig(weight_decay=0.3)


@pytest.mark.parametrize("recipe", list(STORED))
def test_published_groups(recipe: str) -> None:
    expected = STORED[recipe]
    with torch.device("meta"):
        network = build_network(find_card(recipe.lower()))
    assert isinstance(network, TopDown)
    frozen = {n.split(".")[0] + "." + n.split(".")[1] for n in expected["frozen"] if n.startswith("head.")}
    if any(n.startswith("backbone.") for n in expected["frozen"]):
        frozen.add("backbone.")
    freeze(network, sorted(frozen))
    names = dict(network.named_parameters())
    assert {n for n, p in names.items() if not p.requires_grad} == set(expected["frozen"])
    config = TrainConfig(
        lr=expected["base_lr"],
        weight_decay=expected["weight_decay"],
        layer_decay=expected["layer_decay_rate"],
    )
    mine = {
        name: (g["factor"], g["weight_decay"])
        for g in parameter_groups(network.named_parameters(), config, expected["num_layers"])
        for name in g["names"]
    }
    theirs = {name: (g["lr_scale"], g["weight_decay"]) for g in expected["groups"] for name in g["params"]}
    assert mine.keys() == theirs.keys()
    for name, (factor, decay) in theirs.items():
        assert mine[name] == (pytest.approx(factor, rel=1e-9), decay), name


def test_groups_decay_matrices_only_and_slow_the_backbone() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Conv2d(1, 4, 1)
            self.norm = nn.BatchNorm2d(4)
            self.final = nn.Conv2d(4, 1, 1)

    groups = parameter_groups(Net().named_parameters(), replace(CONFIG, backbone_lr=0.1))
    table = {(g["factor"], g["weight_decay"]): g["names"] for g in groups}
    assert table == {
        (0.1, 0.3): ["backbone.weight"],
        (0.1, 0.0): ["backbone.bias"],
        (1.0, 0.0): ["norm.weight", "norm.bias", "final.bias"],
        (1.0, 0.3): ["final.weight"],
    }


def test_freezing_what_is_not_there() -> None:
    with pytest.raises(ConfigError, match="begins with 'spine'"):
        freeze(nn.Sequential(nn.Linear(1, 1)), ["spine"])


def test_cosine_by_hand() -> None:
    c = TrainConfig(lr=1.0, warmup=4, warmup_from=0.1, final_lr=0.1)
    rates = [learning_rate(s, c, 104, 10) for s in (0, 1, 3, 4, 54, 104)]
    assert rates == pytest.approx([0.1, 0.4, 1.0, 1.0, 0.55, 0.1])


def test_published_steps_by_hand() -> None:
    c = TrainConfig(lr=1.0, warmup=500, schedule="steps")
    rates = [learning_rate(s, c, 10**6, 100) for s in (0, 499, 16999, 17000, 19999, 20000)]
    assert rates == pytest.approx([0.001, 1.0, 1.0, 0.1, 0.1, 0.01])
