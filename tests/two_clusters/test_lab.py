"""The lab itself: that it goes away, also when whoever built it was killed, and that it can be used by hand."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from lab.lab import PRODUCER_PODS, Lab
from lab.leftovers import NAMES, NETNS, NETNS_CONF, pids_in, remove_leftovers, started_at
from lab.processes import ROOT

FRESH = {"payload": "ping", "connection": "fresh"}
UP_SECONDS = 40.0


@contextmanager
def another_process(script: str, state: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that has said `up`. Its state is not where other runs, which remove leftovers too, look for them."""
    command = [sys.executable, "-c", f"{script}\nprint('up', flush=True)\nimport time; time.sleep(60)"]
    environment = {**os.environ, "TWO_CLUSTERS_STATE": str(state)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def state() -> Iterator[Path]:
    """A folder of a short name, since one of a socket has 107 bytes at most (unix(7))."""
    with TemporaryDirectory() as name:
        yield Path(name)


WHOLE = "from lab.lab import Lab; import os; lab = Lab(f'-{os.getpid()}').up(); lab.__enter__()"
HALF = """
import os, subprocess
from lab.leftovers import claim
names = [f"caller-cluster-{os.getpid()}", f"producer-cluster-{os.getpid()}"]
claim(names)
subprocess.run(["ip", "netns", "add", names[0]], check=True)
"""


@pytest.mark.parametrize(("script", "processes"), [(WHOLE, 7), (HALF, 0)], ids=["when it was up", "half way up"])
def test_what_a_killed_run_leaves_is_removed_by_the_next_and_nothing_else_is(
    lab: Lab, script: str, processes: int, state: Path
) -> None:
    with another_process(script, state) as run:
        assert remove_leftovers(state) == []
        run.kill()
        run.wait(10)
    left = [name for name in os.listdir(NETNS) if name.endswith(f"-{run.pid}")]
    running = [pid for name in left for pid in pids_in(name)]
    assert left
    assert len(running) == processes
    assert set(left) <= set(remove_leftovers(state))
    assert not set(left) & set(os.listdir(NETNS))
    assert not [path for path in NETNS_CONF.iterdir() if path.name in left]
    assert not state.exists()
    deadline = time.monotonic() + 5
    while any(is_running(pid) for pid in running):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {lab.call(FRESH)["producerMetadata"]["ipAddress"] for _ in PRODUCER_PODS} == set(PRODUCER_PODS)


def is_running(pid: int) -> bool:
    """A process that has ended and that nobody waits for is not."""
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("started", "removed"), [(started_at(os.getpid()), []), ("1", ["another-runs"])], ids=["its own", "another"]
)
def test_an_owner_is_known_by_its_start_too_as_numbers_are_given_again(
    started: str, removed: list[str], state: Path
) -> None:
    folder = state / f"{os.getpid()}-{started}-0"
    folder.mkdir()
    (folder / NAMES).write_text("another-runs")
    assert remove_leftovers(state) == removed
    assert folder.exists() is (not removed)


def test_two_labs_of_one_process_are_two(lab: Lab) -> None:
    with Lab(f"-{os.getpid()}-second").up() as second:
        with second.exported():
            assert second.call(FRESH)["outcome"] == "dns_nxdomain"
            assert lab.call(FRESH)["outcome"] == "ok"
        namespaces = [cluster.namespace for cluster in second.clusters]
        assert set(namespaces) <= set(os.listdir(NETNS))
    assert not set(namespaces) & set(os.listdir(NETNS))
    assert not second.folder.exists()
    assert lab.call(FRESH)["outcome"] == "ok"


@pytest.mark.usefixtures("lab")
def test_by_hand_it_shows_the_page_on_loopback_obeys_and_goes_away(state: Path) -> None:
    suffix = f"-{os.getpid()}-by-hand"
    said = state / "said"
    with (
        said.open("w") as output,
        subprocess.Popen(
            [sys.executable, "-m", "lab", suffix],
            cwd=ROOT,
            env={**os.environ, "PORT": "0"},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        try:
            page = wait_for(said, r"page +(\S+)")
            assert process.stdin is not None
            assert httpx.get(page, trust_env=False).status_code == 200
            for line, shown in (
                ("call --expect-cluster producer-cluster", "exit code 0"),
                ("unexport\ncall --expect-outcome dns_nxdomain\nexport", "dns_nxdomain"),
                ("latency 30\nfirewall drop\nstatus", "latency 30 ms, firewall drop"),
                ("latency 0\nfirewall off\nscale 1\nstatus", r"endpoints +10.8.2.11\n"),
                ("scale 9", "scale takes a number up to 2"),
                ("export everything", "everything is none of: caller, producer, third"),
                ("nonsense", "unknown: nonsense"),
            ):
                process.stdin.write(f"{line}\n")
                process.stdin.flush()
                wait_for(said, shown)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert "Traceback" not in said.read_text()
    assert not [name for name in os.listdir(NETNS) if name.endswith(suffix)]


def wait_for(file: Path, pattern: str) -> str:
    """What the group of the pattern has matched, once it has."""
    deadline = time.monotonic() + UP_SECONDS
    while time.monotonic() < deadline:
        if found := re.search(pattern, file.read_text()):
            return found[1] if found.groups() else found[0]
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} in: {file.read_text()}")
