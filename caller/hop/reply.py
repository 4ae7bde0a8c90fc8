"""Who made a reply, and what it says: marker header, identity, timing."""

import math
import re
from typing import Annotated

from pydantic import Field, ValidationError

from caller.hop.model import AnsweredBy
from caller.hop.outcome import Outcome
from common.messages import BODILESS, ClusterMetadata, Headers, MessageAck

MARKER = "x-answered-by"
MAX_HEADERS = 256
"""Header names in a reply's body, and values of one name."""

PROXY_HEADERS = (
    # Header, start of its value in lower case, proxy. The first match counts.
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
"""Phrases of bodies, in lower case, that only a proxy writes."""


def answerer(headers: Headers, body: bytes, ack: MessageAck | None) -> AnsweredBy:
    """Who made a reply: every reply of the producer has the marker header, and only it can echo the message."""
    marker = ", ".join(headers.get(MARKER, []))
    if marker:
        return AnsweredBy(who="producer", name=marker, evidence=f"{MARKER}: {marker}")
    if ack is not None:
        return AnsweredBy(who="producer", name="sample-producer", evidence="the body echoes the message")
    for header, start, name in PROXY_HEADERS:
        for value in headers.get(header, []):
            if value.lower().startswith(start):
                return AnsweredBy(who="proxy", name=name, evidence=f"{header}: {value}")
    text = body[:4096].decode("utf-8", "replace").lower()
    for phrase, name in PROXY_BODIES:
        if phrase in text:
            return AnsweredBy(who="proxy", name=name, evidence=f"body: {phrase}")
    return AnsweredBy(who="proxy", name="unknown", evidence=f"no {MARKER} header")


class BoundedAck(MessageAck):
    """The producer's reply with at most as many headers as a request may have: more would take seconds to explain."""

    headers: dict[str, Annotated[list[str], Field(max_length=MAX_HEADERS)]] = Field(max_length=MAX_HEADERS)


def ack_of(body: bytes, message_id: str) -> MessageAck | None:
    """The producer's reply, if the body is one and echoes this very message; else None."""
    try:
        ack = BoundedAck.model_validate_json(body)
    except ValidationError:
        return None
    return ack if ack.id == message_id else None


def reply_outcome(status: int, answered_by: AnsweredBy, ack: MessageAck | None) -> Outcome:
    if status < 200:  # an invalid status, or an interim one (RFC 9110, 15)
        return Outcome.BAD_REPLY
    if answered_by.who == "producer":
        if status >= 400:
            return Outcome.HTTP_ERROR
        return Outcome.OK if ack is not None or status in BODILESS else Outcome.BAD_REPLY
    return Outcome.PROXY_ERROR if status >= 400 else Outcome.BAD_REPLY


def metadata_of(headers: Headers, ack: MessageAck | None) -> ClusterMetadata | None:
    """The producer's identity: from its body, else from the header that its other replies have too."""
    if ack is not None:
        return ack.metadata
    for value in headers.get("x-producer-metadata", []):
        try:
            return ClusterMetadata.model_validate_json(value)
        except ValidationError:
            continue
    return None


_TIMING = re.compile(r"\b(delay|work);dur=(\d+(?:\.\d+)?)")


def server_timing(headers: Headers) -> tuple[float | None, float | None]:
    """The producer's injected delay and its own work in ms, from `Server-Timing` (https://www.w3.org/TR/server-timing/)."""
    found = {name: float(value) for name, value in _TIMING.findall(", ".join(headers.get("server-timing", [])))}
    finite = {name: millis for name, millis in found.items() if math.isfinite(millis)}
    return finite.get("delay"), finite.get("work")
