"""The training loop on a task small enough to know its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bodyloop.errors import ConfigError, FileError, ModelError
from bodyloop.models.registry import list_models
from bodyloop.train.config import TrainConfig, config_from, load_config, read_options
from bodyloop.train.loop import batches, fit, learning_rate, parameter_groups, update_average
from bodyloop.train.release import load_start, release


class Line:
    """Learn y = 3 x - 1."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))
        self.seen: list[float] = []

    @property
    def model(self) -> nn.Module:
        return self.net

    def backbone(self) -> nn.Module | None:
        return self.net[0]

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        x = rng.uniform(-1, 1, (size, 1, 2, 2)).astype(np.float32)
        self.seen.append(float(x.sum()))
        return {"x": torch.from_numpy(x)}

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        error = (self.net(batch["x"]) - (3 * batch["x"] - 1)) ** 2
        return {"fit": error.mean(), "_largest": error.max()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            x = torch.linspace(-1, 1, 8).reshape(2, 1, 2, 2)
            error = float(((model(x) - (3 * x - 1)) ** 2).mean())
        return {"error": error, "score": -error}


CONFIG = TrainConfig(
    batch=16, steps=40, lr=0.05, warmup=5, ema=0.9, precision="fp32", checkpoint_every=10, evaluate_every=20
)


def weights(run: Path) -> dict[str, Tensor]:
    state = torch.load(run / "last.pt", weights_only=True)
    return {**{f"model.{k}": v for k, v in state["model"].items()}, **state["average"]}


def test_it_learns_and_leaves_its_records(tmp_path: Path) -> None:
    figures = fit(Line(), replace(CONFIG, steps=300), tmp_path)
    assert figures["error"] < 0.05
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["error"] == figures["error"]
    assert {"step", "lr", "fit", "_largest", "samples_per_s", "waiting"} <= rows[-2].keys()
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 300
    assert torch.load(tmp_path / "best.pt", weights_only=True)["figures"]["score"] <= 0


def test_stopping_and_going_on_changes_no_bit(tmp_path: Path) -> None:
    fit(Line(), CONFIG, tmp_path / "whole")
    fit(Line(), CONFIG, tmp_path / "parts", stop_after=17)
    # whoever goes on starts from other random numbers; the checkpoint decides
    fit(Line(seed=5), CONFIG, tmp_path / "parts")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for k, v in whole.items():
        assert torch.equal(v, parts[k]), k


def test_a_run_that_died_between_checkpoints_repeats_the_same_steps(tmp_path: Path) -> None:
    class Dies(Line):
        def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
            if len(self.seen) == 26:
                raise KeyboardInterrupt
            return super().losses(batch)

    with pytest.raises(KeyboardInterrupt):
        fit(Dies(), CONFIG, tmp_path / "died")
    fit(Line(), CONFIG, tmp_path / "died")
    fit(Line(), CONFIG, tmp_path / "whole")
    for k, v in weights(tmp_path / "whole").items():
        assert torch.equal(v, weights(tmp_path / "died")[k]), k


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    made = [b["x"] for b, _ in batches(Line(), replace(CONFIG, workers=workers), 3, 9)]
    alone = [b["x"] for b, _ in batches(Line(), CONFIG, 3, 9)]
    assert len(made) == 6
    assert all(torch.equal(a, b) for a, b in zip(made, alone, strict=True))


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    fit(Line(), CONFIG, tmp_path, stop_after=2)

    class Wider(Line):
        def __init__(self) -> None:
            super().__init__()
            self.net[3] = nn.Conv2d(4, 2, 1)

    with pytest.raises(ConfigError, match=r"last\.pt"):
        fit(Wider(), CONFIG, tmp_path)
    torch.save({"step": 3}, tmp_path / "last.pt")
    with pytest.raises(FileError, match=r"last\.pt"):
        fit(Line(), CONFIG, tmp_path)


def test_learning_rate_by_hand() -> None:
    c = TrainConfig(lr=1.0, warmup=4, steps=104, final_lr=0.1)
    assert [learning_rate(s, c) for s in (0, 3)] == [0.25, 1.0]
    assert learning_rate(4, c) == 1.0
    assert learning_rate(54, c) == pytest.approx(0.55)  # half way along the cosine
    assert learning_rate(104, c) == pytest.approx(0.1)


def test_groups_decay_matrices_only_and_slow_the_backbone() -> None:
    groups = parameter_groups(Line(), replace(CONFIG, backbone_lr=0.1, weight_decay=0.3))
    table = {(g["factor"], g["weight_decay"]): len(g["params"]) for g in groups}
    # backbone: weight, bias; the rest: conv weight, and its bias with the norm's two vectors
    assert table == {(0.1, 0.3): 1, (0.1, 0.0): 1, (1.0, 0.3): 1, (1.0, 0.0): 3}


def test_average_by_hand() -> None:
    a, m = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(a.weight, 0.0)
    nn.init.constant_(m.weight, 1.0)
    update_average(a, m, decay=0.9, step=0)  # early decay (1 + 0) / (10 + 0)
    assert a.weight.item() == pytest.approx(0.9)
    update_average(a, m, decay=0.5, step=1000)
    assert a.weight.item() == pytest.approx(0.95)


def test_shared_tensors_are_averaged_once() -> None:
    a, m = nn.ModuleList([nn.Linear(1, 1)] * 3), nn.ModuleList([nn.Linear(1, 1)] * 3)
    nn.init.constant_(a[0].weight, 0.0)
    nn.init.constant_(m[0].weight, 1.0)
    update_average(a, m, decay=0.5, step=1000)
    assert a[0].weight.item() == pytest.approx(0.5)


def test_a_run_becomes_a_weight_file_and_the_start_of_another(tmp_path: Path) -> None:
    fit(Line(), CONFIG, tmp_path / "one", stop_after=12)
    card = next(c for c in list_models("pose") if c.architecture == "vit-s")
    file, step = release(tmp_path / "one", card, half=True)
    assert step == 12
    average = torch.load(tmp_path / "one" / "last.pt", weights_only=True)["average"]
    for start, tolerance in ((str(file), 1e-3), (str(tmp_path / "one" / "last.pt"), 0.0)):
        fresh = Line(seed=9).net
        load_start(fresh, start)
        for k, v in fresh.state_dict().items():
            if v.dtype.is_floating_point:
                assert torch.allclose(v, average[k], atol=tolerance, rtol=tolerance), k
    with pytest.raises(FileError, match="no such checkpoint"):
        release(tmp_path / "nowhere", card)
    with pytest.raises(ModelError, match="weight"):
        load_start(nn.Linear(1, 1), str(file))


# ---- configurations ------------------------------------------------------------------------------------------


def test_config_from_yaml_and_overrides(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("task: pose\nbatch: 8\nlr: 1e-3\nsources: [coco:2, lsp:1]\n")
    c = load_config(file, ["steps=70", "sources=[coco]"])
    assert (c.batch, c.lr, c.steps, c.sources) == (8, 0.001, 70, ("coco",))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"bacth": 8}, "did you mean 'batch'"),
        ({"batch": "many"}, "batch must be int"),
        ({"batch": 2.5}, "whole number"),
        ({"batch": None}, "batch must be int"),
        ({"steps": 0}, "steps must be positive"),
        ({"precision": "fp8"}, "'bf16' or 'fp32'"),
    ],
    ids=lambda v: str(v)[:20],
)
def test_what_a_config_refuses(table: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config_from(table, "a.yaml")


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1,\n", "\x00"], ids=["list", "broken", "binary"])
def test_files_that_are_no_configuration(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises((ConfigError, FileError), match=r"bad\.yaml"):
        load_config(file)
    with pytest.raises(FileError, match=r"none\.yaml"):
        load_config(tmp_path / "none.yaml")


def test_options_of_a_task() -> None:
    assert read_options(["risk:0.5"], {"risk": 1.0, "cut": 0.3}, "pose") == {"risk": 0.5, "cut": 0.3}
    with pytest.raises(ConfigError, match="did you mean 'risk'"):
        read_options(["rsik:1"], {"risk": 1.0}, "pose")
    with pytest.raises(ConfigError, match="must be a number"):
        read_options(["risk:much"], {"risk": 1.0}, "pose")


def test_shipped_recipes_are_valid() -> None:
    import bodyloop

    folder = Path(bodyloop.__file__).parent / "configs"
    recipes = sorted(folder.glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        assert load_config(recipe).model == recipe.stem
