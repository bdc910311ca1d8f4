"""``bodyloop cropcoco``: a set is made, checked and evaluated; the published one is fetched."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import call, run
from tests.data.test_cropcoco_folder import digests, make_source
from tests.data.test_cropcoco_hub import PLAIN, Hub
from tests.data.test_cropcoco_hub import hub as hub  # a fixture

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture
def source(tmp_path: Path) -> dict[str, Any]:
    document = make_source(tmp_path / "in")
    (tmp_path / "person_keypoints_val.json").write_text(json.dumps(document))
    return document


def build(folder: Path, *options: object) -> Any:
    where = (folder / "person_keypoints_val.json", folder / "in", folder / "out")
    return call("cropcoco", "build", *where, "--workers", 1, *options)


def test_build_check_and_again(source: dict[str, Any], tmp_path: Path) -> None:
    done = build(tmp_path)
    assert done.exit_code == 0, done.stderr
    out = tmp_path / "out"
    for name in (
        "annotations/person_keypoints_val.json",
        "annotations/coco_compatible_val.json",
        "index.html",
    ):
        assert str(out / name) in done.stdout and (out / name).is_file()
    assert f"bodyloop eval pose --data {out}" in done.stdout
    before = digests(out)
    again = build(tmp_path, "--json")
    report = json.loads(again.stdout)
    assert report["written"] == 0 and report["statistics"]["images"] == len(
        list((out / "val").rglob("*.jp*g"))
    )
    assert digests(out) == before  # the page, too
    checked = call("cropcoco", "check", out)
    assert checked.exit_code == 0 and checked.stdout.rstrip().endswith("all is right")
    (next((out / "val").rglob("*.jpg"))).unlink()
    wrong = call("cropcoco", "check", out, "--json")
    assert wrong.exit_code == 1 and [p["check"] for p in json.loads(wrong.stdout)["problems"]] == ["photos"]
    wrong = call("cropcoco", "check", out / "annotations" / "person_keypoints_val.json", "--padding", 3)
    assert wrong.exit_code == 1 and "px inside the window" in wrong.stdout
    other = build(tmp_path, "--seed", 1)
    assert other.exit_code == 1 and "seed 0 there, 1 here" in other.stderr


def test_a_first_look(source: dict[str, Any], tmp_path: Path) -> None:
    report = json.loads(build(tmp_path, "--limit", 3, "--json").stdout)
    assert report["statistics"]["images"] + report["statistics"]["skipped"] == 3
    assert build(tmp_path).exit_code == 1  # of another input


def test_without_what_the_page_needs(
    source: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = build(tmp_path)
    assert done.exit_code == 0 and not (tmp_path / "out" / "index.html").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith("bodyloop: no index.html: ") and "pip install 'bodyloop[eval]'" in line
    assert (tmp_path / "out" / "statistics.json").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(keypoints=[1, 2]), "annotation id 102: field 'keypoints'"),
        (lambda a: a.update(image_id=99), "annotation id 102: field 'image_id'"),
        (lambda a: a.update(bbox=[0, 0, "wide", 3]), "annotation id 102: field 'bbox'"),
        (lambda a: a.update(id=101), "annotation ids must be unique, but [101]"),
        (lambda a: a["keypoints"].__setitem__(2, 4), "annotation id 102: field 'keypoints'"),
        (lambda a: a.update(area="much"), "annotation id 102: field 'area'"),
        (lambda a: a.update(area=float("nan"), segmentation=[]), "annotation id 102: field 'area'"),
        (lambda a: a.update(segmentation=[[1, 2]]), "annotation id 102: field 'segmentation'"),
    ],
)
def test_malformed_input_names_file_and_annotation(
    source: dict[str, Any], tmp_path: Path, change: Any, message: str
) -> None:
    change(source["annotations"][2])
    (tmp_path / "person_keypoints_val.json").write_text(json.dumps(source))
    done = build(tmp_path)
    assert done.exit_code == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert "person_keypoints_val.json" in done.stderr


def test_called_wrongly(tmp_path: Path) -> None:
    done = call("cropcoco", "build", tmp_path / "no.json", tmp_path, tmp_path / "out")
    assert done.exit_code == 1 and "no.json" in done.stderr
    assert call("cropcoco", "build", tmp_path / "no.json").exit_code == 2
    assert call("cropcoco", "build", "a", "b", "c", "--padding", "0.5").exit_code == 2
    done = call("cropcoco", "check", tmp_path)
    assert done.exit_code == 1 and "no annotation file" in done.stderr


@pytest.mark.parametrize("command", ["build", "check", "get"])
def test_help_shows_an_example(command: str) -> None:
    done = call("cropcoco", command, "--help")
    assert done.exit_code == 0 and f"$ bodyloop cropcoco {command} " in done.stdout


def test_the_published_set_is_fetched_and_found(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bodyloop.eval.photos import PhotoSet, find_sets

    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    out = tmp_path / "CropCOCO"
    done = run("cropcoco", "get", out)
    assert done.returncode == 0, done.stderr
    assert "licensed under GPL-3.0 by its authors" in done.stderr
    assert f"bodyloop eval pose --data {out}" in done.stdout
    (file,) = find_sets(out, "dev")  # what `eval pose --data` looks for
    photos = PhotoSet.open(file)
    assert photos.photo(photos.document["images"][0]).size == (16, 12)
    checked = call("cropcoco", "check", out)
    assert (
        checked.exit_code == 0 and "crop " in checked.stdout and "skipped: no image has it" in checked.stdout
    )
    report = json.loads(call("cropcoco", "get", out, "--json").stdout)  # asks nobody
    assert report["images"] == 5 and report["licence"] == "gpl-3.0"
    assert PLAIN["README.md"] == (out / "README.md").read_bytes()


def test_cut_photos_are_not_cut_again(source: dict[str, Any], tmp_path: Path) -> None:
    """What is read for the set on disk is what is read for the same set cut on the way, but for JPEG."""
    from bodyloop.data.cropcoco import build as crop
    from bodyloop.eval.photos import PhotoSet, find_sets

    build(tmp_path)
    whole = PhotoSet.open(tmp_path / "person_keypoints_val.json", tmp_path / "in")
    cut = whole.cropped(crop(source))
    (file,) = find_sets(tmp_path / "out", "dev")
    there = PhotoSet.open(file)
    for a, b in zip(there.document["images"], cut.document["images"], strict=True):
        difference = there.photo(a).pixels.astype(int) - cut.photo(b).pixels
        assert abs(difference).mean() < 1.5
    assert [p[1]["id"] for p in there.persons()] == [p[1]["id"] for p in cut.persons()]


def test_one_command_evaluates_a_set(tmp_path: Path, pose_file: Path) -> None:
    """Presence is judged on the set as it is, not on crops of its crops."""
    from bodyloop.skeletons import COCO

    document = make_source(tmp_path / "in", names=COCO.keypoints)
    (tmp_path / "person_keypoints_val.json").write_text(json.dumps(document))
    flags = json.loads(build(tmp_path, "--json").stdout)["statistics"]["flags"]
    done = call("eval", "pose", "--data", tmp_path / "out", "--model", pose_file, "--no-flip", "--json")
    assert done.exit_code == 0, done.stderr
    (judged,) = json.loads(done.stdout)["sets"]
    assert judged["data"] == str(tmp_path / "out" / "annotations" / "person_keypoints_val.json")
    assert judged["presence"]["positives"] == flags["1"] + flags["2"]
    assert judged["presence"]["negatives"] == flags["3"] > 0


@pytest.fixture
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}")
    with sync_api.sync_playwright() as p:
        started = p.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.slow
def test_the_page_in_a_browser(source: dict[str, Any], tmp_path: Path, browser: Any) -> None:
    build(tmp_path)
    counts = json.loads((tmp_path / "out" / "statistics.json").read_bytes())
    for width in (400, 1400):
        page = browser.new_page(viewport={"width": width, "height": 900})
        complaints: list[str] = []
        page.on("console", lambda message, to=complaints: to.append(message.text))
        page.on("pageerror", lambda error, to=complaints: to.append(str(error)))
        page.goto((tmp_path / "out" / "index.html").as_uri())
        assert not complaints
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        sizes = page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth * i.naturalHeight)")
        assert len(sizes) == min(12, counts["images"]) and all(s > 10_000 for s in sizes)
        shapes = page.evaluate(
            "[...document.querySelectorAll('.chart svg')].map(s => s.querySelectorAll('path').length)"
        )
        assert len(shapes) == 2 and all(n > 5 for n in shapes)
        text = page.inner_text("body")
        assert f"{counts['flags']['3']}" in text and "outside the window" in text
        page.close()
