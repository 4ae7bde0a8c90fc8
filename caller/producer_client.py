"""One call to the producer: `ProducerClient.call(message, target) -> Hop`; and `explain(hop, …)`, which costs more."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from typing import Any, Literal, Self, cast

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult
from httpx_aiohttp import AiohttpTransport

from caller.diagnosis import diagnose
from caller.dns import DnsAnswer, DnsReport, Lookups, control, read_resolv_conf, report
from caller.header_diff import header_diff
from caller.metrics import HopMetrics
from caller.outcome import (
    BODILESS,
    AnsweredBy,
    Connection,
    Hop,
    Outcome,
    Phase,
    Phases,
    ReplyTooLarge,
    ack_of,
    answerer,
    clock_skew_of,
    crossing_of,
    failure_of,
    gateway_status,
    metadata_of,
    one_line,
    reply_outcome,
    server_timing,
)
from caller.settings import Settings
from caller.target import Target
from common import __version__
from common.cluster import Identity
from common.headers import header_map, masked, trace_context
from common.messages import ClusterMetadata, Headers, Message

IDLE_SECONDS = 15
"""How long an idle connection is kept: less than the producer's keep-alive and less than its drain on Kubernetes."""

MESSAGE_FIELDS = set(Message.model_fields)
"""What is sent of a message; the caller's own fields are not the producer's."""

SENT = (
    (b"accept", b"application/json"),
    (b"accept-encoding", b"identity"),
    (b"content-type", b"application/json"),
    (b"user-agent", f"sample-caller/{__version__}".encode()),
)
"""Headers of every request; of the request that a call is made for, only the trace context is passed on."""

GOOD_SECONDS = 1.0
"""How long an answer of the resolver is shown again."""

ConnectionMode = Literal["reuse", "fresh"]

FAILURES = (httpx.HTTPError, aiohttp.ClientError, OSError, ReplyTooLarge)
"""What a call may raise because of the other side or of what lies between. Anything else is a bug of ours."""


