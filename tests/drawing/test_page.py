"""Pages: what stands in them, that nothing leaves or enters them, and how a browser shows them."""

from __future__ import annotations

import re
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bodyloop.drawing import Picture
from bodyloop.drawing import page as m
from bodyloop.errors import FileError, InputError, MissingDependency
from tests import browser

pytest.importorskip("jinja2", reason="pages need the extra [eval]")
pytest.importorskip("matplotlib", reason="charts need the extra [eval]")

LABEL = "<b>&$x^{\x00\x1b\ud800\ue000名"
HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>&amp; $x^{ \x00\x1b\ud800 \ue000 名前 """


class Elements(HTMLParser):
    """All tags with attributes, and the text of each."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag]


def line(label: str = "line") -> Any:
    drawn, axes = m.figure()
    axes.plot([0, 1, 2], [1, 3, 2], marker="o", label=label)
    axes.fill_between([0, 1, 2], [0, 1, 0], alpha=0.3)
    axes.set(xlabel="x", ylabel="y", xlim=(0.5, 1.5))  # clipped: the drawing refers to a clip path
    m.legend(axes)
    return drawn


def noise(h: int = 30, w: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (h, w, 3)).astype(np.uint8)


def everything(text: str = "word", label: str = "line") -> m.Page:
    row: list[m.Cell] = [text, 0.5, 3, None]
    return m.Page(text, text).section(
        text,
        m.tiles([(text, "0.5", text)]), m.paragraph(text), m.paragraph(text, quiet=True), m.notes([text, text]),
        m.heading(text), m.facts({text: text, "long": "x" * 300}), m.table([text] * 4, [row, row], caption=text),
        m.table([f"column {i}" for i in range(30)], [list(range(30))]),
        m.grid(m.picture(noise(), text, text), m.picture(Picture(noise(9, 900)), text), least=300),
        m.details(text, m.paragraph(text), m.chart(line(label), text, text, title=text)),
    ).section("second", m.grid(m.chart(line(), "one"), m.chart(line(), "alike"), m.chart(line("b"), "b")))  # fmt: skip


def test_what_was_said_stands_in_the_page() -> None:
    shown = Elements(everything("quite ordinary").html())
    assert shown.text.count("quite ordinary") >= 15
    assert [t for t, _ in shown.tags].count("svg") == 4 and len(shown.all("img")) == 2
    assert [a["alt"] for a in shown.all("img")] == ["quite ordinary"] * 2
    assert "0.5000" in shown.text and "–" in shown.text


def test_hostile_text_is_only_text() -> None:
    page = everything(HOSTILE, LABEL)
    html = page.html()
    plain, hostile = Elements(everything("word").html()), Elements(html)
    for tag in {t for t, _ in plain.tags} - {"g", "path", "use"}:
        assert len(hostile.all(tag)) == len(plain.all(tag))  # not one element more
    assert {t for t, _ in hostile.tags} == {t for t, _ in plain.tags}
    assert not any(k.startswith("on") for _, a in hostile.tags for k in a)
    assert "<script>alert(1)</script>" in hostile.text and "名前" in hostile.text and "$x^{" in hostile.text
    html.encode()  # no surrogate is left
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\ue000]", html)


def test_nothing_comes_from_outside() -> None:
    html = everything().html()
    shown = Elements(html)
    assert not shown.all("script") and not re.search(r"https?:|@import|url\((?!#)", html)
    assert all(str(a["src"]).startswith("data:image/jpeg;base64,") for a in shown.all("img"))
    (policy,) = (a["content"] for a in shown.all("meta") if a.get("http-equiv"))
    assert "default-src 'none'" in str(policy)


def test_ids_of_charts_do_not_clash_and_references_hold() -> None:
    html = everything().html()
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(set(ids)) == len(ids)
    wanted = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)
    assert wanted and {a or b for a, b in wanted} <= set(ids)


def test_the_same_page_is_the_same_bytes() -> None:
    assert everything().html() == everything().html()


def test_charts_follow_the_readers_mode() -> None:
    drawn, axes = m.figure()
    axes.plot([0, 1], [0, 1], color=m.SERIES[2])
    axes.text(0.5, 0.5, "own colour", color="#123456")
    svg = m.chart(drawn, "x").fields["svg"]
    assert "var(--c3)" in svg and m.SERIES[2] not in svg and "#123456" in svg
    assert "var(--muted)" in svg and "font-family" not in svg and "width=" not in svg.partition(">")[0]
    html = m.Page("x").html()
    for name in set(re.findall(r"var\((--[a-z0-9]+)\)", svg + html)) - {"--least"}:
        assert len(re.findall(rf"^ *{name}: #[0-9a-f]{{6}};", html, re.M)) == 2, name  # light and dark


def test_charts_make_no_noise(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        m.chart(line(LABEL), "x")
    assert capfd.readouterr() == ("", "")


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    m.chart(line(), "x")
    assert dict(matplotlib.rcParams) == before


def test_pages_are_values() -> None:
    empty = m.Page("x")
    assert empty.section("a", m.paragraph("b")) != empty and empty.sections == ()


def test_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "page.html"
    assert everything().write(target) == target
    before = target.read_bytes()
    with pytest.raises(FileError, match="nowhere"):
        everything().write(tmp_path / "nowhere" / "page.html")
    monkeypatch.setattr(m.Page, "html", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        everything().write(target)
    assert target.read_bytes() == before and list(tmp_path.iterdir()) == [target]


def test_rows_must_fit_their_header() -> None:
    with pytest.raises(InputError, match="row of 1 cells under 2"):
        m.table(["a", "b"], [["c"]])
    with pytest.raises(InputError, match="uint8"):
        m.picture(np.zeros((3, 3)), "x")  # type: ignore[arg-type]


@pytest.mark.parametrize(("package", "need"), [("jinja2", "pages"), ("matplotlib", "charts")])
def test_what_is_missing_is_named_with_the_extra(
    package: str, need: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    m._template.cache_clear()
    try:
        with pytest.raises(MissingDependency, match=rf"{need} need {package}.*bodyloop\[eval\]"):
            m.figure() if package == "matplotlib" else m.Page("x").html()
    finally:
        m._template.cache_clear()


def test_a_browser_shows_all_of_it(tmp_path: Path) -> None:
    path = everything(HOSTILE, LABEL).write(tmp_path / "page.html")
    with browser.opened() as opened:
        for width, scheme in zip(browser.WIDTHS, ("dark", "light"), strict=True):
            seen = browser.look(opened, path, width, scheme)
            ground = seen.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground != "rgb(255, 255, 255)") == (scheme == "dark")
            assert seen.locator("h2").count() == 2
