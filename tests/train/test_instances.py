"""The detector's assigner and losses, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bodyloop.nn.rtmdet import decode, make_priors
from bodyloop.nn.rtmdet_ins import KERNEL, PROTOTYPES
from bodyloop.train import instances
from bodyloop.train.instances import Truth, dice, giou, inside_any, pairwise_iou, quality_focal

NOBODY = torch.zeros(0, 4)


def boxes(*rows: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def truth_of(
    rows: list[Tensor],
    labels: list[Tensor] | None = None,
    ignore: list[Tensor] | None = None,
    **masks: Tensor,
) -> Truth:
    """People of some pictures; their cells are preferred around the middles of their boxes."""

    def filled(parts: list[Tensor], value: float) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=value)

    there = filled([torch.ones(max(len(r), 1)) * bool(len(r)) for r in rows], 0.0) > 0
    found = filled([r if len(r) else torch.zeros(1, 4) for r in rows], 0.0)
    classes = torch.zeros(there.shape, dtype=torch.int64) if labels is None else torch.stack(labels)
    none = torch.full((len(rows), 1, 4), torch.nan)
    return Truth(
        found,
        classes,
        (found[..., :2] + found[..., 2:]) / 2,
        there,
        none if ignore is None else torch.stack(ignore),
        masks.get("masked", torch.zeros_like(there)),
        masks.get("masks", torch.zeros(0, 8, 8, dtype=torch.bool)),
    )


def assign(
    points: Tensor, strides: Tensor, predicted: Tensor, logits: Tensor, rows: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Of one picture."""
    truth = truth_of([rows], [labels] if len(labels) else None)
    owner, metric = instances.assign(points, strides, predicted[None], logits[None], truth)
    return owner[0], metric[0]


def detection_losses(
    logits: Tensor, distances: Tensor, rows: list[Tensor], ignore: list[Tensor], size: tuple[int, int]
) -> dict[str, Tensor]:
    truth = truth_of(rows, ignore=ignore if len(ignore[0]) else None)
    return instances.detection_losses([logits, distances], truth, size)


