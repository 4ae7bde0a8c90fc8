"""Many calls in one process: `python -m tests.support.soak FIRST ALL SECONDS`.

Prints what the process holds after the first calls, and again after all calls or after this number of seconds. The
other side is the smallest server that can answer, in the same event loop, so that the time goes into the caller's code.
"""

import asyncio
import json
import os
import re
import sys
import time
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry

from caller.hop.client import ProducerClient
from caller.hop.metrics import HopMetrics
from caller.hop.model import ConnectionMode
from caller.hop.outcome import Outcome
from caller.settings import Settings
from common.cluster import Identity
from common.messages import Message

WORKERS = 32
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
ID = re.compile(rb'"id":"([^"]*)"')
REPLY = b"HTTP/1.1 200 OK\r\nx-answered-by: sample-producer\r\ncontent-length: %d\r\n\r\n%b"
ACK = b'{"id":"%b","received":"a","headers":{},"metadata":{"clusterName":"gke-2","zone":"us-central1-b","podName":"p"}}'


class Answering(asyncio.Protocol):
    """Answers each POST as a producer does."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end or len(body) < int(LENGTH.findall(head)[0]):
            return
        ack = ACK % ID.findall(body)[0]
        self.received = b""
        self.transport.write(REPLY % (len(ack), ack))


async def call(client: ProducerClient, calls: int) -> None:
    message = Message(payload="a")

    async def in_turn() -> None:
        for number in range(calls // WORKERS):
            mode: ConnectionMode = "fresh" if number % 50 == 0 else "reuse"
            hop = await client.call(message, client.settings.producer_url, connection=mode)
            assert hop.outcome is Outcome.OK, hop.error

    await asyncio.gather(*(in_turn() for _ in range(WORKERS)))


def held(calls: int) -> str:
    """Resident memory in kB and open files after this number of calls, as a line of JSON."""
    resident = re.findall(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[0]
    return json.dumps({"calls": calls, "memory": int(resident), "files": len(os.listdir("/proc/self/fd"))})


async def main(first: int, whole: int, seconds: float) -> None:
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = Settings(gce_metadata_host="none", producer_url=address)
    async with ProducerClient.opened(settings, Identity(settings), HopMetrics(CollectorRegistry())) as client:
        started, calls = time.monotonic(), 0
        while calls < whole and time.monotonic() - started < seconds:
            await call(client, first)
            calls += first
            if calls == first:
                print(held(calls), flush=True)  # noqa: T201
        print(held(calls), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
