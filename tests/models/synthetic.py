"""Small state dicts in every dialect, and files made of them."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.models import keymaps

Array = npt.NDArray[Any]

TINY = ("vit-t", (32, 2))  # width, blocks: for monkeypatch.setitem(keymaps._VITS, *TINY)
INT64 = ".num_batches_tracked"


def state_of(shapes: Mapping[str, Iterable[int]], seed: int = 0) -> dict[str, Array]:
    """Random tensors of the given shapes; counters are int64."""
    rng = np.random.default_rng(seed)
    out: dict[str, Array] = {}
    for name, shape in shapes.items():
        if name.endswith(INT64):
            out[name] = np.array(7, np.int64)
        else:
            out[name] = rng.standard_normal(tuple(shape)).astype(np.float32)
    return out


def tiny(head: str = "plain", keypoints: int = 5, seed: int = 0) -> dict[str, Array]:
    return state_of(keymaps.layout("vit-t", keypoints, head), seed)


def as_vitpose(state: Mapping[str, Array]) -> dict[str, Array]:
    """Our names to those of the original ViTPose project, with a class token's position to add."""
    out: dict[str, Array] = {}
    for name, value in state.items():
        n = re.sub(r"^head\.", "keypoint_head.", name)
        n = n.replace("backbone.patch_embed.projection", "backbone.patch_embed.proj")
        n = re.sub(r"^backbone\.ln1", "backbone.last_norm", n)
        n = re.sub(r"^backbone\.layers\.(\d+)\.ln([12])", r"backbone.blocks.\1.norm\2", n)
        n = re.sub(r"^backbone\.layers\.(\d+)\.ffn\.layers\.0\.0", r"backbone.blocks.\1.mlp.fc1", n)
        n = re.sub(r"^backbone\.layers\.(\d+)\.ffn\.layers\.1", r"backbone.blocks.\1.mlp.fc2", n)
        n = n.replace("backbone.layers.", "backbone.blocks.")
        out[n] = with_class_token(value) if n == "backbone.pos_embed" else value
    return out


def as_huggingface(state: Mapping[str, Array]) -> dict[str, Array]:
    """Our names to those of transformers' VitPose."""
    out: dict[str, Array] = {}
    for name, value in state.items():
        n = name.replace("backbone.patch_embed.projection", "backbone.embeddings.patch_embeddings.projection")
        n = n.replace("backbone.pos_embed", "backbone.embeddings.position_embeddings")
        n = re.sub(r"^backbone\.ln1", "backbone.layernorm", n)
        n = re.sub(r"^backbone\.layers\.(\d+)\.ln1", r"backbone.encoder.layer.\1.layernorm_before", n)
        n = re.sub(r"^backbone\.layers\.(\d+)\.ln2", r"backbone.encoder.layer.\1.layernorm_after", n)
        n = re.sub(r"^backbone\.layers\.(\d+)\.ffn\.layers\.0\.0", r"backbone.encoder.layer.\1.mlp.fc1", n)
        n = re.sub(r"^backbone\.layers\.(\d+)\.ffn\.layers\.1", r"backbone.encoder.layer.\1.mlp.fc2", n)
        n = re.sub(
            r"^backbone\.layers\.(\d+)\.attn\.proj", r"backbone.encoder.layer.\1.attention.output.dense", n
        )
        n = n.replace("head.deconv_layers.0.", "head.deconv1.").replace(
            "head.deconv_layers.1.", "head.batchnorm1."
        )
        n = n.replace("head.deconv_layers.3.", "head.deconv2.").replace(
            "head.deconv_layers.4.", "head.batchnorm2."
        )
        n = n.replace("head.final_layer.", "head.conv.")
        qkv = re.match(r"^backbone\.layers\.(\d+)\.attn\.qkv\.(\w+)$", n)
        if qkv:
            at = f"backbone.encoder.layer.{qkv[1]}.attention.attention"
            for part, chunk in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                out[f"{at}.{part}.{qkv[2]}"] = chunk
        else:
            out[n] = with_class_token(value) if n.endswith("position_embeddings") else value
    return out


def with_class_token(pos: Array) -> Array:
    """A position embedding with a class token's row, which adds up to ``pos`` exactly."""
    token = np.full_like(pos[:, :1], 0.5)
    return np.concatenate([token, pos - token], axis=1)


def with_experts(state: Mapping[str, Array], experts: int = 3, chosen: int = 1) -> dict[str, Array]:
    """Every second MLP layer's outputs cut into shared ones and those of ``chosen`` among ``experts``."""
    rng = np.random.default_rng(9)
    out: dict[str, Array] = {}
    for name, value in state.items():
        match = re.match(r"^(.*\.mlp)\.fc2\.(\w+)$", name)
        if match is None:
            out[name] = value
            continue
        part = len(value) // 4
        out[name] = value[:-part]
        for e in range(experts):
            noise = rng.standard_normal(value[-part:].shape).astype(np.float32)
            out[f"{match[1]}.experts.{e}.{match[2]}"] = value[-part:] if e == chosen else noise
    return out


def save_pth(path: Path, state: Mapping[str, Array], *, legacy: bool = False, wrap: bool = True) -> Path:
    import torch

    tensors = {n: torch.from_numpy(np.array(v)) for n, v in state.items()}
    tree = {"meta": {"epoch": 3}, "state_dict": tensors} if wrap else tensors
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    return path


class Command:
    """An object whose pickle calls ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (self.command,)


def malicious_pickle(marker: Path) -> bytes:
    return pickle.dumps({"state_dict": {"a": Command(f"touch {marker}")}, "x": Command(f"touch {marker}")})
