"""``bodyloop predict`` with the loop: which way is taken, what is written, what one photo may do wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import PIL.Image
import pytest

from bodyloop.errors import InputError, MissingDependency
from bodyloop.loop import BodyLoop
from bodyloop.masks import Masks
from bodyloop.people import People
from tests.cli.conftest import Call, call
from tests.cli.standins import picture
from tests.cli.test_predict import SCHEMA, names, results

ENDINGS = {
    "json": ".json", "vis": ".vis.jpg", "masks": ".masks.png", "npz": ".npz", "maps": ".maps.jpg",
    "sheet": ".loop.jpg", "gif": ".loop.gif", "html": ".loop.html",
}  # fmt: skip


@pytest.fixture
def looped(predict: Call, segmenter_file: Path) -> Call:
    """``bodyloop predict --pipeline bmp-n`` with stand-ins in all roles."""
    return lambda *arguments: predict("--pipeline", "bmp-n", "--segmenter", segmenter_file, *arguments)


def document(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_what_is_written(looped: Call, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = looped(photos / "0.jpg", photos / "2.jpg", "--save", ",".join(ENDINGS))
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("2 photos: 2 done; 2 people; ")
    assert names(out) == {"results.json", *(f"{i}{e}" for i in (0, 2) for e in ENDINGS.values())}
    told = document(out / "0.json")
    jsonschema.Draft202012Validator(document(SCHEMA)).validate(told)
    assert {role: m["name"] for role, m in told["model"].items()} == {
        "pose": "stand-in-pose", "detector": "stand-in-detector", "segmenter": "stand-in-segmenter",
    }  # fmt: skip
    people, exact = People.load(out / "0.json"), People.load(out / "0.npz")
    assert people.masks is not None and people.masks.present.all() and people.provenance is not None
    assert [c.what for c in people.provenance[0].changes] == ["found", "mask"]
    assert exact.maps is not None and exact.masks is not None and exact.masks.equals(people.masks)
    with PIL.Image.open(out / "0.masks.png") as labels:
        assert np.array_equal(np.asarray(labels), people.masks.labels())
    with PIL.Image.open(out / "0.loop.gif") as moving:
        assert moving.n_frames > 6  # type: ignore[attr-defined]
    assert '"Person 0"' in (out / "0.loop.html").read_text(encoding="utf-8")


def test_the_mask_is_what_the_segmenter_draws(looped: Call, photos: Path, tmp_path: Path) -> None:
    """The bright figure of the stand-in's photo, of which the window sees all but the borders."""
    looped(photos / "1.jpg", "--save", "json")
    people = People.load(tmp_path / "out" / "1.json")
    with PIL.Image.open(photos / "1.jpg") as photo:
        bright = np.asarray(photo).mean(axis=2) > 110
    assert people.masks is not None and people.mask_scores is not None
    mine = people.masks.bitmap(0)
    assert (mine & bright).sum() / (mine | bright).sum() > 0.9
    np.testing.assert_allclose(people.mask_scores, 0.8)


def test_a_film_is_written_too(looped: Call, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="films need the extra [video]")
    assert looped(photos / "0.jpg", "--save", "mp4").exit_code == 0
    assert (tmp_path / "out" / "0.loop.mp4").stat().st_size > 1000


def test_results_hold_poses_and_masks(looped: Call, photos: Path, tmp_path: Path) -> None:
    looped(photos)
    for row in results(tmp_path / "out"):
        assert len(row["keypoints"]) == 51 and 0 <= row["score"] <= 1
        assert row["segmentation"]["size"] == [160, 120] and isinstance(row["segmentation"]["counts"], str)
        people = People.load(tmp_path / "out" / f"{row['image_id']}.json")
        assert people.masks is not None and Masks.from_rle([row["segmentation"]]).equals(people.masks)


