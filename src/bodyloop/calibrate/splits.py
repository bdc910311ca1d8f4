"""Photos to fit on and photos to report on, never the same ones.

A split is by photo: people of one photo share light, camera and labeller. What was fitted on photos is not reported
on any of them, and temperatures and thresholds come from different photos, because a threshold promises something
only for scores that it did not help to choose.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from bodyloop.errors import InputError
from bodyloop.eval.photos import PhotoSet

TEMPERATURE_SHARE = 1 / 3  # of the photos to fit on; a temperature is one number and needs few
_NAMED = 5  # ids that an error names


def labelled_ids(photos: PhotoSet) -> list[int]:
    """Ids of the photos that show somebody with labelled keypoints, ascending."""
    return sorted({a["image_id"] for _, a in photos.persons()})


def split(photos: PhotoSet, fraction: float, seed: int) -> tuple[PhotoSet, PhotoSet]:
    """Two sets of whole photos, drawn at random: ``fraction`` of those with people, and the others.

    Raises:
        InputError: a fraction outside (0, 1), or too few photos for both.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the share of photos to fit on must lie between 0 and 1, got {fraction}")
    ids = labelled_ids(photos)
    first = round(fraction * len(ids))
    if not 0 < first < len(ids):
        raise InputError(
            f"{photos.origin}: {len(ids)} photos with people cannot be split into some to fit on and some to report "
            "on; label some dozens"
        )
    order = np.random.default_rng(seed).permutation(len(ids))
    return chosen(photos, {ids[i] for i in order[:first]}), chosen(photos, {ids[i] for i in order[first:]})


def chosen(photos: PhotoSet, ids: set[int]) -> PhotoSet:
    """The photos of these ids."""
    images = [i for i in photos.document["images"] if i["id"] in ids]
    kept = [a for a in photos.document["annotations"] if a["image_id"] in ids]
    document = {**photos.document, "images": images, "annotations": kept}
    return replace(photos, document=document, origin=f"{photos.origin}, a part")


def refuse_same(fit: str | os.PathLike[str], report: str | os.PathLike[str]) -> None:
    """Refuse one file for both.

    Raises:
        InputError: they are the same file.
    """
    a, b = Path(fit), Path(report)
    if a.exists() and b.exists() and a.samefile(b):
        raise InputError(
            f"{b} is the file that was fitted on: a report on it would praise itself. Give another file, or one "
            "file to be split: --data with --fraction"
        )


def refuse_overlap(fit: PhotoSet, report: PhotoSet) -> None:
    """Refuse photos that are in both sets.

    Raises:
        InputError: some are, by their ids; it names them.
    """
    both = sorted({i["id"] for i in fit.document["images"]} & {i["id"] for i in report.document["images"]})
    if both:
        more = f" and {len(both) - _NAMED} more" if len(both) > _NAMED else ""
        raise InputError(
            f"{len(both)} photos are both in {fit.origin} and in {report.origin}: image ids "
            f"{', '.join(map(str, both[:_NAMED]))}{more}. What was fitted on them cannot be reported on them; leave "
            "them out of one file (or renumber, if they are other photos)"
        )
