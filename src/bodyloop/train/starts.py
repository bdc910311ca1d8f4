"""Where a training begins: a run of our own, any weight file or published model, or a bare backbone.

What fits is taken, the rest keeps its starting values and is named in the log: a head for other keypoints,
side branches that a plain model lacks. What belongs to a keypoint goes along by the keypoint's name, if both
skeletons have it. A file whose backbone does not fit is refused: it is of another network.
"""

from __future__ import annotations

import logging
import pickle
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


def load_start(
    network: nn.Module, start: str, skeleton: Skeleton | None = None, *, classes: str | None = None
) -> None:
    """Fill a network from the averaged weights of a run (``.pt`` with them), a weight file, or a model by name.

    Args:
        skeleton: of the network's keypoints; without it everything must fit,
        classes: or, of a detector, all of the backbone. The beginning of the names whose rows are classes: a file
            that tells more of them apart gives the first ones.

    Raises:
        FileError: it cannot be read. ModelError: it is of another network; the tensors are named.
    """
    state, theirs = _read(start)
    if skeleton is None and classes is None:
        load_into(network, state, where=start)
        return
    if isinstance(network, TopDown):
        w, h = network.size
        position = state.get("backbone.pos_embed")
        if position is not None and position.ndim == 3:
            state["backbone.pos_embed"] = fit_pos_embed(position, (h // 16, w // 16))
    own = {k: v for k, v in network.state_dict().items() if v.is_floating_point()}
    taken: dict[str, torch.Tensor] = {}
    for name, target in own.items():
        value = state.get(name)
        if value is None:
            continue
        if skeleton is not None:
            fitted = _by_name(value, target, skeleton, theirs or skeleton)
        else:
            fitted = _by_shape(value, target, cut=name.startswith(classes or ()))
        if fitted is not None:
            taken[name] = fitted
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
    if skeleton is not None and theirs is not None and theirs.keypoints != skeleton.keypoints:
        new = [k for k in skeleton.keypoints if k not in theirs.keypoints]
        log.warning("%s does not know %s: these start anew", start, ", ".join(new) or "nothing new")


def _by_shape(value: npt.NDArray[np.generic], target: torch.Tensor, cut: bool = False) -> torch.Tensor | None:
    """A tensor of the file if it is of the network's shape; with ``cut`` its first rows if it has more."""
    array = torch.from_numpy(np.array(value, np.float32))
    array = array[: len(target)] if cut else array
    return array if array.shape == target.shape else None


def _by_name(
    value: npt.NDArray[np.generic], target: torch.Tensor, own: Skeleton, theirs: Skeleton
) -> torch.Tensor | None:
    """A tensor of the file as the network has it, axes of keypoints in its order; None if it is of another shape.

    Keypoints that the file does not know keep the values of ``target``.
    """
    array = torch.from_numpy(np.array(value, np.float32))
    sizes = list(zip(array.shape, target.shape, strict=False))
    axes = [i for i, (a, b) in enumerate(sizes) if (a, b) == (len(theirs), len(own))]
    if own.keypoints == theirs.keypoints or not axes:
        return array if array.shape == target.shape else None
    if array.ndim != target.ndim or any(a != b for i, (a, b) in enumerate(sizes) if i not in axes):
        return None
    known = [i for i, k in enumerate(own.keypoints) if k in theirs.keypoints]
    to: list[torch.Tensor] = [torch.arange(n) for n in target.shape]
    source: list[torch.Tensor] = [torch.arange(n) for n in array.shape]
    for axis in axes:
        to[axis] = torch.tensor(known, dtype=torch.int64)
        source[axis] = torch.tensor([theirs.index(own.keypoints[i]) for i in known], dtype=torch.int64)
    out = target.clone().float()
    out[torch.meshgrid(*to, indexing="ij")] = array[torch.meshgrid(*source, indexing="ij")]
    return out


def _read(start: str) -> tuple[State, Skeleton | None]:
    """Tensors under our names, and the skeleton they are of if it is known."""
    path = Path(start)
    if path.suffix == ".pt" and path.is_file() and (run := run_average(path)) is not None:
        return dict(run[0]), None
    if path.suffix:
        card = None
    else:
        card, path = resolve(start)
    if path.suffix.lower() == ".onnx":
        raise ModelError(
            f"{start}: an exported file cannot be trained on; give the weights that it was made from "
            "(those of our own models are in the folder weights of the repository)"
        )
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
    except (OSError, KeyError, EOFError, RuntimeError, TypeError, ValueError, pickle.UnpicklingError):
        return None
    return {k: v.float().numpy() for k, v in weights.items() if v.dtype.is_floating_point}, step
