"""The cost of a call by number of concurrent calls, by size of the payload, and by rate of a run."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from bench import run_schedule
from bench.compare import Comparison, p99_millis, rate
from bench.plot import Panel, svg
from bench.programs import Program
from bench.wrk import Load, load

CONCURRENCY = 16
"""Concurrent calls of the measurement by payload."""


class Growth(NamedTuple):
    by_payload: dict[int, dict[str, Load]]
    """By payload in bytes, and program."""
    by_rate: dict[int, run_schedule.Schedule]


def measure(programs: Sequence[Program], url: str, sizes: Sequence[int], rates: Sequence[int], seconds: int) -> Growth:
    """Measure these programs by payload, and runs against the producer by rate."""
    by_payload = {
        size: {
            program.name: load(program.url, json.dumps({"id": "1", "payload": "x" * size}), CONCURRENCY, seconds)
            for program in programs
        }
        for size in sizes
    }
    return Growth(by_payload, {rate: run_schedule.measure(url, "--reuse", rate, 3 * seconds) for rate in rates})


def tables(growth: Growth) -> str:
    lines = [f"| payload, {CONCURRENCY} concurrent | program | calls/s | p50 ms | p99 ms |", "|--:|---|--:|--:|--:|"]
    for size, loads in growth.by_payload.items():
        for name, found in loads.items():
            row = f"{found.rate:,.0f} | {found.p50_millis:.2f} | {found.p99_millis:.2f}"
            lines.append(f"| {bytes_text(size)} | {name} | {row} |")
    lines += [
        "",
        "| run, calls/s | sent | p99 scheduling delay ms | p99 latency ms | not ok |",
        "|--:|--:|--:|--:|--:|",
    ]
    for calls, run in growth.by_rate.items():
        row = f"{run.p99_delay_millis:.2f} | {run.p99_millis:.2f} | {run.summary.failures}"
        lines.append(f"| {calls:,} | {run.share:.2%} | {row} |")
    return "\n".join(lines)


def charts(comparison: Comparison, growth: Growth) -> dict[str, str]:
    """By file name."""
    names = list(dict.fromkeys(name for name, _ in comparison))
    levels = list(dict.fromkeys(concurrency for _, concurrency in comparison))
    sizes, rates = list(growth.by_payload), list(growth.by_rate)
    measured = list(next(iter(growth.by_payload.values())))
    steps = [str(level) for level in levels]
    rate_lines = {name: [comparison[name, level].median(rate) for level in levels] for name in names}
    p99_lines = {name: [comparison[name, level].median(p99_millis) for level in levels] for name in names}
    texts = [bytes_text(size) for size in sizes]
    payload_rate = {name: [growth.by_payload[size][name].rate for size in sizes] for name in measured}
    payload_p99 = {name: [growth.by_payload[size][name].p99_millis for size in sizes] for name in measured}
    run_lines = {
        "latency": [growth.by_rate[calls].p99_millis for calls in rates],
        "scheduling delay": [growth.by_rate[calls].p99_delay_millis for calls in rates],
    }
    return {
        "concurrency.svg": svg(
            "Calls per second and p99 by number of concurrent calls",
            [
                Panel("calls/s", steps, "concurrent calls", rate_lines),
                Panel("p99, ms", steps, "concurrent calls", p99_lines),
            ],
        ),
        "payload.svg": svg(
            "Calls per second and p99 by size of the payload",
            [Panel("calls/s", texts, "payload", payload_rate), Panel("p99, ms", texts, "payload", payload_p99)],
        ),
        "rate.svg": svg(
            "p99 of a run by its rate",
            [Panel("p99, ms", [f"{calls:,}" for calls in rates], "calls/s of the run", run_lines)],
        ),
    }


def bytes_text(size: int) -> str:
    return f"{size // 1024} KiB" if size >= 1024 else f"{size} B"
