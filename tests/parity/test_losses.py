"""Losses, targets and quality of the published trainings against their stored values and gradients."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from bodyloop.maps import oks_variances
from bodyloop.nn.heads import ProbabilityHead
from bodyloop.skeletons import COCO, MERGED_23
from bodyloop.train import losses
from bodyloop.train.published import PublishedLoss
from bodyloop.train.targets import oks_targets, udp_targets
from tests.parity.manifest import compare, given, load_json
from tests.parity.weights import make_state

L = "losses.npz"
SKELETONS = {"ProbPose-s": COCO, "PMPose-s": MERGED_23}


def tensor(file: str, key: str) -> Tensor:
    return torch.from_numpy(np.array(given(file, key)))


def check(key: str, value: Tensor, leaf: Tensor) -> None:
    compare(L, key, value.detach().numpy(), 1e-6, 1e-5)
    value.sum().backward()
    assert leaf.grad is not None
    compare(L, f"{key}_grad", leaf.grad.numpy(), 1e-6, 1e-5)


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("okshm_mean", {"reduction": "mean"}),
        ("okshm_per_pixel", {"reduction": "per_pixel"}),
        ("okshm_per_keypoint", {"reduction": "per_keypoint"}),
        ("okshm_plus_mean", {"reduction": "mean", "kind": "plus"}),
        ("okshm_gauss_mean", {"reduction": "mean", "kind": "both", "smoothing": 0.2, "gaussian": 0.1}),
    ],
)
def test_map_loss(key: str, options: dict[str, object]) -> None:
    p = tensor(L, "out").requires_grad_()
    check(key, losses.oks_risk(p, tensor(L, "tgt"), tensor(L, "wgt"), **options), p)  # type: ignore[arg-type]


def test_plain_heatmap_loss() -> None:
    p = tensor(L, "out").requires_grad_()
    check("mse_map", losses.heatmap_mse(p, tensor(L, "tgt"), tensor(L, "wgt")), p)


def test_calibration_loss_that_no_recipe_uses() -> None:
    p = tensor(L, "out").requires_grad_()
    check("calib", losses.log_likelihood(p, tensor(L, "tgt")), p)


def test_presence_cross_entropy_with_exact_zeros_and_ones() -> None:
    p = tensor(L, "p").requires_grad_()
    check("bce", losses.presence_loss(p, tensor(L, "t"), tensor(L, "w")), p)


def test_weighted_squares() -> None:
    p, w = tensor(L, "p").requires_grad_(), (tensor(L, "w") > 1).float()
    check("mse", losses.quality_loss(p, 0.7 * tensor(L, "t"), w), p)


def test_logarithm_of_the_error() -> None:
    e, w = tensor(L, "e").requires_grad_(), (tensor(L, "w") > 1).float()
    check("l1log", losses.log_error_loss(e, tensor(L, "et"), w), e)


# ---- targets -----------------------------------------------------------------------------------------------

T = "oks_targets.npz"


def test_probpose_targets() -> None:
    points, visible = tensor(T, "points")[None], tensor(T, "visible") > 0
    maps, weights = oks_targets(
        points, visible, torch.from_numpy(oks_variances(COCO.sigma_array)), unit_peak=False
    )
    compare(T, "maps_probpose", maps[0].numpy(), 1e-6)
    compare(T, "weights_probpose", weights.numpy(), 1e-6)
    fixed = torch.full((17,), 0.55, dtype=torch.float64)
    maps, weights = oks_targets(points, visible, fixed, unit_peak=False)
    compare(T, "maps_fixed055", maps[0, :4].numpy(), 1e-6)
    compare(T, "weights_fixed055", weights.numpy(), 1e-6)


def test_pmpose_targets() -> None:
    loss = PublishedLoss(torch.tensor(COCO.sigmas), unit_peak=True)
    flags = (tensor(T, "visible") > 0).long()
    out = loss.targets(tensor(T, "points_input_px")[None], flags)
    compare(T, "maps_pmpose", out.maps[0].numpy(), 1e-6)
    compare(T, "weights_pmpose", out.weights.numpy(), 1e-6)
    compare(T, "in_image", out.inside.numpy(), 0)


def test_udp_targets() -> None:
    grid = torch.tensor([191 / 47, 255 / 63]).double()
    points = tensor(T, "points_input_px")[None].double() / grid
    maps, weights = udp_targets(points, tensor(T, "visible") > 0)
    compare(T, "maps_udp", maps[0].numpy(), 1e-6)
    compare(T, "weights_udp", weights.numpy(), 1e-6)
    inside = ((points >= 0) & (points < torch.tensor([48, 64]))).all(dim=-1)
    compare(T, "in_image_udp", inside.numpy(), 0)


def test_targets_next_to_nothing_are_not_blown_up_to_a_peak_of_one() -> None:
    # 3.8 px left of the map: peak exp(-3.8^2 / 1.1) = 2e-6, below the threshold of 0.001, stays as it is
    variance = torch.tensor([0.55], dtype=torch.float64)
    far = torch.tensor([[[-3.8, 10.0]]], dtype=torch.float64)
    near = torch.tensor([[[-1.0, 10.0]]], dtype=torch.float64)
    known = torch.tensor([[True]])
    maps, weights = oks_targets(far, known, variance, unit_peak=True)
    assert maps.max().item() == pytest.approx(np.exp(-(3.8**2) / 1.1))
    assert weights.item() == 1
    maps, _ = oks_targets(near, known, variance, unit_peak=True)
    assert maps.max().item() == 1


# ---- quality -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", SKELETONS)
def test_quality_of_decoded_bumps(model: str) -> None:
    file, skeleton = f"oks_quality_{model}.npz", SKELETONS[model]
    loss = PublishedLoss(torch.tensor(skeleton.sigmas), unit_peak=True)
    target, predicted = _bumps(given(file, "gt_points_map"), given(file, "dt_points_map"), loss.variances)
    weight = torch.from_numpy(np.array(given(file, "weight")))[:, 0] > 0
    seen, true = loss._input_px(predicted), loss._input_px(target)
    compare(file, "gt_decoded", true.numpy(), 0.01)
    compare(file, "dt_decoded", seen.numpy(), 0.01)
    oks = losses.true_quality(seen, true, weight, loss.sigmas)
    compare(file, "oks", oks.numpy(), 1e-4)
    compare(file, "error", (seen - true).norm(dim=-1).numpy(), 0.01)


def _bumps(gt: np.ndarray, dt: np.ndarray, variances: Tensor) -> tuple[Tensor, Tensor]:
    y, x = np.mgrid[0:64, 0:48]

    def d2(points: np.ndarray) -> np.ndarray:
        return (x - points[..., 0, None, None]) ** 2 + (y - points[..., 1, None, None]) ** 2

    target = np.exp(-d2(gt) / (2 * variances.numpy()[:, None, None]))
    bump = np.clip(np.exp(-d2(dt) / (2 * 1.5**2)) - 0.2, 0, None) + 1e-9
    bump /= bump.sum(axis=(2, 3), keepdims=True)
    return torch.from_numpy(target.astype(np.float32)), torch.from_numpy(bump.astype(np.float32))


# ---- the whole head ----------------------------------------------------------------------------------------


def head_of(model: str) -> ProbabilityHead:
    keys = load_json(f"keys/{model}.json")
    state = {
        k.removeprefix("head."): torch.from_numpy(v)
        for k, v in make_state(keys).items()
        if k.startswith("head.")
    }
    head = ProbabilityHead(384, len(SKELETONS[model]))
    head.load_state_dict(state)
    head.error_layers.requires_grad_(False)
    return head


def head_features() -> Tensor:
    """Standard normal numbers from the generator that the fixtures' naming rule gives."""
    seed = int.from_bytes(hashlib.sha256(b"headloss.feat").digest()[:8], "little")
    numbers = np.random.Generator(np.random.PCG64(seed)).standard_normal((4, 384, 16, 12))
    return torch.from_numpy(numbers.astype(np.float32))


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("model", SKELETONS)
def test_head_loss_and_gradients(model: str, mode: str) -> None:
    file = f"head_loss_{model}.npz"
    head = head_of(model).train(mode == "train")
    features = head_features().requires_grad_()
    loss = PublishedLoss(torch.tensor(SKELETONS[model].sigmas), unit_peak=model.startswith("PM"))
    targets = loss.targets(tensor(file, "kpts"), tensor(file, "v"))
    out = head(features, ("maps", "presence", "visibility", "quality", "error"))
    terms = loss(out, targets)
    names = {
        "map": "kpt",
        "presence": "probability",
        "visibility": "visibility",
        "quality": "oks",
        "error": "error",
    }
    for ours, theirs in names.items():
        compare(file, f"{mode}_loss_{theirs}", terms[ours].detach().numpy(), 0, 1e-3)
    torch.stack(list(terms.values())).sum().backward()
    assert features.grad is not None
    gradient = features.grad[:, ::16, ::2, ::2].numpy()
    compare(file, f"{mode}_dfeat", gradient, 5e-3 * float(np.abs(given_array(file, f"{mode}_dfeat")).max()))
    norms = {n: 0.0 if p.grad is None else float(p.grad.norm()) for n, p in head.named_parameters()}
    ours_by_name = [norms[str(n).removeprefix("head.")] for n in given(file, f"{mode}_gradnorm_names")]
    compare(file, f"{mode}_gradnorm", ours_by_name, 1e-9, 5e-3)
    shown = loss.monitored(out, targets)
    for name, value in shown.items():
        compare(file, f"{mode}_{name}", value, 1e-9, 1e-3)
    if mode == "eval":
        compare(file, "maps", targets.maps.numpy(), 1e-6)
        compare(file, "kpt_weights", targets.weights.numpy(), 0)
        compare(file, "in_image", targets.inside.numpy(), 0)
        oks, _ = loss.quality(out["maps"], targets)
        compare(file, "gt_oks", oks.numpy(), 1e-6)
        some = (targets.annotated & targets.inside).any(dim=1)
        compare(file, "oks_sample_weight", some.float().numpy(), 0)
        for key, name in (("prob", "presence"), ("vis", "visibility"), ("oks", "quality"), ("err", "error")):
            compare(file, f"dt_{key}", out[name].detach().numpy(), 1e-5)
    else:
        norm = head.deconv_layers[1]
        compare(file, "train_bn_mean_after", norm.running_mean[:16].numpy(), 1e-5)
        compare(file, "train_bn_var_after", norm.running_var[:16].numpy(), 1e-5)


