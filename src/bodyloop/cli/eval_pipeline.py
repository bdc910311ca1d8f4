"""``bodyloop eval pipeline`` and ``eval crowds``: whole pipelines judged from photos, pass by pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from bodyloop.cli._common import (
    AsJson,
    Device,
    LoopFields,
    complain,
    loop_fields,
    progress,
    put_json,
    say,
)
from bodyloop.cli._eval import Command, Protocol_, Seed, note, put
from bodyloop.cli.eval_models import Data, Images, Limit, Split

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bodyloop.eval.crowd_recall import By
    from bodyloop.eval.photos import PhotoSet
    from bodyloop.eval.pipeline import BoxesOf, Ranking
    from bodyloop.eval.pipeline_run import PipelineRun
    from bodyloop.loop import BodyLoop

ORACLE = "oracle"  # a detector that knows the labels, but takes the two who overlap most for one
TRUE_BOXES, TRUE_POSES, TRUE_MASKS = "true-boxes", "true-poses", "true-masks"  # those labelled

Pipeline = Annotated[str, typer.Argument(metavar="PIPELINE", help="bmp-n, bmp-v2, bmp-d3 or bmp-j1.")]
Detects = Annotated[
    str | None,
    typer.Option(
        "--detector", metavar="NAME|FILE", help=f"Instead of the pipeline's; {TRUE_BOXES}: those labelled."
    ),
]
Poses = Annotated[
    str | None,
    typer.Option(
        "--pose", metavar="NAME|FILE", help=f"Instead of the pipeline's; {TRUE_POSES}: those labelled."
    ),
]
Segments = Annotated[
    str | None,
    typer.Option(
        "--segmenter", metavar="NAME|FILE", help=f"Instead of the pipeline's; {TRUE_MASKS}: those labelled."
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--run", metavar="DIR", help="Keep what is found photo by photo; the same call goes on there."
    ),
]
Part = Annotated[
    str,
    typer.Option(
        "--part", metavar="I/N", help="Of the photos, do one of N parts; with --run others do the others."
    ),
]
Ranked = Annotated[
    str | None,
    typer.Option(
        "--ranking",
        metavar="SCORE",
        help="What orders people: box, mask, keypoint, or a product such as box*keypoint.",
    ),
]


def pipeline(
    pipeline: Pipeline,
    data: Data,
    images: Images = None,
    split: Split = "dev",
    detector: Detects = None,
    pose: Poses = None,
    segmenter: Segments = None,
    changes: LoopFields = None,
    ranking: Ranked = None,
    boxes: Annotated[
        str,
        typer.Option(
            "--boxes", metavar="WHOSE", help="Judge the boxes of the detector, or around the masks."
        ),
    ] = "detector",
    protocol: Protocol_ = "standard",
    limit: Limit = None,
    run: Folder = None,
    part: Part = "1/1",
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="DIR", help="Write labels, report and COCO results of every pass."),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Judge a whole pipeline on photos: AP of boxes, masks and poses after each pass.

    Nothing but the photos goes in. What later passes bring is the difference to the first, with a 95 % interval over
    photos. People are ranked by the box's score, poses by box times keypoints, or all by --ranking. Masks and poses are
    judged where the file labels them. COCO-style files and OCHuman's own are read. A photo that fails is named and not
    judged; the exit code is then 1.
    """
    if boxes not in ("detector", "masks"):
        raise typer.BadParameter(f"detector or masks, not {boxes!r}", param_hint="--boxes")
    from bodyloop.eval.pipeline import check_ranking, judge_run
    from bodyloop.eval.protocols import rules

    rules(protocol)
    check_ranking(ranking)
    roles = {"detector": detector, "pose": pose, "segmenter": segmenter}
    done = _run(pipeline, data, images, split, roles, changes, limit, run, part, device)
    report = judge_run(
        done,
        ranking=cast("Ranking | None", ranking),
        boxes=cast("BoxesOf", boxes),
        protocol=protocol,
        seed=seed,
    )
    if save is not None:
        note(f"saved: {report.save(save)}")
    put(report, as_json)
    _fail_if_any(done)


