"""The published networks, laid out and run with the fixtures' weights, against the reference's numbers.

Every size is laid out without storage, filled tensor by tensor and given back before the next: the largest
takes 3.3 GB. A network runs once; the tests look at what it left behind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bodyloop.nn.heads import DoubleHead, ProbabilityHead
from bodyloop.nn.maps import Decoder
from bodyloop.nn.topdown import (
    TopDown,
    maskpose,
    maskpose_wb,
    pmpose,
    probpose_dh_s,
    probpose_s,
    vitpose_b_multi,
)
from bodyloop.nn.vit import resize_pos_embed
from tests.parity.manifest import FIXTURES, compare, given, load_json
from tests.parity.weights import make_tensor

LAYOUTS: dict[str, Callable[[], TopDown]] = {
    "ProbPose-s": probpose_s,
    "ProbPose-DH-s": probpose_dh_s,
    "ViTPose-b-multi": vitpose_b_multi,
    "MaskPose-b-1.0.0": vitpose_b_multi,
    **{f"MaskPose-{s}": partial(maskpose, s) for s in ("s", "b", "l", "h")},
    **{f"MaskPose-{s}-wb": partial(maskpose_wb, s) for s in ("s", "b", "l", "h")},
    **{f"PMPose-{s}": partial(pmpose, s) for s in ("s", "b", "l", "h")},
}
PROBABILITY = [
    "ProbPose-s",
    "PMPose-s",
    "PMPose-b",
    pytest.param("PMPose-l", marks=pytest.mark.slow),
    pytest.param("PMPose-h", marks=pytest.mark.slow),
]
PLAIN = ["MaskPose-s", "MaskPose-s-wb", "MaskPose-b-1.0.0"]
HALF = 4e-3  # what the stored float16 arrays resolve
SINGLE = 1e-5
TOKENS = 3e-5


def lay_out(name: str) -> TopDown:
    with torch.device("meta"):
        return LAYOUTS[name]()


def filled(name: str) -> TopDown:
    """The network with the fixtures' weights, in evaluation mode, without a second copy of them."""
    net = lay_out(name)
    for key, shape, dtype in load_json(f"keys/{name}.json")["tensors"]:
        tensor = torch.from_numpy(make_tensor(key, shape, dtype))
        net.load_state_dict({key: tensor}, strict=False, assign=True)
    assert not [key for key, tensor in net.state_dict().items() if tensor.is_meta]
    return net.eval()


def crops(count: int) -> Tensor:
    """The stored crops, normalised: (count, 3, 256, 192)."""
    names = ["crop_0.png", "crop_0_masked.png"][:count]
    pixels = np.stack([np.asarray(Image.open(FIXTURES / "crops" / name).convert("RGB")) for name in names])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    return (images - mean[:, None, None]) / std[:, None, None]


