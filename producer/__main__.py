"""`sample-producer`, `python -m producer`: the server, configured by environment variables."""

import signal
import sys


def main() -> None:
    # Before the imports: the first process of a container ignores a signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if len(sys.argv) > 1:
        sys.stderr.write(
            f"sample-producer takes no arguments, got {sys.argv[1]!r}; settings are environment variables\n"
        )
        raise SystemExit(2)
    from common.middleware.draining import Lifecycle
    from common.server import serve
    from common.settings import from_environment
    from producer.app import create_app
    from producer.settings import Settings

    settings = from_environment(Settings)
    lifecycle = Lifecycle()
    serve(create_app(settings, lifecycle), settings, lifecycle)


if __name__ == "__main__":
    main()
