"""Published numbers: the table, its page, and every kind of row run on a mini set with tiny random networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bodyloop.errors import ConfigError, FileError
from bodyloop.eval.oracle import TrueBoxes, TruePoses
from bodyloop.eval.pipeline_run import open_photos
from bodyloop.eval.reproduce import METRICS, SETS, find_row, page, published_rows
from bodyloop.eval.reproduce_run import How, reproduce
from bodyloop.models.registry import list_models
from bodyloop.people import People
from tests.cli.conftest import call
from tests.cli.standins import write_detector, write_pose
from tests.data.figures import write_figures

ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    "labelled boxes": "probpose-s-coco",
    "labelled boxes, cropped": "probpose-s-cropcoco-ex",
    "labelled boxes and masks": "pmpose-b-given-ochuman-val",
    "detected boxes": "maskpose-b-ochuman-val",
    "pipeline": "bmp-v2-ochuman-mask-test",
    "pipeline, boxes of masks": "bmp-v2-ochuman-box-test",
    "pipeline, once more": "bmp-v2-plus-coco-pose",
    "labelled poses": "sam-pose2seg-given-coco",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """COCO and OCHuman as they come, with three photos each."""
    root = tmp_path_factory.mktemp("sets")
    made = write_figures(root / "made", photos=3)
    (root / "coco" / "annotations").mkdir(parents=True)
    shutil.copy(made, root / "coco" / "annotations" / "person_keypoints_val2017.json")
    shutil.copytree(made.parent / "images", root / "coco" / "val2017")
    (root / "ochuman").mkdir()
    for part in ("val", "test"):
        shutil.copy(made, root / "ochuman" / f"ochuman_coco_format_{part}_range_0.00_1.00.json")
    shutil.copytree(made.parent / "images", root / "ochuman" / "images")
    return {"coco": root / "coco", "ochuman": root / "ochuman"}


@pytest.fixture(scope="module")
def pose_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pose(tmp_path_factory.mktemp("models") / "pose.onnx")


@pytest.fixture(scope="module")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_detector(tmp_path_factory.mktemp("models") / "detector.onnx")


@pytest.fixture(scope="module")
def segmenter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our small segmenter with random weights."""
    torch = pytest.importorskip("torch", reason="the stand-in for the segmenter is a torch network")
    from bodyloop.models.build import build_network
    from bodyloop.models.checkpoints import save_safetensors
    from bodyloop.models.registry import find_card

    card = find_card("pose2seg-n")
    torch.manual_seed(0)
    state = {k: v.numpy() for k, v in build_network(card).state_dict().items()}
    path = tmp_path_factory.mktemp("models") / "segmenter.safetensors"
    save_safetensors(path, state, card)
    return path


@pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)
def test_every_kind_of_row(
    name: str, places: dict[str, Path], pose_file: Path, detector_file: Path, segmenter_file: Path
) -> None:
    models = {"pose": str(pose_file), "detector": str(detector_file), "segmenter": str(segmenter_file)}
    done = reproduce(find_row(name), places, How(models=models, resamples=20))
    assert done.photos == 3 and not done.failed and done.row.published == find_row(name).published
    assert 0 <= done.ours.low <= done.ours.value <= done.ours.high <= 100
    told = json.loads(json.dumps(done.to_json(), allow_nan=False))
    assert told["published"] == done.row.published and "other models" in told["notes"][-1]
    assert set(told["models"].values()) <= {*models.values(), "bmp-v2"}
    assert f"published  {done.row.published:5.1f}" in done.table()
    cut = name.startswith("probpose-s-crop")
    assert any("our own procedure" in n for n in done.notes) == cut


def test_detector_row(places: dict[str, Path], detector_file: Path) -> None:
    row = find_row("rtmdet-ins-l-ochuman-mask")
    boxes = reproduce(
        row.__class__(**{**row.__dict__, "metric": "boxes"}),
        places,
        How(models={"detector": str(detector_file)}),
    )
    assert 0 <= boxes.ours.value <= 100
    from bodyloop.errors import InputError

    with pytest.raises(InputError, match="draws no masks"):
        reproduce(row, places, How(models={"detector": str(detector_file)}))


