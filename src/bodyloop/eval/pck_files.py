"""PCK of persons: one report for results files and for models judged from photos.

Everybody with labelled keypoints counts: who has no prediction is missed at every threshold (NME and EPE are means
over what was predicted, and the report says how many were not). Predictions belong to persons by annotation id, or
are the best scored of each image where nobody shows several persons, as in LSP; never by how well they fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError, InputError
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.assigned import FilesReport, How, assign, persons, read_both
from bodyloop.eval.documents import opened
from bodyloop.eval.pck import (
    MPII_KEYPOINTS,
    auc,
    box_norm,
    distances,
    epe,
    head_norm,
    mpii_summary,
    nme,
    pck,
    torso_norm,
)
from bodyloop.eval.presence_files import keypoint_names
from bodyloop.eval.reading import GroundTruth, Predictions, Record, ResultSource, Source, numbers
from bodyloop.skeletons import COCO

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Norm = str | tuple[str, str]

THRESHOLDS: dict[str, tuple[float, ...]] = {"bbox": (0.05, 0.1, 0.2), "head": (0.1, 0.5), "torso": (0.1, 0.2)}
TORSO = ("left_shoulder", "right_hip")  # keypoints 4 and 5 of JHMDB
AUC_NORMS = (30.0, 100.0)  # px
HEAD_FIELDS = ("bbox_head", "head_box", "head_size")


@dataclass(frozen=True, eq=False)
class PckNumbers:
    """PCK and its relatives of N persons.

    Attributes:
        norm: in words.
        persons: who counts; missing: of them, who has no prediction.
        pck: by threshold, with intervals over images.
        each: by threshold, the share of each keypoint by name, -1 where nobody has it labelled.
        auc: by the length in px that stands for 1: mean PCK at 0, 0.05, ..., 0.95 of it.
        nme, epe: mean distance in norms and in px of what was predicted; None without any.
        mpii: MPII's table in %, for head norms of its 16 keypoints.
        not_predicted: keypoints of the file that the model does not have; they do not count.
    """

    norm: str
    persons: int
    missing: int
    pck: Mapping[float, boot.Interval]
    each: Mapping[float, Mapping[str, float]]
    auc: Mapping[float, float]
    nme: float | None
    epe: float | None
    mpii: Mapping[str, float | None] | None
    not_predicted: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {
            "norm": self.norm,
            "persons": self.persons,
            "missing": self.missing,
            "PCK": {f"{t:g}": i.to_json() for t, i in self.pck.items()},
            "each": {f"{t:g}": dict(e) for t, e in self.each.items()},
            **{f"AUC_{norm:g}": v for norm, v in self.auc.items()},
            "NME": self.nme,
            "EPE": self.epe,
            "MPII": None if self.mpii is None else dict(self.mpii),
            "not_predicted": list(self.not_predicted),
        }

    def table(self) -> str:
        """As text."""
        lines = [f"  norm: {self.norm}; {self.missing} of {self.persons} persons without a prediction"]
        lines += [f"  PCK@{t:<6g} {i}" for t, i in self.pck.items()]
        lines += [f"  AUC {norm:<7g} {v:.4f}  (px)" for norm, v in self.auc.items()]
        lines += [f"  NME         {boot.shown(self.nme)}", f"  EPE         {boot.shown(self.epe)}  (px)"]
        if self.mpii is not None:
            lines += [f"  MPII {k:<12} {'-' if v is None else f'{v:.2f} %'}" for k, v in self.mpii.items()]
        lines.append("  " + f"{'keypoint':<16}" + "".join(f"{f'PCK@{t:g}':>10}" for t in self.each))
        for name in next(iter(self.each.values()), {}):
            values = [e[name] for e in self.each.values()]
            lines.append(f"  {name:<16}" + "".join(f"{'-' if v < 0 else f'{v:.4f}':>10}" for v in values))
        if self.not_predicted:
            lines.append(f"  not predicted: {', '.join(self.not_predicted)}")
        return "\n".join(lines)


def judge_pck(
    predicted: Floats,
    labels: Floats,
    norm: Floats,
    image: Ints,
    *,
    names: Sequence[str],
    weights: Floats,
    thresholds: Sequence[float],
    words: str,
    mpii: bool = False,
) -> PckNumbers:
    """PCK, AUC, NME and EPE of N persons.

    Args:
        predicted: (N, K, 2) px; NaN: no prediction, a miss. A keypoint that is NaN for everybody with a prediction
            does not count.
        labels: (N, K, 3) x, y, flag.
        norm: (N, 2) px; persons with a 0 are left out of what is divided by it.
        image: (N,), weights: (R, I): of the bootstrap.
        words: what the norm is; mpii: make MPII's table, too, if there are its 16 keypoints.
    """
    found = np.asarray(np.isfinite(predicted).all(axis=-1))
    known: Bools = np.any(found, axis=0) if found.any() else np.ones(found.shape[1], bool)
    of = predicted, labels[..., :2], (labels[..., 2] > 0) & known
    d = distances(*of, norm)
    counted = boot.per_image(~np.isnan(d), image, weights.shape[1])
    shares, each = {}, {}
    for t in thresholds:
        share = pck(*of, norm, t)
        right = boot.per_image(d < np.float32(t), image, weights.shape[1])
        shares[t] = boot.interval(share.mean, boot.ratio_samples(right, counted, weights))
        each[t] = {name: float(v) for name, v, there in zip(names, share.each, known, strict=True) if there}
    return PckNumbers(
        norm=words,
        persons=len(labels),
        missing=int(np.count_nonzero(~found.any(axis=1))),
        pck=shares,
        each=each,
        auc={n: auc(*of, n) for n in AUC_NORMS},
        nme=nme(*of, norm),
        epe=epe(*of),
        mpii=mpii_summary(*of, norm) if mpii and len(names) == MPII_KEYPOINTS else None,
        not_predicted=tuple(name for name, there in zip(names, known, strict=True) if not there),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class PckReport(FilesReport):
    """PCK of a results file."""

    numbers: PckNumbers

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        return {**self.head("pck"), **self.numbers.to_json()}

    def table(self) -> str:
        """As text."""
        return self.lines("pck", self.numbers.table())


def evaluate_pck(
    ground_truth: Source,
    results: ResultSource | Predictions,
    norm: Norm = "bbox",
    thresholds: Sequence[float] | None = None,
    *,
    pairing: How = "auto",
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
) -> PckReport:
    """PCK, AUC, NME and EPE of a results file, over everybody with labelled keypoints.

    Args:
        ground_truth: COCO-style file that names its keypoints.
        results: COCO-style results.
        norm: what distances are divided by: "bbox", max(w, h) of the annotated box; "head" (PCKh), 0.6 of the
            diagonal of the head box, which annotations have as ``bbox_head`` (x y w h, PoseTrack) or ``head_box``
            (x1 y1 x2 y2, MPII), or the length itself as ``head_size``; "torso" (tPCK, JHMDB), left shoulder to
            right hip; or two keypoints whose distance it is. A distance that is not labelled or below 1 px is
            taken from the prediction.
        thresholds: shares of the norm; None: the usual ones of it.
        pairing: "auto": by annotation id, else the best score of each image.
        seed, resamples: of the intervals over images.

    Raises:
        FileError, InputError: unreadable or malformed files, images of several persons without annotation ids,
            annotations without head boxes.
        ConfigError: an unknown norm.
    """
    document = opened(ground_truth, "ground truth")
    truth, found = read_both(document, results)
    if pairing == "oks":
        raise ConfigError("PCK of predictions that were matched by OKS would leave out the misses")
    assigned = assign(truth, found, COCO, pairing, otherwise="score")
    assert truth.keypoints is not None and found.keypoints is not None
    whom = np.flatnonzero(persons(truth))
    labels = truth.keypoints[whom]
    predicted = np.full((len(whom), labels.shape[1], 2), np.nan)
    predicted[np.searchsorted(whom, assigned.annotation)] = found.keypoints[assigned.prediction, :, :2]
    names = keypoint_names(truth, ())
    kind = norm if isinstance(norm, str) else "keypoints"
    lengths, words = _norm(norm, document.records("annotations"), truth, whom, predicted, names)
    image = truth.image[whom]
    weights = boot.draw(max(len(truth.image_ids), 1), np.random.default_rng(seed), resamples)
    steps = THRESHOLDS.get(kind, THRESHOLDS["torso"]) if thresholds is None else tuple(thresholds)
    result = judge_pck(
        predicted, labels, lengths, image,
        names=names, weights=weights, thresholds=steps, words=words, mpii=norm == "head",
    )  # fmt: skip
    flat = int(np.count_nonzero((lengths == 0).any(axis=1)))
    notes = (f"{flat} persons whose norm is 0 were left out of PCK and NME",) if flat else ()
    return PckReport(
        truth=truth,
        predictions=found,
        assigned=assigned,
        parameters={"norm": norm, "thresholds": list(steps), "seed": seed, "resamples": resamples},
        warnings=(*assigned.warnings, *notes),
        numbers=result,
    )


def _norm(
    norm: Norm,
    annotations: Sequence[Record],
    truth: GroundTruth,
    whom: Ints,
    predicted: Floats,
    names: tuple[str, ...],
) -> tuple[Floats, str]:
    """Norms (N, 2) px of the persons ``whom``, and what they are in words."""
    assert truth.keypoints is not None
    if norm == "bbox":
        boxes = truth.boxes[whom]
        return box_norm(
            np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        ), "max(w, h) of the box"
    if norm == "head":
        return _heads(
            [annotations[i] for i in whom], truth.origin
        ), "head size, 0.6 of the head box's diagonal"
    if isinstance(norm, str) and norm != "torso":
        raise ConfigError(f"norm must be bbox, head, torso or two names of keypoints, got {norm!r}")
    a, b = TORSO if isinstance(norm, str) else norm
    for name in (a, b):
        if name not in names:
            raise InputError(
                f"{truth.origin}: norm {norm!r} needs the keypoint {name!r}; it has {', '.join(names)}"
            )
    ends = names.index(a), names.index(b)
    labels = truth.keypoints[whom]
    # an end that is not labelled stands at 0, 0: without a length of its own, the prediction's is taken
    whole: Bools = np.all(labels[:, ends, 2] > 0, axis=1)
    points = np.where(whole[:, None, None], labels[..., :2], 0)
    return np.nan_to_num(torso_norm(predicted, points, ends)), f"{a} to {b}"


def _heads(annotations: Sequence[Record], origin: str) -> Floats:
    where = f"{origin}: annotation"
    out = np.zeros((len(annotations), 2))
    given = [next((f for f in HEAD_FIELDS if a.get(f)), None) for a in annotations]
    if not any(given):
        raise InputError(f"{origin}: norm 'head' needs a field {', '.join(HEAD_FIELDS)} in the annotations")
    for field in HEAD_FIELDS:
        rows = [i for i, f in enumerate(given) if f == field]
        mine = [annotations[i] for i in rows]
        if field == "head_size":
            out[rows] = numbers(mine, field, where, ())[:, None]
            continue
        boxes = numbers(mine, field, where, (4,))
        if field == "bbox_head":
            boxes[:, 2:] += boxes[:, :2]
        out[rows] = head_norm(boxes)
    return out
