"""The command line ``bodyloop``: one thin file a command over one call of the library.

Nothing heavy is imported here or at the top of a command's file, so that ``bodyloop --help`` is quick. How
errors end, and what goes to stdout and stderr, is decided in `_common`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated

import typer

from bodyloop.cli import (
    calibrate,
    convert,
    cropcoco,
    data,
    demo,
    doctor,
    evaluate,
    export,
    models,
    predict,
    train,
)
from bodyloop.cli._common import Commands, example, folded, listen

ABOUT = """A photo goes in, people with honest poses come out.

Boxes, keypoints, and for every keypoint how likely it is to be in the picture at all, whether it can be
seen, and how good its location is. Works offline, on a CPU, with the models in the package.
"""

app = typer.Typer(
    name="bodyloop",
    help=folded(ABOUT),
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example("bodyloop demo", "bodyloop predict photo.jpg --out found"),
)
for _name, _command, _example in (
    (predict.NAME, predict.command, predict.EXAMPLE),
    (demo.NAME, demo.command, demo.EXAMPLE),
    (models.NAME, models.command, models.EXAMPLE),
    (convert.NAME, convert.command, convert.EXAMPLE),
    (export.NAME, export.command, export.EXAMPLE),
    (train.NAME, train.command, train.EXAMPLE),
    (calibrate.NAME, calibrate.command, calibrate.EXAMPLE),
    (doctor.NAME, doctor.command, doctor.EXAMPLE),
):
    app.command(_name, help=folded(_command.__doc__), epilog=_example)(_command)
app.add_typer(evaluate.app, name=evaluate.NAME)
app.add_typer(cropcoco.app, name=cropcoco.NAME)
app.add_typer(data.app, name=data.NAME)


def _version(wanted: bool) -> None:
    if wanted:
        from bodyloop import __version__

        typer.echo(f"bodyloop {__version__}")
        raise typer.Exit


@app.callback()
def _all(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more about what is done.")] = False,
) -> None:
    listen(logging.INFO if verbose else logging.WARNING)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``bodyloop``; ends the process.

    Args:
        arguments: instead of those of the command line.
    """
    app(None if arguments is None else list(arguments), prog_name="bodyloop")
