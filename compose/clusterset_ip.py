"""The exported Service of compose.yaml: a TCP proxy with one address, balanced per connection, like a ClusterSetIP.

Only ready producers get connections. Without one it refuses connections, as a Service without endpoints does.
"""

import asyncio
import contextlib
import http.client
import itertools
import signal
import sys
from asyncio import StreamReader, StreamWriter

PORT = 8080


async def serve(producers: list[str]) -> None:
    ready: dict[str, str] = {}
    connections = itertools.count()

    async def watch(producer: str) -> None:
        """One task per producer, because the lookup of a stopped container's name may take seconds."""
        while True:
            address = await asyncio.to_thread(ready_address, producer)
            if address is None:
                ready.pop(producer, None)
            else:
                ready[producer] = address
            await asyncio.sleep(0.5)

    async def forward(reader: StreamReader, writer: StreamWriter) -> None:
        addresses = list(ready.values())
        first = next(connections) % max(len(addresses), 1)
        for address in addresses[first:] + addresses[:first]:
            try:
                async with asyncio.timeout(1):
                    producer_reader, producer_writer = await asyncio.open_connection(address, PORT)
            except OSError:
                continue
            await asyncio.gather(pipe(reader, producer_writer), pipe(producer_reader, writer))
            return
        writer.transport.abort()

    server = None
    async with asyncio.TaskGroup() as watches:
        for producer in producers:
            watches.create_task(watch(producer))
        while True:
            if ready and not server:
                server = await asyncio.start_server(forward, port=PORT)
            elif server and not ready:
                server.close()
                server = None
            await asyncio.sleep(0.1)


def ready_address(producer: str) -> str | None:
    """The address of the producer; None: it is not ready."""
    connection = http.client.HTTPConnection(producer, PORT, timeout=1)
    try:
        connection.connect()
        address: str = connection.sock.getpeername()[0]
        connection.request("GET", "/actuator/health/readiness")
        return address if connection.getresponse().status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


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
