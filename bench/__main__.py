"""All measurements in one run: `make bench` or `python -m bench`; status 1 if a target is not met by more than 10 %.

Everything shares two cores. The environment names other programs: paths in `FAKE_SERVICE`, `FORTIO` and `PODINFO`, and
running ones in `BENCH_PEERS="whereami=http://127.0.0.1:8090/,…"`, as names and URLs. A URL that ends with `/messages`
gets a POST of the message, any other a GET.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench import accuracy, compare, failures, fortio, growth, hop_cpu, image_size, run_limit, run_schedule, start_up
from bench.programs import CALLER, MESSAGE, PRODUCER, Program, all_programs, python, share_two_cores
from bench.rows import CONCURRENCY, Measured, Memory, targets
from bench.targets import TOLERANCE, table
from bench.wrk import Load, load

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"

BEGIN, END = "<!-- written by python -m bench --write -->", "<!-- end -->"


class Scale(NamedTuple):
    """The extent of the measurements."""

    rounds: dict[int, int]
    """By number of concurrent calls."""
    seconds: int
    first_calls: int
    calls: int
    """Number of calls after which the caller's memory is compared, unless `memory_seconds` end before."""
    memory_seconds: float
    starts: int
    hop_rounds: int
    hop_calls: int
    fair_rounds: int
    fair_seconds: int
    run_rounds: int
    run_seconds: int
    run_limit: run_limit.Extent
    accuracy_calls: int
    places: tuple[Callable[[], AbstractContextManager[accuracy.Place]], ...]
    """Where accuracy is measured."""
    failure_rounds: int
    rates: tuple[int, ...]
    sizes: tuple[int, ...]


FULL = Scale(
    rounds={1: 4, 16: 4, 64: 2, 256: 2},
    seconds=1,
    first_calls=2_000,
    calls=200_000,
    memory_seconds=120,
    starts=5,
    hop_rounds=hop_cpu.ROUNDS,
    hop_calls=hop_cpu.CALLS,
    fair_rounds=3,
    fair_seconds=5,
    run_rounds=3,
    run_seconds=run_schedule.SECONDS,
    run_limit=run_limit.FULL,
    accuracy_calls=100,
    places=(accuracy.loopback, accuracy.loopback_with_tls, accuracy.link),
    failure_rounds=failures.ROUNDS,
    rates=(100, 500, 1000, 1500),
    sizes=(1, 64, 1024, 8192, 65_536),
)
UNLIMITED_SECONDS = 3600.0
"""`memory_seconds` when the results are written."""

TINY = Scale(
    rounds={1: 1, 16: 1},
    seconds=1,
    first_calls=50,
    calls=100,
    memory_seconds=10,
    starts=1,
    hop_rounds=1,
    hop_calls=64,
    fair_rounds=1,
    fair_seconds=1,
    run_rounds=1,
    run_seconds=1,
    run_limit=run_limit.Extent(seconds=1, halvings=0, rounds=1),
    accuracy_calls=5,
    places=(accuracy.loopback,),
    failure_rounds=1,
    rates=(50,),
    sizes=(1, 65_536),
)
"""For the test of the benchmark."""


def measure(scale: Scale, peers: list[Program]) -> Measured:
    fortio_path = os.environ.get("FORTIO")
    say("start-up")
    started = start_up.measure(scale.starts)
    image_megabytes = image_size.measure()
    say("accuracy")
    accuracies = accuracy_of(scale)
    say("failures")
    failed = failures.measure(scale.failure_rounds) if failures.is_possible() else None
    with all_programs(peers) as programs:
        producer, caller = programs[PRODUCER], programs[CALLER]
        say("comparison of the programs")
        comparison = compare.compare(programs.values(), scale.rounds, scale.seconds)
        fair = fair_loads(fortio_path, caller, scale) if fortio_path else []
        say("one hop")
        hop = uvloop.run(hop_cpu.measure(producer.base, scale.hop_rounds, scale.hop_calls))
        say("runs")
        runs = [
            run_schedule.measure(producer.base, connection, seconds=scale.run_seconds)
            for _ in range(scale.run_rounds)
            for connection in ("--reuse", "--fresh")
        ]
        limit = run_limit.measure(fortio_path, producer.base, scale.run_limit) if fortio_path else None
        say("memory")
        with python(CALLER, "/caller/messages", ["caller", "serve"], PRODUCER_URL=producer.base) as another:
            memory = memory_of(another, scale)
        say("payloads and rates")
        grown = growth.measure([producer, caller], producer.base, scale.sizes, scale.rates, scale.seconds)
    return Measured(
        comparison=comparison,
        hop=hop,
        fair=fair,
        reuse=runs[::2],
        fresh=runs[1::2],
        run_limit=limit,
        accuracy=accuracies,
        failures=failed,
        start_up=started,
        memory=memory,
        image_megabytes=image_megabytes,
        growth=grown,
    )


