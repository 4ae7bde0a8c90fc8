"""Headers: the trace context that is propagated, and the secrets that are redacted."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from random import getrandbits
from typing import NamedTuple
from uuid import uuid4

from common.messages import Headers

TRACE_CONTEXT = frozenset(
    (
        "traceparent",
        "tracestate",
        "baggage",
        "b3",
        "x-b3-traceid",
        "x-b3-spanid",
        "x-b3-parentspanid",
        "x-b3-sampled",
        "x-b3-flags",
        "x-request-id",
        "x-cloud-trace-context",
        "x-ot-span-context",
    )
)
"""Propagated from the request of the caller's client to the producer: W3C, B3, Envoy, Google Cloud, OpenTracing."""

SECRET = frozenset(
    (
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "x-goog-iap-jwt-assertion",
        "x-serverless-authorization",
        "x-forwarded-access-token",
        "x-auth-request-access-token",
        "x-amzn-oidc-data",
        "x-api-key",
        "x-goog-api-key",
        "x-csrf-token",
    )
)
REDACTED = "***"

_TRACEPARENT = re.compile(r"^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$")
_REQUEST_ID = re.compile(r"^[\x21-\x7e]{1,128}$")


def header_map(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """`name -> [values]`, names in lower case, values of one name in their order; secrets redacted."""
    headers: Headers = {}
    for raw_name, value in raw:
        headers.setdefault(lower_name(raw_name), []).append(value.decode("latin-1"))
    return redacted(headers)


@lru_cache(maxsize=1024)
def lower_name(name: bytes) -> str:
    return name.decode("latin-1").lower()


def redacted(headers: Headers) -> Headers:
    return {name: [REDACTED] * len(values) if name in SECRET else values for name, values in headers.items()}


def trace_context(inbound: Mapping[str, str]) -> dict[str, str]:
    """The trace context to propagate; a missing or malformed `traceparent` is created, as is `x-request-id`.

    `inbound` has lower-case names. A `traceparent` is discarded with its `tracestate` when it is malformed, as W3C
    Trace Context (https://www.w3.org/TR/trace-context/#traceparent-header) requires.
    """
    context = {name: value for name, value in inbound.items() if name in TRACE_CONTEXT}
    if not _TRACEPARENT.match(context.get("traceparent", "")):
        context.pop("tracestate", None)
        context["traceparent"] = f"00-{getrandbits(128) or 1:032x}-{getrandbits(64) or 1:016x}-01"
    context["x-request-id"] = request_id(context.get("x-request-id"))
    return context


def request_id(inbound: str | None) -> str:
    """The inbound request id if it is printable ASCII of at most 128 characters, else a new one."""
    return inbound if inbound and _REQUEST_ID.match(inbound) else str(uuid4())


class TraceParent(NamedTuple):
    """A parsed `traceparent` (https://www.w3.org/TR/trace-context/#traceparent-header); ids in lower-case hex."""

    trace_id: str
    span_id: str
    sampled: bool


def trace_parent(traceparent: str) -> TraceParent | None:
    """None if it is malformed."""
    match = _TRACEPARENT.match(traceparent)
    return TraceParent(match[1], match[2], bool(int(match[3], 16) & 1)) if match else None
