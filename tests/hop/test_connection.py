"""The connection of a call: which one is used, when it is closed, what is counted, and the event loop's own delay."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from socket import SHUT_WR, socket

import pytest

from caller.hop import wire
from caller.hop.client import ProducerClient
from caller.hop.model import ConnectionMode, Hop
from caller.hop.outcome import Outcome
from caller.hop.phases import CallClock
from common.messages import Message
from tests.hop.test_outcomes import MESSAGE, TIMEOUT_SECONDS, hop_to, millis_by_phase, observed_outcomes, silent
from tests.support.servers import accepting, calling, close_with_reset, http_reply, listening, read_request

REPLY = http_reply("503 X", {}, "busy")


@dataclass
class Server:
    """Replies to every request on a connection, and counts. A fault is what it does after a reply, or instead."""

    reply: bytes = REPLY
    after_reply: Callable[[asyncio.StreamWriter], None] = lambda writer: None
    pause: float = 0.0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    ended: int = 0
    """Connections that the client closed."""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.requests.append(await read_request(reader))
                await asyncio.sleep(self.pause)
                writer.write(self.reply)
                await writer.drain()
                self.after_reply(writer)
                if writer.is_closing():
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended += 1


@asynccontextmanager
async def connected(server: Server, **settings: float) -> AsyncIterator[ProducerClient]:
    async with listening(server) as address, calling(address, **settings) as client:
        yield client


async def call(client: ProducerClient, connection: ConnectionMode = "reuse", message: Message = MESSAGE) -> Hop:
    return await client.call(message, client.settings.producer_url, connection=connection)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def kept(client: ProducerClient) -> int:
    """Number of open connections that no call uses."""
    assert isinstance(client.transport, wire.HopTransport)
    return sum(not connection.is_closed for connections in client.transport.idle.values() for connection in connections)


# Which connection


async def test_a_kept_connection_is_used_again_and_says_how_long_it_was_idle() -> None:
    server = Server()
    async with connected(server) as client:
        first = await call(client)
        await asyncio.sleep(0.1)
        second = await call(client)
    assert server.connections == 1
    assert (first.connection.reused, second.connection.reused) == (False, True)
    assert first.connection.idle_millis is None
    assert second.connection.idle_millis is not None
    assert 99 <= second.connection.idle_millis < 2000
    assert [attempt.error for attempt in first.connection.attempts] == [None]
    assert second.connection.attempts == []
    assert second.connection.local_address == first.connection.local_address
    assert second.connection.http_version == "1.1"


@pytest.mark.parametrize(
    ("reply", "reused"),
    [
        (http_reply("503 X", {"connection": "close"}, "busy"), False),
        (http_reply("503 X", {"Connection": "Close"}, "busy"), False),
        (REPLY.replace(b"1.1", b"1.0"), False),
        (http_reply("503 X", {"connection": "keep-alive"}, "busy").replace(b"1.1", b"1.0"), True),
        (b"HTTP/1.1 503 X\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\nx-trailer: 1\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + REPLY, True),
        (REPLY + b"more", False),
        (REPLY + REPLY, False),
    ],
    ids=["close", "Close", "1.0", "1.0, kept", "chunked", "interim", "more bytes", "two replies"],
)
async def test_the_reply_decides_whether_the_connection_is_kept(reply: bytes, reused: bool) -> None:
    server = Server(reply)
    async with connected(server) as client:
        hops = [await call(client) for _ in range(2)]
    assert [hop.outcome for hop in hops] == [Outcome.PROXY_ERROR] * 2
    assert [hop.connection.reused for hop in hops] == [False, reused]
    assert server.connections == 2 - reused


async def test_a_call_with_a_connection_of_its_own_neither_uses_nor_keeps_one() -> None:
    server = Server()
    async with connected(server) as client:
        await call(client)
        assert kept(client) == 1
        hop = await call(client, "fresh")
        assert hop.connection.reused is False
        assert kept(client) == 1
        await until(lambda: server.ended == 1)
        assert (await call(client)).connection.reused is True


async def test_a_connection_that_the_other_side_closed_while_it_was_idle_is_not_used() -> None:
    server = Server(after_reply=lambda writer: writer.close())
    async with connected(server) as client:
        hops = []
        for _ in range(5):
            hops.append(await call(client))
            await until(lambda: kept(client) == 0)
    assert [hop.outcome for hop in hops] == [Outcome.PROXY_ERROR] * 5
    assert [hop.connection.reused for hop in hops] == [False] * 5


async def test_a_close_that_the_event_loop_has_not_noticed_yet_is_noticed_before_the_next_call() -> None:
    """The event loop is busy while the FIN arrives, and goes on with the next call."""
    ended = threading.Event()

    def serve(connection: socket) -> None:
        connection.recv(65_536)
        connection.sendall(REPLY)
        connection.close()
        ended.set()

    with accepting(serve) as address:
        async with calling(address) as client:
            for _ in range(10):
                ended.clear()
                hop = await call(client)
                assert (hop.outcome, hop.connection.reused) == (Outcome.PROXY_ERROR, False)
                assert ended.wait(10)  # without the event loop


async def test_a_connection_that_the_other_side_half_closed_is_not_used() -> None:
    """It would still read a request, but could not reply."""
    server = Server(after_reply=lambda writer: writer.write_eof())
    async with connected(server) as client:
        await call(client)
        await until(lambda: kept(client) == 0)
        second = await call(client)
        assert second.outcome is Outcome.PROXY_ERROR
        assert second.connection.reused is False
        await until(lambda: server.ended >= 1)


async def test_a_connection_with_data_while_it_was_idle_is_not_used() -> None:
    def later(writer: asyncio.StreamWriter) -> None:
        asyncio.get_running_loop().call_later(0.02, writer.write, b"HTTP/1.1 408 Request Timeout\r\n\r\n")

    server = Server(after_reply=later)
    async with connected(server) as client:
        await call(client)
        await until(lambda: kept(client) == 0)
        hop = await call(client)
    assert (hop.connection.reused, hop.reply_status) == (False, 503)


async def test_a_connection_that_was_idle_for_too_long_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "IDLE_SECONDS", 0.05)
    server = Server()
    async with connected(server) as client:
        await call(client)
        await asyncio.sleep(0.1)
        assert (await call(client)).connection.reused is False
        await until(lambda: server.ended == 1)


async def test_idle_connections_are_closed_without_a_further_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(wire, "SWEEP_SECONDS", 0.05)
    server = Server(pause=0.05)
    async with connected(server) as client:
        await asyncio.gather(*(call(client) for _ in range(5)))
        assert kept(client) == 5
        await until(lambda: server.ended == 5)
        assert isinstance(client.transport, wire.HopTransport)
        assert (client.transport.idle, client.transport.sweep) == ({}, None)
        assert (await call(client)).outcome is Outcome.PROXY_ERROR


async def test_concurrent_calls_never_share_a_connection() -> None:
    server = Server(pause=0.01)
    async with connected(server) as client:
        for _ in range(3):
            hops = await asyncio.gather(*(call(client) for _ in range(20)))
            assert len({hop.connection.local_address for hop in hops}) == 20
    assert server.connections == 20
    assert len(server.requests) == 60


async def test_the_connection_that_was_used_last_is_used_first() -> None:
    server = Server(pause=0.02)
    async with connected(server) as client:
        await asyncio.gather(*(call(client) for _ in range(3)))
        addresses = {(await call(client)).connection.local_address for _ in range(3)}
    assert len(addresses) == 1


async def test_the_end_of_the_client_closes_all_connections() -> None:
    server = Server(pause=0.05)
    async with listening(server) as address:
        async with calling(address) as client:
            await asyncio.gather(*(call(client) for _ in range(5)))
            assert (server.connections, server.ended) == (5, 0)
        await until(lambda: server.ended == 5)


async def test_a_cancelled_call_closes_its_connection() -> None:
    ends = []

    async def read_all(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        ends.append(len(await reader.read()))

    async with listening(read_all) as address, calling(address) as client:
        task = asyncio.create_task(call(client))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert kept(client) == 0
        await until(lambda: len(ends) == 1)
    assert ends[0] > 0, "the request"


# The end of a connection


async def test_a_reply_before_the_end_of_the_request_is_the_reply_even_if_a_reset_follows() -> None:
    """The server does not read a request that is too large, so that its close is a RST (RFC 9112, 9.6)."""
    reply = http_reply("413 Content Too Large", {"connection": "close"}, "too large")

    def serve(connection: socket) -> None:
        connection.recv(1000)
        connection.sendall(reply)
        close_with_reset(connection)

    with accepting(serve) as address:
        hops = [await hop_to(address, Message(payload="x" * 20_000_000)) for _ in range(10)]
    assert [(hop.outcome, hop.reply_status) for hop in hops] == [(Outcome.PROXY_ERROR, 413)] * 10
    assert {hop.connection.bytes_received for hop in hops} == {len(reply)}
    assert all((hop.connection.bytes_sent or 0) < 20_000_000 for hop in hops)


async def test_a_reset_before_the_end_of_the_request_is_a_reset() -> None:
    def serve(connection: socket) -> None:
        connection.recv(1000)
        close_with_reset(connection)

    with accepting(serve) as address:
        hop = await hop_to(address, Message(payload="x" * 20_000_000))
    assert hop.outcome is Outcome.RESET
    assert list(millis_by_phase(hop))[-1] == "send"
    assert hop.connection.closed_before_reply is True


async def test_a_connection_that_is_not_kept_after_an_early_reply() -> None:
    """The rest of the request would be read as the start of the next one."""
    replied = threading.Event()

    def serve(connection: socket) -> None:
        connection.recv(1000)
        connection.sendall(REPLY)
        replied.wait(5)

    with accepting(serve) as address:
        async with calling(address) as client:
            hop = await call(client, message=Message(payload="x" * 20_000_000))
            assert (hop.outcome, hop.reply_status) == (Outcome.PROXY_ERROR, 503)
            assert kept(client) == 0
            replied.set()


async def test_a_half_close_before_the_reply_is_a_close_and_after_it_its_end() -> None:
    def half_closed(reply: bytes) -> Callable[[socket], None]:
        def serve(connection: socket) -> None:
            connection.recv(65_536)
            connection.sendall(reply)
            connection.shutdown(SHUT_WR)
            connection.recv(65_536)

        return serve

    with accepting(half_closed(b"")) as address:
        hop = await hop_to(address)
        assert (hop.outcome, hop.connection.closed_before_reply) == (Outcome.CLOSED, True)
    with accepting(half_closed(b"HTTP/1.1 503 X\r\n\r\nwithout a length")) as address:
        hop = await hop_to(address)
        assert (hop.outcome, hop.connection.closed_before_reply) == (Outcome.PROXY_ERROR, False)
        assert "without a length" in (hop.error or "")


# What is counted


async def test_the_bytes_are_those_that_the_server_counted() -> None:
    server = Server()
    async with connected(server) as client:
        hops = [await call(client, message=Message(payload="x" * size)) for size in (1, 1000, 1_000_000)] + [
            await call(client, "fresh")
        ]
    assert [hop.connection.bytes_sent for hop in hops] == [len(request) for request in server.requests]
    assert [hop.connection.bytes_received for hop in hops] == [len(REPLY)] * 4
    assert [hop.connection.reused for hop in hops] == [False, True, True, False]
    assert {hop.connection.retransmits for hop in hops} == {0}
    assert all(0 < (hop.connection.kernel_rtt_millis or 0) < 100 for hop in hops)


async def test_a_silent_server_has_acknowledged_the_request() -> None:
    async with listening(silent) as address:
        hop = await hop_to(address, call_timeout_seconds=TIMEOUT_SECONDS)
    assert hop.outcome is Outcome.READ_TIMEOUT
    assert hop.connection.bytes_unacknowledged == 0
    assert (hop.connection.bytes_sent or 0) > 0
    assert "acknowledged" not in (hop.error or "")


async def test_a_server_that_does_not_read_leaves_a_part_of_the_request_unsent() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(5)

    async with listening(deaf) as address:
        hop = await hop_to(address, Message(payload="x" * 20_000_000), call_timeout_seconds=TIMEOUT_SECONDS)
    assert hop.outcome is Outcome.READ_TIMEOUT
    assert list(millis_by_phase(hop))[-1] == "send"
    assert 0 < (hop.connection.bytes_sent or 0) < 20_000_000


# The event loop's own delay


class Blocking:
    """A server in a thread whose reply arrives while the event loop of the caller is blocked for some time."""

    def __init__(self, blocked_seconds: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.blocked_seconds = blocked_seconds
        self.is_blocked, self.is_replied = threading.Event(), threading.Event()

    def block(self) -> None:
        self.is_blocked.set()
        self.is_replied.wait(10)
        time.sleep(self.blocked_seconds)

    def serve(self, connection: socket) -> None:
        message = json.loads(connection.recv(65_536).partition(b"\r\n\r\n")[2])
        if self.blocked_seconds:
            self.loop.call_soon_threadsafe(self.block)
            self.is_blocked.wait(10)
        time.sleep(0.02)
        body = json.dumps({"id": message["id"], "received": "test", "headers": {}, "metadata": {}})
        headers = {"x-answered-by": "sample-producer", "server-timing": "delay;dur=0, work;dur=20"}
        connection.sendall(http_reply("200 OK", headers, body))
        self.is_replied.set()
        connection.recv(1)


async def test_the_delay_of_the_event_loop_is_not_that_of_the_network() -> None:
    blocking = Blocking(0.05)
    with accepting(blocking.serve) as address:
        hop = await hop_to(address)
    phases = hop.phases
    assert hop.outcome is Outcome.OK
    assert phases.event_loop_delay_millis is not None
    assert phases.wait_millis is not None
    assert phases.network_millis is not None
    assert phases.event_loop_delay_millis >= 40
    assert "wait" in phases.delayed_phases
    assert phases.wait_millis >= 60
    assert phases.network_millis <= phases.wait_millis - 20 - 40, "neither the producer's work nor the delay"


async def test_without_other_work_no_phase_is_delayed() -> None:
    """One of some calls, since the machine may be busy."""
    with accepting(Blocking(0).serve) as address:
        hops = [await hop_to(address) for _ in range(10)]
    assert [] in [[phase for phase in hop.phases.delayed_phases if phase == "wait"] for hop in hops]
    delays = [hop.phases.event_loop_delay_millis for hop in hops if hop.phases.event_loop_delay_millis is not None]
    assert min(delays) < 2


def test_a_delay_is_never_longer_than_its_phase() -> None:
    """The kernel's receive times are of the system's clock, which NTP may set during a call."""
    clock = CallClock()
    clock.close("wait", "body", at=clock.started + 0.05, delay=3600)
    phases = clock.phases(producer_delay=0, producer_work=10)
    assert phases.event_loop_delay_millis == phases.wait_millis == pytest.approx(50)


async def test_a_header_with_a_line_break_is_not_sent() -> None:
    server = Server()
    inbound = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "a=b\r\nx-injected: c"}
    async with listening(server) as address, calling(address) as client:
        with pytest.raises(ValueError, match="a header contains a line break"):
            await client.call(MESSAGE, client.settings.producer_url, inbound=inbound)
    assert server.requests == []


async def test_a_call_that_is_cancelled_while_its_large_reply_waits_is_counted() -> None:
    large = http_reply("503 X", {}, "x" * 100_000)
    async with listening(Server(reply=large)) as address, calling(address) as client, client.large_replies:
        call = asyncio.create_task(client.call(MESSAGE, client.settings.producer_url))
        await asyncio.sleep(0.3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert observed_outcomes(client) == {"cancelled": 1}