@pytest.mark.parametrize(
    ("change", "skipped"),
    [
        ([], 3),
        (["--save", "json"], 3),  # less than before
        (["--save", "json,html"], 0),
        (["--passes", "2"], 3),  # what it was
        (["--passes", "1"], 0),
        (["--set", "passes=2", "--set", "name=bmp-n"], 3),
        (["--set", "pose_nms=0.6"], 0),
        (["--threshold", "0.5"], 0),
        (["--pipeline", "bmp-v2"], 0),
        (["--pipeline", "none"], 0),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_what_changes_the_result_is_done_again(
    looped: Call, predict: Call, photos: Path, change: list[str], skipped: int
) -> None:
    looped(photos)
    again = predict if "none" in change else looped
    said = json.loads(again(photos, "--json", *change).stdout)
    assert (said["done"], said["skipped"]) == (3 - skipped, skipped)


def test_its_own_drawings_are_no_photos(looped: Call, photos: Path) -> None:
    looped(photos, "--out", photos, "--save", "vis,masks,sheet,gif")
    said = json.loads(looped(photos, "--out", photos, "--save", "vis,masks,sheet,gif", "--json").stdout)
    assert (said["photos"], said["skipped"]) == (3, 3)


def test_the_loop_begins_with_people_that_are_given(looped: Call, photos: Path, tmp_path: Path) -> None:
    boxes = tmp_path / "boxes.json"
    boxes.write_text(
        json.dumps({"0.jpg": [[104, 142, 118, 158]], "2.jpg": [[30, 20, 90, 140]]}), encoding="utf-8"
    )
    result = looped(photos, "--boxes", boxes, "--save", "json", "--set", "least_quality=0")
    assert result.exit_code == 0 and "1 left out" in result.stdout
    people = People.load(tmp_path / "out" / "0.json")
    assert people.boxes is not None and people.provenance is not None
    np.testing.assert_array_equal(people.boxes[0], [104, 142, 118, 158])
    assert people.provenance[0].changes[0].why == "given by the caller"
    assert people.provenance[-1].pass_number == 2  # whom the detector found beside it


def test_nobody_in_the_picture(looped: Call, photos: Path, tmp_path: Path) -> None:
    forms = ("--threshold", "0.95", "--save", ",".join(ENDINGS))
    result = looped(photos, *forms)
    assert result.exit_code == 0 and "0 people" in result.stdout
    people = People.load(tmp_path / "out" / "0.json")
    assert len(people) == 0 and people.keypoints is not None and people.keypoints.shape == (0, 17, 2)
    assert results(tmp_path / "out") == []
    assert json.loads(looped(photos, *forms, "--json").stdout)["skipped"] == 3


class OutOfMemoryError(RuntimeError):
    """As a device's library raises it."""


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemoryError("40 GiB"), InputError("no pose")])
def test_one_bad_photo_and_the_rest_goes_on(
    looped: Call, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    sound = BodyLoop.run

    def run(self: BodyLoop, image: Any, *more: Any) -> Any:
        if str(image.path).endswith("1.jpg"):
            raise error
        return sound(self, image, *more)

    monkeypatch.setattr(BodyLoop, "run", run)
    result = looped(photos, "--json")
    said = json.loads(result.stdout)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert (said["done"], said["people"]) == (2, 2)
    ((photo, why),) = [(f["photo"], f["error"]) for f in said["failed"]]
    assert photo == str(photos / "1.jpg") and "1.jpg" in why
    assert ("not enough memory" in why) == (not isinstance(error, InputError))
    assert len(results(tmp_path / "out")) == 2


def test_too_little_memory_of_a_device_without_the_loop(
    predict: Call, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bodyloop.pose.estimator import PoseModel

    sound = PoseModel.estimate

    def estimate(self: PoseModel, images: list[Any], *more: Any, **options: Any) -> list[People]:
        if any(str(i.path).endswith("1.jpg") for i in images):
            raise OutOfMemoryError("40 GiB")
        return sound(self, images, *more, **options)

    monkeypatch.setattr(PoseModel, "estimate", estimate)
    said = json.loads(predict(photos, "--json").stdout)
    assert said["done"] == 2 and "not enough memory" in said["failed"][0]["error"]


def test_what_is_no_photos_fault_is_not_hidden(
    looped: Call, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: BodyLoop, *more: Any) -> Any:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(BodyLoop, "run", broken)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        looped(photos)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--pipeline", "bmp-x"), "known: bmp-d3"),
        (("--pipeline", "none", "--passes", "2"), "--passes is of the loop"),
        (("--pipeline", "none", "--segmenter", "pose2seg-n"), "--segmenter is of the loop"),
        (("--pipeline", "none", "--save", "gif,html"), "--save gif,html is of the loop"),
        (("--pipeline", "bmp-n", "--detector", "none"), "needs somebody to look"),
        (("--passes", "0"), "--passes"),
        (("--save", "json,avi"), "'avi'"),
    ],
)
def test_called_wrongly(photos: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    result = call("predict", photos, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2 and said in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_pyav_nothing_is_begun_that_would_end_as_a_film(
    looped: Call, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    result = looped(photos, "--save", "mp4")
    assert result.exit_code == 1 and "bodyloop[video]" in result.stderr
    assert not (tmp_path / "out").exists()
    assert issubclass(MissingDependency, ImportError)


class TestWhatIsDoneWhereNothingIsSaid:
    @pytest.fixture(autouse=True)
    def in_the_package(
        self, pose_file: Path, detector_file: Path, segmenter_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from bodyloop import api

        names = (str(detector_file), str(pose_file), str(segmenter_file))
        monkeypatch.setitem(api.PIPELINES, api.DEFAULT_PIPELINE, names)
        monkeypatch.setattr("bodyloop.cli.predict._is_embedded", lambda models: models == names)
        monkeypatch.setattr(api, "DEFAULT_POSE", str(pose_file))
        monkeypatch.setattr(api, "DEFAULT_DETECTOR", str(detector_file))

    @pytest.mark.parametrize(
        ("arguments", "loop"),
        [
            ((), True),
            (("--save", "json,gif"), True),
            (("--whole-image", "--set", "passes=1"), True),
            (("--whole-image",), False),
            (("--whole-image", "--passes", "1"), True),
            (("--pipeline", "none"), False),
            (("--pipeline", "BMP-N"), True),
        ],
        ids=["nothing", "forms", "whole and a field", "whole", "whole and passes", "none", "named"],
    )
    def test_the_loop_or_not(
        self, photos: Path, tmp_path: Path, arguments: tuple[str, ...], loop: bool
    ) -> None:
        result = call("predict", photos / "0.jpg", "--out", tmp_path / "out", *arguments)
        assert result.exit_code == 0, result.stderr
        assert ("segmenter" in document(tmp_path / "out" / "0.json")["model"]) == loop

    @pytest.mark.parametrize("option", ["--model", "--pose", "-m"])
    def test_a_model_alone_is_a_model_alone(
        self, photos: Path, pose_file: Path, tmp_path: Path, option: str
    ) -> None:
        call("predict", photos / "0.jpg", "--out", tmp_path / "out", option, pose_file)
        assert "segmenter" not in document(tmp_path / "out" / "0.json")["model"]

    def test_without_its_models_in_the_package_the_loop_is_left_out(
        self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("bodyloop.cli.predict._is_embedded", lambda models: False)
        call("predict", photos / "0.jpg", "--out", tmp_path / "out")
        assert "segmenter" not in document(tmp_path / "out" / "0.json")["model"]


def test_which_models_are_in_the_package() -> None:
    from bodyloop.cli.predict import _is_embedded

    assert _is_embedded(("rtmdet-n", "pmpose-n")) and not _is_embedded(("rtmdet-n", "pmpose-b"))


def test_masks_of_many_people_keep_their_numbers(tmp_path: Path) -> None:
    from bodyloop.cli._forms import save_labels

    for n in (0, 3, 255, 300):
        bitmaps = np.zeros((n, 4, 400), bool)
        bitmaps[np.arange(n), :, np.arange(n)] = True
        masks = Masks.from_bitmaps(bitmaps, (400, 4))
        save_labels(masks, (400, 4), tmp_path / "a.png")
        with PIL.Image.open(tmp_path / "a.png") as saved:
            assert np.array_equal(np.asarray(saved)[0, :n], np.arange(1, n + 1))
            assert not np.asarray(saved)[:, n:].any()


def test_photos_without_the_extension_are_kept_apart(looped: Call, tmp_path: Path) -> None:
    a, b = picture(tmp_path / "a" / "1.jpg", 1), picture(tmp_path / "a" / "1.png", 2)
    looped(a, b, "--save", "json,gif")
    assert len(list((tmp_path / "out").glob("1*.loop.gif"))) == 2
