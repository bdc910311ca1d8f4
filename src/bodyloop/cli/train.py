"""``bodyloop train``: a recipe, run or taken up again."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bodyloop.cli._common import STOPPED, AsJson, complain, example, put_json, say
from bodyloop.errors import ConfigError, FileError, MissingDependency

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bodyloop.models.cards import Card
    from bodyloop.train.config import TrainConfig
    from bodyloop.train.loop import Task

NAME = "train"
EXAMPLE = example(
    "bodyloop train pmpose-n data=/data/poses",
    "bodyloop train rtmdet-n batch=8 steps=2000 --run runs/small",
    "bodyloop train my.yaml --overfit 32",
)


def command(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A recipe of the package by name, or a YAML file.")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Numbers of the recipe to change, such as batch=64."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            "-o",
            metavar="DIR",
            help="Folder of checkpoints and figures; runs/<recipe> by default, runs/<recipe>-overfit with --overfit.",
        ),
    ] = None,
    stop_after: Annotated[
        int | None,
        typer.Option("--stop-after", min=1, metavar="N", help="Steps to do now; the rest another time."),
    ] = None,
    overfit: Annotated[
        int | None,
        typer.Option(
            "--overfit",
            min=1,
            metavar="N",
            help="Learn N samples by heart, never changed, and judge on them: AP near 1 within minutes, or something "
            "is wrong with labels or recipe. Short for overfit=N.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model by a recipe. A run that was stopped goes on where its last checkpoint was written.

    On several GPUs or machines: accelerate launch -m bodyloop train ..., or torchrun -m bodyloop train ...; the batch
    is shared among the processes. Recipes and their keys: docs/train.md.
    """
    path = recipe(config)
    try:
        from bodyloop.train.config import load_config
        from bodyloop.train.loop import fit, total_steps
    except ImportError as e:
        raise MissingDependency(f"training needs {e.name}; pip install 'bodyloop[train]'") from e
    settings = load_config(path, [*(changes or ()), *([f"overfit={overfit}"] if overfit else [])])
    folder = run or Path("runs") / (f"{path.stem}-overfit" if settings.overfit else path.stem)
    first = os.environ.get("RANK", "0") == "0"  # of several processes only one speaks and writes
    logging.getLogger("bodyloop.train").setLevel(logging.INFO if first else logging.ERROR)
    try:
        task = task_of(settings)
        steps = total_steps(task, settings)
        figures = fit(
            task, settings, folder, card=_card(task, settings), stop_after=stop_after,
            tell=lambda row: complain(_line(row, steps)),
        )  # fmt: skip
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from e
    except KeyboardInterrupt:
        if first:
            complain(f"stopped; the checkpoints in {folder} are whole. Run the same command again to go on")
        raise typer.Exit(STOPPED) from None
    if not first:
        return
    if as_json:
        put_json({"run": str(folder), **figures})
    else:
        shown = ", ".join(f"{k} {v:.4g}" for k, v in figures.items())
        say(f"{folder}: step {_step(folder)} of {steps}" + (f": {shown}" if shown else ""))


def _step(run: Path) -> int:
    """The step that a run has come to, by its record."""
    rows = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return int(json.loads(rows[-1])["step"]) if rows else 0


def _card(task: Task, config: TrainConfig) -> Card | None:
    """The card of what is trained, if there is one."""
    from bodyloop.models.registry import find_card, list_models
    from bodyloop.train.detection import DetectorTask
    from bodyloop.train.pose import PoseTask
    from bodyloop.train.release import unproven

    if isinstance(task, PoseTask | DetectorTask):
        return task.card
    known = config.model in {c.name for c in list_models()}
    return unproven(find_card(config.model)) if known else None


def recipe(name: str) -> Path:
    """The file of a recipe: a path, or a name in the package.

    Raises:
        FileError: neither; it lists the names.
    """
    own = Path(__file__).parent.parent / "configs"
    if name.endswith((".yaml", ".yml")):
        return Path(name)  # reading it says what is wrong
    path = own / f"{name}.yaml"
    if "/" not in name and path.is_file():
        return path
    known = ", ".join(sorted(p.stem for p in own.glob("*.yaml")))
    raise FileError(f"there is no recipe {name!r}; known: {known}; or give a file ending in .yaml")


def task_of(config: TrainConfig) -> Task:
    """What is trained.

    Raises:
        ConfigError: an unknown task, or data that is not there.
    """
    from bodyloop.train.config import DetectorConfig, Pose2SegConfig, PoseConfig, SamConfig

    if isinstance(config, PoseConfig):
        from bodyloop.train.pose import PoseTask

        return PoseTask(config)
    if isinstance(config, DetectorConfig):
        from bodyloop.train.detection import DetectorTask

        return DetectorTask(config)
    if isinstance(config, Pose2SegConfig):
        from bodyloop.train.pose2seg import Pose2SegTask

        return Pose2SegTask(config)
    if isinstance(config, SamConfig):
        from bodyloop.train.sam import SamTask

        return SamTask(config)
    raise ConfigError(f"nothing trains a {type(config).__name__}")


def _line(row: Mapping[str, float], steps: int) -> str:
    """A row of figures in words."""
    figures = " ".join(f"{k.lstrip('_')} {v:.4g}" for k, v in row.items() if k != "step")
    return f"step {row['step']:g} of {steps}: {figures}"
