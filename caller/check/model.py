"""One thing that the preflight looked at."""

from typing import Literal

from pydantic import Field

from common.messages import Wire

Verdict = Literal["pass", "warn", "fail", "skip"]


class Check(Wire):
    """One thing that was looked at."""

    check: str = Field(examples=["dns"])
    target: str | None = Field(default=None, description="null: not about one target")
    verdict: Verdict
    evidence: str = Field(description="what was seen")
    next_step: str | None = Field(default=None, description="what to do; null when there is nothing to do")
    command: str | None = Field(default=None, description="what confirms the likeliest cause, for a shell")
