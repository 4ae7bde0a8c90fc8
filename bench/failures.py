"""How long after its timeout a failure is explained: `python -m bench.failures`.

A caller is asked through its API to call a server that never replies, a port whose accept queue is full, so that the
kernel drops each SYN, and a name with ten such addresses. The name is in a hosts file of the caller's own, in a mount
namespace (`unshare`, util-linux).
"""

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple
from urllib.request import Request

from bench.programs import DIRECT
from lab.processes import CALLER, Service, full_queue, start

ROUNDS = 3
TIMEOUT_SECONDS = 1.0
"""Of a connect, and of a call that waits for its reply."""
CALL_SECONDS = 60.0
"""Of the call during a connect, so that it does not end before the connect does."""
NAME = "ten-addresses.test"
ADDRESSES = [f"127.0.1.{number}" for number in range(1, 11)]

UNSHARE = ("unshare", "--map-root-user", "--mount")
MOUNT = 'mount --bind "$0" /etc/hosts && exec "$@"'


class Case(NamedTuple):
    """A call that fails."""

    name: str
    target: str
    timeout_seconds: float
    """Of the call; that of the connect is `TIMEOUT_SECONDS`."""
    outcome: str


class Failures(NamedTuple):
    """Seconds from the timeout to the explanation, by case and round."""

    seconds: dict[str, list[float]]

    @property
    def worst(self) -> float:
        return max(max(rounds) for rounds in self.seconds.values())

    def __str__(self) -> str:
        return ", ".join(f"{name} {max(rounds):.2f} s" for name, rounds in self.seconds.items())


def is_possible() -> bool:
    """Whether this user may have a mount namespace."""
    return (
        shutil.which("unshare") is not None and subprocess.run([*UNSHARE, "true"], capture_output=True).returncode == 0
    )


def measure(rounds: int = ROUNDS) -> Failures:
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
        full = stack.enter_context(full_queue())
        port = stack.enter_context(full_queue(ADDRESSES[0]))
        for address in ADDRESSES[1:]:
            stack.enter_context(full_queue(address, port))
        cases = [
            Case("silent server", f"http://127.0.0.1:{silent}", TIMEOUT_SECONDS, "read_timeout"),
            Case("full accept queue", f"http://127.0.0.1:{full}", CALL_SECONDS, "connect_timeout"),
            Case("ten dead addresses", f"http://{NAME}:{port}", CALL_SECONDS, "connect_timeout"),
        ]
        caller = stack.enter_context(calling([case.target for case in cases]))
        late: dict[str, list[float]] = {case.name: [] for case in cases}
        for _ in range(rounds):
            for case in cases:
                late[case.name].append(seconds_late(caller, case))
    return Failures(late)


@contextmanager
def calling(targets: list[str]) -> Iterator[Service]:
    """A caller of these targets, which finds the ten addresses in its hosts file."""
    with tempfile.NamedTemporaryFile("w", suffix=".hosts") as hosts:
        hosts.writelines(f"{address} {NAME}\n" for address in ADDRESSES)
        hosts.flush()
        settings = {
            "PRODUCER_URL": targets[0],
            "COMPARE_URLS": ",".join(targets[1:]),
            "CONNECT_TIMEOUT_SECONDS": str(TIMEOUT_SECONDS),
        }
        caller = start(CALLER, settings, [*UNSHARE, "sh", "-c", MOUNT, hosts.name])
        try:
            caller.wait_ready()
            yield caller
        finally:
            caller.stop()


def seconds_late(caller: Service, case: Case) -> float:
    """From the timeout to the end of the explanation."""
    body = {"payload": "test", "target": case.target, "timeoutSeconds": case.timeout_seconds}
    request = Request(f"{caller.url}/caller/messages", json.dumps(body).encode(), {"content-type": "application/json"})
    started = time.perf_counter()
    with DIRECT.open(request, timeout=2 * CALL_SECONDS) as response:
        hop = json.load(response)
    seconds = time.perf_counter() - started
    assert hop["outcome"] == case.outcome, hop
    return seconds - TIMEOUT_SECONDS


if __name__ == "__main__":
    print(f"{measure()} after the timeout (target: at most 0.3 s)")
