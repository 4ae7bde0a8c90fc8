"""The Grafana dashboard as data: `python -m observability.dashboard` prints it, `make docs` writes it."""

import json
import sys
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

HOPS = 'cluster=~"$cluster", namespace=~"$namespace", target=~"$target"'
PODS = 'cluster=~"$cluster", namespace=~"$namespace"'
SERVICES = f'{PODS}, app=~"sample-(caller|producer)"'
PRODUCER = f'{PODS}, app="sample-producer", http_route="/producer/messages"'


class Query(NamedTuple):
    expr: str
    legend: str


class Panel(NamedTuple):
    """A panel. `kind`: Grafana's panel type; `width`: in 24ths of the page."""

    title: str
    description: str
    queries: list[Query]
    unit: str = "reqps"
    kind: str = "timeseries"
    width: int = 12
    stacked: bool = False


def rate(metric: str, *labels: str) -> str:
    return f"rate({metric}{{{', '.join(labels)}}}[$__rate_interval])"


def quantile(q: float, metric: str, *labels: str, by: str = "") -> str:
    """Query for a quantile of a histogram, by one label or none."""
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({groups}) ({rate(f'{metric}_bucket', *labels)}))"


def quantiles(metric: str, *labels: str) -> list[Query]:
    return [Query(quantile(q, metric, *labels), f"p{q * 100:.0f}") for q in (0.5, 0.9, 0.99)]


CALLS = rate("caller_hop_duration_seconds_count", HOPS)
FAILED = rate("caller_hop_duration_seconds_count", HOPS, 'outcome!~"ok|http_error|cancelled"')
HTTP_ERRORS = rate("caller_hop_duration_seconds_count", HOPS, 'outcome="http_error"')
OWN_CLUSTER = (
    f"{CALLS} and on (job, instance, peer_cluster) "
    f'label_replace(target_info{{{PODS}}}, "peer_cluster", "$1", "k8s_cluster_name", "(.+)")'
)
CONNECTED = rate("caller_hop_phase_duration_seconds_count", HOPS, 'phase="connect"')
SENT = rate("caller_hop_phase_duration_seconds_count", HOPS, 'phase="send"')
REQUESTS = rate("http_server_request_duration_seconds_count", PODS, 'app="sample-caller"')
ANSWERS = rate("http_server_request_duration_seconds_count", PRODUCER)

