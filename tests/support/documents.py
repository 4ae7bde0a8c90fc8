"""The documents as Markdown: their links and anchors, and the commands that a shell would run."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

from lab.processes import ROOT

FOLDERS = ("bench", "docs", "k8s", "observability")
DOCUMENTS = sorted((*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))))
TOOLS = ("gcloud", "kubectl", "sample-caller", "make")
SHELL = r"""
PATH=/nonexistent
command_not_found_handle() { :; }
cd() { :; }
kill() { :; }
sudo() { "$@"; }
for tool in TOOLS .venv/bin/sample-caller; do
  eval "$tool() {
    printf '%s\x1f' \"\${BASH_LINENO[-2]}\" ${tool##*/} \"\$@\" >&3
    printf '\x1e' >&3
    echo output
  }"
done
""".replace("TOOLS", " ".join(TOOLS))
"""Makes every program a no-op, except the tools, which record their line and their words."""


class Command(NamedTuple):
    where: str
    words: tuple[str, ...]


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


@cache
def tokens(document: Path) -> tuple[Token, ...]:
    """All tokens, the inline ones after the blocks."""
    blocks = MarkdownIt("commonmark").enable("table").parse(document.read_text())
    return (*blocks, *(token for block in blocks for token in block.children or ()))


def fences(document: Path, language: str) -> Iterator[tuple[int, str]]:
    """Line of the first line, and text, of each block of code in this language."""
    for token in tokens(document):
        if token.type == "fence" and token.info == language and token.map:
            yield token.map[0] + 2, token.content


def links(document: Path) -> list[str]:
    found = [token.attrs.get("href") or token.attrs.get("src") for token in tokens(document)]
    return [str(link) for link in found if link]


@cache
def anchors(document: Path) -> set[str]:
    """The anchors of a document: its own, and those that GitHub makes of headings."""
    found = set(re.findall(r'<a id="([^"]+)">', document.read_text()))
    blocks = tokens(document)
    for heading, inline in pairwise(blocks):
        if heading.type == "heading_open":
            text = "".join(token.content for token in inline.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            assert slug not in found, f"{named(document)} has two headings {text!r}"
            found.add(slug)
    return found


def inline_code(document: Path) -> list[str]:
    return [token.content for token in tokens(document) if token.type == "code_inline"]


def commands(document: Path) -> list[Command]:
    """The commands of the tools in the shell blocks, with variables expanded; also those that run in a pod."""
    lines = [""] * len(document.read_text().splitlines())
    for first, content in fences(document, "sh"):
        for number, line in enumerate(content.splitlines(), first - 1):
            lines[number] = line
    with TemporaryDirectory() as folder:
        Path(folder, "tools").write_text(SHELL)
        Path(folder, "script").write_text("\n".join(lines))
        bash = ["bash", "-c", "exec 3>record; BASH_ENV=tools exec bash -u script"]
        ran = subprocess.run(bash, cwd=folder, capture_output=True, text=True, timeout=60)
        assert not ran.stderr, f"{named(document)}: {ran.stderr}"
        recorded = [entry.split("\x1f")[:-1] for entry in Path(folder, "record").read_text().split("\x1e")[:-1]]
    found = [Command(f"{named(document)}:{line}", tuple(words)) for line, *words in recorded]
    in_pods = [Command(of.where, of.words[of.words.index("--") + 1 :]) for of in found if "--" in of.words]
    return found + [command for command in in_pods if command.words[0] in TOOLS]


def mentioned(document: Path) -> list[Command]:
    """The commands that the text mentions, perhaps without their arguments: `gcloud projects create`."""
    spans = [span for span in inline_code(document) if span.partition(" ")[0] in TOOLS and " " in span]
    return [Command(named(document), tuple(shlex.split(span))) for span in spans if "…" not in span]
