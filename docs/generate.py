"""Writes what the documents repeat from the code, so that it cannot drift: `make docs`.

With `--check` it writes nothing and ends with status 1 if a document is not as it would write it.
"""

import sys
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from caller.explain.causes import ANY, TABLE, Row
from caller.hop.metrics import HopMetrics, RunMetrics
from caller.hop.outcome import Outcome
from caller.settings import Settings as CallerSettings
from caller.target import NameKind
from common.cluster import Identity
from common.lifecycle import Lifecycle
from common.metrics import ServiceMetrics, process_metrics
from common.middleware.observe import LoadLimit, Observe
from common.settings import ServiceSettings
from observability.dashboard import dashboard
from producer.settings import Settings as ProducerSettings

ROOT = Path(__file__).parent.parent


def settings_table(settings: type[ServiceSettings], base: type[ServiceSettings] | None = None) -> str:
    """The settings that are not those of `base`, as a Markdown table."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in settings.model_fields.items():
        if base is None or name not in base.model_fields:
            default = getattr(field.default, "name", field.default)
            shown = "" if default in (None, (), "") or default is False else f"`{default}`"
            rows.append(f"| `{name.upper()}` | {shown} | {field.description} |")
    return "\n".join(rows)


NAMES = {
    "caller": "caller-cluster",
    "producer": "producer-cluster",
    "here": "caller-cluster",
    "namespace": "istio-apps",
    "service": "sample-producer",
    "port": "8080",
    "peer": "34.118.229.70:8080",
    "peer_cluster": "producer-cluster",
    "proxy": "Envoy",
    "evidence": "server: envoy",
    "status": "503",
    "error": "…",
    "millis": "2",
    "dns": "5000",
    "delay": "70000",
    "seconds": "…",
    "service_account": "sample-caller-sa",
    "control": "kubernetes.default.svc.cluster.local",
}
"""The README's names, for what a call would fill in."""

HOSTS: dict[NameKind, str] = {
    "clusterset.local": "sample-producer.istio-apps.svc.clusterset.local",
    "cluster.local": "sample-producer.istio-apps.svc.cluster.local",
    "short": "sample-producer",
    "other": "producer.example.com",
}
TWINS: dict[NameKind, NameKind] = {"clusterset.local": "cluster.local"}


def cause_table() -> str:
    """The table of causes, a section a row."""
    named: set[Outcome] = set()
    sections = []
    for row in TABLE:
        # An alert knows the outcome, and no heading.
        anchors = "".join(f'<a id="{outcome}"></a>' for outcome in row.outcomes if outcome not in named)
        named |= set(row.outcomes)
        sections.append(f"{anchors}\n\n{section(row)}" if anchors else section(row))
    return "\n\n".join(sections)


def section(row: Row) -> str:
    kind = row.kinds[0]
    host = HOSTS[kind]
    twin = HOSTS[TWINS.get(kind, "clusterset.local")]
    names = NAMES | {"host": host, "name": f"http://{host}:8080", "twin": twin}
    words = ", ".join(f"`{outcome}`" for outcome in row.outcomes)
    kinds = "" if row.kinds == ANY else f" on a {' or '.join(row.kinds)} name"
    lines = [f"## {words}{kinds}: {row.title}", "", row.summary.format_map(names)]
    for number, cause in enumerate(row.causes, 1):
        seen = " *(seen)*" if cause.sign else ""
        indent = " " * len(f"{number}. ")
        lines += [
            "",
            f"{number}. {cause.cause.format_map(names)}{seen}",
            "",
            f"{indent}    {cause.command.format_map(names)}",
            "",
            f"{indent}Then: {cause.fix.format_map(names)} ([source]({source_link(cause.source)})).",
        ]
    return "\n".join(lines)


def source_link(source: str) -> str:
    return source if "://" in source else f"../{source}"


UNITS = ("seconds", "bytes")


def metric_table(registry: CollectorRegistry) -> str:
    """The metrics of a registry, as a Markdown table."""
    rows = ["| metric | type | labels | unit | meaning |", "|---|---|---|---|---|"]
    # The registry's public face shows the labels of what was observed, and here nothing was.
    for collector in registry._collector_to_names:
        labelled = collector._labelnames if isinstance(collector, MetricWrapperBase) else ()
        for metric in collector.collect():
            name = metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "")
            labels = labelled or sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
            if metric.type == "info":
                labels = ["attributes of the process"]
            unit = next((unit for unit in UNITS if unit in name.split("_")), "")
            shown = ", ".join(f"`{label}`" if " " not in label else label for label in labels)
            rows.append(f"| `{name}` | {metric.type} | {shown} | {unit} | {metric.documentation} |")
    return "\n".join(rows)


def process_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    process_metrics(registry)
    return registry


def service_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    identity = Identity(ServiceSettings(gce_metadata_host="none"))
    load = LoadLimit(nothing, 1)
    ServiceMetrics("", identity, Lifecycle(), load, registry)
    Observe(load, registry, identity)
    return registry


def caller_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    HopMetrics(registry)
    RunMetrics(registry)
    return registry


async def nothing(*_: object) -> None:
    """An app without a request."""


SECTIONS = {
    "docs/when-it-does-not-work.md": {"table": cause_table()},
    "docs/metrics.md": {
        "metrics of the caller": metric_table(caller_registry()),
        "metrics of both": metric_table(service_registry()),
        "metrics of the process": metric_table(process_registry()),
    },
    "README.md": {
        "settings of both": settings_table(ServiceSettings),
        "settings of the caller": settings_table(CallerSettings, ServiceSettings),
        "settings of the producer": settings_table(ProducerSettings, ServiceSettings),
    },
}
"""Document → what stands between `<!-- generated: NAME -->` and `<!-- end -->`."""

WHOLE = {"observability/grafana-dashboard.json": dashboard()}
"""Document → all of it."""


def generated(text: str, sections: dict[str, str]) -> str:
    for name, content in sections.items():
        before, start, rest = text.partition(f"<!-- generated: {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (start and end):
            raise SystemExit(f"there is no place for {name!r}")
        text = f"{before}{start}\n{content}\n\n{end}{after}"
    return text


def main() -> int:
    drifted = []
    for name in (*SECTIONS, *WHOLE):
        path = ROOT / name
        before = path.read_text() if path.exists() else ""
        after = WHOLE[name] if name in WHOLE else generated(before, SECTIONS[name])
        if after != before:
            drifted.append(name)
            if "--check" not in sys.argv:
                path.write_text(after)
    if drifted and "--check" in sys.argv:
        sys.stderr.write(f"not as `make docs` writes it: {', '.join(drifted)}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
