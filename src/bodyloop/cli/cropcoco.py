"""``bodyloop cropcoco``: sets of photos that people leave: make one, check one, fetch the published one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bodyloop.cli._common import AsJson, complain, count_of, example, folded, progress, put_json, say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bodyloop.data.cropcoco_folder import BuiltSet

NAME = "cropcoco"
ABOUT = """Photos cut so that people leave the picture, with labels that say where their joints went.

Flags of keypoints: 2 visible; 1 hidden, or outside the picture but inside the activation window of the box; 3
outside that window; 0 unlabelled. Coordinates are the true ones, wherever they lie.
"""
EXAMPLE = example(
    "bodyloop cropcoco build person_keypoints_val2017.json val2017 cropped",
    "bodyloop cropcoco check cropped",
    "bodyloop cropcoco get CropCOCO",
)
app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=folded(ABOUT), epilog=EXAMPLE)

Padding = typer.Option(
    "--padding", min=1.0, metavar="TIMES", help="Of the activation window, in times the box; published: 1.25."
)


def build(
    annotations: Annotated[Path, typer.Argument(metavar="ANN", help="A COCO keypoint file.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of its photos.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, or one to go on with.")],
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the crops.")] = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=1, metavar="N", help="Processes; what is written does not depend on it."
        ),
    ] = None,
    quality: Annotated[
        int, typer.Option("--quality", min=1, max=100, metavar="Q", help="Of the JPEG files.")
    ] = 95,
    padding: Annotated[float, Padding] = 1.25,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, metavar="N", help="Only the first photos with people, for a quick look."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a CropCOCO-like set from any COCO keypoint file.

    One crop a photo, chosen by the seed and the photo's id: somebody keeps three joints, somebody loses one.
    Boxes, masks and areas are cut, joints keep their true places. OUT gets annotations/person_keypoints_NAME.json
    and the photos in NAME/, annotations/coco_compatible_NAME.json (the twin for tools that know no flag 3: what is
    outside its window is unlabelled), statistics.json and index.html with counts and samples. A call that was
    stopped, at whatever moment, is given again and goes on; OUT of another input, seed or setting is refused.
    """
    from bodyloop.data.cropcoco_folder import build_folder, set_name
    from bodyloop.errors import InputError
    from bodyloop.eval.photos import PhotoSet
    from bodyloop.models.checkpoints import sha256_of

    document = PhotoSet.open(annotations, images).first(limit).document
    source = {"file": annotations.name, "sha256": sha256_of(annotations), "limit": limit}
    try:
        with progress("photos") as tell:
            built = build_folder(
                document, images, out,
                name=set_name(annotations), source=source, seed=seed, padding=padding, quality=quality,
                workers=workers, progress=tell,
            )  # fmt: skip
    except InputError as e:
        raise InputError(f"{annotations}: {e}") from e
    made = {"from": annotations.name, "sha256": source["sha256"], "seed": seed, "padding": padding}
    page = _page(built, out / "index.html", made)
    if as_json:
        files = {"annotations": built.annotations, "twin": built.twin, "photos": built.photos, "page": page}
        named = {k: None if v is None else str(v) for k, v in files.items()}
        put_json({**named, "written": built.written, "statistics": built.crops.statistics})
    else:
        _say_built(built, out, page)


def _page(built: BuiltSet, path: Path, made: Mapping[str, object]) -> Path | None:
    """The page, or None and one line that says what it would need."""
    from bodyloop.errors import MissingDependency

    try:
        from bodyloop.eval.cropcoco_page import write_page

        return write_page(built, path, made)
    except MissingDependency as e:
        complain(f"no index.html: {e}")
        return None


def _say_built(built: BuiltSet, out: Path, page: Path | None) -> None:
    s = built.crops.statistics
    flags = ", ".join(f"{s['flags'][f]} flag {f}" for f in ("2", "1", "3"))
    photos = count_of(s["images"], "photo")
    people = count_of(s["annotations"], "person", "persons")
    say(f"{photos} ({built.written} cut now, {s['skipped']} skipped), {people}; keypoints: {flags}")
    say(f"{built.annotations}")
    say(f"{built.twin} (for tools that know no flag 3)")
    if page is not None:
        say(f"{page}")
    say(f"Evaluate a model on it: bodyloop eval pose --data {out}")


def check(
    annotations: Annotated[
        Path, typer.Argument(metavar="ANN", help="The annotation file of a set, or the folder it is in.")
    ],
    images: Annotated[
        Path | None,
        typer.Option("--images", metavar="DIR", help="Folder of the photos, if not where build puts them."),
    ] = None,
    padding: Annotated[float | None, Padding] = None,
    as_json: AsJson = False,
) -> None:
    """Check that the labels of a cropped set agree with each other and with its photos.

    Every flag 3 outside the window of its box, every flag 1 and 2 inside, and all that stands beside it. What a set
    does not have (the published one has no record of its crops) is said to be skipped. The exit code is 1 if
    anything is wrong.
    """
    from bodyloop.eval.cropcoco_check import check_set
    from bodyloop.eval.photos import find_sets

    reports = []
    for file in find_sets(annotations, "dev"):
        with progress("photos") as tell:
            reports.append(check_set(file, images, padding=padding, progress=tell))
    if as_json:
        put_json(reports[0].to_json() if len(reports) == 1 else [r.to_json() for r in reports])
    else:
        say("\n\n".join(r.table() for r in reports))
    if not all(r.ok for r in reports):
        raise typer.Exit(1)


def get(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, or one to go on with.")],
    revision: Annotated[
        str, typer.Option("--revision", metavar="NAME", help="Branch, tag or commit.")
    ] = "main",
    repository: Annotated[
        str, typer.Option("--repository", metavar="OWNER/NAME", help="Another data set of the same layout.")
    ] = "vrg-prague/CropCOCO",
    as_json: AsJson = False,
) -> None:
    """Fetch the CropCOCO that its authors publish (4,114 photos of COCO val2017; GPL-3.0).

    From the Hugging Face hub (HF_ENDPOINT), data set vrg-prague/CropCOCO. It falls under its authors' licence,
    GPL-3.0, which is said before anything comes. Whatever labels, photos and zip archives it holds are taken,
    checked against the hub's checksums and unpacked. A call that was stopped is given again and goes on; one that
    was finished asks no network.
    """
    from dataclasses import asdict

    from bodyloop.data.cropcoco_hub import fetch_set

    with progress("files checked") as tell:
        done = fetch_set(out, repository=repository, revision=revision, progress=tell)
    if as_json:
        put_json(asdict(done))
        return
    file, photos = out / done.annotations, out / done.photos
    say(
        f"{done.repository} at {done.commit} ({done.licence.upper()}): {count_of(done.images, 'photo')} in {photos}"
    )
    say(f"{file}")
    say(f"Check it: bodyloop cropcoco check {file} --images {photos}")
    say(f"Evaluate a model on it: bodyloop eval pose --data {file} --images {photos}")


for _command, _lines in (
    (build, ("bodyloop cropcoco build person_keypoints_val2017.json val2017 cropped --seed 1 --workers 4",)),
    (
        check,
        (
            "bodyloop cropcoco check cropped",
            "bodyloop cropcoco check cropped/annotations/person_keypoints_val2017.json --json",
        ),
    ),
    (get, ("bodyloop cropcoco get CropCOCO", "bodyloop eval pose --model pmpose-n --data CropCOCO")),
):
    app.command(_command.__name__, help=folded(_command.__doc__), epilog=example(*_lines))(_command)
