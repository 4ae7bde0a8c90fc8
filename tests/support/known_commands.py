"""Whether gcloud, kubectl, the product's CLI and make have a command, and the flags that it is given; all offline.

gcloud is asked through the table of all its commands and flags that it installs for completion. Where there is none,
`gcloud_flags.json` stands in, which has what the documents use.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

from caller.cli.app import app as cli
from lab.processes import ROOT
from tests.support.documents import Command

FLAGS_TABLE = ROOT / "tests" / "support" / "gcloud_flags.json"
COMPLETIONS = "data/cli/gcloud_completions.py"


def check(command: Command) -> None:
    """
    :raises LookupError: there is no such command, or it has no such flag.
    """
    match command.words[0]:
        case "gcloud":
            check_gcloud(command.words, gcloud_tree() or tree_of_table())
        case "kubectl":
            check_kubectl(command.words)
        case "sample-caller":
            check_cli(command.words)
        case "make":
            check_make(command.words)


@contextmanager
def group_allowed() -> Iterator[None]:
    try:
        yield
    except LookupError as error:
        if not str(error).endswith("is a group"):
            raise


class Gcloud(NamedTuple):
    """What gcloud knows of a command: name → flag → `value`, `bool`, `dynamic`, or the list of its values."""

    name: str
    flags: dict[str, Any]


def gcloud_folder() -> Path | None:
    """Where gcloud is installed, with its table of completions; else None."""
    found = shutil.which("gcloud")
    folder = Path(found).resolve().parent.parent if found else None
    return folder if folder and (folder / COMPLETIONS).exists() else None


@cache
def gcloud_tree() -> dict[str, Any] | None:
    """All commands of the installed gcloud, each with `commands` below it and `flags`; None where there is none."""
    folder = gcloud_folder()
    if folder is None:
        return None
    scope: dict[str, Any] = {}
    exec(compile((folder / COMPLETIONS).read_text(), COMPLETIONS, "exec"), scope)
    tree: dict[str, Any] = scope["STATIC_COMPLETION_CLI_TREE"]
    return tree


def known_gcloud(words: tuple[str, ...], tree: dict[str, Any]) -> Gcloud:
    """The command that the words begin with, and all flags that it takes.

    :raises LookupError: there is no such command, or it is only a group.
    """
    node, flags = tree, dict(tree["flags"])
    path: list[str] = []
    for word in words:
        if not node["commands"]:
            break
        if word not in node["commands"]:
            raise LookupError(f"gcloud {' '.join(path)} has no command {word!r}")
        node = node["commands"][word]
        path.append(word)
        flags |= node["flags"]
    if node["commands"]:
        raise LookupError(f"gcloud {' '.join(path)} is a group")
    return Gcloud(" ".join(path), flags)


def flags_used(words: tuple[str, ...]) -> dict[str, str | None]:
    """Flag → its value where it is written with `=` or stands behind it, up to `--`; the last of one name."""
    words = tuple(takewhile(lambda word: word != "--", words))
    used: dict[str, str | None] = {}
    for at, word in enumerate(words):
        if word.startswith("-") and word != "-":
            name, equals, value = word.partition("=")
            behind = words[at + 1] if at + 1 < len(words) and not words[at + 1].startswith("-") else None
            used[name] = value if equals else behind
    return used


def check_gcloud(words: tuple[str, ...], tree: dict[str, Any]) -> None:
    """
    :raises LookupError: the command, a flag or one of a closed set of values does not exist.
    """
    command = known_gcloud(words[1:], tree)
    for flag, value in flags_used(words).items():
        kind = command.flags.get(flag) or ("bool" if flag.startswith("--no-") else None)
        if kind is None or (flag.startswith("--no-") and command.flags.get(f"--{flag[5:]}") != "bool"):
            raise LookupError(f"gcloud {command.name} has no flag {flag}")
        if isinstance(kind, list) and value not in kind:
            raise LookupError(f"gcloud {command.name} {flag} takes {', '.join(kind)}, not {value}")


def tree_of_table() -> dict[str, Any]:
    """The table in the shape of gcloud's own tree."""
    tree: dict[str, Any] = {"commands": {}, "flags": {}}
    for name, flags in json.loads(FLAGS_TABLE.read_text())["commands"].items():
        node = tree
        for word in name.split():
            node = node["commands"].setdefault(word, {"commands": {}, "flags": {}})
        node["flags"] = dict.fromkeys(flags, "value")
    return tree


@cache
def kubectl_help(*words: str) -> str:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    environment = {**os.environ, "KUBECONFIG": os.devnull}
    asked = subprocess.run(
        ["kubectl", *words], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    return asked.stdout


def options_in(text: str) -> dict[str, bool]:
    """Option, long or short → whether it takes a value, from kubectl's help."""
    found = {}
    for short, long, default in re.findall(r"^ +(?:(-\w), )?(--[\w-]+)=(.*):$", text, re.MULTILINE):
        for name in filter(None, (short, long)):
            found[name] = default not in ("true", "false")
    return found


def check_kubectl(words: tuple[str, ...]) -> None:
    """
    :raises LookupError: the subcommand or a flag does not exist.
    """
    everywhere = options_in(kubectl_help("options"))
    words = tuple(takewhile(lambda word: word != "--", words[1:]))
    plain: list[str] = []
    options: list[str] = []
    at = 0
    while at < len(words):
        if words[at].startswith("-") and words[at] != "-":
            options.append(words[at].partition("=")[0])
            # What is no option of all commands is looked up below; here it is only told from the subcommand.
            at += 1 if "=" in words[at] or not everywhere.get(words[at], True) else 2 if not plain else 1
        else:
            plain.append(words[at])
            at += 1
    path: list[str] = []
    for word in plain:
        # Below a command that has no others, kubectl shows the help of the command itself.
        if kubectl_help(*path, word, "--help") in ("", kubectl_help(*path, "--help")):
            break
        path.append(word)
    text = kubectl_help(*path, "--help")
    group = "Available Commands:" in text and not options_in(text)
    if not path or (group and len(plain) > len(path)):
        raise LookupError(f"kubectl {' '.join(path)} has no command {plain[len(path) : len(path) + 1]}")
    if group:
        raise LookupError(f"kubectl {' '.join(path)} is a group")
    own = options_in(text)
    for option in options:
        if option not in own and option not in everywhere:
            raise LookupError(f"kubectl {' '.join(path)} has no flag {option}")


def check_cli(words: tuple[str, ...]) -> None:
    """
    :raises LookupError: the CLI has no such command or option.
    """
    command: Any = typer.main.get_command(cli)
    if not words[1].startswith("-"):
        if words[1] not in command.commands:
            raise LookupError(f"sample-caller has no command {words[1]}")
        command = command.commands[words[1]]
    options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    for flag in flags_used(words):
        if flag not in options:
            raise LookupError(f"{words[0]} {command.name} has no option {flag}")


def check_make(words: tuple[str, ...]) -> None:
    """
    :raises LookupError: the Makefile has no such target.
    """
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words[1:]:
        if "=" not in word and word not in targets:
            raise LookupError(f"make has no target {word}")
