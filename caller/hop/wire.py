"""The connection of a call: resolve, connect, TLS, send, wait, body, each with its own time and its own facts.

Non-blocking sockets on the event loop, without asyncio's transports, which lose a reply that arrived before a reset,
and do not show when the kernel received it. See ADR 9.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any, NamedTuple

import httpx

from caller.hop.connect import AttemptSocket, Connecting, address_text
from caller.hop.kernel import receive, report_receive_time, tcp_info
from caller.hop.outcome import ConnectionClosed
from caller.hop.phases import CallClock
from caller.hop.reply_parser import ReplyParser
from caller.hop.resolver import Addresses, Resolver, host_text
from caller.hop.tls import Tls, alert_of

IDLE_SECONDS = 15
"""Idle timeout of a connection: less than the producer's keep-alive and less than its drain on Kubernetes."""
SWEEP_SECONDS = 3
"""How often idle connections are looked through."""


class Origin(NamedTuple):
    """Where a connection leads to; connections to one origin are interchangeable."""

    scheme: str
    host: str
    port: int


class HopTransport(httpx.AsyncBaseTransport):
    """Makes calls, each on one connection, and keeps idle connections by origin. A failed call is not repeated.

    :param connect_timeout: of TCP and TLS together, over all addresses, in seconds.
    :param max_reply_bytes: maximum size of the body of a reply, as it is sent.
    """

    def __init__(self, resolver: Resolver, tls: ssl.SSLContext, connect_timeout: float, max_reply_bytes: int) -> None:
        self.resolver = resolver
        self.tls = tls
        self.connect_timeout = connect_timeout
        self.max_reply_bytes = max_reply_bytes
        self.idle: dict[Origin, list[OpenConnection]] = {}
        self.sweep: asyncio.TimerHandle | None = None
        self.is_closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The reply, as soon as its head is there. The call ends with `aclose` of the response.

        The extensions of the request are `clock`, a `CallClock` that gets every fact of the call, and `fresh`: whether
        the call has a connection of its own, since a ClusterSetIP is balanced per connection. The request and the
        response's stream raise:

        :raises socket.gaierror: the name has no address.
        :raises OSError: error of the connection.
        :raises TimeoutError: `connect_timeout`.
        :raises ssl.SSLError: TLS.
        :raises ConnectionClosed: the other side closed the connection before the reply was complete.
        :raises BrokenReply: the reply is not HTTP.
        :raises ReplyTooLarge: the reply exceeds `max_reply_bytes`.
        """
        clock: CallClock = request.extensions["clock"]
        is_fresh: bool = request.extensions["fresh"]
        origin = origin_of(request.url)
        headers = request.headers.raw
        data = serialized(request, headers)
        clock.start()
        connection = None if is_fresh else self.idle_connection(origin)
        if connection is None:
            connection = await self.opened(origin, clock)
        clock.sent_headers = headers
        exchange = Exchange(self, origin, connection, clock, can_keep=not is_fresh)
        try:
            await exchange.head(data)
        except BaseException:
            await exchange.aclose()
            raise
        return httpx.Response(exchange.parser.status, headers=exchange.parser.headers, stream=exchange)

    async def opened(self, origin: Origin, clock: CallClock) -> "OpenConnection":
        """A new connection to the origin, with its TLS handshake if the scheme is `https`."""
        addresses = literal_address(origin.host, origin.port)
        if addresses is None:
            clock.open = "dns"
            addresses, ended = await self.resolver.look_up(origin.host, origin.port)
            clock.addresses = list(dict.fromkeys(host_text(address) for _, address in addresses))
            clock.close("dns", "connect", delay=time.perf_counter() - ended)
        async with asyncio.timeout(self.connect_timeout):
            connecting = Connecting(addresses, self.connect_timeout)
            try:
                connected = await connecting.finished()
            finally:
                clock.connection["attempts"] = connecting.attempts()
            connection = OpenConnection(connected)
            delay = connection.connect_delay(connected)
            if origin.scheme == "http":
                clock.close("connect", "send", at=connected.ended, delay=delay)
            else:
                clock.close("connect", "tls", at=connected.ended, delay=delay)
                await Handshake(connection, Tls(self.tls, origin.host), clock).finished()
        return connection

    async def aclose(self) -> None:
        """Close the idle connections; those in use are closed when their call ends."""
        self.is_closed = True
        if self.sweep is not None:
            self.sweep.cancel()
        for connections in self.idle.values():
            for connection in connections:
                connection.close()
        self.idle.clear()

    # Idle connections

    def release(self, origin: Origin, connection: "OpenConnection", *, keep: bool) -> None:
        if self.is_closed or not keep:
            connection.close()
            return
        self.idle.setdefault(origin, []).append(connection)
        self.plan_sweep()

    def plan_sweep(self) -> None:
        if self.idle and self.sweep is None:
            self.sweep = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self.close_unusable)

    def idle_connection(self, origin: Origin) -> "OpenConnection | None":
        """The open connection that was used last, since it is the least likely to be closed at this moment."""
        connections = self.idle.get(origin)
        while connections:
            connection = connections.pop()
            if connection.is_usable():
                return connection
            connection.close()
        return None

    def close_unusable(self) -> None:
        self.sweep = None
        for origin, connections in list(self.idle.items()):
            self.idle[origin] = [connection for connection in connections if connection.is_idle_and_open()]
            for connection in set(connections).difference(self.idle[origin]):
                connection.close()
            if not self.idle[origin]:
                del self.idle[origin]
        self.plan_sweep()


class OpenConnection:
    """A TCP connection: bytes to and from its socket. What comes in goes to `reader`."""

    def __init__(self, connected: AttemptSocket) -> None:
        self.loop = asyncio.get_running_loop()
        self.sock = sock = connected.sock
        self.reader: Handshake | Exchange | None = None
        """Who uses the connection; None: it is idle."""
        self.tls: Tls | None = None
        self.facts: dict[str, Any] = {
            "local_address": address_text(sock.getsockname()),
            "peer_address": address_text(connected.address),
        }
        """Of every call on this connection: fields of `Connection`."""
        self.unsent = b""
        self.send_error: OSError | None = None
        self.is_writer = self.is_closed = False
        self.calls = 0
        self.idle_since = 0.0
        self.sent = self.received = 0
        """Bytes, of all calls. The next three are of the calls before this one."""
        self.sent_before = self.received_before = self.retransmits_before = 0
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        report_receive_time(sock)
        self.loop.add_reader(sock, self.on_readable)

    def connect_delay(self, connected: AttemptSocket) -> float:
        """How late the event loop noticed that the connection was open, in seconds: what exceeds the kernel's RTT."""
        info = tcp_info(self.sock)
        if info is None or info.retransmits or connected.ended is None:
            return 0.0
        return max(connected.ended - connected.started - info.rtt_millis / 1000, 0.0)

    def send(self, data: bytes = b"") -> None:
        """Send what the kernel takes now, and the rest when it takes more."""
        self.unsent += data
        sent_at = None
        try:
            while self.unsent and self.send_error is None:
                started, cpu = time.perf_counter(), time.thread_time()
                count = self.sock.send(self.unsent)
                # Not now: the kernel may have run the receiver before it came back to this thread.
                sent_at = started + time.thread_time() - cpu
                self.sent += count
                self.unsent = self.unsent[count:]
        except BlockingIOError:
            pass
        except OSError as error:
            # The other side may have replied before it closed (RFC 9112, 9.5): a reply is read first.
            self.send_error = error
            self.unsent = b""
        self.wait_for_writable(bool(self.unsent))
        if not self.unsent and self.reader is not None:
            self.reader.on_sent(sent_at)

    def wait_for_writable(self, wanted: bool) -> None:
        if wanted == self.is_writer:
            return
        self.is_writer = wanted
        if wanted:
            self.loop.add_writer(self.sock, self.send)
        else:
            self.loop.remove_writer(self.sock)

    def on_readable(self) -> None:
        try:
            data, late = receive(self.sock)
            at = time.perf_counter()
            self.received += len(data)
            if self.reader is None:
                self.on_idle_data(data)
            elif data:
                self.reader.on_data(data, at, late)
            elif self.send_error is not None:
                raise self.send_error
            else:
                self.loop.remove_reader(self.sock)
                self.reader.on_end(at)
        except BlockingIOError:
            pass
        except Exception as error:
            self.loop.remove_reader(self.sock)
            if self.reader is None:
                self.close()
            else:
                self.reader.on_error(error)

    def on_idle_data(self, data: bytes) -> None:
        """Data between calls. Only TLS sends some, session tickets; all other means that the connection is over."""
        if self.tls is None or not data or self.tls.decrypted(data) or self.tls.is_closed:
            self.close()

    def is_idle_and_open(self) -> bool:
        return not self.is_closed and time.perf_counter() - self.idle_since <= IDLE_SECONDS

    def is_usable(self) -> bool:
        """The same, with a close that the event loop has not noticed yet."""
        if not self.is_idle_and_open():
            return False
        info = tcp_info(self.sock)
        return info is None or info.is_open

    def report(self, clock: CallClock, error: BaseException | None) -> None:
        """Give the facts of the connection to the call, before the socket is closed."""
        facts = clock.connection
        facts.update(self.facts)
        facts["bytes_sent"] = self.sent - self.sent_before
        facts["bytes_received"] = self.received - self.received_before
        facts["closed_before_reply"] = clock.open != "body" and isinstance(error, ConnectionClosed | ConnectionError)
        if self.tls is not None and error is not None:
            facts["tls_alert"] = alert_of(error)
        self.sent_before, self.received_before = self.sent, self.received
        info = tcp_info(self.sock)
        if info is not None:
            facts["bytes_unacknowledged"] = max(self.sent - info.acknowledged, 0)
            facts["kernel_rtt_millis"] = info.rtt_millis
            facts["retransmits"] = info.retransmits - self.retransmits_before
            self.retransmits_before = info.retransmits

    def close(self) -> None:
        if self.is_closed:
            return
        if self.tls is not None and self.send_error is None:
            self.send(self.tls.close_notify())
        self.is_closed = True
        self.loop.remove_reader(self.sock)
        self.wait_for_writable(False)
        self.sock.close()


