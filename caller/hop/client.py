"""One call to the producer: `ProducerClient.call(message, target) -> Hop`."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self, cast

import httpx

from caller.hop.metrics import HopMetrics
from caller.hop.model import AnsweredBy, Connection, ConnectionMode, Hop, crossing_of
from caller.hop.outcome import (
    BrokenReply,
    ConnectionClosed,
    Outcome,
    ReplyTooLarge,
    failure_of,
    gateway_status,
    one_line,
)
from caller.hop.phases import CallClock
from caller.hop.reply import ack_of, answerer, metadata_of, reply_outcome, server_timing
from caller.hop.resolver import Resolver
from caller.hop.tls import tls_context
from caller.hop.wire import HopTransport
from caller.settings import Settings
from caller.target import Target
from common import __version__
from common.cluster import Identity
from common.headers import header_map, redacted, trace_context
from common.messages import BODILESS, ClusterMetadata, Headers, Message

if TYPE_CHECKING:
    from caller.hop.span import HopSpan, HopSpans

MESSAGE_FIELDS = set(Message.model_fields)
"""The fields that are sent to the producer; the caller's own fields are not."""

SENT = (
    (b"accept", b"application/json"),
    (b"accept-encoding", b"identity"),
    (b"content-type", b"application/json"),
    (b"user-agent", f"sample-caller/{__version__}".encode()),
)
"""Headers of every request; of the inbound request only the trace context is propagated."""

COMPRESSED = frozenset((b"gzip", b"x-gzip", b"deflate"))
GZIP_OR_ZLIB = 47
"""`wbits` of zlib: detects a gzip or a zlib header."""

LARGE_REPLY_BYTES = 65_536
"""Replies above this are parsed one at a time, with other work of the event loop between them."""

FAILURES = (OSError, ConnectionClosed, BrokenReply, ReplyTooLarge, httpx.DecodingError)
"""Errors of the network or of the other side. Any other exception is a bug of the caller."""


