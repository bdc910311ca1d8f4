"""Fine-tuning of a SAM on a small network: points by hand, samples, frozen parts, a falling loss on real masks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import Tensor  # noqa: E402

from bodyloop.cli.train import recipe, task_of  # noqa: E402
from bodyloop.errors import ConfigError, FileError, ModelError  # noqa: E402
from bodyloop.models.build import load_network  # noqa: E402
from bodyloop.models.registry import find_card  # noqa: E402
from bodyloop.skeletons import BODY_19  # noqa: E402
from bodyloop.train import sam_data  # noqa: E402
from bodyloop.train.config import SamConfig, load_config  # noqa: E402
from bodyloop.train.loop import fit  # noqa: E402
from bodyloop.train.mask_losses import Answer, dice, focal, interaction_losses, true_iou  # noqa: E402
from bodyloop.train.release import release  # noqa: E402
from bodyloop.train.sam import Conversation, SamTask, any_pixel, first_point, value_at  # noqa: E402
from tests.segment import mini  # noqa: E402

PEOPLE = 6
DATA = os.environ.get("BODYLOOP_DATA", "")
needs_data = pytest.mark.skipif(not DATA, reason="BODYLOOP_DATA names no folder with photos")


# ---- losses, by hand ------------------------------------------------------------------------------------------


def test_losses_by_hand() -> None:
    logits, targets = torch.zeros(1, 2, 2), torch.tensor([[[1.0, 1.0], [1.0, 0.0]]])
    # p = 1/2 everywhere: cross-entropy ln 2, error 1/2 squared, weights 1/4 of the inside and 3/4 of the outside
    assert focal(logits, targets).tolist() == pytest.approx([np.log(2) / 4 * (0.25 * 3 + 0.75) / 4])
    assert dice(logits, targets).tolist() == pytest.approx([1 - (2 * 1.5 + 1) / (2 + 3 + 1)])
    drawn = torch.tensor([[[1.0, -1.0], [1.0, 1.0]]])
    assert true_iou(drawn, targets).tolist() == [0.5]
    assert true_iou(-torch.ones(1, 2, 2), torch.zeros(1, 2, 2)).tolist() == [0]


def test_only_the_best_mask_learns_and_only_who_is_there() -> None:
    targets = torch.zeros(2, 4, 4)
    targets[0, :2] = 1
    logits = torch.stack([targets * 8 - 4, 4 - targets * 8], dim=1).requires_grad_()
    iou = torch.full((2, 2), 0.5, requires_grad=True)
    terms = interaction_losses([Answer(logits, iou, torch.zeros(2))], targets)
    (terms["mask"] + terms["dice"]).backward()
    assert logits.grad is not None
    moved = logits.grad.abs().amax(dim=(2, 3)) > 0
    assert moved.tolist() == [[True, False], [False, False]]
    assert terms["iou"].item() == pytest.approx(0.25)  # both masks of the first, halved: 1 and 0 against 1/2
    assert terms["presence"].item() == pytest.approx(np.log(2))


# ---- points, by hand -----------------------------------------------------------------------------------------


def square(*corners: int, side: int = 8) -> Tensor:
    x1, y1, x2, y2 = corners
    out = torch.zeros(1, side, side, dtype=torch.bool)
    out[:, y1:y2, x1:x2] = True
    return out


def conversation(keypoint: float, truth: float = 0.0) -> Conversation:
    return Conversation(torch.nn.Identity(), 1, keypoint, truth)  # type: ignore[arg-type]


BODY = torch.tensor([[[2.0, 2.0], [5.0, 5.0], [7.0, 0.0]]])  # within the mask, within it, beside it
ALL = torch.ones(1, 3, dtype=torch.bool)


class TestPoints:
    def test_any_pixel_is_one_of_the_region(self) -> None:
        torch.manual_seed(0)
        region = square(2, 3, 4, 5).expand(200, -1, -1)
        found = {tuple(p) for p in any_pixel(region).tolist()}
        assert found == {(2.0, 3.0), (3.0, 3.0), (2.0, 4.0), (3.0, 4.0)}

    def test_value_at(self) -> None:
        mask = square(2, 3, 4, 5)
        points = torch.tensor([[[2.4, 3.4], [4.0, 3.0], [-1.0, 3.0], [3.0, 8.0]]])
        assert value_at(mask, points).tolist() == [[True, False, False, False]]
        assert value_at(mask, points[:, 0]).tolist() == [True]

    def test_the_first_is_a_keypoint_or_a_pixel_of_the_mask(self) -> None:
        torch.manual_seed(0)
        n = 300
        mask = square(1, 1, 2, 2).expand(n, -1, -1)
        at, label, left = first_point(mask, BODY.expand(n, -1, -1), ALL.expand(n, -1))
        found = [tuple(p) for p in at.tolist()]
        counts = {p: found.count(p) for p in {(2.0, 2.0), (5.0, 5.0), (7.0, 0.0), (1.0, 1.0)}}
        assert sum(counts.values()) == n and min(counts.values()) > n // 8
        assert (label == 1).all()
        assert (left.sum(dim=1) == torch.tensor([2 if p != (1.0, 1.0) else 3 for p in found])).all()

    def test_nobody_there(self) -> None:
        nothing, unseen = square(0, 0, 0, 0), torch.zeros(1, 3, dtype=torch.bool)
        _, label, _ = first_point(nothing, BODY, unseen)
        assert label.tolist() == [0]
        _, label, _ = conversation(1.0).correct(nothing, nothing, BODY, unseen)
        assert label.tolist() == [0]

    def test_corrections_are_of_what_is_wrong(self) -> None:
        torch.manual_seed(0)
        truth, drawn = square(0, 0, 8, 4).expand(200, -1, -1), square(0, 2, 8, 6).expand(200, -1, -1)
        body, unseen = BODY.expand(200, -1, -1), torch.zeros(200, 3, dtype=torch.bool)
        at, label, _ = conversation(1.0).correct(truth, drawn, body, unseen)
        rows = at[:, 1]
        assert ((rows < 2) | ((rows >= 4) & (rows < 6))).all()
        assert (label == (rows < 2)).all() and 50 < int(label.sum()) < 150

    def test_keypoints_that_are_missed_come_first(self) -> None:
        truth, drawn = square(0, 0, 8, 8), square(0, 0, 8, 4)  # the second keypoint is missed
        at, label, left = conversation(1.0).correct(truth, drawn, BODY, ALL)
        assert at.tolist() == [[5, 5]] and label.tolist() == [1]
        assert left.tolist() == [[True, False, True]]
        at, _, left = conversation(1.0).correct(truth, truth & ~square(7, 7, 8, 8), BODY, left)
        assert tuple(at[0].tolist()) in {(2.0, 2.0), (7.0, 0.0)} and int(left.sum()) == 1

    def test_now_and_then_of_the_truth(self) -> None:
        torch.manual_seed(0)
        truth, drawn = square(0, 0, 2, 2).expand(100, -1, -1), square(0, 0, 8, 8).expand(100, -1, -1)
        unseen = torch.zeros(100, 3, dtype=torch.bool)
        at, label, _ = conversation(0.0, truth=1.0).correct(truth, drawn, BODY.expand(100, -1, -1), unseen)
        assert (at < 2).all() and (label == 1).all()
        # what is right everywhere is asked about the truth, too
        at, label, _ = conversation(0.0).correct(truth, truth, BODY.expand(100, -1, -1), unseen)
        assert (at < 2).all() and (label == 1).all()


# ---- samples -------------------------------------------------------------------------------------------------


def test_points_go_with_the_picture() -> None:
    """A bright pixel with a keypoint on it: wherever it goes, the keypoint goes."""
    config = SamConfig(colour=0.0, grey=0.0)
    pixels, mask = np.zeros((60, 90, 3), np.uint8), np.zeros((60, 90), bool)
    pixels[18:23, 28:33] = 255
    mask[15:26, 25:36] = True
    keypoints = np.array([[30.0, 20.0, 2.0]])
    seen = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        photo, moved, points = sam_data.augmented(pixels, mask, keypoints, config, (0, 0, 0), rng)
        y, x = np.nonzero(photo[..., 0] > 100)
        assert np.abs([x.mean() - points[0, 0], y.mean() - points[0, 1]]).max() < 0.7
        assert moved[round(points[0, 1]), round(points[0, 0])]
        assert points[0, 2] == 2
        seen.add(points[0, 0] > 45)
    assert seen == {True, False}  # mirrored or not


def test_the_turn_by_hand() -> None:
    turned = sam_data.transform((5, 5), False, 90.0, 0.0)
    assert np.allclose(turned @ [4, 2, 1], [2, 4])  # right of the centre goes below it
    mirrored = sam_data.transform((5, 3), True, 0.0, 0.0)
    assert np.allclose(mirrored @ [0, 1, 1], [4, 1])
    leaning = sam_data.transform((5, 5), False, 0.0, 45.0)
    assert np.allclose(leaning @ [2, 3, 1], [3, 3])


def test_colours_by_hand() -> None:
    pixels = np.array([[[100, 50, 0], [200, 200, 200]]], np.uint8)
    same = np.ones(3)
    assert np.array_equal(sam_data.jittered(pixels, same), pixels)
    assert sam_data.jittered(pixels, np.array([1.1, 1, 1])).tolist() == [[[110, 55, 0], [220, 220, 220]]]
    grey = sam_data.jittered(pixels, np.array([1.0, 1, 0]))
    assert grey.tolist() == [[[59] * 3, [200] * 3]]


def test_what_the_network_sees() -> None:
    preprocess = mini.card().preprocess
    mask = np.zeros((32, 128), bool)
    mask[8:16, 32:96] = True
    keypoints = np.array([[64.0, 10.0, 2], [64.0, 10.0, 1], [140.0, 10.0, 2], [0.0, 0.0, 0]])
    s = sam_data.shown(np.zeros((32, 128, 3), np.uint8), mask, keypoints, preprocess)
    assert s.image.shape == (3, 64, 64) and s.target.shape == (64, 64)
    assert np.argwhere(s.target).min(axis=0).tolist() == [16, 16]
    assert np.argwhere(s.target).max(axis=0).tolist() == [31, 47]
    assert s.points[0].tolist() == [32, 20]  # as a prompt is: px of the photo times 64 / 128 and 64 / 32
    assert s.usable.tolist() == [True, False, False, False]


# ---- the task ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights and card of the small network, and labels of the first real people with large masks."""
    with pytest.MonkeyPatch.context() as patch:
        mini.add_size(patch)
        folder = tmp_path_factory.mktemp("sam")
        mini.save(folder, mini.network())
        (folder / "own.toml").write_text(mini.card().to_toml())
        if DATA:
            whole = json.loads((Path(DATA) / "coco" / "dev.json").read_text())
            large = [
                a for a in whole["annotations"] if a["area"] > 15000 and isinstance(a["segmentation"], list)
            ]
            kept = [a for a in large if a.get("num_keypoints", 0) > 8][:PEOPLE]
            images = [i for i in whole["images"] if i["id"] in {a["image_id"] for a in kept}]
            (folder / "coco").mkdir()
            (folder / "coco" / "images").symlink_to((Path(DATA) / "coco" / "images").resolve())
            labels = json.dumps({**whole, "images": images, "annotations": kept})
            for name in ("train.json", "dev.json"):
                (folder / "coco" / name).write_text(labels)
        yield folder


