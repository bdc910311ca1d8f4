"""Which prediction of a results file speaks of which annotated person: what judging single keypoints needs.

Three ways; reports name the one that was taken:

* "id": by annotation id, where a model was given the annotated boxes and its file says whose each one was.
* "score": the best scored prediction of each image, where nobody shows more than one person.
* "oks": matched at OKS 0.5, as AP does it. It leaves out whom the model missed, and pairs that are much off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Literal

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError, InputError
from bodyloop.eval.documents import Document, opened
from bodyloop.eval.keypoints import evaluate_keypoints
from bodyloop.eval.reading import GroundTruth, Predictions, ResultSource, Source, read_predictions
from bodyloop.skeletons import Skeleton

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
How = Literal["auto", "id", "score", "oks"]

WORDS = {
    "id": "annotation id",
    "score": "best score of each image, one person an image",
    "oks": "matched at OKS 0.5",
}


@dataclass(frozen=True, eq=False)
class Assigned:
    """M predictions with the person that each speaks of.

    Attributes:
        how: in words, for reports.
        prediction, annotation: (M,) indices into the two files; nobody occurs twice.
        persons: how many persons could have had a prediction (no crowds, something labelled).
        warnings: what is odd about the pairing.
    """

    how: str
    prediction: Ints
    annotation: Ints
    persons: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class FilesReport:
    """Base of the reports about single keypoints of COCO files.

    Attributes:
        truth, predictions: the files.
        assigned: which prediction was judged against which person, and how that was found.
        parameters: what the run was told.
        warnings: what is odd about the files.
    """

    truth: GroundTruth
    predictions: Predictions
    assigned: Assigned
    parameters: Mapping[str, object]
    warnings: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Images, persons with labels, predictions, and predictions that have a person."""
        return {
            "images": len(self.truth.image_ids),
            "persons": self.assigned.persons,
            "predictions": len(self.predictions),
            "paired": len(self.assigned.prediction),
        }

    def head(self, task: str) -> dict[str, object]:
        """What the json of every report starts with."""
        return {
            "task": task,
            "pairing": self.assigned.how,
            "parameters": dict(self.parameters),
            "counts": self.counts,
            "warnings": list(self.warnings),
            "version": version("bodyloop"),
            "sha256": {"ground_truth": self.truth.digest, "predictions": self.predictions.digest},
        }

    def lines(self, task: str, *sections: str) -> str:
        """A table: a heading with counts and pairing, sections, warnings."""
        n = self.counts
        head = f"{task}: {n['paired']} of {n['persons']} persons, {n['images']} images; {self.assigned.how}"
        return "\n".join([head, *sections, *(f"  note: {w}" for w in self.warnings)])


def read_both(
    ground_truth: Source | GroundTruth | Document,
    results: ResultSource | Predictions,
    keypoints: int | None = None,
) -> tuple[GroundTruth, Predictions]:
    """Both files with K keypoints (None: as many as the ground truth names); what is read already, as it is."""
    if isinstance(ground_truth, GroundTruth):
        truth = ground_truth
    else:
        document = opened(ground_truth, "ground truth")
        k = keypoints or len(document.ground_truth(need_area=False).keypoint_names)
        if not k:
            raise InputError(f"{document.origin}: its categories name no keypoints")
        truth = document.ground_truth(keypoints=k, need_area=False)
    if truth.keypoints is None:
        raise ConfigError(f"{truth.origin} was not read with keypoints")
    if isinstance(results, Predictions):
        return truth, results
    return truth, read_predictions(results, truth, keypoints=truth.keypoints.shape[1])


def assign(
    truth: GroundTruth,
    predictions: Predictions,
    sigmas: npt.ArrayLike | Skeleton,
    how: How = "auto",
    *,
    otherwise: How = "oks",
) -> Assigned:
    """Find each prediction's person.

    Args:
        truth, predictions: read with keypoints.
        how: one of the three ways, or "auto": by id if all predictions have fitting ids, else ``otherwise``.

    Raises:
        ConfigError: an unknown way.
        InputError: a way that does not fit the files; the message says why.
    """
    if how not in ("auto", *WORDS):
        raise ConfigError(f"pairing must be auto, {', '.join(WORDS)}, got {how!r}")
    people = persons(truth)
    notes: tuple[str, ...] = ()
    if how in ("auto", "id"):
        misfit = _misfit(truth, predictions)
        if misfit is None:
            return _by_id(truth, predictions, people)
        if how == "id":
            raise InputError(f"pairing by annotation id: {misfit}")
        notes = () if predictions.annotation_ids is None else (f"not paired by id: {misfit}",)
    if (otherwise if how == "auto" else how) == "score":
        return _by_score(truth, predictions, people, notes)
    return _by_oks(truth, predictions, people, sigmas, notes)


