"""Pages: one self-contained HTML file of words, tables, pictures and charts, for reports of all kinds.

A `Page` is made of sections, a section of blocks; the looks (light and dark, narrow and wide, on paper) are
decided here and in ``page.html`` and nowhere else. Nothing is loaded from outside and no script runs: the
page's own policy forbids both. All text is escaped. Charts are matplotlib figures; those made with `figure`
(or that use the colours named here) change with the reader's light or dark mode.

>>> page = Page("Two numbers").section("Numbers", facts({"one": 1, "two": 2}))
>>> page.write("numbers.html")  # doctest: +SKIP
"""

from __future__ import annotations

import base64
import io
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt

from bodyloop.drawing.picture import Picture
from bodyloop.errors import InputError, MissingDependency
from bodyloop.storage import atomic_write

if TYPE_CHECKING:
    from jinja2 import Template
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of charts. In a page each is a CSS variable with a light and a dark value.
INK, MUTED, LINE, PAPER = "#1c2430", "#5f6b7a", "#dfe3e8", "#fefefe"
SERIES = ("#2563c9", "#c9781a", "#0d8f80", "#b83a76", "#7152d6", "#6f7d12")
GOOD, BAD, PLAIN = "#0d8f81", "#c2413b", "#9aa4b1"
_VARIABLES: dict[str, tuple[str, str, str]] = {  # name, light, dark
    INK: ("ink", "#1c2430", "#e6e9ee"),
    "#000000": ("ink", "#1c2430", "#e6e9ee"),  # what matplotlib draws with where nobody chose a colour
    MUTED: ("muted", "#5f6b7a", "#9ba6b4"),
    LINE: ("line", "#dfe3e8", "#2d3541"),
    PAPER: ("paper", "#ffffff", "#12161c"),
    "": ("raised", "#f6f7f9", "#1a2028"),
    SERIES[0]: ("c1", "#2563c9", "#6ea2f5"),
    SERIES[1]: ("c2", "#c9781a", "#e5a450"),
    SERIES[2]: ("c3", "#0d8f80", "#3fc1b0"),
    SERIES[3]: ("c4", "#b83a76", "#e879ab"),
    SERIES[4]: ("c5", "#7152d6", "#a78df2"),
    SERIES[5]: ("c6", "#6f7d12", "#b3c043"),
    GOOD: ("good", "#0d8f80", "#3fc1b0"),
    BAD: ("bad", "#c2413b", "#ee7a72"),
    PLAIN: ("plain", "#9aa4b1", "#6d7886"),
}