def accuracy_of(scale: Scale) -> list[accuracy.Measured]:
    """Of idle callers; empty where it cannot be measured."""
    measured: list[accuracy.Measured] = []
    for opened in () if accuracy.lacking() else scale.places:
        with opened() as place:
            measured += [accuracy.measure(place, one, scale.accuracy_calls) for one in accuracy.IDLE]
    return measured


def fair_loads(path: str, caller: Program, scale: Scale) -> list[Load]:
    return [fortio.load(path, caller.url, MESSAGE, CONCURRENCY, scale.fair_seconds) for _ in range(scale.fair_rounds)]


def say(what: str) -> None:
    print(f"{what} …", file=sys.stderr, flush=True)


def memory_of(caller: Program, scale: Scale) -> Memory:
    deadline = time.monotonic() + scale.memory_seconds

    def call(at_least: int, seconds: int) -> int:
        calls = 0
        while calls < at_least and time.monotonic() < deadline:
            calls += load(caller.url, caller.body, CONCURRENCY, seconds).calls
        return calls

    calls = call(scale.first_calls, 1)
    first = caller.memory()
    calls += call(scale.calls - calls, 10 if scale.calls > 10_000 else 1)
    return Memory(first, caller.memory(), calls)


def report(found: Measured) -> str:
    """Markdown."""
    return "\n\n".join(
        [
            f"On {machine()}.",
            table(targets(found)),
            compare.table(found.comparison),
            growth.tables(found.growth),
        ]
    )


def machine() -> str:
    def version(*command: str) -> str:
        try:
            printed = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except FileNotFoundError:
            return f"no {command[0]}"
        return " ".join((printed.stdout + printed.stderr).split("\n")[0].split()[:3])

    python = f"Python {platform.python_version()}"
    return f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores, {python}, {version('wrk', '-v')}"


def write(found: Measured) -> None:
    text = RESULTS.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    RESULTS.write_text(f"{before}{BEGIN}\n\n{report(found)}\n\n{END}{after}")
    for name, chart in growth.charts(found.comparison, found.growth).items():
        (HERE / name).write_text(chart)


def peers() -> list[Program]:
    """The programs of `BENCH_PEERS`."""
    pairs = [pair.partition("=") for pair in os.environ.get("BENCH_PEERS", "").split(",") if pair]
    return [Program(name, url, MESSAGE if url.endswith("/messages") else None, None) for name, _, url in pairs]


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m bench", description="See bench/RESULTS.md.")
    options.add_argument(
        "--write", action="store_true", help="make all 200,000 calls, put the tables into RESULTS.md, draw the charts"
    )
    options.add_argument("--tiny", action="store_true", help="a few seconds in total; the figures are meaningless")
    chosen = options.parse_args()
    if not shutil.which("wrk"):
        sys.stderr.write("wrk is needed (apt-get install wrk)\n")
        return 2
    share_two_cores()
    full = FULL._replace(memory_seconds=UNLIMITED_SECONDS) if chosen.write else FULL
    found = measure(TINY if chosen.tiny else full, peers())
    print(report(found))
    if chosen.write:
        write(found)
    return 1 if any(target.deviation > TOLERANCE for target in targets(found)) else 0


if __name__ == "__main__":
    sys.exit(main())
