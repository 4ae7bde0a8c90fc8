"""What a process knows of itself, in Prometheus. Read when it is scraped, so that a request pays nothing for it."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from common.cluster import Identity
from common.lifecycle import Lifecycle
from common.middleware.observe import LoadLimit
from common.resource import resource_attributes


def process_metrics(registry: CollectorRegistry) -> None:
    """Memory, CPU and files of the process, and Python's version and garbage collector."""
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)


class ServiceMetrics(Collector):
    def __init__(
        self, name: str, identity: Identity, lifecycle: Lifecycle, load: LoadLimit, registry: CollectorRegistry
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
            "The identity of the process, as resource attributes; what is not known is left out.",
            {key.replace(".", "_"): value for key, value in resource_attributes(self.name, self.identity).items()},
        )
        yield GaugeMetricFamily("service_ready", "1: ready; 0: starting or draining.", self.lifecycle.ready)
        yield GaugeMetricFamily(
            "service_draining", "1: was told to stop, and still serves; 0: was not.", self.lifecycle.draining
        )
        yield GaugeMetricFamily(
            # https://opentelemetry.io/docs/specs/semconv/http/http-metrics/#metric-httpserveractive_requests
            "http_server_active_requests",
            "Requests in flight; probes and scrapes are not counted.",
            self.load.in_flight,
        )
        yield GaugeMetricFamily(
            "http_server_active_requests_limit", "Requests that may be in flight (MAX_IN_FLIGHT).", self.load.limit
        )
        yield CounterMetricFamily(
            "http_server_requests_refused",
            "Requests answered 503 because as many as allowed were in flight.",
            self.load.refused,
        )
