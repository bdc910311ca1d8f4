"""COCO and supervision: nothing is lost, nothing of theirs is bent, their own tools accept it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO as CocoApi
from pycocotools.cocoeval import COCOeval

from bodyloop.errors import InputError
from bodyloop.geometry import Crop
from bodyloop.images import Source
from bodyloop.interop import instance_scores
from bodyloop.maps import ProbabilityMaps
from bodyloop.masks import Masks
from bodyloop.people import People
from bodyloop.skeletons import COCO, COCO_WHOLEBODY_133
from tests.strategies import PAW, SIZE, few, people

STANDARD = {"image_id", "category_id", "keypoints", "score", "bbox", "segmentation"}
BESIDE = {
    "bbox_score", "mask_score", "keypoint_presence", "keypoint_visibility", "keypoint_quality",
    "keypoint_map_scores", "keypoint_third", "keypoint_missing", "window", "track_id", "extra",
}  # fmt: skip
ROUND_TRIP = ("scores", "mask_scores", "map_scores", "quality", "presence", "visibility", "track_ids")
# what COCO's dicts have no place for
LEFT_OUT = frozenset({"maps", "features", "provenance", "source"})


def blank_rows(a: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32] | None:
    """COCO cannot write half a box or half a point: it is missing as a whole."""
    return None if a is None else np.where(np.isfinite(a).all(axis=-1, keepdims=True), a, np.nan)


def assert_same(a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None, atol: float = 0) -> None:
    """Equal; a column in which nothing is known may also not be there."""
    if a is None or b is None:
        known = a if b is None else b
        assert known is None or np.isnan(known).all() or known.size == 0
    else:
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def street() -> People:
    """Two people of COCO's skeleton, the second mostly outside of the picture."""
    rng = np.random.default_rng(1)
    keypoints = rng.uniform(10, 60, (2, 17, 2)).astype(np.float32)
    keypoints[1] -= 100
    keypoints[1, 3] = np.nan
    boxes = np.float32([[10, 10, 60.25, 60.5], [-90, -90, -40, -40]])
    bitmap = np.zeros((80, 100), bool)
    bitmap[10:60, 10:60] = True
    return People(
        (100, 80),
        Source("a.jpg", 12),
        COCO,
        boxes=boxes,
        scores=np.float32([0.9, 0.5]),
        masks=Masks.from_any([bitmap, None], (100, 80)),
        keypoints=keypoints,
        map_scores=rng.random((2, 17), np.float32),
        quality=rng.random((2, 17), np.float32),
        presence=rng.random((2, 17), np.float32),
    )


