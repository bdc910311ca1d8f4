"""Small sets of real persons from the photos of BODYLOOP_DATA, for trainings that are to learn them by heart."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from bodyloop.data.cropcoco import build, cut_image

DATA = os.environ.get("BODYLOOP_DATA")
needs_photos = pytest.mark.skipif(DATA is None, reason="needs BODYLOOP_DATA, photos of COCO persons")

Document = dict[str, Any]

LABELLED = 10  # keypoints that a chosen person has at least
HEIGHT = 120  # px


def photos_of(split: str) -> Document:
    """The COCO persons of a split."""
    document: Document = json.loads((Path(str(DATA)) / "coco" / f"{split}.json").read_text())
    return document


def only(document: Document, people: Sequence[Document]) -> Document:
    """The document with these annotations and their images."""
    ids = {a["image_id"] for a in people}
    return {
        **document,
        "images": [i for i in document["images"] if i["id"] in ids],
        "annotations": list(people),
    }


def persons(split: str, count: int) -> Document:
    """The first large and well labelled persons of a split, one a photo."""
    document = photos_of(split)
    chosen: dict[int, Document] = {}
    for a in document["annotations"]:
        if _large(a) and len(chosen) < count:
            chosen.setdefault(a["image_id"], a)
    return only(document, list(chosen.values()))


def twins(split: str, count: int) -> tuple[Document, Document]:
    """Persons, and the same persons in cropped photos: each loses four to seven tenths of its keypoints."""
    document = photos_of(split)
    whole: dict[int, Document] = {}
    for a in document["annotations"]:
        if len(whole) == count:
            break
        if _large(a) and a["image_id"] not in whole:
            cropped = build(only(document, [a])).document["annotations"]
            if cropped and cropped[0]["bbox"][3] >= HEIGHT / 2 and 0.4 <= _lost(cropped[0]) <= 0.7:
                whole[a["image_id"]] = a
    chosen = only(document, list(whole.values()))
    return chosen, build(chosen).document


def write(root: Path, name: str, document: Document, split: str = "train") -> Path:
    """``root/name/<split>.json`` and the photos it names, cut where the document says so."""
    folder = root / name / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for image in document["images"]:
        source, target = Path(str(DATA)) / "coco" / "images" / image["file_name"], folder / image["file_name"]
        if "crop" in image:
            pixels = cv2.imread(str(source), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            assert pixels is not None
            cv2.imwrite(str(target), cut_image(pixels, image), [cv2.IMWRITE_JPEG_QUALITY, 95])
        else:
            target.symlink_to(source)
    path = root / name / f"{split}.json"
    path.write_text(json.dumps(document))
    return path


def _large(a: Document) -> bool:
    return not a["iscrowd"] and a["num_keypoints"] >= LABELLED and a["bbox"][3] >= HEIGHT


def _lost(a: Document) -> float:
    flags = np.array(a["keypoints"][2::3])
    return float((flags == 3).sum() / (flags > 0).sum())
