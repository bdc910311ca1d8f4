"""SAM 2.1 for single pictures: transformers' `Sam2Model` in four sizes, and its two halves as network functions.

A picture is encoded once; prompts are decoded as often as wanted. Of a picture remain an embedding and two finer
feature maps, of a prompt its tokens (box corners, points, always one padding token) and perhaps a mask's logits.
Encoder and token embedding are written out here over the model's own layers, because transformers' call computes
position encodings that nobody reads and cannot repeat the published answer to an empty prompt. Video memory is
left out.

Source: Ravi et al., "SAM 2: Segment Anything in Images and Videos" (2024); `transformers` Sam2 (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from transformers import Sam2Model

Features: TypeAlias = Mapping[str, Tensor]

FEATURES = ("embedding", "high_0", "high_1")
"""(B, 256, S/16, S/16), (B, 32, S/4, S/4) and (B, 64, S/8, S/8) for pictures of S x S."""
PADDING, NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3
"""Labels of a prompt's tokens."""
PATCH, MASK_STRIDE = 16, 4  # input px of a cell of the embedding, and of a logit
MULTIPLE = 32  # of which the side of a picture must be one: the deepest stage's stride


@dataclass(frozen=True)
class Hiera:
    """A size of the image encoder.

    Attributes:
        width, heads: of the first stage; each further one has twice as many.
        blocks: of the four stages. whole: numbers of the blocks that attend to the whole picture.
        windows: px of a stage's own grid. grid: side of the stored position embedding.
    """

    width: int
    heads: int
    blocks: tuple[int, int, int, int]
    whole: tuple[int, ...]
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)
    grid: int = 7


SIZES = {
    "sam2.1-tiny": Hiera(96, 1, (1, 2, 7, 2), (5, 7, 9)),
    "sam2.1-small": Hiera(96, 1, (1, 2, 11, 2), (7, 10, 13)),
    "sam2.1-base-plus": Hiera(112, 2, (2, 3, 16, 3), (12, 16, 20), grid=14),
    "sam2.1-large": Hiera(144, 2, (2, 6, 36, 4), (23, 33, 43), windows=(8, 4, 16, 8)),
}


def sam2(hiera: Hiera, size: int = 1024) -> Sam2Model:
    """The network with starting values, for pictures of ``size`` x ``size`` px (a multiple of 32)."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2Model, Sam2VisionConfig

    widths = [hiera.width * 2**i for i in range(4)]
    backbone = Sam2HieraDetConfig(
        hidden_size=hiera.width,
        num_attention_heads=hiera.heads,
        image_size=[size, size],
        embed_dim_per_stage=widths,
        num_attention_heads_per_stage=[hiera.heads * 2**i for i in range(4)],
        blocks_per_stage=list(hiera.blocks),
        global_attention_blocks=list(hiera.whole),
        window_size_per_stage=list(hiera.windows),
        window_positional_embedding_background_size=[hiera.grid, hiera.grid],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[size // s, size // s] for s in (4, 8, 16)],
    )
    return Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config={"image_size": size}))


def side_of(network: Sam2Model) -> int:
    """Side of the pictures that a network takes, px."""
    return int(network.prompt_encoder.image_embedding_size[0] * PATCH)


def encode(network: Sam2Model, images: Tensor) -> dict[str, Tensor]:
    """What is kept of pictures: `FEATURES` of (B, 3, S, S) normalised RGB."""
    vision, decoder = network.vision_encoder, network.mask_decoder
    trunk, (deepest, deep, middle, fine) = vision.backbone, vision.neck.convs
    x = trunk.patch_embed(images)  # (B, S/4, S/4, C), channels last from here on
    x = x + _positions(trunk.pos_embed, trunk.pos_embed_window, x.shape[1], x.shape[2])
    stages = []
    for i, block in enumerate(trunk.blocks):
        x = block(x)
        if i in trunk.stage_ends:
            stages.append(x.permute(0, 3, 1, 2))
    above = F.interpolate(deepest(stages[3]), scale_factor=2.0, mode="nearest")
    return {
        "embedding": deep(stages[2]) + above + network.no_memory_embedding.reshape(1, -1, 1, 1),
        "high_0": decoder.conv_s0(fine(stages[0])),
        "high_1": decoder.conv_s1(middle(stages[1])),
    }


def _positions(whole: Tensor, window: Tensor, h: int, w: int) -> Tensor:
    """(1, h, w, C): a coarse grid enlarged, plus that of one window laid like tiles."""
    grown = F.interpolate(whole.float(), size=(h, w), mode="bicubic")
    tiles = window.tile(1, 1, h // window.shape[2], w // window.shape[3])
    return (grown + tiles).permute(0, 2, 3, 1)


def embed_points(network: Sam2Model, points: Tensor, labels: Tensor) -> Tensor:
    """Tokens (P, T, 256) of points (P, T, 2) in input px with labels (P, T); padding is a token, too."""
    prompts = network.prompt_encoder
    size = side_of(network)
    with torch.autocast(points.device.type, enabled=False):  # half precision would move points by pixels
        where = prompts.shared_embedding(points.float()[:, None] + 0.5, (size, size))[:, 0]
    label = labels[..., None]
    tokens = torch.where(label == PADDING, prompts.not_a_point_embed.weight, where)
    return tokens + torch.where(label == PADDING, 0, prompts.point_embed(labels.clamp(min=0)))


def embed_masks(network: Sam2Model, masks: Tensor, given: Tensor) -> Tensor:
    """(P, 256, S/16, S/16) of logits (P, 1, S/4, S/4) where ``given`` (P,), else of "no mask"."""
    prompts = network.prompt_encoder
    none = prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
    return torch.where(given[:, None, None, None], prompts.mask_embed(masks), none)


def decode(
    network: Sam2Model, features: Features, tokens: Tensor, dense: Tensor, *, multimask: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of P prompts in one picture, or of one prompt in each of P pictures.

    Args:
        features: of `encode`, of 1 or P pictures. tokens: (P, T, 256). dense: (P, 256, S/16, S/16).
        multimask: three masks of a prompt that may mean several things; else one (in evaluation mode the
            single-mask answer, or the best of the three where that is not stable: spec 5.5).

    Returns: logits (P, M, S/4, S/4), predicted IoU (P, M), logit that there is anything (P,).
    """
    count = len(tokens)
    embedding, high_0, high_1 = (features[n].expand(count, -1, -1, -1) for n in FEATURES)
    with torch.autocast(embedding.device.type, enabled=False):
        positions = network.get_image_wide_positional_embeddings()
    masks, iou, _, presence = network.mask_decoder(
        image_embeddings=embedding,
        image_positional_embeddings=positions.expand(count, -1, -1, -1),
        sparse_prompt_embeddings=tokens[:, None],
        dense_prompt_embeddings=dense,
        multimask_output=multimask,
        high_resolution_features=[high_0, high_1],
    )
    return masks[:, 0], iou[:, 0], presence[:, 0, 0]


