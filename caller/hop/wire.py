"""What one call shows of itself: when each phase ended, and its connection. A session that writes both down."""

import asyncio
import ssl
import time
from collections.abc import Mapping
from contextvars import ContextVar
from functools import partial
from http import HTTPStatus
from typing import Any, Literal

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError, RawResponseMessage

from caller.explain.dns import Lookups
from caller.hop.outcome import BrokenReply, Phase, Phases
from caller.settings import Settings
from common.messages import Headers

IDLE_SECONDS = 15
"""How long an idle connection is kept: less than the producer's keep-alive and less than its drain on Kubernetes."""

MOST_INTERIM = 100
"""Replies of 1xx before the one that counts."""

ConnectionMode = Literal["reuse", "fresh"]


class Trace:
    """When each phase of one call ended, and what the connection was.

    The phases follow one another without a gap, so that they add up to the round trip.
    """

    __slots__ = ("addresses", "connection", "last", "millis", "open", "sent_headers", "started", "started_at")

    def __init__(self) -> None:
        self.started = self.last = time.perf_counter()
        self.started_at = time.time()
        self.open: Phase = "connect"
        self.millis: dict[str, float] = {}
        self.addresses: list[str] = []
        self.connection: dict[str, Any] = {}
        self.sent_headers: Headers = {}

    def close(self, phase: Phase, then: Phase) -> None:
        """The phase ended now; `then` is open from now on."""
        now = time.perf_counter()
        key = f"{phase}_millis"
        self.millis[key] = self.millis.get(key, 0.0) + (now - self.last) * 1000
        self.last = now
        self.open = then

    def finish(self) -> None:
        self.close(self.open, self.open)

    def seconds(self) -> float:
        return self.last - self.started

    def phases(self) -> Phases:
        return Phases.model_validate({name: round(millis, 3) for name, millis in self.millis.items()})

    def connected_over(self, transport: asyncio.Transport | None) -> None:
        """Take the addresses while there is a transport: aiohttp lets go of it once the body is read."""
        if transport is None:
            return
        self.connection["local_address"] = address_text(transport.get_extra_info("sockname"))
        self.connection["peer_address"] = address_text(transport.get_extra_info("peername"))
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.connection["tls_version"] = tls.version()
            self.connection["tls_peer_name"] = peer_name(tls.getpeercert() or {})


TRACE: ContextVar[Trace] = ContextVar("trace")
"""The trace of the call that the current task makes; httpx has no way to hand one down to aiohttp's signals."""


def address_text(address: Any) -> str | None:
    if not address:
        return None
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_name(certificate: Mapping[str, Any]) -> str | None:
    """The first name of a verified certificate: a DNS or URI subject alternative name, else the common name."""
    for kind, name in certificate.get("subjectAltName", ()):
        if kind in ("DNS", "URI", "IP Address"):
            return str(name)
    return next(
        (str(value) for part in certificate.get("subject", ()) for key, value in part if key == "commonName"), None
    )


def tls_context(settings: Settings) -> ssl.SSLContext:
    """One context for all calls: making one takes tens of ms, which would look like network time."""
    if any(target.url.scheme == "https" for target in settings.targets):
        context = TimedTLS(ssl.PROTOCOL_TLS_CLIENT)
        context.load_default_certs()
        return context
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class TimedTLS(ssl.SSLContext):
    """aiohttp has no signal between TCP and TLS; the handshake's start is when a connection is wrapped."""

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        if (trace := TRACE.get(None)) is not None:
            trace.close("connect", "tls")
        return super().wrap_bio(*args, **kwargs)


