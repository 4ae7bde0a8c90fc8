"""`sample-caller`: the commands. `caller.__main__` adds the server.

Exit codes of `call`, `check` and `run`: 0 as expected, 1 not as expected, 2 bad usage or invalid settings.
"""

from typing import Annotated

import typer

from caller.cli.call import call
from caller.cli.check import check
from caller.cli.merge import merge
from caller.cli.run import run
from common import __version__

app = typer.Typer(
    name="sample-caller",
    help="Calls sample-producer, in this cluster or another, and explains what happened. "
    "Settings are environment variables.",
    epilog="Exit codes of call, check and run: 0 as expected, 1 not as expected, 2 bad usage or invalid settings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (call, check, run, merge):
    app.command()(command)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sample-caller {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options of all commands."""
