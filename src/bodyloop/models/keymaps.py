"""Names of tensors: what our networks expect, and how other projects call the same things.

Three dialects of one network are understood: ours, which is that of the published ProbPose, MaskPose and
PMPose files (MMPose's ViT with `backbone.layers.i.attn.qkv`, `head.deconv_layers`), the original ViTPose
project (`backbone.blocks.i.norm1`, `keypoint_head`) and Hugging Face's `transformers`
(`backbone.encoder.layer.i`, split query, key and value). `canonical` turns any of them into ours; what is
arithmetic elsewhere (the class token's position, the experts of ViTPose+) is folded into the weights, so that
one plain ViT runs all. `layout` is the list of names and shapes that strict loading compares with, needing no
torch. Sources: pose specification section 13; `transformers` VitPose (Apache-2.0) for the names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ModelError

Array = npt.NDArray[Any]
StateDict = dict[str, Array]
Shapes = dict[str, tuple[int, ...]]
Dialect = Literal["bodyloop", "vitpose", "huggingface"]

GRID = (16, 12)  # rows and columns of patches of a 256 x 192 crop
_VITS = {"vit-s": (384, 12), "vit-b": (768, 12), "vit-l": (1024, 24), "vit-h": (1280, 32)}  # width, blocks
_BRANCHES = ("probability", "visibility", "oks", "error")
_MAPS = 256  # channels of the deconvolutions
COUNTER = ".num_batches_tracked"
ERROR_BRANCH = "head.error_layers."


@dataclass(frozen=True)
class Signature:
    """What a state dict says about its network.

    Attributes:
        architecture, num_keypoints, head: as in a card.
        experts: whether it came as a mixture of experts (ViTPose+), of which one was folded in.
    """

    architecture: str
    num_keypoints: int
    head: str
    experts: bool = False

    def __str__(self) -> str:
        if not self.num_keypoints:
            return self.architecture
        moe = ", mixture of experts" if self.experts else ""
        return f"{self.architecture}, {self.num_keypoints} keypoints, {self.head} head{moe}"


def layout(architecture: str, num_keypoints: int, head: str) -> Shapes:
    """Names and shapes of a pose network's tensors, in state-dict order.

    Raises:
        ModelError: no such architecture or head.
    """
    if architecture not in _VITS:
        raise ModelError(f"no key list for architecture {architecture!r}; there are {', '.join(_VITS)}")
    width, blocks = _VITS[architecture]
    out = _backbone(width, blocks)
    k = num_keypoints
    if head == "simple":
        return out | _conv("head.final_layer", k, width, 3)
    if head not in ("plain", "probability", "double"):
        raise ModelError(f"no key list for head {head!r}; there are plain, probability, double, simple")
    out |= _deconvolutions("head.deconv_layers", width) | _conv("head.final_layer", k, _MAPS, 1)
    if head == "double":
        out |= _deconvolutions("head.second_head.0", width) | _conv("head.second_head.2", k, _MAPS, 1)
    if head != "plain":
        for branch in _BRANCHES:
            for i in (0, 4, 8):
                out |= _conv(f"head.{branch}_layers.{i}", width, width, 3)
                out |= _norm(f"head.{branch}_layers.{i + 1}", width)
            out |= _conv(f"head.{branch}_layers.12", k, width, 1)
    return out


def count_parameters(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Number of parameters: everything but running statistics and counters."""
    buffers = (".running_mean", ".running_var", COUNTER, ".positional_embedding")
    return sum(math.prod(s) for n, s in shapes.items() if not n.endswith(buffers))


def _backbone(d: int, blocks: int) -> Shapes:
    out: Shapes = {"backbone.pos_embed": (1, GRID[0] * GRID[1], d)}
    out |= _conv("backbone.patch_embed.projection", d, 3, 16)
    for i in range(blocks):
        at = f"backbone.layers.{i}."
        out |= _affine(at + "ln1", d) | _linear(at + "attn.qkv", 3 * d, d) | _linear(at + "attn.proj", d, d)
        out |= _affine(at + "ln2", d) | _linear(at + "ffn.layers.0.0", 4 * d, d)
        out |= _linear(at + "ffn.layers.1", d, 4 * d)
    return out | _affine("backbone.ln1", d)


def _affine(name: str, n: int) -> Shapes:
    return {name + ".weight": (n,), name + ".bias": (n,)}


def _linear(name: str, n: int, m: int) -> Shapes:
    return {name + ".weight": (n, m), name + ".bias": (n,)}


def _conv(name: str, n: int, m: int, kernel: int) -> Shapes:
    return {name + ".weight": (n, m, kernel, kernel), name + ".bias": (n,)}


def _norm(name: str, n: int) -> Shapes:
    return _affine(name, n) | {name + ".running_mean": (n,), name + ".running_var": (n,), name + COUNTER: ()}


