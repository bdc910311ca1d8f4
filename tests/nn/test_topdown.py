"""Whole networks by their contract: names in, only those tensors out; gradients, temperature, freezing."""

from __future__ import annotations

import io
from collections.abc import Collection

import pytest
import torch
from torch import Tensor, nn

from bodyloop.errors import ModelError
from bodyloop.nn.heads import DoubleHead, Head, PlainHead, ProbabilityHead
from bodyloop.nn.maps import flip_average, sparsemax_newton
from bodyloop.nn.topdown import HEADS, HeadKind, TopDown, build_pose, freeze_backbone, freeze_error
from bodyloop.nn.vit import ViT

SIDES = {"presence", "visibility", "quality", "error"}
K = 5


def small(kind: HeadKind = "probability", spread: float = 3.0) -> TopDown:
    """A network of the published structure and hardly any width, with weights that do something."""
    torch.manual_seed(0)
    backbone = ViT(dim=24, depth=2, heads=2, hidden=48, drop_path=0.3)
    net = TopDown(backbone, HEADS[kind](24, K))
    for module in net.head.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=spread / fan_in**0.5)
    return net.eval()


IMAGES = torch.randn(2, 3, 256, 192, generator=torch.Generator().manual_seed(1))


def run(net: TopDown, outputs: Collection[str] | None = None) -> dict[str, Tensor]:
    with torch.inference_mode():
        return net(IMAGES, outputs)


SHAPES = {
    **dict.fromkeys(("maps", "logits", "maps_outer", "logits_outer"), (2, K, 64, 48)),
    **dict.fromkeys(SIDES, (2, K)),
    "features": (2, 24, 16, 12),
}


@pytest.mark.parametrize("kind", ["plain", "probability", "double"])
def test_attributes_and_shapes(kind: HeadKind) -> None:
    net = small(kind)
    assert (net.num_keypoints, net.size, net.map_size) == (K, (192, 256), (48, 64))
    out = run(net, net.available)
    assert set(out) == set(net.available)
    assert {name: tuple(value.shape) for name, value in out.items()} == {n: SHAPES[n] for n in out}
    assert all(value.isfinite().all() for value in out.values())


@pytest.mark.parametrize("kind", ["plain", "probability", "double"])
def test_only_what_is_asked_for_and_the_same_numbers(kind: HeadKind) -> None:
    net = small(kind)
    everything = run(net, net.available)
    assert set(run(net)) == set(net.available) - {"error"}
    assert run(net, []) == {}
    for name in net.available:
        alone = run(net, [name])
        assert list(alone) == [name]
        torch.testing.assert_close(alone[name], everything[name])


def test_branches_that_nobody_asked_for_do_not_run() -> None:
    net, ran = small("double"), list[str]()
    for name in ("deconv_layers", "second_head", "probability_layers", "oks_layers", "error_layers"):
        net.head.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name))
    run(net, ["maps_outer", "quality"])
    assert ran == ["second_head", "oks_layers"]
    ran.clear()
    run(net)
    assert "error_layers" not in ran
    ran.clear()
    run(net, ["features"])
    assert not ran


@pytest.mark.parametrize(
    ("kind", "name"), [("plain", "presence"), ("probability", "maps_outer"), ("double", "mapz")]
)
def test_unknown_output_is_named(kind: HeadKind, name: str) -> None:
    with pytest.raises(ModelError, match=f"no output '{name}'; it has logits, maps.*features"):
        run(small(kind), ["maps", name])


def test_ranges() -> None:
    net = small("double", spread=1.0)
    out = run(net, net.available)
    for name in ("maps", "maps_outer"):
        assert (out[name] >= 0).all()
        torch.testing.assert_close(out[name].sum(dim=(2, 3)), torch.ones(2, K))
    assert all(((out[name] > 0) & (out[name] < 1)).all() for name in SIDES - {"error"})
    assert (out["error"] >= 0).all()


# --- temperature