class Handshake:
    """The TLS handshake on a new connection."""

    def __init__(self, connection: OpenConnection, tls: Tls, clock: CallClock) -> None:
        self.connection = connection
        self.tls = connection.tls = tls
        self.clock = clock
        self.future: asyncio.Future[None] = connection.loop.create_future()

    async def finished(self) -> None:
        """
        :raises ssl.SSLError: refused by either side.
        :raises ConnectionClosed: closed by the other side.
        :raises OSError: error of the connection.
        """
        connection = self.connection
        connection.reader = self
        self.clock.late("tls", time.perf_counter() - self.clock.last)
        try:
            self.step()
            await self.future
        except BaseException as error:
            self.clock.finish()
            connection.facts |= self.tls.facts(error)
            connection.report(self.clock, error)
            connection.close()
            raise
        finally:
            connection.reader = None
        connection.facts |= self.tls.facts(None)

    def step(self) -> None:
        try:
            is_finished = self.tls.handshake()
        finally:
            self.connection.send(self.tls.to_send())  # of a failed handshake: the alert
        if is_finished and not self.future.done():
            self.clock.close("tls", "send")
            self.future.set_result(None)

    def on_sent(self, at: float | None) -> None:
        pass

    def on_data(self, data: bytes, at: float, late: float) -> None:
        self.clock.late("tls", late)
        self.tls.feed(data)
        self.step()

    def on_end(self, at: float) -> None:
        self.on_error(ConnectionClosed())

    def on_error(self, error: Exception) -> None:
        if not self.future.done():
            self.clock.finish()
            self.future.set_exception(error)


