"""More clients than `MAX_IN_FLIGHT`, and 200,000 calls: no request is lost, and nothing leaks."""

import asyncio
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from threading import Event
from typing import Any, NamedTuple

import httpx
import pytest

from lab.processes import CALLER, PRODUCER, ROOT, Service, running

CLIENTS = 2000
MAX_IN_FLIGHT = 1000
FILES = 10_000
MEGABYTE = 1_000_000
FEW_CALLS = 2000
MANY_CALLS = 200_000
SOAK_SECONDS = 110
"""A busy machine makes fewer calls in this time; what they hold is then extrapolated to `MANY_CALLS`."""

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module", autouse=True)
def _files() -> Iterator[None]:
    """Allow enough open files for all connections, here and in the processes that are started."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES:
        pytest.skip(f"at most {hard} open files are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# More clients than MAX_IN_FLIGHT


class Probe(NamedTuple):
    path: str
    status: int
    seconds: float


class Burst(NamedTuple):
    """The replies to all concurrent clients, and the probes meanwhile."""

    statuses: Counter[int]
    refusals: list[dict[str, str]]
    probes: list[Probe]
    peak: int
    memory: int


@pytest.fixture(scope="module")
def bursts() -> Iterator[tuple[Service, list[Burst], int]]:
    """A caller after two bursts, and the number of files that it had open before."""
    quiet = {"LOG_LEVEL": "warning", "MAX_IN_FLIGHT": str(MAX_IN_FLIGHT)}
    with running(PRODUCER, **quiet) as producer, running(CALLER, PRODUCER_URL=producer.url, **quiet) as caller:
        call(caller)
        files = caller.open_files()
        yield caller, [burst(caller) for _ in range(2)], files
        for service in (caller, producer):
            assert "Traceback" not in service.output


def burst(caller: Service) -> Burst:
    caller.forget_peak()
    over = Event()
    with ThreadPoolExecutor(1) as thread:
        probing = thread.submit(probe, caller, over)
        try:
            replies = asyncio.run(all_concurrently(caller))
        finally:
            over.set()
    refusals = [headers for status, headers in replies if status == 503]
    statuses = Counter(status for status, _ in replies)
    return Burst(statuses, refusals, probing.result(), caller.memory("VmHWM"), caller.memory())


async def all_concurrently(caller: Service) -> list[tuple[int, dict[str, str]]]:
    async with asyncio.timeout(120):
        return await asyncio.gather(*(reply(caller) for _ in range(CLIENTS)))


async def reply(caller: Service) -> tuple[int, dict[str, str]]:
    """Status and headers of a call that takes two seconds, over a connection of its own."""
    host, port = caller.url.removeprefix("http://").split(":")
    body = b'{"payload":"a","delay":2000,"connection":"fresh"}'
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        head = f"POST /caller/messages HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        content = json.loads(await reader.readexactly(int(headers["content-length"])))
        assert ("outcome" in content) == (status.split()[1] == "200"), content
        return int(status.split()[1]), headers
    finally:
        writer.close()


def probe(caller: Service, over: Event) -> list[Probe]:
    """Probe as the kubelet does, again and again."""
    seen = []
    while not over.wait(0.1):
        for path in ("liveness", "readiness"):
            began = time.monotonic()
            answer = httpx.get(f"{caller.url}/actuator/health/{path}", trust_env=False, timeout=60)
            seen.append(Probe(path, answer.status_code, time.monotonic() - began))
    return seen


def call(caller: Service) -> dict[str, Any]:
    answer = httpx.post(f"{caller.url}/caller/messages", json={"payload": "a"}, trust_env=False, timeout=60)
    assert answer.status_code == 200
    hop: dict[str, Any] = answer.json()
    return hop


Bursts = tuple[Service, list[Burst], int]


def test_each_of_2000_clients_is_answered_or_refused_with_retry_after(bursts: Bursts) -> None:
    for burst in bursts[1]:
        assert burst.statuses.keys() == {200, 503}
        assert burst.statuses.total() == CLIENTS
        assert burst.statuses[200] >= MAX_IN_FLIGHT, "a request within the limit is not refused"
        assert {refusal["retry-after"] for refusal in burst.refusals} == {"1"}
        assert {refusal["content-type"] for refusal in burst.refusals} == {"application/problem+json"}


def test_probes_succeed_during_a_burst(bursts: Bursts) -> None:
    """The seconds allow for a busy machine, on which clients and probes wait for a core as well."""
    for burst in bursts[1]:
        assert {probe.path for probe in burst.probes} == {"liveness", "readiness"}
        assert {probe.status for probe in burst.probes} == {200}
        assert median(probe.seconds for probe in burst.probes) < 2
        assert max(probe.seconds for probe in burst.probes) < 30


def test_a_burst_takes_little_memory_and_the_next_one_no_more(bursts: Bursts) -> None:
    _, (first, last), _ = bursts
    assert max(first.peak, last.peak) < 256 * MEGABYTE
    assert last.memory < first.memory * 1.1


def test_after_a_burst_the_caller_serves_and_holds_no_connection(bursts: Bursts) -> None:
    caller, _, files = bursts
    assert {call(caller)["outcome"] for _ in range(20)} == {"ok"}
    await_closed(caller, files + 2)


def await_closed(service: Service, files: int) -> None:
    """Wait until the service has closed the connections that its clients have closed."""
    deadline = time.monotonic() + 30
    while service.open_files() > files:
        assert time.monotonic() < deadline, service.open_files()
        time.sleep(0.02)


# Very many calls


class Held(NamedTuple):
    """Resident memory in kB, and open files, after this number of calls."""

    calls: int
    memory: int
    files: int


class Soaked(NamedTuple):
    """What a service holds after few calls, and at the end."""

    first: Held
    last: Held

    @property
    def memory_after_many_calls(self) -> float:
        grown = self.last.memory - self.first.memory
        return self.first.memory + grown * (MANY_CALLS - FEW_CALLS) / (self.last.calls - self.first.calls)


@pytest.fixture(scope="module")
def soaked() -> tuple[Soaked, Soaked]:
    """The caller's client and a producer, concurrently, each on a core."""
    command = [sys.executable, "-m", "tests.support.soak", *map(str, (FEW_CALLS, MANY_CALLS, SOAK_SECONDS))]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as soaking:
        try:
            producer = soaked_producer()
            printed, _ = soaking.communicate(timeout=2 * SOAK_SECONDS)
        finally:
            soaking.kill()
    return Soaked(*(Held(**json.loads(line)) for line in printed.splitlines())), producer


