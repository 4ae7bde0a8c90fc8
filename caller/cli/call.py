import asyncio
import sys
from typing import Annotated, Any

import typer

from caller.cli.options import (
    DelayOption,
    ExpectClusterOption,
    FaultRateOption,
    JsonOption,
    PayloadOption,
    ResponseCodeOption,
    TargetOption,
    exit_if_unmet,
    message_of,
    one_of,
    opened_explainer,
    target_of,
)


def call(
    payload: PayloadOption = "test",
    delay: DelayOption = 0,
    response_code: ResponseCodeOption = 200,
    fault_rate: FaultRateOption = 1,
    target: TargetOption = None,
    json: JsonOption = False,
    expect_cluster: ExpectClusterOption = None,
    expect_outcome: Annotated[str, typer.Option(help="Outcome that the call must have.")] = "ok",
) -> None:
    """Call the producer once, over a new connection, and explain what happened."""
    from caller.cli.call_report import print_call
    from caller.hop.outcome import Outcome

    expected = one_of(Outcome, expect_outcome, "--expect-outcome")
    message = message_of(payload, delay, response_code, fault_rate)

    async def explained() -> Any:
        async with opened_explainer() as explainer:
            chosen = target_of(explainer.client.settings, target)
            hop = await explainer.client.call(message, chosen, connection="fresh")
            return await explainer.explain(hop, message, chosen)

    result = asyncio.run(explained())
    if json:
        sys.stdout.write(result.model_dump_json(by_alias=True, indent=2) + "\n")
    else:
        print_call(result)
    exit_if_unmet(unmet_by(result.outcome, result.answering_cluster, expected, expect_cluster))


def unmet_by(outcome: str, cluster: str | None, expected: str | None, expected_cluster: str | None) -> list[str]:
    """The expectations that a call does not meet, in sentences."""
    unmet = []
    if expected is not None and outcome != expected:
        unmet.append(f"expected outcome {expected}, got {outcome}")
    if expected_cluster is not None and cluster != expected_cluster:
        answered = f"{cluster} answered" if cluster else "the reply names no cluster"
        unmet.append(f"expected cluster {expected_cluster}, but {answered}")
    return unmet
