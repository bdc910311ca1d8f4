"""A whole calibration of a model whose honest temperatures are known."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bodyloop.api import load_pose
from bodyloop.calibrate import CalibrationReport, Wanted, calibrate, split
from bodyloop.calibrate.report import Change
from bodyloop.engines.onnx import OnnxEngine
from bodyloop.errors import ConfigError, FileError, InputError, ModelError
from bodyloop.eval.bootstrap import Difference, Interval
from bodyloop.eval.photos import PhotoSet
from bodyloop.maps import sparsemax, sparsemax_newton
from bodyloop.models.cards import Accuracy
from bodyloop.models.registry import find_card
from bodyloop.models.rewrite import newton_steps
from tests.calibrate.small import write_set
from tests.calibrate.standin import CARD, HAS, STEPS, TRUE, map_logits, side_logits, write_model, write_photos

Made = tuple[Path, Path, CalibrationReport]
# no flip test: the stand-in's maps know nothing of mirrors
WANTED = Wanted(flip=False, resamples=200, alpha=0.15, false_positive_rate=0.3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The model, the new file and the report; 120 photos to fit on, 80 to report on."""
    folder = tmp_path_factory.mktemp("calibrated")
    rows = (
        Accuracy("somewhere", "AP", 0.5, protocol="flip test", source="bodyloop eval pose"),
        Accuracy("before", "map calibration error", 0.5, source="bodyloop calibrate x"),
    )
    source = write_model(folder / "model.onnx", replace(CARD, accuracy=rows))
    fit = PhotoSet.open(write_photos(folder / "fit", 150))
    other = PhotoSet.open(write_photos(folder / "other", 80, first_id=1000))
    out = folder / "calibrated.onnx"
    return source, out, calibrate(source, out, fit, other, WANTED, threads=1, command="bodyloop calibrate m")


def test_the_temperatures_that_made_the_labels_are_found(made: Made) -> None:
    for name, fitted in made[2].temperatures.items():
        assert fitted.before == HAS[name]
        assert fitted.low < TRUE[name] < fitted.high
        assert fitted.value == fitted.best == pytest.approx(TRUE[name], rel=0.35)
    assert set(made[2].temperatures) == {"maps", "presence", "visibility"}


def test_the_new_file_does_what_its_card_says(made: Made) -> None:
    source, out, report = made
    card = find_card(out)
    assert card == report.card and card.decode is not None
    assert card.weights is not None and card.weights.file == "calibrated.onnx"
    engine = OnnxEngine(out, threads=1)
    assert engine.metadata["kept"] == "as it is"
    crops = np.full((2, 64, 48, 3), 100, np.uint8)
    got = engine.run({"crops": crops}, engine.outputs)
    expected = sparsemax(map_logits(), card.decode.temperature)
    np.testing.assert_allclose(got["maps"][1], expected, atol=1e-6)  # the steps suffice
    side = side_logits(np.array([100.0]))
    for name in ("presence", "visibility"):
        z = side / getattr(card.decode, f"{name}_temperature")
        np.testing.assert_allclose(got[name][:1], 1 / (1 + np.exp(-z)), atol=1e-5)
    old = OnnxEngine(source, threads=1).run({"crops": crops}, ["logits"])
    assert np.array_equal(old["logits"], got["logits"])
    few = sparsemax_newton(map_logits(), STEPS, card.decode.temperature)
    assert np.abs(few - expected).max() > 1e-5  # those of the old file would not


def test_the_steps_are_extended_to_what_the_maps_need_and_one_more(made: Made) -> None:
    source, out, report = made
    assert report.newton_steps is not None and report.newton_steps[0] == newton_steps(source) == STEPS
    assert newton_steps(out) == report.newton_steps[1] > STEPS + 1


def test_the_model_itself_stays(made: Made) -> None:
    source = made[0]
    again = write_model(source.parent / "again.onnx", find_card(source))
    assert _sum(source) == _sum(again)
    assert not list(source.parent.glob("*.part")) and not list(source.parent.glob(".*.part"))


