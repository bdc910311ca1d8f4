"""What is heard of a model while it is run: its maps, and the logits that they are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bodyloop.api import load_pose
from bodyloop.calibrate.listen import Heard, Listener, Regions
from bodyloop.errors import ModelError
from bodyloop.eval.boxed import predict_boxed
from bodyloop.eval.photos import PhotoSet
from bodyloop.maps import conformal_score, flip_average, sparsemax
from bodyloop.skeletons import COCO
from tests.calibrate.small import write_set


@pytest.mark.parametrize("flip", [True, False])
def test_maps_are_those_of_the_logits_as_they_are_used(tmp_path: Path, flip: bool) -> None:
    photos, heard = PhotoSet.open(write_set(tmp_path, 2)), list[Heard]()
    model = load_pose("pmpose-n", threads=1, detector=None)
    found = predict_boxed(
        Listener(model, photos, [heard.append], logits="logits"), photos, flip=flip, maps=True
    )
    assert [h.image for h in heard] == [1, 2] and found.maps is not None
    assert model.card.decode is not None
    temperature = model.card.decode.temperature
    for h in heard:
        assert h.logits is not None and h.maps.shape == h.logits.shape == (2, 19, 64, 48)
        expected = sparsemax(h.logits, temperature)
        assert (h.mirrored is not None) == flip
        if h.mirrored is not None:
            expected = (expected + sparsemax(h.mirrored, temperature)) / 2
            assert np.abs(h.logits - h.mirrored).max() > 0.1  # put back, not equal
        np.testing.assert_allclose(h.maps, expected, atol=2e-6)
        assert h.counted[:, 17:].sum() == 0  # neck and head top are not labelled
    counted = sum(int(h.counted.sum()) for h in heard)
    assert counted == len(found.maps.person) > 50


def test_mirrored_logits_are_those_of_the_mirrored_crop(tmp_path: Path) -> None:
    model = load_pose("pmpose-n", threads=1, detector=None)
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (16, 12, 3), dtype=np.uint8).repeat(10, axis=0).repeat(10, axis=1)
    box = [[20, 20, 99, 139]]
    both = model.predict(picture, box, flip=True, extra=("logits", "mirrored_logits")).extra
    there = [[119 - x2, y1, 119 - x1, y2] for x1, y1, x2, y2 in box]
    turned = model.predict(np.ascontiguousarray(picture[:, ::-1]), there, flip=False, extra=("logits",)).extra
    at = model.skeleton.flip
    np.testing.assert_allclose(both["mirrored_logits"], turned["logits"][:, at, :, ::-1], atol=2e-2)
    maps = model.predict(picture, box, flip=True, maps=True).maps
    assert maps is not None and model.card.decode is not None
    t = model.card.decode.temperature
    average = flip_average(
        sparsemax(both["logits"], t), sparsemax(both["mirrored_logits"][:, at, :, ::-1], t), at
    )
    np.testing.assert_allclose(maps.widest.values, average, atol=2e-6)
    with pytest.raises(ModelError, match="mirrored_logits"):
        model.predict(picture, box, flip=False, extra=("mirrored_logits",))


def test_scores_heard_are_those_of_the_function(tmp_path: Path) -> None:
    photos, heard, regions = PhotoSet.open(write_set(tmp_path, 3)), list[Heard](), Regions(keep=True)
    model = load_pose("pmpose-n", threads=1, detector=None)
    predict_boxed(Listener(model, photos, [heard.append, regions]), photos)
    expected = np.concatenate([conformal_score(h.maps, h.cells, h.variances)[h.counted] for h in heard])
    scores = regions.scores
    np.testing.assert_array_equal(scores.score, expected)
    assert set(scores.image) == {1, 2, 3} and scores.keypoint.max() < len(COCO.keypoints)
    assert regions.cells.shape == (len(expected), 64 * 48) and (np.diff(regions.cells, axis=1) >= 0).all()
    judged = Regions(np.full((1, 19), 0.5))
    predict_boxed(Listener(model, photos, [judged]), photos)
    (half,) = judged.judged((0.5,), model.skeleton.keypoints)
    np.testing.assert_array_equal(half.covered, expected <= 0.5)
    np.testing.assert_allclose(half.share, (regions.cells <= 0.5).mean(axis=1), atol=1e-3)
