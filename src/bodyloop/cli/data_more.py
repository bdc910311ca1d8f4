"""``bodyloop data show`` and ``bodyloop data rank``: what a network will see, and what to label next."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bodyloop.cli._common import (
    AsJson,
    CardName,
    Device,
    Progress,
    Threads,
    complain,
    count_of,
    example,
    folded,
    progress,
    put_json,
    say,
    table,
)
from bodyloop.errors import FileError, InputError, MissingDependency

if TYPE_CHECKING:
    from bodyloop.cli._given import Entry
    from bodyloop.cli._photos import Photo
    from bodyloop.eval.ranking import Ranked
    from bodyloop.images import Image
    from bodyloop.people import People
    from bodyloop.roles import Detector

SHOWN = 10  # photos of the table on stdout
KINDS = (".json", ".jsonl", ".csv")


class By(StrEnum):
    """Measures of `bodyloop.eval.ranking`."""

    entropy = "entropy"
    quality = "quality"
    disagreement = "disagreement"


def show(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="A recipe of the package by name, or a YAML file.")
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Numbers of the recipe to change, such as cut=0.5."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The sheet, a .jpg, .png or .webp file.")
    ] = Path("samples.jpg"),
    count: Annotated[int, typer.Option("-n", min=1, max=1000, metavar="N", help="How many samples.")] = 24,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, metavar="N", help="Instead of the recipe's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw the samples that a training begins with, as the network will see them, with their labels.

    Filled joints are visible, rings hidden, broken rings outside the window; the sheet goes on where they lie beyond
    the crop. The rectangle is the box that the window was made from. Where a batch holds more than N samples, those
    shown are spread evenly over the first one. Captions name the source, the annotation and the photo. A segmenter's
    samples show the mask that is wanted and what the network is told of the person.
    """
    from bodyloop.cli.train import recipe

    try:
        from bodyloop.train.config import load_config
        from bodyloop.train.show import show as shown
    except ImportError as e:
        raise MissingDependency(f"samples of a training need {e.name}; pip install 'bodyloop[train]'") from e
    more = [] if seed is None else [f"seed={seed}"]
    picture, captions = shown(load_config(recipe(config), [*(changes or ()), *more]), count)
    picture.save(out)
    if as_json:
        put_json({"out": str(out), "samples": captions})
    else:
        say(f"{out}: {count_of(len(captions), 'sample')}")