def config(folder: Path, **changes: object) -> SamConfig:
    plain: dict[str, object] = {
        "data": str(folder), "sources": ("coco",), "model": str(folder / "own.toml"),
        "start": str(folder / "mini.safetensors"), "freeze": ("vision_encoder.", "no_memory_embedding"), "batch": 2,
        "steps": 8, "lr": 1e-3, "final_lr": 1.0, "warmup": 0, "corrections": 3, "precision": "fp32", "clip": 1.0,
        "ema": 0.5, "evaluate_every": 1000, "checkpoint_every": 100, "validation": "",
    }  # fmt: skip
    return SamConfig(**(plain | changes))  # type: ignore[arg-type]


@needs_data
def test_samples_follow_from_their_generator(folder: Path) -> None:
    samples = SamTask(config(folder)).samples
    one, same, other = (samples.sample((0, 0), np.random.default_rng(n)) for n in (1, 1, 2))
    assert np.array_equal(one.image, same.image) and np.array_equal(one.points, same.points)
    assert not np.array_equal(one.image, other.image) and not np.array_equal(one.points, other.points)
    assert one.points.shape == (len(BODY_19), 2) and one.target.any()
    batch = samples.collate([one, other])
    assert {k: tuple(v.shape) for k, v in batch.items()} == {
        "images": (2, 3, 64, 64), "targets": (2, 64, 64), "points": (2, 19, 2), "usable": (2, 19),
    }  # fmt: skip


