"""Non-maximum suppression against the definition, written out plainly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bodyloop.geometry import suppress


def overlap(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], extra: float) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0]) + extra
    h = min(a[3], b[3]) - max(a[1], b[1]) + extra
    if w <= 0 or h <= 0:
        return 0.0
    area = [(c[2] - c[0] + extra) * (c[3] - c[1] + extra) for c in (a, b)]
    return float(w * h / (sum(area) - w * h))


def brute(boxes: npt.NDArray[np.float64], scores: list[float], threshold: float, extra: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(overlap(boxes[i], boxes[j], extra) <= threshold for j in kept):
            kept.append(i)
    return kept


corners = hnp.arrays(np.int64, st.tuples(st.integers(0, 12), st.just(4)), elements=st.integers(0, 20))


@given(corners, st.data(), st.booleans())
def test_is_the_definition(raw: npt.NDArray[np.int64], data: st.DataObject, inclusive: bool) -> None:
    boxes = np.concatenate([raw[:, :2], raw[:, :2] + 1 + raw[:, 2:]], axis=1).astype(np.float64)
    scores = data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=len(boxes), max_size=len(boxes)))
    threshold = data.draw(st.sampled_from([0.1234, 0.3456, 0.6543]))  # no ratio of small integers
    expected = brute(boxes, scores, threshold, float(inclusive))
    found = suppress(boxes, np.array(scores), threshold, inclusive=inclusive)
    assert found.tolist() == expected
    assert suppress(boxes, np.array(scores), threshold, limit=2, inclusive=inclusive).tolist() == expected[:2]


def test_threshold_itself_stays() -> None:
    boxes = np.array([[0, 0, 2, 2], [0, 0, 2, 1]], np.float32)  # IoU exactly 1/2
    assert suppress(boxes, np.array([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert suppress(boxes, np.array([0.9, 0.8]), 0.49).tolist() == [0]


def test_pixel_counting_overlaps_more() -> None:
    boxes = np.array([[0, 0, 1, 1], [1, 0, 2, 1]], np.float32)  # touching; as pixels 2 of 6 are shared
    assert suppress(boxes, np.array([0.9, 0.8]), 0.3).tolist() == [0, 1]
    assert suppress(boxes, np.array([0.9, 0.8]), 0.3, inclusive=True).tolist() == [0]


def test_nothing_in_nothing_out() -> None:
    assert suppress(np.zeros((0, 4)), np.zeros(0), 0.5).tolist() == []
