"""wrk (https://github.com/wg/wrk): a closed loop: a connection sends its next call when the last is answered."""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

SCRIPT = Path(__file__).parent / "wrk.lua"
TIMEOUT_SECONDS = 20
"""For one call; wrk would count those that take more than 2 s as failed."""


class Load(NamedTuple):
    """What one round of calls gave."""

    calls: int
    seconds: float
    failed: int
    """Calls without a reply, or with a status from 400 on."""
    p50_millis: float
    p99_millis: float

    @property
    def rate(self) -> float:
        """Calls a second."""
        return self.calls / self.seconds


def load(url: str, body: str | None, at_once: int, seconds: int) -> Load:
    """Call the URL over as many connections as calls at once: POST the body, or GET if there is none."""
    command = ["wrk", "--threads=1", f"--connections={at_once}", f"--duration={seconds}s"]
    command += [f"--timeout={TIMEOUT_SECONDS}s", f"--script={SCRIPT}", url, *(["--", body] if body is not None else [])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 3 * TIMEOUT_SECONDS, check=True)
    return Load(**json.loads(ended.stdout.splitlines()[-1]))