ROWS: dict[str, list[Panel]] = {
    "Who answers": [
        Panel(
            "Calls by answering cluster",
            "Calls per second by answering cluster; `unknown`: no reply, or not identified.",
            [Query(f"sum by (peer_cluster) ({CALLS})", "{{peer_cluster}}")],
            stacked=True,
        ),
        Panel(
            "Calls by answering zone",
            "The same by zone. A ClusterSetIP chooses a pod per connection, so reused connections show as steps.",
            [Query(f"sum by (peer_cluster, peer_zone) ({CALLS})", "{{peer_cluster}} {{peer_zone}}")],
            stacked=True,
        ),
        Panel(
            "Border crossed",
            "Calls per second by the widest border between caller and producer: none, zone or region.",
            [Query(f"sum by (crossing) ({CALLS})", "{{crossing}}")],
            stacked=True,
        ),
        Panel(
            "Answered by the caller's own cluster",
            "Share of calls. Expected for a clusterset.local target: 0, unless both clusters export the Service.",
            [Query(f"(sum({OWN_CLUSTER}) or vector(0)) / sum({CALLS})", "own cluster")],
            unit="percentunit",
        ),
    ],
    "Outcomes": [
        Panel(
            "Calls by outcome",
            "Calls per second by outcome; docs/troubleshooting.md has the causes of each.",
            [Query(f"sum by (outcome) ({CALLS})", "{{outcome}}")],
            stacked=True,
        ),
        Panel(
            "Share of calls that failed",
            "By target. `http_error` is the producer's own answer, perhaps requested; other failures happen before it.",
            [
                Query(f"sum by (target) ({FAILED}) / sum by (target) ({CALLS})", "{{target}} without http_error"),
                Query(f"sum by (target) ({HTTP_ERRORS}) / sum by (target) ({CALLS})", "{{target}} http_error"),
            ],
            unit="percentunit",
        ),
    ],
    "Latency": [
        Panel(
            "Round trip",
            "p50, p90 and p99 of all calls, to the last byte of the reply, injected delays included.",
            quantiles("caller_hop_duration_seconds", HOPS),
            unit="s",
            width=8,
        ),
        Panel(
            "Round trip by answering cluster, p99",
            "p99 of all calls, injected delays included.",
            [Query(quantile(0.99, "caller_hop_duration_seconds", HOPS, by="peer_cluster"), "{{peer_cluster}}")],
            unit="s",
            width=8,
        ),
        Panel(
            "Network by answering cluster, p50",
            "The wait for the reply minus the time that the producer spent.",
            [
                Query(
                    quantile(0.5, "caller_hop_phase_duration_seconds", HOPS, 'phase="network"', by="peer_cluster"),
                    "{{peer_cluster}}",
                )
            ],
            unit="s",
            width=8,
        ),
        *(
            Panel(
                f"Phases, p{q * 100:.0f}",
                "Of the calls that have the phase: a reused connection has no dns, connect and tls.",
                [Query(quantile(q, "caller_hop_phase_duration_seconds", HOPS, by="phase"), "{{phase}}")],
                unit="s",
                width=8,
            )
            for q in (0.5, 0.9, 0.99)
        ),
    ],
    "Connections and load": [
        Panel(
            "Calls over a reused connection",
            "Share of calls without a new connection; a failed attempt counts as a new connection.",
            [Query(f"clamp_min(1 - sum({CONNECTED}) / sum({SENT}), 0)", "reused")],
            unit="percentunit",
            width=8,
        ),
        Panel(
            "New connections",
            "TCP connections per second, established or tried; `unknown`: no reply, or not identified.",
            [
                Query(f"sum by (peer_cluster) ({CONNECTED})", "{{peer_cluster}}"),
            ],
            unit="cps",
            width=8,
        ),
        Panel(
            "Requests in flight",
            "Maximum of any pod, and the limit MAX_IN_FLIGHT. A run counts as one request of the caller.",
            [
                Query(f"max by (app) (http_server_active_requests{{{SERVICES}}})", "{{app}}"),
                Query(f"min by (app) (http_server_active_requests_limit{{{SERVICES}}})", "{{app}} limit"),
            ],
            unit="short",
            width=8,
        ),
        Panel(
            "Refused for load",
            "Requests per second answered 503 because MAX_IN_FLIGHT was reached.",
            [Query(f"sum by (app) ({rate('http_server_requests_refused_total', SERVICES)})", "{{app}}")],
        ),
        Panel(
            "Requests of the caller",
            "Requests per second to the caller, by route and status; a failed call is a 200.",
            [
                Query(
                    f"sum by (http_route, http_response_status_code) ({REQUESTS})",
                    "{{http_route}} {{http_response_status_code}}",
                )
            ],
        ),
    ],
    "Runs": [
        Panel(
            "Active runs",
            "Runs through the API or the page; runs of the CLI are not scraped.",
            [Query(f"sum(caller_runs_active{{{PODS}}})", "runs")],
            unit="short",
        ),
        Panel(
            "Scheduling delay of runs",
            "From the intended to the actual start of a call. More than a few ms: the caller needs more CPU.",
            quantiles("caller_run_scheduling_delay_seconds", PODS),
            unit="s",
        ),
    ],
    "Producer": [
        Panel(
            "Answers by status",
            "Replies of the producers. Calls that fail before they reach a producer are in the caller's panels only.",
            [
                Query(f"sum by (http_response_status_code) ({ANSWERS})", "{{http_response_status_code}}"),
            ],
            width=8,
            stacked=True,
        ),
        Panel(
            "Time in the producer",
            "p50, p90 and p99, injected delays included.",
            quantiles("http_server_request_duration_seconds", PRODUCER),
            unit="s",
            width=8,
        ),
        Panel(
            "Answers by pod",
            "Replies per second by pod: whether all pods get equal shares.",
            [
                Query(f"sum by (cluster, pod) ({ANSWERS})", "{{cluster}} {{pod}}"),
            ],
            width=8,
            stacked=True,
        ),
    ],
    "Life cycle": [
        Panel(
            "Ready and draining",
            "Pods that are ready, and pods that got SIGTERM and still serve (DRAIN_SECONDS).",
            [
                Query(f"sum by (app) (service_ready{{{SERVICES}}})", "{{app}} ready"),
                Query(f"sum by (app) (service_draining{{{SERVICES}}})", "{{app}} draining"),
            ],
            unit="short",
            width=6,
        ),
        Panel(
            "Scraped",
            "1: the pod can be scraped.",
            [Query(f"min by (app, pod) (up{{{SERVICES}}})", "{{app}} {{pod}}")],
            unit="short",
            width=6,
        ),
        Panel(
            "CPU",
            "CPU cores by pod.",
            [Query(f"sum by (app, pod) ({rate('process_cpu_seconds_total', SERVICES)})", "{{app}} {{pod}}")],
            unit="short",
            width=6,
        ),
        Panel(
            "Memory",
            "Resident memory by pod.",
            [Query(f"sum by (app, pod) (process_resident_memory_bytes{{{SERVICES}}})", "{{app}} {{pod}}")],
            unit="bytes",
            width=6,
        ),
        Panel(
            "Who runs where",
            "Identity of each scraped process.",
            [
                Query(
                    "count by (service_name, service_version, k8s_cluster_name, cloud_region, cloud_availability_zone) "
                    f"(target_info{{{SERVICES}}})",
                    "",
                )
            ],
            unit="short",
            kind="table",
            width=24,
        ),
    ],
}


