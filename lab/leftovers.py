"""Removal of what a lab created outside its own process, also after that process was killed.

Every lab has a folder under `STATE`. The name of the folder identifies the process that owns it; a file in it lists its
namespaces. A folder whose owner no longer runs is a leftover: the next lab removes it, and nothing else.
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
"""Not below `/run`, which is mounted noexec on many machines."""
NETNS = Path("/run/netns")
NETNS_CONF = Path("/etc/netns")
"""Both are directories of iproute2; `ip netns exec NAME` mounts the files of `/etc/netns/NAME` over `/etc`."""

NAMES = "namespaces"
_NUMBERS = count()


def claim(namespaces: Sequence[str]) -> Path:
    """Create the folder of a lab that will create these namespaces."""
    pid = os.getpid()
    folder = make_folder(STATE / f"{pid}-{started_at(pid)}-{next(_NUMBERS)}")
    (folder / NAMES).write_text("\n".join(namespaces))
    return folder


def make_folder(folder: Path) -> Path:
    """Create the folder and its parents; retry, because another lab may remove an empty parent at this moment."""
    for _ in range(100):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            break
    return folder


def remove_leftovers(state: Path = STATE) -> list[str]:
    """Take down the labs whose owner no longer runs; the namespaces that they had."""
    removed = []
    for folder in sorted(state.glob("*-*-*")):
        pid, started, _ = folder.name.split("-")
        if started_at(int(pid)) != started:
            removed += take_down(folder)
    return removed


def started_at(pid: int) -> str | None:
    """Start of the process, in clock ticks since boot (proc(5), field 22 of stat); None: it does not run.

    A process id can be reused, but not with the same start.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    return None if state in "ZX" else fields[18]


def take_down(folder: Path) -> list[str]:
    """Kill the processes in the lab's namespaces, and remove these and its files; the names of the namespaces."""
    with suppress(FileNotFoundError):  # another process takes it down at the same time
        names = (folder / NAMES).read_text().split()
        for name in names:
            kill_all_in(name)
            quietly("ip", "netns", "del", name)
            shutil.rmtree(NETNS_CONF / name, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        for parent in (folder.parent, NETNS_CONF):
            with suppress(OSError):  # not empty: another lab, or somebody else, uses it
                parent.rmdir()
        return names
    return []


def kill_all_in(namespace: str) -> None:
    """Kill the processes and wait for their end, for a few seconds at most."""
    deadline = time.monotonic() + 5
    while (pids := pids_in(namespace)) and time.monotonic() < deadline:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def pids_in(namespace: str) -> list[int]:
    """The processes in the namespace, without threads of this process that entered it."""
    found = quietly("ip", "netns", "pids", namespace) if (NETNS / namespace).exists() else ""
    return [int(pid) for pid in found.split()]


def quietly(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
