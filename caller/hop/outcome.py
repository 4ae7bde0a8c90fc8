"""What became of one call: the models, and below them the way from an exception or a reply to an outcome.

A failed call is a value, not an exception. The vocabulary is one from here to the page.
"""

import errno
import math
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Literal

import aiohttp
import httpx
from pydantic import Field, ValidationError

from caller.explain.dns import DnsReport, gai_name
from common.messages import BODILESS, LOCAL, ClusterMetadata, Headers, MessageAck, Wire


class Outcome(StrEnum):
    """What became of a call, in one word."""

    OK = "ok"
    HTTP_ERROR = "http_error"
    """the producer's own 4xx or 5xx"""
    PROXY_ERROR = "proxy_error"
    """a 4xx or 5xx that the producer did not make"""
    DNS_NXDOMAIN = "dns_nxdomain"
    DNS_NO_DATA = "dns_no_data"
    DNS_UNAVAILABLE = "dns_unavailable"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    CONNECT_TIMEOUT = "connect_timeout"
    TLS_ERROR = "tls_error"
    RESET = "reset"
    CLOSED = "closed"
    READ_TIMEOUT = "read_timeout"
    BAD_REPLY = "bad_reply"
    """not the producer's JSON"""
    CANCELLED = "cancelled"
    """whoever asked for the call went away"""


TIMEOUTS = frozenset((Outcome.CONNECT_TIMEOUT, Outcome.READ_TIMEOUT))

Phase = Literal["dns", "connect", "tls", "send", "wait", "body"]


class Phases(Wire):
    """Where the time went, in ms; null: not taken (a warm connection has no `dns`, `connect` and `tls`).

    The first six add up to `roundTripTimeMillis`. A phase holds the caller's own work right before it; the phase in
    which a call failed lasts until it failed. The last three split `waitMillis`, by the producer's `Server-Timing`.
    """

    dns_millis: float | None = None
    connect_millis: float | None = None
    tls_millis: float | None = None
    send_millis: float | None = None
    wait_millis: float | None = None
    body_millis: float | None = None
    producer_delay_millis: float | None = Field(default=None, description="the delay that was asked for")
    producer_work_millis: float | None = Field(default=None, description="the producer's own work")
    network_millis: float | None = Field(default=None, description="waitMillis less what the producer spent")


class Connection(Wire):
    """The TCP connection of a call; null where it never came to one."""

    mode: Literal["reuse", "fresh"] = Field(description="what was asked for")
    reused: bool | None = Field(default=None, description="whether the call went over a connection that was open")
    local_address: str | None = Field(default=None, examples=["10.4.1.7:51234"])
    peer_address: str | None = Field(default=None, examples=["34.118.229.70:8080"])
    http_version: str | None = Field(default=None, examples=["1.1"])
    tls_version: str | None = Field(default=None, examples=["TLSv1.3"])
    tls_peer_name: str | None = Field(default=None, description="first name in the certificate of the peer")


class AnsweredBy(Wire):
    """Who made the reply, and how that is known."""

    who: Literal["producer", "proxy", "caller"]
    name: str = Field(examples=["sample-producer", "nginx", "Envoy"])
    evidence: str = Field(examples=["x-answered-by: sample-producer"])


class Crossing(Wire):
    """What lies between the caller and the producer; null: one of both is unknown."""

    cluster: bool | None = None
    zone: bool | None = None
    region: bool | None = None

    @property
    def label(self) -> Literal["none", "zone", "region", "unknown"]:
        """The widest border that was crossed. A cluster has its own metric label, so it is not one of these."""
        if self.region:
            return "region"
        if self.zone:
            return "zone"
        return "none" if self.zone is False else "unknown"


class ClockSkew(Wire):
    """The producer's clock less the caller's, in ms; positive: the producer's is ahead.

    The reply was started after the request was sent and before it was received, so the skew lies between the two
    differences: half the network time is how wrong the middle can be (RFC 5905, 8, with one exchange).
    """

    millis: float
    error_millis: float = Field(description="the skew is within this of `millis`")


class DiagnosedCause(Wire):
    """One likely cause, with the command that confirms it."""

    cause: str
    command: str = Field(description="for a shell; filled in with the names of this call")
    fix: str
    source: str = Field(description="where the rule comes from")


