"""Reports side by side: intervals, paired differences, names."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bodyloop.errors import InputError
from bodyloop.eval import bootstrap as boot
from bodyloop.eval import comparison as m
from bodyloop.eval import evaluate_boxes, evaluate_keypoints
from tests.eval.small import guess, person, truth
from tests.eval.test_bootstrap import distinct, repeated
from tests.eval.test_keypoints import random_scene


def scene(seed: int) -> tuple[Any, Any]:
    gt, dt = random_scene(seed)
    return gt, distinct(dt, seed)


@pytest.mark.parametrize("seed", range(6))
def test_resampled_numbers_are_those_of_repeated_images(seed: int) -> None:
    gt, dt = scene(seed)
    weights = boot.draw(len(gt["images"]), np.random.default_rng(seed), 5)
    for evaluate in (evaluate_keypoints, evaluate_boxes):
        report: Any = evaluate(gt, dt)
        samples = m.samples_of(report, weights)
        assert set(samples) == {k for k, v in report.numbers.items() if v >= 0}
        for r, w in enumerate(weights):
            again: Any = evaluate(*repeated(gt, dt, w))
            for name, s in samples.items():
                found = -1 if np.isnan(s[r]) else s[r]
                assert found == pytest.approx(again.numbers[name], abs=1e-12), name


def test_every_image_once_gives_the_numbers_themselves() -> None:
    report = evaluate_boxes(*scene(2))
    samples = m.samples_of(report, np.ones((1, len(report.evidence.truth.image_ids))))
    for name, s in samples.items():
        assert s[0] == pytest.approx(report.numbers[name], abs=1e-12)


def two(images: int = 40) -> tuple[Any, Any]:
    """A file that finds everybody and one that finds the even images' people only."""
    gt = truth([person(i, image_id=i) for i in range(1, images + 1)], images)
    all_of_them = [guess(0.9 - i / 1000, image_id=i) for i in range(1, images + 1)]
    return evaluate_keypoints(gt, all_of_them), evaluate_keypoints(gt, all_of_them[1::2])


def test_a_clear_difference_and_none() -> None:
    whole, half = two()
    pair = m.compare([whole, half], ["whole", "half"])
    d = pair.differences[0]["AR"]
    assert d.value == pytest.approx(-0.5) and d.high < -0.3 and d.p_value == pytest.approx(2 / 1001)
    assert pair.intervals[0]["AR"].low == pair.intervals[0]["AR"].high == 1
    assert pair.intervals[1]["AR"].low < 0.5 < pair.intervals[1]["AR"].high
    same = m.compare([half, half], ["one", "other"]).differences[0]["AP"]
    assert (same.value, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_the_same_seed_gives_the_same_intervals() -> None:
    _, half = two()
    a, b, c = (m.compare([half], seed=s, resamples=50).intervals for s in (3, 3, 4))
    assert a == b != c


def test_tables_and_json_hold_all_numbers() -> None:
    whole, half = two(6)
    one = m.compare([half])
    assert one.names == ("predictions",)
    assert [r[0] for r in one.rows()] == list(half.numbers) and all(len(r) == 3 for r in one.rows())
    assert "AP50" in one.table() and "6 images" in one.table()
    assert "-" in one.rows()[3]  # nobody of medium size
    plain: Any = one.to_json()
    assert plain["numbers"]["AR"] == 0.5 and plain["intervals"]["AR"]["value"] == 0.5
    assert plain["bootstrap"] == {"resamples": 1000, "seed": 0}
    both = m.compare([whole, half], ["a", "b"])
    assert both.header[:4] == ["", "a", "b", "b - a"]
    assert all(len(r) == len(both.header) for r in both.rows())
    several = json.loads(json.dumps(both.to_json()))
    assert several["compared_with"] == "a" and several["differences"]["b"]["AR"]["value"] == pytest.approx(
        -0.5
    )
    assert list(several["reports"]) == ["a", "b"]


def test_shared_warnings_are_said_once() -> None:
    gt = truth([person(1, num_keypoints=3)])
    fine = evaluate_keypoints(gt, [guess(0.5)])
    odd = evaluate_keypoints(gt, [guess(0.5), guess(0.4, category_id=7)])
    notes = m.compare([fine, odd], ["fine", "odd"]).notes()
    assert (
        len(notes) == 2 and notes[0].startswith("1 annotations whose") and notes[1].startswith("odd: 1 pred")
    )
    assert m.compare([odd]).notes() == list(odd.warnings)


def test_what_cannot_be_compared_is_refused() -> None:
    whole, half = two(4)
    with pytest.raises(InputError, match="at least one"):
        m.compare([])
    with pytest.raises(InputError, match="not the same ground truth"):
        m.compare([whole, two(5)[0]])
    with pytest.raises(InputError, match="pycocotools"):
        m.compare([whole, evaluate_keypoints(*scene(0), protocol="pycocotools")])
    with pytest.raises(InputError, match="1 names for 2"):
        m.compare([whole, half], ["a"])


def test_a_file_without_people_has_no_intervals() -> None:
    nobody = m.compare([evaluate_keypoints(truth([]), [guess(0.5)])])
    assert nobody.intervals == ({},) and nobody.rows()[0] == ["AP", "-", ""]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a.json", "runs/b.json.gz"], ("a", "b")),
        (["one/results.json", "two/results.json"], ("one/results", "two/results")),
        (["x.json", "x.json"], ("x.json (1)", "x.json (2)")),
        (["deep/er/x.json", "x.json"], ("er/x", "x")),
    ],
)
def test_short_names(paths: list[str], names: tuple[str, ...]) -> None:
    assert m.short_names(paths) == names


def test_without_resamples_there_are_values_only() -> None:
    whole, half = two(4)
    one, both = m.compare([half], resamples=0), m.compare([whole, half], ["a", "b"], resamples=0)
    assert one.header == ["", "value"] and one.rows()[5] == ["AR", "0.5000"] and "interval" not in one.table()
    assert both.header == ["", "a", "b"] and both.rows()[5] == ["AR", "1.0000", "0.5000"]
    assert both.intervals == ({}, {}) and both.differences == ({},)
