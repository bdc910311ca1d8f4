"""The shipped model's conformal regions on annotated photos, over random splits by photo."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bodyloop.api import load_pose
from bodyloop.calibrate import JudgedRegions, over_splits
from bodyloop.calibrate.listen import Listener, Regions
from bodyloop.eval.boxed import predict_boxed
from bodyloop.eval.photos import PhotoSet

DATA = Path(os.environ.get("BODYLOOP_DATA", "")) / "coco" / "dev.json"
ALPHA, SPLITS = 0.1, 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_file(), reason="needs BODYLOOP_DATA/coco/dev.json and its photos"),
]


@pytest.fixture(scope="module")
def judged() -> list[JudgedRegions]:
    photos, heard = PhotoSet.open(DATA), Regions(keep=True)
    model = load_pose("pmpose-n", threads=1, detector=None)
    predict_boxed(Listener(model, photos, [heard]), photos)
    return over_splits(heard.scores, heard.cells, model.skeleton.keypoints, ALPHA, repeats=SPLITS)


def test_regions_hold_what_they_promise_on_average(judged: list[JudgedRegions]) -> None:
    assert len(judged) == SPLITS
    assert abs(np.mean([j.coverage for j in judged]) - (1 - ALPHA)) < 0.03
    assert abs(np.mean([j.coverage_of_photographs for j in judged]) - (1 - ALPHA)) < 0.03


def test_every_keypoint_is_held_as_often_on_average(judged: list[JudgedRegions]) -> None:
    for name in judged[0].each:
        mean = np.mean([j.each[name] for j in judged if name in j.each])
        assert abs(mean - (1 - ALPHA)) < 0.05, name


def test_regions_are_a_small_part_of_the_window(judged: list[JudgedRegions]) -> None:
    assert np.mean([j.median_share for j in judged]) < 0.25
    assert max(j.median_share for j in judged) < 0.25
    assert max(j.whole for j in judged) < 0.01
