"""Whole photos on one side or the other, and no report on what was fitted on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bodyloop.calibrate import refuse_overlap, refuse_same, split
from bodyloop.errors import InputError
from bodyloop.eval.photos import PhotoSet
from tests.calibrate.small import write_set


def ids(photos: PhotoSet) -> list[int]:
    return sorted(i["id"] for i in photos.document["images"])


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_photos_are_divided_with_their_people(tmp_path: Path, fraction: float) -> None:
    photos = PhotoSet.open(write_set(tmp_path, 12))
    a, b = split(photos, fraction, 0)
    assert sorted(ids(a) + ids(b)) == ids(photos)
    assert len(ids(a)) == 12 * fraction
    for part in (a, b):
        assert {p["image_id"] for p in part.document["annotations"]} == set(ids(part))
        assert len(part.persons()) == 2 * len(ids(part))
    assert ids(split(photos, fraction, 0)[0]) == ids(a)
    assert ids(split(photos, fraction, 1)[0]) != ids(a)
    refuse_overlap(a, b)


def test_what_cannot_be_divided(tmp_path: Path) -> None:
    photos = PhotoSet.open(write_set(tmp_path, 2))
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(InputError, match="share of photos"):
            split(photos, fraction, 0)
    with pytest.raises(InputError, match=r"dev\.json: 2 photos with people cannot be split"):
        split(photos, 0.1, 0)


def test_photos_in_both_are_named(tmp_path: Path) -> None:
    a = PhotoSet.open(write_set(tmp_path / "a", 8, first_id=1))
    b = PhotoSet.open(write_set(tmp_path / "b", 8, first_id=2))
    with pytest.raises(
        InputError,
        match=r"7 photos are both in .*a.dev.json and in .*b.dev.json: image ids 2, 3, 4, 5, 6 and 2",
    ):
        refuse_overlap(a, b)
    refuse_overlap(a, PhotoSet.open(write_set(tmp_path / "c", 8, first_id=9)))


def test_one_file_for_both_is_refused_however_it_is_named(tmp_path: Path) -> None:
    path = write_set(tmp_path, 2)
    link = tmp_path / "other.json"
    link.symlink_to(path)
    for other in (path, link, tmp_path / "images" / ".." / "dev.json"):
        with pytest.raises(InputError, match="the file that was fitted on"):
            refuse_same(path, other)
    copy = tmp_path / "copy.json"
    shutil.copy(path, copy)
    refuse_same(path, copy)  # another file; its photos are found by their ids
    with pytest.raises(InputError, match="2 photos are both"):
        refuse_overlap(PhotoSet.open(path), PhotoSet.open(copy))
    assert json.loads(copy.read_text())["images"]
