from prometheus_client import CollectorRegistry, Gauge, Histogram


class RunMetrics:
    """Metrics of runs, in Prometheus; the calls of a run are counted as any other call."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.runs_active = Gauge("caller_runs_active", "Runs in progress.", registry=registry)
        self.scheduling_delay = Histogram(
            "caller_run_scheduling_delay_seconds",
            "Delay between the intended and the actual start of the calls of runs.",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
            registry=registry,
        )