def given_array(file: str, key: str) -> np.ndarray:
    """The stored array itself, for a tolerance relative to its largest value."""
    return given(file, key)


# ---- cases worked by hand ------------------------------------------------------------------------------------


def test_a_batch_without_annotation_costs_nothing() -> None:
    none = torch.zeros(2, 3, dtype=torch.bool)
    p = torch.full((2, 3), 0.3, requires_grad=True)
    for value in (
        losses.visibility_loss(p, none, none),
        losses.presence_loss(p, none, none),
        losses.quality_loss(p, p.detach(), none.float()),
    ):
        value.backward()
        assert value.item() == 0
    assert p.grad is not None and not p.grad.any()


def test_balanced_visibility_by_hand() -> None:
    # three seen and one hidden: after normalisation the seen weigh 1, the hidden 3
    annotated = torch.tensor([[True, True, True, True, False]])
    visible = torch.tensor([[True, True, True, False, False]])
    # in or out of the window: annotated keypoints weigh the same, as published
    w = losses.visibility_weights(annotated, visible)
    assert w.tolist() == [[pytest.approx(v) for v in (1, 1, 1, 3, 0)]]
    # two processes, the other one has one more that is hidden: the counts' means are 1 hidden and 1.5 seen
    w = losses.visibility_weights(annotated, visible, lambda counts: torch.tensor([1.0, 1.5]))
    assert w.tolist() == [[pytest.approx(v) for v in (1, 1, 1, 1.5, 0)]]


