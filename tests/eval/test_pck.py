from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bodyloop.errors import ConfigError, InputError
from bodyloop.eval import pck as m
from bodyloop.eval import pck_files as f
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
    close(m.epe(*DATA) or np.nan, Z["epe"], 1e-6)


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


def test_no_prediction_is_a_miss() -> None:
    predicted = np.zeros((2, 1, 2))
    predicted[1] = np.nan
    whole = np.ones((2, 1), bool)
    assert m.pck(predicted, np.zeros((2, 1, 2)), whole, (1, 1)).each.tolist() == [0.5]
    assert m.auc(predicted, np.zeros((2, 1, 2)), whole) == pytest.approx(
        0.5 * 19 / 20
    )  # at 0 nothing is right
    assert m.epe(predicted, np.zeros((2, 1, 2)), whole) == 0


# ------------------------------------------------------------------ files

NAMES = ("head", "left_shoulder", "right_hip")


def people(*boxes: tuple[float, float, float, float], images: bool = True) -> dict[str, Any]:
    """A person in each image, keypoints at the box's corner, 50 px below and 80 px below, all visible."""
    annotations = [
        {
            "id": 10 + i, "image_id": 1 + i * images, "category_id": 1, "bbox": list(b),
            "keypoints": [b[0], b[1], 2, b[0], b[1] + 50, 2, b[0] + 0, b[1] + 80, 2],
        }
        for i, b in enumerate(boxes)
    ]  # fmt: skip
    records = [{"id": i + 1} for i in range(len(boxes) if images else 1)]
    return {
        "images": records,
        "annotations": annotations,
        "categories": [{"id": 1, "keypoints": list(NAMES)}],
    }


def guesses(gt: dict[str, Any], *off: float) -> list[dict[str, Any]]:
    """All keypoints of each person so far to the right."""
    return [
        {
            "image_id": a["image_id"], "category_id": 1, "score": 0.5,
            "keypoints": [v + o * (i % 3 == 0) for i, v in enumerate(a["keypoints"])],
        }
        for a, o in zip(gt["annotations"], off, strict=False)
    ]  # fmt: skip


def test_files_of_one_person_an_image() -> None:
    gt = people((0, 0, 40, 100), (0, 0, 40, 200), (0, 0, 40, 100))
    dt = guesses(gt, 10, 10)  # 0.1 and 0.05 of the longer side; the third has no prediction
    dt.insert(0, dt[0] | {"score": 0.4, "keypoints": [0.0] * 9})  # a worse one that is not asked
    r = f.evaluate_pck(gt, dt, thresholds=(0.051, 0.101), resamples=50)
    assert r.assigned.how.startswith("best score") and r.counts["paired"] == 2
    n = r.numbers
    assert (n.persons, n.missing) == (3, 1)
    assert [i.value for i in n.pck.values()] == pytest.approx([1 / 3, 2 / 3])
    assert n.each[0.051] == pytest.approx(dict.fromkeys(NAMES, 1 / 3))
    assert n.epe == 10 and n.nme == pytest.approx(0.075)
    # 10 px are less than i / 20 of 30 px from i = 7 on
    assert n.auc[30.0] == pytest.approx(2 / 3 * 13 / 20)
    assert n.pck[0.051].low == 0 and n.pck[0.051].high <= 1
    out = json.loads(json.dumps(r.to_json(), allow_nan=False))
    assert out["PCK"]["0.101"]["value"] == pytest.approx(2 / 3) and out["MPII"] is None
    assert "1 of 3 persons without a prediction" in r.table()


def test_files_paired_by_id() -> None:
    gt = people((0, 0, 40, 100), (300, 0, 40, 100), images=False)
    dt = guesses(gt, 1, 30)
    with pytest.raises(InputError, match=r"image 1 .* shows several"):
        f.evaluate_pck(gt, dt)
    for d, a in zip(dt, reversed(gt["annotations"]), strict=True):
        d["annotation_id"] = a["id"]  # each is for the other person
    assert f.evaluate_pck(gt, dt, resamples=5).numbers.pck[0.2].value == 0
    dt[0]["annotation_id"] = 99
    with pytest.raises(InputError, match="annotation 99"):
        f.evaluate_pck(gt, dt, pairing="id")
    with pytest.raises(ConfigError, match="leave out the misses"):
        f.evaluate_pck(gt, dt, pairing="oks")


def test_torso_and_other_lengths() -> None:
    """Left shoulder to right hip are 30 px; 4 px are less than 0.2 of it, 7 px are not."""
    gt = people((0, 0, 40, 100), (0, 0, 40, 100))
    r = f.evaluate_pck(gt, guesses(gt, 4, 7), "torso", (0.2,), resamples=5)
    assert r.numbers.pck[0.2].value == 0.5
    # head to hip: 80 px
    r = f.evaluate_pck(gt, guesses(gt, 4, 7), ("head", "right_hip"), (0.2,), resamples=5)
    assert r.numbers.pck[0.2].value == 1 and r.numbers.norm == "head to right_hip"
    # a hip that is not labelled: the predicted torso, which is as long
    gt["annotations"][0]["keypoints"][6:] = [0, 0, 0]
    dt = guesses(people((0, 0, 40, 100), (0, 0, 40, 100)), 4, 7)
    assert f.evaluate_pck(gt, dt, "torso", (0.2,), resamples=5).numbers.each[0.2]["head"] == 0.5
    with pytest.raises(InputError, match="needs the keypoint 'thorax'"):
        f.evaluate_pck(gt, dt, ("thorax", "head"))
    with pytest.raises(ConfigError, match="bbox, head, torso"):
        f.evaluate_pck(gt, dt, "arm")


def test_head_boxes_of_each_kind() -> None:
    """0.6 of the diagonal 50 is 30: 14 px are right at 0.5, 15 px are not (strictly less)."""
    gt = people(*[(0, 0, 40, 100)] * 4)
    for a, (field, value) in zip(
        gt["annotations"],
        [("bbox_head", [9, 9, 30, 40]), ("head_box", [0, 0, 30, 40]), ("head_size", 30)],
        strict=False,
    ):
        a[field] = value
    r = f.evaluate_pck(gt, guesses(gt, 14, 15, 14, 0), "head", resamples=5)
    assert r.numbers.each[0.5]["head"] == pytest.approx(2 / 3)  # the fourth has no head box
    assert any("norm is 0" in w for w in r.warnings)
    with pytest.raises(InputError, match="needs a field bbox_head"):
        f.evaluate_pck(people((0, 0, 1, 1)), [], "head")


def test_mpii_from_files() -> None:
    gt = people((0, 0, 40, 100))
    gt["categories"][0]["keypoints"] = [str(i) for i in range(16)]
    gt["annotations"][0] |= {"keypoints": [5.0, 5, 1] * 16, "head_size": 10}
    r = f.evaluate_pck(gt, guesses(gt, 2), "head", resamples=5)
    assert r.numbers.mpii is not None and r.numbers.mpii["total"] == 100 and r.numbers.mpii["total@0.1"] == 0
    assert "MPII total" in r.table()


def test_files_without_names_of_keypoints() -> None:
    gt = people((0, 0, 1, 1))
    del gt["categories"][0]["keypoints"]
    with pytest.raises(InputError, match="name no keypoints"):
        f.evaluate_pck(gt, [])
