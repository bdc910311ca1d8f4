"""``bodyloop data crowds``: photos in which people overlap, for judging what a second look finds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bodyloop.cli._common import AsJson, count_of, example, folded, progress, put_json, say


def crowds(
    data: Annotated[
        Path, typer.Option("--data", metavar="FILE|DIR", help="Labels with masks, or a folder of them.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder, or one to go on with.")
    ],
    images: Annotated[
        Path | None,
        typer.Option(
            "--images", metavar="DIR", help="Folder or tar file of the photos, if not beside the labels."
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Which file of a folder.")] = "dev",
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of everything that is drawn.")] = 0,
    each: Annotated[int, typer.Option("--each", min=1, metavar="N", help="Crowds made of each photo.")] = 1,
    overlap: Annotated[
        tuple[float, float],
        typer.Option("--overlap", metavar="LEAST MOST", help="IoU of the boxes of two people set together."),
    ] = (0.3, 0.7),
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, metavar="N", help="Processes; all cores by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make synthetic crowds: people cut out of some photos and set beside people of others.

    The boxes of the two overlap by an IoU of 0.3 to 0.7, measured around what can be seen; at least 30 % of everybody
    stays visible. Masks, boxes and keypoints are exact; keypoints that are covered are marked as hidden. All people on
    the photos need masks. The same seed gives the same bytes, with any number of workers. Judge a pipeline on them
    with `bodyloop eval crowds`.
    """
    from bodyloop.data.crowds_folder import build_crowds

    with progress("photos") as tell:
        done = build_crowds(
            data, out, photos=images, split=split, seed=seed, each=each, overlap=overlap, workers=workers,
            progress=tell,
        )  # fmt: skip
    if as_json:
        put_json(
            {
                "labels": str(done.labels), "images": done.images, "people": done.people, "pasted": done.pasted,
                "overlaps": list(done.overlaps),
            }
        )  # fmt: skip
        return
    people = count_of(done.people, "person", "people")
    say(f"{done.labels}: {people} on {count_of(done.images, 'photo')}, {done.pasted} of them pasted")


def register(app: typer.Typer) -> None:
    """Add the command to ``bodyloop data``."""
    lines = (
        "bodyloop data crowds --data data/coco --out crowds --seed 0",
        "bodyloop eval crowds bmp-n --data crowds",
    )
    app.command("crowds", help=folded(crowds.__doc__), epilog=example(*lines))(crowds)
