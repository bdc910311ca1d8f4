"""What all commands share: how errors end, progress, tables, and JSON for programs.

Results go to stdout, everything else to stderr. An error of the package's own is one line that says what,
where and what to do; the exit code is 0 (done), 1 (it failed), 2 (called wrongly) or 130 (stopped by Ctrl-C).
Only typer is imported at the top; rich when something is shown.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from typer.core import TyperGroup

from bodyloop.errors import BodyloopError

if TYPE_CHECKING:
    from rich.console import Console

STOPPED = 130  # as shells count a program that was interrupted
Progress = Callable[[int, int], None]  # done, in all

# typer brings its own copy of click in some versions; what both call an error is BadParameter's grandparent
_CALL_ERROR = cast(type[Exception], typer.BadParameter.__mro__[2])

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, for programs.")]
Device = Annotated[
    str,
    typer.Option("--device", metavar="NAME", help="Where networks run: cpu, cuda, mps, or an ONNX provider."),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", min=1, metavar="N", help="CPU threads of one network; all cores by default."),
]
CardName = Annotated[
    str | None,
    typer.Option(
        "--card",
        metavar="NAME|FILE",
        help="What a bare weight file is, if it fits several models: a name of `bodyloop models`, or a card.",
    ),
]

LoopFields = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change a field of the loop's configuration, such as pose_nms=0.7; as often as you like.",
    ),
]


def loop_fields(changes: Sequence[str]) -> dict[str, Any]:
    """Values of `LoopFields` by their names: JSON, or text where it is none."""
    out: dict[str, Any] = {}
    for change in changes:
        name, given, value = change.partition("=")
        if not given:
            raise typer.BadParameter(f"expected FIELD=VALUE, got {change!r}", param_hint="--set")
        try:
            out[name] = json.loads(value)
        except ValueError:
            out[name] = value
    return out


class Commands(TyperGroup):
    """All commands in one group; errors of any of them end here, as one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except BodyloopError as e:
            complain(str(e))
            raise typer.Exit(1) from e
        except KeyboardInterrupt as e:
            complain("stopped")
            raise typer.Exit(STOPPED) from e

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and end the process with the exit code (unless ``standalone_mode`` is False)."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except _CALL_ERROR as e:
            code = _called_wrongly(e)
        except typer.Abort:
            complain("stopped")
            code = STOPPED
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


def _called_wrongly(e: Exception) -> int:
    """Say what was wrong with the call and where the help is."""
    error = cast(Any, e)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "bodyloop"
    message = one_line(error.format_message()).rstrip(".")
    if message:
        typer.echo(f"{command}: {message}. See: {command} --help", err=True)
    elif context is not None:  # called without anything: show what there is
        typer.echo(context.get_help(), err=True)
    return int(getattr(error, "exit_code", 2))


def one_line(text: str) -> str:
    """A message without line breaks, and without characters that no terminal can show."""
    return " ".join(text.split()).encode("utf-8", "backslashreplace").decode()


def absolute(path: Path) -> Path:
    """The path from the root, without ``..``; links stay as they are named."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def complain(message: str) -> None:
    """One line on stderr."""
    typer.echo(f"bodyloop: {one_line(message)}", err=True)


def say(message: str) -> None:
    """A result in words on stdout."""
    typer.echo(message.encode("utf-8", "backslashreplace").decode())


def put_json(value: object) -> None:
    """A result for programs on stdout; what is not a number (NaN, infinity) is null."""
    typer.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def count_of(n: int, noun: str, plural: str | None = None) -> str:
    """``1 photo``, ``3 photos``."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def folded(text: str | None) -> str:
    """A docstring as help: paragraphs without line breaks, which the terminal sets anew."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(p.split()) for p in paragraphs)


def example(*lines: str) -> str:
    """The end of a command's help: how it is called."""
    shown = [f"$ {line}" if line.startswith("bodyloop") else line for line in lines]
    return "\n\n".join(
        ["Example:" if len(lines) == 1 else "Examples:", *(s.replace("[", r"\[") for s in shown)]
    )


# progress


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A bar on stderr; where stderr is no terminal, a line every ten seconds."""
    if not sys.stderr.isatty():
        yield _Lines(what)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Progress for log files."""

    def __init__(self, what: str, every: float = 10.0) -> None:
        self._what, self._every = what, every
        self._last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            typer.echo(f"{self._what}: {done} of {total}", err=True)


# tables


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """A table on stdout. Numbers of the columns in ``right`` are set flush right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        shown.add_column(name, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    console().print(shown)


def width() -> int:
    """Columns of stdout; many where it is a file or a pipe, so that nothing is cut."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 200


def console() -> Console:
    """Where tables go."""
    from rich.console import Console

    return Console(width=width(), soft_wrap=False, highlight=False)


# the library's own words


class _ToStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())


def listen(level: int) -> None:
    """Show what the library logs from ``level`` on, once however often it is called."""
    logger = logging.getLogger("bodyloop")
    if not any(isinstance(h, _ToStderr) for h in logger.handlers):
        logger.addHandler(_ToStderr())
    logger.setLevel(level)
