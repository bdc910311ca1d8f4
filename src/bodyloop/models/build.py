"""From a card and its weight file to a torch network.

Which class of `bodyloop.nn` an architecture's name means is written here and nowhere else; torch is imported
only when a network is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bodyloop.errors import MissingDependency, ModelError
from bodyloop.models.cards import Card
from bodyloop.models.checkpoints import fitted, is_sam, load_into, prepare, read_checkpoint

if TYPE_CHECKING:
    from torch import nn
    from transformers import Sam2Model

    from bodyloop.nn.rtmdet import RTMDet
    from bodyloop.nn.topdown import HeadKind

SMALL = "pmpose-n"
CROPS = "pose2seg-n"


def build_network(card: Card, *, meta: bool = False) -> nn.Module:
    """The card's network with starting values.

    Args:
        meta: lay it out without memory, for weights to be put into it.

    Raises:
        ModelError: no such architecture or head, or no network of this kind.
        MissingDependency: torch (or transformers, for SAM) is missing.
    """
    try:
        import torch
    except ImportError as e:
        raise MissingDependency(
            f"{card.name} is a torch network and torch is missing; pip install 'bodyloop[torch]'"
        ) from e
    if is_sam(card):
        return _sam2(card, meta)
    if card.kind == "detector":
        return _detector(card, meta)
    if card.architecture == CROPS:
        from bodyloop.nn.pose2seg import Pose2Seg

        return Pose2Seg()
    if card.kind != "pose" or card.head is None:
        raise ModelError(f"card {card.name!r} is of a {card.kind}, not of a pose model")
    if card.architecture == SMALL:
        from bodyloop.nn.small import SmallPose

        return SmallPose(card.num_keypoints, plain=card.head == "plain")
    from bodyloop.nn.topdown import build_pose

    head: HeadKind = card.head
    if not meta:
        return build_pose(card.architecture, card.num_keypoints, head)
    with torch.device("meta"):
        return build_pose(card.architecture, card.num_keypoints, head)


def load_network(card: Card, path: str | Path) -> nn.Module:
    """The card's network with the weights of a file (.pth, .safetensors), in evaluation mode.

    Raises:
        ModelError: the file does not fit; every missing, unexpected or mis-shaped tensor is named.
        FileError: it cannot be read.
        MissingDependency: torch is missing.
    """
    checkpoint = read_checkpoint(path)
    network = build_network(fitted(card, checkpoint), meta=True)
    state = checkpoint.state if card.architecture in (SMALL, CROPS) else prepare(checkpoint, card)
    load_into(network, state, where=str(path))
    return network.eval()


def shapes_of(card: Card) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the network's tensors.

    Raises:
        ModelError, MissingDependency: as `build_network`.
    """
    return {n: tuple(t.shape) for n, t in build_network(card, meta=True).state_dict().items()}


def _detector(card: Card, meta: bool) -> RTMDet:
    import torch

    from bodyloop.nn.cspnext import SIZES
    from bodyloop.nn.rtmdet import rtmdet, rtmdet_n
    from bodyloop.nn.rtmdet_ins import rtmdet_ins, rtmdet_ins_n

    family, _, size = card.architecture.rpartition("-")
    own, published = {"rtmdet": (rtmdet_n, rtmdet), "rtmdet-ins": (rtmdet_ins_n, rtmdet_ins)}.get(
        family, (None, None)
    )
    classes = 1 if card.detection is None else card.detection.num_classes
    if own is None or published is None or size not in (*SIZES, "n") or (size == "n" and classes != 1):
        raise ModelError(
            f"card {card.name!r}: no network {card.architecture!r} with {classes} classes; there are rtmdet-SIZE and "
            f"rtmdet-ins-SIZE with {', '.join(SIZES)}, and n of one class"
        )
    with torch.device("meta" if meta else "cpu"):
        return own() if size == "n" else published(size, classes)


def _sam2(card: Card, meta: bool) -> Sam2Model:
    import torch

    from bodyloop.nn.sam2 import MULTIPLE, SIZES, sam2

    (w, h), hiera = card.preprocess.size, SIZES.get(card.architecture)
    if hiera is None or w != h or w % MULTIPLE:
        raise ModelError(
            f"card {card.name!r}: a SAM is one of {', '.join(SIZES)} and takes squares whose side is a multiple of "
            f"{MULTIPLE}, not {card.architecture!r} with {w} x {h}"
        )
    try:
        with torch.device("meta" if meta else "cpu"):
            return sam2(hiera, w)
    except ImportError as e:
        raise MissingDependency(
            f"{card.name} needs transformers 5.0 or later ({e}); pip install 'bodyloop[sam]'"
        ) from e