class Diagnosis(Wire):
    """What a call that is not plainly `ok` probably means."""

    severity: Literal["error", "warning"]
    title: str
    summary: str
    causes: list[DiagnosedCause] = Field(description="the likeliest first")


# No model, which takes four times as long to make: a hop has two dozen.
@dataclass(slots=True)
class HeaderChange:
    """One header on its way; values null where that side did not have it, or is not known to."""

    name: str
    group: Literal["tracing", "forwarding", "mesh", "load balancer", "other"]
    change: Literal["same", "added", "changed", "removed"]
    sent: list[str] | None
    received: list[str] | None


class HeaderDiff(Wire):
    """What happened to headers between the caller and the producer."""

    request: list[HeaderChange] = Field(
        description="sent by the caller, received by the producer; empty: it did not say"
    )
    reply: list[HeaderChange] = Field(description="received by the caller; `added`: the producer sends no such header")


class Hop(Wire):
    """One call to the producer and everything learnt from it."""

    id: str
    received: str | None = Field(description="the payload as the producer echoed it; null: no such answer")
    caller_headers: Headers = Field(description="the request headers as the caller received them; secrets masked")
    producer_headers: Headers = Field(description="as the producer received them; empty: it did not say")
    caller_metadata: ClusterMetadata
    producer_metadata: ClusterMetadata | None = Field(description="null: nobody said")
    status_code: int = Field(
        description="of the producer or a proxy; of a failed exchange what a gateway would say: 502 or 504"
    )
    reply_status: int | None = Field(description="the status that came in, also of a `bad_reply`; null: none came")
    started_at: float = Field(description="seconds since the epoch, by the caller's clock")
    round_trip_time_millis: float = Field(description="from the start of the call to the last byte of the reply")

    outcome: Outcome
    answered_by: AnsweredBy
    error: str | None = Field(description="what happened, when the outcome is not `ok`")
    target: str = Field(description="the address that was called")
    crossing: Crossing
    fault_applied: bool | None = Field(description="whether the delay and the status were applied; null: unknown")
    addresses: list[str] = Field(description="what getaddrinfo gave for this call; empty: not asked")
    connection: Connection
    phases: Phases
    sent_headers: Headers = Field(description="the request headers as the caller sent them; secrets masked")
    returned_headers: Headers = Field(description="the headers of the reply; secrets masked")

    clock_skew: ClockSkew | None = Field(default=None, description="null: the reply has no `x-producer-time`")
    header_diff: HeaderDiff | None = None
    diagnosis: Diagnosis | None = Field(default=None, description="null: the call is plainly `ok`")
    dns: DnsReport | None = Field(default=None, description="asked only when no reply came")

    @property
    def answering_cluster(self) -> str | None:
        """The cluster of the producer, if it said one."""
        there = self.producer_metadata
        return there.cluster_name if there and there.cluster_name != LOCAL else None


def crossing_of(here: ClusterMetadata, there: ClusterMetadata | None) -> Crossing:
    """Compare both identities. Clusters of one name in two locations are two clusters."""
    if there is None:
        return Crossing()
    return compared(
        (here.cluster_name, there.cluster_name),
        (here.cluster_location, there.cluster_location),
        (here.zone, there.zone),
        (here.region, there.region),
    )


@lru_cache(maxsize=256)
def compared(
    cluster: tuple[str, str], location: tuple[str, str], zone: tuple[str, str], region: tuple[str, str]
) -> Crossing:
    """Few pairs answer many calls, so the answer is kept."""

    def differ(pair: tuple[str, str]) -> bool | None:
        return None if LOCAL in pair else pair[0] != pair[1]

    apart = differ(cluster)
    if apart is False and differ(location):
        apart = True
    return Crossing(cluster=apart, zone=differ(zone), region=differ(region))


class BrokenReply(aiohttp.ClientPayloadError):
    """What came after the head of a reply is no HTTP."""


class ReplyTooLarge(Exception):
    """A reply that is larger than what the caller reads."""