def persons(truth: GroundTruth) -> Bools:
    """(G,) who is no crowd and has labelled keypoints."""
    if truth.keypoints is None:
        raise ConfigError(f"{truth.origin} was not read with keypoints")
    return np.asarray(~truth.crowd & (truth.keypoints[..., 2] > 0).any(axis=1))


def _misfit(truth: GroundTruth, predictions: Predictions) -> str | None:
    """Why predictions cannot be paired by id, None if they can."""
    ids = predictions.annotation_ids
    if ids is None:
        return f"not all predictions of {predictions.origin} have a number annotation_id (or id)"
    at, known = _index(truth, ids)
    fits = known & (truth.image[at] == predictions.image) if len(truth.ids) else known
    if fits.all():
        return None
    i = int(np.flatnonzero(~fits)[0])
    image = truth.image_ids[predictions.image[i]]
    return f"prediction {i} says it is for annotation {ids[i]}, but image {image} has none with that id"


def _index(truth: GroundTruth, ids: Ints) -> tuple[Ints, Bools]:
    """Positions of ids among the annotations, and which are there at all."""
    if not len(truth.ids):
        return np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
    order = np.argsort(truth.ids, kind="stable")
    at = order[np.minimum(np.searchsorted(truth.ids, ids, sorter=order), len(order) - 1)]
    return at, np.asarray(truth.ids[at] == ids)


def _by_id(truth: GroundTruth, predictions: Predictions, people: Bools) -> Assigned:
    assert predictions.annotation_ids is not None
    at, _ = _index(truth, predictions.annotation_ids)
    _, first = np.unique(at, return_index=True)
    first = np.sort(first)
    doubles = len(at) - len(first)
    notes = (f"{doubles} predictions for somebody who had one before were left out",) if doubles else ()
    chosen = first[people[at[first]]]
    return Assigned(WORDS["id"], chosen, at[chosen], int(people.sum()), notes)


def _by_score(
    truth: GroundTruth, predictions: Predictions, people: Bools, notes: tuple[str, ...]
) -> Assigned:
    crowded = np.flatnonzero(np.bincount(truth.image[people]) > 1)
    if len(crowded):
        raise InputError(
            f"{predictions.origin} does not say which person each prediction is for (annotation_id), and image "
            f"{truth.image_ids[crowded[0]]} of {truth.origin} shows several"
        )
    person = np.full(len(truth.image_ids), -1)
    person[truth.image[people]] = np.flatnonzero(people)
    known = np.flatnonzero(
        (person[predictions.image] >= 0) & (predictions.category == truth.category[person[predictions.image]])
    )
    order = known[np.lexsort((-predictions.scores[known], predictions.image[known]))]
    _, first = np.unique(predictions.image[order], return_index=True)
    chosen = order[first]
    return Assigned(WORDS["score"], chosen, person[predictions.image[chosen]], int(people.sum()), notes)


def _by_oks(
    truth: GroundTruth,
    predictions: Predictions,
    people: Bools,
    sigmas: npt.ArrayLike | Skeleton,
    notes: tuple[str, ...],
) -> Assigned:
    if np.isnan(truth.area[people]).any():
        raise InputError(
            f"pairing by OKS: annotations of {truth.origin} without area, which OKS is measured by"
        )
    evidence = evaluate_keypoints(truth, predictions, sigmas).evidence
    a = evidence.areas.index("all")
    matches = evidence.levels[0].matches
    found = matches.annotation[a][0].astype(np.int64)
    counted = (found >= 0) & ~matches.ignored[a][0]
    prediction = evidence.pairing.predictions[counted]
    annotation = evidence.pairing.annotations[found[counted]]
    order = np.argsort(prediction, kind="stable")
    return Assigned(WORDS["oks"], prediction[order], annotation[order], int(people.sum()), notes)
