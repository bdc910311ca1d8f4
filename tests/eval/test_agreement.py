"""On COCO-style files without quirks the standard's numbers are those of public evaluators, run here."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pytest

from bodyloop.eval import evaluate
from bodyloop.masks import Masks

KINDS = {"coco-keypoints": "keypoints", "bbox": "bbox", "segm": "segm"}
W, H = 320, 240


def files(seed: int, images: int = 25) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Random people with boxes, masks and keypoints in two categories, some crowds; predictions near and far."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 5)):
            x, y, w, h = rng.uniform([0, 0, 10, 10], [W - 60, H - 60, 180, 180]).round(1)
            flags = rng.integers(0, 3, 17)
            xy = rng.uniform([x, y], [x + w, y + h], (17, 2)).round(1) * (flags > 0)[:, None]
            person = {
                "id": len(annotations) + 1,
                "image_id": image,
                "category_id": int(rng.integers(1, 3)),
                "iscrowd": int(rng.random() < 0.1),
                "bbox": [x, y, w, h],
                "area": float(round(w * h * rng.uniform(0.4, 0.8), 2)),
                "segmentation": [[x, y, x + w, y, x + w * 0.8, y + h, x + w * 0.1, y + h * 0.9]],
                "keypoints": np.column_stack([xy, flags]).ravel().tolist(),
                "num_keypoints": int((flags > 0).sum()),
            }
            annotations.append(person)
            results += [prediction(person, rng) for _ in range(rng.integers(0, 4))]
    order = rng.permutation(len(results))
    return {
        "info": {},
        "images": [{"id": i + 1, "width": W, "height": H, "file_name": f"{i}.jpg"} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
    }, [results[i] for i in order]


def prediction(person: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    x, y, w, h = np.array(person["bbox"]) + rng.normal(0, 4, 4).round(1)
    w, h = max(w, 2.0), max(h, 2.0)
    mask = Masks.from_polygons([[[x, y, x + w, y, x + w, y + h, x, y + h]]], (W, H)).rle(0)
    points = np.array(person["keypoints"]).reshape(17, 3)
    points[:, :2] += rng.normal(0, 2, (17, 2))
    points[:, 2] = rng.uniform(0.1, 1, 17)
    return {
        "image_id": person["image_id"],
        "category_id": person["category_id"],
        "score": round(float(rng.random()), 2),  # ties, too
        "bbox": [float(v) for v in (x, y, w, h)],
        "segmentation": dict(mask),
        "keypoints": points.ravel().round(1).tolist(),
    }


def of_kind(task: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results with the fields of one task."""
    fields = {"coco-keypoints": ("keypoints",), "bbox": ("bbox",), "segm": ("segmentation",)}[task]
    common = ("image_id", "category_id", "score")
    return [{k: copy.deepcopy(r[k]) for k in (*common, *fields)} for r in results]


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pycocotools(task: str, seed: int) -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed (the test group has it)")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    gt, results = files(seed)
    dt = of_kind(task, results)
    ours = evaluate(task, gt, dt)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(gt)
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(dt), KINDS[task])
        run.evaluate()
        run.accumulate()
        run.summarize()
    assert list(ours.numbers.values()) == run.stats.tolist()  # to the last bit
    assert (ours.evidence.curves.precision[:, 0] == run.eval["precision"]).all()
    assert ours.numbers["AP"] > 0.05  # type: ignore[operator]


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_faster_coco_eval(task: str, seed: int) -> None:
    pytest.importorskip(
        "faster_coco_eval", reason="faster-coco-eval is not installed (the test group has it)"
    )
    from faster_coco_eval import COCO, COCOeval_faster

    gt, results = files(seed)
    dt = of_kind(task, results)
    ours = evaluate(task, gt, dt)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(copy.deepcopy(gt))
        run = COCOeval_faster(coco, coco.loadRes(dt), KINDS[task], print_function=lambda *_: None)
        run.evaluate()
        run.accumulate()
        run.summarize()
    numbers = list(ours.numbers.values())
    np.testing.assert_allclose(run.stats[: len(numbers)], np.array(numbers), rtol=0, atol=1e-12)
