"""Whether one process keeps a schedule of 1,000 calls a second: `python -m bench.run_schedule`.

A producer runs as a process of its own; `sample-caller run` calls it for ten seconds, first over connections that are
kept, then over a new connection a call. Printed of each: the share of the calls due that were sent, the p99 of how late
they were started, and how much the process grew between its second second and its end.
"""

import os
import subprocess
import sys
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from caller.run.engine import Done, Event, Summary, Tick
from lab.processes import PRODUCER, QUIET, ROOT, memory_of, running

RATE = 1000
SECONDS = 10
FULL_GROWN_SECONDS = 2.0
"""By then all is imported, and every connection and histogram of a steady run is there."""

EVENTS: TypeAdapter[Any] = TypeAdapter(Event)


class Schedule(NamedTuple):
    """What became of a run."""

    due: int
    summary: Summary
    kilobytes: list[int]
    """Of the process, at each tick from the time it is full grown."""

    @property
    def share(self) -> float:
        """Of the calls due, those that were sent."""
        return self.summary.sent / self.due

    @property
    def p99_lateness_millis(self) -> float:
        return self.summary.lateness.p99_millis or 0.0

    @property
    def p99_millis(self) -> float:
        """Latency from the intended start of a call, of the cluster that was slowest."""
        return max((peer.latency.p99_millis or 0.0 for peer in self.summary.peers), default=0.0)

    def __str__(self) -> str:
        summary = self.summary
        failed = f", {summary.failures} not ok" if summary.failures else ""
        grown = self.kilobytes[-1] - self.kilobytes[0] if self.kilobytes else 0
        return (
            f"sent {self.share:.2%} of {self.due} calls, p99 lateness {self.p99_lateness_millis:.2f} ms, "
            f"p50 {summary.lateness.p50_millis:.2f} ms; {summary.elapsed_seconds:.1f} s{failed}; grew by {grown} KB"
        )


def measure(url: str, connection: str, rate: int = RATE, seconds: int = SECONDS) -> Schedule:
    """Run `sample-caller run`. `connection`: `--reuse` or `--fresh`."""
    command = [sys.executable, "-m", "caller", "run", "--rate", str(rate), "--duration", f"{seconds}s", connection]
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
                kilobytes.append(memory_of(process.pid) // 1024)
    assert done is not None, f"the run ended with {process.returncode}"
    return Schedule(rate * seconds, done.summary, kilobytes)


if __name__ == "__main__":
    with running(PRODUCER, LOG_LEVEL="warning") as producer:
        for mode in ("--reuse", "--fresh"):
            print(f"{mode[2:]:5}  {measure(producer.url, mode)} (bars: at least 99 %, at most 5 ms)")
