"""The pages of evaluations: what they say, whom they show, and how a browser shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from bodyloop.errors import FileError, InputError
from bodyloop.eval import evaluate_boxes, evaluate_keypoints
from bodyloop.eval.pck_files import evaluate_pck
from bodyloop.eval.presence_files import evaluate_presence_files
from bodyloop.eval.quality import evaluate_quality
from bodyloop.eval.report import cases, write_confidence, write_pck, write_report
from bodyloop.eval.report.gather import gather, judge_of
from bodyloop.eval.tasks import evaluate
from bodyloop.skeletons import COCO
from tests import browser
from tests.eval.small import guess, image, keypoints, person, truth
from tests.eval.stored import paths

pytest.importorskip("jinja2", reason="pages need the extra [eval]")
pytest.importorskip("matplotlib", reason="charts need the extra [eval]")

SECTIONS = [
    "At a glance", "Precision, recall, similarity", "All numbers", "Who is found", "What goes wrong",
    "Confidence", "Cases", "How this was measured",
]  # fmt: skip
K = len(COCO)
WIDTH, HEIGHT = 320, 240


def people(n: int, seed: int, spread: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """n photos with two people each, and predictions that scatter around the labels."""
    rng = np.random.default_rng(seed)
    gt: dict[str, Any] = {
        "images": [image(i + 1, WIDTH, HEIGHT) for i in range(n)],
        "annotations": [],
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO.keypoints)}],
    }
    guesses = []
    for i in range(2 * n):
        corner = np.array([20 + 120 * (i % 2), 20 + rng.integers(0, 60)])
        points = corner + rng.uniform(0, (100, 140), (K, 2))
        flags = rng.choice([0, 1, 2, 2, 3], K)
        labels = np.where(flags[:, None] > 0, np.column_stack([points, flags]), 0)
        gt["annotations"].append(
            person(
                i + 1, i // 2 + 1, keypoints=labels.ravel().tolist(), bbox=[*map(float, corner), 100.0, 140.0],
                area=7000.0, num_keypoints=int((flags > 0).sum()),
            )
        )  # fmt: skip
        found = points + rng.normal(0, spread, (K, 2)) * rng.choice([0.2, 1, 6], (K, 1))
        shares = rng.random((3, K))
        guesses.append(
            {
                "image_id": i // 2 + 1, "category_id": 1, "score": float(rng.random()), "annotation_id": i + 1,
                "keypoints": np.column_stack([found, shares[0]]).ravel().tolist(),
                "presence": shares[0].tolist(), "visibility": shares[1].tolist(), "quality": shares[2].tolist(),
            }
        )  # fmt: skip
    return gt, guesses


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Labels, two results files, and all photos but one."""
    folder = tmp_path_factory.mktemp("data")
    gt, guesses = people(6, 0, 6.0)
    out = {"gt": folder / "gt.json", "one": folder / "one.json", "two": folder / "two.json", "images": folder}
    out["gt"].write_text(json.dumps(gt))
    out["one"].write_text(json.dumps(guesses))
    out["two"].write_text(json.dumps(people(6, 0, 12.0)[1]))
    for i in range(1, 6):
        pixels = np.random.default_rng(i).integers(0, 255, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{i}.jpg")
    return out


@pytest.fixture(scope="module")
def one(files: dict[str, Path]) -> Path:
    report = evaluate("ex-keypoints", files["gt"], files["one"])
    return write_report(
        files["gt"].with_name("one.html"), report, images=files["images"], command="bodyloop x <y>"
    )


@pytest.fixture(scope="module")
def two(files: dict[str, Path]) -> Path:
    reports = [evaluate("coco-keypoints", files["gt"], files[n]) for n in ("one", "two")]
    return write_report(files["gt"].with_name("two.html"), reports, images=files["images"], resamples=100)


def text_of(path: Path) -> str:
    """The words of a page, without its charts' and its markup."""
    html = path.read_text("utf-8")
    bare = re.sub(r"<svg.*?</svg>|<style>.*?</style>|<[^>]+>", " ", html, flags=re.S)
    return re.sub(r"\s+", " ", bare)


def test_one_report_says_everything_that_is_known(one: Path, files: dict[str, Path]) -> None:
    report = evaluate("ex-keypoints", files["gt"], files["one"])
    told, html = text_of(one), one.read_text("utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", html) == SECTIONS
    for name, value in report.numbers.items():
        assert value is None or value < 0 or f"{name} {value:.4f}" in told, name
    e = report.evidence
    assert str(e.truth.digest) in told and str(e.predictions.digest) in told
    assert "standard protocol" in told and "6 images, 12 people" in told and "edge" in told
    assert "bodyloop x &lt;y&gt;" in html
    for title in ("By size", "By overlap", "By labelled keypoints", "Presence", "Visibility", "Keypoint quality",
                  "By visibility", "What putting it right is worth", "How far off"):  # fmt: skip
        assert f"<h3>{title}</h3>" in html, title
    assert len(html) < 5_000_000


def test_several_reports_are_compared_with_the_first(two: Path) -> None:
    told, html = text_of(two), two.read_text("utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", html) == SECTIONS
    assert "one and two on gt" in told and "two against one: AP" in told and "p = 0." in told
    assert "two - one" in told and "<h3>Differences</h3>" in html
    assert "flags of 3 are taken as ordinary labelled keypoints" in told  # a warning of both, said once
    assert told.count("flags of 3 are taken as ordinary") == 1


def test_a_missing_photo_is_a_note(one: Path) -> None:
    told = text_of(one)
    assert "No picture:" in told and "6.jpg" in told
    assert one.read_text("utf-8").count("<img") >= 4


def test_a_browser_shows_both(one: Path, two: Path) -> None:
    with browser.opened() as opened:
        for path in (one, two):
            for width in browser.WIDTHS:
                seen = browser.look(opened, path, width)
                assert seen.locator("h2").all_inner_texts() == SECTIONS
                assert seen.locator("svg").count() >= 11 and seen.locator("img").count() >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "name"),
    [("crowdpose", "c01_basic"), ("coco-wholebody", "w01_part_scores"), ("ochuman", "o01_two_people_close"),
     ("bbox", "b02_crowd"), ("segm", "m02_rle")],
)  # fmt: skip
def test_every_task_has_its_page(task: str, name: str, tmp_path: Path) -> None:
    report = evaluate(task, *paths(name))
    path = write_report(tmp_path / "page.html", report, resamples=20)
    told, html = text_of(path), path.read_text("utf-8")
    for number, value in report.numbers.items():
        assert value is None or value < 0 or f"{number} {value:.4f}" in told, number
    of_keypoints = report.evidence.truth.keypoints is not None
    assert ("What goes wrong" in html) == of_keypoints and "Cases" not in told
    assert ("box IoU" if task == "bbox" else "mask IoU" if task == "segm" else "OKS") in told