def test_temperature_changes_maps_and_is_not_saved() -> None:
    net = small()
    assert net.temperature is not None and net.temperature.item() == 0.5
    assert not [key for key in net.state_dict() if "temperature" in key]
    before = run(net, ["maps", "logits"])
    net.temperature.fill_(2.0)
    after = run(net, ["maps", "logits"])
    assert torch.equal(before["logits"], after["logits"])
    assert (after["maps"].amax(dim=(2, 3)) < before["maps"].amax(dim=(2, 3))).all()
    assert ((after["maps"] > 0).sum(dim=(2, 3)) > (before["maps"] > 0).sum(dim=(2, 3))).all()
    assert small("plain").temperature is None


def test_temperature_per_keypoint() -> None:
    net = small()
    base = run(net, ["maps"])["maps"]
    net.head.temperature = torch.tensor([0.5, 0.5, 5.0, 0.5, 0.5])
    other = run(net, ["maps"])["maps"]
    same = [k for k in range(K) if torch.equal(base[:, k], other[:, k])]
    assert same == [0, 1, 3, 4]


def test_temperature_survives_an_empty_layout() -> None:
    net = small()
    with torch.device("meta"):
        empty = TopDown(ViT(24, 2, 2, 48, 0.3), ProbabilityHead(24, K))
    empty.load_state_dict(net.state_dict(), assign=True)
    torch.testing.assert_close(run(empty.eval()), run(net))


def test_an_exporter_may_swap_sparsemax() -> None:
    net = small()
    exact = run(net, ["maps"])["maps"]
    net.head.sparsemax = sparsemax_newton
    torch.testing.assert_close(run(net, ["maps"])["maps"], exact, atol=1e-6, rtol=0)


def test_maps_are_single_precision_in_a_half_network() -> None:
    net = small().to(torch.bfloat16)
    with torch.inference_mode():
        out = net(IMAGES.bfloat16())
    assert out["logits"].dtype == torch.bfloat16 and out["maps"].dtype == torch.float32
    torch.testing.assert_close(out["maps"].sum(dim=(2, 3)), torch.ones(2, K))


def test_maps_stay_probabilities_inside_an_autocast() -> None:
    net = small()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(IMAGES)
    assert out["maps"].dtype == torch.float32
    torch.testing.assert_close(out["maps"].sum(dim=(2, 3)), torch.ones(2, K))
    torch.testing.assert_close(out["presence"].float(), run(net)["presence"], atol=0.05, rtol=0)


def test_double_head_with_sigmoid() -> None:
    torch.manual_seed(0)
    head = DoubleHead(24, K, "sigmoid").eval()
    with torch.inference_mode():
        out = head(torch.randn(2, 24, 16, 12), head.available)
    torch.testing.assert_close(out["maps"], out["logits"].sigmoid())
    torch.testing.assert_close(out["maps_outer"], out["logits_outer"].sigmoid())
    assert not torch.equal(out["logits"], out["logits_outer"])


# --- training


@pytest.mark.parametrize("name", sorted(SIDES))
def test_side_branches_send_no_gradient_to_the_backbone(name: str) -> None:
    net = small().train()
    net(IMAGES, [name])[name].sum().backward()
    assert all(p.grad is None for p in net.backbone.parameters())
    touched = {key.split(".")[0] for key, p in net.head.named_parameters() if p.grad is not None}
    assert len(touched) == 1


@pytest.mark.parametrize("kind", ["plain", "probability", "double"])
def test_maps_send_gradients_to_the_backbone(kind: HeadKind) -> None:
    net = small(kind).train()
    names = [name for name in ("maps", "maps_outer") if name in net.available]
    weight = torch.randn(2, K, 64, 48, generator=torch.Generator().manual_seed(2))
    out = net(IMAGES, names)
    sum((out[name] * weight).sum() for name in names).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.backbone.parameters())
    assert net.backbone.pos_embed.grad.abs().sum() > 0