def crowds(
    pipeline: Pipeline,
    data: Data,
    images: Images = None,
    split: Split = "dev",
    detector: Detects = None,
    pose: Poses = None,
    segmenter: Segments = None,
    changes: LoopFields = None,
    ranking: Ranked = "box",
    by: Annotated[str, typer.Option("--by", metavar="WHAT", help="What must fit: boxes or masks.")] = "boxes",
    threshold: Annotated[
        float, typer.Option("--iou", min=0.5, max=0.95, metavar="SHARE", help="From which IoU on it fits.")
    ] = 0.5,
    oracle: Annotated[
        bool, typer.Option("--oracle", help="Beside it, the most that can be gained: see below.")
    ] = False,
    limit: Limit = None,
    run: Folder = None,
    part: Part = "1/1",
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Judge what later passes find: the share of people found after one pass and after all, at equal false positives.

    Both lists of people are cut at the score where they make as many false positives a photo: those that the first pass
    makes, and some fixed rates below. The gain has a 95 % interval over photos. Made for sets of
    `bodyloop data crowds`; any with boxes will do.

    --oracle runs the same poses with a detector that knows the labels but takes the two people who overlap most for one
    until one of them is painted out, and with labelled masks: what it gains is the upper bound.
    """
    if by not in ("boxes", "masks"):
        raise typer.BadParameter(f"boxes or masks, not {by!r}", param_hint="--by")
    from bodyloop.eval.crowd_recall import recall_gain
    from bodyloop.eval.pipeline import check_ranking

    check_ranking(ranking)
    roles = {"detector": detector, "pose": pose, "segmenter": segmenter}
    known = {"detector": ORACLE, "pose": pose, "segmenter": TRUE_MASKS}
    reports = {}
    for name, chosen in {"pipeline": roles, **({"oracle": known} if oracle else {})}.items():
        folder = run if run is None or name == "pipeline" else run.with_name(f"{run.name}-{name}")
        done = _run(pipeline, data, images, split, chosen, changes, limit, folder, part, device)
        reports[name] = recall_gain(
            done, ranking=cast("Ranking", ranking or "box"), by=cast("By", by), threshold=threshold, seed=seed
        )
    if as_json:
        put_json({name: r.to_json() for name, r in reports.items()})
    else:
        say("\n\n".join(r.table() for r in reports.values()))
    _fail_if_any(done)


def _run(
    pipeline: str,
    data: Path,
    images: Path | None,
    split: str,
    roles: Mapping[str, str | None],
    changes: list[str] | None,
    limit: int | None,
    folder: Path | None,
    part: str,
    device: str,
) -> PipelineRun:
    """What a pipeline finds on the photos of a file."""
    number = parted(part)
    from bodyloop.eval.photos import find_sets
    from bodyloop.eval.pipeline_run import open_photos, run_pipeline

    (path, *more) = find_sets(data, split)
    if more:
        raise typer.BadParameter(
            f"{data} has {1 + len(more)} files {split}.json; name one", param_hint="--data"
        )
    photos = open_photos(path, images).first(limit)
    loop = load(pipeline, photos, roles, changes or (), device)
    with progress("photos") as tell:
        return run_pipeline(loop, photos, folder=folder, part=number, progress=tell)


def parted(part: str) -> tuple[int, int]:
    """I/N as two numbers."""
    first, _, every = part.partition("/")
    if not (first.isdecimal() and every.isdecimal()):
        raise typer.BadParameter("expected I/N, for instance 1/4", param_hint="--part")
    return int(first), int(every)


def load(
    pipeline: str, photos: PhotoSet, roles: Mapping[str, str | None], changes: Any, device: str
) -> BodyLoop:
    """A pipeline with some roles played by others: models, or those who know the labels of some photos."""
    from bodyloop.api import load_pipeline
    from bodyloop.eval.oracle import MergingOracle, TrueBoxes, TrueMasks, TruePoses

    knowing: dict[str, Any] = {
        ORACLE: MergingOracle, TRUE_BOXES: TrueBoxes, TRUE_POSES: TruePoses, TRUE_MASKS: TrueMasks
    }  # fmt: skip
    given: dict[str, Any] = {
        role: knowing[n](photos) if n in knowing else n for role, n in roles.items() if n is not None
    }
    loop = load_pipeline(pipeline, device=device, **given)
    return loop.with_config(**loop_fields(changes)) if changes else loop


def _fail_if_any(run: PipelineRun) -> None:
    for name, why in run.failed.items():
        complain(f"{name}: {why}")
    if run.failed:
        raise typer.Exit(1)


COMMANDS: tuple[Command, ...] = (
    (
        pipeline,
        (
            "bodyloop eval pipeline bmp-n --data data/coco",
            "bodyloop eval pipeline bmp-v2 --data ochuman/test.json --images ochuman/images --run bmp-v2 --part 1/8",
            "bodyloop eval pipeline bmp-n --data data/coco --set passes=3 --ranking box*keypoint --save judged",
        ),
    ),
    (
        crowds,
        (
            "bodyloop data crowds --data data/coco --out crowds",
            "bodyloop eval crowds bmp-n --data crowds --oracle",
        ),
    ),
)
