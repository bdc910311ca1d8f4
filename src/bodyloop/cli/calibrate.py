"""``bodyloop calibrate``: a model file whose numbers mean what they say, and a report of what that changed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bodyloop.cli._common import AsJson, CardName, Device, Threads, example, progress, put_json, say

if TYPE_CHECKING:
    from bodyloop.eval.photos import PhotoSet

NAME = "calibrate"
EXAMPLE = example(
    "bodyloop calibrate pmpose-n --data data/coco --out mine.onnx",
    "bodyloop calibrate mine.safetensors --fit a.json --report b.json --out calibrated.safetensors --alpha 0.05",
)


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A name, or an .onnx or .safetensors file.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="The new file, of the same kind; MODEL stays as it is."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", help="A COCO keypoint file, or a folder with <split>.json, to be split by photo."
        ),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Which file of a folder.")] = "dev",
    fraction: Annotated[
        float,
        typer.Option(
            "--fraction", help="Share of the photos of --data to fit on; the report is on the others."
        ),
    ] = 0.5,
    fit: Annotated[
        Path | None, typer.Option("--fit", metavar="FILE", help="Instead of --data: the file to fit on.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="FILE", help="With --fit: the file to report on, with other photos."
        ),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of the photos; `images` beside a file by default.")
    ] = None,
    card: CardName = None,
    rate: Annotated[
        float,
        typer.Option(
            "--false-positive-rate",
            help="Of a photo's keypoints outside their window, the share called present.",
        ),
    ] = 0.1,
    confidence: Annotated[
        float, typer.Option("--confidence", help="How surely the presence threshold keeps that rate.")
    ] = 0.9,
    alpha: Annotated[
        float,
        typer.Option("--alpha", help="What conformal regions may miss; 0.05, 0.1 and 0.2 are always fitted."),
    ] = 0.1,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            "--keep",
            metavar="NAME",
            help="A temperature to leave: maps, presence, visibility or quality; repeatable.",
        ),
    ] = None,
    flip: Annotated[
        bool, typer.Option("--flip/--no-flip", help="For use with the flip test, or without.")
    ] = True,
    masks: Annotated[
        bool, typer.Option("--masks", help="For use with masks of the people: give it the labelled ones.")
    ] = False,
    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Of parts, crops and intervals.")
    ] = 0,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, metavar="N", help="Only the first photos of each file, for a quick look."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="People at once.")] = 16,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Calibrate a pose model on annotated photos and write it as a new file.

    Fitted are the temperatures of maps, presence, visibility and quality; a presence threshold that keeps the wanted
    rate of false alarms; and conformal regions, which hold a keypoint with the probability asked for (in code:
    people.region(0, "left_ankle", coverage=0.9)). The report is on photos that nothing was fitted on.
    """
    if (fit is None) != (report is None) or (fit is None) == (data is None):
        raise typer.BadParameter("give --data, or --fit and --report")
    from bodyloop.calibrate import Wanted, calibrate
    from bodyloop.cli._models import threads_for
    from bodyloop.models.registry import resolve

    wanted = Wanted(flip, masks, rate, confidence, alpha, tuple(keep or ()), seed)
    first, second = _photos(data, split, fraction, fit, report, images, seed, limit)
    made = calibrate(
        model, out, first, second, wanted,
        card=card, overwrite=overwrite, batch_size=batch_size, device=device,
        threads=threads_for(resolve(model, card)[1], threads), stage=progress,
        command=_told(model, data, fit, report, split, fraction, wanted, limit),
    )  # fmt: skip
    if as_json:
        put_json(made.to_json())
    else:
        say(made.table())


def _photos(
    data: Path | None,
    split: str,
    fraction: float,
    fit: Path | None,
    report: Path | None,
    images: Path | None,
    seed: int,
    limit: int | None,
) -> tuple[PhotoSet, PhotoSet]:
    """Photos to fit on, and to report on."""
    from bodyloop.calibrate import refuse_same
    from bodyloop.calibrate import split as parted
    from bodyloop.errors import InputError
    from bodyloop.eval.pose import posed_sets

    def one(path: Path) -> PhotoSet:
        sets = posed_sets(path, images, split, limit)
        if len(sets) > 1:
            names = ", ".join(str(p) for p, _ in sets)
            raise InputError(f"{path} means several files ({names}); a model is calibrated on one, name it")
        return sets[0][1]

    if fit is not None and report is not None:
        refuse_same(fit, report)
        return one(fit), one(report)
    assert data is not None
    return parted(one(data), fraction, seed)


def _told(
    model: str,
    data: Path | None,
    fit: Path | None,
    report: Path | None,
    split: str,
    fraction: float,
    wanted: object,
    limit: int | None,
) -> str:
    """The command as the card tells it: with what decides the numbers, without anybody's folders."""
    from dataclasses import fields

    from bodyloop.calibrate import Wanted

    words = ["bodyloop", "calibrate", Path(model).name]
    for name, value in (("--data", data), ("--fit", fit), ("--report", report)):
        if value is not None:
            words += [name, value.name]
    if data is not None and data.is_dir():
        words += ["--split", split]
    if data is not None:
        words += ["--fraction", f"{fraction:g}"]
    for f in fields(Wanted):
        value = getattr(wanted, f.name)
        if value == f.default:
            continue
        option = f"--{f.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option if value else f"--no-{f.name}")
        elif isinstance(value, tuple):
            words += [w for v in value for w in (option, v)]
        else:
            words += [option, f"{value:g}"]
    if limit is not None:
        words += ["--limit", str(limit)]
    return shlex.join(words)
