"""The highest rate of a run, compared with fortio: `FORTIO=/path/to/fortio python -m bench.run_limit`.

`sample-caller run` and then fortio, as fast as it can, call a producer in another process over reused connections. All
of them share two cores.
"""

import os
import statistics
from collections.abc import Callable
from typing import NamedTuple

from bench import fortio, run_schedule
from bench.programs import MESSAGE, share_two_cores
from lab.processes import PRODUCER, running

CONCURRENCY = 64
"""Connections of fortio."""
FIRST_RATE = 500
TRIES = 2
"""Of a rate, because other work on the machine can disturb a run."""


class Extent(NamedTuple):
    seconds: int
    """Of a run, and of a round of fortio."""
    halvings: int
    """Of the interval that has the highest rate of a run."""
    rounds: int
    """Of fortio."""


FULL = Extent(seconds=3, halvings=4, rounds=3)


class RunLimit(NamedTuple):
    """In calls per second."""

    run: int
    fortio: list[float]

    @property
    def ratios(self) -> list[float]:
        return [self.run / each for each in self.fortio]

    def __str__(self) -> str:
        return f"run {self.run:,} calls/s, fortio {statistics.median(self.fortio):,.0f} calls/s"


def measure(path: str, url: str, extent: Extent = FULL) -> RunLimit:
    """Measure both. `path`: of fortio; `url`: the base of a producer."""

    def is_kept(rate: int) -> bool:
        tries = (run_schedule.measure(url, "--reuse", rate, extent.seconds) for _ in range(TRIES))
        return any(run.is_kept for run in tries)

    def one_round() -> float:
        return fortio.load(path, f"{url}/producer/messages", MESSAGE, CONCURRENCY, extent.seconds).rate

    return RunLimit(highest(is_kept, extent.halvings), [one_round() for _ in range(extent.rounds)])


def highest(is_kept: Callable[[int], bool], halvings: int, first: int = FIRST_RATE) -> int:
    """The highest rate that is kept: doubled from the first until one is not, then bisected; 0 if none is."""
    kept, missed = 0, first
    while is_kept(missed):
        kept, missed = missed, 2 * missed
    for _ in range(halvings):
        middle = (kept + missed) // 2
        if is_kept(middle):
            kept = middle
        else:
            missed = middle
    return kept


if __name__ == "__main__":
    share_two_cores()
    with running(PRODUCER, LOG_LEVEL="warning") as producer:
        found = measure(os.environ["FORTIO"], producer.url)
    print(f"{found}; ratio {statistics.median(found.ratios):.2f} (target: at least 0.25)")
