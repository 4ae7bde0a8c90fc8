"""`sample-caller`: one command for the server and for what is asked from a shell in its pod."""

import typer

from common import __version__

app = typer.Typer(
    name="sample-caller",
    help="Calls sample-producer, in this cluster or another, and explains what happened. "
    "Settings are environment variables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sample-caller {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: bool = typer.Option(False, "--version", callback=show_version, is_eager=True, help="Show the version."),
) -> None:
    """The options of all commands."""


@app.command()
def serve() -> None:
    """Serve the page and the API."""
    # Imported here: the other commands need no server, and start in half the time.
    from caller.app import create_app
    from caller.settings import Settings
    from common.lifecycle import Lifecycle
    from common.server import serve as serve_app
    from common.settings import from_environment

    settings = from_environment(Settings)
    lifecycle = Lifecycle()
    serve_app(create_app(settings, lifecycle), settings, lifecycle)