def test_the_report_is_about_other_photos_and_says_what_changed(made: Made) -> None:
    report = made[2]
    assert report.report.startswith("dev.json: 80 photographs")
    assert report.fit.startswith("dev.json: 150 photographs")
    changes = {c.name: c for c in report.changes}
    for name in ("map calibration error", "presence log loss", "visibility log loss"):
        c = changes[name]
        assert c.after.value < c.before.value and c.change.high < 0 and c.verdict == "better"
        assert c.change.value == pytest.approx(c.after.value - c.before.value)
        assert c.before.low <= c.before.value <= c.before.high or "error" in name
    assert "OKS of the points" in changes
    assert not any(n.startswith("quality") for n in changes)  # the model has none
    assert (
        json.loads(json.dumps(report.to_json()))["temperatures"]["maps"]["after"]
        == report.temperatures["maps"].best
    )
    text = report.table()
    for words in (
        "fitted on",
        "reported on",
        "map calibration error",
        "presence threshold",
        "wanted 85%",
        str(made[1]),
    ):
        assert words in text
    assert report.cropped == ()  # the photos have people who leave them as they are


def test_regions_hold_what_was_promised_on_the_other_photos(made: Made) -> None:
    report = made[2]
    assert [r.alpha for r in report.regions] == [0.2, 0.15, 0.1, 0.05]
    for r in report.regions:
        low, high = 1 - r.alpha - 0.04, 1 - r.alpha + 0.08  # 80 photos, and the next one's infinity
        assert low < r.coverage < high
        assert r.median_share < 0.6
    assert report.card.calibration is not None
    by_alpha = {v.alpha: v.thresholds for v in report.card.calibration.regions}
    assert (np.array(by_alpha[0.05]) >= np.array(by_alpha[0.2])).all()


def test_the_presence_threshold_keeps_its_rate_on_the_other_photos(made: Made) -> None:
    report = made[2]
    assert report.presence is not None and report.presence.threshold is not None
    assert report.card.decode is not None
    assert report.card.decode.presence_threshold == report.presence.threshold
    before, after = report.decisions
    assert before.threshold == 0.3 and after.threshold == report.presence.threshold
    assert after.false_alarms.value <= 0.3 < before.false_alarms.value
    assert 0 < after.recall < before.recall
    risk = report.card.calibration.presence if report.card.calibration else None
    assert risk is not None and (risk.false_positive_rate, risk.confidence) == (0.3, 0.9)
    assert risk.photographs <= 100  # two thirds of the photos to fit on


def test_the_cards_accuracy_says_what_is_of_before_and_what_of_now(made: Made) -> None:
    rows = {(a.metric, a.source): a for a in made[2].card.accuracy}
    assert rows["AP", "bodyloop eval pose"].protocol == "flip test (before calibration)"
    assert ("map calibration error", "bodyloop calibrate x") not in rows
    alarms = [a for (metric, _), a in rows.items() if metric.startswith("keypoints outside called present")]
    assert len(alarms) == 1 and alarms[0].value == pytest.approx(
        made[2].decisions[1].false_alarms.value, abs=1e-4
    )
    error = rows["map calibration error", "bodyloop calibrate m"]
    assert "before calibration" in error.protocol and error.interval is not None
    assert rows["coverage of the 90% regions", "bodyloop calibrate m"].value == pytest.approx(
        next(r.coverage for r in made[2].regions if r.alpha == 0.1), abs=1e-4
    )


def test_people_have_regions_where_the_model_is_run_as_it_was_calibrated(made: Made) -> None:
    model = load_pose(made[1], detector=None, threads=1)
    picture = np.full((90, 120, 3), 90, np.uint8)
    people = model.predict(picture, [[10, 10, 50, 70]], maps=True, flip=False)
    sizes = [people.region(0, "left_ankle", coverage=c).area for c in (0.8, 0.85, 0.9, 0.95)]
    assert sizes == sorted(sizes) and sizes[0] > 0
    with pytest.raises(InputError, match="in another way than calibrated"):
        model.predict(picture, [[10, 10, 50, 70]], maps=True, flip=True).region(0, 0, coverage=0.9)
    old = load_pose(made[0], detector=None, threads=1).predict(
        picture, [[10, 10, 50, 70]], maps=True, flip=False
    )
    with pytest.raises(InputError, match="no thresholds came with these maps"):
        old.region(0, 0, coverage=0.9)


