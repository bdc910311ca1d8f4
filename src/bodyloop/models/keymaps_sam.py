"""Names of SAM 2's tensors: ours are those of transformers' `Sam2Model`; the official files have others.

Of a checkpoint only what a single picture needs is taken; the memory of videos is dropped, whichever names it
has. What no rule knows keeps its name, so that strict loading tells it. Sources: loop specification section 5.7;
`transformers` Sam2 and Sam2Video (Apache-2.0) for the names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from bodyloop.errors import ModelError
from bodyloop.models.keymaps import Array, StateDict

_MEMORY = re.compile(
    r"^(memory_\w+|maskmem_tpos_enc|no_mem_pos_enc|no_obj_ptr|no_obj_embed_spatial|obj_ptr_proj|obj_ptr_tpos_proj"
    r"|mask_downsample|no_memory_positional_encoding|no_object_pointer|object_pointer_proj"
    r"|occlusion_spatial_embedding_parameter|temporal_positional_encoding_projection_layer)\b"
)
_TRUNK, _TO_TRUNK = r"^image_encoder\.trunk\.", "vision_encoder.backbone."
_PROMPTS, _DECODER = r"^sam_prompt_encoder\.", r"^sam_mask_decoder\."
_LAYER = _DECODER + r"transformer\.layers\.(\d)\."
_HEADS = r"(output_hypernetworks_mlps\.\d|iou_prediction_head|pred_obj_score_head)\.layers\."
_RULES = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (r"^no_mem_embed$", "no_memory_embedding"),
        (_TRUNK + r"patch_embed\.proj\.", _TO_TRUNK + "patch_embed.projection."),
        (_TRUNK + r"blocks\.(\d+)\.norm([12])\.", _TO_TRUNK + r"blocks.\1.layer_norm\2."),
        (_TRUNK + r"blocks\.(\d+)\.mlp\.layers\.0\.", _TO_TRUNK + r"blocks.\1.mlp.proj_in."),
        (_TRUNK + r"blocks\.(\d+)\.mlp\.layers\.1\.", _TO_TRUNK + r"blocks.\1.mlp.proj_out."),
        (_TRUNK, _TO_TRUNK),
        (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"vision_encoder.neck.convs.\1."),
        (_PROMPTS + r"mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
        (_PROMPTS + r"mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
        (_PROMPTS + r"mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
        (_PROMPTS + r"mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
        (_PROMPTS + r"mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
        (_PROMPTS + r"pe_layer\.positional_encoding_gaussian_matrix$",
         "prompt_encoder.shared_embedding.positional_embedding"),
        (_PROMPTS, "prompt_encoder."),
        (_DECODER + r"output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
        (_DECODER + r"output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
        (_DECODER + r"output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
        (_DECODER + _HEADS + r"0\.", r"mask_decoder.\1.proj_in."),
        (_DECODER + _HEADS + r"1\.", r"mask_decoder.\1.layers.0."),
        (_DECODER + _HEADS + r"2\.", r"mask_decoder.\1.proj_out."),
        (_DECODER + r"transformer\.norm_final_attn\.", "mask_decoder.transformer.layer_norm_final_attn."),
        (_LAYER + r"norm(\d)\.", r"mask_decoder.transformer.layers.\1.layer_norm\2."),
        (_LAYER + r"mlp\.layers\.0\.", r"mask_decoder.transformer.layers.\1.mlp.proj_in."),
        (_LAYER + r"mlp\.layers\.1\.", r"mask_decoder.transformer.layers.\1.mlp.proj_out."),
        (_DECODER, "mask_decoder."),
    )
)  # fmt: skip
_POINT = re.compile(r"^prompt_encoder\.point_embeddings\.(\d)\.weight$")
_POINTS = "prompt_encoder.point_embed.weight"
_KINDS_OF_POINTS = 4  # negative, positive, two corners
_POSITIONS = (
    "prompt_encoder.shared_embedding.positional_embedding",
    "shared_image_embedding.positional_embedding",
)
_PATCHES = "vision_encoder.backbone.patch_embed.projection.weight"
_BLOCK = re.compile(r"^vision_encoder\.backbone\.blocks\.(\d+)\.")
_SIZES = {  # width of the first stage, blocks
    (96, 12): "sam2.1-tiny",
    (96, 16): "sam2.1-small",
    (112, 24): "sam2.1-base-plus",
    (144, 48): "sam2.1-large",
}


def rename(name: str) -> str | None:
    """A tensor's name in transformers' `Sam2Model`; None for the memory of videos."""
    if _MEMORY.match(name):
        return None
    for pattern, new in _RULES:
        renamed, hits = pattern.subn(new, name)
        if hits:
            inside = renamed.startswith("mask_decoder.transformer.")
            return renamed.replace(".out_proj.", ".o_proj.") if inside else renamed
    return name


def canonical_sam(state: Mapping[str, Array]) -> StateDict:
    """An official or a transformers state dict as that of `Sam2Model`.

    The four embeddings of points become rows of one tensor; the Gaussian matrix, of which the official files have
    one, stands in two places.

    Raises:
        ModelError: two tensors would get one name, or some of the four embeddings are missing.
    """
    out: StateDict = {}
    rows: dict[int, Array] = {}
    for name, value in state.items():
        new = rename(name)
        if new is None:
            continue
        row = _POINT.match(new)
        if row:
            rows[int(row[1])] = value
        elif new in out:
            raise ModelError(f"two tensors both mean {new!r} (one of them is {name!r})")
        else:
            out[new] = value
    if rows:
        lacking = [
            f"sam_prompt_encoder.point_embeddings.{k}.weight"
            for k in range(_KINDS_OF_POINTS)
            if k not in rows
        ]
        if lacking:
            raise ModelError(f"{len(lacking)} missing: {', '.join(lacking)}")
        try:
            out[_POINTS] = np.concatenate([rows[k] for k in sorted(rows)])
        except ValueError:
            shapes = ", ".join(str(r.shape) for r in rows.values())
            raise ModelError(f"sam_prompt_encoder.point_embeddings do not fit together: {shapes}") from None
    for here, there in (_POSITIONS, _POSITIONS[::-1]):
        if here in out:
            out.setdefault(there, out[here])
    return out


def recognise_sam(state: Mapping[str, Array]) -> str | None:
    """The architecture that a state dict in transformers' names belongs to, None if it is no SAM 2."""
    patches = state.get(_PATCHES)
    if patches is None or patches.ndim != 4:
        return None
    blocks = {m[1] for n in state if (m := _BLOCK.match(n))}
    return _SIZES.get((patches.shape[0], len(blocks)))
