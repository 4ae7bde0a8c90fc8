"""Client CPU of one hop against bare aiohttp, in one run: `python -m bench.hop_cpu`.

A producer runs as a process of its own; this process calls it, first with `session.post(...)` and `json()`, then with
`ProducerClient.call`, 32 calls at once, and compares the CPU that it used itself. Rounds alternate, the median counts.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import aiohttp
import uvloop
from prometheus_client import CollectorRegistry

from caller.hop.client import ProducerClient
from caller.hop.metrics import HopMetrics
from caller.settings import Settings
from caller.target import parse_target
from common import garbage
from common.cluster import Identity
from common.messages import Message
from lab.processes import PRODUCER, running

AT_ONCE = 32
CALLS = 2000
ROUNDS = 7


class HopCpu(NamedTuple):
    """µs of CPU a call, by round."""

    bare: list[float]
    hop: list[float]

    @property
    def ratios(self) -> list[float]:
        return [hop / bare for bare, hop in zip(self.bare, self.hop, strict=True)]

    def __str__(self) -> str:
        bare, hop = statistics.median(self.bare), statistics.median(self.hop)
        return f"bare aiohttp {bare:.0f} µs, hop {hop:.0f} µs of CPU a call"


async def measure(url: str, rounds: int = ROUNDS, calls: int = CALLS) -> HopCpu:
    settings = Settings(producer_url=parse_target(url), gce_metadata_host="none", cluster_name="bench")
    metrics = HopMetrics(CollectorRegistry())
    garbage.collect_from_now_on()  # as the services do
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ProducerClient.opened(settings, Identity(settings), metrics) as client,
    ):

        async def bare() -> None:
            async with session.post(f"{url}/producer/messages", json={"id": "1", "payload": "test"}) as response:
                await response.json()

        async def hop() -> None:
            message = Message(id="1", payload="test")
            assert (await client.call(message, settings.producer_url)).outcome == "ok"

        await cpu(bare, calls), await cpu(hop, calls)  # warm
        taken = [(await cpu(bare, calls), await cpu(hop, calls)) for _ in range(rounds)]
    return HopCpu([bare for bare, _ in taken], [hop for _, hop in taken])


async def cpu(call: Callable[[], Awaitable[None]], calls: int) -> float:
    """Microseconds of CPU of this process per call."""

    async def worker() -> None:
        for _ in range(calls // AT_ONCE):
            await call()

    started = time.process_time()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return (time.process_time() - started) / (calls // AT_ONCE * AT_ONCE) * 1e6


if __name__ == "__main__":
    with running(PRODUCER, LOG_LEVEL="warning", PATH=os.environ["PATH"]) as producer:
        found = uvloop.run(measure(producer.url))
    print(f"{found}; ratio {statistics.median(found.ratios):.2f} (bar: at most 2)")