def test_a_calibrated_file_can_be_calibrated_again(made: Made, tmp_path: Path) -> None:
    a, b = split(PhotoSet.open(write_photos(tmp_path, 60, first_id=5000)), 0.7, 0)
    again = calibrate(made[1], tmp_path / "again.onnx", a, b, Wanted(flip=False, resamples=50), threads=1)
    assert all(t.value == t.before for t in again.temperatures.values())  # right already
    first, second = made[2].card.calibration, again.card.calibration
    assert first is not None and second is not None
    assert second.before == first.before and second.data != first.data
    protocols = [a.protocol for a in again.card.accuracy if a.metric == "AP"]
    assert protocols == ["flip test (before calibration)"]
    assert sum(a.metric == "map calibration error" for a in again.card.accuracy) == 1


def test_temperatures_to_keep_are_kept(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.onnx", steps=9)
    a, b = split(PhotoSet.open(write_photos(tmp_path, 60)), 0.7, 0)
    wanted = Wanted(flip=False, resamples=20, keep=("maps", "visibility"))
    report = calibrate(source, tmp_path / "out.onnx", a, b, wanted, threads=1)
    assert set(report.temperatures) == {"presence"}
    decode = report.card.decode
    assert decode is not None
    assert (decode.temperature, decode.visibility_temperature) == (HAS["maps"], HAS["visibility"])
    assert decode.presence_temperature > 1.2 and report.card.calibration is not None
    assert next(c for c in report.changes if c.name == "map calibration error").change.value == 0
    with pytest.raises(ConfigError, match="no temperature of 'map'; there are maps, presence"):
        Wanted(keep=("map",))


def test_too_few_photos_leave_the_presence_threshold(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.onnx")
    a, b = split(PhotoSet.open(write_photos(tmp_path, 16)), 0.5, 0)
    report = calibrate(source, tmp_path / "out.onnx", a, b, Wanted(flip=False, resamples=50), threads=1)
    assert report.presence is not None and report.presence.threshold is None
    assert report.card.decode is not None and report.card.decode.presence_threshold == 0.3
    assert report.card.calibration is not None and report.card.calibration.presence is None
    assert "photographs are needed" in report.table() and "keeps the presence threshold" in report.table()
    whole = next(r for r in report.regions if r.alpha == 0.05)
    assert whole.whole == 1 and whole.coverage == 1  # five photos promise nothing less at 0.05


def test_photos_without_flags_of_3_are_cropped_for_presence(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.onnx")
    a, b = split(PhotoSet.open(write_set(tmp_path, 12)), 0.5, 0)
    report = calibrate(source, tmp_path / "out.onnx", a, b, Wanted(resamples=20), threads=1)
    assert report.presence is not None and report.presence.keypoints > 0
    assert len(report.cropped) == len(report.regions) == 3
    assert "on cropped photos" in report.table()
    calibration = report.card.calibration
    assert calibration is not None and calibration.flip


def test_keypoints_without_labels_take_the_threshold_of_all(tmp_path: Path) -> None:
    source = write_model(tmp_path / "m.onnx")
    names = CARD.skeleton.keypoints[:6] if CARD.skeleton else ()
    a, b = split(PhotoSet.open(write_set(tmp_path, 30, names=names)), 0.5, 0)
    report = calibrate(source, tmp_path / "out.onnx", a, b, Wanted(resamples=20), threads=1)
    calibration = report.card.calibration
    assert calibration is not None and calibration.photographs == (10,) * 6 + (0,) * 11
    assert any("without labels here" in n and "left_ankle" in n for n in report.notes)
    for level in calibration.regions:
        assert len(set(level.thresholds[6:])) == 1


# --- what is refused -------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> tuple[PhotoSet, PhotoSet]:
    return split(PhotoSet.open(write_set(tmp_path / "set", 6)), 0.5, 0)


def test_targets_that_are_refused(tmp_path: Path, photos: tuple[PhotoSet, PhotoSet]) -> None:
    source = write_model(tmp_path / "m.onnx")
    (tmp_path / "there.onnx").write_bytes(b"mine")
    (tmp_path / "carded.toml").write_text("")
    for out, message in (
        (source, "is the model itself"),
        (tmp_path / "there.onnx", "is there already"),
        (tmp_path / "m.safetensors", "becomes a .onnx file"),
        (tmp_path / "no" / "m.onnx", "there is no folder"),
        (tmp_path / "carded.onnx", "would be read instead"),
    ):
        with pytest.raises(FileError, match=message):
            calibrate(source, out, *photos)
    with pytest.raises(FileError, match="is the model itself"):
        calibrate(source, source, *photos, overwrite=True)
    assert (tmp_path / "there.onnx").read_bytes() == b"mine"
    link = tmp_path / "link.onnx"
    link.symlink_to(source)
    with pytest.raises(FileError, match="is the model itself"):
        calibrate(source, link, *photos, overwrite=True)


def test_the_package_is_never_written_to(tmp_path: Path, photos: tuple[PhotoSet, PhotoSet]) -> None:
    from bodyloop.models.registry import ASSETS

    source = write_model(tmp_path / "m.onnx")
    with pytest.raises(FileError, match="models of the package stay as they are"):
        calibrate(source, ASSETS / "mine.onnx", *photos)
    with pytest.raises(FileError, match="is the model itself"):
        calibrate("pmpose-n", ASSETS / "pmpose-n.onnx", *photos, overwrite=True)


def test_models_that_cannot_be_calibrated(tmp_path: Path, photos: tuple[PhotoSet, PhotoSet]) -> None:
    plain = write_model(tmp_path / "plain.onnx", replace(CARD, head="plain"))
    with pytest.raises(ModelError, match="a model with plain heat maps; only probability maps"):
        calibrate(plain, tmp_path / "out.onnx", *photos)
    with pytest.raises(ModelError, match="is a detector"):
        calibrate("rtmdet-n", tmp_path / "out.onnx", *photos)
    bare = tmp_path / "bare.pth"
    bare.write_bytes(b"PK")
    with pytest.raises(FileError, match=r"bodyloop convert .*bare\.pth"):
        from bodyloop.models.rewrite import check_target

        check_target(bare, tmp_path / "out.pth")


def test_photos_in_both_sets_are_refused(tmp_path: Path, photos: tuple[PhotoSet, PhotoSet]) -> None:
    source = write_model(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="photos are both"):
        calibrate(source, tmp_path / "out.onnx", photos[0], photos[0])
    assert not (tmp_path / "out.onnx").exists()


def test_numbers_out_of_range() -> None:
    for name in ("alpha", "confidence", "false_positive_rate"):
        with pytest.raises(ConfigError, match=name):
            Wanted(**{name: 1.0})  # type: ignore[arg-type]


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("better", "low", "high", "verdict"),
    [
        ("less", -2.0, -1.0, "better"), ("less", 1.0, 2.0, "worse"), ("more", -2.0, -1.0, "worse"),
        ("more", 1.0, 2.0, "better"), ("less", -1.0, 1.0, ""), ("", 1.0, 2.0, ""), ("less", np.nan, np.nan, ""),
    ],
)  # fmt: skip
def test_a_change_is_called_better_or_worse_where_its_interval_says_so(
    better: str, low: float, high: float, verdict: str
) -> None:
    one = Interval(1.0, 0.9, 1.1)
    change = Change("error", better, one, one, Difference((low + high) / 2, low, high, 0.01))
    assert change.verdict == verdict and change.to_json()["verdict"] == verdict
    assert change.line().endswith(verdict)