@cache
def result(name: str) -> dict[str, npt.NDArray[Any]]:
    """All outputs of one network, its tokens on the way and its second deconvolution, as numpy."""
    file = f"nets/{name}.npz"
    depth = len(lay_out(name).backbone.layers)
    net, seen = filled(name), {}

    def keep(key: str, *, before: bool = False) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: nn.Module, given_: tuple[Tensor, ...], out: Tensor) -> None:
            seen[key] = given_[0] if before else out

        return hook

    blocks = net.backbone.layers
    blocks[0].register_forward_hook(keep("tok_embed", before=True))
    for i in (0, depth // 2, depth - 1):
        blocks[i].register_forward_hook(keep(f"tok_block{i}"))
    net.head.deconv_layers.register_forward_hook(keep("deconv"))
    with torch.inference_mode():
        seen |= net(crops(len(given(file, "feat"))), net.available)
        plain = not isinstance(net.head, ProbabilityHead)
        decoder = reference_decoder(name)
        seen["points"], seen["values"] = decoder(seen["maps"])
        seen["usable"] = usable(seen["maps"], decoder, plain)
    return {key: value.numpy() for key, value in seen.items()}


def reference_decoder(name: str) -> Decoder:
    if name.startswith("ProbPose"):
        return Decoder("expected_oks", (48, 64), given("oks_kernels.npz", "s").tolist())
    return Decoder("dark_udp", (48, 64), bound=None)


def usable(maps: Tensor, decoder: Decoder, plain: bool) -> Tensor:
    """Keypoints whose numbers the fixtures pin, (B, K) bool.

    Left out: maxima that lead the next cell by less than a thousandth; on random plain maps also peaks <= 0
    and places so flat that the sub-pixel step exceeds three cells.
    """
    field = maps if decoder.method == "dark_udp" else decoder.rows @ maps @ decoder.columns
    best = field.flatten(2).topk(2).values
    good = (best[..., 0] - best[..., 1]) > 1e-3 * best[..., 0].abs()
    if plain:
        index = maps.flatten(2).argmax(-1)
        width = maps.shape[-1]
        cell = torch.stack([index % width, index // width], dim=-1)
        step = (decoder(maps)[0] - cell).abs().amax(-1)
        good &= (best[..., 0] > 0) & (step <= 3)
    return good


# --- layouts


@pytest.mark.parametrize("name", LAYOUTS)
def test_state_dict_has_the_published_names_shapes_types_and_order(name: str) -> None:
    keys = load_json(f"keys/{name}.json")
    net = lay_out(name)
    state = net.state_dict()
    assert [
        [key, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for key, tensor in state.items()
    ] == keys["tensors"]
    assert sorted(key for key, _ in net.named_buffers() if key in state) == sorted(keys["buffers"])
    assert sum(p.numel() for p in net.parameters()) == keys["num_params"]
    assert sum(p.numel() for p in net.backbone.parameters()) == keys["num_params_backbone"]
    assert sum(t.numel() * t.element_size() for t in state.values()) == keys["bytes_float32"]


def test_every_key_list_has_a_layout() -> None:
    assert {path.stem for path in (FIXTURES / "keys").glob("*.json")} == set(LAYOUTS)


# --- numbers


@pytest.mark.parametrize("name", [*PROBABILITY, *PLAIN])
def test_tokens(name: str) -> None:
    seen = result(name)
    stored = [key for key in seen if key.startswith("tok_")]
    assert len(stored) == 4
    for key in stored:
        compare(f"nets/{name}.npz", key, seen[key][:, ::24, ::16], TOKENS)


@pytest.mark.parametrize("name", [*PROBABILITY, *PLAIN])
def test_features(name: str) -> None:
    file, features = f"nets/{name}.npz", result(name)["features"]
    stored = given(file, "feat")
    if stored.dtype == np.float16:
        compare(file, "feat", features, HALF)
    else:
        compare(file, "feat", features[:, ::24], SINGLE)
    compare(file, "feat_mean", features.mean(axis=(2, 3)), SINGLE)
    compare(file, "feat_std", features.std(axis=(2, 3), ddof=1), SINGLE)


@pytest.mark.parametrize("name", [*PROBABILITY, *PLAIN])
def test_map_branch(name: str) -> None:
    file, seen = f"nets/{name}.npz", result(name)
    all_channels = given(file, "logits").shape[1] == seen["logits"].shape[1]
    step = 1 if all_channels else 4
    compare(file, "deconv", seen["deconv"][:, ::32, ::8, ::8], SINGLE)
    compare(file, "logits", seen["logits"][:, ::step], HALF)
    if name in PLAIN:
        np.testing.assert_array_equal(seen["maps"], seen["logits"])
    else:
        compare(file, "maps", seen["maps"][:, ::step], SINGLE)
        np.testing.assert_allclose(seen["maps"].sum(axis=(2, 3)), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", PROBABILITY)
@pytest.mark.parametrize(
    ("output", "key"), [("presence", "prob"), ("visibility", "vis"), ("quality", "oks"), ("error", "err")]
)
def test_side_branches(name: str, output: str, key: str) -> None:
    compare(f"nets/{name}.npz", key, result(name)[output][:, :, None, None], SINGLE)


@pytest.mark.parametrize("name", [*PROBABILITY, *PLAIN])
def test_decoded_keypoints(name: str, record_property: Callable[[str, object], None]) -> None:
    file, seen = f"nets/{name}.npz", result(name)
    good = seen["usable"]
    record_property("skipped", int((~good).sum()))
    input_px = seen["points"].astype(np.float64) / [47, 63] * [192, 256]  # the reference's own px
    compare(file, "kpts_input_px", input_px, 0.02, mask=good[..., None])
    compare(file, "map_score", seen["values"], SINGLE)
    # random plain maps are flat and may be negative; the others leave next to nothing to chance
    assert (~good).sum() <= (26 * len(good) if name in PLAIN else 1)


@pytest.mark.parametrize("activation", ["sigmoid", "sparsemax"])
def test_double_head(activation: Literal["sigmoid", "sparsemax"]) -> None:
    file = "nets/ProbPose-DH-s.npz"
    features = torch.from_numpy(given("nets/ProbPose-s.npz", "feat")[:1].astype(np.float32))
    head = DoubleHead(384, 17, activation).eval()
    head.load_state_dict(
        {
            key.removeprefix("head."): torch.from_numpy(make_tensor(key, shape, dtype))
            for key, shape, dtype in load_json("keys/ProbPose-DH-s.json")["tensors"]
            if key.startswith("head.")
        }
    )
    with torch.inference_mode():
        out = {key: value.numpy() for key, value in head(features, head.available).items()}
    for output, key in [("presence", "prob"), ("visibility", "vis"), ("quality", "oks"), ("error", "err")]:
        compare(file, key, out[output][:, :, None, None], SINGLE)
    for output, key in [("maps", "maps_in"), ("maps_outer", "maps_out")]:
        if activation == "sigmoid":
            compare(file, key, out[output][:, ::2], SINGLE)
        else:  # ours: the same logits, but every map a probability
            np.testing.assert_allclose(out[output].sum(axis=(2, 3)), 1.0, atol=1e-5)
            logits = torch.from_numpy(out[output.replace("maps", "logits")])
            compare(file, key, logits.sigmoid().numpy()[:, ::2], SINGLE)


def test_position_embedding_is_resized() -> None:
    file = "nets/pos_embed.npz"
    square = torch.from_numpy(given(file, "square").copy())
    rect = torch.from_numpy(given(file, "rect").copy())
    compare(file, "square_to_16x12", resize_pos_embed(square, (16, 12)), SINGLE)
    compare(file, "rect_to_20x15", resize_pos_embed(rect, (20, 15), (16, 12)), SINGLE)
