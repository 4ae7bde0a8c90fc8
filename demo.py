"""`make demo`: one caller and two producers on this machine, one of them in another cluster by its own account.

Stop a producer with the printed `kill` and call again, to see a failure explained; the others go on.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from typing import NamedTuple
from urllib.request import urlopen

READY_SECONDS = 20


class Service(NamedTuple):
    name: str
    port: int
    command: tuple[str, ...]
    environment: dict[str, str]


WEST = {"CLUSTER_NAME": "caller-cluster", "CLUSTER_LOCATION": "us-west1", "ZONE": "us-west1-a"}
CENTRAL = {"CLUSTER_NAME": "producer-cluster", "CLUSTER_LOCATION": "us-central1", "ZONE": "us-central1-b"}
SERVICES = (
    Service("producer", 8080, ("producer",), CENTRAL | {"POD_NAME": "sample-producer-v1-central"}),
    Service("own-producer", 8082, ("producer",), WEST | {"POD_NAME": "sample-producer-v1-west"}),
    Service(
        "caller",
        8081,
        ("caller", "serve"),
        WEST
        | {
            "POD_NAME": "sample-caller-v1-west",
            "PRODUCER_URL": "http://localhost:8080",
            "COMPARE_URLS": "http://localhost:8082",
        },
    ),
)


async def main() -> int:
    if taken := [service for service in SERVICES if in_use(service.port)]:
        say("; ".join(f"port {service.port} ({service.name}) is in use" for service in taken))
        return 2
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    processes = [(service, await start(service)) for service in SERVICES]
    output = [asyncio.create_task(relay(service, process)) for service, process in processes]
    try:
        if not await ready(stop):
            return 1
        say("page          http://localhost:8081/")
        for service, process in processes:
            say(f"{service.name:<13} http://localhost:{service.port}   stop it: kill {process.pid}")
        say("Ctrl-C stops all")
        await stop.wait()
    finally:
        for _, process in processes:
            if process.returncode is None:
                process.terminate()
        await asyncio.gather(*(process.wait() for _, process in processes), *output)
    return 0


def in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return True
        return False


async def start(service: Service) -> asyncio.subprocess.Process:
    """A session of its own, so that Ctrl-C reaches this process only, which then stops the services in order."""
    common = {
        "HOST": "127.0.0.1",
        "PORT": str(service.port),
        "GCE_METADATA_HOST": "none",
        "DRAIN_SECONDS": "0",
        "LOG_FORMAT": "text",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *service.command,
        env=os.environ | common | service.environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )


async def relay(service: Service, process: asyncio.subprocess.Process) -> None:
    """Print what the service prints, with its name in front, until it ends."""
    assert process.stdout is not None
    async for line in process.stdout:
        say(line.decode(errors="replace").rstrip(), service.name)
    say(f"stopped with status {await process.wait()}", service.name)


async def ready(stop: asyncio.Event) -> bool:
    deadline = time.monotonic() + READY_SECONDS
    waiting = list(SERVICES)
    while waiting and not stop.is_set():
        if time.monotonic() > deadline:
            say(f"not ready after {READY_SECONDS} s: {', '.join(service.name for service in waiting)}")
            return False
        await asyncio.sleep(0.1)
        waiting = [service for service in waiting if not await asyncio.to_thread(is_ready, service.port)]
    return True


def is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/actuator/health/readiness", timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def say(text: str, name: str = "demo") -> None:
    sys.stdout.write(f"{name:<13}| {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