class TestCoco:
    @given(people(skip=LEFT_OUT))
    @few
    def test_round_trip(self, p: People) -> None:
        items = json.loads(json.dumps(p.to_coco(image_id=5), allow_nan=False))
        for item in items:
            assert item.keys() <= STANDARD | BESIDE
        again = People.from_coco(items, SIZE, PAW)
        assert len(again) == len(items)
        if not len(p):
            return
        for name in ROUND_TRIP:
            assert_same(getattr(again, name), getattr(p, name))
        assert_same(again.boxes, blank_rows(p.boxes))
        assert_same(again.keypoints, blank_rows(p.keypoints))
        assert_same(again.windows, p.windows)
        if p.masks is not None and p.masks.present.any():
            assert again.masks is not None and again.masks.equals(p.masks)
        for name, column in p.extra.items():
            np.testing.assert_array_equal(again.extra[name].astype(column.dtype), column)
        assert again.source == Source(image_id=5)

    def test_standard_keys_are_what_coco_says(self) -> None:
        p = street()
        first, second = p.to_coco()
        assert first["image_id"] == 12 and first["category_id"] == 1
        assert first["bbox"] == [10, 10, 50.25, 50.5]
        assert len(first["keypoints"]) == 51
        assert p.keypoints is not None and p.presence is not None and p.quality is not None
        np.testing.assert_array_equal(np.float32(first["keypoints"][0::3]), p.keypoints[0, :, 0])
        np.testing.assert_array_equal(np.float32(first["keypoints"][1::3]), p.keypoints[0, :, 1])
        np.testing.assert_array_equal(np.float32(first["keypoints"][2::3]), p.presence[0])
        assert first["segmentation"] == p.masks.rle(0)  # type: ignore[union-attr]
        assert "segmentation" not in second
        assert second["keypoints"][9:12] == [0, 0, 0] and second["keypoint_missing"] == [3]
        assert min(second["keypoints"][0::3]) < -30  # outside is outside
        assert second["bbox"] == [-90, -90, 50, 50]

    def test_score_of_a_pose(self) -> None:
        quality = np.float32([[0.1, 0.6, 0.8], [0.1, 0.1, 0.2], [np.nan, 0.5, 0.1]])
        p = People(SIZE, skeleton=PAW, scores=[0.5, 0.9, np.nan], quality=quality)
        np.testing.assert_allclose(instance_scores(p), [0.35, 0, 0.5], rtol=1e-6)
        np.testing.assert_allclose(instance_scores(p.replace(scores=None)), [0.7, 0, 0.5], rtol=1e-6)
        present = p.replace(presence=[[0.9, 0, 0], [0, 0.5, 0.45], [1, 0, 1]])
        np.testing.assert_allclose(
            instance_scores(present, presence_threshold=0.45), [0.05, 0.09, 0.1], rtol=1e-6
        )
        assert instance_scores(People(SIZE)) is None
        boxes_only = People(SIZE, boxes=[[0, 0, 1, 1]], scores=[0.25])
        assert boxes_only.to_coco(1)[0]["score"] == 0.25
        with pytest.raises(InputError, match="presence"):
            instance_scores(p, presence_threshold=0.4)

    def test_image_id_is_needed(self) -> None:
        with pytest.raises(InputError, match="image_id"):
            People(SIZE, boxes=[[0, 0, 1, 1]]).to_coco()
        assert People(SIZE, boxes=[[0, 0, 1, 1]]).to_coco(0)[0]["image_id"] == 0
        assert json.dumps(People(SIZE, boxes=[[0, 0, 1, 1]]).to_coco(np.int64(3), np.int64(1)))  # type: ignore[arg-type]

    def test_third_number_without_presence_is_the_score(self) -> None:
        p = street().replace(presence=None)
        assert p.quality is not None
        np.testing.assert_array_equal(np.float32(p.to_coco()[0]["keypoints"][2::3]), p.quality[0])
        bare = p.replace(quality=None, map_scores=None, scores=None)
        assert set(bare.to_coco()[0]["keypoints"][2::3]) == {1.0}
        assert People.from_coco(bare.to_coco(), (100, 80)).map_scores is None

    def test_results_of_others(self) -> None:
        triples = [v for i in range(17) for v in (i, i + 0.5, i / 20)]
        p = People.from_coco(
            [{"image_id": 3, "category_id": 1, "keypoints": triples, "score": 0.75}], (100, 80), COCO
        )
        assert p.scores is not None and p.map_scores is not None and p.keypoints is not None
        assert p.scores.tolist() == [0.75]
        assert p.map_scores[0].tolist() == pytest.approx([i / 20 for i in range(17)])
        assert p.keypoints[0, 16].tolist() == [16, 16.5]
        assert p.source == Source(image_id=3)

    def test_annotations(self) -> None:
        labelled = [10, 20, 2, 30, 40, 1] + [0, 0, 0] * 15
        items = [
            {"id": 41, "image_id": 3, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 600.5, "iscrowd": 0,
             "keypoints": labelled, "num_keypoints": 2, "segmentation": [[1, 1, 9, 1, 9, 9]]},
            {"id": 42, "image_id": 3, "category_id": 1, "bbox": [5, 5, 10, 10], "iscrowd": 1, "area": 9,
             "segmentation": {"size": [80, 100], "counts": [8000 - 9, 9]}},
            {"id": 43, "image_id": 3, "category_id": 1, "bbox": [5, 5, 10, 10], "iscrowd": 0, "area": 9,
             "segmentation": [], "keypoints": [0] * 51},
        ]  # fmt: skip
        p = People.from_coco(items, (100, 80))
        assert p.skeleton == COCO and p.scores is None and p.map_scores is None
        assert p.boxes is not None and p.keypoints is not None and p.visibility is not None
        assert p.masks is not None
        assert p.boxes[0].tolist() == [1, 2, 31, 42]
        assert p.keypoints[0, :2].tolist() == [[10, 20], [30, 40]]
        assert np.isnan(p.keypoints[0, 2:]).all() and np.isnan(p.keypoints[1:]).all()
        assert p.visibility[0, :2].tolist() == [1, 0] and np.isnan(p.visibility[0, 2:]).all()
        assert p.masks.present.tolist() == [True, True, False]
        assert p.extra["annotation_id"].tolist() == [41, 42, 43]
        assert p.extra["iscrowd"].tolist() == [0, 1, 0]
        assert p.extra["area"].tolist() == [600.5, 9, 9]
        assert p.extra["keypoint_flags"][0, :3].tolist() == [2, 1, 0]

    def test_stored_annotations(self) -> None:
        folder = os.environ.get("BODYLOOP_DATA")
        if not folder:
            pytest.skip("needs photographs and labels: set BODYLOOP_DATA")
        labels = json.loads((Path(folder) / "coco" / "dev.json").read_text())
        for image in labels["images"][:40]:
            items = [a for a in labels["annotations"] if a["image_id"] == image["id"]]
            size = image["width"], image["height"]
            p = People.from_coco(items, size)
            assert len(p) == len(items)
            for i, item in enumerate(items):
                flags = np.reshape(item["keypoints"], (17, 3)) if "keypoints" in item else np.zeros((17, 3))
                if p.keypoints is not None:
                    assert (np.isfinite(p.keypoints[i, :, 0]) == (flags[:, 2] > 0)).all()
                if p.masks is not None and isinstance(item["segmentation"], list) and item["segmentation"]:
                    assert p.masks.areas[i] == pytest.approx(item["area"], rel=0.2, abs=40)

    @pytest.mark.parametrize(
        ("items", "says"),
        [
            ([{"image_id": 1, "bbox": [1, 2, 3]}], "item 0: bbox"),
            ([{"image_id": 1}, {"image_id": 1, "bbox": "abcd"}], "item 1: bbox"),
            ([{"image_id": 1, "keypoints": [1, 2, 3]}], "item 0: keypoints"),
            ([{"image_id": 1, "keypoints": [[1, 2], [3]]}], "item 0: keypoints"),
            ([{"image_id": 1, "score": "high"}], "item 0: score"),
            ([{"image_id": 1}, {"image_id": 2}], "2 pictures"),
            ([{"image_id": []}], "item 0: .* image_id"),
            ([3], "item 0: .* dict"),
            ([{"image_id": 1, "extra": 3}], "extra"),
            ([{"image_id": 1, "extra": {"a": [1]}}, {"image_id": 1, "extra": {"a": [1, 2]}}], "extra"),
            ([{"image_id": 1, "track_id": "a"}], "track_ids"),
            (
                [{"image_id": 1, "score": 1, "keypoints": [1] * 51, "keypoint_missing": [17]}],
                "keypoint_missing",
            ),
            ([{"image_id": 1, "segmentation": {"size": [1, 1], "counts": "1"}}], r"masks\[0\]"),
            ([{"image_id": 1, "segmentation": "RLE"}], r"masks\[0\]"),
        ],
    )
    def test_mistakes_are_named(self, items: list[dict[str, Any]], says: str) -> None:
        with pytest.raises(InputError, match=says):
            People.from_coco(items, (9, 7))

    def test_nobody(self) -> None:
        p = People.from_coco([], (9, 7), COCO_WHOLEBODY_133)
        assert len(p) == 0 and p.keypoints is not None and p.keypoints.shape == (0, 133, 2)
        assert p.to_coco(1) == []

    @pytest.mark.parametrize("kind", ["keypoints", "bbox", "segm"])
    def test_the_coco_api_evaluates_it(self, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
        p = street()
        truth = CocoApi()
        annotation = {**p.to_coco()[0], "id": 1, "iscrowd": 0, "area": 2500.0, "num_keypoints": 17}
        annotation["keypoints"] = [v if i % 3 < 2 else 2 for i, v in enumerate(annotation["keypoints"])]
        truth.dataset = {
            "images": [{"id": 12, "width": 100, "height": 80}],
            "annotations": [annotation],
            "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.keypoints), "skeleton": []}],
        }
        truth.createIndex()
        results = json.loads(json.dumps(p.to_coco()))
        if kind == "segm":
            results = results[:1]  # the API wants a mask for everybody
        elif kind == "bbox":
            results = [
                {k: v for k, v in r.items() if k not in ("segmentation", "keypoints")} for r in results
            ]
        else:
            results = [{k: v for k, v in r.items() if k not in ("segmentation", "bbox")} for r in results]
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)


