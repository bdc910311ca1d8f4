"""The loop as a page: what stands in it, that nothing leaves or enters it, and how a browser walks through it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bodyloop as bl
from bodyloop.drawing import LoopDrawing
from tests import browser

from .loops import crowd, photo, run

HOSTILE = (
    """</script><script>alert(1)</script>"'><img src=x onerror=alert(2)>&amp; @@data@@ \x00\ud800 名前.jpg"""
)

_CONTRAST = """() => {
  const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = c.slice(0, 3).map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length && c[3] !== 0) return c; } return [255, 255, 255]; };
  const low = [];
  for (const e of document.querySelectorAll('body *:not(svg):not(svg *)')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.getClientRects().length || e.disabled) continue;
    const a = light(rgb(getComputedStyle(e).color)), b = light(ground(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low.push(`${e.tagName} ${e.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return low;
}"""


@pytest.fixture(scope="module")
def usual() -> LoopDrawing:
    return bl.draw_loop(*run())


@pytest.fixture(scope="module")
def page(usual: LoopDrawing, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return usual.save(tmp_path_factory.mktemp("page") / "loop.html")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser.opened() as b:
        yield b


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert found is not None
    told: dict[str, Any] = json.loads(found[1])
    return told


def test_everything_that_happened_stands_in_the_page(usual: LoopDrawing) -> None:
    told = data_of(usual.html())
    assert [s["key"] for s in told["steps"]] == [k for c in usual.chapters for k in c.stations()]
    names = [w["name"] for w in told["who"]]
    assert names == ["Person 0", "Person 1", "Person 2", "Find 1", "Person 3", "Find 2"]
    assert [w["counts"] for w in told["who"]] == [True] * 3 + [False] * 3
    assert [w["found"] for w in told["who"]] == [1, 2, 2, 1, 1, 2]
    history = {w["name"]: dict_of(w["history"]) for w in told["who"]}
    assert history["Person 0"][1][0] == "found by the detector, box score 0.50"
    assert re.fullmatch(
        r"sent to the segmenter: 3 points \((\w+ ?\w+, ){2}\w+ ?\w+\)", history["Person 0"][1][1]
    )
    assert re.fullmatch(
        r"mask drawn from 3 points: [\d ]+ px, the segmenter's own score 0\.\d\d, IoU with the detector's 0\.\d\d",
        history["Person 0"][1][2],
    )
    assert re.match(
        r"dropped: in the pose of person 2, new in this pass \(OKS 0\.9", history["Person 3"][2][0]
    )
    assert re.match(r"dropped: in the pose of person 0, new in this pass \(OKS 0\.9", history["Find 1"][1][0])
    assert re.match(r"dropped: in the pose of person 0, known already \(OKS 0\.9", history["Find 2"][2][0])
    facts = dict(told["who"][0]["facts"])
    assert {
        "Box score",
        "Box",
        "Keypoints",
        "Keypoint score",
        "Mask score",
        "Mask",
        "Consistency",
    } <= facts.keys()
    assert facts["Keypoints"] == "17 certain"


def dict_of(history: list[tuple[int, str]]) -> dict[int, list[str]]:
    out: dict[int, list[str]] = {}
    for pass_number, text in history:
        out.setdefault(pass_number, []).append(text)
    return out


def test_a_mask_or_pose_that_occurs_again_is_told_once(usual: LoopDrawing) -> None:
    html = usual.html()
    told = data_of(html)
    assert html.count("data:image/jpeg") == 1 and html.count("data:image/") == 1
    assert len(set(told["paths"])) == len(told["paths"])
    shown = sum(len(s.get("masks", [])) + len(s.get("black", [])) for s in told["steps"])
    assert shown > len(told["paths"]) == 6 + 4  # of the detector for six finds (one is alike), of four people


def test_nothing_is_loaded_and_only_the_own_script_may_run(usual: LoopDrawing) -> None:
    html = usual.html()
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", html)
    assert "http" not in re.sub(r"http-equiv|http://www\.w3\.org/2000/svg", "", html)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.S)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; ") and f"script-src 'sha256-{digest}'" in policy[1]


