"""Pasting people in front of and behind others: pixels, masks and visibility worked by hand, and always sound."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.data.copypaste import CutOut, cut_out, paste
from bodyloop.data.sample import Sample
from bodyloop.errors import InputError
from bodyloop.skeletons import Skeleton

THREE = Skeleton.define("three", ("a", "b", "c"))


def target(mask: bool = True) -> Sample:
    """10 x 8 px of grey 50; keypoints at (2, 2), (5, 4), (20, 3); the person covers x 1..6, y 1..6."""
    image = np.full((8, 10, 3), 50, np.uint8)
    m = np.zeros((8, 10), np.uint8)
    m[1:7, 1:7] = 1
    points = [[2, 2, 2], [5, 4, 2], [20, 3, 2]]
    return Sample.create(image, THREE, points, [1, 1, 7, 7], m if mask else None)


def person(h: int = 4, w: int = 3) -> CutOut:
    """Grey 200, its top left pixel is background."""
    mask = np.ones((h, w), np.uint8)
    mask[0, 0] = 0
    return CutOut(np.full((h, w, 3), 200, np.uint8), mask)


def test_in_front() -> None:
    out = paste(target(), person(), scale=1.0, at=(4, 3), front=True)
    assert (out.image[3:7, 4:7] == 200).sum() == 3 * 11  # 12 pixels but the one of background
    assert (out.image[3, 4] == 50).all()
    assert out.visible.tolist() == [True, False, True]
    assert out.annotated.all()
    assert out.mask is not None and int(out.mask.sum()) == 36 - 11


def test_background_of_the_cut_out_hides_nothing() -> None:
    out = paste(target(), person(), scale=1.0, at=(5, 4), front=True)
    assert out.visible.tolist() == [True, True, True]


def test_behind_changes_only_what_is_not_the_person() -> None:
    before = target()
    out = paste(before, person(), scale=1.0, at=(5, 3), front=False)
    changed = (out.image != before.image).any(axis=2)
    assert before.mask is not None
    assert changed.sum() == 4 and not changed[before.mask > 0].any()  # the column x = 7 only
    assert out.visible.all() and out.mask is before.mask


def test_behind_needs_a_mask() -> None:
    with pytest.raises(InputError, match="without a mask"):
        paste(target(mask=False), person(), scale=1.0, at=(0, 0), front=False)


def test_mirrored_and_scaled() -> None:
    out = paste(target(), person(), scale=2.0, at=(0, 0), front=True, mirrored=True)
    assert (out.image[0, :6, 0] == [200, 200, 200, 200, 50, 50]).all()


def test_cut_out_is_tight() -> None:
    image = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
    mask = np.zeros((6, 5), np.uint8)
    mask[2:4, 1:3] = 1
    got = cut_out(image, mask)
    assert got is not None and (got.pixels == image[2:4, 1:3]).all() and got.mask.all()
    assert cut_out(image, np.zeros_like(mask)) is None


@settings(max_examples=60, deadline=None)
@given(
    at=st.tuples(st.integers(-12, 14), st.integers(-12, 12)),
    scale=st.floats(0.3, 3.0),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_always_sound(at: Any, scale: float, flags: Any) -> None:
    before = target()
    kept = before.image.copy()
    out = paste(before, person(), scale=scale, at=at, front=flags[0], mirrored=flags[1])
    assert (before.image == kept).all() and out.image.shape == kept.shape
    assert not (out.visible & ~before.visible).any()
    changed = (out.image != before.image).any(axis=2)
    assert before.mask is not None and out.mask is not None
    # what changed is what a cut-out of another colour covers: the mask loses exactly that, or none of it changed
    lost = (before.mask > 0) & (out.mask == 0)
    assert (
        (lost == (changed & (before.mask > 0))).all() if flags[0] else not (changed & (before.mask > 0)).any()
    )
