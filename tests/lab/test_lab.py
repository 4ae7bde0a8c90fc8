"""The lab itself: its removal, also after its process was killed, and its commands."""

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
UP_SECONDS = 100.0


@contextmanager
def another_process(script: str, state: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that has printed `up`. Its state is in a folder of its own, which other test runs do not clean up."""
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
    """A folder with a short name, because the path of a socket has at most 107 bytes (unix(7))."""
    with TemporaryDirectory() as name:
        yield Path(name)


COMPLETE = "from lab.lab import Lab; import os; lab = Lab(f'-{os.getpid()}').up(); lab.__enter__()"
INCOMPLETE = """
import os, subprocess
from lab.leftovers import claim
names = [f"caller-cluster-{os.getpid()}", f"producer-cluster-{os.getpid()}"]
claim(names)
subprocess.run(["ip", "netns", "add", names[0]], check=True)
"""


@pytest.mark.parametrize(("script", "processes"), [(COMPLETE, 7), (INCOMPLETE, 0)], ids=["complete", "incomplete"])
def test_the_next_lab_removes_exactly_the_leftovers_of_a_killed_process(
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
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in running):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {lab.call(FRESH)["producerMetadata"]["ipAddress"] for _ in PRODUCER_PODS} == set(PRODUCER_PODS)


def is_running(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(
    ("started", "removed"), [(started_at(os.getpid()), []), ("1", ["another-runs"])], ids=["its own", "another"]
)
def test_an_owner_is_identified_by_its_start_too_because_process_ids_are_reused(
    started: str, removed: list[str], state: Path
) -> None:
    folder = state / f"{os.getpid()}-{started}-0"
    folder.mkdir()
    (folder / NAMES).write_text("another-runs")
    assert remove_leftovers(state) == removed
    assert folder.exists() is (not removed)


def test_two_labs_of_one_process_are_independent(lab: Lab) -> None:
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
def test_the_command_serves_the_page_on_loopback_executes_commands_and_removes_the_clusters(state: Path) -> None:
    suffix = f"-{os.getpid()}-by-hand"
    printed = state / "printed"
    with (
        printed.open("w") as output,
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
            page = wait_for(printed, r"page +(\S+)")
            assert process.stdin is not None
            assert httpx.get(page, trust_env=False).status_code == 200
            for line, shown in (
                ("call --expect-cluster producer-cluster", "exit code 0"),
                ("unexport\ncall --expect-outcome dns_nxdomain\nexport", "dns_nxdomain"),
                ("latency 30\nfirewall drop\nstatus", "latency 30 ms, firewall drop"),
                ("latency 0\nfirewall off\nscale 1\nstatus", r"endpoints +10.8.2.11\n"),
                ("scale 9", "scale expects a number from 0 to 2"),
                ("export everything", "expected one of caller, producer, third, got everything"),
                ("nonsense", "unknown command: nonsense"),
            ):
                process.stdin.write(f"{line}\n")
                process.stdin.flush()
                wait_for(printed, shown)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert "Traceback" not in printed.read_text()
    assert not [name for name in os.listdir(NETNS) if name.endswith(suffix)]


def wait_for(file: Path, pattern: str) -> str:
    """Wait until the file matches the pattern; the group of the match."""
    deadline = time.monotonic() + UP_SECONDS
    while time.monotonic() < deadline:
        if found := re.search(pattern, file.read_text()):
            return found[1] if found.groups() else found[0]
        time.sleep(0.05)
    raise AssertionError(f"no {pattern} in: {file.read_text()}")
