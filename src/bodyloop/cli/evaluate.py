"""``bodyloop eval``: models judged from annotated photos, results files judged from labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bodyloop.cli._common import AsJson, example
from bodyloop.cli._eval import Protocol_, put, register
from bodyloop.cli.eval_models import COMMANDS as MODELS

NAME = "eval"
EXAMPLE = example(
    "bodyloop eval pose --model pmpose-n --data data/coco --limit 200",
    "bodyloop eval boxes truth.json people/results.json",
)
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Judge models on annotated photos, or results against labels.",
    epilog=EXAMPLE,
)

Truth = Annotated[Path, typer.Argument(metavar="TRUTH", help="A COCO annotation file.")]
Results = Annotated[Path, typer.Argument(metavar="RESULTS", help="A COCO results file.")]


def boxes(truth: Truth, results: Results, protocol: Protocol_ = "standard", as_json: AsJson = False) -> None:
    """Judge the boxes of a results file: COCO's twelve numbers."""
    from bodyloop.eval import evaluate_boxes

    put(evaluate_boxes(truth, results, protocol), as_json)


def keypoints(
    truth: Truth, results: Results, protocol: Protocol_ = "standard", as_json: AsJson = False
) -> None:
    """Judge the keypoints of a results file: COCO's numbers by OKS."""
    from bodyloop.eval import evaluate_keypoints

    put(evaluate_keypoints(truth, results, protocol=protocol), as_json)


register(
    app,
    [
        *MODELS,
        (boxes, ("bodyloop eval boxes data/coco/dev.json people/results.json",)),
        (keypoints, ("bodyloop eval keypoints data/coco/dev.json people/results.json",)),
    ],
)
