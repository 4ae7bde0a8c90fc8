"""Writes what the documents repeat from the code, so that it cannot drift: `make docs`.

With `--check` it writes nothing and ends with status 1 if a document is not as it would write it.
"""

import sys
from pathlib import Path

from caller.settings import Settings as CallerSettings
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


SECTIONS = {
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
