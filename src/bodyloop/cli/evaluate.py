"""``bodyloop eval``: models judged from annotated photos, results files judged from labels."""

from __future__ import annotations

import typer

from bodyloop.cli._common import example
from bodyloop.cli._eval import register
from bodyloop.cli.eval_files import COMMANDS as FILES
from bodyloop.cli.eval_models import COMMANDS as MODELS
from bodyloop.cli.eval_pipeline import COMMANDS as PIPELINES
from bodyloop.cli.eval_reproduce import COMMANDS as REPRODUCE

NAME = "eval"
EXAMPLE = example(
    "bodyloop eval pose --model pmpose-n --data data/coco --limit 200",
    "bodyloop eval keypoints truth.json people/results.json --report report.html",
)
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Judge models on annotated photos, or results against labels.",
    epilog=EXAMPLE,
)

register(app, [*FILES, *MODELS, *PIPELINES, *REPRODUCE])