def test_pairwise_iou_by_hand() -> None:
    iou = pairwise_iou(boxes((0, 0, 2, 2), (0, 0, -1, 3)), boxes((1, 0, 3, 2), (0, 0, 2, 2), (5, 5, 6, 6)))
    assert torch.allclose(iou, torch.tensor([[1 / 3, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_giou_by_hand() -> None:
    a = boxes((0, 0, 2, 2), (0, 0, 1, 1), (0, 0, 2, 2))
    b = boxes((0, 0, 2, 2), (2, 0, 3, 1), (1, 0, 3, 2))
    # equal; apart: hull 3, union 2; overlapping: 2 of 6, hull 6
    assert torch.allclose(giou(a, b), torch.tensor([1.0, -1 / 3, 1 / 3]))


def test_dice_by_hand() -> None:
    # half sure everywhere, one of four px inside: 1 - 2 * 0.5 / (4 * 0.25 + 1)
    target = torch.tensor([[[1, 0], [0, 0]], [[0, 0], [0, 0]]], dtype=torch.bool)
    assert torch.allclose(dice(torch.zeros(2, 2, 2), target), torch.tensor([0.5, 1.0]), atol=1e-4)
    sure = torch.where(target, 30.0, -30.0)
    assert torch.allclose(dice(sure, target)[0], torch.tensor(0.0), atol=1e-4)


def test_quality_focal_by_hand() -> None:
    loss = quality_focal(torch.zeros(2), torch.tensor([0.0, 0.75]))
    assert torch.allclose(loss, math.log(2) * torch.tensor([0.25, 0.0625]))


def case(distance: float = 8.0) -> tuple[Tensor, Tensor, Tensor]:
    """Priors of a 32 px picture (16, 4 and 1); every box reaches ``distance`` to all sides."""
    points, strides = make_priors(32, 32)
    return points, strides, decode(points, torch.full((len(points), 4), distance))


class TestAssign:
    def test_nobody(self) -> None:
        points, strides, predicted = case()
        owner, metric = assign(
            points, strides, predicted, torch.zeros(21, 1), NOBODY, torch.zeros(0, dtype=torch.int64)
        )
        assert (owner == -1).all() and (metric == 0).all()

    def test_person_between_the_priors(self) -> None:
        points, strides, predicted = case()
        owner, _ = assign(
            points, strides, predicted, torch.zeros(21, 1), boxes((1, 1, 7, 7)), torch.tensor([0])
        )
        assert (owner == -1).all()

    def test_by_hand(self) -> None:
        # Person (4, 4, 20, 20), centre (12, 12). Strictly inside: stride 8 at 8 and 16 in x and y (four
        # priors), stride 16 at (16, 16). Their boxes are 16 px squares about the prior, shifted by 4 in x and
        # y against the person: intersection 12 x 12, IoU 144 / 368 = 0.391 for all five. Their sum 1.96 gives
        # one positive. The stride-8 priors are sqrt(32) px = 0.707 strides from the centre, the stride-16 one
        # 0.354 strides: it costs least.
        points, strides, predicted = case()
        truth, label = boxes((4, 4, 20, 20)), torch.tensor([0])
        owner, metric = assign(points, strides, predicted, torch.zeros(21, 1), truth, label)
        (positive,) = (owner >= 0).nonzero().flatten().tolist()
        assert positive == 16 + 3
        assert points[positive].tolist() == [16, 16] and strides[positive] == 16
        assert metric[positive] == pytest.approx(144 / 368)
        assert metric.sum() == metric[positive]

    def test_a_fitting_score_wins(self) -> None:
        # as above, but one stride-8 prior already says the right score and the others are sure of 1
        points, strides, predicted = case()
        logits = torch.full((21, 1), 8.0)
        iou = 144 / 368
        logits[5] = math.log(iou / (1 - iou))
        owner, _ = assign(points, strides, predicted, logits, boxes((4, 4, 20, 20)), torch.tensor([0]))
        assert (owner >= 0).nonzero().flatten().tolist() == [5]

    def test_number_of_positives_is_the_sum_of_ious(self) -> None:
        points, strides, _ = case()
        truth = boxes((4, 4, 20, 20))
        predicted = truth.expand(21, 4)  # every prior is right: five candidates, five positives
        owner, metric = assign(points, strides, predicted, torch.zeros(21, 1), truth, torch.tensor([0]))
        assert (owner >= 0).nonzero().flatten().tolist() == [5, 6, 9, 10, 19]
        assert torch.allclose(metric[owner >= 0], torch.ones(5))

    def test_a_contested_prior_goes_to_the_cheaper_person(self) -> None:
        points, strides, _ = case()
        truth = boxes((4, 4, 20, 20), (4, 4, 20, 28))
        predicted = truth[:1].expand(21, 4)
        owner, _ = assign(points, strides, predicted, torch.zeros(21, 1), truth, torch.tensor([0, 0]))
        inside_first = [5, 6, 9, 10, 19]
        assert (owner[inside_first] == 0).all()  # IoU 1 against 2/3

    def test_classes_count(self) -> None:
        # two equal persons of different classes: each is answered by the prior that names its class
        points, strides, _ = case()
        truth = boxes((4, 4, 20, 12), (4, 4, 20, 12))
        predicted = decode(points, torch.full((21, 4), 5.0))
        logits = torch.full((21, 2), -6.0)
        logits[5, 0] = logits[6, 1] = 0.0
        owner, _ = assign(points, strides, predicted, logits, truth, torch.tensor([1, 0]))
        assert owner[5] == 1 and owner[6] == 0


class TestLosses:
    def test_empty_picture_pushes_scores_down(self) -> None:
        logits = torch.zeros(1, 21, 1, requires_grad=True)
        terms = detection_losses(logits, torch.ones(1, 21, 4), [NOBODY], [NOBODY], (32, 32))
        assert terms["box"] == 0
        # 21 priors at score 1/2: ln 2 / 4 each, divided by at least 1
        assert terms["class"].item() == pytest.approx(21 * math.log(2) / 4)
        terms["class"].backward()
        assert logits.grad is not None and (logits.grad > 0).all()

    def test_ignore_boxes_silence_background_only(self) -> None:
        logits = torch.zeros(1, 21, 1, requires_grad=True)
        truth = boxes((4, 4, 20, 20))
        everything = boxes((0, 0, 32, 32))
        terms = detection_losses(logits, torch.full((1, 21, 4), 8.0), [truth], [everything], (32, 32))
        terms["class"].backward()
        assert logits.grad is not None
        assert logits.grad[0, :, 0].nonzero().flatten().tolist() == [19]

    def test_inside_any_counts_the_border(self) -> None:
        points = torch.tensor([[0.0, 0.0], [8.0, 8.0], [9.0, 4.0]])
        assert inside_any(points, boxes((0, 0, 8, 8))).tolist() == [True, True, False]
        assert inside_any(points, NOBODY).tolist() == [False] * 3

    def test_both_terms_are_divided_by_the_sum_of_metrics(self) -> None:
        # all priors say the person's box exactly: five positives of metric 1, GIoU loss 0
        points, _ = make_priors(32, 32)
        truth = boxes((4, 4, 20, 20))
        distances = torch.cat([points - truth[:, :2], truth[:, 2:] - points], dim=1)[None]
        shifted = (distances + torch.tensor([0.0, 0.0, 4.0, 0.0])).requires_grad_()
        terms = detection_losses(torch.zeros(1, 21, 1), shifted, [truth], [NOBODY], (32, 32))
        # boxes 20 x 16 against 16 x 16: IoU 0.8 = GIoU, loss 2 * 0.2 whatever the number of positives
        assert terms["box"].item() == pytest.approx(0.4, rel=1e-5)
        assert terms["_positives"] == 4  # int(5 * 0.8)

    def test_pictures_of_a_batch_do_not_know_each_other(self) -> None:
        torch.manual_seed(0)
        logits, distances = torch.randn(3, 21, 1), torch.rand(3, 21, 4) * 12
        rows = [boxes((4, 4, 20, 20)), NOBODY, boxes((0, 0, 30, 14), (4, 12, 30, 30), (1, 1, 31, 31))]
        truth = truth_of(rows)
        together = instances.prior_losses([logits, distances], truth, (32, 32))
        for i, row in enumerate(rows):
            alone = instances.prior_losses(
                [logits[i : i + 1], distances[i : i + 1]], truth_of([row]), (32, 32)
            )
            assert torch.equal(alone.owner[0], together.owner[i])
            assert torch.allclose(alone.quality[0], together.quality[i], rtol=1e-5)
            assert torch.allclose(alone.box[0], together.box[i], rtol=1e-5)


class TestMasks:
    """Priors say the first person's box, one the second's; the last bias alone makes masks: p is 3/4 everywhere."""

    def case(self, masked: list[bool]) -> tuple[dict[str, Tensor], Tensor]:
        points, _ = make_priors(32, 32)
        rows = boxes((4, 4, 20, 20), (16, 16, 28, 28))
        distances = torch.cat([points - rows[0, :2], rows[0, 2:] - points], dim=1)[None]
        distances[0, 15] = torch.tensor([8.0, 8.0, 4.0, 4.0])  # of (24, 24)
        kernels = torch.zeros(1, 21, KERNEL)
        kernels[..., -1] = math.log(3)
        kernels.requires_grad_()
        prototypes = torch.zeros(1, PROTOTYPES, 4, 4)
        masks = torch.zeros(sum(masked), 8, 8, dtype=torch.bool)
        masks[:, 1:5, 1:5] = True
        truth = truth_of([rows], masked=torch.tensor([masked]), masks=masks)
        terms = instances.detection_losses(
            [torch.zeros(1, 21, 1), distances, kernels, prototypes], truth, (32, 32)
        )
        terms["mask"].backward()
        assert kernels.grad is not None
        return terms, kernels.grad[0].abs().sum(dim=1)

    def test_mean_over_positives_with_a_mask(self) -> None:
        terms, gradient = self.case([True, True])
        # 64 px, 16 of them inside: 2 * (1 - 2 * 16 p / (64 p p + 16))
        assert terms["mask"].item() == pytest.approx(2 * (1 - 24 / 52), rel=1e-4)
        assert (gradient > 0).sum() == terms["_positives"]

    def test_people_without_a_mask_teach_none(self) -> None:
        both, one = self.case([True, True]), self.case([True, False])
        assert one[0]["class"] == both[0]["class"] and one[0]["box"] == both[0]["box"]
        assert 0 < (one[1] > 0).sum() < (both[1] > 0).sum()
        assert one[0]["mask"].item() == pytest.approx(
            2 * (1 - 24 / 52), rel=1e-4
        )  # still a mean over those who have one
        nobody, gradient = self.case([False, False])
        assert nobody["mask"] == 0 and not gradient.any()
