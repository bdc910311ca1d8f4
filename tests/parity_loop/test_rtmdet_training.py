"""Assignment, losses and their gradients of RTMDet's training, with masks and without, against the reference's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bodyloop.nn.rtmdet import STRIDES
from bodyloop.train.instances import PriorLosses, Truth, detection_losses, prior_losses
from tests.parity_loop.stored import arrays, close, load_json, seen

FILE, NUMBERS = "rtmdet/training.npz", "rtmdet/training.json"
SIZE = (128, 128)
KINDS = ("ins", "box")


def flat(name: str) -> Tensor:
    """Level maps (B, c, h, w) as one (B, P, c)."""
    z = arrays(FILE)
    levels = [torch.from_numpy(z[f"{name}{i}"].copy()) for i in range(len(STRIDES))]
    return torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in levels], dim=1)


def people(kind: str) -> Truth:
    """The two pictures' people; with masks each person's centre is that of the mask, else of the box."""
    z = arrays(FILE)
    boxes, labels, centres, masks = [], [], [], []
    for b in range(2):
        found, m = torch.from_numpy(z[f"gt_boxes{b}"].copy()), z[f"gt_masks{b}"] > 0
        boxes.append(found)
        labels.append(torch.from_numpy(z[f"gt_labels{b}"].copy()).long())
        mass = [[np.nonzero(one)[1].mean(), np.nonzero(one)[0].mean()] for one in m]
        centres.append(
            torch.tensor(mass, dtype=torch.float32) if kind == "ins" else (found[:, :2] + found[:, 2:]) / 2
        )
        masks.append(torch.from_numpy(m[:, 2::4, 2::4].copy()))
    pad = torch.nn.utils.rnn.pad_sequence
    there = pad([torch.ones(len(x), dtype=torch.bool) for x in boxes], batch_first=True)
    return Truth(
        pad(boxes, batch_first=True),
        pad(labels, batch_first=True),
        pad(centres, batch_first=True),
        there,
        torch.full((2, 1, 4), torch.nan),
        there,
        torch.cat(masks),
    )


def network(kind: str) -> list[Tensor]:
    outputs = [flat("cls"), flat("reg")]
    if kind == "ins":
        outputs += [flat("kernel"), torch.from_numpy(arrays(FILE)["mask_feat"].copy())]
    return [x.requires_grad_() for x in outputs]


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest) -> tuple[str, list[Tensor], PriorLosses, dict[str, Tensor]]:
    outputs = network(request.param)
    truth = people(request.param)
    terms = detection_losses(outputs, truth, SIZE)
    torch.stack([v for k, v in terms.items() if not k.startswith("_")]).sum().backward()
    return request.param, outputs, prior_losses(outputs, truth, SIZE), terms


def relative(actual: Any, expected: Any, tolerance: float = 1e-4) -> None:
    close(actual, expected, tolerance * float(np.abs(expected).max()))


def test_losses_of_each_level(case: tuple[str, list[Tensor], PriorLosses, dict[str, Tensor]]) -> None:
    kind, _, each, terms = case
    stored = load_json(NUMBERS)[kind]
    cells = [(SIZE[0] // s) * (SIZE[1] // s) for s in STRIDES]
    total = each.metric.sum()
    for name, values in (("loss_cls", each.quality), ("loss_bbox", each.box)):
        levels = [x.sum() / total for x in values.detach().split(cells, dim=1)]
        assert torch.stack(levels).tolist() == pytest.approx(stored[name], rel=1e-4, abs=1e-7)
        seen(NUMBERS, kind, name)
    assert terms["class"].item() == pytest.approx(sum(stored["loss_cls"]), rel=1e-4)
    assert terms["box"].item() == pytest.approx(sum(stored["loss_bbox"]), rel=1e-4)
    assert ("mask" in terms) == (kind == "ins")
    if kind == "ins":
        assert terms["mask"].item() == pytest.approx(stored["loss_mask"], rel=1e-4)
        seen(NUMBERS, kind, "loss_mask")


@pytest.mark.parametrize("picture", [0, 1])
def test_who_answers_for_whom(
    case: tuple[str, list[Tensor], PriorLosses, dict[str, Tensor]], picture: int
) -> None:
    kind, _, each, _ = case
    place = (kind, f"assigned{picture}")
    stored = load_json(NUMBERS)[kind][place[1]]
    owner = each.owner[picture]
    positive = owner >= 0
    assert len(owner) == stored["n_priors"]
    assert positive.nonzero()[:, 0].tolist() == stored["prior"]
    assert owner[positive].tolist() == stored["gt"]
    assert each.metric[picture][positive].tolist() == pytest.approx(stored["iou"], rel=1e-4)
    assert people(kind).labels[picture][owner[positive]].tolist() == stored["label"]
    seen(NUMBERS, *place)


def test_gradients(case: tuple[str, list[Tensor], PriorLosses, dict[str, Tensor]]) -> None:
    kind, outputs, _, _ = case
    z = arrays(FILE)
    gradients = [x.grad for x in outputs]
    cells = [SIZE[0] // s for s in STRIDES]

    def levels(flat: Tensor | None) -> list[Tensor]:
        assert flat is not None
        parts = flat.split([n * n for n in cells], dim=1)
        return [p.reshape(2, n, n, -1).permute(0, 3, 1, 2) for p, n in zip(parts, cells, strict=True)]

    for name, gradient in zip(("cls", "reg"), gradients, strict=False):
        for i, part in enumerate(levels(gradient)):
            relative(part, z[f"{kind}_d{name}{i}"])
    if kind == "ins":
        norms = [p.norm().item() for p in levels(gradients[2])]
        assert norms == pytest.approx(load_json(NUMBERS)[kind]["dkernel_norm"], rel=1e-4)
        seen(NUMBERS, kind, "dkernel_norm")
        relative(gradients[3], z["ins_dmask_feat"])
