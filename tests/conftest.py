import os
from collections.abc import Generator, Iterator

import pytest
from playwright.sync_api import Browser

from lab.lab import Lab, for_tests, missing
from lab.processes import WEST
from tests.support.browser import chromium


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in the lab need root: `-m "not root"` leaves them out."""
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            item.add_marker("root")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if reason := missing():
        pytest.skip(reason)
    with for_tests() as lab:
        yield lab


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from the test, not from the environment in which it runs."""
    for name in (*WEST, "PORT", "HOST", "PRODUCER_URL", "COMPARE_URLS", "POD_NAME", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With REQUIRE_ALL, as in CI, a skipped test fails: everything that it needs should be installed."""
    report = yield
    if report.skipped and os.environ.get("REQUIRE_ALL") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although REQUIRE_ALL is set: {report.longrepr}"
    return report