def test_freezing() -> None:
    net = small()
    freeze_backbone(net)
    freeze_error(net)
    frozen = {key for key, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {
        k for k, _ in net.named_parameters() if k.startswith(("backbone.", "head.error_layers."))
    }
    plain = small("plain")
    freeze_error(plain)
    assert all(p.requires_grad for p in plain.parameters())


def test_statistics_of_a_frozen_branch_still_move_in_training() -> None:
    net = small().train()
    freeze_error(net)
    before = net.head.error_layers[1].running_mean.clone()
    net(IMAGES, ["error"])
    assert not torch.equal(before, net.head.error_layers[1].running_mean)


# --- layout


@pytest.mark.parametrize("head", [PlainHead(24, K), ProbabilityHead(24, K), DoubleHead(24, K)])
def test_starting_values_of_heads(head: Head) -> None:
    for key, value in head.state_dict().items():
        leaf = key.rsplit(".", 1)[-1]
        if value.ndim == 4:
            assert value.std().item() == pytest.approx(0.001, rel=0.25), key
        else:
            expected = 1.0 if leaf in ("weight", "running_var") else 0.0
            assert (value == expected).all(), key


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (("vit-x", 17, "plain"), "no architecture 'vit-x'; there are vit-s, vit-b, vit-l, vit-h"),
        (("vit-s", 17, "triple"), "no head 'triple'; there are plain, probability, double"),
        (("vit-s", 0, "plain"), "num_keypoints = 0"),
    ],
)
def test_build_pose_refuses(args: tuple[str, int, HeadKind], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        build_pose(*args)


@pytest.mark.parametrize("num_keypoints", [17, 21, 23, 41])
def test_build_pose(num_keypoints: int) -> None:
    with torch.device("meta"):
        net = build_pose("vit-s", num_keypoints, "double")
    assert net.num_keypoints == num_keypoints
    assert (
        net.head.final_layer.weight.shape
        == net.head.second_head[2].weight.shape
        == (num_keypoints, 256, 1, 1)
    )


# --- behaviour of the whole


def test_results_do_not_depend_on_the_batch() -> None:
    net = small()
    together = run(net)
    with torch.inference_mode():
        for i in range(2):
            for name, value in net(IMAGES[i : i + 1]).items():
                torch.testing.assert_close(value[0], together[name][i], atol=1e-4, rtol=1e-4)
        assert net(IMAGES[:0])["maps"].shape == (0, K, 64, 48)


def test_the_flip_average_of_the_mirror_image_is_the_mirrored_flip_average() -> None:
    net, flip = small(), torch.tensor([0, 2, 1, 4, 3])
    with torch.inference_mode():
        plain, mirrored = net(IMAGES), net(IMAGES.flip(-1))
    here, there = flip_average(plain, mirrored, flip), flip_average(mirrored, plain, flip)
    torch.testing.assert_close(there["maps"], here["maps"][:, flip].flip(-1))
    torch.testing.assert_close(there["presence"], here["presence"][:, flip])


@pytest.mark.slow
def test_a_network_exports_with_any_batch() -> None:
    pytest.importorskip("onnxscript")
    ort = pytest.importorskip("onnxruntime")
    net = small("double", spread=1.5)
    net.head.sparsemax = sparsemax_newton
    names = [name for name in net.available if name != "error"]

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.net(images, names)[name] for name in names)

    batch = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(
        Graph().eval(), (IMAGES,), dynamo=True, dynamic_shapes=batch, output_names=names, verbose=False
    )
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    session = ort.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    images = torch.cat([IMAGES, IMAGES.flip(-1)[:1]])
    with torch.inference_mode():
        expected = net(images, names)
    for name, got in zip(
        names, session.run(None, {session.get_inputs()[0].name: images.numpy()}), strict=True
    ):
        torch.testing.assert_close(torch.from_numpy(got), expected[name], atol=1e-4, rtol=1e-4, msg=name)


def test_simple_head_by_hand() -> None:
    # one channel: a negative cell is cut to 0, a positive one spread by bilinear upsampling, summed by ones
    from bodyloop.nn.heads import SimpleHead

    head = SimpleHead(1, 1)
    torch.nn.init.constant_(head.final_layer.weight, 1.0)
    features = torch.zeros(1, 1, 3, 3)
    features[0, 0, 1, 1], features[0, 0, 0, 0] = 16.0, -9.0
    maps = head(features, ("maps",))["maps"]
    assert maps.shape == (1, 1, 12, 12)
    # the mass of 16 appears 16 times as large, and each of its cells in nine sums
    assert maps.sum().item() == pytest.approx(16 * 16 * 9)
    assert set(head.state_dict()) == {"final_layer.weight", "final_layer.bias"}
