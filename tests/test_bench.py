"""The benchmark runs and prints all its rows. The figures are not asserted, because other tests run concurrently."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from bench.compare import Round, Rounds, ratios
from bench.plot import Panel, svg
from bench.programs import CALLER, FAKE_SERVICE, PODINFO, PRODUCER, SMALLEST
from bench.run_limit import highest
from bench.targets import Target
from bench.wrk import Load
from lab.processes import PRODUCER as PRODUCER_MODULE
from lab.processes import ROOT, running

ROWS = (
    "client CPU of one hop, everything measured",
    "CPU of one `POST /caller/messages`, 16 concurrent | fake-service",
    "CPU of one `POST /caller/messages`, 16 concurrent | the smallest FastAPI + httpx caller",
    "added latency, one call at a time (p50, caller − direct)",
    "p99 / p50 of the caller, 64 concurrent",
    "a run at 1,000/s, reused connections: calls not sent",
    "a run at 1,000/s, reused connections: p99 scheduling delay",
    "a run at 1,000/s, fresh connections: calls not sent",
    "a run at 1,000/s, fresh connections: p99 scheduling delay",
    "highest rate of a run, on two cores with the producer",
    "accuracy of a phase, idle: median error",
    "accuracy of a phase, idle: p99 error",
    "a failure is explained",
    "time to ready",
    "the caller's memory after",
    "size of the caller's image above its base",
)
NEEDS_FORTIO = (ROWS[4], ROWS[9])


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
        (target("≤", 2), "not measured"),
    ],
)
def test_the_verdict_is_that_of_the_median_with_a_tolerance(found: Target, verdict: str) -> None:
    assert found.verdict == verdict


def test_a_ratio_is_that_of_one_round() -> None:
    def rounds(*rates: int) -> Rounds:
        return Rounds("a", 1, [Round(Load(rate, 1.0, 0, 1.0, 2.0), None, None) for rate in rates])

    assert ratios(rounds(10, 100), rounds(5, 200), lambda one: one.load.rate) == [2, 0.5]


@pytest.mark.parametrize(("limit", "found"), [(0, 0), (499, 437), (500, 500), (2300, 2250), (4000, 4000)])
def test_the_highest_rate_is_bisected_after_the_first_that_is_not_kept(limit: int, found: int) -> None:
    assert highest(lambda rate: rate <= limit, halvings=3, first=500) == found


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
    lines = [line.strip("| ") for line in ended.stdout.splitlines() if line.startswith("| ")]
    verdicts = {what: line.split(" | ")[4] for line in lines for what in ROWS if line.startswith(what)}
    assert set(verdicts) == set(ROWS)
    assert set(verdicts.values()) <= {"met", "within 10 %", "not met", "not measured"}
    assert {verdicts[what] == "not measured" for what in NEEDS_FORTIO} == {"FORTIO" not in os.environ}
    assert (verdicts[ROWS[1]] == "not measured") == ("FAKE_SERVICE" not in os.environ)
    rows = [line.split(" | ") for line in lines]
    optional = [name for name, path in ((FAKE_SERVICE, "FAKE_SERVICE"), (PODINFO, "PODINFO")) if path in os.environ]
    compared = [row[1] for row in rows if row[0] == "16"]
    assert compared == [PRODUCER, CALLER, SMALLEST, *optional, "a peer", "its health"]
    assert not any("failed" in row[-1] for row in rows)
    assert (ended.returncode == 1) == ("not met" in verdicts.values())