def traced_session(mode: ConnectionMode, tls: ssl.SSLContext, lookups: Lookups) -> aiohttp.ClientSession:
    """A session of aiohttp that writes into the current `TRACE`. No DNS cache: each connection asks anew."""
    connector = aiohttp.TCPConnector(
        limit=0,
        ssl=tls,
        resolver=TracedResolver(lookups),
        use_dns_cache=False,
        # aiohttp takes no keep-alive time together with `force_close`, not even its default.
        **({"force_close": True} if mode == "fresh" else {"keepalive_timeout": IDLE_SECONDS}),
    )
    connector._factory = partial(ReplyProtocol, loop=connector._loop)  # type: ignore[assignment]
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=True,
        response_class=TracedResponse,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        trace_configs=[trace_config()],
    )


class ReplyProtocol(ResponseHandler):
    """aiohttp's reading of replies, with two things that it lacks in 3.14.

    A reply that breaks after its head is told to whoever waits for its body: the C parser has let go of it by then, and
    the call would end in a time-out. Interim replies, which nobody asked for, are not kept, and are not endless.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.interim = 0

    def data_received(self, data: bytes) -> None:
        payload = self._payload
        super().data_received(data)
        broken = self._exception
        if isinstance(broken, HttpProcessingError) and payload is not None and not payload.is_eof():
            payload.set_exception(BrokenReply(broken.message), broken)

    def feed_data(self, data: tuple[RawResponseMessage, aiohttp.StreamReader], size: int = 0) -> None:
        status = data[0].code
        if not 100 <= status < 200 or status == HTTPStatus.SWITCHING_PROTOCOLS:
            self.interim = 0
            super().feed_data(data, size)
            return
        self.interim += 1
        if self.interim == MOST_INTERIM and self.transport is not None:
            self.transport.close()
            self.set_exception(HttpProcessingError(message=f"{MOST_INTERIM} interim replies, the last a {status}"))


class TracedResolver(AbstractResolver):
    def __init__(self, lookups: Lookups) -> None:
        self.lookups = lookups

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        found = await self.lookups.look_up(host, port)
        TRACE.get().addresses = list(dict.fromkeys(address[0] for _, address in found))
        return [
            ResolveResult(hostname=host, host=address[0], port=port, family=kind, proto=0, flags=0)
            for kind, address in found
        ]

    async def close(self) -> None:
        pass


class TracedResponse(aiohttp.ClientResponse):
    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Called when the request is being sent; the only place where aiohttp shows the connection."""
        trace = TRACE.get()
        trace.connected_over(connection.transport)
        response = await super().start(connection)
        if self.version is not None:
            trace.connection["http_version"] = f"{self.version.major}.{self.version.minor}"
        return response


def trace_config() -> aiohttp.TraceConfig:
    """aiohttp's signals, in the order of a call, each closing a phase."""

    async def dns_start(*_: Any) -> None:
        TRACE.get().open = "dns"

    async def dns_end(*_: Any) -> None:
        TRACE.get().close("dns", "connect")

    async def connection_made(*_: Any) -> None:
        trace = TRACE.get()
        trace.connection["reused"] = False
        trace.close(trace.open, "send")

    async def connection_reused(*_: Any) -> None:
        trace = TRACE.get()
        trace.connection["reused"] = True
        trace.open = "send"

    async def headers_sent(_: Any, __: Any, sent: aiohttp.TraceRequestHeadersSentParams) -> None:
        trace = TRACE.get()
        for name, value in sent.headers.items():
            trace.sent_headers.setdefault(name.lower(), []).append(value)
        trace.close("send", "wait")

    async def chunk_sent(*_: Any) -> None:
        TRACE.get().close("send", "wait")

    async def reply_started(*_: Any) -> None:
        TRACE.get().close("wait", "body")

    config = aiohttp.TraceConfig()
    config.on_dns_resolvehost_start.append(dns_start)
    config.on_dns_resolvehost_end.append(dns_end)
    config.on_connection_create_end.append(connection_made)
    config.on_connection_reuseconn.append(connection_reused)
    config.on_request_headers_sent.append(headers_sent)
    config.on_request_chunk_sent.append(chunk_sent)
    config.on_request_end.append(reply_started)
    return config
