"""The failure matrix: one line per failure, printed as a table at the end of a test run."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest


class Line(NamedTuple):
    """One failure and its result."""

    number: str
    """Number of the known cause."""
    made: str
    expected: str
    outcome: str
    cause: str
    """The first cause of the diagnosis."""
    millis: float
    deviations: list[str]
    """Differences from the expected result."""


class Matrix:
    """The lines of one test; properties of its report, because the test may run in another process."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self.record = record

    def append(self, line: Line) -> None:
        self.record(Matrix.__name__, [*line])


def lines_of(reports: Iterable[object]) -> list[Line]:
    """All lines, from the reports of all tests."""
    called = [report for report in reports if isinstance(report, pytest.TestReport) and report.when == "call"]
    values: list[Any] = [
        value for report in called for name, value in report.user_properties if name == Matrix.__name__
    ]
    return [Line(*value) for value in values]


WIDTHS = (12, 35, 15, 15, 27, 6)
"""Widths of all columns except the last; a line has at most 120 characters."""
HEADINGS = ("cause no.", "made by", "expected", "outcome", "first cause", "ms")


def table(lines: Sequence[Line]) -> Iterator[str]:
    yield row(HEADINGS, "ok?")
    for line in lines:
        fields = (line.number, line.made, line.expected, line.outcome, line.cause, f"{line.millis:.0f}")
        yield row(fields, "no" if line.deviations else "yes")
    wrong = sum(bool(line.deviations) for line in lines)
    yield f"{len(lines)} failures, {len(lines) - wrong} as expected, {wrong} not as expected"


def row(fields: Sequence[str], last: str) -> str:
    *texts, millis = (shortened(text, width) for text, width in zip(fields, WIDTHS, strict=True))
    columns = [text.ljust(width) for text, width in zip(texts, WIDTHS, strict=False)]
    return " ".join([*columns, millis.rjust(WIDTHS[-1]), last])


def shortened(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