def test_nobody_anywhere(tmp_path: Path) -> None:
    told = text_of(write_report(tmp_path / "page.html", evaluate_keypoints(truth([]), [guess(0.5)])))
    assert "no people to find" in told


def test_nothing_found() -> None:
    for gt, dt in ((truth([]), []), (truth([person(1)]), []), paths("k38_nothing_to_find")):
        assert set(gather(evaluate_keypoints(gt, dt)).worth.values()) <= {0, -1}


@pytest.mark.slow
def test_names_from_files_are_only_names(tmp_path: Path) -> None:
    gt = truth([person(1), person(2, x=300)])
    gt["categories"][0]["keypoints"] = ["<b>$x", *(f"left_<i>{i}\ud800" for i in range(16))]
    gt["images"][0]["file_name"] = "../<script>alert(1)</script>.jpg"
    odd = tmp_path / "<img src=x>.json"
    odd.write_text(json.dumps([guess(0.5, x=200), guess(0.3)]))
    report = evaluate_keypoints(gt, odd)
    html = write_report(tmp_path / "page.html", [report, report], images=tmp_path).read_text("utf-8")
    alone = write_report(tmp_path / "page.html", report, images=tmp_path).read_text("utf-8")
    assert "<script>" not in html + alone and "<img src=x>" not in html + alone
    assert "names no file below" in alone  # a name that leads out of the folder is not opened


