"""Recall at equal false positives: lists written down by hand, and what must hold for any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bodyloop.errors import ConfigError, InputError
from bodyloop.eval.crowd_recall import recall_gain
from bodyloop.eval.photos import PhotoSet
from bodyloop.eval.pipeline_run import PipelineRun, Seen

Found = tuple[int, bool, float]
"""Place of the photo, whether it is right, score. Right ones find the photo's next person."""


def run_of(
    people: list[int], *passes: list[Found], overlapping: bool = False, base: bool = False
) -> PipelineRun:
    """A run on photos with so many people each, far apart (or in pairs that overlap)."""
    images: list[dict[str, Any]] = [{"id": i, "width": 1000, "height": 100} for i in range(len(people))]
    for image in images if base else ():
        image["base_id"] = image["id"] // 2
    boxes = {
        i: [[60.0 * p - (40 * (p % 2) if overlapping else 0), 0.0, 50.0, 90.0] for p in range(n)]
        for i, n in enumerate(people)
    }
    rows = [
        {"id": 100 * i + p, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": b, "area": 4500.0}
        for i, mine in boxes.items()
        for p, b in enumerate(mine)
    ]
    seen = []
    for i in range(len(people)):
        stages = []
        for found in passes:
            count = 0
            stage = []
            for n, (_, right, score) in enumerate(f for f in found if f[0] == i):
                box = boxes[i][count] if right else [900.0, 10.0 * n, 8.0, 9.0]
                count += right
                stage.append({"image_id": i, "category_id": 1, "bbox": box, "box": score})
            stages.append(tuple(stage))
        seen.append(Seen(i, tuple(stages), {}, "passes"))
    document = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "person"}]}
    photos = PhotoSet(document, Path(), "by hand", (), Path("by_hand.json"))
    return PipelineRun("by hand", photos, 1, tuple(seen), {})


def test_by_hand() -> None:
    """Ten people on five photos. First: 4 right, 2 wrong. Second: the same, two more right and two more wrong."""
    first = [
        (0, True, 0.9),
        (1, True, 0.8),
        (2, True, 0.7),
        (3, True, 0.6),
        (0, False, 0.75),
        (4, False, 0.5),
    ]
    new = [(0, True, 0.65), (4, True, 0.3), (1, False, 0.85), (2, False, 0.2)]
    r = recall_gain(run_of([2] * 5, first, first + new), rates=(0.2, 0.3, 0.4, 1.0), resamples=200)
    own, low, middle = r.found["everybody"]
    # 2 of 5 photos: right above the second wrong one. Of all ten: 0.85 and 0.75 are wrong, then 0.5
    assert (own.rate, own.own) == (0.4, True)
    assert own.first.value == pytest.approx(0.4) and own.second.value == pytest.approx(0.5)
    assert own.gain.value == pytest.approx(0.1) == r.gain().value
    # one wrong one: of the first list all above 0.5, of the second above 0.75
    assert (low.rate, low.own) == (0.2, False)
    assert low.first.value == pytest.approx(0.4) and low.second.value == pytest.approx(0.2)
    assert middle.rate == 0.3 and middle.first.value == low.first.value
    assert r.people == {"everybody": 10, "overlapping": 0} and list(r.found) == ["everybody"]
    told = json.loads(json.dumps(r.to_json()))
    assert told["found"]["everybody"][0]["gain"]["value"] == pytest.approx(0.1)
    assert "0.400 (its own)" in r.table() and "5 photos made from 5" in r.table()


def test_those_who_overlap() -> None:
    """Two pairs and two people alone (IoU of a pair 30 / 70): others found are neither right nor wrong there."""
    run = run_of([3, 3], [(0, True, 0.9), (1, True, 0.8)], [(i, True, 0.9 - p / 9) for i in (0, 1) for p in range(3)],
                 overlapping=True)  # fmt: skip
    r = recall_gain(run, resamples=20)
    # boxes at 0, 20, 120: the first two of each photo are a pair
    assert r.people == {"everybody": 6, "overlapping": 4}
    own = r.found["overlapping"][0]
    assert own.first.value == pytest.approx(0.5) and own.second.value == pytest.approx(1)
    assert r.gain("overlapping").low >= 0.5 - 1e-9 and r.gain().value == pytest.approx(4 / 6)


def test_photos_made_from_one_stay_together() -> None:
    first = [(i, True, 0.9) for i in range(4)]
    second = first + [(i, True, 0.5) for i in (0, 1)]
    r = recall_gain(run_of([2] * 4, first, second, base=True), resamples=300, seed=1)
    assert (r.photos, r.units) == (4, 2)
    # both from the one (+0.5), both from the other (0), or one of each (0.25): nothing between
    assert r.gain().value == pytest.approx(0.25) and (r.gain().low, r.gain().high) == pytest.approx((0, 0.5))


def test_what_cannot_be_compared() -> None:
    run = run_of([1], [(0, True, 0.9)])
    with pytest.raises(ConfigError, match="threshold"):
        recall_gain(run, threshold=0.42)
    with pytest.raises(InputError, match="no mask score"):
        recall_gain(run, ranking="mask")
    with pytest.raises(ConfigError, match="has masks"):
        recall_gain(run, by="masks")


FOUND = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0.01, 0.99)), max_size=8)


@settings(max_examples=25, deadline=None)
@given(FOUND, st.lists(st.integers(0, 3), max_size=4))
def test_right_people_are_never_a_loss_and_bad_ones_below_cost_nothing(
    found: list[Found], more: list[int]
) -> None:
    people = [12] * 4
    found = sorted(found, key=lambda f: -f[2])
    same = recall_gain(run_of(people, found, found), resamples=10)
    assert same.gain().value == 0 and (same.gain().low, same.gain().high) == (0, 0)
    better = recall_gain(run_of(people, found, [*found, *((i, True, 0.5) for i in more)]), resamples=10)
    assert better.gain().value == pytest.approx(len(more) / 48) and better.gain().low >= 0
    worse = recall_gain(run_of(people, found, [*found, *((i, False, 0.001) for i in more)]), resamples=10)
    assert worse.gain().value == 0 and not np.isnan(worse.gain().low)