class ProducerClient:
    """Calls the producer. One per process: it owns the connection pools."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        metrics: HopMetrics,
        transport: httpx.AsyncBaseTransport,
        resolver: Resolver,
        spans: "HopSpans | None" = None,
    ) -> None:
        self.settings = settings
        self.identity = identity
        self.metrics = metrics
        self.transport = transport
        self.large_replies = asyncio.Lock()
        self.last_seen: dict[Target, ClusterMetadata] = {}
        """Who answered the last call to a target that was answered by a producer."""
        self.resolver = resolver
        self.spans = spans

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, settings: Settings, identity: Identity, metrics: HopMetrics, spans: "HopSpans | None" = None
    ) -> AsyncIterator[Self]:
        """A client whose connections are closed at the end; `spans`: if traces are enabled."""
        resolver = Resolver()
        async with HopTransport(
            resolver, tls_context(settings), settings.connect_timeout_seconds, settings.max_reply_bytes
        ) as transport:
            yield cls(settings, identity, metrics, transport, resolver, spans)

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
        """Send the message to the target. A failure is a hop with an outcome, not an exception.

        :param timeout_seconds: for the whole call; default `CALL_TIMEOUT_SECONDS`.
        :param inbound: headers of the request that caused this call, in lower case; its trace context is propagated.
        :param caller_headers: all headers of that request, redacted, for the hop.
        :raises asyncio.CancelledError: the client disconnected; counted as the outcome `cancelled`.
        """
        clock = CallClock()
        span = self.spans.started(target, clock, for_request=inbound is not None) if self.spans else None
        request = self.request(message, target, connection, clock, inbound or {}, span)
        body = b""
        response: httpx.Response | None = None
        error: Exception | None = None
        clock.connection["mode"] = connection
        try:
            async with asyncio.timeout(timeout_seconds or self.settings.call_timeout_seconds):
                response = await self.transport.handle_async_request(request)
                async for piece in cast(httpx.AsyncByteStream, response.stream):
                    body = piece
            body = decompressed(response, body, self.settings.max_reply_bytes)
            if len(body) > LARGE_REPLY_BYTES:
                async with self.large_replies:
                    await asyncio.sleep(0)
        except FAILURES as failure:
            error = failure
        except asyncio.CancelledError:
            clock.finish()
            self.metrics.cancelled(target, clock.seconds())
            if span is not None:
                span.cancelled()
            raise
        finally:
            clock.finish()
            if response is not None:
                await response.aclose()
        hop = self.hop(message, target, connection, clock, response, body, error, caller_headers or {})
        self.metrics.observe(target, hop, reply_status=None if error or response is None else response.status_code)
        if hop.producer_metadata is not None:
            self.last_seen[target] = hop.producer_metadata
        if span is not None:
            span.end(hop)
        return hop

    def request(
        self,
        message: Message,
        target: Target,
        connection: ConnectionMode,
        clock: CallClock,
        inbound: Mapping[str, str],
        span: "HopSpan | None",
    ) -> httpx.Request:
        context = trace_context(inbound)
        if span is not None:
            span.inject(context)
        body = message.model_dump_json(by_alias=True, exclude_none=True, include=MESSAGE_FIELDS).encode()
        is_fresh = connection == "fresh"
        return httpx.Request(
            "POST",
            target.url,
            headers=[
                (b"host", target.url.netloc),
                *SENT,
                *([(b"connection", b"close")] if is_fresh else []),
                (b"content-length", b"%d" % len(body)),
                *((name.encode(), value.encode("latin-1")) for name, value in context.items()),
            ],
            stream=httpx.ByteStream(body),  # `content=` takes httpx five times as long
            extensions={"clock": clock, "fresh": is_fresh},
        )

    def hop(
        self,
        message: Message,
        target: Target,
        connection: ConnectionMode,
        clock: CallClock,
        response: httpx.Response | None,
        body: bytes,
        error: Exception | None,
        caller_headers: Headers,
    ) -> Hop:
        returned = header_map(response.headers.raw) if response else {}
        ack = ack_of(body, message.id) if response else None
        text: str | None = None
        producer_times: tuple[float | None, float | None] = None, None
        if response is None or error is not None:
            outcome, text = failure_of(error or ConnectionClosed(), clock)
            answered_by = AnsweredBy(who="none", name="none", evidence=text)
            status = gateway_status(outcome)
        else:
            answered_by = answerer(returned, body, ack)
            outcome = reply_outcome(response.status_code, answered_by, ack)
            # RFC 9110, 15: a status of 600 and above is invalid, and counts as a 5xx.
            is_usable = outcome is not Outcome.BAD_REPLY and response.status_code <= 599
            status = response.status_code if is_usable else gateway_status(outcome)
            if outcome is not Outcome.OK:
                text = reply_text(response.status_code, answered_by, returned, body, echoed=ack is not None)
            if answered_by.who == "producer":
                producer_times = server_timing(returned)
        here, there = self.identity.metadata, metadata_of(returned, ack)
        return Hop(
            id=message.id,
            received=ack.received if ack else None,
            caller_headers=caller_headers,
            producer_headers=redacted(ack.headers) if ack else {},
            caller_metadata=here,
            producer_metadata=there,
            status_code=status,
            reply_status=response.status_code if response else None,
            started_at=clock.started_at,
            round_trip_time_millis=round(clock.seconds() * 1000, 3),
            outcome=outcome,
            answered_by=answered_by,
            error=text,
            target=target.name,
            crossing=crossing_of(here, there),
            fault_applied=ack.fault_applied if ack else None,
            addresses=clock.addresses,
            connection=Connection.model_validate(clock.connection),
            phases=clock.phases(*producer_times),
            sent_headers=header_map(clock.sent_headers),
            returned_headers=returned,
        )


def decompressed(response: httpx.Response, body: bytes, limit: int) -> bytes:
    """The body, decompressed if it has one encoding, gzip or deflate; layered encodings stay as they are.

    :raises ReplyTooLarge: larger than `limit` bytes (`MAX_REPLY_BYTES`); the rest is not decompressed.
    :raises httpx.DecodingError: the compressed data is invalid.
    """
    encodings = [value.lower() for name, value in response.headers.raw if name.lower() == b"content-encoding"]
    if len(encodings) != 1 or encodings[0] not in COMPRESSED:
        return body
    unzip = zlib.decompressobj(GZIP_OR_ZLIB)
    try:
        body = unzip.decompress(body, limit + 1)
    except zlib.error as error:
        raise httpx.DecodingError(f"the compressed reply is invalid: {error}") from error
    if len(body) > limit:
        raise ReplyTooLarge(f"the reply exceeds {limit} bytes (MAX_REPLY_BYTES)")
    if not unzip.eof:
        raise httpx.DecodingError("the compressed reply is truncated")
    return body


def reply_text(status: int, answered_by: AnsweredBy, headers: Headers, body: bytes, *, echoed: bool) -> str:
    """One sentence about a reply that is not `ok`, with the start of the body unless it is the producer's echo."""
    kind = ", ".join(headers.get("content-type", ["no content-type"]))
    text = f"{answered_by.who} {answered_by.name} answered {status}"
    if echoed:
        return text
    start = one_line(body[:800].decode("utf-8", "replace"))
    return f"{text}, {kind}: {start}" if start or status not in BODILESS else text
