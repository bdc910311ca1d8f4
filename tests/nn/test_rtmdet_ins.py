"""RTMDet-Ins' networks: sharing, our small one from its elder sister, and the dynamic masks by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bodyloop.errors import ModelError
from bodyloop.nn.rtmdet import make_priors, rtmdet_n
from bodyloop.nn.rtmdet_ins import KERNEL, dynamic_masks, rtmdet_ins, rtmdet_ins_n


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_box_branch_is_the_class_branch_and_kernels_are_not_shared() -> None:
    with torch.device("meta"):
        net = rtmdet_ins("tiny", 1)
    state = net.state_dict(keep_vars=True)
    for leaf in ("conv.weight", "bn.bias", "bn.running_var"):
        assert (
            state[f"bbox_head.reg_convs.1.0.{leaf}"].data_ptr()
            == state[f"bbox_head.cls_convs.1.0.{leaf}"].data_ptr()
        )
        assert state[f"bbox_head.reg_convs.1.0.{leaf}"] is state[f"bbox_head.cls_convs.1.0.{leaf}"]
    assert state["bbox_head.cls_convs.2.0.conv.weight"] is state["bbox_head.cls_convs.0.0.conv.weight"]
    assert (
        state["bbox_head.kernel_convs.2.0.conv.weight"] is not state["bbox_head.kernel_convs.0.0.conv.weight"]
    )


def test_unknown_size() -> None:
    with pytest.raises(ModelError, match="huge"):
        rtmdet_ins("huge")


def test_the_small_one_starts_from_its_elder_sister() -> None:
    torch.manual_seed(0)
    elder, net = rtmdet_n().eval(), rtmdet_ins_n().eval()
    assert count(net) <= 3_000_000
    left = net.load_state_dict(elder.state_dict(), strict=False)
    assert not left.unexpected_keys
    assert {n.split(".")[1] for n in left.missing_keys} == {"kernel_convs", "rtm_kernel", "mask_head"}
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        logits, distances, kernels, prototypes = net(x)
        for mine, hers in zip((logits, distances), elder(x), strict=True):
            assert torch.allclose(mine, hers, atol=1e-5)
    assert kernels.shape == (2, 126, KERNEL)
    assert prototypes.shape == (2, 8, 8, 12)


def test_half_precision_ends_at_the_outputs() -> None:
    net = rtmdet_ins_n().eval().bfloat16()
    with torch.inference_mode():
        out = net(torch.zeros(1, 3, 32, 32, dtype=torch.bfloat16))
    assert {x.dtype for x in out} == {torch.float32}


def kernel_of(*, w1: Tensor, w2: Tensor, w3: Tensor, b1: Tensor, b2: Tensor, b3: float) -> Tensor:
    return torch.cat([w1.flatten(), w2.flatten(), w3.flatten(), b1, b2, torch.tensor([b3])])


def test_a_mask_by_hand() -> None:
    """max(0, px - x) / (8 s) of hidden channel 0, doubled, plus prototype 3 through channel 1, minus 1."""
    w1, w2, w3 = torch.zeros(8, 10), torch.zeros(8, 8), torch.zeros(1, 8)
    w1[0, 0] = 1.0  # relative x
    w1[1, 2 + 3] = 1.0
    w2[0, 0] = w2[1, 1] = 1.0
    w3[0, 0], w3[0, 1] = 2.0, 1.0
    kernel = kernel_of(w1=w1, w2=w2, w3=w3, b1=torch.zeros(8), b2=torch.zeros(8), b3=-1.0)
    prototypes = torch.zeros(8, 2, 4)
    prototypes[3, 1, 2] = 5.0
    prototypes[3, 0, 0] = -5.0  # ReLU takes it
    masks = dynamic_masks(kernel[None], prototypes, torch.tensor([[16.0, 0.0]]), torch.tensor([16.0]))
    row = [2 * 16 / 128 - 1, 2 * 8 / 128 - 1, -1.0, -1.0]
    assert masks.tolist() == [[row, [row[0], row[1], 4.0, -1.0]]]


def test_masks_agree_with_convolutions_over_ten_channels() -> None:
    torch.manual_seed(1)
    points, strides = make_priors(64, 96)
    chosen = [3, 90, 124]
    kernels, prototypes = torch.randn(3, KERNEL), torch.randn(3, 8, 8, 12)
    got = dynamic_masks(kernels, prototypes, points[chosen], strides[chosen])
    y, x = torch.meshgrid(8.0 * torch.arange(8), 8.0 * torch.arange(12), indexing="ij")
    for k, p, at, s, mask in zip(kernels, prototypes, points[chosen], strides[chosen], got, strict=True):
        inputs = torch.cat([torch.stack([at[0] - x, at[1] - y]) / (8 * s), p])[None]
        h = nn.functional.conv2d(inputs, k[:80].reshape(8, 10, 1, 1), k[152:160]).relu()
        h = nn.functional.conv2d(h, k[80:144].reshape(8, 8, 1, 1), k[160:168]).relu()
        whole = nn.functional.conv2d(h, k[144:152].reshape(1, 8, 1, 1), k[168:])
        assert torch.allclose(mask, whole[0, 0], atol=1e-4)
    shared = dynamic_masks(kernels, prototypes[0], points[chosen], strides[chosen])
    assert torch.allclose(shared[0], got[0], atol=1e-5)


def test_nobody_has_no_masks_and_wrong_shapes_are_named() -> None:
    none = dynamic_masks(torch.zeros(0, KERNEL), torch.zeros(8, 4, 4), torch.zeros(0, 2), torch.zeros(0))
    assert none.shape == (0, 4, 4)
    with pytest.raises(ModelError, match=r"\(2, 168\)"):
        dynamic_masks(torch.zeros(2, 168), torch.zeros(8, 4, 4), torch.zeros(2, 2), torch.zeros(2))
