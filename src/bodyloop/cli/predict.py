"""``bodyloop predict``: people and poses in photos, into files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bodyloop.cli._common import (
    STOPPED,
    AsJson,
    CardName,
    complain,
    example,
    progress,
    put_json,
    say,
)

NAME = "predict"
EXAMPLE = example(
    "bodyloop predict photo.jpg",
    "bodyloop predict photos/ --out found --save json,vis",
    "bodyloop predict photos/*.jpg --boxes boxes.json --model pmpose-b --device cuda",
)
SAVED = ("json", "vis", "npz", "maps")


def command(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES", help='Photos, folders (with all below them) or patterns such as "a/*.jpg".'
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the results.")] = Path(
        "people"
    ),
    save: Annotated[
        str,
        typer.Option(
            "--save",
            metavar="LIST",
            help="What to write for each photo, with commas: json (always), vis (a picture), npz (exact "
            "arrays), maps (probability maps, in the npz and as a picture).",
        ),
    ] = "json,vis",
    boxes: Annotated[
        Path | None,
        typer.Option(
            "--boxes",
            metavar="FILE",
            help="Where the people are: results of bodyloop (a file or folder), COCO annotations or results, "
            r'or {"photo.jpg": \[\[x1, y1, x2, y2], ...]}.',
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="FILE",
            help="Masks of the people, in the same forms (COCO RLE or polygons); their boxes, too, unless "
            "--boxes says otherwise.",
        ),
    ] = None,
    whole_image: Annotated[
        bool, typer.Option("--whole-image", help="Every photo shows one person and nothing else.")
    ] = False,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME|FILE", help="The pose model; see `bodyloop models`.")
    ] = "pmpose-n",
    card: CardName = None,
    detector: Annotated[
        str,
        typer.Option("--detector", metavar="NAME|FILE|none", help="What finds people where no file says so."),
    ] = "rtmdet-n",
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Least score of a box, of the detector (its card's by default) or of the boxes file.",
        ),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip/--no-flip", help="Average with the mirrored photo: better, half as fast.")
    ] = True,
    batch_size: Annotated[
        int,
        typer.Option("--batch-size", min=1, metavar="N", help="People that go through the network at once."),
    ] = 16,
    device: Annotated[
        str,
        typer.Option(
            "--device",
            metavar="NAME",
            help="Where the pose model runs: cpu, cuda, mps (torch models), or an ONNX provider.",
        ),
    ] = "cpu",
    detector_device: Annotated[
        str,
        typer.Option(
            "--detector-device",
            metavar="NAME",
            help="Where the detector (an ONNX file) runs: cpu, cuda, or an ONNX provider.",
        ),
    ] = "cpu",
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            metavar="N",
            help="CPU threads of each network, pose model and detector; all cores by default.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do photos again that are done already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find people in photos and estimate their poses.

    Writes one json a photo (docs/schema/people-1.json) and results.json, COCO results of the whole run.

    Photos that are done already with the same models and settings are skipped, so a run that was stopped goes
    on when it is started again. A photo that cannot be used is reported and the others go on; the exit code is
    then 1. Photos of a folder or pattern that the file of boxes or masks does not name are left out.

    Photos are turned as their EXIF says, and boxes and masks speak of the turned photo. COCO annotations that
    tell the photo's size speak of the photo as it is stored, if it is stored in that size; it is then not
    turned. COCO results tell no size and are taken to speak of the turned photo.
    """
    wanted = _saved(save)
    if whole_image and (boxes is not None or masks is not None):
        raise typer.BadParameter("--whole-image leaves no question for --boxes or --masks; give one of them")
    given = whole_image or boxes is not None or masks is not None
    finder = None if detector.lower() == "none" else detector
    if not given and finder is None:
        raise typer.BadParameter(
            "without a detector, say where people are: --boxes, --masks or --whole-image"
        )

    from bodyloop.cli._batch import Models, Run, Work
    from bodyloop.cli._given import GivenFile
    from bodyloop.cli._photos import find_photos

    photos, problems = find_photos(images)
    if not photos:
        raise typer.BadParameter("; ".join(why for _, why in problems))
    files = [None if f is None else GivenFile(f) for f in (boxes, masks)]
    options = {"flip": flip, "batch_size": batch_size, "maps": "maps" in wanted}
    models = Models(
        model, None if given else finder,
        card=card, device=device, detector_device=detector_device, threads=threads,
        threshold=threshold, options=options,
    )  # fmt: skip
    settings = {"flip": flip, "threshold": threshold, "whole_image": whole_image}
    work = Work(out, wanted, settings, whole_image, files[0], files[1], threshold, overwrite)
    run = Run(models, work)
    for argument, why in problems:
        run.summary.fail(argument, why)
        run.summary.photos += 1
    with progress("predict") as tell:
        summary = run.go(photos, tell)
    if as_json:
        put_json(summary.to_json(out))
    else:
        say(summary.line(out))
    if summary.stopped:
        complain("stopped; what is done is kept. Run the same command again to go on")
        raise typer.Exit(STOPPED)
    if summary.failed:
        raise typer.Exit(1)


def _saved(text: str) -> frozenset[str]:
    names = [n.strip().lower() for n in text.split(",") if n.strip()]
    unknown = [n for n in names if n not in SAVED]
    if unknown or not names:
        what = f"unknown form {unknown[0]!r}" if unknown else "nothing is named"
        raise typer.BadParameter(f"--save: {what}; known: {', '.join(SAVED)}")
    return frozenset({*names, "json", *(["npz"] if "maps" in names else [])})
