"""The command line on a terminal, 120 columns wide."""

import os
import pty
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from fcntl import ioctl

from lab.processes import ROOT, WEST


def run_on_a_terminal(*arguments: str, **environment: str) -> tuple[int, str]:
    """The exit status of `sample-caller` and its output with escape sequences."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    common = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "GCE_METADATA_HOST": "none"}
    process = subprocess.Popen(
        [sys.executable, "-m", "caller", *arguments],
        cwd=ROOT,
        env={**common, **WEST, **environment},
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    printed = b""
    with suppress(OSError):
        while chunk := os.read(master, 65_536):
            printed += chunk
    os.close(master)
    return process.wait(60), printed.decode()