def soaked_producer() -> Soaked:
    with running(PRODUCER, LOG_LEVEL="warning") as producer:
        started = time.monotonic()
        files = producer.open_files()
        held: list[Held] = []
        calls = 0
        while calls < MANY_CALLS and time.monotonic() - started < SOAK_SECONDS:
            asyncio.run(post_in_turn(producer, FEW_CALLS))
            calls += FEW_CALLS
            await_closed(producer, files)
            held.append(Held(calls, producer.memory() // 1024, producer.open_files()))
        return Soaked(held[0], held[-1])


async def post_in_turn(producer: Service, calls: int, workers: int = 16) -> None:
    host, port = producer.url.removeprefix("http://").split(":")
    request = b"POST /producer/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"

    async def in_turn(worker: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for number in range(calls // workers):
            body = b'{"payload":"a","id":"%d-%d"}' % (worker, number)
            writer.write(request + b"x-request-id: %d\r\ncontent-length: %d\r\n\r\n" % (number, len(body)) + body)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(in_turn(worker) for worker in range(workers)))


@pytest.mark.parametrize("service", ["caller", "producer"])
def test_after_200_000_calls_a_service_holds_as_much_as_after_2000(soaked: tuple[Soaked, Soaked], service: str) -> None:
    calls = soaked[service == "producer"]
    assert calls.first.calls == FEW_CALLS
    assert calls.last.calls > 5 * FEW_CALLS
    assert calls.memory_after_many_calls <= 1.1 * calls.first.memory, calls
    assert calls.last.files <= calls.first.files + 2, calls  # a connection of the test itself may be among them