_OWN_ID = "\ue000"  # stands before the ids of a chart until the page knows the chart's number
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ue000\ufffe\uffff\ud800-\udfff]")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_HREF = "{http://www.w3.org/1999/xlink}href"

Cell = str | int | float | None


@dataclass(frozen=True)
class Block:
    """One piece of a section; made by the functions of this module."""

    kind: str
    fields: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A page; `section` gives the same page with one section more."""

    title: str
    subtitle: str = ""
    sections: tuple[Section, ...] = ()

    def section(self, title: str, *blocks: Block) -> Page:
        """The page with a section at the end."""
        return replace(self, sections=(*self.sections, Section(legible(title), blocks)))

    def html(self) -> str:
        """The whole page as text.

        Raises:
            MissingDependency: without jinja2.
        """
        numbers = count(1)

        def unique(svg: str) -> object:
            from markupsafe import Markup

            return Markup(svg.replace(_OWN_ID, f"c{next(numbers)}-"))

        told = replace(self, title=legible(self.title), subtitle=legible(self.subtitle))
        return _template().render(
            page=told, unique=unique, version=version("bodyloop"), light=theme(1), dark=theme(2)
        )

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the page, whole or not at all, and return its path.

        Raises:
            FileError: it cannot be written.
            MissingDependency: without jinja2.
        """
        data = self.html().encode()
        with atomic_write(path) as file:
            file.write(data)
        return Path(path)


# blocks


def paragraph(text: str, *, quiet: bool = False) -> Block:
    """A paragraph; ``quiet`` for what is read second."""
    return Block("paragraph", {"text": legible(text), "quiet": quiet})


def heading(text: str) -> Block:
    """A heading inside a section."""
    return Block("heading", {"text": legible(text)})


def code(text: str) -> Block:
    """A line of a terminal or program, as it stands."""
    return Block("code", {"text": legible(text)})


def notes(texts: Sequence[str]) -> Block:
    """Things to beware of, as a list that is seen."""
    return Block("notes", {"texts": [legible(t) for t in texts]})


def tiles(entries: Sequence[tuple[str, str, str]]) -> Block:
    """The numbers to see first: (name, value, what is said below)."""
    return Block("tiles", {"tiles": [tuple(map(legible, e)) for e in entries]})


def facts(mapping: Mapping[str, object]) -> Block:
    """Names and values in columns that wrap."""
    return Block("facts", {"rows": [(legible(k), legible(v)) for k, v in mapping.items()]})


def table(
    header: Sequence[str], rows: Sequence[Sequence[Cell]], *, words: int = 1, caption: str = ""
) -> Block:
    """A table that scrolls inside its own box where it is too wide.

    Args:
        header: names of the columns.
        rows: cells; None is shown as a dash, floats with four decimals.
        words: how many columns at the left are words; the others are numbers, set flush right.

    Raises:
        InputError: a row that is not as long as the header.
    """
    for row in rows:
        if len(row) != len(header):
            raise InputError(f"table: a row of {len(row)} cells under {len(header)} names: {list(row)!r}")
    shown = [[_cell(c) for c in row] for row in rows]
    names = [legible(h) for h in header]
    return Block("table", {"header": names, "rows": shown, "words": words, "caption": legible(caption)})


def picture(
    pixels: Picture | npt.NDArray[np.uint8],
    alt: str,
    caption: str = "",
    *,
    quality: int = 82,
    density: float = 1.0,
) -> Block:
    """A picture (H, W, 3) uint8 RGB inside the page, as JPEG; ``density`` px of it are one px of the page."""
    shown = pixels if isinstance(pixels, Picture) else Picture(pixels)
    buffer = io.BytesIO()
    shown.to_pil().save(buffer, "JPEG", quality=quality, optimize=True)
    source = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    w, h = (max(1, round(side / density)) for side in shown.size)
    told = {"alt": legible(alt), "caption": legible(caption)}
    return Block("picture", {"source": source, "width": w, "height": h, **told})


def chart(drawn: Figure, alt: str, caption: str = "", *, title: str = "") -> Block:
    """A matplotlib figure as inline SVG that scales with the page; its words stay words.

    Args:
        drawn: see `figure`. Dollar signs are dollar signs, not mathematics.
        alt: what it shows, for those who do not see it.
        caption: below; title: above.
    """
    told = {"alt": legible(alt), "caption": legible(caption), "title": legible(title)}
    return Block("chart", {"svg": _svg(drawn), **told})


def grid(*blocks: Block, least: int = 330) -> Block:
    """Blocks side by side where there is room for ``least`` px each."""
    return Block("grid", {"blocks": blocks, "least": least})


def beside(first: Block, second: Block) -> Block:
    """The first block at its own width, the second in the room that is left, or below."""
    return Block("beside", {"blocks": (first, second)})


def gallery(*pictures: Block) -> Block:
    """Pictures of like height in rows, each with its caption below."""
    return Block("gallery", {"blocks": pictures})


def details(summary: str, *blocks: Block, open: bool = False) -> Block:
    """Blocks that the reader unfolds."""
    return Block("details", {"summary": legible(summary), "blocks": blocks, "open": open})


def figure(width: float = 4.8, height: float = 3.0, **options: Any) -> tuple[Figure, Axes]:
    """An empty chart in the page's looks: figure and axes.

    Args:
        width, height: inches; 4.8 wide is drawn at about its own size on a telephone.
        options: of `matplotlib.figure.Figure.subplots`.

    Raises:
        MissingDependency: without matplotlib.
    """
    try:
        import matplotlib
        from cycler import cycler
        from matplotlib.figure import Figure as Drawn
    except ImportError as e:
        raise MissingDependency(f"charts need matplotlib ({e}); pip install 'bodyloop[eval]'") from e
    looks: dict[Any, Any] = {
        "font.size": 10.5, "axes.labelsize": 10.5, "axes.labelcolor": MUTED, "axes.edgecolor": LINE,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
        "grid.color": LINE, "grid.linewidth": 0.8, "xtick.color": MUTED, "ytick.color": MUTED,
        "xtick.labelsize": 10.5, "ytick.labelsize": 10.5, "xtick.major.size": 0, "ytick.major.size": 0,
        "xtick.major.pad": 6, "ytick.major.pad": 6,
        "text.color": INK, "text.parse_math": False, "axes.facecolor": "none", "figure.facecolor": "none",
        "axes.prop_cycle": cycler(color=SERIES),
    }  # fmt: skip
    with matplotlib.rc_context(looks):
        drawn = Drawn(figsize=(width, height), layout="constrained")
        axes = drawn.subplots(**options)
    return drawn, axes


def legend(axes: Axes, **options: Any) -> None:
    """The names of what is drawn in ``axes``, in the page's looks; options as of matplotlib's ``legend``."""
    looks: dict[str, Any] = {"frameon": False, "fontsize": 10, "labelcolor": INK, "handlelength": 1.9}
    axes.legend(**(looks | options))


# how they become text


@cache
def _template() -> Template:
    try:
        import jinja2
    except ImportError as e:
        raise MissingDependency(f"pages need jinja2 ({e}); pip install 'bodyloop[eval]'") from e
    source = resources.files("bodyloop.drawing").joinpath("page.html").read_text("utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source)


def theme(which: int) -> str:
    """The page's colours as CSS variables, light (1) or dark (2); every name once."""
    return "\n".join(dict.fromkeys(f"  --{v[0]}: {v[which]};" for v in _VARIABLES.values()))


def legible(value: object) -> str:
    """Text that every encoding and parser can hold. Blocks see to it; names on an axis must be given so."""
    return _UNPRINTABLE.sub("\ufffd", str(value))


def _cell(value: Cell) -> str:
    if value is None:
        return "–"
    if isinstance(value, float | np.floating):
        return f"{value:.4f}"
    return legible(value)


def _svg(drawn: Figure) -> str:
    import matplotlib
    from matplotlib.text import Text

    for text in drawn.findobj(Text):
        text.set_parse_math(False)
        text.set_text(legible(text.get_text()))
    buffer = io.StringIO()
    how: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "bodyloop", "text.parse_math": False}
    with matplotlib.rc_context(how), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the reader's fonts will have it
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(_UNPRINTABLE.sub("\ufffd", buffer.getvalue()))
    return ET.tostring(_plain(root), encoding="unicode")


def _plain(root: ET.Element) -> ET.Element:
    """The drawing without its file's head: no size, no metadata, no style of its own, ids that can be told
    apart, the colours as the page's variables."""
    used: set[str] = set()
    for e in root.iter():
        used.update(x for v in e.attrib.values() for x in _REFERENCE.findall(v))
        used.update(v[1:] for k, v in e.attrib.items() if k in (_HREF, "href") and v.startswith("#"))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for e in root.iter():
        e.tag = e.tag.rpartition("}")[2]
        e.attrib = dict(_attributes(e.attrib, used))
    box = root.attrib["viewBox"]
    root.attrib = {"viewBox": box, "aria-hidden": "true", "focusable": "false"}
    return root


def _attributes(given: Mapping[str, str], used: set[str]) -> list[tuple[str, str]]:
    out = []
    for name, value in given.items():
        if name == "id":
            if value in used:
                out.append((name, _OWN_ID + value))
        elif name in (_HREF, "href"):
            out.append(("href", f"#{_OWN_ID}{value[1:]}" if value.startswith("#") else value))
        elif not name.startswith("{"):
            linked = _REFERENCE.sub(rf"url(#{_OWN_ID}\1)", value)
            out.append((name, _themed(linked) if name == "style" else linked))
    return out


def _themed(style: str) -> str:
    kept = [s for s in style.split("; ") if not s.startswith("font-family")]
    return re.sub(r"#[0-9a-f]{6}\b", lambda m: _variable(m[0]), "; ".join(kept))


def _variable(colour: str) -> str:
    known = _VARIABLES.get(colour)
    return f"var(--{known[0]})" if known else colour