def test_hostile_text_is_only_text() -> None:
    image, result = run(image=photo(path=f"/somewhere/{HOSTILE.replace('/', '_')}"))
    people = result.people.replace(extra={"<b>score</b>": result.people.scores})
    drawing = bl.draw_loop(image, type(result)(people, result.passes, result.ended))
    for html in (drawing.html(), drawing.html(title=HOSTILE)):
        html.encode()
        assert "alert(1)" in html and "名前" in html and "@@data@@" in html
        body = html.replace("&lt;", "").replace("&gt;", "")
        assert "<img" not in body and "<b>" not in body and html.count("<script") == 2
        data_of(html)


def test_pages_of_many_people_stay_small() -> None:
    image, result = crowd(60)
    html = bl.draw_loop(image, result).html()
    assert len(data_of(html)["who"]) == 60 and len(html) < 300_000


@pytest.mark.parametrize("width", browser.WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(chromium: Any, page: Path, width: int, scheme: str) -> None:
    shown = browser.look(chromium, page, width, scheme)
    assert shown.evaluate(_CONTRAST) == []
    shown.locator("#people button").first.click()
    assert shown.evaluate(_CONTRAST) == []
    view = shown.locator("#view").bounding_box()
    assert view is not None and view["width"] > 0.6 * min(width, 1000) and view["height"] > 150


def test_keys_buttons_and_slider_walk_through_the_steps(chromium: Any, page: Path) -> None:
    shown = browser.look(chromium, page, 1400)
    at = lambda: (shown.text_content("#pass"), shown.text_content("#station"))  # noqa: E731
    assert at() == ("Pass 3", "Result") and shown.is_disabled("#on")
    shown.keyboard.press("Home")
    assert at() == ("Pass 1", "Look") and shown.is_disabled("#back")
    shown.keyboard.press("ArrowRight")
    assert at() == ("Pass 1", "Detect")
    shown.click("#on")
    assert at() == ("Pass 1", "Pose")
    shown.click("#back")
    assert at() == ("Pass 1", "Detect")
    shown.click("#passes >> text=Pass 2")
    assert at() == ("Pass 2", "Look") and shown.text_content("#text") == "2 people masked out"
    shown.click("#stations >> text=Mask")
    assert at() == ("Pass 2", "Mask")
    shown.focus("#slider")
    shown.keyboard.press("ArrowRight")
    assert at() == ("Pass 2", "Result")
    assert "Pass 2, Result" in shown.get_attribute("#slider", "aria-valuetext")
    shown.keyboard.press("End")
    shown.locator("#slider").evaluate("e => e.blur()")
    shown.keyboard.press(" ")  # plays from the beginning
    assert shown.text_content("#play") == "Pause" and at() == ("Pass 1", "Look")
    shown.keyboard.press(" ")
    assert shown.text_content("#play") == "Play"


def test_layers_can_be_hidden(chromium: Any, page: Path) -> None:
    shown = browser.look(chromium, page, 1400)
    visible = lambda kind: shown.locator(f".step:not(.gone) .{kind}").is_visible()  # noqa: E731
    assert visible("masks") and visible("poses") and visible("names")
    shown.keyboard.press("m")
    assert not visible("masks") and visible("poses")
    shown.uncheck("[data-kind=poses]")
    assert not visible("poses") and visible("names")
    shown.keyboard.press("m")
    shown.check("[data-kind=poses]")
    assert visible("masks") and visible("poses")
    shown.click("#passes >> text=Pass 1")
    shown.click("#stations >> text=Detect")
    assert visible("boxes")
    shown.keyboard.press("b")
    assert not visible("boxes") and visible("masks")
    shown.click("#stations >> text=Prompt")
    assert visible("points")
    shown.keyboard.press("o")
    assert not visible("points")


def test_a_person_tells_where_it_comes_from(chromium: Any, page: Path) -> None:
    shown = browser.look(chromium, page, 1400)
    card = lambda: shown.inner_text("#card")  # noqa: E731
    assert "2 new, 1 given up" in card()
    shown.locator(".step:not(.gone) .masks [data-who='1']").hover()
    assert "Person 1" in card() and "found in pass 2" in card()
    shown.mouse.move(2, 2)
    assert "The run" in card()
    shown.locator(".step:not(.gone) .masks [data-who='0']").click()
    shown.mouse.move(2, 2)
    assert "Person 0" in card() and "sent to the segmenter" in card()
    assert shown.get_attribute("#people [data-who='0']", "aria-pressed") == "true"
    assert shown.evaluate("document.querySelector('#view').classList.contains('focus')")
    shown.keyboard.press("Escape")
    assert "The run" in card()
    shown.focus("#dropped [data-who='4']")
    shown.keyboard.press("Enter")
    shown.mouse.move(2, 2)
    assert (
        "Person 3" in card()
        and "not in the result" in card()
        and "dropped: in the pose of person 2" in card()
    )


def test_hostile_names_run_nothing_in_a_browser(chromium: Any, tmp_path: Path) -> None:
    image, result = run(image=photo(path=HOSTILE.replace("/", "_")))
    page = bl.draw_loop(image, result).save(tmp_path / "loop.html")
    shown = browser.look(chromium, page, 400)
    assert "<script>alert(1)" in shown.inner_text("h1") and shown.locator("img").count() == 0


def test_motion_can_be_refused(chromium: Any, page: Path) -> None:
    shown = browser.look(chromium, page, 400)
    shown.emulate_media(reduced_motion="reduce")
    shown.keyboard.press("Home")
    assert shown.locator(".step:not(.gone)").evaluate("e => getComputedStyle(e).animationName") == "none"
    assert not shown.locator(".gone").first.is_visible()


def test_nobody_at_all_is_a_page_too(chromium: Any, tmp_path: Path) -> None:
    from bodyloop.loop.record import LoopResult
    from bodyloop.people import People

    image = photo()
    for name, result in (
        ("no pass", LoopResult(People.empty(image.size), (), "time")),
        ("nobody", run([[]], image)[1]),
    ):
        path = bl.draw_loop(image, result).save(tmp_path / f"{name}.html")
        shown = chromium.new_page()
        faults: list[str] = []
        shown.on("pageerror", lambda e, faults=faults: faults.append(str(e)))
        shown.goto(path.as_uri())
        assert faults == [] and shown.text_content("#people-title") == "People (0)"


def test_in_a_crowd_numbers_do_not_lie_on_each_other(chromium: Any, tmp_path: Path) -> None:
    shown = browser.look(chromium, bl.draw_loop(*crowd(60)).save(tmp_path / "loop.html"), 400)
    meet = """() => {
      const seen = [...document.querySelectorAll('.names g:not(.crowded) text')].map(e => e.getBoundingClientRect());
      const meet = (a, b) => a.left + 1 < b.right && b.left + 1 < a.right
        && a.top + 1 < b.bottom && b.top + 1 < a.bottom;
      return [seen.length, seen.filter((a, i) => seen.some((b, j) => j < i && meet(a, b))).length];
    }"""
    shown.click("#stations >> text=Detect")
    shown.wait_for_selector(".names .crowded", state="attached")
    shown.wait_for_selector(".step.gone", state="detached")  # what goes fades out for a while
    count, meeting = shown.evaluate(meet)
    assert 5 < count < 60 and meeting == 0
    hidden = shown.locator(".names .crowded").first
    assert not hidden.locator("text").is_visible()
    shown.click(f"#people [data-who='{hidden.get_attribute('data-who')}']")
    assert hidden.locator("text").is_visible()
