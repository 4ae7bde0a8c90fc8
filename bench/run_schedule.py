"""Whether a run keeps a schedule of 1,000 calls per second: `python -m bench.run_schedule`.

`sample-caller run` calls a producer in another process for ten seconds, first over reused connections, then over a new
connection per call. For each it prints the share of the due calls that were sent, the p99 of the scheduling delay, and
the growth of the process from its second second to its end.
"""

import os
import subprocess
import sys
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from caller.run.model import Done, Event, Summary, Tick
from lab.processes import PRODUCER, QUIET, ROOT, memory_of, running

RATE = 1000
SECONDS = 10
WARM_UP_SECONDS = 2.0
"""After it everything is imported, and a steady run has all its connections and histograms."""

EVENTS: TypeAdapter[Any] = TypeAdapter(Event)


class Schedule(NamedTuple):
    """The result of a run."""

    rate: int
    """Calls due per second."""
    due: int
    summary: Summary
    kilobytes: list[int]
    """Memory of the process at each tick after the warm-up."""

    @property
    def share(self) -> float:
        """Share of the due calls that were sent."""
        return self.summary.sent / self.due

    @property
    def is_kept(self) -> bool:
        """Whether at least 99.9 % of the due calls were sent, in at most 1 % more than the scheduled time."""
        return self.share >= 0.999 and self.summary.rate >= 0.99 * self.rate

    @property
    def p99_delay_millis(self) -> float:
        return self.summary.scheduling_delay.p99_millis or 0.0

    @property
    def p99_millis(self) -> float:
        """Latency from the intended start of a call, of the slowest cluster."""
        return max((peer.latency.p99_millis or 0.0 for peer in self.summary.peers), default=0.0)

    def __str__(self) -> str:
        summary = self.summary
        failed = f", {summary.failures} not ok" if summary.failures else ""
        grown = self.kilobytes[-1] - self.kilobytes[0] if self.kilobytes else 0
        return (
            f"sent {self.share:.2%} of {self.due} calls, p99 scheduling delay {self.p99_delay_millis:.2f} ms, "
            f"p50 {summary.scheduling_delay.p50_millis:.2f} ms; "
            f"{summary.elapsed_seconds:.1f} s{failed}; grew by {grown} KB"
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
            elif isinstance(event, Tick) and event.progress.elapsed_seconds >= WARM_UP_SECONDS:
                kilobytes.append(memory_of(process.pid) // 1024)
    assert done is not None, f"the run ended with {process.returncode}"
    return Schedule(rate, rate * seconds, done.summary, kilobytes)


if __name__ == "__main__":
    with running(PRODUCER, LOG_LEVEL="warning") as producer:
        for mode, millis in (("--reuse", 2), ("--fresh", 5)):
            print(f"{mode[2:]:5}  {measure(producer.url, mode)} (targets: at least 99.9 %, at most {millis} ms)")
