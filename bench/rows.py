"""The targets of the project, one row each, from the results of one run of the benchmark."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from bench import accuracy, failures, growth, hop_cpu, image_size, run_limit, run_schedule, start_up
from bench.compare import Comparison, cpu_micros, p50_millis, ratios
from bench.programs import CALLER, FAKE_SERVICE, PRODUCER, SMALLEST
from bench.targets import Target
from bench.wrk import Load
from caller.hop.phases import PHASES

CPU_CONCURRENCY = 16
"""Concurrent calls for the CPU of a call."""
CONCURRENCY = 64
"""Concurrent calls for p99 / p50 and memory."""


class Memory(NamedTuple):
    """Memory of a caller in MiB: after its first calls, and after all of them."""

    first: float
    last: float
    calls: int


class Measured(NamedTuple):
    """All results of one run of the benchmark. Empty or None: not measured."""

    comparison: Comparison
    hop: hop_cpu.HopCpu
    fair: list[Load]
    """The caller under fortio, by round."""
    reuse: list[run_schedule.Schedule]
    fresh: list[run_schedule.Schedule]
    run_limit: run_limit.RunLimit | None
    accuracy: list[accuracy.Measured]
    failures: failures.Failures | None
    start_up: start_up.StartUp
    memory: Memory
    image_megabytes: float
    growth: growth.Growth


def targets(found: Measured) -> list[Target]:
    """A ratio is that of two programs in the same round; the median counts."""
    return [
        Target(
            "client CPU of one hop, everything measured",
            "bare aiohttp `session.post`",
            "≤",
            1,
            found.hop.ratios,
            str(found.hop),
        ),
        cpu_target(found.comparison, FAKE_SERVICE, "fake-service (Go) with its upstream call", 2.5),
        cpu_target(found.comparison, SMALLEST, "the smallest FastAPI + httpx caller", 0.3),
        latency_target(found.comparison),
        Target(
            f"p99 / p50 of the caller, {CONCURRENCY} concurrent",
            "–",
            "≤",
            2.5,
            [load.p99_millis / load.p50_millis for load in found.fair],
            f"p50 {statistics.median(load.p50_millis for load in found.fair):.1f} ms"
            if found.fair
            else "FORTIO is not set, and wrk is not fair",
        ),
        *run_targets("reused", found.reuse, 2),
        *run_targets("fresh", found.fresh, 5),
        Target(
            "highest rate of a run, on two cores with the producer",
            "`fortio load -qps 0` of the same requests",
            "≥",
            0.25,
            found.run_limit.ratios if found.run_limit else [],
            str(found.run_limit or "FORTIO is not set"),
        ),
        *accuracy_targets(found.accuracy),
        Target(
            "a failure is explained, the slowest of all",
            "its timeout",
            "≤",
            0.3,
            [found.failures.worst] if found.failures else [],
            str(found.failures or "no mount namespace (unshare) for this user"),
            "s",
        ),
        Target(
            "time to ready",
            "importing fastapi, uvicorn",
            "≤",
            1.3,
            found.start_up.ratios,
            str(found.start_up),
        ),
        Target(
            f"the caller's memory after {found.memory.calls:,} calls",
            "after the first 2,000",
            "≤",
            1.05,
            [found.memory.last / found.memory.first],
            f"{found.memory.first:.1f} MiB, {found.memory.last:.1f} MiB",
        ),
        Target(
            "size of the caller's image above its base",
            "–",
            "≤",
            image_size.LIMIT,
            [found.image_megabytes],
            "the files that Dockerfile.caller adds, as they are installed here; no image was built",
            "MB",
        ),
    ]


def cpu_target(comparison: Comparison, other: str, against: str, limit: float) -> Target:
    what = f"CPU of one `POST /caller/messages`, {CPU_CONCURRENCY} concurrent"
    if (other, CPU_CONCURRENCY) not in comparison:
        return Target(what, against, "≤", limit, [], "FAKE_SERVICE is not set")
    caller, compared = comparison[CALLER, CPU_CONCURRENCY], comparison[other, CPU_CONCURRENCY]
    details = f"{caller.median(cpu_micros):,.0f} µs against {compared.median(cpu_micros):,.0f} µs"
    return Target(what, against, "≤", limit, ratios(caller, compared, cpu_micros), details)


def latency_target(comparison: Comparison) -> Target:
    def p50s(name: str) -> list[float]:
        return comparison[name, 1].of(p50_millis)

    rounds = list(zip(p50s(CALLER), p50s(SMALLEST), p50s(PRODUCER), strict=True))
    caller, smallest, direct = (statistics.median(p50s(name)) for name in (CALLER, SMALLEST, PRODUCER))
    return Target(
        "added latency, one call at a time (p50, caller − direct)",
        "what the smallest FastAPI + httpx caller adds",
        "≤",
        0.5,
        [(caller - direct) / (smallest - direct) for caller, smallest, direct in rounds],
        f"p50 {caller:.2f} ms against {smallest:.2f} ms, direct {direct:.2f} ms",
    )


def run_targets(connections: str, runs: Sequence[run_schedule.Schedule], delay_millis: float) -> list[Target]:
    run = f"a run at {run_schedule.RATE:,}/s, {connections} connections"
    sent, due = sum(one.summary.sent for one in runs), sum(one.due for one in runs)
    p50 = statistics.median(one.summary.scheduling_delay.p50_millis or 0.0 for one in runs)
    delays = [one.p99_delay_millis for one in runs]
    return [
        Target(
            f"{run}: calls not sent",
            "those due",
            "≤",
            0.1,
            [100 * (1 - one.share) for one in runs],
            f"sent {sent:,} of {due:,}, {sum(one.summary.failures for one in runs)} not ok",
            "%",
        ),
        Target(f"{run}: p99 scheduling delay", "the schedule", "≤", delay_millis, delays, f"p50 {p50:.2f} ms", "ms"),
    ]


def accuracy_targets(measured: Sequence[accuracy.Measured]) -> list[Target]:
    """The largest median and the largest p99 of the errors of all phases."""
    by_phase = {
        f"{phase}, {one.place}, {one.load}": one.hop[phase].targets()
        for one in measured
        for phase in PHASES
        if phase in one.hop
    }
    found = []
    for number, (name, limit) in enumerate(
        (("median", accuracy.MEDIAN_LIMIT_MILLIS), ("p99", accuracy.P99_LIMIT_MILLIS))
    ):
        errors = {phase: both[number].median for phase, both in by_phase.items()}
        largest = max(errors, key=errors.__getitem__, default=None)
        what = f"accuracy of a phase, idle: {name} error, the largest of all"
        values = [errors[largest]] if largest else []
        found.append(Target(what, "the packets", "≤", limit, values, largest or accuracy.lacking() or "", "ms"))
    return found
