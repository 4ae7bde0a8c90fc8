"""`sample-caller`: one command for the server and for what is asked from a shell in its pod.

Exit codes of `call` and `check`: 0 as expected, 1 not as expected, 2 bad usage or bad settings.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic.alias_generators import to_snake

from common import __version__

IDENTITY_SECONDS = 2.0
"""How long the metadata server is waited for; a server would go on without it, a command has one chance."""

app = typer.Typer(
    name="sample-caller",
    help="Calls sample-producer, in this cluster or another, and explains what happened. "
    "Settings are environment variables.",
    epilog="Exit codes of call and check: 0 as expected, 1 not as expected, 2 bad usage or bad settings.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sample-caller {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """The options of all commands."""


@app.command()
def serve() -> None:
    """Serve the page and the API."""
    # Imported here, as in the other commands: none needs what the others do, and a command should start at once.
    from caller.app import create_app
    from caller.settings import Settings
    from common.lifecycle import Lifecycle
    from common.server import serve as serve_app
    from common.settings import from_environment

    settings = from_environment(Settings)
    lifecycle = Lifecycle()
    serve_app(create_app(settings, lifecycle), settings, lifecycle)


TargetOption = Annotated[
    str | None, typer.Option(help="One of the allowed addresses (PRODUCER_URL, COMPARE_URLS). Default: PRODUCER_URL.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, as the API answers.")]
ExpectClusterOption = Annotated[str | None, typer.Option(help="The cluster that must answer.")]


@app.command()
def call(
    payload: Annotated[str, typer.Option(help="What the producer is to echo.")] = "test",
    delay: Annotated[int, typer.Option(help="Milliseconds that the producer is to wait.")] = 0,
    response_code: Annotated[int, typer.Option(help="Status that the producer is to answer with.")] = 200,
    fault_rate: Annotated[float, typer.Option(help="Share of calls that get delay and status, 0 to 1.")] = 1,
    target: TargetOption = None,
    json: JsonOption = False,
    expect_cluster: ExpectClusterOption = None,
    expect_outcome: Annotated[str, typer.Option(help="The outcome that the call must have.")] = "ok",
) -> None:
    """Call the producer once, over a new connection, and explain what happened."""
    from caller.outcome import Outcome
    from caller.terminal import print_hop
    from common.messages import Message

    expected = one_of(Outcome, expect_outcome, "--expect-outcome")
    try:
        message = Message(payload=payload, delay=delay, response_code=response_code, fault_rate=fault_rate)
    except ValidationError as invalid:
        error = invalid.errors()[0]
        option = "--" + to_snake(str(error["loc"][0])).replace("_", "-")
        raise typer.BadParameter(f"{error['msg']}, got {error['input']}", param_hint=option) from None

    async def run() -> Any:
        async with client() as calls:
            chosen = target_of(calls.settings, target)
            hop = await calls.call(message, chosen, connection="fresh")
            return await calls.explain(hop, message, chosen)

    hop = asyncio.run(run())
    if json:
        sys.stdout.write(hop.model_dump_json(by_alias=True, indent=2) + "\n")
    else:
        print_hop(hop)
    finish(hop.outcome, hop.answering_cluster, expected, expect_cluster)


@app.command()
def check(
    target: TargetOption = None,
    json: JsonOption = False,
    expect_cluster: ExpectClusterOption = None,
    expect_outcome: Annotated[
        str | None, typer.Option(help="The outcome that the call must have, instead of no failed check.")
    ] = None,
) -> None:
    """Look at every step to the producer: settings, DNS, TCP, TLS, HTTP, identity, crossing, versions, clocks."""
    from caller.checks import run_checks
    from caller.outcome import Outcome
    from caller.terminal import print_checks

    expected = None if expect_outcome is None else one_of(Outcome, expect_outcome, "--expect-outcome")

    async def run() -> Any:
        async with client() as calls:
            targets = calls.settings.targets if target is None else (target_of(calls.settings, target),)
            return await run_checks(calls, targets)

    report = asyncio.run(run())
    if json:
        sys.stdout.write(report.model_dump_json(by_alias=True, indent=2) + "\n")
    else:
        print_checks(report)
    first = report.targets[0]
    if expected is None and report.verdict == "fail":
        raise typer.Exit(1)
    finish(first.outcome, first.cluster_name, expected, expect_cluster)


@asynccontextmanager
async def client() -> AsyncIterator[Any]:
    """A client as the server has one, with the identity as far as it is known within `IDENTITY_SECONDS`."""
    from prometheus_client import CollectorRegistry

    from caller.metrics import HopMetrics
    from caller.producer_client import ProducerClient
    from caller.settings import Settings
    from common.cluster import Identity
    from common.settings import from_environment

    settings = from_environment(Settings)
    identity = Identity(settings)
    async with identity.kept(), ProducerClient.opened(settings, identity, HopMetrics(CollectorRegistry())) as calls:
        with suppress(TimeoutError):
            async with asyncio.timeout(IDENTITY_SECONDS):
                await identity.asked.wait()
        yield calls


def target_of(settings: Any, name: str | None) -> Any:
    try:
        return settings.target(name)
    except ValueError as error:
        raise typer.BadParameter(f"{name} is {error}", param_hint="--target") from None


def one_of(words: Any, value: str, option: str) -> Any:
    try:
        return words(value)
    except ValueError:
        raise typer.BadParameter(f"{value} is none of: {', '.join(words)}", param_hint=option) from None


def finish(outcome: str, cluster: str | None, expected: str | None, expected_cluster: str | None) -> None:
    """End with 1 and the reason on standard error where something is not as expected."""
    missed = []
    if expected is not None and outcome != expected:
        missed.append(f"the outcome is {outcome}, expected was {expected}")
    if expected_cluster is not None and cluster != expected_cluster:
        missed.append(f"{cluster or 'no cluster that says its name'} answered, expected was {expected_cluster}")
    for reason in missed:
        sys.stderr.write(f"not as expected: {reason}\n")
    if missed:
        raise typer.Exit(1)
