"""Which parameter learns how fast, and when: groups for AdamW, schedules of the learning rate (spec 12).

A parameter's factor is that of its depth in the backbone (layer-wise decay: the last block one step below
the head, the embedding lowest) times ``backbone_lr``. Vectors, biases and position embeddings have no
weight decay. What is frozen is in no group.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from bodyloop.errors import ConfigError
from bodyloop.train.config import TrainConfig

_BLOCK = re.compile(r"backbone\.layers\.(\d+)\.")
_FIRST = ("backbone.pos_embed", "backbone.cls_token", "backbone.mask_token", "backbone.patch_embed.")


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Stop the gradients of all parameters whose names begin with one of ``prefixes``.

    Raises:
        ConfigError: a prefix that no parameter has.
    """
    for prefix in prefixes:
        hit = [p for name, p in model.named_parameters() if name.startswith(prefix)]
        if not hit:
            first = sorted({name.split(".")[0] for name, _ in model.named_parameters()})
            raise ConfigError(f"freeze: no parameter's name begins with {prefix!r}; they begin {first}")
        for p in hit:
            p.requires_grad_(False)


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], config: TrainConfig, blocks: int = 0
) -> list[dict[str, Any]]:
    """Groups of equal factor and weight decay: ``params``, ``names``, ``factor``, ``weight_decay``.

    Args:
        named: of the model. blocks: of a transformer backbone, for the layer-wise decay; 0 for others.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, p in named:
        if not p.requires_grad:
            continue
        slow = config.backbone_lr if name.startswith("backbone.") else 1.0
        factor = slow * config.layer_decay ** (blocks + 1 - depth(name, blocks))
        bare = p.ndim <= 1 or name.endswith(".bias") or "pos_embed" in name
        decay = 0.0 if bare else config.weight_decay
        group = groups.setdefault(
            (factor, decay), {"params": [], "names": [], "factor": factor, "weight_decay": decay}
        )
        group["params"].append(p)
        group["names"].append(name)
    return list(groups.values())


def depth(name: str, blocks: int) -> int:
    """0 for embeddings, i + 1 for block i, blocks + 1 for everything else."""
    if blocks and name.startswith(_FIRST):
        return 0
    block = _BLOCK.match(name)
    return int(block[1]) + 1 if blocks and block else blocks + 1


def learning_rate(step: int, config: TrainConfig, steps: int, steps_per_epoch: int) -> float:
    """The rate of optimiser step ``step`` (from 0) of ``steps``."""
    if config.schedule == "steps":
        passed = sum(step // max(steps_per_epoch, 1) >= m for m in config.milestones)
        return config.lr * _warm(step, config) * float(config.gamma**passed)
    if step < config.warmup:
        return config.lr * _warm(step, config)
    begin = max(config.warmup, round(config.flat * steps))
    share = max(0, step - begin) / max(1, steps - begin)
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * share)))


def _warm(step: int, config: TrainConfig) -> float:
    if step >= config.warmup:
        return 1.0
    low = config.warmup_from
    return low + (1 - low) * step / max(config.warmup - 1, 1)
