from __future__ import annotations

import numpy as np
import pytest

from bodyloop.errors import InputError
from bodyloop.eval import pck as m
from tests.eval.stored import arrays, close

Z = arrays("pck.npz")
DATA = (Z["pred"], Z["gt"], Z["mask"])


@pytest.mark.parametrize("threshold", [0.05, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("norm", ["box", "head"])
def test_stored_pck(norm: str, threshold: float) -> None:
    r = m.pck(*DATA, Z[f"{norm}_size"], threshold)
    close(r.each, Z[f"pck_{norm}_{threshold}_each"], 1e-6)
    close([r.mean, r.keypoints], Z[f"pck_{norm}_{threshold}"], 1e-6)


def test_stored_means() -> None:
    close(m.nme(*DATA, Z["box_size"]) or np.nan, Z["nme_box"], 1e-6)
    close(m.nme(*DATA, Z["head_size"]) or np.nan, Z["nme_head"], 1e-6)
    close(m.auc(*DATA), Z["auc_30"], 1e-6)
    close(m.auc(*DATA, 100.0), Z["auc_100"], 1e-6)
    close((m.epe(*DATA) or np.nan) / float(Z["epe"]), 1.0, 1e-6)


def test_stored_mpii() -> None:
    table = m.mpii_summary(*DATA, Z["head_size"])
    close(np.array(list(table.values()), np.float64), Z["mpii"], 1e-6)
    each = 100 * m.pck(*DATA, Z["head_size"], 0.5).each
    close(each, Z["mpii_each"], 1e-6)


def test_exactly_the_threshold_is_a_miss() -> None:
    truth = np.zeros((1, 2, 2))
    predicted = np.array([[[5.0, 0.0], [4.9, 0.0]]])
    r = m.pck(predicted, truth, np.ones((1, 2), bool), (10.0, 10.0), 0.5)
    assert r.each.tolist() == [0.0, 1.0]


def test_a_norm_of_zero_leaves_the_person_out() -> None:
    predicted, truth = np.zeros((2, 1, 2)), np.zeros((2, 1, 2))
    predicted[0] = 100
    r = m.pck(predicted, truth, np.ones((2, 1), bool), [(0, 10), (10, 10)], 0.5)
    assert r.each.tolist() == [1.0]


def test_nothing_labelled() -> None:
    r = m.pck(np.zeros((2, 3, 2)), np.zeros((2, 3, 2)), np.zeros((2, 3), bool), (1, 1))
    assert (r.each == -1).all() and r.mean == 0 and r.keypoints == 0
    assert m.epe(np.zeros((2, 3, 2)), np.zeros((2, 3, 2)), np.zeros((2, 3), bool)) is None


def test_torso_is_the_predicted_one_where_the_labelled_is_below_a_pixel() -> None:
    truth, predicted = np.zeros((2, 6, 2)), np.zeros((2, 6, 2))
    truth[0, 4] = (3, 4)  # 5 px
    truth[1, 4] = (0.5, 0)  # half a pixel
    predicted[:, 5] = (0, 7)
    assert m.torso_norm(predicted, truth).tolist() == [[5, 5], [7, 7]]


def test_norms_of_boxes() -> None:
    assert m.box_norm([[0, 0, 10, 30]]).tolist() == [[30, 30]]
    close(m.head_norm([[0, 0, 30, 40]]), [[30, 30]], 1e-12)  # 0.6 * 50


@pytest.mark.parametrize("mask", [np.ones((3, 2), bool), np.ones((2, 3, 1), bool)])
def test_shapes_that_do_not_fit(mask: np.ndarray) -> None:
    with pytest.raises(InputError, match="expected keypoints"):
        m.pck(np.zeros((2, 3, 2)), np.zeros((2, 3, 2)), mask, (1, 1))