def _deconvolutions(name: str, width: int) -> Shapes:
    first: Shapes = {f"{name}.0.weight": (width, _MAPS, 4, 4)}
    second: Shapes = {f"{name}.3.weight": (_MAPS, _MAPS, 4, 4)}
    return first | _norm(f"{name}.1", _MAPS) | second | _norm(f"{name}.4", _MAPS)


def recognise(state: Mapping[str, Array], *, experts: bool = False) -> Signature | None:
    """The network that a state dict in our names belongs to, None if it is none of ours."""
    pos, final = state.get("backbone.pos_embed"), state.get("head.final_layer.weight")
    if pos is None or final is None or pos.ndim != 3 or final.ndim != 4:
        return None
    blocks = len({n.split(".")[2] for n in state if n.startswith("backbone.layers.") and n.count(".") > 2})
    found = [a for a, shape in _VITS.items() if shape == (pos.shape[2], blocks)]
    if not found:
        return None
    if "head.second_head.2.weight" in state:
        head = "double"
    elif any(n.startswith("head.probability_layers.") for n in state):
        head = "probability"
    else:
        head = "plain" if "head.deconv_layers.0.weight" in state else "simple"
    return Signature(found[0], int(final.shape[0]), head, experts)


def strip_prefix(state: Mapping[str, Array]) -> StateDict:
    """Without the prefixes of wrappers (``module.``, ``_orig_mod.``, ``model.``) that all names share."""
    out = dict(state)
    again = bool(out)
    while again:
        again = False
        for prefix in ("module.", "_orig_mod.", "model."):
            if all(n.startswith(prefix) for n in out):
                out = {n.removeprefix(prefix): v for n, v in out.items()}
                again = True
    return out


def dialect(state: Mapping[str, Array]) -> Dialect:
    """Whose names these are."""
    if any(n.startswith(("backbone.encoder.layer.", "backbone.embeddings.")) for n in state):
        return "huggingface"
    if any(n.startswith(("backbone.blocks.", "keypoint_head.")) for n in state):
        return "vitpose"
    return "bodyloop"


@dataclass(frozen=True, eq=False)
class Canonical:
    """A state dict in our names, and where it came from."""

    state: StateDict
    dialect: Dialect
    experts: bool


def canonical(state: Mapping[str, Array], *, expert: int = 0) -> Canonical:
    """Translate any dialect into ours.

    Args:
        expert: which expert of a mixture is folded in; 0 is COCO's in ViTPose+.

    Raises:
        ModelError: two tensors would get one name, or parts that belong together do not fit.
    """
    kind = dialect(state)
    names = {"huggingface": _HUGGINGFACE, "vitpose": _VITPOSE, "bodyloop": _OURS}[kind]
    out: StateDict = {}
    for name, value in state.items():
        if kind != "bodyloop" and name.startswith(_UNUSED):
            continue
        new = _rename(name, names)
        if new in out:
            raise ModelError(f"two tensors both mean {new!r} (one of them is {name!r})")
        out[new] = value
    if kind == "huggingface":
        out = _join_attention(out)
    experts = any(".experts." in n for n in out)
    if experts:
        out = _fold_experts(out, expert)
    pos = out.get("backbone.pos_embed")
    if pos is not None and pos.ndim == 3 and _has_class_token(pos.shape[1]):
        # Elsewhere the class token's position is added to every patch; MMPose's ViT leaves it out.
        out["backbone.pos_embed"] = pos[:, 1:] if kind == "bodyloop" else pos[:, 1:] + pos[:, :1]
    return Canonical(out, kind, experts)


_UNUSED = ("associate_keypoint_heads.", "backbone.cls_token", "backbone.mask_token")
_Rules = tuple[tuple[re.Pattern[str], str], ...]


def _rules(*pairs: tuple[str, str]) -> _Rules:
    return tuple((re.compile(a), b) for a, b in pairs)