def failure_of(error: BaseException, phase: Phase) -> tuple[Outcome, str]:
    """The outcome of a call that got no reply, by the cause below what the client library raises.

    :param phase: the phase that was open when it failed; it tells one time-out from another.
    """
    causes = list(chain(error))
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            return dns_failure(cause), f"getaddrinfo: {cause.strerror} ({gai_name(cause)})"
    for cause in causes:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, aiohttp.ClientError):
            return Outcome.TLS_ERROR, f"TLS: {tls_text(cause)}"
    for cause in causes:
        if isinstance(cause, OSError) and (number := errno_of(cause)) is not None:
            return os_failure(number, phase), f"{os_text(cause, number)} while in phase {phase}"
    for cause in causes:
        if isinstance(cause, TimeoutError):
            return timeout_failure(phase), f"timed out in phase {phase}"
    for cause in causes:
        if isinstance(cause, BrokenReply):
            return Outcome.BAD_REPLY, one_line(str(cause))
        if isinstance(cause, aiohttp.ClientPayloadError):
            # In the midst of a body, aiohttp tells a reset from a close in its text only.
            if "ConnectionResetError" in str(cause):
                return Outcome.RESET, "ECONNRESET: the connection was reset before the reply was complete"
            return Outcome.CLOSED, "the connection was closed before the reply was complete"
        if isinstance(cause, aiohttp.ClientResponseError | httpx.DecodingError | ReplyTooLarge):
            return Outcome.BAD_REPLY, one_line(str(getattr(cause, "message", cause)))
    return Outcome.CLOSED, "the connection was closed without a reply"


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first. `__context__` counts too: libraries re-raise `from None`."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if isinstance(current, BaseExceptionGroup):
            pending.extend(current.exceptions)
        pending.extend(cause for cause in (current.__context__, current.__cause__) if cause is not None)


def dns_failure(error: socket.gaierror) -> Outcome:
    """getaddrinfo's error as glibc gives it. EAI_AGAIN is SERVFAIL, REFUSED and silence alike."""
    if error.errno == socket.EAI_NONAME:
        return Outcome.DNS_NXDOMAIN
    if error.errno in (socket.EAI_NODATA, socket.EAI_ADDRFAMILY):
        return Outcome.DNS_NO_DATA
    return Outcome.DNS_UNAVAILABLE


UNREACHABLE = frozenset((errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM))


def os_failure(number: int, phase: Phase) -> Outcome:
    if number == errno.ECONNREFUSED:
        return Outcome.REFUSED
    if number in UNREACHABLE:
        return Outcome.UNREACHABLE
    if number == errno.ETIMEDOUT:
        return timeout_failure(phase)
    return Outcome.RESET


def timeout_failure(phase: Phase) -> Outcome:
    """A handshake that is not finished in time is a TLS error: TCP did connect, so no firewall is to blame."""
    if phase == "dns":
        return Outcome.DNS_UNAVAILABLE
    if phase == "connect":
        return Outcome.CONNECT_TIMEOUT
    if phase == "tls":
        return Outcome.TLS_ERROR
    return Outcome.READ_TIMEOUT


def errno_of(error: OSError) -> int | None:
    """The error number; of several addresses that failed in different ways, that of the last one tried."""
    if error.errno is not None:
        return error.errno
    numbers = re.findall(r"\[Errno (\d+)\]", str(error))
    return int(numbers[-1]) if numbers else None


def os_text(error: OSError, number: int) -> str:
    return f"{errno.errorcode.get(number, number)}: {one_line(error.strerror or str(error))}"


