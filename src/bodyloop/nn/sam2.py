"""SAM 2.1 for single pictures: transformers' `Sam2Model` in four sizes, and its two halves as network functions.

A picture is encoded once; prompts are decoded as often as wanted. Of a picture remain an embedding and two finer
feature maps, of a prompt its tokens (box corners, points, always one padding token) and perhaps a mask's logits.
What happens between the layers is written out here, because transformers' call computes position encodings that
nobody reads, copies the features for each prompt and cannot repeat the published answer to an empty prompt. Video
memory is left out.

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

FEATURES = ("image_embedding", "high_0", "high_1")
"""(B, 256, S/16, S/16), (B, 32, S/4, S/4) and (B, 64, S/8, S/8) for pictures of S x S."""
PADDING, NEGATIVE, POSITIVE, TOP_LEFT, BOTTOM_RIGHT = -1, 0, 1, 2, 3
"""Labels of a prompt's tokens."""
PATCH, MASK_STRIDE = 16, 4  # input px of a cell of the embedding, and of a logit
DOUBT, STABLE = 0.05, 0.98  # logits; the share above which a mask is stable
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
        "image_embedding": deep(stages[2]) + above + network.no_memory_embedding.reshape(1, -1, 1, 1),
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
    network: Sam2Model, features: Features, tokens: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of P prompts in one picture, or of one prompt in each of P pictures.

    Args:
        features: of `encode`, of 1 or P pictures. tokens: (P, T, 256). dense: (P, 256, S/16, S/16).

    Returns: logits (P, 4, S/4, S/4) of four answers (one for prompts that mean one thing, three for others),
        their predicted IoU (P, 4), logit that there is anything (P,).
    """
    decoder, embedding = network.mask_decoder, features["image_embedding"]
    with torch.autocast(embedding.device.type, enabled=False):
        positions = network.get_image_wide_positional_embeddings()
    asked = torch.cat([decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight])
    count = tokens.shape[0]  # len() would become a constant in an exported graph
    answers, cells = decoder.transformer(
        point_embeddings=torch.cat([asked.expand(count, -1, -1), tokens], dim=1)[:, None],
        image_embeddings=embedding + dense,
        image_positional_embeddings=positions,
        attention_similarity=None,
    )
    answers = answers[:, 0]  # (P, 6 + T, 256)
    x = cells[:, 0].transpose(1, 2).unflatten(2, embedding.shape[2:])
    x = decoder.activation(decoder.upscale_layer_norm(decoder.upscale_conv1(x) + features["high_1"]))
    x = decoder.activation(decoder.upscale_conv2(x) + features["high_0"])
    heads = decoder.output_hypernetworks_mlps
    kernels = torch.stack([head(answers[:, 2 + i]) for i, head in enumerate(heads)], dim=1)
    logits = (kernels @ x.flatten(2)).unflatten(2, x.shape[2:])
    iou = decoder.iou_prediction_head(answers[:, 1])
    return logits, iou, decoder.pred_obj_score_head(answers[:, 0])[:, 0]


def stability(logits: Tensor) -> Tensor:
    """(...) how little a mask (..., h, w) depends on the threshold: px surely inside over px perhaps inside."""
    sure = (logits > DOUBT).sum(dim=(-2, -1)).float()
    perhaps = (logits > -DOUBT).sum(dim=(-2, -1)).float()
    return torch.where(perhaps > 0, sure / perhaps.clamp(min=1), 1.0)


def choose(logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """One of four answers (P, 4, h, w) and its predicted IoU (P,): the first if it is stable, else the best other."""
    best = iou[:, 1:].argmax(dim=1) + 1
    picked = torch.where(stability(logits[:, 0]) >= STABLE, 0, best)
    mask = logits.gather(1, picked[:, None, None, None].expand(-1, 1, *logits.shape[2:]))
    return mask[:, 0], iou.gather(1, picked[:, None])[:, 0]


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

    inputs = (*FEATURES, "points", "labels", "first_masks", "given")
    outputs = ("mask", "score", "masks", "scores", "presence")

    def __init__(self, network: Sam2Model) -> None:
        super().__init__()
        self.network = network

    def blank(self, batch: int = 1) -> dict[str, Tensor]:
        """Inputs of the right shape and type: ``batch`` prompts of two tokens."""
        side = side_of(self.network)
        return {
            "image_embedding": torch.zeros(1, 256, side // 16, side // 16),
            "high_0": torch.zeros(1, 32, side // 4, side // 4),
            "high_1": torch.zeros(1, 64, side // 8, side // 8),
            "points": torch.zeros(batch, 2, 2),
            "labels": torch.full((batch, 2), PADDING, dtype=torch.int64),
            "first_masks": torch.zeros(batch, 1, side // MASK_STRIDE, side // MASK_STRIDE),
            "given": torch.zeros(batch, dtype=torch.bool),
        }

    def forward(
        self,
        image_embedding: Tensor,
        high_0: Tensor,
        high_1: Tensor,
        points: Tensor,
        labels: Tensor,
        first_masks: Tensor,
        given: Tensor,
        outputs: Sequence[str] = outputs,
    ) -> dict[str, Tensor]:
        features = {"image_embedding": image_embedding, "high_0": high_0, "high_1": high_1}
        tokens, dense = (
            embed_points(self.network, points, labels),
            embed_masks(self.network, first_masks, given),
        )
        logits, iou, presence = decode(self.network, features, tokens, dense)
        mask, score = choose(logits, iou)
        every = (mask, score, logits[:, 1:], iou[:, 1:], presence)
        return {n: value for n, value in zip(self.outputs, every, strict=True) if n in outputs}


def halves(network: nn.Module) -> tuple[SamEncoder, SamDecoder]:
    """Both functions over one `Sam2Model`."""
    sam = cast("Sam2Model", network)
    return SamEncoder(sam), SamDecoder(sam)