class Exchange(httpx.AsyncByteStream):
    """One request and its reply on a connection. As a stream it is the body of the reply, in one piece."""

    def __init__(
        self, transport: HopTransport, origin: Origin, connection: OpenConnection, clock: CallClock, *, can_keep: bool
    ) -> None:
        self.transport = transport
        self.origin = origin
        self.connection = connection
        self.clock = clock
        self.can_keep = can_keep
        self.parser = ReplyParser(transport.max_reply_bytes)
        self.error: Exception | None = None
        self.progress: asyncio.Future[None] | None = None
        """Done when the head or the whole of the reply is there, or an error."""

    async def head(self, request: bytes) -> None:
        """Send the request, and wait for the head of the reply."""
        connection, clock = self.connection, self.clock
        connection.reader = self
        clock.connection["reused"] = connection.calls > 0
        if connection.calls:
            clock.open = "send"
            clock.connection["idle_millis"] = round((clock.started - connection.idle_since) * 1000, 3)
        connection.calls += 1
        clock.late("send", time.perf_counter() - clock.last)  # the caller's own work
        connection.send(connection.tls.encrypted(request) if connection.tls else request)
        while not self.parser.has_head:
            await self.next()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self.parser.is_complete:
            await self.next()
        yield bytes(self.parser.body)

    async def next(self) -> None:
        if self.error is not None:
            raise self.error
        self.progress = self.connection.loop.create_future()
        await self.progress

    async def aclose(self) -> None:
        """The end of the call: the connection is kept if another call can use it, and otherwise closed."""
        connection, clock, parser = self.connection, self.clock, self.parser
        clock.finish()
        connection.report(clock, self.error)
        if parser.status:
            clock.connection["http_version"] = parser.parser.get_http_version()
        connection.reader = None
        connection.idle_since = time.perf_counter()
        is_open = self.error is None and connection.send_error is None and not connection.unsent
        self.transport.release(self.origin, connection, keep=self.can_keep and is_open and parser.keeps_alive)

    def on_sent(self, at: float | None) -> None:
        if self.clock.open == "send" and self.connection.send_error is None:
            self.clock.close("send", "wait", at=at)

    def on_data(self, data: bytes, at: float, late: float) -> None:
        tls = self.connection.tls
        if tls is not None:
            data = tls.decrypted(data)
            if answer := tls.to_send():  # to a key update
                self.connection.send(answer)
        if data and not self.parser.is_complete:
            self.on_reply_data(data, at, late)
        elif data:
            self.parser.feed(data)
        if tls is not None and tls.error is not None:
            raise tls.error
        if tls is not None and tls.is_closed:
            self.on_end(at)

    def on_reply_data(self, data: bytes, at: float, late: float) -> None:
        is_first = self.clock.open != "body"
        if is_first:
            if self.clock.open == "send":  # a reply before the end of the request
                self.clock.close("send", "wait", at=at)
            self.clock.close("wait", "body", at=at, delay=late)
        self.parser.feed(data)
        if self.parser.is_complete:
            if not is_first:
                self.clock.late("body", late)
            self.clock.finish(at)
        if self.parser.has_head:
            self.wake()

    def on_end(self, at: float) -> None:
        if self.parser.is_complete:
            self.parser.keeps_alive = False
            return
        self.parser.end()
        self.clock.finish(at)
        self.wake()

    def on_error(self, error: Exception) -> None:
        self.error = error
        self.clock.finish()
        self.wake()

    def wake(self) -> None:
        if self.progress is not None and not self.progress.done():
            self.progress.set_result(None)


def origin_of(url: httpx.URL) -> Origin:
    return Origin(url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80))


@lru_cache(maxsize=256)
def literal_address(host: str, port: int) -> Addresses | None:
    """The address, if the host is one; None: a name, to be resolved."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        return None
    return [(family, address) for family, _, _, _, address in found]


def serialized(request: httpx.Request, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The request as HTTP/1.1 sends it (RFC 9112, 3).

    :raises ValueError: a header contains a line break.
    """
    parts = [request.method.encode(), b" ", request.url.raw_path, b" HTTP/1.1\r\n"]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    head = b"".join(parts)
    if head.count(b"\n") != len(headers) + 1 or head.count(b"\r") != head.count(b"\n"):
        raise ValueError("a header contains a line break")
    return b"%b\r\n%b" % (head, request.read())
