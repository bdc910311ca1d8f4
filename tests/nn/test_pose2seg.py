"""The network from crop and planes to mask: shapes, size, what enters where, and the score's arithmetic."""

from __future__ import annotations

import pytest
import torch

from bodyloop.nn import pose2seg
from bodyloop.nn.pose2seg import Pose2Seg, Pose2SegFunction, Score
from bodyloop.segment.planes import PLANES, grid_of


@pytest.fixture(scope="module")
def network() -> Pose2Seg:
    torch.manual_seed(0)
    return Pose2Seg().eval()


def inputs(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    w, h = grid_of(Pose2Seg.size)
    return torch.randn(batch, 3, 192, 144, generator=g), torch.rand(batch, len(PLANES), h, w, generator=g)


@torch.no_grad()
def test_shapes_and_size(network: Pose2Seg) -> None:
    assert len(PLANES) == pose2seg.PLANES
    assert sum(p.numel() for p in network.parameters()) < 3_000_000
    out = network(*inputs())
    assert out["masks"].shape == (3, 192, 144) and out["scores"].shape == (3,)
    assert ((out["scores"] > 0) & (out["scores"] < 1)).all()


@torch.no_grad()
def test_people_of_a_batch_do_not_see_each_other(network: Pose2Seg) -> None:
    images, planes = inputs()
    together, alone = network(images, planes), network(images[1:2], planes[1:2])
    assert torch.allclose(together["masks"][1:2], alone["masks"], atol=1e-5)
    assert torch.allclose(together["scores"][1:2], alone["scores"], atol=1e-5)


@torch.no_grad()
def test_the_backbone_begins_as_it_was_and_can_be_told_of_the_person() -> None:
    torch.manual_seed(0)
    net = Pose2Seg().eval()
    deep = []
    net.backbone.stages[4].register_forward_hook(lambda m, i, o: deep.append(o))
    images, planes = inputs(1)
    net(images, planes)
    net(images, torch.zeros_like(planes))
    torch.nn.init.normal_(net.inject.weight)
    net(images, planes)
    assert torch.equal(deep[0], deep[1]) and not torch.allclose(deep[0], deep[2])


@torch.no_grad()
def test_score_begins_as_what_the_probabilities_promise() -> None:
    logits = torch.full((2, 4, 4), -20.0)
    logits[0, :2] = torch.logit(
        torch.tensor(0.8)
    )  # half of the picture at 0.8: 0.8 of what is drawn is right
    logits[1, :2] = torch.logit(torch.tensor(0.8))
    logits[1, 2:] = torch.logit(torch.tensor(0.3))  # and a half that may be missing: 0.8 / (1 + 0.3)
    score = torch.sigmoid(Score(5)(logits, torch.rand(2, 3, 2, 2), torch.rand(2, 2, 1, 1)))
    assert score.tolist() == pytest.approx([0.8, 0.8 / 1.3], abs=2e-3)


@torch.no_grad()
def test_function_takes_pixels_and_gives_what_is_asked(network: Pose2Seg) -> None:
    function = Pose2SegFunction(network, mean=(127.0, 126.0, 125.0), std=(128.0, 64.0, 32.0))
    crops, planes = torch.randint(0, 256, (2, 192, 144, 3), dtype=torch.uint8), inputs(2)[1]
    assert {k: v.shape[1:] for k, v in function.blank().items()} == {
        "crops": crops.shape[1:],
        "prompts": planes.shape[1:],
    }
    x = (crops.permute(0, 3, 1, 2) - torch.tensor([127.0, 126, 125])[:, None, None]) / torch.tensor(
        [128.0, 64, 32]
    )[:, None, None]
    out = function(crops, planes, ("scores",))
    assert set(out) == {"scores"} and torch.allclose(out["scores"], network(x, planes)["scores"], atol=1e-5)
