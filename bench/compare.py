"""Comparison of programs: rounds of calls that alternate between them."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from bench.programs import Program, answer
from bench.wrk import Load, load


class Round(NamedTuple):
    load: Load
    cpu_micros: float | None
    """CPU of the program per call; None: its process is unknown."""
    memory: float | None
    """Memory at the end, in MiB."""


class Rounds(NamedTuple):
    """The rounds of one program with one number of concurrent calls."""

    program: str
    concurrency: int
    rounds: list[Round]

    def of(self, figure: Callable[[Round], float]) -> list[float]:
        return [figure(one) for one in self.rounds]

    def median(self, figure: Callable[[Round], float]) -> float:
        return statistics.median(self.of(figure))


Comparison = dict[tuple[str, int], Rounds]
"""By program and number of concurrent calls."""


def compare(programs: Iterable[Program], rounds: Mapping[int, int], seconds: int) -> Comparison:
    """Measure each program. `rounds`: number of rounds by number of concurrent calls."""
    programs = list(programs)
    found: Comparison = {}
    for program in programs:
        load(program.url, program.body, max(rounds), 1)  # warm up with the most connections
    for concurrency, count in rounds.items():
        for _ in range(count):
            for program in programs:
                key = program.name, concurrency
                found.setdefault(key, Rounds(*key, [])).rounds.append(one_round(program, concurrency, seconds))
    return found


def one_round(program: Program, concurrency: int, seconds: int) -> Round:
    answer(program)  # opens connections that the previous round closed
    if program.process is None:
        return Round(load(program.url, program.body, concurrency, seconds), None, None)
    before = program.cpu_seconds()
    done = load(program.url, program.body, concurrency, seconds)
    cpu = (program.cpu_seconds() - before) / max(done.calls, 1) * 1e6
    return Round(done, cpu, program.memory())


def ratios(one: Rounds, other: Rounds, figure: Callable[[Round], float]) -> list[float]:
    """Ratio of a figure of one program to that of another, by round."""
    return [mine / theirs for mine, theirs in zip(one.of(figure), other.of(figure), strict=True)]


def table(found: Comparison) -> str:
    lines = [
        "| concurrent | program | calls/s | p50 ms | p99 ms | CPU µs per call | MiB |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    for rounds in found.values():
        rates, last = rounds.of(rate), rounds.rounds[-1]
        failed = sum(one.load.failed for one in rounds.rounds)
        cells = [
            str(rounds.concurrency),
            rounds.program,
            f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
            f"{rounds.median(p50_millis):.2f}",
            f"{rounds.median(p99_millis):.2f}",
            "–" if last.cpu_micros is None else f"{rounds.median(cpu_micros):.0f}",
            "–" if last.memory is None else f"{last.memory:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |" + (f" {failed} failed |" if failed else ""))
    return "\n".join(lines)


def rate(one: Round) -> float:
    return one.load.rate


def p50_millis(one: Round) -> float:
    return one.load.p50_millis


def p99_millis(one: Round) -> float:
    return one.load.p99_millis


def cpu_micros(one: Round) -> float:
    return one.cpu_micros or 0.0
