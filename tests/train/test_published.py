"""What no stored number pins: the double map's loss and the published schedule, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from bodyloop.train.double import DoubleLoss
from bodyloop.train.published import PublishedLoss, argmax_pck, published_factor

SIGMAS = torch.tensor([0.107, 0.107], dtype=torch.float64)  # kernels of variance 3 (clipped)


def one_hot(x: int, y: int) -> torch.Tensor:
    maps = torch.zeros(1, 2, 64, 48)
    maps[:, :, y, x] = 1.0
    return maps


def test_schedule() -> None:
    assert published_factor(0, 0) == pytest.approx(0.001)
    assert published_factor(499, 3) == pytest.approx(1.0)
    assert published_factor(249, 0) == pytest.approx(0.001 + 0.999 * 249 / 499)
    assert [published_factor(10**5, e) for e in (169, 170, 199, 200)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_double_targets() -> None:
    loss = DoubleLoss(SIGMAS)
    # 20 px left of the crop: beyond the inner window, inside the outer one, which reaches 0.125 * 191 = 23.9 px out
    points = torch.tensor([[[-20.0, 127.5], [-25.0, 127.5]]])
    t = loss.targets(points, torch.tensor([[2, 1]]))
    assert t.in_outer.tolist() == [[True, False]]
    assert t.inner[0, 0].tolist() == pytest.approx([-20 * 47 / 191, 31.5])
    assert t.outer[0, 0].tolist() == pytest.approx([((-20 - 95.5) / 1.25 + 95.5) * 47 / 191, 31.5])
    assert t.visible.tolist() == [[True, False]]


def test_double_loss() -> None:
    loss = DoubleLoss(SIGMAS)
    # the crop's centre lies between cells (23.5, 31.5) of both maps: target exp(-0.5 / 6) at the nearest four
    points = torch.tensor([[[95.5, 127.5], [500.0, 0.0]]])
    t = loss.targets(points, torch.tensor([[2, 2]]))
    half = torch.full((1, 2), 0.5)
    out = {
        "maps": one_hot(23, 31), "maps_outer": one_hot(23, 31), "presence": half, "visibility": half,
        "quality": torch.zeros(1, 2),
    }  # fmt: skip
    terms = loss(out, t)
    # one of two keypoints counts: 0.95 risk + 0.05 of the squared gradients around the peak, 12 in x and in y
    risk = 0.95 * (1 - math.exp(-0.5 / 6)) + 0.05 * 24
    assert terms["map"].item() == pytest.approx(risk / 2, rel=1e-5)
    assert terms["map_outer"].item() == pytest.approx(risk / 2, rel=1e-5)
    # presence: both are annotated, one inside and one outside, both predicted at a half
    assert terms["presence"].item() == pytest.approx(math.log(2))
    # visibility: only the one in the outer window counts, over both
    assert terms["visibility"].item() == pytest.approx(math.log(2) / 2)
    d2 = 2 * (0.5 * 191 / 47) ** 2  # the decoded cell is half a cell off in each axis, x and y nearly alike
    oks = math.exp(-d2 / (2 * 0.214**2 * 0.53 * 3072))
    assert terms["quality"].item() == pytest.approx(oks**2 / 2, rel=1e-3)


def test_double_quality_takes_the_outer_point_outside_and_the_inner_one_inside() -> None:
    loss = DoubleLoss(SIGMAS)
    points = torch.tensor([[[-20.0, 127.5], [95.5, 127.5]]])
    t = loss.targets(points, torch.tensor([[2, 2]]))
    outer = torch.zeros(1, 2, 64, 48)
    x, y = (int(v) for v in t.outer[0, 0].round())
    outer[0, 0, y, x] = 1.0  # near the true place, left of the crop
    outer[0, 1, 31, 23] = 1.0  # inside the crop: the inner map decides there, and it is far off
    quality = loss.quality({"maps": one_hot(2, 60), "maps_outer": outer}, t)
    assert quality[0, 0] > 0.8
    assert quality[0, 1] < 1e-6


def test_monitored_accuracy_divides_x_by_the_height() -> None:
    # 3 cells off in x: 3 / 64 = 0.047 is a hit at 0.05, 3 cells off in y: 3 / 48 = 0.0625 is none
    target = one_hot(20, 30)
    predicted = torch.zeros_like(target)
    predicted[0, 0, 30, 23] = predicted[0, 1, 33, 20] = 1.0
    assert argmax_pck(predicted, target, torch.ones(1, 2)) == 0.5
    assert argmax_pck(predicted, target, torch.tensor([[1.0, 0.0]])) == 1.0


def test_errors_of_a_trained_error_branch_are_distances() -> None:
    loss = PublishedLoss(SIGMAS, unit_peak=True)
    points = torch.tensor([[[95.5, 127.5], [60.0, 60.0]]])
    targets = loss.targets(points, torch.tensor([[2, 0]]))
    side = {n: torch.full((1, 2), 0.5) for n in ("presence", "visibility", "quality")}
    out = {"maps": targets.maps.clone() + 1e-6, **side, "error": torch.zeros(1, 2)}
    # a perfect map has distance 0, so that a trained branch that says 0 is right
    assert loss(out, targets, error_frozen=False)["error"].item() == pytest.approx(0.0, abs=1e-4)