sv = pytest.importorskip("supervision")


class TestSupervision:
    @given(people(skip=frozenset({"features", "provenance", "maps"})))
    @few
    def test_round_trip(self, p: People) -> None:
        boxed = p.boxes if p.boxes is not None else p.masks.boxes if p.masks is not None else None
        if boxed is not None and not np.isfinite(boxed).all():
            with pytest.raises(InputError, match="has no box"):
                p.to_supervision()
            return
        keypoints, detections = p.to_supervision()
        assert (keypoints is None) == (p.keypoints is None)
        again = People.from_supervision(SIZE, keypoints, detections, p.skeleton, p.source)
        assert_same(again.keypoints, p.keypoints)
        if keypoints is not None:
            for name in ("map_scores", "quality", "presence", "visibility", "windows"):
                np.testing.assert_array_equal(getattr(again, name), getattr(p, name))
        if detections is not None:
            assert_same(again.boxes, boxed)
            for name in ("scores", "mask_scores", "track_ids"):
                np.testing.assert_array_equal(getattr(again, name), getattr(p, name))
            assert again.extra.keys() == p.extra.keys()
            if p.masks is not None:
                assert again.masks is not None and again.masks.equals(p.masks)

    def test_covariance_is_that_of_the_maps_in_the_image(self) -> None:
        keypoints, _ = self.spread().to_supervision()
        covariance = keypoints.data["covariance"]
        assert covariance.shape == (1, 3, 2, 2)
        # mass at (0, 0), (20, 0), (0, 30) px
        expected = np.array([[800 / 9, -600 / 9], [-600 / 9, 1800 / 9]])
        np.testing.assert_allclose(covariance[0, 1], expected, rtol=1e-5)

    def spread(self) -> People:
        values = np.zeros((1, 3, 4, 3), np.float32)
        values[:, :, 0, 0] = values[:, :, 0, 2] = values[:, :, 3, 0] = 1 / 3
        crop = Crop(np.array([[10.0, 15]]), np.array([[20.0, 30]]), np.zeros(1), (12, 16), (3, 4))
        keypoints = np.float32([[[30, 30], [60, 40], [np.nan, np.nan]]])
        return People(
            (100, 80),
            skeleton=PAW,
            boxes=[[0, 0, 50, 50]],
            keypoints=keypoints,
            map_scores=np.full((1, 3), 0.5),
            maps=ProbabilityMaps.single(values, crop, np.ones(3)),
        )

    @pytest.mark.parametrize(
        "name", ["VertexEllipseAreaAnnotator", "VertexEllipseOutlineAnnotator", "VertexEllipseHaloAnnotator"]
    )
    def test_its_ellipse_annotators_draw(self, name: str) -> None:
        annotator = getattr(sv, name)
        keypoints, _ = self.spread().to_supervision()
        picture = annotator(sigma=1.0, color=sv.Color.RED).annotate(
            np.zeros((80, 100, 3), np.uint8), keypoints
        )
        at = np.argwhere(picture.any(axis=2))
        # around both points that are there; the ellipse reaches 1 sigma = 14 px down, 9 px to the side
        below = (200**0.5) - (at[:, 0].max() - 40)
        aside = (800 / 9) ** 0.5 - (at[:, 1].max() - 60)
        fades = 9 if "Halo" in name else 4  # a halo ends before its ellipse, by how much differs by version
        assert -4 < below < fades and -4 < aside < fades

    def test_its_other_annotators_draw(self) -> None:
        p = street()
        keypoints, detections = p.to_supervision()
        blank = np.zeros((80, 100, 3), np.uint8)
        assert sv.VertexAnnotator().annotate(blank.copy(), keypoints).any()
        assert sv.EdgeAnnotator().annotate(blank.copy(), keypoints).any()
        assert sv.BoxAnnotator().annotate(blank.copy(), detections).any()
        assert sv.MaskAnnotator().annotate(blank.copy(), detections).any()

    def test_nothing_there(self) -> None:
        assert People(SIZE).to_supervision() == (None, None)
        keypoints, detections = People.empty(SIZE, PAW).to_supervision()
        assert len(keypoints) == len(detections) == 0
        again = People.from_supervision(SIZE, keypoints, detections, PAW)
        assert again.keypoints is not None and again.keypoints.shape == (0, 3, 2)

    def test_boxes_of_masks(self) -> None:
        masks = Masks.from_any([[[1, 1, 6, 1, 6, 5, 1, 5]]], SIZE)
        keypoints, detections = People(SIZE, masks=masks).to_supervision()
        assert keypoints is None
        np.testing.assert_array_equal(detections.xyxy, masks.boxes)

    def test_detections_of_other_models(self) -> None:
        detections = sv.Detections(
            xyxy=np.array([[1.0, 2, 3, 4]]),
            confidence=np.array([0.5]),
            data={"class_name": np.array(["person"])},
        )
        p = People.from_supervision(SIZE, detections=detections)
        assert p.scores is not None and p.scores.tolist() == [0.5]
        assert p.extra["class_name"].tolist() == ["person"]

    def test_counts_must_agree(self) -> None:
        _, two = street().to_supervision()
        keypoints, _ = self.spread().to_supervision()
        with pytest.raises(InputError, match="1 people"):
            People.from_supervision((100, 80), keypoints, two)


def test_supervision_missing_is_named() -> None:
    code = (
        "import sys; sys.modules['supervision'] = None\n"
        "from bodyloop.people import People\nfrom bodyloop.errors import MissingDependency\n"
        "try: People((3, 2)).to_supervision()\n"
        "except MissingDependency as e: print(e)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "bodyloop[supervision]" in out


@given(st.floats(-1e6, 1e6, width=32), st.floats(width=32, min_value=2.0**-20, max_value=1e5))
def test_corners_of_boxes_come_back_exactly(x: float, side: float) -> None:
    box = np.float32([[x, x / 3, x + side, x / 3 + side]])
    again = People.from_coco(People(SIZE, boxes=box).to_coco(1), SIZE).boxes
    np.testing.assert_array_equal(again, box)
