"""Options that several commands have, and what is made of them.

Modules that only a command needs are imported in its function: `sample-caller --help` and each command start fast.
"""

import asyncio
import math
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic.alias_generators import to_snake

IDENTITY_SECONDS = 2.0
"""Maximum wait for the metadata server: a server would go on without it, a command has one chance."""

TargetOption = Annotated[
    str | None, typer.Option(help="One of the allowed targets (PRODUCER_URL, COMPARE_URLS). Default: PRODUCER_URL.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, as the API returns it.")]
ExpectClusterOption = Annotated[str | None, typer.Option(help="Cluster that must answer.")]
PayloadOption = Annotated[str, typer.Option(help="Payload that the producer echoes.")]
DelayOption = Annotated[int, typer.Option(help="Milliseconds that the producer waits before it replies.")]
ResponseCodeOption = Annotated[int, typer.Option(help="HTTP status of the producer's reply.")]
FaultRateOption = Annotated[float, typer.Option(help="Share of calls that get the delay and the status, 0 to 1.")]


def finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} must be a finite number")
    return value


def seconds_of(text: str, option: str, shortest: float = 0.001) -> float:
    """A duration: `90`, `1.5s`, `250ms`, `5m`, `1h`."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)?", text.strip())
    if match is None or float(match[1]) < shortest:
        raise typer.BadParameter(f"expected a duration such as 90s, 250ms, 5m or 1h, got {text!r}", param_hint=option)
    return float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2] or "s"]


@asynccontextmanager
async def opened_explainer() -> AsyncIterator[Any]:
    """A client and its explainer, as the server has them, with the identity known within `IDENTITY_SECONDS`."""
    from prometheus_client import CollectorRegistry

    from caller.explain.explain import Explainer
    from caller.hop.client import ProducerClient
    from caller.hop.metrics import HopMetrics
    from caller.settings import Settings
    from common.cluster import Identity
    from common.settings import from_environment

    settings = from_environment(Settings)
    identity = Identity(settings)
    async with identity.kept(), ProducerClient.opened(settings, identity, HopMetrics(CollectorRegistry())) as client:
        with suppress(TimeoutError):
            async with asyncio.timeout(IDENTITY_SECONDS):
                await identity.queried.wait()
        yield Explainer(client)


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
        raise typer.BadParameter(f"{error}, got {name}", param_hint="--target") from None


def one_of(words: Any, value: str, option: str) -> Any:
    try:
        return words(value)
    except ValueError:
        raise typer.BadParameter(f"expected one of {', '.join(words)}, got {value}", param_hint=option) from None


def exit_if_unmet(unmet: list[str]) -> None:
    """Exit with 1, and the reasons on stderr, if an expectation was not met."""
    for reason in unmet:
        sys.stderr.write(f"not as expected: {reason}\n")
    if unmet:
        raise typer.Exit(1)
