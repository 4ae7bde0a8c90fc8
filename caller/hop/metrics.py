"""Metrics of calls, in Prometheus. Label values are bounded; Google reserves the labels `cluster` and `location`."""

from operator import attrgetter

from prometheus_client import CollectorRegistry, Histogram

from caller.hop.model import Hop
from caller.hop.outcome import Outcome
from caller.hop.phases import PHASES
from caller.target import Target
from common.messages import LOCAL
from common.metrics import DURATION_BUCKETS

MAX_PEERS = 32
"""Clusters, and zones, with a label value of their own; a reply may contain anything."""

MEASURED = (*PHASES, "network")
PHASE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
"""Seconds; finer than those of a call: a lookup or a handshake may take less than a millisecond."""


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
            "Duration of calls to the producer, by outcome and by who answered.",
            ("target", "outcome", "peer_cluster", "peer_zone", "crossing"),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.phase = Histogram(
            "caller_hop_phase_duration_seconds",
            "Duration of the phases of calls; a phase that a call does not have is not counted. "
            "`network` is the part of `wait` that the producer did not spend.",
            ("target", "phase", "peer_cluster"),
            buckets=PHASE_BUCKETS,
            registry=registry,
        )
        self.clusters: set[str] = set()
        self.zones: set[str] = set()
        self.children: dict[tuple[object, ...], tuple[Histogram, Histogram, dict[str, Histogram]]] = {}
        """Cache of histograms by their label values: a lookup by labels costs more than an observation."""

    def observe(self, target: Target, hop: Hop, reply_status: int | None) -> None:
        """Count one call; `reply_status` is None when no reply came."""
        there = hop.producer_metadata
        cluster = bounded(there.cluster_name if there else LOCAL, self.clusters)
        zone = bounded(there.zone if there else LOCAL, self.zones)
        key = (target, hop.outcome, reply_status, cluster, zone, hop.crossing.label)
        children = self.children.get(key)
        if children is None:
            failure = "" if hop.outcome is Outcome.OK else hop.outcome
            children = self.children[key] = (
                self.client.labels("POST", target.host, target.port, reply_status or "", failure),
                self.hop.labels(target.name, hop.outcome, cluster, zone, hop.crossing.label),
                {},
            )
        client, call, phases = children
        client.observe(hop.round_trip_time_millis / 1000)
        call.observe(hop.round_trip_time_millis / 1000)
        for phase, millis in zip(MEASURED, durations(hop.phases), strict=True):
            if millis is not None:
                child = phases.get(phase)
                if child is None:
                    child = phases[phase] = self.phase.labels(target.name, phase, cluster)
                child.observe(millis / 1000)

    def cancelled(self, target: Target, seconds: float) -> None:
        self.client.labels("POST", target.host, target.port, "", Outcome.CANCELLED).observe(seconds)
        self.hop.labels(target.name, Outcome.CANCELLED, "unknown", "unknown", "unknown").observe(seconds)


durations = attrgetter(*(f"{phase}_millis" for phase in MEASURED))
"""Phases -> duration of each in ms, in the order of `MEASURED`; None: the call did not have it."""


def bounded(value: str, known: set[str]) -> str:
    if value == LOCAL:
        return "unknown"
    if value not in known:
        if len(known) >= MAX_PEERS or len(value) > 100:
            return "other"
        known.add(value)
    return value