_OURS = _rules((r"^head\.final_layer\.\d+\.(weight|bias)$", r"head.final_layer.\1"))
_VITPOSE = _rules(
    (r"^backbone\.patch_embed\.proj\.", "backbone.patch_embed.projection."),
    (r"^backbone\.last_norm\.", "backbone.ln1."),
    (r"^backbone\.blocks\.(\d+)\.norm([12])\.", r"backbone.layers.\1.ln\2."),
    (r"^backbone\.blocks\.(\d+)\.mlp\.fc1\.", r"backbone.layers.\1.ffn.layers.0.0."),
    (r"^backbone\.blocks\.(\d+)\.mlp\.fc2\.", r"backbone.layers.\1.ffn.layers.1."),
    (r"^backbone\.blocks\.(\d+)\.mlp\.experts\.", r"backbone.layers.\1.ffn.experts."),
    (r"^backbone\.blocks\.", "backbone.layers."),
    (r"^keypoint_head\.", "head."),
)
_HUGGINGFACE = _rules(
    (r"^backbone\.embeddings\.position_embeddings$", "backbone.pos_embed"),
    (r"^backbone\.embeddings\.patch_embeddings\.projection\.", "backbone.patch_embed.projection."),
    (r"^backbone\.layernorm\.", "backbone.ln1."),
    (r"^backbone\.encoder\.layer\.(\d+)\.layernorm_before\.", r"backbone.layers.\1.ln1."),
    (r"^backbone\.encoder\.layer\.(\d+)\.layernorm_after\.", r"backbone.layers.\1.ln2."),
    (r"^backbone\.encoder\.layer\.(\d+)\.attention\.attention\.", r"backbone.layers.\1.attn."),
    (r"^backbone\.encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"backbone.layers.\1.attn.proj."),
    (r"^backbone\.encoder\.layer\.(\d+)\.mlp\.fc1\.", r"backbone.layers.\1.ffn.layers.0.0."),
    (r"^backbone\.encoder\.layer\.(\d+)\.mlp\.fc2\.", r"backbone.layers.\1.ffn.layers.1."),
    (r"^backbone\.encoder\.layer\.(\d+)\.mlp\.experts\.", r"backbone.layers.\1.ffn.experts."),
    (r"^head\.deconv1\.", "head.deconv_layers.0."),
    (r"^head\.batchnorm1\.", "head.deconv_layers.1."),
    (r"^head\.deconv2\.", "head.deconv_layers.3."),
    (r"^head\.batchnorm2\.", "head.deconv_layers.4."),
    (r"^head\.conv\.", "head.final_layer."),
)


def _rename(name: str, rules: _Rules) -> str:
    for pattern, new in rules:
        name, hits = pattern.subn(new, name)
        if hits:
            break
    return name


def _join_attention(state: StateDict) -> StateDict:
    """``attn.query``, ``attn.key`` and ``attn.value`` one below the other, as ``attn.qkv``."""
    out: StateDict = {}
    for name, value in state.items():
        before, query, leaf = name.partition(".attn.query.")
        if query:
            parts = [value] + [_part(state, f"{before}.attn.{p}.{leaf}") for p in ("key", "value")]
            out[f"{before}.attn.qkv.{leaf}"] = _stack(parts, name)
        elif ".attn.key." not in name and ".attn.value." not in name:
            out[name] = value
    return out


def _fold_experts(state: StateDict, expert: int) -> StateDict:
    """Every block's second layer with one expert's outputs below the shared ones: a plain layer again."""
    out: StateDict = {}
    for name, value in state.items():
        if ".ffn.experts." in name:
            continue
        block, second, leaf = name.partition(".ffn.layers.1.")
        if second and f"{block}.ffn.experts.0.weight" in state:
            value = _stack([value, _part(state, f"{block}.ffn.experts.{expert}.{leaf}")], name)
        out[name] = value
    return out


def _part(state: StateDict, name: str) -> Array:
    if name not in state:
        raise ModelError(f"tensor {name!r} is missing beside its siblings")
    return state[name]


def _stack(parts: list[Array], name: str) -> Array:
    try:
        return np.concatenate(parts)
    except ValueError:
        shapes = ", ".join(str(p.shape) for p in parts)
        raise ModelError(f"{name!r} and its siblings do not fit together: {shapes}") from None


def _has_class_token(length: int) -> bool:
    if length == GRID[0] * GRID[1] + 1:
        return True
    return math.isqrt(length - 1) ** 2 == length - 1 and math.isqrt(length) ** 2 != length


def fit_pos_embed(pos: Array, grid: tuple[int, int] = GRID) -> Array:
    """A position embedding (1, L, D) for ``grid`` = (rows, columns); of another length it is resized.

    Only square sources can be resized, because a length does not say its shape otherwise.

    Raises:
        ModelError: L is neither rows * columns nor a square number.
    """
    length = pos.shape[1]
    if length == grid[0] * grid[1]:
        return pos
    side = math.isqrt(length)
    if side * side != length:
        raise ModelError(
            f"backbone.pos_embed has {length} positions: neither {grid[0]} x {grid[1]} nor a square grid"
        )
    source = np.asarray(pos[0], np.float32).reshape(side, side, -1)
    rows, columns = _bicubic(side, grid[0]), _bicubic(side, grid[1])
    resized = np.einsum("yv,xu,vuc->yxc", rows, columns, source, optimize=True)
    return np.asarray(resized.reshape(1, grid[0] * grid[1], -1), np.float32)


def _bicubic(n: int, m: int) -> npt.NDArray[np.float64]:
    """(m, n) weights of torch's bicubic interpolation (a = -0.75, align_corners false, no antialiasing)."""
    a = -0.75
    out = np.zeros((m, n))
    for i in range(m):
        at = (i + 0.5) * n / m - 0.5
        low = math.floor(at)
        for j in range(low - 1, low + 3):
            d = abs(at - j)
            if d <= 1:
                w = ((a + 2) * d - (a + 3)) * d * d + 1
            else:
                w = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
            out[i, min(max(j, 0), n - 1)] += w
    return out
