"""``bodyloop eval pose``, ``eval calibration`` and ``eval detector``: models judged from annotated photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from bodyloop.cli._common import AsJson, CardName, Device, Threads, progress, put_json, say
from bodyloop.cli._eval import Command, Protocol_, Seed, note, put

if TYPE_CHECKING:
    from bodyloop.eval.boxed import Scoring
    from bodyloop.pose.estimator import PoseModel

Data = Annotated[
    Path,
    typer.Option("--data", help="A COCO file, a folder with <split>.json, or a folder of such folders."),
]
Images = Annotated[
    Path | None, typer.Option("--images", help="Folder of the photos; `images` beside the file by default.")
]
Split = Annotated[str, typer.Option("--split", help="Which file of a folder.")]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, metavar="N", help="Only the first photos of each file, for a quick look."),
]


Model = Annotated[str, typer.Option("--model", "-m", metavar="NAME|FILE", help="The pose model.")]
Flip = Annotated[bool, typer.Option("--flip/--no-flip", help="Average with the mirrored photo.")]
WithMasks = Annotated[bool, typer.Option("--masks", help="Give the model the labelled masks, too.")]
Threshold = Annotated[
    float,
    typer.Option(
        "--threshold",
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="From which presence or visibility on it is a yes.",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, metavar="N", help="People at once.")]
Save = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="DIR",
        help="Write labels and predictions as COCO files, for `bodyloop eval keypoints` and other tools.",
    ),
]


def pose(
    data: Data,
    model: Model = "pmpose-n",
    card: CardName = None,
    images: Images = None,
    split: Split = "dev",
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="Labels for the presence baseline; train.json beside by default."),
    ] = None,
    limit: Limit = None,
    flip: Flip = True,
    masks: WithMasks = False,
    scoring: Annotated[
        str, typer.Option("--scoring", help="What a person's score is made of: keypoints or presence.")
    ] = "keypoints",
    protocol: Protocol_ = "standard",
    presence: Annotated[
        bool, typer.Option("--presence/--no-presence", help="Judge presence on cropped photos, too.")
    ] = True,
    threshold: Threshold = 0.5,
    seed: Seed = 0,
    save: Save = None,
    batch_size: BatchSize = 16,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Judge a pose model on labelled boxes.

    COCO's keypoints: AP by OKS and by Ex-OKS, on whole photos and on photos cropped so that people leave the
    picture; presence there, beside a guess that knows only the joint and the sides of the box at the border.
    Other keypoints: PCK. Visibility and quality as far as the model has them. With 95 % intervals over images,
    and the speed.
    """
    if scoring not in ("keypoints", "presence"):
        raise typer.BadParameter(f"--scoring is keypoints or presence, not {scoring!r}")
    from bodyloop.eval.pose import evaluate_pose_model

    judged = _pose_model(model, card, batch_size, device, threads)
    with progress("people") as tell:
        report = evaluate_pose_model(
            judged, data, images,
            baseline=baseline, split=split, flip=flip, masks=masks, scoring=cast("Scoring", scoring),
            protocol=protocol, presence=presence, threshold=threshold, seed=seed, limit=limit, progress=tell,
        )  # fmt: skip
    if save is not None:
        for labels, results in report.save(save):
            note(f"saved: {labels} and {results}")
    put(report, as_json)