def test_sparsemax_loss_is_zero_at_the_target_and_pulls_towards_it() -> None:
    from bodyloop.nn.maps import sparsemax

    t = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    z = torch.tensor([[1.0, 1.0, 0.0, -3.0]], requires_grad=True)
    assert losses.sparsemax_loss(z, sparsemax(z), t).item() == pytest.approx(0.0)
    z = torch.tensor([[0.2, -0.1, 0.4, 0.0]], dtype=torch.float64, requires_grad=True)
    value = losses.sparsemax_loss(z, sparsemax(z), t.double())
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert torch.allclose(gradient, sparsemax(z).detach() - t)
    # the definition: max over p of <z, p> - |p|^2 / 2, minus the same at the target
    p = sparsemax(z)
    by_definition = (z * p).sum() - 0.5 * (p * p).sum() - ((z * t).sum() - 0.5 * (t * t).sum())
    assert value.item() == pytest.approx(by_definition.item())
    step = 1e-4
    for i in range(4):
        moved = z.detach().clone()
        moved[0, i] += step
        up = losses.sparsemax_loss(moved, sparsemax(moved), t.double())
        assert (up - value).item() / step == pytest.approx(gradient[0, i].item(), abs=1e-3)


def test_presence_gradient_is_finite_where_the_probability_is_wrong_and_certain() -> None:
    p = torch.tensor([[1.0]], requires_grad=True)
    losses.presence_loss(p, torch.zeros(1, 1), torch.ones(1, 1)).backward()
    assert p.grad is not None and torch.isfinite(p.grad).all()
    assert F.binary_cross_entropy(torch.tensor(1.0), torch.tensor(0.0)).item() == 100
