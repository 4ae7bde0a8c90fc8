"""The documents as a reader of them sees them: their code, the commands in it, their headings."""

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from lab.processes import ROOT

DOCUMENTS = sorted(
    (*ROOT.glob("*.md"), *(document for folder in ROOT.glob("[!.]*/") for document in folder.rglob("*.md")))
)
SHELL = ("sh", "console")
"""Languages of blocks whose lines are all for a shell."""
TOOLS = ("gcloud", "kubectl", "sample-caller", "make")


class Block(NamedTuple):
    """A piece of code in a document. `language` is empty for an indented one; `line` is that of its first line."""

    document: Path
    line: int
    language: str
    lines: tuple[str, ...]


class Command(NamedTuple):
    """A simple command: its words, without redirections; the variables of the document are filled in."""

    where: str
    words: tuple[str, ...]


def named(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks(document: Path) -> Iterator[Block]:
    """All code of a document, in its order: between fences, or indented by four spaces or more."""
    lines = document.read_text().splitlines()
    at = 0
    while at < len(lines):
        fence = re.match(r" *```(\w*)$", lines[at])
        if fence:
            inside = tuple(takewhile(lambda line: line.strip() != "```", lines[at + 1 :]))
            yield Block(document, at + 2, fence[1], inside)
            at += len(inside) + 2
        elif lines[at].startswith("    "):
            inside = tuple(takewhile(lambda line: line.startswith("    "), lines[at:]))
            yield Block(document, at + 1, "", inside)
            at += len(inside)
        else:
            at += 1


def logical_lines(block: Block) -> Iterator[tuple[int, str]]:
    """The lines that a shell would read: prompts dropped, continued lines joined, here-documents left out."""
    lines = iter(enumerate(block.lines, block.line))
    for number, raw in lines:
        line = raw.strip()
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ")
        while line.endswith("\\"):
            line = line.removesuffix("\\") + next(lines)[1].strip()
        if end := re.search(r"<<'?(\w+)'?", line):
            for _, inside in lines:
                if inside.strip() == end[1]:
                    break
        if block.language in SHELL or line.partition(" ")[0] in TOOLS:
            yield number, line


def simple_commands(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a line that has no variables any more; those within `$(…)` too."""
    while (start := line.find("$(")) >= 0:
        depth, end = 1, start + 2
        while depth:
            depth += {"(": 1, ")": -1}.get(line[end], 0)
            end += 1
        yield from simple_commands(line[start + 2 : end - 1])
        line = f"{line[:start]}substituted{line[end:]}"
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    tokens = iter(lexer)
    for token in tokens:
        if set(token) <= set("<>"):
            next(tokens)
        elif set(token) <= set(";&|()"):
            yield tuple(words)
            words = []
        elif words or not (token in ("!", "do", "then", "if", "until", "while") or re.match(r"[A-Z_]+=", token)):
            words.append(token)
    yield tuple(words)


def commands(document: Path) -> Iterator[Command]:
    """The commands of a document that one of the tools would run; a variable must have been exported before."""
    variables: dict[str, str] = {}
    for block in blocks(document):
        for number, line in logical_lines(block):
            where = f"{named(document)}:{number}"

            def value(match: re.Match[str], where: str = where) -> str:
                name = match[1] or match[2]
                assert name in variables, f"{where}: ${name} is not exported before"
                return variables[name]

            line = re.sub(r"\$(?:([A-Z_]+)|\{([A-Z_]+)\})", value, line)
            for words in simple_commands(line):
                if words[:1] == ("export",):
                    variables.update(word.partition("=")[::2] for word in words[1:])
                elif words and words[0] in TOOLS:
                    yield Command(where, words)


def mentioned(document: Path) -> Iterator[Command]:
    """The commands that the text mentions, without what they are about: `gcloud projects create`."""
    for number, line in enumerate(prose(document).splitlines(), 1):
        for span in re.findall(r"`([^`]+)`", line):
            if span.partition(" ")[0] in TOOLS and " " in span and "…" not in span:
                yield Command(f"{named(document)}:{number}", tuple(shlex.split(span)))


def prose(document: Path) -> str:
    """The document without its blocks of code."""
    lines = document.read_text().splitlines()
    for block in blocks(document):
        for at in range(block.line - 1, block.line - 1 + len(block.lines)):
            lines[at] = ""
    return "\n".join(lines)


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    found: dict[str, int] = {}
    result = set()
    fenced = {line for block in blocks(document) for line in range(block.line, block.line + len(block.lines))}
    for number, line in enumerate(document.read_text().splitlines(), 1):
        if number not in fenced and (heading := re.match(r"#+ (.*)", line)):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            times = found.get(slug, 0)
            found[slug] = times + 1
            result.add(f"{slug}-{times}" if times else slug)
    return result
