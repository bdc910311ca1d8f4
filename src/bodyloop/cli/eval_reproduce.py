"""``bodyloop eval reproduce``: a published number beside ours, one command a row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bodyloop.cli._common import AsJson, Device, complain, progress, put_json, say, table
from bodyloop.cli._eval import Command, Seed, put
from bodyloop.cli.eval_models import Limit
from bodyloop.cli.eval_pipeline import Folder, Part, parted

Place = typer.Option(metavar="DIR", help="Folder of the set, as it comes; see docs/reproduce.md.")
Other = typer.Option(metavar="NAME|FILE", help="Instead of the row's.")


def reproduce(
    row: Annotated[str | None, typer.Argument(metavar="ROW", help="What to run; --list shows all.")] = None,
    coco: Annotated[Path | None, Place] = None,
    ochuman: Annotated[Path | None, Place] = None,
    cropcoco: Annotated[Path | None, Place] = None,
    cihp: Annotated[Path | None, Place] = None,
    show: Annotated[bool, typer.Option("--list", help="Show all rows, or with --json all they say.")] = False,
    page: Annotated[bool, typer.Option("--page", help="Print docs/reproduce.md.")] = False,
    pose: Annotated[str | None, Other] = None,
    detector: Annotated[str | None, Other] = None,
    segmenter: Annotated[str | None, Other] = None,
    parity: Annotated[
        bool, typer.Option("--parity/--no-parity", help="Repeat the quirks of the published code.")
    ] = True,
    limit: Limit = None,
    run: Folder = None,
    part: Part = "1/1",
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Run what a published number was made with, and print it beside ours with a 95 % interval.

    A row says which models, boxes, thresholds and protocol; its data set is named by its folder. Models come from the
    hub unless others are named. A photo that fails is named and not judged; the exit code is then 1.
    """
    from bodyloop.eval import reproduce as rows

    if page:
        typer.echo(rows.page(), nl=False)
        return
    if show:
        _list(as_json)
        return
    if row is None:
        raise typer.BadParameter("name a row; --list shows all", param_hint="ROW")
    from bodyloop.eval.reproduce_run import How
    from bodyloop.eval.reproduce_run import reproduce as run_row

    chosen = rows.find_row(row)
    places = {"coco": coco, "ochuman": ochuman, "cropcoco": cropcoco, "cihp": cihp}
    models = {"pose": pose, "detector": detector, "segmenter": segmenter}
    with progress("photos") as tell:
        how = How(
            device=device, parity=parity, models={k: v for k, v in models.items() if v is not None}, folder=run,
            part=parted(part), limit=limit, seed=seed, progress=tell,
        )  # fmt: skip
        done = run_row(chosen, {k: v for k, v in places.items() if v is not None}, how)
    put(done, as_json)
    for name, why in done.failed.items():
        complain(f"{name}: {why}")
    if done.failed:
        raise typer.Exit(1)


def _list(as_json: bool) -> None:
    from dataclasses import asdict

    from bodyloop.eval.reproduce import METRICS, SETS, published_rows

    rows = published_rows().values()
    if as_json:
        put_json([asdict(r) for r in rows])
        return
    table(
        ("row", "system", "data", "number", "published"),
        [(r.id, r.system, SETS[r.data].title, METRICS[r.metric], f"{r.published:.1f}") for r in rows],
        right=(4,),
    )
    say("Run one: bodyloop eval reproduce ROW --coco DIR (or the option of its data)")


COMMANDS: tuple[Command, ...] = (
    (
        reproduce,
        (
            "bodyloop eval reproduce --list",
            "bodyloop eval reproduce probpose-s-coco --coco coco",
            "bodyloop eval reproduce bmp-v2-ochuman-pose --ochuman ochuman --device cuda --run bmp-v2",
        ),
    ),
)
