"""All measurements in one run: `make bench` or `python -m bench`; status 1 if a target is not met by more than 10 %.

`BENCH_PEERS="whereami=http://127.0.0.1:8090/,…"` adds running programs, as names and URLs. A URL that ends with
`/messages` gets a POST of the message, any other a GET.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench import compare, growth, hop_cpu, run_schedule, start_up
from bench.compare import Comparison, Rounds, p50_millis, rate, ratios
from bench.programs import CALLER, ECHO, MESSAGE, PRODUCER, STOCK, Program, all_programs, python
from bench.targets import TOLERANCE, Target, table
from bench.wrk import load

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
CONCURRENCY = 64
"""Concurrent calls of the targets for throughput and memory."""

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
    run_seconds: int
    rates: tuple[int, ...]
    sizes: tuple[int, ...]


FULL = Scale(
    rounds={1: 4, 16: 2, 64: 4, 256: 2},
    seconds=1,
    first_calls=2_000,
    calls=200_000,
    memory_seconds=120,
    starts=5,
    hop_rounds=hop_cpu.ROUNDS,
    hop_calls=hop_cpu.CALLS,
    run_seconds=run_schedule.SECONDS,
    rates=(100, 500, 1000, 1500),
    sizes=(1, 64, 1024, 8192, 65_536),
)
UNLIMITED_SECONDS = 3600.0
"""`memory_seconds` when the results are written."""

TINY = Scale(
    rounds={1: 1, 64: 1},
    seconds=1,
    first_calls=50,
    calls=100,
    memory_seconds=10,
    starts=1,
    hop_rounds=1,
    hop_calls=64,
    run_seconds=1,
    rates=(50,),
    sizes=(1, 65_536),
)
"""For the test of the benchmark."""


class Memory(NamedTuple):
    """Memory of a caller in MiB: after its first calls, and after all of them."""

    first: float
    last: float
    calls: int


class Measured(NamedTuple):
    """All results of one run of the benchmark."""

    comparison: Comparison
    hop: hop_cpu.HopCpu
    reuse: run_schedule.Schedule
    fresh: run_schedule.Schedule
    start_up: start_up.StartUp
    memory: Memory
    growth: growth.Growth


def measure(scale: Scale, peers: list[Program]) -> Measured:
    say("start-up")
    started = start_up.measure(scale.starts)
    with all_programs(peers) as programs:
        producer, caller = programs[PRODUCER], programs[CALLER]
        say("comparison of the programs")
        comparison = compare.compare(programs.values(), scale.rounds, scale.seconds)
        say("one hop")
        hop = uvloop.run(hop_cpu.measure(producer.base, scale.hop_rounds, scale.hop_calls))
        say("runs")
        reuse = run_schedule.measure(producer.base, "--reuse", seconds=scale.run_seconds)
        fresh = run_schedule.measure(producer.base, "--fresh", seconds=scale.run_seconds)
        say("memory")
        with python(CALLER, "/caller/messages", ["caller", "serve"], PRODUCER_URL=producer.base) as another:
            memory = memory_of(another, scale)
        say("payloads and rates")
        grown = growth.measure([producer, caller], producer.base, scale.sizes, scale.rates, scale.seconds)
    return Measured(comparison, hop, reuse, fresh, started, memory, grown)


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


def targets(found: Measured) -> list[Target]:
    """The targets of the project. A ratio is that of two programs in the same round; the median counts."""

    def at(name: str, concurrency: int) -> Rounds:
        return found.comparison[name, concurrency]

    caller, stock, producer, echo = (at(name, CONCURRENCY) for name in (CALLER, STOCK, PRODUCER, ECHO))
    through, direct = at(CALLER, 1), at(PRODUCER, 1)
    return [
        Target(
            f"calls/s of `POST /caller/messages`, {CONCURRENCY} concurrent",
            "the same app on httpx's stock transport",
            "≥",
            6,
            ratios(caller, stock, rate),
            f"{caller.median(rate):,.0f} against {stock.median(rate):,.0f}",
        ),
        Target(
            "client CPU of one hop, everything measured",
            "bare aiohttp `session.post`",
            "≤",
            2,
            found.hop.ratios,
            str(found.hop),
        ),
        Target(
            "added latency, one call at a time (p50, caller − direct)",
            "a direct call to the producer",
            "≤",
            2.5,
            [ratio - 1 for ratio in ratios(through, direct, p50_millis)],
            f"p50 {through.median(p50_millis):.2f} ms, direct {direct.median(p50_millis):.2f} ms",
        ),
        Target(
            f"producer calls/s, {CONCURRENCY} concurrent",
            "the smallest FastAPI echo with the same model; both log a line per call",
            "≥",
            0.8,
            ratios(producer, echo, rate),
            f"{producer.median(rate):,.0f} against {echo.median(rate):,.0f}",
        ),
        Target(
            f"calls sent of a run at {run_schedule.RATE:,}/s",
            "those due",
            "≥",
            99,
            [100 * found.reuse.share],
            str(found.reuse),
            "%",
        ),
        Target("its p99 scheduling delay", "the schedule", "≤", 5, [found.reuse.p99_delay_millis], "", "ms"),
        Target(
            "time to ready",
            "importing fastapi, uvicorn, aiohttp",
            "≤",
            1.6,
            found.start_up.ratios,
            str(found.start_up),
        ),
        Target(
            f"the caller's memory after {found.memory.calls:,} calls",
            "after the first 2,000",
            "≤",
            1.1,
            [found.memory.last / found.memory.first],
            f"{found.memory.first:.1f} MiB, {found.memory.last:.1f} MiB",
        ),
    ]


def report(found: Measured) -> str:
    """Markdown."""
    return "\n\n".join(
        [
            f"On {machine()}.",
            table(targets(found)),
            f"The same run with a new connection per call: {found.fresh}.",
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
    return f"{os.cpu_count()} cores, {python}, {version('wrk', '-v')}, {version('nginx', '-v')}"


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
    full = FULL._replace(memory_seconds=UNLIMITED_SECONDS) if chosen.write else FULL
    found = measure(TINY if chosen.tiny else full, peers())
    print(report(found))
    if chosen.write:
        write(found)
    return 1 if any(target.deviation > TOLERANCE for target in targets(found)) else 0


if __name__ == "__main__":
    sys.exit(main())
