"""Writes what the documents repeat from the code, so that it cannot drift: `make docs`.

With `--check` it writes nothing and ends with status 1 if a document is not as it would write it.
"""

import sys
from pathlib import Path

from caller.causes import ANY, TABLE, Row
from caller.settings import Settings as CallerSettings
from caller.target import NameKind
from common.settings import ServiceSettings
from producer.settings import Settings as ProducerSettings

ROOT = Path(__file__).parent.parent


def settings_table(settings: type[ServiceSettings], base: type[ServiceSettings] | None = None) -> str:
    """The settings that are not those of `base`, as a Markdown table."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in settings.model_fields.items():
        if base is None or name not in base.model_fields:
            default = getattr(field.default, "name", field.default)
            shown = "" if default in (None, ()) else f"`{default}`"
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
    return "\n\n".join(section(row) for row in TABLE)


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


SECTIONS = {
    "docs/when-it-does-not-work.md": {"table": cause_table()},
    "README.md": {
        "settings of both": settings_table(ServiceSettings),
        "settings of the caller": settings_table(CallerSettings, ServiceSettings),
        "settings of the producer": settings_table(ProducerSettings, ServiceSettings),
    },
}
"""Document → what stands between `<!-- generated: NAME -->` and `<!-- end -->`."""


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
    for name, sections in SECTIONS.items():
        path = ROOT / name
        before = path.read_text()
        after = generated(before, sections)
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
