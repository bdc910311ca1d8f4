"""What all commands of ``bodyloop eval`` share: their options, and how a report is printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from bodyloop.cli._common import example, folded, one_line, put_json, say

if TYPE_CHECKING:
    from collections.abc import Mapping

Command = tuple[Callable[..., None], tuple[str, ...]]
"""A command and the examples of its help."""

Seed = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the crops and of the intervals.")]
Protocol_ = Annotated[
    str,
    typer.Option(
        "--protocol",
        help="How it is counted: standard, or as pycocotools, xtcocotools or exococotools count.",
    ),
]


class Report(Protocol):
    """What every evaluation gives."""

    def table(self) -> str:
        """As text."""
        ...

    def to_json(self) -> Mapping[str, Any]:
        """As plain json."""
        ...


def put(report: Report, as_json: bool) -> None:
    """A report on stdout."""
    if as_json:
        put_json(report.to_json())
    else:
        say(report.table())


def register(app: typer.Typer, commands: Sequence[Command]) -> None:
    """Add commands under their functions' names, with their docstrings as help."""
    for command, lines in commands:
        app.command(command.__name__, help=folded(command.__doc__), epilog=example(*lines))(command)


def note(message: str) -> None:
    """What else was done, on stderr."""
    typer.echo(one_line(message), err=True)
