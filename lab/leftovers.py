"""What a lab made outside its own process, and how it goes away, also when that process was killed.

Every lab has a folder under `STATE`, whose name says which process owns it, and which names its namespaces. A folder
whose owner is gone is a leftover: the next lab removes it, and nothing else.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

STATE = Path(os.environ.get("TWO_CLUSTERS_STATE", "/var/lib/sample-two-clusters"))
"""Not below `/run`, from which nothing can be executed on many machines."""
NETNS = Path("/run/netns")
NETNS_CONF = Path("/etc/netns")
"""Both are iproute2's: what lies in `/etc/netns/NAME` is mounted over `/etc` by `ip netns exec NAME`."""

NAMES = "namespaces"
_NUMBERS = count()


def claim(namespaces: Sequence[str]) -> Path:
    """A folder of this process for a lab that is about to make these namespaces."""
    pid = os.getpid()
    folder = made(STATE / f"{pid}-{started_at(pid)}-{next(_NUMBERS)}")
    (folder / NAMES).write_text("\n".join(namespaces))
    return folder


def made(folder: Path) -> Path:
    """The folder, with its parents: one of those may go at this very moment, together with another lab."""
    for _ in range(100):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            break
    return folder


def remove_leftovers(state: Path = STATE) -> list[str]:
    """Take down the labs whose owner is gone; the namespaces they had."""
    removed = []
    for folder in sorted(state.glob("*-*-*")):
        pid, started, _ = folder.name.split("-")
        if started_at(int(pid)) != started:
            removed += take_down(folder)
    return removed


def started_at(pid: int) -> str | None:
    """When the process was started, in clock ticks since boot (proc(5), field 22 of stat); None: it is gone.

    A number may be given again, but not together with its start.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def take_down(folder: Path) -> list[str]:
    """Kill what runs in the lab's namespaces, and remove them and its files; the names of the namespaces."""
    with suppress(FileNotFoundError):  # another run takes it down at the same time
        names = (folder / NAMES).read_text().split()
        for name in names:
            kill_all_in(name)
            quietly("ip", "netns", "del", name)
            shutil.rmtree(NETNS_CONF / name, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        for parent in (folder.parent, NETNS_CONF):
            with suppress(OSError):  # something of another lab, or of somebody else, is there
                parent.rmdir()
        return names
    return []


def kill_all_in(namespace: str) -> None:
    """And wait until they are gone, for a few seconds at most."""
    deadline = time.monotonic() + 5
    while (pids := pids_in(namespace)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def pids_in(namespace: str) -> list[int]:
    """The processes in the namespace; threads of this one that entered it do not count."""
    found = quietly("ip", "netns", "pids", namespace) if (NETNS / namespace).exists() else ""
    return [int(pid) for pid in found.split()]


def quietly(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
