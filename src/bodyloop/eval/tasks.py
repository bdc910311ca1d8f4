"""The evaluations of COCO files by the names that papers and the command line use.

`TASKS` says what there is; `evaluate` runs one of them on a ground truth and a results file. Options that a
task does not have are refused, with the nearest one it has.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from bodyloop.errors import ConfigError
from bodyloop.eval.boxes import evaluate_boxes
from bodyloop.eval.crowdpose import evaluate_crowdpose
from bodyloop.eval.documents import Document, opened
from bodyloop.eval.evidence import APReport
from bodyloop.eval.extended import evaluate_extended
from bodyloop.eval.instance_masks import evaluate_masks
from bodyloop.eval.keypoints import evaluate_keypoints
from bodyloop.eval.ochuman import evaluate_ochuman
from bodyloop.eval.reading import GroundTruth, Predictions, ResultSource, Source
from bodyloop.eval.sigmas import Sigmas, find_sigmas
from bodyloop.eval.wholebody import evaluate_wholebody
from bodyloop.skeletons import COCO, CROWDPOSE_14, Skeleton


@dataclass(frozen=True)
class Task:
    """One way to judge a results file.

    Attributes:
        name: as `evaluate` takes it.
        title: in words, for tables and pages.
        similarity: what predictions and annotations are compared by: "OKS", "Ex-OKS", "box IoU", "mask IoU".
        run: called as run(ground_truth, results, protocol=..., **options).
        options: names of the keyword arguments that ``run`` takes beside the protocol.
        skeleton: whose sigmas it goes by if none are given; None: it takes none.
        own_fields: it reads more of the files than `GroundTruth` and `Predictions` hold.
    """

    name: str
    title: str
    similarity: str
    run: Callable[..., APReport]
    options: tuple[str, ...] = ()
    skeleton: Skeleton | None = None
    own_fields: bool = False


_EXTENDED = ("sigmas", "distance", "padding", "confidence_threshold", "recompute_flags", "plain")

TASKS: dict[str, Task] = {
    t.name: t
    for t in (
        Task("coco-keypoints", "COCO keypoints", "OKS", evaluate_keypoints, ("sigmas", "drop_unsure"), COCO),
        Task(
            "ex-keypoints", "Keypoints in and out of the window", "Ex-OKS", evaluate_extended, _EXTENDED, COCO
        ),
        Task("crowdpose", "CrowdPose", "OKS", evaluate_crowdpose, ("sigmas",), CROWDPOSE_14, own_fields=True),
        Task("coco-wholebody", "COCO-WholeBody", "OKS", evaluate_wholebody, own_fields=True),
        Task("ochuman", "OCHuman", "OKS", evaluate_ochuman, ("sigmas", "masks"), COCO, own_fields=True),
        Task("bbox", "Boxes", "box IoU", evaluate_boxes),
        Task("segm", "Instance masks", "mask IoU", evaluate_masks, own_fields=True),
    )
}


def evaluate(
    task: str,
    ground_truth: Source | GroundTruth,
    results: ResultSource | Predictions,
    *,
    protocol: str = "standard",
    **options: object,
) -> APReport:
    """Judge a results file.

    Args:
        task: a name of `TASKS`.
        ground_truth: COCO file or its dict (or already read, for tasks without ``own_fields``).
        results: COCO results file or its list (likewise).
        protocol: "standard", or the tool whose numbers are to be repeated.
        options: of the task (`Task.options`); None means not given. ``sigmas`` is what `find_sigmas` takes:
            numbers, a skeleton, its name, or a file that has one; without it those of the annotations'
            category count, then those of the task's skeleton.

    Raises:
        ConfigError: unknown task or protocol, an option that the task does not have, no sigmas for these
            keypoints.
        FileError, InputError: unreadable or malformed files.
    """
    chosen = TASKS.get(task)
    if chosen is None:
        raise ConfigError(f"no task {task!r}; {_nearest(task, TASKS)}")
    given = {k: v for k, v in options.items() if v is not None}
    for name in given:
        if name not in chosen.options:
            hint = _nearest(name, chosen.options) if chosen.options else "it has none beside the protocol"
            raise ConfigError(f"task {task!r} has no option {name!r}; {hint}")
    if chosen.own_fields and (isinstance(ground_truth, GroundTruth) or isinstance(results, Predictions)):
        raise ConfigError(f"task {task!r} reads more fields than those already read; give it the files")
    if chosen.skeleton is not None:
        truth, given["sigmas"] = _with_sigmas(chosen, chosen.skeleton, ground_truth, given.get("sigmas"))
        return chosen.run(truth, results, protocol=protocol, **given)
    return chosen.run(ground_truth, results, protocol=protocol, **given)


def _with_sigmas(
    task: Task, skeleton: Skeleton, source: Source | GroundTruth, given: object
) -> tuple[Document | GroundTruth, Sigmas]:
    """The ground truth as the task takes it, and its sigmas."""
    found = source if isinstance(source, GroundTruth) else opened(source, "ground truth")
    sigmas = find_sigmas(given, found, skeleton)
    if isinstance(found, Document) and not task.own_fields:
        k = len(sigmas) if isinstance(sigmas, Skeleton) else np.size(sigmas)
        found = found.ground_truth(keypoints=k)
    return found, sigmas


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, 1, 0.4)
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(names)}"
