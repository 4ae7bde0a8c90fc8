"""The result of one call, without its explanation. A failed call is a value, not an exception."""

from datetime import datetime
from functools import lru_cache
from typing import Literal

from pydantic import Field

from caller.hop.connect import Attempt
from caller.hop.outcome import Outcome
from caller.hop.phases import Phases
from common.messages import LOCAL, ClusterMetadata, Headers, Wire

ConnectionMode = Literal["reuse", "fresh"]


class Certificate(Wire):
    """A certificate of X.509 (RFC 5280)."""

    names: list[str] = Field(description="subject alternative names, or else the common name")
    issuer: str = Field(description="distinguished name", examples=["commonName=producer-cluster CA"])
    not_before: datetime
    not_after: datetime


class Connection(Wire):
    """The TCP connection of a call, and what it shows; null: not reached, or unknown on this system.

    Round-trip time, retransmits and acknowledgements are the kernel's (`TCP_INFO`, Linux). Bytes are those of TCP, with
    TLS that of its records, and of this call only.
    """

    mode: ConnectionMode = Field(description="as requested")
    reused: bool | None = Field(default=None, description="whether the call used an idle connection of the pool")
    idle_millis: float | None = Field(default=None, description="how long the reused connection was idle")
    attempts: list[Attempt] = Field(default=[], description="in the order of their start; empty: reused")
    local_address: str | None = Field(default=None, examples=["10.4.1.7:51234"])
    peer_address: str | None = Field(default=None, examples=["34.118.229.70:8080"])
    http_version: str | None = Field(default=None, examples=["1.1"])
    bytes_sent: int | None = None
    bytes_unacknowledged: int | None = Field(
        default=None, description="sent bytes that the other side's kernel had not acknowledged when the call ended"
    )
    bytes_received: int | None = None
    kernel_rtt_millis: float | None = Field(default=None, description="smoothed round-trip time of the connection")
    retransmits: int | None = Field(default=None, description="packets that were sent again")
    closed_before_reply: bool | None = Field(
        default=None, description="whether the other side closed or reset the connection before the reply's first byte"
    )
    tls_version: str | None = Field(default=None, examples=["TLSv1.3"])
    tls_peer_name: str | None = Field(default=None, description="first name in the certificate of the peer")
    tls_alert: str | None = Field(
        default=None, description="alert that the other side sent (RFC 8446, 6)", examples=["certificate_required"]
    )
    tls_verify_error: str | None = Field(default=None, description="why the certificate of the peer was refused")
    peer_certificate: Certificate | None = Field(default=None, description="also when it was refused")


class AnsweredBy(Wire):
    """Who made the reply, and the evidence for it. `none`: no reply came."""

    who: Literal["producer", "proxy", "none"]
    name: str = Field(examples=["sample-producer", "nginx", "Envoy"])
    evidence: str = Field(examples=["x-answered-by: sample-producer"])


class Crossing(Wire):
    """Borders between the caller and the producer; null: unknown, because one side did not identify itself."""

    cluster: bool | None = None
    zone: bool | None = None
    region: bool | None = None

    @property
    def label(self) -> Literal["none", "zone", "region", "unknown"]:
        """The widest border crossed, as a metric label. The cluster has a label of its own."""
        if self.region:
            return "region"
        if self.zone:
            return "zone"
        return "none" if self.zone is False else "unknown"


class Hop(Wire):
    """One call to the producer and everything that the call itself shows."""

    id: str
    received: str | None = Field(description="the payload as the producer echoed it; null: no such reply")
    caller_headers: Headers = Field(description="the request headers as the caller received them; secrets redacted")
    producer_headers: Headers = Field(
        description="the request headers as the producer received them; empty: not reported"
    )
    caller_metadata: ClusterMetadata
    producer_metadata: ClusterMetadata | None = Field(description="null: the producer did not identify itself")
    status_code: int = Field(
        description="status of the reply; without a usable reply, the status that a gateway would send: 502 or 504"
    )
    reply_status: int | None = Field(description="status of the reply, also of a `bad_reply`; null: no reply")
    started_at: float = Field(description="seconds since the epoch, by the caller's clock")
    round_trip_time_millis: float = Field(description="from the start of the call to the last byte of the reply")

    outcome: Outcome
    answered_by: AnsweredBy
    error: str | None = Field(description="what happened; null when the outcome is `ok`")
    target: str = Field(description="the address that was called")
    crossing: Crossing
    fault_applied: bool | None = Field(description="whether the delay and the status were applied; null: unknown")
    addresses: list[str] = Field(description="result of getaddrinfo for this call; empty: not called")
    connection: Connection
    phases: Phases
    sent_headers: Headers = Field(description="the request headers as the caller sent them; secrets redacted")
    returned_headers: Headers = Field(description="the headers of the reply; secrets redacted")

    @property
    def answering_cluster(self) -> str | None:
        """The cluster of the producer; None where unknown."""
        there = self.producer_metadata
        return there.cluster_name if there and there.cluster_name != LOCAL else None


def crossing_of(here: ClusterMetadata, there: ClusterMetadata | None) -> Crossing:
    """Compare both identities. Clusters of the same name in two locations are two clusters."""
    if there is None:
        return Crossing()
    return borders_between(
        (here.cluster_name, there.cluster_name),
        (here.cluster_location, there.cluster_location),
        (here.zone, there.zone),
        (here.region, there.region),
    )


@lru_cache(maxsize=256)
def borders_between(
    cluster: tuple[str, str], location: tuple[str, str], zone: tuple[str, str], region: tuple[str, str]
) -> Crossing:
    """Cached, because few pairs answer many calls."""

    def differ(pair: tuple[str, str]) -> bool | None:
        return None if LOCAL in pair else pair[0] != pair[1]

    apart = differ(cluster)
    if apart is False and differ(location):
        apart = True
    return Crossing(cluster=apart, zone=differ(zone), region=differ(region))
