"""Metrics of the process and of its service, in Prometheus. Read when scraped, so that a request pays nothing."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from common.cluster import Identity, resource_attributes
from common.middleware.draining import Lifecycle
from common.middleware.load_limit import Load

DURATION_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)
"""Seconds: those of the OpenTelemetry HTTP conventions, and two more because a delay may last a minute."""


def process_metrics(registry: CollectorRegistry) -> None:
    """Memory, CPU and files of the process, and Python's version and garbage collector."""
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)


class ServiceMetrics(Collector):
    def __init__(
        self, name: str, identity: Identity, lifecycle: Lifecycle, load: Load, registry: CollectorRegistry
    ) -> None:
        self.name = name
        self.identity = identity
        self.lifecycle = lifecycle
        self.load = load
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        # https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/#resource-attributes
        yield InfoMetricFamily(
            "target",
            "The identity of the process, as resource attributes; unknown ones are absent.",
            {key.replace(".", "_"): value for key, value in resource_attributes(self.name, self.identity).items()},
        )
        yield GaugeMetricFamily("service_ready", "1: ready; 0: starting or draining.", self.lifecycle.ready)
        yield GaugeMetricFamily(
            "service_draining", "1: got SIGTERM and still serves; 0: did not.", self.lifecycle.draining
        )
        yield GaugeMetricFamily(
            # https://opentelemetry.io/docs/specs/semconv/http/http-metrics/#metric-httpserveractive_requests
            "http_server_active_requests",
            "Requests in flight; probes and scrapes are not counted.",
            self.load.in_flight,
        )
        yield GaugeMetricFamily(
            "http_server_active_requests_limit", "Maximum requests in flight (MAX_IN_FLIGHT).", self.load.limit
        )
        yield CounterMetricFamily(
            "http_server_requests_refused",
            "Requests answered 503 because MAX_IN_FLIGHT was reached.",
            self.load.refused,
        )
