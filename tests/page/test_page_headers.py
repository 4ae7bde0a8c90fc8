"""The page: what happened to headers on the way, through a real proxy between the caller and the producer."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page

from lab.processes import CALLER, CENTRAL, PRODUCER, WEST, Service, running
from tests.support.browser import (
    FORMATS,
    assert_fits_and_is_accessible,
    marks,
    opened,
    serving,
    submit,
    unfold,
)

OWN_ID = "an id of the proxy"
LONG = "m" * 3_000
ADDED = {"x-envoy-attempt-count": "1", "x-envoy-peer-metadata": LONG, "x-forwarded-for": "10.4.1.7", "x-extra": "1"}


@contextmanager
def mesh(producer: str) -> Iterator[str]:
    """A proxy that adds headers, changes `x-request-id` and takes `accept` away; adds two to the reply. Its URL."""

    class Mesh(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            headers = dict(self.headers.items()) | {"x-request-id": OWN_ID} | ADDED
            del headers["accept"]
            with httpx.Client(trust_env=False) as client:
                del client.headers["accept"], client.headers["connection"]
                reply = client.post(producer + self.path, content=content, headers=headers)
            self.send_response_only(reply.status_code)
            for name, value in [*reply.headers.items(), ("server", "istio-envoy"), ("x-envoy-upstream-time", "4")]:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.content)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Mesh) as url:
        yield url


@pytest.fixture(scope="module")
def caller() -> Iterator[Service]:
    """Its first target is the proxy, its second the producer itself."""
    with (
        running(PRODUCER, **CENTRAL) as producer,
        mesh(producer.url) as proxy,
        running(CALLER, PRODUCER_URL=proxy, COMPARE_URLS=producer.url, **WEST) as service,
    ):
        yield service


@pytest.fixture
def page(browser: Browser, caller: Service) -> Iterator[Page]:
    with opened(browser, caller.url) as page:
        page.fill("#delay", "0")
        yield page


def changes(table: Locator) -> dict[str, dict[str, list[str]]]:
    """By group and name: the word and the shape of the change, then the values."""
    return {
        body.locator("[data-part=group]").inner_text().lower(): {
            row.locator("[data-part=name]").inner_text(): [
                *(text for mark in marks(row) for text in mark),
                *row.locator("td").all_inner_texts(),
            ]
            for row in body.locator("tr:not(.group)").all()
        }
        for body in table.locator("tbody").all()
    }


def test_headers_that_a_proxy_added_changed_and_removed_are_marked_by_group(page: Page) -> None:
    assert submit(page).startswith("ok: ")
    there = page.locator("[data-part=requestDiff]")
    found = changes(there.locator("[data-part=changed]"))
    identity = found["tracing"]["x-request-id"][2]
    assert found == {
        "tracing": {"x-request-id": ["changed", "≠", identity, OWN_ID]},
        "forwarding": {"x-forwarded-for": ["added", "+", "", "10.4.1.7"]},
        "mesh": {
            "x-envoy-attempt-count": ["added", "+", "", "1"],
            "x-envoy-peer-metadata": ["added", "+", "", LONG],
        },
        "other": {"accept": ["removed", "−", "application/json", ""], "x-extra": ["added", "+", "", "1"]},
    }
    assert list(found) == ["tracing", "forwarding", "mesh", "other"]
    assert len(identity) == 36


def test_what_came_back_is_told_apart_from_what_the_producer_sends(page: Page) -> None:
    submit(page)
    back = page.locator("[data-part=replyDiff]")
    assert changes(back.locator("[data-part=changed]")) == {
        "mesh": {"x-envoy-upstream-time": ["added", "+", "4"]},
        "other": {"server": ["added", "+", "istio-envoy"]},
    }
    back.locator("summary").click()
    own = changes(back.locator("[data-part=unchanged]"))
    assert own["other"]["x-answered-by"] == ["sample-producer"]


def test_headers_that_did_not_change_are_folded_and_counted(page: Page) -> None:
    submit(page)
    there = page.locator("[data-part=requestDiff]")
    assert there.locator("[data-part=unchanged]").is_hidden()
    there.locator("summary").click()
    same = changes(there.locator("[data-part=unchanged]"))
    assert there.locator("summary").inner_text() == f"{sum(map(len, same.values()))} headers unchanged"
    sent, received = same["tracing"]["traceparent"]
    assert sent == received


def test_without_a_proxy_nothing_changed_and_the_page_says_so(page: Page) -> None:
    page.get_by_label("Target", exact=True).select_option(index=1)
    submit(page)
    notes = page.locator("[data-part=headerDiff] [data-part=note]").all_inner_texts()
    assert notes == [
        "Every header arrived as it was sent",
        "Nothing was added: every header is one that the producer sends",
    ]
    assert page.locator("[data-part=headerDiff] [data-part=changed]:visible").count() == 0


@pytest.mark.parametrize(("scheme", "width"), FORMATS)
def test_the_diff_fits_and_is_accessible(browser: Browser, caller: Service, scheme: str, width: int) -> None:
    with opened(browser, caller.url, width=width, scheme=scheme, bypass_csp=True) as page:
        submit(page)
        unfold(page)
        assert_fits_and_is_accessible(page)
