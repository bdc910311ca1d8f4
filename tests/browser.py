"""A real browser for the tests of HTML pages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WIDTHS = (400, 1400)

# what must hold of every page at every width, as seen from inside the browser
_FAULTS = """() => {
  const faults = [], root = document.documentElement;
  if (root.scrollWidth > innerWidth) faults.push(`scrolls sideways: ${root.scrollWidth} > ${innerWidth}`);
  for (const d of document.querySelectorAll('details')) d.open = true;
  if (root.scrollWidth > innerWidth) faults.push(`scrolls sideways unfolded: ${root.scrollWidth} > ${innerWidth}`);
  for (const image of document.images)
    if (!image.naturalWidth || !image.getBoundingClientRect().width) faults.push(`empty picture: ${image.alt}`);
  for (const svg of document.querySelectorAll('svg')) {
    const box = svg.getBoundingClientRect(), name = svg.parentElement.getAttribute('aria-label');
    const drawn = [...svg.querySelectorAll('path, use, line')].filter(e => {
      const b = e.getBoundingClientRect(), s = getComputedStyle(e);
      return (b.width > 1 || b.height > 1) && (s.stroke !== 'none' || s.fill !== 'none');
    });
    if (box.width < 100 || box.height < 50) faults.push(`chart of no size: ${name}`);
    if (drawn.length < 5) faults.push(`chart without marks: ${name}`);
    if (!svg.querySelector('text')) faults.push(`chart without words: ${name}`);
  }
  const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
  if (new Set(ids).size !== ids.length) faults.push('ids occur twice');
  for (const e of document.querySelectorAll('use'))
    if (!document.getElementById(e.getAttribute('href').slice(1))) faults.push('mark without shape');
  return faults;
}"""


@contextmanager
def opened() -> Iterator[Any]:
    """A headless Chromium, or a skipped test with the reason."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pages are looked at with playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("pages are looked at with chromium, which is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def look(browser: Any, path: Path, width: int, scheme: str = "light") -> Any:
    """Open a page that must have no fault: errors, requests, sideways scrolling, empty pictures or charts."""
    said: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.on("console", lambda m: said.append(f"console: {m.text}"))
    page.on("pageerror", lambda e: said.append(f"error: {e}"))
    page.on(
        "request",
        lambda r: said.append(f"request: {r.url}") if not r.url.startswith(("file:", "data:")) else None,
    )
    page.goto(path.resolve().as_uri())
    assert [*said, *page.evaluate(_FAULTS)] == []
    return page
