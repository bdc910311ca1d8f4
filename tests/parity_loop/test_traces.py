"""Whole runs of the loop against the reference's, everything between recorded (glue/loop_traces.json).

All in the published way: `Parity.published()`, boxes' corners read as x, y, width and height.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bodyloop.loop import BodyLoop, LoopResult, Pass
from bodyloop.masks import Masks
from bodyloop.people import People
from tests.parity_loop.players import SIZE, Discs, Finder, Poser, config_of, photo, posed
from tests.parity_loop.stored import close_numbers, load_json, seen

FILE = "glue/loop_traces.json"
TRACES: list[dict[str, Any]] = load_json(FILE)
RUNS = [pytest.param(i, id=f"{i}-{t['config']}") for i, t in enumerate(TRACES)]
FAILS = 7  # J1, in the reference


class Replay:
    """One stored run, done by our loop with the stored answers of the roles."""

    def __init__(self, i: int) -> None:
        self.trace = TRACES[i]
        found = [self.found(d) for d in self.trace["detections"]]
        everybody = People.concat(
            [
                posed([[0, 0, 1, 1]], np.zeros((1, 17, 3)), np.zeros((1, 17))),
                *map(self.poses, self.trace["detections"]),
            ]
        )
        self.first, self.later = Finder(found[:1]), Finder(found[1:])
        self.pose, self.segmenter = Poser(everybody), Discs()
        config = config_of(self.trace["args"], passes=self.trace["iters"])
        loop = BodyLoop(self.first, self.pose, self.segmenter, config, self.later)
        self.result: LoopResult = loop.run(photo())

    def found(self, detections: list[Any]) -> People:
        """What the detector says in one pass."""
        if not detections:
            return People.empty(SIZE)
        return People(
            SIZE,
            boxes=np.array([d["box"] for d in detections], np.float32),
            scores=np.linspace(0.9, 0.5, len(detections)),
            masks=Masks.from_rle([d["mask"] for d in detections], SIZE),
        )

    def poses(self, detections: list[Any]) -> People:
        """What the pose network says of these boxes."""
        each = [d["pose"] for d in detections]
        people = posed(
            np.array([d["box"] for d in detections]).reshape(-1, 4),
            [p["keypoints"] for p in each], [p["visibility"] for p in each],
        )  # fmt: skip
        return people.replace(presence=np.array([p["presence"] for p in each], np.float32).reshape(-1, 17))


@pytest.fixture(scope="module")
def replays() -> dict[int, Replay]:
    return {i: Replay(i) for i in range(len(TRACES))}


@pytest.mark.parametrize("i", RUNS)
def test_what_the_detectors_saw(replays: dict[int, Replay], i: int) -> None:
    replay = replays[i]
    shown = [*replay.first.shown, *replay.later.shown]
    mine = [
        {
            "black_pixels": int((p.pixels == 0).all(axis=2).sum()),
            "pixel_sum": int(p.pixels.sum(dtype=np.int64)),
        }
        for p in shown
    ]
    assert len(shown) == replay.trace["iters"]
    stored = replay.trace["detector_calls"]
    close_numbers(mine[: len(stored)], FILE, str(i), "detector_calls", tolerance=0)
    assert [c["detector"] for c in stored] == ["D", *["D'"] * (len(stored) - 1)]


@pytest.mark.parametrize("i", RUNS)
def test_what_the_pose_network_saw(replays: dict[int, Replay], i: int) -> None:
    replay = replays[i]
    mine = []
    for image, people in zip(replay.pose.shown, replay.pose.asked, strict=True):
        assert people.boxes is not None and people.masks is not None
        black = int((image.pixels == 0).all(axis=2).sum())
        areas = people.masks.areas.tolist()
        mine.append(
            {
                "n": len(people),
                "boxes": people.boxes.tolist(),
                "mask_areas": areas,
                "image_zero_pixels": black,
            }
        )
    close_numbers(mine[: 1 if i == FAILS else None], FILE, str(i), "pose_calls", tolerance=1e-5)


@pytest.mark.parametrize("i", RUNS)
def test_picture_is_encoded_once(replays: dict[int, Replay], i: int) -> None:
    stored = replays[i].trace["sam_images"]  # once a pass
    assert all(s == [SIZE[1], SIZE[0], 3] for s in stored)
    assert replays[i].segmenter.encoded == ([SIZE] if stored else [])
    seen(FILE, str(i), "sam_images")


@pytest.mark.parametrize("i", RUNS)
def test_passes(replays: dict[int, Replay], i: int) -> None:
    """Tables and prompts of every pass that had detections."""
    replay = replays[i]
    made = [p for p in replay.result.passes if len(p.detected)]
    stored = replay.trace["passes"]
    assert i == FAILS or len(made) == len(stored)
    for k, (p, s) in enumerate(zip(made, stored, strict=False)):
        at = (str(i), "passes", str(k))
        m = len(p.people) - len(p.kept)
        if s["new"] is None:
            assert len(p.kept) == 0 and not p.prompts
            close_numbers(None, FILE, *at, "new", tolerance=0)
        else:
            same_table(p.people[m:], FILE, *at, "new")
            same_points(p, *at, "new", "sam_kpts")
        if s["old"] is None:
            assert m == 0
            close_numbers(None, FILE, *at, "old", tolerance=0)
        else:
            same_table(p.people[:m], FILE, *at, "old")
            seen(FILE, *at, "old", "sam_kpts")  # compared when they were new
        sent = [prompt for prompt in p.prompts if prompt is not None]
        mine = [
            {
                "point_coords": q.points.tolist(), "point_labels": q.labels.tolist(),
                "box": None if q.box is None else q.box.tolist(), "multimask_output": False,
            }
            for q in sent
        ]  # fmt: skip
        close_numbers(mine, FILE, *at, "sam_calls", tolerance=1e-4)
        seen(FILE, *at, "refined_dtype")


def test_where_the_reference_fails(replays: dict[int, Replay]) -> None:
    """J1: everybody has its own mask, from as many points as anybody else of its pass."""
    result = replays[FAILS].result
    assert len(result.passes) == 2 and result.people.masks is not None and result.people.masks.present.all()
    for p in result.passes:
        assert len({len(q.labels) for q in p.prompts if q is not None}) == 1
        for i, q in enumerate(p.prompts):
            assert q is not None and p.refined.keypoints is not None
            assert all((p.refined.keypoints[i] == point).all(axis=1).any() for point in q.points)


def same_table(people: People, *at: str) -> None:
    """Hold people to a table of the reference."""
    assert people.keypoints is not None and people.masks is not None and people.map_scores is not None
    assert people.boxes is not None and people.scores is not None and people.mask_scores is not None
    assert people.visibility is not None and people.presence is not None
    mine = {
        "scores": people.map_scores.mean(axis=1).tolist(),
        "keypoints": np.concatenate([people.keypoints, people.map_scores[..., None]], axis=2).tolist(),
        "bboxes": people.boxes.tolist(),
        "bbox_scores": people.scores.tolist(),
        "sam_scores": people.mask_scores.tolist(),
        "keypoint_vis": people.visibility[..., None].tolist(),
        "keypoint_prob": people.presence[..., None].tolist(),
        "keypoint_scores": people.map_scores.tolist(),
    }
    for key, value in mine.items():
        close_numbers(value, *at, key, tolerance=1e-5)
    stored = TRACES[int(at[1])]["passes"][int(at[3])][at[4]]
    assert people.masks.equals(Masks.from_rle(stored["refined_masks"], SIZE))
    seen(*at, "refined_masks")


def same_points(p: Pass, *at: str) -> None:
    """Hold prompts to the reference's lists, which are filled up with zeros."""
    trace = TRACES[int(at[0])]
    rows = []
    for k, prompt in enumerate(p.prompts):
        assert prompt is not None and p.refined.keypoints is not None
        by_rank = trace["args"]["selection_method"] == "k_most_visible"
        column = p.refined.visibility if by_rank else p.refined.map_scores
        assert column is not None
        on = prompt.points[prompt.labels == 1]
        row = np.zeros((trace["args"]["num_pos_keypoints"], 3))
        row[: len(on), :2] = on
        row[: len(on), 2] = [column[k][(p.refined.keypoints[k] == q).all(axis=1).argmax()] for q in on]
        rows.append(row.tolist())
    close_numbers(rows, FILE, *at, tolerance=1e-5)


