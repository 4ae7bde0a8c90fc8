"""Whether one process keeps a schedule of 1,000 calls a second: `python -m bench.run_schedule`.

A producer runs as a process of its own; `sample-caller run` calls it for ten seconds, first over connections that are
kept, then over a new connection a call. Printed of each: the share of the calls due that were sent, the p99 of how late
they were started, and how much the process grew between its second second and its end.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from caller.runs import Done, Event, Tick
from tests.processes import PRODUCER, QUIET, ROOT, running

RATE = 1000
SECONDS = 10
FULL_GROWN_SECONDS = 2.0
"""By then all is imported, and every connection and histogram of a steady run is there."""

EVENTS: TypeAdapter[Any] = TypeAdapter(Event)


def measure(url: str, connection: str) -> None:
    command = [sys.executable, "-m", "caller", "run", "--rate", str(RATE), "--duration", f"{SECONDS}s", connection]
    environment = {**QUIET, "PATH": os.environ["PATH"], "PRODUCER_URL": url}
    kilobytes: list[int] = []
    done: Done | None = None
    with subprocess.Popen([*command, "--json"], cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = EVENTS.validate_json(line)
            if isinstance(event, Done):
                done = event
            elif isinstance(event, Tick) and event.progress.elapsed_seconds >= FULL_GROWN_SECONDS:
                kilobytes.append(resident(process.pid))
    assert done is not None, f"the run ended with {process.returncode}"
    summary = done.summary
    due = RATE * SECONDS
    share = summary.sent / due
    late = summary.lateness
    failed = f", {summary.failures} not ok" if summary.failures else ""
    print(
        f"{connection[2:]:5}  sent {share:.2%} of {due} calls (bar: at least 99 %), "
        f"p99 lateness {late.p99_millis:.2f} ms (bar: at most 5), p50 {late.p50_millis:.2f} ms; "
        f"{summary.elapsed_seconds:.1f} s{failed}; grew by {kilobytes[-1] - kilobytes[0]} KB to {kilobytes[-1]} KB"
    )


def resident(process: int) -> int:
    """KB of memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


if __name__ == "__main__":
    with running(PRODUCER, LOG_LEVEL="warning") as producer:
        for mode in ("--reuse", "--fresh"):
            measure(producer.url, mode)