def test_pages_that_cannot_be_written(tmp_path: Path) -> None:
    report = evaluate_keypoints(truth([person(1)]), [guess(0.5)])
    with pytest.raises(FileError, match="nowhere"):
        write_report(tmp_path / "nowhere" / "x.html", report, resamples=5)
    with pytest.raises(InputError, match="at least one"):
        write_report(tmp_path / "x.html", [])
    assert list(tmp_path.iterdir()) == []


# what pages are made of


@pytest.mark.parametrize(
    ("task", "name", "options"),
    [
        ("coco-keypoints", "k35_all_together", {"protocol": "pycocotools"}),
        ("coco-keypoints", "k26_all_confidences_zero", {"protocol": "xtcocotools"}),
        ("ex-keypoints", "e01_basic", {"distance": "corner", "padding": 1.1}),
        ("ex-keypoints", "e07_pad_to_contain", {"protocol": "exococotools"}),
        ("ex-keypoints", "e19_presence_field", {"confidence_threshold": 0.3}),
        ("ex-keypoints", "e01_basic", {"plain": True}),
        ("crowdpose", "c04_num_keypoints", {}),
        ("coco-wholebody", "w03_fraction_flags", {}),
        ("ochuman", "o01_two_people_close", {}),
    ],
)
def test_files_are_judged_again_as_they_were(task: str, name: str, options: dict[str, Any]) -> None:
    report = evaluate(task, *paths(name), **options)
    judge, flags = judge_of(report)
    e = report.evidence
    again = judge(e.truth, e.predictions)
    np.testing.assert_array_equal(again.evidence.curves.precision, e.curves.precision)
    assert e.truth.keypoints is not None and flags.shape == e.truth.keypoints.shape[:2]
    assert ((flags > 0) <= (e.truth.keypoints[..., 2] > 0)).all()
    assert (flags == 3).any() <= (report.parameters.get("mode") == "extended")


def test_what_is_out_of_the_window_has_no_place(files: dict[str, Path]) -> None:
    report = evaluate("ex-keypoints", files["gt"], files["one"])
    g = gather(report)
    assert g.mistakes is not None and report.evidence.truth.keypoints is not None
    flags = report.evidence.truth.keypoints[g.mistakes.annotation, :, 2]
    assert ((g.mistakes.kind >= 0) == ((flags > 0) & (flags < 3))).all()
    assert g.presence is not None and g.presence.presence.negatives > 0
    assert g.worth["presence"] > g.ap
    assert g.quality is not None and g.quality.keypoints_from == "field quality"
    assert gather(evaluate_boxes(truth([person(1)]), [guess(0.5, bbox=[0, 0, 5, 5])])).quality is None


def far(k: int = 0) -> dict[str, Any]:
    """Everything in one place at the rim."""
    return {"keypoints": keypoints(dict.fromkeys(range(K), (600.0 + k, 400.0, 1.0)))}


def test_confident_and_wrong_goes_by_score_one_a_person() -> None:
    people = [person(1), person(2, x=300), person(3, x=500)]
    guesses = [guess(0.5, x=90), guess(0.9, x=310), guess(0.8, x=92), guess(0.7, x=500), guess(0.99, **far())]
    e = evaluate_keypoints(truth(people), guesses).evidence
    found = cases.confident_and_wrong(e, 8)
    assert [c.predictions for c in found] == [(4,), (1,), (2,)]
    assert [c.annotation for c in found] == [-1, 1, 0]  # the first is near nobody
    assert 0 < found[1].similarity[0] < 0.5
    assert cases.confident_and_wrong(e, 1) == found[:1]
    missed = cases.missed(e, 5, found)
    assert missed == []  # both people who were not found are among the cases above
    assert [c.annotation for c in cases.missed(e, 5)] == [0, 1]


def test_missed_people_come_with_what_is_nearest_the_largest_first() -> None:
    people = [person(1), person(2, x=300, bbox=[200, 50, 200, 200])]
    e = evaluate_keypoints(truth(people), [guess(0.4, x=112)]).evidence
    big, small = cases.missed(e, 5)
    assert (big.annotation, big.predictions, big.similarity) == (1, (-1,), (0.0,))
    assert small.annotation == 0 and small.predictions == (0,) and small.similarity[0] > 0


