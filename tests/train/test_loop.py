"""The training loop on a task small enough to know its answers: what repeats, what resumes, what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bodyloop.errors import ConfigError, FileError, InputError, ModelError
from bodyloop.models.cards import load_card
from bodyloop.models.registry import find_card, list_models
from bodyloop.train import loop
from bodyloop.train.config import TrainConfig, config_from, load_config
from bodyloop.train.loop import Shared, batches, fit, update_average
from bodyloop.train.release import release, unproven
from bodyloop.train.starts import load_start


class Points:
    """Samples are numbers in -1 .. 1."""

    digests: ClassVar[dict[str, str]] = {"points": "0"}

    def batches_per_epoch(self, size: int) -> int:
        return 64 // size

    def draw(self, n: int, size: int) -> list[tuple[int, ...]]:
        return [(n * size + i,) for i in range(size)]

    def sample(self, ref: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, (1, 2, 2)).astype(np.float32)

    def collate(self, samples: Sequence[np.ndarray]) -> dict[str, Tensor]:
        return {"x": torch.from_numpy(np.stack(samples))}


class Torn(Points):
    """One sample cannot be read."""

    def sample(self, ref: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        if ref == (20,):
            raise InputError("photo 20 is torn")
        return super().sample(ref, rng)


class Line:
    """Learn y = 3 x - 1."""

    blocks = 0

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.net = nn.Sequential(
            nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(4, 1, 1)
        )
        self.samples = Points()
        self.steps = 0

    @property
    def model(self) -> nn.Module:
        return self.net

    def losses(self, model: nn.Module, batch: Mapping[str, Tensor], shared: Shared) -> dict[str, Tensor]:
        self.steps += 1
        error = (model(batch["x"]) - (3 * batch["x"] - 1)) ** 2
        count = torch.tensor(float(error.numel()))
        return {"fit": error.sum() / shared(count), "_largest": error.max()}

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
    best, last = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("best", "last"))
    assert best["figures"]["score"] <= 0
    for kept in (best, last):  # what made them stands in both
        assert kept["config"]["seed"] == 0 and kept["data"] == {"points": "0"} and "torch" in kept["versions"]
    assert [row["step"] for row in rows][:2] == [10, 20]  # the first figures come early
    assert list((tmp_path / "tensorboard").iterdir())


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
        def losses(self, model: nn.Module, batch: Mapping[str, Tensor], shared: Shared) -> dict[str, Tensor]:
            if self.steps == 26:
                raise KeyboardInterrupt
            return super().losses(model, batch, shared)

    report = loop.REPORT_EVERY
    with pytest.MonkeyPatch.context() as m:
        m.setattr(loop, "REPORT_EVERY", 5)
        with pytest.raises(KeyboardInterrupt):
            fit(Dies(), CONFIG, tmp_path / "died")
        fit(Line(), CONFIG, tmp_path / "died")
    assert report == loop.REPORT_EVERY
    fit(Line(), CONFIG, tmp_path / "whole")
    for k, v in weights(tmp_path / "whole").items():
        assert torch.equal(v, weights(tmp_path / "died")[k]), k
    rows = [
        json.loads(line)["step"] for line in (tmp_path / "died" / "metrics.jsonl").read_text().splitlines()
    ]
    assert rows == sorted(rows) and len([r for r in rows if r == 25]) == 1  # no step is told twice


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    made = [b[0]["x"] for b, _ in batches(Points(), replace(CONFIG, workers=workers), 3, 9)]
    alone = [b[0]["x"] for b, _ in batches(Points(), CONFIG, 3, 9)]
    assert len(made) == 6
    assert all(torch.equal(a, b) for a, b in zip(made, alone, strict=True))


def test_processes_and_parts_share_a_batch() -> None:
    (whole,) = (b[0]["x"] for b, _ in batches(Points(), CONFIG, 4, 5))
    split = replace(CONFIG, accumulate=2)
    parts = [x["x"] for p in range(2) for b, _ in batches(Points(), split, 4, 5, p, 2) for x in b]
    assert [len(p) for p in parts] == [4] * 4
    assert {tuple(x.ravel().tolist()) for p in parts for x in p} == {tuple(x.ravel().tolist()) for x in whole}


def test_accumulated_parts_give_the_step_of_the_whole_batch(tmp_path: Path) -> None:
    class Plain(Line):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 1, 1))

    for parts in (1, 4):
        fit(Plain(), replace(CONFIG, accumulate=parts, steps=3), tmp_path / str(parts))
    one, four = weights(tmp_path / "1"), weights(tmp_path / "4")
    assert all(torch.allclose(v, four[k], atol=1e-6) for k, v in one.items())


def test_overfitting_sees_the_same_samples_again() -> None:
    config = replace(CONFIG, overfit=4, batch=8)
    seen = torch.cat([b[0]["x"] for b, _ in batches(Points(), config, 0, 3)])
    assert len({tuple(x.ravel().tolist()) for x in seen}) == 4


def test_epochs_are_passes_through_all_samples(tmp_path: Path) -> None:
    by_epochs = replace(CONFIG, epochs=6, evaluate_epochs=2)  # of 64 / 16 steps
    assert loop.total_steps(Line(), by_epochs) == 24
    fit(Line(), by_epochs, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if "error" in r] == [8, 16, 24]
    # of the fixed ones: 20 samples are two batches of 16
    assert loop.total_steps(Line(), replace(by_epochs, overfit=20)) == 12


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_made_is_named_in_its_own_words(tmp_path: Path, workers: int) -> None:
    class Broken(Line):
        def __init__(self) -> None:
            super().__init__()
            self.samples = Torn()

    with pytest.raises(InputError) as e:
        fit(Broken(), replace(CONFIG, workers=workers), tmp_path)
    assert str(e.value) == "photo 20 is torn"


def test_a_run_keeps_the_card_of_what_it_trains(tmp_path: Path) -> None:
    card = unproven(find_card("pmpose-n"))
    fit(Line(), CONFIG, tmp_path / "My Run", card=card, stop_after=2)
    kept = load_card(tmp_path / "My Run" / "card.toml")
    assert kept.name == "my-run" and kept.skeleton == card.skeleton and kept.preprocess == card.preprocess
    # nothing of what is known of the published weights
    assert kept.calibration is None and not kept.accuracy and not kept.training_data and not kept.version
    assert kept.licenses.weights == "not stated" and kept.weights is None and kept.decode == card.decode

    class Wider(Line):
        def __init__(self) -> None:
            super().__init__()
            self.net[4] = nn.Conv2d(4, 2, 1)

    with pytest.raises(ConfigError, match="move the folder away"):
        fit(Wider(), CONFIG, tmp_path / "My Run", card=replace(card, summary="another"))
    assert load_card(tmp_path / "My Run" / "card.toml") == kept


def test_machines_that_see_other_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop.Accelerator, "gather", lambda self, own: torch.cat([own, own + 20]))
    with pytest.raises(ConfigError, match=r"go on from steps \[0, 20\]; give all machines the same folder"):
        fit(Line(), CONFIG, tmp_path)


def test_a_batch_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 3"):
        fit(Line(), replace(CONFIG, accumulate=3), tmp_path)
    with pytest.raises(ConfigError, match="cuda"):
        fit(Line(), replace(CONFIG, device="cuda:7"), tmp_path)


def test_another_models_checkpoint_is_refused(tmp_path: Path) -> None:
    fit(Line(), CONFIG, tmp_path, stop_after=2)

    class Wider(Line):
        def __init__(self) -> None:
            super().__init__()
            self.net[4] = nn.Conv2d(4, 2, 1)

    with pytest.raises(ConfigError, match=r"last\.pt"):
        fit(Wider(), CONFIG, tmp_path)
    torch.save({"step": 3}, tmp_path / "last.pt")
    with pytest.raises(FileError, match=r"last\.pt"):
        fit(Line(), CONFIG, tmp_path)


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
        ({"rsik": 1}, "did you mean 'risk'"),
        ({"task": "nose"}, "task must be one of pose, detector"),
        ({"fixed_norms": 1}, "fixed_norms must be bool"),
        ({"milestones": ["a"]}, "milestones must be int"),
        ({"loss": "oks-risk"}, "loss must be"),
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


def test_shipped_recipes_are_valid() -> None:
    import bodyloop

    folder = Path(bodyloop.__file__).parent / "configs"
    recipes = sorted(folder.glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        assert recipe.stem.startswith(load_config(recipe).model)