@needs_data
def test_the_conversation(folder: Path) -> None:
    task = SamTask(config(folder))
    batch = task.samples.collate([task.samples.sample((0, i), np.random.default_rng(i)) for i in range(2)])
    torch.manual_seed(0)
    answers = task.model(batch["images"], batch["targets"], batch["points"], batch["usable"])
    assert [a[0].shape[1] for a in answers] == [3, 1, 1, 1]
    assert all(a[0].shape[2:] == (64, 64) and a[2].shape == (2,) for a in answers)
    terms = task.losses(task.model, batch, lambda x: x)
    sum(v for k, v in terms.items() if not k.startswith("_")).backward()  # type: ignore[union-attr]
    with_gradient = {n.split(".")[1] for n, p in task.model.named_parameters() if p.grad is not None}
    assert with_gradient == {"prompt_encoder", "mask_decoder"}
    lacking = [n for n, p in task.model.named_parameters() if p.requires_grad and p.grad is None]
    assert lacking == []  # or several processes would wait for it


@needs_data
@pytest.mark.slow
def test_the_loss_falls_and_the_image_encoder_stays(folder: Path, tmp_path: Path) -> None:
    settings = config(folder, steps=40, overfit=2, evaluate_every=40, validation="", lr=2e-3)
    task = SamTask(settings)
    before = {n: t.clone() for n, t in task.model.state_dict().items()}
    refs = task.samples.draw(0, 2)
    batch = task.samples.collate([task.samples.sample(r, np.random.default_rng(0)) for r in refs])

    def loss() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            terms = task.losses(task.model, batch, lambda x: x)
        return float(sum(v for k, v in terms.items() if not k.startswith("_")))

    first = loss()
    figures = fit(task, settings, tmp_path, card=task.card)

    assert loss() < 0.3 * first
    assert figures["score"] == figures["IoU"] > 0.5
    after = task.model.state_dict()
    changed = {n.split(".")[1] for n, t in after.items() if not torch.equal(t, before[n])}
    assert changed == {"prompt_encoder", "mask_decoder"}
    # the run is a model: released, loaded, started from
    weights, step = release(tmp_path, mini.card())
    assert step == 40
    loaded = load_network(mini.card(), weights).state_dict()
    kept = "vision_encoder.backbone.blocks.0.attn.qkv.weight"
    assert torch.equal(loaded[kept], before[f"model.{kept}"])
    again = SamTask(config(folder, start=str(tmp_path / "last.pt")))
    assert all(torch.equal(t, loaded[n.removeprefix("model.")]) for n, t in again.model.state_dict().items())


