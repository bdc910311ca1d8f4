"""A person detector judged from photographs: box AP and, if it draws them, mask AP with intervals, and speed.

Boxes and masks can be saved and judged again by the evaluations of files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bodyloop.data.cropcoco_folder import make_folder
from bodyloop.eval import bootstrap as boot
from bodyloop.eval.boxes import BoxReport, evaluate_boxes
from bodyloop.eval.instance_masks import MaskReport, evaluate_masks
from bodyloop.eval.photos import IMAGES_AT_ONCE, PhotoSet, Progress, person_category, stem_of, write_json
from bodyloop.eval.protocols import rules
from bodyloop.geometry import boxes_to_xywh
from bodyloop.roles import Detector


@dataclass(frozen=True, eq=False)
class DetectorReport:
    """Boxes and masks of a detector: AP with its interval, the twelve numbers, speed.

    Attributes:
        path: of the labels' file.
        document: the labels that were judged against; results: the boxes as COCO results, with their masks if the
            detector draws some.
        mask_ap, masks: the same of the masks, if everybody has one in the labels, too.
    """

    model: str
    path: Path
    origin: str
    ap: boot.Interval
    report: BoxReport
    images: int
    seconds: float
    document: Mapping[str, Any]
    results: Sequence[Mapping[str, Any]]
    mask_ap: boot.Interval | None = None
    masks: MaskReport | None = None

    def to_json(self) -> dict[str, object]:
        """Plain json."""
        out = {
            "model": self.model, "data": self.origin, "AP": self.ap.to_json(), **self.report.to_json(),
            "images": self.images, "seconds": self.seconds,
        }  # fmt: skip
        if self.masks is not None and self.mask_ap is not None:
            out["masks"] = {"AP": self.mask_ap.to_json(), **self.masks.to_json()}
        return out

    def table(self) -> str:
        """As text."""
        ms = 1000 * self.seconds / max(self.images, 1)
        head = (
            f"{self.model}\n\nbox AP {self.ap}  [{self.origin}, {self.images} images, {ms:.1f} ms an image]"
        )
        boxes = f"{head}\n{self.report.table()}"
        return boxes if self.masks is None else f"{boxes}\n\nmask AP {self.mask_ap}\n{self.masks.table()}"

    def save(self, folder: str | os.PathLike[str]) -> tuple[Path, Path]:
        """Write labels and boxes as COCO files, named by folder and file of the labels.

        Raises:
            FileError: a file cannot be written.
        """
        out = make_folder(Path(folder))
        pair = out / f"{stem_of(self.path)}.json", out / f"{stem_of(self.path)}.results.json"
        write_json(pair[0], self.document)
        write_json(pair[1], self.results)
        return pair


def evaluate_detector(
    detector: Detector,
    annotations: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    protocol: str = "standard",
    seed: int = 0,
    resamples: int = boot.RESAMPLES,
    limit: int | None = None,
    progress: Progress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> DetectorReport:
    """Judge a person detector on annotated photos.

    Photos marked as having incomplete boxes (``complete.boxes`` false) are left out.

    Args:
        detector: with a low score threshold, so that the whole curve is seen.
        annotations: COCO file; the category is the one named person, or the only one.
        images: folder of the photos; None: ``images`` beside the file.
        limit: only the first photos that show somebody, for a quick look.
        progress: called with photos done and photos in all.

    Raises:
        FileError, InputError: files or photos that are missing or malformed.
        ConfigError: unknown protocol.
    """
    rules(protocol)  # an unknown one is refused before the model runs
    photos = PhotoSet.open(annotations, images).first(limit)
    person = person_category(photos)
    records = [i for i in photos.document["images"] if _complete(i)]
    ids = {i["id"] for i in records}
    document = {
        "images": records,
        "categories": [c for c in photos.document["categories"] if c["id"] == person],
        "annotations": [
            a for a in photos.document["annotations"] if a["image_id"] in ids and a["category_id"] == person
        ],
    }
    results: list[dict[str, Any]] = []
    seconds = 0.0
    for at in range(0, len(records), IMAGES_AT_ONCE):
        part = records[at : at + IMAGES_AT_ONCE]
        opened = [photos.photo(i) for i in part]
        start = clock()
        found = detector.detect(opened)
        seconds += clock() - start
        for record, people in zip(part, found, strict=True):
            if people.boxes is None or not len(people):
                continue
            scores = people.scores if people.scores is not None else np.ones(len(people))
            rows: list[dict[str, Any]] = [
                {"image_id": record["id"], "category_id": person, "bbox": b.tolist(), "score": float(s)}
                for b, s in zip(boxes_to_xywh(people.boxes), scores, strict=True)
            ]
            if people.masks is not None:
                for i, row in enumerate(rows):
                    row["segmentation"] = people.masks.rle(i)
            results += rows
        if progress is not None:
            progress(at + len(part), len(records))
    report = evaluate_boxes(document, results, protocol)
    weights = boot.draw(max(len(records), 1), np.random.default_rng(seed), resamples)
    ap = boot.interval(report.AP, boot.ap_samples(report.evidence, weights))
    masks = _judged_masks(document, results, protocol)
    mask_ap = None if masks is None else boot.interval(masks.AP, boot.ap_samples(masks.evidence, weights))
    return DetectorReport(
        str(detector), photos.path, photos.origin, ap, report, len(records), seconds, document, results,
        mask_ap, masks,
    )  # fmt: skip


def _judged_masks(
    document: Mapping[str, Any], results: Sequence[Mapping[str, Any]], protocol: str
) -> MaskReport | None:
    """Masks by the sizes of the masks; None if there are none, or not of everybody."""
    if not results or "segmentation" not in results[0]:
        return None
    if not all(a.get("segmentation") for a in document["annotations"]):
        return None
    plain = [{k: v for k, v in row.items() if k != "bbox"} for row in results]
    return evaluate_masks(document, plain, protocol)


def _complete(image: Mapping[str, Any]) -> bool:
    complete = image.get("complete")
    return not isinstance(complete, Mapping) or bool(complete.get("boxes", True))
