import asyncio
import os
import signal
import sys
from typing import Annotated, Any

import typer

from caller.cli.options import (
    DelayOption,
    FaultRateOption,
    PayloadOption,
    ResponseCodeOption,
    exit_if_unmet,
    finite,
    message_of,
    opened_explainer,
    seconds_of,
    target_of,
)


def run(
    rate: Annotated[float, typer.Option(help="Calls per second.", min=0.001, max=100_000, callback=finite)] = 10,
    duration: Annotated[str, typer.Option(help="Duration: 90, 90s, 5m, 1h.")] = "10s",
    count: Annotated[int | None, typer.Option(help="Number of calls, instead of --duration.", min=1)] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Allowed targets, called in turn; repeatable. Default: PRODUCER_URL."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--reuse", help="A new connection per call, or a pool of connections.")
    ] = True,
    payload: PayloadOption = "test",
    delay: DelayOption = 0,
    response_code: ResponseCodeOption = 200,
    fault_rate: FaultRateOption = 1,
    timeout: Annotated[
        float | None,
        typer.Option(
            help="Timeout of one call in seconds. Default: CALL_TIMEOUT_SECONDS.", min=0.001, max=600, callback=finite
        ),
    ] = None,
    max_in_flight: Annotated[
        int | None, typer.Option(help="Maximum calls in flight. Default: RUN_MAX_IN_FLIGHT.", min=1)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one event per line, as the API streams them.")] = False,
    expect_cluster: Annotated[
        str | None, typer.Option(help="Clusters that must each answer at least once, comma-separated.")
    ] = None,
    max_failures: Annotated[int | None, typer.Option(help="Maximum number of calls that are not ok.", min=0)] = None,
    max_outage: Annotated[str | None, typer.Option(help="Longest outage: 500ms, 3s.")] = None,
    max_p99: Annotated[str | None, typer.Option(help="Highest p99 latency of any cluster: 250ms, 1s.")] = None,
) -> None:
    """Call many times at a rate: who answered, how fast, how long the outages were. Ctrl-C ends it early."""
    import gc

    import uvloop

    from caller.cli.run_screen import RunScreen
    from caller.run.engine import Run, calls_in, running
    from caller.run.model import Done, RunSpec

    message = message_of(payload, delay, response_code, fault_rate)
    seconds = seconds_of(duration, "--duration")
    max_outage_millis = None if max_outage is None else seconds_of(max_outage, "--max-outage", shortest=0) * 1000
    max_p99_millis = None if max_p99 is None else seconds_of(max_p99, "--max-p99") * 1000

    async def go() -> Any:
        from prometheus_client import CollectorRegistry

        from caller.run.metrics import RunMetrics
        from common.middleware.draining import Lifecycle

        names: list[str | None] = [*target] if target else [None]
        async with opened_explainer() as explainer:
            client, settings = explainer.client, explainer.client.settings
            targets = [target_of(settings, name) for name in names]
            spec = RunSpec(
                targets=[chosen.name for chosen in targets],
                message=message,
                rate=rate,
                count=count or calls_in(rate, seconds),
                connection="fresh" if fresh else "reuse",
                timeout_seconds=timeout or settings.call_timeout_seconds,
                max_in_flight=max_in_flight or settings.run_max_in_flight,
            )
            this = Run(client, spec, targets, RunMetrics(CollectorRegistry()), Lifecycle())
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
                        except BrokenPipeError:  # the reader has closed the pipe, as `head` does
                            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                            return None
                    else:
                        screen.show(last)
            return last

    gc.freeze()  # a collection of everything imported so far would delay calls
    last = uvloop.run(go())
    if not isinstance(last, Done):
        raise typer.Exit(1)
    exit_if_unmet(unmet_by_run(last.summary, expect_cluster, max_failures, max_outage_millis, max_p99_millis))


def unmet_by_run(
    summary: Any, clusters: str | None, max_failures: int | None, max_outage: float | None, max_p99: float | None
) -> list[str]:
    """The expectations that a run does not meet, in sentences; durations in ms."""
    unmet = []
    for name in (clusters or "").split(","):
        if name.strip() and name.strip() not in summary.distribution.clusters:
            answered = ", ".join(summary.distribution.clusters) or "none"
            unmet.append(f"expected an answer from {name.strip()}; clusters that answered: {answered}")
    if max_failures is not None and summary.failures > max_failures:
        outcomes = ", ".join(f"{number} {outcome}" for outcome, number in summary.outcomes.items())
        unmet.append(f"{summary.failures} calls failed; the maximum is {max_failures}: {outcomes}")
    if max_outage is not None and summary.longest_outage_millis > max_outage:
        unmet.append(f"the longest outage was {summary.longest_outage_millis:g} ms; the maximum is {max_outage:g} ms")
    for peer in summary.peers:
        if max_p99 is not None and (peer.latency.p99_millis or 0) > max_p99:
            unmet.append(f"p99 of {peer.cluster} was {peer.latency.p99_millis:g} ms; the maximum is {max_p99:g} ms")
    return unmet
