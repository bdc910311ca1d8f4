"""The backbone's rules that parity does not show: position embeddings, stochastic depth, starting values."""

from __future__ import annotations

import pytest
import torch

from bodyloop.errors import ModelError
from bodyloop.nn.vit import Block, DropPath, ViT, resize_pos_embed, vit_b, vit_h, vit_l, vit_s


def small(drop_path: float = 0.0) -> ViT:
    torch.manual_seed(0)
    return ViT(dim=24, depth=3, heads=2, hidden=48, drop_path=drop_path)


# --- position embedding


def test_pos_embed_that_fits_is_taken_as_it_is() -> None:
    stored = torch.randn(1, 192, 8)
    assert torch.equal(resize_pos_embed(stored, (16, 12)), stored)


def test_class_token_is_dropped() -> None:
    stored = torch.randn(1, 193, 8)
    assert torch.equal(resize_pos_embed(stored, (16, 12)), stored[:, 1:])
    square = torch.randn(1, 197, 8)
    torch.testing.assert_close(resize_pos_embed(square, (16, 12)), resize_pos_embed(square[:, 1:], (16, 12)))


def test_resizing_keeps_constants_type_and_axes() -> None:
    out = resize_pos_embed(torch.full((1, 196, 4), 3.0, dtype=torch.float16), (16, 12))
    assert out.shape == (1, 192, 4) and out.dtype == torch.float16
    assert (out == 3).all()
    # a ramp along y stays a ramp along y: rows first
    ramp = torch.arange(16.0)[:, None].expand(16, 12).reshape(1, 192, 1)
    wide = resize_pos_embed(ramp, (16, 24), (16, 12)).reshape(16, 24)
    torch.testing.assert_close(wide, wide[:, :1].expand_as(wide))
    torch.testing.assert_close(wide[:, 0], torch.arange(16.0))


@pytest.mark.parametrize(
    ("shape", "source", "match"),
    [
        ((1, 190, 8), None, "190 tokens: neither 13 x 13"),
        ((1, 192, 8), (14, 14), "192 tokens: neither 14 x 14"),
        ((192, 8), None, r"expected shape \(1, tokens, width\), got \(192, 8\)"),
        ((2, 192, 8), None, r"got \(2, 192, 8\)"),
    ],
)
def test_pos_embed_that_cannot_be_meant(
    shape: tuple[int, ...], source: tuple[int, int] | None, match: str
) -> None:
    with pytest.raises(ModelError, match=match):
        resize_pos_embed(torch.zeros(shape), (16, 12), source)


def test_other_crop_sizes_run() -> None:
    net = small().eval()
    with torch.inference_mode():
        assert net(torch.zeros(2, 3, 256, 192)).shape == (2, 24, 16, 12)
        assert net(torch.zeros(2, 3, 384, 288)).shape == (2, 24, 24, 18)


# --- stochastic depth


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(1)
    drop = DropPath(0.3).train()
    out = drop(torch.ones(20000, 2, 3))
    values = out[:, 0, 0]
    assert torch.equal(out, values[:, None, None].expand_as(out))
    assert sorted(values.unique().tolist()) == pytest.approx([0.0, 1 / 0.7])
    assert (values == 0).double().mean().item() == pytest.approx(0.3, abs=0.015)
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)


def test_drop_path_is_for_training_only() -> None:
    x = torch.randn(4, 5, 24)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.0).train()(x) is x


def test_both_branches_of_a_block_drop_independently() -> None:
    torch.manual_seed(2)
    block = Block(24, 2, 48, drop_path=0.5).train()
    x = torch.randn(1, 6, 24).expand(400, 6, 24)
    with torch.no_grad():
        attention = 2 * block.attn(block.ln1(x[:1]))
        kinds = []
        for sample in block(x):
            rest = sample - x[0]
            if torch.allclose(rest, torch.zeros_like(rest)):
                kinds.append("neither")
            elif torch.allclose(rest, attention[0], atol=1e-6):
                kinds.append("attention")
            elif torch.allclose(rest, 2 * block.ffn(block.ln2(x[:1]))[0], atol=1e-6):
                kinds.append("mlp")
            else:
                kinds.append("both")
    for kind in ("neither", "attention", "mlp", "both"):
        assert 60 < kinds.count(kind) < 140


@pytest.mark.parametrize(
    ("build", "depth", "heads", "rate"),
    [(vit_s, 12, 12, 0.1), (vit_b, 12, 12, 0.3), (vit_l, 24, 16, 0.5), (vit_h, 32, 16, 0.55)],
)
def test_sizes(build: type[ViT], depth: int, heads: int, rate: float) -> None:
    with torch.device("meta"):
        net = build()
    rates = [block.drop_path.rate for block in net.layers]
    assert len(rates) == depth and {block.attn.heads for block in net.layers} == {heads}
    assert rates == pytest.approx([rate * i / (depth - 1) for i in range(depth)])


# --- starting values


def test_starting_values() -> None:
    net = small()
    assert net.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    fc1 = net.layers[1].ffn.layers[0][0]
    bound = (6 / (24 + 48)) ** 0.5  # Xavier
    assert 0.9 * bound < fc1.weight.abs().max().item() <= bound
    assert 0 < fc1.bias.abs().max().item() < 1e-5
    assert 0.9 * 24**-0.5 < net.layers[1].attn.proj.weight.abs().max().item() <= 24**-0.5


def test_frozen_weights_do_not_stop_stochastic_depth() -> None:
    net = small(drop_path=0.9).train().requires_grad_(False)
    x = torch.randn(1, 3, 256, 192)
    torch.manual_seed(3)
    outs = [net(x) for _ in range(8)]
    assert any(not torch.equal(outs[0], out) for out in outs[1:])
    assert torch.equal(net.eval()(x), net(x))
