"""`sample-caller`, `python -m caller`."""

import signal
import sys

from common import garbage


def main() -> None:
    # Before the imports: the first process of a container ignores a signal that it does not handle.
    status = 0 if sys.argv[1:2] == ["serve"] else 128 + signal.SIGTERM
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(status))
    garbage.pause()  # until `serve` or `run` is ready; the other commands are soon over
    from caller.cli.app import app

    app(prog_name="sample-caller")


if __name__ == "__main__":
    main()