class ProducerClient:
    """Calls the producer. One per process: it holds the open connections."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        metrics: HopMetrics,
        transports: Mapping[ConnectionMode, httpx.AsyncBaseTransport],
        lookups: Lookups,
    ) -> None:
        self.settings = settings
        self.identity = identity
        self.metrics = metrics
        self.transports = transports
        self.timeouts = {"connect": settings.connect_timeout_seconds}
        self.last_seen: dict[Target, ClusterMetadata] = {}
        self.dns = Questions(lookups)

    @classmethod
    @asynccontextmanager
    async def opened(cls, settings: Settings, identity: Identity, metrics: HopMetrics) -> AsyncIterator[Self]:
        """A client whose connections are closed at the end.

        Two pools, because a ClusterSetIP is balanced per connection: one keeps connections, one never does.
        """
        tls = tls_context(settings)
        async with AsyncExitStack() as stack:
            lookups = Lookups()
            transports: dict[ConnectionMode, httpx.AsyncBaseTransport] = {}
            for mode in ("reuse", "fresh"):
                session = await stack.enter_async_context(traced_session(mode, tls, lookups))
                transports[mode] = AiohttpTransport(client=session, verify=tls)
            yield cls(settings, identity, metrics, transports, lookups)

    async def call(
        self,
        message: Message,
        target: Target,
        *,
        connection: ConnectionMode = "reuse",
        inbound: Mapping[str, str] | None = None,
        caller_headers: Headers | None = None,
        timeout_seconds: float | None = None,
    ) -> Hop:
        """Send the message to the target, and say everything about it that the call itself shows.

        :param timeout_seconds: for the whole call; default `CALL_TIMEOUT_SECONDS`.
        :param inbound: headers of the request this call is made for, lower-case; its trace context is passed on.
        :param caller_headers: all of them, masked, for the hop.
        :raises asyncio.CancelledError: whoever wanted the hop went away; counted as the outcome `cancelled`.
        """
        trace = Trace()
        request = self.request(message, target, inbound or {})
        body = b""
        response: httpx.Response | None = None
        error: BaseException | None = None
        token = TRACE.set(trace)
        try:
            async with asyncio.timeout(timeout_seconds or self.settings.call_timeout_seconds):
                response = await self.transports[connection].handle_async_request(request)
                body = await self.read(response)
        except FAILURES as failure:
            error = failure
        except asyncio.CancelledError:
            self.metrics.cancelled(target, trace.seconds())
            raise
        finally:
            TRACE.reset(token)
            trace.finish()
            if response is not None:
                await response.aclose()
        hop = self.hop(message, target, connection, trace, response, body, error, caller_headers or {})
        self.metrics.observe(target, hop, reply_status=None if error or response is None else response.status_code)
        if hop.producer_metadata is not None:
            self.last_seen[target] = hop.producer_metadata
        return hop

    async def explain(self, hop: Hop, message: Message, target: Target) -> Hop:
        """The hop with header diff, clock skew and diagnosis; where no reply came, also with what the resolver says."""
        dns, control = None, None
        if hop.answered_by.who == "caller":
            dns, control = await self.dns.about(target)
        timeouts = (self.settings.connect_timeout_seconds, self.settings.call_timeout_seconds)
        diagnosis = diagnose(
            hop, target, message, dns=dns, control=control, last_seen=self.last_seen.get(target), timeouts=timeouts
        )
        diff = header_diff(hop.sent_headers, hop.producer_headers, hop.returned_headers)
        return hop.model_copy(
            update={"dns": dns, "diagnosis": diagnosis, "header_diff": diff, "clock_skew": clock_skew_of(hop)}
        )

    def request(self, message: Message, target: Target, inbound: Mapping[str, str]) -> httpx.Request:
        request = httpx.Request(
            "POST",
            target.url,
            headers=[
                *SENT,
                *((name.encode(), value.encode("latin-1")) for name, value in trace_context(inbound).items()),
            ],
            content=message.model_dump_json(by_alias=True, exclude_none=True, include=MESSAGE_FIELDS).encode(),
            extensions={"timeout": self.timeouts},
        )
        request.headers.encoding = "latin-1"  # httpx would try others on every access
        return request

    async def read(self, response: httpx.Response) -> bytes:
        """The whole body.

        :raises ReplyTooLarge: it is larger than `MAX_REPLY_BYTES`; the rest is not read.
        """
        limit = self.settings.max_reply_bytes
        body = bytearray()
        encoded = any(name.lower() == b"content-encoding" for name, _ in response.headers.raw)
        stream = response.aiter_bytes() if encoded else response.stream
        async for chunk in cast(AsyncIterable[bytes], stream):
            body += chunk
            if len(body) > limit:
                raise ReplyTooLarge(f"the reply has more than {limit} bytes (MAX_REPLY_BYTES)")
        return bytes(body)

    def hop(
        self,
        message: Message,
        target: Target,
        connection: ConnectionMode,
        trace: "Trace",
        response: httpx.Response | None,
        body: bytes,
        error: BaseException | None,
        caller_headers: Headers,
    ) -> Hop:
        returned = header_map((name.lower(), value) for name, value in response.headers.raw) if response else {}
        ack = ack_of(body, message.id) if response else None
        phases = trace.phases()
        text: str | None = None
        if error is not None or response is None:
            outcome, text = failure_of(error or aiohttp.ServerDisconnectedError(), trace.open)
            answered_by = AnsweredBy(who="caller", name="sample-caller", evidence=text)
            status = gateway_status(outcome)
        else:
            answered_by = answerer(returned, body, ack)
            outcome = reply_outcome(response.status_code, answered_by, ack)
            status = gateway_status(outcome) if outcome is Outcome.BAD_REPLY else response.status_code
            if outcome is not Outcome.OK:
                text = reply_text(response.status_code, answered_by, returned, body, echoed=ack is not None)
            if answered_by.who == "producer":
                phases.producer_delay_millis, phases.producer_work_millis = server_timing(returned)
                if phases.producer_work_millis is not None and phases.wait_millis is not None:
                    spent = (phases.producer_delay_millis or 0) + phases.producer_work_millis
                    phases.network_millis = round(max(phases.wait_millis - spent, 0), 3)
        here, there = self.identity.metadata, metadata_of(returned, ack)
        return Hop(
            id=message.id,
            received=ack.received if ack else None,
            caller_headers=caller_headers,
            producer_headers=masked(ack.headers) if ack else {},
            caller_metadata=here,
            producer_metadata=there,
            status_code=status,
            reply_status=response.status_code if response else None,
            started_at=trace.started_at,
            round_trip_time_millis=round(trace.seconds() * 1000, 3),
            outcome=outcome,
            answered_by=answered_by,
            error=text,
            target=target.name,
            crossing=crossing_of(here, there),
            fault_applied=ack.fault_applied if ack else None,
            addresses=trace.addresses,
            connection=Connection(mode=connection, **trace.connection),
            phases=phases,
            sent_headers=masked(trace.sent_headers),
            returned_headers=returned,
        )


class Questions:
    """Asks the resolver about a target; answers are good for a second, so that a storm of failures asks once."""

    def __init__(self, lookups: Lookups) -> None:
        self.lookups = lookups
        self.asked: dict[str, tuple[float, asyncio.Task[tuple[DnsReport, DnsAnswer]]]] = {}

    async def about(self, target: Target) -> tuple[DnsReport, DnsAnswer]:
        """The report on the target's name, and the resolver's answer for a name that every cluster has."""
        asked_at, asking = self.asked.get(target.host, (0.0, None))
        if asking is None or time.monotonic() - asked_at > GOOD_SECONDS:
            asking = asyncio.create_task(self.ask(target))
            self.asked[target.host] = (time.monotonic(), asking)
        # Shielded: the one who asked first may go away while others wait for the same answer.
        return await asyncio.shield(asking)

    async def ask(self, target: Target) -> tuple[DnsReport, DnsAnswer]:
        return await asyncio.gather(report(target, self.lookups), control(read_resolv_conf()))


def reply_text(status: int, answered_by: AnsweredBy, headers: Headers, body: bytes, *, echoed: bool) -> str:
    """One sentence on a reply that is not `ok`, with the start of the body unless it is the producer's echo."""
    kind = ", ".join(headers.get("content-type", ["no content-type"]))
    text = f"{answered_by.who} {answered_by.name} answered {status}"
    if echoed:
        return text
    start = one_line(body[:800].decode("utf-8", "replace"))
    return f"{text}, {kind}: {start}" if start or status not in BODILESS else text


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
    return aiohttp.ClientSession(
        connector=connector,
        connector_owner=True,
        response_class=TracedResponse,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        trace_configs=[trace_config()],
    )


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