def tls_text(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return one_line(error.verify_message or str(error))
    return one_line(error.reason or str(error))


def one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 200 else text[:200] + "…"


def gateway_status(outcome: Outcome) -> int:
    """What a gateway would answer for an exchange that failed (RFC 9110, 15.6.3 and 15.6.5)."""
    return 504 if outcome in TIMEOUTS else 502


STAMP = "x-answered-by"

PROXY_HEADERS = (
    # A header and the start of its value, in lower case; who sends it. The first that fits counts.
    ("server", "istio-envoy", "Istio's Envoy"),
    ("server", "envoy", "Envoy"),
    ("server", "nginx", "nginx"),
    ("server", "openresty", "nginx"),
    ("server", "google frontend", "Google Front End"),
    ("server", "gws", "Google Front End"),
    ("server", "gse", "Google Front End"),
    ("server", "haproxy", "HAProxy"),
    ("server", "traefik", "Traefik"),
    ("server", "caddy", "Caddy"),
    ("server", "apache", "Apache httpd"),
    ("server", "linkerd", "Linkerd"),
    ("l5d-proxy-error", "", "Linkerd"),
    ("via", "1.1 google", "Google Cloud load balancer"),
    ("via", "", "a proxy (via)"),
    ("x-envoy-upstream-service-time", "", "Envoy"),
    ("x-envoy-overloaded", "", "Envoy"),
    ("x-envoy-ratelimited", "", "Envoy"),
    ("x-envoy-response-flags", "", "Envoy"),
)

PROXY_BODIES = (
    ("upstream connect error or disconnect/reset before headers", "Envoy"),
    ("no healthy upstream", "Envoy"),
    ("upstream request timeout", "Envoy"),
    ("rbac: access denied", "Envoy"),
    ("fault filter abort", "Envoy"),
    ("stream timeout", "Envoy"),
    ("<center>nginx", "nginx"),
    ("the server encountered a temporary error and could not complete your request", "Google Cloud load balancer"),
    ("response 404 (backend notfound)", "Google Cloud load balancer"),
)
"""Words of bodies, in lower case, that only a proxy writes."""


def answerer(headers: Headers, body: bytes, ack: MessageAck | None) -> AnsweredBy:
    """Who made a reply: the producer stamps each of its own, and only it can echo the message."""
    stamp = ", ".join(headers.get(STAMP, []))
    if stamp:
        return AnsweredBy(who="producer", name=stamp, evidence=f"{STAMP}: {stamp}")
    if ack is not None:
        return AnsweredBy(who="producer", name="sample-producer", evidence="the body echoes the message")
    for header, start, name in PROXY_HEADERS:
        for value in headers.get(header, []):
            if value.lower().startswith(start):
                return AnsweredBy(who="proxy", name=name, evidence=f"{header}: {value}")
    text = body[:4096].decode("utf-8", "replace").lower()
    for mark, name in PROXY_BODIES:
        if mark in text:
            return AnsweredBy(who="proxy", name=name, evidence=f"body: {mark}")
    return AnsweredBy(who="proxy", name="unknown", evidence=f"no {STAMP} header")


def ack_of(body: bytes, message_id: str) -> MessageAck | None:
    """The producer's answer, if the body is that and answers this very message."""
    try:
        ack = MessageAck.model_validate_json(body)
    except ValidationError:
        return None
    return ack if ack.id == message_id else None


def reply_outcome(status: int, answered_by: AnsweredBy, ack: MessageAck | None) -> Outcome:
    if answered_by.who == "producer":
        if status >= 400:
            return Outcome.HTTP_ERROR
        return Outcome.OK if ack is not None or status in BODILESS else Outcome.BAD_REPLY
    return Outcome.PROXY_ERROR if status >= 400 else Outcome.BAD_REPLY


def metadata_of(headers: Headers, ack: MessageAck | None) -> ClusterMetadata | None:
    """The producer's identity: from its answer, else from the header that its bodiless and its error replies have."""
    if ack is not None:
        return ack.metadata
    for value in headers.get("x-producer-metadata", []):
        try:
            return ClusterMetadata.model_validate_json(value)
        except ValidationError:
            continue
    return None


def clock_skew_of(hop: Hop) -> ClockSkew | None:
    """By the clock that the producer put into its reply, which it looked at after its delay and its work."""
    phases = hop.phases
    try:
        theirs = float(hop.returned_headers["x-producer-time"][0])
    except (KeyError, ValueError):
        return None
    before = sum(
        millis or 0 for millis in (phases.dns_millis, phases.connect_millis, phases.tls_millis, phases.send_millis)
    )
    earliest = hop.started_at * 1000 + before + (phases.producer_delay_millis or 0) + (phases.producer_work_millis or 0)
    latest = hop.started_at * 1000 + before + (phases.wait_millis or 0)
    skew = theirs * 1000 - (earliest + latest) / 2
    if not math.isfinite(skew):
        return None
    return ClockSkew(millis=round(skew, 3), error_millis=round(max(latest - earliest, 0) / 2, 3))


_TIMING = re.compile(r"\b(delay|work);dur=(\d+(?:\.\d+)?)")


def server_timing(headers: Headers) -> tuple[float | None, float | None]:
    """The producer's injected delay and own work in ms, from its `Server-Timing` (https://www.w3.org/TR/server-timing/)."""
    found = dict(_TIMING.findall(", ".join(headers.get("server-timing", []))))
    return (
        float(found["delay"]) if "delay" in found else None,
        float(found["work"]) if "work" in found else None,
    )