def test_labelled_poses_prompt_what_was_labelled(places: dict[str, Path]) -> None:
    photos = open_photos(places["coco"] / "annotations" / "person_keypoints_val2017.json")
    document = photos.document
    document["annotations"][1]["keypoints"][2] = 1  # type: ignore[index]
    document["annotations"][1]["keypoints"][5] = 0  # type: ignore[index]
    image = photos.photo(document["images"][0])
    (found,) = TrueBoxes(photos).detect([image])
    assert found.boxes is not None and found.boxes.tolist() == [[20, 45, 60, 145], [125, 45, 165, 145]]
    assert found.masks is None
    (posed,) = TruePoses(photos).estimate([image], [found[[1, 0]]])
    assert posed.keypoints is not None and posed.visibility is not None
    assert posed.visibility[0, :3].tolist()[::2] == [0, 1] and np.isnan(posed.visibility[0, 1])
    assert np.isnan(posed.keypoints[0, 1]).all() and posed.keypoints[1, 0] == pytest.approx([40, 53])
    assert len(TruePoses(photos).estimate([image], [People.empty(image.size)])[0]) == 0


def test_the_table() -> None:
    rows = published_rows()
    known = {c.name for c in list_models()}
    for row in rows.values():
        assert (
            20 < row.published < 90 and row.told and row.about and row.data in SETS and row.metric in METRICS
        )
        assert {row.pose, row.detector, row.segmenter} - {""} <= known, row.id
        assert row.missing or row.pose or row.detector or row.pipeline, row.id
    assert {r.kind for r in rows.values()} == {
        "labelled boxes", "detected boxes", "pipeline", "labelled poses", "detector"
    }  # fmt: skip
    values = {r.id: r.published for r in rows.values()}
    assert (values["probpose-s-cropcoco"], values["bmp-v1-ochuman-pose-test"]) == (81.7, 49.2)
    with pytest.raises(ConfigError, match="did you mean 'probpose-s-coco'"):
        find_row("probpose-s-cocoa")


def test_the_page_is_the_table() -> None:
    assert (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8") == page()
    for row in published_rows().values():
        assert f"| `{row.id}` |" in page() and f" {row.published:.1f} |" in page()


def test_what_cannot_be_run(places: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="HRFormer is not implemented"):
        reproduce(find_row("hrformer-s-coco"), places)
    with pytest.raises(ConfigError, match="needs CIHP val: name its folder with --cihp"):
        reproduce(find_row("bmp-v2-cihp-mask"), places)
    with pytest.raises(FileError, match="COCO val2017 has none of annotations"):
        reproduce(find_row("probpose-s-coco"), {"coco": tmp_path})


def test_command(places: dict[str, Path], pose_file: Path) -> None:
    done = call(
        "eval", "reproduce", "probpose-s-coco", "--coco", places["coco"], "--pose", pose_file, "--limit", 2
    )
    assert done.exit_code == 0, done.stderr
    assert "published   76.6" in done.stdout and "only the first 2 photos" in done.stdout
    assert "vitpose-s-coco" in call("eval", "reproduce", "--list").stdout
    rows = json.loads(call("eval", "reproduce", "--list", "--json").stdout)
    assert len(rows) == len(published_rows()) and rows[0]["published"] == 75.9
    assert call("eval", "reproduce", "--page").stdout == page()
    assert call("eval", "reproduce").exit_code == 2
    missing = call("eval", "reproduce", "probpose-s-coco")
    assert missing.exit_code == 1 and "--coco" in missing.stderr


def test_command_names_a_photo_that_fails(
    places: dict[str, Path], pose_file: Path, detector_file: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(places["ochuman"], tmp_path / "ochuman")
    (broken / "images" / "dev1.png").write_bytes(b"")
    done = call(
        "eval", "reproduce", "vitpose-b-multi-ochuman", "--ochuman", broken, "--pose", pose_file, "--detector",
        detector_file, "--run", tmp_path / "run", "--json",
    )  # fmt: skip
    assert done.exit_code == 1 and "dev1.png" in done.stderr
    told = json.loads(done.stdout)
    assert told["photos"] == 2 and list(told["failed"]) == ["dev1.png"]
    assert len(list((tmp_path / "run" / "photos").iterdir())) == 2
