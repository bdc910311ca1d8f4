from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from bodyloop.errors import InputError
from bodyloop.eval import bootstrap as m
from bodyloop.eval import evaluate_boxes, evaluate_keypoints
from bodyloop.eval.presence import auroc
from tests.eval.small import guess, person, truth
from tests.eval.test_keypoints import random_scene


def distinct(dt: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    order = np.random.default_rng(seed).permutation(len(dt))
    return [d | {"score": 1 - int(s) / 1000} for d, s in zip(dt, order, strict=True)]


def repeated(
    gt: dict[str, Any], dt: list[dict[str, Any]], weights: np.ndarray
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The files in which image i stands weights[i] times."""
    images, people, guesses = [], [], []
    for i, w in zip(sorted(i["id"] for i in gt["images"]), weights, strict=True):
        for copy_number in range(int(w)):
            new = 1000 * copy_number + i
            images.append({"id": new})
            mine = [a for a in gt["annotations"] if a["image_id"] == i]
            people += [a | {"image_id": new, "id": 1000 * copy_number + a["id"]} for a in mine]
            guesses += [d | {"image_id": new} for d in dt if d["image_id"] == i]
    return gt | {"images": images, "annotations": people}, guesses


@pytest.mark.parametrize("seed", range(12))
def test_ap_of_a_resample_is_that_of_repeated_images(seed: int) -> None:
    gt, dt = random_scene(seed)
    dt = distinct(dt, seed)
    report, boxes = evaluate_keypoints(gt, dt), evaluate_boxes(gt, copy.deepcopy(dt))
    weights = m.draw(len(gt["images"]), np.random.default_rng(seed), 6)
    mine = m.ap_samples(report.evidence, weights)
    medium = m.ap_samples(report.evidence, weights, area="medium", threshold=0)
    by_box = m.ap_samples(boxes.evidence, weights)
    for r, w in enumerate(weights):
        files = repeated(gt, dt, w)
        again = evaluate_keypoints(*files)
        for found, expected in (
            (mine[r], again.AP),
            (medium[r], again.evidence.curves.mean("precision", threshold=0, area=1)),
            (by_box[r], evaluate_boxes(*files).AP),
        ):
            assert (-1 if np.isnan(found) else found) == pytest.approx(expected, abs=1e-12)


def test_weights_of_one_give_the_number_itself() -> None:
    gt, dt = random_scene(3)
    r = evaluate_keypoints(gt, distinct(dt, 0))
    assert m.ap_samples(r.evidence, np.ones((1, len(gt["images"]))))[0] == pytest.approx(r.AP, abs=1e-12)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    gt, dt = random_scene(5)
    r = evaluate_keypoints(gt, dt)
    weights = m.draw(len(gt["images"]), np.random.default_rng(0), 50)
    whole = m.ap_samples(r.evidence, weights)
    monkeypatch.setattr(m, "CELLS", 1)
    assert np.array_equal(whole, m.ap_samples(r.evidence, weights), equal_nan=True)


def test_auroc_of_a_resample_is_that_of_repeated_entries() -> None:
    rng = np.random.default_rng(0)
    p, y, image = rng.integers(0, 6, 60) / 5, rng.uniform(size=60) < 0.4, rng.integers(0, 8, 60)
    weights = m.draw(8, rng, 20)
    mine = m.auroc_samples(p, y, image, weights)
    for r, w in enumerate(weights):
        times = w[image].astype(int)
        assert mine[r] == pytest.approx(auroc(np.repeat(p, times), np.repeat(y, times)), abs=1e-12)


def test_a_resample_of_one_class_has_no_auroc() -> None:
    p, y = np.array([0.2, 0.8]), np.array([False, True])
    assert np.isnan(m.auroc_samples(p, y, np.array([0, 1]), np.array([[2.0, 0.0]]))).all()


def test_ratios_are_averaged_over_columns_that_have_a_denominator() -> None:
    right = np.array([[1.0, 0.0], [0.0, 0.0]])
    counted = np.array([[1.0, 0.0], [1.0, 4.0]])
    samples = m.ratio_samples(right, counted, np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]]))
    assert samples[:2].tolist() == [1.0, 0.25] and np.isnan(samples[2])


def test_every_draw_has_as_many_images() -> None:
    w = m.draw(7, np.random.default_rng(0), 100)
    assert w.shape == (100, 7) and (w.sum(axis=1) == 7).all() and (w >= 0).all()
    assert np.array_equal(w, m.draw(7, np.random.default_rng(0), 100))
    with pytest.raises(InputError, match="at least one image"):
        m.draw(0, np.random.default_rng(0))


def test_interval_and_difference_by_hand() -> None:
    samples = np.arange(101) / 100
    i = m.interval(0.5, samples, level=0.9)
    assert (i.low, i.high) == (pytest.approx(0.05), pytest.approx(0.95)) and "0.5000" in str(i)
    d = m.difference(0.9, 0.5, samples + 1, samples)
    assert (d.value, d.low, d.high) == pytest.approx((0.4, 1, 1))
    assert d.p_value == pytest.approx(2 / 102)  # as small as 101 resamples can make it
    same = m.difference(0.5, 0.5, samples, samples)
    assert same.p_value == 1


def test_no_sample_has_a_value() -> None:
    i = m.interval(-1.0, np.full(5, np.nan))
    assert np.isnan(i.low) and i.resamples == 0
    assert np.isnan(m.difference(0, 0, np.full(3, np.nan), np.zeros(3)).p_value)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """500 experiments with a known AUROC of 0.5: the 90 % interval holds it in 85 to 95 % of them."""
    rng = np.random.default_rng(0)
    image = np.arange(60) // 2
    held = 0
    for _ in range(500):
        p, y = rng.uniform(size=60), rng.uniform(size=60) < 0.5
        samples = m.auroc_samples(p, y, image, m.draw(30, rng, 200))
        i = m.interval(0.5, samples, level=0.9)
        held += i.low <= 0.5 <= i.high
    assert 0.85 <= held / 500 <= 0.95


def test_nobody_to_find() -> None:
    r = evaluate_keypoints(truth([]), [guess(0.5)])
    assert np.isnan(m.ap_samples(r.evidence, np.ones((2, 1)))).all()
    r = evaluate_keypoints(truth([person(1)]), [])
    assert m.ap_samples(r.evidence, np.ones((2, 1))).tolist() == [0, 0]
