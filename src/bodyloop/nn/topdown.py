"""Whole pose networks: a backbone and a head, one person's crop in, named outputs out.

`build_pose("vit-b", 23, "probability")` lays out PMPose-b; further down every published model is one function
with its numbers. State dicts have exactly the published names. To fill a large network without allocating it
twice, build it under ``torch.device("meta")`` and load with ``load_state_dict(state, assign=True)``.
Reading files, mapping legacy names and calibration belong to the models part.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal, get_args

from torch import Tensor, nn

from bodyloop.errors import ModelError
from bodyloop.nn.heads import DoubleHead, Head, PlainHead, ProbabilityHead, SimpleHead
from bodyloop.nn.vit import ViT, vit_b, vit_h, vit_l, vit_s

HeadKind = Literal["plain", "probability", "double", "simple"]


class TopDown(nn.Module):
    """A pose network: normalised crops (B, 3, H, W) float to a dict of outputs.

    ``forward(images, outputs)`` computes only the outputs named (None: all but "error"):

    ==================================  ============================================================
    "maps" ("maps_outer")               (B, K, h, w), what is decoded: after temperature and sparsemax
    "logits" ("logits_outer")           (B, K, h, w), before them
    "presence" "visibility" "quality"   (B, K), in [0, 1]
    "error"                             (B, K), untrained in the published models
    "features"                          (B, D, h', w') of the backbone
    ==================================  ============================================================

    Attributes:
        num_keypoints: K.
        size: (width, height) of the crop, px.
        map_size: (width, height) of the maps, cells.
        temperature: () or (K,) tensor, divides the logits before sparsemax; None for plain maps.
    """

    def __init__(self, backbone: ViT, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.num_keypoints = head.num_keypoints
        self.size = backbone.size
        self.map_size = (4 * backbone.grid[1], 4 * backbone.grid[0])

    @property
    def available(self) -> tuple[str, ...]:
        """Names of all outputs this network has."""
        return (*self.head.available, "features")

    @property
    def temperature(self) -> Tensor | None:
        return self.head.temperature if isinstance(self.head, ProbabilityHead) else None

    def forward(self, images: Tensor, outputs: Collection[str] | None = None) -> dict[str, Tensor]:
        wanted = self.head.wanted(None if outputs is None else [o for o in outputs if o != "features"])
        features = self.backbone(images)
        out: dict[str, Tensor] = self.head(features, wanted)
        if outputs is None or "features" in outputs:
            out["features"] = features
        return out


BACKBONES: dict[str, Callable[[], ViT]] = {
    "vit-s": vit_s,
    "vit-b": vit_b,
    "vit-l": vit_l,
    "vit-h": vit_h,
}
HEADS: dict[HeadKind, Callable[[int, int], Head]] = {
    "plain": PlainHead,
    "probability": ProbabilityHead,
    "double": DoubleHead,
    "simple": SimpleHead,
}


def build_pose(architecture: str, num_keypoints: int, head: HeadKind = "probability") -> TopDown:
    """Lay out a pose network with starting values (no weights are loaded).

    Args:
        architecture: "vit-s", "vit-b", "vit-l" or "vit-h".
        num_keypoints: K.
        head: "plain" heat maps, "probability" maps with side branches, or "double" maps with side branches.

    Raises:
        ModelError: an unknown architecture or head, or K < 1.
    """
    if architecture not in BACKBONES:
        raise ModelError(f"no architecture {architecture!r}; there are {', '.join(BACKBONES)}")
    if head not in HEADS:
        raise ModelError(f"no head {head!r}; there are {', '.join(get_args(HeadKind))}")
    if num_keypoints < 1:
        raise ModelError(f"num_keypoints = {num_keypoints}: a pose network needs at least one keypoint")
    backbone = BACKBONES[architecture]()
    return TopDown(backbone, HEADS[head](backbone.dim, num_keypoints))


# The published models (and two configurations without published weights), one function each.


def probpose_s() -> TopDown:
    """ProbPose-s: COCO's 17 keypoints, decoded by expected OKS."""
    return build_pose("vit-s", 17, "probability")


def probpose_dh_s() -> TopDown:
    """ProbPose-DH: inner and outer maps; never released, completed here with sparsemax on both."""
    return build_pose("vit-s", 17, "double")


def vitpose_b_multi() -> TopDown:
    """ViTPose-b on COCO, AIC and MPII: 21 keypoints. MaskPose-b 1.0.0 has the same layout."""
    return build_pose("vit-b", 21, "plain")


def maskpose(size: Literal["s", "b", "l", "h"]) -> TopDown:
    """MaskPose 1.1.0: 23 keypoints, plain maps, crops with the background dimmed."""
    return build_pose(f"vit-{size}", 23, "plain")


def maskpose_wb(size: Literal["s", "b", "l", "h"]) -> TopDown:
    """MaskPose with feet, finger tips and mouth corners: 41 keypoints, plain maps."""
    return build_pose(f"vit-{size}", 41, "plain")


def pmpose(size: Literal["s", "b", "l", "h"]) -> TopDown:
    """PMPose 1.0.0: 23 keypoints, probability maps and side branches on MaskPose's backbone."""
    return build_pose(f"vit-{size}", 23, "probability")


def freeze_backbone(net: TopDown) -> None:
    """Stop gradients of the backbone. As in PMPose's recipe its stochastic depth stays active in training."""
    net.backbone.requires_grad_(False)


def freeze_error(net: TopDown) -> None:
    """Stop gradients of the error branch, as all published recipes do; nothing happens without the branch."""
    branch = getattr(net.head, "error_layers", None)
    if branch is not None:
        branch.requires_grad_(False)