def dashboard() -> str:
    """The JSON model: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/"""
    text = json.dumps(
        {
            "uid": "sample-service-to-service",
            "title": "sample-service-to-service",
            "description": "Which cluster answers the caller, outcomes, latency and phases, runs, load.",
            "tags": ["sample-service-to-service"],
            "schemaVersion": 39,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "15s",
            "time": {"from": "now-30m", "to": "now"},
            "timezone": "browser",
            "annotations": {"list": []},
            "links": [],
            "templating": {
                "list": [
                    {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                    variable("cluster", "Cluster of the pods", "service_ready"),
                    variable("namespace", "Namespace", "service_ready"),
                    variable("target", "Target", "caller_hop_duration_seconds_count"),
                ]
            },
            "panels": list(positioned()),
        },
        indent=2,
    )
    return f"{text}\n"


def variable(label: str, title: str, metric: str) -> dict[str, Any]:
    """A variable: a label of a metric. The value of All is `.*`, which also matches series without the label."""
    return {
        "name": label,
        "label": title,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": f"label_values({metric}, {label})", "refId": label},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def positioned() -> Iterator[dict[str, Any]]:
    """Rows and panels with their positions in Grafana's grid, which is 24 wide."""
    numbers = count(1)
    y = 0
    for title, panels in ROWS.items():
        row = {"type": "row", "title": title, "collapsed": False, "panels": []}
        yield row | {"id": next(numbers), "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}}
        x, y = 0, y + 1
        for panel in panels:
            if x + panel.width > 24:
                x, y = 0, y + 8
            yield drawn(panel, next(numbers)) | {"gridPos": {"x": x, "y": y, "w": panel.width, "h": 8}}
            x += panel.width
        y += 8


def drawn(panel: Panel, number: int) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    table = panel.kind == "table"
    custom = {"fillOpacity": 20 if panel.stacked else 0, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": source,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": {} if table else custom},
            "overrides": [],
        },
        "options": {} if table else {"tooltip": {"mode": "multi", "sort": "desc"}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": source,
                "expr": query.expr,
                **({"format": "table", "instant": True} if table else {"legendFormat": query.legend}),
            }
            for index, query in enumerate(panel.queries)
        ],
        **({"transformations": [{"id": "organize", "options": {"excludeByName": {"Time": True}}}]} if table else {}),
    }


if __name__ == "__main__":
    sys.stdout.write(dashboard())