@needs_data
def test_evaluation_prompts_by_the_poses_of_a_model(folder: Path) -> None:
    task = SamTask(config(folder, validation="coco/dev.json", evaluate_samples=1))
    figures = task.evaluate(task.model)
    assert set(figures) == {"IoU", "score_error", "score"} and 0 <= figures["IoU"] == figures["score"] <= 1


@needs_data
def test_refusals(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is a pose that is no SAM"):
        SamTask(config(folder, model="pmpose-n"))
    with pytest.raises(FileError, match="no such file to evaluate on"):
        SamTask(config(folder, validation="coco/none.json"))
    with pytest.raises(ModelError, match="missing"):
        SamTask(config(folder, start=str(Path("weights/pmpose-n.safetensors").resolve())))
    with pytest.raises(ConfigError, match="no parameter's name begins with"):
        SamTask(config(folder, freeze=("image_encoder.",)))


def test_the_recipe() -> None:
    found = load_config(recipe("sam-pose2seg-b+"))
    assert isinstance(found, SamConfig) and found.model == "sam-pose2seg-b+"
    # specification, section 6
    assert (found.lr, found.final_lr, found.weight_decay, found.clip, found.batch) == (5e-6, 0.1, 0.1, 0.1, 1)
    assert (found.corrections, found.truth, found.keypoint) == (7, 0.1, 0.5)
    assert (found.rotate, found.shear, found.grey, found.precision) == (25, 20, 0.05, "bf16")
    assert (found.epochs, found.start) == (30, "sam2.1-base-plus")
    assert find_card(found.start).architecture == find_card(found.model).architecture
    with pytest.raises((ConfigError, FileError)):
        task_of(found)  # its data are not here
