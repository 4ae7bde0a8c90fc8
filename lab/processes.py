"""The services as real processes on loopback: for the demo, the lab, the benchmarks and the tests."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent
READY_SECONDS = 60.0
"""Start-up takes about a second; the rest is for a busy machine. A process that exits ends the wait."""

CENTRAL = {"CLUSTER_NAME": "producer-cluster", "CLUSTER_LOCATION": "us-central1", "ZONE": "us-central1-b"}
WEST = {"CLUSTER_NAME": "caller-cluster", "CLUSTER_LOCATION": "us-west1", "ZONE": "us-west1-a"}
"""Two identities."""

PRODUCER = ("producer",)
CALLER = ("caller", "serve")
COVERAGE = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
"""Set by coverage, which measures the services too; it writes when a process exits, so that a kill would lose it."""
LOOPBACK = {"GCE_METADATA_HOST": "none", "HOST": "127.0.0.1", "DRAIN_SECONDS": "0"}
QUIET = LOOPBACK | {"LOG_FORMAT": "json", "SERVICE_ACCOUNT_DIR": "/nonexistent"}


class NotReady(Exception):
    """The service did not become ready; the text has what it has printed."""


class Service:
    """A service process: `url`, `process`, and its output."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path | None) -> None:
        self.process = process
        self.url = url
        self._log = log
        if log is not None:
            weakref.finalize(self, log.unlink)

    @property
    def output(self) -> str:
        return self._log.read_text() if self._log else ""

    def wait_ready(self) -> None:
        """
        :raises NotReady: after `READY_SECONDS`, or when the process has exited.
        """
        deadline = time.monotonic() + READY_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.url}/actuator/health/readiness", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise NotReady(f"{self.url} is not ready (status {self.process.poll()}):\n{self.output}")

    def memory(self, field: str = "VmRSS") -> int:
        """In bytes, as the kernel counts: `VmRSS` now, `VmHWM` the peak since the start or since `forget_peak`."""
        return memory_of(self.process.pid, field)

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 15) -> int:
        """Send the signal and wait; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout)


def memory_of(process: int, field: str = "VmRSS") -> int:
    """In bytes, from /proc/PID/status (proc(5))."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def cpu_seconds_of(process: int) -> float:
    """User and system time so far, from /proc/PID/stat (proc(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


QUEUE_FILLERS = 4
"""Connections that fill the accept queue of `listen(0)`, and more."""


@contextmanager
def full_queue(address: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A port whose accept queue is full, so that the kernel drops further SYNs."""
    with socket.create_server((address, port), backlog=0) as listener, ExitStack() as stack:
        for _ in range(QUEUE_FILLERS):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def start(module: Sequence[str], environment: Mapping[str, str], prefix: Sequence[str] = ()) -> Service:
    """Start a service without waiting for it, its output in a file. `prefix`: a command to run it under."""
    port = environment.get("PORT") or str(free_port())
    descriptor, log = tempfile.mkstemp(suffix=".log")
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", *module],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **COVERAGE, **QUIET, "PORT": port, **environment},
        stdout=descriptor,
        stderr=subprocess.STDOUT,
    )
    os.close(descriptor)
    return Service(process, f"http://127.0.0.1:{port}", Path(log))


def start_piped(module: Sequence[str], environment: Mapping[str, str]) -> Service:
    """Start a service with its output in `process.stdout`, in a session of its own: Ctrl-C does not reach it."""
    process = subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        env={**os.environ, **LOOPBACK, "LOG_FORMAT": "text", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    return Service(process, f"http://127.0.0.1:{environment['PORT']}", None)


@contextmanager
def running(module: Sequence[str], **environment: str) -> Iterator[Service]:
    """A service that is ready; killed at the end if it still runs."""
    service = start(module, environment)
    try:
        service.wait_ready()
        yield service
    finally:
        if COVERAGE:
            with suppress(subprocess.TimeoutExpired):
                service.stop(signal.SIGINT, 5)
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait(10)
