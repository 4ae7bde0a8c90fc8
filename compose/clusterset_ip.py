"""The exported Service of compose.yaml: one address, as a ClusterSetIP is, balanced per connection.

Only producers that are ready get connections. While there is none it refuses, as a Service without endpoints does.
"""

import asyncio
import contextlib
import itertools
import signal
import sys
import urllib.request
from asyncio import StreamReader, StreamWriter

PORT = 8080


async def serve(producers: list[str]) -> None:
    ready: set[str] = set()
    turns = itertools.cycle(producers)

    async def forward(reader: StreamReader, writer: StreamWriter) -> None:
        for producer in itertools.islice(turns, len(producers)):
            if producer in ready:
                try:
                    async with asyncio.timeout(1):
                        producer_reader, producer_writer = await asyncio.open_connection(producer, PORT)
                except OSError:
                    continue
                await asyncio.gather(pipe(reader, producer_writer), pipe(producer_reader, writer))
                return
        writer.transport.abort()

    server = None
    while True:
        verdicts = await asyncio.gather(*(asyncio.to_thread(is_ready, producer) for producer in producers))
        ready = {producer for producer, verdict in zip(producers, verdicts, strict=True) if verdict}
        if ready and not server:
            server = await asyncio.start_server(forward, port=PORT)
        elif server and not ready:
            server.close()
            server = None
        await asyncio.sleep(0.5)


def is_ready(producer: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{producer}:{PORT}/actuator/health/readiness", timeout=1):
            return True
    except OSError:
        return False


async def pipe(source: StreamReader, sink: StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
        sink.close()
    except OSError:
        sink.transport.abort()


if __name__ == "__main__":
    # The first process of a container ignores SIGTERM unless it handles it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(sys.argv[1:]))