class SamEncoder(nn.Module):
    """Normalised pictures in, `FEATURES` out: a function for engines and export."""

    inputs = ("images",)
    outputs = FEATURES

    def __init__(self, network: Sam2Model) -> None:
        super().__init__()
        self.network = network

    def blank(self, batch: int = 1) -> dict[str, Tensor]:
        """Inputs of the right shape and type."""
        side = side_of(self.network)
        return {"images": torch.zeros(batch, 3, side, side)}

    def forward(self, images: Tensor, outputs: Sequence[str] = FEATURES) -> dict[str, Tensor]:
        return encode(self.network, images)


class SamDecoder(nn.Module):
    """A picture's features and P prompts in, masks out: a function for engines and export.

    Outputs: ``mask`` (P, S/4, S/4) logits and ``score`` (P,) predicted IoU; ``masks`` (P, 3, S/4, S/4) and
    ``scores`` (P, 3) for prompts that may mean several things; ``presence`` (P,) logit that there is anything.
    """

    inputs = (*FEATURES, "points", "labels", "masks", "given")
    outputs = ("mask", "score", "masks", "scores", "presence")

    def __init__(self, network: Sam2Model) -> None:
        super().__init__()
        self.network = network

    def blank(self, batch: int = 1) -> dict[str, Tensor]:
        """Inputs of the right shape and type: ``batch`` prompts of two tokens."""
        side = side_of(self.network)
        return {
            "embedding": torch.zeros(1, 256, side // 16, side // 16),
            "high_0": torch.zeros(1, 32, side // 4, side // 4),
            "high_1": torch.zeros(1, 64, side // 8, side // 8),
            "points": torch.zeros(batch, 2, 2),
            "labels": torch.full((batch, 2), PADDING, dtype=torch.int64),
            "masks": torch.zeros(batch, 1, side // MASK_STRIDE, side // MASK_STRIDE),
            "given": torch.zeros(batch, dtype=torch.bool),
        }

    def forward(
        self,
        embedding: Tensor,
        high_0: Tensor,
        high_1: Tensor,
        points: Tensor,
        labels: Tensor,
        masks: Tensor,
        given: Tensor,
        outputs: Sequence[str] = outputs,
    ) -> dict[str, Tensor]:
        features = {"embedding": embedding, "high_0": high_0, "high_1": high_1}
        tokens, dense = embed_points(self.network, points, labels), embed_masks(self.network, masks, given)
        out: dict[str, Tensor] = {}
        if not {"mask", "score", "presence"}.isdisjoint(outputs):
            logits, iou, presence = decode(self.network, features, tokens, dense, multimask=False)
            out |= {"mask": logits[:, 0], "score": iou[:, 0], "presence": presence}
        if not {"masks", "scores"}.isdisjoint(outputs):
            logits, iou, _ = decode(self.network, features, tokens, dense, multimask=True)
            out |= {"masks": logits, "scores": iou}
        return {n: out[n] for n in outputs}


def halves(network: nn.Module) -> tuple[SamEncoder, SamDecoder]:
    """Both functions over one `Sam2Model`."""
    sam = cast("Sam2Model", network)
    return SamEncoder(sam), SamDecoder(sam)
