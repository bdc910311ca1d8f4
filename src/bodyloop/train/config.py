"""Training configurations: frozen dataclasses read from flat YAML, unknown keys refused.

No inheritance between configurations: a recipe is one file that shows every number that differs from the
defaults below. ``key=value`` pairs of the command line are applied on top, checked by the same rules.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from bodyloop.errors import ConfigError, FileError


@dataclass(frozen=True)
class TrainConfig:
    """What every training needs; recipes for a model add their own fields in subclasses of their task.

    Attributes:
        task: "pose" or "detector".
        model: architecture name.
        data: folder with the data sets; an environment variable may stand in it.
        sources: data sets below ``data`` as ``name:share`` (share of each batch).
        batch: samples per step. steps: optimiser steps in all.
        start: "imagenet", "none", a checkpoint of another run (.pt) or a weight file.
        lr: peak learning rate; backbone_lr: factor for the pretrained backbone. warmup: steps.
        final_lr: share of the peak at the end of the cosine.
        ema: decay of the averaged weights. clip: gradient norm. seed: of everything random.
        precision: "bf16" or "fp32". workers: threads that prepare batches (0: in the loop itself).
        checkpoint_every, evaluate_every: steps.
        options: the task's own numbers, by name; each task refuses what it does not know.
    """

    task: str = "pose"
    model: str = "pmpose-n"
    data: str = "$BODYLOOP_DATA"
    sources: tuple[str, ...] = ()
    start: str = "imagenet"
    batch: int = 32
    steps: int = 10_000
    lr: float = 1e-3
    backbone_lr: float = 0.5
    final_lr: float = 0.02
    warmup: int = 200
    weight_decay: float = 0.05
    ema: float = 0.998
    clip: float = 5.0
    seed: int = 0
    precision: str = "bf16"
    device: str = "cpu"
    threads: int = 1
    workers: int = 0
    checkpoint_every: int = 250
    evaluate_every: int = 1000
    evaluate_samples: int = 0
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        positive = ("batch", "steps", "lr", "checkpoint_every", "evaluate_every", "threads")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)!r}")
        if self.precision not in ("bf16", "fp32"):
            raise ConfigError(f"precision must be 'bf16' or 'fp32', got {self.precision!r}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a flat YAML recipe and apply ``key=value`` overrides.

    Raises:
        FileError: the file cannot be read. ConfigError: unknown key (the nearest known one is named) or bad value.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise FileError(f"{path}: cannot read the configuration: {e}") from e
    try:
        table = yaml.safe_load(text)
    except yaml.YAMLError as e:
        raise ConfigError(f"{path}: not valid YAML: {e}") from e
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: expected a flat table of keys and values")
    for item in overrides:
        key, sep, value = item.partition("=")
        if not sep:
            raise ConfigError(f"override {item!r}: expected key=value")
        table[key] = yaml.safe_load(value)
    return config_from(table, str(path))


def config_from(table: Mapping[str, Any], where: str = "configuration") -> TrainConfig:
    """Build a TrainConfig from plain values, converting and checking each by the field's type."""
    known = {f.name: f for f in fields(TrainConfig)}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {key!r}{hint}")
        values[key] = _convert(key, value, getattr(TrainConfig, key), where)
    try:
        return replace(TrainConfig(), **values)
    except ConfigError as e:
        raise ConfigError(f"{where}: {e}") from None


def _convert(key: str, value: Any, default: Any, where: str) -> Any:
    if isinstance(default, tuple):
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(str(v) for v in items)
    kind = type(default)
    if isinstance(value, bool) or value is None or isinstance(value, list | dict):
        raise ConfigError(f"{where}: {key} must be {kind.__name__}, got {value!r}")
    try:
        converted = kind(value)
    except (ValueError, OverflowError) as e:
        raise ConfigError(f"{where}: {key} must be {kind.__name__}, got {value!r}") from e
    if kind is int and float(value) != converted:
        raise ConfigError(f"{where}: {key} must be a whole number, got {value!r}")
    return converted


def read_options(options: Sequence[str], defaults: Mapping[str, float], task: str) -> dict[str, float]:
    """The task's own ``name:value`` numbers over its defaults; unknown names are refused."""
    out = dict(defaults)
    for item in options:
        name, _, value = item.replace("=", ":").partition(":")
        if name not in out:
            near = difflib.get_close_matches(name, out, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(out)}"
            raise ConfigError(f"task {task!r} has no option {name!r}{hint}")
        try:
            out[name] = float(value)
        except ValueError as e:
            raise ConfigError(f"option {name!r} must be a number, got {value!r}") from e
    return out
