"""Changes of headers between the caller and the producer: added, changed, removed."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pydantic import Field

from common.headers import TRACE_CONTEXT
from common.messages import Headers, Wire

Group = Literal["tracing", "forwarding", "mesh", "load balancer", "other"]


# A dataclass, because a model takes four times as long to create, and a hop has two dozen.
@dataclass(slots=True)
class HeaderChange:
    """One header between two sides; null where a side did not have it, or it is unknown."""

    name: str
    group: Group
    change: Literal["same", "added", "changed", "removed"]
    sent: list[str] | None
    received: list[str] | None


class HeaderDiff(Wire):
    """Changes of headers between the caller and the producer."""

    request: list[HeaderChange] = Field(description="sent by the caller, received by the producer; empty: not reported")
    reply: list[HeaderChange] = Field(
        description="received by the caller; `added`: not a header that the producer sends"
    )


GROUPS: tuple[tuple[str, Group], ...] = (
    ("x-forwarded-client-cert", "mesh"),
    ("x-envoy-", "mesh"),
    ("x-istio-", "mesh"),
    ("l5d-", "mesh"),
    ("x-b3-", "tracing"),
    ("grpc-trace-bin", "tracing"),
    ("x-goog-", "load balancer"),
    ("x-client-", "load balancer"),
    ("x-gfe-", "load balancer"),
    ("alt-svc", "load balancer"),
    ("x-forwarded-", "forwarding"),
    ("x-real-ip", "forwarding"),
    ("x-original-", "forwarding"),
    ("forwarded", "forwarding"),
    ("via", "forwarding"),
)
"""Names, and prefixes of names (with a hyphen at the end), by who uses them; the first match counts."""

OF_THE_PRODUCER = frozenset(
    (
        "allow",
        "connection",
        "content-length",
        "content-type",
        "date",
        "keep-alive",
        "retry-after",
        "server-timing",
        "transfer-encoding",
        "x-answered-by",
        "x-producer-metadata",
        "x-producer-time",
        "x-request-id",
    )
)
"""Headers of the producer's own replies; any other was added by a proxy."""


def header_diff(sent: Headers, received: Headers, returned: Headers) -> HeaderDiff:
    """Compare what the caller sent with what the producer received, and the reply's with what the producer sends."""
    request = [change_of(name, sent.get(name), received.get(name)) for name in sorted(sent.keys() | received.keys())]
    reply = [
        HeaderChange(name, group_of(name), "same" if name in OF_THE_PRODUCER else "added", None, values)
        for name, values in sorted(returned.items())
    ]
    return HeaderDiff(request=request if received else [], reply=reply)


def change_of(name: str, sent: list[str] | None, received: list[str] | None) -> HeaderChange:
    change: Literal["same", "added", "changed", "removed"]
    if sent is None:
        change = "added"
    elif received is None:
        change = "removed"
    else:
        change = "same" if sent == received else "changed"
    return HeaderChange(name, group_of(name), change, sent, received)


@lru_cache(maxsize=256)
def group_of(name: str) -> Group:
    if name in TRACE_CONTEXT:
        return "tracing"
    for known, group in GROUPS:
        if name == known or (known.endswith("-") and name.startswith(known)):
            return group
    return "other"
