"""wrk (https://github.com/wg/wrk), a closed loop: a connection sends its next call after the reply to the last one."""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

SCRIPT = Path(__file__).parent / "wrk.lua"
TIMEOUT_SECONDS = 20
"""Timeout of one call; by default wrk counts calls of more than 2 s as failed."""


class Load(NamedTuple):
    """The result of one round of calls."""

    calls: int
    seconds: float
    failed: int
    """Calls without a reply, or with a status of 400 and above."""
    p50_millis: float
    p99_millis: float

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.calls / self.seconds


def load(url: str, body: str | None, concurrency: int, seconds: int) -> Load:
    """Call the URL over `concurrency` connections: POST the body, or GET without one."""
    command = ["wrk", "--threads=1", f"--connections={concurrency}", f"--duration={seconds}s"]
    command += [f"--timeout={TIMEOUT_SECONDS}s", f"--script={SCRIPT}", url, *(["--", body] if body is not None else [])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 3 * TIMEOUT_SECONDS, check=True)
    return Load(**json.loads(ended.stdout.splitlines()[-1]))
