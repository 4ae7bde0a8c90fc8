"""The connection of a call: an aiohttp session that reports each step to the `CallClock` of the current call."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from functools import partial
from http import HTTPStatus
from typing import Any

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError, RawResponseMessage

from caller.hop.model import ConnectionMode
from caller.hop.outcome import BrokenReply
from caller.hop.phases import CallClock
from caller.hop.resolver import Resolver
from caller.settings import Settings

IDLE_SECONDS = 15
"""Idle timeout of a connection: less than the producer's keep-alive and less than its drain on Kubernetes."""

MAX_INTERIM_REPLIES = 100
"""Replies of 1xx before the final one."""

CURRENT_CALL: ContextVar[CallClock] = ContextVar("current_call")
"""Clock of the call that the current task makes; httpx cannot pass one down to aiohttp's signals."""


class AiohttpTransport(httpx.AsyncBaseTransport):
    """httpx's transport over an aiohttp session, for requests whose body is complete. Does not close the session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """
        :raises aiohttp.ClientError: no reply, or not HTTP.
        :raises OSError: error of the connection.
        """
        response = await self.session.request(
            request.method,
            str(request.url),
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw],
            data=request.read(),
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(sock_connect=request.extensions["timeout"]["connect"]),
        )
        return httpx.Response(response.status, headers=response.raw_headers, stream=Body(response))


class Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self.response.content.iter_any())

    async def aclose(self) -> None:
        self.response.release()
        await self.response.wait_for_close()


def report_connection(clock: CallClock, transport: asyncio.Transport | None) -> None:
    """Keep the addresses while there is a transport: aiohttp drops it once the body is read."""
    if transport is None:
        return
    clock.connection["local_address"] = address_text(transport.get_extra_info("sockname"))
    clock.connection["peer_address"] = address_text(transport.get_extra_info("peername"))
    tls = transport.get_extra_info("ssl_object")
    if tls is not None:
        clock.connection["tls_version"] = tls.version()
        clock.connection["tls_peer_name"] = peer_name(tls.getpeercert() or {})


def address_text(address: Any) -> str | None:
    if not address:
        return None
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def peer_name(certificate: Mapping[str, Any]) -> str | None:
    """The first name in a verified certificate: a subject alternative name (DNS, URI, IP), else the common name."""
    for kind, name in certificate.get("subjectAltName", ()):
        if kind in ("DNS", "URI", "IP Address"):
            return str(name)
    return next(
        (str(value) for part in certificate.get("subject", ()) for key, value in part if key == "commonName"), None
    )


def tls_context(settings: Settings) -> ssl.SSLContext:
    """One context for all calls: creating one takes tens of ms, which would look like network time."""
    if any(target.url.scheme == "https" for target in settings.targets):
        context = ReportingTLS(ssl.PROTOCOL_TLS_CLIENT)
        context.load_default_certs()
        return context
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class ReportingTLS(ssl.SSLContext):
    """aiohttp has no signal between TCP and TLS; the handshake starts when the connection is wrapped."""

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        if (clock := CURRENT_CALL.get(None)) is not None:
            clock.close("connect", "tls")
        return super().wrap_bio(*args, **kwargs)


def reporting_session(mode: ConnectionMode, tls: ssl.SSLContext, resolver: Resolver) -> aiohttp.ClientSession:
    """An aiohttp session that reports to `CURRENT_CALL`. No DNS cache: each new connection resolves the name."""
    connector = aiohttp.TCPConnector(
        limit=0,
        ssl=tls,
        resolver=ReportingResolver(resolver),
        use_dns_cache=False,
        # aiohttp refuses `keepalive_timeout` with `force_close`, even its default.
        **({"force_close": True} if mode == "fresh" else {"keepalive_timeout": IDLE_SECONDS}),
    )
    connector._factory = partial(ReplyProtocol, loop=connector._loop)  # type: ignore[assignment]
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=True,
        response_class=ReportingResponse,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        trace_configs=[trace_config()],
    )


class ReplyProtocol(ResponseHandler):
    """aiohttp's reply parser, with two fixes for 3.14.

    A reply that is malformed after its head fails the read of its body: otherwise the call would end in a timeout.
    Interim replies are discarded, and there may be at most `MAX_INTERIM_REPLIES`.
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
        if self.interim == MAX_INTERIM_REPLIES and self.transport is not None:
            self.transport.close()
            self.set_exception(
                HttpProcessingError(message=f"{MAX_INTERIM_REPLIES} interim replies, the last with status {status}")
            )


class ReportingResolver(AbstractResolver):
    def __init__(self, resolver: Resolver) -> None:
        self.resolver = resolver

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:
        found = await self.resolver.look_up(host, port)
        CURRENT_CALL.get().addresses = list(dict.fromkeys(address[0] for _, address in found))
        return [
            ResolveResult(hostname=host, host=address[0], port=port, family=kind, proto=0, flags=0)
            for kind, address in found
        ]

    async def close(self) -> None:
        pass


class ReportingResponse(aiohttp.ClientResponse):
    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Called while the request is being sent; the only place where aiohttp exposes the connection."""
        clock = CURRENT_CALL.get()
        report_connection(clock, connection.transport)
        response = await super().start(connection)
        if self.version is not None:
            clock.connection["http_version"] = f"{self.version.major}.{self.version.minor}"
        return response


def trace_config() -> aiohttp.TraceConfig:
    """aiohttp's signals in the order of a call; each ends a phase."""

    async def dns_start(*_: Any) -> None:
        CURRENT_CALL.get().open = "dns"

    async def dns_end(*_: Any) -> None:
        CURRENT_CALL.get().close("dns", "connect")

    async def connection_made(*_: Any) -> None:
        clock = CURRENT_CALL.get()
        clock.connection["reused"] = False
        clock.close(clock.open, "send")

    async def connection_reused(*_: Any) -> None:
        clock = CURRENT_CALL.get()
        clock.connection["reused"] = True
        clock.open = "send"

    async def headers_sent(_: Any, __: Any, sent: aiohttp.TraceRequestHeadersSentParams) -> None:
        clock = CURRENT_CALL.get()
        for name, value in sent.headers.items():
            clock.sent_headers.setdefault(name.lower(), []).append(value)
        clock.close("send", "wait")

    async def chunk_sent(*_: Any) -> None:
        CURRENT_CALL.get().close("send", "wait")

    async def reply_started(*_: Any) -> None:
        CURRENT_CALL.get().close("wait", "body")

    config = aiohttp.TraceConfig()
    config.on_dns_resolvehost_start.append(dns_start)
    config.on_dns_resolvehost_end.append(dns_end)
    config.on_connection_create_end.append(connection_made)
    config.on_connection_reuseconn.append(connection_reused)
    config.on_request_headers_sent.append(headers_sent)
    config.on_request_chunk_sent.append(chunk_sent)
    config.on_request_end.append(reply_started)
    return config
