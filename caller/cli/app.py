"""`sample-caller`: one command for the server and for what is asked from a shell in its pod.

Exit codes of `call`, `check` and `run`: 0 as expected, 1 not as expected, 2 bad usage or bad settings.
"""

import asyncio
import math
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic.alias_generators import to_snake

from common import __version__, garbage

IDENTITY_SECONDS = 2.0
"""How long the metadata server is waited for; a server would go on without it, a command has one chance."""

app = typer.Typer(
    name="sample-caller",
    help="Calls sample-producer, in this cluster or another, and explains what happened. "
    "Settings are environment variables.",
    epilog="Exit codes of call, check and run: 0 as expected, 1 not as expected, 2 bad usage or bad settings.",
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
    served = create_app(settings, lifecycle)
    garbage.collect_from_now_on()
    serve_app(served, settings, lifecycle)


TargetOption = Annotated[
    str | None, typer.Option(help="One of the allowed addresses (PRODUCER_URL, COMPARE_URLS). Default: PRODUCER_URL.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, as the API answers.")]
ExpectClusterOption = Annotated[str | None, typer.Option(help="The cluster that must answer.")]


PayloadOption = Annotated[str, typer.Option(help="What the producer is to echo.")]
DelayOption = Annotated[int, typer.Option(help="Milliseconds that the producer is to wait.")]
ResponseCodeOption = Annotated[int, typer.Option(help="Status that the producer is to answer with.")]
FaultRateOption = Annotated[float, typer.Option(help="Share of calls that get delay and status, 0 to 1.")]


@app.command()
def call(
    payload: PayloadOption = "test",
    delay: DelayOption = 0,
    response_code: ResponseCodeOption = 200,
    fault_rate: FaultRateOption = 1,
    target: TargetOption = None,
    json: JsonOption = False,
    expect_cluster: ExpectClusterOption = None,
    expect_outcome: Annotated[str, typer.Option(help="The outcome that the call must have.")] = "ok",
) -> None:
    """Call the producer once, over a new connection, and explain what happened."""
    from caller.cli.terminal import print_hop
    from caller.hop.outcome import Outcome

    expected = one_of(Outcome, expect_outcome, "--expect-outcome")
    message = message_of(payload, delay, response_code, fault_rate)

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
    from caller.check.steps import run_checks
    from caller.cli.terminal import print_checks
    from caller.hop.outcome import Outcome

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


def finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a number of use here")
    return value


@app.command()
def run(
    rate: Annotated[float, typer.Option(help="Calls a second.", min=0.001, max=100_000, callback=finite)] = 10,
    duration: Annotated[str, typer.Option(help="How long: 90, 90s, 5m, 1h.")] = "10s",
    count: Annotated[int | None, typer.Option(help="How many calls, instead of --duration.", min=1)] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Allowed addresses, called in turn; may be repeated. Default: PRODUCER_URL."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--reuse", help="A new connection a call, or connections that are kept.")
    ] = True,
    payload: PayloadOption = "test",
    delay: DelayOption = 0,
    response_code: ResponseCodeOption = 200,
    fault_rate: FaultRateOption = 1,
    timeout: Annotated[
        float | None,
        typer.Option(help="Seconds for one call. Default: CALL_TIMEOUT_SECONDS.", min=0.001, max=600, callback=finite),
    ] = None,
    max_in_flight: Annotated[
        int | None, typer.Option(help="Calls open at once. Default: RUN_MAX_IN_FLIGHT.", min=1)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one event a line, as the API streams them.")] = False,
    expect_cluster: Annotated[
        str | None, typer.Option(help="Clusters that must each answer at least once, separated by commas.")
    ] = None,
    max_failures: Annotated[int | None, typer.Option(help="Most calls that may not be ok.", min=0)] = None,
    max_gap: Annotated[str | None, typer.Option(help="Longest gap: 500ms, 3s.")] = None,
    max_p99: Annotated[str | None, typer.Option(help="Highest p99 of the latency of any cluster: 250ms, 1s.")] = None,
) -> None:
    """Call many times at a rate: who answered, how long it took, how long the gap was. Ctrl-C ends it early."""
    from caller.cli.run_screen import RunScreen
    from caller.run.engine import Done, Run, RunSpec, calls_in, running

    message = message_of(payload, delay, response_code, fault_rate)
    seconds = seconds_of(duration, "--duration")
    longest_gap = None if max_gap is None else seconds_of(max_gap, "--max-gap", shortest=0) * 1000
    highest_p99 = None if max_p99 is None else seconds_of(max_p99, "--max-p99") * 1000

    async def go() -> Any:
        from prometheus_client import CollectorRegistry

        from caller.hop.metrics import RunMetrics
        from common.lifecycle import Lifecycle

        names: list[str | None] = [*target] if target else [None]
        async with client() as calls:
            targets = [target_of(calls.settings, name) for name in names]
            spec = RunSpec(
                targets=[chosen.name for chosen in targets],
                message=message,
                rate=rate,
                count=count or calls_in(rate, seconds),
                connection="fresh" if fresh else "reuse",
                timeout_seconds=timeout or calls.settings.call_timeout_seconds,
                max_in_flight=max_in_flight or calls.settings.run_max_in_flight,
            )
            this = Run(calls, spec, targets, RunMetrics(CollectorRegistry()), Lifecycle())
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, this.stop, signal.Signals(number).name)
            screen = None if json else RunScreen(spec)
            last = None
            async with running(this) as events:
                async for last in events:
                    if screen is None:
                        try:
                            sys.stdout.write(last.model_dump_json(by_alias=True) + "\n")
                            sys.stdout.flush()
                        except BrokenPipeError:  # the reader has had enough, as `head` has
                            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                            return None
                    else:
                        screen.show(last)
            return last

    import uvloop

    garbage.collect_from_now_on()
    last = uvloop.run(go())
    if not isinstance(last, Done):
        raise typer.Exit(1)
    missed = missed_by(last.summary, expect_cluster, max_failures, longest_gap, highest_p99)
    end_with(missed)