def test_people_that_one_file_finds_better() -> None:
    everything = {k: (100.0 + k, 100.0, 2.0) for k in range(K)}
    sure = person(1, keypoints=keypoints(everything), num_keypoints=K)
    bare = person(2, x=300)
    exact = guess(0.9, keypoints=keypoints(everything))
    shifted = guess(0.9, keypoints=keypoints({k: (x + 12, y, 1) for k, (x, y, _) in everything.items()}))
    gt = truth([bare, sure])
    a = evaluate_keypoints(gt, [shifted, guess(0.5, x=310)]).evidence
    b = evaluate_keypoints(gt, [exact, guess(0.5, x=300)]).evidence
    better, worse = cases.differences([a, b], 5)
    assert [c.annotation for c in better] == [1, 0]  # one keypoint says less than seventeen
    assert better[0].similarity[1] == 1 and worse == []
    assert cases.differences([b, a], 5)[1] == [
        cases.Case(c.annotation, c.predictions[::-1], c.similarity[::-1]) for c in better
    ]
    assert cases.differences([a, a], 5) == ([], [])


def test_captions_name_the_grave_mistakes() -> None:
    places = {k: (100.0 + 40 * (k % 4), 100.0 + 40 * (k // 4)) for k in range(K)}
    wrong = dict(places)
    wrong[9], wrong[10] = places[10], places[9]  # the wrists
    wrong[0] = (5.0, 5.0)
    gt = truth([person(7, keypoints=keypoints({k: (*p, 2) for k, p in places.items()}))])
    dt = [guess(0.25, keypoints=keypoints({k: (*p, 1) for k, p in wrong.items()}))]
    report = evaluate_keypoints(gt, dt)
    g, case = gather(report), cases.Case(0, (0,), (float(report.evidence.similarity(1, 1)[0, 0]),))
    told = cases.caption(case, [report.evidence], ["x"], "OKS", g.mistakes)
    assert (
        told == "OKS 0.82, score 0.25 · miss: nose · inversion: left wrist, right wrist. 1.jpg, annotation 7"
    )
    lost = cases.Case(0, (-1, 0), (0.0, 0.8))
    told = cases.caption(lost, [report.evidence] * 2, ["a", "b"], "OKS", g.mistakes)
    assert told.startswith("a: not found · b: OKS 0.80, score 0.25.")


def test_a_picture_shows_label_and_prediction_side_by_side(files: dict[str, Path]) -> None:
    e = evaluate("coco-keypoints", files["gt"], files["one"]).evidence
    drawn = cases.shown(cases.Case(0, (0,), (0.5,)), [e], COCO, files["images"])
    alone = cases.shown(cases.Case(0, (-1,), (0.5,)), [e], COCO, files["images"])
    assert not isinstance(drawn, str) and not isinstance(alone, str)
    assert drawn.size[1] <= cases.HEIGHT and drawn.size[0] <= 2 * cases.WIDEST + cases.GAP
    half = (alone.size[0] - cases.GAP) // 2
    bare, labelled = alone.pixels[:, half + cases.GAP :], alone.pixels[:, :half]
    assert bare.shape == labelled.shape and (bare != labelled).any()
    lost = cases.shown(cases.Case(11, (11,), (0.5,)), [e], COCO, files["images"])
    assert isinstance(lost, str) and "6.jpg" in lost


# pages of single keypoints


def test_the_page_of_presence_and_quality(files: dict[str, Path], tmp_path: Path) -> None:
    judged = [evaluate_presence_files(files["gt"], files[n], resamples=10) for n in ("one", "two")]
    quality = [evaluate_quality(files["gt"], files["one"], resamples=10), None]
    path = write_confidence(tmp_path / "page.html", judged, quality, command="bodyloop eval presence")
    told = text_of(path)
    assert "one and two on gt" in told and "Presence" in told and "bodyloop eval presence" in told
    for r in judged:
        assert f"AUROC {r.presence.auroc:.3f} (" in told and str(r.predictions.digest) in told


def test_the_page_of_pck(files: dict[str, Path], tmp_path: Path) -> None:
    judged = [evaluate_pck(files["gt"], files[n], resamples=10) for n in ("one", "two")]
    for several in (judged, judged[:1]):
        told = text_of(
            write_pck(tmp_path / "page.html", several, command="bodyloop eval keypoints --task pck")
        )
        for r in several:
            assert all(str(i) in told for i in r.numbers.pck.values())
        assert "norm: max(w, h) of the box" in told
