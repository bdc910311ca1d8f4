"""``bodyloop predict``: people, poses and masks in photos, into files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bodyloop.cli._common import (
    STOPPED,
    AsJson,
    CardName,
    LoopFields,
    complain,
    example,
    loop_fields,
    progress,
    put_json,
    say,
)

if TYPE_CHECKING:
    from bodyloop.loop import LoopConfig

NAME = "predict"
EXAMPLE = example(
    "bodyloop predict photo.jpg",
    "bodyloop predict photos/ --out found --save json,vis",
    "bodyloop predict photos/*.jpg --boxes boxes.json --model pmpose-b --device cuda",
    "bodyloop predict photo.jpg --pipeline bmp-v2 --save json,vis,masks,gif,html --device cuda",
)
SAVED = ("json", "vis", "masks", "npz", "maps", "sheet", "gif", "mp4", "html")


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
            help="What to write for each photo, with commas: json (always), vis (a picture), masks (whose each "
            "pixel is, as a PNG), npz (exact arrays), maps (probability maps, in the npz and as a picture); of "
            "the loop step by step: sheet, gif, mp4, html (a page to walk through).",
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
    pipeline: Annotated[
        str | None,
        typer.Option(
            "--pipeline",
            metavar="NAME|none",
            help="The loop: find people, pose and mask them, look again without them. bmp-n, bmp-v2, bmp-d3, "
            "bmp-j1; none: find and pose once. See above for what is done where nothing is said.",
        ),
    ] = None,
    passes: Annotated[
        int | None, typer.Option("--passes", min=1, max=100, metavar="N", help="Passes of the loop at most.")
    ] = None,
    changes: LoopFields = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "--pose", "-m", metavar="NAME|FILE", help="The pose model; see `bodyloop models`."
        ),
    ] = None,
    card: CardName = None,
    detector: Annotated[
        str | None,
        typer.Option("--detector", metavar="NAME|FILE|none", help="What finds people where no file says so."),
    ] = None,
    segmenter: Annotated[
        str | None, typer.Option("--segmenter", metavar="NAME|FILE", help="What draws the loop's masks.")
    ] = None,
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
            help="Where pose model and segmenter run: cpu, cuda, mps (torch models), or an ONNX provider.",
        ),
    ] = "cpu",
    detector_device: Annotated[
        str | None,
        typer.Option(
            "--detector-device",
            metavar="NAME",
            help="Where the detector runs; by default an ONNX file on the CPU, any other as --device says.",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            metavar="N",
            help="CPU threads of each network; all cores by default.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Do photos again that are done already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find people in photos, estimate their poses, draw their masks.

    Writes one json a photo (docs/schema/people-1.json) and results.json, COCO results of the whole run (keypoints, and
    masks as RLE).

    Where nothing is said of models or people, the loop of small models is run (bmp-n) if these are in the package. With
    --model, --detector, --boxes, --masks or --whole-image alone, people are found (or taken as given) and posed once.
    With --pipeline these play in the loop, which begins with the boxes or masks that are given.

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
    plain = given or model is not None or detector is not None
    config = _loop(pipeline, passes, changes or [], segmenter, wanted, plain=plain)
    names = _names(config, model, detector, segmenter, given)
    if config is not None and threshold is not None:
        config = config.changed(detector_threshold=threshold)

    from bodyloop.cli._batch import Run, Work
    from bodyloop.cli._given import GivenFile
    from bodyloop.cli._models import How, Models
    from bodyloop.cli._photos import find_photos

    photos, problems = find_photos(images)
    if not photos:
        raise typer.BadParameter("; ".join(why for _, why in problems))
    files = [None if f is None else GivenFile(f) for f in (boxes, masks)]
    options = {"flip": flip, "batch_size": batch_size, "maps": "maps" in wanted}
    how = How(device, detector_device, threads, threshold, options)
    settings: dict[str, Any] = {"flip": flip, "threshold": threshold, "whole_image": whole_image}
    if config is not None:
        settings["loop"] = asdict(config)
    work = Work(out, wanted, settings, whole_image, files[0], files[1], threshold, overwrite)
    run = Run(Models(names, how, card=card, config=config), work)
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


def _loop(
    pipeline: str | None,
    passes: int | None,
    changes: Sequence[str],
    segmenter: str | None,
    wanted: frozenset[str],
    *,
    plain: bool,
) -> LoopConfig | None:
    """The loop that is asked for, or meant; None: people are found and posed once.

    Args:
        plain: something is said that means so where --pipeline says nothing.
    """
    from bodyloop.api import DEFAULT_PIPELINE, PIPELINES
    from bodyloop.cli._forms import OF_THE_LOOP
    from bodyloop.loop import find_config

    steps = sorted(wanted & OF_THE_LOOP)
    needs = {
        "--passes": passes,
        "--set": changes or None,
        "--segmenter": segmenter,
        f"--save {','.join(steps)}": steps or None,
    }
    needed = [name for name, value in needs.items() if value is not None]
    if "mp4" in wanted:
        from bodyloop.drawing.moving import moving_path

        moving_path("film.mp4")  # says so before an hour's work
    name = pipeline
    if name is None and (needed or (not plain and _is_embedded(PIPELINES[DEFAULT_PIPELINE]))):
        name = DEFAULT_PIPELINE
    if name is None or name.lower() == "none":
        if needed:
            raise typer.BadParameter(f"{needed[0]} is of the loop, which --pipeline none leaves out")
        return None
    if name.lower() not in PIPELINES:
        raise typer.BadParameter(f"--pipeline: unknown {name!r}; known: {', '.join(PIPELINES)}, none")
    config = find_config(name).changed(**loop_fields(changes))
    return config if passes is None else config.changed(passes=passes)


def _is_embedded(names: tuple[str, ...]) -> bool:
    """Whether all of these models are in the package."""
    from bodyloop.models.registry import is_embedded, list_models

    embedded = {card.name for card in list_models() if is_embedded(card)}
    return set(names) <= embedded


def _names(
    config: LoopConfig | None, model: str | None, detector: str | None, segmenter: str | None, given: bool
) -> dict[str, str]:
    """The model of each role."""
    from bodyloop.api import DEFAULT_DETECTOR, DEFAULT_POSE, PIPELINES

    nobody = detector is not None and detector.lower() == "none"
    if config is not None:
        if nobody:
            raise typer.BadParameter(
                "--detector none: the loop needs somebody to look; --pipeline none does not"
            )
        finds, poses, masks = PIPELINES[config.name]
        return {"detector": detector or finds, "pose": model or poses, "segmenter": segmenter or masks}
    names = {"pose": model or DEFAULT_POSE}
    if given:
        return names
    if nobody:
        raise typer.BadParameter(
            "without a detector, say where people are: --boxes, --masks or --whole-image"
        )
    return {**names, "detector": detector or DEFAULT_DETECTOR}


def _saved(text: str) -> frozenset[str]:
    names = [n.strip().lower() for n in text.split(",") if n.strip()]
    unknown = [n for n in names if n not in SAVED]
    if unknown or not names:
        what = f"unknown form {unknown[0]!r}" if unknown else "nothing is named"
        raise typer.BadParameter(f"--save: {what}; known: {', '.join(SAVED)}")
    return frozenset({*names, "json", *(["npz"] if "maps" in names else [])})