@app.command()
def merge(
    files: Annotated[list[Path], typer.Argument(help="Files with the output of `run --json`; `-` is standard input.")],
) -> None:
    """Sum the summaries of runs that went on at the same time into one, and print it as JSON."""
    from caller.run.engine import Done, Summary
    from caller.run.merge import merged

    summaries: list[Summary] = []
    for path in files:
        text = sys.stdin.read() if str(path) == "-" else read(path)
        found = [line for line in text.splitlines() if '"type":"done"' in line.replace(" ", "")]
        if not found:
            raise typer.BadParameter(f"{path} has no event of type done", param_hint="FILES")
        try:
            summaries += [Done.model_validate_json(line).summary for line in found]
        except ValidationError as invalid:
            raise typer.BadParameter(f"{path}: {invalid.errors()[0]['msg']}", param_hint="FILES") from None
    try:
        total = merged(summaries)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="FILES") from None
    sys.stdout.write(total.model_dump_json(by_alias=True, indent=2) + "\n")


def read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path}: {error}", param_hint="FILES") from None


def seconds_of(text: str, option: str, shortest: float = 0.001) -> float:
    """A duration as people write it: `90`, `1.5s`, `250ms`, `5m`, `1h`."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)?", text.strip())
    if match is None or float(match[1]) < shortest:
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 250ms, 5m or 1h", param_hint=option)
    return float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2] or "s"]


def missed_by(
    summary: Any, clusters: str | None, max_failures: int | None, max_gap: float | None, max_p99: float | None
) -> list[str]:
    """What a run did not meet, in sentences."""
    missed = []
    for name in (clusters or "").split(","):
        if name.strip() and name.strip() not in summary.spread.clusters:
            answered = ", ".join(summary.spread.clusters) or "nobody"
            missed.append(f"{name.strip()} never answered; {answered} did")
    if max_failures is not None and summary.failures > max_failures:
        outcomes = ", ".join(f"{number} {outcome}" for outcome, number in summary.outcomes.items())
        missed.append(f"{summary.failures} calls were not ok, at most {max_failures} may be: {outcomes}")
    if max_gap is not None and summary.longest_gap_millis > max_gap:
        missed.append(f"the longest gap was {summary.longest_gap_millis:g} ms, at most {max_gap:g} may be")
    for peer in summary.peers:
        if max_p99 is not None and (peer.latency.p99_millis or 0) > max_p99:
            missed.append(f"p99 of {peer.cluster} was {peer.latency.p99_millis:g} ms, at most {max_p99:g} may be")
    return missed


@asynccontextmanager
async def client() -> AsyncIterator[Any]:
    """A client as the server has one, with the identity as far as it is known within `IDENTITY_SECONDS`."""
    from prometheus_client import CollectorRegistry

    from caller.hop.client import ProducerClient
    from caller.hop.metrics import HopMetrics
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


def message_of(payload: str, delay: int, response_code: int, fault_rate: float) -> Any:
    from common.messages import Message

    try:
        return Message(payload=payload, delay=delay, response_code=response_code, fault_rate=fault_rate)
    except ValidationError as invalid:
        error = invalid.errors()[0]
        option = "--" + to_snake(str(error["loc"][0])).replace("_", "-")
        raise typer.BadParameter(f"{error['msg']}, got {error['input']}", param_hint=option) from None


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
    end_with(missed)


def end_with(missed: list[str]) -> None:
    for reason in missed:
        sys.stderr.write(f"not as expected: {reason}\n")
    if missed:
        raise typer.Exit(1)