def rank(
    photos: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTOS...", help='Photos, folders (with all below them) or patterns such as "a/*.jpg".'
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME|FILE", help="The pose model; see `bodyloop models`.")
    ] = "pmpose-n",
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="All photos in order: .json, .jsonl or .csv.")
    ] = Path("ranked.json"),
    by: Annotated[By, typer.Option("--by", help="What is measured.")] = By.entropy,
    boxes: Annotated[
        Path | None,
        typer.Option(
            "--boxes",
            metavar="FILE",
            help="Where the people are: results of bodyloop (a file or folder), COCO annotations or results, "
            r'or {"photo.jpg": \[\[x1, y1, x2, y2], ...]}.',
        ),
    ] = None,
    detector: Annotated[
        str, typer.Option("--detector", metavar="NAME|FILE", help="What finds people where no file says so.")
    ] = "rtmdet-n",
    card: CardName = None,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Order unlabelled photos by what a pose model knows least, for labelling next.

    entropy: how open it is where keypoints are, and whether they are there at all. quality: how bad the model itself
    expects its keypoints to be. disagreement: how far they move when the photo is mirrored and the box changes (six
    times the work). All lie between 0 and 1, are means over people, and are large where little is known.

    Photos on which nobody is found come last. A photo that cannot be used is reported and the others go on; the exit
    code is then 1. Photos of a folder that the file of boxes does not name are left out.
    """
    if out.suffix.lower() not in KINDS:
        raise typer.BadParameter(f"expected a file ending in {', '.join(KINDS)}", param_hint="--out")
    from bodyloop.api import load_detector, load_pose
    from bodyloop.cli._photos import find_photos
    from bodyloop.eval.ranking import rank as ranked

    found, problems = find_photos(photos)
    if not found:
        raise typer.BadParameter("; ".join(why for _, why in problems))
    pose = load_pose(model, card=card, device=device, threads=threads, detector=None)
    with progress("photos") as tell:
        if boxes is None:
            pairs = _detected(found, load_detector(detector, threads=threads), problems, tell)
        else:
            pairs = _given(found, boxes, problems, tell)
        done = ranked(pose, pairs, by.value)
    for what, why in problems:
        complain(f"{what}: {why}")
    _write(out, pose.card.name, by, done)
    if as_json:
        put_json({"out": str(out), "photos": [_row(r) for r in done], "failed": dict(problems)})
    else:
        _say(done, out, by)
    if problems:
        raise typer.Exit(1)


Problems = list[tuple[str, str]]


def _detected(
    photos: Sequence[Photo], detector: Detector, problems: Problems, tell: Progress
) -> Iterator[tuple[Image, People]]:
    """Photos and who is found on them; those that cannot be read are added to ``problems``."""
    from bodyloop.images import read

    for i, photo in enumerate(photos):
        try:
            image = read(photo.path)
        except (FileError, InputError) as e:
            problems.append((photo.shown, str(e)))
            continue
        yield image, detector.detect([image])[0]
        tell(i + 1, len(photos))


def _given(
    photos: Sequence[Photo], file: Path, problems: Problems, tell: Progress
) -> Iterator[tuple[Image, People]]:
    """Photos and whom a file names on them."""
    from bodyloop.cli._given import GivenFile, NotNamed, read_people

    boxes = GivenFile(file)
    entries = boxes.match([p.path for p in photos])
    unnamed = [e for p, e in zip(photos, entries, strict=True) if isinstance(e, NotNamed) and not p.named]
    if len(unnamed) == len(photos):
        raise InputError(f"{unnamed[0]}; and none of the other photos")
    for i, (photo, entry) in enumerate(zip(photos, entries, strict=True)):
        if isinstance(entry, NotNamed) and not photo.named:
            continue
        try:
            if isinstance(entry, InputError):
                raise entry
            image = _as_labelled(photo, entry)
            people = read_people(boxes, entry, image, "boxes")
        except (FileError, InputError) as e:
            problems.append((photo.shown, str(e)))
            continue
        yield image, people
        tell(i + 1, len(photos))


def _as_labelled(photo: Photo, entry: Entry) -> Image:
    """A photo as `bodyloop predict` reads it: COCO annotations speak of the stored picture if it has their size."""
    from bodyloop.images import read

    if entry.kind == "coco" and entry.size is not None:
        stored = read(photo.path, orient=False)
        if stored.size == entry.size:
            return stored
    return read(photo.path)


# ------------------------------------------------------------------ results


def _row(r: Ranked) -> dict[str, Any]:
    return {"photo": r.photo, "score": r.score, "people": r.people, "persons": list(r.persons)}


def _write(path: Path, model: str, by: str, done: Sequence[Ranked]) -> None:
    """All photos in order, as the ending says."""
    from bodyloop.storage import atomic_write

    kind = path.suffix.lower()
    if kind == ".json":
        text = json.dumps({"model": model, "by": by, "photos": [_row(r) for r in done]}, indent=1) + "\n"
    elif kind == ".jsonl":
        text = "".join(json.dumps(_row(r)) + "\n" for r in done)
    else:
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["photo", by, "people"])
        writer.writerows([r.photo, "" if r.score is None else f"{r.score:.6f}", r.people] for r in done)
        text = lines.getvalue()
    with atomic_write(path) as f:
        f.write(text.encode("utf-8", "backslashreplace"))


def _say(done: Sequence[Ranked], out: Path, by: str) -> None:
    first = [r for r in done if r.score is not None][:SHOWN]
    if first:
        table(
            ["photo", by, "people"], [[r.photo, f"{r.score:.3f}", str(r.people)] for r in first], right=(1, 2)
        )
    empty = sum(r.score is None for r in done)
    nobody = f", {count_of(empty, 'photo')} without anybody at the end" if empty else ""
    say(f"{out}: {count_of(len(done), 'photo')}{nobody}")


def register(app: typer.Typer) -> None:
    """Add the commands to ``bodyloop data``."""
    for command, lines in (
        (
            show,
            (
                "bodyloop data show pmpose-n data=/data/poses --out samples.jpg",
                "bodyloop data show my.yaml -n 12",
            ),
        ),
        (
            rank,
            (
                "bodyloop data rank new-photos --out next.csv",
                "bodyloop data rank new-photos --boxes boxes.json --by disagreement",
            ),
        ),
    ):
        app.command(command.__name__, help=folded(command.__doc__), epilog=example(*lines))(command)
