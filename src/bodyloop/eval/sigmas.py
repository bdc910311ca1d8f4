"""Which sigmas an evaluation goes by: given ones, those that the annotations bring along, or the task's own.

A skeleton of one's own is evaluated by any keypoint task, once somebody says how exactly its keypoints can be
labelled: as a list, a skeleton's name, a skeleton's or a model's file, or in the category of the annotations.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from bodyloop.errors import ConfigError, InputError
from bodyloop.eval.documents import Document
from bodyloop.eval.keypoints import as_sigmas
from bodyloop.eval.reading import GroundTruth
from bodyloop.skeletons import SKELETONS, Skeleton, load_skeleton, skeleton_by_name

Sigmas = npt.ArrayLike | Skeleton


def find_sigmas(given: object, ground_truth: Document | GroundTruth, default: Skeleton) -> Sigmas:
    """The sigmas to evaluate by.

    A skeleton with more keypoints than the persons have gives those with the same names.

    Args:
        given: K numbers, a `Skeleton`, or as text: a skeleton's name, numbers with commas, a skeleton's file
            (.toml), a model's name, card or file; None to go by the annotations.
        ground_truth: whose persons have K keypoints; a category may have ``sigmas`` (K numbers).
        default: of the task, if it has as many keypoints.

    Raises:
        ConfigError: nobody says which, or the number of sigmas is not that of the keypoints.
        InputError: categories with sigmas that are none, or that differ.
    """
    k = _count(ground_truth)
    sigmas: Sigmas | None = _named(given) if given is not None else _of_categories(ground_truth)
    if sigmas is None:
        if k not in (None, len(default)):
            raise ConfigError(_what_to_give(ground_truth.origin, k, default))
        return default
    found = sigmas if isinstance(sigmas, Skeleton) else as_sigmas(sigmas)
    if isinstance(found, Skeleton) and k not in (None, len(found)):
        found = _by_name(found, _names(ground_truth))
    if k not in (None, len(found)):
        raise ConfigError(f"{len(found)} sigmas, but persons of {ground_truth.origin} have {k} keypoints")
    return found


def _count(ground_truth: Document | GroundTruth) -> int | None:
    """K of the first annotation, None if there is none or it has no keypoints."""
    if isinstance(ground_truth, GroundTruth):
        return None if ground_truth.keypoints is None else ground_truth.keypoints.shape[1]
    for annotation in ground_truth.records("annotations")[:1]:
        flat = annotation.get("keypoints")
        if isinstance(flat, list | tuple) and len(flat) % 3 == 0:
            return len(flat) // 3
    return None


def _names(ground_truth: Document | GroundTruth) -> Sequence[str]:
    """Of the keypoints, as the first category that has some says."""
    if isinstance(ground_truth, GroundTruth):
        return ground_truth.keypoint_names
    found = (c.get("keypoints") for c in ground_truth.records("categories"))
    return next(
        ([str(name) for name in names] for names in found if names and isinstance(names, list | tuple)), ()
    )


def _by_name(skeleton: Skeleton, names: Sequence[str]) -> Skeleton | npt.NDArray[np.float64]:
    """The sigmas of some of a skeleton's keypoints; the skeleton itself if it lacks one of them."""
    if not names or not set(names) <= set(skeleton.keypoints):
        return skeleton
    return skeleton.sigma_array[[skeleton.index(n) for n in names]]


def _of_categories(ground_truth: Document | GroundTruth) -> npt.NDArray[np.float64] | None:
    if isinstance(ground_truth, GroundTruth):
        return None
    found: dict[str, npt.NDArray[np.float64]] = {}
    for category in ground_truth.records("categories"):
        if category.get("sigmas") is not None:
            name = f"{ground_truth.origin}: category id {category.get('id')}"
            try:
                found[name] = as_sigmas(category["sigmas"])
            except (ConfigError, ValueError) as e:
                raise InputError(f"{name}: field 'sigmas': {e}") from e
    sigmas = list(found.values())
    for name, other in found.items():
        if not np.array_equal(other, sigmas[0]):
            raise InputError(f"{name}: its sigmas differ from another category's; evaluate one at a time")
    return sigmas[0] if sigmas else None


def _named(given: object) -> Sigmas:
    if not isinstance(given, str | os.PathLike):
        return cast(Sigmas, given)
    text = os.fspath(given)
    parts = [p.strip() for p in text.split(",")]
    if all(p.replace(".", "", 1).isdecimal() for p in parts):
        return [float(p) for p in parts]
    path = Path(text)
    if path.suffix.lower() == ".toml" and path.is_file() and _is_skeleton(path):
        return load_skeleton(path)
    if text.strip().lower().replace("_", "-") in SKELETONS:
        return skeleton_by_name(text)
    return _of_model(given)


def _is_skeleton(path: Path) -> bool:
    try:
        return "keypoints" in tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False  # reading it as a card says what is wrong


def _of_model(given: str | os.PathLike[str]) -> Skeleton:
    from bodyloop.errors import ModelError
    from bodyloop.models.registry import find_card

    text = os.fspath(given)
    try:
        card = find_card(Path(given) if isinstance(given, os.PathLike) else text)
    except ModelError as e:
        if Path(text).exists():
            raise
        known = ", ".join(SKELETONS)
        raise ConfigError(f"sigmas {text!r}: no skeleton ({known}), no model and no file") from e
    if card.skeleton is None:
        raise ConfigError(f"sigmas {text!r}: the model {card.name} has no skeleton")
    return card.skeleton


def _what_to_give(origin: str, k: int, default: Skeleton) -> str:
    like = [name for name, s in SKELETONS.items() if len(s) == k]
    names = f" (with {k} keypoints: {', '.join(like)})" if like else ""
    return (
        f"{origin}: persons have {k} keypoints, the task's sigmas are those of {default.name} ({len(default)}); "
        f"give sigmas: a skeleton's name{names}, {k} numbers, or the file of a skeleton or model; "
        "or write 'sigmas' into the category of the annotations"
    )
