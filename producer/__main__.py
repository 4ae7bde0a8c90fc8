"""`sample-producer`, `python -m producer`: serve, told by the environment."""

import signal
import sys

from common import garbage


def main() -> None:
    # Before the imports: the first process of a container ignores a signal that it does not handle.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if len(sys.argv) > 1:
        sys.stderr.write(
            f"sample-producer takes no arguments, got {sys.argv[1]!r}; settings are environment variables\n"
        )
        raise SystemExit(2)
    garbage.pause()
    from common.lifecycle import Lifecycle
    from common.server import serve
    from common.settings import from_environment
    from producer.app import create_app
    from producer.settings import Settings

    settings = from_environment(Settings)
    lifecycle = Lifecycle()
    app = create_app(settings, lifecycle)
    garbage.collect_from_now_on()
    serve(app, settings, lifecycle)


if __name__ == "__main__":
    main()
