"""What the project wants to reach, and whether it did."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

TOLERANCE = 0.10
"""A bar missed by more fails the benchmark; less is what a shared machine adds."""


class Bar(NamedTuple):
    what: str
    against: str
    sign: str
    """`≥` or `≤`."""
    bar: float
    reached: Sequence[float]
    """By round."""
    detail: str
    unit: str = "×"

    @property
    def median(self) -> float:
        return statistics.median(self.reached)

    @property
    def missed_by(self) -> float:
        """A share of the bar; zero or less: reached."""
        return self.median / self.bar - 1 if self.sign == "≤" else 1 - self.median / self.bar

    @property
    def verdict(self) -> str:
        if self.missed_by <= 0:
            return "reached"
        return "within 10 %" if self.missed_by <= TOLERANCE else "missed"


def table(bars: Sequence[Bar]) -> str:
    lines = ["| what | against | bar | reached (spread) | | measured |", "|---|---|---|---|---|---|"]
    for bar in bars:
        spread = f" ({min(bar.reached):.2f} to {max(bar.reached):.2f})" if len(bar.reached) > 1 else ""
        lines.append(
            f"| {bar.what} | {bar.against} | {bar.sign} {bar.bar:g} {bar.unit} "
            f"| {bar.median:.2f} {bar.unit}{spread} | {bar.verdict} | {bar.detail} |"
        )
    return "\n".join(lines)
