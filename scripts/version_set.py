"""Changes the version of the project everywhere: `make version-set VERSION=1.2.3`.

The version is that of `common/__init__.py`. It also stands in the image tags of the overlays, and in the commands and
examples of the documents, which are recognized by what precedes it. CHANGELOG.md is left to a person.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = "common/__init__.py"
DOCUMENTS = ("*.md", "docs/**/*.md", "k8s/**/*.md")
VERSION = r"[0-9]+\.[0-9]+\.[0-9]+"
PREFIXES = (
    r"\b(?:TAG|VERSION)=",
    r"\bsample-(?:caller|producer)[: ]",
    r"/v",  # releases/download/v1.2.3
    r"\bref=v",
    r"\bgit tag (?:-\w+ )*v",
    r"\bgit push \S+ v",
    r'"(?:version|service_version)": ?"',
)
"""What precedes the version in a document, and nothing else does."""


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not re.fullmatch(VERSION, arguments[0]):
        return refused(f"expected a version such as 1.2.3, got {' '.join(arguments)!r}")
    new = arguments[0]
    source = (ROOT / SOURCE).read_text()
    found = re.search(rf'^__version__ = "({VERSION})"$', source, re.MULTILINE)
    if not found:
        return refused(f'{SOURCE} has no line __version__ = "x.y.z"')
    old = found[1]
    if old == new:
        print(f"the version is already {new}")
        return 0

    changed: dict[Path, str] = {}
    left: list[str] = []
    for path in files():
        text = path.read_text()
        after = replaced(path, text, old, new)
        if after != text:
            changed[path] = after
        left += [
            f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
            for number, line in enumerate(after.splitlines(), 1)
            if re.search(rf"(?<![\w.]){re.escape(old)}(?![\w.]*\w)", line)
        ]
    overlays = [path for path in changed if path.name == "kustomization.yaml"]
    if not overlays:
        return refused(f"no overlay has newTag: {old}")
    for path, after in changed.items():
        path.write_text(after)
        print(f"changed {path.relative_to(ROOT)}")
    for line in left:
        print(f"not changed, please look: {line}")
    return 0


def refused(reason: str) -> int:
    sys.stderr.write(f"{reason}\n")
    return 2


def files() -> list[Path]:
    documents = {path for pattern in DOCUMENTS for path in ROOT.glob(pattern)} - {ROOT / "CHANGELOG.md"}
    return [ROOT / SOURCE, *sorted(ROOT.glob("k8s/overlays/*/kustomization.yaml")), *sorted(documents)]


def replaced(path: Path, text: str, old: str, new: str) -> str:
    prefixes = {".py": (r'^__version__ = "',), ".yaml": (r"^ +newTag: [\"']?",)}.get(path.suffix, PREFIXES)
    for prefix in prefixes:
        text = re.sub(rf"({prefix}){re.escape(old)}(?![\w.]*\w)", rf"\g<1>{new}", text, flags=re.MULTILINE)
    return text


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
