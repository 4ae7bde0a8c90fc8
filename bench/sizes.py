"""Memory and CPU of each service, idle and under load: `python -m bench.sizes`.

Both run as processes, as in their containers. Memory is VmRSS and VmHWM of /proc/PID/status, CPU the utime and stime of
/proc/PID/stat. Idle: 30 s with the probes of the manifests. Under load: 64 concurrent calls; two runs of the API at
RUN_MAX_RATE. Full: two runs and as many calls as the caller of the manifests accepts, with the payload that is largest
in JSON, and a delay that keeps them open.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from lab.processes import CALLER, PRODUCER, Service, cpu_seconds_of, running

IDLE_SECONDS = 30.0
CONCURRENCY = 64
CALLS = 10_000
RUN_SECONDS = 30
IN_FLIGHT = 500
"""MAX_IN_FLIGHT of the caller in the manifests."""
LARGEST = "\x01" * 65_536
"""Six bytes per character in JSON."""


async def measured(what: str, services: list[tuple[str, Service]], work: Callable[[], Awaitable[int]]) -> None:
    before = [cpu_seconds_of(service.process.pid) for _, service in services]
    started = time.monotonic()
    calls = await work()
    elapsed = time.monotonic() - started
    for (name, service), earlier in zip(services, before, strict=True):
        cores = (cpu_seconds_of(service.process.pid) - earlier) / elapsed
        now, peak = service.memory() / 2**20, service.memory("VmHWM") / 2**20
        rate = f", {calls / elapsed:.0f} calls/s" if calls else ""
        print(f"{what:22} {name:9} {now:5.0f} MiB, peak {peak:5.0f} MiB, {cores:.3f} cores{rate}")


async def main() -> None:
    connector = aiohttp.TCPConnector(limit=0)
    with (
        running(PRODUCER) as producer,
        running(CALLER, PRODUCER_URL=producer.url, MAX_IN_FLIGHT=str(IN_FLIGHT)) as caller,
    ):
        both = [("caller", caller), ("producer", producer)]
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as session:

            async def idle() -> int:
                for _ in range(int(IDLE_SECONDS / 5)):
                    for _, service in both:
                        for probe in ("liveness", "readiness"):
                            await (await session.get(f"{service.url}/actuator/health/{probe}")).read()
                    await asyncio.sleep(5)
                return 0

            async def post(url: str, count: int, concurrency: int, message: dict[str, Any]) -> int:
                left = iter(range(count))

                async def worker() -> None:
                    for _ in left:
                        async with session.post(url, json=message) as response:
                            await response.read()
                            assert response.status == 200, await response.text()

                await asyncio.gather(*(worker() for _ in range(concurrency)))
                return count

            async def two_runs(message: dict[str, Any], seconds: int) -> int:
                body = {"message": message, "rate": 200, "durationSeconds": seconds}

                async def one() -> None:
                    async with session.post(f"{caller.url}/caller/runs", json=body) as response:
                        assert response.status == 200, await response.text()
                        await response.read()

                await asyncio.gather(one(), one())
                return 2 * 200 * seconds

            async def full() -> int:
                large = {"payload": LARGEST, "delay": 4000}
                concurrency = IN_FLIGHT - 10  # runs and probes are requests too
                await asyncio.gather(two_runs(large, 12), post(messages[1], concurrency, concurrency, large))
                return 0

            small = {"payload": "test"}
            messages = f"{producer.url}/producer/messages", f"{caller.url}/caller/messages"
            await measured("idle", both, idle)
            await measured("64 concurrent, direct", both, lambda: post(messages[0], CALLS, CONCURRENCY, small))
            await measured("64 concurrent, by caller", both, lambda: post(messages[1], CALLS, CONCURRENCY, small))
            await measured("two runs at 200/s", both, lambda: two_runs(small, RUN_SECONDS))
            await measured("full", both, full)
            await measured("idle afterwards", both, idle)


if __name__ == "__main__":
    asyncio.run(main())
