"""RTMDet's networks: sizes and names of the published ones, sharing, priors, and our small one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from bodyloop.errors import ModelError
from bodyloop.nn.efficientnet import EfficientNetLite0
from bodyloop.nn.frugal import make_frugal
from bodyloop.nn.rtmdet import DetectorFunction, RTMDet, decode, make_priors, rtmdet, rtmdet_n


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# published: whole network, backbone, neck, head (None: not stated), entries of the state dict
SIZES = [
    pytest.param("tiny", 4_896_168, 2_348_700, 2_188_944, 358_524, id="tiny"),
    pytest.param("s", None, 4_378_320, 3_883_200, None, id="s"),
    pytest.param("m", 24_709_188, 12_279_432, 11_049_408, 1_380_348, id="m"),
    pytest.param("l", 52_315_804, 26_138_912, 23_746_688, 2_430_204, id="l"),
    pytest.param("x", None, 47_569_560, 43_511_040, None, id="x"),
]


@pytest.mark.parametrize(("size", "whole", "backbone", "neck", "head"), SIZES)
def test_published_sizes(size: str, whole: int | None, backbone: int, neck: int, head: int | None) -> None:
    with torch.device("meta"):
        net = rtmdet(size)
    assert count(net.backbone) == backbone
    assert count(net.neck) == neck
    if whole is not None and head is not None:
        assert count(net) == whole
        assert count(net.bbox_head) == head


def test_unknown_size() -> None:
    with pytest.raises(ModelError, match="xl"):
        rtmdet("xl")


def test_names_of_the_published_checkpoints() -> None:
    with torch.device("meta"):
        names = set(rtmdet("tiny").state_dict())
    assert {
        "backbone.stem.2.conv.weight",
        "backbone.stage1.1.blocks.0.conv2.depthwise_conv.bn.running_var",
        "backbone.stage4.1.conv2.conv.weight",
        "backbone.stage4.2.attention.fc.bias",
        "neck.reduce_layers.1.bn.bias",
        "neck.top_down_blocks.0.main_conv.conv.weight",
        "neck.downsamples.1.conv.weight",
        "neck.out_convs.2.conv.weight",
        "bbox_head.cls_convs.2.1.conv.weight",
        "bbox_head.reg_convs.0.0.bn.num_batches_tracked",
        "bbox_head.rtm_reg.2.bias",
    } <= names


def test_head_shares_convolutions_but_not_norms() -> None:
    head = rtmdet_n().bbox_head
    state = head.state_dict(keep_vars=True)
    for tower in ("cls_convs", "reg_convs"):
        for i in (0, 1):
            assert state[f"{tower}.0.{i}.conv.weight"] is state[f"{tower}.2.{i}.conv.weight"]
            assert state[f"{tower}.0.{i}.bn.weight"] is not state[f"{tower}.2.{i}.bn.weight"]
    assert state["cls_convs.0.0.conv.weight"] is not state["reg_convs.0.0.conv.weight"]


def test_only_stage_four_has_no_identity() -> None:
    backbone = rtmdet("tiny").backbone
    identity = [backbone.get_submodule(f"stage{i}")[-1].blocks[0].identity for i in (1, 2, 3, 4)]  # type: ignore[index, union-attr]
    assert identity == [True, True, True, False]


def test_priors_by_hand() -> None:
    points, strides = make_priors(32, 64)
    assert points.shape == (4 * 8 + 2 * 4 + 1 * 2, 2)
    assert points[:2].tolist() == [[0, 0], [8, 0]]  # x first, the cell's upper left corner
    assert points[8].tolist() == [0, 8]  # second row
    assert points[-2:].tolist() == [[0, 0], [32, 0]]
    assert strides.unique(return_counts=True)[1].tolist() == [32, 8, 2]
    with pytest.raises(ModelError, match="multiples of 32"):
        make_priors(32, 65)


def test_decode_by_hand() -> None:
    boxes = decode(torch.tensor([[8.0, 16.0]]), torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]))
    assert boxes.tolist() == [[[7.0, 14.0, 11.0, 20.0]]]


@pytest.fixture(scope="module")
def small() -> RTMDet:
    torch.manual_seed(0)
    return rtmdet_n().eval()


def test_small_network(small: RTMDet) -> None:
    assert count(small) <= 3_000_000
    with torch.inference_mode():
        logits, distances = small(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, 126, 1)
    assert distances.shape == (2, 126, 4)
    assert (distances > 0).all()


@pytest.mark.parametrize(("size", "positive"), [("tiny", False), ("m", True)])
def test_distances_of_the_published_sizes(size: str, positive: bool) -> None:
    torch.manual_seed(0)
    net = rtmdet(size, num_classes=3).eval()
    for conv in net.bbox_head.rtm_reg:
        nn.init.normal_(conv.weight, std=100.0)  # type: ignore[arg-type]
    with torch.inference_mode():
        logits, distances = net(torch.randn(1, 3, 64, 64))
    assert logits.shape == (1, 84, 3)
    assert bool((distances > 0).all()) == positive


def test_function_takes_bytes_and_flips_channels(small: RTMDet) -> None:
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    mean, std = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)
    rgb = DetectorFunction(small, (64, 64), mean=mean, std=std)
    bgr = DetectorFunction(small, (64, 64), mean=mean[::-1], std=std[::-1], bgr=True)
    with torch.inference_mode():
        a, b = rgb(pixels), bgr(pixels.flip(-1))
        assert list(rgb(pixels, ["scores"])) == ["scores"]
        logits, distances = small(
            ((pixels.float() - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
        )
    assert set(a) == {"boxes", "scores"}
    for name, value in a.items():
        torch.testing.assert_close(value, b[name])
    torch.testing.assert_close(a["scores"], logits.sigmoid())
    torch.testing.assert_close(a["boxes"], decode(make_priors(64, 64)[0], distances))
    assert rgb.blank(3)["images"].shape == (3, 64, 64, 3)


class TestFrugal:
    """The cheap modules compute what the plain ones do."""

    @staticmethod
    def pair() -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(0)
        plain = EfficientNetLite0(last_repeats=1).double().eval()
        for m in plain.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.normal_(m.running_mean, std=0.1)  # type: ignore[arg-type]
                nn.init.uniform_(m.running_var, 0.5, 2.0)  # type: ignore[arg-type]
                nn.init.uniform_(m.weight, 0.5, 1.5)
                nn.init.normal_(m.bias, std=0.1)
        frugal = copy.deepcopy(plain)
        make_frugal(frugal, [frugal])
        return plain, frugal

    @staticmethod
    def loss(net: nn.Module, x: Tensor) -> Tensor:
        maps = net(x)
        return torch.stack([(m * torch.linspace(-1, 1, m.numel()).view_as(m)).sum() for m in maps]).sum()

    def test_same_values_and_gradients(self) -> None:
        plain, frugal = self.pair()
        x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
        assert torch.allclose(self.loss(plain, x), self.loss(frugal, x), rtol=1e-9)
        self.loss(plain, x).backward()
        self.loss(frugal.train(), x).backward()
        theirs = dict(frugal.named_parameters())
        for name, p in plain.named_parameters():
            grad, other = p.grad, theirs[name].grad
            assert grad is not None and other is not None
            scale = float(grad.abs().max()) + 1e-12
            assert float((grad - other).abs().max()) < 1e-5 * scale, name  # depthwise weights pass float32

    def test_names_and_statistics_stay(self) -> None:
        plain, frugal = self.pair()
        assert list(frugal.state_dict()) == list(plain.state_dict())
        before = {k: v.clone() for k, v in frugal.state_dict().items()}
        frugal.train()(torch.randn(2, 3, 64, 64, dtype=torch.float64))
        assert all(torch.equal(before[k], v) for k, v in frugal.state_dict().items())

    def test_a_copy_uses_its_own_norms(self) -> None:
        _, frugal = self.pair()
        other = copy.deepcopy(frugal)
        x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
        before = self.loss(frugal, x)
        for m in other.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.zeros_(m.weight)
        assert torch.equal(self.loss(frugal, x), before)
        assert not torch.allclose(self.loss(other, x), before)
