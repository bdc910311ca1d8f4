"""``bodyloop models``: what there is, where it is, under which licences, how good it is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bodyloop.cli._common import AsJson, example, put_json, say, table, width

WIDE = 120  # columns of a terminal that the table needs

if TYPE_CHECKING:
    from bodyloop.models.cards import Card

NAME = "models"
EXAMPLE = example("bodyloop models", "bodyloop models pmpose-b", "bodyloop models --json")


def command(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME|FILE", help="Show everything that the card of one model says."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="Only these: pose, detector or segmenter.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the models, or show the whole card of one.

    State says where the weights are: embedded (in the package), cached (on this machine), download (fetched
    on first use) or unpublished (a configuration; train it, or name a file). The licences of the code the
    weights were made with, of the weights, and the terms of the data they saw are different things.
    """
    from bodyloop.models.registry import find_card, list_models

    if kind is not None and kind not in ("pose", "detector", "segmenter"):
        raise typer.BadParameter(f"--kind is pose, detector or segmenter, not {kind!r}")
    if name is None:
        cards = list_models(kind)
        if as_json:
            put_json([described(c, state_of(c)) for c in cards])
        else:
            _list(cards)
        return
    card = find_card(name)
    where = ("file", Path(name)) if card not in list_models() and Path(name).is_file() else state_of(card)
    if as_json:
        put_json(described(card, where))
    else:
        _show(card, where)


def described(card: Card, where: tuple[str, Path | None]) -> dict[str, Any]:
    """A card as plain values, with the state of its weights."""
    state, file = where
    table = tomllib.loads(card.to_toml())
    return {**table, "state": state, "file": None if file is None else str(file), "size": size_of(card, file)}


def state_of(card: Card) -> tuple[str, Path | None]:
    """Where the weights of a card of the package are: embedded, cached, download (on the hub), unpublished,
    missing (on no hub and not here) or damaged."""
    from bodyloop.errors import BodyloopError
    from bodyloop.models.hub import find_local
    from bodyloop.models.registry import is_embedded, resolve

    if is_embedded(card):
        return "embedded", resolve(card)[1]
    if card.weights is None:
        return "unpublished", None
    if not card.weights.remote:
        return "missing", None
    try:
        found = find_local(card)
    except BodyloopError:
        return "damaged", None
    return ("download", None) if found is None else ("cached", found)


def size_of(card: Card, file: Path | None) -> int | None:
    """Bytes of the weights, as far as known."""
    if file is not None:
        return file.stat().st_size
    return None if card.weights is None else card.weights.size_bytes


def best(card: Card) -> str:
    """The first number of the card, in a few words."""
    if not card.accuracy:
        return "-"
    a = card.accuracy[0]
    return f"{a.value:.3f} {a.metric}, {_head(a.dataset)}"


def _list(cards: tuple[Card, ...]) -> None:
    from bodyloop.models.hub import human_size

    rows = []
    for card in cards:
        state, file = state_of(card)
        size = size_of(card, file)
        rows.append(
            [
                card.name, card.kind, "-" if card.skeleton is None else card.skeleton.name,
                "-" if size is None else human_size(size), state, _head(card.licenses.code),
                _head(card.licenses.weights), _terms(card.licenses.data), best(card),
            ]
        )  # fmt: skip
    head = ["name", "kind", "skeleton", "size", "state", "code", "weights", "data", "accuracy"]
    if width() < WIDE:
        _narrow(head, rows)
    else:
        table(head, rows, right=(3,))
    say("`bodyloop models NAME` shows a whole card.")


def _narrow(head: list[str], rows: list[list[str]]) -> None:
    """Two or three lines a model, for terminals in which the table would be cut into slivers."""
    import textwrap

    name = max(len(r[0]) for r in rows) if rows else 0
    blank = " " * (name + 2)
    for r in rows:
        facts = ", ".join(x for x in (r[1], r[2], r[3], r[4], r[8]) if x != "-")
        terms = "; ".join(f"{what} {text}" for what, text in zip(head[5:8], r[5:8], strict=True))
        for start, text in ((f"{r[0]:<{name}}  ", facts), (blank, terms)):
            say(
                textwrap.fill(
                    text, max(40, width() - 1),
                    initial_indent=start, subsequent_indent=blank, break_on_hyphens=False,
                )
            )  # fmt: skip


def _head(text: str) -> str:
    """A name without the explanations behind it."""
    return re.split(r"[,;:(]", text)[0].strip()


def _terms(text: str) -> str:
    """The data sets that the terms speak of, and the hardest of these terms."""
    sets = [part.split(":")[0].strip() for part in text.split(";") if ":" in part] or [_head(text)]
    return ", ".join(sets) + (" (non-commercial)" if "non-commercial" in text.lower() else "")


def _show(card: Card, where: tuple[str, Path | None]) -> None:
    """The card in words; everything that is in it."""
    from bodyloop.models.hub import human_size

    state, file = where
    size = size_of(card, file)
    say(f"{card.name}  {card.version}".rstrip())
    if card.summary:
        say(f"  {card.summary}")
    rows = [
        ("kind", card.kind),
        ("network", " ".join(x for x in (card.architecture, card.head) if x)),
        ("parameters", "" if card.parameters is None else f"{card.parameters:,}"),
        ("keypoints", "" if card.skeleton is None else f"{card.num_keypoints}, {card.skeleton.name}"),
        ("outputs", ", ".join(card.outputs)),
        ("state", state if size is None else f"{state}, {human_size(size)}"),
        ("file", _whereabouts(card, file)),
        ("also called", ", ".join(card.aliases)),
        ("starts from", card.starts_from),
        ("trained on", "; ".join(card.training_data)),
    ]
    _section("", rows)
    licenses = card.licenses
    _section(
        "licences",
        [("code", licenses.code), ("weights", licenses.weights), ("data's terms", licenses.data)],
    )
    _section("accuracy", [("", _number(a)) for a in card.accuracy])
    _section("known failures", [("", f"- {f}") for f in card.known_failures])
    _section("notes", [("", card.notes)])
    content = tomllib.loads(card.to_toml())
    for part in ("preprocess", "decode", "detection"):
        if part in content:
            _section(part, [(k, str(v)) for k, v in content[part].items()])


def _whereabouts(card: Card, file: Path | None) -> str:
    if file is not None:
        return str(file)
    w = card.weights
    if w is None or w.url is not None:
        return "" if w is None else str(w.url)
    return f"{w.file} of {w.repository or '(no repository)'} at {w.revision}"


def _number(a: Any) -> str:
    interval = "" if a.interval is None else f" ({a.interval[0]:.3f} to {a.interval[1]:.3f})"
    more = "; ".join(
        x for x in (a.protocol and f"protocol {a.protocol}", a.boxes and f"boxes: {a.boxes}", a.source) if x
    )
    return f"{a.metric} {a.value:.3f}{interval} on {a.dataset}" + (f"  [{more}]" if more else "")


def _section(title: str, rows: list[tuple[str, str]]) -> None:
    shown = [(k, v) for k, v in rows if v]
    if not shown:
        return
    if title:
        say(f"\n{title}")
    wide = max(len(k) for k, _ in shown)
    for key, value in shown:
        say(f"  {key:<{wide}}  {value}" if wide else f"  {value}")
