"""The parts of the documents that are made from the code. cog calls these functions: `make docs`."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from typing import Any, get_args

import typer
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from caller.__main__ import serve
from caller.cli.app import app as cli
from caller.explain.causes import ANY, TABLE, Cause, Row
from caller.hop.metrics import HopMetrics
from caller.hop.outcome import Outcome
from caller.run.metrics import RunMetrics
from caller.target import NameKind
from common.cluster import Identity
from common.metrics import ServiceMetrics, process_metrics
from common.middleware.draining import Lifecycle
from common.middleware.load_limit import Load
from common.middleware.observe import Observe
from common.settings import ServiceSettings


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in lines)


def code(text: object) -> str:
    return f"`{text}`" if text != "" else ""


# Settings


def settings_table(settings: type[ServiceSettings], base: type[ServiceSettings] | None = None) -> str:
    """The settings that `base` does not have. The anchor of each is its name in lower case."""
    rows = [
        (f'<a id="{name}"></a>`{name.upper()}`', code(default_of(field)), values_of(field), str(field.description))
        for name, field in settings.model_fields.items()
        if base is None or name not in base.model_fields
    ]
    return table(("variable", "default", "values", "meaning"), rows)


def default_of(field: FieldInfo) -> str:
    default = getattr(field.default, "name", field.default)
    return "" if default is None or default is False or default in ("", ()) else str(default)


BOUNDS = {"gt": ">", "ge": "≥", "le": "≤"}


def values_of(field: FieldInfo) -> str:
    """The words of a choice, or the range of a number; empty: any text."""
    arguments = [word for part in (field.annotation, *get_args(field.annotation)) for word in get_args(part)]
    if words := [word for word in arguments if isinstance(word, str)]:
        return ", ".join(map(code, words))
    bounds = [(sign, getattr(rule, name, None)) for rule in field.metadata for name, sign in BOUNDS.items()]
    return ", ".join(f"{sign} {bound}" for sign, bound in bounds if bound is not None)


# The API


def models(*roots: type[BaseModel], without: Iterable[type[BaseModel]] = ()) -> str:
    """A section per model with its fields on the wire: `roots` first, then the models that they refer to.

    :param without: models that are described elsewhere.
    """
    schemas = models_json_schema([(root, "serialization") for root in roots], ref_template="{model}")[1]["$defs"]
    names = [root.__name__ for root in roots]
    names += sorted(schemas.keys() - set(names) - {model.__name__ for model in without})
    return "\n\n".join(model(name, schemas[name]) for name in names if "properties" in schemas[name])


def model(name: str, schema: dict[str, Any]) -> str:
    is_request = schema.get("additionalProperties") is False
    rows = []
    for field, of in schema["properties"].items():
        notes = [of["description"]] if "description" in of else []
        if is_request and field in schema.get("required", ()):
            notes.append("required")
        elif is_request and of.get("default") is not None:
            notes.append(f"default: {code(of['default'])}")
        if not notes and isinstance(example := of.get("examples", [None])[0], str):
            notes.append(f"such as {code(example)}")
        rows.append((code(field), type_of(of), "; ".join(notes)))
    about = inspect.cleandoc(schema.get("description", ""))
    return "\n\n".join(filter(None, (f"### {name}", about, table(("field", "type", "meaning"), rows))))


def type_of(schema: dict[str, Any]) -> str:
    """A JSON schema in words; another model is a link to its section."""
    if "$ref" in schema:
        return f"[{schema['$ref']}](#{schema['$ref'].lower()})"
    if "anyOf" in schema:
        return " or ".join(type_of(one) for one in schema["anyOf"])
    if words := schema.get("enum") or [schema[key] for key in ("const",) if key in schema]:
        return " or ".join(map(code, words))
    if schema["type"] == "array":
        return f"list of {type_of(schema['items'])}"
    if schema["type"] == "object":
        return f"name → {type_of(schema['additionalProperties'])}"
    return str(schema["type"])


# The CLI


def commands() -> str:
    """A section per command of `sample-caller`."""
    group: Any = typer.main.get_command(cli)
    own = typer.Typer()
    own.command()(serve)
    return "\n\n".join(starmap(command, [*group.commands.items(), ("serve", typer.main.get_command(own))]))


def command(name: str, of: Any) -> str:
    options = [option for option in of.params if option.name not in ("install_completion", "show_completion")]
    arguments = [f"{option.name.upper()}…" for option in options if option.param_type_name == "argument"]
    usage = " ".join(["sample-caller", name, *(["[OPTIONS]"] if len(options) > len(arguments) else []), *arguments])
    rows = []
    for option in options:
        names = arguments if option.param_type_name == "argument" else [*option.opts, *option.secondary_opts]
        default = option.opts[0] if option.secondary_opts else option.default
        shown = "" if default is None or default is False else code(default)
        rows.append((", ".join(map(code, names)), shown, option.help or ""))
    parts = [f"## {name}", f"```text\n{usage}\n```", inspect.cleandoc(of.help or "")]
    return "\n\n".join([*parts, *([table(("option", "default", "meaning"), rows)] if rows else [])])


# Causes

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
    "unacknowledged": "60,482",
    "sent": "60,784",
    "dead": "10.4.1.6:8080 no answer",
    "seconds": "…",
    "service_account": "sample-caller-sa",
    "sanity_check": "kubernetes.default.svc.cluster.local",
}
"""The names that a call would fill in."""

HOSTS: dict[NameKind, str] = {
    "clusterset.local": "sample-producer.istio-apps.svc.clusterset.local",
    "cluster.local": "sample-producer.istio-apps.svc.cluster.local",
    "short": "sample-producer",
    "other": "producer.example.com",
}


def causes() -> str:
    """The table of causes, a section per row. The first section of an outcome has the outcome as its anchor."""
    seen: set[Outcome] = set()
    sections = []
    for row in TABLE:
        # The alerts link to an outcome and do not know its heading.
        sections += [f'<a id="{outcome}"></a>' for outcome in row.outcomes if outcome not in seen]
        seen |= set(row.outcomes)
        sections.append(section(row))
    return "\n\n".join(sections)


def section(row: Row) -> str:
    host = HOSTS[row.kinds[0]]
    counterpart = HOSTS["cluster.local" if row.kinds[0] == "clusterset.local" else "clusterset.local"]
    names = NAMES | {"host": host, "name": f"http://{host}:8080", "counterpart": counterpart}
    outcomes = ", ".join(map(code, row.outcomes))
    kinds = "any other" if row.kinds == ("other",) else f"a {' or '.join(row.kinds)}"
    heading = f"## {outcomes}{'' if row.kinds == ANY else f' on {kinds} name'}: {row.title}"
    listed = [cause(number, of, names) for number, of in enumerate(row.causes, 1)]
    return "\n\n".join((heading, row.summary.format_map(names), *listed))


def cause(number: int, of: Cause, names: dict[str, str]) -> str:
    bullet = f"{number}. "
    source = of.source if "://" in of.source else f"../{of.source}"
    text = (
        f"{of.cause.format_map(names)}{' *(if seen)*' if of.symptom else ''}\n\n"
        f"```sh\n{of.command.format_map(names)}\n```\n\n"
        f"Fix: {of.fix.format_map(names)} ([source]({source}))."
    )
    return bullet + text.replace("\n", "\n" + " " * len(bullet)).replace(f"\n{' ' * len(bullet)}\n", "\n\n")


# Metrics

UNITS = ("seconds", "bytes")


def metrics(registry: CollectorRegistry) -> str:
    """The metrics of a registry."""
    return table(("metric", "type", "labels", "unit", "meaning"), metric_rows(registry))


def metric_rows(registry: CollectorRegistry) -> Iterator[tuple[str, ...]]:
    # The public methods of the registry show the labels of what was observed; nothing was observed here.
    for collector in registry._collector_to_names:
        labelled = collector._labelnames if isinstance(collector, MetricWrapperBase) else ()
        for metric in collector.collect():
            name = metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "")
            labels = labelled or sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
            shown = "attributes of the process" if metric.type == "info" else ", ".join(map(code, labels))
            unit = next((unit for unit in UNITS if unit in name.split("_")), "")
            yield code(name), metric.type, shown, unit, metric.documentation


def caller_metrics() -> str:
    registry = CollectorRegistry()
    HopMetrics(registry)
    RunMetrics(registry)
    return metrics(registry)


def service_metrics() -> str:
    registry = CollectorRegistry()
    identity = Identity(ServiceSettings(gce_metadata_host="none"))
    ServiceMetrics("", identity, Lifecycle(), Load(1), registry)
    Observe(nothing, registry, identity)
    return metrics(registry)


def process_metrics_table() -> str:
    registry = CollectorRegistry()
    process_metrics(registry)
    return metrics(registry)


async def nothing(*_: object) -> None:
    """An app that is never called."""
