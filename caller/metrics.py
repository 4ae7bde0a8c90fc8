"""The hop in Prometheus. Label values are bounded; none is called `cluster` or `location`, which Google reserves."""

from prometheus_client import CollectorRegistry, Histogram

from caller.outcome import Hop, Outcome
from caller.target import Target
from common.messages import LOCAL
from common.middleware import DURATION_BUCKETS

MOST_PEERS = 32
"""Clusters, and zones, that get a label value of their own; what a reply says could otherwise be anything."""


class HopMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.client = Histogram(
            # https://opentelemetry.io/docs/specs/semconv/http/http-metrics/#metric-httpclientrequestduration
            "http_client_request_duration_seconds",
            "Duration of HTTP client requests.",
            ("http_request_method", "server_address", "server_port", "http_response_status_code", "error_type"),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.hop = Histogram(
            "caller_hop_duration_seconds",
            "Duration of calls to the producer, by who answered and what became of them.",
            ("target", "outcome", "peer_cluster", "peer_zone", "crossing"),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.clusters: set[str] = set()
        self.zones: set[str] = set()

    def observe(self, target: Target, hop: Hop, reply_status: int | None) -> None:
        """Count one call; `reply_status` is None when no reply came."""
        seconds = hop.round_trip_time_millis / 1000
        there = hop.producer_metadata
        failed = hop.outcome is not Outcome.OK
        self.client.labels("POST", target.host, target.port, reply_status or "", hop.outcome if failed else "").observe(
            seconds
        )
        self.hop.labels(
            target.name,
            hop.outcome,
            bounded(there.cluster_name if there else LOCAL, self.clusters),
            bounded(there.zone if there else LOCAL, self.zones),
            hop.crossing.label,
        ).observe(seconds)

    def cancelled(self, target: Target, seconds: float) -> None:
        self.client.labels("POST", target.host, target.port, "", Outcome.CANCELLED).observe(seconds)
        self.hop.labels(target.name, Outcome.CANCELLED, "unknown", "unknown", "unknown").observe(seconds)


def bounded(value: str, known: set[str]) -> str:
    if value == LOCAL:
        return "unknown"
    if value not in known:
        if len(known) >= MOST_PEERS or len(value) > 100:
            return "other"
        known.add(value)
    return value
