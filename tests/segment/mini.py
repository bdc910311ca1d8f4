"""A SAM small enough for tests: all layers, pictures of 64 x 64, random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bodyloop.models.cards import Card, Segmentation, WeightsFile
from bodyloop.models.checkpoints import save_safetensors
from bodyloop.models.registry import find_card

if TYPE_CHECKING:
    from transformers import Sam2Model

NAME, SIDE = "sam2.1-mini", 64


def add_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the small size known."""
    from bodyloop.nn.sam2 import SIZES, Hiera

    monkeypatch.setitem(SIZES, NAME, Hiera(8, 1, (1, 1, 2, 1), (3,)))


def card(**segmentation: int) -> Card:
    """A card of the small size."""
    like = find_card("sam2.1-tiny")
    return replace(
        like, name=NAME, aliases=(), architecture=NAME, parameters=None,
        preprocess=replace(like.preprocess, size=(SIDE, SIDE)),
        segmentation=Segmentation("points", **segmentation),
        weights=WeightsFile("mini.safetensors", "safetensors"),
    )  # fmt: skip


def network(seed: int = 0) -> Sam2Model:
    """Random weights under which answers depend on everything."""
    import torch

    from bodyloop.nn.sam2 import SIZES, sam2

    made = sam2(SIZES[NAME], SIDE).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in made.named_parameters():
            noise = torch.randn(p.shape, generator=random)
            if "embed" in name or "token" in name.rsplit(".", 2)[-2]:
                p.copy_(noise * 0.5)
            elif p.ndim > 1:
                p.copy_(noise / p[0].numel() ** 0.5)
            else:
                p.copy_(noise * 0.05 + float(name.endswith("weight")))
        positions = torch.randn(2, 128, generator=random)
        made.prompt_encoder.shared_embedding.positional_embedding.copy_(positions)
        made.shared_image_embedding.positional_embedding.copy_(positions)
    return made


def save(folder: Path, made: Sam2Model, **segmentation: int) -> Path:
    """Weights with their card inside."""
    path = folder / "mini.safetensors"
    state = {n: t.detach().numpy() for n, t in made.state_dict().items()}
    save_safetensors(path, state, card(**segmentation))
    return path
