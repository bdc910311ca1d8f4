"""The losses of SAM 2's training against the reference: two rounds, three objects, the last one absent."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from bodyloop.train.mask_losses import Answer, interaction_losses, weighted  # noqa: E402
from tests.parity_loop.stored import arrays, close_numbers  # noqa: E402

FILE = "sam2/training_loss.json"


def test_losses_of_an_interaction() -> None:
    stored = {n: torch.from_numpy(a.copy()) for n, a in arrays("sam2/training_loss.npz").items()}

    def answer(n: int) -> Answer:
        presence: Tensor = stored[f"obj{n}"][:, 0]
        return Answer(stored[f"masks{n}"], stored[f"iou{n}"], presence)

    terms = interaction_losses([answer(1), answer(2)], stored["targets"].float())
    found = {n: float(v) for n, v in terms.items()}
    total = float(sum(weighted(terms).values()))
    close_numbers(
        {
            "loss_mask": found["mask"], "loss_dice": found["dice"], "loss_iou": found["iou"],
            "loss_class": found["presence"], "core_loss": total,
        },
        FILE, tolerance=1e-6,
    )  # fmt: skip
