"""Client CPU of one hop compared with bare aiohttp, in one run: `python -m bench.hop_cpu`.

This process calls a producer in another process, first with `session.post(...)` and `json()`, then with
`ProducerClient.call`, with 32 concurrent calls, and compares its own CPU time. Rounds alternate; the median counts.
"""

import asyncio
import gc
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
from common.cluster import Identity
from common.messages import Message
from lab.processes import PRODUCER, running

CONCURRENCY = 32
CALLS = 2000
ROUNDS = 7


class HopCpu(NamedTuple):
    """CPU per call in µs, by round."""

    bare: list[float]
    hop: list[float]

    @property
    def ratios(self) -> list[float]:
        return [hop / bare for bare, hop in zip(self.bare, self.hop, strict=True)]

    def __str__(self) -> str:
        bare, hop = statistics.median(self.bare), statistics.median(self.hop)
        return f"bare aiohttp {bare:.0f} µs, hop {hop:.0f} µs of CPU per call"


async def measure(url: str, rounds: int = ROUNDS, calls: int = CALLS) -> HopCpu:
    settings = Settings(producer_url=parse_target(url), gce_metadata_host="none", cluster_name="bench")
    metrics = HopMetrics(CollectorRegistry())
    gc.freeze()  # as in the services (common/server.py)
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

        await cpu(bare, calls), await cpu(hop, calls)  # warm up
        rounds_of_both = [(await cpu(bare, calls), await cpu(hop, calls)) for _ in range(rounds)]
    return HopCpu([bare for bare, _ in rounds_of_both], [hop for _, hop in rounds_of_both])


async def cpu(call: Callable[[], Awaitable[None]], calls: int) -> float:
    """CPU time of this process per call, in µs."""

    async def worker() -> None:
        for _ in range(calls // CONCURRENCY):
            await call()

    started = time.process_time()
    await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
    return (time.process_time() - started) / (calls // CONCURRENCY * CONCURRENCY) * 1e6


if __name__ == "__main__":
    with running(PRODUCER, LOG_LEVEL="warning", PATH=os.environ["PATH"]) as producer:
        found = uvloop.run(measure(producer.url))
    print(f"{found}; ratio {statistics.median(found.ratios):.2f} (target: at most 1)")
