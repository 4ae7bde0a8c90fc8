"""Whether gcloud, kubectl, `sample-caller` and make have a command with the flags that it is given. Offline."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer

from caller.cli.app import app as cli
from lab.processes import ROOT

GCLOUD_COMMANDS = Path(__file__).with_name("gcloud_commands.txt")
"""The commands of gcloud that the documents use, each with its flags; accepted by gcloud 528.0.0."""


def fault_in(words: tuple[str, ...], *, group: bool = False) -> str:
    """What is wrong with a command line; empty: nothing.

    :param group: a group of commands, or a command without its arguments, is valid too.
    """
    tool, *arguments = takewhile(lambda word: word != "--", words)
    return FAULTS[tool](tuple(arguments), group)


@cache
def gcloud_commands() -> dict[tuple[str, ...], set[str]]:
    """Command → its flags."""
    lines = [line.partition(":") for line in GCLOUD_COMMANDS.read_text().splitlines()]
    return {tuple(command.split()): set(flags.split()) for command, _, flags in lines}


def gcloud_command(words: tuple[str, ...]) -> tuple[str, ...] | None:
    """The command of the table that the words begin with."""
    known = gcloud_commands()
    return next((words[:length] for length in range(len(words), 0, -1) if words[:length] in known), None)


def gcloud_fault(words: tuple[str, ...], group: bool) -> str:
    command = gcloud_command(words)
    if command is None:
        is_group = any(known[: len(words)] == words for known in gcloud_commands())
        return "" if group and is_group else f"{GCLOUD_COMMANDS.name} does not have it"
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    unknown = flags - gcloud_commands()[command]
    return f"{GCLOUD_COMMANDS.name} does not have {', '.join(sorted(unknown))} of it" if unknown else ""


@cache
def kubectl_fault(words: tuple[str, ...], group: bool) -> str:
    """kubectl parses all flags before it prints help; the usage of a group shows that a subcommand is missing."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    environment = {**os.environ, "KUBECONFIG": os.devnull}
    command = ["kubectl", *words, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    if shown.returncode:
        return shown.stderr.strip().partition("\n")[0]
    usage = re.search(r"^Usage:\n  (.*)", shown.stdout, re.MULTILINE)
    is_command = usage and not re.search(r" SUBCOMMAND|^kubectl \[flags\]", usage[1])
    return "" if group or is_command else "no such subcommand"


def cli_fault(words: tuple[str, ...], group: bool) -> str:
    commands: Any = typer.main.get_command(cli)
    name, *arguments = words
    if name in ("serve", "--version", "--help"):
        return ""
    if name not in commands.commands:
        return "no such command"
    try:
        commands.commands[name].make_context(name, arguments)
    except typer.exceptions.TyperException as error:
        return "" if group and str(error).startswith("Missing parameter") else str(error)
    return ""


def make_fault(words: tuple[str, ...], _: bool) -> str:
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    unknown = [word for word in words if "=" not in word and word not in targets]
    return f"the Makefile has no target {', '.join(unknown)}" if unknown else ""


FAULTS: dict[str, Callable[[tuple[str, ...], bool], str]] = {
    "gcloud": gcloud_fault,
    "kubectl": kubectl_fault,
    "sample-caller": cli_fault,
    "make": make_fault,
}
