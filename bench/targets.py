"""The performance targets of the project, and whether a measurement meets them."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

TOLERANCE = 0.10
"""A target that is not met by more than this fails the benchmark; less can be noise of a shared machine."""


class Target(NamedTuple):
    what: str
    against: str
    relation: str
    """`≥` or `≤`."""
    limit: float
    measured: Sequence[float]
    """By round; empty: not measured."""
    details: str
    """Of the measurement, or why there is none."""
    unit: str = "×"

    @property
    def median(self) -> float:
        return statistics.median(self.measured)

    @property
    def deviation(self) -> float:
        """How far the median is on the wrong side of the limit, as a share of it; above zero: not met."""
        if not self.measured:
            return 0
        return self.median / self.limit - 1 if self.relation == "≤" else 1 - self.median / self.limit

    @property
    def verdict(self) -> str:
        if not self.measured:
            return "not measured"
        if self.deviation <= 0:
            return "met"
        return "within 10 %" if self.deviation <= TOLERANCE else "not met"


def table(targets: Sequence[Target]) -> str:
    lines = ["| what | against | target | median (range) | | details |", "|---|---|---|---|---|---|"]
    for target in targets:
        measured = target.measured
        extremes = f" ({min(measured):.2f} to {max(measured):.2f})" if len(measured) > 1 else ""
        median = f"{target.median:.2f} {target.unit}{extremes}" if measured else "–"
        lines.append(
            f"| {target.what} | {target.against} | {target.relation} {target.limit:g} {target.unit} "
            f"| {median} | {target.verdict} | {target.details} |"
        )
    return "\n".join(lines)
