"""A pose model judged from photographs: one call runs it on annotated boxes and reports numbers with intervals.

Files with COCO's keypoints give AP by OKS and by Ex-OKS, on whole photos and on photos cropped by the CropCOCO
procedure (or as they are, if the file is of cropped photos), and presence beside `BorderBaseline`. Files with
other keypoints give PCK on those that both sides have by name. All give visibility and quality, as far as the
model and the labels have them. The predictions can be saved and judged again by the evaluations of files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bodyloop.data.cropcoco import build
from bodyloop.errors import InputError
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.border import BorderBaseline
from bodyloop.eval.boxed import Boxed, PosePredictor, Scoring, instance_scores, predict_boxed, results_of
from bodyloop.eval.evidence import APReport
from bodyloop.eval.extended import Extension, evaluate_extended, flags_of
from bodyloop.eval.keypoints import evaluate_keypoints
from bodyloop.eval.pck import box_norm
from bodyloop.eval.pck_files import THRESHOLDS, PckNumbers, judge_pck
from bodyloop.eval.photos import PhotoSet, Progress, find_sets
from bodyloop.eval.pose_report import PoseReport, PoseSet, Speed
from bodyloop.eval.presence import BinaryReport, evaluate_presence
from bodyloop.eval.protocols import EXTENDED, rules
from bodyloop.eval.quality import QualityReport, quality_of_pairs
from bodyloop.eval.reading import load_json, read_ground_truth
from bodyloop.skeletons import COCO

Floats = npt.NDArray[np.float64]


def evaluate_pose_model(
    model: PosePredictor,
    data: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    baseline: str | os.PathLike[str] | None = None,
    split: str = "dev",
    flip: bool = True,
    masks: bool = False,
    scoring: Scoring = "keypoints",
    protocol: str = "standard",
    presence: bool = True,
    threshold: float = 0.5,
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
    limit: int | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> PoseReport:
    """Judge a pose model on annotated photos.

    Args:
        data: a COCO keypoint file, a folder with ``<split>.json``, or a folder of such folders.
        images: folder of the photos; None: ``images`` beside each file.
        baseline: COCO file whose labels the presence baseline is fitted on; None: ``train.json`` beside.
        flip, masks: see `predict_boxed`.
        scoring: an instance's score is the mean of its keypoint scores over keypoints whose score is > 0.2
            ("keypoints"), or whose presence is > 0.45 ("presence").
        protocol: see `evaluate_keypoints`; Ex-OKS is standard unless this is "exococotools".
        presence: crop whole photos and judge them, too, if the model has presence.
        threshold: of presence and visibility: "yes" from it on. Ex-OKS takes it, too.
        seed: of the crops and of the bootstrap.
        limit: only the first photos of each file that show somebody, for a quick look.
        progress, clock: see `predict_boxed`.

    Raises:
        FileError, InputError: files or photos that are missing or malformed.
        ConfigError: unknown protocol.
    """
    rules(protocol)  # an unknown one is refused before the model runs
    done: list[PoseSet] = []
    for path, photos in posed_sets(data, images, split, limit):
        beside = path.with_name("train.json")
        labels = baseline if baseline is not None else beside if beside.is_file() else None

        def judged(which: PhotoSet, labels: str | os.PathLike[str] | None = labels) -> PoseSet:
            found = predict_boxed(model, which, flip=flip, masks=masks, progress=progress, clock=clock)
            return judge_set(
                which, found, scoring=scoring, protocol=protocol, threshold=threshold, baseline=labels, seed=seed,
                resamples=resamples,
            )  # fmt: skip

        done.append(judged(photos))
        if (
            presence
            and done[-1].found.presence is not None
            and done[-1].oks is not None
            and not done[-1].cropped
        ):
            done.append(judged(photos.cropped(build(photos.document, seed))))
    return PoseReport(
        model=str(model),
        parameters={
            "flip": flip, "masks": masks, "scoring": scoring, "protocol": protocol, "threshold": threshold,
            "seed": seed, "resamples": resamples,
        },
        sets=tuple(done),
        speed=Speed(sum(s.persons for s in done), sum(s.found.seconds for s in done), flip),
    )  # fmt: skip


def posed_sets(
    data: str | os.PathLike[str], images: str | os.PathLike[str] | None, split: str, limit: int | None
) -> list[tuple[Path, PhotoSet]]:
    """The files with keypoints that a path means, opened.

    Raises:
        FileError, InputError: there is none, or it is malformed.
    """
    sets = [(path, PhotoSet.open(path, images).first(limit)) for path in find_sets(data, split)]
    posed = [(path, photos) for path, photos in sets if photos.names]
    if not posed:
        raise InputError(f"{os.fspath(data)}: no file with keypoints (checked {len(sets)})")
    return posed


def judge_set(
    photos: PhotoSet,
    found: Boxed,
    *,
    scoring: Scoring = "keypoints",
    protocol: str = "standard",
    threshold: float = 0.5,
    baseline: str | os.PathLike[str] | None = None,
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
) -> PoseSet:
    """Everything about predictions on annotated boxes; arguments as of `evaluate_pose_model`.

    Args:
        baseline: labels to fit the guess on that presence is compared with, None for no comparison.

    Raises:
        InputError: the model lacks keypoints that a file of COCO's keypoints has, or has none of another file's.
    """
    weights = boot.draw(found.images, np.random.default_rng(seed), resamples)
    flags = window_flags(photos, found)
    parts: dict[str, Any] = {"cropped": bool((flags == 3).any()), "results": results_of(found, scoring)}
    if found.skeleton is COCO:
        parts |= _average_precision(photos, found, parts, protocol, threshold, weights)
    else:
        pck = parts["pck"] = _pck(photos, found, weights)
        parts["intervals"] = {"PCK": pck.pck[max(pck.pck)]}
    parts |= probabilities(found, flags, threshold, weights)
    if baseline is not None and parts.get("presence") is not None:
        parts |= _beside(fit_baseline(baseline, seed), photos, found, flags, parts["presence"], weights)
    parts |= qualities(found, scoring, weights)
    return PoseSet(photos=photos, found=found, **parts)


def window_flags(photos: PhotoSet, found: Boxed) -> Floats:
    """(N, K) flags of the predicted persons, as Ex-OKS goes by them."""
    truth = read_ground_truth(photos.document, keypoints=len(found.skeleton), need_area=False)
    rows = {int(i): row for row, i in enumerate(truth.ids)}
    return flags_of(truth, Extension(), rules("standard"))[[rows[a["id"]] for a in found.annotations]]


def _average_precision(
    photos: PhotoSet, found: Boxed, parts: Mapping[str, Any], protocol: str, threshold: float, weights: Floats
) -> dict[str, Any]:
    _refuse_lacking(photos, found)
    document, results = photos.document, parts["results"]
    extended_as = protocol if protocol in EXTENDED else "standard"
    oks: APReport
    if parts["cropped"]:
        oks = evaluate_extended(document, results, COCO, extended_as, plain=True)
    else:
        oks = evaluate_keypoints(document, results, COCO, protocol)
    extended = evaluate_extended(document, results, COCO, extended_as, confidence_threshold=threshold)
    reports = {"AP": oks, "Ex_AP": extended}
    return {
        "oks": oks,
        "extended": extended,
        "intervals": {
            name: boot.interval(r.numbers["AP"] or 0.0, boot.ap_samples(r.evidence, weights))
            for name, r in reports.items()
        },
    }


def _refuse_lacking(photos: PhotoSet, found: Boxed) -> None:
    lacking = np.isnan(found.keypoints).all(axis=(0, 2))
    if lacking.any():
        names = [photos.names[i] for i in np.flatnonzero(lacking)]
        raise InputError(f"{photos.origin}: OKS needs all keypoints, the model lacks {', '.join(names)}")


def _pck(photos: PhotoSet, found: Boxed, weights: Floats) -> PckNumbers:
    """PCK over the keypoints that model and file share by name; norm max(w, h) of the annotated box."""
    if np.isnan(found.keypoints).all():
        raise InputError(f"{photos.origin}: model and file have no keypoint name in common")
    xywh = np.array([a["bbox"] for a in found.annotations], np.float64)
    norm = box_norm(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1))
    return judge_pck(
        found.keypoints, found.labels, norm, found.image,
        names=photos.names, weights=weights, thresholds=THRESHOLDS["bbox"], words="max(w, h) of the annotated box",
    )  # fmt: skip


def probabilities(
    found: Boxed, flags: Floats, threshold: float, weights: Floats
) -> dict[str, BinaryReport | None]:
    """Presence and visibility, where the model has them and both kinds are labelled; flags: (N, K)."""
    out: dict[str, BinaryReport | None] = {}
    for task, values in (("presence", found.presence), ("visibility", found.visibility)):
        if values is None:
            continue
        report = evaluate_presence(
            np.clip(values, 0, 1), np.where(np.isfinite(values), flags, 0),
            task="presence" if task == "presence" else "visibility", threshold=threshold,
            image=found.image, weights=weights,
        )  # fmt: skip
        out[task] = report if report.positives and report.negatives else None
    return out


def qualities(found: Boxed, scoring: Scoring, weights: Floats) -> dict[str, QualityReport]:
    """Quality of keypoints and persons; nothing where labels have no areas."""
    area = np.array([a.get("area", np.nan) for a in found.annotations], np.float64)
    if np.isnan(area).any():
        return {}
    keypoints, persons = quality_of_pairs(
        found.keypoints, found.scores, instance_scores(found, scoring), found.labels, area,
        found.skeleton.sigma_array, image=found.image, weights=weights,
    )  # fmt: skip
    return {"keypoint_quality": keypoints, "instance_quality": persons}


def fit_baseline(annotations: str | os.PathLike[str], seed: int = 0) -> BorderBaseline:
    """The presence baseline from a COCO file, cropped like the photos it is compared on (labels only)."""
    document, _ = load_json(annotations)
    if not isinstance(document, Mapping) or not isinstance(document.get("annotations"), Sequence):
        raise InputError(f"{os.fspath(annotations)}: not a COCO file (no list 'annotations')")
    bare = [{k: v for k, v in a.items() if k != "segmentation"} for a in document["annotations"]]
    return BorderBaseline.fit(build({**document, "annotations": bare}, seed).document)


def _beside(
    baseline: BorderBaseline,
    photos: PhotoSet,
    found: Boxed,
    flags: Floats,
    model: BinaryReport,
    weights: Floats,
) -> dict[str, object]:
    """The guess on the same keypoints, and what the model is better by."""
    assert found.presence is not None
    guess = baseline.predict(photos.document, found.annotations)
    other = evaluate_presence(guess, flags)
    if model.auroc is None or other.auroc is None:
        return {"baseline": other}
    used = flags > 0
    image = np.broadcast_to(found.image[:, None], flags.shape)[used]
    ours, theirs = (
        boot.auroc_samples(v[used], flags[used] < 3, image, weights) for v in (found.presence, guess)
    )
    return {"baseline": other, "advantage": boot.difference(model.auroc, other.auroc, ours, theirs)}