def calibration(
    data: Data,
    model: Model = "pmpose-n",
    card: CardName = None,
    images: Images = None,
    split: Split = "dev",
    limit: Limit = None,
    flip: Flip = True,
    masks: WithMasks = False,
    crops: Annotated[bool, typer.Option("--crops/--no-crops", help="Judge cropped photos, too.")] = True,
    threshold: Threshold = 0.5,
    seed: Seed = 0,
    batch_size: BatchSize = 16,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Judge whether a pose model means what it says, on labelled boxes.

    Maps: does the smallest region with 90 % of a map hold the true point in 90 % of the cases, and how large is
    it. Presence (on photos cropped so that people leave the picture), visibility and quality: are the ones that
    are given 0.9 right in 90 % of the cases. With 95 % intervals over images.
    """
    from bodyloop.eval.calibrated import evaluate_calibration

    judged = _pose_model(model, card, batch_size, device, threads)
    with progress("people") as tell:
        report = evaluate_calibration(
            judged, data, images,
            split=split, flip=flip, masks=masks, crops=crops, threshold=threshold, seed=seed, limit=limit,
            progress=tell,
        )  # fmt: skip
    put(report, as_json)


def _pose_model(model: str, card: str | None, batch_size: int, device: str, threads: int | None) -> PoseModel:
    from bodyloop.api import load_pose
    from bodyloop.cli._models import threads_for
    from bodyloop.models.registry import resolve
    from bodyloop.pose.inference import PoseOptions

    told = threads_for(resolve(model, card)[1], threads)
    options = PoseOptions(batch_size=batch_size)
    return load_pose(model, card=card, device=device, threads=told, detector=None, options=options)


def detector(
    data: Data,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME|FILE", help="The detector.")
    ] = "rtmdet-n",
    card: CardName = None,
    images: Images = None,
    split: Split = "dev",
    limit: Limit = None,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Least score of a box; low, to see the curve.",
        ),
    ] = 0.01,
    protocol: Protocol_ = "standard",
    seed: Seed = 0,
    save: Save = None,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Judge a person detector on annotated photos: box AP with its 95 % interval, and the speed."""
    from bodyloop.api import find_detector, load_detector
    from bodyloop.cli._models import threads_for
    from bodyloop.eval.detector import evaluate_detector
    from bodyloop.eval.photos import find_sets

    told = threads_for(find_detector(model, card)[1], threads)
    judged = load_detector(model, card=card, device=device, threads=told, score_threshold=threshold)
    reports = []
    for path in find_sets(data, split):
        with progress(str(path)) as tell:
            reports.append(
                evaluate_detector(
                    judged, path, images, protocol=protocol, seed=seed, limit=limit, progress=tell
                )
            )
    if save is not None:
        for report in reports:
            labels, results = report.save(save)
            note(f"saved: {labels} and {results}")
    if as_json:
        put_json(reports[0].to_json() if len(reports) == 1 else [r.to_json() for r in reports])
    else:
        say("\n\n".join(r.table() for r in reports))


def segmenter(
    data: Data,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME|FILE", help="The segmenter.")
    ] = "pose2seg-n",
    card: CardName = None,
    pose_model: Annotated[
        str, typer.Option("--pose", metavar="NAME|FILE", help="The pose model that prompts it.")
    ] = "pmpose-n",
    known: Annotated[
        str,
        typer.Option(
            "--prompt", metavar="WORDS", help="What a prompt holds, of box,points,maps,neighbours,mask."
        ),
    ] = "box,points,maps,neighbours",
    split: Split = "dev",
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Judge a segmenter on photos of people with masks: mean IoU with its 95 % interval, prompted by their own poses.

    Poses are of the labelled boxes; "mask" is the true mask, spoiled as a small detector's. Counted are people in
    boxes of more than 32 x 32 px.
    """
    from bodyloop.api import load_pose, load_segmenter
    from bodyloop.cli._models import threads_for
    from bodyloop.eval.photos import find_sets
    from bodyloop.eval.segmenter import evaluate_segmenter, words
    from bodyloop.models.registry import resolve
    from bodyloop.pose.inference import PoseOptions

    told = threads_for(resolve(model, card)[1], threads)
    judged = load_segmenter(model, card=card, device=device, threads=told)
    told = threads_for(resolve(pose_model)[1], threads)
    options = PoseOptions(flip=False, maps=True)
    poses = load_pose(pose_model, device=device, threads=told, detector=None, options=options)
    reports = []
    for path in find_sets(data, split):
        with progress(str(path)) as tell:
            reports.append(
                evaluate_segmenter(
                    judged, poses, path, known=words(known), limit=limit, seed=seed, progress=tell
                )
            )
    if as_json:
        put_json(reports[0].to_json() if len(reports) == 1 else [r.to_json() for r in reports])
    else:
        say("\n\n".join(r.table() for r in reports))


COMMANDS: tuple[Command, ...] = (
    (
        pose,
        (
            "bodyloop eval pose --data data/coco",
            "bodyloop eval pose -m my.onnx --data data/lsp/dev.json --json",
            "bodyloop eval pose --data data/coco --save judged",
        ),
    ),
    (
        calibration,
        (
            "bodyloop eval calibration --data data/coco",
            "bodyloop eval calibration -m my.onnx --data data/coco --limit 100 --json",
        ),
    ),
    (detector, ("bodyloop eval detector --data data/coco/dev.json --limit 100",)),
    (
        segmenter,
        (
            "bodyloop eval segmenter --data data/coco",
            "bodyloop eval segmenter --data data/coco --prompt box,points,maps,neighbours,mask",
        ),
    ),
)