@pytest.mark.parametrize("i", [r for r in RUNS if r.values[0] != FAILS])
def test_result(replays: dict[int, Replay], i: int) -> None:
    """But for the third axis of presence and visibility, which the documentation of the reference lacks, too."""
    people, stored = replays[i].result.people, TRACES[i]["result"]
    nobody = people.keypoints is None  # a pose estimator that was never asked has told no skeleton
    assert people.boxes is not None and people.masks is not None and len(people) == len(stored["bboxes"])
    n = len(people)
    close_numbers(people.boxes.tolist(), FILE, str(i), "result", "bboxes", tolerance=1e-5)
    assert people.masks.equals(Masks.from_rle(stored["masks"], SIZE))
    seen(FILE, str(i), "result", "masks")
    if not nobody:
        assert people.keypoints is not None and people.map_scores is not None
        assert people.presence is not None and people.visibility is not None
        k = np.concatenate([people.keypoints, people.map_scores[..., None]], axis=2)
        close_numbers(k.tolist(), FILE, str(i), "result", "keypoints", tolerance=1e-5)
        close_numbers(list(k.shape), FILE, str(i), "result", "keypoints_shape", tolerance=0)
        for key, column in (("presence_shape", people.presence), ("visibility_shape", people.visibility)):
            assert [*column.shape, 1] == stored[key]
            seen(FILE, str(i), "result", key)
    else:
        assert n == 0 and stored["keypoints_shape"][0] == 0
        seen(FILE, str(i), "result")
    passes = sum(1 for p in replays[i].result.passes if len(p.detected))
    close_numbers(passes, FILE, str(i), "result", "n_intermediates", tolerance=0)
    close_numbers(None, FILE, str(i), "error", tolerance=0)
