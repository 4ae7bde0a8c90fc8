"""The models of a check report."""

from typing import Literal

from pydantic import Field

from caller.hop.outcome import Outcome
from common.messages import Wire

Verdict = Literal["pass", "warn", "fail", "skip"]


class Check(Wire):
    """The result of one check."""

    check: str = Field(examples=["dns"])
    target: str | None = Field(default=None, description="null: not about a single target")
    verdict: Verdict
    evidence: str = Field(description="what was found")
    next_step: str | None = Field(default=None, description="what to do; null: nothing")
    command: str | None = Field(default=None, description="for a shell; confirms the most likely cause")


class TargetResult(Wire):
    """The outcome of the call to one target."""

    target: str
    outcome: Outcome
    cluster_name: str | None = Field(description="cluster that answered; null: no reply, or unknown")


class CheckReport(Wire):
    """All checks, the worst verdict, and the duration."""

    verdict: Verdict
    targets: list[TargetResult]
    checks: list[Check]
    millis: float
