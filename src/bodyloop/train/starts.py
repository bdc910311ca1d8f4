"""Where a training begins: a run of our own, any weight file or published model, or a bare backbone.

What fits is taken, the rest keeps its starting values and is named in the log: a head for other keypoints,
side branches that a plain model lacks. Maps of keypoints that both skeletons know by name go along. A file
whose backbone does not fit is refused: it is of another network.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bodyloop.errors import FileError, ModelError
from bodyloop.models.checkpoints import infer_card, load_into, read_checkpoint
from bodyloop.models.keymaps import canonical, fit_pos_embed
from bodyloop.models.registry import resolve
from bodyloop.nn.topdown import TopDown
from bodyloop.skeletons import Skeleton

log = logging.getLogger(__name__)

State = dict[str, npt.NDArray[np.generic]]
_BARE = re.compile(
    r"^(blocks\.|patch_embed\.|pos_embed$|norm\.)"
)  # an encoder alone, as MAE and timm save it


def load_start(network: nn.Module, start: str, skeleton: Skeleton | None = None) -> None:
    """Fill a network from the averaged weights of a run (``.pt`` with them), a weight file, or a model by name.

    Args:
        skeleton: of the network's keypoints, for maps to go along by name.

    Raises:
        FileError: it cannot be read. ModelError: it is of another network; the tensors are named.
    """
    if not isinstance(network, TopDown):
        load_into(network, _read(start)[0], where=start)
        return
    state, theirs = _read(start)
    w, h = network.size
    position = state.get("backbone.pos_embed")
    if position is not None and position.ndim == 3:
        state["backbone.pos_embed"] = fit_pos_embed(position, (h // 16, w // 16))
    own = {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
    taken: dict[str, torch.Tensor] = {}
    for name, target in own.items():
        value = state.get(name)
        if value is not None and tuple(value.shape) == tuple(target.shape):
            taken[name] = torch.from_numpy(np.array(value, np.float32))
        elif value is not None and skeleton is not None and theirs is not None:
            taken |= _by_name(name, target, value, skeleton, theirs)
    lacking = [k for k in own if k.startswith("backbone.") and k not in taken]
    if lacking:
        raise ModelError(
            f"{start}: {len(lacking)} tensors of the backbone are missing or of another shape, "
            f"first {lacking[0]!r}; is it of another size?"
        )
    network.load_state_dict(taken, strict=False)
    fresh = sorted({".".join(k.split(".")[:2]) for k in own if k not in taken})
    if fresh:
        log.warning("%s has nothing for %s: these start anew", start, ", ".join(fresh))


def _by_name(
    name: str, target: torch.Tensor, value: npt.NDArray[np.generic], own: Skeleton, theirs: Skeleton
) -> dict[str, torch.Tensor]:
    """Rows of a last layer, one a keypoint, for the keypoints that both skeletons have."""
    rows = value.shape[:1] == (len(theirs),) and target.shape[:1] == (len(own),)
    if not rows or value.shape[1:] != tuple(target.shape[1:]):
        return {}
    out = target.clone()
    for i, keypoint in enumerate(own.keypoints):
        if keypoint in theirs.keypoints:
            out[i] = torch.from_numpy(np.array(value[theirs.index(keypoint)], np.float32))
    return {name: out}


def _read(start: str) -> tuple[State, Skeleton | None]:
    """Tensors under our names, and the skeleton they are of if it is known."""
    path = Path(start)
    if path.suffix == ".pt" and path.is_file() and (run := run_average(path)) is not None:
        return dict(run[0]), None
    if path.suffix:
        card = None
    else:
        card, path = resolve(start)
    checkpoint = read_checkpoint(path)
    try:
        card = card or checkpoint.card or infer_card(checkpoint)
    except ModelError:
        card = None  # a bare backbone, or a network that no card describes: names decide
    state = {_BARE.sub(r"backbone.\1", k).replace("backbone.norm.", "backbone.last_norm."): v
             for k, v in checkpoint.state.items()}  # fmt: skip
    return dict(canonical(state).state), None if card is None else card.skeleton


def run_average(path: Path) -> tuple[Mapping[str, npt.NDArray[np.float32]], int] | None:
    """The averaged weights in a checkpoint of the training loop and their step; None for other files.

    Raises:
        FileError: there is no such file.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        weights, step = state["average"], int(state["step"])
    except FileNotFoundError as e:
        raise FileError(f"{path}: no such checkpoint; has the training reached one yet?") from e
    except (OSError, KeyError, EOFError, RuntimeError, TypeError, ValueError):
        return None
    return {k: v.float().numpy() for k, v in weights.items() if v.dtype.is_floating_point}, step
