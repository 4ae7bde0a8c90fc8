"""The compared programs, each in a process of its own on a free port of loopback."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from lab.processes import CENTRAL, QUIET, ROOT, WEST, cpu_seconds_of, free_port, memory_of

MESSAGE = '{"id": "1", "payload": "test"}'
START_SECONDS = 20.0

DIRECT = build_opener(ProxyHandler({}))
"""Ignores proxies of the environment, because all programs are on loopback."""


class Program:
    """A running program. `process` is None if it ran before; its CPU and memory are then unknown."""

    def __init__(self, name: str, url: str, body: str | None, process: int | None) -> None:
        self.name = name
        self.url = url
        self.body = body
        self.process = process

    @property
    def base(self) -> str:
        return f"http://{urlsplit(self.url).netloc}"

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        assert self.process is not None
        return cpu_seconds_of(self.process)

    def memory(self) -> float:
        """Resident memory in MiB."""
        assert self.process is not None
        return memory_of(self.process) / 2**20


@contextmanager
def started(
    name: str, path: str, command: Sequence[str], port: int, body: str | None = MESSAGE, **environment: str
) -> Iterator[Program]:
    """A program that has answered once; killed at the end."""
    program = Program(name, f"http://127.0.0.1:{port}{path}", body, None)
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **QUIET, "PORT": str(port), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        program.process = process.pid
        try:
            if not answers_in_time(program, process):
                output.seek(0)
                raise RuntimeError(f"{name} does not answer (status {process.poll()}):\n{output.read().decode()}")
            yield program
        finally:
            process.kill()
            process.wait(10)


def answers_in_time(program: Program, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            answer(program)
            return True
        except (URLError, ConnectionError):
            time.sleep(0.02)
    return False


def answer(program: Program) -> bytes:
    body = program.body.encode() if program.body is not None else None
    with DIRECT.open(Request(program.url, body, {"content-type": "application/json"}), timeout=10) as response:
        found: bytes = response.read()
    return found


PRODUCER, CALLER = "producer", "caller"
SMALLEST, FAKE_SERVICE, PODINFO = "FastAPI + httpx", "fake-service", "podinfo"


@contextmanager
def all_programs(peers: Sequence[Program] = ()) -> Iterator[dict[str, Program]]:
    """The producer, the programs that call it, and those of `FAKE_SERVICE` and `PODINFO`; by name."""
    with ExitStack() as stack:
        producer = stack.enter_context(python(PRODUCER, "/producer/messages", ["producer"], **CENTRAL))
        calls = {"PRODUCER_URL": producer.base, **WEST}
        others = [
            python(CALLER, "/caller/messages", ["caller", "serve"], **calls),
            python(SMALLEST, "/caller/messages", ["bench.compared.pass_through"], **calls),
            *([fake_service(path)] if (path := os.environ.get("FAKE_SERVICE")) else []),
            *([podinfo(path)] if (path := os.environ.get("PODINFO")) else []),
        ]
        programs = [producer, *(stack.enter_context(other) for other in others), *peers]
        yield {program.name: program for program in programs}


def python(name: str, path: str, command: Sequence[str], **environment: str) -> AbstractContextManager[Program]:
    """A Python module with its arguments."""
    return started(name, path, [sys.executable, "-m", *command], free_port(), **environment)


@contextmanager
def fake_service(path: str) -> Iterator[Program]:
    """fake-service (https://github.com/nicholasjackson/fake-service), which calls another one for each request."""

    def one(**environment: str) -> AbstractContextManager[Program]:
        port = free_port()
        listen = {"LISTEN_ADDR": f"127.0.0.1:{port}", "HTTP_SERVER_KEEP_ALIVES": "true"}
        return started(FAKE_SERVICE, "/", [path], port, None, **listen, **environment)

    with one() as upstream, one(UPSTREAM_URIS=upstream.base, HTTP_CLIENT_KEEP_ALIVES="true") as program:
        yield program


def podinfo(path: str) -> AbstractContextManager[Program]:
    """podinfo (https://github.com/stefanprodan/podinfo), which echoes the body of a request."""
    port = free_port()
    return started(PODINFO, "/echo", [path, f"--port={port}"], port)


def share_two_cores() -> None:
    """Restrict this process, and those that it starts, to two cores, so that machines can be compared."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
