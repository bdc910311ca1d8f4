"""Does a network know its samples by heart? Judged on them as it saw them, while it overfits (``overfit: N``).

Every sample is an image of its own with one person, the crop the same as in training. A recipe, a loss or
labels with a mistake show here within minutes: AP near 1 and presence near always right, or something is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bodyloop.eval.keypoints import evaluate_keypoints
from bodyloop.images import Image
from bodyloop.people import People
from bodyloop.pose.estimator import PoseModel
from bodyloop.train.pose_data import Labelled

AT_ONCE = 32


def judge_samples(model: PoseModel, samples: Sequence[Labelled]) -> dict[str, float]:
    """AP by OKS over the labelled keypoints in the window and, if the model knows it, the accuracy of presence.

    Args:
        samples: not augmented, so that their windows are those of plain boxes.
    """
    people: list[People] = []
    for at in range(0, len(samples), AT_ONCE):
        crops = [s.crop for s in samples[at : at + AT_ONCE]]
        boxes = [c.crop.from_crop(c.box[None])[0].reshape(1, 4) for c in crops]
        people += model.predict([Image(c.pixels.source) for c in crops], boxes, flip=False)
    truth, found = [], []
    for i, (s, p) in enumerate(zip(samples, people, strict=True)):
        truth.append(_labels(i, s))
        found.append(_result(i, s, p))
    document = {
        "images": [{"id": i} for i in range(len(samples))],
        "annotations": truth,
        "categories": [{"id": 1, "name": "person"}],
    }
    report = evaluate_keypoints(document, found, model.skeleton)
    figures = {"AP": report.AP, "score": report.AP}
    if all(p.presence is not None for p in people):
        known = np.stack([s.crop.annotated for s in samples])
        inside = np.stack([s.crop.in_window for s in samples])
        said = np.concatenate([p.presence for p in people if p.presence is not None]) >= 0.5
        figures["presence_accuracy"] = float((said == inside)[known].mean())
    return figures


def _labels(i: int, sample: Labelled) -> dict[str, Any]:
    """An annotation in photo px; keypoints outside the window are unlabelled, as nobody can point at them."""
    c = sample.crop
    flags = np.where(c.in_window, c.annotated * (1 + c.visible), 0)
    points = c.crop.from_crop(c.keypoints[None])[0]
    x1, y1, x2, y2 = c.crop.from_crop(c.box[None])[0].ravel().tolist()
    return {
        "id": i + 1,
        "image_id": i,
        "category_id": 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": sample.area * float(c.crop.map_cell_area[0]),
        "keypoints": np.concatenate([points, flags[:, None]], axis=1).ravel().tolist(),
        "num_keypoints": int((flags > 0).sum()),
        "iscrowd": 0,
    }


def _result(i: int, sample: Labelled, people: People) -> dict[str, Any]:
    assert people.keypoints is not None and people.keypoint_scores is not None
    scores = people.keypoint_scores[0]
    used = sample.crop.annotated & sample.crop.in_window
    return {
        "image_id": i,
        "category_id": 1,
        "score": float(scores[used].mean()) if used.any() else 0.0,
        "keypoints": np.concatenate([people.keypoints[0], scores[:, None]], axis=1).ravel().tolist(),
    }
