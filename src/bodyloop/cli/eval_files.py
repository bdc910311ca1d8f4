"""``bodyloop eval keypoints | boxes | masks | presence``: results files judged from labels."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bodyloop.cli._common import AsJson, put_json, say, table
from bodyloop.cli._eval import Command, Protocol_

if TYPE_CHECKING:
    from bodyloop.eval.comparison import Comparison

Truth = Annotated[Path, typer.Argument(metavar="TRUTH", help="A COCO annotation file.")]
Results = Annotated[
    list[Path],
    typer.Argument(metavar="RESULTS", help="COCO results files; several are compared with the first."),
]
Sigmas = Annotated[
    str | None,
    typer.Option(
        "--sigmas", metavar="NUMBERS", help="How exactly each keypoint can be labelled: numbers with commas."
    ),
]
SkeletonName = Annotated[
    str | None,
    typer.Option(
        "--skeleton", metavar="NAME|FILE", help="The skeleton whose sigmas count: a name or a .toml file."
    ),
]
SigmaCard = Annotated[
    str | None,
    typer.Option(
        "--card", metavar="NAME|FILE", help="The model whose skeleton counts: a name, a card or a model file."
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images", metavar="DIR", help="Folder of the photos, for pictures of single people in the report."
    ),
]
ReportFile = Annotated[
    Path | None,
    typer.Option("--report", metavar="FILE.html", help="Write a page with curves, mistakes and cases."),
]
Resamples = Annotated[
    int, typer.Option("--resamples", min=0, metavar="N", help="Of the images, for the intervals; 0 for none.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the intervals.")]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        min=0.0,
        max=1.0,
        metavar="SHARE",
        help="Least presence of a keypoint that is in; of pck, the share of the norm.",
    ),
]


def keypoints(
    truth: Truth,
    results: Results,
    task: Annotated[
        str,
        typer.Option(
            "--task", help="coco-keypoints, ex-keypoints, crowdpose, coco-wholebody, ochuman or pck."
        ),
    ] = "coco-keypoints",
    protocol: Protocol_ = "standard",
    sigmas: Sigmas = None,
    skeleton: SkeletonName = None,
    card: SigmaCard = None,
    distance: Annotated[
        str | None,
        typer.Option(
            "--distance",
            help="ex-keypoints: from a point to its window: edge (the paper) or corner (the released code).",
        ),
    ] = None,
    padding: Annotated[
        float | None,
        typer.Option("--padding", min=0.0, metavar="FACTOR", help="ex-keypoints: of the windows."),
    ] = None,
    threshold: Threshold = None,
    recompute_flags: Annotated[
        bool,
        typer.Option(
            "--recompute-flags", help="ex-keypoints: who is out, worked out from boxes and keypoints."
        ),
    ] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="ex-keypoints: visibility levels without windows.")
    ] = False,
    norm: Annotated[
        str | None,
        typer.Option("--norm", help="pck: bbox, head, torso, or two keypoints with a comma between."),
    ] = None,
    images: Images = None,
    report: ReportFile = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Judge the keypoints of results files.

    AP and AR by OKS with 95 % intervals over images, for any COCO-style file; by the names that papers use:
    Ex-OKS with keypoints that leave the picture, CrowdPose, COCO-WholeBody, OCHuman, PCK. Several files are
    compared with the first, by a paired bootstrap. --report writes a page about where the predictions fail.
    """
    given = {
        "sigmas": _one_of(sigmas=sigmas, skeleton=skeleton, card=card),
        "distance": distance,
        "padding": padding,
        "recompute_flags": recompute_flags or None,
        "plain": plain or None,
        "norm": norm,
    }
    _check_report(report)
    if task == "pck":
        _refuse("pck", given, ("norm",))
        _pck(truth, results, norm, threshold, report, resamples, seed, as_json)
        return
    from bodyloop.eval.tasks import TASKS

    known = [name for name, t in TASKS.items() if t.similarity.endswith("OKS")]
    if task not in known:
        near = difflib.get_close_matches(task, [*known, "pck"], 1, 0.4)
        raise typer.BadParameter(
            f"--task is {', '.join(known)} or pck, not {task!r}{f'; did you mean {near[0]!r}?' if near else ''}"
        )
    given["confidence_threshold"] = threshold
    _refuse(task, given, TASKS[task].options)
    _judge(task, truth, results, protocol, given, images, report, resamples, seed, as_json)


