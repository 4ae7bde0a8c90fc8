"""One call to the producer: `ProducerClient.call(message, target) -> Hop`; and `explain(hop, …)`, which costs more."""

import asyncio
import zlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Self, cast

import aiohttp
import httpx

from caller.explain.diagnosis import diagnose
from caller.explain.dns import Lookups, Questions
from caller.explain.header_diff import header_diff
from caller.hop.metrics import HopMetrics
from caller.hop.outcome import (
    AnsweredBy,
    Connection,
    Hop,
    Outcome,
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
from caller.hop.transport import AiohttpTransport
from caller.hop.wire import TRACE, ConnectionMode, Trace, tls_context, traced_session
from caller.settings import Settings
from caller.target import Target
from common import __version__
from common.cluster import Identity
from common.headers import header_map, masked, trace_context
from common.messages import BODILESS, ClusterMetadata, Headers, Message

if TYPE_CHECKING:
    from caller.hop.span import HopSpan, HopSpans

MESSAGE_FIELDS = set(Message.model_fields)
"""What is sent of a message; the caller's own fields are not the producer's."""

SENT = (
    (b"accept", b"application/json"),
    (b"accept-encoding", b"identity"),
    (b"content-type", b"application/json"),
    (b"user-agent", f"sample-caller/{__version__}".encode()),
)
"""Headers of every request; of the request that a call is made for, only the trace context is passed on."""

COMPRESSED = frozenset((b"gzip", b"x-gzip", b"deflate"))
GZIP_OR_ZLIB = 47
"""`wbits` of zlib: a gzip or a zlib header, whichever is there."""

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
        spans: "HopSpans | None" = None,
    ) -> None:
        self.settings = settings
        self.identity = identity
        self.metrics = metrics
        self.transports = transports
        self.timeouts = {"connect": settings.connect_timeout_seconds}
        self.last_seen: dict[Target, ClusterMetadata] = {}
        self.dns = Questions(lookups)
        self.spans = spans

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, settings: Settings, identity: Identity, metrics: HopMetrics, spans: "HopSpans | None" = None
    ) -> AsyncIterator[Self]:
        """A client whose connections are closed at the end; `spans`: where there are traces.

        Two pools, because a ClusterSetIP is balanced per connection: one keeps connections, one never does.
        """
        tls = tls_context(settings)
        async with AsyncExitStack() as stack:
            lookups = Lookups()
            transports: dict[ConnectionMode, httpx.AsyncBaseTransport] = {}
            for mode in ("reuse", "fresh"):
                session = await stack.enter_async_context(traced_session(mode, tls, lookups))
                transports[mode] = AiohttpTransport(session)
            yield cls(settings, identity, metrics, transports, lookups, spans)

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
        span = self.spans.started(target, trace, for_request=inbound is not None) if self.spans else None
        request = self.request(message, target, inbound or {}, span)
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
            trace.finish()
            self.metrics.cancelled(target, trace.seconds())
            if span is not None:
                span.cancelled()
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
        if span is not None:
            span.end(hop)
        return hop

    async def explain(self, hop: Hop, message: Message, target: Target, timeout_seconds: float | None = None) -> Hop:
        """The hop with header diff, clock skew and diagnosis; where no reply came, also with what the resolver says."""
        dns, control = None, None
        if hop.answered_by.who == "caller":
            dns, control = await self.dns.about(target)
        call_timeout = timeout_seconds or self.settings.call_timeout_seconds
        timeouts = (self.settings.connect_timeout_seconds, call_timeout)
        diagnosis = diagnose(
            hop, target, message, dns=dns, control=control, last_seen=self.last_seen.get(target), timeouts=timeouts
        )
        diff = header_diff(hop.sent_headers, hop.producer_headers, hop.returned_headers)
        return hop.model_copy(
            update={"dns": dns, "diagnosis": diagnosis, "header_diff": diff, "clock_skew": clock_skew_of(hop)}
        )

    def request(
        self, message: Message, target: Target, inbound: Mapping[str, str], span: "HopSpan | None"
    ) -> httpx.Request:
        context = trace_context(inbound)
        if span is not None:
            span.inject(context)
        body = message.model_dump_json(by_alias=True, exclude_none=True, include=MESSAGE_FIELDS).encode()
        request = httpx.Request(
            "POST",
            target.url,
            headers=[
                (b"host", target.url.netloc),
                *SENT,
                (b"content-length", b"%d" % len(body)),
                *((name.encode(), value.encode("latin-1")) for name, value in context.items()),
            ],
            stream=httpx.ByteStream(body),  # as `content` it would take httpx five times as long
            extensions={"timeout": self.timeouts},
        )
        request.headers.encoding = "latin-1"  # httpx would try others on every access
        return request

    async def read(self, response: httpx.Response) -> bytes:
        """The whole body, decompressed if it came with one gzip or deflate; encodings in layers are left as they are.

        :raises ReplyTooLarge: it is larger than `MAX_REPLY_BYTES`; the rest is neither read nor decompressed.
        :raises httpx.DecodingError: it is compressed and broken.
        """
        limit = self.settings.max_reply_bytes
        body = bytearray()
        encodings = [value.lower() for name, value in response.headers.raw if name.lower() == b"content-encoding"]
        unzip = zlib.decompressobj(GZIP_OR_ZLIB) if len(encodings) == 1 and encodings[0] in COMPRESSED else None
        is_whole = True
        try:
            async for chunk in cast(AsyncIterable[bytes], response.stream):
                body += chunk if unzip is None else unzip.decompress(chunk, limit + 1 - len(body))
                is_whole = unzip is None or unzip.eof
                if len(body) > limit:
                    raise ReplyTooLarge(f"the reply has more than {limit} bytes (MAX_REPLY_BYTES)")
        except zlib.error as error:
            raise httpx.DecodingError(f"the compressed reply is broken: {error}") from error
        if not is_whole:
            raise httpx.DecodingError("the compressed reply is cut short")
        return bytes(body)

    def hop(
        self,
        message: Message,
        target: Target,
        connection: ConnectionMode,
        trace: Trace,
        response: httpx.Response | None,
        body: bytes,
        error: BaseException | None,
        caller_headers: Headers,
    ) -> Hop:
        returned = header_map(response.headers.raw) if response else {}
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
            # RFC 9110, 15: a status from 600 on is none, and counts as a 5xx.
            is_usable = outcome is not Outcome.BAD_REPLY and response.status_code <= 599
            status = response.status_code if is_usable else gateway_status(outcome)
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


def reply_text(status: int, answered_by: AnsweredBy, headers: Headers, body: bytes, *, echoed: bool) -> str:
    """One sentence on a reply that is not `ok`, with the start of the body unless it is the producer's echo."""
    kind = ", ".join(headers.get("content-type", ["no content-type"]))
    text = f"{answered_by.who} {answered_by.name} answered {status}"
    if echoed:
        return text
    start = one_line(body[:800].decode("utf-8", "replace"))
    return f"{text}, {kind}: {start}" if start or status not in BODILESS else text
