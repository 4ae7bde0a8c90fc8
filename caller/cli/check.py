import asyncio
import sys
from typing import Annotated, Any

import typer

from caller.cli.call import unmet_by
from caller.cli.options import (
    ExpectClusterOption,
    JsonOption,
    TargetOption,
    exit_if_unmet,
    one_of,
    opened_explainer,
    target_of,
)


def check(
    target: TargetOption = None,
    json: JsonOption = False,
    expect_cluster: ExpectClusterOption = None,
    expect_outcome: Annotated[
        str | None, typer.Option(help="Outcome that the call must have; without it, no check may fail.")
    ] = None,
) -> None:
    """Check every step to the producer: settings, DNS, TCP, TLS, HTTP, identity, crossing, versions, clocks."""
    from caller.check.preflight import run_checks
    from caller.cli.check_report import print_checks
    from caller.hop.outcome import Outcome

    expected = None if expect_outcome is None else one_of(Outcome, expect_outcome, "--expect-outcome")

    async def checked() -> Any:
        async with opened_explainer() as explainer:
            settings = explainer.client.settings
            targets = settings.targets if target is None else (target_of(settings, target),)
            return await run_checks(explainer, targets)

    report = asyncio.run(checked())
    if json:
        sys.stdout.write(report.model_dump_json(by_alias=True, indent=2) + "\n")
    else:
        print_checks(report)
    first = report.targets[0]
    if expected is None and report.verdict == "fail":
        raise typer.Exit(1)
    exit_if_unmet(unmet_by(first.outcome, first.cluster_name, expected, expect_cluster))