def boxes(
    truth: Truth,
    results: Results,
    protocol: Protocol_ = "standard",
    images: Images = None,
    report: ReportFile = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Judge the boxes of results files: COCO's twelve numbers, with 95 % intervals over images.

    Several files are compared with the first, by a paired bootstrap.
    """
    _check_report(report)
    _judge("bbox", truth, results, protocol, {}, images, report, resamples, seed, as_json)


def masks(
    truth: Truth,
    results: Results,
    protocol: Protocol_ = "standard",
    images: Images = None,
    report: ReportFile = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Judge the masks of results files: COCO's twelve numbers, with 95 % intervals over images.

    Several files are compared with the first, by a paired bootstrap.
    """
    _check_report(report)
    _judge("segm", truth, results, protocol, {}, images, report, resamples, seed, as_json)


def presence(
    truth: Truth,
    results: Results,
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold", min=0.0, max=1.0, metavar="SHARE", help="From this probability on it is a yes."
        ),
    ] = 0.5,
    pairing: Annotated[
        str, typer.Option("--pairing", help="How predictions find their persons: auto, id, score or oks.")
    ] = "auto",
    per_keypoint: Annotated[
        bool, typer.Option("--per-keypoint", help="Each keypoint by itself, too.")
    ] = False,
    sigmas: Sigmas = None,
    skeleton: SkeletonName = None,
    card: SigmaCard = None,
    report: ReportFile = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Judge what results files say of their own keypoints: presence, visibility, quality.

    Presence is judged by flags of 3 (out of the window) against 1 and 2, visibility by 1 against 2, quality
    and scores by the true similarity, where the annotations have areas.
    """
    if pairing not in ("auto", "id", "score", "oks"):
        raise typer.BadParameter(f"--pairing is auto, id, score or oks, not {pairing!r}")
    _check_report(report)
    import numpy as np

    from bodyloop.eval.comparison import short_names
    from bodyloop.eval.documents import opened
    from bodyloop.eval.keypoints import as_sigmas
    from bodyloop.eval.presence_files import evaluate_presence_files
    from bodyloop.eval.quality import evaluate_quality
    from bodyloop.eval.report import write_confidence
    from bodyloop.eval.sigmas import find_sigmas
    from bodyloop.skeletons import COCO

    document = opened(truth, "ground truth")
    used = find_sigmas(_one_of(sigmas=sigmas, skeleton=skeleton, card=card), document, COCO)
    labels = document.ground_truth(keypoints=len(as_sigmas(used)), need_area=False)
    how: Any = {"pairing": pairing, "seed": seed, "resamples": resamples}
    told: Any = {"threshold": threshold, "per_keypoint": per_keypoint}
    judged = [evaluate_presence_files(labels, r, used, **told, **how) for r in results]
    quality = [
        evaluate_quality(labels, p.predictions, used, **how)
        if np.isfinite(labels.area[p.assigned.annotation]).all()
        else None
        for p in judged
    ]
    names = short_names([str(r) for r in results])
    plain = [
        {"presence": p.to_json(), "quality": None if q is None else q.to_json()}
        for p, q in zip(judged, quality, strict=True)
    ]
    words = [
        p.table() + ("" if q is None else f"\n\n{q.table()}") for p, q in zip(judged, quality, strict=True)
    ]
    _put(names, plain, words, as_json)
    if report is not None:
        _written(write_confidence(report, judged, quality, names=names, command=_command()))


# the work of several commands


def _judge(
    task: str,
    truth: Path,
    results: Sequence[Path],
    protocol: str,
    given: dict[str, Any],
    images: Path | None,
    report: Path | None,
    resamples: int,
    seed: int,
    as_json: bool,
) -> None:
    """Evaluate by AP, compare, show, and write the page."""
    from bodyloop.eval.comparison import compare
    from bodyloop.eval.tasks import evaluate

    judged = [evaluate(task, truth, r, protocol=protocol, **given) for r in results]
    pair = compare(judged, seed=seed, resamples=resamples)
    if as_json:
        put_json(pair.to_json())
    else:
        _show(pair)
    if report is not None:
        from bodyloop.eval.report import write_report

        _written(write_report(report, pair, images=images, command=_command()))


def _show(pair: Comparison) -> None:
    say(pair.head())
    table(pair.header, pair.rows(), right=range(1, len(pair.header)))
    for note in pair.notes():
        say(f"note: {note}")


def _pck(
    truth: Path,
    results: Sequence[Path],
    norm: str | None,
    threshold: float | None,
    report: Path | None,
    resamples: int,
    seed: int,
    as_json: bool,
) -> None:
    from bodyloop.eval.comparison import short_names
    from bodyloop.eval.pck_files import Norm, evaluate_pck
    from bodyloop.eval.report import write_pck

    first, _, second = (norm or "bbox").partition(",")
    by: Norm = (first.strip(), second.strip()) if second else first
    thresholds = None if threshold is None else (threshold,)
    judged = [evaluate_pck(truth, r, by, thresholds, seed=seed, resamples=resamples) for r in results]
    names = short_names([str(r) for r in results])
    _put(names, [r.to_json() for r in judged], [r.table() for r in judged], as_json)
    if report is not None:
        _written(write_pck(report, judged, names=names, command=_command()))


def _put(names: Sequence[str], plain: Sequence[object], words: Sequence[str], as_json: bool) -> None:
    """One report, or several by name."""
    several = len(names) > 1
    if as_json:
        put_json(dict(zip(names, plain, strict=True)) if several else plain[0])
    else:
        say("\n\n".join(f"{n}\n{w}" if several else w for n, w in zip(names, words, strict=True)))


def _one_of(**given: str | None) -> str | None:
    """The sigmas, however they were named."""
    named = {k: v for k, v in given.items() if v is not None}
    if len(named) > 1:
        raise typer.BadParameter(f"give one of {' and '.join(f'--{k}' for k in named)}")
    return next(iter(named.values()), None)


def _refuse(task: str, given: dict[str, Any], options: Sequence[str]) -> None:
    """Options that a task does not have, as a wrong call."""
    for name, value in given.items():
        if value is not None and name not in options:
            told = {"confidence_threshold": "threshold", "sigmas": "sigmas, --skeleton or --card"}.get(
                name, name
            )
            raise typer.BadParameter(f"--task {task} has no --{told.replace('_', '-')}")


def _check_report(report: Path | None) -> None:
    """That a page can be written, before anything is worked out."""
    if report is not None and not report.absolute().parent.is_dir():
        raise typer.BadParameter(f"--report {report}: there is no folder {report.parent}")


def _written(path: Path) -> None:
    typer.echo(f"report: {path}", err=True)


def _command() -> str:
    """The command line, if it is this program's."""
    ours = Path(sys.argv[0]).name in ("bodyloop", "bodyloop.exe", "__main__.py")
    return shlex.join(["bodyloop", *sys.argv[1:]]) if ours else ""


COMMANDS: tuple[Command, ...] = (
    (
        keypoints,
        (
            "bodyloop eval keypoints dev.json results.json --report report.html --images data/coco/images",
            "bodyloop eval keypoints truth.json before.json after.json",
            "bodyloop eval keypoints --task ex-keypoints cropcoco.json results.json --distance corner",
            "bodyloop eval keypoints --task pck lsp.json results.json --norm torso --threshold 0.2",
        ),
    ),
    (boxes, ("bodyloop eval boxes data/coco/dev.json people/results.json",)),
    (masks, ("bodyloop eval masks data/coco/dev.json masks.json --json",)),
    (presence, ("bodyloop eval presence cropcoco.json results.json --threshold 0.3 --per-keypoint",)),
)
