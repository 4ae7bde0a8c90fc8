"""The apps, and servers that misbehave, behind real sockets of loopback."""

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import httpx
import uvicorn
from asgi_lifespan import LifespanManager
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from caller.app import create_app as create_caller
from caller.hop.client import ProducerClient
from caller.hop.metrics import HopMetrics
from caller.hop.resolver import Addresses, Resolver
from caller.hop.tls import tls_context
from caller.hop.wire import HopTransport
from caller.settings import Settings as CallerSettings
from common.cluster import Identity
from common.middleware.draining import Lifecycle
from lab.processes import full_queue
from producer.app import create_app as create_producer
from producer.settings import Settings as ProducerSettings

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

WEST: dict[str, Any] = {"cluster_name": "caller-cluster", "cluster_location": "us-west1", "zone": "us-west1-a"}
CENTRAL: dict[str, Any] = {
    "cluster_name": "producer-cluster",
    "cluster_location": "us-central1",
    "zone": "us-central1-b",
    "pod_name": "sample-producer-v1-0",
}


@asynccontextmanager
async def serving(app: ASGIApp, **options: Any) -> AsyncIterator[str]:
    """The app behind uvicorn on a free port; the URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="on", **options)
    server = uvicorn.Server(config)
    # Not `serve()`, which takes over the signals of the test run.
    running = asyncio.create_task(server._serve())
    while not server.started:
        if running.done():
            running.result()
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        await running


@asynccontextmanager
async def producing(**settings: Any) -> AsyncIterator[str]:
    """A real producer; its URL."""
    async with serving(producer_app(**settings)) as url:
        yield url


@asynccontextmanager
async def in_process(app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the app without a socket."""
    async with LifespanManager(app) as manager:
        transport = httpx.ASGITransport(manager.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


def producer_app(**settings: Any) -> ASGIApp:
    return create_producer(ProducerSettings(**({"gce_metadata_host": "none"} | CENTRAL | settings)), Lifecycle())


def caller_app(*urls: str, **settings: Any) -> ASGIApp:
    return create_caller(caller_settings(*urls, **settings), Lifecycle())


def caller_settings(*urls: str, **settings: Any) -> CallerSettings:
    first, *rest = urls
    return CallerSettings(
        gce_metadata_host="none", producer_url=first, compare_urls=",".join(rest), **(WEST | settings)
    )


@asynccontextmanager
async def calling(*urls: str, **settings: Any) -> AsyncIterator[ProducerClient]:
    """The caller's client, without the server around it."""
    chosen = caller_settings(*urls, **settings)
    async with ProducerClient.opened(chosen, Identity(chosen), HopMetrics(CollectorRegistry())) as client:
        yield client


class FixedResolver(Resolver):
    """Every name has these addresses."""

    def __init__(self, *addresses: str) -> None:
        super().__init__()
        self.addresses = [parsed_address(address) for address in addresses]

    async def look_up(self, host: str, port: int) -> tuple[Addresses, float]:
        return self.addresses, time.perf_counter()


def parsed_address(address: str) -> tuple[int, tuple[Any, ...]]:
    """Family and address of `host:port` or `[host]:port`."""
    host, _, port = address.rpartition(":")
    if host.startswith("["):
        return socket.AF_INET6, (host.strip("[]"), int(port), 0, 0)
    return socket.AF_INET, (host, int(port))


@asynccontextmanager
async def calling_one_of(*addresses: str, **settings: Any) -> AsyncIterator[ProducerClient]:
    """The caller's client; the name of its target has these addresses (`host:port`)."""
    chosen = caller_settings("http://producer.test", **settings)
    resolver = FixedResolver(*addresses)
    async with HopTransport(
        resolver, tls_context(chosen), chosen.connect_timeout_seconds, chosen.max_reply_bytes
    ) as transport:
        yield ProducerClient(chosen, Identity(chosen), HopMetrics(CollectorRegistry()), transport, resolver)


@asynccontextmanager
async def listening(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A TCP server with this handler; its host:port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await server.wait_closed()


@contextmanager
def accepting(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server in a thread: `serve` gets one connection after another, each closed afterwards; its host:port."""

    def accept() -> None:
        with suppress(OSError):  # the listener was shut down
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.settimeout(10)
                    serve(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(15)


def close_with_reset(connection: socket.socket | asyncio.StreamWriter) -> None:
    """The close of this connection will be a RST."""
    sock = connection if isinstance(connection, socket.socket) else connection.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def replying(reply: bytes) -> Handler:
    """Read a complete request, reply with these bytes, close."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(reply)
        await writer.drain()

    return handler


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
    )
    return head + await reader.readexactly(length)


def http_reply(status: str, headers: dict[str, str], body: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"content-length: {len(body.encode())}", "", body]).encode()


@asynccontextmanager
async def swallowing() -> AsyncIterator[str]:
    """A port whose accept queue is full, so that the kernel drops further SYNs; its host:port."""
    with full_queue() as port:
        await asyncio.sleep(0.05)
        yield f"127.0.0.1:{port}"
