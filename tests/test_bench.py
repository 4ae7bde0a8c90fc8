"""The benchmark runs and prints all its rows. The figures are not asserted, because other tests run concurrently."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from bench.compare import Round, Rounds, ratios
from bench.plot import Panel, svg
from bench.programs import BARE, CALLER, ECHO, PRODUCER, PROXY, SMALLEST, STOCK
from bench.targets import Target
from bench.wrk import Load
from lab.processes import PRODUCER as PRODUCER_MODULE
from lab.processes import ROOT, running

ROWS = (
    "calls/s of `POST /caller/messages`, 64 concurrent",
    "client CPU of one hop, everything measured",
    "added latency, one call at a time (p50, caller − direct)",
    "producer calls/s, 64 concurrent",
    "calls sent of a run at 1,000/s",
    "its p99 scheduling delay",
    "time to ready",
    "the caller's memory after",
)


def target(relation: str, limit: float, *measured: float) -> Target:
    return Target("what", "against", relation, limit, measured, "")


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (target("≥", 6, 6, 7, 1), "met"),
        (target("≥", 6, 5.5), "within 10 %"),
        (target("≥", 6, 5.3), "not met"),
        (target("≤", 2, 2, 1, 9), "met"),
        (target("≤", 2, 2.15), "within 10 %"),
        (target("≤", 2, 2.25), "not met"),
    ],
)
def test_the_verdict_is_that_of_the_median_with_a_tolerance(found: Target, verdict: str) -> None:
    assert found.verdict == verdict


def test_a_ratio_is_that_of_one_round() -> None:
    def rounds(*rates: int) -> Rounds:
        return Rounds("a", 1, [Round(Load(rate, 1.0, 0, 1.0, 2.0), None, None) for rate in rates])

    assert ratios(rounds(10, 100), rounds(5, 200), lambda one: one.load.rate) == [2, 0.5]


def test_a_chart_is_inside_its_frame() -> None:
    drawn = svg("A & B", [Panel("p99, ms", ["1", "2"], "concurrent calls", {"a": [0.5, 900], "b<c": [0.5, 900]})])
    assert "<title>A &amp; B</title>" in drawn
    assert "b&lt;c" in drawn
    _, _, width, height = map(float, re.findall(r'viewBox="(.*?)"', drawn)[0].split())
    points = [point.split(",") for line in re.findall(r'points="(.*?)"', drawn) for point in line.split()]
    assert len(points) == 4
    assert all(0 < float(x) < width and 0 < float(y) < height for x, y in points)


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
@pytest.mark.timeout(600)
def test_everything_is_measured_and_every_target_has_its_row() -> None:
    with running(PRODUCER_MODULE) as peer:
        ended = subprocess.run(
            [sys.executable, "-m", "bench", "--tiny"],
            cwd=ROOT,
            env={**os.environ, "BENCH_PEERS": f"a peer={peer.url}/producer/messages,its health={peer.url}/metrics"},
            capture_output=True,
            text=True,
            timeout=580,
        )
    assert ended.returncode in (0, 1), ended.stderr
    rows = [line.strip("| ").split(" | ") for line in ended.stdout.splitlines() if line.startswith("| ")]
    for what in ROWS:
        [row] = [row for row in rows if row[0].startswith(what)]
        assert row[4] in ("met", "within 10 %", "not met")
    nginx = [PROXY] if shutil.which("nginx") else []
    compared = [row[1] for row in rows if row[0] == "64"]
    assert compared == [PRODUCER, ECHO, CALLER, STOCK, SMALLEST, BARE, *nginx, "a peer", "its health"]
    assert not any("failed" in row[-1] for row in rows)
    assert (ended.returncode == 1) == any("not met" in row for row in rows)
