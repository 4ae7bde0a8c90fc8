from collections.abc import Callable, Iterator

import pytest

from lab.lab import Lab
from lab.processes import Service
from tests.lab.matrix import Matrix, lines_of, table


@pytest.fixture
def matrix(record_property: Callable[[str, object], None]) -> Matrix:
    """Records the lines of the failure matrix."""
    return Matrix(record_property)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines := lines_of(report for reports in terminalreporter.stats.values() for report in reports):
        terminalreporter.section("failure matrix")
        for line in table(lines):
            terminalreporter.write_line(line)


@pytest.fixture(scope="module")
def caller_with_short_timeout(lab: Lab) -> Iterator[Service]:
    """A caller with a call timeout of 2 s."""
    with lab.caller(CALL_TIMEOUT_SECONDS="2") as caller:
        yield caller


@pytest.fixture
def new_caller(lab: Lab) -> Iterator[Service]:
    """A caller without open connections."""
    with lab.caller() as caller:
        yield caller
