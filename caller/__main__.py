"""`sample-caller`, `python -m caller`: the commands, and `serve`."""

import signal
import sys


def main() -> None:
    # Before the imports: the first process of a container ignores a signal that it does not handle.
    status = 0 if sys.argv[1:2] == ["serve"] else 128 + signal.SIGTERM
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(status))
    from caller.cli.app import app

    app.command()(serve)
    app(prog_name="sample-caller")


def serve() -> None:
    """Serve the page and the API."""
    from caller.app import create_app
    from caller.settings import Settings
    from common.middleware.draining import Lifecycle
    from common.server import serve as serve_app
    from common.settings import from_environment

    settings = from_environment(Settings)
    lifecycle = Lifecycle()
    serve_app(create_app(settings, lifecycle), settings, lifecycle)


if __name__ == "__main__":
    main()
