"""The evaluations of COCO files by the names that papers and the command line use.

`TASKS` says what there is; `evaluate` runs one of them on a ground truth and a results file. Options that a
task does not have are refused, with the nearest one it has.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bodyloop.errors import ConfigError
from bodyloop.eval.boxes import evaluate_boxes
from bodyloop.eval.evidence import APReport
from bodyloop.eval.instance_masks import evaluate_masks
from bodyloop.eval.keypoints import evaluate_keypoints
from bodyloop.eval.reading import GroundTruth, Predictions, ResultSource, Source


@dataclass(frozen=True)
class Task:
    """One way to judge a results file.

    Attributes:
        name: as `evaluate` takes it.
        title: in words, for tables and pages.
        similarity: what predictions and annotations are compared by: "OKS", "Ex-OKS", "box IoU", "mask IoU".
        run: called as run(ground_truth, results, protocol=..., **options).
        options: names of the keyword arguments that ``run`` takes beside the protocol.
    """

    name: str
    title: str
    similarity: str
    run: Callable[..., APReport]
    options: tuple[str, ...] = ()


TASKS: dict[str, Task] = {
    t.name: t
    for t in (
        Task("coco-keypoints", "COCO keypoints", "OKS", evaluate_keypoints, ("sigmas",)),
        Task("bbox", "Boxes", "box IoU", evaluate_boxes),
        Task("segm", "Instance masks", "mask IoU", evaluate_masks),
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
        ground_truth: COCO file, its dict, or already read.
        results: COCO results file, its list, or already read.
        protocol: "standard", or the tool whose numbers are to be repeated.
        options: of the task (`Task.options`); None means not given.

    Raises:
        ConfigError: unknown task or protocol, an option that the task does not have.
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
    return chosen.run(ground_truth, results, protocol=protocol, **given)


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(name, names, 1, 0.4)
    return (f"did you mean {near[0]!r}? " if near else "") + f"known: {', '.join(names)}"
