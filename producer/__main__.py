"""`sample-producer`, `python -m producer`: serve, told by the environment."""

import sys

from common.lifecycle import Lifecycle
from common.server import serve
from common.settings import from_environment
from producer.app import create_app
from producer.settings import Settings


def main() -> None:
    if len(sys.argv) > 1:
        sys.stderr.write(
            f"sample-producer takes no arguments, got {sys.argv[1]!r}; settings are environment variables\n"
        )
        raise SystemExit(2)
    settings = from_environment(Settings)
    lifecycle = Lifecycle()
    serve(create_app(settings, lifecycle), settings, lifecycle)


if __name__ == "__main__":
    main()
